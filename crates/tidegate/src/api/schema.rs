//! The JSON schemas of bodies and answers.

mod application;
mod bridge;
mod database;
mod limits;
mod profile;

use serde_json::{Map, Value, json};
use tidegate_gateway::{ANSWERS_MAX, State};

use super::{
    figures::USERS_SHOWN,
    publish::{ACK_TIMEOUT_MS_MAX, MESSAGES_MAX, TARGETS_MAX},
    sessions::ROOMS_MAX,
};

/// A reference to a schema by name.
pub(crate) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// All schemas by name.
pub(crate) fn all() -> Value {
    let mut schemas = Map::new();
    let parts = [
        basics(),
        publishing(),
        connections(),
        sessions(),
        rooms(),
        stats(),
        summary(),
        metrics(),
        rows(),
        database::database(),
        bridge::bridge(),
        limits::cache(),
        limits::memory(),
        application::application(),
        profile::profile(),
    ];
    for (name, schema) in parts.into_iter().flatten() {
        schemas.insert(name.to_owned(), schema);
    }
    Value::Object(schemas)
}

type Named = Vec<(&'static str, Value)>;

fn int() -> Value {
    json!({"type": "integer"})
}

fn number() -> Value {
    json!({"type": "number"})
}

fn text() -> Value {
    json!({"type": "string"})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn ok() -> Value {
    json!({"const": true})
}

fn or_null(kind: &str) -> Value {
    json!({"type": [kind, "null"]})
}

fn list(items: Value) -> Value {
    let mut schema = json!({"type": "array"});
    schema["items"] = items;
    schema
}

fn map(values: Value) -> Value {
    let mut schema = json!({"type": "object"});
    schema["additionalProperties"] = values;
    schema
}

/// An object with exactly these members.
fn object(members: &[(&str, Value)]) -> Value {
    object_with(members, &[])
}

/// An object with these members, the second list optional.
fn object_with(required: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    let all = required
        .iter()
        .chain(optional)
        .map(|(name, schema)| ((*name).to_owned(), schema.clone()));
    json!({
        "type": "object",
        "properties": all.collect::<Map<_, _>>(),
        "required": required.iter().map(|(name, _)| *name).collect::<Value>(),
        "additionalProperties": false,
    })
}

/// A keyset page.
fn page(item: &str) -> Value {
    object(&[
        ("ok", ok()),
        ("items", list(reference(item))),
        ("next", or_null("string")),
    ])
}

fn basics() -> Named {
    let error = object_with(
        &[("code", text()), ("message", text()), ("retryable", flag())],
        &[
            ("rejected", list(reference("RejectedRow"))),
            ("rejected_total", int()),
            ("chunk", int()),
        ],
    );
    vec![
        (
            "Failure",
            object(&[("ok", json!({"const": false})), ("error", error)]),
        ),
        ("Healthy", object(&[("ok", ok())])),
        (
            "Ready",
            object(&[
                ("ok", ok()),
                ("database", bridge::state("Null where there is none.")),
                ("redis", bridge::state("Of publishers; null where there is none.")),
            ]),
        ),
        ("Disconnected", object(&[("ok", ok()), ("disconnected", int())])),
        (
            "OpenApi",
            json!({"type": "object", "required": ["openapi", "info", "paths", "components"]}),
        ),
        (
            "Distribution",
            object(&[
                ("count", int()),
                ("mean", number()),
                ("p50", number()),
                ("p95", number()),
                ("p99", number()),
                ("max", number()),
            ]),
        ),
        ("Counted", object(&[("total", int()), ("by_reason", map(int()))])),
        (
            "Over",
            object(&[("average", or_null("number")), ("peak", or_null("number"))]),
        ),
    ]
}

fn message() -> Value {
    object_with(
        &[("event", text())],
        &[
            (
                "data",
                json!({"description": "The one argument; bytes in it as {$binary: base64}."}),
            ),
            (
                "args",
                json!({"type": "array", "description": "All arguments of the event, instead of data; bytes as there."}),
            ),
            (
                "room",
                json!({"type": ["string", "integer"], "description": "Short for to: {rooms: [room]}."}),
            ),
            (
                "to",
                json!({"$ref": "#/components/schemas/Targets", "description": "Without it, and with {}: everybody."}),
            ),
            ("except", reference("Targets")),
            ("namespace", json!({"type": "string", "default": "/"})),
            (
                "conflate",
                json!({"type": "string", "description": "Key: a newer message replaces a waiting one."}),
            ),
            (
                "when_slow",
                json!({"enum": ["disconnect", "drop_oldest"], "default": "disconnect"}),
            ),
            ("volatile", json!({"type": "boolean", "default": false})),
            ("urgent", json!({"type": "boolean", "default": false})),
            (
                "critical",
                json!({"type": "boolean", "description": "Another name of urgent."}),
            ),
            (
                "id",
                json!({"type": "string", "description": "Published once, however often it is sent."}),
            ),
            (
                "ack_timeout_ms",
                json!({"type": "integer", "minimum": 1, "maximum": ACK_TIMEOUT_MS_MAX,
                    "description": "Short for ack with a time alone."}),
            ),
            (
                "ack",
                object_with(
                    &[(
                        "timeout",
                        json!({"type": "string", "description": "Such as 500ms or 5s; 1ms to 1m."}),
                    )],
                    &[(
                        "max",
                        json!({"type": "integer", "minimum": 1, "maximum": ANSWERS_MAX,
                            "description": "Ends with so many answers."}),
                    )],
                ),
            ),
        ],
    )
}

fn publishing() -> Named {
    let names = json!({"type": "array", "items": {"type": ["string", "integer"]}, "maxItems": TARGETS_MAX,
        "description": "A number is the name of its digits. Lists that are given and empty are nobody."});
    let targets = object_with(
        &[],
        &[
            ("rooms", names.clone()),
            ("users", names.clone()),
            ("sessions", names),
        ],
    );
    let messages = json!({"type": "array", "items": reference("Message"), "maxItems": MESSAGES_MAX});
    let published = object(&[
        ("ok", ok()),
        (
            "seq",
            json!({"type": ["integer", "null"], "description": "Null where the lists of targets are empty."}),
        ),
        ("offset", or_null("string")),
        ("duplicate", flag()),
    ]);
    let answer = object(&[("session", text()), ("args", json!({"type": "array"}))]);
    let collected = object(&[
        ("ok", ok()),
        ("expected", int()),
        ("answers", list(answer)),
        ("missing", list(text())),
        ("dropped", int()),
        ("timed_out", flag()),
        ("duplicate", flag()),
    ]);
    let result = json!({"anyOf": [reference("Published"), reference("Collected"), reference("Failure")]});
    let many = object(&[("ok", ok()), ("results", list(result))]);
    vec![
        ("Targets", targets),
        ("Message", message()),
        (
            "PublishRequest",
            json!({"anyOf": [reference("Message"), object(&[("messages", messages)])]}),
        ),
        ("Published", published),
        ("Collected", collected),
        (
            "PublishAnswer",
            json!({"anyOf": [reference("Published"), reference("Collected"), many]}),
        ),
    ]
}

/// What is shown of a session.
fn connection() -> Vec<(&'static str, Value)> {
    let states: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).collect();
    vec![
        ("id", text()),
        ("namespace", text()),
        ("state", json!({"enum": states})),
        ("user", text()),
        ("tenant", or_null("string")),
        ("transport", json!({"enum": ["websocket", "polling", "none"]})),
        ("address", or_null("string")),
        ("rooms", list(text())),
        ("age_s", int()),
        ("idle_s", int()),
        ("last_activity_ms", int()),
        ("errors", int()),
        ("recovered", int()),
        ("queued_messages", int()),
        ("queued_bytes", int()),
        ("shard", int()),
    ]
}

/// Acting on sessions, and looking them up.
fn sessions() -> Named {
    let rooms = json!({"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": ROOMS_MAX});
    let except = json!({"anyOf": [reference("Targets"), list(text())],
        "description": "Who is left out; a list is one of rooms."});
    let namespace = json!({"type": "string", "description": "/ unless given; of one session its own."});
    let data = (
        "data",
        json!({"description": "What the application keeps with it, or null."}),
    );
    let session: Vec<_> = connection().into_iter().chain([data]).collect();
    let optional = [("namespace", namespace), ("except", except)];
    let close = json!({"type": "boolean", "default": false,
        "description": "End the whole connection, with the sessions of its other namespaces."});
    let [namespace, except] = optional.clone();
    vec![
        ("ChangeRooms", object_with(&[("rooms", rooms)], &optional)),
        (
            "DisconnectThem",
            object_with(&[], &[namespace, except, ("close", close)]),
        ),
        (
            "Acted",
            object(&[("ok", ok()), ("sessions", int()), ("refused", int())]),
        ),
        ("Session", object(&session)),
        (
            "SessionAnswer",
            object(&[("ok", ok()), ("session", reference("Session"))]),
        ),
        ("SessionPage", page("Session")),
    ]
}

fn connections() -> Named {
    vec![
        ("Connection", object(&connection())),
        (
            "ConnectionAnswer",
            object(&[("ok", ok()), ("connection", reference("Connection"))]),
        ),
        ("ConnectionPage", page("Connection")),
        ("User", object(&[("user", text()), ("connections", int())])),
        ("UserPage", page("User")),
    ]
}

fn rooms() -> Named {
    let room = object(&[
        ("name", text()),
        ("namespace", text()),
        ("members", int()),
        ("retained", int()),
        ("history", int()),
    ]);
    let member = object(&[("user", text()), ("sessions", int()), ("since_ms", int())]);
    let item = object(&[
        ("offset", text()),
        ("ts_ms", int()),
        ("event", text()),
        ("args", json!({"type": "array"})),
    ]);
    vec![
        ("Room", room),
        ("RoomPage", page("Room")),
        (
            "Presence",
            object(&[("ok", ok()), ("count", int()), ("members", list(member))]),
        ),
        ("History", object(&[("ok", ok()), ("items", list(item))])),
    ]
}

/// Parts that `stats` and `summary` share.
fn recovery() -> Value {
    object(&[
        ("eligible", int()),
        ("recovered", int()),
        ("reuse_rate", or_null("number")),
        ("missed", reference("Counted")),
        ("taken_over", int()),
        ("ring_bytes", int()),
        ("ring_messages", int()),
    ])
}

fn admission() -> Value {
    object(&[
        ("accepted", int()),
        ("refused", reference("Counted")),
        ("handshake_errors", int()),
        ("tls_handshake_errors", int()),
        ("time_ms", reference("Distribution")),
    ])
}

fn states(of: Value) -> Value {
    let members: Vec<(&str, Value)> = State::ALL
        .iter()
        .map(|state| (state.as_str(), of.clone()))
        .collect();
    let mut schema = object(&members);
    // The table of metrics may know more states than those that are always listed.
    schema["additionalProperties"] = of;
    schema
}

fn stats() -> Named {
    let distribution = || reference("Distribution");
    let connections = object(&[
        ("open", int()),
        ("limit", or_null("integer")),
        ("by_state", states(int())),
        ("by_transport", map(int())),
    ]);
    let per_user = json!({
        "type": "object",
        "additionalProperties": int(),
        "description": format!("The first {USERS_SHOWN} by name; all are at /api/users."),
    });
    let shard = object(&[
        ("shard", text()),
        ("utilisation", number()),
        ("inbox", int()),
        ("flush_window_ms", number()),
    ]);
    let stats = object(&[
        ("ok", ok()),
        ("ts_ms", int()),
        ("uptime_s", int()),
        ("draining", flag()),
        ("connections", connections),
        ("sessions", int()),
        ("rooms", int()),
        ("presence_members", int()),
        (
            "users",
            object(&[("count", int()), ("connections_per_user", per_user)]),
        ),
        ("admission", admission()),
        ("closed", reference("Counted")),
        ("recovery", recovery()),
        ("traffic", traffic()),
        (
            "batches",
            object(&[("events", int()), ("messages", distribution())]),
        ),
        (
            "coalescing",
            object(&[
                ("writes", int()),
                ("messages_per_write", or_null("number")),
                ("frames_per_write", distribution()),
            ]),
        ),
        ("outbox", object(&[("bytes", int()), ("messages", int())])),
        (
            "slow_consumers",
            object(&[("dropped", int()), ("conflated", int()), ("slow_closed", int())]),
        ),
        ("delivery_latency_ms", distribution()),
        ("handlers", handlers()),
        ("memory", memory()),
        ("cpu_seconds", number()),
        ("shards", list(shard)),
    ]);
    vec![("Stats", stats)]
}

fn traffic() -> Value {
    object(&[
        ("messages_in", int()),
        ("messages_out", int()),
        ("bytes_in", int()),
        ("bytes_out", int()),
        ("events", int()),
        ("publishes", int()),
        ("deliveries", int()),
        ("publishes_refused", int()),
        ("deflate_saved_bytes", int()),
    ])
}

fn handlers() -> Value {
    object(&[
        ("in_flight", int()),
        ("errors", int()),
        ("reading_paused", int()),
        ("rate_limited", int()),
        ("acks", int()),
        ("ack_timeouts", int()),
    ])
}

fn memory() -> Value {
    object(&[
        ("rss_bytes", int()),
        ("budget_bytes", int()),
        ("accounted_bytes", int()),
        ("accounted_limit_bytes", int()),
        ("accounted_by_class", map(int())),
        ("refused", int()),
        ("bytes_per_connection", or_null("integer")),
        ("accounted_bytes_per_connection", or_null("integer")),
    ])
}

fn summary() -> Named {
    let over = || reference("Over");
    let overs = |names: &[&'static str]| {
        let members: Vec<(&str, Value)> = names.iter().map(|name| (*name, reference("Over"))).collect();
        object(&members)
    };
    let rates = [
        "accepted",
        "refused",
        "publishes",
        "deliveries",
        "messages_in",
        "messages_out",
        "bytes_in",
        "bytes_out",
        "dropped",
        "conflated",
        "slow_closed",
    ];
    let summary = object(&[
        ("ok", ok()),
        ("ts_ms", int()),
        ("history_s", int()),
        (
            "connections",
            object(&[("open", over()), ("by_state", states(over()))]),
        ),
        ("users", over()),
        ("rooms", over()),
        ("memory", overs(&["rss_bytes", "accounted_bytes", "outbox_bytes"])),
        ("cpu_cores", over()),
        ("shard_utilisation", over()),
        ("recovery", recovery()),
        ("admission", admission()),
        ("per_second", overs(&rates)),
        ("messages_per_write", or_null("number")),
        ("batch_messages", reference("Distribution")),
        ("delivery_latency_ms", overs(&["p50", "p95", "p99"])),
    ]);
    vec![("Summary", summary)]
}

fn metrics() -> Named {
    let label = json!({"anyOf": [object(&[("name", text()), ("value", text())]), {"type": "null"}]});
    let series = object(&[
        ("name", text()),
        (
            "stat",
            json!({"enum": ["value", "per_second", "p50", "p95", "p99"]}),
        ),
        ("label", label),
        ("unit", or_null("string")),
        ("help", text()),
        ("help_zh", text()),
        ("points", list(list(number()))),
    ]);
    vec![(
        "Metrics",
        object(&[("ok", ok()), ("step_s", int()), ("series", list(series))]),
    )]
}

fn rows() -> Named {
    let rejected = object(&[
        ("row", int()),
        ("column", or_null("string")),
        ("code", text()),
        ("message", text()),
    ]);
    let dead = object(&[("row", int()), ("sqlstate", text()), ("message", text())]);
    let row = json!({"type": "object", "description": "Columns of the feed by name."});
    let envelope = object_with(
        &[("rows", list(reference("Row")))],
        &[
            (
                "id",
                json!({"type": "string", "description": "1 to 64 bytes; stored once, however often it is sent."}),
            ),
            (
                "op",
                json!({"enum": ["insert", "upsert", "update", "delete"], "default": "insert"}),
            ),
        ],
    );
    let outcome = object_with(
        &[
            ("ok", ok()),
            ("id", text()),
            ("state", json!({"enum": ["committed", "spooled"]})),
            ("stored", int()),
            ("duplicates", int()),
            ("missing", int()),
            ("rejected", list(reference("RejectedRow"))),
            ("dead_lettered", list(reference("DeadRow"))),
        ],
        &[
            ("rows", int()),
            ("rejected_total", int()),
            ("dead_lettered_total", int()),
        ],
    );
    vec![
        ("Row", row),
        ("RejectedRow", rejected),
        ("DeadRow", dead),
        (
            "IngestRequest",
            json!({"anyOf": [envelope, list(reference("Row")), reference("Row")]}),
        ),
        ("IngestAnswer", outcome),
        (
            "RowPage",
            object(&[
                ("ok", ok()),
                ("rows", list(reference("Row"))),
                ("next", or_null("string")),
            ]),
        ),
    ]
}
