//! What a pool says of itself: its statistics, and the error of an acquire that waited in vain.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::panic::Location;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;

use super::connector::Connector;
use super::shared::{Shared, gate};
use super::slot::State;
use crate::error::Error;

/// A pool at one moment. Counts are since its start.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// Where it connects to, without the password.
    pub target: String,
    /// Connections that are always kept.
    pub min: usize,
    /// Connections kept while demand lasts.
    pub size: usize,
    /// Connections on top for bursts.
    pub overflow: usize,
    /// Connections that demand asks for now, between `min` and `size`.
    pub wanted: usize,
    /// Slots in each state, all eight named.
    pub by_state: BTreeMap<&'static str, usize>,
    /// Open connections.
    pub open: usize,
    /// Claimed by users.
    pub in_use: usize,
    /// `in_use` of `size + overflow`, 0 to 1 (a little above while replaced connections are still in use).
    pub use_ratio: f64,
    /// Tasks that wait.
    pub waiting: usize,
    /// Acquires that got a connection.
    pub acquires: u64,
    /// Of those, served by a connection that somebody had used before.
    pub reused: u64,
    /// `reused` of `acquires`, 0 to 1; 1 before the first.
    pub reuse_ratio: f64,
    /// Acquires that had to wait or to check the connection.
    pub waited: u64,
    /// Acquires that timed out.
    pub timeouts: u64,
    /// Connections opened.
    pub connects: u64,
    /// Connections that could not be opened.
    pub connect_errors: u64,
    /// Claims reported because they were held too long.
    pub leaks: u64,
    /// Connections closed, by reason.
    pub closed: BTreeMap<&'static str, u64>,
    /// What the last failed dial said, and how many milliseconds ago; kept after it works again.
    pub connect_error: Option<(String, u64)>,
    /// How long nothing could be opened, in milliseconds, while that is so.
    pub down_ms: Option<u64>,
    /// How short memory is: from high on, connections that nobody uses are closed down to `min`.
    pub pressure: &'static str,
    /// Prepared statements forgotten because memory was short.
    pub statements_forgotten: u64,
    /// Whether the pool gives nothing out until it is resumed.
    pub suspended: bool,
    /// Who holds connections, the oldest first; ages are exact to 50 ms.
    pub holders: Vec<Holder>,
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// The slot of the connection.
    pub slot: usize,
    /// The file and line that acquired it.
    pub location: String,
    /// For how long, in milliseconds.
    pub age_ms: u64,
    /// It was reported as held too long.
    pub leaked: bool,
}

/// Places that the text of a timeout names; the rest is counted.
const PLACES_MAX: usize = 8;

/// The slots at one moment.
pub(super) struct Survey {
    pub(super) by_state: [usize; State::ALL.len()],
    pub(super) acquires: u64,
    pub(super) reused: u64,
}

impl Survey {
    pub(super) fn n(&self, state: State) -> usize {
        self.by_state[state as usize]
    }

    /// Claimed by users, those included whose connection is being checked for them or cleaned up after them.
    pub(super) fn in_use(&self) -> usize {
        self.n(State::Active) + self.n(State::Draining)
    }

    /// Connections that serve or will serve again.
    pub(super) fn open(&self) -> usize {
        self.n(State::Idle) + self.n(State::Active) + self.n(State::Probing) + self.n(State::Draining)
    }
}

impl<C: Connector> Shared<C> {
    pub(super) fn survey(&self) -> Survey {
        let mut survey = Survey {
            by_state: [0; State::ALL.len()],
            acquires: 0,
            reused: 0,
        };
        for slot in &self.slots {
            survey.by_state[slot.state() as usize] += 1;
            survey.acquires += slot.acquires();
            survey.reused += slot.reused();
        }
        survey
    }

    pub(super) fn stats(&self) -> Stats {
        let now = self.refresh_now();
        let survey = self.survey();
        let counts = &self.counts;
        let (waiting, connect_error, down_ms) = {
            let inner = self.inner();
            let error = inner.connect_error.clone();
            let down = inner.ramp.down_since().map(|since| millis(now, since));
            (inner.waiters.len(), error, down)
        };
        let in_use = survey.in_use();
        let reuse_ratio = if survey.acquires == 0 {
            1.0
        } else {
            survey.reused as f64 / survey.acquires as f64
        };
        Stats {
            target: self.connector.target().to_owned(),
            min: self.config.min,
            size: self.config.size,
            overflow: self.config.overflow,
            wanted: self.wanted.load(Relaxed),
            by_state: State::ALL.map(|state| (state.name(), survey.n(state))).into(),
            open: survey.open(),
            in_use,
            use_ratio: in_use as f64 / self.config.capacity() as f64,
            waiting,
            acquires: survey.acquires,
            reused: survey.reused,
            reuse_ratio,
            waited: counts.waited.load(Relaxed),
            timeouts: counts.timeouts.get(),
            connects: counts.connects.get(),
            connect_errors: counts.connect_errors.get(),
            leaks: counts.leaks.get(),
            closed: counts.closed_by_reason().collect(),
            connect_error: connect_error.map(|(at, text)| (text, millis(now, at))),
            down_ms,
            pressure: self.force.level().as_str(),
            statements_forgotten: counts.statements.load(Relaxed),
            suspended: self.has(gate::SUSPENDED),
            holders: self.holders(now),
        }
    }

    /// Who holds connections, the oldest first.
    fn holders(&self, now: u64) -> Vec<Holder> {
        let mut holders = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            if let Some(location) = slot.holder() {
                let since = slot.since();
                holders.push(Holder {
                    slot: at,
                    location: place(location),
                    age_ms: millis(now, since),
                    leaked: slot.leak_told.load(Relaxed) == since.max(1),
                });
            }
        }
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.age_ms));
        holders
    }

    /// The error of an acquire that waited for `waited` in vain: who holds what since when, who waits, and what the last
    /// dial said.
    pub(super) fn timed_out(&self, waited: Duration) -> Error {
        let stats = self.stats();
        let capacity = self.config.capacity();
        let mut text = match stats.down_ms {
            Some(down_ms) if stats.in_use == 0 => {
                format!("no connection to {} for {}", stats.target, seconds(down_ms))
            }
            _ => "pool exhausted".to_owned(),
        };
        let waited = seconds(waited.as_millis() as u64);
        let Stats {
            in_use,
            open,
            waiting,
            ..
        } = stats;
        let _infallible = write!(
            text,
            ": {in_use} of {capacity} claimed, {open} open, {waiting} waiting, waited {waited}"
        );
        if stats.suspended {
            text.push_str("; the pool is suspended");
        }
        text.push_str(&held_by(&stats.holders));
        if let Some((error, ago_ms)) = stats.connect_error {
            let _infallible = write!(text, "; last connect error {} ago: {error}", seconds(ago_ms));
        }
        Error::PoolTimeout(text)
    }

    /// The error of an acquire that may not even wait.
    pub(super) fn too_many_wait(&self) -> Error {
        let most = self.config.waiting_max;
        match self.timed_out(Duration::ZERO) {
            Error::PoolTimeout(text) => Error::PoolTimeout(format!("{text}; no more than {most} may wait")),
            other => other,
        }
    }
}

/// `; held by src/a.rs:10 (3, up to 12.3 s), src/b.rs:7 (1, up to 0.2 s)`, the oldest place first.
fn held_by(holders: &[Holder]) -> String {
    let mut places: Vec<(&str, usize, u64)> = Vec::new();
    for holder in holders {
        match places.iter_mut().find(|(place, ..)| *place == holder.location) {
            Some((_, n, _)) => *n += 1,
            None => places.push((&holder.location, 1, holder.age_ms)),
        }
    }
    let named = places.iter().take(PLACES_MAX);
    let mut named: Vec<String> = named
        .map(|(place, n, age_ms)| format!("{place} ({n}, up to {})", seconds(*age_ms)))
        .collect();
    if places.len() > PLACES_MAX {
        named.push(format!("{} more places", places.len() - PLACES_MAX));
    }
    if named.is_empty() {
        return String::new();
    }
    format!("; held by {}", named.join(", "))
}

pub(super) fn place(location: &Location<'_>) -> String {
    format!("{}:{}", location.file(), location.line())
}

fn millis(now: u64, since: u64) -> u64 {
    now.saturating_sub(since) / 1_000_000
}

fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(holders: &[(&str, u64)], expected: &str) {
        let holders: Vec<Holder> = holders
            .iter()
            .map(|(location, age_ms)| Holder {
                slot: 0,
                location: (*location).to_owned(),
                age_ms: *age_ms,
                leaked: false,
            })
            .collect();
        assert_eq!(held_by(&holders), expected);
    }

    #[test]
    fn holders_are_grouped_by_place_the_oldest_first() {
        check(&[], "");
        check(
            &[("a.rs:1", 31_250), ("b.rs:2", 900), ("a.rs:1", 40)],
            "; held by a.rs:1 (2, up to 31.2 s), b.rs:2 (1, up to 0.9 s)",
        );
        let many: Vec<String> = (0..10).map(|n| format!("f{n}.rs:1")).collect();
        let many: Vec<(&str, u64)> = many.iter().map(|place| (place.as_str(), 5)).collect();
        let text = held_by(
            &many
                .iter()
                .map(|(location, age_ms)| Holder {
                    slot: 0,
                    location: (*location).to_owned(),
                    age_ms: *age_ms,
                    leaked: false,
                })
                .collect::<Vec<_>>(),
        );
        assert!(
            text.ends_with("f7.rs:1 (1, up to 0.0 s), 2 more places"),
            "{text}"
        );
    }
}
