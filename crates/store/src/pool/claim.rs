//! A connection in use: gives itself back when dropped, without blocking.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tidegate_vitals::Instant;
use tokio::time::timeout;

use super::connector::Connector;
use super::shared::{CHECK_MAX, Reason, Shared};
use super::slot::{Entry, State, Taken};

/// A connection that is yours until you drop it.
///
/// Dropping gives it to the first waiter, or back to the pool; what was left running on it is cleaned up in the
/// background before the next user sees it.
#[must_use = "a claim that is dropped goes back to the pool"]
pub struct Claim<C: Connector> {
    shared: Arc<Shared<C>>,
    /// There until the claim ends.
    entry: Option<Box<Entry<C::Connection>>>,
    slot: usize,
    location: &'static Location<'static>,
    /// When the claim began, if it is one of those that are timed, and how many it stands for.
    timed: Option<(Instant, u64)>,
    /// A check runs on it: dropped now, it must be drained.
    is_probing: bool,
}

const HELD: &str = "only ending the claim takes its connection";

impl<C: Connector> Claim<C> {
    #[inline]
    pub(super) fn new(
        shared: Arc<Shared<C>>,
        slot: usize,
        taken: Taken<C::Connection>,
        location: &'static Location<'static>,
    ) -> Self {
        let timed = (taken.weight > 0).then(|| (shared.clock.now(), taken.weight));
        Self {
            shared,
            entry: Some(taken.entry),
            slot,
            location,
            timed,
            is_probing: false,
        }
    }

    /// Where it was acquired.
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// Ends the claim and closes the connection instead of giving it back; the others of its generation are checked
    /// before they are given out again.
    pub fn broken(mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.discard(self.slot, entry, Reason::Broken);
        }
    }

    /// Whether it may be used without a round trip.
    #[inline]
    pub(super) fn is_fresh(&self) -> bool {
        let entry = self.entry.as_ref().expect(HELD);
        self.shared.is_fresh(entry)
    }

    /// Proves the connection by a round trip if need be; `false`: it is dead and to be ended by [`Claim::broken`].
    pub(super) async fn prove(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let entry = self.entry.as_mut().expect(HELD);
        if !shared.connector.is_usable(&entry.connection) {
            return false;
        }
        if shared.is_fresh(entry) {
            return true;
        }
        let generation = shared.generation();
        shared.slots[self.slot].lock().state = State::Probing;
        self.is_probing = true;
        let checked = timeout(CHECK_MAX, shared.connector.check(&mut entry.connection)).await;
        self.is_probing = false;
        shared.slots[self.slot].lock().state = State::Active;
        entry.generation = generation;
        entry.proven = shared.now();
        matches!(checked, Ok(Ok(())))
    }

    /// Gives it back through a check in the background.
    pub(super) fn probe(mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.probe(self.slot, entry);
        }
    }

    /// Takes the claim apart; nothing is given back.
    pub(super) fn into_entry(mut self) -> Box<Entry<C::Connection>> {
        self.entry.take().expect(HELD)
    }
}

impl<C: Connector> Deref for Claim<C> {
    type Target = C::Connection;

    #[inline]
    fn deref(&self) -> &C::Connection {
        &self.entry.as_ref().expect(HELD).connection
    }
}

impl<C: Connector> DerefMut for Claim<C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut C::Connection {
        &mut self.entry.as_mut().expect(HELD).connection
    }
}

impl<C: Connector> Drop for Claim<C> {
    #[inline]
    fn drop(&mut self) {
        let Some(entry) = self.entry.take() else {
            return;
        };
        if let Some((since, weight)) = self.timed {
            let held: Duration = self.shared.clock.now() - since;
            self.shared.record_hold(held, weight);
        }
        self.shared.release(self.slot, entry, self.is_probing);
    }
}

impl<C: Connector> fmt::Debug for Claim<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claim(slot {}, by {})", self.slot, self.location)
    }
}
