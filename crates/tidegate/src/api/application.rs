//! The application behind the server as an operator reads it.

use serde_json::{Map, Value, json};
use tidegate_flow::breaker::{State, Stats};
use tidegate_gateway::Code;
use tidegate_vitals::{Id, Snapshot};

use super::{
    failure::Failure,
    figures::{by_label, distribution},
    route::{Call, Reply},
};

/// `GET /api/performance/application/stats`
pub(crate) async fn stats(call: Call) -> Result<Reply, Failure> {
    let none = || Failure::of(Code::NotFound, "no application is set (app.url)");
    let hook = call.api.hook.as_ref().ok_or_else(none)?;
    let (state, now) = (hook.now(), &call.api.registry.snapshot());
    Ok(Reply::json(&json!({
        "ok": true,
        "ts_ms": call.api.clock.wall_ms(),
        "uptime_s": call.api.clock.now().since(call.api.started).as_secs(),
        "requests": requests(now),
        "time_ms": times(now),
        "in_flight": {"now": now.gauge(Id::AppInFlight), "max": state.in_flight_max},
        "waiting": {"now": now.gauge(Id::AppWaiting), "max": state.waiting_max},
        "breaker": breaker(state.breaker),
        "answer_errors": by_label(now, Id::AppAnswerErrors, &[]),
        "disconnects": {
            "waiting": now.gauge(Id::AppSpoolRecords),
            "bytes": now.gauge(Id::AppSpoolBytes),
            "lost": by_label(now, Id::AppDisconnectsLost, &[]),
        },
    })))
}

fn breaker(stats: Stats) -> Value {
    let state = match stats.state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half_open",
    };
    json!({"state": state, "opened": stats.opened, "refused": stats.refused, "probes": stats.probes})
}

/// Counts by kind, and in each by outcome.
fn requests(now: &Snapshot) -> Value {
    let mut kinds = Map::new();
    for series in now.of(Id::AppRequests) {
        let (kind, outcome) = (series.label("kind"), series.label("outcome"));
        if let (Some(kind), Some(outcome), Some(count)) = (kind, outcome, series.value.as_counter()) {
            kinds.entry(kind).or_insert_with(|| json!({}))[outcome] = count.into();
        }
    }
    Value::Object(kinds)
}

fn times(now: &Snapshot) -> Value {
    let mut kinds = Map::new();
    for (kind, value) in now.by_label(Id::AppRequest) {
        if let Some(histogram) = value.as_histogram() {
            kinds.insert(kind.to_owned(), distribution(histogram, 1e-6));
        }
    }
    Value::Object(kinds)
}
