//! The paths a gateway answers itself: Socket.IO, and protocol-level ones for tests and special clients.

use std::sync::Arc;

use bytes::Bytes;

/// A message of a plain Engine.IO or WebSocket endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawMessage {
    /// Text.
    Text(String),
    /// Binary.
    Binary(Bytes),
}

pub(crate) type RawHandler = Arc<dyn Fn(RawMessage) -> Option<RawMessage> + Send + Sync>;

/// One path.
pub(crate) struct Endpoint {
    pub(crate) path: String,
    pub(crate) kind: Kind,
    pub(crate) message_bytes_max: usize,
}

/// What is spoken there. Handlers run on the shard, through its own reader, deflate and outbox.
pub(crate) enum Kind {
    SocketIo,
    EngineIo(RawHandler),
    WebSocket(RawHandler),
}

impl Endpoint {
    pub(crate) fn is_engine(&self) -> bool {
        !matches!(self.kind, Kind::WebSocket(_))
    }

    /// Whether a request path is this endpoint's, with or without the last slash.
    pub(crate) fn matches(&self, path: &str) -> bool {
        path.trim_end_matches('/') == self.path.trim_end_matches('/')
    }
}
