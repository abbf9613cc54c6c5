//! A shard under memory pressure: what it trims, whom it closes, and how it goes back to normal.

use super::{CONN_BYTES, Session, Shard, conn::Conn, timers::NEVER};
use crate::{
    close::CloseReason,
    config::OutboxConfig,
    namespace::Trimmed,
    relief::{Plan, Reaction, WHOLE},
};

/// Messages of rings and rooms of histories looked at under one lock: some 100 µs.
const TRIM_AT_ONCE: usize = 1_024;
/// Connections whose storage is looked at in one turn.
const WALK_AT_ONCE: usize = 4_096;
/// Time between two walks over all connections.
const WALK_EVERY_MS: u64 = 2_000;
/// Time between two searches for silent connections: each looks at all sessions.
const SILENT_EVERY_MS: u64 = 100;
/// An outbox below this is not worth a connection.
const SLOW_BYTES_MIN: usize = 4 << 10;
/// Connections closed as furthest behind for one ask.
const SLOW_AT_ONCE: usize = 256;
/// The soft limit never goes below this: one packet of a chatty page.
const SOFT_BYTES_MIN: usize = 4 << 10;

/// Where a shard is in giving memory back.
pub(super) struct Easing {
    /// Limits of outboxes as they are now.
    pub(super) outbox: OutboxConfig,
    rings_permille: u16,
    /// Namespaces hold more than they may: the first shard trims them bit by bit.
    trimming: bool,
    /// The next connection of a walk under way.
    walk: Option<usize>,
    walk_due_ms: u64,
    silent_due_ms: u64,
}

// === impl Easing ===

impl Easing {
    pub(super) fn new(outbox: &OutboxConfig) -> Self {
        Self {
            outbox: outbox.clone(),
            rings_permille: WHOLE,
            trimming: false,
            walk: None,
            walk_due_ms: 0,
            silent_due_ms: 0,
        }
    }

    /// Whether the next turn has more of it to do.
    pub(super) fn is_busy(&self) -> bool {
        self.trimming || self.walk.is_some()
    }
}

impl Shard {
    /// A new plan is in force.
    pub(super) fn on_relieve(&mut self) {
        let plan = self.shared.relief.take(self.index);
        self.set_outbox_limits(plan.outboxes_permille);
        if self.index == 0 && plan.rings_permille != self.easing.rings_permille {
            self.easing.rings_permille = plan.rings_permille;
            for namespace in &self.shared.namespaces {
                namespace.set_kept(plan.rings_permille);
            }
            self.easing.trimming = plan.rings_permille < WHOLE;
        }
        let now_ms = self.now.as_millis();
        if plan.storage && self.easing.walk.is_none() && now_ms >= self.easing.walk_due_ms {
            self.easing.walk = Some(0);
            self.easing.walk_due_ms = now_ms + WALK_EVERY_MS;
        }
        let shards = self.shared.inboxes.len() as u64;
        if plan.silent_bytes > 0 && now_ms >= self.easing.silent_due_ms {
            self.easing.silent_due_ms = now_ms + SILENT_EVERY_MS;
            self.close_silent(&plan, plan.silent_bytes.div_ceil(shards));
        }
        if plan.slow_bytes > 0 {
            self.close_slowest(plan.slow_bytes.div_ceil(shards), plan.slow_after_ms);
        }
    }

    fn set_outbox_limits(&mut self, permille: u16) {
        let configured = self.shared.config.outbox.soft_bytes;
        let share = (configured as u64 * u64::from(permille) / u64::from(WHOLE)) as usize;
        let soft_bytes = share.max(SOFT_BYTES_MIN).min(configured);
        if soft_bytes < self.easing.outbox.soft_bytes {
            self.shared.figures.relieved(Reaction::Outboxes, 1, 0);
        }
        self.easing.outbox.soft_bytes = soft_bytes;
    }

    /// A part of what is under way, small enough for one turn.
    pub(super) fn ease(&mut self) {
        if self.easing.trimming {
            self.trim_namespaces();
        }
        if let Some(from) = self.easing.walk {
            self.walk_storage(from);
        }
    }

    fn trim_namespaces(&mut self) {
        let mut sum = Trimmed::default();
        for namespace in &self.shared.namespaces {
            sum += namespace.trim(TRIM_AT_ONCE);
        }
        self.easing.trimming = sum.more;
        let figures = &self.shared.figures;
        figures.relieved(Reaction::Rings, sum.ring_messages, sum.ring_bytes);
        figures.relieved(Reaction::History, sum.history_messages, sum.history_bytes);
    }

    /// Gives back storage that nothing needs at the moment, of some connections and in the end of the shard itself.
    fn walk_storage(&mut self, from: usize) {
        let end = self.conns.capacity().max(self.sessions.capacity());
        let until = (from + WALK_AT_ONCE).min(end);
        let mut freed = 0;
        for index in from..until {
            freed += self.conns.get_mut(index).map_or(0, Conn::shrink);
            freed += self.sessions.get_mut(index).map_or(0, Session::shrink);
        }
        self.easing.walk = (until < end).then_some(until);
        if self.easing.walk.is_none() {
            freed += self.shrink_lists();
            self.outboxes.settle();
            self.reads.settle();
            self.people.settle();
            self.shared.figures.relieved(Reaction::Storage, 1, 0);
        }
        self.shared.figures.relieved(Reaction::Storage, 0, freed as u64);
    }

    fn shrink_lists(&mut self) -> usize {
        let mut freed = shrink(&mut self.out, super::SCRATCH_BYTES);
        for space in &mut self.spaces {
            freed += shrink(&mut space.members, 0);
            freed += space.rooms.iter_mut().map(|list| shrink(list, 0)).sum::<usize>();
        }
        let before =
            self.conns.capacity() * size_of::<Conn>() + self.sessions.capacity() * size_of::<Session>();
        if self.conns.capacity() > 2 * self.conns.len() + 64 {
            self.conns.shrink_to_fit();
        }
        if self.sessions.capacity() > 2 * self.sessions.len() + 64 {
            self.sessions.shrink_to_fit();
        }
        let after =
            self.conns.capacity() * size_of::<Conn>() + self.sessions.capacity() * size_of::<Session>();
        freed + before - after
    }

    /// Closes connections without events, those that have been silent longest first. Their sessions wait for recovery.
    fn close_silent(&mut self, plan: &Plan, bytes: u64) {
        let n = (bytes.div_ceil(CONN_BYTES as u64) as usize).min(plan.silent_at_once);
        let now_ms = self.now.as_millis();
        let config = &self.shared.config.sessions;
        let (idle_ms, stale_ms) = (
            config.idle_after.as_millis() as u64,
            config.stale_after.as_millis() as u64,
        );
        let silent_ms = |conn: &Conn| {
            let sessions = conn
                .sessions
                .iter()
                .map(|slot| &self.sessions[slot.session as usize]);
            sessions
                .map(|session| now_ms.saturating_sub(session.last_event_ms))
                .min()
        };
        let open = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_open() && !conn.paused);
        let mut silent: Vec<(u64, u32)> = open
            .filter_map(|(index, conn)| Some((silent_ms(conn).filter(|ms| *ms >= idle_ms)?, index as u32)))
            .collect();
        if silent.len() > n && n > 0 {
            silent.select_nth_unstable_by(n - 1, |a, b| b.cmp(a));
            silent.truncate(n);
        }
        for (ms, index) in silent.into_iter().take(n) {
            let reaction = if ms >= stale_ms {
                Reaction::Stale
            } else {
                Reaction::Idle
            };
            self.shared.figures.relieved(reaction, 1, CONN_BYTES as u64);
            self.close_conn(index, CloseReason::MemoryPressure);
        }
    }

    /// Closes the connections that are furthest behind and have taken nothing for so long, the largest outbox first, until
    /// so many bytes are freed.
    fn close_slowest(&mut self, bytes: u64, after_ms: u64) {
        let stall_ms = self.shared.config.outbox.stall_timeout.as_millis() as u64;
        let now_ms = self.now.as_millis();
        // The deadline of a stall tells since when; one that polls has none.
        let is_stalled = |conn: &Conn| {
            after_ms == 0
                || conn.stall_due_ms != NEVER
                    && now_ms + stall_ms >= conn.stall_due_ms.saturating_add(after_ms)
        };
        let behind = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_open() && conn.is_blocked() && is_stalled(conn));
        let mut behind: Vec<(usize, u32)> = behind
            .map(|(index, conn)| (conn.outbox.bytes(), index as u32))
            .filter(|(queued, _)| *queued >= SLOW_BYTES_MIN)
            .collect();
        behind.sort_unstable_by(|a, b| b.cmp(a));
        behind.truncate(SLOW_AT_ONCE);
        // Before anybody is closed: the last holder of a message would else count for all of them.
        let shares: Vec<usize> = behind
            .iter()
            .map(|(_, index)| self.conns[*index as usize].outbox.share_bytes())
            .collect();
        let mut freed = 0;
        for ((queued_bytes, index), share_bytes) in behind.into_iter().zip(shares) {
            if freed >= bytes {
                break;
            }
            freed += share_bytes as u64;
            self.shared
                .figures
                .relieved(Reaction::Slow, 1, queued_bytes as u64);
            self.shared.figures.slow_closed.inc();
            self.close_conn(index, CloseReason::SlowConsumer);
        }
    }
}

impl Conn {
    /// Gives back room for entries that are not there; says how many bytes.
    fn shrink(&mut self) -> usize {
        let unread = self.unread.as_mut().map_or(0, |unread| shrink(unread, 0));
        self.outbox.shrink() + unread
    }
}

impl Session {
    fn shrink(&mut self) -> usize {
        let left = self.left.as_mut().map_or(0, |left| shrink(&mut **left, 0));
        shrink(&mut self.rooms, 0) + left
    }
}

/// Gives back at least half of a vector's room, if that is spare beyond `keep`; says how many bytes.
fn shrink<T>(list: &mut Vec<T>, keep: usize) -> usize {
    let (before, wanted) = (list.capacity(), list.len().max(keep));
    if before <= 2 * wanted || before < 8 {
        return 0;
    }
    list.shrink_to(wanted);
    (before - list.capacity()) * size_of::<T>()
}
