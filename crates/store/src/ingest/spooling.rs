//! Rows that wait on this node's disk: into the spool while the database is away, and back in order.
//!
//! A record holds the rows as JSON, one a line, behind a line with their numbers: it can be read by people, and by a feed
//! that was declared anew in the meantime.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tidegate_vitals::Guard;

use super::Shared;
use super::backend::{Chunk, Mark, Misfit, Plan, Settled, Stored, new_maker};
use super::lane::{Lane, settle, told_to_hooks};
use super::outcome::ChunkOutcome;
use super::queue::Job;
use super::request::held_bytes;
use crate::error::{Error, Result};
use crate::hook::How;
use crate::row::{ChunkRows, Format, Reader};
use crate::spool::{Claim, Position, Record, Spool};

/// The first line of a record.
#[derive(Serialize, Deserialize)]
struct Head {
    /// The number of each row in the whole request.
    numbers: Vec<u64>,
}

/// Most records whose claims are read at the start.
const KNOWN_MAX: usize = 100_000;

/// Appends a batch to the spool; call it under the gate. Its records share an fsync.
pub(super) async fn append(shared: &Arc<Shared>, lane: &Arc<Lane>, mut batch: Vec<Job>) {
    let Some(spool) = &shared.spool else { return };
    // Polled in order, so that they lie in order. Each pays with what its chunk holds for that.
    let appends = batch.iter_mut().map(|job| {
        let paid = job.room.take_written();
        let (plan, chunk) = (&job.plan, &job.chunk);
        async move { spool.append_paid(&lane.name, record(plan, chunk), paid).await }
    });
    let appended = join_all(appends).await;
    for (job, appended) in batch.into_iter().zip(appended) {
        let n_rows = job.chunk.rows.len();
        match appended {
            Ok(()) => {
                lane.flights
                    .spooled(&job.chunk.mark, job.chunk.hash, n_rows as u64);
                lane.figures.spooled.add(n_rows as u64);
                let outcome = ChunkOutcome {
                    is_spooled: true,
                    ..ChunkOutcome::all(n_rows)
                };
                lane.end(shared, job, &Ok(Some(outcome)), Some((Stored::All, How::Spooled)));
            }
            Err(error) => {
                lane.figures.refused(n_rows);
                lane.end(shared, job, &Err(error), None);
            }
        }
    }
}

/// Sends all new rows behind those in the spool from now on, and begins to replay; call it under the gate.
pub(super) fn begin(shared: &Arc<Shared>, lane: &Arc<Lane>) {
    if !lane.is_spooling.swap(true, Relaxed) {
        let (all, one) = (Arc::clone(shared), Arc::clone(lane));
        shared.group.spawn("store-ingest-replay", replay(all, one));
    }
}

/// Learns which chunks wait in the spool, so that a resend of one is known. Says whether any does.
pub(super) async fn recall(spool: &Spool, lane: &Lane) -> Result<bool> {
    let mut next = spool.next(&lane.name).await?;
    let is_there = next.is_some();
    let mut n_known = 0;
    while let Some((position, record)) = next {
        let mark = mark_of(&record);
        lane.flights
            .spooled(&mark, record.claim.hash, u64::from(record.n_rows));
        n_known += 1;
        next = match n_known < KNOWN_MAX {
            true => spool.next_after(&lane.name, position).await?,
            false => None,
        };
    }
    Ok(is_there)
}

/// Stores what waits in the spool, oldest first, until nothing is left.
async fn replay(shared: Arc<Shared>, lane: Arc<Lane>) {
    let Some(spool) = &shared.spool else { return };
    while !shared.is_stopping() {
        match replay_batch(&shared, &lane, spool).await {
            Ok(true) => {}
            Ok(false) => {
                let _gate = lane.gate.lock().await;
                if spool.is_empty(&lane.name) {
                    lane.is_spooling.store(false, Relaxed);
                    tracing::info!(feed = %lane.name, "spool is empty");
                    return;
                }
            }
            Err(error) => {
                tracing::error!(feed = %lane.name, %error, "replay of the spool stopped for now");
                shared.pause(shared.config.resume_after).await;
            }
        }
    }
}

/// Stores the oldest records in one commit; `false` if there is none.
async fn replay_batch(shared: &Shared, lane: &Lane, spool: &Spool) -> Result<bool> {
    let plan = lane.plan();
    let Some((position, chunks, _memory)) = gather(shared, lane, spool, &plan).await? else {
        return Ok(false);
    };
    let references: Vec<&Chunk> = chunks.iter().collect();
    let settled = settle(shared, lane, &plan, &references, None).await;
    let settled = settled.map_err(|gave_up| gave_up.error)?;
    for (chunk, settled) in chunks.iter().zip(&settled) {
        // The fan-out happened when they were spooled.
        if let Settled::New { outcome, .. } = settled {
            lane.figures.stored(outcome);
        }
        lane.figures.replayed.add(chunk.rows.len() as u64);
    }
    let told = chunks.iter().zip(&settled);
    let told = told.filter_map(|(chunk, settled)| Some((chunk, told_to_hooks(settled)?)));
    shared.hooks.committed(&plan.feed, told, true);
    spool.done(&lane.name, position).await?;
    for chunk in &chunks {
        lane.flights.replayed(&chunk.mark);
    }
    Ok(true)
}

/// The oldest records that one commit can take, and the memory that they hold: fewer of them where there is little, but
/// always one, because its end is what gives memory back.
async fn gather(
    shared: &Shared,
    lane: &Lane,
    spool: &Spool,
    plan: &Plan,
) -> Result<Option<(Position, Vec<Chunk>, Guard)>> {
    let Some((mut last, first)) = spool.next(&lane.name).await? else {
        return Ok(None);
    };
    let mut chunks = vec![chunk(plan, &first)?];
    let mut memory = shared.replay.empty();
    let mut has_memory = pay(shared, &mut memory, &chunks[0]);
    let mut n_rows = first.n_rows as usize;
    while has_memory && let Some((position, record)) = spool.next_after(&lane.name, last).await? {
        n_rows += record.n_rows as usize;
        let goes_along = n_rows <= shared.config.batch_rows_max
            && record.operation == chunks[0].operation
            && !chunks.iter().any(|chunk| chunk.mark == mark_of(&record));
        if !goes_along {
            break;
        }
        let next = chunk(plan, &record)?;
        has_memory = pay(shared, &mut memory, &next);
        if has_memory {
            chunks.push(next);
            last = position;
        }
    }
    Ok(Some((last, chunks, memory)))
}

/// Whether there is memory for one more chunk.
fn pay(shared: &Shared, memory: &mut Guard, chunk: &Chunk) -> bool {
    let bytes = memory.bytes() + held_bytes(chunk.rows.n_bytes(), chunk.rows.len());
    shared.replay.resize(memory, bytes).is_ok()
}

// === Records ===

fn mark_of(record: &Record) -> Mark {
    Mark {
        principal: record.claim.principal.as_str().into(),
        id: record.claim.id.as_str().into(),
        chunk: record.claim.chunk,
    }
}

fn record(plan: &Plan, chunk: &Chunk) -> Record {
    let head = Head {
        numbers: chunk.numbers.clone(),
    };
    let mut rows = serde_json::to_vec(&head).expect("numbers are plain data");
    for row in 0..chunk.rows.len() {
        rows.push(b'\n');
        chunk.write_row(plan, row, &mut rows);
    }
    Record {
        feed_version: plan.version,
        claim: Claim {
            principal: chunk.mark.principal.to_string(),
            id: chunk.mark.id.to_string(),
            chunk: chunk.mark.chunk,
            hash: chunk.hash,
        },
        operation: chunk.operation,
        n_rows: chunk.rows.len() as u32,
        rows: rows.into(),
    }
}

/// The chunk of a record, read by the feed as it is declared now.
fn chunk(plan: &Plan, record: &Record) -> Result<Chunk> {
    let broken = |problem: &str| Error::Config {
        what: format!("spool of feed {}", plan.feed.name),
        problem: problem.to_owned(),
    };
    let end = memchr::memchr(b'\n', &record.rows).unwrap_or(record.rows.len());
    let head: Head = serde_json::from_slice(&record.rows[..end])
        .map_err(|error| broken(&format!("a record without its numbers: {error}")))?;
    let body = record.rows.get(end + 1..).unwrap_or_default();
    let reader = Reader::new(&plan.feed, record.operation).without_limit();
    let parsed = reader.read(Format::Ndjson, body, 0)?;
    let lines: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    if parsed.chunks.len() > 1 || head.numbers.len() as u64 != parsed.n_rows {
        return Err(broken("a record with other rows than it says"));
    }
    let misfits = parsed.rejected.iter().map(|rejected| Misfit {
        number: head.numbers[rejected.row as usize],
        row: lines[rejected.row as usize].to_vec(),
        message: format!(
            "no longer fits the feed: {} ({})",
            rejected.message, rejected.code
        ),
    });
    let misfits = misfits.collect();
    let rows = parsed.chunks.into_iter().next().unwrap_or_else(|| ChunkRows {
        table: crate::row::Table::new(plan.feed.columns.len()),
        ..ChunkRows::default()
    });
    Ok(Chunk {
        mark: mark_of(record),
        hash: record.claim.hash,
        maker: new_maker(),
        operation: record.operation,
        numbers: rows.numbers.iter().map(|at| head.numbers[*at as usize]).collect(),
        rows: rows.table,
        misfits,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{OnConflict, Operation};
    use crate::ingest::testing;

    fn spooled(operation: Operation, rows: &str) -> (Plan, Chunk) {
        let plan = Plan::new(testing::feed("id:int8* a:text b:float8", OnConflict::Update)).unwrap();
        let reader = Reader::new(&plan.feed, operation);
        let parsed = reader.read(Format::Json, rows.as_bytes(), 3_000).unwrap();
        let chunk = testing::chunk(operation, parsed.chunks.into_iter().next().unwrap());
        (plan, chunk)
    }

    #[test]
    fn a_record_gives_the_same_chunk_back() {
        for (operation, rows) in [
            (
                Operation::Insert,
                r#"[{"id":1,"a":"x\ny","b":0.1},{"id":null},{"id":2}]"#,
            ),
            (
                Operation::Update,
                r#"[{"id":1,"a":null},{"id":2,"b":1e-300,"a":"z"}]"#,
            ),
            (Operation::Delete, r#"[{"id":1}]"#),
        ] {
            let (plan, original) = spooled(operation, rows);
            let again = chunk(&plan, &record(&plan, &original)).unwrap();
            assert_eq!(again.rows, original.rows);
            assert_eq!((again.numbers, again.mark), (original.numbers, original.mark));
            assert_eq!((again.hash, again.operation), (original.hash, original.operation));
            assert!(again.misfits.is_empty());
        }
    }

    #[test]
    fn rows_that_no_longer_fit_are_kept_apart() {
        let (plan, original) = spooled(Operation::Insert, r#"[{"id":1,"a":"7"},{"id":2,"a":"x"}]"#);
        let record = record(&plan, &original);
        let narrowed = Plan::new(testing::feed("id:int8* a:int4 b:float8", OnConflict::Update)).unwrap();
        let again = chunk(&narrowed, &record).unwrap();
        assert_eq!((again.rows.len(), again.numbers), (1, vec![3_000]));
        assert_eq!(again.misfits.len(), 1);
        assert_eq!(again.misfits[0].number, 3_001);
        assert!(again.misfits[0].message.contains("type_mismatch"));
    }

    #[test]
    fn damaged_records_are_refused() {
        let (plan, original) = spooled(Operation::Insert, r#"[{"id":1}]"#);
        let good = record(&plan, &original);
        for rows in ["", "{}", "{\"numbers\":[1]}", "{\"numbers\":[]}\n{\"id\":1}"] {
            let record = Record {
                rows: rows.as_bytes().to_vec().into(),
                ..good.clone()
            };
            assert!(chunk(&plan, &record).is_err(), "{rows}");
        }
    }
}
