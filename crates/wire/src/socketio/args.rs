//! The arguments of a packet: raw JSON values, the event's name, placeholders of attachments.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::socketio::SocketError;

/// An event's name and arguments, borrowed from the packet.
#[derive(Debug, Clone)]
pub struct EventView<'a> {
    /// The name, unescaped. A number stands here as it was written.
    pub name: Cow<'a, str>,
    /// The arguments after the name, each as JSON text.
    pub args: Vec<&'a RawValue>,
}

/// The first item of an event's array.
pub(super) struct Name<'a> {
    pub(super) text: Cow<'a, str>,
    /// False for a number: those collide with nothing reserved.
    pub(super) is_string: bool,
}

// === events ===

/// The event's name and its arguments, from the `data` of an event packet.
///
/// # Errors
/// [`SocketError::Json`] or [`SocketError::MissingEventName`]; not after
/// [`decode`](crate::socketio::decode) accepted the packet.
pub fn event(data: &str) -> Result<EventView<'_>, SocketError> {
    let mut args: Vec<&RawValue> = parse_json(data)?;
    if args.is_empty() {
        return Err(SocketError::MissingEventName);
    }
    let name = Name::parse(args.remove(0))?.text;
    Ok(EventView { name, args })
}

/// The last item of the JSON array `data`, if that is a string: where a client that can recover finds
/// its offset.
#[must_use]
pub fn last_string(data: &str) -> Option<Cow<'_, str>> {
    let EdgeItems { last, .. } = parse_json(data).ok()?;
    serde_json::from_str::<Text<'_>>(last?.get())
        .ok()
        .map(|text| text.0)
}

impl<'a> Name<'a> {
    pub(super) fn parse(raw: &'a RawValue) -> Result<Self, SocketError> {
        match raw.get().as_bytes()[0] {
            b'"' => parse_json::<Text<'a>>(raw.get()).map(|text| Self {
                text: text.0,
                is_string: true,
            }),
            b'-' | b'0'..=b'9' => Ok(Self {
                text: Cow::Borrowed(raw.get()),
                is_string: false,
            }),
            _ => Err(SocketError::MissingEventName),
        }
    }
}

/// The first item of a JSON array, the whole of which is checked; `None` if it is empty.
pub(super) fn first_of_array(data: &str) -> Result<Option<&RawValue>, SocketError> {
    parse_json::<EdgeItems<'_>>(data).map(|items| items.first)
}

pub(super) fn parse_json<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, SocketError> {
    serde_json::from_str(data).map_err(|source| SocketError::Json {
        bytes: data.len(),
        source,
    })
}

/// A JSON string, borrowed unless it has escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The first and the last item of an array, without collecting those between.
#[derive(Default)]
struct EdgeItems<'a> {
    first: Option<&'a RawValue>,
    last: Option<&'a RawValue>,
}

impl<'de> Deserialize<'de> for EdgeItems<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Edges;
        impl<'de> Visitor<'de> for Edges {
            type Value = EdgeItems<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let first = seq.next_element()?;
                let mut last = first;
                while let Some(item) = seq.next_element()? {
                    last = Some(item);
                }
                Ok(EdgeItems { first, last })
            }
        }
        deserializer.deserialize_seq(Edges)
    }
}

// === placeholders ===

/// Checks that every placeholder `{"_placeholder":true,"num":n}` in `data` means one of `attachments`
/// binary messages: `n` an integer from 0, below that number. An attachment may be meant twice or never.
///
/// # Errors
/// [`SocketError::Placeholder`] for the first that does not; [`SocketError::Json`] if `data` is not
/// JSON or nested deeper than 128 levels.
pub fn check_placeholders(data: &str, attachments: usize) -> Result<(), SocketError> {
    let illegal = Cell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(data);
    Walk {
        attachments,
        illegal: &illegal,
    }
    .deserialize(&mut deserializer)
    .and_then(|_| deserializer.end())
    .map_err(|source| SocketError::Json {
        bytes: data.len(),
        source,
    })?;
    match illegal.get() {
        Some(num) => Err(SocketError::Placeholder { num, attachments }),
        None => Ok(()),
    }
}

/// Visits every value of a document and notes the first illegal placeholder.
#[derive(Clone, Copy)]
struct Walk<'w> {
    attachments: usize,
    /// The number of the first illegal placeholder.
    illegal: &'w Cell<Option<Option<u64>>>,
}

/// As much of a value as a placeholder needs.
#[derive(Clone, Copy, PartialEq)]
enum Seen {
    True,
    Index(u64),
    Other,
}

#[derive(Deserialize)]
enum Key {
    #[serde(rename = "_placeholder")]
    Placeholder,
    #[serde(rename = "num")]
    Num,
    #[serde(other)]
    Other,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Seen;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Seen, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Seen;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Seen, E> {
        Ok(if value { Seen::True } else { Seen::Other })
    }

    fn visit_u64<E>(self, value: u64) -> Result<Seen, E> {
        Ok(Seen::Index(value))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Seen, A::Error> {
        while seq.next_element_seed(self)?.is_some() {}
        Ok(Seen::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen, A::Error> {
        let (mut is_placeholder, mut num) = (false, None);
        while let Some(key) = map.next_key::<Key>()? {
            let value = map.next_value_seed(self)?;
            match key {
                // Of repeated keys the last counts, as in JavaScript.
                Key::Placeholder => is_placeholder = value == Seen::True,
                Key::Num => {
                    num = if let Seen::Index(num) = value {
                        Some(num)
                    } else {
                        None
                    }
                }
                Key::Other => {}
            }
        }
        let is_legal = num.is_some_and(|num| num < self.attachments as u64);
        if is_placeholder && !is_legal && self.illegal.get().is_none() {
            self.illegal.set(Some(num));
        }
        Ok(Seen::Other)
    }
}
