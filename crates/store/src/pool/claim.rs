//! A connection in use: gives itself back when dropped, without blocking.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::Arc;

use tokio::time::timeout;

use super::connector::Connector;
use super::shared::{CHECK_MAX, Reason, Shared};
use super::slot::{Entry, State};

/// A connection that is yours until you drop it.
///
/// Dropping gives it to the first waiter, or back to the pool; what was left running on it is cleaned up in the
/// background before the next user sees it.
#[must_use = "a claim that is dropped goes back to the pool"]
pub struct Claim<C: Connector> {
    shared: Arc<Shared<C>>,
    /// There until the claim ends.
    entry: Option<Box<Entry<C::Connection>>>,
}

const HELD: &str = "only ending the claim takes its connection";

impl<C: Connector> Claim<C> {
    /// A claim of `entry` by `location`, from now on.
    #[inline]
    pub(super) fn new(
        shared: &Arc<Shared<C>>,
        mut entry: Box<Entry<C::Connection>>,
        location: &'static Location<'static>,
    ) -> Self {
        shared.slots[entry.slot].claim(&mut entry, location, shared.now());
        if entry.weight > 0 {
            entry.begun = shared.clock.now();
        }
        Self {
            shared: Arc::clone(shared),
            entry: Some(entry),
        }
    }

    /// Where it was acquired.
    pub fn location(&self) -> &'static Location<'static> {
        self.entry().location
    }

    /// Ends the claim and closes the connection instead of giving it back; the others of its generation are checked
    /// before they are given out again.
    pub fn broken(mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.discard(entry, Reason::Broken);
        }
    }

    /// Whether it may be used without a round trip.
    #[inline]
    pub(super) fn is_fresh(&self) -> bool {
        self.shared.is_fresh(self.entry())
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
        let slot = &shared.slots[entry.slot];
        slot.set_state(State::Probing);
        entry.is_probing = true;
        let checked = timeout(CHECK_MAX, shared.connector.check(&mut entry.connection)).await;
        entry.is_probing = false;
        slot.set_state(State::Active);
        entry.generation = generation;
        entry.proven = shared.now();
        matches!(checked, Ok(Ok(())))
    }

    /// Gives it back through a check in the background.
    pub(super) fn probe(mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.probe(entry);
        }
    }

    /// Takes the claim apart; nothing is given back.
    pub(super) fn into_entry(mut self) -> Box<Entry<C::Connection>> {
        self.entry.take().expect(HELD)
    }

    #[inline]
    fn entry(&self) -> &Entry<C::Connection> {
        self.entry.as_ref().expect(HELD)
    }
}

impl<C: Connector> Deref for Claim<C> {
    type Target = C::Connection;

    #[inline]
    fn deref(&self) -> &C::Connection {
        &self.entry().connection
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
        if let Some(entry) = self.entry.take() {
            self.shared.release(entry);
        }
    }
}

impl<C: Connector> fmt::Debug for Claim<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.entry();
        write!(f, "Claim(slot {}, by {})", entry.slot, entry.location)
    }
}
