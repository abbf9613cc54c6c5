//! The SQL of roll-ups: their tables, adding a batch to them, and computing touched groups anew.
//!
//! Writers meet in three ways, and each is right at READ COMMITTED:
//!
//! - *apply* and *apply*: the figures are added to the newest version of each group, under its row lock. Both take the
//!   locks in the order of the key, so they cannot deadlock as long as each transaction applies last and once.
//! - *recompute* and *recompute*: the first statement locks the touched groups (making them if need be), the second reads
//!   the table with a snapshot taken after that. A writer that changed rows of a group commits before it gives the lock
//!   away, so whoever comes last sees all rows.
//! - *apply* and *recompute*: an applying transaction makes its rows and its figures visible at once. If it committed
//!   before the recompute got the lock, its rows are read; if not, it waits and adds to what was computed without them.
//!
//! At REPEATABLE READ and above, the second of two gets a serialization failure (40001) and is retried.
//! SQLite has one writer.

mod recompute;

pub(crate) use recompute::recompute;
pub use recompute::recompute_sql;

use crate::{
    error::{Error, Result},
    feed::{Aggregate, Bucket, Feed, Measure, Rollup},
    kind::Kind,
    schema::sql::{ORIGIN_DAYS, ORIGIN_MICROS, check_name, column_definition, derived_name, quote, table},
    value::Type,
};

/// A roll-up's column that names its groups.
pub(crate) struct Key<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: &'a Type,
    pub(crate) nullable: bool,
    bucket: Option<&'a Bucket>,
}

/// A roll-up's column that holds a figure.
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) kind: Type,
    pub(crate) not_null: bool,
    /// Made of the rows that are called `b`.
    from_rows: String,
    /// Made of the old row `r` and the new one, `excluded`.
    merged: String,
}

/// Whether a roll-up can be kept: known columns, figures that exist for their types, names that do not clash.
///
/// # Errors
/// [`Error::Config`] naming the feed, the roll-up and what is wrong.
pub fn check(feed: &Feed, rollup: &Rollup) -> Result<()> {
    let what = format!("feed {} roll-up {}", feed.name, rollup.name);
    let refuse = |problem: String| {
        Err(Error::Config {
            what: what.clone(),
            problem,
        })
    };
    crate::schema::sql::Relation::parse(&rollup.table)?;
    if rollup.group.is_empty() && rollup.bucket.is_none() {
        return refuse("a group column or a bucket is needed".to_owned());
    }
    if rollup.measures.is_empty() {
        return refuse("at least one measure is needed".to_owned());
    }
    if rollup.table == feed.table {
        return refuse(format!("its table {:?} is the feed's own", rollup.table));
    }
    for name in &rollup.group {
        if feed.column(name).is_none() {
            return refuse(format!("group column {name:?} is not a column of the feed"));
        }
    }
    if let Some(bucket) = &rollup.bucket
        && let Err(problem) = check_bucket(feed, bucket)
    {
        return refuse(problem);
    }
    for measure in &rollup.measures {
        if let Err(problem) = check_measure(feed, rollup, measure) {
            return refuse(problem);
        }
    }
    let names = column_names(rollup);
    for (at, name) in names.iter().enumerate() {
        check_name(&what, name)?;
        if names[..at].contains(name) {
            return refuse(format!("two of its columns are called {name:?}"));
        }
    }
    Ok(())
}

/// Every column of its table, in order, whether or not the declaration is sound.
fn column_names(rollup: &Rollup) -> Vec<String> {
    let groups = rollup.group.iter().cloned();
    let bucket = rollup.bucket.iter().map(|bucket| bucket.column.clone());
    let figures = rollup.measures.iter().flat_map(|measure| {
        let at = matches!(measure.how, Aggregate::Last).then(|| at_name(&measure.into));
        std::iter::once(measure.into.clone()).chain(at)
    });
    groups.chain(bucket).chain(figures).collect()
}

fn check_bucket(feed: &Feed, bucket: &Bucket) -> std::result::Result<(), String> {
    let Some(at) = feed.column(&bucket.column) else {
        return Err(format!(
            "bucket column {:?} is not a column of the feed",
            bucket.column
        ));
    };
    let seconds = bucket.every.as_secs();
    if seconds == 0 || bucket.every.subsec_nanos() != 0 {
        return Err(format!(
            "a bucket of {:?}: whole seconds, at least one",
            bucket.every
        ));
    }
    match &feed.columns[at].kind {
        Type::Timestamptz => Ok(()),
        Type::Date if seconds.is_multiple_of(86_400) => Ok(()),
        Type::Date => Err(format!(
            "a bucket of {:?} on a date: whole days, at least one",
            bucket.every
        )),
        other => Err(format!(
            "bucket column {:?} is {other}; timestamptz or date is needed",
            bucket.column
        )),
    }
}

fn check_measure(feed: &Feed, rollup: &Rollup, measure: &Measure) -> std::result::Result<(), String> {
    let Some(name) = &measure.column else {
        return match measure.how {
            Aggregate::Count => Ok(()),
            _ => Err(format!("measure {:?} needs a column", measure.into)),
        };
    };
    let Some(at) = feed.column(name) else {
        return Err(format!("measured column {name:?} is not a column of the feed"));
    };
    let kind = &feed.columns[at].kind;
    let number = is_number(kind);
    let fits = match measure.how {
        Aggregate::Count => true,
        Aggregate::Sum => number,
        Aggregate::Min | Aggregate::Max => {
            number || matches!(kind, Type::Text | Type::Date | Type::Timestamptz)
        }
        Aggregate::Last => !matches!(kind, Type::Array(_)) && rollup.bucket.is_some(),
    };
    match (fits, measure.how) {
        (true, _) => Ok(()),
        (false, Aggregate::Last) if rollup.bucket.is_none() => {
            Err(format!("measure {:?}: last needs a bucket", measure.into))
        }
        (false, how) => Err(format!(
            "measure {:?}: there is no {how:?} of {kind}",
            measure.into
        )),
    }
}

fn is_number(kind: &Type) -> bool {
    matches!(
        kind,
        Type::Int2 | Type::Int4 | Type::Int8 | Type::Float4 | Type::Float8 | Type::Numeric
    )
}

/// The statements that make the roll-up's table where it is missing.
#[must_use]
pub fn create_sql(database: Kind, feed: &Feed, rollup: &Rollup) -> Vec<String> {
    let keys = keys(feed, rollup);
    let figures = figures(database, feed, rollup);
    let mut columns: Vec<String> = keys
        .iter()
        .map(|key| column_definition(database, key.name, key.kind, !key.nullable))
        .collect();
    columns.extend(figures.iter().map(|figure| figure_definition(database, figure)));
    // Figures are written over and over: room in each page keeps the new version of a row beside the old one.
    let end = match database {
        Kind::Postgres => "WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)",
        Kind::Sqlite => "STRICT",
    };
    vec![
        format!(
            "CREATE TABLE IF NOT EXISTS {} (\n  {}\n) {end}",
            table(&rollup.table),
            columns.join(",\n  ")
        ),
        unique_sql(database, rollup, &keys),
    ]
}

/// The index that makes a group one row, groups with null included.
fn unique_sql(database: Kind, rollup: &Rollup, keys: &[Key<'_>]) -> String {
    let (schema, name) = match rollup.table.split_once('.') {
        Some((schema, name)) => (Some(schema), name),
        None => (None, rollup.table.as_str()),
    };
    let index = quote(&derived_name(name, "_key"));
    // SQLite names the schema at the index, PostgreSQL at the table.
    match database {
        Kind::Postgres => format!(
            "CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {} ({}) NULLS NOT DISTINCT",
            table(&rollup.table),
            conflict_target(database, keys)
        ),
        Kind::Sqlite => format!(
            "CREATE UNIQUE INDEX IF NOT EXISTS {}{index} ON {} ({})",
            schema
                .map(|schema| format!("{}.", quote(schema)))
                .unwrap_or_default(),
            quote(name),
            conflict_target(database, keys)
        ),
    }
}

pub(crate) fn figure_definition(database: Kind, figure: &Figure) -> String {
    let definition = column_definition(database, &figure.name, &figure.kind, figure.not_null);
    match figure.not_null {
        // Recomputing makes an empty row first, to have something to lock.
        true => format!("{definition} DEFAULT 0"),
        false => definition,
    }
}

/// Adds the rows of `source` to the roll-up. `source` is the quoted name of a relation with the feed's columns: the rows
/// really inserted by this transaction. Run it once in a transaction and last: it locks the groups in the order of their
/// keys. Begins with `INSERT`, so that a `WITH` may stand before it.
#[must_use]
pub fn apply_sql(database: Kind, feed: &Feed, rollup: &Rollup, source: &str) -> String {
    let keys = keys(feed, rollup);
    let figures = figures(database, feed, rollup);
    let places: Vec<String> = (1..=keys.len()).map(|at| at.to_string()).collect();
    let places = places.join(", ");
    let merged: Vec<String> = figures
        .iter()
        .map(|figure| format!("{} = {}", quote(&figure.name), figure.merged))
        .collect();
    format!(
        "INSERT INTO {} AS r ({})\nSELECT {} FROM {source} AS b WHERE true GROUP BY {places} ORDER BY {places}\n\
         ON CONFLICT ({}) DO UPDATE SET {}",
        table(&rollup.table),
        all_names(&keys, &figures),
        selected(database, &keys, &figures),
        conflict_target(database, &keys),
        merged.join(", ")
    )
}

/// The columns that name a roll-up's groups; the bucket last.
pub(crate) fn keys<'a>(feed: &'a Feed, rollup: &'a Rollup) -> Vec<Key<'a>> {
    let column = |name: &str| {
        let column = &feed.columns[feed
            .column(name)
            .expect("Feed::check found every column of its roll-ups")];
        let in_key = feed.key.iter().any(|key| key == name);
        (&column.kind, !column.not_null && !in_key)
    };
    let groups = rollup.group.iter().map(|name| {
        let (kind, nullable) = column(name);
        Key {
            name,
            kind,
            nullable,
            bucket: None,
        }
    });
    let bucket = rollup.bucket.iter().map(|bucket| {
        let (kind, nullable) = column(&bucket.column);
        Key {
            name: &bucket.column,
            kind,
            nullable,
            bucket: Some(bucket),
        }
    });
    groups.chain(bucket).collect()
}

/// The columns that hold a roll-up's figures; a `last` has two.
pub(crate) fn figures(database: Kind, feed: &Feed, rollup: &Rollup) -> Vec<Figure> {
    let kind_of = |name: &str| {
        let at = feed
            .column(name)
            .expect("Feed::check found every column of its roll-ups");
        &feed.columns[at].kind
    };
    let bucket = rollup.bucket.as_ref().map(|bucket| bucket.column.as_str());
    rollup
        .measures
        .iter()
        .flat_map(|measure| {
            let column = measure.column.as_deref().map(|name| (name, kind_of(name)));
            match (measure.how, column) {
                (Aggregate::Last, Some((name, kind))) => {
                    let at = bucket.expect("Feed::check wants a bucket for last");
                    last(database, &measure.into, (name, kind), (at, kind_of(at))).into()
                }
                (how, column) => vec![simple(database, how, &measure.into, column)],
            }
        })
        .collect()
}

fn simple(database: Kind, how: Aggregate, into: &str, column: Option<(&str, &Type)>) -> Figure {
    let Some((name, kind)) = column else {
        return count(into, "*");
    };
    let name = format!("b.{}", quote(name));
    // Added up exactly by functions of ours where SQLite has only binary floating point.
    let exact = database == Kind::Sqlite && matches!(kind, Type::Numeric);
    let (from_rows, kind, merge) = match how {
        Aggregate::Count => return count(into, &format!("b.{}", quote(column.map_or("", |(name, _)| name)))),
        Aggregate::Sum => {
            let total = sum_type(kind);
            let exact = database == Kind::Sqlite && total == Type::Numeric;
            let from_rows = match (kind, exact) {
                (_, true) => format!("tidegate_sum({name})"),
                (Type::Float4, _) if database == Kind::Postgres => format!("sum({name}::float8)"),
                _ => format!("sum({name})"),
            };
            (from_rows, total, if exact { Merge::AddExact } else { Merge::Add })
        }
        Aggregate::Min if exact => (
            format!("tidegate_min({name})"),
            kind.clone(),
            Merge::Call("tidegate_least"),
        ),
        Aggregate::Max if exact => (
            format!("tidegate_max({name})"),
            kind.clone(),
            Merge::Call("tidegate_greatest"),
        ),
        Aggregate::Min => (format!("min({name})"), kind.clone(), least(database)),
        Aggregate::Max | Aggregate::Last => (format!("max({name})"), kind.clone(), greatest(database)),
    };
    Figure {
        name: into.to_owned(),
        kind,
        not_null: false,
        from_rows,
        merged: merge.sql(into),
    }
}

fn count(into: &str, of: &str) -> Figure {
    // Of a left join, a group without rows has one row of nulls: `tableoid` tells it from a row.
    Figure {
        name: into.to_owned(),
        kind: Type::Int8,
        not_null: true,
        from_rows: format!("count({of})"),
        merged: format!("r.{0} + excluded.{0}", quote(into)),
    }
}

/// The value of the newest row that has one, and its time. Of two at one time the greater value wins, so that the order in
/// which batches arrive does not matter.
fn last(
    database: Kind,
    into: &str,
    (name, kind): (&str, &Type),
    (at, at_kind): (&str, &Type),
) -> [Figure; 2] {
    let (value, time) = (format!("b.{}", quote(name)), format!("b.{}", quote(at)));
    let value = match (database, kind) {
        (Kind::Postgres, Type::Enum(_)) => format!("{value}::text"),
        _ => value,
    };
    let both = format!("{value} IS NOT NULL AND {time} IS NOT NULL");
    let from_rows = match database {
        Kind::Postgres => {
            format!("(array_agg({value} ORDER BY {time} DESC, {value} DESC) FILTER (WHERE {both}))[1]")
        }
        Kind::Sqlite if *kind == Type::Numeric => format!("tidegate_last_number({value}, {time})"),
        Kind::Sqlite => format!("tidegate_last({value}, {time})"),
    };
    let greater = match (database, kind) {
        (Kind::Sqlite, Type::Numeric) => "tidegate_greatest",
        (Kind::Sqlite, _) => "max",
        (Kind::Postgres, _) => "greatest",
    };
    let at_name = at_name(into);
    let (x, x_at) = (quote(into), quote(&at_name));
    let merged = format!(
        "CASE WHEN excluded.{x_at} IS NULL THEN r.{x} WHEN r.{x_at} IS NULL OR excluded.{x_at} > r.{x_at} \
         THEN excluded.{x} WHEN excluded.{x_at} = r.{x_at} THEN {greater}(r.{x}, excluded.{x}) ELSE r.{x} END"
    );
    [
        Figure {
            name: into.to_owned(),
            kind: kind.clone(),
            not_null: false,
            from_rows,
            merged,
        },
        Figure {
            merged: greatest(database).sql(&at_name),
            name: at_name,
            kind: at_kind.clone(),
            not_null: false,
            from_rows: format!("max({time}) FILTER (WHERE {both})"),
        },
    ]
}

/// The column beside a `last` that holds its time.
fn at_name(into: &str) -> String {
    format!("{into}_at")
}

/// How two partial figures become one; a null is no figure.
enum Merge {
    Add,
    AddExact,
    /// A function that leaves nulls out.
    Call(&'static str),
    /// A function that gives null if one is.
    CallStrict(&'static str),
}

const fn least(database: Kind) -> Merge {
    match database {
        Kind::Postgres => Merge::Call("least"),
        Kind::Sqlite => Merge::CallStrict("min"),
    }
}

const fn greatest(database: Kind) -> Merge {
    match database {
        Kind::Postgres => Merge::Call("greatest"),
        Kind::Sqlite => Merge::CallStrict("max"),
    }
}

// === impl Merge ===

impl Merge {
    fn sql(&self, name: &str) -> String {
        let (old, new) = (format!("r.{}", quote(name)), format!("excluded.{}", quote(name)));
        match self {
            Self::Add => format!("coalesce({old} + {new}, {old}, {new})"),
            Self::AddExact => format!("coalesce(tidegate_add({old}, {new}), {old}, {new})"),
            Self::Call(function) => format!("{function}({old}, {new})"),
            Self::CallStrict(function) => format!("coalesce({function}({old}, {new}), {old}, {new})"),
        }
    }
}

/// What a sum needs so that it does not overflow.
fn sum_type(kind: &Type) -> Type {
    match kind {
        Type::Int2 | Type::Int4 => Type::Int8,
        Type::Float4 | Type::Float8 => Type::Float8,
        _ => Type::Numeric,
    }
}

fn quote_names(names: &[&str]) -> String {
    crate::schema::sql::quote_all(names.iter().copied())
}

fn key_names(keys: &[Key<'_>]) -> String {
    crate::schema::sql::quote_all(keys.iter().map(|key| key.name))
}

fn all_names(keys: &[Key<'_>], figures: &[Figure]) -> String {
    let names = keys.iter().map(|key| key.name);
    crate::schema::sql::quote_all(names.chain(figures.iter().map(|figure| figure.name.as_str())))
}

fn selected(database: Kind, keys: &[Key<'_>], figures: &[Figure]) -> String {
    let keys = keys.iter().map(|key| expression(database, key, "b"));
    let figures = figures.iter().map(|figure| figure.from_rows.clone());
    keys.chain(figures).collect::<Vec<_>>().join(", ")
}

/// What `ON CONFLICT` and the unique index name. SQLite holds any two nulls for different: there a null stands as an empty
/// blob, which no column of ours contains.
fn conflict_target(database: Kind, keys: &[Key<'_>]) -> String {
    let target = |key: &Key<'_>| match (database, key.nullable) {
        (Kind::Sqlite, true) => format!("ifnull({}, x'')", quote(key.name)),
        _ => quote(key.name),
    };
    keys.iter().map(target).collect::<Vec<_>>().join(", ")
}

/// A key's value of a row called `alias`.
fn expression(database: Kind, key: &Key<'_>, alias: &str) -> String {
    let column = format!("{alias}.{}", quote(key.name));
    match (key.bucket, database, key.kind) {
        (Some(bucket), ..) => bucket_sql(database, bucket, key.kind, &column),
        // The column may be of an enum type of the database.
        (None, Kind::Postgres, Type::Enum(_)) => format!("{column}::text"),
        _ => column,
    }
}

/// The beginning of the bucket that `time` lies in, counted in UTC from a Monday.
pub(crate) fn bucket_sql(database: Kind, bucket: &Bucket, kind: &Type, time: &str) -> String {
    let seconds = bucket.every.as_secs();
    let floor = |origin: String, n: u64| format!("{time} - ((({time} - {origin}) % {n} + {n}) % {n})");
    match (database, kind) {
        (Kind::Postgres, Type::Date) => floor("date '2000-01-03'".to_owned(), seconds / 86_400),
        (Kind::Postgres, _) => {
            format!("date_bin(interval '{seconds} seconds', {time}, timestamptz '2000-01-03 00:00:00+00')")
        }
        (Kind::Sqlite, Type::Date) => floor(ORIGIN_DAYS.to_string(), seconds / 86_400),
        (Kind::Sqlite, _) => floor(ORIGIN_MICROS.to_string(), seconds * 1_000_000),
    }
}

/// `bucket` plus its length.
pub(crate) fn bucket_end_sql(database: Kind, bucket: &Bucket, kind: &Type, begin: &str) -> String {
    let seconds = bucket.every.as_secs();
    match (database, kind) {
        (_, Type::Date) => format!("{begin} + {}", seconds / 86_400),
        (Kind::Postgres, _) => format!("{begin} + interval '{seconds} seconds'"),
        (Kind::Sqlite, _) => format!("{begin} + {}", seconds * 1_000_000),
    }
}
