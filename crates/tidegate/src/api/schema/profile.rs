//! The JSON schema of a profile.

use serde_json::{Value, json};

use super::{Named, int, list, number, object, ok, or_null, reference, text};

fn with(mut members: Vec<(&'static str, Value)>, ints: &[&'static str]) -> Value {
    members.extend(ints.iter().map(|name| (*name, int())));
    object(&members)
}

fn described(about: &str) -> Value {
    json!({"type": ["object", "null"], "description": about, "additionalProperties": true})
}

pub(super) fn profile() -> Named {
    let profile = object(&[
        ("ok", ok()),
        ("tidegate", text()),
        ("started_ms", int()),
        ("seconds", number()),
        ("findings", list(reference("Bottleneck"))),
        ("cpu", cpu()),
        ("functions", list(reference("ProfiledFunction"))),
        ("latencies", list(latency())),
        ("threads", list(thread())),
        ("locks", list(lock())),
        ("polls", list(task())),
        ("instances", list(instances())),
        ("statements", list(statement())),
        (
            "slow_statements",
            list(described("A slow statement, as in SlowStatements.")),
        ),
        ("memory", memory()),
        (
            "cache",
            described("The interval; null where no query keeps its answers."),
        ),
        ("limiter", limiter()),
    ]);
    vec![
        ("Profile", profile),
        ("Bottleneck", bottleneck()),
        ("ProfiledFunction", function()),
    ]
}

fn bottleneck() -> Value {
    let both = || object(&[("en", text()), ("zh", text())]);
    let evidence = object(&[("name", text()), ("value", number()), ("unit", text())]);
    let mut score = int();
    score["description"] = "Per cent of a core, or of one who waits.".into();
    object(&[
        ("kind", text()),
        ("score", score),
        ("title", both()),
        ("change", both()),
        ("evidence", list(evidence)),
    ])
}

fn cpu() -> Value {
    let hot = object(&[("function", text()), ("own", number()), ("total", number())]);
    let mut folded = text();
    folded["description"] =
        "One stack a line, the thread first, names separated by ;, then the samples.".into();
    let samples = with(
        vec![("source", text()), ("hottest", list(hot)), ("folded", folded)],
        &[
            "hertz",
            "samples",
            "lost",
            "threads",
            "threads_refused",
            "folded_left_out",
        ],
    );
    json!({"anyOf": [samples, object(&[("error", text())])]})
}

fn function() -> Value {
    with(
        vec![
            ("name", text()),
            ("file", text()),
            ("mean_ns", number()),
            ("deviation_ns", number()),
            ("allocated_bytes", or_null("integer")),
        ],
        &[
            "line",
            "calls",
            "total_ns",
            "p50_ns",
            "p95_ns",
            "p99_ns",
            "max_ns",
            "polls",
            "awaiting_ns",
        ],
    )
}

fn latency() -> Value {
    with(
        vec![
            ("name", text()),
            ("mean_ns", number()),
            ("deviation_ns", number()),
        ],
        &["calls", "p50_ns", "p95_ns", "p99_ns", "max_ns"],
    )
}

fn thread() -> Value {
    with(
        vec![("name", text())],
        &[
            "tid",
            "cpu_ns",
            "run_delay_ns",
            "slices",
            "voluntary_switches",
            "involuntary_switches",
        ],
    )
}

fn lock() -> Value {
    with(
        vec![("name", text())],
        &[
            "acquisitions",
            "contended",
            "wait_ns",
            "wait_p99_ns",
            "wait_max_ns",
        ],
    )
}

fn task() -> Value {
    with(
        vec![("name", text())],
        &["polls", "long_polls", "busy_ns", "max_since_start_ns"],
    )
}

fn instances() -> Value {
    with(
        vec![("name", text())],
        &["created", "hits", "creation_ns", "waited"],
    )
}

fn statement() -> Value {
    with(
        vec![
            ("text", text()),
            ("busy_ms", number()),
            ("mean_ms", number()),
            ("p99_since_start_ms", number()),
        ],
        &["calls", "rows"],
    )
}

fn memory() -> Value {
    object(&[
        ("before", reference("Snapshot")),
        ("after", reference("Snapshot")),
        ("allocator_before", described("Null in a build without it.")),
        ("allocator_after", described("Null in a build without it.")),
        (
            "heap",
            described(
                "Null unless asked for: the places that hold memory, and those that grew; or the error.",
            ),
        ),
    ])
}

fn limiter() -> Value {
    with(
        vec![
            ("baseline_ms", or_null("number")),
            ("latency_ms", or_null("number")),
        ],
        &["limit", "in_flight", "waiting", "admitted", "refused"],
    )
}
