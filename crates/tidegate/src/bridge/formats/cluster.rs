//! What servers with `createShardedAdapter` publish, and what `@socket.io/redis-streams-emitter` appends to a stream: the
//! messages of socket.io-adapter's cluster, `{uid, nsp, type, data}`.
//!
//! - Sharded: JSON, or MessagePack where there is binary in it.
//! - Streams: the four as fields of an entry, `data` as JSON, or as base64 of MessagePack where there is binary in it.
//!
//! Source: socket.io-adapter 2.5, @socket.io/redis-adapter 8.3.0, @socket.io/redis-streams-emitter 0.1.1.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_gateway::Action;

use super::{Act, Ask, Json, Names, Options, Packet, Reason, Refused, broadcast, msgpack, namespace};

/// Types of messages between servers of a cluster.
mod kind {
    pub(super) const BROADCAST: u8 = 3;
    pub(super) const JOIN: u8 = 4;
    pub(super) const LEAVE: u8 = 5;
    pub(super) const DISCONNECT: u8 = 6;
    pub(super) const FETCH: u8 = 7;
    pub(super) const SERVER_SIDE_EMIT: u8 = 9;
    /// Heartbeats, answers, farewells.
    pub(super) const OF_SERVERS: [u8; 7] = [1, 2, 8, 10, 11, 12, 13];
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    nsp: Option<Cow<'a, str>>,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Broadcast<'a> {
    #[serde(default)]
    opts: Options,
    #[serde(borrow)]
    packet: Packet<'a>,
    #[serde(rename = "requestId", default)]
    request: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct OfSessions {
    #[serde(default)]
    opts: Options,
    #[serde(default)]
    rooms: Names,
    close: Option<bool>,
}

/// A message of sharded pub/sub. Its channel says who listens, nothing else.
///
/// # Errors
/// Why it is not carried out.
pub fn read_sharded(payload: &[u8]) -> Result<Ask, Refused> {
    let json = Json::of(payload)?;
    read(&json.text, json.attachments)
}

/// An entry of a stream, as names and values of its fields.
///
/// # Errors
/// Why it is not carried out.
pub fn read_entry<'a>(fields: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> Result<Ask, Refused> {
    let (mut nsp, mut kind, mut data) = (None, None, None);
    for (name, value) in fields {
        match name {
            b"nsp" => nsp = Some(super::utf8(value)?),
            b"type" => kind = super::utf8(value)?.parse::<u8>().ok(),
            b"data" => data = Some(value),
            // The sender's id: nothing that this server sends comes back to it. Others may come later.
            _ => {}
        }
    }
    let kind = kind.ok_or_else(|| Refused::malformed("an entry without a number as its type"))?;
    let json = match data {
        None => Json::default(),
        Some(data) if data.starts_with(b"{") => Json {
            text: super::utf8(data)?.to_owned(),
            attachments: Vec::new(),
        },
        Some(data) => {
            let packed = STANDARD
                .decode(data)
                .map_err(|error| Refused::malformed(format!("data is neither JSON nor base64: {error}")))?;
            msgpack::to_json(&packed)?
        }
    };
    ask(kind, nsp, &json.text, json.attachments)
}

/// One message as JSON.
pub(super) fn read(text: &str, attachments: Vec<Bytes>) -> Result<Ask, Refused> {
    let message: Message<'_> = serde_json::from_str(text)?;
    let data = message.data.map_or("", RawValue::get);
    ask(message.kind, message.nsp.as_deref(), data, attachments)
}

fn ask(kind: u8, nsp: Option<&str>, data: &str, attachments: Vec<Bytes>) -> Result<Ask, Refused> {
    match kind {
        kind::BROADCAST => {
            let Broadcast {
                opts,
                packet,
                request,
            } = serde_json::from_str(data)?;
            if request.is_some() {
                let about = "a broadcast whose sender waits for acknowledgements";
                return Err(Refused::new(Reason::AnswerWanted, about));
            }
            let mut publication = broadcast(&packet, opts, attachments)?;
            if let Some(nsp) = nsp {
                publication.namespace = namespace(Some(nsp));
            }
            Ok(Ask::Publish(publication))
        }
        kind::JOIN | kind::LEAVE | kind::DISCONNECT => {
            let OfSessions { opts, rooms, close } = serde_json::from_str(data)?;
            Ok(Ask::Act(Act {
                namespace: namespace(nsp),
                to: opts.rooms.into_targets(),
                except: opts.except.into_targets(),
                action: match kind {
                    kind::JOIN => Action::Join(rooms.0),
                    kind::LEAVE => Action::Leave(rooms.0),
                    _ => Action::Disconnect {
                        close: close.unwrap_or(false),
                    },
                },
            }))
        }
        kind::SERVER_SIDE_EMIT => Err(Refused::new(Reason::ServerSide, "serverSideEmit is for servers")),
        kind::FETCH => Err(Refused::new(
            Reason::AnswerWanted,
            "fetchSockets asks servers for an answer",
        )),
        kind if kind::OF_SERVERS.contains(&kind) => Ok(Ask::Nothing),
        kind => Err(Refused::new(
            Reason::UnknownMethod,
            format!("message of type {kind}"),
        )),
    }
}
