//! The way of one feed's rows: queue, writers, and what happens when the database is away.
//!
//! ```text
//! submit ─▶ Queue ─▶ writer ─┬─ direct ──▶ commit, again until settled or out of patience ─▶ answers, hooks, fan-out
//!                            └─ spooling ▶ append to the spool ─▶ answers "spooled", fan-out
//!                                          replayer: oldest first ─▶ commit ─▶ hooks          (until the spool is empty)
//! ```

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use super::backend::{Chunk, Failure, Plan, Settled, Stored};
use super::backlog::Room;
use super::figures::Figures;
use super::flight::{Answer, Flights, Sequence};
use super::outcome::ChunkOutcome;
use super::queue::{Job, Limits, Queue};
use super::quota::Quota;
use crate::error::Error;
use crate::hook::How;

/// Pauses between tries while the database is away.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// One feed.
pub(super) struct Lane {
    pub(super) name: String,
    plan: RwLock<Arc<Plan>>,
    pub(super) queue: Queue,
    pub(super) flights: Flights,
    pub(super) sequence: Sequence<Ended>,
    pub(super) quota: Quota,
    pub(super) figures: Figures,
    /// Held by the writer at work when the order of rows matters.
    turn: tokio::sync::Mutex<()>,
    /// Held by whoever decides whether rows go to the database or the spool.
    pub(super) gate: tokio::sync::Mutex<()>,
    /// While the spool holds rows of this feed, new ones go behind them. Changes only under the gate.
    pub(super) is_spooling: AtomicBool,
    suspension: Mutex<Option<Suspension>>,
}

/// Why the feed takes no rows.
#[derive(Debug, Clone)]
pub(super) struct Suspension {
    pub(super) reason: String,
    /// Then it is tried again.
    pub(super) until: Instant,
}

/// A chunk that ended, on its way to the fan-out.
pub(super) struct Ended {
    pub(super) chunk: Chunk,
    pub(super) plan: Arc<Plan>,
    /// What became durable just now, and how; none for what was refused or stored before.
    pub(super) durable: Option<(Stored, How)>,
    /// Given back when the rows are gone.
    pub(super) _room: Room,
}

/// Why a batch was given up.
pub(super) struct GaveUp {
    pub(super) error: Error,
    pub(super) is_suspended: bool,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(shared: &Shared, plan: Arc<Plan>) -> Self {
        Self {
            name: plan.feed.name.clone(),
            figures: Figures::new(&shared.context.registry, &plan.feed.name),
            plan: RwLock::new(plan),
            queue: Queue::new(&shared.context.registry),
            flights: Flights::default(),
            sequence: Sequence::new(),
            quota: Quota::new(shared.config.producers_max),
            turn: tokio::sync::Mutex::default(),
            gate: tokio::sync::Mutex::default(),
            is_spooling: AtomicBool::new(false),
            suspension: Mutex::default(),
        }
    }

    pub(super) fn plan(&self) -> Arc<Plan> {
        // A plan is replaced whole.
        Arc::clone(&self.plan.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_plan(&self, plan: Arc<Plan>) {
        *self.plan.write().unwrap_or_else(PoisonError::into_inner) = plan;
        self.resume();
    }

    pub(super) fn suspension(&self) -> Option<Suspension> {
        self.suspension_lock().clone()
    }

    pub(super) fn resume(&self) {
        *self.suspension_lock() = None;
    }

    pub(super) fn suspend(&self, error: &Error, again: Duration) {
        let reason = error.to_string();
        let mut suspension = self.suspension_lock();
        if suspension.as_ref().is_none_or(|known| known.reason != reason) {
            tracing::error!(feed = %self.name, %reason, "feed suspended");
        }
        *suspension = Some(Suspension {
            reason,
            until: Instant::now() + again,
        });
    }

    fn suspension_lock(&self) -> MutexGuard<'_, Option<Suspension>> {
        self.suspension.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn suspended(&self, error: Error) -> Error {
        match error {
            Error::Suspended { .. } => error,
            other => Error::Suspended {
                feed: self.name.clone(),
                reason: other.to_string(),
            },
        }
    }

    /// Ends a chunk: tells who waits for it, and lets its rows go out in their turn.
    pub(super) fn end(&self, shared: &Shared, job: Job, answer: &Answer, durable: Option<(Stored, How)>) {
        let mark = job.chunk.mark.clone();
        let ended = Ended {
            chunk: job.chunk,
            plan: job.plan,
            durable,
            _room: job.room,
        };
        // The rows go out before the answer, unless others of the feed have to go before them.
        self.sequence
            .end(job.number, ended, |ended| shared.hooks.fan_out(&ended));
        self.flights.leave(&mark, answer);
    }
}

// === The writer ===

/// Stores what comes until the queue is closed and empty.
pub(super) async fn write(shared: Arc<Shared>, lane: Arc<Lane>) {
    let mut is_idle = true;
    loop {
        let is_ordered = !lane.plan().is_unordered();
        let turn = match is_ordered {
            true => Some(lane.turn.lock().await),
            false => None,
        };
        let config = &shared.config;
        let limits = Limits {
            rows_max: config.batch_rows_max,
            bytes_max: config.batch_bytes_max,
            delay: config.delay,
            writers: if is_ordered { 1 } else { config.writers },
        };
        let Some(batch) = lane.queue.take(limits, is_idle).await else {
            return;
        };
        store(&shared, &lane, batch).await;
        drop(turn);
        is_idle = lane.queue.n_rows() == 0;
    }
}

async fn store(shared: &Arc<Shared>, lane: &Arc<Lane>, batch: Vec<Job>) {
    #[cfg(feature = "spool")]
    {
        let _gate = lane.gate.lock().await;
        if lane.is_spooling.load(Relaxed) {
            return super::spooling::append(shared, lane, batch).await;
        }
    }
    let plan = Arc::clone(&batch[0].plan);
    let settled = {
        let chunks: Vec<&Chunk> = batch.iter().map(|job| &job.chunk).collect();
        let deadline = Instant::now() + shared.config.patience;
        settle(shared, lane, &plan, &chunks, Some(deadline)).await
    };
    match settled {
        Ok(settled) => finish(shared, lane, batch, settled),
        Err(gave_up) => give_up(shared, lane, batch, gave_up).await,
    }
}

/// Commits, again and again until it is settled, the deadline has passed, or the store is closing.
pub(super) async fn settle(
    shared: &Shared,
    lane: &Lane,
    plan: &Plan,
    chunks: &[&Chunk],
    deadline: Option<Instant>,
) -> Result<Vec<Settled>, GaveUp> {
    let mut pause = PAUSE_MIN;
    loop {
        let since = shared.context.clock.now();
        let failure = match shared.commit(plan, chunks).await {
            Ok((settled, method)) => {
                lane.resume();
                let n_rows = chunks.iter().map(|chunk| chunk.rows.len()).sum();
                lane.figures
                    .committed(method, n_rows, shared.context.clock.now() - since);
                return Ok(settled);
            }
            Err(failure) => failure,
        };
        let (error, is_suspended) = match failure {
            Failure::Again(error) => (error, false),
            Failure::Suspend(error) => {
                lane.suspend(&error, shared.config.resume_after);
                (error, true)
            }
        };
        tracing::debug!(feed = %lane.name, %error, n_chunks = chunks.len(), "commit failed");
        let is_over = match deadline {
            Some(deadline) => is_suspended || Instant::now() + pause > deadline,
            None => false,
        };
        if is_over || shared.is_stopping() {
            return Err(GaveUp { error, is_suspended });
        }
        shared
            .pause(if is_suspended {
                shared.config.resume_after
            } else {
                pause
            })
            .await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Rows that could not be stored go to the spool, or are refused.
async fn give_up(shared: &Arc<Shared>, lane: &Arc<Lane>, batch: Vec<Job>, gave_up: GaveUp) {
    // A commit whose answer got lost may have stored them.
    let all = batch.iter().map(|job| (&job.chunk, &Stored::All));
    shared.hooks.committed(&batch[0].plan.feed, all, false);
    #[cfg(feature = "spool")]
    if shared.spool.is_some() {
        tracing::warn!(feed = %lane.name, error = %gave_up.error, "rows go to the spool");
        let _gate = lane.gate.lock().await;
        super::spooling::append(shared, lane, batch).await;
        super::spooling::begin(shared, lane);
        return;
    }
    let error = match gave_up.is_suspended {
        true => lane.suspended(gave_up.error),
        false => gave_up.error,
    };
    for job in batch {
        lane.figures.refused(job.chunk.rows.len());
        lane.end(shared, job, &Err(error.clone()), None);
    }
}

/// Hooks first, then answers, then the fan-out in its turn.
fn finish(shared: &Shared, lane: &Lane, batch: Vec<Job>, settled: Vec<Settled>) {
    debug_assert_eq!(batch.len(), settled.len(), "one end for each chunk");
    let told = batch
        .iter()
        .zip(&settled)
        .filter_map(|(job, settled)| Some((&job.chunk, told_to_hooks(settled)?)));
    shared.hooks.committed(&batch[0].plan.feed, told, false);
    let ends: Vec<(Answer, Option<Stored>)> = batch
        .iter()
        .zip(settled)
        .map(|(job, settled)| end_of(&job.chunk, settled))
        .collect();
    for (job, (answer, stored)) in batch.into_iter().zip(ends) {
        if let (Ok(Some(outcome)), Some(_)) = (&answer, &stored) {
            lane.figures.stored(outcome);
        }
        lane.end(
            shared,
            job,
            &answer,
            stored.map(|stored| (stored, How::Committed)),
        );
    }
}

/// The rows that hooks hear of. What is known may have been stored by somebody who ended, or lost the answer, before any
/// hook heard of it, and its outcome does not always say which rows those were: so all of them.
pub(super) const fn told_to_hooks(settled: &Settled) -> Option<&Stored> {
    match settled {
        Settled::New { stored, .. } => Some(stored),
        Settled::Known { .. } => Some(&Stored::All),
        Settled::Reused => None,
    }
}

/// The answer for a chunk, and which of its rows were stored just now.
fn end_of(chunk: &Chunk, settled: Settled) -> (Answer, Option<Stored>) {
    match settled {
        Settled::New { outcome, stored } => (Ok(Some(outcome)), Some(stored)),
        Settled::Reused => (Ok(None), None),
        Settled::Known { outcome, is_ours } => {
            let stored = is_ours.then(|| stored_then(chunk, &outcome));
            (Ok(Some(outcome)), stored)
        }
    }
}

/// The rows that an outcome speaks of, as far as it says which. Where it does not, none: a live delivery may be lost, but
/// nothing is delivered that was not stored.
fn stored_then(chunk: &Chunk, outcome: &ChunkOutcome) -> Stored {
    if outcome.is_all(chunk.rows.len()) {
        return Stored::All;
    }
    let n_known = outcome.stored as usize + outcome.dead.len();
    if n_known != chunk.rows.len() {
        return Stored::Rows(Vec::new());
    }
    let is_dead = |row: &usize| outcome.dead.iter().any(|dead| dead.row == chunk.numbers[*row]);
    let rows = (0..chunk.rows.len()).filter(|row| !is_dead(row));
    Stored::Rows(rows.map(|row| row as u32).collect())
}
