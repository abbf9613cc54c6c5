//! The JSON schemas of cache and memory.

use serde_json::json;

use super::{Named, flag, int, list, number, object, object_with, ok, or_null, reference, text};
use crate::api::cache::TAGS_MAX;

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
    let invalidate = object_with(&[], &[("tags", tags.clone()), ("prefixes", tags), ("all", flag())]);
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
            overs(&["hits", "misses", "stale_hits", "evictions", "invalidations", "loads"]),
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
    let level = |about: &str| json!({"type": ["object", "null"], "description": about, "additionalProperties": true});
    object(&[
        ("hit_rate", or_null("number")),
        ("hits", ints(&["memory", "disk", "remote", "stale", "empty"])),
        ("misses", int()),
        ("loads", loads),
        ("not_stored", ints(&["invalidated", "behind", "too_large", "memory_full"])),
        ("inserts", int()),
        ("evictions", int()),
        ("expirations", int()),
        ("promotions", int()),
        ("invalidations", int()),
        ("hit_time", times()),
        ("memory", ints(&["bytes", "entries", "capacity_bytes", "bytes_max"])),
        ("disk", level("Null where there is none.")),
        ("remote", level("Null where there is none.")),
        (
            "curve",
            list(object(&[("scale", number()), ("hit_rate", number())])),
        ),
    ])
}
