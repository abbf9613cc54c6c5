//! Socket.IO protocol 5: the packets inside Engine.IO messages, their arguments, their limits.

mod args;
mod decode;
mod encode;
mod error;

pub use args::{EventView, check_placeholders, event, last_string};
pub use decode::decode;
pub use encode::{put_ack, put_connect, put_connect_error, put_disconnect, put_event, put_event_name_json};
pub use error::SocketError;

use std::fmt;

/// What a packet is for; the digit it starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Joins a namespace, or says that this succeeded.
    Connect = 0,
    /// Leaves a namespace.
    Disconnect = 1,
    /// An event with its arguments.
    Event = 2,
    /// The answer to an event that had an id.
    Ack = 3,
    /// A namespace refused the client.
    ConnectError = 4,
    /// An event whose binary arguments follow as attachments.
    BinaryEvent = 5,
    /// An answer whose binary arguments follow as attachments.
    BinaryAck = 6,
}

/// What a packet may have at most. The size of the whole text is the reader's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Binary attachments of one packet. Default 16: each may be as large as a message, and all of them
    /// are held until the last has come.
    pub attachments_max: usize,
    /// Bytes of an event's name after unescaping. Default 256: names are looked up and counted.
    pub event_name_bytes_max: usize,
    /// Bytes of a namespace's name without its query. Default 256: it is kept with every session.
    pub namespace_bytes_max: usize,
}

/// One decoded packet. It borrows from the text it came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet<'a> {
    /// What it is for.
    pub kind: Kind,
    /// How many binary messages belong to it and follow; 0 unless the kind is binary.
    pub attachments: usize,
    /// `/` by default; a query string is cut off.
    pub namespace: &'a str,
    /// Asks for an acknowledgement, or says which one this is; at most 2^53 - 1.
    pub id: Option<u64>,
    /// The payload as JSON text, checked to be what the kind requires; empty if absent.
    pub data: &'a str,
}

// === impl Kind ===

impl Kind {
    /// Whether attachments belong to it.
    #[inline]
    #[must_use]
    pub const fn is_binary(self) -> bool {
        matches!(self, Self::BinaryEvent | Self::BinaryAck)
    }

    #[inline]
    const fn from_digit(digit: u8) -> Option<Self> {
        Some(match digit {
            b'0' => Self::Connect,
            b'1' => Self::Disconnect,
            b'2' => Self::Event,
            b'3' => Self::Ack,
            b'4' => Self::ConnectError,
            b'5' => Self::BinaryEvent,
            b'6' => Self::BinaryAck,
            _ => return None,
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Disconnect => "disconnect",
            Self::Event => "event",
            Self::Ack => "ack",
            Self::ConnectError => "connect_error",
            Self::BinaryEvent => "binary event",
            Self::BinaryAck => "binary ack",
        })
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attachments_max: 16,
            event_name_bytes_max: 256,
            namespace_bytes_max: 256,
        }
    }
}
