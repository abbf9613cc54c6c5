//! Health, Prometheus figures and the description of the API itself.

use serde_json::json;
use tidegate_gateway::Error;

use super::{
    failure::Failure,
    openapi, page,
    route::{Call, Reply},
};

/// `GET /healthz`: the process answers.
pub(crate) async fn healthz(_call: Call) -> Result<Reply, Failure> {
    Ok(Reply::json(&json!({"ok": true})))
}

/// `GET /readyz`: it takes new connections. A database that is away changes nothing about that: rows are spooled, and
/// clients stay connected. Nor does Redis.
pub(crate) async fn readyz(call: Call) -> Result<Reply, Failure> {
    if (call.parts.is_draining)() {
        return Err(Error::Draining.into());
    }
    let database = call.api.has_store().map(|store| store.state());
    let redis = call.api.bridge().map(|bridge| bridge.is_up());
    let redis = redis.map(|is_up| if is_up { "up" } else { "away" });
    Ok(Reply::json(
        &json!({"ok": true, "database": database, "redis": redis}),
    ))
}

/// `GET /metrics`
pub(crate) async fn metrics(call: Call) -> Result<Reply, Failure> {
    let text = tidegate_ops::prometheus::render(&call.api.registry.snapshot());
    Ok(Reply::text(tidegate_ops::prometheus::CONTENT_TYPE, text))
}

/// `GET /api/openapi.json`
pub(crate) async fn openapi(_call: Call) -> Result<Reply, Failure> {
    Ok(Reply::json(openapi::document()))
}

/// `GET /api/docs`
pub(crate) async fn docs(_call: Call) -> Result<Reply, Failure> {
    Ok(Reply::text("text/html; charset=utf-8", page::html()))
}
