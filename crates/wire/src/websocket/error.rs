//! What a peer can do wrong in the WebSocket protocol, with the close code each mistake earns.

use crate::deflate::InflateError;
use crate::websocket::OpCode;

/// A violation of RFC 6455, RFC 7692 or of a limit. The connection cannot be read any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WsError {
    /// RSV2 or RSV3 is set, and no extension defines them (RFC 6455, 5.2).
    #[error("reserved bits {bits:#04x} set in a frame header")]
    ReservedBits {
        /// The offending bits, in place within the first header byte.
        bits: u8,
    },
    /// RSV1 where it has no meaning: not negotiated, or not on the first frame of a data message
    /// (RFC 7692, 6).
    #[error("rsv1 set on a {op} frame")]
    UnexpectedRsv1 {
        /// The kind of frame that carried the bit.
        op: OpCode,
    },
    /// An opcode without a meaning (RFC 6455, 5.2).
    #[error("reserved opcode {op_code}")]
    ReservedOpCode {
        /// The number as it was sent, 0 to 15.
        op_code: u8,
    },
    /// A control frame without FIN (RFC 6455, 5.5).
    #[error("fragmented {op} frame")]
    FragmentedControl {
        /// The kind of control frame.
        op: OpCode,
    },
    /// A control frame of more than 125 payload bytes (RFC 6455, 5.5).
    #[error("{op} frame longer than 125 bytes")]
    LongControl {
        /// The kind of control frame.
        op: OpCode,
    },
    /// A length in more bytes than it needs (RFC 6455, 5.2).
    #[error("length {payload_bytes} encoded in {length_bytes} bytes")]
    NotMinimalLength {
        /// The length that was declared.
        payload_bytes: u64,
        /// The size of the field it was declared in: 2 or 8.
        length_bytes: u8,
    },
    /// A 64-bit length with its most significant bit set (RFC 6455, 5.2).
    #[error("length {payload_bytes:#x} has its top bit set")]
    LengthTopBit {
        /// The field as it was sent.
        payload_bytes: u64,
    },
    /// A client's frame that is not masked (RFC 6455, 5.1).
    #[error("unmasked {op} frame from a client")]
    NotMasked {
        /// The kind of frame.
        op: OpCode,
    },
    /// A server's frame that is masked (RFC 6455, 5.1).
    #[error("masked {op} frame from a server")]
    Masked {
        /// The kind of frame.
        op: OpCode,
    },
    /// A continuation frame while no message is open (RFC 6455, 5.4).
    #[error("continuation frame without a message to continue")]
    OrphanContinuation,
    /// A new data frame before the open message was finished (RFC 6455, 5.4).
    #[error("{op} frame inside a fragmented message")]
    InterruptedMessage {
        /// The kind of frame that came instead of a continuation.
        op: OpCode,
    },
    /// A message above the reader's limit, as declared by its headers or after inflation.
    #[error("message of at least {bytes} bytes, at most {max} allowed")]
    TooBig {
        /// What is known of the message's size.
        bytes: u64,
        /// [`ReaderConfig::message_bytes_max`](crate::websocket::ReaderConfig::message_bytes_max).
        max: usize,
    },
    /// A text message or a close reason that is not UTF-8 (RFC 6455, 8.1).
    #[error("{op} payload is not utf-8")]
    InvalidUtf8 {
        /// Text or Close.
        op: OpCode,
    },
    /// A close frame with one byte of payload (RFC 6455, 5.5.1).
    #[error("close payload of 1 byte, expected 0 or at least 2")]
    ShortClose,
    /// A close code that must not appear on the wire (RFC 6455, 7.4).
    #[error("close code {code} is not allowed on the wire")]
    CloseCode {
        /// The code as it was sent.
        code: u16,
    },
    /// A compressed message that does not inflate.
    #[error("compressed message of {compressed_bytes} bytes does not inflate")]
    Deflate {
        /// The size of the message as it was received.
        compressed_bytes: usize,
        /// What the inflater said.
        #[source]
        source: InflateError,
    },
}

impl WsError {
    /// The close code to answer with (RFC 6455, 7.4.1): 1002 protocol error, 1007 payload that
    /// contradicts its type, 1009 message too big.
    #[must_use]
    pub const fn close_code(&self) -> u16 {
        match self {
            Self::InvalidUtf8 { .. } | Self::Deflate { .. } => 1007,
            Self::TooBig { .. } => 1009,
            _ => 1002,
        }
    }

    /// Never: the same bytes are wrong again.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}
