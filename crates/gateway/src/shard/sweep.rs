//! What a shard does by the clock: figures, utilisation and flush window, the sweep, the drain.

use std::{sync::Arc, time::Duration};

use tidegate_vitals::{Gauge, Id, Instant};

use super::{
    Shard,
    conn::{NO_CONN, Transport},
};
use crate::{close::CloseReason, inspect::State, shared::Shared};

/// How often figures are handed over and the load is judged.
const TICK_MS: u64 = 250;
/// Ticks between two counts of states.
const TICKS_PER_COUNT: u64 = 4;
/// How often refusals may make a shard look for silent sessions, and how many it closes then.
const ROOM_EVERY_MS: u64 = 100;
const ROOM_AT_ONCE: usize = 16;
/// Above this share of its time a shard is busy, and frames may wait for others.
const BUSY: f64 = 0.6;

/// Counts of this shard, handed to the shared figures now and then.
pub(super) struct Tally {
    pub(super) messages_in: u64,
    pub(super) bytes_in: u64,
    pub(super) events: u64,
    pub(super) deliveries: u64,
    pub(super) dropped: u64,
    pub(super) conflated: u64,
    messages_out: u64,
    bytes_out: u64,
    writes: u64,
    frames_per_write: [u64; FRAMES_BUCKETS],
    samples: u64,
    pub(super) sessions: i64,
}

const FRAMES_BUCKETS: usize = 128;

impl Default for Tally {
    fn default() -> Self {
        Self {
            messages_in: 0,
            bytes_in: 0,
            events: 0,
            deliveries: 0,
            dropped: 0,
            conflated: 0,
            messages_out: 0,
            bytes_out: 0,
            writes: 0,
            frames_per_write: [0; FRAMES_BUCKETS],
            samples: 0,
            sessions: 0,
        }
    }
}

impl Tally {
    /// One write of `bytes` that ended `frames` messages.
    pub(super) fn wrote(&mut self, bytes: usize, frames: u64) {
        self.writes += 1;
        self.bytes_out += bytes as u64;
        self.messages_out += frames;
        self.frames_per_write[(frames as usize).min(FRAMES_BUCKETS - 1)] += 1;
    }

    /// True once in `n` calls.
    pub(super) fn sample(&mut self, n: u64) -> bool {
        self.samples += 1;
        self.samples.is_multiple_of(n)
    }
}

/// How busy a shard is, and what follows from it.
pub(super) struct Load {
    due_ms: u64,
    ticks: u64,
    sweep_due_ms: u64,
    room_due_ms: u64,
    busy: Duration,
    since: Instant,
    utilisation: f64,
    window: Duration,
    window_max: Duration,
    /// Deliveries of this tick that found the one before them not yet written, and all deliveries.
    behind: u32,
    deliveries: u32,
    events_per_second: Option<u32>,
    presence_grace_ms: u64,
    utilisation_gauge: Gauge,
    inbox_gauge: Gauge,
    window_gauge: Gauge,
    sessions_shown: i64,
    states_shown: [i64; State::ALL.len()],
    transports_shown: [i64; 2],
    outbox_shown: [i64; 2],
}

impl Load {
    pub(super) fn new(shared: &Arc<Shared>, shard: u16, now: Instant) -> Self {
        let mut load = Self {
            due_ms: now.as_millis() + TICK_MS,
            ticks: 0,
            sweep_due_ms: now.as_millis() + shared.config.sessions.sweep_every.as_millis() as u64,
            room_due_ms: 0,
            busy: Duration::ZERO,
            since: now,
            utilisation: 0.0,
            window: Duration::ZERO,
            window_max: shared.config.flush_window_max,
            behind: 0,
            deliveries: 0,
            events_per_second: None,
            presence_grace_ms: 0,
            utilisation_gauge: shared.figures.of_shard(Id::GatewayShardUtilisation, shard),
            inbox_gauge: shared.figures.of_shard(Id::GatewayShardInbox, shard),
            window_gauge: shared.figures.of_shard(Id::GatewayFlushWindow, shard),
            sessions_shown: 0,
            states_shown: [0; State::ALL.len()],
            transports_shown: [0; 2],
            outbox_shown: [0; 2],
        };
        load.reload(shared);
        load
    }

    pub(super) fn reload(&mut self, shared: &Arc<Shared>) {
        self.events_per_second = shared.live.limits().events_per_second;
        self.presence_grace_ms = shared.live.presence_grace().as_millis() as u64;
    }

    pub(super) fn due_ms(&self) -> u64 {
        self.due_ms
    }

    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Messages are handed to outboxes; `behind` if earlier ones still wait to be written.
    pub(super) fn note_delivery(&mut self, behind: bool) {
        self.deliveries += 1;
        self.behind += u32::from(behind);
    }

    pub(super) fn events_per_second(&self) -> Option<u32> {
        self.events_per_second
    }

    pub(super) fn presence_grace_ms(&self) -> u64 {
        self.presence_grace_ms
    }

    /// Judges the tick that has passed.
    ///
    /// The window opens only while messages come faster than they are written: then frames that wait save writes. A
    /// shard that is busy but keeps up, with one large broadcast say, would only make its clients wait.
    fn judge(&mut self, now: Instant) {
        let passed = now.since(self.since).as_secs_f64().max(1e-6);
        self.utilisation = (self.busy.as_secs_f64() / passed).min(1.0);
        let behind = self.behind * 2 > self.deliveries;
        self.window = if self.utilisation > BUSY && behind {
            let open = (self.utilisation - BUSY) / (1.0 - BUSY);
            self.window_max.mul_f64(open.clamp(0.1, 1.0))
        } else {
            self.window / 4
        };
        if self.window < Duration::from_micros(200) {
            self.window = Duration::ZERO;
        }
        (self.busy, self.since, self.behind, self.deliveries) = (Duration::ZERO, now, 0, 0);
        self.utilisation_gauge.set((self.utilisation * 1_000.0) as i64);
        self.window_gauge.set(self.window.as_micros() as i64);
    }
}

/// A drain under way.
pub(super) struct Draining {
    per_tick: usize,
}

impl Shard {
    /// Ends a turn: counts its time, and once a tick does what is due.
    pub(super) fn housekeep(&mut self, began: Instant) {
        let now = self.shared.clock.now();
        self.load.busy += now.since(began);
        if now.as_millis() < self.load.due_ms {
            return;
        }
        self.now = now;
        self.load.due_ms = now.as_millis() + TICK_MS;
        self.load.ticks += 1;
        self.load.judge(now);
        self.load.inbox_gauge.set(self.inbox.len() as i64);
        self.shared
            .figures
            .turn
            .record(now.since(began).as_nanos() as u64);
        self.hand_over();
        if self.index == 0 {
            self.tend_namespaces();
        }
        if self.load.ticks.is_multiple_of(TICKS_PER_COUNT) {
            self.count_states();
        }
        if now.as_millis() >= self.load.sweep_due_ms {
            self.load.sweep_due_ms =
                now.as_millis() + self.shared.config.sessions.sweep_every.as_millis() as u64;
            self.sweep();
        }
        self.drain_some();
    }

    /// Adds this shard's counts to the shared figures.
    fn hand_over(&mut self) {
        let figures = &self.shared.figures;
        let tally = std::mem::take(&mut self.tally);
        figures.messages_in.add(tally.messages_in);
        figures.messages_out.add(tally.messages_out);
        figures.bytes_in.add(tally.bytes_in);
        figures.bytes_out.add(tally.bytes_out);
        figures.events.add(tally.events);
        figures.deliveries.add(tally.deliveries);
        figures.writes.add(tally.writes);
        figures.dropped.add(tally.dropped);
        figures.conflated.add(tally.conflated);
        figures
            .deflate_saved
            .add(std::mem::take(&mut self.encoder.saved_bytes));
        for (frames, &n) in tally.frames_per_write.iter().enumerate().filter(|(_, n)| **n > 0) {
            figures.frames_per_write.record_n(frames as u64, n);
        }
        figures.sessions.add(tally.sessions);
        self.tally.samples = tally.samples;
        self.load.sessions_shown += tally.sessions;
    }

    /// What concerns whole namespaces is done by the first shard.
    fn tend_namespaces(&self) {
        let mut sums = [0; 4];
        for namespace in &self.shared.namespaces {
            namespace.announce_presence();
            for (sum, size) in sums.iter_mut().zip(namespace.sizes()) {
                *sum += size as i64;
            }
        }
        let figures = &self.shared.figures;
        figures.rooms.set(sums[0]);
        figures.users.set(sums[1]);
        figures.ring_bytes.set(sums[2]);
        figures.ring_messages.set(sums[3]);
    }

    fn count_states(&mut self) {
        let now_ms = self.now.as_millis();
        let mut states = [0; State::ALL.len()];
        for (_, session) in &self.sessions {
            let overdue = self
                .conns
                .get(session.conn as usize)
                .is_some_and(|conn| conn.is_pong_overdue(now_ms));
            states[session.state(&self.shared.config.sessions, now_ms, overdue) as usize] += 1;
        }
        let mut transports = [0; 2];
        let mut outbox = [0; 2];
        for (_, conn) in &self.conns {
            transports[usize::from(matches!(conn.transport, Transport::Polling(_)))] += 1;
            outbox[0] += conn.outbox.bytes() as i64;
            outbox[1] += conn.outbox.len() as i64;
        }
        let figures = &self.shared.figures;
        show(&figures.states.each_ref(), &mut self.load.states_shown, states);
        show(
            &[&figures.websockets, &figures.pollings],
            &mut self.load.transports_shown,
            transports,
        );
        show(
            &[&figures.outbox_bytes, &figures.outbox_frames],
            &mut self.load.outbox_shown,
            outbox,
        );
    }

    /// Looks for what deadlines should have ended, and for sessions silent beyond what is allowed.
    fn sweep(&mut self) {
        let now_ms = self.now.as_millis();
        let overdue: Vec<u32> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_open() && !conn.paused && conn.is_pong_overdue(now_ms))
            .map(|(index, _)| index as u32)
            .collect();
        for index in overdue {
            self.close_conn(index, CloseReason::PingTimeout);
        }
        if self.shared.config.sessions.close_stale {
            let config = self.shared.config.sessions.clone();
            let stale = self.sessions.iter().filter(|(_, session)| {
                session.conn != NO_CONN && session.state(&config, now_ms, false) == State::Stale
            });
            let stale: Vec<u32> = stale.map(|(index, _)| index as u32).collect();
            for index in stale {
                if self.sessions.contains(index as usize) {
                    self.end_session(index, CloseReason::Stale);
                }
            }
        }
    }

    /// Sessions that have been silent for too long go first when a limit needs room, the longest silent at the front.
    pub(super) fn make_room(&mut self) {
        let now_ms = self.now.as_millis();
        if now_ms < self.load.room_due_ms {
            return;
        }
        self.load.room_due_ms = now_ms + ROOM_EVERY_MS;
        let config = self.shared.config.sessions.clone();
        let silent = self.sessions.iter().filter(|(_, session)| {
            session.conn != NO_CONN && session.state(&config, now_ms, false) == State::Stale
        });
        let mut silent: Vec<(u64, u32)> = silent
            .map(|(index, session)| (session.last_event_ms, index as u32))
            .collect();
        silent.sort_unstable();
        for (_, index) in silent.into_iter().take(ROOM_AT_ONCE) {
            if self.sessions.contains(index as usize) {
                self.end_session(index, CloseReason::Stale);
            }
        }
    }

    /// Closes everything at a pace that the clients' reconnects can be served.
    pub(super) fn on_drain(&mut self, per_second: u32) {
        let per_tick = (u64::from(per_second) * TICK_MS / 1_000).max(1) as usize;
        self.draining = Some(Draining { per_tick });
        self.drain_some();
    }

    fn drain_some(&mut self) {
        let Some(draining) = &self.draining else { return };
        let open = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_open())
            .take(draining.per_tick);
        let open: Vec<u32> = open.map(|(index, _)| index as u32).collect();
        for index in open {
            for slot in self.conns[index as usize].sessions.clone() {
                self.flush_batch(slot.session);
            }
            self.close_conn(index, CloseReason::Draining);
        }
    }
}

/// Adds the change since the last count to figures that all shards share.
fn show<const N: usize>(gauges: &[&Gauge; N], shown: &mut [i64; N], now: [i64; N]) {
    for ((gauge, shown), now) in gauges.iter().zip(shown).zip(now) {
        gauge.add(now - *shown);
        *shown = now;
    }
}
