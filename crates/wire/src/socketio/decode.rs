//! Decoding one packet: its head character by character, its payload by the rules of its kind.

use serde_json::value::RawValue;

use crate::socketio::args::{Name, first_of_array, parse_json};
use crate::socketio::{Kind, Limits, Packet, SocketError};

/// The largest integer that JavaScript counts exactly.
const ID_MAX: u64 = (1 << 53) - 1;

/// Names that clients and servers emit to themselves, in the official parser's list.
const RESERVED: [&str; 6] = [
    "connect",
    "connect_error",
    "disconnect",
    "disconnecting",
    "newListener",
    "removeListener",
];

/// Decodes the text of an Engine.IO message (without its leading `4`) into a packet.
///
/// The payload must be what the official parser accepts: CONNECT an object or nothing, DISCONNECT
/// nothing, EVENT an array that starts with a number or a string that is not reserved, ACK an array,
/// CONNECT_ERROR a string or an object. Acknowledgements must have an id. The payload is checked to be
/// JSON but not kept; nothing is allocated for it beyond a byte per level of nesting.
///
/// # Errors
/// [`SocketError`], for malformed packets and for those above `limits`.
pub fn decode<'a>(text: &'a str, limits: &Limits) -> Result<Packet<'a>, SocketError> {
    let &digit = text.as_bytes().first().ok_or(SocketError::Empty)?;
    let kind = Kind::from_digit(digit).ok_or_else(|| SocketError::UnknownKind {
        found: text.chars().next().unwrap_or_default(),
    })?;
    let (attachments, rest) = attachments(kind, &text[1..], limits)?;
    let (namespace, rest) = namespace(rest, limits)?;
    let (id, data) = id(rest)?;
    if id.is_none() && matches!(kind, Kind::Ack | Kind::BinaryAck) {
        return Err(SocketError::MissingId { kind });
    }
    check_payload(kind, data, limits)?;
    Ok(Packet {
        kind,
        attachments,
        namespace,
        id,
        data,
    })
}

/// `n-` in front of binary packets.
#[inline]
fn attachments<'a>(kind: Kind, rest: &'a str, limits: &Limits) -> Result<(usize, &'a str), SocketError> {
    if !kind.is_binary() {
        return Ok((0, rest));
    }
    let (digits, after) = split_digits(rest);
    let after = after.strip_prefix('-').filter(|_| !digits.is_empty());
    let after = after.ok_or(SocketError::Attachments { kind })?;
    let max = limits.attachments_max;
    match digits.parse::<usize>() {
        Ok(attachments) if attachments <= max => Ok((attachments, after)),
        _ => Err(SocketError::TooManyAttachments { max }),
    }
}

/// `/name?query,` unless it is the main namespace; the comma may be missing at the end of the text.
#[inline]
fn namespace<'a>(rest: &'a str, limits: &Limits) -> Result<(&'a str, &'a str), SocketError> {
    if !rest.starts_with('/') {
        return Ok(("/", rest));
    }
    let (whole, after) = rest.split_once(',').unwrap_or((rest, ""));
    let name = whole.split_once('?').map_or(whole, |(name, _)| name);
    let (bytes, max) = (name.len(), limits.namespace_bytes_max);
    if bytes > max {
        Err(SocketError::LongNamespace { bytes, max })
    } else {
        Ok((name, after))
    }
}

#[inline]
fn id(rest: &str) -> Result<(Option<u64>, &str), SocketError> {
    let (digits, data) = split_digits(rest);
    if digits.is_empty() {
        return Ok((None, data));
    }
    match digits.parse::<u64>() {
        Ok(id) if id <= ID_MAX => Ok((Some(id), data)),
        _ => Err(SocketError::LargeId { digits: digits.len() }),
    }
}

#[inline]
fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

fn check_payload(kind: Kind, data: &str, limits: &Limits) -> Result<(), SocketError> {
    let expected = match kind {
        Kind::Connect => "an object or nothing",
        Kind::Disconnect => "nothing",
        Kind::Event | Kind::BinaryEvent => "an array that starts with the event's name",
        Kind::Ack | Kind::BinaryAck => "an array",
        Kind::ConnectError => "a string or an object",
    };
    // JSON may start with white space, and its first character says what it is.
    let first = data.bytes().find(|byte| !byte.is_ascii_whitespace());
    match (kind, first) {
        (Kind::Disconnect, None) if data.is_empty() => Ok(()),
        (Kind::Connect, None) if data.is_empty() => Ok(()),
        (Kind::Connect | Kind::ConnectError, Some(b'{'))
        | (Kind::ConnectError, Some(b'"'))
        | (Kind::Ack | Kind::BinaryAck, Some(b'[')) => parse_json::<&RawValue>(data).map(drop),
        (Kind::Event | Kind::BinaryEvent, Some(b'[')) => check_event(data, limits),
        _ => Err(SocketError::Payload { kind, expected }),
    }
}

fn check_event(data: &str, limits: &Limits) -> Result<(), SocketError> {
    let first = first_of_array(data)?.ok_or(SocketError::MissingEventName)?;
    let name = Name::parse(first)?;
    let (bytes, max) = (name.text.len(), limits.event_name_bytes_max);
    if bytes > max {
        return Err(SocketError::LongEventName { bytes, max });
    }
    if name.is_string && RESERVED.contains(&name.text.as_ref()) {
        return Err(SocketError::ReservedEventName {
            name: name.text.into_owned(),
        });
    }
    Ok(())
}
