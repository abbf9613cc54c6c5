//! What python-socketio's Redis manager publishes since 5.14, Flask-SocketIO's too: JSON objects with a `method`.
//!
//! `data` is the list of arguments; where there is binary in it, `[arguments, base64, …]` with placeholders in the arguments.
//! Before 5.14 it was a pickle. Loading one runs code of whoever wrote it; here it is told by its first byte and refused.
//!
//! Source: python-socketio 5.14.0 to 5.18.1, `pubsub_manager.py`.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use tidegate_gateway::{Action, Publication, Target};

use super::{Act, Ask, Name, Names, Reason, Refused, Values, args, namespace};

#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    binary: Option<bool>,
    /// Null is everybody; an empty list is nobody.
    #[serde(default)]
    room: Option<Names>,
    #[serde(default)]
    skip_sid: Names,
    #[serde(default)]
    sid: Option<Name>,
    /// Room, namespace and number of a callback that waits in the sender.
    #[serde(default)]
    callback: Option<serde::de::IgnoredAny>,
}

/// A message on one of the channels.
///
/// # Errors
/// Why it is not carried out.
pub fn read_python(payload: &[u8]) -> Result<Ask, Refused> {
    if is_pickle(payload) {
        let about = "a pickle, as python-socketio before 5.14 sends it; a newer one sends JSON";
        return Err(Refused::new(Reason::Pickle, about));
    }
    let call: Call<'_> = serde_json::from_str(super::utf8(payload)?)?;
    match &*call.method {
        "emit" => emit(call),
        "disconnect" => act(&call, Action::Disconnect { close: false }),
        "enter_room" => act(&call, Action::Join(room(&call)?)),
        "leave_room" => act(&call, Action::Leave(room(&call)?)),
        "close_room" => Ok(Ask::Act(Act {
            namespace: namespace(call.namespace.as_deref()),
            to: room(&call)?.into_iter().map(Target::Room).collect(),
            except: Vec::new(),
            action: Action::Leave(room(&call)?),
        })),
        // An answer to a server that asked; this one asks nobody.
        "callback" => Ok(Ask::Nothing),
        method => Err(Refused::new(Reason::UnknownMethod, format!("method {method:?}"))),
    }
}

/// Protocol 2 and later begin with 0x80; 0 and 1 with a mark or an empty dictionary and its place in the memo.
fn is_pickle(payload: &[u8]) -> bool {
    matches!(payload, [0x80, ..] | [b'(', b'd', ..] | [b'}', b'q', ..])
}

fn emit(call: Call<'_>) -> Result<Ask, Refused> {
    if call.callback.is_some() {
        let about = "the sender waits for a callback";
        return Err(Refused::new(Reason::AnswerWanted, about));
    }
    let event = call
        .event
        .ok_or_else(|| Refused::malformed("emit without an event"))?;
    let (mut values, attachments) = arguments(call.data, call.binary)?;
    // None stands alone where an event has no argument.
    if matches!(&values[..], [one] if one.get() == "null") {
        values.clear();
    }
    Ok(Ask::Publish(Publication {
        namespace: namespace(call.namespace.as_deref()),
        to: match call.room {
            Some(names) if names.0.is_empty() => return Ok(Ask::Nothing),
            names => names.unwrap_or_default().into_targets(),
        },
        except: call.skip_sid.into_targets(),
        ..Publication::new(event, args(&values, attachments)?)
    }))
}

/// The arguments of an event, and their binary values.
fn arguments(data: Option<&RawValue>, binary: Option<bool>) -> Result<(Vec<&RawValue>, Vec<Bytes>), Refused> {
    let Some(binary) = binary else {
        // Before 5.14.2 there was neither binary data nor more than one argument.
        return Ok((data.into_iter().collect(), Vec::new()));
    };
    // An object, a number or nothing where a list is expected is the one argument of versions that made no list of it.
    let Some(data) = data else {
        return Ok(Default::default());
    };
    if !binary {
        return Ok((list_or_one(data)?, Vec::new()));
    }
    let Values(values) = serde_json::from_str::<Values<'_>>(data.get())?;
    let (first, rest) = values
        .split_first()
        .ok_or_else(|| Refused::malformed("binary data without arguments"))?;
    let attachments = rest
        .iter()
        .map(|text| attachment(text))
        .collect::<Result<_, _>>()?;
    Ok((list_or_one(first)?, attachments))
}

fn list_or_one(data: &RawValue) -> Result<Vec<&RawValue>, Refused> {
    if data.get().starts_with('[') {
        let Values(values) = serde_json::from_str(data.get())?;
        return Ok(values);
    }
    Ok(vec![data])
}

fn attachment(text: &RawValue) -> Result<Bytes, Refused> {
    let text: Cow<'_, str> = serde_json::from_str(text.get())?;
    let bytes = STANDARD.decode(&*text);
    bytes
        .map(Bytes::from)
        .map_err(|error| Refused::malformed(format!("an attachment is no base64: {error}")))
}

fn room(call: &Call<'_>) -> Result<Vec<String>, Refused> {
    let names = call.room.as_ref().filter(|names| !names.0.is_empty());
    let names = names.ok_or_else(|| Refused::malformed(format!("{} without a room", call.method)))?;
    Ok(names.0.clone())
}

fn act(call: &Call<'_>, action: Action) -> Result<Ask, Refused> {
    let sid = call
        .sid
        .as_ref()
        .ok_or_else(|| Refused::malformed(format!("{} without a sid", call.method)))?;
    Ok(Ask::Act(Act {
        namespace: namespace(call.namespace.as_deref()),
        to: vec![Target::Session(sid.0.clone())],
        except: Vec::new(),
        action,
    }))
}
