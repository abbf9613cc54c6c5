//! What the gateway gives up under memory pressure: decided here, carried out by the shards.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tidegate_vitals::{
    Class,
    pressure::{Ask, Level, Shed},
};

use crate::{
    inspect::State,
    shard::{CONN_BYTES, command::Command},
    shared::Shared,
};

/// Connections of silent sessions that one shard closes for one ask; scaled within the level, and a retryable reason,
/// so that they come back at a pace that can be served.
pub(crate) const SILENT_AT_ONCE: usize = 128;
/// How long a connection must have taken nothing before it is closed for memory, milliseconds: below critical only those
/// that the stall timeout would close soon anyway, or nothing would bring a level down that the slow alone hold up.
const STALLED_MODERATE_MS: u64 = 10_000;
const STALLED_HIGH_MS: u64 = 5_000;
/// All of what the settings allow, per mille.
pub(crate) const WHOLE: u16 = 1_000;

/// The ways of giving memory back, as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Messages taken out of recovery rings.
    Rings,
    /// Messages taken out of the history of rooms.
    History,
    /// Room for entries that nothing needs at the moment.
    Storage,
    /// The soft limit of outboxes lowered.
    Outboxes,
    /// Connections without an event for `stale_after`, closed.
    Stale,
    /// Connections without an event for `idle_after`, closed.
    Idle,
    /// The connections furthest behind, closed.
    Slow,
}

impl Reaction {
    pub(crate) const ALL: [Self; 7] = [
        Self::Rings,
        Self::History,
        Self::Storage,
        Self::Outboxes,
        Self::Stale,
        Self::Idle,
        Self::Slow,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rings => "rings",
            Self::History => "history",
            Self::Storage => "storage",
            Self::Outboxes => "outboxes",
            Self::Stale => "stale",
            Self::Idle => "idle",
            Self::Slow => "slow",
        }
    }
}

/// What is in force: every part of the gateway does its share of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// How much of its size a ring or a history may have, per mille.
    pub(crate) rings_permille: u16,
    /// How much of the soft limit an outbox has, per mille.
    pub(crate) outboxes_permille: u16,
    /// New connections are refused.
    pub(crate) refusing: bool,
    /// Storage that nothing needs is given back.
    pub(crate) storage: bool,
    /// Bytes to be freed by closing silent connections, and how many of them at once in each shard.
    pub(crate) silent_bytes: u64,
    pub(crate) silent_at_once: usize,
    /// Bytes to be freed by closing the connections furthest behind, among those that have taken nothing for so long.
    pub(crate) slow_bytes: u64,
    pub(crate) slow_after_ms: u64,
}

/// What could be given up, by the accounts and figures of the shards. What waits in outboxes is known by the accounts: the
/// shards' own figure of it is a second old, in which a flood fills everything.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    shards: u64,
    ring_bytes: u64,
    ring_bytes_max: u64,
    silent: u64,
    waiting_bytes: u64,
}

// === impl Plan ===

impl Plan {
    pub(crate) const NONE: Self = Self {
        rings_permille: WHOLE,
        outboxes_permille: WHOLE,
        refusing: false,
        storage: false,
        silent_bytes: 0,
        silent_at_once: 0,
        slow_bytes: 0,
        slow_after_ms: 0,
    };

    /// The plan for an ask, and the bytes it promises. What an earlier reaction covers is not asked of a later one.
    fn of(ask: &Ask, held: &Held) -> (Self, u64) {
        let within = f64::from(ask.within.clamp(0.0, 1.0));
        let down = |from: u16, to: u16| from - (f64::from(from - to) * within) as u16;
        let (rings_permille, outboxes_permille) = match ask.level {
            Level::Normal => return (Self::NONE, 0),
            Level::Moderate => (down(750, 500), WHOLE),
            Level::High => (down(500, 250), down(500, 250)),
            Level::Critical => (down(250, 125), down(250, 125)),
        };
        let high = ask.level >= Level::High;
        let critical = ask.level == Level::Critical;
        let rings_kept = held.ring_bytes_max / u64::from(WHOLE) * u64::from(rings_permille);
        let rings = held.ring_bytes.saturating_sub(rings_kept);
        let mut left = ask.bytes_wanted.saturating_sub(rings);
        let silent_at_once = if critical {
            SILENT_AT_ONCE
        } else {
            SILENT_AT_ONCE / 8 + (SILENT_AT_ONCE as f64 * 0.875 * within) as usize
        };
        let closable = held.silent.min(held.shards * silent_at_once as u64) * CONN_BYTES as u64;
        let silent_bytes = if high { left.min(closable) } else { 0 };
        left -= silent_bytes;
        let slow_bytes = left.min(held.waiting_bytes);
        let slow_after_ms = match ask.level {
            Level::Critical => 0,
            Level::High => STALLED_HIGH_MS,
            Level::Normal | Level::Moderate => STALLED_MODERATE_MS,
        };
        let plan = Self {
            rings_permille,
            outboxes_permille,
            refusing: high,
            storage: true,
            silent_bytes,
            silent_at_once: if high { silent_at_once } else { 0 },
            slow_bytes,
            slow_after_ms,
        };
        // Below critical it is not known who has been stalled for that long, so it is not promised.
        let certain_bytes = if critical { slow_bytes } else { 0 };
        (plan, rings + silent_bytes + certain_bytes)
    }
}

/// The plan in force, where shards and listener find it.
pub(crate) struct Relief {
    plan: Mutex<Plan>,
    refusing: AtomicBool,
    /// A word is on its way to the shard, which then finds the newest plan: one in each inbox at most.
    told: Box<[AtomicBool]>,
}

// === impl Relief ===

impl Relief {
    pub(crate) fn new(n_shards: usize) -> Self {
        Self {
            plan: Mutex::new(Plan::NONE),
            refusing: AtomicBool::new(false),
            told: (0..n_shards).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether new connections are refused.
    pub(crate) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Relaxed)
    }

    /// The newest plan, for a shard that was told of one.
    pub(crate) fn take(&self, shard: u16) -> Plan {
        self.told[usize::from(shard)].store(false, Ordering::Release);
        *self.plan()
    }

    /// Puts a plan in force and tells every shard that has not been told of one already.
    fn announce(&self, shared: &Shared, plan: Plan) {
        *self.plan() = plan;
        self.refusing.store(plan.refusing, Ordering::Relaxed);
        for (told, inbox) in self.told.iter().zip(shared.inboxes.iter()) {
            if !told.swap(true, Ordering::AcqRel) {
                inbox.push_always(Command::Relieve);
            }
        }
    }
}

/// The gateway as a part of the process that can give memory back.
pub(crate) struct GatewayShed(pub(crate) Arc<Shared>);

// === impl GatewayShed ===

impl GatewayShed {
    fn held(&self) -> Held {
        let shared = &self.0;
        let states = &shared.figures.states;
        let gauge = |n: i64| n.max(0) as u64;
        let ring_bytes = shared.namespaces.iter().map(|space| space.ring_bytes()).sum();
        let messages = [Class::Frames, Class::Rings, Class::Outboxes];
        let held_bytes: u64 = messages.map(|class| shared.ledger.used_by(class)).iter().sum();
        Held {
            shards: shared.inboxes.len() as u64,
            ring_bytes,
            ring_bytes_max: (shared.namespaces.len() * shared.config.recovery.ring_bytes_max) as u64,
            silent: gauge(states[State::Idle as usize].get()) + gauge(states[State::Stale as usize].get()),
            waiting_bytes: held_bytes.saturating_sub(ring_bytes),
        }
    }
}

impl Shed for GatewayShed {
    fn name(&self) -> &'static str {
        "gateway"
    }

    /// After caches and the allocator, which cost nobody a message or a connection.
    fn order(&self) -> u8 {
        100
    }

    fn shed(&self, ask: &Ask) -> u64 {
        let (plan, promised) = Plan::of(ask, &self.held());
        self.0.relief.announce(&self.0, plan);
        promised
    }

    fn level(&self, level: Level) {
        let ask = Ask {
            level,
            within: 0.0,
            bytes_wanted: 0,
        };
        self.shed(&ask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Held = Held {
        shards: 2,
        ring_bytes: 80_000,
        ring_bytes_max: 100_000,
        silent: 1_000_000,
        waiting_bytes: 50_000,
    };

    /// What a level, so many per cent within it, and bytes wanted come to: shares of rings and outboxes, whether new
    /// connections are refused, and the bytes that rings, silent and slow connections are to give.
    #[track_caller]
    fn check(
        (level, percent, bytes_wanted): (Level, u8, u64),
        shares: (u16, u16),
        refusing: bool,
        bytes: [u64; 3],
    ) {
        let ask = Ask {
            level,
            within: f32::from(percent) / 100.0,
            bytes_wanted,
        };
        let (plan, promised) = Plan::of(&ask, &HELD);
        assert_eq!((plan.rings_permille, plan.outboxes_permille), shares);
        assert_eq!(plan.refusing, refusing);
        assert_eq!([plan.silent_bytes, plan.slow_bytes], bytes[1..]);
        let uncertain = if level == Level::Critical { 0 } else { bytes[2] };
        assert_eq!(promised, bytes.iter().sum::<u64>() - uncertain);
    }

    #[test]
    fn nothing_is_given_up_at_normal() {
        check((Level::Normal, 100, 1 << 40), (1_000, 1_000), false, [0; 3]);
    }

    #[test]
    fn each_level_goes_further_and_further_within_it() {
        check(
            (Level::Moderate, 0, 1 << 40),
            (750, 1_000),
            false,
            [5_000, 0, 50_000],
        );
        check(
            (Level::Moderate, 100, 1 << 40),
            (500, 1_000),
            false,
            [30_000, 0, 50_000],
        );
        let few = 2 * 16 * CONN_BYTES as u64;
        check((Level::High, 0, 1 << 40), (500, 500), true, [30_000, few, 50_000]);
        let many = 2 * 128 * CONN_BYTES as u64;
        check(
            (Level::High, 100, 1 << 40),
            (250, 250),
            true,
            [55_000, many, 50_000],
        );
        check(
            (Level::Critical, 100, 1 << 40),
            (125, 125),
            true,
            [67_500, many, 50_000],
        );
    }

    #[test]
    fn what_costs_less_goes_first() {
        check((Level::Critical, 0, 50_000), (250, 250), true, [55_000, 0, 0]);
        check((Level::Critical, 0, 56_000), (250, 250), true, [55_000, 1_000, 0]);
        let many = 2 * 128 * CONN_BYTES as u64;
        check(
            (Level::Critical, 0, 55_000 + many + 7),
            (250, 250),
            true,
            [55_000, many, 7],
        );
    }

    #[test]
    fn a_level_alone_closes_nobody() {
        check((Level::Critical, 0, 0), (250, 250), true, [55_000, 0, 0]);
    }
}
