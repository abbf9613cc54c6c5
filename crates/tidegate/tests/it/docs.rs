//! The protocol page says what the code says: close reasons and error codes.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tidegate::gateway::{CloseKind, CloseReason, Code};

const PROTOCOL: &str = include_str!("../../../../docs/protocol.md");

/// The rows of the table below a heading.
fn rows(heading: &str) -> BTreeSet<&'static str> {
    let (_, rest) = PROTOCOL
        .split_once(&format!("\n## {heading}\n"))
        .expect("the page has this heading");
    let section = rest.split("\n## ").next().unwrap();
    section.lines().filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn the_page_lists_every_close_reason() {
    let expected: BTreeSet<String> = CloseReason::ALL
        .iter()
        .map(|reason| {
            let kind = match reason.kind() {
                CloseKind::Terminal => "terminal",
                CloseKind::Retryable => "retryable",
                CloseKind::Client => "by the client",
            };
            format!(
                "| `{}` | {kind} | {} | {} |",
                reason.as_str(),
                reason.code(),
                reason.advice()
            )
        })
        .collect();
    assert_eq!(
        rows("Close reasons"),
        expected.iter().map(String::as_str).collect()
    );
}

#[test]
fn the_page_lists_every_error_code() {
    let all = [
        Code::BadRequest,
        Code::CursorInvalid,
        Code::Unauthenticated,
        Code::TokenExpired,
        Code::Forbidden,
        Code::NotFound,
        Code::UnknownFeed,
        Code::IdReused,
        Code::TooLarge,
        Code::InvalidRow,
        Code::RateLimited,
        Code::Overloaded,
        Code::BacklogFull,
        Code::SpoolFull,
        Code::Timeout,
        Code::Unavailable,
        Code::AppUnavailable,
        Code::Internal,
    ];
    let listed = rows("Error codes");
    assert_eq!(listed.len(), all.len());
    for code in all {
        let retryable = if code.is_retryable() { "yes" } else { "no" };
        let start = format!("| `{}` | {} | {retryable} | ", code.as_str(), code.status());
        assert!(
            listed.iter().any(|row| row.starts_with(&start)),
            "no row begins with {start}"
        );
    }
}

// === the page's code that verifies signatures ===

const SECRET: &str = "a secret of more than thirty-two bytes, for the page";

/// Takes lines `[headers, body]` and prints for each what `verify` of the page makes of it.
const PYTHON: &str = r#"
import sys
seen = {}
for line in sys.stdin:
    headers, body = json.loads(line)
    try:
        print(verify(SECRET.encode(), headers, body.encode(), seen)["id"])
    except ValueError as error:
        print(error)
"#;

const NODE: &str = r#"
import { createInterface } from "node:readline";
const seen = new Map();
for await (const line of createInterface({ input: process.stdin })) {
  const [headers, body] = JSON.parse(line);
  try {
    console.log(verify(SECRET, headers, Buffer.from(body), seen).id);
  } catch (error) {
    console.log(error.message);
  }
}
"#;

/// The first block of a language in the section about the application.
fn snippet(language: &str) -> &'static str {
    let (_, rest) = PROTOCOL
        .split_once("\n**Verifying.**")
        .expect("the page says how to verify");
    let (_, rest) = rest
        .split_once(&format!("```{language}\n"))
        .expect("and shows it");
    rest.split("\n```").next().unwrap()
}

/// A line for the programs: a request signed at `signed_s`, shown as of `shown_s`, with this body.
fn line(signed_s: u64, shown_s: u64, body: &str, sent: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{signed_s}.{body}").as_bytes());
    let hex: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    let headers = serde_json::json!({
        "x-tidegate-timestamp": shown_s.to_string(),
        "x-tidegate-signature": format!("v1={hex}"),
    });
    serde_json::json!([headers, sent]).to_string()
}

fn check_verifier(program: &str, arguments: &[&str], code: &str) {
    let now_s = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let event = |id: &str| format!(r#"{{"id":"{id}","kind":"event","args":["价"]}}"#);
    let end = r#"{"id":"e","kind":"disconnect"}"#;
    let unsigned = serde_json::json!([{}, event("x")]).to_string();
    let cases = [
        (line(now_s, now_s, &event("a"), &event("a")), "a"),
        (line(now_s, now_s, &event("a"), &event("a")), "replayed"),
        (line(now_s, now_s, &event("b"), &event("c")), "signature"),
        (line(now_s, now_s - 1, &event("b"), &event("b")), "signature"),
        (
            line(now_s - 600, now_s - 600, &event("b"), &event("b")),
            "timestamp",
        ),
        (line(now_s - 600, now_s, &event("b"), &event("b")), "signature"),
        (unsigned, "timestamp"),
        (line(now_s, now_s, end, end), "e"),
        (line(now_s, now_s, end, end), "e"),
        (line(now_s, now_s, &event("b"), &event("b")), "b"),
    ];
    let mut child = Command::new(program)
        .args(arguments)
        .arg(code)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut input = child.stdin.take().unwrap();
    cases
        .iter()
        .for_each(|(line, _)| writeln!(input, "{line}").unwrap());
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<&str> = cases.iter().map(|(_, expected)| *expected).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{program}");
}

#[test]
fn the_pages_python_tells_ours_from_forged_and_replayed() {
    let code = format!("{}\nSECRET = {SECRET:?}\n{PYTHON}", snippet("python"));
    check_verifier("python3", &["-c"], &code);
}

#[test]
fn the_pages_javascript_tells_ours_from_forged_and_replayed() {
    let code = format!("{}\nconst SECRET = {SECRET:?};\n{NODE}", snippet("js"));
    check_verifier("node", &["--input-type=module", "-e"], &code);
}
