//! The publishers through Redis as an operator reads them.

use serde_json::{Map, Value, json};
use tidegate_gateway::Code;
use tidegate_vitals::{Id, Snapshot};

use super::{
    failure::Failure,
    figures::by_label,
    route::{Call, Reply},
};
use crate::bridge::{State, formats::Format};

/// `GET /api/performance/bridge/stats`
pub(crate) async fn stats(call: Call) -> Result<Reply, Failure> {
    let none = || Failure::of(Code::NotFound, "no Redis is set for publishers (bridge.url)");
    let bridge = call.api.bridge().ok_or_else(none)?;
    let now = &call.api.registry.snapshot();
    let connects = by_label(now, Id::BridgeConnects, &[]);
    let links: Map<String, Value> = bridge
        .states()
        .into_iter()
        .map(|(link, state)| {
            let connects = connects.get(link.as_str()).cloned().unwrap_or_else(|| 0.into());
            (link.as_str().to_owned(), of_link(&state, &connects))
        })
        .collect();
    let formats: Map<String, Value> = Format::ALL
        .into_iter()
        .filter(|format| bridge.config().hears(*format))
        .map(|format| (format.as_str().to_owned(), of_format(now, format.as_str())))
        .collect();
    Ok(Reply::json(&json!({
        "ok": true,
        "ts_ms": call.api.clock.wall_ms(),
        "uptime_s": call.api.clock.now().since(call.api.started).as_secs(),
        "links": links,
        "formats": formats,
        "stream_entries_trimmed": now.counter(Id::BridgeTrimmed),
        "rooms_heard": now.gauge(Id::BridgeRooms),
        "channels_refused": bridge.channels_refused(),
    })))
}

fn of_link(state: &State, connects: &Value) -> Value {
    let (state, cause) = match state {
        State::Starting => ("starting", None),
        State::Up => ("up", None),
        State::Away(cause) => ("away", Some(cause)),
    };
    json!({"state": state, "cause": cause, "connects": connects})
}

fn of_format(now: &Snapshot, format: &str) -> Value {
    let count = |id| by_label(now, id, &[format])[format].clone();
    let mut refused = Map::new();
    for series in now.of(Id::BridgeRefused) {
        let (of, reason) = (series.label("format"), series.label("reason"));
        if let (Some(reason), Some(n)) = (reason.filter(|_| of == Some(format)), series.value.as_counter()) {
            refused.insert(reason.to_owned(), n.into());
        }
    }
    json!({
        "received": count(Id::BridgeReceived),
        "bytes": count(Id::BridgeBytes),
        "delivered": count(Id::BridgeDelivered),
        "ignored": count(Id::BridgeIgnored),
        "waited": count(Id::BridgeWaited),
        "refused": refused,
    })
}
