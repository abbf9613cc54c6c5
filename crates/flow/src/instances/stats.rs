//! What a registry of instances counts; hits in cells of their threads, because they are the hot path.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

/// How a registry stands, and what it has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Instances, those in creation and dead weak ones not yet cleared included.
    pub alive: usize,
    /// Instances created.
    pub created: u64,
    /// Calls that found theirs.
    pub hits: u64,
    /// Creations that gave an error.
    pub failed: u64,
    /// Calls refused for lack of room.
    pub refused: u64,
    /// Calls that waited for the creation of another.
    pub waited: u64,
    /// Time of all creations that gave an instance.
    pub creation: Duration,
    /// The longest of them.
    pub creation_max: Duration,
}

#[derive(Default)]
pub(super) struct Counts {
    hits: [Cell; CELLS],
    created: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    waited: AtomicU64,
    creation_ns: AtomicU64,
    creation_max_ns: AtomicU64,
}

/// Two lines wide, because processors fetch lines in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Cell(AtomicU64);

/// The last is shared; each other has at most one thread at a time, which adds without a locked instruction.
const CELLS: usize = 17;
const SHARED: usize = CELLS - 1;

/// The cells of all registries that no thread has, a bit each.
static FREE: AtomicU32 = AtomicU32::new((1 << SHARED) - 1);
thread_local! {
    static CELL: Own = Own::take();
}

/// A thread's cell; given back when the thread ends.
struct Own(usize);

// === impl Own ===

impl Own {
    /// The first free cell, or the shared one.
    #[cold]
    fn take() -> Self {
        let without_first = |free: u32| (free != 0).then(|| free & (free - 1));
        // Acquire: what its thread before has counted is seen before more is added.
        let before = FREE.fetch_update(Acquire, Relaxed, without_first);
        Self(before.map_or(SHARED, |free| free.trailing_zeros() as usize))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.0 != SHARED {
            FREE.fetch_or(1 << self.0, Release);
        }
    }
}

// === impl Counts ===

impl Counts {
    #[inline]
    pub(super) fn hit(&self) {
        // A thread that is ending has no cell any more.
        let at = CELL.try_with(|own| own.0).unwrap_or(SHARED);
        let cell = &self.hits[at].0;
        if at == SHARED {
            cell.fetch_add(1, Relaxed);
        } else {
            cell.store(cell.load(Relaxed) + 1, Relaxed);
        }
    }

    pub(super) fn created(&self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.created.fetch_add(1, Relaxed);
        self.creation_ns.fetch_add(took_ns, Relaxed);
        self.creation_max_ns.fetch_max(took_ns, Relaxed);
    }

    pub(super) fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn waited(&self) {
        self.waited.fetch_add(1, Relaxed);
    }

    pub(super) fn read(&self, alive: usize) -> Stats {
        let read = |cell: &AtomicU64| cell.load(Relaxed);
        Stats {
            alive,
            created: read(&self.created),
            hits: self.hits.iter().map(|cell| read(&cell.0)).sum(),
            failed: read(&self.failed),
            refused: read(&self.refused),
            waited: read(&self.waited),
            creation: Duration::from_nanos(read(&self.creation_ns)),
            creation_max: Duration::from_nanos(read(&self.creation_max_ns)),
        }
    }
}
