//! What is wrong with a Socket.IO packet.

use crate::socketio::Kind;

/// A packet that is not of protocol 5 or exceeds a limit. The official server closes such a client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// A packet has at least its kind.
    #[error("empty packet")]
    Empty,
    /// A first character that is no kind.
    #[error("unknown packet kind {found:?}")]
    UnknownKind {
        /// The character found.
        found: char,
    },
    /// A binary packet whose number of attachments is not digits and a dash.
    #[error("{kind} packet without a number of attachments")]
    Attachments {
        /// The kind that needs it.
        kind: Kind,
    },
    /// More attachments than allowed.
    #[error("packet with more than {max} attachments")]
    TooManyAttachments {
        /// [`Limits::attachments_max`](crate::socketio::Limits::attachments_max).
        max: usize,
    },
    /// A longer namespace than allowed.
    #[error("namespace of {bytes} bytes, at most {max} allowed")]
    LongNamespace {
        /// Its length without the query.
        bytes: usize,
        /// [`Limits::namespace_bytes_max`](crate::socketio::Limits::namespace_bytes_max).
        max: usize,
    },
    /// An id above 2^53 - 1, the largest integer JavaScript counts exactly.
    #[error("id of {digits} digits exceeds 2^53 - 1")]
    LargeId {
        /// How many digits it had.
        digits: usize,
    },
    /// An acknowledgement that does not say of what.
    #[error("{kind} packet without an id")]
    MissingId {
        /// Ack or binary ack.
        kind: Kind,
    },
    /// A payload that is not JSON, or not within its depth limit where that is walked.
    #[error("payload of {bytes} bytes is not JSON")]
    Json {
        /// Its length.
        bytes: usize,
        /// The parser's word, with the position.
        #[source]
        source: serde_json::Error,
    },
    /// JSON of a shape that the kind does not have.
    #[error("payload of a {kind} packet, expected {expected}")]
    Payload {
        /// The kind of packet.
        kind: Kind,
        /// What the kind requires.
        expected: &'static str,
    },
    /// An event's first argument is neither a string nor a number.
    #[error("event without a name")]
    MissingEventName,
    /// An event name that means something else on every client.
    #[error("event name {name:?} is reserved")]
    ReservedEventName {
        /// The name.
        name: String,
    },
    /// A longer event name than allowed.
    #[error("event name of {bytes} bytes, at most {max} allowed")]
    LongEventName {
        /// Its length, unescaped.
        bytes: usize,
        /// [`Limits::event_name_bytes_max`](crate::socketio::Limits::event_name_bytes_max).
        max: usize,
    },
    /// A placeholder whose number is missing, no integer, or of no attachment.
    #[error("placeholder for attachment {num:?} of {attachments}")]
    Placeholder {
        /// The number, if it is a non-negative integer.
        num: Option<u64>,
        /// How many attachments the packet has.
        attachments: usize,
    },
}

impl SocketError {
    /// Never: the same bytes are wrong again.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}
