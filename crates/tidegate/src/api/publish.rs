//! `POST /api/publish`: one message or a list of them, each checked against the caller's roles.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tidegate_auth::{Action, Identity, Method};
use tidegate_gateway::{Args, Error, Publication, Target, WhenSlow};

use super::{
    failure::Failure,
    route::{Call, Reply},
};

/// Messages in one request.
pub(crate) const MESSAGES_MAX: usize = 1_000;

/// Targets of one message; each costs a look-up under the namespace's lock.
pub(crate) const TARGETS_MAX: usize = 1_000;

/// Longest wait for acknowledgements, milliseconds.
pub(crate) const ACK_TIMEOUT_MS_MAX: u64 = 60_000;

/// Length of a session's id, which is also the name of its own room.
const SESSION_ID_BYTES: usize = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Many<'a> {
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    event: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    room: Option<String>,
    to: Option<Targets>,
    except: Option<Targets>,
    namespace: Option<String>,
    conflate: Option<String>,
    when_slow: Option<Slow>,
    #[serde(default)]
    volatile: bool,
    #[serde(default, alias = "critical")]
    urgent: bool,
    id: Option<String>,
    ack_timeout_ms: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Targets {
    rooms: Vec<String>,
    users: Vec<String>,
    sessions: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Slow {
    Disconnect,
    DropOldest,
}

/// Publishes what the body holds.
pub(crate) async fn publish(call: Call) -> Result<Reply, Failure> {
    // Two attempts instead of an untagged guess, so that an error speaks of the shape that was meant.
    let is_list = serde_json::from_slice::<Many<'_>>(&call.body);
    if let Ok(Many { messages }) = is_list {
        return publish_many(&call, &messages).await;
    }
    let message: Message<'_> = serde_json::from_slice(&call.body).map_err(malformed)?;
    let answer = publish_one(&call, message).await?;
    Ok(Reply::json(&answer))
}

async fn publish_many(call: &Call, messages: &[&RawValue]) -> Result<Reply, Failure> {
    if messages.len() > MESSAGES_MAX {
        let text = format!(
            "messages has {} entries, allowed is 0 to {MESSAGES_MAX}",
            messages.len()
        );
        return Err(Error::BadRequest(text).into());
    }
    let mut results = Vec::with_capacity(messages.len());
    for raw in messages {
        let result = match serde_json::from_str::<Message<'_>>(raw.get()) {
            Ok(message) => publish_one(call, message).await,
            Err(error) => Err(malformed(error)),
        };
        results.push(result.unwrap_or_else(|failure| failure.to_json()));
    }
    Ok(Reply::json(&json!({"ok": true, "results": results})))
}

async fn publish_one(call: &Call, message: Message<'_>) -> Result<Value, Failure> {
    let ack_timeout_ms = message.ack_timeout_ms;
    let identity = call.identity.as_ref().expect("the route asks for an identity");
    let mut publication = publication(message)?;
    allow(call, identity, &publication).await?;
    publication.speaker = Some(identity.user.clone());
    let Some(timeout_ms) = ack_timeout_ms else {
        let published = call.parts.publisher.publish(publication)?;
        let (offset, duplicate) = (published.offset, published.duplicate);
        return Ok(json!({"ok": true, "seq": published.seq, "offset": offset, "duplicate": duplicate}));
    };
    if !(1..=ACK_TIMEOUT_MS_MAX).contains(&timeout_ms) {
        let text = format!("ack_timeout_ms is {timeout_ms}, allowed is 1 to {ACK_TIMEOUT_MS_MAX}");
        return Err(Error::BadRequest(text).into());
    }
    let collected = call
        .parts
        .publisher
        .publish_collect(publication, Duration::from_millis(timeout_ms))
        .await?;
    let answers = serde_json::to_value(&collected.answers).map_err(Error::Json)?;
    Ok(json!({
        "ok": true,
        "expected": collected.expected,
        "answers": answers,
        "timed_out": collected.timed_out,
    }))
}

fn publication(message: Message<'_>) -> Result<Publication, Failure> {
    let args = match (message.args, message.data) {
        (Some(_), Some(_)) => return Err(Error::BadRequest("give data or args, not both".to_owned()).into()),
        (Some(args), None) => Args::from_json_array(args.get(), Vec::new())?,
        (None, Some(data)) => Args::one(data)?,
        (None, None) => Args::new(),
    };
    let mut to = message.to.map(Targets::into_vec).unwrap_or_default();
    to.extend(message.room.map(Target::Room));
    let except = message.except.map(Targets::into_vec).unwrap_or_default();
    if to.len() + except.len() > TARGETS_MAX {
        let what = "list of targets";
        return Err(Error::TooLarge {
            what,
            bytes: to.len() + except.len(),
            max: TARGETS_MAX,
        }
        .into());
    }
    let when_slow = match (message.conflate, message.when_slow) {
        (Some(_), Some(_)) => {
            return Err(Error::BadRequest("give conflate or when_slow, not both".to_owned()).into());
        }
        (Some(key), None) => WhenSlow::Conflate(key),
        (None, Some(Slow::DropOldest)) => WhenSlow::DropOldest,
        (None, Some(Slow::Disconnect) | None) => WhenSlow::Disconnect,
    };
    Ok(Publication {
        namespace: message.namespace.unwrap_or_else(|| "/".to_owned()),
        to,
        except,
        volatile: message.volatile,
        urgent: message.urgent,
        when_slow,
        id: message.id,
        ..Publication::new(message.event, args)
    })
}

impl Targets {
    fn into_vec(self) -> Vec<Target> {
        let rooms = self.rooms.into_iter().map(Target::Room);
        let users = self.users.into_iter().map(Target::User);
        let sessions = self.sessions.into_iter().map(Target::Session);
        rooms.chain(users).chain(sessions).collect()
    }
}

/// Rooms need their own permission; everybody, users and sessions need that of every room, the pattern `*`.
async fn allow(call: &Call, identity: &Identity, publication: &Publication) -> Result<(), Failure> {
    let authenticator = call.api.authenticator();
    let permissions = authenticator.permissions();
    let everywhere = || permissions.check(Action::Publish, "*", identity);
    if publication.to.is_empty() {
        everywhere()?;
    }
    for target in &publication.to {
        match target {
            Target::Room(room) => {
                permissions.check(Action::Publish, room, identity)?;
                refuse_own_rooms(call, identity, room).await?;
            }
            Target::User(_) => everywhere()?,
            Target::Session(session) => {
                everywhere()?;
                refuse_own_rooms(call, identity, session).await?;
            }
        }
    }
    Ok(())
}

/// A session's own room belongs to the application: whoever speaks for a user only may not publish to it, whatever
/// its patterns. Keys are given to applications.
async fn refuse_own_rooms(call: &Call, identity: &Identity, room: &str) -> Result<(), Failure> {
    let is_application = matches!(identity.method, Method::ApiKey | Method::Application);
    if is_application || room.len() != SESSION_ID_BYTES {
        return Ok(());
    }
    match call.parts.inspector.connection(room).await {
        Some(_) => Err(Failure::forbidden("publish to", room)),
        None => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn malformed(error: serde_json::Error) -> Failure {
    Error::BadRequest(format!("body is not a message: {error}")).into()
}
