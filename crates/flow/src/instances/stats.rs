//! What a registry of instances counts; hits in cells of their threads, because they are the hot path.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
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

/// Threads take them in turn.
const CELLS: usize = 8;

static NEXT_CELL: AtomicUsize = AtomicUsize::new(0);
thread_local! {
    static CELL: usize = NEXT_CELL.fetch_add(1, Relaxed) % CELLS;
}

// === impl Counts ===

impl Counts {
    pub(super) fn hit(&self) {
        // A thread that is ending has no cell any more.
        let cell = CELL.try_with(|cell| *cell).unwrap_or(0);
        self.hits[cell].0.fetch_add(1, Relaxed);
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
