//! The JSON schema of the publishers through Redis.

use serde_json::json;

use super::{Named, int, map, object, ok, or_null};

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
        ]),
    )]
}
