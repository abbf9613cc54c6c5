//! Locks that say how often and how long they were waited for.
//!
//! They are std's, with std's poisoning, so that a change is one of type and constructor. A lock that is free costs
//! one try and one addition more; only who has to wait reads the clock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{
    LockResult, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    TryLockError,
};

use crate::clock::{Clock, Instant};
use crate::span::{Buckets, Distribution};

/// A mutex whose acquisitions and waits are counted under its name.
pub struct TimedMutex<T> {
    cells: &'static Cells,
    inner: Mutex<T>,
}

/// A read-write lock whose acquisitions and waits are counted under its name; both kinds count alike.
pub struct TimedRwLock<T> {
    cells: &'static Cells,
    inner: RwLock<T>,
}

/// The figures of all locks of one name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// The name given to the constructor.
    pub name: String,
    /// Times it was taken.
    pub acquisitions: u64,
    /// Of those, times that somebody else held it.
    pub contended: u64,
    /// All time spent waiting.
    pub wait_ns: u64,
    /// Half of the waits were shorter.
    pub wait_p50_ns: u64,
    /// 99 % of the waits were shorter.
    pub wait_p99_ns: u64,
    /// The longest wait.
    pub wait_max_ns: u64,
}

/// Counts of one name at one moment, for differences.
#[derive(Debug, Clone)]
pub struct Reading {
    name: &'static str,
    acquisitions: u64,
    contended: u64,
    wait_ns: u64,
    wait_max_ns: u64,
    waits: Distribution,
}

/// Names with figures of their own; the locks of later names count together as [`OTHER`]. Names are written in code,
/// so only a fault reaches it.
pub const NAMES_MAX: usize = 256;
/// The name under which locks beyond [`NAMES_MAX`] count.
pub const OTHER: &str = "other";

/// Shared by all locks of one name; lives as long as the process, as names do.
struct Cells {
    name: &'static str,
    acquisitions: AtomicU64,
    contended: AtomicU64,
    wait_ns: AtomicU64,
    wait_max_ns: AtomicU64,
    /// 4.6 KiB, made at the first wait.
    waits: OnceLock<Box<Buckets>>,
}

static NAMES: Mutex<BTreeMap<&'static str, &'static Cells>> = Mutex::new(BTreeMap::new());

// === impl TimedMutex ===

impl<T> TimedMutex<T> {
    /// A free mutex; those of one name share their figures.
    pub fn new(name: &'static str, value: T) -> Self {
        Self {
            cells: cells_of(name),
            inner: Mutex::new(value),
        }
    }

    /// Takes the lock and counts.
    ///
    /// # Errors
    /// As std's: somebody panicked while holding it.
    #[inline]
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self.inner.try_lock() {
            Ok(guard) => {
                self.cells.taken();
                Ok(guard)
            }
            Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
            Err(TryLockError::WouldBlock) => self.cells.wait(|| self.inner.lock()),
        }
    }

    /// The value, without locking.
    ///
    /// # Errors
    /// As std's: somebody panicked while holding it.
    pub fn into_inner(self) -> LockResult<T> {
        self.inner.into_inner()
    }
}

impl<T: fmt::Debug> fmt::Debug for TimedMutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimedMutex({:?}, {:?})", self.cells.name, self.inner)
    }
}

// === impl TimedRwLock ===

impl<T> TimedRwLock<T> {
    /// A free lock; those of one name share their figures.
    pub fn new(name: &'static str, value: T) -> Self {
        Self {
            cells: cells_of(name),
            inner: RwLock::new(value),
        }
    }

    /// Takes it for reading and counts.
    ///
    /// # Errors
    /// As std's: somebody panicked while writing.
    #[inline]
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        match self.inner.try_read() {
            Ok(guard) => {
                self.cells.taken();
                Ok(guard)
            }
            Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
            Err(TryLockError::WouldBlock) => self.cells.wait(|| self.inner.read()),
        }
    }

    /// Takes it for writing and counts.
    ///
    /// # Errors
    /// As std's: somebody panicked while writing.
    #[inline]
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        match self.inner.try_write() {
            Ok(guard) => {
                self.cells.taken();
                Ok(guard)
            }
            Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
            Err(TryLockError::WouldBlock) => self.cells.wait(|| self.inner.write()),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for TimedRwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimedRwLock({:?}, {:?})", self.cells.name, self.inner)
    }
}

// === impl Cells ===

impl Cells {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            acquisitions: AtomicU64::new(0),
            contended: AtomicU64::new(0),
            wait_ns: AtomicU64::new(0),
            wait_max_ns: AtomicU64::new(0),
            waits: OnceLock::new(),
        }
    }

    #[inline]
    fn taken(&self) {
        self.acquisitions.fetch_add(1, Relaxed);
    }

    /// Counted before the wait too, so that a lock that is waited for now is seen.
    #[cold]
    fn wait<R>(&self, lock: impl FnOnce() -> R) -> R {
        let clock = Clock::real();
        let start = clock.now();
        self.contended.fetch_add(1, Relaxed);
        let guard = lock();
        self.waited(start, clock.now());
        guard
    }

    fn waited(&self, start: Instant, end: Instant) {
        let ns = end.since(start).as_nanos() as u64;
        self.taken();
        self.wait_ns.fetch_add(ns, Relaxed);
        self.wait_max_ns.fetch_max(ns, Relaxed);
        self.waits
            .get_or_init(|| Box::new(Buckets::new()))
            .record_shared(ns);
    }

    fn reading(&self) -> Reading {
        let mut waits = Distribution::new();
        if let Some(buckets) = self.waits.get() {
            buckets.add_to(&mut waits);
        }
        Reading {
            name: self.name,
            acquisitions: self.acquisitions.load(Relaxed),
            contended: self.contended.load(Relaxed),
            wait_ns: self.wait_ns.load(Relaxed),
            wait_max_ns: self.wait_max_ns.load(Relaxed),
            waits,
        }
    }
}

fn cells_of(name: &'static str) -> &'static Cells {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let is_full = names.len() >= NAMES_MAX && !names.contains_key(name);
    let name = if is_full { OTHER } else { name };
    names
        .entry(name)
        .or_insert_with(|| Box::leak(Box::new(Cells::new(name))))
}

// === Reading ===

/// Every name with its counts.
pub fn readings() -> Vec<Reading> {
    let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    names.values().map(|cells| cells.reading()).collect()
}

/// The figures of every name, by falling time waited.
pub fn figures() -> Vec<Figures> {
    sorted(readings().iter().map(Reading::figures).collect())
}

/// What came between two readings.
pub(super) fn between(earlier: &[Reading], later: &[Reading]) -> Vec<Figures> {
    let since = |now: &Reading| match earlier.iter().find(|then| then.name == now.name) {
        Some(then) => now.since(then).figures(),
        None => now.figures(),
    };
    sorted(later.iter().map(since).collect())
}

fn sorted(mut all: Vec<Figures>) -> Vec<Figures> {
    all.sort_by(|a, b| b.wait_ns.cmp(&a.wait_ns).then_with(|| a.name.cmp(&b.name)));
    all
}

impl Reading {
    /// What came since `earlier`, of the same name.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let waits = self.waits.since(&earlier.waits);
        Self {
            name: self.name,
            acquisitions: self.acquisitions.saturating_sub(earlier.acquisitions),
            contended: self.contended.saturating_sub(earlier.contended),
            wait_ns: self.wait_ns.saturating_sub(earlier.wait_ns),
            wait_max_ns: self.wait_max_ns.min(waits.max()),
            waits,
        }
    }

    /// Name, acquisitions, contended ones, nanoseconds waited.
    pub(super) fn totals(&self) -> (&'static str, u64, u64, u64) {
        (self.name, self.acquisitions, self.contended, self.wait_ns)
    }

    /// The figures people look at.
    pub fn figures(&self) -> Figures {
        let quantile = |q| self.waits.quantile(q).min(self.wait_max_ns);
        Figures {
            name: self.name.to_owned(),
            acquisitions: self.acquisitions,
            contended: self.contended,
            wait_ns: self.wait_ns,
            wait_p50_ns: quantile(0.5),
            wait_p99_ns: quantile(0.99),
            wait_max_ns: self.wait_max_ns,
        }
    }
}
