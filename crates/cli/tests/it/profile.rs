//! `tidegate profile` on a real server under load, and the comparison of real reports.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

use serde_json::Value;

use crate::{Server, Settings, check, run, store::Place, tidegate};

const DECLARED: &str = "[feeds.notes]\ntable = \"notes\"\nmanage = true\nkey = [\"id\"]\non_conflict = \"update\"\n\
                        columns = { id = \"int8\", body = \"text\" }\n\
                        [queries.notes]\nsql = \"SELECT id, body FROM notes\"\npage = [\"id\"]\n";

/// A folder of reports that goes away with the test.
struct Reports(PathBuf);

impl Reports {
    fn new() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let name = format!("profile-{}-{}", std::process::id(), N.fetch_add(1, Relaxed));
        let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    /// Writes `report` with the times of all its functions and latencies multiplied.
    fn write_scaled(&self, name: &str, report: &Value, factor: f64) {
        let mut scaled = report.clone();
        for list in ["functions", "latencies"] {
            for item in scaled[list].as_array_mut().unwrap() {
                item["mean_ns"] = (item["mean_ns"].as_f64().unwrap() * factor).into();
                // What is measured in earnest has a spread; here the same load is meant to say the same.
                item["deviation_ns"] = (item["mean_ns"].as_f64().unwrap() / 10.0).into();
            }
        }
        std::fs::write(self.0.join(name), scaled.to_string()).unwrap();
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Runs `work` while rows are sent and read.
fn under_load<T>(server: &Server, work: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 1.. {
                let body = format!("{{\"rows\":[{{\"id\":{id},\"body\":\"a note\"}}]}}");
                let sent =
                    crate::store::post(server.address, "/api/ingest/notes", &format!("load-{id}"), &body);
                assert!(
                    sent.is_some_and(|answer| answer.contains("\"ok\":true")),
                    "row {id}"
                );
                let read = server.get("/api/query/notes?limit=5");
                assert!(read.contains("a note"), "{read}");
                if is_over.load(Relaxed) {
                    return;
                }
            }
        });
        let result = work();
        is_over.store(true, Relaxed);
        result
    })
}

#[test]
fn a_server_under_load_is_profiled_shown_written_and_compared() {
    let place = Place::new(DECLARED);
    let server = place.serve();
    let reports = Reports::new();
    let url = format!("http://{}", server.address);
    let files = ["r.html", "r.json", "r.svg", "r.folded"].map(|name| reports.path(name));
    let output = under_load(&server, || {
        let [html, json, svg, folded] = files.each_ref().map(String::as_str);
        let args = [
            "profile", &url, "-s", "2", "-o", html, "-o", json, "-o", svg, "-o", folded,
        ];
        run(&args)
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    let expected = [
        "watching for 2 s",
        "Bottlenecks",
        "store::ingest::commit",
        "store_query_seconds notes",
        "from notes",
        "Threads",
    ];
    for part in expected {
        assert!(text.contains(part), "{text}, expected {part}");
    }
    assert!(!text.contains('\u{1b}'), "colours are for terminals");
    check_files(&reports);
    check_comparison(&reports);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

fn check_files(reports: &Reports) {
    let page = reports.read("r.html");
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
    for part in [
        "<svg class=\"flame\"",
        "id=\"find\"",
        "store::ingest::commit",
        "prefers-color-scheme: dark",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for outside in ["src=", "href=", "url(", "@import", "fetch("] {
        assert!(!page.contains(outside), "the page loads nothing: {outside}");
    }
    assert!(reports.read("r.svg").starts_with("<svg "));
    let report: Value = serde_json::from_str(&reports.read("r.json")).unwrap();
    assert_eq!(
        report["cpu"]["folded"].as_str(),
        Some(reports.read("r.folded").as_str())
    );
    // The binary counts what its functions allocate.
    let functions = report["functions"].as_array().unwrap();
    assert!(
        functions.iter().all(|f| f["allocated_bytes"].is_u64()),
        "{functions:?}"
    );
    assert!(
        functions.iter().any(|f| f["allocated_bytes"] != 0),
        "{functions:?}"
    );
}

fn check_comparison(reports: &Reports) {
    let report: Value = serde_json::from_str(&reports.read("r.json")).unwrap();
    reports.write_scaled("before.json", &report, 1.0);
    reports.write_scaled("slower.json", &report, 2.0);
    reports.write_scaled("faster.json", &report, 0.5);
    let before = reports.path("before.json");
    let compare = |name: &str, code, expected: &str| {
        check(
            &["profile", "--compare", &before, &reports.path(name)],
            code,
            expected,
        );
    };
    compare("slower.json", 1, "ROLL BACK");
    compare("faster.json", 0, "KEEP");
    compare("before.json", 0, "INCONCLUSIVE");
    let slower = reports.path("slower.json");
    check(
        &["profile", "--compare", &before, &slower, "--json"],
        1,
        r#""decision":"roll_back""#,
    );
    check(
        &["profile", "--compare", &before, &slower, "--lang", "zh"],
        1,
        "回退改动",
    );
    check(
        &["profile", "--compare", &before, "/no/such.json"],
        1,
        "cannot read /no/such.json",
    );
    check(
        &["profile", "--compare", &before, &reports.path("r.svg")],
        1,
        "is no report",
    );
}

#[test]
fn programs_get_the_report_as_one_line() {
    let server = Server::start(&["serve", "--listen", "127.0.0.1:0"]);
    let url = format!("http://{}", server.address);
    let output = run(&["profile", &url, "-s", "1", "--heap", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1);
    check(&["profile", &url, "-s", "1", "--lang", "zh"], 0, "瓶颈");
    let report: Value = serde_json::from_str(&text).unwrap();
    assert!(
        report["memory"]["heap"]["rate_bytes"].as_u64().unwrap() > 0,
        "{}",
        report["memory"]
    );
    let before = report["memory"]["before"]["allocated_bytes"].as_u64();
    assert!(before.unwrap() > 0, "{}", report["memory"]);
}

/// Answers one request with these bytes, on an address of its own.
fn answering(bytes: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4_096];
        // The request is one packet, and what it says does not matter.
        let _read = stream.read(&mut request).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
    });
    format!("http://{address}")
}

#[test]
fn what_is_wrong_with_a_server_is_said() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let profile = |url: &str, expected: &str| check(&["profile", url, "-s", "1"], 1, expected);
    profile(&format!("http://{gone}"), "cannot be reached");
    profile("https://127.0.0.1:1", "only http:// is spoken");
    profile(&answering("SSH-2.0-x\r\n\r\n"), "is no Tidegate");
    profile(&answering("HTTP/1.1 200 OK\r\n\r\n<html>"), "is no Tidegate");
    profile(
        &answering("HTTP/1.1 404 Not Found\r\n\r\n<html>"),
        "is no Tidegate",
    );
    let old = "HTTP/1.1 404 Not Found\r\n\r\n{\"ok\":false,\"error\":{\"message\":\"route not found\"}}";
    profile(&answering(old), "an older Tidegate");
}

/// Of a user `ops` with the role `ops`, until 2100, signed with [`SECRET`].
const TOKEN: &str = concat!(
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.",
    "eyJzdWIiOiJvcHMiLCJleHAiOjQxMDI0NDQ4MDAsInJvbGVzIjpbIm9wcyJdfQ.",
    "PVa9a5d2Zes16dqgX47gapbjZ2JzIq1W34sSm_i-ERE"
);
const SECRET: &str = "a secret of more than thirty-two bytes, for tests";

/// A server that is not on loopback, so that nobody is at home and a token is needed.
fn guarded(name: &str, role: &str) -> (Settings, Server) {
    let text = format!(
        "[roles.ops]\n{role}\n[auth.jwt]\nalgorithm = \"HS256\"\nsecret_env = \"TIDEGATE_TEST_SECRET\"\n"
    );
    let settings = Settings::new(name, &text);
    let mut child = tidegate(&["serve", "-c", settings.path(), "-l", "0.0.0.0:0"])
        .env("TIDEGATE_TEST_SECRET", SECRET)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(child.stderr.take().unwrap());
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let address = lines.find_map(|line| Some(line.strip_prefix("listening on http://0.0.0.0:")?.to_owned()));
    let server = Server {
        child,
        address: format!("127.0.0.1:{}", address.unwrap()).parse().unwrap(),
        log,
    };
    (settings, server)
}

#[test]
fn a_token_is_needed_from_elsewhere_and_can_come_both_ways() {
    let (_settings, server) = guarded("profile-token", "admin = true");
    let url = format!("http://{}", server.address);
    let profile = |more: &[&str], code, expected: &str| {
        check(
            &[&["profile", url.as_str(), "-s", "1"], more].concat(),
            code,
            expected,
        );
    };
    profile(&[], 1, "wants a token");
    profile(&["--token", "a.b.c"], 1, "wants a token");
    profile(&["--token", "no token"], 1, "characters that no token has");
    profile(&["--token", TOKEN], 0, "Bottlenecks");
    let by_env = tidegate(&["profile", &url, "-s", "1", "--token-env", "TIDEGATE_TEST_TOKEN"])
        .env("TIDEGATE_TEST_TOKEN", TOKEN)
        .output()
        .unwrap();
    assert_eq!(by_env.status.code(), Some(0), "{by_env:?}");
}

#[test]
fn a_token_without_the_role_is_refused() {
    let (_settings, server) = guarded("profile-role", "join = [\"*\"]");
    let url = format!("http://{}", server.address);
    check(
        &["profile", &url, "-s", "1", "--token", TOKEN],
        1,
        "needs a role with admin = true",
    );
}

#[test]
fn help_teaches_and_wrong_usage_is_64() {
    check(&["profile", "--help"], 0, "--compare before.json after.json");
    check(&["profile", "--help"], 0, "roll back");
    check(&["profile", "--help", "--lang", "zh"], 0, "火焰图");
    check(&["profile"], 64, "URL");
    check(&["profile", "http://a", "-s", "301"], 64, "301");
    check(&["profile", "--compare", "a.json"], 64, "--compare");
    check(
        &["profile", "http://127.0.0.1:1", "-o", "r.pdf"],
        64,
        ".html, .json, .svg or .folded",
    );
}
