//! The JSON schemas of the publishers through Redis and of what may be away.

use serde_json::{Value, json};

use super::{Named, int, map, object, ok, or_null};

/// Something that the server stands on, and goes on without.
pub(super) fn state(description: &str) -> Value {
    json!({"enum": ["up", "away", null], "description": description})
}

pub(super) fn bridge() -> Named {
    let link = object(&[
        ("state", json!({"enum": ["starting", "up", "away"]})),
        ("cause", or_null("string")),
        ("connects", int()),
    ]);
    let format = object(&[
        ("received", int()),
        ("bytes", int()),
        ("delivered", int()),
        ("ignored", int()),
        ("waited", int()),
        ("refused", map(int())),
    ]);
    vec![(
        "BridgeStats",
        object(&[
            ("ok", ok()),
            ("ts_ms", int()),
            ("uptime_s", int()),
            ("links", map(link)),
            ("formats", map(format)),
            ("stream_entries_trimmed", int()),
            ("rooms_heard", int()),
            ("channels_refused", int()),
        ]),
    )]
}
