//! The binary as it is run: exit codes, help, check, signals, demo.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod advise;
mod hook;
mod index;
mod limits;
mod limits_cache;
mod manager;
mod profile;
mod store;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

fn tidegate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    // Away from any settings file, in a language that the tests can read.
    command
        .args(args)
        .current_dir(std::env::temp_dir())
        .env("LC_ALL", "C")
        .stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    tidegate(args).output().unwrap()
}

fn check(args: &[&str], code: i32, expected: &str) {
    let output = run(args);
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?} said {text}");
    assert!(
        text.contains(expected),
        "{args:?} said {text}, expected {expected}"
    );
}

/// A settings file that goes away with the test.
struct Settings(PathBuf);

impl Settings {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tidegate-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

/// A running server; killed if the test ends before it does.
struct Server {
    child: Child,
    address: SocketAddr,
    log: BufReader<ChildStderr>,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        Self::start_command(tidegate(args))
    }

    fn start_command(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines.map_while(Result::ok).find_map(|line| {
            line.strip_prefix("listening on http://")
                .map(|address| address.parse().unwrap())
        });
        let Some(address) = address else {
            let mut said = String::new();
            log.read_to_string(&mut said).unwrap();
            panic!("{command:?} gave no address: {said}");
        };
        Self { child, address, log }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// Asks until the answer contains `text`; it is observed again and again, and given up after a while.
    fn until(&self, path: &str, text: &str) -> String {
        let given_up = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = self.get(path);
            if answer.contains(text) {
                return answer;
            }
            assert!(Instant::now() < given_up, "{path} never had {text:?}: {answer}");
            std::thread::yield_now();
        }
    }

    /// Opens a WebSocket that never answers.
    fn upgrade(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        let path = "/socket.io/?EIO=4&transport=websocket";
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade",
            self.address
        );
        write!(stream, "{head}\r\nUpgrade: websocket\r\n{key}\r\n\r\n").unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 101");
        stream
    }

    /// Reads the log until a line contains `text`.
    fn wait_for(&mut self, text: &str) -> String {
        let mut lines = self.log.by_ref().lines().map_while(Result::ok);
        lines
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("the log ended without {text:?}"))
    }

    fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Already ended in most tests; then there is nothing to kill.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[test]
fn wrong_usage_is_64() {
    check(&[], 64, "Usage");
    check(&["fly"], 64, "unrecognized subcommand 'fly'");
    check(&["serve", "--listn", "x"], 64, "--listen");
    check(&["serve", "--listen", "here"], 64, "invalid value 'here'");
    check(&["demo", "--listen", "0.0.0.0:0"], 64, "--anyone");
}

#[test]
fn wrong_configuration_is_78() {
    check(
        &["serve", "--config", "/no/such/file.toml"],
        78,
        "cannot read /no/such/file.toml",
    );
    let bad = Settings::new("bad", "[outbox]\nsoft_byts = 1");
    check(
        &["serve", "-c", bad.path()],
        78,
        "unknown setting outbox.soft_byts, did you mean outbox.soft_bytes?",
    );
    check(
        &["check", "-c", bad.path()],
        78,
        "did you mean outbox.soft_bytes?",
    );
    check(&["check", "-c", bad.path(), "--json"], 78, r#""exit":78"#);
    check(
        &["check", "-c", bad.path(), "--lang", "zh"],
        78,
        "未知设置 outbox.soft_byts",
    );
    let ghost = Settings::new("ghost", "[auth]\nanonymous = true\nanonymous_roles = [\"ghost\"]");
    check(&["check", "-c", ghost.path()], 78, "ghost");
    let unset = Settings::new("unset", "[auth.jwt]\nsecret_env = \"TIDEGATE_TEST_NOT_SET\"");
    check(
        &["serve", "-c", unset.path()],
        78,
        "TIDEGATE_TEST_NOT_SET, which is not set",
    );
}

#[test]
fn help_teaches_in_both_languages() {
    check(&["--help"], 0, "tidegate demo");
    check(&["--help"], 0, "Exit codes");
    check(&["serve", "--help"], 0, "kill -HUP");
    check(&["demo", "--help"], 0, "--rate");
    check(&["--lang", "zh", "--help"], 0, "模拟交易日");
    check(&["check", "--help", "--lang=zh"], 0, "检查配置与本机");
    check(&["--version"], 0, env!("CARGO_PKG_VERSION"));
}

#[test]
fn check_says_what_is_right_and_wrong() {
    let good = Settings::new(
        "good",
        "listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true\n[limits]\nconnections = 10",
    );
    check(&["check", "-c", good.path()], 0, "0 problems");
    check(&["check", "-c", good.path(), "--lang", "zh"], 0, "0 个问题");
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    check(
        &["check", "-c", good.path(), "--listen", &address],
        1,
        &format!("{address} cannot be opened"),
    );
    check(
        &["check", "-c", good.path(), "--listen", &address, "--json"],
        1,
        r#""level":"problem""#,
    );
    check(&["check", "--sample"], 0, "#listen = \"127.0.0.1:8080\"");
    check(&["check", "--reference"], 0, "| `listen` |");
}

#[test]
fn a_busy_port_is_1_and_names_port_and_flag() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    check(
        &["demo", "--listen", &address],
        1,
        &format!("cannot listen on {address}"),
    );
    check(&["demo", "--listen", &address], 1, "--listen 127.0.0.1:0");
    check(&["demo", "--listen", &address, "--lang", "zh"], 1, "无法监听");
}

#[test]
fn sigterm_drains_and_is_0() {
    let server = Server::start(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(server.get("/healthz").starts_with("HTTP/1.1 200"));
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn sigint_ends_as_well() {
    let server = Server::start(&["serve", "--listen", "127.0.0.1:0"]);
    server.signal("INT");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    // Five connections at one a second: the drain would take seconds.
    let settings = Settings::new(
        "drain",
        "[auth]\nanonymous = true\n[drain]\ncloses_per_second = 1",
    );
    let mut server = Server::start(&["serve", "--listen", "127.0.0.1:0", "-c", settings.path()]);
    let _connections: Vec<TcpStream> = (0..5).map(|_| server.upgrade()).collect();
    server.signal("TERM");
    server.wait_for("a second signal ends at once");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(1));
}

#[test]
fn sighup_takes_good_settings_and_keeps_the_old_over_bad_ones() {
    let settings = Settings::new("reload", "[auth]\nanonymous = true");
    let mut server = Server::start(&["serve", "--listen", "127.0.0.1:0", "-c", settings.path()]);
    std::fs::write(
        &settings.0,
        "[auth]\nanonymous = true\n[limits]\nconnections = 7\n[batch]\ndelay = \"1s\"",
    )
    .unwrap();
    server.signal("HUP");
    let line = server.wait_for("configuration reloaded");
    assert!(line.contains("batch.delay"), "{line}");
    assert!(
        server
            .get("/api/performance/websocket/stats")
            .contains(r#""limit":7"#)
    );
    std::fs::write(&settings.0, "[limits]\nconnections = -7").unwrap();
    server.signal("HUP");
    let line = server.wait_for("not reloaded");
    assert!(line.contains("limits.connections is -7"), "{line}");
    assert!(
        server
            .get("/api/performance/websocket/stats")
            .contains(r#""limit":7"#)
    );
    assert!(
        server
            .get("/metrics")
            .contains("tidegate_config_reloads_total{result=\"ok\"} 1")
    );
}

#[test]
fn serve_says_when_nobody_can_come_in() {
    let mut server = Server::start(&["serve", "--listen", "127.0.0.1:0"]);
    server.wait_for("nobody can come in");
}

#[test]
fn the_demo_serves_its_page_and_a_moving_market() {
    let server = Server::start(&["demo", "--listen", "127.0.0.1:0"]);
    assert!(server.get("/demo").contains("text/html"));
    assert!(server.get("/demo/socket.io.min.js").contains("Socket.IO v4."));
    assert!(server.get("/demo/socket.io.LICENSE.txt").contains("MIT License"));
    let symbols = server.get("/demo/symbols.json");
    assert!(symbols.contains(r#""symbol":"600519""#));
    // Rows are loaded and trades stored while the page is served.
    server.until("/api/rooms?limit=1000", "ticks:600519");
    server.until("/api/query/order_totals", r#""n_rows":37497"#);
    server.until("/api/query/orders?limit=1", r#"{"id":93728,"#);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn programs_read_json() {
    let mut child = tidegate(&["demo", "--listen", "127.0.0.1:0", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert!(
        json["listening"]
            .as_str()
            .unwrap()
            .starts_with("http://127.0.0.1:"),
        "{line}"
    );
    assert!(json["page"].as_str().unwrap().ends_with("/demo"), "{line}");
}
