//! The feeds' tables: whether they fit, may be written, are kept clean, and have partitions to grow into.

use crate::{
    feed::{Feed, Rollup},
    kind::Kind,
    schema::{
        catalog::{Live, Problem, Shape, problems},
        check::{Finding, Words},
        own, partition,
        privilege::Missing,
        sql::table,
        stats::TableStats,
        timescale::Timescale,
    },
};

/// Dead rows beyond this share, and this number, slow every scan.
const DEAD_RATIO_MAX: f64 = 0.2;
const DEAD_ROWS_MIN: i64 = 10_000;
/// The server stops writing at 2,147 million; autovacuum forces itself at 200 million.
const FROZEN_AGE_WARNING: i64 = 500_000_000;
const FROZEN_AGE_ERROR: i64 = 1_500_000_000;

pub(super) fn check_own(live: &Live) -> Finding {
    let subject = match live.kind {
        Kind::Postgres => "tidegate.*",
        Kind::Sqlite => "tidegate_*",
    };
    let (there, wanted) = (live.own, own::VERSION);
    match there.cmp(&wanted) {
        std::cmp::Ordering::Equal => Finding::good(
            "own_tables",
            subject,
            Words::new(
                format!("our own tables are at version {there}"),
                format!("内部表版本为 {there}"),
            ),
        ),
        std::cmp::Ordering::Less => Finding::error(
            "own_tables",
            subject,
            Words::new(
                format!("our own tables are at version {there}, {wanted} is needed"),
                format!("内部表版本为 {there}，需要 {wanted}"),
            ),
        )
        .so("Run `tidegate migrate`.", "请运行 `tidegate migrate`。"),
        std::cmp::Ordering::Greater => Finding::warning(
            "own_tables",
            subject,
            Words::new(
                format!("our own tables are at version {there}, this build knows {wanted}"),
                format!("内部表版本为 {there}，本程序仅支持 {wanted}"),
            ),
        )
        .so(
            "A newer build has migrated them; run the same build everywhere.",
            "已由更新的版本迁移；请在所有节点使用相同版本。",
        ),
    }
}

pub(super) fn check(feed: &Feed, live: &Live, missing: &[Missing], now_micros: i64) -> Vec<Finding> {
    let Some(there) = live.tables.get(&feed.table) else {
        return vec![missing_table(feed)];
    };
    let mut findings: Vec<Finding> = problems(live.kind, feed, there)
        .iter()
        .map(|problem| of_problem(feed, problem))
        .collect();
    if findings.is_empty() {
        let what = Words::new(
            format!(
                "table {} has the columns and the key that the feed says",
                feed.table
            ),
            format!("表 {} 的列与键符合数据源声明", feed.table),
        );
        findings.push(Finding::good("feed_table", &feed.name, what));
    }
    let of_feed = missing.iter().filter(|missing| missing.feed == feed.name);
    findings.extend(of_feed.map(of_missing));
    findings.extend(check_partitions(feed, live, there.shape, now_micros));
    findings.extend(feed.rollups.iter().map(|rollup| check_rollup(feed, rollup, live)));
    findings
}

fn of_missing(missing: &Missing) -> Finding {
    let (privileges, table) = (missing.privileges.join(", "), &missing.table);
    let what = match missing.is_needed {
        true => Words::new(
            format!("no {privileges} on table {table}"),
            format!("缺少对表 {table} 的 {privileges} 权限"),
        ),
        false => Words::new(
            format!("no {privileges} on table {table}: requests that change or remove rows by key will fail"),
            format!("缺少对表 {table} 的 {privileges} 权限：按键修改或删除的请求会失败"),
        ),
    };
    let finding = match missing.is_needed {
        true => Finding::error("privileges", &missing.feed, what),
        false => Finding::note("privileges", &missing.feed, what),
    };
    let grant = missing.grant();
    finding.so(format!("Run `{grant}`."), format!("请执行 `{grant}`。"))
}

fn missing_table(feed: &Feed) -> Finding {
    let what = Words::new(
        format!("table {} is missing", feed.table),
        format!("表 {} 不存在", feed.table),
    );
    let finding = Finding::error("feed_table", &feed.name, what);
    match feed.manage {
        true => finding.so("Run `tidegate migrate`.", "请运行 `tidegate migrate`。"),
        false => finding.so(
            "Make it, or set manage = true and run `tidegate migrate`.",
            "请自行创建，或设置 manage = true 后运行 `tidegate migrate`。",
        ),
    }
}

fn of_problem(feed: &Feed, problem: &Problem) -> Finding {
    let zh = match problem {
        Problem::Missing(column) => format!("表 {} 缺少列 {column}", feed.table),
        Problem::Type {
            column,
            declared,
            found,
        } => format!("列 {column} 的类型为 {found}，数据源声明为 {declared}"),
        Problem::RefusesNull(column) => format!("列 {column} 不允许空值，数据源允许"),
        Problem::Unfilled(column) => format!("列 {column} 必须有值，但不在数据源中"),
        Problem::KeyNotUnique(key) => format!("键 ({}) 上没有唯一索引", key.join(", ")),
    };
    let what = Words::new(format!("table {}: {problem}", feed.table), zh);
    let finding = match problem.is_fatal() {
        true => Finding::error("feed_table", &feed.name, what),
        false => Finding::warning("feed_table", &feed.name, what),
    };
    match problem {
        Problem::Missing(_) if feed.manage => {
            finding.so("Run `tidegate migrate`.", "请运行 `tidegate migrate`。")
        }
        Problem::RefusesNull(_) => finding.so(
            "Rows with null go to the dead letter; declare the column not null to refuse them before.",
            "含空值的行会进入死信；请将该列声明为非空，以便提前拒绝。",
        ),
        Problem::KeyNotUnique(key) => {
            let sql = format!(
                "CREATE UNIQUE INDEX CONCURRENTLY ON {} ({})",
                table(&feed.table),
                crate::schema::sql::quote_all(key.iter().map(String::as_str))
            );
            finding.so(format!("Run `{sql}`."), format!("请执行 `{sql}`。"))
        }
        _ => finding.so("Make the feed and the table agree.", "请使数据源与表保持一致。"),
    }
}

/// Whether rows of the next periods find a partition.
fn check_partitions(feed: &Feed, live: &Live, shape: Shape, now_micros: i64) -> Option<Finding> {
    let existing = live
        .partitions
        .get(&feed.table)
        .filter(|_| shape == Shape::Partitioned)?;
    let wanted = partition::ahead(feed, now_micros);
    let missing = partition::missing(feed, &wanted, existing);
    let current_is_missing = missing.iter().any(|range| range.from <= now_micros);
    let ahead = wanted
        .len()
        .saturating_sub(missing.len() + usize::from(!current_is_missing));
    let what = Words::new(
        format!(
            "{} partitions, {ahead} of {} ahead",
            existing.len(),
            partition::AHEAD
        ),
        format!(
            "共 {} 个分区，已预建 {ahead}/{} 个",
            existing.len(),
            partition::AHEAD
        ),
    );
    Some(match (current_is_missing, missing.is_empty()) {
        (_, true) => Finding::good("partitions", &feed.name, what),
        (true, _) => Finding::error("partitions", &feed.name, what).so(
            "Rows of now have no partition: run `tidegate migrate`, and see why the running server makes none.",
            "当前数据没有对应分区：请运行 `tidegate migrate`，并查明服务器为何未创建分区。",
        ),
        (false, false) => Finding::warning("partitions", &feed.name, what).so(
            "Run `tidegate migrate`; a running server makes them every minute.",
            "请运行 `tidegate migrate`；运行中的服务器每分钟会自动创建。",
        ),
    })
}

fn check_rollup(feed: &Feed, rollup: &Rollup, live: &Live) -> Finding {
    let subject = format!("{}.{}", feed.name, rollup.name);
    let Some(there) = live.tables.get(&rollup.table) else {
        let what = Words::new(
            format!("roll-up table {} is missing", rollup.table),
            format!("汇总表 {} 不存在", rollup.table),
        );
        return Finding::error("rollup", subject, what)
            .so("Run `tidegate migrate`.", "请运行 `tidegate migrate`。");
    };
    if there.shape == Shape::View {
        let what = Words::new(
            "is a continuous aggregate, kept by TimescaleDB",
            "为连续聚合，由 TimescaleDB 维护",
        );
        return Finding::good("rollup", subject, what);
    }
    let shrinks = feed.retain.is_some() && rollup.bucket.is_none() && !feed.key.is_empty();
    match live.rollups.get(&rollup.table) {
        Some(made) if !made.is_complete => Finding::warning(
            "rollup",
            subject,
            Words::new(
                "does not yet hold the rows that were there before it",
                "尚未包含其创建之前的数据",
            ),
        )
        .so(
            "A running server fills it; `tidegate migrate` does it at once.",
            "运行中的服务器会逐步补齐；也可用 `tidegate migrate` 立即补齐。",
        ),
        _ if shrinks => Finding::warning(
            "rollup",
            subject,
            Words::new(
                "has no bucket, and the feed forgets rows: a changed row makes its group forget them too",
                "没有时间桶，而数据源会清理旧数据：更改一行会使该组总计也丢失旧数据",
            ),
        )
        .so(
            "Give it a bucket, or keep all rows.",
            "请为其设置时间桶，或保留全部数据。",
        ),
        _ => Finding::good("rollup", subject, Words::new("is complete", "数据完整")),
    }
}

pub(super) fn check_timescale(feeds: &[Feed], timescale: Timescale, is_available: bool) -> Vec<Finding> {
    let wants = |feed: &&Feed| {
        feed.partition
            .as_ref()
            .is_some_and(|partition| partition.timescale)
    };
    let Some(feed) = feeds.iter().find(wants) else {
        return vec![];
    };
    let words = match (timescale, is_available) {
        (Timescale::Full, _) => return vec![],
        (Timescale::Apache, _) => (
            Words::new(
                "TimescaleDB with the Apache licence: hypertables, but no compression, retention policy or continuous \
                 aggregate",
                "TimescaleDB 使用 Apache 许可：可用超表，但没有压缩、保留策略与连续聚合",
            ),
            Words::new(
                "Retention and roll-ups are kept by this server; set timescaledb.license to timescale for the rest.",
                "保留与汇总由本服务器维护；如需其余功能，请将 timescaledb.license 设为 timescale。",
            ),
        ),
        (Timescale::Absent, true) => (
            Words::new(
                "TimescaleDB is installed but not in this database: plain partitions are used",
                "已安装 TimescaleDB，但未在此数据库启用：使用普通分区",
            ),
            Words::new(
                "Run `CREATE EXTENSION timescaledb` before the table is made, if it is wanted.",
                "如需使用，请在建表前执行 `CREATE EXTENSION timescaledb`。",
            ),
        ),
        (Timescale::Absent, false) => (
            Words::new(
                "TimescaleDB is not installed: plain partitions are used",
                "未安装 TimescaleDB：使用普通分区",
            ),
            Words::default(),
        ),
    };
    let (what, advice) = words;
    vec![Finding {
        advice,
        ..Finding::note("timescale", &feed.name, what)
    }]
}

/// Whether the server keeps up with cleaning the feeds' tables.
pub(super) fn check_tables(feeds: &[Feed], tables: &[TableStats]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for found in tables {
        let is_ours = feeds.iter().any(|feed| {
            let name = feed.table.rsplit('.').next().unwrap_or_default();
            found.name == name || (found.is_partition && found.name.starts_with(name))
        });
        let full_name = format!("{}.{}", found.schema, found.name);
        let (dead, ratio) = (found.dead_rows.unwrap_or(0), found.dead_ratio());
        if is_ours && dead > DEAD_ROWS_MIN && ratio > DEAD_RATIO_MAX {
            let percent = (ratio * 100.0).round();
            let what = Words::new(
                format!("{dead} dead rows, {percent} % of all"),
                format!("有 {dead} 条死元组，占 {percent}%"),
            );
            findings.push(Finding::warning("dead_rows", &full_name, what).so(
                "Run VACUUM (ANALYZE); look for transactions left open, and lower autovacuum_vacuum_scale_factor for it.",
                "请执行 VACUUM (ANALYZE)；检查是否有长期未结束的事务，并为该表调低 autovacuum_vacuum_scale_factor。",
            ));
        }
        let age = found.frozen_age.unwrap_or(0);
        if age > FROZEN_AGE_WARNING {
            let what = Words::new(
                format!(
                    "its oldest row was frozen {age} transactions ago; the server stops writing near 2,147,000,000"
                ),
                format!("最旧的行已有 {age} 个事务未冻结；接近 2,147,000,000 时服务器将停止写入"),
            );
            let finding = match age > FROZEN_AGE_ERROR {
                true => Finding::error("wraparound", &full_name, what),
                false => Finding::warning("wraparound", &full_name, what),
            };
            findings.push(finding.so(
                "Run VACUUM (FREEZE) on it, and end transactions, prepared ones and replication slots that hold it back.",
                "请对其执行 VACUUM (FREEZE)，并结束阻碍它的长事务、两阶段事务与复制槽。",
            ));
        }
    }
    findings
}
