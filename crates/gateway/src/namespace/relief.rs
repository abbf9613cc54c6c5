//! A namespace under memory pressure: what it keeps for later is cut, oldest first.

use std::{ops::AddAssign, sync::atomic::Ordering};

use super::Namespace;
use crate::relief::{Reaction, WHOLE};

/// What one part of a trim took away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trimmed {
    pub(crate) ring_messages: u64,
    pub(crate) ring_bytes: u64,
    pub(crate) history_messages: u64,
    pub(crate) history_bytes: u64,
    /// Not done yet.
    pub(crate) more: bool,
}

impl AddAssign for Trimmed {
    fn add_assign(&mut self, other: Self) {
        self.ring_messages += other.ring_messages;
        self.ring_bytes += other.ring_bytes;
        self.history_messages += other.history_messages;
        self.history_bytes += other.history_bytes;
        self.more |= other.more;
    }
}

impl Namespace {
    /// How much of its size the ring and each history may have from now on, per mille. Nothing is cut yet.
    pub(crate) fn set_kept(&self, permille: u16) {
        let mut inner = self.lock();
        inner.ring.set_share(permille);
        inner.rooms.set_share(permille);
        drop(inner);
        if permille < WHOLE {
            tracing::debug!(namespace = %self.name, permille, "ring and histories are cut for memory");
        }
    }

    /// Cuts at most `n` messages of the ring and the histories of `n` rooms, so that publishers wait for no more.
    ///
    /// What leaves the ring is forgotten in every log, as when the ring is full: a session that needed it finds out by
    /// its position and begins anew. The last values of a room stay, since a join is answered from them.
    pub(crate) fn trim(&self, n: usize) -> Trimmed {
        let mut inner = self.lock();
        let mut trimmed = inner.rooms.trim_histories(n);
        let before = inner.ring.bytes();
        let over = std::iter::from_fn(|| inner.drop_over_share()).take(n);
        trimmed.ring_messages = over.count() as u64;
        trimmed.ring_bytes = (before - inner.ring.bytes()) as u64;
        trimmed.more |= trimmed.ring_messages == n as u64;
        self.note_ring(&inner);
        trimmed
    }

    /// Under memory pressure a ring shrinks with each message too, by a little more than it grew.
    pub(super) fn shrink_with(&self, inner: &mut super::Inner) {
        let before = inner.ring.bytes();
        let n = std::iter::from_fn(|| inner.drop_over_share()).take(4).count() as u64;
        if n > 0 {
            let bytes = (before - inner.ring.bytes()) as u64;
            self.figures.relieved(Reaction::Rings, n, bytes);
        }
        self.note_ring(inner);
    }

    /// Bytes of the ring, known without its lock.
    pub(crate) fn ring_bytes(&self) -> u64 {
        self.ring_bytes.load(Ordering::Relaxed)
    }

    /// Shows what the ring holds to those who do not wait for the lock.
    pub(super) fn note_ring(&self, inner: &super::Inner) {
        self.ring_bytes
            .store(inner.ring.bytes() as u64, Ordering::Relaxed);
    }
}

impl super::Inner {
    /// Forgets the oldest message if the ring holds more than its share.
    pub(super) fn drop_over_share(&mut self) -> Option<()> {
        let old = self.ring.pop_over_share()?;
        self.forget(&old);
        Some(())
    }
}
