//! Fills a roll-up that was added to a table with rows: in steps, each a short transaction, while rows keep coming.
//!
//! A step computes whole groups anew, as [`rollup::recompute_sql`] does, so it may be repeated and it is right beside
//! writers that apply to the same groups: a group that no step has reached yet holds too little until one does. Writers
//! must know the roll-up before the first step, on every node; a node that still runs without it changes rows that no step
//! sees again, and then the roll-up has to be filled anew ([`restart_sql`]).

use crate::{
    error::Result,
    feed::{Feed, Rollup},
    kind::Kind,
    schema::{
        own,
        partition::{DAY_MICROS, time_literal},
        rollup::{bucket_sql, recompute},
        session::{Session, is_true, number},
        sql::{literal, quote, table},
    },
    value::Type,
};

/// Rows that a step reads, about, as the table's statistics have them.
const STEP_ROWS: i64 = 100_000;
/// Without an index over the time each step reads the whole table.
const STEPS_MAX: i64 = 256;

/// How far a roll-up has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It holds everything.
    Finished,
    /// There is more to do.
    More,
    /// Another node is at it.
    Elsewhere,
}

/// Where a roll-up stands, in units of its bucket column: microseconds, or days for a date.
struct Place {
    next: i64,
    step: i64,
    until: i64,
}

/// Does one step for one roll-up, inside a transaction.
///
/// # Errors
/// What the database says; then the transaction must be rolled back and the step done again.
///
/// # Cancel safety
/// The transaction is left open.
pub async fn step(session: Session<'_>, feed: &Feed, rollup: &Rollup) -> Result<Progress> {
    let kind = session.kind();
    let own = own::name(kind, "rollup");
    let name = literal(&rollup.table);
    let lock = match kind {
        Kind::Postgres => " FOR UPDATE SKIP LOCKED",
        Kind::Sqlite => "",
    };
    if kind == Kind::Postgres {
        session.run("SET LOCAL statement_timeout = 0").await?;
    }
    let rows = session
        .rows(&format!(
            "SELECT finished_at IS NOT NULL, next, step, until FROM {own} WHERE name = {name}{lock}"
        ))
        .await?;
    let Some(row) = rows.first() else {
        return Ok(Progress::Elsewhere);
    };
    if is_true(row[0].as_deref()) {
        return Ok(Progress::Finished);
    }
    let stored = number(row[1].as_ref())
        .zip(number(row[2].as_ref()))
        .zip(number(row[3].as_ref()))
        .map(|((next, step), until)| Place { next, step, until });
    let place = match stored {
        Some(place) => Some(place),
        None => beginning(session, feed, rollup).await?,
    };
    let is_last = place
        .as_ref()
        .is_none_or(|place| place.next + place.step > place.until);
    for sql in recompute(
        kind,
        feed,
        rollup,
        &touched(kind, feed, rollup, place.as_ref(), is_last),
        false,
    ) {
        session.run(&sql).await?;
    }
    let now = match kind {
        Kind::Postgres => "now()",
        Kind::Sqlite => "unixepoch() * 1000000",
    };
    let advance = match (is_last, place) {
        (false, Some(Place { next, step, until })) => {
            format!("next = {}, step = {step}, until = {until}", next + step)
        }
        _ => format!("finished_at = {now}"),
    };
    session
        .run(&format!("UPDATE {own} SET {advance} WHERE name = {name}"))
        .await?;
    Ok(if is_last {
        Progress::Finished
    } else {
        Progress::More
    })
}

/// The statement that makes the next step begin anew.
#[must_use]
pub fn restart_sql(kind: Kind, rollup: &Rollup) -> String {
    format!(
        "UPDATE {} SET next = NULL, step = NULL, until = NULL, finished_at = NULL WHERE name = {}",
        own::name(kind, "rollup"),
        literal(&rollup.table)
    )
}

/// Where to begin and how far to go at a time; none for a roll-up without a bucket and a table without times: one step.
async fn beginning(session: Session<'_>, feed: &Feed, rollup: &Rollup) -> Result<Option<Place>> {
    let (Some(bucket), Some(time)) = (&rollup.bucket, time_type(feed, rollup)) else {
        return Ok(None);
    };
    let kind = session.kind();
    let column = quote(&bucket.column);
    let as_number = |of: &str| match (kind, time) {
        (Kind::Sqlite, _) => of.to_owned(),
        (Kind::Postgres, Type::Date) => format!("({of}) - date '1970-01-01'"),
        (Kind::Postgres, _) => format!("(extract(epoch FROM {of}) * 1000000)::int8"),
    };
    let first = bucket_sql(kind, bucket, time, &format!("min({column})"));
    let bounds = format!(
        "SELECT {}, {} FROM {}",
        as_number(&first),
        as_number(&format!("max({column})")),
        table(&feed.table)
    );
    let rows = session.rows(&bounds).await?;
    let Some((next, until)) = rows
        .first()
        .and_then(|row| number(row[0].as_ref()).zip(number(row[1].as_ref())))
    else {
        return Ok(None);
    };
    let n_rows = estimate(session, feed).await?;
    let steps = (n_rows / STEP_ROWS + 1).clamp(1, STEPS_MAX);
    let unit = match time {
        Type::Date => bucket.every.as_secs() as i64 / 86_400,
        _ => bucket.every.as_micros() as i64,
    };
    let buckets = (until - next) / unit + 1;
    Ok(Some(Place {
        next,
        step: (buckets / steps + 1) * unit,
        until,
    }))
}

async fn estimate(session: Session<'_>, feed: &Feed) -> Result<i64> {
    let sql = match session.kind() {
        Kind::Postgres => format!(
            "SELECT sum(greatest(c.reltuples, 0))::int8 FROM pg_class c WHERE c.oid IN \
             (SELECT relid FROM pg_partition_tree(to_regclass({0})) UNION SELECT to_regclass({0}))",
            literal(&table(&feed.table))
        ),
        Kind::Sqlite => format!("SELECT count(*) FROM {}", table(&feed.table)),
    };
    Ok(number(session.value(&sql).await?.as_ref()).unwrap_or(0))
}

fn time_type<'a>(feed: &'a Feed, rollup: &Rollup) -> Option<&'a Type> {
    let bucket = rollup.bucket.as_ref()?;
    feed.column(&bucket.column).map(|at| &feed.columns[at].kind)
}

/// The rows of the step. The last has no end, and takes the rows without a time.
fn touched(kind: Kind, feed: &Feed, rollup: &Rollup, place: Option<&Place>, is_last: bool) -> String {
    let (Some(place), Some(bucket), Some(time)) = (place, &rollup.bucket, time_type(feed, rollup)) else {
        return table(&feed.table);
    };
    let column = quote(&bucket.column);
    let value = |at: i64| match time {
        Type::Date => time_literal(kind, time, at.saturating_mul(DAY_MICROS)),
        _ => time_literal(kind, time, at),
    };
    let from = value(place.next);
    let condition = match is_last {
        false => format!(
            "{column} >= {from} AND {column} < {}",
            value(place.next + place.step)
        ),
        true => format!("{column} >= {from} OR {column} IS NULL"),
    };
    format!("(SELECT * FROM {} WHERE {condition})", table(&feed.table))
}
