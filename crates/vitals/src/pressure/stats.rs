//! What the pressure watch tells: the signal and its sources, the changes of level, the work of each part.

use std::collections::VecDeque;

use super::{Level, Part, Parts};
use crate::metric::{Counter, Gauge, Id, Registry};

/// The watch at its last tick.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// The level.
    pub level: Level,
    /// Since when, in unix milliseconds.
    pub since_unix_ms: u64,
    /// The largest source, per mille.
    pub per_mille: u32,
    /// Which source that is; `None` where the system tells nothing.
    pub source: Option<Cause>,
    /// The fullest cgroup.
    pub cgroup: Option<Part>,
    /// Resident memory, of the budget.
    pub rss: Option<Part>,
    /// What is accounted for, of the budget less the last of it; `None` without accounts.
    pub accounts: Option<Part>,
    /// The host's memory that is not available, of all.
    pub host: Option<Part>,
    /// Share of time some task waited for memory, per mille.
    pub stall_per_mille: Option<u32>,
    /// Bytes asked for at the last tick.
    pub bytes_wanted: u64,
    /// Ticks so far.
    pub ticks: u64,
    /// How often each level was entered, in the order of [`Level::ALL`].
    pub entered: [u64; 4],
    /// The parts that give memory back, in their order.
    pub sheds: Vec<ShedStats>,
    /// The last changes of level, oldest first.
    pub transitions: Vec<Transition>,
}

/// What one part was asked for and gave, since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShedStats {
    /// Its name.
    pub name: &'static str,
    /// When its turn comes.
    pub order: u8,
    /// How often it was asked.
    pub calls: u64,
    /// Bytes it was asked for, over all ticks.
    pub asked_bytes: u64,
    /// Bytes it promised.
    pub promised_bytes: u64,
    /// Bytes that were gone at the tick after, credited by the shares of the promises and never above them.
    pub measured_bytes: u64,
}

/// One change of level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    /// When, in unix milliseconds.
    pub unix_ms: u64,
    /// The level before.
    pub from: Level,
    /// The level after.
    pub to: Level,
    /// The signal then, per mille.
    pub per_mille: u32,
    /// What brought it about.
    pub cause: Cause,
}

/// A source of the signal, or what else moves the level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The fullest of the cgroups.
    Cgroup,
    /// Resident memory against the budget.
    Rss,
    /// What is accounted for, against the budget.
    Accounts,
    /// The host's available memory.
    Host,
    /// Tasks waited for memory.
    Stalls,
    /// There is room again.
    Eased,
}

/// The last changes of level, at most [`TRANSITIONS_MAX`].
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Transition>);

const TRANSITIONS_MAX: usize = 64;

/// The handles of the figures.
#[derive(Debug)]
pub(super) struct Figures {
    level: Gauge,
    entered: [Counter; 4],
    sources: [Gauge; 4],
    stalls: Gauge,
}

// === impl Cause ===

impl Cause {
    /// Its name in figures and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Rss => "rss",
            Self::Accounts => "accounts",
            Self::Host => "host",
            Self::Stalls => "stalls",
            Self::Eased => "eased",
        }
    }
}

// === impl Stats ===

impl Stats {
    pub(super) fn new(unix_ms: u64) -> Self {
        Self {
            level: Level::Normal,
            since_unix_ms: unix_ms,
            per_mille: 0,
            source: None,
            cgroup: None,
            rss: None,
            accounts: None,
            host: None,
            stall_per_mille: None,
            bytes_wanted: 0,
            ticks: 0,
            entered: [0; 4],
            sheds: Vec::new(),
            transitions: Vec::new(),
        }
    }

    pub(super) fn moved(&mut self, transition: &Transition) {
        self.since_unix_ms = transition.unix_ms;
        self.entered[transition.to as usize] += 1;
    }
}

// === impl History ===

impl History {
    pub(super) fn push(&mut self, transition: Transition) {
        if self.0.len() == TRANSITIONS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(transition);
    }

    pub(super) fn list(&self) -> Vec<Transition> {
        self.0.iter().cloned().collect()
    }
}

// === impl Figures ===

impl Figures {
    pub(super) fn new(registry: &Registry) -> Self {
        let source = |cause: Cause| registry.gauge(Id::PressureSignal, &[cause.as_str()]);
        Self {
            level: registry.gauge(Id::PressureLevel, &[]),
            entered: Level::ALL.map(|level| registry.counter(Id::PressureChanges, &[level.as_str()])),
            sources: [Cause::Cgroup, Cause::Rss, Cause::Accounts, Cause::Host].map(source),
            stalls: source(Cause::Stalls),
        }
    }

    pub(super) fn moved(&self, to: Level) {
        self.entered[to as usize].inc();
    }

    pub(super) fn write(&self, level: Level, parts: &Parts, stalls: Option<u32>) {
        self.level.set(level as i64);
        for (gauge, (_, part)) in self.sources.iter().zip(parts.named()) {
            gauge.set(part.map_or(0, |part| i64::from(part.per_mille())));
        }
        self.stalls.set(stalls.map_or(0, i64::from));
    }
}
