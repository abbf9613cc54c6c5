//! Touched groups computed anew: the SQL for feeds that change or remove rows.

use super::{
    Figure, Key, bucket_end_sql, bucket_sql, conflict_target, expression, figures, key_names, keys,
    quote_names,
};
use crate::{
    feed::{Bucket, Feed, Rollup},
    kind::Kind,
    schema::sql::{quote, table},
    value::Type,
};

/// How much younger than the feed's `retain` a bucket must be to be computed anew: rows of an older one may be gone
/// already, so its figures stay as they are.
const FROZEN_MARGIN_SECONDS: u64 = 300;

/// Computes the groups of `touched` anew from the feed's table. `touched` is the quoted name of a relation that has at
/// least the roll-up's group and bucket columns: the rows as they were before and as they are after the change. Run the
/// statements one by one, in order, in the transaction that changed the rows, after it did so.
///
/// Groups older than the feed's `retain` stay as they are: some of their rows are gone.
#[must_use]
pub fn recompute_sql(database: Kind, feed: &Feed, rollup: &Rollup, touched: &str) -> Vec<String> {
    recompute(database, feed, rollup, touched, true)
}

/// As [`recompute_sql`]; `frozen`: whether old groups stay as they are.
pub(crate) fn recompute(
    database: Kind,
    feed: &Feed,
    rollup: &Rollup,
    touched: &str,
    frozen: bool,
) -> Vec<String> {
    let parts = Recompute {
        keys: keys(feed, rollup),
        figures: figures(database, feed, rollup),
        touched_keys: touched_keys(database, feed, rollup, touched, frozen),
        database,
        feed,
        rollup,
    };
    match database {
        Kind::Postgres => vec![parts.lock(), parts.postgres()],
        Kind::Sqlite => vec![parts.sqlite(), parts.sqlite_empty()],
    }
}

struct Recompute<'a> {
    database: Kind,
    feed: &'a Feed,
    rollup: &'a Rollup,
    keys: Vec<Key<'a>>,
    figures: Vec<Figure>,
    touched_keys: String,
}

// === impl Recompute ===

impl Recompute<'_> {
    /// `WHERE false` keeps the row as it is; the lock is taken all the same, and a row that another transaction removes
    /// meanwhile is made again.
    fn lock(&self) -> String {
        let names = key_names(&self.keys);
        format!(
            "INSERT INTO {} AS r ({names})\nSELECT {names} FROM ({}) AS k ORDER BY {names}\n\
             ON CONFLICT ({}) DO UPDATE SET {} WHERE false",
            table(&self.rollup.table),
            self.touched_keys,
            conflict_target(self.database, &self.keys),
            self.overwritten(&self.keys.iter().map(|key| key.name).take(1).collect::<Vec<_>>())
        )
    }

    fn postgres(&self) -> String {
        let names = key_names(&self.keys);
        let of_k: Vec<String> = self
            .keys
            .iter()
            .map(|key| format!("k.{}", quote(key.name)))
            .collect();
        let figures: Vec<&str> = self.figures.iter().map(|figure| figure.name.as_str()).collect();
        let same: Vec<String> = self.keys.iter().map(|key| same(key, "r", "f")).collect();
        let aggregates: Vec<String> = self
            .figures
            .iter()
            .map(|figure| format!("{} AS {}", figure.from_rows, quote(&figure.name)))
            .collect();
        format!(
            "WITH k AS MATERIALIZED ({}),\n\
             f AS MATERIALIZED (SELECT {}, {}, count(b.tableoid) AS tidegate_rows\n\
             FROM k LEFT JOIN {} AS b ON {} GROUP BY {}),\n\
             gone AS (DELETE FROM {} AS r USING f WHERE f.tidegate_rows = 0 AND {})\n\
             INSERT INTO {} AS r ({names}, {})\nSELECT {names}, {} FROM f WHERE tidegate_rows > 0\n\
             ON CONFLICT ({}) DO UPDATE SET {}",
            self.touched_keys,
            of_k.join(", "),
            aggregates.join(", "),
            table(&self.feed.table),
            self.joined(),
            of_k.join(", "),
            table(&self.rollup.table),
            same.join(" AND "),
            table(&self.rollup.table),
            quote_names(&figures),
            quote_names(&figures),
            conflict_target(self.database, &self.keys),
            self.overwritten(&figures)
        )
    }

    fn overwritten(&self, names: &[&str]) -> String {
        let set = |name: &&str| format!("{} = excluded.{}", quote(name), quote(name));
        names.iter().map(set).collect::<Vec<_>>().join(", ")
    }

    /// How a row `b` belongs to a touched key `k`. Said twice where that lets the planner choose: a bucket as a range, for
    /// an index or partitions, and as an equality, for a hash join.
    fn joined(&self) -> String {
        let mut conditions = Vec::new();
        for key in &self.keys {
            match key.bucket {
                None => conditions.push(same_row(self.database, key)),
                Some(bucket) => conditions.extend(bucket_conditions(self.database, key, bucket)),
            }
        }
        let nullable: Vec<&Key<'_>> = self.keys.iter().filter(|key| key.nullable).collect();
        if self.database == Kind::Postgres && !nullable.is_empty() {
            // `IS NOT DISTINCT FROM` cannot be hashed by itself.
            let of_b: Vec<String> = nullable
                .iter()
                .map(|key| expression(self.database, key, "b"))
                .collect();
            let of_k: Vec<String> = nullable
                .iter()
                .map(|key| format!("k.{}", quote(key.name)))
                .collect();
            conditions.push(format!(
                "hash_record(ROW({})) = hash_record(ROW({}))",
                of_b.join(", "),
                of_k.join(", ")
            ));
        }
        conditions.join(" AND ")
    }

    fn sqlite(&self) -> String {
        let names = key_names(&self.keys);
        let figures: Vec<&str> = self.figures.iter().map(|figure| figure.name.as_str()).collect();
        let of_k: Vec<String> = self
            .keys
            .iter()
            .map(|key| format!("k.{}", quote(key.name)))
            .collect();
        let from_rows: Vec<&str> = self
            .figures
            .iter()
            .map(|figure| figure.from_rows.as_str())
            .collect();
        format!(
            "WITH k AS MATERIALIZED ({})\nINSERT INTO {} AS r ({names}, {})\nSELECT {}, {} FROM k JOIN {} AS b ON {}\n\
             WHERE true GROUP BY {}\nON CONFLICT ({}) DO UPDATE SET {}",
            self.touched_keys,
            table(&self.rollup.table),
            quote_names(&figures),
            of_k.join(", "),
            from_rows.join(", "),
            table(&self.feed.table),
            self.joined(),
            of_k.join(", "),
            conflict_target(self.database, &self.keys),
            self.overwritten(&figures)
        )
    }

    fn sqlite_empty(&self) -> String {
        let same: Vec<String> = self
            .keys
            .iter()
            .map(|key| match key.nullable {
                // The unique index is on this expression.
                true => format!("ifnull(r.{0}, x'') = ifnull(k.{0}, x'')", quote(key.name)),
                false => format!("r.{0} = k.{0}", quote(key.name)),
            })
            .collect();
        format!(
            "WITH k AS MATERIALIZED ({})\nDELETE FROM {} WHERE rowid IN (SELECT r.rowid FROM k JOIN {} AS r ON {}\n\
             WHERE NOT EXISTS (SELECT 1 FROM {} AS b WHERE {}))",
            self.touched_keys,
            table(&self.rollup.table),
            table(&self.rollup.table),
            same.join(" AND "),
            table(&self.feed.table),
            self.joined()
        )
    }
}

/// The touched groups, each once.
fn touched_keys(database: Kind, feed: &Feed, rollup: &Rollup, touched: &str, frozen: bool) -> String {
    let keys = keys(feed, rollup);
    let columns: Vec<String> = keys
        .iter()
        .map(|key| format!("{} AS {}", expression(database, key, "t"), quote(key.name)))
        .collect();
    let distinct = format!("SELECT DISTINCT {} FROM {touched} AS t", columns.join(", "));
    let bucket = keys.iter().find(|key| key.bucket.is_some());
    match (bucket, feed.retain) {
        (Some(key), Some(retain)) if frozen => {
            let seconds = retain.as_secs().saturating_sub(FROZEN_MARGIN_SECONDS);
            let name = quote(key.name);
            let since = cutoff(database, key.kind, seconds);
            format!("SELECT * FROM ({distinct}) AS d WHERE d.{name} >= {since} OR d.{name} IS NULL")
        }
        _ => distinct,
    }
}

/// The time `seconds` ago as a value of a column of this type; for dates the day after, so that the day is whole.
fn cutoff(database: Kind, kind: &Type, seconds: u64) -> String {
    match (database, kind) {
        (Kind::Postgres, Type::Date) => {
            format!("((now() - interval '{seconds} seconds') AT TIME ZONE 'UTC')::date + 1")
        }
        (Kind::Postgres, _) => format!("now() - interval '{seconds} seconds'"),
        (Kind::Sqlite, Type::Date) => format!("(unixepoch() - {seconds}) / 86400 + 1"),
        (Kind::Sqlite, _) => format!("(unixepoch() - {seconds}) * 1000000"),
    }
}

fn bucket_conditions(database: Kind, key: &Key<'_>, bucket: &Bucket) -> Vec<String> {
    let (time, begin) = (format!("b.{}", quote(key.name)), format!("k.{}", quote(key.name)));
    let range = format!(
        "{time} >= {begin} AND {time} < {}",
        bucket_end_sql(database, bucket, key.kind, &begin)
    );
    match (database, key.nullable) {
        (_, true) => vec![format!("({range} OR ({time} IS NULL AND {begin} IS NULL))")],
        (Kind::Sqlite, false) => vec![range],
        (Kind::Postgres, false) => vec![
            range,
            format!("{} = {begin}", bucket_sql(database, bucket, key.kind, &time)),
        ],
    }
}

fn same_row(database: Kind, key: &Key<'_>) -> String {
    let (of_b, of_k) = (expression(database, key, "b"), format!("k.{}", quote(key.name)));
    match (database, key.nullable) {
        (_, false) => format!("{of_b} = {of_k}"),
        (Kind::Postgres, true) => format!("{of_b} IS NOT DISTINCT FROM {of_k}"),
        (Kind::Sqlite, true) => format!("{of_b} IS {of_k}"),
    }
}

fn same(key: &Key<'_>, left: &str, right: &str) -> String {
    let name = quote(key.name);
    match key.nullable {
        true => format!("{left}.{name} IS NOT DISTINCT FROM {right}.{name}"),
        false => format!("{left}.{name} = {right}.{name}"),
    }
}
