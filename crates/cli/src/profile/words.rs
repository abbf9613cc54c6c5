//! What `tidegate profile` says to people, in English and Chinese.

use std::fmt::Display;

use crate::words::Lang;

/// A message in English and Chinese, with `{name}` where a value goes.
pub(crate) type Words = (&'static str, &'static str);

// === Collecting ===

pub(super) const COLLECTING: Words = ("watching for {seconds} s", "观察 {seconds} 秒");
pub(super) const NAMING: Words = ("looking up names", "正在查找函数名");
pub(super) const WRITTEN: Words = ("written: {file}", "已写入：{file}");
pub(super) const CANNOT_WRITE: Words = ("cannot write {file}: {cause}", "无法写入 {file}：{cause}");
pub(super) const CANNOT_READ: Words = ("cannot read {file}: {cause}", "无法读取 {file}：{cause}");
pub(super) const NOT_REPORT: Words = (
    "{file} is no report: {cause}. Make one with `tidegate profile URL -o {file}`",
    "{file} 不是分析报告：{cause}。请用 `tidegate profile URL -o {file}` 生成",
);
pub(super) const ENDING: Words = (
    "{file}: the ending says the form: .html, .json, .svg or .folded",
    "{file}：扩展名决定形式：.html、.json、.svg 或 .folded",
);
pub(super) const NOT_REACHED: Words = (
    "{server} cannot be reached: {cause}",
    "无法连接 {server}：{cause}",
);
pub(super) const NOT_TIDEGATE: Words = (
    "{server} is no Tidegate: {cause}",
    "{server} 不是 Tidegate：{cause}",
);
pub(super) const NO_TOKEN: Words = (
    "{server} wants a token: {cause}. Put one with an admin role into TIDEGATE_TOKEN, or run this on the server's own machine",
    "{server} 需要令牌：{cause}。请把具有 admin 角色的令牌放入 TIDEGATE_TOKEN，或在服务器本机运行",
);
pub(super) const NOT_ADMIN: Words = (
    "{server} refuses: {cause}. The token needs a role with admin = true",
    "{server} 拒绝：{cause}。令牌需要 admin = true 的角色",
);
pub(super) const TOO_OLD: Words = (
    "{server} has no profiles: {cause}. It is an older Tidegate, or its administration is elsewhere (admin.listen)",
    "{server} 不提供性能分析：{cause}。它是较旧的 Tidegate，或管理接口在别处（admin.listen）",
);
pub(super) const REFUSED: Words = ("{server} answered {cause}", "{server} 回答 {cause}");

// === Report ===

pub(super) const TITLE: Words = ("Profile of {server}", "{server} 的性能分析");
pub(super) const HEAD: Words = (
    "Tidegate {version}, {seconds} s, {cores} cores busy on average",
    "Tidegate {version}，{seconds} 秒，平均占用 {cores} 个核心",
);
pub(super) const SAMPLES: Words = (
    "{samples} samples by {source} at {hertz} Hz, {lost} lost",
    "{samples} 个样本，来自 {source}，{hertz} Hz，丢失 {lost}",
);
pub(super) const NO_SAMPLES: Words = ("no samples of the processor: {cause}", "没有处理器样本：{cause}");
pub(super) const BOTTLENECKS: Words = ("Bottlenecks", "瓶颈");
pub(super) const NO_BOTTLENECK: Words = (
    "Nothing took a hundredth of a core or of a waiting caller. Profile under the load that matters.",
    "没有任何一项占到核心或等待者时间的百分之一。请在有意义的负载下分析。",
);
pub(super) const SCORE_ABOUT: Words = (
    "The number is what a bottleneck is worth: per cent of one core, or of one who waits.",
    "数字表示瓶颈的分量：占一个核心或一个等待者时间的百分比。",
);
pub(super) const FLAME: Words = ("Flame graph", "火焰图");
pub(super) const FLAME_ABOUT: Words = (
    "Width is the share of samples, depth is who called whom, the thread on top. Click a box to zoom, the top row to go back.",
    "宽度为样本占比，深度为调用关系，最上为线程。点击方块放大，点击顶行返回。",
);
pub(super) const SEARCH: Words = ("Find a function", "查找函数");
pub(super) const RESET: Words = ("Whole graph", "全图");
pub(super) const LEFT_OUT: Words = (
    "{n} samples of rare stacks are not drawn",
    "{n} 个罕见调用栈的样本未画出",
);
pub(super) const MORE: Words = (
    "and {n} more; --out report.html has all",
    "另有 {n} 项；完整内容见 --out report.html",
);
pub(super) const HEAP_FAILED: Words = ("no heap profile: {cause}", "没有堆分析：{cause}");

// === Comparison ===

pub(super) const KEEP: Words = ("KEEP the change: {reason}", "保留改动：{reason}");
pub(super) const ROLL_BACK: Words = ("ROLL BACK the change: {reason}", "回退改动：{reason}");
pub(super) const INCONCLUSIVE: Words = ("INCONCLUSIVE: {reason}", "无定论：{reason}");
pub(super) const OF_FUNCTIONS: Words = ("Functions", "函数");
pub(super) const OF_LATENCIES: Words = ("Requests and their parts", "请求及其组成");
pub(super) const COMPARED_ABOUT: Words = (
    "Only what has 30 calls in both is compared, by mean time; σ is the difference in standard errors, 3 and more is no chance.",
    "仅比较两次都有 30 次调用的项目，按平均耗时；σ 为以标准误计的差异，3 及以上并非偶然。",
);

/// Names and units of evidence as a server writes them, and in Chinese.
const EVIDENCE: [Words; 35] = [
    ("P99 since the start", "启动以来 P99"),
    ("acquisitions", "获取"),
    ("after", "之后"),
    ("allocated", "分配"),
    ("before", "之前"),
    ("busy", "忙碌"),
    ("calls", "调用"),
    ("contended", "争用"),
    ("cores busy", "占用核心"),
    ("created", "创建"),
    ("creation time", "创建耗时"),
    ("hits", "命中"),
    ("involuntary switches", "被抢占"),
    ("long polls", "长轮询"),
    ("longest since the start", "启动以来最长"),
    ("max", "最长"),
    ("mean", "平均"),
    ("own share", "自身占比"),
    ("per call", "每次调用"),
    ("polls", "轮询"),
    ("rows", "行"),
    ("run-queue delay", "就绪等待"),
    ("samples", "样本"),
    ("time on a core", "运行时间"),
    ("time waited", "等待时间"),
    ("total time", "总时间"),
    ("wait P99", "等待 P99"),
    ("waited for a creation", "等待创建"),
    ("with what it calls", "含其调用"),
    ("times", "次"),
    ("accesses", "次"),
    ("instances", "个"),
    ("bytes", "字节"),
    ("cores", "核心"),
    ("P99", "P99"),
];

/// A name or unit of evidence; one that is not known stays as it came.
pub(super) fn of_evidence(lang: Lang, name: &str) -> &str {
    let known = EVIDENCE.iter().find(|words| words.0 == name);
    known.map_or(name, |words| in_lang(lang, *words))
}

/// The message with its values.
pub(super) fn tell(lang: Lang, words: Words, values: &[(&str, &dyn Display)]) -> String {
    let mut text = in_lang(lang, words).to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), &value.to_string());
    }
    text
}

/// The message in one language, as it stands.
pub(super) const fn in_lang(lang: Lang, words: Words) -> &'static str {
    match lang {
        Lang::En => words.0,
        Lang::Zh => words.1,
    }
}
