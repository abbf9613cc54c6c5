//! The SQL for TimescaleDB: hypertables, and where its licence allows them compression, retention and continuous aggregates.

use std::time::Duration;

use crate::{
    feed::{Aggregate, Feed, Rollup},
    schema::{
        sql::{literal, quote, table},
        table::relation,
    },
    value::Type,
};

/// What of TimescaleDB there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Timescale {
    /// The extension is not in this database.
    #[default]
    Absent,
    /// `timescaledb.license` is `apache`: hypertables only.
    Apache,
    /// `timescaledb.license` is `timescale`: everything.
    Full,
}

/// Reads whether the extension is in this database, whether it could be, and its licence.
pub const DETECT_SQL: &str = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'timescaledb'), \
     EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb'), \
     current_setting('timescaledb.license', true)";

/// Chunks are compressed when they are older than this and at least two chunks old: late rows are cheap until then.
const COMPRESS_AFTER: Duration = Duration::from_secs(7 * 86_400);

// === impl Timescale ===

impl Timescale {
    /// Reads the answer to [`DETECT_SQL`].
    #[must_use]
    pub fn detected(is_there: bool, licence: Option<&str>) -> Self {
        match (is_there, licence) {
            (false, _) => Self::Absent,
            (true, Some("timescale")) => Self::Full,
            (true, _) => Self::Apache,
        }
    }

    /// Whether the feed's table is, or would become, a hypertable.
    #[must_use]
    pub fn takes(self, feed: &Feed) -> bool {
        self != Self::Absent
            && feed
                .partition
                .as_ref()
                .is_some_and(|partition| partition.timescale)
    }

    /// Whether a roll-up is kept as a continuous aggregate, and so must not be added to by us.
    #[must_use]
    pub fn keeps(self, feed: &Feed, rollup: &Rollup) -> bool {
        let partition = feed.partition.as_ref().map(|partition| &partition.column);
        let bucket = rollup.bucket.as_ref().map(|bucket| &bucket.column);
        self == Self::Full && self.takes(feed) && bucket.is_some() && bucket == partition
    }
}

/// The statements that make the feed's table, which is there as a plain table, a hypertable with what the licence allows.
#[must_use]
pub fn create_sql(timescale: Timescale, feed: &Feed) -> Vec<String> {
    let Some(partition) = feed.partition.as_ref().filter(|_| timescale.takes(feed)) else {
        return vec![];
    };
    let name = literal(&relation(feed).quoted());
    let mut statements = vec![format!(
        "SELECT create_hypertable({name}, {}, chunk_time_interval => {}, if_not_exists => true, migrate_data => true)",
        literal(&partition.column),
        interval(partition.every)
    )];
    if timescale != Timescale::Full {
        return statements;
    }
    let segment = segment_by(feed)
        .map(|column| format!(", timescaledb.compress_segmentby = {}", literal(&quote(column))))
        .unwrap_or_default();
    statements.push(format!(
        "ALTER TABLE {} SET (timescaledb.compress, timescaledb.compress_orderby = {}{segment})",
        relation(feed).quoted(),
        literal(&format!("{} DESC", quote(&partition.column)))
    ));
    statements.push(format!(
        "SELECT add_compression_policy({name}, {}, if_not_exists => true)",
        interval(COMPRESS_AFTER.max(2 * partition.every))
    ));
    if let Some(retain) = feed.retain {
        statements.push(format!(
            "SELECT add_retention_policy({name}, {}, if_not_exists => true)",
            interval(retain)
        ));
    }
    statements
}

/// The statements that make a roll-up a continuous aggregate, kept up to date by TimescaleDB and complete at any time: what
/// it has not yet computed it reads from the table.
#[must_use]
pub fn aggregate_sql(feed: &Feed, rollup: &Rollup) -> Vec<String> {
    let Some(bucket) = &rollup.bucket else {
        return vec![];
    };
    let time = quote(&bucket.column);
    let mut columns: Vec<String> = rollup.group.iter().map(|name| quote(name)).collect();
    columns.push(format!(
        "time_bucket({}, {time}) AS {time}",
        interval(bucket.every)
    ));
    let groups: Vec<String> = (1..=columns.len()).map(|at| at.to_string()).collect();
    for measure in &rollup.measures {
        let into = quote(&measure.into);
        let of = measure.column.as_deref().map_or_else(|| "*".to_owned(), quote);
        match measure.how {
            Aggregate::Count => columns.push(format!("count({of}) AS {into}")),
            Aggregate::Sum => columns.push(format!("sum({of}) AS {into}")),
            Aggregate::Min => columns.push(format!("min({of}) AS {into}")),
            Aggregate::Max => columns.push(format!("max({of}) AS {into}")),
            Aggregate::Last => {
                let filter = format!("FILTER (WHERE {of} IS NOT NULL)");
                columns.push(format!("last({of}, {time}) {filter} AS {into}"));
                let at = quote(&format!("{}_at", measure.into));
                columns.push(format!("max({time}) {filter} AS {at}"));
            }
        }
    }
    // A refresh of a time whose chunks are gone would empty the aggregate: it ends a bucket before `retain`.
    let start = match feed.retain {
        Some(retain) => interval(retain.saturating_sub(bucket.every)),
        None => "NULL".to_owned(),
    };
    vec![
        format!(
            "CREATE MATERIALIZED VIEW IF NOT EXISTS {} WITH (timescaledb.continuous, \
             timescaledb.materialized_only = false) AS\nSELECT {} FROM {} GROUP BY {} WITH NO DATA",
            table(&rollup.table),
            columns.join(", "),
            relation(feed).quoted(),
            groups.join(", ")
        ),
        format!(
            "SELECT add_continuous_aggregate_policy({}, start_offset => {start}, end_offset => {}, \
             schedule_interval => {}, if_not_exists => true)",
            literal(&table(&rollup.table)),
            interval(bucket.every),
            interval(
                bucket
                    .every
                    .clamp(Duration::from_secs(60), Duration::from_secs(3600))
            )
        ),
    ]
}

/// Drops what is older than `retain`; the licence without retention policies needs it from us.
#[must_use]
pub fn drop_sql(feed: &Feed) -> Option<String> {
    let retain = feed.retain?;
    Some(format!(
        "SELECT drop_chunks({}, older_than => {})",
        literal(&relation(feed).quoted()),
        interval(retain)
    ))
}

/// The column by which compressed rows lie together: the first of the key that names something rather than a time or row.
fn segment_by(feed: &Feed) -> Option<&str> {
    let names_something = |name: &&String| {
        let kind = feed.column(name).map(|at| &feed.columns[at].kind);
        matches!(kind, Some(Type::Text | Type::Enum(_) | Type::Bool))
    };
    feed.key.iter().find(names_something).map(String::as_str)
}

fn interval(length: Duration) -> String {
    format!("INTERVAL '{} seconds'", length.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{Bucket, Column, Measure, Partition};

    fn feed() -> Feed {
        let column = |name: &str, kind: &str| Column {
            name: name.to_owned(),
            kind: Type::parse(kind).unwrap(),
            not_null: true,
        };
        let day = Duration::from_secs(86_400);
        Feed {
            name: "ticks".to_owned(),
            table: "ticks".to_owned(),
            columns: vec![
                column("symbol", "text"),
                column("ts", "timestamptz"),
                column("price", "float8"),
            ],
            key: vec!["symbol".to_owned(), "ts".to_owned()],
            on_conflict: crate::OnConflict::Ignore,
            tags: vec![],
            retain: Some(90 * day),
            manage: true,
            partition: Some(Partition {
                column: "ts".to_owned(),
                every: day,
                timescale: true,
            }),
            rollups: vec![Rollup {
                name: "minute".to_owned(),
                table: "ticks_minute".to_owned(),
                group: vec!["symbol".to_owned()],
                bucket: Some(Bucket {
                    column: "ts".to_owned(),
                    every: Duration::from_secs(60),
                }),
                measures: vec![Measure {
                    how: Aggregate::Last,
                    column: Some("price".to_owned()),
                    into: "close".to_owned(),
                }],
            }],
            row_bytes_max: 1 << 20,
            rows_per_second_max: None,
        }
    }

    #[test]
    fn the_licence_decides_what_is_used() {
        fn check(timescale: Timescale, expected: &[&str]) {
            let statements = create_sql(timescale, &feed());
            assert_eq!(statements.len(), expected.len(), "{statements:?}");
            for (statement, part) in statements.iter().zip(expected) {
                assert!(statement.contains(part), "{statement} without {part}");
            }
        }
        let hypertable =
            "create_hypertable('\"ticks\"', 'ts', chunk_time_interval => INTERVAL '86400 seconds'";
        check(Timescale::Absent, &[]);
        check(Timescale::Apache, &[hypertable]);
        check(
            Timescale::Full,
            &[
                hypertable,
                "compress_orderby = '\"ts\" DESC', timescaledb.compress_segmentby = '\"symbol\"'",
                "add_compression_policy('\"ticks\"', INTERVAL '604800 seconds'",
                "add_retention_policy('\"ticks\"', INTERVAL '7776000 seconds'",
            ],
        );
        let detected = |is_there, licence| Timescale::detected(is_there, licence);
        assert_eq!(detected(false, Some("timescale")), Timescale::Absent);
        assert_eq!(detected(true, Some("apache")), Timescale::Apache);
        assert_eq!(detected(true, Some("timescale")), Timescale::Full);
    }

    #[test]
    fn a_rollup_becomes_a_continuous_aggregate_that_outlives_its_rows() {
        let feed = feed();
        assert!(Timescale::Full.keeps(&feed, &feed.rollups[0]));
        assert!(!Timescale::Apache.keeps(&feed, &feed.rollups[0]));
        let sql = aggregate_sql(&feed, &feed.rollups[0]);
        assert!(
            sql[0].contains("time_bucket(INTERVAL '60 seconds', \"ts\") AS \"ts\""),
            "{}",
            sql[0]
        );
        assert!(sql[0].contains("last(\"price\", \"ts\") FILTER (WHERE \"price\" IS NOT NULL) AS \"close\""));
        assert!(sql[0].ends_with("GROUP BY 1, 2 WITH NO DATA"));
        assert!(
            sql[1].contains("start_offset => INTERVAL '7775940 seconds'"),
            "{}",
            sql[1]
        );
    }
}
