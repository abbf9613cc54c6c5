//! A connection: one Engine.IO session over polling or WebSocket, or a raw WebSocket.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_wire::websocket::Reader;
use tokio::sync::oneshot;

use super::{command::PollReply, link::Link, timers::NEVER};
use crate::{admission::Permit, close::CloseReason, id::Id, outbox::Outbox};

/// In place of a connection's index: none.
pub(crate) const NO_CONN: u32 = u32::MAX;

/// What the opening request said.
pub(crate) struct Handshake {
    /// The query string.
    pub(crate) query: String,
    /// The request's headers.
    pub(crate) headers: http::HeaderMap,
    /// The client's address; behind trusted proxies the one they name.
    pub(crate) address: IpAddr,
    /// Whether the request came through a trusted proxy, whose `X-User-Id` counts.
    pub(crate) trusted: bool,
}

impl Handshake {
    /// A parameter of the query string, as it stands there.
    pub(crate) fn query_value(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name))
            .map(|(_, v)| v)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Whether this is a python-socketio client, which hands every argument to its handlers.
    pub(crate) fn is_python(&self) -> bool {
        let agent = self.header("user-agent").unwrap_or_default().to_ascii_lowercase();
        agent.contains("python") || agent.contains("aiohttp") || self.query.starts_with("transport=")
    }
}

/// One connection of a shard.
pub(crate) struct Conn {
    pub(crate) generation: u32,
    pub(crate) endpoint: u8,
    /// In the list of connections to flush.
    pub(crate) dirty: bool,
    /// Not read from, because its handlers are behind.
    pub(crate) paused: bool,
    pub(crate) state: ConnState,
    pub(crate) transport: Transport,
    pub(crate) outbox: Outbox,
    /// What the outbox account holds for it.
    pub(crate) charged: usize,
    pub(crate) sessions: SmallVec<[Slot; 1]>,
    pub(crate) sid: Id,
    /// Kept until no namespace can ask for it any more.
    pub(crate) handshake: Option<Arc<Handshake>>,
    pub(crate) address: IpAddr,
    pub(crate) heartbeat: Heartbeat,
    /// Deadline for the first namespace.
    pub(crate) connect_due_ms: u64,
    /// Deadline for a socket that takes nothing.
    pub(crate) stall_due_ms: u64,
    /// The earliest deadline in the heap.
    pub(crate) armed_ms: u64,
    /// An event whose attachments are still coming.
    pub(crate) assembly: Option<Box<Assembly>>,
    /// Bytes that arrived behind the event that paused reading.
    pub(crate) unread: Option<Vec<u8>>,
    /// Bytes held in the reader, charged to the account.
    pub(crate) read_charged: usize,
    pub(crate) entering: u16,
    pub(crate) permit: Permit,
}

/// A session on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) namespace: u16,
    pub(crate) session: u32,
}

/// Life of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnState {
    /// Reading and writing. Left for `Flushing` by any close.
    Open,
    /// Closed for its sessions; the last frames are on their way. Left for `Lingering` when they are written.
    Flushing(CloseReason),
    /// Written and shut down on our side; waiting for the peer's end or the deadline, then removed.
    Lingering { due_ms: u64 },
}

/// Ping and pong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heartbeat {
    pub(crate) due_ms: u64,
    pub(crate) waiting: bool,
}

impl Heartbeat {
    pub(crate) const OFF: Self = Self {
        due_ms: NEVER,
        waiting: false,
    };
}

/// How bytes reach the client.
pub(crate) enum Transport {
    WebSocket(WebSocket),
    Polling(Box<Polling>),
}

pub(crate) struct WebSocket {
    pub(crate) link: Link,
    pub(crate) reader: Reader,
    pub(crate) window_bits: Option<u8>,
    /// The socket took less than it was given; it is watched until it takes more.
    pub(crate) blocked: bool,
}

pub(crate) struct Polling {
    /// Packets in one answer: python-engineio refuses an answer of more than sixteen.
    pub(crate) packets_max: usize,
    pub(crate) waiting: Option<oneshot::Sender<PollReply>>,
    /// The body of a POST that came while reading was paused; its client waits for the answer.
    pub(crate) held: Option<Box<Held>>,
    pub(crate) probe: Option<Box<Probe>>,
}

/// A request body that is not read yet.
pub(crate) struct Held {
    pub(crate) body: Bytes,
    pub(crate) reply: oneshot::Sender<PollReply>,
}

/// A WebSocket that wants to replace polling.
pub(crate) struct Probe {
    pub(crate) socket: WebSocket,
    pub(crate) probed: bool,
    pub(crate) due_ms: u64,
}

/// A binary event in parts.
pub(crate) struct Assembly {
    pub(crate) text: String,
    pub(crate) missing: usize,
    pub(crate) attachments: Vec<Bytes>,
    pub(crate) bytes: usize,
}

impl Conn {
    /// The next moment at which something is due.
    pub(crate) fn next_due_ms(&self) -> u64 {
        if let ConnState::Lingering { due_ms } = self.state {
            return due_ms;
        }
        let heartbeat = if self.paused { NEVER } else { self.heartbeat.due_ms };
        let probe = match &self.transport {
            Transport::Polling(polling) => polling.probe.as_ref().map_or(NEVER, |probe| probe.due_ms),
            Transport::WebSocket(_) => NEVER,
        };
        heartbeat
            .min(self.connect_due_ms)
            .min(self.stall_due_ms)
            .min(probe)
    }

    /// Whether a write now would have to wait.
    pub(crate) fn is_blocked(&self) -> bool {
        match &self.transport {
            Transport::WebSocket(socket) => socket.blocked,
            Transport::Polling(polling) => polling.waiting.is_none(),
        }
    }

    /// Whether its client has probed a WebSocket: it has ended its last request, or will when that is answered.
    pub(crate) fn is_switching(&self) -> bool {
        match &self.transport {
            Transport::WebSocket(_) => false,
            Transport::Polling(polling) => polling.probe.as_ref().is_some_and(|probe| probe.probed),
        }
    }

    /// Whether several messages may stand in its outbox as one piece.
    pub(crate) fn takes_joined(&self) -> bool {
        match &self.transport {
            Transport::WebSocket(_) => true,
            Transport::Polling(polling) => polling.packets_max == usize::MAX,
        }
    }

    /// Bytes that came and are not whole messages yet.
    pub(crate) fn read_bytes(&self) -> usize {
        let reader = match &self.transport {
            Transport::WebSocket(socket) => socket.reader.buffered(),
            Transport::Polling(_) => 0,
        };
        let assembly = self.assembly.as_ref().map_or(0, |assembly| assembly.bytes);
        reader + assembly + self.unread.as_ref().map_or(0, Vec::capacity)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.state == ConnState::Open
    }

    pub(crate) fn session(&self, namespace: u16) -> Option<u32> {
        self.sessions
            .iter()
            .find(|slot| slot.namespace == namespace)
            .map(|slot| slot.session)
    }
}
