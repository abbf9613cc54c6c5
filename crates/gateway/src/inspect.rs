//! What can be asked of a running gateway: connections, rooms, presence, history.

use std::net::IpAddr;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::admit::SessionData;

/// State of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// An event within `idle_after`.
    Active,
    /// None since then.
    Idle,
    /// None for `stale_after`, or a pong overdue.
    Stale,
    /// Its connection is lost; it waits for recovery.
    Broken,
}

impl State {
    /// All, in the order of decay.
    pub const ALL: [Self; 4] = [Self::Active, Self::Idle, Self::Stale, Self::Broken];

    /// As written in statistics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Idle => "idle",
            Self::Stale => "stale",
            Self::Broken => "broken",
        }
    }
}

/// One session, as the operator sees it. The secret ids of connection and recovery are not in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConnectionInfo {
    /// The Socket.IO id.
    pub id: String,
    /// Namespace.
    pub namespace: String,
    /// State.
    pub state: State,
    /// User; empty for an anonymous session.
    pub user: String,
    /// Tenant.
    pub tenant: Option<String>,
    /// `websocket`, `polling`, or `none` while it waits for recovery.
    pub transport: &'static str,
    /// Address of the client, behind trusted proxies the one they name.
    pub address: Option<IpAddr>,
    /// Rooms, without its own.
    pub rooms: Vec<String>,
    /// Seconds since it connected first.
    pub age_s: u64,
    /// Seconds since its last event.
    pub idle_s: u64,
    /// Unix milliseconds of its last event.
    pub last_activity_ms: u64,
    /// Errors it caused.
    pub errors: u32,
    /// Times it was recovered.
    pub recovered: u32,
    /// Messages waiting in its outbox.
    pub queued_messages: usize,
    /// Bytes of those.
    pub queued_bytes: usize,
    /// Which shard holds it.
    pub shard: usize,
}

/// One session, and what the application keeps with it.
#[derive(Clone)]
pub struct SessionInfo {
    /// The session as the operator sees it.
    pub connection: ConnectionInfo,
    pub(crate) data: Option<SessionData>,
}

impl SessionInfo {
    /// The text that the application keeps with the session.
    #[must_use]
    pub fn data(&self) -> Option<&str> {
        self.data.as_ref().map(SessionData::as_str)
    }
}

impl std::fmt::Debug for SessionInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionInfo")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

/// Some of a longer list; `next` continues it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Ask again with this as `after`; none at the end.
    pub next: Option<String>,
}

/// One room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RoomInfo {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Sessions in it, those waiting for recovery included.
    pub members: usize,
    /// Messages kept for those who join.
    pub retained: usize,
    /// Messages of its history.
    pub history: usize,
}

/// Who is in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Presence {
    /// Different users.
    pub count: usize,
    /// The first of them by name, up to the limit asked for.
    pub members: Vec<PresenceMember>,
}

/// One user in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PresenceMember {
    /// User, or the session's id where it is anonymous.
    pub user: String,
    /// How many of its sessions are in.
    pub sessions: usize,
    /// Unix milliseconds of its first join.
    pub since_ms: u64,
}

/// One message of a room's history.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryItem {
    /// Its recovery offset.
    pub offset: String,
    /// Unix milliseconds of its publication.
    pub ts_ms: u64,
    /// Event.
    pub event: String,
    /// Arguments, a JSON array.
    pub args: Box<RawValue>,
}
