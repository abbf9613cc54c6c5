//! Engine.IO protocol 4: packets, the polling payload, the opening handshake.

use std::borrow::Cow;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::Serialize;

/// One packet. Over WebSocket a frame is a packet: a text frame starts with the type's digit, a binary
/// frame is a bare [`Packet::Binary`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet<'a> {
    /// `0`: the server's handshake, a JSON object; see [`Handshake`].
    Open(Cow<'a, str>),
    /// `1`: the transport closes.
    Close,
    /// `2`: heartbeat from the server, or `probe` from a client that wants to upgrade.
    Ping(Cow<'a, str>),
    /// `3`: the answer to a ping, with its payload.
    Pong(Cow<'a, str>),
    /// `4`: a text message.
    Message(Cow<'a, str>),
    /// A binary message: a WebSocket binary frame, or `b` and base64 where only text can travel.
    Binary(Cow<'a, [u8]>),
    /// `5`: the client's upgrade is complete.
    Upgrade,
    /// `6`: nothing; it releases a polling request during an upgrade.
    Noop,
}

/// What is wrong with a packet or a polling body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A packet has at least its type.
    #[error("empty packet")]
    Empty,
    /// A first character that is no packet type.
    #[error("unknown packet type {found:?}")]
    UnknownType {
        /// The character found.
        found: char,
    },
    /// Payload after a type that has none.
    #[error("{packet} packet with {bytes} bytes of payload, expected none")]
    UnexpectedPayload {
        /// `close`, `upgrade` or `noop`.
        packet: &'static str,
        /// Its length.
        bytes: usize,
    },
    /// A `b` packet that is not base64.
    #[error("binary packet of {base64_bytes} bytes is not base64")]
    Base64 {
        /// Length of what followed the `b`.
        base64_bytes: usize,
        /// The decoder's word.
        #[source]
        source: base64::DecodeError,
    },
    /// A polling body of more packets than allowed.
    #[error("payload of more than {max} packets")]
    TooManyPackets {
        /// The caller's limit.
        max: usize,
    },
    /// A bad packet within a polling body.
    #[error("packet {index} at byte {offset} of the payload")]
    InPayload {
        /// Its position among the packets, from 0.
        index: usize,
        /// Where it starts in the body, in bytes.
        offset: usize,
        /// What is wrong with it.
        #[source]
        source: Box<EngineError>,
    },
}

/// The payload of the open packet: what a client must know of its session.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Handshake<'a> {
    /// The secret session id.
    pub sid: &'a str,
    /// Transports the client may upgrade to: `["websocket"]` or nothing.
    pub upgrades: &'a [&'a str],
    /// Milliseconds between two pings of the server.
    #[serde(rename = "pingInterval")]
    pub ping_interval_ms: u64,
    /// Milliseconds a ping may wait for its pong.
    #[serde(rename = "pingTimeout")]
    pub ping_timeout_ms: u64,
    /// The largest polling body, in bytes, that the server accepts.
    pub max_payload: usize,
}

/// The packets of a polling body; made by [`decode_payload`]. Ends after the first error.
#[derive(Debug, Clone)]
pub struct PayloadIter<'a> {
    body: &'a str,
    /// Where the next packet starts; `None` at the end.
    next: Option<usize>,
    index: usize,
    packets_max: usize,
}

/// Stands between the packets of a polling body (ASCII record separator).
pub const SEPARATOR: u8 = 0x1e;

/// Padding is optional: clients differ, and the length says the same.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

// === decoding ===

/// Decodes one packet that travelled as text: a WebSocket text frame or one packet of a polling body.
///
/// Borrows from `text`, but for base64.
///
/// # Errors
/// [`EngineError`] for everything but the packets of [`Packet`].
#[inline]
pub fn decode_text(text: &str) -> Result<Packet<'_>, EngineError> {
    let found = text.chars().next().ok_or(EngineError::Empty)?;
    let rest = &text[found.len_utf8()..];
    match found {
        '0' => Ok(Packet::Open(Cow::Borrowed(rest))),
        '1' => bare("close", rest, Packet::Close),
        '2' => Ok(Packet::Ping(Cow::Borrowed(rest))),
        '3' => Ok(Packet::Pong(Cow::Borrowed(rest))),
        '4' => Ok(Packet::Message(Cow::Borrowed(rest))),
        '5' => bare("upgrade", rest, Packet::Upgrade),
        '6' => bare("noop", rest, Packet::Noop),
        'b' => match BASE64.decode(rest) {
            Ok(data) => Ok(Packet::Binary(Cow::Owned(data))),
            Err(source) => Err(EngineError::Base64 {
                base64_bytes: rest.len(),
                source,
            }),
        },
        _ => Err(EngineError::UnknownType { found }),
    }
}

fn bare<'a>(packet: &'static str, rest: &str, value: Packet<'a>) -> Result<Packet<'a>, EngineError> {
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(EngineError::UnexpectedPayload {
            packet,
            bytes: rest.len(),
        })
    }
}

/// The packets of a polling request's body, at most `packets_max` of them.
///
/// ```
/// use tidegate_wire::engineio::{decode_payload, Packet};
/// let packets: Vec<_> = decode_payload("4hi\x1ebAQI=\x1e2", 16).collect::<Result<_, _>>()?;
/// assert_eq!(packets[1], Packet::Binary(vec![1, 2].into()));
/// # Ok::<(), tidegate_wire::engineio::EngineError>(())
/// ```
#[must_use]
pub fn decode_payload(body: &str, packets_max: usize) -> PayloadIter<'_> {
    PayloadIter {
        body,
        next: Some(0),
        index: 0,
        packets_max,
    }
}

impl<'a> Iterator for PayloadIter<'a> {
    type Item = Result<Packet<'a>, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        let offset = self.next.take()?;
        if self.index == self.packets_max {
            return Some(Err(EngineError::TooManyPackets {
                max: self.packets_max,
            }));
        }
        let rest = &self.body[offset..];
        let end = rest.find(char::from(SEPARATOR));
        let index = self.index;
        match decode_text(&rest[..end.unwrap_or(rest.len())]) {
            Ok(packet) => {
                self.next = end.map(|end| offset + end + 1);
                self.index += 1;
                Some(Ok(packet))
            }
            Err(source) => Some(Err(EngineError::InPayload {
                index,
                offset,
                source: Box::new(source),
            })),
        }
    }
}

impl std::iter::FusedIterator for PayloadIter<'_> {}

// === encoding ===

impl Packet<'_> {
    /// Appends the packet as text: what a WebSocket text frame or a polling body carries.
    pub fn put_text(&self, out: &mut String) {
        let (kind, data) = match self {
            Packet::Open(json) => ('0', json.as_ref()),
            Packet::Close => ('1', ""),
            Packet::Ping(data) => ('2', data.as_ref()),
            Packet::Pong(data) => ('3', data.as_ref()),
            Packet::Message(text) => ('4', text.as_ref()),
            Packet::Upgrade => ('5', ""),
            Packet::Noop => ('6', ""),
            Packet::Binary(data) => {
                out.push('b');
                return STANDARD.encode_string(data, out);
            }
        };
        out.push(kind);
        out.push_str(data);
    }
}

impl Handshake<'_> {
    /// The open packet: `0` and the handshake as JSON.
    #[must_use]
    pub fn encode(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and integers are always JSON");
        format!("0{json}")
    }
}

/// Appends a packet, as text, to a polling body; puts the separator first unless `out` is empty.
#[inline]
pub fn put_payload_text(out: &mut Vec<u8>, packet_text: &str) {
    separate(out);
    out.extend_from_slice(packet_text.as_bytes());
}

/// Appends a binary message to a polling body as `b` and base64; puts the separator first unless `out`
/// is empty.
pub fn put_payload_binary(out: &mut Vec<u8>, data: &[u8]) {
    separate(out);
    out.push(b'b');
    let start = out.len();
    out.resize(start + data.len().div_ceil(3) * 4, 0);
    let written = STANDARD
        .encode_slice(data, &mut out[start..])
        .expect("base64 of n bytes takes 4⌈n/3⌉");
    debug_assert_eq!(start + written, out.len());
}

#[inline]
fn separate(out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(SEPARATOR);
    }
}

impl EngineError {
    /// Never: the same bytes are wrong again.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}
