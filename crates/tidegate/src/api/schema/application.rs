//! The JSON schema of how the application behind the server is asked.

use serde_json::json;

use super::{Named, int, map, object, ok, reference};

pub(super) fn application() -> Named {
    let bounded = || object(&[("now", int()), ("max", int())]);
    let breaker = object(&[
        ("state", json!({"enum": ["closed", "open", "half_open"]})),
        ("opened", int()),
        ("refused", int()),
        ("probes", int()),
    ]);
    let disconnects = object(&[("waiting", int()), ("bytes", int()), ("lost", map(int()))]);
    vec![(
        "ApplicationStats",
        object(&[
            ("ok", ok()),
            ("ts_ms", int()),
            ("uptime_s", int()),
            ("requests", map(map(int()))),
            ("time_ms", map(reference("Distribution"))),
            ("in_flight", bounded()),
            ("waiting", bounded()),
            ("breaker", breaker),
            ("answer_errors", map(int())),
            ("disconnects", disconnects),
        ]),
    )]
}
