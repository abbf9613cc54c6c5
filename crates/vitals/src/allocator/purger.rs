//! Makes the allocator give unused memory back: at high and critical, and when it has kept much for long.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Stats;
use crate::clock::{Clock, Instant};
use crate::metric::{Counter, Gauge, Id, Registry};
use crate::pressure::{Ask, Level, Shed};

/// The allocator as the last part that gives memory back; its owner also calls [`Purger::tick`] once a second.
pub struct Purger {
    clock: Clock,
    state: Mutex<State>,
    figures: Figures,
}

/// What purging has brought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PurgeStats {
    /// Purges because of the level.
    pub pressed: u64,
    /// Purges because memory was kept idle.
    pub idle: u64,
    /// Bytes by which resident memory fell, over all of them.
    pub freed_bytes: u64,
}

#[derive(Debug)]
struct State {
    stats: PurgeStats,
    /// When it last purged.
    last: Instant,
}

#[derive(Debug)]
struct Figures {
    bytes: [Gauge; 6],
    pressed: Counter,
    idle: Counter,
    freed: Counter,
}

/// A purge touches every arena; under pressure one a second is enough, since pages become idle no faster than others free.
const PRESSED_EVERY: Duration = Duration::from_secs(1);
/// How long idle memory is kept without pressure.
const IDLE_EVERY: Duration = Duration::from_secs(300);
/// Less idle memory than this is not worth a purge.
const IDLE_BYTES_MIN: u64 = 32 << 20;

// === impl Purger ===

impl Purger {
    /// One that has not purged yet.
    pub fn new(registry: &Registry, clock: Clock) -> Self {
        Self {
            state: Mutex::new(State {
                stats: PurgeStats::default(),
                last: clock.now(),
            }),
            figures: Figures::new(registry),
            clock,
        }
    }

    /// Writes the figures; purges if much has been kept idle for long.
    pub fn tick(&self) {
        let Some(stats) = super::stats() else { return };
        self.figures.write(&stats);
        if is_much(&stats) && self.due(IDLE_EVERY) {
            self.purge(false);
        }
    }

    /// What purging has brought.
    pub fn stats(&self) -> PurgeStats {
        self.state().stats
    }

    /// Whether `gap` has passed since the last purge; if so, this one counts as it.
    fn due(&self, gap: Duration) -> bool {
        let now = self.clock.now();
        let mut state = self.state();
        let due = now - state.last >= gap;
        if due {
            state.last = now;
        }
        due
    }

    fn purge(&self, pressed: bool) -> u64 {
        let Ok(freed) = super::purge() else { return 0 };
        let mut state = self.state();
        state.stats.freed_bytes += freed;
        self.figures.freed.add(freed);
        if pressed {
            state.stats.pressed += 1;
            self.figures.pressed.inc();
        } else {
            state.stats.idle += 1;
            self.figures.idle.inc();
        }
        freed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shed for Purger {
    fn name(&self) -> &'static str {
        "allocator"
    }

    /// The last: only what the others have freed can be given back.
    fn order(&self) -> u8 {
        u8::MAX
    }

    fn shed(&self, ask: &Ask) -> u64 {
        if ask.level >= Level::High && self.due(PRESSED_EVERY) {
            return self.purge(true);
        }
        0
    }
}

impl std::fmt::Debug for Purger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Purger").field(&self.stats()).finish()
    }
}

// === impl Figures ===

impl Figures {
    fn new(registry: &Registry) -> Self {
        let kinds = [
            "allocated",
            "active",
            "resident",
            "mapped",
            "retained",
            "metadata",
        ];
        let purges = |cause| registry.counter(Id::AllocatorPurges, &[cause]);
        Self {
            bytes: kinds.map(|kind| registry.gauge(Id::AllocatorBytes, &[kind])),
            pressed: purges("pressure"),
            idle: purges("idle"),
            freed: registry.counter(Id::AllocatorPurged, &[]),
        }
    }

    fn write(&self, stats: &Stats) {
        let Stats {
            allocated,
            active,
            resident,
            mapped,
            retained,
            metadata,
        } = *stats;
        let values = [allocated, active, resident, mapped, retained, metadata];
        for (gauge, bytes) in self.bytes.iter().zip(values) {
            gauge.set(bytes as i64);
        }
    }
}

/// Idle memory is much from 32 MiB and a quarter of what is in use on.
fn is_much(stats: &Stats) -> bool {
    stats.idle() >= IDLE_BYTES_MIN.max(stats.allocated / 4)
}
