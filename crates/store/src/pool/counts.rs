//! The counters of one pool, each mirrored into the process's registry.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use tidegate_vitals::{Counter, Gauge, Histogram, Id, Registry};

use super::shared::Reason;
use super::slot::State;
use crate::relief::{Reaction, Relieved};

/// A counter of this pool and of the process.
pub(super) struct Count {
    own: AtomicU64,
    all: Counter,
}

/// A gauge to which several pools of one process add.
pub(super) struct Level {
    own: AtomicI64,
    all: Gauge,
}

pub(super) struct Counts {
    pub(super) acquires: Count,
    pub(super) reused: Count,
    pub(super) timeouts: Count,
    pub(super) connects: Count,
    pub(super) connect_errors: Count,
    pub(super) leaks: Count,
    closed: [Count; Reason::ALL.len()],
    pub(super) waited: AtomicU64,
    /// Connections closed because memory was short.
    pub(super) relieved: Relieved,
    /// Prepared statements forgotten for that: of this pool, and of the process.
    pub(super) statements: AtomicU64,
    pub(super) relieved_statements: Relieved,
    pub(super) hold: Histogram,
    pub(super) acquire: Histogram,
    by_state: [Level; State::ALL.len()],
    waiting: Level,
    use_ratio: Level,
}

impl Reason {
    pub(super) const ALL: [Self; 8] = [
        Self::Lifetime,
        Self::Idle,
        Self::Overflow,
        Self::Broken,
        Self::Check,
        Self::Drain,
        Self::Closed,
        Self::Pressure,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::Idle => "idle",
            Self::Overflow => "overflow",
            Self::Broken => "broken",
            Self::Check => "check",
            Self::Drain => "drain",
            Self::Closed => "closed",
            Self::Pressure => "pressure",
        }
    }
}

// === impl Count ===

impl Count {
    fn new(all: Counter) -> Self {
        Self {
            own: AtomicU64::new(0),
            all,
        }
    }

    pub(super) fn inc(&self) {
        self.own.fetch_add(1, Relaxed);
        self.all.inc();
    }

    /// Raises the count to `total`, which was counted elsewhere.
    pub(super) fn raise(&self, total: u64) {
        let before = self.own.fetch_max(total, Relaxed);
        self.all.add(total.saturating_sub(before));
    }

    pub(super) fn get(&self) -> u64 {
        self.own.load(Relaxed)
    }
}

// === impl Level ===

impl Level {
    fn new(all: Gauge) -> Self {
        Self {
            own: AtomicI64::new(0),
            all,
        }
    }

    fn set(&self, value: usize) {
        let value = value as i64;
        self.all.add(value - self.own.swap(value, Relaxed));
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.set(0);
    }
}

// === impl Counts ===

impl Counts {
    pub(super) fn new(registry: &Registry) -> Self {
        let count = |id| Count::new(registry.counter(id, &[]));
        let level = |id| Level::new(registry.gauge(id, &[]));
        Self {
            acquires: count(Id::StorePoolAcquires),
            reused: count(Id::StorePoolReused),
            timeouts: count(Id::StorePoolTimeouts),
            connects: count(Id::StorePoolConnects),
            connect_errors: count(Id::StorePoolConnectErrors),
            leaks: count(Id::StorePoolLeaks),
            closed: Reason::ALL
                .map(|reason| Count::new(registry.counter(Id::StorePoolClosed, &[reason.name()]))),
            waited: AtomicU64::new(0),
            relieved: Relieved::new(registry, Reaction::Connections),
            statements: AtomicU64::new(0),
            relieved_statements: Relieved::new(registry, Reaction::Statements),
            hold: registry.histogram(Id::StorePoolHold, &[]),
            acquire: registry.histogram(Id::StorePoolAcquire, &[]),
            by_state: State::ALL
                .map(|state| Level::new(registry.gauge(Id::StorePoolConnections, &[state.name()]))),
            waiting: level(Id::StorePoolWaiting),
            use_ratio: level(Id::StorePoolUse),
        }
    }

    pub(super) fn closed(&self, reason: Reason) {
        self.closed[reason as usize].inc();
    }

    pub(super) fn closed_by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Reason::ALL
            .iter()
            .map(|reason| (reason.name(), self.closed[*reason as usize].get()))
    }

    /// Shows how many slots are in each state, how many tasks wait, and the use in thousandths.
    pub(super) fn show(&self, by_state: &[usize; State::ALL.len()], n_waiting: usize, use_per_mille: usize) {
        for (level, n) in self.by_state.iter().zip(by_state) {
            level.set(*n);
        }
        self.waiting.set(n_waiting);
        self.use_ratio.set(use_per_mille);
    }
}
