//! The rows of one feed that wait, and which of them go together.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_vitals::Registry;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::backend::{Chunk, Plan};
use super::backlog::Room;
use crate::relief::{Reaction, Relieved};

/// A chunk that waits.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) chunk: Chunk,
    /// The declaration under which it was read.
    pub(super) plan: Arc<Plan>,
    /// Its place among the chunks of the feed.
    pub(super) number: u64,
    pub(super) room: Room,
    pub(super) since: Instant,
    pub(super) n_bytes: usize,
}

/// What one commit may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows_max: usize,
    pub(super) bytes_max: usize,
    pub(super) delay: Duration,
    pub(super) writers: usize,
}

/// With so many rows waiting there is no point in waiting for more.
const FULL_ROWS: usize = 1_000;
/// Less room than this for jobs is not worth giving back.
const SPARE_MIN: usize = 16;
/// Feeds with several writers share what waits, but not into commits smaller than this.
const SHARE_ROWS_MIN: usize = 5_000;

/// Jobs in the order in which they came.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    change: Notify,
    /// Batches that memory pressure took before their time.
    flushed: Relieved,
}

#[derive(Debug, Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    n_rows: usize,
    next_number: u64,
    is_closed: bool,
    /// Memory is short: nothing waits for company.
    is_hurried: bool,
}

// === impl Queue ===

impl Queue {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            waiting: Mutex::default(),
            change: Notify::new(),
            flushed: Relieved::new(registry, Reaction::Flush),
        }
    }

    /// Puts jobs at the end, all or none. `false`: the queue is closed.
    pub(super) fn push(&self, jobs: Vec<Job>) -> bool {
        {
            let mut waiting = self.lock();
            if waiting.is_closed {
                return false;
            }
            for mut job in jobs {
                job.number = waiting.next_number;
                waiting.next_number += 1;
                waiting.n_rows += job.chunk.rows.len();
                waiting.jobs.push_back(job);
            }
        }
        self.change.notify_one();
        true
    }

    /// Waits for jobs and takes those that go together. `is_idle`: whoever asks has not just stored
    /// something, so that nothing waits for company. `None`: the queue is closed and empty.
    ///
    /// # Cancel safety
    /// Nothing is taken when it is dropped.
    pub(super) async fn take(&self, limits: Limits, is_idle: bool) -> Option<Vec<Job>> {
        loop {
            let wait = {
                let mut waiting = self.lock();
                match waiting.ripe_at(limits, is_idle) {
                    Ripe::Now => return Some(self.take_now(&mut waiting, limits)),
                    Ripe::At(_) if waiting.is_hurried => {
                        let batch = self.take_now(&mut waiting, limits);
                        let n_bytes: usize = batch.iter().map(|job| job.n_bytes).sum();
                        self.flushed.count(1, n_bytes as u64);
                        return Some(batch);
                    }
                    Ripe::Never => {
                        // Others who wait shall end as well.
                        self.change.notify_one();
                        return None;
                    }
                    Ripe::At(at) => Some(at),
                    Ripe::Empty => None,
                }
            };
            match wait {
                // Whether it is time or something changed, the queue is looked at again.
                Some(at) => drop(timeout_at(at, self.change.notified()).await),
                None => self.change.notified().await,
            }
        }
    }

    /// Takes no more jobs; those that wait are still given out.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.change.notify_one();
    }

    pub(super) fn n_rows(&self) -> usize {
        self.lock().n_rows
    }

    /// Whether rows are stored at once instead of waiting for company.
    pub(super) fn hurry(&self, is_hurried: bool) {
        self.lock().is_hurried = is_hurried;
        if is_hurried {
            self.change.notify_one();
        }
    }

    /// Batches that memory pressure took before their time, over all feeds.
    pub(super) fn n_flushed(&self) -> u64 {
        self.flushed.n()
    }

    /// Gives room back that nothing needs; says how many bytes.
    pub(super) fn shrink(&self) -> usize {
        let jobs = &mut self.lock().jobs;
        let before = jobs.capacity();
        if before > SPARE_MIN.max(4 * jobs.len()) {
            jobs.shrink_to(2 * jobs.len());
        }
        (before - jobs.capacity()) * size_of::<Job>()
    }

    fn take_now(&self, waiting: &mut Waiting, limits: Limits) -> Vec<Job> {
        let batch = waiting.batch(limits);
        if !waiting.jobs.is_empty() || waiting.is_closed {
            self.change.notify_one();
        }
        batch
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under this lock can leave the queue in a bad state.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Ripe {
    Now,
    At(Instant),
    Empty,
    Never,
}

// === impl Waiting ===

impl Waiting {
    fn ripe_at(&self, limits: Limits, is_idle: bool) -> Ripe {
        let Some(oldest) = self.jobs.front() else {
            return if self.is_closed { Ripe::Never } else { Ripe::Empty };
        };
        let at = oldest.since + limits.delay;
        match is_idle || self.is_closed || self.n_rows >= FULL_ROWS || at <= Instant::now() {
            true => Ripe::Now,
            false => Ripe::At(at),
        }
    }

    /// The longest run of jobs from the front that one commit can take.
    fn batch(&mut self, limits: Limits) -> Vec<Job> {
        let share = (self.n_rows / limits.writers).max(SHARE_ROWS_MIN);
        let rows_max = limits.rows_max.min(share);
        let (mut batch, mut n_rows, mut n_bytes): (Vec<Job>, _, _) = (Vec::new(), 0, 0);
        while let Some(job) = self.jobs.front() {
            let rows = job.chunk.rows.len();
            if let Some(first) = batch.first() {
                let goes_along = first.chunk.operation == job.chunk.operation
                    && first.plan.version == job.plan.version
                    && n_rows + rows <= rows_max
                    && n_bytes + job.n_bytes <= limits.bytes_max;
                if !goes_along {
                    break;
                }
            }
            n_rows += rows;
            n_bytes += job.n_bytes;
            batch.extend(self.jobs.pop_front());
        }
        self.n_rows -= n_rows;
        batch
    }
}

#[cfg(test)]
mod tests {
    use tidegate_vitals::{Class, Id, Ledger};

    use super::*;
    use crate::feed::{OnConflict, Operation};
    use crate::ingest::backlog::Backlog;
    use crate::ingest::testing;
    use crate::row::{Format, Reader};

    fn job(backlog: &Backlog, ledger: &Ledger) -> Job {
        let plan = Plan::new(testing::feed("id:int8", OnConflict::Error)).unwrap();
        let reader = Reader::new(&plan.feed, Operation::Insert);
        let parsed = reader.read(Format::Json, br#"[{"id":1}]"#, 0).unwrap();
        let chunk = testing::chunk(Operation::Insert, parsed.chunks.into_iter().next().unwrap());
        let memory = ledger.reserve(Class::Batches, 10).unwrap();
        Job {
            n_bytes: chunk.rows.n_bytes(),
            chunk,
            plan: Arc::new(plan),
            number: 0,
            room: backlog.reserve(1, memory).unwrap(),
            since: Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_company_when_memory_is_short() {
        let (registry, ledger) = (Registry::new(), Ledger::new(1_000));
        let gauge = registry.gauge(Id::StoreIngestBacklog, &[]);
        let backlog = Backlog::new(1_000, gauge, Relieved::new(&registry, Reaction::Refuse));
        let queue = Queue::new(&registry);
        let limits = Limits {
            rows_max: 1_000,
            bytes_max: 1 << 20,
            delay: Duration::from_secs(1),
            writers: 1,
        };
        let started = Instant::now();
        let waited = async |is_hurried: bool| {
            queue.hurry(is_hurried);
            assert!(queue.push(vec![job(&backlog, &ledger)]));
            let since = Instant::now();
            assert_eq!(queue.take(limits, false).await.map(|batch| batch.len()), Some(1));
            since.elapsed()
        };
        assert_eq!(waited(false).await, limits.delay);
        assert_eq!((waited(true).await, queue.n_flushed()), (Duration::ZERO, 1));
        assert_eq!(waited(false).await, limits.delay, "undone at normal");
        // One that waits already learns of it.
        queue.push(vec![job(&backlog, &ledger)]);
        let (batch, ()) = tokio::join!(queue.take(limits, false), async { queue.hurry(true) });
        drop(batch);
        assert_eq!((started.elapsed(), queue.n_flushed()), (2 * limits.delay, 2));
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn room_that_nothing_needs_is_given_back() {
        let (registry, ledger) = (Registry::new(), Ledger::new(100_000));
        let gauge = registry.gauge(Id::StoreIngestBacklog, &[]);
        let backlog = Backlog::new(1_000, gauge, Relieved::new(&registry, Reaction::Refuse));
        let queue = Queue::new(&registry);
        queue.push((0..100).map(|_| job(&backlog, &ledger)).collect());
        assert_eq!(queue.shrink(), 0);
        drop(std::mem::take(&mut queue.lock().jobs));
        queue.lock().jobs.reserve(100);
        assert!(queue.shrink() >= 100 * size_of::<Job>());
    }
}
