//! What publishers write into Redis, read as requests to this server: pure functions from bytes to an [`Ask`].
//!
//! ```text
//! classic   [uid, packet, options]            MessagePack on prefix#namespace#…        @socket.io/redis-emitter
//! requests  {type, opts, rooms, close}        JSON on prefix-request#namespace#        @socket.io/redis-emitter
//! sharded   {uid, nsp, type, data}            JSON or MessagePack, sharded pub/sub     createShardedAdapter
//! streams   uid, nsp, type, data              fields of an entry; data JSON or base64  @socket.io/redis-streams-emitter
//! python    {method, event, data, room, …}    JSON on a channel of its own             python-socketio from 5.14
//! ```
//!
//! Nothing here waits, allocates by a length that somebody declared, or evaluates what it reads. What cannot be
//! understood is [`Refused`] with a [`Reason`] that is counted, and hurts nobody else.

mod classic;
mod cluster;
mod msgpack;
mod python;

use std::borrow::Cow;

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use tidegate_gateway::{Action, Args, Publication, Target};

use crate::names::{Name, Names, TOO_MANY};

pub use classic::{read_broadcast, read_request};
pub use cluster::{read_entry, read_sharded};
pub use python::read_python;

/// One way of speaking to clients through Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `@socket.io/redis-emitter`, and servers with the classic Redis adapter.
    Classic,
    /// Servers with `createShardedAdapter`.
    Sharded,
    /// `@socket.io/redis-streams-emitter`, and servers with the streams adapter.
    Streams,
    /// python-socketio's manager, and Flask-SocketIO's.
    Python,
}

/// What a message asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// An event for clients.
    Publish(Publication),
    /// Something that happens to sessions.
    Act(Act),
    /// Nothing: other servers speak among themselves.
    Nothing,
}

/// Something that happens to sessions of one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    /// The namespace.
    pub namespace: String,
    /// Whose sessions; empty is everybody.
    pub to: Vec<Target>,
    /// Left out, whatever `to` says.
    pub except: Vec<Target>,
    /// What happens.
    pub action: Action,
}

/// Why a message was not carried out; each is counted under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Not what its format says.
    Malformed,
    /// Nested deeper than anything real.
    TooDeep,
    /// Over the limit on bytes; it was not read.
    TooLarge,
    /// A pickle of python-socketio before 5.14. Evaluating one runs what its writer wants, so nobody does.
    Pickle,
    /// A method or type that this server does not know.
    UnknownMethod,
    /// It asks for answers of clients or of other servers, which do not come this way.
    AnswerWanted,
    /// An event for servers (`serverSideEmit`), not for clients.
    ServerSide,
    /// No such namespace here.
    NoNamespace,
    /// The gateway had no place for it within the wait.
    Overloaded,
    /// The memory account was full.
    Memory,
    /// The gateway refused: a reserved name, too many rooms.
    Rejected,
}

/// What publishers wrote may be in an explanation, which is logged; longer than this helps nobody.
const ABOUT_BYTES_MAX: usize = 200;
/// A name and a thousand arguments, or arguments and a thousand attachments.
const VALUES_MAX: usize = 1_001;

/// A message that is not carried out, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {about}", reason.as_str())]
pub struct Refused {
    /// What it is counted as.
    pub reason: Reason,
    /// What was wrong, for people.
    pub about: String,
}

// === impl Format ===

impl Format {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Classic, Self::Sharded, Self::Streams, Self::Python];

    /// Its name in settings and figures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Sharded => "sharded",
            Self::Streams => "streams",
            Self::Python => "python",
        }
    }
}

// === impl Reason ===

impl Reason {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::TooDeep,
        Self::TooLarge,
        Self::Pickle,
        Self::UnknownMethod,
        Self::AnswerWanted,
        Self::ServerSide,
        Self::NoNamespace,
        Self::Overloaded,
        Self::Memory,
        Self::Rejected,
    ];

    /// Its name in figures and the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::Pickle => "pickle",
            Self::UnknownMethod => "unknown_method",
            Self::AnswerWanted => "answer_wanted",
            Self::ServerSide => "server_side",
            Self::NoNamespace => "no_namespace",
            Self::Overloaded => "overloaded",
            Self::Memory => "memory",
            Self::Rejected => "rejected",
        }
    }
}

// === impl Refused ===

impl Refused {
    pub(crate) fn new(reason: Reason, about: impl Into<String>) -> Self {
        let mut about = about.into();
        about.truncate(about.floor_char_boundary(ABOUT_BYTES_MAX));
        Self { reason, about }
    }

    fn malformed(about: impl Into<String>) -> Self {
        Self::new(Reason::Malformed, about)
    }
}

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Self {
        let about = error.to_string();
        // The parser has no other way to say so.
        let reason = if about.starts_with("recursion limit exceeded") {
            Reason::TooDeep
        } else if about.starts_with(TOO_MANY) {
            Reason::TooLarge
        } else {
            Reason::Malformed
        };
        Self::new(reason, about)
    }
}

// === what the formats share ===

/// JSON text, and the binary values whose placeholders stand in it.
#[derive(Debug, Default)]
struct Json {
    text: String,
    attachments: Vec<Bytes>,
}

impl Json {
    /// A payload that is JSON if it begins so, else MessagePack.
    fn of(payload: &[u8]) -> Result<Self, Refused> {
        match payload.first() {
            Some(b'{' | b'[') => Ok(Self {
                text: utf8(payload)?.to_owned(),
                attachments: Vec::new(),
            }),
            _ => msgpack::to_json(payload),
        }
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Refused> {
    std::str::from_utf8(bytes).map_err(|error| Refused::malformed(error.to_string()))
}

/// The packet of a broadcast, as Node's adapters send it.
#[derive(Deserialize)]
struct Packet<'a> {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow, default)]
    nsp: Option<Cow<'a, str>>,
    /// Present where the sender waits for acknowledgements.
    #[serde(default)]
    id: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Who receives a broadcast, and how.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Options {
    rooms: Names,
    except: Names,
    flags: Flags,
}

/// `compress` is decided here by size and by client, whatever the publisher says.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Flags {
    volatile: Option<bool>,
}

impl Names {
    /// A session's own room is named like it, so a name is enough for both.
    fn into_targets(self) -> Vec<Target> {
        self.0.into_iter().map(Target::Room).collect()
    }
}

/// The values of a list, as they stand in the text.
struct Values<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Values<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Values<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Values<'de>, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    if values.len() == VALUES_MAX {
                        return Err(A::Error::custom(format_args!("{TOO_MANY} {VALUES_MAX} values")));
                    }
                    values.push(value);
                }
                Ok(Values(values))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// `EVENT` and `BINARY_EVENT` of Socket.IO 5; senders of older versions tell them apart, newer ones do not.
const EVENTS: [u8; 2] = [2, 5];

/// The publication that a packet of Node's adapters asks for.
fn broadcast(packet: &Packet<'_>, options: Options, attachments: Vec<Bytes>) -> Result<Publication, Refused> {
    if packet.id.is_some() {
        return Err(Refused::new(
            Reason::AnswerWanted,
            "the sender waits for acknowledgements",
        ));
    }
    if !EVENTS.contains(&packet.kind) {
        let about = format!("packet of type {}, known are 2 and 5", packet.kind);
        return Err(Refused::new(Reason::UnknownMethod, about));
    }
    let (event, args) = event(packet.data, attachments)?;
    Ok(Publication {
        namespace: namespace(packet.nsp.as_deref()),
        to: options.rooms.into_targets(),
        except: options.except.into_targets(),
        volatile: options.flags.volatile.unwrap_or(false),
        ..Publication::new(event, args)
    })
}

/// `["event", arg, …]` as name and arguments.
fn event(data: &RawValue, attachments: Vec<Bytes>) -> Result<(String, Args), Refused> {
    let Values(values) = serde_json::from_str::<Values<'_>>(data.get())?;
    let (name, rest) = values
        .split_first()
        .ok_or_else(|| Refused::malformed("the event has no name"))?;
    Ok((serde_json::from_str(name.get())?, args(rest, attachments)?))
}

fn args(values: &[&RawValue], attachments: Vec<Bytes>) -> Result<Args, Refused> {
    let mut array = String::from("[");
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            array.push(',');
        }
        array.push_str(value.get());
    }
    array.push(']');
    let depth = Args::depth_of(&array);
    if depth > Args::DEPTH_MAX {
        return Err(Refused::new(Reason::TooDeep, format!("nested {depth} deep")));
    }
    Args::from_json_array(&array, attachments).map_err(|error| Refused::malformed(error.to_string()))
}

/// Absent is the root; publishers of old leave the slash out.
fn namespace(name: Option<&str>) -> String {
    match name {
        None | Some("") => "/".to_owned(),
        Some(name) if name.starts_with('/') => name.to_owned(),
        Some(name) => format!("/{name}"),
    }
}
