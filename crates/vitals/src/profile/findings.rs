//! What stands out in a report: bottlenecks by weight, each with its numbers and the change to make.

use std::time::Duration;

use super::{lock, poll, report::Hot, report::Report, threads};
use crate::span;

/// One bottleneck.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// What it is worth: the part of the profile's time that goes there, in per cent of one core or one waiter, at
    /// most 100. Findings are ranked by it.
    pub score: u32,
    /// One line, in English.
    pub title_en: String,
    /// One line, in Chinese.
    pub title_zh: String,
    /// The numbers it rests on.
    pub evidence: Vec<Evidence>,
    /// What to change, in English.
    pub change_en: String,
    /// What to change, in Chinese.
    pub change_zh: String,
}

/// One number behind a finding.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// What was measured.
    pub name: &'static str,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Objects made again and again, or fought for.
    Instances,
    /// A lock that is waited for.
    Contention,
    /// Threads that have work and no core.
    RunQueue,
    /// A function that takes much time.
    SlowFunction,
    /// Code that uses much of the processor.
    HotStack,
    /// Memory that grows, or is allocated at a high rate.
    Memory,
    /// A poll that keeps other tasks waiting.
    LongPoll,
    /// A statement that takes much of the database's time.
    SlowStatement,
}

/// What other parts of the process know, as plain numbers of the same interval.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    /// Keyed instances.
    pub instances: Vec<Instances>,
    /// Statements by fingerprint.
    pub statements: Vec<Statement>,
}

/// One kind of keyed instance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Instances {
    /// Its name.
    pub name: String,
    /// Instances made.
    pub created: u64,
    /// Times one was there.
    pub hits: u64,
    /// Time spent on making them.
    pub creation_ns: u64,
    /// Times somebody waited for another's making.
    pub contended: u64,
}

/// One statement.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Statement {
    /// Its text without values.
    pub text: String,
    /// Executions.
    pub calls: u64,
    /// Time of all executions.
    pub total_ns: u64,
    /// 99 % of all executions since the start of the process were faster.
    pub p99_ns: u64,
    /// Rows that came back.
    pub rows: u64,
}

/// What is worth less than this (per cent) is noise.
const SCORE_MIN: f64 = 1.0;
/// Findings of one kind: the first few name the cause, the rest is in the report itself.
const PER_KIND_MAX: usize = 5;
/// A function called in less than this on average is not slow; it is called often.
const SLOW_CALL_NS: f64 = 1e6;
/// Allocating this much a second keeps about one core's memory bandwidth busy, hence counts as 100.
const ALLOCATION_FULL: f64 = 4.0 * (1 << 30) as f64;
/// A process of any size grows by this much for no reason worth looking for.
const GROWTH_MIN: f64 = 8.0 * (1 << 20) as f64;

/// Ranks what stands out, heaviest first.
pub fn rank(report: &Report, inputs: &Inputs) -> Vec<Finding> {
    let length = report.length;
    let mut all = Vec::new();
    let mut extend = |found: Vec<Finding>| {
        let mut found: Vec<Finding> = found
            .into_iter()
            .filter(|f| f64::from(f.score) >= SCORE_MIN)
            .collect();
        found.sort_by_key(|f| std::cmp::Reverse(f.score));
        found.truncate(PER_KIND_MAX);
        all.extend(found);
    };
    extend(inputs.instances.iter().map(|i| instances(i, length)).collect());
    extend(report.locks.iter().map(|l| contention(l, length)).collect());
    extend(report.threads.iter().map(|t| run_queue(t, length)).collect());
    extend(
        report
            .functions
            .iter()
            .map(|f| slow_function(f, length))
            .collect(),
    );
    extend(
        report
            .functions
            .iter()
            .filter_map(|f| allocation(f, length))
            .collect(),
    );
    extend(growth(report).into_iter().collect());
    extend(report.polls.iter().filter_map(|p| long_poll(p, length)).collect());
    extend(inputs.statements.iter().map(|s| statement(s, length)).collect());
    extend(hot_stacks(report));
    all.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.title_en.cmp(&b.title_en)));
    all
}

// === One kind each ===

fn instances(i: &Instances, length: Duration) -> Finding {
    let all = (i.created + i.hits).max(1);
    let created_share = percent(i.created as f64 / all as f64);
    Finding {
        kind: Kind::Instances,
        score: score(share(i.creation_ns, length)),
        title_en: format!(
            "instances `{}`: {created_share:.0} % of accesses make a new one",
            i.name
        ),
        title_zh: format!("实例 `{}`：{created_share:.0}% 的访问会新建实例", i.name),
        evidence: vec![
            evidence("created", i.created as f64, "instances"),
            evidence("hits", i.hits as f64, "accesses"),
            evidence("creation time", ms(i.creation_ns), "ms"),
            evidence("waited for a creation", i.contended as f64, "accesses"),
        ],
        change_en: format!(
            "Hold the instances of `{}` strongly (`Instances::strong`) or keep one handle alive between uses, and make the expensive ones at start-up.",
            i.name
        ),
        change_zh: format!(
            "用强引用（`Instances::strong`）保存 `{}` 的实例，或在两次使用之间保留一个句柄，并在启动时创建开销大的实例。",
            i.name
        ),
    }
}

fn contention(l: &lock::Figures, length: Duration) -> Finding {
    let contended = percent(l.contended as f64 / l.acquisitions.max(1) as f64);
    Finding {
        kind: Kind::Contention,
        score: score(share(l.wait_ns, length)),
        title_en: format!("lock `{}`: {contended:.1} % of acquisitions wait", l.name),
        title_zh: format!("锁 `{}`：{contended:.1}% 的获取需要等待", l.name),
        evidence: vec![
            evidence("acquisitions", l.acquisitions as f64, "times"),
            evidence("contended", l.contended as f64, "times"),
            evidence("time waited", ms(l.wait_ns), "ms"),
            evidence("wait P99", ms(l.wait_p99_ns), "ms"),
        ],
        change_en: format!(
            "Shorten what is done while `{}` is held (compute before, publish inside), or split it by key into shards; if most holders only read, use `TimedRwLock` or a snapshot in an `Arc`.",
            l.name
        ),
        change_zh: format!(
            "缩短持有 `{}` 期间的工作（先计算，锁内只发布），或按键拆分为多个分片；若多数持有者只读，改用 `TimedRwLock` 或 `Arc` 快照。",
            l.name
        ),
    }
}

fn run_queue(t: &threads::Figures, length: Duration) -> Finding {
    let delay = percent(share(t.run_delay_ns, length));
    Finding {
        kind: Kind::RunQueue,
        // Below a tenth the scheduler's ordinary turns are seen, not a lack of cores.
        score: if delay < 10.0 { 0 } else { score(delay / 100.0) },
        title_en: format!("thread `{}` was ready and had no core for {delay:.0} % of the time", t.name),
        title_zh: format!("线程 `{}` 在 {delay:.0}% 的时间里可运行但没有核心", t.name),
        evidence: vec![
            evidence("run-queue delay", ms(t.run_delay_ns), "ms"),
            evidence("time on a core", ms(t.cpu_ns), "ms"),
            evidence("involuntary switches", t.involuntary_switches as f64, "times"),
        ],
        change_en: "Run fewer threads than cores (`[gateway] shards`, runtime workers), move other processes away, or raise the container's CPU quota.".into(),
        change_zh: "让线程数少于核心数（`[gateway] shards`、运行时线程），移走其他进程，或提高容器的 CPU 配额。".into(),
    }
}

fn slow_function(f: &span::Figures, length: Duration) -> Finding {
    let total = percent(share(f.total_ns, length));
    let is_slow = f.mean_ns >= SLOW_CALL_NS;
    let (change_en, change_zh) = if is_slow {
        (
            format!(
                "A call of `{}` takes {:.1} ms: split the work, move blocking parts off the thread, or keep its result with `#[cached]`.",
                f.name,
                f.mean_ns / 1e6
            ),
            format!(
                "`{}` 每次调用耗时 {:.1} 毫秒：拆分工作、把阻塞部分移出该线程，或用 `#[cached]` 保存结果。",
                f.name,
                f.mean_ns / 1e6
            ),
        )
    } else {
        (
            format!(
                "`{}` is called {} times: call it for batches instead of single items, or keep its result with `#[cached]`.",
                f.name, f.calls
            ),
            format!(
                "`{}` 被调用 {} 次：按批调用而不是逐条调用，或用 `#[cached]` 保存结果。",
                f.name, f.calls
            ),
        )
    };
    Finding {
        kind: Kind::SlowFunction,
        score: score(total / 100.0),
        title_en: format!("function `{}` takes {total:.1} % of a core", f.name),
        title_zh: format!("函数 `{}` 占用一个核心的 {total:.1}%", f.name),
        evidence: vec![
            evidence("calls", f.calls as f64, "calls"),
            evidence("total time", ms(f.total_ns), "ms"),
            evidence("mean", f.mean_ns / 1e6, "ms"),
            evidence("P99", ms(f.p99_ns), "ms"),
            evidence("max", ms(f.max_ns), "ms"),
        ],
        change_en,
        change_zh,
    }
}

fn allocation(f: &span::Figures, length: Duration) -> Option<Finding> {
    let bytes = f.allocated_bytes?;
    let rate = bytes as f64 / seconds(length);
    Some(Finding {
        kind: Kind::Memory,
        score: score(rate / ALLOCATION_FULL),
        title_en: format!("function `{}` allocates {:.0} MiB a second", f.name, mib(rate)),
        title_zh: format!("函数 `{}` 每秒分配 {:.0} MiB", f.name, mib(rate)),
        evidence: vec![
            evidence("allocated", mib(bytes as f64), "MiB"),
            evidence("per call", bytes as f64 / f.calls.max(1) as f64, "bytes"),
        ],
        change_en: format!(
            "Reuse the buffers of `{}` between calls, reserve their size once, or pass `Bytes` instead of copies.",
            f.name
        ),
        change_zh: format!(
            "在多次调用之间复用 `{}` 的缓冲区，一次性预留大小，或传递 `Bytes` 而不是拷贝。",
            f.name
        ),
    })
}

fn growth(report: &Report) -> Option<Finding> {
    let memory = report.memory;
    let grown = memory.rss_after_bytes.checked_sub(memory.rss_before_bytes)? as f64;
    if grown < GROWTH_MIN {
        return None;
    }
    let before = memory.rss_before_bytes.max(1) as f64;
    Some(Finding {
        kind: Kind::Memory,
        score: score(grown / before),
        title_en: format!("resident memory grew by {:.1} MiB during the profile", mib(grown)),
        title_zh: format!("分析期间常驻内存增长了 {:.1} MiB", mib(grown)),
        evidence: vec![
            evidence("before", mib(before), "MiB"),
            evidence("after", mib(memory.rss_after_bytes as f64), "MiB"),
        ],
        change_en: "Take a heap profile twice, a minute apart, and compare: the difference names the site. If load rose meanwhile, this is no leak.".into(),
        change_zh: "间隔一分钟取两次堆分析并比较：差异会指出位置。若期间负载上升，则不是泄漏。".into(),
    })
}

fn long_poll(p: &poll::Figures, length: Duration) -> Option<Finding> {
    if p.long_polls == 0 {
        return None;
    }
    let long_share = p.long_polls as f64 / p.polls.max(1) as f64;
    Some(Finding {
        kind: Kind::LongPoll,
        // At least a millisecond each was lost to everybody else; the mean may say more.
        score: score(
            share(p.long_polls * poll::LONG_POLL.as_nanos() as u64, length)
                .max(long_share * share(p.busy_ns, length)),
        ),
        title_en: format!("task `{}`: {} polls took over 1 ms", p.name, p.long_polls),
        title_zh: format!("任务 `{}`：{} 次轮询超过 1 毫秒", p.name, p.long_polls),
        evidence: vec![
            evidence("polls", p.polls as f64, "polls"),
            evidence("long polls", p.long_polls as f64, "polls"),
            evidence("busy", ms(p.busy_ns), "ms"),
            evidence("longest since the start", ms(p.max_ns), "ms"),
        ],
        change_en: format!(
            "Move the computing or blocking part of `{}` to `spawn_blocking`, or yield between items.",
            p.name
        ),
        change_zh: format!(
            "把 `{}` 中的计算或阻塞部分移到 `spawn_blocking`，或在条目之间让出执行权。",
            p.name
        ),
    })
}

fn statement(s: &Statement, length: Duration) -> Finding {
    let total = percent(share(s.total_ns, length));
    let mean_ns = s.total_ns as f64 / s.calls.max(1) as f64;
    let (change_en, change_zh) = if mean_ns >= SLOW_CALL_NS {
        (
            "Run `tidegate index advise` on its table: an index for its conditions, or a roll-up that answers it.",
            "对该表运行 `tidegate index advise`：为其条件建立索引，或用汇总表回答。",
        )
    } else {
        (
            "It is quick and frequent: give its query a TTL (`[query.cache]`), or ask for many keys at once.",
            "该语句快但频繁：为其查询设置 TTL（`[query.cache]`），或一次请求多个键。",
        )
    };
    Finding {
        kind: Kind::SlowStatement,
        score: score(total / 100.0),
        title_en: format!("statement takes {total:.1} % of a connection: {}", s.text),
        title_zh: format!("语句占用一个连接的 {total:.1}%：{}", s.text),
        evidence: vec![
            evidence("calls", s.calls as f64, "calls"),
            evidence("total time", ms(s.total_ns), "ms"),
            evidence("mean", mean_ns / 1e6, "ms"),
            evidence("P99 since the start", ms(s.p99_ns), "ms"),
            evidence("rows", s.rows as f64, "rows"),
        ],
        change_en: change_en.into(),
        change_zh: change_zh.into(),
    }
}

fn hot_stacks(report: &Report) -> Vec<Finding> {
    let Ok(cpu) = &report.cpu else {
        return Vec::new();
    };
    // Every sample is 1/hertz of a core's second.
    let busy = cpu.samples as f64 / f64::from(cpu.hertz.max(1)) / seconds(cpu.length);
    let finding = |hot: Hot| {
        let own = percent(hot.own);
        Finding {
            kind: Kind::HotStack,
            score: score(hot.own * busy),
            title_en: format!("`{}` is on the core in {own:.1} % of the samples", hot.function),
            title_zh: format!("`{}` 出现在 {own:.1}% 的 CPU 样本中", hot.function),
            evidence: vec![
                evidence("own share", own, "%"),
                evidence("with what it calls", percent(hot.total), "%"),
                evidence("cores busy", busy, "cores"),
                evidence("samples", cpu.samples as f64, "samples"),
            ],
            change_en: format!(
                "Open the flame graph at `{}`: do less of it per message, or do it once and share the result.",
                hot.function
            ),
            change_zh: format!(
                "在火焰图中查看 `{}`：减少每条消息的执行量，或只做一次并共享结果。",
                hot.function
            ),
        }
    };
    cpu.hottest(PER_KIND_MAX).into_iter().map(finding).collect()
}

// === Numbers ===

fn evidence(name: &'static str, value: f64, unit: &'static str) -> Evidence {
    Evidence { name, value, unit }
}

fn seconds(length: Duration) -> f64 {
    length.as_secs_f64().max(1e-3)
}

fn share(ns: u64, length: Duration) -> f64 {
    ns as f64 / 1e9 / seconds(length)
}

fn score(share: f64) -> u32 {
    percent(share).round().clamp(0.0, 100.0) as u32
}

fn percent(share: f64) -> f64 {
    share * 100.0
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn mib(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

// === impl Kind ===

impl Kind {
    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Contention => "contention",
            Self::RunQueue => "run_queue",
            Self::SlowFunction => "slow_function",
            Self::HotStack => "hot_stack",
            Self::Memory => "memory",
            Self::LongPoll => "long_poll",
            Self::SlowStatement => "slow_statement",
        }
    }
}
