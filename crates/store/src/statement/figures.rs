//! What is counted for a fingerprint or a table.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::histogram::Histogram;

/// A statement that ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) wait_ns: u64,
    pub(super) execute_ns: u64,
    pub(super) fetch_ns: u64,
    pub(super) rows: u64,
    pub(super) end: End,
    pub(super) is_slow: bool,
}

/// How a statement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Ok,
    Failed,
    Cancelled,
}

/// Sums and distributions of runs.
#[derive(Debug, Clone)]
pub(super) struct Figures {
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) cancelled: u64,
    pub(super) slow: u64,
    pub(super) rows: u64,
    pub(super) wait: Part,
    pub(super) execute: Part,
    pub(super) fetch: Part,
    /// Wait, execute and fetch together.
    pub(super) total: Part,
}

/// Figures that several threads record into without waiting for each other: one that finds the first half taken uses the
/// second. A thread that the system stops in the middle of a record would otherwise stop every other statement.
#[derive(Debug)]
pub(super) struct Split {
    first: Mutex<Figures>,
    /// Made when it is first needed.
    second: Mutex<Option<Box<Figures>>>,
}

/// One part of the time of statements.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(super) sum_ns: u64,
    pub(super) max_ns: u64,
    histogram: Histogram,
}

impl Run {
    /// The time the database was at work, or somebody took its rows.
    pub(super) const fn busy_ns(&self) -> u64 {
        self.execute_ns + self.fetch_ns
    }
}

impl Figures {
    pub(super) fn new() -> Self {
        Self {
            calls: 0,
            errors: 0,
            cancelled: 0,
            slow: 0,
            rows: 0,
            wait: Part::new(),
            execute: Part::new(),
            fetch: Part::new(),
            total: Part::new(),
        }
    }

    #[inline]
    pub(super) fn record(&mut self, run: &Run) {
        self.calls += 1;
        self.errors += u64::from(run.end == End::Failed);
        self.cancelled += u64::from(run.end == End::Cancelled);
        self.slow += u64::from(run.is_slow);
        self.rows += run.rows;
        self.wait.record(run.wait_ns);
        self.execute.record(run.execute_ns);
        self.fetch.record(run.fetch_ns);
        self.total.record(run.wait_ns + run.busy_ns());
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.cancelled += other.cancelled;
        self.slow += other.slow;
        self.rows += other.rows;
        self.wait.merge(&other.wait);
        self.execute.merge(&other.execute);
        self.fetch.merge(&other.fetch);
        self.total.merge(&other.total);
    }
}

impl Split {
    pub(super) fn new() -> Self {
        Self {
            first: Mutex::new(Figures::new()),
            second: Mutex::new(None),
        }
    }

    /// Counts a run, unless `is_closed` says that these figures were given away.
    pub(super) fn record(&self, run: &Run, is_closed: impl Fn() -> bool) -> bool {
        if let Ok(mut figures) = self.first.try_lock() {
            if is_closed() {
                return false;
            }
            figures.record(run);
            return true;
        }
        let mut second = lock(&self.second);
        if is_closed() {
            return false;
        }
        second.get_or_insert_with(|| Box::new(Figures::new())).record(run);
        true
    }

    /// All that was counted; `close` runs while nobody can count.
    pub(super) fn take(&self, close: impl FnOnce()) -> Figures {
        let first = lock(&self.first);
        let second = lock(&self.second);
        close();
        let mut all = first.clone();
        if let Some(second) = second.as_deref() {
            all.merge(second);
        }
        all
    }

    pub(super) fn merge(&self, other: &Figures) {
        lock(&self.first).merge(other);
    }
}

/// A panic under these locks leaves figures that are still figures.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Part {
    pub(crate) fn new() -> Self {
        Self {
            sum_ns: 0,
            max_ns: 0,
            histogram: Histogram::new(),
        }
    }

    #[inline]
    pub(crate) fn record(&mut self, ns: u64) {
        self.sum_ns += ns;
        self.max_ns = self.max_ns.max(ns);
        self.histogram.record(ns);
    }

    fn merge(&mut self, other: &Self) {
        self.sum_ns += other.sum_ns;
        self.max_ns = self.max_ns.max(other.max_ns);
        self.histogram.merge(&other.histogram);
    }

    pub(super) fn quantile_ns(&self, p: f64) -> u64 {
        self.histogram.quantile(p, self.max_ns)
    }
}
