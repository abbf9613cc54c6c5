//! The JSON schemas of what is told of the database.

use serde_json::{Value, json};

use super::{Named, flag, int, list, number, object, ok, or_null, reference, text};

/// An object whose members are those of the store's own statistics.
fn figures(about: &str) -> Value {
    json!({"type": "object", "description": about})
}

fn pool_summary() -> Value {
    object(&[
        ("open", reference("Over")),
        ("waiting", reference("Over")),
        ("use_ratio", reference("Over")),
        ("reuse_ratio", or_null("number")),
    ])
}

/// What is told of publications by SQL now.
fn relay_stats() -> Value {
    json!({"type": ["object", "null"], "description": "Publications by SQL; null where they are not read."})
}

fn relay_summary(delay_ms: Value) -> Value {
    object(&[
        ("rows_per_second", reference("Over")),
        ("waiting_rows", reference("Over")),
        ("batch_rows", reference("Distribution")),
        ("delay_ms", delay_ms),
    ])
}

pub(super) fn database() -> Named {
    let overs = |names: &[&'static str]| {
        let members: Vec<(&str, Value)> = names.iter().map(|name| (*name, reference("Over"))).collect();
        object(&members)
    };
    let quantiles = || overs(&["p50", "p95", "p99"]);
    let items = |about: &str| object(&[("ok", ok()), ("items", list(figures(about)))]);
    let stats = object(&[
        ("ok", ok()),
        ("ts_ms", int()),
        ("uptime_s", int()),
        ("database", figures("Pool, pipeline, replicas and transactions.")),
        ("statements", figures("Totals of the statement monitor.")),
        (
            "queries",
            list(figures("A declared query with its calls, rows and times.")),
        ),
        ("ingest", figures("Backlog, feeds and spool.")),
        ("relay", relay_stats()),
    ]);
    let per_second = [
        "acquires",
        "timeouts",
        "transactions",
        "statements",
        "slow_statements",
        "statement_errors",
        "query_rows",
        "ingest_rows",
        "ingest_commits",
        "dead_letters",
    ];
    let ingest = object(&[
        ("backlog_rows", reference("Over")),
        ("batch_rows", reference("Distribution")),
        ("commit_ms", quantiles()),
        ("ack_ms", quantiles()),
        ("spool_rows", reference("Over")),
        ("spool_bytes", reference("Over")),
    ]);
    let summary = object(&[
        ("ok", ok()),
        ("ts_ms", int()),
        ("history_s", int()),
        ("pool", pool_summary()),
        ("per_second", overs(&per_second)),
        ("slow_ratio", or_null("number")),
        ("statement_ms", quantiles()),
        ("query_ms", quantiles()),
        ("ingest", ingest),
        ("relay", relay_summary(quantiles())),
    ]);
    let tables = object(&[
        ("ok", ok()),
        ("items", list(figures("A table as the database counts it."))),
        ("statements", list(figures("Our statements on a table."))),
    ]);
    vec![
        ("DatabaseStats", stats),
        ("DatabaseSummary", summary),
        ("Statements", items("A statement with its calls, rows and times.")),
        ("SlowStatements", slow_statements()),
        ("Tables", tables),
    ]
}

fn slow_statements() -> Value {
    let node = object(&[
        ("kind", text()),
        ("depth", int()),
        ("table", or_null("string")),
        ("index", or_null("string")),
        ("filter", or_null("string")),
        ("cost", number()),
        ("rows", number()),
        ("rows_found", or_null("number")),
    ]);
    let plan = object(&[
        ("at_ms", int()),
        ("cost", number()),
        ("rows", number()),
        ("is_generic", flag()),
        ("nodes", list(node)),
        ("ms", or_null("number")),
    ]);
    let item = json!({
        "type": "object",
        "description": "One slow run of a statement. plan: how the database would run it, made for a few of them, without \
                        their parameters; null for the others.",
        "properties": {"plan": {"anyOf": [plan, {"type": "null"}]}},
        "required": ["fingerprint", "text", "plan"],
    });
    object(&[("ok", ok()), ("items", list(item))])
}
