//! The SQL of managed tables: made where they are missing, widened by columns that are new, never changed otherwise.

use crate::{
    error::{Error, Result},
    feed::{Column, Feed},
    kind::Kind,
    schema::{
        sql::{Relation, check_name, column_definition, derived_name, quote, quote_all},
        timescale::Timescale,
    },
    value::Type,
};

/// Whether a table can be made of the feed: names that fit, a partition column that is part of the key.
///
/// # Errors
/// [`Error::Config`] naming the feed and what is wrong.
pub fn check(feed: &Feed) -> Result<()> {
    let what = format!("feed {}", feed.name);
    let refuse = |problem: String| {
        Err(Error::Config {
            what: what.clone(),
            problem,
        })
    };
    Relation::parse(&feed.table)?;
    for column in &feed.columns {
        check_name(&what, &column.name)?;
    }
    if let Some(missing) = feed.key.iter().find(|name| feed.column(name).is_none()) {
        return refuse(format!("key column {missing:?} is not a column of the feed"));
    }
    let Some(partition) = &feed.partition else {
        return retain_column(feed).map(|_| ());
    };
    let Some(at) = feed.column(&partition.column) else {
        return refuse(format!(
            "partition column {:?} is not a column of the feed",
            partition.column
        ));
    };
    if !matches!(feed.columns[at].kind, Type::Timestamptz | Type::Date) {
        return refuse(format!(
            "partition column {:?} is {}; timestamptz or date is needed",
            partition.column, feed.columns[at].kind
        ));
    }
    let seconds = partition.every.as_secs();
    let unit = match feed.columns[at].kind {
        Type::Date => 86_400,
        _ => 3600,
    };
    if seconds < unit || !seconds.is_multiple_of(unit) || partition.every.subsec_nanos() != 0 {
        return refuse(format!(
            "partitions of {:?}: whole multiples of {unit} seconds",
            partition.every
        ));
    }
    if !feed.key.is_empty() && !feed.key.contains(&partition.column) {
        return refuse(format!(
            "the key ({}) must contain the partition column {:?}",
            feed.key.join(", "),
            partition.column
        ));
    }
    Ok(())
}

/// The column by which `retain` removes rows: the partition column, else the feed's only `timestamptz` or `date` column;
/// none if the feed keeps everything.
///
/// # Errors
/// [`Error::Config`] if it cannot be told which column is meant.
pub fn retain_column(feed: &Feed) -> Result<Option<&Column>> {
    if feed.retain.is_none() {
        return Ok(None);
    }
    if let Some(partition) = &feed.partition {
        return Ok(feed.column(&partition.column).map(|at| &feed.columns[at]));
    }
    let mut times = feed
        .columns
        .iter()
        .filter(|column| matches!(column.kind, Type::Timestamptz | Type::Date));
    match (times.next(), times.next()) {
        (Some(column), None) => Ok(Some(column)),
        (first, _) => Err(Error::Config {
            what: format!("feed {}", feed.name),
            problem: format!(
                "retain needs a column of time, and the feed has {}: declare a partition column",
                if first.is_some() { "several" } else { "none" }
            ),
        }),
    }
}

/// Whether values of this column may be null.
#[must_use]
pub fn is_nullable(feed: &Feed, column: &Column) -> bool {
    !column.not_null && !feed.key.contains(&column.name)
}

/// The statements that make the feed's table where it is missing; a hypertable begins as a plain table.
#[must_use]
pub fn create_sql(database: Kind, timescale: Timescale, feed: &Feed) -> Vec<String> {
    let relation = relation(feed);
    let mut lines: Vec<String> = feed
        .columns
        .iter()
        .map(|column| {
            column_definition(
                database,
                &column.name,
                &column.kind,
                !is_nullable(feed, column) || is_partition_column(feed, column),
            )
        })
        .collect();
    if !feed.key.is_empty() {
        lines.push(format!(
            "PRIMARY KEY ({})",
            quote_all(feed.key.iter().map(String::as_str))
        ));
    }
    let end = match (database, &feed.partition) {
        (Kind::Postgres, Some(partition)) if !timescale.takes(feed) => {
            format!(" PARTITION BY RANGE ({})", quote(&partition.column))
        }
        (Kind::Postgres, _) => String::new(),
        (Kind::Sqlite, _) => " STRICT".to_owned(),
    };
    let mut statements = Vec::new();
    if let (Kind::Postgres, Some(schema)) = (database, &relation.schema) {
        statements.push(format!("CREATE SCHEMA IF NOT EXISTS {}", quote(schema)));
    }
    statements.push(format!(
        "CREATE TABLE IF NOT EXISTS {} (\n  {}\n){end}",
        relation.quoted(),
        lines.join(",\n  ")
    ));
    // A hypertable makes an index over its time by itself.
    if !timescale.takes(feed) {
        statements.extend(time_index_sql(database, feed, &relation));
    }
    statements
}

/// An index over the column of time: small and cheap to keep where rows come in its order, which they nearly do.
fn time_index_sql(database: Kind, feed: &Feed, relation: &Relation) -> Option<String> {
    let partition = feed.partition.as_ref().map(|partition| partition.column.as_str());
    let column = partition.or_else(|| {
        retain_column(feed)
            .ok()
            .flatten()
            .map(|column| column.name.as_str())
    })?;
    let (name, on) = (
        derived_name(&relation.name, &format!("_{column}_time")),
        quote(column),
    );
    Some(match database {
        Kind::Postgres => format!(
            "CREATE INDEX IF NOT EXISTS {} ON {} USING brin ({on}) WITH (autosummarize = on)",
            quote(&name),
            relation.quoted()
        ),
        Kind::Sqlite => format!(
            "CREATE INDEX IF NOT EXISTS {} ON {} ({on})",
            relation.sibling(name).quoted(),
            quote(&relation.name)
        ),
    })
}

/// A partition column never holds null: a row without a time has no partition.
fn is_partition_column(feed: &Feed, column: &Column) -> bool {
    let partition = feed.partition.as_ref();
    partition.is_some_and(|partition| partition.column == column.name)
}

/// The statement that adds one column. It allows null whatever the feed says: rows that are there have no value for it.
#[must_use]
pub fn add_column_sql(database: Kind, feed: &Feed, column: &Column) -> String {
    let definition = column_definition(database, &column.name, &column.kind, false);
    let relation = relation(feed).quoted();
    match database {
        Kind::Postgres => format!("ALTER TABLE {relation} ADD COLUMN IF NOT EXISTS {definition}"),
        Kind::Sqlite => format!("ALTER TABLE {relation} ADD COLUMN {definition}"),
    }
}

/// The feed's table; [`check`] has refused what is no table.
pub(crate) fn relation(feed: &Feed) -> Relation {
    Relation::parse(&feed.table).unwrap_or_else(|_| Relation {
        schema: None,
        name: feed.table.clone(),
    })
}
