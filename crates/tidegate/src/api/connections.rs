//! Connections and users: lists, details, disconnects.

use serde_json::{Value, json};
use tidegate_gateway::{ConnectionInfo, Error};

use super::{
    failure::Failure,
    route::{Call, Reply},
};

/// `GET /api/connections`
pub(crate) async fn list(call: Call) -> Result<Reply, Failure> {
    let page = call
        .parts
        .inspector
        .connections(call.text("after"), call.count("limit"))
        .await;
    let items: Result<Vec<Value>, Failure> = page.items.iter().map(shown).collect();
    Ok(Reply::json(
        &json!({"ok": true, "items": items?, "next": page.next}),
    ))
}

/// `GET /api/connections/{id}`
pub(crate) async fn one(call: Call) -> Result<Reply, Failure> {
    let id = call.path("id");
    let info = call.parts.inspector.connection(id).await;
    let info = info.ok_or_else(|| Failure::not_found("connection", id))?;
    Ok(Reply::json(&json!({"ok": true, "connection": shown(&info)?})))
}

/// `DELETE /api/connections/{id}`
pub(crate) async fn disconnect(call: Call) -> Result<Reply, Failure> {
    let id = call.path("id");
    if !call.parts.inspector.disconnect_session(id) {
        return Err(Failure::not_found("connection", id));
    }
    Ok(disconnected(1))
}

/// `DELETE /api/users/{user}/connections`
pub(crate) async fn disconnect_user(call: Call) -> Result<Reply, Failure> {
    Ok(disconnected(
        call.parts.inspector.disconnect_user(call.path("user")),
    ))
}

/// `DELETE /api/rooms/{room}/connections`
pub(crate) async fn disconnect_room(call: Call) -> Result<Reply, Failure> {
    let namespace = call.text("namespace").unwrap_or("/");
    Ok(disconnected(
        call.parts.inspector.disconnect_room(namespace, call.path("room")),
    ))
}

/// `GET /api/users`
pub(crate) async fn users(call: Call) -> Result<Reply, Failure> {
    let page = call
        .parts
        .inspector
        .users(call.text("after"), call.count("limit"));
    let items: Vec<Value> = page
        .items
        .iter()
        .map(|(user, sessions)| json!({"user": user, "connections": sessions}))
        .collect();
    Ok(Reply::json(
        &json!({"ok": true, "items": items, "next": page.next}),
    ))
}

fn disconnected(count: usize) -> Reply {
    Reply::json(&json!({"ok": true, "disconnected": count}))
}

fn shown(info: &ConnectionInfo) -> Result<Value, Failure> {
    serde_json::to_value(info).map_err(|error| Error::Json(error).into())
}
