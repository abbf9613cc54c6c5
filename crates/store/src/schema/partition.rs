//! The SQL of range partitions: made ahead of time, and dropped whole when `retain` has passed.
//!
//! There is no default partition: it would have to be searched, under a lock that stops everybody, whenever a partition is
//! made. A row before or after all partitions is refused by the database with SQLSTATE 23514; [`Window`] says which of
//! them may have a partition made, [`covering`] which partitions they need.
//!
//! A partition is made as a table of its own and then attached: attaching does not stop writers, `CREATE TABLE …
//! PARTITION OF` waits for all of them and holds up the rest meanwhile.

use crate::{
    error::{Error, Result},
    feed::{Column, Feed},
    kind::Kind,
    schema::{
        sql::{ORIGIN_MICROS, Relation, derived_name, literal, quote},
        table::relation,
    },
    value::Type,
};

/// Partitions made beyond the current one.
pub const AHEAD: usize = 3;

/// Most partitions made at once for rows that have none.
pub const COVERING_MAX: usize = 400;

/// Partitions that late rows may have made before the current one, where `retain` does not say: eleven years of days. With
/// more, planning takes longer than reading.
pub const LATE_MAX: i64 = 4000;

/// Partitions that early rows may have made behind the current one: a month of days. A clock that runs wild makes no more.
pub const EARLY_MAX: i64 = 32;

/// Rows removed in one statement: few enough to hold nobody up.
pub const DELETED_AT_ONCE: u64 = 5000;

const HOUR_MICROS: i64 = 3_600_000_000;
pub(crate) const DAY_MICROS: i64 = 24 * HOUR_MICROS;

/// A partition, there or wanted: `from` up to but not including `until`, in microseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// Its table.
    pub relation: Relation,
    /// Where it begins.
    pub from: i64,
    /// Where it ends.
    pub until: i64,
}

/// The times for which a row that comes without a partition has one made: not older than `retain` and not further than
/// [`LATE_MAX`] partitions back, nor [`EARLY_MAX`] ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The beginning of the first partition that may be made.
    pub from: i64,
    /// The end of the last one.
    pub until: i64,
}

/// Why a row gets no partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// Older than `retain`, or further back than partitions are made for.
    Late,
    /// Further ahead than partitions are made for.
    Early,
}

// === impl Window ===

impl Window {
    /// The window at this moment; none if the feed has no partitions.
    #[must_use]
    pub fn of(feed: &Feed, now_micros: i64) -> Option<Self> {
        let every = every(feed)?;
        let current = begin(every, now_micros);
        let furthest = current.saturating_sub(every.saturating_mul(LATE_MAX));
        let kept = feed.retain.map_or(i64::MIN, |retain| {
            // A partition that ends at this moment would be dropped at once.
            begin(
                every,
                now_micros.saturating_sub(retain.as_micros().try_into().unwrap_or(i64::MAX)),
            )
        });
        Some(Self {
            from: furthest.max(kept),
            until: current.saturating_add(every.saturating_mul(EARLY_MAX + 1)),
        })
    }

    /// Why a row of this time gets no partition made; none if it does.
    #[must_use]
    pub const fn refuses(self, time_micros: i64) -> Option<Outside> {
        if time_micros < self.from {
            Some(Outside::Late)
        } else if time_micros >= self.until {
            Some(Outside::Early)
        } else {
            None
        }
    }
}

// === impl Outside ===

impl Outside {
    /// Stands where a SQLSTATE does; no code of the server's begins so.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Late => "TG001",
            Self::Early => "TG002",
        }
    }

    /// In a sentence, for the feed.
    #[must_use]
    pub fn message(self, feed: &Feed, window: Window) -> String {
        let column = feed
            .partition
            .as_ref()
            .map_or("", |partition| partition.column.as_str());
        let stamp = |micros| stamp(micros, "%Y-%m-%dT%H:%M:%SZ");
        match (self, feed.retain) {
            (Self::Late, Some(retain)) => format!(
                "{column} is older than the feed's retain of {} s: no partition is made before {}",
                retain.as_secs(),
                stamp(window.from)
            ),
            (Self::Late, None) => format!(
                "{column} is too old: no partition is made before {}",
                stamp(window.from)
            ),
            (Self::Early, _) => format!(
                "{column} is too far ahead: no partition is made from {} on",
                stamp(window.until)
            ),
        }
    }
}

/// The current partition and the next [`AHEAD`]; empty if the feed has no partitions.
#[must_use]
pub fn ahead(feed: &Feed, now_micros: i64) -> Vec<Range> {
    let Some(every) = every(feed) else {
        return vec![];
    };
    (0..=AHEAD as i64)
        .map(|at| range_of(feed, every, now_micros + at * every))
        .collect()
}

/// The partitions that rows of these times need, in order. A time older than `retain` needs none: its row would be
/// removed at once.
///
/// # Errors
/// [`Error::TooLarge`] for more than [`COVERING_MAX`] partitions.
pub fn covering(
    feed: &Feed,
    times_micros: impl IntoIterator<Item = i64>,
    now_micros: i64,
) -> Result<Vec<Range>> {
    let Some(every) = every(feed) else {
        return Ok(vec![]);
    };
    let kept = feed
        .retain
        .map_or(i64::MIN, |retain| now_micros - retain.as_micros() as i64);
    let wanted: std::collections::BTreeSet<i64> = times_micros
        .into_iter()
        .map(|time| begin(every, time))
        .filter(|from| from.saturating_add(every) > kept)
        .collect();
    if wanted.len() > COVERING_MAX {
        return Err(Error::TooLarge {
            what: format!("partitions of feed {} that are missing", feed.name),
            size: wanted.len() as u64,
            limit: COVERING_MAX as u64,
        });
    }
    Ok(wanted
        .into_iter()
        .map(|from| range_of(feed, every, from))
        .collect())
}

/// The partitions, in order, that rows of these times need within `window`.
#[must_use]
pub fn wanted(feed: &Feed, times_micros: impl IntoIterator<Item = i64>, window: Window) -> Vec<Range> {
    let Some(every) = every(feed) else {
        return vec![];
    };
    let begins: std::collections::BTreeSet<i64> = times_micros
        .into_iter()
        .filter(|time| window.refuses(*time).is_none())
        .map(|time| begin(every, time))
        .collect();
    begins
        .into_iter()
        .map(|from| range_of(feed, every, from))
        .collect()
}

/// Asks whether the feed's table is divided into ranges of the feed's own column, as our partitions are.
#[must_use]
pub fn is_ours_sql(feed: &Feed) -> String {
    let column = feed
        .partition
        .as_ref()
        .map_or("", |partition| partition.column.as_str());
    format!(
        "SELECT EXISTS (SELECT FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid \
         AND a.attnum = p.partattrs[0] WHERE p.partrelid = to_regclass({}) AND p.partstrat = 'r' AND p.partnatts = 1 \
         AND a.attname = {})",
        literal(&relation(feed).quoted()),
        literal(column)
    )
}

/// What of `wanted` lies in no partition of `existing`. Partitions of another length, from before the feed's was changed,
/// are filled up to and not overlapped.
#[must_use]
pub fn missing(feed: &Feed, wanted: &[Range], existing: &[Range]) -> Vec<Range> {
    let mut gaps = Vec::new();
    for range in wanted {
        let mut from = range.from;
        let mut inside: Vec<&Range> = existing
            .iter()
            .filter(|there| there.from < range.until && there.until > range.from)
            .collect();
        inside.sort_by_key(|there| there.from);
        for there in inside {
            if there.from > from {
                gaps.push((from, there.from));
            }
            from = from.max(there.until);
        }
        if from < range.until {
            gaps.push((from, range.until));
        }
    }
    gaps.into_iter()
        .map(|(from, until)| Range {
            relation: partition_relation(feed, from),
            from,
            until,
        })
        .collect()
}

/// The partitions that hold nothing younger than the feed's `retain`.
#[must_use]
pub fn expired<'a>(feed: &Feed, existing: &'a [Range], now_micros: i64) -> Vec<&'a Range> {
    let Some(retain) = feed.retain else {
        return vec![];
    };
    let kept = now_micros - retain.as_micros() as i64;
    existing.iter().filter(|range| range.until <= kept).collect()
}

/// The statements that make a partition: with the parent's columns, defaults, checks, key and indexes.
#[must_use]
pub fn create_sql(feed: &Feed, range: &Range) -> Vec<String> {
    let parent = relation(feed).quoted();
    let partition = range.relation.quoted();
    vec![
        format!("CREATE TABLE {partition} (LIKE {parent} INCLUDING ALL)"),
        format!(
            "ALTER TABLE {parent} ATTACH PARTITION {partition} FOR VALUES FROM ({}) TO ({})",
            time_literal(Kind::Postgres, partition_kind(feed), range.from),
            time_literal(Kind::Postgres, partition_kind(feed), range.until)
        ),
    ]
}

/// The statement that drops a partition with its rows.
#[must_use]
pub fn drop_sql(range: &Range) -> String {
    format!("DROP TABLE {}", range.relation.quoted())
}

/// Reads the partitions of a table: schema, name, and both bounds in microseconds (null for an open end).
#[must_use]
pub fn existing_sql(feed: &Feed) -> String {
    let time = |which: &str| {
        let text = format!("(regexp_match(p.bound, '{which} \\(''([^'']+)''\\)'))[1]");
        match partition_kind(feed) {
            Type::Date => format!("(({text})::date - date '1970-01-01') * {DAY_MICROS}"),
            _ => format!("(extract(epoch FROM ({text})::timestamptz) * 1000000)::int8"),
        }
    };
    format!(
        "SELECT p.nspname, p.relname, {}, {} FROM (SELECT n.nspname, c.relname, pg_get_expr(c.relpartbound, c.oid) \
         AS bound FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE i.inhparent = to_regclass({}) AND NOT i.inhdetachpending) p WHERE p.bound LIKE 'FOR VALUES FROM%' \
         ORDER BY 3",
        time("FROM"),
        time("TO"),
        literal(&relation(feed).quoted())
    )
}

/// Removes at most 5,000 rows of `table` whose `column` is less than `cutoff_micros`. Rows that somebody writes just now
/// are left for the next time. `table` has no partitions: a row is named by its place.
#[must_use]
pub fn delete_sql(database: Kind, table: &Relation, column: &Column, cutoff_micros: i64) -> String {
    let table = table.quoted();
    let is_old = format!(
        "{} < {}",
        quote(&column.name),
        time_literal(database, &column.kind, cutoff_micros)
    );
    match database {
        Kind::Postgres => format!(
            "DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE {is_old} \
             LIMIT {DELETED_AT_ONCE} FOR UPDATE SKIP LOCKED))"
        ),
        Kind::Sqlite => format!(
            "DELETE FROM {table} WHERE rowid IN (SELECT rowid FROM {table} WHERE {is_old} LIMIT {DELETED_AT_ONCE})"
        ),
    }
}

/// A time as a literal for a column of this type.
pub(crate) fn time_literal(database: Kind, kind: &Type, micros: i64) -> String {
    let days = micros.div_euclid(DAY_MICROS);
    match (database, kind) {
        (Kind::Sqlite, Type::Date) => days.to_string(),
        (Kind::Sqlite, _) => micros.to_string(),
        (Kind::Postgres, Type::Date) => format!("date '{}'", stamp(days * DAY_MICROS, "%Y-%m-%d")),
        (Kind::Postgres, _) => format!("timestamptz '{}'", stamp(micros, "%Y-%m-%d %H:%M:%S%.6f+00")),
    }
}

/// Written by the calendar in UTC; a time beyond the calendar stands at its end.
fn stamp(micros: i64, format: &str) -> String {
    let time = chrono::DateTime::from_timestamp_micros(micros).unwrap_or(match micros < 0 {
        true => chrono::DateTime::<chrono::Utc>::MIN_UTC,
        false => chrono::DateTime::<chrono::Utc>::MAX_UTC,
    });
    time.format(format).to_string()
}

fn every(feed: &Feed) -> Option<i64> {
    let partition = feed.partition.as_ref()?;
    i64::try_from(partition.every.as_micros())
        .ok()
        .filter(|every| *every > 0)
}

fn partition_kind(feed: &Feed) -> &Type {
    let at = feed
        .partition
        .as_ref()
        .and_then(|partition| feed.column(&partition.column));
    at.map_or(&Type::Timestamptz, |at| &feed.columns[at].kind)
}

/// The beginning of the partition that a time lies in, counted from the same Monday as buckets.
fn begin(every: i64, time: i64) -> i64 {
    time.saturating_sub((time - ORIGIN_MICROS).rem_euclid(every))
}

fn range_of(feed: &Feed, every: i64, time: i64) -> Range {
    let from = begin(every, time);
    Range {
        relation: partition_relation(feed, from),
        from,
        until: from.saturating_add(every),
    }
}

/// `ticks_p20250101`, or `ticks_p20250101_0600` where partitions do not begin at midnight.
fn partition_relation(feed: &Feed, from: i64) -> Relation {
    let parent = relation(feed);
    let end = match from.rem_euclid(DAY_MICROS) {
        0 => stamp(from, "_p%Y%m%d"),
        _ => stamp(from, "_p%Y%m%d_%H%M"),
    };
    let name = derived_name(&parent.name, &end);
    parent.sibling(name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::feed::Partition;

    fn feed(kind: &str, hours: u64) -> Feed {
        Feed {
            name: "ticks".to_owned(),
            table: "market.ticks".to_owned(),
            columns: vec![Column {
                name: "ts".to_owned(),
                kind: Type::parse(kind).unwrap(),
                not_null: true,
            }],
            key: vec![],
            on_conflict: crate::OnConflict::Ignore,
            tags: vec![],
            retain: Some(Duration::from_secs(10 * 86_400)),
            manage: true,
            partition: Some(Partition {
                column: "ts".to_owned(),
                every: Duration::from_secs(hours * 3600),
                timescale: false,
            }),
            rollups: vec![],
            row_bytes_max: 1 << 20,
            rows_per_second_max: None,
        }
    }

    /// 2025-01-15T13:30:00Z, a Wednesday.
    const NOW: i64 = 1_736_947_800_000_000;

    #[test]
    fn partitions_are_made_ahead() {
        fn check(kind: &str, hours: u64, first: &str, last: &str) {
            let feed = feed(kind, hours);
            let ranges = ahead(&feed, NOW);
            assert_eq!(ranges.len(), 1 + AHEAD);
            assert!(ranges[0].from <= NOW && NOW < ranges[0].until);
            assert!(ranges.windows(2).all(|pair| pair[0].until == pair[1].from));
            assert_eq!(ranges[0].relation.name, first);
            assert_eq!(ranges[AHEAD].relation.name, last);
        }
        check("timestamptz", 24, "ticks_p20250115", "ticks_p20250118");
        check("date", 7 * 24, "ticks_p20250113", "ticks_p20250203");
        check("timestamptz", 6, "ticks_p20250115_1200", "ticks_p20250116_0600");
    }

    #[test]
    fn what_is_there_is_not_overlapped() {
        let feed = feed("timestamptz", 24);
        let wanted = ahead(&feed, NOW);
        assert_eq!(missing(&feed, &wanted, &[]), wanted);
        assert!(missing(&feed, &wanted, &wanted).is_empty());
        let old = Range {
            relation: wanted[0].relation.clone(),
            from: wanted[0].from,
            until: wanted[1].from + 6 * HOUR_MICROS,
        };
        let made = missing(&feed, &wanted, &[old]);
        assert_eq!(made.len(), AHEAD);
        assert_eq!(made[0].relation.name, "ticks_p20250116_0600");
        assert_eq!(made[0].until, wanted[1].until);
    }

    #[test]
    fn late_rows_get_partitions_within_retain() {
        let feed = feed("timestamptz", 24);
        let ranges = covering(&feed, [NOW - DAY_MICROS, NOW - 30 * DAY_MICROS, NOW], NOW).unwrap();
        assert_eq!(ranges.len(), 2);
        let unbounded = Feed { retain: None, ..feed };
        let days = (0..500).map(|day| NOW - day * DAY_MICROS);
        assert!(covering(&unbounded, days, NOW).is_err());
    }

    #[test]
    fn a_window_bounds_what_rows_may_have_made() {
        let kept = feed("timestamptz", 24);
        let endless = Feed {
            retain: None,
            ..feed("timestamptz", 24)
        };
        let check = |feed: &Feed, time: i64, expected: Option<Outside>| {
            let window = Window::of(feed, NOW).unwrap();
            assert_eq!(window.refuses(time), expected, "{time}");
            let n_made = wanted(feed, [time], window).len();
            assert_eq!(n_made, usize::from(expected.is_none()), "{time}");
        };
        check(&kept, NOW, None);
        // Of the day in which `retain` ends some is still kept.
        check(&kept, NOW - 10 * DAY_MICROS - HOUR_MICROS, None);
        check(&kept, NOW - 11 * DAY_MICROS, Some(Outside::Late));
        check(&kept, NOW + EARLY_MAX * DAY_MICROS, None);
        check(&kept, NOW + (EARLY_MAX + 1) * DAY_MICROS, Some(Outside::Early));
        check(&kept, i64::MAX, Some(Outside::Early));
        check(&endless, NOW - LATE_MAX * DAY_MICROS, None);
        check(&endless, NOW - (LATE_MAX + 1) * DAY_MICROS, Some(Outside::Late));
        check(&endless, i64::MIN, Some(Outside::Late));
        let window = Window::of(&kept, NOW).unwrap();
        assert_eq!(
            Outside::Late.message(&kept, window),
            "ts is older than the feed's retain of 864000 s: no partition is made before 2025-01-05T00:00:00Z"
        );
        assert_eq!(
            Window::of(
                &Feed {
                    partition: None,
                    ..kept
                },
                NOW
            ),
            None
        );
    }

    #[test]
    fn partitions_without_anything_young_expire() {
        let feed = feed("timestamptz", 24);
        let existing = covering(&feed, [NOW - 9 * DAY_MICROS, NOW - 10 * DAY_MICROS], NOW).unwrap();
        assert!(expired(&feed, &existing, NOW).is_empty());
        assert_eq!(expired(&feed, &existing, NOW + DAY_MICROS).len(), 1);
    }

    #[test]
    fn bounds_are_written_in_utc() {
        let sql = create_sql(&feed("timestamptz", 24), &ahead(&feed("timestamptz", 24), NOW)[0]);
        assert_eq!(
            sql[1],
            "ALTER TABLE \"market\".\"ticks\" ATTACH PARTITION \"market\".\"ticks_p20250115\" FOR VALUES FROM \
             (timestamptz '2025-01-15 00:00:00.000000+00') TO (timestamptz '2025-01-16 00:00:00.000000+00')"
        );
    }
}
