//! The records of one feed: those that wait for their fsync, those on the disk, and those being replayed.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tidegate_seglog::{Log, Position, Reader};
use tidegate_vitals::{Clock, Guard};
use tokio::sync::oneshot;

use super::{
    FeedStats,
    budget::Budget,
    config::Config,
    error,
    meters::Meters,
    record::{Dated, Record},
};
use crate::{
    error::{Error, Result},
    relief::Account,
};

/// The spool of one feed.
///
/// Locks are taken in the order `replay`, `log`, `counts`. The first two are held while the disk works, so only
/// threads that may block take them; `waiting` and `counts` never meet the disk.
pub(super) struct Line {
    feed: String,
    waiting: Mutex<Waiting>,
    /// None until the first record: a feed that never spools has no files.
    log: Mutex<Option<Log>>,
    replay: Mutex<Replay>,
    counts: Mutex<FeedStats>,
}

/// What all feeds share.
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) clock: Clock,
    pub(super) budget: Budget,
    pub(super) meters: Meters,
    pub(super) account: Account,
}

/// A record that waits for its fsync.
struct Waiter {
    bytes: Vec<u8>,
    n_rows: u32,
    at_ms: u64,
    /// Given back when the record is on the disk, or was refused.
    _memory: Guard,
    answer: oneshot::Sender<Result<()>>,
}

#[derive(Default)]
struct Waiting {
    /// Bounded by `waiting_max` rows.
    queue: Vec<Waiter>,
    n_rows: usize,
    /// Records taken off the queue that have no answer yet.
    n_writing: usize,
    /// Whether a thread works on the queue; it goes on until the queue is empty.
    is_committing: bool,
}

/// What was read and is not done.
#[derive(Default)]
struct Replay {
    reader: Option<Reader>,
    /// Bounded by [`AHEAD_MAX`] records and [`AHEAD_BYTES_MAX`].
    ahead: VecDeque<Ahead>,
    ahead_bytes: usize,
    /// Damage that is counted already.
    damaged_records: u64,
    /// A whole record that cannot be understood. It is kept, and nothing behind it is given out.
    stuck: Option<Error>,
}

struct Ahead {
    /// Just behind the record.
    next: Position,
    dated: Dated,
    /// None: there was none to be had. Then nothing more is read until this record is done.
    memory: Option<Guard>,
}

/// Most records that are read and not done.
const AHEAD_MAX: usize = 4_096;
/// Most bytes of rows that are read and not done; one record is always read.
const AHEAD_BYTES_MAX: usize = 64 << 20;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Line ===

impl Line {
    pub(super) fn new(feed: &str) -> Self {
        Self {
            feed: feed.to_owned(),
            waiting: Mutex::default(),
            log: Mutex::default(),
            replay: Mutex::default(),
            counts: Mutex::new(FeedStats {
                feed: feed.to_owned(),
                ..FeedStats::default()
            }),
        }
    }

    /// Opens the log of a feed that has files, and counts what waits in it. Blocks on the disk.
    pub(super) fn recover(feed: &str, shared: &Shared) -> Result<Self> {
        let line = Self::new(feed);
        let log = line.open_log(shared)?;
        if let Some(aside) = log.recovery().set_aside.first() {
            tracing::error!(feed, file = %aside.display(), "file of the spool is damaged, set aside");
        }
        let mut counts = FeedStats {
            damaged_records: log.recovery().lost_records,
            bytes: log.bytes(),
            ..lock(&line.counts).clone()
        };
        let mut reader = log.reader(log.head());
        while let Some(record) = reader.read().map_err(error::of_log)? {
            counts.records += 1;
            match Dated::decode(&record.payload.into()) {
                Ok(Dated { at_ms, record }) => {
                    counts.rows += u64::from(record.n_rows);
                    counts.oldest_at_ms.get_or_insert(at_ms);
                }
                Err(problem) => tracing::error!(feed, problem, "record of the spool cannot be understood"),
            }
        }
        let damaged = reader.damage().records;
        counts.damaged_records += damaged;
        if counts.damaged_records > 0 {
            let records = counts.damaged_records;
            tracing::error!(feed, records, "records of the spool are damaged and lost");
        }
        // Replay will come upon them again.
        lock(&line.replay).damaged_records = damaged;
        shared.meters.rows.add(counts.rows as i64);
        *lock(&line.counts) = counts;
        *lock(&line.log) = Some(log);
        Ok(line)
    }

    /// Whether nothing waits, neither on the disk nor for its fsync.
    pub(super) fn is_empty(&self) -> bool {
        let waiting = lock(&self.waiting);
        // In this order: a record leaves `waiting` only after it is counted.
        waiting.queue.is_empty() && waiting.n_writing == 0 && lock(&self.counts).records == 0
    }

    pub(super) fn stats(&self) -> FeedStats {
        lock(&self.counts).clone()
    }

    // --- Appending ---

    /// Queues a record. If the answer says `true`, the caller must have [`Line::commit`] run.
    pub(super) fn enqueue(
        &self,
        record: &Record,
        mut memory: Guard,
        shared: &Shared,
    ) -> Result<(oneshot::Receiver<Result<()>>, bool)> {
        let at_ms = shared.clock.wall_ms();
        shared.account.resize(&mut memory, record.bytes_max())?;
        let bytes = record.encode(at_ms)?;
        let (answer, answered) = oneshot::channel();
        let mut waiting = lock(&self.waiting);
        let limit = shared.config.waiting_max;
        if waiting.n_rows >= limit {
            return Err(Error::BacklogFull {
                waiting: waiting.n_rows,
                limit,
            });
        }
        waiting.n_rows += record.n_rows as usize;
        waiting.queue.push(Waiter {
            bytes,
            n_rows: record.n_rows,
            at_ms,
            _memory: memory,
            answer,
        });
        let must_start = !std::mem::replace(&mut waiting.is_committing, true);
        Ok((answered, must_start))
    }

    /// Writes what is queued, one fsync for all that came during the one before, until nothing is. Blocks on the disk.
    pub(super) fn commit(&self, shared: &Shared) {
        let finish = Finish(self);
        while let Some(group) = self.take_group() {
            let results = self.write_group(&group, shared);
            self.settle_group(group, results);
        }
        std::mem::forget(finish);
    }

    fn take_group(&self) -> Option<Vec<Waiter>> {
        let mut waiting = lock(&self.waiting);
        if waiting.queue.is_empty() {
            waiting.is_committing = false;
            return None;
        }
        let group = std::mem::take(&mut waiting.queue);
        waiting.n_writing = group.len();
        waiting.n_rows = 0;
        Some(group)
    }

    /// What became of each record of the group.
    fn write_group(&self, group: &[Waiter], shared: &Shared) -> Vec<Result<()>> {
        let mut log = lock(&self.log);
        if log.is_none() {
            match self.open_log(shared) {
                Ok(opened) => *log = Some(opened),
                Err(error) => return group.iter().map(|_| Err(error.clone())).collect(),
            }
        }
        let open = log.as_mut().expect("it was opened just now");
        let mut results: Vec<Result<Position>> = Vec::with_capacity(group.len());
        for waiter in group {
            // Before it can be read: whoever replays it counts it off.
            self.count(waiter, shared);
            let appended = shared.budget.spend(open, |log| log.append(&waiter.bytes));
            let appended = appended.map_err(|error| {
                if matches!(error, tidegate_seglog::Error::Withdrawn { .. }) {
                    take_back(&mut results, open.synced(), &error);
                }
                shared.budget.error(error)
            });
            results.push(appended);
        }
        if let Some(syncing) = open.start_sync() {
            // Replay goes on while the disk works.
            drop(log);
            let started = shared.clock.now();
            let synced = syncing.run();
            let elapsed = shared.clock.now() - started;
            shared.meters.sync.record(elapsed.as_nanos() as u64);
            log = lock(&self.log);
            let open = log.as_mut().expect("nothing closes a log");
            if let Err(error) = shared.budget.spend(open, |log| log.finish_sync(synced)) {
                tracing::error!(feed = self.feed, %error, "the disk of the spool failed");
                take_back(&mut results, open.synced(), &error);
            }
        }
        for (waiter, _) in group.iter().zip(&results).filter(|(_, result)| result.is_err()) {
            self.count_off(1, u64::from(waiter.n_rows), shared);
        }
        let bytes = log.as_ref().map_or(0, Log::bytes);
        lock(&self.counts).bytes = bytes;
        results.into_iter().map(|result| result.map(|_| ())).collect()
    }

    fn count(&self, waiter: &Waiter, shared: &Shared) {
        let mut counts = lock(&self.counts);
        counts.records += 1;
        counts.rows += u64::from(waiter.n_rows);
        counts.oldest_at_ms.get_or_insert(waiter.at_ms);
        shared.meters.rows.add(i64::from(waiter.n_rows));
    }

    /// Records that wait no longer. How many rows a damaged one held nobody knows any more: with the last record, all
    /// rows go.
    fn count_off(&self, n_records: u64, n_rows: u64, shared: &Shared) {
        let mut counts = lock(&self.counts);
        counts.records = counts.records.saturating_sub(n_records);
        let n_rows = match counts.records {
            0 => counts.rows,
            _ => n_rows.min(counts.rows),
        };
        counts.rows -= n_rows;
        shared.meters.rows.add(-(n_rows as i64));
        if counts.records == 0 {
            counts.oldest_at_ms = None;
        }
    }

    fn settle_group(&self, group: Vec<Waiter>, results: Vec<Result<()>>) {
        lock(&self.waiting).n_writing = 0;
        for (waiter, result) in group.into_iter().zip(results) {
            // Who no longer waits for the answer finds the record by its claim.
            let _ = waiter.answer.send(result);
        }
    }

    fn open_log(&self, shared: &Shared) -> Result<Log> {
        let dir = shared.config.dir.join(&self.feed);
        let log = Log::open(dir, shared.config.log()).map_err(error::of_log)?;
        shared.budget.add(log.bytes());
        Ok(log)
    }

    // --- Replaying ---

    /// The oldest record that is not done, if it is read already and nobody is busy with the disk.
    pub(super) fn next_at_hand(&self) -> Option<(Position, Record)> {
        let replay = self.replay.try_lock().ok()?;
        replay.ahead.front().map(Ahead::give)
    }

    /// The oldest record that is not done, or the one behind `after`. Blocks on the disk.
    pub(super) fn next(
        &self,
        after: Option<Position>,
        shared: &Shared,
    ) -> Result<Option<(Position, Record)>> {
        let mut replay = lock(&self.replay);
        let known = |ahead: &Ahead| after.is_none_or(|after| ahead.next > after);
        if let Some(ahead) = replay.ahead.iter().find(|ahead| known(ahead)) {
            return Ok(Some(ahead.give()));
        }
        let is_short = replay.ahead.back().is_some_and(|last| last.memory.is_none());
        let is_full = is_short || replay.ahead.len() >= AHEAD_MAX || replay.ahead_bytes >= AHEAD_BYTES_MAX;
        if is_full || !self.read_ahead(&mut replay, shared)? {
            return Ok(None);
        }
        Ok(replay.ahead.back().map(Ahead::give))
    }

    /// Everything before `position` is stored. Blocks on the disk.
    pub(super) fn done(&self, position: Position, shared: &Shared) -> Result<()> {
        let mut replay = lock(&self.replay);
        let (mut n_records, mut n_rows) = (0, 0);
        while let Some(ahead) = replay.ahead.pop_front_if(|ahead| ahead.next <= position) {
            replay.ahead_bytes -= ahead.dated.record.rows.len();
            n_records += 1;
            n_rows += u64::from(ahead.dated.record.n_rows);
        }
        let released = self.release(position, shared);
        self.count_off(n_records, n_rows, shared);
        shared.meters.replayed.add(n_rows);
        // Read now, because its date is the age of the spool from here on.
        let read = match replay.ahead.is_empty() {
            true => self.read_ahead(&mut replay, shared).map(drop),
            false => Ok(()),
        };
        if let Some(oldest) = replay.ahead.front() {
            lock(&self.counts).oldest_at_ms = Some(oldest.dated.at_ms);
        }
        released.and(read)
    }

    /// Releases the log before `position`, and gives back the last file when nothing is left.
    fn release(&self, position: Position, shared: &Shared) -> Result<()> {
        let mut log = lock(&self.log);
        let Some(open) = log.as_mut() else { return Ok(()) };
        let released = shared.budget.spend(open, |log| {
            log.release(position)?;
            if log.is_empty() {
                log.shrink().map(drop)
            } else {
                Ok(())
            }
        });
        lock(&self.counts).bytes = open.bytes();
        released.map_err(error::of_log)
    }

    /// Reads one more record; says whether there was one.
    fn read_ahead(&self, replay: &mut Replay, shared: &Shared) -> Result<bool> {
        if let Some(error) = &replay.stuck {
            return Err(error.clone());
        }
        if replay.reader.is_none() {
            let log = lock(&self.log);
            let Some(open) = log.as_ref() else {
                return Ok(false);
            };
            replay.reader = Some(open.reader(open.head()));
        }
        let reader = replay.reader.as_mut().expect("it was made just now");
        let read = reader.read().map_err(error::of_log)?;
        let (position, damaged) = (reader.position(), reader.damage().records);
        self.count_damage(replay, damaged, shared);
        let Some(record) = read else {
            if replay.ahead.is_empty() {
                // Damaged records at the end must not keep the feed spooling for ever.
                self.release(position, shared)?;
            }
            return Ok(false);
        };
        let dated = match Dated::decode(&Bytes::from(record.payload)) {
            Ok(dated) => dated,
            Err(problem) => {
                let error = Error::Config {
                    what: format!("spool of feed {}", self.feed),
                    problem: format!("record {}: {problem}", record.position.number()),
                };
                replay.stuck = Some(error.clone());
                return Err(error);
            }
        };
        let n_bytes = dated.record.rows.len();
        replay.ahead_bytes += n_bytes;
        replay.ahead.push_back(Ahead {
            next: record.next,
            dated,
            // One record is read, memory or not: what was acknowledged must come back, and its end gives memory back.
            memory: shared.account.reserve(n_bytes).ok(),
        });
        Ok(true)
    }

    fn count_damage(&self, replay: &mut Replay, damaged: u64, shared: &Shared) {
        let more = damaged.saturating_sub(replay.damaged_records);
        if more == 0 {
            return;
        }
        replay.damaged_records = damaged;
        tracing::error!(
            feed = self.feed,
            records = more,
            "records of the spool are damaged and lost"
        );
        lock(&self.counts).damaged_records += more;
        self.count_off(more, 0, shared);
    }
}

/// Marks records from `synced` on as failed: the log took them back.
fn take_back(results: &mut [Result<Position>], synced: Position, error: &tidegate_seglog::Error) {
    for result in results {
        if result.as_ref().is_ok_and(|position| *position >= synced) {
            *result = Err(error::io_error(error::text(error)));
        }
    }
}

/// Lets others go on should [`Line::commit`] panic: the queue is dropped, which its callers see as an error.
struct Finish<'a>(&'a Line);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        *lock(&self.0.waiting) = Waiting::default();
    }
}

// === impl Ahead ===

impl Ahead {
    fn give(&self) -> (Position, Record) {
        (self.next, self.dated.record.clone())
    }
}
