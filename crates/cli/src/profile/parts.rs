//! The tables of a report, for the terminal and the page alike.

use super::{
    report::{Cpu, Heap, Report, Site},
    words::{Words, in_lang},
};
use crate::words::Lang;

/// One table, ready to be shown.
pub(super) struct Table {
    pub(super) title: &'static str,
    /// How to read it.
    pub(super) about: &'static str,
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<String>>,
}

/// A column.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) is_number: bool,
}

/// What a table is made of: title, how to read it, its columns; those with a `#` in front are numbers.
struct Plan {
    title: Words,
    about: Words,
    columns: &'static [Words],
}

const HOT: Plan = Plan {
    title: ("Hot functions", "热点函数"),
    about: (
        "Own is the share of samples in the function itself, total with what it calls.",
        "自身为函数自身样本占比，总计含其调用。",
    ),
    columns: &[("#own", "#自身"), ("#total", "#总计"), ("function", "函数")],
};
const FUNCTIONS: Plan = Plan {
    title: ("Measured functions", "计量函数"),
    about: (
        "Time on a core; awaiting is the time between the polls of an async function.",
        "占用核心的时间；等待为异步函数两次轮询之间的时间。",
    ),
    columns: &[
        ("#calls", "#调用"),
        ("#total", "#总计"),
        ("#mean", "#平均"),
        ("#P50", "#P50"),
        ("#P99", "#P99"),
        ("#max", "#最长"),
        ("#awaiting", "#等待"),
        ("#allocated", "#分配"),
        ("function", "函数"),
    ],
};
const LATENCIES: Plan = Plan {
    title: ("Requests and their parts", "请求及其组成"),
    about: (
        "From the outside: waiting included. The gap to the functions above is waiting.",
        "从外部看，含等待；与上表之差即为等待。",
    ),
    columns: &[
        ("#times", "#次数"),
        ("#mean", "#平均"),
        ("#P50", "#P50"),
        ("#P95", "#P95"),
        ("#P99", "#P99"),
        ("#max", "#最长"),
        ("what", "项目"),
    ],
};
const STATEMENTS: Plan = Plan {
    title: ("Statements", "语句"),
    about: (
        "Those that took the database's time meanwhile. P99 is since the start of the server.",
        "期间占用数据库时间的语句。P99 自服务器启动以来。",
    ),
    columns: &[
        ("#calls", "#调用"),
        ("#time", "#时间"),
        ("#mean", "#平均"),
        ("#P99", "#P99"),
        ("#rows", "#行"),
        ("statement", "语句"),
    ],
};
const LOCKS: Plan = Plan {
    title: ("Locks", "锁"),
    about: (
        "Contended: somebody else held it. Shorten what is done while it is held.",
        "争用：他人持有。应缩短持有期间的工作。",
    ),
    columns: &[
        ("#taken", "#获取"),
        ("#contended", "#争用"),
        ("#waited", "#等待"),
        ("#P99", "#P99"),
        ("lock", "锁"),
    ],
};
const THREADS: Plan = Plan {
    title: ("Threads", "线程"),
    about: (
        "No core: ready to run and none was free. Much of it means too few cores, or a quota.",
        "无核心：可运行但没有空闲核心。偏多说明核心不足或有配额。",
    ),
    columns: &[
        ("#on a core", "#运行"),
        ("#no core", "#无核心"),
        ("#gave up", "#主动让出"),
        ("#taken away", "#被抢占"),
        ("thread", "线程"),
    ],
};
const TASKS: Plan = Plan {
    title: ("Tasks", "任务"),
    about: (
        "A poll over a millisecond keeps every other task of its thread waiting.",
        "超过一毫秒的轮询会让同线程的其他任务等待。",
    ),
    columns: &[
        ("#polls", "#轮询"),
        ("#over 1 ms", "#超过 1 ms"),
        ("#busy", "#忙碌"),
        ("task", "任务"),
    ],
};
const INSTANCES: Plan = Plan {
    title: ("Instances", "实例"),
    about: (
        "Made again and again means nobody holds them.",
        "反复创建说明没有人持有它们。",
    ),
    columns: &[
        ("#made", "#创建"),
        ("#found", "#命中"),
        ("#making", "#创建耗时"),
        ("#waited", "#等待"),
        ("instances", "实例"),
    ],
};
const MEMORY: Plan = Plan {
    title: ("Memory", "内存"),
    about: (
        "Accounts are what the server planned for; what is allocated beyond them is everything else.",
        "记账为服务器计划内的用量；其余分配为其他部分。",
    ),
    columns: &[
        ("#before", "#之前"),
        ("#after", "#之后"),
        ("#change", "#变化"),
        ("memory", "内存"),
    ],
};
const HELD: Plan = Plan {
    title: ("Places that hold memory", "占用内存的位置"),
    about: (
        "Sampled: allocated since sampling began and still alive. Innermost function first.",
        "采样所得：采样开始后分配且仍存活。最内层函数在前。",
    ),
    columns: &[("#bytes", "#字节"), ("#objects", "#对象"), ("functions", "函数")],
};
const GROWN: Plan = Plan {
    title: ("Places that grew", "增长的位置"),
    about: (
        "What came during the profile and is still alive.",
        "分析期间新增且仍存活的部分。",
    ),
    columns: HELD.columns,
};
const DOORS: Plan = Plan {
    title: ("Cache and limiter", "缓存与限流"),
    about: (
        "Misses and refusals during the profile.",
        "分析期间的未命中与拒绝。",
    ),
    columns: &[("#value", "#值"), ("figure", "指标")],
};

/// All tables that have rows.
pub(super) fn tables(report: &Report, lang: Lang) -> Vec<Table> {
    let mut tables = vec![
        HOT.table(lang, hot(report)),
        FUNCTIONS.table(lang, functions(report)),
        LATENCIES.table(lang, latencies(report)),
        STATEMENTS.table(lang, statements(report)),
        LOCKS.table(lang, locks(report)),
        THREADS.table(lang, threads(report)),
        TASKS.table(lang, tasks(report)),
        INSTANCES.table(lang, instances(report)),
        MEMORY.table(lang, memory(report)),
        DOORS.table(lang, doors(report)),
    ];
    if let Some(Heap::Sites { alive, grown }) = &report.memory.heap {
        tables.push(GROWN.table(lang, sites(grown)));
        tables.push(HELD.table(lang, sites(alive)));
    }
    tables.retain(|table| !table.rows.is_empty());
    tables
}

type Rows = Vec<Vec<String>>;

fn hot(report: &Report) -> Rows {
    let Cpu::Samples(samples) = &report.cpu else {
        return Vec::new();
    };
    let row = |hot: &super::report::Hot| vec![percent(hot.own), percent(hot.total), hot.function.clone()];
    samples
        .hottest
        .iter()
        .filter(|hot| hot.own > 0.0)
        .map(row)
        .collect()
}

fn functions(report: &Report) -> Rows {
    let row = |f: &super::report::Function| {
        vec![
            count(f.calls),
            time(f.total_ns as f64),
            time(f.mean_ns),
            time(f.p50_ns as f64),
            time(f.p99_ns as f64),
            time(f.max_ns as f64),
            time(f.awaiting_ns as f64),
            f.allocated_bytes.map_or_else(|| "–".to_owned(), bytes),
            f.name.clone(),
        ]
    };
    report.functions.iter().map(row).collect()
}

fn latencies(report: &Report) -> Rows {
    let row = |l: &super::report::Latency| {
        vec![
            count(l.calls),
            time(l.mean_ns),
            time(l.p50_ns as f64),
            time(l.p95_ns as f64),
            time(l.p99_ns as f64),
            time(l.max_ns as f64),
            l.name.clone(),
        ]
    };
    report.latencies.iter().map(row).collect()
}

fn statements(report: &Report) -> Rows {
    let row = |s: &super::report::Statement| {
        vec![
            count(s.calls),
            time(s.busy_ms * 1e6),
            time(s.mean_ms * 1e6),
            time(s.p99_since_start_ms * 1e6),
            count(s.rows),
            s.text.clone(),
        ]
    };
    report.statements.iter().map(row).collect()
}

fn locks(report: &Report) -> Rows {
    let row = |l: &super::report::Lock| {
        vec![
            count(l.acquisitions),
            count(l.contended),
            time(l.wait_ns as f64),
            time(l.wait_p99_ns as f64),
            l.name.clone(),
        ]
    };
    report.locks.iter().map(row).collect()
}

fn threads(report: &Report) -> Rows {
    let all_ns = report.seconds.max(1e-3) * 1e9;
    let row = |t: &super::report::Thread| {
        vec![
            percent(t.cpu_ns as f64 / all_ns),
            percent(t.run_delay_ns as f64 / all_ns),
            count(t.voluntary_switches),
            count(t.involuntary_switches),
            t.name.clone(),
        ]
    };
    report.threads.iter().map(row).collect()
}

fn tasks(report: &Report) -> Rows {
    let row = |p: &super::report::Task| {
        vec![
            count(p.polls),
            count(p.long_polls),
            time(p.busy_ns as f64),
            p.name.clone(),
        ]
    };
    report
        .polls
        .iter()
        .filter(|task| task.polls > 0)
        .map(row)
        .collect()
}

fn instances(report: &Report) -> Rows {
    let row = |i: &super::report::Instances| {
        vec![
            count(i.created),
            count(i.hits),
            time(i.creation_ns as f64),
            count(i.waited),
            i.name.clone(),
        ]
    };
    report.instances.iter().map(row).collect()
}

fn memory(report: &Report) -> Rows {
    let (before, after) = (&report.memory.before, &report.memory.after);
    let row = |name: &str, before: u64, after: u64| {
        let sign = if after >= before { "+" } else { "−" };
        vec![
            bytes(before),
            bytes(after),
            format!("{sign}{}", bytes(after.abs_diff(before))),
            name.to_owned(),
        ]
    };
    let mut rows = vec![row("RSS", before.rss_bytes, after.rss_bytes)];
    if let (Some(before), Some(after)) = (before.allocated_bytes, after.allocated_bytes) {
        rows.push(row("allocated", before, after));
    }
    for (class, after) in &after.accounted_bytes {
        let before = before.accounted_bytes.get(class).copied().unwrap_or(0);
        if before.max(*after) > 0 {
            rows.push(row(&format!("account {class}"), before, *after));
        }
    }
    rows
}

fn sites(sites: &[Site]) -> Rows {
    let row = |site: &Site| {
        let functions: Vec<String> = site.functions.iter().map(|name| place(name)).collect();
        vec![bytes(site.bytes), count(site.objects), functions.join(" < ")]
    };
    sites.iter().map(row).collect()
}

/// A function with the end of its file's path, which says enough.
fn place(name: &str) -> String {
    let Some((function, file)) = name.strip_suffix(')').and_then(|name| name.rsplit_once(" (")) else {
        return name.to_owned();
    };
    let from = file.rmatch_indices('/').nth(2).map_or(0, |(at, _)| at + 1);
    format!("{function} ({})", &file[from..])
}

fn doors(report: &Report) -> Rows {
    let mut rows: Vec<(String, &str)> = Vec::new();
    if let Some(cache) = &report.cache {
        rows.extend([
            (count(cache.hits), "cache hits"),
            (count(cache.misses), "cache misses"),
            (
                cache.hit_rate.map_or_else(|| "–".to_owned(), percent),
                "cache hit rate",
            ),
            (count(cache.loads), "cache loads"),
            (count(cache.loads_failed), "cache loads failed"),
            (count(cache.evictions), "cache evictions"),
            (
                format!("{} / {}", bytes(cache.bytes), bytes(cache.capacity_bytes)),
                "cache memory",
            ),
        ]);
    }
    let limiter = &report.limiter;
    rows.extend([
        (count(limiter.admitted), "requests admitted"),
        (count(limiter.refused), "requests refused"),
        (
            format!("{} + {} / {}", limiter.in_flight, limiter.waiting, limiter.limit),
            "requests at once + waiting / limit",
        ),
    ]);
    if let Some(latency_ms) = limiter.latency_ms {
        rows.push((time(latency_ms * 1e6), "mean latency of the last window"));
    }
    rows.into_iter()
        .map(|(value, name)| vec![value, name.to_owned()])
        .collect()
}

// === impl Plan ===

impl Plan {
    fn table(&self, lang: Lang, rows: Rows) -> Table {
        let column = |words: &Words| {
            let name = in_lang(lang, *words);
            Column {
                name: name.trim_start_matches('#'),
                is_number: name.starts_with('#'),
            }
        };
        Table {
            title: in_lang(lang, self.title),
            about: in_lang(lang, self.about),
            columns: self.columns.iter().map(column).collect(),
            rows,
        }
    }
}

// === Numbers as people read them ===

/// A time with three digits and its unit.
pub(super) fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns <= 0.0 => return "0".to_owned(),
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// Bytes with three digits and their unit.
pub(super) fn bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    format!("{} {unit}", digits(value))
}

/// A number of at most three digits behind the first that counts.
pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v.fract() == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A count with its thousands apart.
fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let check = |got: String, expected| assert_eq!(got, expected);
        check(time(0.0), "0");
        check(time(24.0), "24 ns");
        check(time(1_234.0), "1.23 µs");
        check(time(12_345_678.0), "12.3 ms");
        check(time(3.0e9), "3 s");
        check(bytes(0), "0 B");
        check(bytes(1_536), "1.50 KiB");
        check(bytes(200 << 20), "200 MiB");
        check(count(0), "0");
        check(count(999), "999");
        check(count(1_234_567), "1,234,567");
        check(percent(0.1234), "12.3 %");
        check(
            place("a::b (/x/crates/store/src/pool.rs:7)"),
            "a::b (store/src/pool.rs:7)",
        );
        check(place("a::b"), "a::b");
    }
}
