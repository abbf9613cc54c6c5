//! Moving a session to another connection, with everything it missed.

use std::{net::IpAddr, sync::Arc};

use tidegate_auth::Identity;

use super::{Act, Inner, Namespace};
use crate::{
    admit::Given,
    close::CloseReason,
    id::Id,
    message::{Dest, Dests, Message, RoomId, SessionRef},
    shard::{
        command::Command,
        session::{LeftRoom, Pending, user_of},
    },
};

/// A session on its way to another connection, perhaps on another shard.
pub(crate) struct Moved {
    pub(crate) namespace: u16,
    pub(crate) id: Id,
    pub(crate) pid: Id,
    pub(crate) identity: Arc<Identity>,
    pub(crate) rooms: Vec<MovedRoom>,
    /// Memberships that ended, of which a replay may still speak.
    #[expect(
        clippy::box_collection,
        reason = "one pointer in every session, of which few ever leave a room"
    )]
    pub(crate) left: Option<Box<Vec<LeftRoom>>>,
    /// Where the reader certainly was when its connection was lost.
    pub(crate) position: u64,
    pub(crate) from: SessionRef,
    /// Number of the newest action that its shard had handled when it left.
    pub(crate) acted: u64,
    pub(crate) recovered: u32,
    pub(crate) errors: u32,
    pub(crate) connected_ms: u64,
    pub(crate) last_event_ms: u64,
    /// Whether presence still counts it; see `RoomOptions::presence_grace`.
    pub(crate) present: bool,
    /// Where its last connection came from, and why that was lost.
    pub(crate) address: IpAddr,
    pub(crate) lost: CloseReason,
    /// Events that wait for the handler before them.
    pub(crate) handlers: Option<Box<Pending>>,
    pub(crate) given: Option<Box<Given>>,
}

impl Moved {
    /// Takes the fresh credentials of a client that came back, unless the application says who it is.
    pub(crate) fn renew(&mut self, proved: &Arc<Identity>) {
        match self.given.as_mut().and_then(|given| given.proved.as_mut()) {
            Some(known) => *known = proved.clone(),
            None => self.identity = proved.clone(),
        }
    }

    /// How presence names it.
    pub(crate) fn who(&self) -> Arc<str> {
        user_of(&self.identity)
            .cloned()
            .unwrap_or_else(|| self.id.as_str().into())
    }
}

/// One membership of a moved session.
#[derive(Clone, Copy)]
pub(crate) struct MovedRoom {
    pub(crate) id: RoomId,
    pub(crate) since: u64,
    /// Joined by the client itself, so that its permission is checked again.
    pub(crate) by_client: bool,
    pub(crate) presence: bool,
}

/// What a recovered session missed, oldest first.
pub(crate) struct Replay {
    pub(crate) messages: Vec<Arc<Message>>,
    pub(crate) seq: u64,
}

impl Namespace {
    /// The position a client's offset names, if it can be one of this session.
    pub(crate) fn client_position(&self, offset: Option<&str>) -> Option<u64> {
        let position = self.epoch.position(offset?)?;
        (position <= self.seq()).then_some(position)
    }

    /// Moves a session to slot `to` at this point of the order, if nothing it missed is lost; else says why not
    /// and leaves everything as it was.
    pub(crate) fn recover(
        &self,
        moved: &Moved,
        to: SessionRef,
        replay_bytes_max: usize,
    ) -> Result<(), &'static str> {
        let shards = 1 << to.shard;
        let mut inner = self.lock();
        // It may have been neither here nor there when something was done to it.
        if let Some(missed) = inner.acts.missed_by(moved) {
            return Err(missed);
        }
        let messages = inner.missed(moved, replay_bytes_max)?;
        if self.reserve(shards).is_err() {
            return Err("overloaded");
        }
        inner.transfer(moved, to);
        let replay = Replay {
            messages,
            seq: inner.seq,
        };
        self.inboxes[usize::from(to.shard)].fill(Command::Recovered { session: to, replay });
        drop(inner);
        self.wake(shards);
        Ok(())
    }
}

impl Inner {
    /// Everything the session's targets got after its position, or why that is no longer known.
    fn missed(&self, moved: &Moved, bytes_max: usize) -> Result<Vec<Arc<Message>>, &'static str> {
        let resident = self.sessions.get(&moved.id).ok_or("unknown")?;
        let own = resident.log.as_deref();
        let user = self.users.get(&moved.identity.user).map(|user| &user.log);
        let mut missed = Vec::new();
        let logs = [Some(&self.everyone), own, user]
            .into_iter()
            .flatten()
            .map(|log| (log, moved.position));
        let rooms = moved.rooms.iter().filter_map(|joined| {
            // What was published before the join was never the session's.
            Some((&self.rooms.get(joined.id)?.log, moved.position.max(joined.since)))
        });
        for (log, position) in logs.chain(rooms) {
            if !log.holds_after(position) {
                return Err("ring_passed");
            }
            missed.extend(
                log.after(position)
                    .filter(|message| !excepts(message, moved))
                    .cloned(),
            );
        }
        missed.sort_unstable_by_key(|message| message.seq);
        missed.dedup_by_key(|message| message.seq);
        if missed.iter().map(|message| message.bytes()).sum::<usize>() > bytes_max {
            return Err("replay_too_large");
        }
        Ok(missed)
    }

    fn transfer(&mut self, moved: &Moved, to: SessionRef) {
        let from = moved.from;
        self.sessions_per_shard[usize::from(to.shard)] += 1;
        self.sessions_per_shard[usize::from(from.shard)] -= 1;
        for joined in &moved.rooms {
            self.rooms.shift(joined.id, from.shard, to.shard);
        }
        if let Some(user) = self.users.get_mut(&moved.identity.user) {
            user.sessions
                .iter_mut()
                .filter(|at| **at == from)
                .for_each(|at| *at = to);
        }
        if let Some(resident) = self.sessions.get_mut(&moved.id) {
            resident.at = to;
        }
    }
}

/// Whether a message left this session out, by the rooms it was in when the message was published.
fn excepts(message: &Message, moved: &Moved) -> bool {
    let seq = message.seq;
    names(&message.except, moved, |since, until| since < seq && seq <= until)
}

/// Whether an action may have been meant for this session. Joins and actions do not count positions up, so that of two at
/// the same position either may have been the first.
pub(super) fn concerns(act: &Act, moved: &Moved) -> bool {
    let seq = act.seq;
    let chosen = act.to.is_empty() || names(&act.to, moved, |since, until| since <= seq && seq <= until);
    // Left out for certain, whichever came first.
    let left_out = names(&act.except, moved, |since, until| since < seq && seq < until);
    chosen && !left_out
}

/// Whether targets name a session, by memberships that began and ended at these positions.
fn names(dests: &Dests, moved: &Moved, counts: impl Fn(u64, u64) -> bool) -> bool {
    let was_in = |id: RoomId| {
        let mut left = moved.left.iter().flat_map(|left| left.iter());
        moved
            .rooms
            .iter()
            .any(|joined| joined.id == id && counts(joined.since, u64::MAX))
            || left.any(|left| left.id == id && counts(left.since, left.until))
    };
    dests.iter().any(|dest| match dest {
        Dest::Room(id) => was_in(*id),
        Dest::User(name, _) => *name == moved.identity.user,
        Dest::Session(id, _) => *id == moved.id,
    })
}
