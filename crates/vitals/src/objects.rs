//! How many objects of each kind are alive: connections, sessions, rooms, timers, tasks, statements.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metric::{Gauge, Id, Registry};

/// The kinds of objects of a process. Clones are the same list.
#[derive(Clone)]
pub struct Objects(Arc<Inner>);

/// The count of one kind; clones count the same.
#[derive(Debug, Clone)]
pub struct Count(Arc<Cells>);

/// One object alive; it is counted until it is dropped.
#[derive(Debug)]
#[must_use = "an object that is dropped is no longer alive"]
pub struct Held(Arc<Cells>);

/// What is known of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindStats {
    /// The kind.
    pub name: &'static str,
    /// Alive now.
    pub live: u64,
    /// The most that were alive at once.
    pub peak: u64,
}

struct Inner {
    registry: Registry,
    kinds: Mutex<Vec<Arc<Cells>>>,
}

#[derive(Debug)]
struct Cells {
    name: &'static str,
    live: AtomicU64,
    peak: AtomicU64,
    live_gauge: Gauge,
    peak_gauge: Gauge,
}

/// As many as the label of the table has values: kinds are written in code.
const KINDS_MAX: usize = 32;

// === impl Objects ===

impl Objects {
    /// No kinds yet.
    pub fn new(registry: &Registry) -> Self {
        Self(Arc::new(Inner {
            registry: registry.clone(),
            kinds: Mutex::default(),
        }))
    }

    /// The count of a kind, new or known.
    ///
    /// # Panics
    /// With more than 32 kinds.
    pub fn kind(&self, name: &'static str) -> Count {
        let mut kinds = self.kinds();
        if let Some(known) = kinds.iter().find(|kind| kind.name == name) {
            return Count(Arc::clone(known));
        }
        assert!(kinds.len() < KINDS_MAX, "more than {KINDS_MAX} kinds of objects");
        let cells = Arc::new(Cells {
            name,
            live: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            live_gauge: self.0.registry.gauge(Id::ObjectsLive, &[name]),
            peak_gauge: self.0.registry.gauge(Id::ObjectsPeak, &[name]),
        });
        kinds.push(Arc::clone(&cells));
        Count(cells)
    }

    /// All kinds, in the order in which they came.
    pub fn list(&self) -> Vec<KindStats> {
        self.kinds().iter().map(|kind| kind.stats()).collect()
    }

    /// How many of a kind are alive.
    pub fn live(&self, name: &str) -> Option<u64> {
        let kinds = self.kinds();
        let kind = kinds.iter().find(|kind| kind.name == name)?;
        Some(kind.live.load(Relaxed))
    }

    /// Writes the figures; its owner calls it once a second.
    pub fn tick(&self) {
        for kind in &*self.kinds() {
            let stats = kind.stats();
            kind.live_gauge.set(stats.live as i64);
            kind.peak_gauge.set(stats.peak as i64);
        }
    }

    fn kinds(&self) -> MutexGuard<'_, Vec<Arc<Cells>>> {
        self.0.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.list()).finish()
    }
}

// === impl Count ===

impl Count {
    /// Counts one more until the result is dropped.
    pub fn hold(&self) -> Held {
        let live = self.0.live.fetch_add(1, Relaxed) + 1;
        self.0.peak.fetch_max(live, Relaxed);
        Held(Arc::clone(&self.0))
    }

    /// Sets the number, for owners that count by themselves; not together with [`Count::hold`].
    pub fn set(&self, live: u64) {
        self.0.live.store(live, Relaxed);
        self.0.peak.fetch_max(live, Relaxed);
    }

    /// What is known of the kind.
    pub fn stats(&self) -> KindStats {
        self.0.stats()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Relaxed);
    }
}

// === impl Cells ===

impl Cells {
    fn stats(&self) -> KindStats {
        KindStats {
            name: self.name,
            live: self.live.load(Relaxed),
            peak: self.peak.load(Relaxed),
        }
    }
}
