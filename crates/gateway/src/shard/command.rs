//! What a shard can be asked to do, in one order.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_auth::Identity;
use tokio::sync::oneshot;

use super::{admit::Admission, conn::Handshake, link::Link};
use crate::{
    Error,
    act::Report,
    admission::Permit,
    admit::SessionData,
    close::CloseReason,
    handler::ConnectRequest,
    id::Id,
    inspect::SessionInfo,
    message::{Dests, Message, RoomId, SessionRef},
    namespace::{Act, By, Moved, Replay},
    room::RoomOptions,
};

/// One thing for a shard to do.
pub(crate) enum Command {
    /// Hand a message to its receivers here.
    Deliver(Arc<Message>),
    /// A new session begins at this point of the order.
    Opened { session: SessionRef, seq: u64 },
    /// A recovered session goes on at this point of the order.
    Recovered { session: SessionRef, replay: Replay },
    /// A session is in these rooms from this point of the order.
    Joined {
        session: SessionRef,
        seq: u64,
        rooms: Vec<Joined>,
        by: By,
    },
    /// A session leaves these rooms at this point of the order.
    Left {
        session: SessionRef,
        rooms: Vec<RoomId>,
        ack: Option<u64>,
    },
    /// Something is done to many sessions at this point of the order.
    Act(Box<ActHere>),
    /// The answer to an event of a client.
    Reply {
        session: SessionRef,
        text: String,
        attachments: Vec<Bytes>,
    },
    /// An asynchronous handler has ended.
    HandlerDone(HandlerDone),
    /// Whether a client may enter a namespace is decided.
    Decided(Box<Decided>),
    /// The application has decided on a fresh session.
    Admitted(Box<Admission>),
    /// Another connection wants a session that lives here.
    TakeOver {
        session: SessionRef,
        pid: Id,
        asker: Asker,
    },
    /// The answer to that: the session, or nothing if it is gone.
    TakenOver { asker: Asker, moved: Option<Box<Moved>> },
    /// An upgraded connection.
    WebSocket(Box<NewWebSocket>),
    /// A request of the polling transport.
    Poll(Box<Poll>),
    /// End these sessions.
    Disconnect { who: Who, reason: CloseReason },
    /// Cut a session's connection as a failing network would.
    Cut { session: SessionRef },
    /// Write what waits for a session, flush window or not.
    Flush { session: Option<SessionRef> },
    /// The application names another user for a session.
    Identify {
        session: SessionRef,
        identity: Arc<Identity>,
    },
    /// The application keeps another text with a session.
    SetData {
        session: SessionRef,
        data: Option<SessionData>,
    },
    /// Describe sessions after an id, in order of id: all, or those of a namespace that targets name.
    Inspect {
        among: Option<(u16, Dests)>,
        after: Option<Id>,
        limit: usize,
        reply: oneshot::Sender<Vec<SessionInfo>>,
    },
    /// Describe one session.
    InspectOne {
        session: SessionRef,
        reply: oneshot::Sender<Option<SessionInfo>>,
    },
    /// The connection limit is met: sessions silent for too long make room.
    MakeRoom,
    /// Another plan for memory pressure is in force.
    Relieve,
    /// Settings changed.
    Reload,
    /// Close everything, so many a second.
    Drain { per_second: u32 },
    /// End every session and cut every connection; whoever wants to know of an end has heard when this is answered.
    EndAll { done: oneshot::Sender<()> },
    /// End the thread.
    Stop,
}

/// An asynchronous handler that has ended.
#[derive(Clone, Copy)]
pub(crate) struct HandlerDone {
    /// Where its session was when it started.
    pub(crate) session: SessionRef,
    pub(crate) namespace: u16,
    pub(crate) id: Id,
    pub(crate) failed: bool,
}

/// One room of a join.
pub(crate) struct Joined {
    pub(crate) namespace: u16,
    pub(crate) id: RoomId,
    pub(crate) snapshot: Vec<Arc<Message>>,
    pub(crate) options: Option<Arc<RoomOptions>>,
}

/// A shard's part of an action.
pub(crate) struct ActHere {
    pub(crate) act: Arc<Act>,
    pub(crate) todo: Todo,
    /// For a join: memberships of each room that were counted ahead for this shard.
    pub(crate) counted: u32,
    /// Whoever waits for what came of it.
    pub(crate) report: Option<Arc<Report>>,
}

/// What an action does to its sessions.
#[derive(Clone)]
pub(crate) enum Todo {
    Join {
        rooms: Arc<[Joined]>,
        /// More were named than a session may be in, so that nobody is in all of them.
        too_many: bool,
    },
    Leave(Arc<[RoomId]>),
    Disconnect {
        close: bool,
    },
}

/// A connection that waits for a session to be moved to it.
pub(crate) struct Asker {
    /// Its place in the order of arrival of connections.
    pub(crate) order: u64,
    pub(crate) shard: u16,
    pub(crate) conn: u32,
    pub(crate) generation: u32,
    pub(crate) entry: Box<Entry>,
}

/// A namespace entry under way: everything CONNECT said.
pub(crate) struct Entry {
    pub(crate) namespace: u16,
    pub(crate) identity: Arc<Identity>,
    pub(crate) offset: Option<String>,
    pub(crate) batch: bool,
    pub(crate) recovery: bool,
    /// For the connect handler, where there is one.
    pub(crate) request: Option<Box<ConnectRequest>>,
}

/// The decision on a CONNECT that was taken off the shard.
pub(crate) struct Decided {
    pub(crate) conn: u32,
    pub(crate) generation: u32,
    pub(crate) namespace: u16,
    pub(crate) pid: Option<Id>,
    pub(crate) result: Result<Entry, Error>,
}

/// Who is to be disconnected.
pub(crate) enum Who {
    Session(SessionRef),
    Room { namespace: u16, room: RoomId },
}

/// A WebSocket whose handshake is done.
pub(crate) struct NewWebSocket {
    pub(crate) link: Link,
    /// Bytes that came with the handshake.
    pub(crate) early: Bytes,
    pub(crate) endpoint: u8,
    /// The server's window bits where permessage-deflate was agreed.
    pub(crate) window_bits: Option<u8>,
    /// The Engine.IO sid of the polling connection to upgrade.
    pub(crate) upgrades: Option<Id>,
    pub(crate) handshake: Arc<Handshake>,
    /// None for an upgrade, whose connection holds one already.
    pub(crate) permit: Option<Permit>,
}

/// One polling request and the way back.
pub(crate) struct Poll {
    pub(crate) request: PollRequest,
    pub(crate) reply: oneshot::Sender<PollReply>,
}

pub(crate) enum PollRequest {
    Open {
        endpoint: u8,
        handshake: Arc<Handshake>,
        permit: Permit,
    },
    Get {
        sid: Id,
    },
    Post {
        sid: Id,
        body: Bytes,
    },
}

/// What a polling request is answered with.
#[derive(Debug)]
pub(crate) enum PollReply {
    /// Packets.
    Payload(Vec<u8>),
    /// `ok`.
    Accepted,
    /// 503: the memory accounts are full.
    NoMemory,
    /// 400 with an Engine.IO error code and message.
    Refused(u8, &'static str),
}
