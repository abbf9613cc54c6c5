//! The task that keeps a pool: moves the coarse clock, opens, replaces, checks and closes connections, tells of leaks.

use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use tidegate_vitals::{Instant, Level};
use tokio::time::{sleep_until, timeout};

use super::config::REPLACEMENTS_MAX;
use super::connector::Connector;
use super::demand::{Demand, Limits, Surplus, surplus};
use super::shared::{Reason, Shared, gate};
use super::slot::{Entry, State};
use super::stats::{Survey, place};
use crate::error::{Error, Result};

/// The step of the coarse clock while connections are used.
const TICK: Duration = Duration::from_millis(50);
/// How often the pool looks after itself; also how long it must be quiet before the clock stops.
const ROUND: Duration = Duration::from_secs(1);

pub(super) struct Keeper<C: Connector> {
    shared: Arc<Shared<C>>,
    demand: Demand,
    /// The last round, and the acquires counted then.
    round_at: u64,
    acquires: u64,
    /// The level of memory pressure at the last step.
    level: Level,
}

/// What an idle connection weighs, roughly: the buffers of its socket, of TLS and of the client.
pub(super) const CONNECTION_BYTES: u64 = 48 << 10;
/// Under high pressure a connection that was used within this time stays, because it would be opened again.
const PRESSED_IDLE: Duration = Duration::from_secs(1);
/// What a prepared statement weighs, roughly.
const STATEMENT_BYTES: u64 = 1 << 10;

/// Closes the pool when the keeper ends, in whatever way.
struct End<C: Connector>(Arc<Shared<C>>);

impl<C: Connector> Drop for End<C> {
    fn drop(&mut self) {
        self.0.shut();
    }
}

/// What a round needs to know of one open connection.
struct Seen {
    slot: usize,
    state: State,
    since: u64,
    expires: u64,
    is_replaced: bool,
    generation: Option<u32>,
}

impl<C: Connector> Keeper<C> {
    pub(super) fn new(shared: Arc<Shared<C>>) -> Self {
        let demand = Demand::new(shared.config.min, shared.config.size);
        shared.wanted.store(demand.target(), Relaxed);
        Self {
            shared,
            demand,
            round_at: 0,
            acquires: 0,
            level: Level::Normal,
        }
    }

    /// Runs until the pool is closed.
    pub(super) async fn run(mut self) {
        // Without the keeper nobody would be sent away in time: the pool ends with it.
        let _end = End(Arc::clone(&self.shared));
        while !self.shared.has(gate::CLOSED) {
            let wake_at = self.step();
            tokio::select! {
                () = self.shared.keeper.notified() => {}
                () = sleep_until(self.shared.instant(wake_at)) => {}
            }
        }
        self.show(&self.shared.survey());
    }

    /// Does what is due; says when to look again.
    fn step(&mut self) -> u64 {
        let now = self.shared.refresh_now();
        let survey = self.shared.survey();
        if now >= self.round_at + ROUND.as_nanos() as u64 || self.round_at == 0 {
            self.round(now, &survey);
        }
        self.relieve(now, &survey);
        self.check_suspects();
        let late_at = self.shared.send_late_away(now);
        let dial_at = self.dial(now, &self.shared.survey());
        let is_asleep = self.shared.has(gate::ASLEEP);
        let next = now + if is_asleep { ROUND } else { TICK }.as_nanos() as u64;
        let due = [late_at, dial_at].into_iter().flatten().fold(next, u64::min);
        due.max(now)
    }

    /// Acts on a change of memory pressure at once; what it leaves, the rounds do.
    fn relieve(&mut self, now: u64, survey: &Survey) {
        let level = self.shared.force.level();
        let before = std::mem::replace(&mut self.level, level);
        if level == before {
            return;
        }
        self.shared.wanted.store(self.kept(), Relaxed);
        if self.is_pressed() {
            self.close_surplus(now, &self.seen(), survey);
        }
        if level == Level::Critical {
            self.forget_statements();
        }
    }

    fn is_pressed(&self) -> bool {
        self.level >= Level::High
    }

    /// Connections to keep open.
    fn kept(&self) -> usize {
        match self.is_pressed() {
            true => self.shared.config.min,
            false => self.demand.target(),
        }
    }

    /// Has idle connections forget their prepared statements: they prepare again what is used again.
    fn forget_statements(&self) {
        let shared = &self.shared;
        for seen in self.seen() {
            if let Some(mut entry) = shared.take_from(seen.slot) {
                let n = shared.connector.forget_statements(&mut entry.connection) as u64;
                shared.offer(entry);
                shared.counts.statements.fetch_add(n, Relaxed);
                shared.counts.relieved_statements.count(n, n * STATEMENT_BYTES);
            }
        }
    }

    /// Once a second.
    fn round(&mut self, now: u64, survey: &Survey) {
        let n_waiting = self.shared.inner().waiters.len();
        let elapsed = Duration::from_nanos(now - self.round_at);
        self.demand.observe(survey.in_use() + n_waiting, elapsed);
        self.shared.wanted.store(self.kept(), Relaxed);
        self.round_at = now.max(1);
        let seen = self.seen();
        self.close_surplus(now, &seen, survey);
        self.replace_expired(now, &seen);
        self.tell_leaks(now);
        self.show(survey);
        let is_quiet = survey.in_use() == 0 && n_waiting == 0 && survey.acquires == self.acquires;
        self.acquires = survey.acquires;
        if is_quiet {
            self.shared.set(gate::ASLEEP);
        } else {
            self.shared.clear(gate::ASLEEP);
        }
    }

    fn seen(&self) -> Vec<Seen> {
        let slots = self.shared.slots.iter().enumerate();
        let seen = slots.map(|(slot, cell)| Seen {
            slot,
            state: cell.state(),
            since: cell.since(),
            expires: cell.expires.load(Relaxed),
            is_replaced: cell.is_replaced(),
            generation: cell.generation(),
        });
        seen.collect()
    }

    // === Closing ===

    fn close_surplus(&self, now: u64, seen: &[Seen], survey: &Survey) {
        let config = &self.shared.config;
        let idle: Vec<(usize, u64)> = seen
            .iter()
            .filter(|seen| seen.state == State::Idle)
            .map(|seen| (seen.slot, now.saturating_sub(seen.since)))
            .collect();
        // No longer than usual, whatever the level.
        let patience = |usual: Duration| match self.level {
            Level::Critical => Duration::ZERO,
            Level::High => usual.min(PRESSED_IDLE),
            Level::Moderate | Level::Normal => usual,
        };
        let limits = Limits {
            n_open: survey.open(),
            keep: self.kept(),
            size: config.size,
            linger_ns: patience(config.linger).as_nanos() as u64,
            idle_ns: patience(config.idle_timeout).as_nanos() as u64,
        };
        for (slot, why) in surplus(&idle, &limits) {
            let reason = match why {
                _ if self.is_pressed() => Reason::Pressure,
                Surplus::Overflow => Reason::Overflow,
                Surplus::Idle => Reason::Idle,
            };
            if self.shared.close_idle(slot, reason) && reason == Reason::Pressure {
                self.shared.counts.relieved.count(1, CONNECTION_BYTES);
            }
        }
    }

    fn replace_expired(&self, now: u64, seen: &[Seen]) {
        let survey = self.shared.survey();
        let mut n_open = survey.open();
        let is_open = |state| {
            matches!(
                state,
                State::Idle | State::Active | State::Probing | State::Draining
            )
        };
        // One that came back while it was being marked.
        for seen in seen
            .iter()
            .filter(|seen| seen.is_replaced && seen.state == State::Idle)
        {
            n_open -= usize::from(self.shared.close_idle(seen.slot, Reason::Lifetime));
        }
        let expired = seen
            .iter()
            .filter(|seen| is_open(seen.state) && !seen.is_replaced && seen.expires <= now);
        for seen in expired {
            // More are open than are wanted: this one needs no successor.
            if n_open > self.kept() && seen.state == State::Idle {
                n_open -= usize::from(self.shared.close_idle(seen.slot, Reason::Lifetime));
            } else if !self.replace(now, seen) {
                return;
            }
        }
    }

    /// Opens the successor of a connection that has reached its age; `false`: not now.
    fn replace(&self, now: u64, seen: &Seen) -> bool {
        let shared = &self.shared;
        let mut inner = shared.inner();
        let may = inner.replacing.len() < REPLACEMENTS_MAX
            && inner.n_occupied < shared.slots.len()
            && !shared.has(gate::SUSPENDED)
            && inner.ramp.window(now, false) > 0;
        if may && !inner.replacing.contains(&seen.slot) {
            inner.replacing.push(seen.slot);
            inner.n_occupied += 1;
            drop(inner);
            shared.dial(Some((seen.slot, seen.expires)));
        }
        may
    }

    // === Opening ===

    /// Starts the dials that are wanted and allowed; says when the prober may try again.
    fn dial(&self, now: u64, survey: &Survey) -> Option<u64> {
        let shared = &self.shared;
        if shared.has(gate::SUSPENDED | gate::CLOSED) {
            return None;
        }
        let mut inner = shared.inner();
        let n_waiting = inner.waiters.len();
        let n_dialing = survey.n(State::Connecting) - inner.replacing.len().min(survey.n(State::Connecting));
        let for_waiters = n_waiting.saturating_sub(n_dialing);
        let for_target = self.kept().saturating_sub(survey.open() + n_dialing);
        let room = shared.config.capacity().saturating_sub(inner.n_occupied);
        let wanted = for_waiters.max(for_target).min(room);
        let window = inner.ramp.window(now, n_waiting > 0);
        let n = wanted.min(window.saturating_sub(n_dialing));
        inner.n_occupied += n;
        let next_at = inner
            .ramp
            .next_at(n_waiting > 0)
            .filter(|_| wanted > 0 && window == 0);
        drop(inner);
        for _ in 0..n {
            shared.dial(None);
        }
        next_at
    }

    // === Checking ===

    /// Checks idle connections of an older generation: one of them was found dead.
    fn check_suspects(&self) {
        let generation = self.shared.generation();
        for seen in self.seen() {
            let is_suspect = seen.generation.is_some_and(|own| own != generation);
            if is_suspect && let Some(entry) = self.shared.take_from(seen.slot) {
                self.shared.probe(entry);
            }
        }
    }

    fn tell_leaks(&self, now: u64) {
        let Some(after) = self.shared.config.leak_after else {
            return;
        };
        for (at, slot) in self.shared.slots.iter().enumerate() {
            // Zero means that none was told.
            let since = slot.since().max(1);
            let age = Duration::from_nanos(now.saturating_sub(since));
            let is_told = slot.leak_told.load(Relaxed) == since;
            if slot.state() != State::Active || is_told || age < after {
                continue;
            }
            slot.leak_told.store(since, Relaxed);
            self.shared.counts.leaks.inc();
            let place = slot.holder().map_or_else(String::new, place);
            tracing::warn!(
                slot = at,
                place,
                held_s = age.as_secs(),
                "database connection held too long: it may have leaked"
            );
        }
    }

    fn show(&self, survey: &Survey) {
        let shared = &self.shared;
        shared.counts.acquires.raise(survey.acquires);
        shared.counts.reused.raise(survey.reused);
        let n_waiting = shared.inner().waiters.len();
        let use_per_mille = survey.in_use() * 1_000 / shared.config.capacity();
        shared.counts.show(&survey.by_state, n_waiting, use_per_mille);
    }
}

// === Dials and idle ends, by the tasks of the pool ===

impl<C: Connector> Shared<C> {
    /// Closes this slot's connection, if it is idle.
    fn close_idle(self: &Arc<Self>, slot: usize, reason: Reason) -> bool {
        let entry = self.take_from(slot);
        let is_idle = entry.is_some();
        if let Some(entry) = entry {
            self.discard(entry, reason);
        }
        is_idle
    }

    /// Opens a connection in a task of its own. The caller has counted the slot as occupied.
    fn dial(self: &Arc<Self>, replaces: Option<(usize, u64)>) {
        let vacant = self.slots.iter().position(|slot| slot.state() == State::Vacant);
        let slot = vacant.expect("only the keeper occupies slots, and it counted one more");
        self.slots[slot].enter(State::Connecting, self.now());
        let dialing = Dialing {
            shared: Arc::clone(self),
            slot: Some(slot),
            replaces,
        };
        self.tasks.spawn_on(&self.runtime, "pool-dial", dialing.run());
    }

    /// Sends away the connection that has been replaced: at once if it is idle, otherwise when it comes back.
    fn retire(self: &Arc<Self>, slot: usize, expires: u64) {
        // Whoever gives it back after this sees the mark; if it came back just before, its bit is set by now, or the
        // keeper's next round finds it.
        self.slots[slot].replaced.store(expires, SeqCst);
        if self.slots[slot].is_replaced() {
            self.close_idle(slot, Reason::Lifetime);
        }
    }
}

/// A dial under way; dropped before its end, it leaves its slot vacant.
struct Dialing<C: Connector> {
    shared: Arc<Shared<C>>,
    slot: Option<usize>,
    replaces: Option<(usize, u64)>,
}

impl<C: Connector> Dialing<C> {
    async fn run(self) {
        let shared = Arc::clone(&self.shared);
        let limit = shared.config.connect_timeout;
        let dialed = tokio::select! {
            // The permit never comes: the semaphore only ever closes.
            _ = shared.closing.acquire() => return,
            dialed = timeout(limit, shared.connector.connect()) => dialed,
        };
        let dialed = dialed.unwrap_or_else(|_elapsed| {
            Err(Error::Connect {
                target: shared.connector.target().to_owned(),
                message: format!("no answer within {limit:?}"),
                sqlstate: None,
            })
        });
        self.ended(dialed);
    }

    fn ended(mut self, dialed: Result<C::Connection>) {
        let shared = Arc::clone(&self.shared);
        let now = shared.refresh_now();
        let connection = match dialed {
            Ok(connection) => connection,
            Err(error) => return self.failed(now, &error),
        };
        let Some(slot) = self.slot.take() else {
            return;
        };
        let replaces = self.replaces.take();
        let expires = {
            let mut inner = shared.inner();
            inner
                .replacing
                .retain(|old| Some(*old) != replaces.map(|(old, _)| old));
            inner.ramp.succeeded();
            let spread = 0.9 + inner.random.unit() / 5.0;
            now + shared.config.lifetime.mul_f64(spread).as_nanos() as u64
        };
        shared.counts.connects.inc();
        shared.slots[slot].expires.store(expires, Relaxed);
        let entry = Entry {
            connection,
            slot,
            expires,
            proven: now,
            generation: shared.generation(),
            is_used: false,
            is_probing: false,
            location: Location::caller(),
            weight: 0,
            begun: Instant::ZERO,
        };
        shared.offer(Box::new(entry));
        if let Some((old, expires)) = replaces {
            shared.retire(old, expires);
        }
        shared.keeper.notify_one();
    }

    fn failed(self, now: u64, error: &Error) {
        let shared = &self.shared;
        shared.counts.connect_errors.inc();
        let mut inner = shared.inner();
        let inner = &mut *inner;
        if inner.ramp.down_since().is_none() {
            tracing::warn!(%error, "database connection could not be opened; trying on");
        }
        inner.ramp.failed(now, error, &mut inner.random);
        inner.connect_error = Some((now, error.to_string()));
    }
}

impl<C: Connector> Drop for Dialing<C> {
    fn drop(&mut self) {
        let Some(slot) = self.slot else {
            return;
        };
        if let Some((old, _)) = self.replaces {
            self.shared.inner().replacing.retain(|slot| *slot != old);
        }
        self.shared.vacate(slot);
    }
}
