//! The parts that give memory back: what they are asked, what they promise, what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Level, ShedStats};
use crate::metric::{Counter, Id, Registry};

/// What a part is asked at a tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ask {
    /// The level now, moderate or above.
    pub level: Level,
    /// How far the signal is into the level: 0 at its lower edge, 1 where the next begins.
    pub within: f32,
    /// Bytes that are still missing after the promises of those before; zero when nothing more is needed.
    pub bytes_wanted: u64,
}

/// A part that holds memory and can give some back.
///
/// It is called on the ticking thread: it never waits, takes no lock that is held long, and leaves the work to whoever
/// owns the memory.
pub trait Shed: Send + Sync {
    /// Its name in figures.
    fn name(&self) -> &'static str;

    /// When its turn comes; lower goes first, so the cheapest losses go first.
    fn order(&self) -> u8;

    /// Called at every tick from moderate up; gives back what it can and says how many bytes that will be.
    fn shed(&self, ask: &Ask) -> u64;

    /// Told on each change of level, normal included: refusals that a level brought are undone there.
    fn level(&self, _level: Level) {}
}

/// The registered parts in their order. A clone is cheap and shares the figures.
#[derive(Clone)]
pub(super) struct Sheds {
    parts: Arc<[Registered]>,
    registry: Registry,
}

#[derive(Clone)]
struct Registered {
    shed: Arc<dyn Shed>,
    sums: Arc<Sums>,
    asked: Counter,
    promised: Counter,
    measured: Counter,
    calls: Counter,
}

#[derive(Debug, Default)]
struct Sums {
    asked: AtomicU64,
    promised: AtomicU64,
    measured: AtomicU64,
    calls: AtomicU64,
    /// Promised at the last tick and not measured yet.
    open: AtomicU64,
}

/// As many as the label of the table has values.
const SHEDS_MAX: usize = 32;

// === impl Sheds ===

impl Sheds {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            parts: Arc::new([]),
            registry: registry.clone(),
        }
    }

    pub(super) fn add(&mut self, shed: Arc<dyn Shed>) {
        assert!(
            self.parts.len() < SHEDS_MAX,
            "more than {SHEDS_MAX} parts shed memory"
        );
        let added = Registered::new(shed, &self.registry);
        let mut parts: Vec<_> = self.parts.iter().cloned().collect();
        let at = parts.partition_point(|part| part.shed.order() <= added.shed.order());
        parts.insert(at, added);
        self.parts = parts.into();
    }

    pub(super) fn clear(&mut self) {
        self.parts = Arc::new([]);
    }

    pub(super) fn tell(&self, level: Level) {
        for part in &*self.parts {
            part.shed.level(level);
        }
    }

    /// Asks each in its order for what those before have not promised; the sum of all promises.
    pub(super) fn ask(&self, level: Level, within: f32, bytes_wanted: u64) -> u64 {
        let mut promised = 0_u64;
        for part in &*self.parts {
            let ask = Ask {
                level,
                within,
                bytes_wanted: bytes_wanted.saturating_sub(promised),
            };
            promised = promised.saturating_add(part.ask(&ask));
        }
        promised
    }

    /// Credits what came back to those who promised at the last tick, by their shares and at most what each promised.
    pub(super) fn measured(&mut self, freed: u64) {
        let open: u128 = self
            .parts
            .iter()
            .map(|part| u128::from(part.sums.open.load(Relaxed)))
            .sum();
        if open == 0 {
            return;
        }
        let freed = u128::from(freed).min(open);
        for part in &*self.parts {
            let own = part.sums.open.swap(0, Relaxed);
            let credit = u64::try_from(u128::from(own) * freed / open).unwrap_or(own);
            part.sums.measured.fetch_add(credit, Relaxed);
            part.measured.add(credit);
        }
    }

    pub(super) fn stats(&self) -> Vec<ShedStats> {
        self.parts.iter().map(Registered::stats).collect()
    }
}

// === impl Registered ===

impl Registered {
    fn new(shed: Arc<dyn Shed>, registry: &Registry) -> Self {
        let counter = |id| registry.counter(id, &[shed.name()]);
        Self {
            asked: counter(Id::ShedAsked),
            promised: counter(Id::ShedPromised),
            measured: counter(Id::ShedMeasured),
            calls: counter(Id::ShedCalls),
            sums: Arc::default(),
            shed,
        }
    }

    fn ask(&self, ask: &Ask) -> u64 {
        let promised = self.shed.shed(ask);
        self.calls.inc();
        self.asked.add(ask.bytes_wanted);
        self.promised.add(promised);
        self.sums.calls.fetch_add(1, Relaxed);
        self.sums.asked.fetch_add(ask.bytes_wanted, Relaxed);
        self.sums.promised.fetch_add(promised, Relaxed);
        self.sums.open.fetch_add(promised, Relaxed);
        promised
    }

    fn stats(&self) -> ShedStats {
        ShedStats {
            name: self.shed.name(),
            order: self.shed.order(),
            calls: self.sums.calls.load(Relaxed),
            asked_bytes: self.sums.asked.load(Relaxed),
            promised_bytes: self.sums.promised.load(Relaxed),
            measured_bytes: self.sums.measured.load(Relaxed),
        }
    }
}
