//! Publishers through Redis: messages a second in each format, and what one costs.
//!
//! Redis, publisher and server share the machine; the publisher writes as fast as Redis takes it, so the server is what is
//! waited for. Clients get every message: encoding and writing are part of the cost.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate::{Settings, Tidegate};
use tidegate_cluster::Redis;

use super::{Options, Report};
use crate::error::{Error, Result, Tried, chain};
use crate::frame::{self, Head, TEXT};
use crate::row::House;
use crate::server::{Launch, Server};
use crate::store::from_cluster;
use crate::sys;

const RATE: &str = "thousand messages/s";
const CPU: &str = "CPU per message, µs";
/// Table, clients, messages, and messages of a quick run.
const LOADS: [(&str, usize, usize, usize); 2] = [
    (
        "publishers through Redis, one client, 64 B of data",
        1,
        100_000,
        5_000,
    ),
    (
        "publishers through Redis, 50 clients, 64 B of data",
        50,
        20_000,
        1_000,
    ),
];
const FORMATS: [&str; 4] = ["classic", "sharded", "streams", "python"];
/// Those of which socket.io has an adapter.
const ADAPTERS: [&str; 3] = ["classic", "sharded", "streams"];
/// Commands that are sent before answers are read.
const PIPELINE: usize = 500;
/// How long the last message may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, and the format that its publisher speaks.
struct Row {
    name: String,
    format: &'static str,
    launch: Launch,
    /// Whether it says when it hears Redis; the others listen only then.
    has_stats: bool,
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let house = House::new();
    let log = house.scratch()?.join(format!("redis-{}.log", std::process::id()));
    // What waits for a server that is behind is part of what is measured.
    let mut redis =
        Redis::start_with(&["--client-output-buffer-limit", "pubsub 0 0 0"]).map_err(from_cluster)?;
    let rows = rows(&house, &redis, options.quick)?;
    let core = sys::cores().first().copied().unwrap_or(0);
    for number in options.rounds("redis") {
        for (table, n_clients, whole, quick) in LOADS {
            // Another order in each round: what drifts with time falls to all alike.
            for at in 0..rows.len() {
                let row = &rows[(at + number) % rows.len()];
                redis.kill().map_err(from_cluster)?;
                redis.start_again().map_err(from_cluster)?;
                let n = if options.quick { quick } else { whole };
                let (rate, cpu_us) = measure(&redis, row, (n, n_clients), (core, &log))?;
                report.add(table, &row.name, RATE, rate / 1e3);
                report.add(table, &row.name, CPU, cpu_us);
            }
        }
    }
    std::fs::remove_file(&log).tried("remove the servers' log")
}

fn rows(house: &House, redis: &Redis, is_quick: bool) -> Result<Vec<Row>> {
    let program = std::env::current_exe().tried("find this program")?;
    let url = redis.url();
    let ours = |format| Row {
        name: format!("Tidegate, {format}"),
        format,
        launch: Launch {
            program: program.clone(),
            arguments: vec!["tidegate".into(), "{addr}".into(), url.clone()],
        },
        has_stats: true,
    };
    let mut rows: Vec<Row> = FORMATS.map(ours).into();
    if is_quick {
        return Ok(rows);
    }
    for format in ADAPTERS {
        let mut launch = house.node("redis.js")?;
        launch
            .arguments
            .extend([redis.socket().display().to_string(), format.to_owned()]);
        rows.push(Row {
            name: format!("Node socket.io, {format}"),
            format,
            launch,
            has_stats: false,
        });
    }
    Ok(rows)
}

/// Messages a second until the last client has the last one, and microseconds of the server for one message.
fn measure(
    redis: &Redis,
    row: &Row,
    (n, n_clients): (usize, usize),
    (core, log): (usize, &Path),
) -> Result<(f64, f64)> {
    let server = Server::start(&row.launch, core, log)?;
    if row.has_stats {
        wait(|| Ok(stats(server.address())?.matches(r#""state":"up""#).count() == 2))?;
    }
    let clients = (0..n_clients).map(|_| listen(server.address()));
    let clients = clients.collect::<Result<Vec<_>>>()?;
    let message = command(row.format);
    let mut publisher = UnixStream::connect(redis.socket()).tried("connect a publisher")?;
    publisher
        .set_read_timeout(Some(PATIENCE))
        .tried("bound the wait")?;
    let (cpu, start) = (server.cpu_ns()?, Instant::now());
    let mut left = n;
    while left > 0 {
        let some = left.min(PIPELINE);
        publisher
            .write_all(&message.repeat(some))
            .tried("publish through Redis")?;
        answers(&mut publisher, some, row.format)?;
        left -= some;
    }
    wait(|| Ok(clients.iter().all(|heard| heard.load(Relaxed) >= n)))?;
    let took = start.elapsed().as_secs_f64();
    let cpu_us = (server.cpu_ns()? - cpu) as f64 / 1e3;
    Ok((n as f64 / took, cpu_us / n as f64))
}

/// The command that says one message, as its publishers write it.
fn command(format: &str) -> Vec<u8> {
    let text = "x".repeat(54);
    let packet = format!(
        r#"{{"opts":{{"rooms":[],"except":[],"flags":{{}}}},"packet":{{"type":2,"data":["m",{{"text":"{text}"}}],"nsp":"/"}}}}"#
    );
    let cluster = format!(r#"{{"uid":"bench","nsp":"/","type":3,"data":{packet}}}"#);
    let python = format!(
        r#"{{"method": "emit", "event": "m", "data": [{{"text": "{text}"}}], "binary": false, "namespace": "/", "room": null, "skip_sid": null, "callback": null, "host_id": "bench"}}"#
    );
    let mut classic = b"\x93\xa7emitter\x83\xa4type\x02\xa4data\x92\xa1m\x81\xa4text\xd9".to_vec();
    classic.push(text.len() as u8);
    classic.extend(text.as_bytes());
    classic.extend(b"\xa3nsp\xa1/\x83\xa5rooms\x90\xa5flags\x80\xa6except\x90");
    let (channel, python) = (b"socket.io#/#".as_slice(), python.as_bytes());
    match format {
        "classic" => resp(&[b"PUBLISH", channel, &classic]),
        "sharded" => resp(&[b"SPUBLISH", channel, cluster.as_bytes()]),
        "python" => resp(&[b"PUBLISH", b"socketio", python]),
        _ => {
            let entry = [
                "XADD",
                "socket.io",
                "MAXLEN",
                "~",
                "200000",
                "*",
                "uid",
                "emitter",
                "nsp",
                "/",
                "type",
                "3",
            ];
            let mut parts: Vec<&[u8]> = entry.iter().map(|part| part.as_bytes()).collect();
            parts.extend([b"data".as_slice(), packet.as_bytes()]);
            resp(&parts)
        }
    }
}

fn resp(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend(format!("${}\r\n", part.len()).into_bytes());
        out.extend_from_slice(part);
        out.extend(b"\r\n");
    }
    out
}

/// Reads so many answers: a number is one line, the id of an entry two.
fn answers(publisher: &mut UnixStream, n: usize, format: &str) -> Result<()> {
    let mut lines = if format == "streams" { 2 * n } else { n };
    let mut piece = [0; 16 << 10];
    while lines > 0 {
        let read = publisher.read(&mut piece).tried("hear from Redis")?;
        if read == 0 || piece[..read].contains(&b'-') && format != "streams" {
            return Err(Error::Server("Redis refuses a publication".to_owned()));
        }
        let ended = piece[..read].iter().filter(|&&byte| byte == b'\n').count();
        lines = lines.saturating_sub(ended);
    }
    Ok(())
}

// === the server ===

/// Serves with the bridge until it is killed.
pub(crate) fn serve(address: SocketAddr, redis: &str) -> Result<()> {
    let text = format!(
        "listen = \"{address}\"\n[auth]\nanonymous = true\n[bridge]\nurl = \"{redis}\"\nwait = \"30s\"\n"
    );
    let settings = Settings::parse(&text).map_err(|error| Error::Server(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .tried("start a runtime")?;
    runtime.block_on(async {
        let started = Tidegate::builder().settings(settings).start().await;
        let _server = started.map_err(|error| Error::Server(chain(&error)))?;
        std::future::pending().await
    })
}

fn stats(server: SocketAddr) -> Result<String> {
    let mut socket = TcpStream::connect(server).tried("ask the server")?;
    let mut request = String::from("GET /api/performance/bridge/stats HTTP/1.1\r\n");
    write!(request, "Host: {server}\r\nConnection: close\r\n\r\n").expect("a string takes everything");
    socket.write_all(request.as_bytes()).tried("ask the server")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).tried("hear the server")?;
    Ok(answer)
}

fn wait(mut is_done: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !is_done()? {
        if start.elapsed() > PATIENCE {
            return Err(Error::Server(format!("not done within {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// A client that counts events and keeps nothing; it ends with the server.
fn listen(server: SocketAddr) -> Result<Arc<AtomicUsize>> {
    let mut socket = TcpStream::connect(server).tried("connect a client")?;
    let path = "/socket.io/?EIO=4&transport=websocket";
    let request = frame::upgrade_request(&server.to_string(), path, false);
    socket.write_all(&request).tried("ask for an upgrade")?;
    let mut read = Vec::new();
    // Node loses what comes before it has said hello.
    until(&mut socket, &mut read, b"0{")?;
    let mut hello = Vec::new();
    frame::push_masked(&mut hello, TEXT, b"40");
    socket.write_all(&hello).tried("enter as a client")?;
    let entered = until(&mut socket, &mut read, b"40{")?;
    // Its frame has a head of two or four bytes: find the one that ends in what was found.
    let head = if read[entered - 2] == TEXT { 2 } else { 4 };
    read.drain(..entered - head);
    let heard = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&heard);
    std::thread::Builder::new()
        .name("client".into())
        .spawn(move || {
            count(&mut read, &counter);
            while more(&mut socket, &mut read).is_ok() {
                count(&mut read, &counter);
            }
        })
        .tried("start a thread")?;
    Ok(heard)
}

/// Reads until `mark` has come; where it begins.
fn until(socket: &mut TcpStream, read: &mut Vec<u8>, mark: &[u8]) -> Result<usize> {
    loop {
        if let Some(at) = read.windows(mark.len()).position(|window| window == mark) {
            return Ok(at);
        }
        more(socket, read)?;
    }
}

fn more(socket: &mut TcpStream, read: &mut Vec<u8>) -> Result<()> {
    let mut piece = [0; 64 << 10];
    let n = socket.read(&mut piece).tried("read as a client")?;
    if n == 0 {
        return Err(Error::Server("the server closed the client".to_owned()));
    }
    read.extend_from_slice(&piece[..n]);
    Ok(())
}

/// Counts the events among the whole frames of `read`, and takes these out.
fn count(read: &mut Vec<u8>, heard: &AtomicUsize) {
    let mut at = 0;
    while let Some(head) = Head::read(&read[at..]).filter(|head| head.frame_bytes() <= read.len() - at) {
        let payload = &read[at + head.head_bytes..at + head.frame_bytes()];
        if head.first == TEXT && payload.starts_with(b"42") {
            heard.fetch_add(1, Relaxed);
        }
        at += head.frame_bytes();
    }
    read.drain(..at);
}
