//! Kept answers of real servers: kills, damaged files, Redis that goes and comes, two nodes.

use std::{
    net::SocketAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde_json::Value;
use tidegate_cluster::Redis;

use crate::{
    Server,
    limits::{Answer, Http},
    store::{Place, post},
};

/// After this, what should have happened has not.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the server is killed.
const N_KILLS: u64 = 3;
/// Rows that are acknowledged between two kills.
const ROWS_A_LIFE: u64 = 60;
/// Answers that are asked for; memory holds a part of them.
const N_KEYS: u64 = 64;
/// While Redis is away, answers may be so much behind.
const STALE_MAX: Duration = Duration::from_secs(2);
/// What a loss may take to be noticed, a busy machine included.
const NOTICED: Duration = Duration::from_secs(3);

/// Rows, and how far they have come, as many kept answers as one likes.
const ROWS: &str = "[feeds.rows]\ntable = \"rows\"\nmanage = true\nkey = [\"id\"]\non_conflict = \"ignore\"\n\
                    columns = { id = \"int8\" }\ntags = [\"rows\"]\n\
                    [queries.top]\nsql = \"SELECT coalesce(max(id), 0) AS top, CAST(:n AS int8) AS n FROM rows\"\n\
                    params = { n = \"int8\" }\ncache = { ttl = \"1h\", tags = [\"rows\"] }\n";

/// The settings of a server whose cache has `redis` as its remote level.
fn setting(redis: &Redis) -> String {
    let stale_seconds = STALE_MAX.as_secs();
    format!(
        "[cache]\nredis_url = \"{}\"\nredis_stale_max = \"{stale_seconds}s\"\n",
        redis.url()
    )
}

fn top(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["rows"][0]["top"].as_u64().unwrap()
}

/// How far the rows have come, by the answer number `n`.
fn ask(http: &mut Http, n: u64) -> u64 {
    top(&http.ask("GET", &format!("/api/query/top?n={n}"), ""))
}

fn cache(server: &Server) -> Value {
    Http::connect(server.address).get("/api/performance/cache/stats")["cache"].clone()
}

fn until_cache(server: &Server, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let given_up = Instant::now() + PATIENCE;
    loop {
        let now = cache(server);
        if is_so(&now) {
            return now;
        }
        assert!(Instant::now() < given_up, "not {what}: {now}");
        std::thread::yield_now();
    }
}

/// Stores the row `id`; says whether that was acknowledged.
fn store(server: SocketAddr, id: u64) -> bool {
    let row = format!("[{{\"id\":{id}}}]");
    post(server, "/api/ingest/rows", &format!("row-{id}"), &row)
        .is_some_and(|answer| answer.contains("\"stored\":1"))
}

/// Asks one answer after the other, whatever happens to the server, and holds each against what was acknowledged before.
fn watch(address: &Mutex<SocketAddr>, n_acked: &AtomicU64, is_over: &AtomicBool) -> u64 {
    let mut n_answers = 0;
    let mut http: Option<(SocketAddr, Http)> = None;
    while !is_over.load(Relaxed) {
        let now = *address.lock().unwrap();
        if http.as_ref().is_none_or(|(was, _)| *was != now) {
            // Between a kill and the next start nobody listens.
            http = std::net::TcpStream::connect(now)
                .is_ok()
                .then(|| (now, Http::connect(now)));
        }
        let Some((_, connection)) = &mut http else {
            continue;
        };
        let acked = n_acked.load(Relaxed);
        let path = format!("/api/query/top?n={}", n_answers % N_KEYS);
        match connection.try_ask("GET", &path, "") {
            Some(answer) => {
                let top = top(&answer);
                assert!(
                    top >= acked,
                    "an answer has {top}, {acked} was acknowledged before"
                );
                n_answers += 1;
            }
            None => http = None,
        }
    }
    n_answers
}

fn on_disk(memory: &str) -> String {
    format!("{ROWS}[cache]\n{memory}disk_dir = \"answers\"\n")
}

#[test]
fn a_kept_answer_is_never_older_than_an_acknowledged_row_though_the_server_is_killed() {
    let place = Place::new(&on_disk("entries_max = 16\n"));
    let mut server = place.serve();
    let address = Mutex::new(server.address);
    let (n_acked, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let n_answers = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&address, &n_acked, &is_over));
        // Also when something fails below: the scope waits for the watcher.
        let _over = Over(&is_over);
        for life in 0..=N_KILLS {
            for id in life * ROWS_A_LIFE + 1..=(life + 1) * ROWS_A_LIFE {
                assert!(store(server.address, id), "row {id} was not acknowledged");
                n_acked.store(id, Relaxed);
            }
            if life < N_KILLS {
                server.signal("KILL");
                // Whoever starts a server again waits for the end of the one before, which holds its folders until then.
                server.child.wait().unwrap();
                server = place.serve();
                *address.lock().unwrap() = server.address;
            }
        }
        is_over.store(true, Relaxed);
        watching.join().unwrap()
    });
    let now = cache(&server);
    println!("kills: {n_answers} answers, {N_KILLS} kills; {now}");
    assert!(n_answers > N_KEYS, "{n_answers}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

/// Tells a watcher to end when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// Changes the figure in every answer on disk to another that looks as good; says how many there were.
fn falsify(folder: &Path) -> usize {
    let needle = b"\"top\":1";
    let mut n_changed = 0;
    for path in files(folder) {
        let bytes = std::fs::read(&path).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for (at, _) in bytes
            .windows(needle.len())
            .enumerate()
            .filter(|(_, window)| window == needle)
        {
            file.write_all_at(b"7", (at + needle.len() - 1) as u64).unwrap();
            n_changed += 1;
        }
    }
    n_changed
}

#[test]
fn damaged_files_of_the_cache_are_dropped_and_counted_never_served() {
    let place = Place::new(&on_disk("entries_max = 8\n"));
    let server = place.serve();
    assert!(store(server.address, 1));
    let mut http = Http::connect(server.address);
    for n in 0..N_KEYS {
        assert_eq!(ask(&mut http, n), 1);
    }
    let before = until_cache(&server, "on disk", |now| {
        now["disk"]["entries"].as_u64() > Some(N_KEYS / 2) && now["disk"]["queued"] == 0
    });
    let folder = place.folder.join("answers");
    let n_changed = falsify(&folder);
    assert!(n_changed > 0, "no answer is on disk: {before}");
    for n in 0..N_KEYS {
        assert_eq!(ask(&mut http, n), 1, "answer {n}");
    }
    let after = cache(&server);
    println!("damage: {n_changed} changed; {}", after["disk"]);
    assert!(after["disk"]["dropped_damaged"].as_u64() >= Some(1), "{after}");
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    // The same to what a stopped server has left.
    let n_changed = falsify(&folder) as u64;
    assert!(n_changed > 0);
    let server = place.serve();
    until_cache(&server, "all that was changed is dropped and counted", |now| {
        now["disk"]["dropped_damaged"].as_u64() >= Some(n_changed)
    });
    let mut http = Http::connect(server.address);
    for n in 0..N_KEYS {
        assert_eq!(ask(&mut http, n), 1, "answer {n}");
    }
    server.signal("KILL");
    assert_ne!(server.wait().code(), Some(0));
    // Cut files, and files that are none of ours.
    for path in files(&folder) {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
    }
    std::fs::write(folder.join("stranger"), "not a log").unwrap();
    let server = place.serve();
    let mut http = Http::connect(server.address);
    for n in 0..N_KEYS {
        assert_eq!(ask(&mut http, n), 1, "answer {n}");
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

/// Two servers on one database, each with its own place, sharing one Redis.
fn pair() -> (Redis, [(Place, Server); 2]) {
    let first = Place::new(ROWS);
    let redis = Redis::start().unwrap();
    let declared = format!("{ROWS}{}", setting(&redis));
    first.declare(&declared);
    let second = Place::on(&first.url, &declared);
    let servers = [first, second].map(|place| {
        let server = place.serve();
        until_cache(&server, "connected", |now| now["remote"]["connected"] == true);
        (place, server)
    });
    (redis, servers)
}

/// How long the other node's answer goes on without the row.
fn until_seen(http: &mut Http, id: u64) -> Duration {
    let start = Instant::now();
    while ask(http, 0) < id {
        assert!(start.elapsed() < PATIENCE, "row {id} is never seen");
        std::thread::yield_now();
    }
    start.elapsed()
}

#[test]
fn a_row_stored_through_one_node_makes_the_answer_of_the_other_void() {
    let (mut redis, [(_first, a), (_second, b)]) = pair();
    let mut http = Http::connect(b.address);
    let mut worst = Duration::ZERO;
    for id in 1..=50 {
        assert_eq!(ask(&mut http, 0), id - 1);
        assert!(store(a.address, id));
        worst = worst.max(until_seen(&mut http, id));
    }
    let with = cache(&b);
    redis.kill().unwrap();
    assert!(store(a.address, 51));
    let away = until_seen(&mut http, 51);
    redis.start_again().unwrap();
    for server in [&a, &b] {
        until_cache(server, "connected again", |now| {
            now["remote"]["connected"] == true && now["remote"]["pending"] == 0
        });
    }
    assert_eq!(ask(&mut http, 0), 51);
    assert!(store(a.address, 52));
    let again = until_seen(&mut http, 52);
    println!(
        "nodes: behind at most {worst:?} with Redis, {away:?} while it is away, {again:?} after; hits {}; {}",
        with["hits"], with["remote"]
    );
    for (took, bound) in [(worst, NOTICED), (away, STALE_MAX + NOTICED), (again, NOTICED)] {
        assert!(took <= bound, "behind for {took:?}, allowed is {bound:?}");
    }
    for server in [a, b] {
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
    }
}

#[test]
fn no_request_fails_because_redis_is_killed_and_restarted() {
    let (mut redis, [(_first, a), (_second, b)]) = pair();
    assert!(store(a.address, 1));
    let is_over = AtomicBool::new(false);
    let n_asked: Vec<AtomicU64> = (0..4).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for (nth, n_asked) in n_asked.iter().enumerate() {
            let (address, is_over) = (if nth % 2 == 0 { a.address } else { b.address }, &is_over);
            scope.spawn(move || {
                let mut http = Http::connect(address);
                while !is_over.load(Relaxed) {
                    let n = n_asked.fetch_add(1, Relaxed);
                    assert!(ask(&mut http, n % N_KEYS) >= 1);
                }
            });
        }
        // Every caller has asked a few more times before the next change.
        let more = |least: u64| {
            let marks: Vec<u64> = n_asked.iter().map(|n| n.load(Relaxed) + least).collect();
            let given_up = Instant::now() + PATIENCE;
            while n_asked
                .iter()
                .zip(&marks)
                .any(|(n, mark)| n.load(Relaxed) < *mark)
            {
                assert!(Instant::now() < given_up, "a caller is never answered");
                std::thread::yield_now();
            }
        };
        for id in 2..=4 {
            more(50);
            redis.kill().unwrap();
            more(50);
            assert!(store(a.address, id));
            more(50);
            redis.start_again().unwrap();
            until_cache(&b, "connected again", |now| now["remote"]["connected"] == true);
        }
        more(50);
        is_over.store(true, Relaxed);
    });
    let n: u64 = n_asked.iter().map(|n| n.load(Relaxed)).sum();
    println!("redis: {n} answers, three losses; {}", cache(&b)["remote"]);
    for server in [a, b] {
        server.signal("TERM");
        assert_eq!(server.wait().code(), Some(0));
    }
}
