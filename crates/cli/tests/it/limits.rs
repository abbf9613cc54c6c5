//! The server inside its limits: floods, leavers, overload, wrong budgets, changed levels.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{Server, Settings, check, store::Place};

/// Everybody may do everything.
/// Nobody reads the log of these servers, and a full pipe would stop them at the next line.
const OPEN: &str = "listen = \"127.0.0.1:0\"\n[log]\nlevel = \"error\"\n[auth]\nanonymous = true\nanonymous_roles = [\"all\"]\n\
                    [roles.all]\njoin = [\"*\"]\npublish = [\"*\"]\n";
/// After this, what should have happened has not.
const PATIENCE: Duration = Duration::from_secs(90);
const MIB: u64 = 1 << 20;

/// What the issue allows for the way back to normal, and for memory to come back, milliseconds.
const BACK_MS: u64 = 15_000;
/// One tick of the watch, the pause of a thread on a busy machine.
const SLACK_MS: u64 = 5_000;

/// An HTTP connection for many requests.
pub(crate) struct Http {
    stream: BufReader<TcpStream>,
    host: SocketAddr,
}

/// What it was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    body: Vec<u8>,
}

/// A Socket.IO client over a plain socket.
struct Client(BufReader<TcpStream>);

// === impl Http ===

impl Http {
    pub(crate) fn connect(host: SocketAddr) -> Self {
        let stream = BufReader::new(TcpStream::connect(host).unwrap());
        stream.get_ref().set_nodelay(true).unwrap();
        Self { stream, host }
    }

    /// One request; none if the server was gone before its answer came whole.
    pub(crate) fn try_ask(&mut self, method: &str, path: &str, body: &str) -> Option<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        self.stream.get_mut().write_all((head + body).as_bytes()).ok()?;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1)?.lines().next()?;
        let mut body = vec![0; length.parse().ok()?];
        self.stream.read_exact(&mut body).ok()?;
        Some(Answer {
            status: head.split(' ').nth(1)?.parse().ok()?,
            head,
            body,
        })
    }

    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let answer = self.try_ask(method, path, body);
        answer.unwrap_or_else(|| panic!("{method} {path} was never answered"))
    }

    pub(crate) fn get(&mut self, path: &str) -> Value {
        let answer = self.ask("GET", path, "");
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    fn memory(&mut self) -> Value {
        self.get("/api/performance/memory/stats")
    }
}

// === impl Answer ===

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

// === impl Client ===

impl Client {
    /// Connects and joins a room.
    fn join(server: SocketAddr, room: &str) -> Self {
        Self::over(TcpStream::connect(server).unwrap(), server, room)
    }

    /// The same with hardly any room for what it does not read, so that this waits in the server.
    fn narrow(server: SocketAddr, room: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4_096).unwrap();
            socket.connect(server).await.unwrap().into_std().unwrap()
        });
        stream.set_nonblocking(false).unwrap();
        Self::over(stream, server, room)
    }

    fn over(stream: TcpStream, server: SocketAddr, room: &str) -> Self {
        let mut client = Self(BufReader::new(stream));
        client.0.get_ref().set_nodelay(true).unwrap();
        let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        write!(
            client.0.get_mut(),
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\n{key}\r\n\r\n"
        )
        .unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(client.0.read_line(&mut head).unwrap(), 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(client.read().starts_with('0'));
        client.send("40");
        assert!(client.read().starts_with("40"));
        client.send(&format!("421[\"join\",\"{room}\"]"));
        assert!(client.read().starts_with("431"));
        client
    }

    /// Sends one short text frame, masked with nothing.
    fn send(&mut self, packet: &str) {
        let length = 0x80 | u8::try_from(packet.len()).unwrap();
        let frame = [&[0x81, length, 0, 0, 0, 0], packet.as_bytes()].concat();
        self.0.get_mut().write_all(&frame).unwrap();
    }

    /// The next packet that is no ping; those are answered.
    fn read(&mut self) -> String {
        loop {
            let mut head = [0; 2];
            self.0.read_exact(&mut head).unwrap();
            let mut long = [0; 8];
            let size = match head[1] {
                126 => self
                    .0
                    .read_exact(&mut long[6..])
                    .map(|()| u64::from_be_bytes(long)),
                127 => self.0.read_exact(&mut long).map(|()| u64::from_be_bytes(long)),
                short => Ok(u64::from(short)),
            };
            let mut payload = vec![0; usize::try_from(size.unwrap()).unwrap()];
            self.0.read_exact(&mut payload).unwrap();
            match payload.as_slice() {
                b"2" => self.send("3"),
                _ if head[0] == 0x81 => return String::from_utf8(payload).unwrap(),
                other => panic!("frame {:x} with {}", head[0], String::from_utf8_lossy(other)),
            }
        }
    }

    /// The number in the next event.
    fn number(&mut self) -> u64 {
        let packet = self.read();
        let event: Value = serde_json::from_str(packet.strip_prefix("42").expect(&packet)).unwrap();
        event[1]["n"].as_u64().unwrap()
    }
}

/// A field of `/proc/<pid>/status`, bytes.
fn of_process(server: &Server, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kib: u64 = line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().unwrap();
    kib << 10
}

fn number(json: &Value, path: &str) -> u64 {
    json.pointer(path)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {path} in {json}"))
}

/// Everything that was refused, whatever the reason.
fn refused(requests: &Value) -> u64 {
    let reasons = requests["refused"].as_object().unwrap().values();
    reasons.map(|n| n.as_u64().unwrap()).sum()
}

/// Asks until `is_so`, and gives up after a while.
fn until(server: &Server, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let given_up = Instant::now() + PATIENCE;
    let mut http = Http::connect(server.address);
    loop {
        let memory = http.memory();
        if is_so(&memory) {
            return memory;
        }
        assert!(Instant::now() < given_up, "not {what}: {memory}");
        std::thread::yield_now();
    }
}

/// One publisher and the clients that listen to it, which keep up.
struct Healthy {
    publisher: Http,
    clients: Vec<Client>,
    next: u64,
    n_refused: u64,
}

impl Healthy {
    fn new(server: &Server, n: usize) -> Self {
        Self {
            publisher: Http::connect(server.address),
            clients: (0..n).map(|_| Client::join(server.address, "healthy")).collect(),
            next: 0,
            n_refused: 0,
        }
    }

    /// Publishes one message and reads it with every client; their delays.
    fn round(&mut self, delays: &mut Vec<Duration>) {
        let message = json!({"room": "healthy", "event": "tick", "data": {"n": self.next}}).to_string();
        let given_up = Instant::now() + PATIENCE;
        let start = loop {
            let start = Instant::now();
            // A connection without a request for ten seconds is closed; nothing was sent on it that could be lost.
            let Some(answer) = self.publisher.try_ask("POST", "/api/publish", &message) else {
                assert!(Instant::now() < given_up, "the publisher finds no connection");
                self.publisher = Http::connect(self.publisher.host);
                continue;
            };
            if answer.status == 200 {
                break start;
            }
            // A publisher that is told that memory is full comes again.
            assert_eq!(answer.status, 503, "{}", answer.text());
            assert!(Instant::now() < given_up, "{}", answer.text());
            self.n_refused += 1;
        };
        for client in &mut self.clients {
            assert_eq!(client.number(), self.next, "a message was lost or out of order");
            delays.push(start.elapsed());
        }
        self.next += 1;
    }
}

/// Publishes large messages to rooms of this kind, each time another, and one to the healthy behind each; their delays, and
/// how many of the large ones were taken and refused.
fn flood(server: SocketAddr, kind: &str, healthy: &mut Healthy) -> (Vec<Duration>, [u64; 2]) {
    let (mut delays, [mut taken, mut refused]) = (Vec::new(), [0; 2]);
    let mut http = Http::connect(server);
    let large = "x".repeat(256 << 10);
    for n in 0..FLOOD {
        let room = format!("{kind}:{}", n % SLOW_ROOMS);
        let body = json!({"room": room, "event": "large", "data": large}).to_string();
        match http
            .try_ask("POST", "/api/publish", &body)
            .map(|answer| answer.status)
        {
            Some(200) => taken += 1,
            Some(503) => refused += 1,
            Some(other) => panic!("{other}"),
            None => {
                // Without memory for the body it is not even read, and the connection ends with the refusal.
                refused += 1;
                http = Http::connect(server);
            }
        }
        healthy.round(&mut delays);
    }
    (delays, [taken, refused])
}

fn p99(delays: &mut [Duration]) -> Duration {
    delays.sort_unstable();
    delays[delays.len() * 99 / 100]
}

const SLOW_ROOMS: usize = 60;
const SLOW_A_ROOM: usize = 2;
/// Messages of the flood: 500 MiB, where the budget is 256 MiB.
const FLOOD: usize = 2_000;

/// A flood to nobody, then the same to slow consumers, then the way back; by what factor the second hurt the healthy more.
fn flooded(server: &Server, healthy: &mut Healthy) -> f64 {
    let n_critical = |memory: &Value| {
        let transitions = memory["transitions"].as_array().unwrap();
        transitions
            .iter()
            .filter(|moved| moved["to"] == "critical")
            .count()
    };
    let n_before = n_critical(&Http::connect(server.address).memory());
    // What the flood costs everybody on this machine, whoever is to have it.
    let (mut before, _) = flood(server.address, "nobody", healthy);
    let rooms = (0..SLOW_ROOMS * SLOW_A_ROOM).map(|n| format!("slow:{}", n % SLOW_ROOMS));
    let slow: Vec<Client> = rooms.map(|room| Client::narrow(server.address, &room)).collect();
    let (mut during, [taken, refused]) = flood(server.address, "slow", healthy);
    let over_ms = number(&Http::connect(server.address).memory(), "/ts_ms");
    let memory = until(server, "normal after the flood", |memory| {
        memory["level"] == "normal"
    });
    let back_ms = number(&memory, "/since_ms").saturating_sub(over_ms);
    // Nobody who kept up has missed anything, and the server goes on serving.
    (0..50).for_each(|_| healthy.round(&mut Vec::new()));
    drop(slow);
    let (before, during) = (p99(&mut before), p99(&mut during));
    let ratio = during.as_secs_f64() / before.as_secs_f64();
    println!(
        "flood: {taken} taken, {refused} refused, {} healthy refused; P99 {before:?} while it goes to \
         nobody, {during:?} to the slow, ratio {ratio:.2}; normal {back_ms} ms after; {}",
        healthy.n_refused, memory["reactions"],
    );
    assert!(n_critical(&memory) > n_before, "{memory}");
    assert!(back_ms <= BACK_MS, "{memory}");
    ratio
}

#[test]
fn a_flood_of_slow_consumers_harms_nobody_else() {
    let settings = Settings::new(
        "flood",
        &format!(
            "{OPEN}[memory]\nbudget = \"256MiB\"\n[limits]\nconnections = 1000\n\
             [outbox]\nsoft_bytes = \"4MiB\"\nhard_bytes = \"8MiB\"\n"
        ),
    );
    let server = Server::start(&["serve", "-c", settings.path()]);
    let mut healthy = Healthy::new(&server, 20);
    until(&server, "normal before the flood", |memory| {
        memory["level"] == "normal"
    });
    // Others use this machine too: the middle one of a few.
    let mut ratios: Vec<f64> = (0..3).map(|_| flooded(&server, &mut healthy)).collect();
    ratios.sort_by(f64::total_cmp);
    let peak = of_process(&server, "VmHWM");
    println!("flood: ratios {ratios:.2?}; peak {} MiB", peak / MIB);
    // Beside other tests a delay says how busy the machine is.
    if is_full() {
        assert!(ratios[ratios.len() / 2] < 2.0, "{ratios:?}");
    }
    assert!(peak < 256 * MIB, "peak {} MiB", peak / MIB);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_log_that_nobody_reads_holds_up_nobody() {
    let loud = OPEN.replace("\"error\"", "\"debug\"");
    let settings = Settings::new("loud", &loud);
    let server = Server::start(&["serve", "-c", settings.path()]);
    let mut client = Client::join(server.address, "all");
    // Each is a line of the log; the pipe takes some hundreds of them, the queue some thousands.
    for _ in 0..8_000 {
        client.send("42[\"join\",7]");
    }
    client.send("421[\"join\",7]");
    assert!(client.read().starts_with("431[{\"ok\":false"));
    let given_up = Instant::now() + PATIENCE;
    loop {
        let metrics = server.get("/metrics");
        let lost = metrics
            .lines()
            .find_map(|line| line.strip_prefix("tidegate_log_lines_lost_total "));
        if lost.expect(&metrics).parse::<u64>().unwrap() > 1_000 {
            break;
        }
        assert!(Instant::now() < given_up, "{metrics}");
        std::thread::yield_now();
    }
    drop(client);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

/// Whether the full load is asked for, which is then alone on the machine.
fn is_full() -> bool {
    std::env::var("TIDEGATE_LOAD").is_ok_and(|load| load == "full")
}

/// How many connections: as many as the descriptors of one process allow when asked for the full load.
fn n_connections() -> usize {
    let allowed = tidegate_vitals::process::raise_open_files_limit().unwrap_or(1_024);
    let wanted = if is_full() { 10_000 } else { 2_000 };
    wanted.min(usize::try_from(allowed).unwrap() - 256)
}

#[test]
fn memory_comes_back_when_connections_leave() {
    let settings = Settings::new("leave", &format!("{OPEN}[limits]\nconnections = 20000\n"));
    let server = Server::start(&["serve", "-c", settings.path()]);
    let n = n_connections();
    let mut clients: Vec<Client> = (0..n).map(|_| Client::join(server.address, "all")).collect();
    let mut http = Http::connect(server.address);
    for n in 0..20 {
        let message = json!({"room": "all", "event": "tick", "data": {"n": n, "fill": "x".repeat(4_000)}});
        assert_eq!(http.ask("POST", "/api/publish", &message.to_string()).status, 200);
    }
    let full = http.memory();
    clients.truncate(n / 10);
    let given_up = Instant::now() + PATIENCE;
    let start_ms = loop {
        let figures = http.get("/api/performance/websocket/stats");
        if number(&figures, "/connections/open") <= (n / 10) as u64 {
            break number(&http.memory(), "/ts_ms");
        }
        assert!(Instant::now() < given_up, "they never left: {figures}");
        std::thread::yield_now();
    };
    let is_back = |memory: &Value| {
        let live = number(memory, "/allocator/allocated_bytes");
        number(memory, "/process/rss_bytes") <= live * 16 / 10 + 64 * MIB
    };
    let back = until(&server, "back in memory", is_back);
    let took_ms = number(&back, "/ts_ms") - start_ms;
    println!(
        "leave: {n} connections; RSS {} MiB full, {} MiB after {took_ms} ms; live {} MiB",
        number(&full, "/process/rss_bytes") / MIB,
        number(&back, "/process/rss_bytes") / MIB,
        number(&back, "/allocator/allocated_bytes") / MIB,
    );
    assert!(took_ms <= BACK_MS + SLACK_MS, "{back}");
    for client in &mut clients {
        for n in 0..20 {
            assert_eq!(client.number(), n);
        }
    }
    drop(clients);
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

const BUSY: &str = "[concurrency]\nmin = 1\nmax = 4\ninitial = 4\nqueue_max = 8\nwait_max = \"50ms\"\n\
                    [feeds.notes]\ntable = \"notes\"\nmanage = true\nkey = [\"id\"]\non_conflict = \"ignore\"\n\
                    columns = { id = \"int8\", body = \"text\" }\n\
                    [queries.slow]\nsql = \"SELECT count(*) AS n FROM notes, pg_sleep(0.02)\"\n";

/// One caller's requests, by turns rows and questions: how many were sent, let in and refused.
fn call_often(server: SocketAddr, caller: u64) -> [u64; 2] {
    let mut http = Http::connect(server);
    let mut counts = [0; 2];
    for n in 0..20 {
        let answer = if n % 2 == 0 {
            http.ask("GET", "/api/query/slow", "")
        } else {
            let row = json!([{"id": caller * 100 + n, "body": "x"}]);
            http.ask("POST", "/api/ingest/notes", &row.to_string())
        };
        match answer.status {
            200 => counts[0] += 1,
            429 | 503 => {
                assert!(answer.head.contains("\r\nretry-after: "), "{}", answer.head);
                counts[1] += 1;
            }
            other => panic!("{other}: {}", answer.text()),
        }
    }
    counts
}

#[test]
fn more_requests_than_can_be_served_are_told_so() {
    let place = Place::new(BUSY);
    let server = place.serve();
    let is_over = AtomicBool::new(false);
    let (counts, n_looks) = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..48)
            .map(|caller| {
                let address = server.address;
                scope.spawn(move || call_often(address, caller))
            })
            .collect();
        let operator = scope.spawn(|| {
            let mut http = Http::connect(server.address);
            let mut n_looks = 0_u64;
            while !is_over.load(Relaxed) {
                let memory = http.memory();
                assert!(number(&memory, "/requests/waiting") <= 8, "{memory}");
                assert!(number(&memory, "/requests/in_flight") <= 4, "{memory}");
                n_looks += 1;
            }
            n_looks
        });
        let counts = callers.into_iter().map(|caller| caller.join().unwrap());
        let counts = counts.fold([0; 2], |sum, [a, b]| [sum[0] + a, sum[1] + b]);
        is_over.store(true, Relaxed);
        (counts, operator.join().unwrap())
    });
    let memory = until(&server, "idle", |memory| {
        number(memory, "/requests/in_flight") == 0
    });
    let requests = &memory["requests"];
    println!("overload: {counts:?} served and refused, {n_looks} looks; {requests}");
    assert_eq!(counts[0] + counts[1], 48 * 20);
    assert!(counts[0] > 0 && counts[1] > 0 && n_looks > 0, "{counts:?}");
    assert_eq!(number(requests, "/admitted"), counts[0], "{requests}");
    assert_eq!(refused(requests), counts[1], "{requests}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn memory_and_cache_that_cannot_work_are_named() {
    let above = Settings::new("above", &format!("{OPEN}[memory]\nbudget = \"900TiB\"\n"));
    let look = ["check", "-c", above.path()];
    check(&look, 1, "memory.budget is 989560464998400 bytes, above the");
    check(&[&look[..], &["--lang", "zh"]].concat(), 1, "请降低");
    let serve = ["serve", "-c", above.path()];
    check(&serve, 78, "memory.budget is 989560464998400 bytes, above the");
    check(&[&serve[..], &["--lang", "zh"]].concat(), 78, "请降低");
    let close = Settings::new(
        "close",
        &format!("{OPEN}[memory]\ncritical = 80\nhigh = 79\nmoderate = 78\n"),
    );
    check(&["check", "-c", close.path()], 1, "Move memory.moderate");
    check(&["serve", "-c", close.path()], 78, "Move memory.moderate");

    let cached = "[queries.one]\nsql = \"SELECT 1 AS one\"\ncache = { ttl = \"1h\" }\n";
    let place = Place::on("sqlite:data/tidegate.db", "");
    let file = place.file();
    let (look, serve) = (["check", "-c", &file], ["serve", "-c", &file]);
    for url in ["somewhere", "http://localhost:1", "redis://:geheim@"] {
        place.declare(&format!("{cached}[cache]\nredis_url = \"{url}\"\n"));
        check(&look, 78, "cache.redis_url: ");
        check(&serve, 78, "cache.redis_url: ");
        let said = crate::run(&serve);
        assert!(!String::from_utf8_lossy(&said.stderr).contains("geheim"));
    }
    place.declare(&format!("{cached}[cache]\nredis_url = \"redis://127.0.0.1:1\"\n"));
    check(&look, 0, "redis is away");
    check(&[&look[..], &["--lang", "zh"]].concat(), 0, "自动使用");
    // A file stands where the folder should be.
    place.declare(&format!("{cached}[cache]\ndisk_dir = \"t.toml\"\n"));
    check(&look, 1, "Correct cache.disk_dir");
    check(&serve, 1, "Correct cache.disk_dir");
    place.declare(&format!("{cached}[cache]\ndisk_dir = \"answers\"\n"));
    check(&look, 0, "answers can be used");
}

#[test]
fn sighup_takes_memory_levels_and_cache_rules_whole_or_not_at_all() {
    let queries = |first: &str, second: &str| {
        format!(
            "[queries.first]\nsql = \"SELECT 1 AS one\"\n{first}[queries.second]\nsql = \"SELECT 2 AS two\"\n{second}"
        )
    };
    let cache = "cache = { ttl = \"1h\" }\n";
    let place = Place::on("sqlite:data/tidegate.db", &queries(cache, ""));
    let mut server = place.serve();
    let kept = |server: &Server, critical: f64, names: &[&str]| {
        let mut http = Http::connect(server.address);
        assert_eq!(http.memory()["thresholds_ratio"]["critical"], critical);
        assert_eq!(http.get("/api/performance/cache/stats")["queries"], json!(names));
    };
    kept(&server, 0.8, &["first"]);
    place.declare(&format!("[memory]\ncritical = 60\n{}", queries("", cache)));
    server.signal("HUP");
    server.wait_for("configuration reloaded");
    kept(&server, 0.6, &["second"]);
    // What is wrong with memory alone keeps the queries from changing too.
    for (wrong, said) in [
        ("budget = \"900TiB\"", "989560464998400"),
        ("critical = 50\nhigh = 49\nmoderate = 48", "Move memory.moderate"),
        ("critical = 500", "memory.critical is 500"),
    ] {
        place.declare(&format!("[memory]\n{wrong}\n{}", queries(cache, cache)));
        server.signal("HUP");
        let line = server.wait_for("not reloaded");
        assert!(line.contains(said), "{line}");
        kept(&server, 0.6, &["second"]);
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}
