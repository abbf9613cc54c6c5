//! Publications by SQL: from the commit of a row to a client, at a steady number of rows a second.
//!
//! Database, server, writers and client share the machine. Writers follow the clock and not the server, so that a slow
//! server meets the rows it is late for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tidegate::{Settings, Tidegate};
use tidegate_cluster::Cluster;
use tidegate_store::backend::postgres::{Connection, Dsn, Postgres, Session};

use super::{Options, Report};
use crate::error::{Error, Result, Tried, chain};
use crate::frame::{self, Head, TEXT};
use crate::row::House;
use crate::store::from_cluster;

/// Ways of publishing.
const KINDS: [Kind; 2] = [
    Kind {
        table: "tidegate.publish, one row a commit, one client",
        set_up: "",
        sql: "SELECT tidegate.publish('a', 'm', to_jsonb($1::int8))",
    },
    Kind {
        table: "rows of a watched table (tidegate.watch), one row a commit, one client",
        set_up: "CREATE TABLE ticks (n int8 PRIMARY KEY, symbol text DEFAULT 'ACME', price numeric DEFAULT 12.5, \
                 at timestamptz DEFAULT now()); SELECT tidegate.watch('ticks', 'a', 'm')",
        sql: "INSERT INTO ticks (n) VALUES ($1)",
    },
];
const P50: &str = "commit to client P50, ms";
const P99: &str = "commit to client P99, ms";
const WRITERS: u64 = 8;
/// How long the last row may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of them, and the table of the report that it fills.
struct Kind {
    table: &'static str,
    /// Run once, when the schema is there.
    set_up: &'static str,
    /// Publishes the number `$1`.
    sql: &'static str,
}

/// When each row was committed and heard, nanoseconds from the beginning.
struct Times {
    start: Instant,
    committed: Vec<AtomicU64>,
    heard: Vec<AtomicU64>,
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cluster = Cluster::temporary().map_err(from_cluster)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")?;
    let folder = House::new()
        .scratch()?
        .join(format!("outbox-{}", std::process::id()));
    let seconds = if options.quick { 1 } else { 10 };
    for _number in options.rounds("outbox") {
        for (kind, rate) in KINDS.iter().flat_map(|kind| [(kind, 100), (kind, 1_000)]) {
            let url = cluster.create_database("outbox").map_err(from_cluster)?;
            let server = runtime.block_on(start(&url, &folder))?;
            cluster
                .psql(url.rsplit('/').next().unwrap_or_default(), kind.set_up)
                .map_err(from_cluster)?;
            let delays = measure(
                &runtime,
                (&url, kind.sql),
                server.local_addr(),
                (rate, rate * seconds),
            );
            runtime.block_on(server.shutdown());
            let delays = delays?;
            let who = format!("{rate} rows a second");
            let at = |share: f64| delays[((delays.len() - 1) as f64 * share) as usize];
            report.add(kind.table, &who, P50, at(0.5));
            report.add(kind.table, &who, P99, at(0.99));
        }
    }
    std::fs::remove_dir_all(&folder).tried("remove the folder of the server")
}

async fn start(url: &str, folder: &std::path::Path) -> Result<Tidegate> {
    let text = format!(
        "listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true\nanonymous_roles = [\"r\"]\n[roles.r]\njoin = [\"a\"]\n\
         [store]\nurl = \"{url}\"\ndata_dir = \"{}\"\n[store.relay]\nenabled = true\n",
        folder.display()
    );
    let settings = Settings::parse(&text).map_err(|error| Error::Server(error.to_string()))?;
    let started = Tidegate::builder().settings(settings).start().await;
    started.map_err(|error| Error::Server(format!("tidegate: {}", chain(&error))))
}

/// The delays of all rows in milliseconds, sorted.
fn measure(
    runtime: &tokio::runtime::Runtime,
    (url, sql): (&str, &'static str),
    server: SocketAddr,
    (rate, n): (u64, u64),
) -> Result<Vec<f64>> {
    let client = join(server)?;
    let cells = || (0..n).map(|_| AtomicU64::new(0)).collect();
    let times = Arc::new(Times {
        start: Instant::now(),
        committed: cells(),
        heard: cells(),
    });
    let hearing = {
        let times = Arc::clone(&times);
        std::thread::spawn(move || hear(client, &times))
    };
    runtime.block_on(write((url, sql), &times, rate))?;
    hearing.join().expect("a client answers with an error")?;
    let delay = |n: usize| {
        let (committed, heard) = (times.committed[n].load(Relaxed), times.heard[n].load(Relaxed));
        // A client may hear of a row before its writer hears that it is committed.
        heard.saturating_sub(committed) as f64 / 1e6
    };
    let mut delays: Vec<f64> = (0..times.heard.len()).map(delay).collect();
    delays.sort_by(f64::total_cmp);
    Ok(delays)
}

/// Commits row `n` when its time has come.
async fn write((url, sql): (&str, &'static str), times: &Arc<Times>, rate: u64) -> Result<()> {
    let mut writers = Vec::new();
    let begin = Arc::new(OnceLock::new());
    for writer in 0..WRITERS {
        let (session, times, begin) = (session(url).await?, Arc::clone(times), Arc::clone(&begin));
        writers.push(tokio::spawn(async move {
            let statement = session.prepare(sql).await.map_err(store)?;
            let begin = *begin.get_or_init(tokio::time::Instant::now);
            for n in (writer..times.committed.len() as u64).step_by(WRITERS as usize) {
                tokio::time::sleep_until(begin + Duration::from_micros(n * 1_000_000 / rate)).await;
                let done = session.client().execute(&statement, &[&(n as i64)]).await;
                done.map_err(|error| store(session.error(error)))?;
                times.committed[n as usize].store(times.now_ns(), Relaxed);
            }
            Ok::<_, Error>(())
        }));
    }
    for writer in writers {
        writer.await.expect("a writer answers with an error")?;
    }
    Ok(())
}

async fn session(url: &str) -> Result<Connection> {
    let session = Session {
        statement_timeout: None,
        application_name: "bench".to_owned(),
        is_read_only: false,
    };
    let server = Postgres::new(Dsn::parse(url).map_err(store)?, session).map_err(store)?;
    server.open().await.map_err(store)
}

#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn store(error: tidegate_store::Error) -> Error {
    Error::Server(format!("store: {}", chain(&error)))
}

// === impl Times ===

impl Times {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

// === the client ===

/// A client in room `a`, and what it has read.
struct Client {
    socket: TcpStream,
    read: Vec<u8>,
}

fn join(server: SocketAddr) -> Result<Client> {
    let socket = TcpStream::connect(server).tried("connect a client")?;
    socket.set_nodelay(true).tried("send at once")?;
    socket.set_read_timeout(Some(PATIENCE)).tried("bound the wait")?;
    let mut client = Client {
        socket,
        read: Vec::new(),
    };
    let path = "/socket.io/?EIO=4&transport=websocket";
    let request = frame::upgrade_request(&server.to_string(), path, false);
    client.socket.write_all(&request).tried("ask for an upgrade")?;
    loop {
        if let Some(end) = client.read.windows(4).position(|four| four == b"\r\n\r\n") {
            client.read.drain(..end + 4);
            break;
        }
        client.more()?;
    }
    for (say, expected) in [
        (None, "0{"),
        (Some("40"), "40{"),
        (Some(r#"420["join","a"]"#), "430["),
    ] {
        if let Some(text) = say {
            client.say(text)?;
        }
        let answer = client.hear()?;
        if !answer.starts_with(expected) {
            return Err(Error::Server(format!("{expected} was expected, got {answer}")));
        }
    }
    Ok(client)
}

/// Notes when each row came.
fn hear(mut client: Client, times: &Times) -> Result<()> {
    for at in 0..times.heard.len() {
        let text = loop {
            let text = client.hear()?;
            match text.as_str() {
                "2" => client.say("3")?,
                _ => break text,
            }
        };
        // Alone, or the first member of the row.
        let rest = text
            .strip_prefix(r#"42["m","#)
            .map(|rest| rest.trim_start_matches(|c: char| !c.is_ascii_digit()));
        let number = rest.and_then(|rest| rest.split([',', ']', '}']).next());
        let number = number.and_then(|digits| digits.parse::<usize>().ok());
        let cell = number.and_then(|number| times.heard.get(number));
        let cell = cell.ok_or_else(|| Error::Server(format!("message {at} is {text}")))?;
        if cell.swap(times.now_ns(), Relaxed) != 0 {
            return Err(Error::Server(format!("row {number:?} came twice")));
        }
    }
    Ok(())
}

// === impl Client ===

impl Client {
    fn more(&mut self) -> Result<()> {
        let mut piece = [0; 16 << 10];
        let n = self.socket.read(&mut piece).tried("read as a client")?;
        if n == 0 {
            return Err(Error::Server("the server closed the client".to_owned()));
        }
        self.read.extend_from_slice(&piece[..n]);
        Ok(())
    }

    /// The next text frame.
    fn hear(&mut self) -> Result<String> {
        loop {
            let head = Head::read(&self.read).filter(|head| head.frame_bytes() <= self.read.len());
            let Some(head) = head else {
                self.more()?;
                continue;
            };
            let frame: Vec<u8> = self.read.drain(..head.frame_bytes()).collect();
            if head.first == TEXT {
                return Ok(String::from_utf8_lossy(&frame[head.head_bytes..]).into_owned());
            }
        }
    }

    fn say(&mut self, text: &str) -> Result<()> {
        let mut out = Vec::new();
        frame::push_masked(&mut out, TEXT, text.as_bytes());
        self.socket.write_all(&out).tried("write as a client")
    }
}
