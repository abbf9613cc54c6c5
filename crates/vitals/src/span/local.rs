//! The figures of one thread, and how they outlive it.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::buckets::{Buckets, bump};
use super::figures::Reading;
use super::site::{self, Cost, SITES_MAX};

/// What one thread counted of one function: written by it alone, read by anybody.
pub(super) struct Cells {
    calls: AtomicU64,
    time_ns: AtomicU64,
    /// Without calls inside calls of the same function.
    total_ns: AtomicU64,
    max_ns: AtomicU64,
    allocated_bytes: AtomicU64,
    polls: AtomicU64,
    awaiting_ns: AtomicU64,
    /// Calls of the function on this thread's stack now.
    depth: AtomicU64,
    buckets: Buckets,
}

/// The cells of one thread by the place of their site; empty until the function is called here.
struct Own {
    cells: OnceCell<Box<[OnceCell<Arc<Cells>>]>>,
}

thread_local!(static OWN: Own = const { Own { cells: OnceCell::new() } });

/// Runs `f` on this thread's cells of the site at `place`; `None` when the thread is past its end.
#[inline]
pub(super) fn with<R>(place: usize, f: impl FnOnce(&Cells) -> R) -> Option<R> {
    OWN.try_with(|own| {
        let cells = own.cells.get().and_then(|all| all[place].get());
        match cells {
            Some(cells) => f(cells),
            None => f(own.join(place)),
        }
    })
    .ok()
}

// === impl Own ===

impl Own {
    #[cold]
    fn join(&self, place: usize) -> &Cells {
        let all = self
            .cells
            .get_or_init(|| (0..SITES_MAX).map(|_| OnceCell::new()).collect());
        all[place].get_or_init(|| {
            let cells = Arc::new(Cells::new());
            site::join(place, &cells);
            cells
        })
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let all = self.cells.get().into_iter().flatten().enumerate();
        for (place, cells) in all.filter_map(|(place, cell)| Some((place, cell.get()?))) {
            site::hand_over(place, cells);
        }
    }
}

// === impl Cells ===

impl Cells {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            calls: zero(),
            time_ns: zero(),
            total_ns: zero(),
            max_ns: zero(),
            allocated_bytes: zero(),
            polls: zero(),
            awaiting_ns: zero(),
            depth: zero(),
            buckets: Buckets::new(),
        }
    }

    /// A call begins; says whether it is the outermost one.
    #[inline]
    pub(super) fn enter(&self) -> bool {
        let depth = self.depth.load(Relaxed);
        self.depth.store(depth + 1, Relaxed);
        depth == 0
    }

    #[inline]
    pub(super) fn leave(&self) {
        self.depth
            .store(self.depth.load(Relaxed).saturating_sub(1), Relaxed);
    }

    #[inline]
    pub(super) fn charge(&self, cost: &Cost) {
        bump(&self.time_ns, cost.ns);
        if cost.outermost {
            bump(&self.total_ns, cost.ns);
            bump(&self.allocated_bytes, cost.allocated_bytes);
        }
    }

    #[inline]
    pub(super) fn call(&self, ns: u64) {
        bump(&self.calls, 1);
        if ns > self.max_ns.load(Relaxed) {
            self.max_ns.store(ns, Relaxed);
        }
        self.buckets.record(ns);
    }

    #[inline]
    pub(super) fn poll(&self) {
        bump(&self.polls, 1);
    }

    pub(super) fn awaited(&self, ns: u64) {
        bump(&self.awaiting_ns, ns);
    }

    pub(super) fn add_to(&self, sum: &mut Reading) {
        let read = |cell: &AtomicU64| cell.load(Relaxed);
        sum.calls += read(&self.calls);
        sum.time_ns += read(&self.time_ns);
        sum.total_ns += read(&self.total_ns);
        sum.max_ns = sum.max_ns.max(read(&self.max_ns));
        sum.allocated_bytes += read(&self.allocated_bytes);
        sum.polls += read(&self.polls);
        sum.awaiting_ns += read(&self.awaiting_ns);
        self.buckets.add_to(&mut sum.distribution);
    }
}
