//! What the application answers: read strictly, so that a slip is named and nothing is half done.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};
use tidegate_auth::{Claims, IDENTITY_ROLES_MAX, Identity, Method, ROLE_BYTES_MAX, USER_BYTES_MAX};
use tidegate_gateway::{Args, Publication, Target, WhenSlow};
use tidegate_vitals::Guard;

use super::binary;
use crate::names::{Name, Names, Targets};

/// Rooms of one `join` or `leave`, and targets of one message: each is a look-up.
const ENTRIES_MAX: usize = 1_000;

/// Messages of one `emit`; their bytes are those of the answer.
const EMITS_MAX: usize = 10_000;

/// Of a value that is wrong, so much is shown.
const SHOWN_CHARS: usize = 60;

/// The whole of an answer; the default asks for nothing.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) user: Option<User>,
    /// The inner none: nothing is kept any more.
    pub(super) data: Option<Option<String>>,
    pub(super) join: Vec<String>,
    pub(super) leave: Vec<String>,
    pub(super) emit: Vec<Emit>,
    pub(super) ack: Option<Args>,
    pub(super) disconnect: Option<Parting>,
    #[expect(dead_code, reason = "paid for until the answer is carried out")]
    memory: Option<Guard>,
}

/// Who the session is from now on.
pub(super) enum User {
    /// Nobody.
    Anonymous,
    Named(Named),
}

/// A user, with what is said of it; what is not said stays as it is, as long as the user is the same.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    id: Name,
    roles: Option<Vec<String>>,
    tenant: Option<String>,
    claims: Option<Map<String, Value>>,
    expires_at_ms: Option<u64>,
}

/// A message to somebody.
pub(super) struct Emit {
    pub(super) publication: Publication,
    pub(super) whom: Whom,
    pub(super) has_namespace: bool,
}

/// Who gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whom {
    /// The session itself, since nobody else is named.
    Itself,
    /// The targets of the publication; without any, everybody.
    Targets,
    /// The lists of its targets are empty.
    Nobody,
}

/// The end of the session, or a refusal to begin it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Parting {
    pub(super) message: Option<String>,
    pub(super) data: Option<Box<RawValue>>,
}

/// Why an answer cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("answer.{field}: {problem}")]
pub(super) struct Wrong {
    /// The field; `body` for the whole, `unknown` for one that does not exist.
    pub(super) field: &'static str,
    pub(super) problem: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Message<'a> {
    event: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    args: Option<&'a RawValue>,
    to: Option<Targets>,
    except: Option<Targets>,
    namespace: Option<String>,
    conflate: Option<String>,
    #[serde(default)]
    volatile: bool,
    #[serde(default)]
    urgent: bool,
}

impl Answer {
    pub(super) fn paid(self, memory: Guard) -> Self {
        Self {
            memory: Some(memory),
            ..self
        }
    }

    /// Reads a body; an empty one asks for nothing.
    ///
    /// # Errors
    /// The field that is wrong, and why.
    pub(super) fn read(body: &[u8], data_bytes_max: usize) -> Result<Self, Wrong> {
        let mut answer = Self::default();
        if body.trim_ascii().is_empty() {
            return Ok(answer);
        }
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(body)
            .map_err(|error| wrong("body", format!("no JSON object: {error}")))?;
        for (name, raw) in fields {
            match name.as_str() {
                "user" => answer.user = Some(user(raw)?),
                "data" => answer.data = Some(data(raw, data_bytes_max)?),
                "join" => answer.join = rooms("join", raw)?,
                "leave" => answer.leave = rooms("leave", raw)?,
                "emit" => answer.emit = emits(raw)?,
                "ack" if is_null(raw) => {}
                "ack" => answer.ack = Some(args("ack", raw)?),
                "disconnect" => answer.disconnect = parting(raw)?,
                _ => {
                    let known = "ack, user, data, join, leave, emit, disconnect";
                    return Err(wrong("unknown", format!("no field {name:?}; known are {known}")));
                }
            }
        }
        Ok(answer)
    }
}

impl User {
    /// The identity that `old` becomes.
    pub(super) fn identity(self, old: &Identity) -> Identity {
        let Self::Named(named) = self else {
            return Identity::new("", Method::Anonymous);
        };
        let Name(id) = named.id;
        let mut identity = if *old.user == *id {
            old.clone()
        } else {
            Identity::new(&id, Method::Application)
        };
        identity.method = Method::Application;
        if let Some(roles) = named.roles {
            identity.roles = roles.into_iter().map(Into::into).collect();
        }
        if let Some(tenant) = named.tenant {
            identity.tenant = Some(tenant.into());
        }
        if let Some(claims) = named.claims {
            identity.claims = Claims::new(claims);
        }
        identity.expires_at_ms = named.expires_at_ms.or(identity.expires_at_ms);
        identity
    }
}

fn user(raw: &RawValue) -> Result<User, Wrong> {
    let text = raw.get();
    if is_null(raw) {
        return Ok(User::Anonymous);
    }
    let expected = "a name, null, or {id, roles?, tenant?, claims?, expires_at_ms?}";
    let named = if text.starts_with('{') {
        typed("user", raw, expected)?
    } else {
        Named {
            id: typed("user", raw, expected)?,
            roles: None,
            tenant: None,
            claims: None,
            expires_at_ms: None,
        }
    };
    for name in std::iter::once(&named.id.0).chain(&named.tenant) {
        if !(1..=USER_BYTES_MAX).contains(&name.len()) || name.chars().any(char::is_control) {
            let allowed = format!("a name has 1 to {USER_BYTES_MAX} bytes without control characters");
            return Err(wrong("user", allowed));
        }
    }
    let roles = named.roles.as_deref().unwrap_or_default();
    if roles.len() > IDENTITY_ROLES_MAX || roles.iter().any(|role| role.len() > ROLE_BYTES_MAX) {
        let allowed = format!("at most {IDENTITY_ROLES_MAX} roles of at most {ROLE_BYTES_MAX} bytes");
        return Err(wrong("user", allowed));
    }
    Ok(User::Named(named))
}

fn data(raw: &RawValue, bytes_max: usize) -> Result<Option<String>, Wrong> {
    let text = raw.get();
    if text.len() > bytes_max {
        let problem = format!("{} bytes, at most {bytes_max} (app.data_bytes_max)", text.len());
        return Err(wrong("data", problem));
    }
    Ok((!is_null(raw)).then(|| text.to_owned()))
}

fn rooms(field: &'static str, raw: &RawValue) -> Result<Vec<String>, Wrong> {
    let Names(rooms) = typed(field, raw, "a room or a list of rooms")?;
    few(field, rooms.len(), ENTRIES_MAX)?;
    Ok(rooms)
}

fn emits(raw: &RawValue) -> Result<Vec<Emit>, Wrong> {
    if is_null(raw) {
        return Ok(Vec::new());
    }
    let messages: Vec<&RawValue> = typed("emit", raw, "a list of messages")?;
    few("emit", messages.len(), EMITS_MAX)?;
    messages.into_iter().map(emit).collect()
}

fn emit(raw: &RawValue) -> Result<Emit, Wrong> {
    let expected = "{event, data? or args?, to?, except?, namespace?, volatile?, urgent?, conflate?}";
    let message: Message<'_> = typed("emit", raw, expected)?;
    let args = match (message.args, message.data) {
        (Some(_), Some(_)) => return Err(wrong("emit", "give data or args, not both".to_owned())),
        (Some(list), None) => args("emit", list)?,
        (None, Some(data)) => {
            binary::from_app(&format!("[{data}]")).map_err(|problem| wrong("emit", problem))?
        }
        (None, None) => Args::new(),
    };
    let whom = match &message.to {
        None => Whom::Itself,
        Some(to) if to.is_nobody() => Whom::Nobody,
        Some(_) => Whom::Targets,
    };
    let to = targets(message.to)?;
    let except = targets(message.except)?;
    let has_namespace = message.namespace.is_some();
    let mut publication = Publication {
        to,
        except,
        volatile: message.volatile,
        urgent: message.urgent,
        when_slow: message.conflate.map_or(WhenSlow::Disconnect, WhenSlow::Conflate),
        ..Publication::new(message.event, args)
    };
    publication.namespace = message.namespace.unwrap_or(publication.namespace);
    Ok(Emit {
        publication,
        whom,
        has_namespace,
    })
}

fn targets(named: Option<Targets>) -> Result<Vec<Target>, Wrong> {
    let all = named.map(Targets::into_vec).unwrap_or_default();
    few("emit", all.len(), ENTRIES_MAX)?;
    Ok(all)
}

fn args(field: &'static str, raw: &RawValue) -> Result<Args, Wrong> {
    if !raw.get().starts_with('[') {
        let problem = format!("expected the list of arguments, got {}", shown(raw));
        return Err(wrong(field, problem));
    }
    binary::from_app(raw.get()).map_err(|problem| wrong(field, problem))
}

fn parting(raw: &RawValue) -> Result<Option<Parting>, Wrong> {
    match raw.get() {
        "false" | "null" => Ok(None),
        "true" => Ok(Some(Parting::default())),
        _ => typed("disconnect", raw, "true, false, or {message?, data?}").map(Some),
    }
}

fn few(field: &'static str, n: usize, max: usize) -> Result<(), Wrong> {
    if n <= max {
        return Ok(());
    }
    Err(wrong(field, format!("{n} entries, at most {max}")))
}

fn typed<'a, T: Deserialize<'a>>(field: &'static str, raw: &'a RawValue, expected: &str) -> Result<T, Wrong> {
    serde_json::from_str(raw.get()).map_err(|error| {
        wrong(
            field,
            format!("expected {expected}, got {} ({error})", shown(raw)),
        )
    })
}

fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

fn shown(raw: &RawValue) -> String {
    let text = raw.get();
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

const fn wrong(field: &'static str, problem: String) -> Wrong {
    Wrong { field, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(body: &str, field: &str, part: &str) {
        let wrong = Answer::read(body.as_bytes(), 20)
            .err()
            .unwrap_or_else(|| panic!("{body} passed"));
        assert_eq!(wrong.field, field, "{body}: {wrong}");
        assert!(wrong.problem.contains(part), "{body}: {wrong}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        refused("<html>", "body", "no JSON object");
        refused("[1]", "body", "no JSON object");
        refused("{\"joins\":[]}", "unknown", "no field \"joins\"");
        refused(
            "{\"join\":{}}",
            "join",
            "expected a room or a list of rooms, got {}",
        );
        refused("{\"leave\":[1.5]}", "leave", "got [1.5]");
        refused(
            "{\"ack\":\"yes\"}",
            "ack",
            "expected the list of arguments, got \"yes\"",
        );
        refused("{\"ack\":{}}", "ack", "expected the list");
        refused("{\"emit\":{\"event\":\"x\"}}", "emit", "a list of messages");
        refused("{\"emit\":[{\"evnt\":\"x\"}]}", "emit", "unknown field `evnt`");
        refused(
            "{\"emit\":[{\"event\":\"x\",\"data\":1,\"args\":[]}]}",
            "emit",
            "not both",
        );
        refused(
            "{\"emit\":[{\"event\":\"x\",\"to\":{\"room\":1}}]}",
            "emit",
            "unknown field `room`",
        );
        refused("{\"user\":true}", "user", "a name, null, or {id");
        refused("{\"user\":\"\"}", "user", "1 to 256 bytes");
        refused("{\"user\":{\"roles\":[]}}", "user", "missing field `id`");
        refused(
            "{\"user\":{\"id\":\"a\",\"expires_at_ms\":\"x\"}}",
            "user",
            "invalid type",
        );
        refused(
            "{\"data\":\"123456789012345678901\"}",
            "data",
            "23 bytes, at most 20",
        );
        refused("{\"disconnect\":1}", "disconnect", "true, false, or");
        let long = format!("{{\"join\":\"{}\"}}", "x".repeat(9));
        assert!(Answer::read(long.as_bytes(), 20).is_ok());
        let many = format!("{{\"join\":[{}]}}", vec!["\"a\""; 1_001].join(","));
        refused(&many, "join", "1001 entries, at most 1000");
        let emits = |n: usize| format!("{{\"emit\":[{}]}}", vec![r#"{"event":"x"}"#; n].join(","));
        refused(&emits(10_001), "emit", "10001 entries, at most 10000");
        let answer = Answer::read(emits(10_000).as_bytes(), 20).unwrap();
        assert_eq!(answer.emit.len(), 10_000);
    }

    #[test]
    fn numbers_are_names() {
        let body = br#"{"user":7,"join":5,"leave":["a",6,-1],
            "emit":[{"event":"x","to":{"rooms":[5],"users":[7],"sessions":["s"]},"except":{"rooms":6}}]}"#;
        let answer = Answer::read(body, 20).unwrap();
        assert_eq!(answer.join, ["5"]);
        assert_eq!(answer.leave, ["a", "6", "-1"]);
        let publication = &answer.emit[0].publication;
        let to = [
            Target::Room("5".to_owned()),
            Target::User("7".to_owned()),
            Target::Session("s".to_owned()),
        ];
        assert_eq!(publication.to, to);
        assert_eq!(publication.except, [Target::Room("6".to_owned())]);
        let nobody = Identity::new("", Method::Anonymous);
        assert_eq!(&*answer.user.unwrap().identity(&nobody).user, "7");
        let named = Answer::read(br#"{"user":{"id":7}}"#, 20).unwrap().user.unwrap();
        assert_eq!(&*named.identity(&nobody).user, "7");
    }

    #[test]
    fn lists_without_a_name_are_nobody() {
        let check = |to: &str, expected: Whom| {
            let body = format!(r#"{{"emit":[{{"event":"x"{to}}}]}}"#);
            let answer = Answer::read(body.as_bytes(), 20).unwrap();
            assert_eq!(answer.emit[0].whom, expected, "{to}");
        };
        check("", Whom::Itself);
        check(r#","to":null"#, Whom::Itself);
        check(r#","to":{}"#, Whom::Targets);
        check(r#","to":{"rooms":[]}"#, Whom::Nobody);
        check(r#","to":{"rooms":null,"users":[]}"#, Whom::Nobody);
        check(r#","to":{"rooms":[],"users":["ada"]}"#, Whom::Targets);
        check(r#","to":{"sessions":["s"]}"#, Whom::Targets);
    }

    #[test]
    fn an_empty_answer_asks_for_nothing() {
        for body in ["", " \n", "{}", "null".replace("null", "{}").as_str()] {
            let answer = Answer::read(body.as_bytes(), 20).unwrap();
            assert!(answer.ack.is_none() && answer.join.is_empty() && answer.disconnect.is_none());
        }
        let nothing = br#"{"ack":null,"join":null,"leave":null,"emit":null,"disconnect":false}"#;
        let answer = Answer::read(nothing, 20).unwrap();
        assert!(answer.ack.is_none() && answer.disconnect.is_none());
    }

    #[test]
    fn everything_is_read() {
        let body = br#"{"user":{"id":"ada","roles":["trader"],"expires_at_ms":5},"data":{"n":1},"join":"a","leave":["b","c"],
            "emit":[{"event":"x","data":1},{"event":"y","args":[1,2],"to":{"rooms":["r"]},"except":{"sessions":["s"]},"conflate":"k"}],
            "ack":["ok",{"$binary":"YQ=="}],"disconnect":{"message":"bye","data":[1]}}"#;
        let answer = Answer::read(body, 20).unwrap();
        assert_eq!(answer.data, Some(Some(r#"{"n":1}"#.to_owned())));
        assert_eq!((answer.join.len(), answer.leave.len()), (1, 2));
        assert_eq!(
            (answer.emit[0].whom, answer.emit[1].whom),
            (Whom::Itself, Whom::Targets)
        );
        assert_eq!(answer.emit[1].publication.to, [Target::Room("r".to_owned())]);
        assert_eq!(
            answer.emit[1].publication.except,
            [Target::Session("s".to_owned())]
        );
        assert_eq!(
            answer.emit[1].publication.when_slow,
            WhenSlow::Conflate("k".to_owned())
        );
        assert!(answer.ack.is_some());
        let parting = answer.disconnect.unwrap();
        assert_eq!(parting.message.as_deref(), Some("bye"));
        assert_eq!(parting.data.unwrap().get(), "[1]");
        let nobody = Identity::new("", Method::Anonymous);
        let ada = answer.user.unwrap().identity(&nobody);
        assert_eq!(
            (&*ada.user, ada.has_role("trader"), ada.expires_at_ms),
            ("ada", true, Some(5))
        );
    }

    #[test]
    fn a_user_keeps_what_is_not_said_and_another_does_not() {
        let mut old = Identity::new("ada", Method::Token);
        old.roles = vec!["trader".into()].into();
        old.expires_at_ms = Some(1);
        let become_of = |body: &str| {
            Answer::read(body.as_bytes(), 20)
                .unwrap()
                .user
                .unwrap()
                .identity(&old)
        };
        let renewed = become_of(r#"{"user":{"id":"ada","expires_at_ms":9}}"#);
        assert_eq!(
            (renewed.has_role("trader"), renewed.expires_at_ms),
            (true, Some(9))
        );
        assert_eq!(renewed.method, Method::Application);
        let other = become_of(r#"{"user":"bob"}"#);
        assert_eq!(
            (&*other.user, other.has_role("trader"), other.expires_at_ms),
            ("bob", false, None)
        );
        assert!(become_of(r#"{"user":null}"#).is_anonymous());
    }
}
