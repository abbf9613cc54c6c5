//! A counter sharded over threads: adding costs one uncontended atomic.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Only grows; wraps after 2⁶⁴. Clones count into the same figure.
#[derive(Clone, Debug)]
pub struct Counter(pub(super) Arc<CounterCells>);

/// The cells behind a [`Counter`], one per thread shard.
#[derive(Debug)]
pub(super) struct CounterCells(Box<[Cell]>);

/// Two lines wide, because processors fetch lines in pairs.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Cell(AtomicU64);

/// Cells per core. Threads take cells in turn and there are more threads than cores; with spare cells two busy
/// threads seldom share one.
const THREAD_SHARDS_PER_CORE: usize = 4;
/// More cells than this only cost memory: 2 KB a counter.
const THREAD_SHARDS_MAX: usize = 16;

// === impl Counter ===

impl Counter {
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.0[thread_shard()].0.fetch_add(n, Relaxed);
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// What has been added so far; adds running at the same time may be missing.
    pub fn get(&self) -> u64 {
        self.0.sum()
    }
}

// === impl CounterCells ===

impl CounterCells {
    pub(super) fn new() -> Self {
        Self((0..thread_shards()).map(|_| Cell::default()).collect())
    }

    pub(super) fn sum(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, cell| sum.wrapping_add(cell.0.load(Relaxed)))
    }
}

/// How many shards per-thread figures have: a power of two.
pub(super) fn thread_shards() -> usize {
    static SHARDS: OnceLock<usize> = OnceLock::new();
    *SHARDS.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        (cores.next_power_of_two() * THREAD_SHARDS_PER_CORE).min(THREAD_SHARDS_MAX)
    })
}

/// The shard of the calling thread, given out in turn when the thread first counts.
#[inline]
pub(super) fn thread_shard() -> usize {
    const UNSET: usize = usize::MAX;
    thread_local!(static SHARD: std::cell::Cell<usize> = const { std::cell::Cell::new(UNSET) });

    #[cold]
    fn assign() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shard = NEXT.fetch_add(1, Relaxed) % thread_shards();
        SHARD.with(|own| own.set(shard));
        shard
    }

    match SHARD.with(std::cell::Cell::get) {
        UNSET => assign(),
        shard => shard,
    }
}
