//! A session: one Socket.IO client in one namespace, which may outlive its connections.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use tidegate_auth::{Identity, Method};

use super::{conn::NO_CONN, timers::NEVER};
use crate::{
    admission::Bucket,
    admit::Given,
    close::CloseReason,
    config::SessionConfig,
    handler::{ConnectRequest, Event},
    id::Id,
    inspect::State,
    message::RoomId,
};

/// One session of a shard.
pub(crate) struct Session {
    pub(crate) generation: u32,
    pub(crate) namespace: u16,
    pub(crate) id: Id,
    /// Its secret for coming back; none where it cannot.
    pub(crate) pid: Option<Id>,
    /// Its connection, or `NO_CONN` while it waits for recovery.
    pub(crate) conn: u32,
    pub(crate) identity: Arc<Identity>,
    pub(crate) address: IpAddr,
    pub(crate) rooms: Vec<Membership>,
    /// Rooms it left after the position its client has certainly seen: what excepted them stays excepted.
    #[expect(
        clippy::box_collection,
        reason = "one pointer in every session, of which few ever leave a room"
    )]
    pub(crate) left: Option<Box<Vec<LeftRoom>>>,
    /// Its place among all of the namespace; valid once opened.
    pub(crate) place: u32,
    /// Its mark in the order has passed, and the client knows of it.
    pub(crate) opened: bool,
    /// Gets events in batches.
    pub(crate) batch: bool,
    /// Presence counts it.
    pub(crate) present: bool,
    /// Position at which it began.
    pub(crate) started: u64,
    /// Position that its client has certainly seen.
    pub(crate) acked: u64,
    /// Position at the last ping, seen once that is answered.
    pub(crate) pinged: u64,
    pub(crate) connected_ms: u64,
    pub(crate) last_event_ms: u64,
    pub(crate) errors: u32,
    pub(crate) recovered: u32,
    pub(crate) events: Option<Bucket>,
    pub(crate) handlers: Option<Box<Pending>>,
    pub(crate) batching: Option<Box<Batching>>,
    /// What it has from the application.
    pub(crate) given: Option<Box<Given>>,
    /// Why its connection was lost, while it waits for recovery.
    pub(crate) lost: CloseReason,
    /// What it entered with, until its connect handler has been called.
    pub(crate) request: Option<Box<ConnectRequest>>,
    /// End of the recovery window while it waits, else of its token.
    pub(crate) expires_ms: u64,
    /// End of the grace in which presence still counts it.
    pub(crate) grace_ms: u64,
    pub(crate) armed_ms: u64,
}

/// A session's place in a room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Membership {
    pub(crate) id: RoomId,
    pub(crate) place: u32,
    /// Position of the join.
    pub(crate) since: u64,
    pub(crate) by_client: bool,
    pub(crate) presence: bool,
}

/// A membership that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeftRoom {
    pub(crate) id: RoomId,
    /// Position of the join.
    pub(crate) since: u64,
    /// Position of the leave.
    pub(crate) until: u64,
}

/// Ended memberships kept until the client has seen that far; the oldest goes first.
const LEFT_MAX: usize = 64;

/// A receiver in a room's list: what a delivery needs to know, without looking further.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub(crate) session: u32,
    pub(crate) conn: u32,
    pub(crate) offset: bool,
    pub(crate) batch: bool,
}

/// Events of one session that wait for the handler before them.
#[derive(Default)]
pub(crate) struct Pending {
    /// Handlers that run; the next event waits for them.
    pub(crate) running: u32,
    pub(crate) queue: VecDeque<Event>,
    pub(crate) bytes: usize,
}

/// Messages collected for one batch event.
#[derive(Default)]
pub(crate) struct Batching {
    pub(crate) pieces: String,
    pub(crate) n: usize,
    pub(crate) seq: u64,
    pub(crate) due_ms: u64,
    /// What the outbox account holds for it.
    pub(crate) charged: usize,
}

impl Session {
    /// The name under which it is counted and found: its user, unless it is anonymous.
    pub(crate) fn user(&self) -> Option<&Arc<str>> {
        user_of(&self.identity)
    }

    /// Whom its credentials prove, whatever the application says of it.
    pub(crate) fn proved(&self) -> &Arc<Identity> {
        let given = self.given.as_ref().and_then(|given| given.proved.as_ref());
        given.unwrap_or(&self.identity)
    }

    /// Keeps whom the credentials prove before the application names somebody else.
    pub(crate) fn note_proof(&mut self, next: &Arc<Identity>) {
        let by_application = next.method == Method::Application;
        let known = self.given.as_ref().is_some_and(|given| given.proved.is_some());
        if by_application == known {
            return;
        }
        let proved = by_application.then(|| self.identity.clone());
        let given = self.given.get_or_insert_with(|| {
            Box::new(Given {
                proved: None,
                data: None,
            })
        });
        given.proved = proved;
    }

    /// How presence names it.
    pub(crate) fn who(&self) -> Arc<str> {
        self.user().cloned().unwrap_or_else(|| self.id.as_str().into())
    }

    pub(crate) fn member(&self, index: u32) -> Member {
        Member {
            session: index,
            conn: self.conn,
            offset: self.pid.is_some(),
            batch: self.batch,
        }
    }

    pub(crate) fn membership(&self, id: RoomId) -> Option<usize> {
        self.rooms.iter().position(|membership| membership.id == id)
    }

    /// Remembers a membership that ends at position `until`, as long as a replay may go back behind it.
    pub(crate) fn remember_left(&mut self, membership: &Membership, until: u64) {
        if self.pid.is_none() {
            return;
        }
        let left = self.left.get_or_insert_default();
        left.retain(|old| old.until > self.acked);
        if left.len() == LEFT_MAX {
            left.remove(0);
        }
        left.push(LeftRoom {
            id: membership.id,
            since: membership.since,
            until,
        });
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.handlers.as_ref().is_some_and(|pending| pending.running > 0)
    }

    pub(crate) fn state(&self, config: &SessionConfig, now_ms: u64, pong_overdue: bool) -> State {
        let silent = now_ms.saturating_sub(self.last_event_ms);
        if self.conn == NO_CONN {
            State::Broken
        } else if pong_overdue || silent >= config.stale_after.as_millis() as u64 {
            State::Stale
        } else if silent >= config.idle_after.as_millis() as u64 {
            State::Idle
        } else {
            State::Active
        }
    }

    pub(crate) fn next_due_ms(&self) -> u64 {
        let batch = self
            .batching
            .as_ref()
            .filter(|batching| batching.n > 0)
            .map_or(NEVER, |b| b.due_ms);
        self.expires_ms.min(self.grace_ms).min(batch)
    }
}

/// The user an identity names; none for anonymous callers.
pub(crate) fn user_of(identity: &Identity) -> Option<&Arc<str>> {
    (identity.method != Method::Anonymous && !identity.user.is_empty()).then_some(&identity.user)
}
