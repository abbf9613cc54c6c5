//! Sessions for the application: which there are, and joining, leaving and disconnecting them over HTTP.

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tidegate_auth::{Action as Permission, Identity};
use tidegate_gateway::{Action, Error, Page, SessionInfo, Target};

use super::{
    failure::Failure,
    publish::{TARGETS_MAX, refuse_own_rooms},
    route::{Call, Reply},
};
use crate::names::{Names, Targets};

/// Rooms of one request.
pub(crate) const ROOMS_MAX: usize = 1_000;

/// Bytes of what the application keeps with sessions in one page; above it the page ends early.
const PAGE_DATA_BYTES_MAX: usize = 4 << 20;

/// Whom a route is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Session,
    User,
    Room,
}

/// What a route does to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Join,
    Leave,
    Disconnect,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeRooms<'a> {
    namespace: Option<String>,
    rooms: Names,
    #[serde(borrow)]
    except: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DisconnectThem<'a> {
    namespace: Option<String>,
    #[serde(borrow)]
    except: Option<&'a RawValue>,
    #[serde(default)]
    close: bool,
}

/// A request, read.
struct Asked {
    namespace: Option<String>,
    except: Vec<Target>,
    action: Action,
}

/// `POST /api/{sessions|users|rooms}/{x}/{join|leave|disconnect}`
pub(crate) async fn act(call: Call, whom: Whom, deed: Deed) -> Result<Reply, Failure> {
    let asked = Asked::read(&call.body, deed)?;
    let target = whom.target(&call);
    allow(&call, call.caller(), &target).await?;
    if let Action::Join(rooms) | Action::Leave(rooms) = &asked.action {
        for room in rooms {
            allow_room(&call, call.caller(), room).await?;
        }
    }
    let namespace = namespace(&call, whom, asked.namespace.as_deref())?;
    let alone = asked.except.is_empty();
    let publisher = &call.parts.publisher;
    let acted = publisher
        .act_reported(namespace, &[target], &asked.except, asked.action)
        .await?;
    if whom == Whom::Session && alone && acted.sessions == 0 {
        return Err(Failure::not_found("session", call.path("id")));
    }
    Ok(Reply::json(
        &json!({"ok": true, "sessions": acted.sessions, "refused": acted.refused}),
    ))
}

/// `GET /api/{users|rooms}/{x}/sessions`
pub(crate) async fn list(call: Call, whom: Whom) -> Result<Reply, Failure> {
    let target = whom.target(&call);
    allow(&call, call.caller(), &target).await?;
    let namespace = call.text("namespace").unwrap_or("/");
    let inspector = &call.parts.inspector;
    let page = inspector
        .sessions(namespace, &target, call.text("after"), call.count("limit"))
        .await?;
    let (items, next) = shown_page(&page)?;
    Ok(Reply::json(&json!({"ok": true, "items": items, "next": next})))
}

/// `GET /api/sessions/{id}`
pub(crate) async fn one(call: Call) -> Result<Reply, Failure> {
    let id = call.path("id");
    allow(&call, call.caller(), &Target::Session(id.to_owned())).await?;
    let session = call.parts.inspector.session(id).await;
    let session = session.ok_or_else(|| Failure::not_found("session", id))?;
    Ok(Reply::json(&json!({"ok": true, "session": shown(&session)?})))
}

/// Where a request acts: in the namespace it names, that of its one session, or `/`.
fn namespace<'a>(call: &'a Call, whom: Whom, given: Option<&'a str>) -> Result<&'a str, Failure> {
    match (given, whom) {
        (Some(name), _) => Ok(name),
        (None, Whom::User | Whom::Room) => Ok("/"),
        (None, Whom::Session) => {
            let id = call.path("id");
            let found = call.parts.inspector.namespace_of(id);
            found.ok_or_else(|| Failure::not_found("session", id))
        }
    }
}

/// A room needs a role whose patterns match; users and sessions need that of every room, the pattern `*`.
async fn allow(call: &Call, identity: &Identity, target: &Target) -> Result<(), Failure> {
    match target {
        Target::Room(room) => allow_room(call, identity, room).await,
        Target::User(_) => {
            let authenticator = call.api.authenticator();
            Ok(authenticator
                .permissions()
                .check(Permission::Act, "*", identity)?)
        }
        Target::Session(id) => {
            let authenticator = call.api.authenticator();
            authenticator
                .permissions()
                .check(Permission::Act, "*", identity)?;
            refuse_own_rooms(call, identity, "act on", id)
        }
    }
}

async fn allow_room(call: &Call, identity: &Identity, room: &str) -> Result<(), Failure> {
    let authenticator = call.api.authenticator();
    authenticator
        .permissions()
        .check(Permission::Act, room, identity)?;
    refuse_own_rooms(call, identity, "act on", room)
}

fn shown(session: &SessionInfo) -> Result<Value, Failure> {
    let mut value = serde_json::to_value(&session.connection).map_err(Error::Json)?;
    // The hook keeps JSON; handlers in Rust may keep any text.
    let data = session
        .data()
        .map(|text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)));
    value["data"] = data.unwrap_or_default();
    Ok(value)
}

/// The rows of a page and where it goes on, which is earlier where sessions keep much.
fn shown_page(page: &Page<SessionInfo>) -> Result<(Vec<Value>, Option<String>), Failure> {
    let mut items = Vec::with_capacity(page.items.len());
    let mut bytes = 0;
    for session in &page.items {
        bytes += session.data().map_or(0, str::len);
        if bytes > PAGE_DATA_BYTES_MAX && !items.is_empty() {
            let last = &page.items[items.len() - 1];
            return Ok((items, Some(last.connection.id.clone())));
        }
        items.push(shown(session)?);
    }
    Ok((items, page.next.clone()))
}

// === impl Whom ===

impl Whom {
    fn target(self, call: &Call) -> Target {
        match self {
            Self::Session => Target::Session(call.path("id").to_owned()),
            Self::User => Target::User(call.path("user").to_owned()),
            Self::Room => Target::Room(call.path("room").to_owned()),
        }
    }
}

// === impl Asked ===

impl Asked {
    fn read(body: &[u8], deed: Deed) -> Result<Self, Failure> {
        let (namespace, except, action) = if deed == Deed::Disconnect {
            let body = if body.is_empty() { b"{}" } else { body };
            let body: DisconnectThem<'_> = serde_json::from_slice(body).map_err(malformed)?;
            let action = Action::Disconnect { close: body.close };
            (body.namespace, body.except, action)
        } else {
            let body: ChangeRooms<'_> = serde_json::from_slice(body).map_err(malformed)?;
            let Names(rooms) = body.rooms;
            let n_rooms = rooms.len();
            if !(1..=ROOMS_MAX).contains(&n_rooms) {
                return Err(refused(format!(
                    "rooms has {n_rooms} entries, allowed is 1 to {ROOMS_MAX}"
                )));
            }
            if rooms.iter().any(String::is_empty) {
                return Err(refused("a name in rooms is empty".to_owned()));
            }
            let action = match deed {
                Deed::Join => Action::Join(rooms),
                _ => Action::Leave(rooms),
            };
            (body.namespace, body.except, action)
        };
        let except = except.map(read_except).transpose()?.unwrap_or_default();
        Ok(Self {
            namespace,
            except,
            action,
        })
    }
}

/// A list is one of rooms; an object names rooms, users and sessions.
fn read_except(raw: &RawValue) -> Result<Vec<Target>, Failure> {
    let text = raw.get();
    let except: Vec<Target> = if text.starts_with('[') {
        let Names(rooms) = serde_json::from_str(text).map_err(malformed)?;
        rooms.into_iter().map(Target::Room).collect()
    } else {
        let targets: Targets = serde_json::from_str(text).map_err(malformed)?;
        targets.into_vec()
    };
    if except.len() > TARGETS_MAX {
        let n = except.len();
        return Err(refused(format!(
            "except has {n} entries, allowed is 0 to {TARGETS_MAX}"
        )));
    }
    Ok(except)
}

fn refused(text: String) -> Failure {
    Error::BadRequest(text).into()
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn malformed(error: serde_json::Error) -> Failure {
    refused(format!("body is not an action: {error}"))
}
