//! `POST /api/publish`: one message or a list of them, each checked against the caller's roles.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{json, value::RawValue};
use tidegate_auth::{Action, Identity, Method};
use tidegate_gateway::{ANSWERS_MAX, Answer, Args, Collected, Error, Publication, Target, WhenSlow};

use super::{
    failure::Failure,
    route::{Call, Reply},
};
use crate::{
    hook::{with_bytes, without_marks},
    names::{Name, Targets},
    settings::Time,
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
    room: Option<Name>,
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
    ack: Option<Ack>,
}

/// Answers are to be collected: for how long, and how many at most.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ack {
    timeout: Time,
    max: Option<usize>,
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
    let mut patience = Duration::from_millis(ACK_TIMEOUT_MS_MAX);
    let answer = publish_one(&call, message, &mut patience).await?;
    Ok(Reply::json_text(String::from(Box::<str>::from(answer))))
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
    let mut patience = Duration::from_millis(ACK_TIMEOUT_MS_MAX);
    for raw in messages {
        let result = match serde_json::from_str::<Message<'_>>(raw.get()) {
            Ok(message) => publish_one(call, message, &mut patience).await,
            Err(error) => Err(malformed(error)),
        };
        results.push(result.or_else(|failure| text(&failure.to_json()))?);
    }
    let results = text(&results)?;
    Ok(Reply::json_text(format!(r#"{{"ok":true,"results":{results}}}"#)))
}

fn text(value: &impl Serialize) -> Result<Box<RawValue>, Failure> {
    Ok(serde_json::value::to_raw_value(value).map_err(Error::Json)?)
}

/// Publishes one message of a request whose waits for answers may take `patience` together.
async fn publish_one(
    call: &Call,
    message: Message<'_>,
    patience: &mut Duration,
) -> Result<Box<RawValue>, Failure> {
    let wanted = wanted(&message, patience)?;
    let identity = call.identity.as_ref().expect("the route asks for an identity");
    let is_nobody = message.room.is_none() && message.to.as_ref().is_some_and(Targets::is_nobody);
    let mut publication = publication(message)?;
    if is_nobody {
        return match wanted {
            Some(_) => text(&shown(&Collected::default())),
            None => text(&json!({"ok": true, "seq": null, "offset": null, "duplicate": false})),
        };
    }
    allow(call, identity, &publication)?;
    publication.speaker = Some(identity.user.clone());
    let Some((timeout, answers_max)) = wanted else {
        let published = call.parts.publisher.publish(publication)?;
        let (offset, duplicate) = (published.offset, published.duplicate);
        return text(&json!({"ok": true, "seq": published.seq, "offset": offset, "duplicate": duplicate}));
    };
    let clock = call.api.clock();
    let began = clock.now();
    // How long clients take says nothing of how much the server can do, and a wait takes nobody's place.
    call.step_aside();
    let publisher = &call.parts.publisher;
    let collected = publisher
        .publish_collect_first(publication, timeout, answers_max)
        .await?;
    *patience = patience.saturating_sub(clock.now().since(began));
    text(&shown(&collected))
}

/// For how long answers are collected, and how many at most; nothing where none are asked for.
fn wanted(message: &Message<'_>, patience: &Duration) -> Result<Option<(Duration, usize)>, Failure> {
    let refuse = |text: String| Err(Error::BadRequest(text).into());
    let (name, timeout, max) = match (&message.ack, message.ack_timeout_ms) {
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => return refuse("give ack or ack_timeout_ms, not both".to_owned()),
        (None, Some(ms)) => ("ack_timeout_ms", Duration::from_millis(ms), None),
        (Some(ack), None) => ("ack.timeout", ack.timeout.0, ack.max),
    };
    let ms = timeout.as_millis();
    if !(1..=u128::from(ACK_TIMEOUT_MS_MAX)).contains(&ms) {
        return refuse(format!("{name} is {ms} ms, allowed is 1 to {ACK_TIMEOUT_MS_MAX}"));
    }
    if timeout > *patience {
        return refuse(format!(
            "{name} is {ms} ms, and {} ms of the {ACK_TIMEOUT_MS_MAX} ms for all messages of a request are left",
            patience.as_millis()
        ));
    }
    let max = max.unwrap_or(ANSWERS_MAX);
    if !(1..=ANSWERS_MAX).contains(&max) {
        return refuse(format!("ack.max is {max}, allowed is 1 to {ANSWERS_MAX}"));
    }
    Ok(Some((timeout, max)))
}

/// What a collection is answered with.
#[derive(Serialize)]
struct Shown<'a> {
    ok: bool,
    expected: usize,
    answers: Vec<ShownAnswer<'a>>,
    missing: &'a [String],
    dropped: usize,
    timed_out: bool,
    duplicate: bool,
}

#[derive(Serialize)]
struct ShownAnswer<'a> {
    session: &'a str,
    args: Box<RawValue>,
}

/// The answers as their clients wrote them; bytes in them as an application sees them everywhere. Where these cannot be put
/// in, for something else in the answer, the answer is dropped and not the others.
fn shown(collected: &Collected) -> Shown<'_> {
    let answers: Vec<_> = collected.answers.iter().filter_map(answer_shown).collect();
    Shown {
        ok: true,
        expected: collected.expected,
        dropped: collected.dropped + collected.answers.len() - answers.len(),
        answers,
        missing: &collected.missing,
        timed_out: collected.timed_out,
        duplicate: collected.duplicate,
    }
}

fn answer_shown(answer: &Answer) -> Option<ShownAnswer<'_>> {
    let args = with_bytes(answer.args.get().to_owned(), &answer.attachments);
    Some(ShownAnswer {
        session: &answer.session,
        args: RawValue::from_string(args).ok()?,
    })
}

fn publication(message: Message<'_>) -> Result<Publication, Failure> {
    let args = match (message.args, message.data) {
        (Some(_), Some(_)) => return Err(Error::BadRequest("give data or args, not both".to_owned()).into()),
        (Some(args), None) => without_marks(args.get()).map_err(Error::BadRequest)?,
        (None, Some(data)) => without_marks(&format!("[{data}]")).map_err(Error::BadRequest)?,
        (None, None) => Args::new(),
    };
    let mut to = message.to.map(Targets::into_vec).unwrap_or_default();
    to.extend(message.room.map(|Name(room)| Target::Room(room)));
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

/// Rooms need their own permission; everybody, users and sessions need that of every room, the pattern `*`.
fn allow(call: &Call, identity: &Identity, publication: &Publication) -> Result<(), Failure> {
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
                refuse_own_rooms(call, identity, "publish to", room)?;
            }
            Target::User(_) => everywhere()?,
            Target::Session(session) => {
                everywhere()?;
                refuse_own_rooms(call, identity, "publish to", session)?;
            }
        }
    }
    Ok(())
}

/// A session's own room belongs to the application: whoever speaks for a user only may not publish to it or act on it,
/// whatever its patterns. Keys are given to applications.
pub(super) fn refuse_own_rooms(
    call: &Call,
    identity: &Identity,
    action: &'static str,
    room: &str,
) -> Result<(), Failure> {
    let is_application = matches!(identity.method, Method::ApiKey | Method::Application);
    if is_application || room.len() != SESSION_ID_BYTES {
        return Ok(());
    }
    // Not asked of the session's shard, of which it may be on its way to another.
    match call.parts.inspector.namespace_of(room) {
        Some(_) => Err(Failure::forbidden(action, room)),
        None => Ok(()),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn malformed(error: serde_json::Error) -> Failure {
    Error::BadRequest(format!("body is not a message: {error}")).into()
}
