//! What `@socket.io/redis-emitter` and servers with the classic Redis adapter publish.
//!
//! - `{prefix}#{namespace}#` or `{prefix}#{namespace}#{room}#`: `[uid, packet, {rooms, except, flags}]`, MessagePack unless
//!   the emitter was given another parser. The room in the channel only saves a server without it the work: the rooms that
//!   count are in the message.
//! - `{prefix}-request#{namespace}#`: JSON `{type, opts, rooms, close}`, answered by nobody when it has no `requestId`.
//!
//! Source: @socket.io/redis-emitter 5.1.0 and @socket.io/redis-adapter 8.3.0.

use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_gateway::Action;

use super::{Act, Ask, Json, Names, Options, Packet, Reason, Refused, broadcast, cluster};

/// Types of requests between classic adapters.
mod kind {
    pub(super) const JOIN: u8 = 2;
    pub(super) const LEAVE: u8 = 3;
    pub(super) const DISCONNECT: u8 = 4;
    pub(super) const SERVER_SIDE_EMIT: u8 = 6;
    /// Who is where, broadcasts with acknowledgements, and the answers to both.
    pub(super) const OF_SERVERS: [u8; 6] = [0, 1, 5, 7, 8, 9];
}

/// A message on a channel that begins with `{prefix}#`.
///
/// # Errors
/// Why it is not carried out.
pub fn read_broadcast(prefix: &str, channel: &[u8], payload: &[u8]) -> Result<Ask, Refused> {
    let rest = below(prefix, channel)?;
    let json = Json::of(payload)?;
    if json.text.starts_with('{') {
        // Servers with the streams adapter send what need not last over the same channels.
        return cluster::read(&json.text, json.attachments);
    }
    let (_uid, packet, options): (&RawValue, Packet<'_>, Option<Options>) = serde_json::from_str(&json.text)?;
    let publication = broadcast(&packet, options.unwrap_or_default(), json.attachments)?;
    let is_of_channel = rest
        .strip_prefix(&*publication.namespace)
        .is_some_and(|rest| rest.starts_with('#'));
    if !is_of_channel {
        let about = format!(
            "a packet for namespace {:?} on channel {prefix}#{rest}",
            publication.namespace
        );
        return Err(Refused::malformed(about));
    }
    Ok(Ask::Publish(publication))
}

#[derive(Deserialize)]
struct Request {
    #[serde(rename = "type")]
    kind: u8,
    opts: Option<Options>,
    #[serde(default)]
    rooms: Names,
    close: Option<bool>,
}

/// A message on `{prefix}-request#{namespace}#`.
///
/// # Errors
/// Why it is not carried out.
pub fn read_request(prefix: &str, channel: &[u8], payload: &[u8]) -> Result<Ask, Refused> {
    let rest = below(&format!("{prefix}-request"), channel)?;
    let namespace = rest
        .strip_suffix('#')
        .filter(|name| name.starts_with('/'))
        .ok_or_else(|| Refused::malformed(format!("channel {prefix}-request#{rest} names no namespace")))?;
    let json = Json::of(payload)?;
    let request: Request = serde_json::from_str(&json.text)?;
    let action = match request.kind {
        kind::JOIN => Action::Join(request.rooms.0),
        kind::LEAVE => Action::Leave(request.rooms.0),
        kind::DISCONNECT => Action::Disconnect {
            close: request.close.unwrap_or(false),
        },
        kind::SERVER_SIDE_EMIT => {
            return Err(Refused::new(Reason::ServerSide, "serverSideEmit is for servers"));
        }
        kind if kind::OF_SERVERS.contains(&kind) => {
            let about = format!("request of type {kind} asks servers for an answer");
            return Err(Refused::new(Reason::AnswerWanted, about));
        }
        kind => {
            let about = format!("request of type {kind}");
            return Err(Refused::new(Reason::UnknownMethod, about));
        }
    };
    // Adapters before version 6 name one session instead, and wait for an answer.
    let Some(options) = request.opts else {
        let about = "a request for one session, which asks for an answer";
        return Err(Refused::new(Reason::AnswerWanted, about));
    };
    Ok(Ask::Act(Act {
        namespace: namespace.to_owned(),
        to: options.rooms.into_targets(),
        except: options.except.into_targets(),
        action,
    }))
}

/// What follows `{prefix}#`.
fn below<'a>(prefix: &str, channel: &'a [u8]) -> Result<&'a str, Refused> {
    let rest = super::utf8(channel)?
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('#'));
    rest.ok_or_else(|| Refused::malformed(format!("a channel that does not begin with {prefix}#")))
}
