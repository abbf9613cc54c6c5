//! `stats` and `summary`: the table of metrics as an operator reads it, now and over the kept history.

use serde_json::{Map, Value, json};
use tidegate_gateway::State;
use tidegate_vitals::{HistogramSnapshot, Id, Key, Snapshot, Timeline};

use super::{
    failure::Failure,
    route::{Call, Reply},
};

/// Users named in `stats`; the whole list is at `/api/users`.
pub(crate) const USERS_SHOWN: usize = 100;

/// Transports that are always listed.
const TRANSPORTS: [&str; 2] = ["websocket", "polling"];

/// `GET /api/performance/websocket/stats`
pub(crate) async fn stats(call: Call) -> Result<Reply, Failure> {
    let now = &call.api.registry.snapshot();
    let users = call.parts.inspector.users(None, USERS_SHOWN);
    let per_user: Map<String, Value> = users
        .items
        .into_iter()
        .map(|(user, sessions)| (user, sessions.into()))
        .collect();
    Ok(Reply::json(&json!({
        "ok": true,
        "ts_ms": call.api.clock.wall_ms(),
        "uptime_s": call.api.clock.now().since(call.api.started).as_secs(),
        "draining": (call.parts.is_draining)(),
        "connections": connections(&call, now),
        "sessions": now.gauge(Id::GatewaySessions),
        "rooms": now.gauge(Id::GatewayRooms),
        "presence_members": now.gauge(Id::GatewayPresenceMembers),
        "users": {"count": now.gauge(Id::GatewayUsers), "connections_per_user": per_user},
        "admission": admission(now),
        "closed": counted(now, Id::GatewayClosed),
        "recovery": recovery(now),
        "traffic": traffic(now),
        "batches": {
            "events": now.counter(Id::GatewayBatchEvents),
            "messages": distribution(&now.histogram(Id::GatewayBatchSize), 1.0),
        },
        "coalescing": coalescing(now),
        "outbox": {"bytes": now.gauge(Id::GatewayOutboxBytes), "messages": now.gauge(Id::GatewayOutboxFrames)},
        "slow_consumers": {
            "dropped": now.counter(Id::GatewayDropped),
            "conflated": now.counter(Id::GatewayConflated),
            "slow_closed": now.counter(Id::GatewaySlowClosed),
        },
        "delivery_latency_ms": distribution(&now.histogram(Id::GatewayDeliveryLatency), 1e-6),
        "handlers": handlers(now),
        "memory": memory(&call, now),
        "cpu_seconds": now.counter(Id::ProcessCpu) as f64 * 1e-9,
        "shards": shards(now),
    })))
}

/// `GET /api/performance/websocket/summary`
pub(crate) async fn summary(call: Call) -> Result<Reply, Failure> {
    let now = &call.api.registry.snapshot();
    let line = &call.api.timeline;
    let state = |name| over(line, Key::of(Id::GatewayConnections).label(name), 1.0);
    let states: Map<String, Value> = State::ALL
        .iter()
        .map(|known| (known.as_str().to_owned(), state(known.as_str())))
        .collect();
    Ok(Reply::json(&json!({
        "ok": true,
        "ts_ms": call.api.clock.wall_ms(),
        "history_s": line.len(),
        "connections": {
            "open": over(line, Id::GatewayConnectionsTransport, 1.0),
            "by_state": states,
        },
        "users": over(line, Id::GatewayUsers, 1.0),
        "rooms": over(line, Id::GatewayRooms, 1.0),
        "memory": {
            "rss_bytes": over(line, Id::ProcessRssBytes, 1.0),
            "accounted_bytes": over(line, Id::LedgerUsed, 1.0),
            "outbox_bytes": over(line, Id::GatewayOutboxBytes, 1.0),
        },
        "cpu_cores": over(line, Id::ProcessCpu, 1e-9),
        "shard_utilisation": over(line, Id::GatewayShardUtilisation, 1e-3),
        "recovery": recovery(now),
        "admission": admission(now),
        "per_second": {
            "accepted": over(line, Id::GatewayAccepted, 1.0),
            "refused": over(line, Id::GatewayRefused, 1.0),
            "publishes": over(line, Id::GatewayPublishes, 1.0),
            "deliveries": over(line, Id::GatewayDeliveries, 1.0),
            "messages_in": over(line, Id::GatewayMessagesIn, 1.0),
            "messages_out": over(line, Id::GatewayMessagesOut, 1.0),
            "bytes_in": over(line, Id::GatewayBytesIn, 1.0),
            "bytes_out": over(line, Id::GatewayBytesOut, 1.0),
            "dropped": over(line, Id::GatewayDropped, 1.0),
            "conflated": over(line, Id::GatewayConflated, 1.0),
            "slow_closed": over(line, Id::GatewaySlowClosed, 1.0),
        },
        "messages_per_write": ratio(now.counter(Id::GatewayMessagesOut), now.counter(Id::GatewayWrites)),
        "batch_messages": distribution(&now.histogram(Id::GatewayBatchSize), 1.0),
        "delivery_latency_ms": {
            "p50": over(line, Key::of(Id::GatewayDeliveryLatency).p50(), 1e-6),
            "p95": over(line, Key::of(Id::GatewayDeliveryLatency).p95(), 1e-6),
            "p99": over(line, Key::of(Id::GatewayDeliveryLatency).p99(), 1e-6),
        },
    })))
}

fn connections(call: &Call, now: &Snapshot) -> Value {
    let by_state = by_label(now, Id::GatewayConnections, &State::ALL.map(State::as_str));
    let by_transport = by_label(now, Id::GatewayConnectionsTransport, &TRANSPORTS);
    json!({
        "open": now.gauge(Id::GatewayConnectionsTransport),
        "limit": call.api.connections_max(),
        "by_state": by_state,
        "by_transport": by_transport,
    })
}

fn admission(now: &Snapshot) -> Value {
    json!({
        "accepted": now.counter(Id::GatewayAccepted),
        "refused": counted(now, Id::GatewayRefused),
        "handshake_errors": now.counter(Id::GatewayHandshakeErrors),
        "tls_handshake_errors": now.counter(Id::GatewayTlsHandshakeErrors),
        "time_ms": distribution(&now.histogram(Id::GatewayAdmission), 1e-6),
    })
}

fn recovery(now: &Snapshot) -> Value {
    let (eligible, recovered) = (
        now.counter(Id::GatewayRecoverEligible),
        now.counter(Id::GatewayRecovered),
    );
    json!({
        "eligible": eligible,
        "recovered": recovered,
        "reuse_rate": ratio(recovered, eligible),
        "missed": counted(now, Id::GatewayRecoverMissed),
        "taken_over": now.counter(Id::GatewayTakenOver),
        "ring_bytes": now.gauge(Id::GatewayRingBytes),
        "ring_messages": now.gauge(Id::GatewayRingMessages),
    })
}

fn traffic(now: &Snapshot) -> Value {
    json!({
        "messages_in": now.counter(Id::GatewayMessagesIn),
        "messages_out": now.counter(Id::GatewayMessagesOut),
        "bytes_in": now.counter(Id::GatewayBytesIn),
        "bytes_out": now.counter(Id::GatewayBytesOut),
        "events": now.counter(Id::GatewayEvents),
        "publishes": now.counter(Id::GatewayPublishes),
        "deliveries": now.counter(Id::GatewayDeliveries),
        "publishes_refused": now.counter(Id::GatewayInboxFull),
        "deflate_saved_bytes": now.counter(Id::GatewayDeflateSavedBytes),
    })
}

fn coalescing(now: &Snapshot) -> Value {
    json!({
        "writes": now.counter(Id::GatewayWrites),
        "messages_per_write": ratio(now.counter(Id::GatewayMessagesOut), now.counter(Id::GatewayWrites)),
        "frames_per_write": distribution(&now.histogram(Id::GatewayFramesPerWrite), 1.0),
    })
}

fn handlers(now: &Snapshot) -> Value {
    json!({
        "in_flight": now.gauge(Id::GatewayHandlerInFlight),
        "errors": now.counter(Id::GatewayHandlerErrors),
        "reading_paused": now.gauge(Id::GatewayReadingPaused),
        "rate_limited": now.counter(Id::GatewayRateLimited),
        "acks": now.counter(Id::GatewayAcks),
        "ack_timeouts": now.counter(Id::GatewayAckTimeouts),
    })
}

fn memory(call: &Call, now: &Snapshot) -> Value {
    let rss = u64::try_from(now.gauge(Id::ProcessRssBytes)).unwrap_or(0);
    let sessions = u64::try_from(now.gauge(Id::GatewaySessions)).unwrap_or(0);
    let ledger = &call.api.ledger;
    let by_class: Map<String, Value> = tidegate_vitals::Class::ALL
        .iter()
        .map(|class| (class.name().to_owned(), ledger.used_by(*class).into()))
        .collect();
    json!({
        "rss_bytes": rss,
        "budget_bytes": call.api.budget_bytes,
        "accounted_bytes": ledger.used(),
        "accounted_limit_bytes": ledger.limit(),
        "accounted_by_class": by_class,
        "refused": ledger.refused(),
        // All of the process over the sessions it holds: an upper bound that falls as sessions come.
        "bytes_per_connection": rss.checked_div(sessions),
        "accounted_bytes_per_connection": ledger.used().checked_div(sessions),
    })
}

fn shards(now: &Snapshot) -> Value {
    let gauge = |id, shard: &str| {
        now.by_label(id)
            .find(|(label, _)| *label == shard)
            .and_then(|(_, value)| value.as_gauge())
            .unwrap_or(0)
    };
    let mut rows: Vec<(usize, Value)> = now
        .by_label(Id::GatewayShardUtilisation)
        .map(|(shard, value)| {
            let row = json!({
                "shard": shard,
                "utilisation": value.as_gauge().unwrap_or(0) as f64 * 1e-3,
                "inbox": gauge(Id::GatewayShardInbox, shard),
                "flush_window_ms": gauge(Id::GatewayFlushWindow, shard) as f64 * 1e-3,
            });
            (shard.parse().unwrap_or(usize::MAX), row)
        })
        .collect();
    rows.sort_by_key(|row| row.0);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// A counter as its total and its parts.
fn counted(now: &Snapshot, id: Id) -> Value {
    json!({"total": now.counter(id), "by_reason": by_label(now, id, &[])})
}

/// The values of a labelled metric; `always` are listed even when they have not been used.
pub(crate) fn by_label(now: &Snapshot, id: Id, always: &[&str]) -> Map<String, Value> {
    let mut parts: Map<String, Value> = always.iter().map(|name| ((*name).to_owned(), 0.into())).collect();
    for (label, value) in now.by_label(id) {
        let number = value
            .as_gauge()
            .or_else(|| value.as_counter().and_then(|sum| i64::try_from(sum).ok()));
        parts.insert(label.to_owned(), number.unwrap_or(0).into());
    }
    parts
}

/// A distribution, its values times `scale`.
pub(crate) fn distribution(histogram: &HistogramSnapshot, scale: f64) -> Value {
    let at = |p| histogram.quantile(p) as f64 * scale;
    json!({
        "count": histogram.count(),
        "mean": histogram.mean() * scale,
        "p50": at(0.50),
        "p95": at(0.95),
        "p99": at(0.99),
        "max": histogram.max() as f64 * scale,
    })
}

/// Average and peak of one figure over the kept history; null before the first second.
pub(crate) fn over<'a>(line: &Timeline, key: impl Into<Key<'a>>, scale: f64) -> Value {
    let key = key.into();
    let scaled = |value: Option<f64>| value.map(|value| value * scale);
    json!({"average": scaled(line.average(key)), "peak": scaled(line.peak(key))})
}

/// `part` of `whole`; null where there was nothing.
pub(crate) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
