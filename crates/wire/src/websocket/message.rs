//! A data message that arrives in pieces: its bytes so far, judged as they come.

use std::borrow::Cow;

use crate::deflate::{InflateError, Inflater};
use crate::websocket::frame::{Header, OpCode};
use crate::websocket::{WsError, WsEvent};

/// An open message. It grows by what has arrived, never by what a header promised.
pub(super) struct Message {
    op: OpCode,
    body: Body,
}

enum Body {
    Text(TextBuffer),
    Binary(Vec<u8>),
    /// To be inflated once whole; text inside is checked then.
    Compressed(Vec<u8>),
}

/// UTF-8 text whose last character may be incomplete.
#[derive(Default)]
struct TextBuffer {
    text: String,
    /// The start of a character that is still valid as far as it goes.
    tail: [u8; 4],
    tail_len: usize,
}

// === impl Message ===

impl Message {
    /// A message that begins with `first`, a text or binary frame.
    pub(super) fn new(first: &Header) -> Self {
        let body = match first.op {
            _ if first.rsv1 => Body::Compressed(Vec::new()),
            OpCode::Text => Body::Text(TextBuffer::default()),
            _ => Body::Binary(Vec::new()),
        };
        Self { op: first.op, body }
    }

    /// Bytes received of it.
    pub(super) fn len(&self) -> usize {
        match &self.body {
            Body::Text(text) => text.text.len() + text.tail_len,
            Body::Binary(bytes) | Body::Compressed(bytes) => bytes.len(),
        }
    }

    /// Bytes of memory held for it.
    pub(super) fn capacity(&self) -> usize {
        match &self.body {
            Body::Text(text) => text.text.capacity(),
            Body::Binary(bytes) | Body::Compressed(bytes) => bytes.capacity(),
        }
    }

    pub(super) fn is_compressed(&self) -> bool {
        matches!(self.body, Body::Compressed(_))
    }

    /// Appends unmasked payload. Text that can no longer become UTF-8 fails here, not at the end.
    pub(super) fn push(&mut self, payload: &[u8]) -> Result<(), WsError> {
        match &mut self.body {
            Body::Text(text) => text.push(payload),
            Body::Binary(bytes) | Body::Compressed(bytes) => {
                bytes.extend_from_slice(payload);
                Ok(())
            }
        }
    }

    /// The whole message, its last frame having arrived.
    pub(super) fn finish<'b>(self, max: usize, inflater: &mut Inflater) -> Result<WsEvent<'b>, WsError> {
        match self.body {
            Body::Text(text) => text.finish().map(|text| WsEvent::Text(Cow::Owned(text))),
            Body::Binary(bytes) => Ok(WsEvent::Binary(Cow::Owned(bytes))),
            Body::Compressed(bytes) => inflate(self.op, &bytes, max, inflater),
        }
    }
}

/// An event from the payload of a frame that is a whole message.
#[inline]
pub(super) fn single<'b>(
    header: &Header,
    payload: &'b [u8],
    max: usize,
    inflater: &mut Inflater,
) -> Result<WsEvent<'b>, WsError> {
    match header.op {
        _ if header.rsv1 => inflate(header.op, payload, max, inflater),
        OpCode::Text => match simdutf8::basic::from_utf8(payload) {
            Ok(text) => Ok(WsEvent::Text(Cow::Borrowed(text))),
            Err(_) => Err(INVALID_TEXT),
        },
        _ => Ok(WsEvent::Binary(Cow::Borrowed(payload))),
    }
}

fn inflate<'b>(
    op: OpCode,
    payload: &[u8],
    max: usize,
    inflater: &mut Inflater,
) -> Result<WsEvent<'b>, WsError> {
    let bytes = inflater.inflate(payload, max).map_err(|source| match source {
        InflateError::TooBig { max } => WsError::TooBig {
            bytes: max as u64 + 1,
            max,
        },
        InflateError::Corrupt => WsError::Deflate {
            compressed_bytes: payload.len(),
            source,
        },
    })?;
    match op {
        OpCode::Text => match String::from_utf8(bytes) {
            Ok(text) => Ok(WsEvent::Text(Cow::Owned(text))),
            Err(_) => Err(INVALID_TEXT),
        },
        _ => Ok(WsEvent::Binary(Cow::Owned(bytes))),
    }
}

const INVALID_TEXT: WsError = WsError::InvalidUtf8 { op: OpCode::Text };

// === impl TextBuffer ===

impl TextBuffer {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), WsError> {
        while self.tail_len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else {
                return Ok(());
            };
            self.extend_tail(byte)?;
            bytes = rest;
        }
        let (whole, open) = bytes.split_at(bytes.len() - open_character_len(bytes));
        self.text
            .push_str(simdutf8::basic::from_utf8(whole).map_err(|_| INVALID_TEXT)?);
        open.iter().try_for_each(|&byte| self.extend_tail(byte))
    }

    /// Adds a byte to the open character and moves it to the text once it is whole.
    fn extend_tail(&mut self, byte: u8) -> Result<(), WsError> {
        self.tail[self.tail_len] = byte;
        self.tail_len += 1;
        match std::str::from_utf8(&self.tail[..self.tail_len]) {
            Ok(character) => {
                self.text.push_str(character);
                self.tail_len = 0;
                Ok(())
            }
            // `None` says: valid so far. Four bytes never are, so the tail cannot overflow.
            Err(error) if error.error_len().is_none() => Ok(()),
            Err(_) => Err(INVALID_TEXT),
        }
    }

    fn finish(self) -> Result<String, WsError> {
        if self.tail_len == 0 {
            Ok(self.text)
        } else {
            Err(INVALID_TEXT)
        }
    }
}

/// How many bytes at the end of `bytes` begin a character that needs more than are there.
fn open_character_len(bytes: &[u8]) -> usize {
    for (before, byte) in bytes.iter().rev().take(3).enumerate() {
        let needed = match byte {
            0x80..=0xbf => continue,
            0x00..=0x7f => 1,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
        };
        return if needed > before + 1 { before + 1 } else { 0 };
    }
    0
}
