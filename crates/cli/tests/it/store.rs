//! The binary on a real database: check, migrate, spool, deadletter, and rows that survive kills.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{
        LazyLock, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tidegate_cluster::Cluster;

use crate::{Server, check, run};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::temporary().unwrap());

/// Requests of one producer in the test of kills, and rows of each.
const N_REQUESTS: usize = 60;
const N_ROWS: usize = 300;
/// Producers, each sending one request after the other.
const N_PRODUCERS: usize = 4;
/// How often the server is killed meanwhile.
const N_KILLS: usize = 5;
/// After this, what should have happened has not.
const PATIENCE: Duration = Duration::from_secs(90);

/// A folder with a settings file and what the server keeps; it goes away with the test.
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) url: String,
}

impl Place {
    /// On a database of the cluster that all tests share.
    pub(crate) fn new(declared: &str) -> Self {
        Self::on(&CLUSTER.create_database("cli").unwrap(), declared)
    }

    pub(crate) fn on(url: &str, declared: &str) -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let n = N.fetch_add(1, Relaxed);
        // Not the system's temporary folder: that may lie in memory, where no spool may be.
        let base = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let folder = base.join(format!("cli-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let place = Self {
            folder,
            url: url.to_owned(),
        };
        place.declare(declared);
        place
    }

    pub(crate) fn declare(&self, declared: &str) {
        let pool = "pool = { min = 1, size = 4, overflow = 4, acquire_timeout = \"2s\" }";
        let ingest = "[store.ingest]\npatience = \"100ms\"";
        let text = format!(
            "listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true\nanonymous_roles = [\"all\"]\n[roles.all]\nquery = [\"*\"]\n\
             ingest = [\"*\"]\n[limits]\nconnections = 100\n[store]\nurl = \"{}\"\n{pool}\n{ingest}\n{declared}",
            self.url
        );
        std::fs::write(self.folder.join("t.toml"), text).unwrap();
    }

    pub(crate) fn file(&self) -> String {
        self.folder.join("t.toml").display().to_string()
    }

    pub(crate) fn serve(&self) -> Server {
        Server::start(&["serve", "-c", &self.file()])
    }

    pub(crate) fn psql(&self, sql: &str) -> String {
        CLUSTER.psql(self.url.rsplit('/').next().unwrap(), sql).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// The answer to a POST; none if the server was gone before it came whole.
pub(crate) fn post(address: SocketAddr, path: &str, id: &str, body: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Idempotency-Key: {id}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (_, body) = text.split_once("\r\n\r\n")?;
    body.ends_with('}').then(|| body.to_owned())
}

const NOTES: &str = "[feeds.notes]\ntable = \"notes\"\nmanage = true\nkey = [\"id\"]\non_conflict = \"error\"\n\
                     columns = { id = \"int8\", body = \"text\" }\n\
                     [queries.notes]\nsql = \"SELECT id, body FROM notes\"\npage = [\"id\"]\n";

#[test]
fn check_says_what_is_right_and_wrong_with_a_database() {
    let place = Place::new(NOTES);
    let file = place.file();
    let look = ["check", "-c", &file];
    check(&look, 0, "notes is not there yet");
    check(&["migrate", "-c", &file], 0, "created notes");
    check(&look, 0, "0 problems");
    check(&look, 0, "feed notes: table notes is as declared");
    check(&look, 0, "all 1 queries run");
    check(&look, 0, "connections at most, the server allows 200");
    check(&["check", "-c", &file, "--lang", "zh"], 0, "数据源 notes");
    check(&["check", "-c", &file, "--json"], 0, r#""subject":"pool""#);

    place.declare(
        &NOTES
            .replace("manage = true", "manage = false")
            .replace("body = \"text\"", "body = \"int8\", more = \"text\""),
    );
    check(&look, 1, "column body is text, the feed says int8");
    check(&look, 1, "column more is missing");
    place.declare(&NOTES.replace("\"notes\"\nmanage = true", "\"nothing\"\nmanage = false"));
    check(&look, 1, "table nothing is missing");
    place.declare(&NOTES.replace("FROM notes", "FROM nowhere"));
    check(&look, 1, "nowhere");
    place.declare(&NOTES.replace(
        "[feeds",
        "[store.spool]\ndir = \"/dev/shm/tidegate-check\"\n[feeds",
    ));
    check(&look, 1, "lies in memory");
    let _removed = std::fs::remove_dir_all("/dev/shm/tidegate-check");
    let away = Place::on("postgres://me@127.0.0.1:1/shop", NOTES);
    let file = away.file();
    check(&["check", "-c", &file], 1, "cannot connect to 127.0.0.1:1/shop");
    check(&["serve", "-c", &file], 1, "cannot connect to 127.0.0.1:1/shop");
    check(
        &["serve", "-c", &file],
        1,
        "Start the database or correct store.url",
    );
    check(&["migrate", "-c", &file], 1, "cannot connect to 127.0.0.1:1/shop");
}

#[test]
fn check_names_privileges_that_feeds_and_queries_lack() {
    let place = Place::new(NOTES);
    let file = place.file();
    check(&["migrate", "-c", &file], 0, "created notes");
    let role = format!("cli_poor_{}", std::process::id());
    place.psql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA tidegate TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidegate TO {role}"
    ));
    let (_, rest) = place.url.split_once('@').unwrap();
    let poor = Place::on(&format!("postgres://{role}@{rest}"), NOTES);
    let file = poor.file();
    let look = ["check", "-c", &file];
    check(
        &look,
        1,
        "feed notes: no INSERT, SELECT on table notes. Run GRANT INSERT, SELECT ON \"notes\" TO",
    );
    check(&look, 1, "permission denied for table notes");
    place.psql(&format!("GRANT SELECT, INSERT ON notes TO {role}"));
    check(
        &look,
        0,
        "feed notes: no UPDATE, DELETE on table notes: requests that change",
    );
    check(&look, 0, "all 1 queries run");
    let replaced = NOTES.replace("on_conflict = \"error\"", "on_conflict = \"update\"");
    poor.declare(&replaced);
    check(
        &look,
        1,
        "feed notes: no UPDATE on table notes. Run GRANT UPDATE ON \"notes\" TO",
    );
    place.psql(&format!("GRANT UPDATE, DELETE ON notes TO {role}"));
    check(&look, 0, "0 problems");
}

#[test]
fn check_names_tags_of_queries_that_no_feed_drops() {
    let settings = |tag: &str| {
        format!(
            "[feeds.ticks]\ntable = \"ticks\"\nmanage = true\ncolumns = {{ symbol = \"text not null\", price = \"float8\" }}\n\
             tags = [\"ticks:{{symbol}}\"]\n\
             [queries.latest]\nsql = \"SELECT price FROM ticks WHERE symbol = :symbol\"\nparams = {{ symbol = \"text\" }}\n\
             cache = {{ ttl = \"5s\", tags = [\"{tag}\"] }}\n"
        )
    };
    let said = |tag| {
        let place = Place::on("sqlite:data/tidegate.db", &settings(tag));
        let output = crate::tidegate(&["check", "-c", &place.file()]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let wrong = said("tick:{symbol}");
    assert!(
        wrong.contains("query latest keeps answers under tick:{symbol}, which no feed has"),
        "{wrong}"
    );
    let right = said("ticks:{symbol}");
    assert!(!right.contains("which no feed has"), "{right}");
}

#[test]
fn the_default_database_is_a_file_whose_limits_check_names() {
    let notes = NOTES.replace(
        "page = [",
        "returns = { id = \"int8\", body = \"text\" }\npage = [",
    );
    let place = Place::on("sqlite:data/tidegate.db", &notes);
    let file = place.file();
    let server = place.serve();
    let answer = post(
        server.address,
        "/api/ingest/notes",
        "f-1",
        r#"[{"id":1,"body":"kept"}]"#,
    )
    .unwrap();
    assert!(answer.contains(r#""stored":1"#), "{answer}");
    assert!(
        server
            .get("/api/query/notes")
            .contains(r#"{"id":1,"body":"kept"}"#)
    );
    assert!(place.folder.join("data/tidegate.db").is_file());
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
    let look = ["check", "-c", &file];
    check(&look, 0, "SQLite stores feeds");
    place.declare(&format!(
        "[store.pipeline]\nconnections = 1\n{}",
        notes.replace("page = [", "replica = true\npage = [")
    ));
    check(&look, 1, "queries.notes.replica needs PostgreSQL");
}

#[test]
fn migrate_prints_runs_and_then_does_nothing() {
    let place = Place::new(NOTES);
    let file = place.file();
    check(&["migrate", "--sql", "-c", &file], 0, "CREATE TABLE");
    assert_eq!(
        place.psql("SELECT count(*) FROM pg_tables WHERE tablename = 'notes'"),
        "0"
    );
    check(&["migrate", "-c", &file], 0, "2 created");
    check(&["migrate", "-c", &file], 0, "0 created");
    check(&["migrate", "-c", &file, "--json"], 0, r#""outcome":"existing""#);
    let sql = run(&["migrate", "--sql", "-c", &file]);
    assert!(sql.stdout.is_empty(), "{}", String::from_utf8_lossy(&sql.stdout));
    place.declare("");
    check(&["migrate", "-c", &file], 0, "no feed and no query is declared");
}

#[test]
fn refused_rows_are_listed_exported_and_sent_again() {
    let place = Place::new(NOTES);
    let file = place.file();
    check(&["migrate", "-c", &file], 0, "created");
    place.psql("ALTER TABLE notes ADD CONSTRAINT short CHECK (length(body) < 5)");
    let server = place.serve();
    let rows = r#"[{"id":1,"body":"ok"},{"id":2,"body":"too long"}]"#;
    let answer = post(server.address, "/api/ingest/notes", "d-1", rows).unwrap();
    assert!(
        answer.contains(r#""sqlstate":"23514""#) && answer.contains(r#""stored":1"#),
        "{answer}"
    );
    check(&["deadletter", "list", "-c", &file], 0, "23514");
    check(
        &["deadletter", "list", "--feed", "notes", "-c", &file, "--json"],
        0,
        "too long",
    );
    check(
        &["deadletter", "list", "--feed", "others", "-c", &file],
        0,
        "no refused rows",
    );
    let readable = r#""row":{"id":2,"body":"too long"},"sqlstate":"23514""#;
    check(&["deadletter", "export", "-c", &file], 0, readable);
    check(
        &["deadletter", "retry", "--feed", "notes", "-c", &file],
        0,
        "0 stored, 1 refused again",
    );
    place.psql("ALTER TABLE notes DROP CONSTRAINT short");
    check(
        &["deadletter", "retry", "--feed", "notes", "-c", &file],
        0,
        "1 stored",
    );
    assert_eq!(
        place.psql("SELECT string_agg(body, ',' ORDER BY id) FROM notes"),
        "ok,too long"
    );
    check(&["deadletter", "list", "-c", &file], 0, "no refused rows");
}

#[test]
fn rows_wait_on_disk_while_the_database_is_away() {
    let cluster = Cluster::temporary().unwrap();
    let url = cluster.create_database("away").unwrap();
    let place = Place::on(&url, NOTES);
    let file = place.file();
    let server = place.serve();
    check(&["spool", "list", "-c", &file], 0, "nothing waits");
    cluster.stop().unwrap();
    let answer = post(
        server.address,
        "/api/ingest/notes",
        "s-1",
        r#"[{"id":1},{"id":2}]"#,
    )
    .unwrap();
    assert!(answer.contains(r#""state":"spooled""#), "{answer}");
    check(&["spool", "list", "-c", &file], 0, "notes: 2 rows");
    check(&["spool", "list", "-c", &file, "--json"], 0, r#""rows":2"#);
    let readable = r#""n_rows":2,"row_numbers":[0,1],"rows":[{"id":1,"body":null},{"id":2,"body":null}]"#;
    check(&["spool", "export", "-c", &file], 0, readable);
    check(&["spool", "export", "--feed", "others", "-c", &file], 1, "others");
    assert!(server.get("/readyz").contains("away"));
    cluster.start_again().unwrap();
    server.until("/api/query/notes", r#"{"id":2,"body":null}"#);
    let again = post(
        server.address,
        "/api/ingest/notes",
        "s-1",
        r#"[{"id":1},{"id":2}]"#,
    )
    .unwrap();
    assert!(again.contains(r#""stored":2"#), "{again}");
    // The spool lets go of rows after they are stored.
    let given_up = Instant::now() + PATIENCE;
    while !String::from_utf8_lossy(&run(&["spool", "list", "-c", &file]).stdout).contains("nothing waits") {
        assert!(Instant::now() < given_up, "rows that are stored still wait");
    }
    server.signal("TERM");
    assert_eq!(server.wait().code(), Some(0));
}

/// Sends each request until it is answered, whatever happens to the server meanwhile.
fn produce(producer: usize, address: &Mutex<SocketAddr>, n_acked: &AtomicUsize) {
    for request in 0..N_REQUESTS {
        let from = (producer * N_REQUESTS + request) * N_ROWS;
        let rows: Vec<String> = (from..from + N_ROWS)
            .map(|id| format!("{{\"id\":{id}}}"))
            .collect();
        let body = format!("[{}]", rows.join(","));
        let given_up = Instant::now() + PATIENCE;
        loop {
            let now = *address.lock().unwrap();
            let answer = post(now, "/api/ingest/rows", &format!("p{producer}-{request}"), &body);
            if answer.is_some_and(|answer| answer.contains(&format!("\"stored\":{N_ROWS}"))) {
                break;
            }
            assert!(
                Instant::now() < given_up,
                "request {request} of producer {producer} was never answered"
            );
            std::thread::yield_now();
        }
        n_acked.fetch_add(1, Relaxed);
    }
}

#[test]
fn acknowledged_rows_are_stored_once_though_the_server_is_killed() {
    // No key: nothing but the claims keeps a row from being stored twice.
    let place =
        Place::new("[feeds.rows]\ntable = \"rows\"\nmanage = true\ncolumns = { id = \"int8 not null\" }\n");
    let start = || Server::start(&["serve", "-c", &place.file()]);
    let mut server = start();
    let (address, n_acked) = (Mutex::new(server.address), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for producer in 0..N_PRODUCERS {
            let (address, n_acked) = (&address, &n_acked);
            scope.spawn(move || produce(producer, address, n_acked));
        }
        let all = N_PRODUCERS * N_REQUESTS;
        for kill in 1..=N_KILLS {
            let given_up = Instant::now() + PATIENCE;
            while n_acked.load(Relaxed) < all * kill / (N_KILLS + 1) {
                assert!(
                    Instant::now() < given_up,
                    "only {} of {all}",
                    n_acked.load(Relaxed)
                );
                std::thread::yield_now();
            }
            server.signal("KILL");
            // Whoever starts a server again waits for the end of the one before, which holds its folders until then.
            server.child.wait().unwrap();
            server = start();
            *address.lock().unwrap() = server.address;
        }
    });
    let n = N_PRODUCERS * N_REQUESTS * N_ROWS;
    let stored = place.psql("SELECT count(*), count(DISTINCT id), max(id) FROM rows");
    assert_eq!(stored, format!("{n}|{n}|{}", n - 1));
    assert_eq!(place.psql("SELECT count(*) FROM tidegate.dead_letter"), "0");
}

/// Whether a process is there.
fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn the_private_database_of_the_demo_dies_with_it() {
    let mut child: Child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(["demo", "--listen", "127.0.0.1:0", "--json"])
        .env_remove("DATABASE_URL")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.take().unwrap()),
        &mut line,
    )
    .unwrap();
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(json["database"]["choice"], "private", "{line}");
    let target = json["database"]["target"].as_str().unwrap();
    let socket = target.split("/s/").next().unwrap();
    let pid_file = Path::new(socket).join("data/postmaster.pid");
    let text = std::fs::read_to_string(&pid_file).unwrap();
    let postmaster: u32 = text.lines().next().unwrap().parse().unwrap();
    assert!(lives(postmaster));
    child.kill().unwrap();
    child.wait().unwrap();
    let given_up = Instant::now() + PATIENCE;
    while lives(postmaster) {
        assert!(
            Instant::now() < given_up,
            "postgres {postmaster} outlives its demo"
        );
        std::thread::yield_now();
    }
}
