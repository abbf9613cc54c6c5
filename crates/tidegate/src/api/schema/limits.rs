//! The JSON schemas of cache and memory.

use serde_json::json;

use super::{Named, flag, int, list, number, object, object_with, ok, or_null, reference, text};
use crate::api::{cache::TAGS_MAX, memory::LABEL_BYTES_MAX};

fn times() -> serde_json::Value {
    object(&[
        ("count", int()),
        ("mean_us", number()),
        ("p50_us", number()),
        ("p99_us", number()),
        ("max_us", number()),
    ])
}

fn over() -> serde_json::Value {
    reference("Over")
}

fn ints(names: &[&str]) -> serde_json::Value {
    let members: Vec<(&str, serde_json::Value)> = names.iter().map(|name| (*name, int())).collect();
    object(&members)
}

fn overs(names: &[&str]) -> serde_json::Value {
    let members: Vec<(&str, serde_json::Value)> = names.iter().map(|name| (*name, over())).collect();
    object(&members)
}

pub(super) fn cache() -> Named {
    let mut tags = list(text());
    tags["maxItems"] = TAGS_MAX.into();
    let invalidate = object_with(
        &[],
        &[("tags", tags.clone()), ("prefixes", tags), ("all", flag())],
    );
    let stats = object(&[
        ("ok", ok()),
        ("ts_ms", int()),
        ("queries", list(text())),
        ("cache", reference("Cache")),
    ]);
    let summary = object(&[
        ("ok", ok()),
        ("ts_ms", int()),
        ("history_s", int()),
        ("hit_rate", or_null("number")),
        ("bytes", over()),
        ("entries", over()),
        (
            "per_second",
            overs(&[
                "hits",
                "misses",
                "stale_hits",
                "evictions",
                "invalidations",
                "loads",
            ]),
        ),
        ("load_ms", overs(&["p50", "p95", "p99"])),
    ]);
    vec![
        ("Invalidate", invalidate),
        ("Done", object(&[("ok", ok())])),
        ("CacheStats", stats),
        ("CacheSummary", summary),
        ("Cache", cache_now()),
    ]
}

fn cache_now() -> serde_json::Value {
    let loads = object(&[
        ("ok", int()),
        ("failed", int()),
        ("panicked", int()),
        ("aborted", int()),
        ("refused", int()),
        ("joined", int()),
        ("in_flight", int()),
        ("time", times()),
    ]);
    let level =
        |about: &str| json!({"type": ["object", "null"], "description": about, "additionalProperties": true});
    object(&[
        ("hit_rate", or_null("number")),
        ("hits", ints(&["memory", "disk", "remote", "stale", "empty"])),
        ("misses", int()),
        ("loads", loads),
        (
            "not_stored",
            ints(&["invalidated", "behind", "too_large", "memory_full"]),
        ),
        ("inserts", int()),
        ("evictions", int()),
        ("expirations", int()),
        ("promotions", int()),
        ("invalidations", int()),
        ("hit_time", times()),
        (
            "memory",
            ints(&["bytes", "entries", "capacity_bytes", "bytes_max"]),
        ),
        ("disk", level("Null where there is none.")),
        ("remote", level("Null where there is none.")),
        (
            "curve",
            list(object(&[("scale", number()), ("hit_rate", number())])),
        ),
    ])
}

pub(super) fn memory() -> Named {
    let bytes_by_class = super::map(int());
    let growth = object(&[
        ("rss_bytes_per_hour", number()),
        ("allocated_bytes_per_hour", or_null("number")),
        ("snapshots", int()),
        ("seconds", number()),
    ]);
    let snapshot = object(&[
        ("number", int()),
        ("label", text()),
        ("ts_ms", int()),
        ("level", reference("Level")),
        ("rss_bytes", int()),
        ("virtual_bytes", int()),
        ("allocated_bytes", or_null("integer")),
        ("resident_bytes", or_null("integer")),
        ("accounted_bytes", bytes_by_class),
    ]);
    let summary = object(&[
        ("ok", ok()),
        ("ts_ms", int()),
        ("history_s", int()),
        ("rss_bytes", over()),
        ("virtual_bytes", over()),
        ("accounted_bytes", over()),
        ("refused_per_second", over()),
        ("level", over()),
        ("levels_entered", super::map(int())),
        ("growth", none_or("Growth")),
    ]);
    let label = json!({"type": "string", "minLength": 1, "maxLength": LABEL_BYTES_MAX});
    vec![
        (
            "Level",
            json!({"enum": ["normal", "moderate", "high", "critical"]}),
        ),
        ("Growth", growth),
        ("Snapshot", snapshot),
        ("MemoryStats", memory_now()),
        ("MemorySummary", summary),
        (
            "Snapshots",
            object(&[
                ("ok", ok()),
                ("growth", none_or("Growth")),
                ("items", list(reference("Snapshot"))),
            ]),
        ),
        ("TakeSnapshot", object(&[("label", label)])),
        (
            "SnapshotTaken",
            object(&[("ok", ok()), ("snapshot", reference("Snapshot"))]),
        ),
    ]
}

fn none_or(name: &str) -> serde_json::Value {
    json!({"anyOf": [{"type": "null"}, reference(name)]})
}

fn none_or_object(about: &str) -> serde_json::Value {
    json!({"type": ["object", "null"], "description": about, "additionalProperties": true})
}

fn memory_now() -> serde_json::Value {
    let reaction = object(&[
        ("name", text()),
        ("order", int()),
        ("calls", int()),
        ("asked_bytes", int()),
        ("promised_bytes", int()),
        ("measured_bytes", int()),
    ]);
    let transition = object(&[
        ("ts_ms", int()),
        ("from", reference("Level")),
        ("to", reference("Level")),
        ("ratio", number()),
        ("cause", text()),
    ]);
    let signal = object(&[
        ("ratio", number()),
        ("source", or_null("string")),
        ("cgroup", none_or_object("The fullest of the cgroups.")),
        ("rss", none_or_object("Resident memory, of the budget.")),
        (
            "host",
            none_or_object("What is not available, of the host's memory."),
        ),
        ("stalls_ratio", or_null("number")),
    ]);
    let accounts = object(&[
        ("used_bytes", int()),
        ("limit_bytes", int()),
        ("refused", int()),
        ("by_class", super::map(int())),
    ]);
    let process = object(&[
        ("rss_bytes", or_null("integer")),
        ("virtual_bytes", or_null("integer")),
        ("threads", or_null("integer")),
    ]);
    object(&[
        ("ok", ok()),
        ("ts_ms", int()),
        ("level", reference("Level")),
        ("since_ms", int()),
        ("budget_bytes", int()),
        (
            "thresholds_ratio",
            object(&[("moderate", number()), ("high", number()), ("critical", number())]),
        ),
        ("signal", signal),
        ("wanted_bytes", int()),
        ("reactions", list(reaction)),
        ("transitions", list(transition)),
        ("accounts", accounts),
        ("process", process),
        ("allocator", none_or_object("Null in a build without it.")),
        ("purges", ints(&["pressed", "idle", "freed_bytes"])),
        ("growth", none_or("Growth")),
        (
            "leaks",
            none_or_object(
                "Null where memory.leaks is off; last is the last leak, with the places that grew most.",
            ),
        ),
        ("requests", requests()),
        ("objects", super::map(ints(&["live", "peak"]))),
    ])
}

fn requests() -> serde_json::Value {
    let refused = || ints(&["own_limit", "server_limit", "queue_full", "timed_out"]);
    let role = object(&[
        ("role", text()),
        ("guaranteed", int()),
        ("in_flight", int()),
        ("waiting", int()),
        ("admitted", int()),
        ("refused", refused()),
    ]);
    object(&[
        ("enabled", flag()),
        ("limit", int()),
        ("in_flight", int()),
        ("waiting", int()),
        ("admitted", int()),
        ("refused", refused()),
        ("baseline_ms", or_null("number")),
        ("latency_ms", or_null("number")),
        ("roles", list(role)),
    ])
}
