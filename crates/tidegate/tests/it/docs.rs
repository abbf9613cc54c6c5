//! The protocol page says what the code says: close reasons and error codes.

use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use tidegate::gateway::{CloseKind, CloseReason, Code};

use crate::{
    api::{KEY, OPEN, start},
    client::Client,
};

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

const VERIFYING: &str = "\n**Verifying.**";

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

/// The first block of a language behind a place of the page.
fn snippet(place: &str, language: &str) -> &'static str {
    let (_, rest) = PROTOCOL.split_once(place).expect("the page has this place");
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
    let code = format!("{}\nSECRET = {SECRET:?}\n{PYTHON}", snippet(VERIFYING, "python"));
    check_verifier("python3", &["-c"], &code);
}

#[test]
fn the_pages_javascript_tells_ours_from_forged_and_replayed() {
    let code = format!("{}\nconst SECRET = {SECRET:?};\n{NODE}", snippet(VERIFYING, "js"));
    check_verifier("node", &["--input-type=module", "-e"], &code);
}

// === the page's code that acts on sessions ===

const ACTING: &str = "\n## Acting on sessions over HTTP\n";

/// Uses the page's class on a server with one client in `lobby:7`, and says what came of it.
const PYTHON_ACTS: &str = r#"
tidegate = Tidegate(URL, KEY)
print(tidegate.act("rooms", "lobby:7", "join", rooms=["game:7"]))
print(tidegate.emit("started", {"players": 1}, room="game:7")["duplicate"] is False)
print([s["id"] == SID for s in tidegate.sessions("rooms", "game:7")])
print(tidegate.act("users", "no/body", "disconnect", close=True))
try:
    tidegate.act("rooms", "lobby:7", "leave", rooms=[])
except RuntimeError as error:
    print(error)
print(tidegate.act("sessions", SID, "disconnect"))
"#;

const NODE_ACTS: &str = r#"
const tidegate = new Tidegate(URL, KEY);
const say = (value) => console.log(JSON.stringify(value));
say(await tidegate.act("rooms", "lobby:7", "join", { rooms: ["game:7"] }));
say((await tidegate.emit("started", [{ players: 1 }], { room: "game:7" })).duplicate === false);
const found = [];
for await (const session of tidegate.sessions("rooms", "game:7")) found.push(session.id === SID);
say(found);
say(await tidegate.act("users", "no/body", "disconnect", { close: true }));
await tidegate.act("rooms", "lobby:7", "leave", { rooms: [] }).catch((error) => console.log(error.message));
say(await tidegate.act("sessions", SID, "disconnect"));
"#;

async fn check_acting(program: &'static str, arguments: &'static [&'static str], code: &str) {
    let text = OPEN
        .replace("\"chat\"]", "\"chat\", \"lobby:*\"]")
        .replace("[roles.service]", "[roles.service]\nact = [\"*\"]");
    let server = start(&text).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#"["lobby:7"]"#).await;
    let key = KEY.split_once(": ").unwrap().1;
    let constants = [
        ("URL", format!("http://{}", server.local_addr())),
        ("KEY", key.to_owned()),
        ("SID", client.id.clone()),
    ];
    let code = constants.iter().fold(code.to_owned(), |code, (name, value)| {
        code.replace(name, &format!("{value:?}"))
    });
    let run = tokio::task::spawn_blocking(move || Command::new(program).args(arguments).arg(code).output());
    let output = run.await.unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap().to_lowercase();
    let errors = String::from_utf8_lossy(&output.stderr);
    let expected = [
        "1",
        "true",
        "[true]",
        "0",
        "rooms has 0 entries, allowed is 1 to 1000",
        "1",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected, "{program}: {errors}");
    let started = client.read().await.replace(": ", ":");
    assert!(started.starts_with(r#"42["started",{"players":1}"#), "{started}");
    assert_eq!(client.read().await, "41");
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_python_acts_on_sessions() {
    let code = format!("{}\n{PYTHON_ACTS}", snippet(ACTING, "python"));
    check_acting("python3", &["-c"], &code).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_javascript_acts_on_sessions() {
    let code = format!("{}\n{NODE_ACTS}", snippet(ACTING, "js"));
    check_acting("node", &["--input-type=module", "-e"], &code).await;
}
