//! Encoding packets as the text of an Engine.IO message, its leading `4` included.

use std::fmt::Write as _;

/// Appends `40/ns,{…}`: the server's consent, or a client's wish, to join `namespace`. `json` is an
/// object or empty.
pub fn put_connect(out: &mut String, namespace: &str, json: &str) {
    put_head(out, "40", namespace);
    out.push_str(json);
}

/// Appends `44/ns,{…}`: why the client may not join. `json` is an object with `message`, or a string.
pub fn put_connect_error(out: &mut String, namespace: &str, json: &str) {
    put_head(out, "44", namespace);
    out.push_str(json);
}

/// Appends `41/ns,`: the end of the session in `namespace`.
pub fn put_disconnect(out: &mut String, namespace: &str) {
    put_head(out, "41", namespace);
}

/// Appends an event: `42`, or `45n-` if binary messages belong to it and follow.
///
/// `args_json` is the JSON array of the event's name and arguments. `tail` becomes one more string
/// argument at its end (the recovery offset); it must need no escaping.
pub fn put_event(
    out: &mut String,
    namespace: &str,
    id: Option<u64>,
    attachments: usize,
    args_json: &str,
    tail: Option<&str>,
) {
    out.reserve(args_json.len() + namespace.len() + tail.map_or(0, str::len) + 32);
    put_kind(out, "42", "45", attachments, namespace);
    if let Some(id) = id {
        put_number(out, id);
    }
    match tail {
        Some(tail) => put_with_tail(out, args_json, tail),
        None => out.push_str(args_json),
    }
}

/// Appends the answer to event `id`: `43`, or `46n-` if binary messages belong to it and follow.
/// `args_json` is the JSON array of its arguments.
pub fn put_ack(out: &mut String, namespace: &str, id: u64, attachments: usize, args_json: &str) {
    out.reserve(args_json.len() + namespace.len() + 32);
    put_kind(out, "43", "46", attachments, namespace);
    put_number(out, id);
    out.push_str(args_json);
}

/// Appends `name` as a JSON string, escaped where it must be.
pub fn put_event_name_json(out: &mut String, name: &str) {
    if name
        .bytes()
        .any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\')
    {
        out.push_str(&serde_json::to_string(name).expect("a string is always JSON"));
        return;
    }
    out.push('"');
    out.push_str(name);
    out.push('"');
}

#[inline]
fn put_kind(out: &mut String, plain: &str, binary: &str, attachments: usize, namespace: &str) {
    if attachments == 0 {
        return put_head(out, plain, namespace);
    }
    out.push_str(binary);
    put_number(out, attachments as u64);
    put_head(out, "-", namespace);
}

/// The main namespace is never written.
#[inline]
fn put_head(out: &mut String, head: &str, namespace: &str) {
    out.push_str(head);
    if namespace != "/" {
        debug_assert!(
            namespace.starts_with('/'),
            "namespace {namespace:?} does not start with a slash"
        );
        out.push_str(namespace);
        out.push(',');
    }
}

#[inline]
fn put_number(out: &mut String, number: u64) {
    write!(out, "{number}").expect("writing to a string cannot fail");
}

/// The array with one more string before its closing bracket.
#[inline]
fn put_with_tail(out: &mut String, args_json: &str, tail: &str) {
    let args = args_json.trim_ascii_end();
    let open = args.strip_suffix(']').unwrap_or(args);
    debug_assert!(open.len() < args.len(), "arguments are a JSON array");
    out.push_str(open);
    if open.trim_ascii() != "[" {
        out.push(',');
    }
    out.push('"');
    out.push_str(tail);
    out.push_str("\"]");
}
