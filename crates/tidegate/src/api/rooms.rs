//! Rooms: list, who is in, what was said.

use serde_json::{Value, json};
use tidegate_gateway::Error;

use super::{
    failure::Failure,
    route::{Call, Reply},
};

/// `GET /api/rooms`
pub(crate) async fn list(call: Call) -> Result<Reply, Failure> {
    let page = call
        .parts
        .inspector
        .rooms(namespace(&call), call.text("after"), call.count("limit"));
    Ok(Reply::json(
        &json!({"ok": true, "items": value(&page.items)?, "next": page.next}),
    ))
}

/// `GET /api/rooms/{room}/presence`
pub(crate) async fn presence(call: Call) -> Result<Reply, Failure> {
    let room = call.path("room");
    let presence = call
        .parts
        .inspector
        .presence(namespace(&call), room, call.count("limit"));
    let presence = presence.ok_or_else(|| Failure::not_found("room with presence", room))?;
    Ok(Reply::json(
        &json!({"ok": true, "count": presence.count, "members": value(&presence.members)?}),
    ))
}

/// `GET /api/rooms/{room}/history`
pub(crate) async fn history(call: Call) -> Result<Reply, Failure> {
    let room = call.path("room");
    let items = call
        .parts
        .inspector
        .history(namespace(&call), room, call.count("limit"));
    let items = items.ok_or_else(|| Failure::not_found("room with history", room))?;
    Ok(Reply::json(&json!({"ok": true, "items": value(&items)?})))
}

fn namespace(call: &Call) -> &str {
    call.text("namespace").unwrap_or("/")
}

fn value(what: &impl serde::Serialize) -> Result<Value, Failure> {
    serde_json::to_value(what).map_err(|error| Error::Json(error).into())
}
