//! Frame headers and masking (RFC 6455, section 5), in both directions.

use std::fmt;

use crate::websocket::{Role, WsError};

/// What a frame is (RFC 6455, 5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpCode {
    /// A further fragment of the open message.
    Continuation = 0x0,
    /// The first or only frame of a text message.
    Text = 0x1,
    /// The first or only frame of a binary message.
    Binary = 0x2,
    /// The last frame of a connection in its direction.
    Close = 0x8,
    /// Asks for a pong with the same payload.
    Ping = 0x9,
    /// Answers a ping, or comes unasked.
    Pong = 0xa,
}

/// A frame header that has arrived whole and obeys the rules of its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) op: OpCode,
    pub(super) fin: bool,
    pub(super) rsv1: bool,
    /// Zeros where the frame is not masked.
    pub(super) mask: [u8; 4],
    pub(super) payload_len: u64,
}

/// What decides whether a header is legal at its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) role: Role,
    pub(super) deflate: bool,
    /// A fragmented message waits for its next frame.
    pub(super) message_open: bool,
}

// === impl OpCode ===

impl OpCode {
    /// Whether this is a control frame: short, never fragmented, allowed between fragments.
    #[inline]
    #[must_use]
    pub const fn is_control(self) -> bool {
        self as u8 >= 0x8
    }
}

impl TryFrom<u8> for OpCode {
    type Error = WsError;

    #[inline]
    fn try_from(op_code: u8) -> Result<Self, WsError> {
        Ok(match op_code {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return Err(WsError::ReservedOpCode { op_code }),
        })
    }
}

impl fmt::Display for OpCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Continuation => "continuation",
            Self::Text => "text",
            Self::Binary => "binary",
            Self::Close => "close",
            Self::Ping => "ping",
            Self::Pong => "pong",
        })
    }
}

// === encoding ===

/// Appends an unmasked server frame header of 2, 4 or 10 bytes. The payload is the caller's to append.
#[inline]
pub fn put_header(out: &mut Vec<u8>, op: OpCode, fin: bool, rsv1: bool, payload_len: usize) {
    put_header_with(out, first_byte(op, fin, rsv1), 0, payload_len);
}

/// Appends a whole unmasked server frame (FIN set). `rsv1` marks a payload from
/// [`Deflater::deflate`](crate::deflate::Deflater::deflate).
#[inline]
pub fn put_frame(out: &mut Vec<u8>, op: OpCode, rsv1: bool, payload: &[u8]) {
    out.reserve(10 + payload.len());
    put_header(out, op, true, rsv1, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a client's frame, masked with `mask`: what load generators and tests send.
pub fn put_masked_frame(out: &mut Vec<u8>, op: OpCode, fin: bool, rsv1: bool, mask: [u8; 4], payload: &[u8]) {
    out.reserve(14 + payload.len());
    put_header_with(out, first_byte(op, fin, rsv1), MASKED, payload.len());
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

const FIN: u8 = 0x80;
const RSV1: u8 = 0x40;
const RSV2_RSV3: u8 = 0x30;
const MASKED: u8 = 0x80;

#[inline]
const fn first_byte(op: OpCode, fin: bool, rsv1: bool) -> u8 {
    (if fin { FIN } else { 0 }) | (if rsv1 { RSV1 } else { 0 }) | op as u8
}

#[inline]
fn put_header_with(out: &mut Vec<u8>, first: u8, masked: u8, payload_len: usize) {
    match payload_len {
        0..=125 => out.extend_from_slice(&[first, masked | payload_len as u8]),
        126..=0xffff => {
            let [a, b] = (payload_len as u16).to_be_bytes();
            out.extend_from_slice(&[first, masked | 126, a, b]);
        }
        _ => {
            out.extend_from_slice(&[first, masked | 127]);
            out.extend_from_slice(&(payload_len as u64).to_be_bytes());
        }
    }
}

/// XORs `bytes` with `mask`, eight at a time. Masking and unmasking are the same (RFC 6455, 5.3).
#[inline]
pub(super) fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    if mask == [0; 4] {
        return;
    }
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

// === decoding ===

/// Reads a header from the front of `bytes` and says how long it is; `None` while it is incomplete.
///
/// Each byte is judged as soon as it is there, so that a peer cannot hold a bad frame open.
#[inline]
pub(super) fn parse_header(bytes: &[u8], place: Place) -> Result<Option<(Header, usize)>, WsError> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let (op, fin, rsv1) = (
        OpCode::try_from(first & 0x0f)?,
        first & FIN != 0,
        first & RSV1 != 0,
    );
    check_first(first, op, place)?;
    let Some(&second) = bytes.get(1) else {
        return Ok(None);
    };
    check_second(second, op, place)?;
    let Some((payload_len, mask_at)) = parse_length(bytes, second & 0x7f)? else {
        return Ok(None);
    };
    let (mask, header_len) = match place.role {
        Role::Client => ([0; 4], mask_at),
        Role::Server => match bytes.get(mask_at..mask_at + 4) {
            Some(mask) => ([mask[0], mask[1], mask[2], mask[3]], mask_at + 4),
            None => return Ok(None),
        },
    };
    Ok(Some((
        Header {
            op,
            fin,
            rsv1,
            mask,
            payload_len,
        },
        header_len,
    )))
}

#[inline]
fn check_first(first: u8, op: OpCode, place: Place) -> Result<(), WsError> {
    if first & RSV2_RSV3 != 0 {
        return Err(WsError::ReservedBits {
            bits: first & RSV2_RSV3,
        });
    }
    let may_be_compressed = place.deflate && matches!(op, OpCode::Text | OpCode::Binary);
    if first & RSV1 != 0 && !may_be_compressed {
        return Err(WsError::UnexpectedRsv1 { op });
    }
    match op {
        OpCode::Continuation if !place.message_open => Err(WsError::OrphanContinuation),
        OpCode::Text | OpCode::Binary if place.message_open => Err(WsError::InterruptedMessage { op }),
        OpCode::Close | OpCode::Ping | OpCode::Pong if first & FIN == 0 => {
            Err(WsError::FragmentedControl { op })
        }
        _ => Ok(()),
    }
}

#[inline]
fn check_second(second: u8, op: OpCode, place: Place) -> Result<(), WsError> {
    match (place.role, second & MASKED != 0) {
        (Role::Server, false) => return Err(WsError::NotMasked { op }),
        (Role::Client, true) => return Err(WsError::Masked { op }),
        _ => {}
    }
    if op.is_control() && second & 0x7f > 125 {
        return Err(WsError::LongControl { op });
    }
    Ok(())
}

/// The payload length and the index after its field; `None` while the field is incomplete.
#[inline]
fn parse_length(bytes: &[u8], short: u8) -> Result<Option<(u64, usize)>, WsError> {
    let (payload_bytes, end, least) = match short {
        126 => match bytes.get(2..4) {
            Some(field) => (u64::from(u16::from_be_bytes([field[0], field[1]])), 4, 126),
            None => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|field| field.first_chunk::<8>()) {
            Some(field) => (u64::from_be_bytes(*field), 10, 0x1_0000),
            None => return Ok(None),
        },
        _ => return Ok(Some((u64::from(short), 2))),
    };
    if payload_bytes >> 63 != 0 {
        return Err(WsError::LengthTopBit { payload_bytes });
    }
    if payload_bytes < least {
        return Err(WsError::NotMinimalLength {
            payload_bytes,
            length_bytes: end as u8 - 2,
        });
    }
    Ok(Some((payload_bytes, end)))
}
