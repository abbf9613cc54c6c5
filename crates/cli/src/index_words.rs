//! What `tidegate index` says to people, in English and Chinese.

use std::fmt::Display;

use crate::words::Lang;

/// A message in English and Chinese, with `{name}` where a value goes.
pub(crate) type Words = (&'static str, &'static str);

pub(crate) const NO_URL: Words = (
    "no database: give --url, store.url in the configuration, or DATABASE_URL",
    "没有数据库：请给出 --url、配置中的 store.url 或 DATABASE_URL",
);
pub(crate) const NOT_POSTGRES: Words = (
    "index verbs need PostgreSQL; the database is SQLite, whose indexes you create with SQL",
    "index 各命令需要 PostgreSQL；当前数据库是 SQLite，请用 SQL 创建其索引",
);
pub(crate) const POOLER: Words = (
    "{target} is behind a transaction pooler, and this needs a session of its own: give the server itself with --url",
    "{target} 位于事务级连接池之后，而本命令需要独占会话：请用 --url 直接给出服务器",
);
pub(crate) const EXISTS: Words = ("there", "已有");
pub(crate) const EXISTS_AS: Words = ("there as {name}", "已有，名为 {name}");
pub(crate) const MISSING: Words = ("missing", "缺少");
pub(crate) const INVALID: Words = (
    "unusable, left behind by a broken build",
    "不可用，由中断的创建留下",
);
pub(crate) const BUILDING: Words = ("being built by another session", "另一会话正在创建");
pub(crate) const DIFFERS: Words = ("the name belongs to {found}", "名称已属于 {found}");
pub(crate) const IMPOSSIBLE: Words = ("impossible: {reason}", "无法创建：{reason}");
pub(crate) const PLAN_DONE: Words = ("{good} there, {open} to do", "{good} 个已有，{open} 个待处理");
pub(crate) const CREATED: Words = ("created", "已创建");
pub(crate) const FAILED: Words = ("failed: {reason}", "失败：{reason}");
pub(crate) const APPLY_DONE: Words = (
    "{created} created, {existing} there already, {failed} failed",
    "新建 {created} 个，已有 {existing} 个，失败 {failed} 个",
);
pub(crate) const TOO_YOUNG: Words = (
    "no answer yet: scans are counted for {counted} days, asked are {window}",
    "尚无结论：扫描计数只有 {counted} 天，要求 {window} 天",
);
pub(crate) const UNUSED: Words = (
    "{name} on {table}: {size}, {evidence}, {written} rows written",
    "{table} 上的 {name}：{size}，{evidence}，写入 {written} 行",
);
pub(crate) const DUPLICATE: Words = (
    "{name} on {table} {definition}: {size}, {scans} scans; {other} {covering} does the same",
    "{table} 上的 {name} {definition}：{size}，{scans} 次扫描；{other} {covering} 可代替",
);
pub(crate) const FOUND: Words = ("{n} found", "找到 {n} 个");
pub(crate) const SAVES: Words = (
    "saves {ms} ms of the observed time, {share} %; about {size}; a written row costs {factor} times as much ({writes} rows/s)",
    "可省下观察时间中的 {ms} 毫秒，{share} %；约 {size}；每写一行的代价为原来的 {factor} 倍（{writes} 行/秒）",
);
pub(crate) const EVIDENCE: Words = (
    "{calls} calls, {before} -> {after} ms, cost {cost_before} -> {cost_after}, {scans}: {statement}",
    "{calls} 次，{before} -> {after} 毫秒，代价 {cost_before} -> {cost_after}，{scans}：{statement}",
);
pub(crate) const REPLACES: Words = ("makes {name} superfluous", "使 {name} 成为多余");
pub(crate) const HINT: Words = ("then: {hint}", "随后：{hint}");
pub(crate) const PROVED: Words = (
    "proved by the planner with hypothetical indexes",
    "由规划器用假想索引证实",
);
pub(crate) const ESTIMATED: Words = (
    "estimated from statistics; with the extension hypopg the planner would prove it",
    "由统计信息估算；装上 hypopg 扩展可由规划器证实",
);
pub(crate) const LOOKED: Words = (
    "{n} statements looked at, {skipped} of them skipped",
    "考察 {n} 条语句，其中跳过 {skipped} 条",
);
pub(crate) const SKIPPED: Words = ("skipped {n}: {reason}", "跳过 {n} 条：{reason}");
pub(crate) const WRITTEN: Words = (
    "written to {file}; apply it with tidegate index apply --plan {file}",
    "已写入 {file}；用 tidegate index apply --plan {file} 创建",
);
pub(crate) const DROPPED: Words = ("{name} dropped", "{name} 已删除");
pub(crate) const NOT_DROPPED: Words = ("{name}: {reason}", "{name}：{reason}");

/// The message with its values.
pub(crate) fn tell(lang: Lang, words: Words, values: &[(&str, &dyn Display)]) -> String {
    let mut text = match lang {
        Lang::En => words.0,
        Lang::Zh => words.1,
    }
    .to_owned();
    for (name, value) in values {
        text = text.replace(&format!("{{{name}}}"), &value.to_string());
    }
    text
}
