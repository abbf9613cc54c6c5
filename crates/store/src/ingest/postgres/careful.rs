//! A batch of which some rows are refused: finds them one by one, stores the others, keeps the refused in the dead letter.
//!
//! Inside the chunk's transaction each try stands behind a savepoint. COPY names the row that it fell over; where nothing
//! is named, halves are tried. All constraints are checked at once, so that what would fail at commit fails at its row.

use super::partitions::Reach;
use super::transaction::{Tally, Transaction, places};
use crate::error::Error;
use crate::ingest::backend::{Blame, Chunk, Settled, blame};
use crate::ingest::fold::{Place, fold};
use crate::ingest::outcome::DeadRow;

/// With more refused rows than this, each chunk gets a transaction of its own: one bad producer shall not hold the rows of
/// all others in one long transaction.
const BAD_ROWS_MAX: usize = 32;

/// What stopped one transaction.
enum Stop {
    TooManyBad,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A row that the database refused.
struct Bad {
    place: Place,
    sqlstate: String,
    message: String,
    blame: Blame,
}

/// Stores what can be stored; `reach`: what the partitions of the table take.
pub(super) async fn commit(
    whole: &Transaction<'_>,
    reach: Option<&Reach>,
) -> crate::error::Result<Vec<Settled>> {
    let limit = if whole.chunks.len() == 1 {
        usize::MAX
    } else {
        BAD_ROWS_MAX
    };
    match guarded(whole, reach, limit).await {
        Ok(settled) => return Ok(settled),
        Err(Stop::Failed(failed)) => return Err(failed),
        Err(Stop::TooManyBad) => {}
    }
    let mut settled = Vec::with_capacity(whole.chunks.len());
    for chunk in whole.chunks {
        let one: [&Chunk; 1] = [*chunk];
        match guarded(&whole.part(&one), reach, usize::MAX).await {
            Ok(mut one) => settled.append(&mut one),
            Err(Stop::Failed(failed)) => return Err(failed),
            Err(Stop::TooManyBad) => unreachable!("one chunk has no limit of bad rows"),
        }
    }
    Ok(settled)
}

async fn guarded(
    transaction: &Transaction<'_>,
    reach: Option<&Reach>,
    bad_max: usize,
) -> Result<Vec<Settled>, Stop> {
    let mut is_too_many = false;
    let done = transaction.guarded(async {
        match steps(transaction, reach, bad_max).await {
            Ok(settled) => Ok(settled),
            Err(Stop::Failed(failed)) => Err(failed),
            Err(Stop::TooManyBad) => {
                is_too_many = true;
                Err(Error::BadRequest("too many bad rows".to_owned()))
            }
        }
    });
    match done.await {
        Ok(settled) => Ok(settled),
        Err(_) if is_too_many => Err(Stop::TooManyBad),
        Err(failed) => Err(Stop::Failed(failed)),
    }
}

async fn steps(
    transaction: &Transaction<'_>,
    reach: Option<&Reach>,
    bad_max: usize,
) -> Result<Vec<Settled>, Stop> {
    transaction.begin().await?;
    transaction.execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
    let (made, recorded) = transaction.claim().await?;
    let mut tally = Tally::new(transaction.chunks.len());
    let mut bad = Vec::new();
    for (at, chunk) in transaction.chunks.iter().enumerate() {
        if made[at] {
            let rows = with_partition(transaction, reach, places(at, chunk), &mut bad);
            if bad.len() > bad_max {
                return Err(Stop::TooManyBad);
            }
            isolate(transaction, rows, &mut tally, (&mut bad, bad_max)).await?;
        }
    }
    let n_stored: u64 = tally.chunks.iter().map(|(outcome, _)| outcome.stored).sum();
    if n_stored == 0
        && let Some(denied) = bad.iter().find(|bad| bad.blame == Blame::FeedOrRow)
    {
        // Not one row got through: it is the privileges of the feed.
        return Err(denied.error().into());
    }
    bury(transaction, bad, &mut tally).await?;
    transaction.bury_misfits(&mut tally, &made).await?;
    transaction.recompute().await?;
    transaction.commit(&tally, &made).await.map_err(Stop::Failed)?;
    Ok(tally.settle(transaction.chunks, &made, recorded))
}

/// The rows that may find a partition; the others are refused without asking the database for each.
fn with_partition(
    transaction: &Transaction<'_>,
    reach: Option<&Reach>,
    rows: impl Iterator<Item = Place>,
    bad: &mut Vec<Bad>,
) -> Vec<Place> {
    let Some(reach) = reach else {
        return rows.collect();
    };
    let mut kept = Vec::new();
    for place in rows {
        match reach.refuses(transaction.chunks, place) {
            None => kept.push(place),
            Some(outside) => bad.push(Bad {
                place,
                sqlstate: outside.code().to_owned(),
                message: outside.message(&transaction.plan.feed, reach.window()),
                blame: Blame::Row,
            }),
        }
    }
    kept
}

/// Stores the rows of one chunk without those that are refused.
async fn isolate(
    transaction: &Transaction<'_>,
    rows: Vec<Place>,
    tally: &mut Tally,
    (bad, bad_max): (&mut Vec<Bad>, usize),
) -> Result<(), Stop> {
    let made = vec![true; transaction.chunks.len()];
    let mut parts = vec![rows];
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let folded = fold(
            transaction.plan,
            transaction.operation,
            transaction.chunks,
            part.iter().copied(),
        );
        transaction.execute("SAVEPOINT part").await?;
        let error = match transaction.store(&folded.rows).await {
            Ok((lost, _)) => {
                transaction.execute(&after(transaction)).await?;
                tally.count(transaction.operation, &folded, &lost, &made);
                continue;
            }
            Err(error) => error,
        };
        let blamed = blame(&error);
        if matches!(blamed, Blame::Nobody | Blame::Feed) {
            return Err(error.into());
        }
        transaction
            .execute("ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part")
            .await?;
        let found = match part.len() {
            1 => Some(0),
            // The line counts the rows that were sent, which are those of the part where nothing was folded.
            _ if folded.duplicates.is_empty() => copy_line(&error).filter(|line| *line < part.len()),
            _ => None,
        };
        let Some(at) = found else {
            let half = part.len() / 2;
            parts.push(part[half..].to_vec());
            parts.push(part[..half].to_vec());
            continue;
        };
        if bad.len() == bad_max {
            return Err(Stop::TooManyBad);
        }
        bad.push(Bad::new(part[at], &error, blamed));
        parts.push(part[at + 1..].to_vec());
        parts.push(part[..at].to_vec());
    }
    Ok(())
}

/// What follows a part that was stored: the staging table must be empty for the next one.
fn after(transaction: &Transaction<'_>) -> String {
    match transaction.is_plain() {
        true => "RELEASE SAVEPOINT part".to_owned(),
        false => format!("{}; RELEASE SAVEPOINT part", transaction.sql.empty_stage()),
    }
}

async fn bury(transaction: &Transaction<'_>, bad: Vec<Bad>, tally: &mut Tally) -> Result<(), Error> {
    let mut dead = Vec::with_capacity(bad.len());
    for bad in bad {
        let (at, row) = (bad.place.chunk as usize, bad.place.row as usize);
        let chunk = transaction.chunks[at];
        let mut text = Vec::new();
        chunk.write_row(transaction.plan, row, &mut text);
        let why = DeadRow::new(chunk.numbers[row], &bad.sqlstate, &bad.message);
        let (outcome, left_out) = &mut tally.chunks[at];
        outcome.dead.push(why.clone());
        left_out.push(bad.place.row);
        dead.push((at, text, why));
    }
    for (outcome, _) in &mut tally.chunks {
        outcome.dead.sort_by_key(|dead| dead.row);
    }
    transaction.bury(&dead).await
}

/// The place of the row that COPY names: `COPY ticks, line 3, column price: …`.
fn copy_line(error: &Error) -> Option<usize> {
    let Error::Database {
        source: Some(source), ..
    } = error
    else {
        return None;
    };
    let refusal = source.downcast_ref::<tokio_postgres::Error>()?.as_db_error()?;
    line_of(refusal.where_()?)
}

fn line_of(context: &str) -> Option<usize> {
    // The innermost context comes first; that of COPY may stand behind a trigger's.
    let copy = context.lines().find(|line| line.starts_with("COPY "))?;
    let (_, rest) = copy.rsplit_once(", line ")?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse::<usize>().ok()?.checked_sub(1)
}

// === impl Bad ===

impl Bad {
    fn new(place: Place, error: &Error, blame: Blame) -> Self {
        let message = match error {
            Error::Database { message, .. } => message.clone(),
            other => other.to_string(),
        };
        Self {
            place,
            // A value that could not be put on the wire has no code of the server's.
            sqlstate: error.sqlstate().unwrap_or("22000").to_owned(),
            message,
            blame,
        }
    }

    fn error(&self) -> Error {
        Error::Database {
            sqlstate: self.sqlstate.clone(),
            message: self.message.clone(),
            object: None,
            source: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_names_its_line() {
        assert_eq!(line_of("COPY ticks, line 3, column price"), Some(2));
        assert_eq!(
            line_of("PL/pgSQL function f() line 3 at RAISE\nCOPY ticks, line 12"),
            Some(11)
        );
        assert_eq!(line_of("COPY we, line 9 up, line 4: \"x\""), Some(3));
        assert_eq!(line_of("SQL statement \"INSERT\""), None);
        assert_eq!(line_of("COPY ticks"), None);
    }
}
