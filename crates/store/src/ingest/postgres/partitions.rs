//! Partitions made for rows that come before or after all that are there.
//!
//! Only a managed feed's table, divided as its feed says, gets them; each in a transaction of its own under the lock that
//! the keeper takes for this table, so that nodes and keepers make each once. The batch that needs them was rolled back
//! before and is stored anew afterwards, claims first: nothing of it depends on whether this ended.

use std::collections::BTreeSet;
use std::time::Duration;

use tidegate_vitals::Counter;
use tokio::time::sleep;

use super::transaction::{Transaction, places};
use crate::error::{Error, Result};
use crate::feed::Operation;
use crate::ingest::backend::Chunk;
use crate::ingest::fold::Place;
use crate::schema::catalog::read_partitions;
use crate::schema::keeper::lock_sql;
use crate::schema::migrate::{POLL, is_conflict};
use crate::schema::own;
use crate::schema::partition::{self, DAY_MICROS, Outside, Range, Window};
use crate::schema::session::Session;
use crate::value::Value;

/// Partitions made for one batch. A batch that needs more is tried again and goes on from there, so that nobody's commit
/// lasts for minutes.
const MADE_MAX: usize = 64;
/// Tries to get the lock, one every [`POLL`], and to get behind somebody who makes the same partition without it.
const TRIES_MAX: u32 = 100;
/// A table that somebody holds must not hold up the feed: its rows wait, or go to the spool, and are tried again.
const LOCK_WAIT: Duration = Duration::from_secs(1);

/// What the feed's table takes, once its partitions are made.
#[derive(Debug)]
pub(super) struct Reach {
    window: Window,
    column: usize,
    existing: Vec<Range>,
    /// How many were made just now.
    pub(super) n_made: u64,
}

/// Makes the partitions that the rows of the transaction need; none if their table is not ours to divide. The connection
/// is in no transaction, before and after.
pub(super) async fn make(
    transaction: &Transaction<'_>,
    now_micros: i64,
    made: &Counter,
) -> Result<Option<Reach>> {
    let feed = &transaction.plan.feed;
    let is_new = matches!(transaction.operation, Operation::Insert | Operation::Upsert);
    let column = feed.partition.as_ref().map(|partition| &partition.column);
    let column = column.filter(|_| is_new && feed.manage);
    let (Some(column), Some(window)) = (
        column.and_then(|name| feed.column(name)),
        Window::of(feed, now_micros),
    ) else {
        return Ok(None);
    };
    let session = Session::Postgres(transaction.connection.client());
    if !session.is(&partition::is_ours_sql(feed)).await? {
        return Ok(None);
    }
    let times: BTreeSet<i64> = rows(transaction.chunks)
        .filter_map(|(chunk, row)| time(chunk.rows.row(row), column))
        .collect();
    let wanted = partition::wanted(feed, times, window);
    let mut reach = Reach {
        window,
        column,
        existing: read_partitions(session, feed).await?,
        n_made: 0,
    };
    for range in partition::missing(feed, &wanted, &reach.existing) {
        if reach.n_made >= MADE_MAX as u64 {
            return Err(Error::Timeout {
                what: format!("making more than {MADE_MAX} partitions of feed {}", feed.name),
                after: LOCK_WAIT,
            });
        }
        let n_made = make_one(transaction, &range).await?;
        made.add(n_made);
        reach.n_made += n_made;
    }
    reach.existing = read_partitions(session, feed).await?;
    Ok(Some(reach))
}

/// Makes what is still missing of one partition; says how many were made.
async fn make_one(transaction: &Transaction<'_>, range: &Range) -> Result<u64> {
    for _ in 0..TRIES_MAX {
        match transaction.guarded(attempt(transaction, range)).await {
            Ok(Some(n_made)) => return Ok(n_made),
            Ok(None) => {}
            // Somebody without our lock was faster; the next look sees what they made.
            Err(error) if is_conflict(&error) || error.sqlstate() == Some("42P17") => {}
            Err(error) => return Err(error),
        }
        sleep(POLL).await;
    }
    Err(Error::Timeout {
        what: format!("waiting to make partition {}", range.relation.quoted()),
        after: POLL * TRIES_MAX,
    })
}

/// One transaction; none if another node has the lock.
async fn attempt(transaction: &Transaction<'_>, range: &Range) -> Result<Option<u64>> {
    let feed = &transaction.plan.feed;
    let session = Session::Postgres(transaction.connection.client());
    session.run("BEGIN").await?;
    if !session.is(&lock_sql(&feed.table)).await? {
        session.run("ROLLBACK").await?;
        return Ok(None);
    }
    // Read under the lock: whoever had it before may have made it.
    let existing = read_partitions(session, feed).await?;
    let missing = partition::missing(feed, std::slice::from_ref(range), &existing);
    let lock_wait = format!("SET LOCAL lock_timeout = {}", LOCK_WAIT.as_millis());
    for setting in [
        lock_wait.as_str(),
        "SET LOCAL client_min_messages = warning",
        own::LEAVE_SQL,
    ] {
        session.run(setting).await?;
    }
    for gap in &missing {
        for sql in partition::create_sql(feed, gap) {
            session.run(&sql).await?;
        }
    }
    session.run("COMMIT").await?;
    if let Some(gap) = missing.first() {
        tracing::info!(feed = %feed.name, partition = %gap.relation.quoted(), "partition made for rows without one");
    }
    Ok(Some(missing.len() as u64))
}

fn rows<'a>(chunks: &'a [&'a Chunk]) -> impl Iterator<Item = (&'a Chunk, usize)> {
    let of_chunk = |(at, chunk): (usize, &'a &'a Chunk)| {
        let rows = places(at, chunk).map(|place| place.row as usize);
        rows.map(move |row| (*chunk, row))
    };
    chunks.iter().enumerate().flat_map(of_chunk)
}

fn time(row: &[Value], column: usize) -> Option<i64> {
    match row.get(column)? {
        Value::Timestamptz(micros) => Some(*micros),
        Value::Date(days) => Some(i64::from(*days) * DAY_MICROS),
        _ => None,
    }
}

// === impl Reach ===

impl Reach {
    /// Why the row at `place` finds no partition, and none is made for it.
    pub(super) fn refuses(&self, chunks: &[&Chunk], place: Place) -> Option<Outside> {
        let row = chunks[place.chunk as usize].rows.row(place.row as usize);
        let time = time(row, self.column)?;
        let has_one = |range: &Range| range.from <= time && time < range.until;
        match self.existing.iter().any(has_one) {
            // The keeper has not dropped it yet, or somebody made it by hand: the row is taken as it always was.
            true => None,
            false => self.window.refuses(time),
        }
    }

    /// The window, for messages.
    pub(super) fn window(&self) -> Window {
        self.window
    }
}

/// Whether the database refused a row because no partition takes it. A check that a row breaks has the same SQLSTATE and
/// a name.
pub(super) fn is_homeless(error: &Error) -> bool {
    let Error::Database {
        source: Some(source), ..
    } = error
    else {
        return false;
    };
    let refusal = source
        .downcast_ref::<tokio_postgres::Error>()
        .and_then(tokio_postgres::Error::as_db_error);
    refusal.is_some_and(|refusal| refusal.code().code() == "23514" && refusal.constraint().is_none())
}
