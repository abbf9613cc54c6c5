//! The database as an operator reads it: figures now and over the kept history, statements, tables.

use serde::Serialize;
use serde_json::{Value, json};
use tidegate_gateway::Error;
use tidegate_store::{schema, statement::Order};
use tidegate_vitals::{Id, Key, Metric};

use super::{
    failure::Failure,
    figures::{distribution, over, ratio},
    history,
    route::{Call, Reply},
};

/// What the names of the store's metrics begin with.
const METRICS: &str = "store_";

/// Words of the parameter `order`.
pub(crate) const ORDERS: &[&str] = &["total", "mean", "calls", "rows"];

/// `GET /api/performance/database/stats`
pub(crate) async fn stats(call: Call) -> Result<Reply, Failure> {
    let store = call.api.store()?;
    let monitor = store.database().monitor();
    Ok(Reply::json(&json!({
        "ok": true,
        "ts_ms": call.api.clock.wall_ms(),
        "uptime_s": call.api.clock.now().since(call.api.started).as_secs(),
        "database": value(&store.database().stats())?,
        "statements": value(&monitor.summary())?,
        "queries": value(&store.queries().stats())?,
        "ingest": value(&store.ingest().stats())?,
        "relay": value(&store.relay())?,
    })))
}

/// `GET /api/performance/database/summary`
pub(crate) async fn summary(call: Call) -> Result<Reply, Failure> {
    call.api.store()?;
    let now = &call.api.registry.snapshot();
    let line = &call.api.timeline;
    let quantiles = |id: Id, scale: f64| {
        json!({
            "p50": over(line, Key::of(id).p50(), scale),
            "p95": over(line, Key::of(id).p95(), scale),
            "p99": over(line, Key::of(id).p99(), scale),
        })
    };
    Ok(Reply::json(&json!({
        "ok": true,
        "ts_ms": call.api.clock.wall_ms(),
        "history_s": line.len(),
        "pool": {
            "open": over(line, Id::StorePoolConnections, 1.0),
            "waiting": over(line, Id::StorePoolWaiting, 1.0),
            "use_ratio": over(line, Id::StorePoolUse, 1e-3),
            "reuse_ratio": ratio(now.counter(Id::StorePoolReused), now.counter(Id::StorePoolAcquires)),
        },
        "per_second": {
            "acquires": over(line, Id::StorePoolAcquires, 1.0),
            "timeouts": over(line, Id::StorePoolTimeouts, 1.0),
            "transactions": over(line, Id::StoreTransactions, 1.0),
            "statements": over(line, Id::StoreStatements, 1.0),
            "slow_statements": over(line, Id::StoreStatementSlow, 1.0),
            "statement_errors": over(line, Id::StoreStatementErrors, 1.0),
            "query_rows": over(line, Id::StoreQueryRows, 1.0),
            "ingest_rows": over(line, Id::StoreIngestRows, 1.0),
            "ingest_commits": over(line, Id::StoreIngestCommits, 1.0),
            "dead_letters": over(line, Id::StoreDeadLetters, 1.0),
        },
        "slow_ratio": ratio(now.counter(Id::StoreStatementSlow), now.counter(Id::StoreStatements)),
        "statement_ms": quantiles(Id::StoreStatement, 1e-6),
        "query_ms": quantiles(Id::StoreQuery, 1e-6),
        "ingest": {
            "backlog_rows": over(line, Id::StoreIngestBacklog, 1.0),
            "batch_rows": distribution(&now.histogram(Id::StoreIngestBatch), 1.0),
            "commit_ms": quantiles(Id::StoreIngestCommit, 1e-6),
            "ack_ms": quantiles(Id::StoreIngestAck, 1e-6),
            "spool_rows": over(line, Id::StoreSpoolRows, 1.0),
            "spool_bytes": over(line, Id::StoreSpoolBytes, 1.0),
        },
        "relay": {
            "rows_per_second": over(line, Id::StoreRelayRows, 1.0),
            "waiting_rows": over(line, Id::StoreRelayWaiting, 1.0),
            "batch_rows": distribution(&now.histogram(Id::StoreRelayBatch), 1.0),
            "delay_ms": quantiles(Id::StoreRelayDelay, 1e-6),
        },
    })))
}

/// `GET /api/performance/database/metrics`
pub(crate) async fn metrics(call: Call) -> Result<Reply, Failure> {
    call.api.store()?;
    history::series(&call, |metric: &Metric| metric.name.starts_with(METRICS))
}

/// `GET /api/performance/database/statements`
pub(crate) async fn statements(call: Call) -> Result<Reply, Failure> {
    let store = call.api.store()?;
    let order = match call.text("order").unwrap_or(ORDERS[0]) {
        "mean" => Order::Mean,
        "calls" => Order::Calls,
        "rows" => Order::Rows,
        _ => Order::Total,
    };
    let items = store.database().monitor().top(order, call.count("limit"));
    Ok(Reply::json(&json!({"ok": true, "items": value(&items)?})))
}

/// `GET /api/performance/database/slow`
pub(crate) async fn slow(call: Call) -> Result<Reply, Failure> {
    let store = call.api.store()?;
    let slow = store.database().monitor().slow(call.count("limit"));
    let mut items = Vec::with_capacity(slow.len());
    for statement in &slow {
        let plan = store.plans().and_then(|plans| plans.of(&statement.fingerprint));
        let mut item = value(statement)?;
        item["plan"] = value(&plan)?;
        items.push(item);
    }
    Ok(Reply::json(&json!({"ok": true, "items": items})))
}

/// `GET /api/performance/database/tables`
pub(crate) async fn tables(call: Call) -> Result<Reply, Failure> {
    let store = call.api.store()?;
    let items = schema::tables(store.database()).await?;
    let seen = store.database().monitor().tables(call.count("limit"));
    Ok(Reply::json(
        &json!({"ok": true, "items": value(&items)?, "statements": value(&seen)?}),
    ))
}

fn value(of: &impl Serialize) -> Result<Value, Failure> {
    Ok(serde_json::to_value(of).map_err(Error::Json)?)
}
