//! Publishers through Redis: messages a second in each format, and what one costs.
//!
//! Redis, publisher and server share the machine; the publisher writes as fast as Redis takes it, so the server is what is
//! waited for. One client is connected and gets every message: encoding and one write are part of the cost.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tidegate::{Settings, Tidegate};

use super::{Options, Report};
use crate::error::{Error, Result, Tried, chain};
use crate::frame::{self, TEXT};
use crate::row::House;
use crate::server::{Launch, Server};
use crate::sys;

const TABLE: &str = "publishers through Redis, one client, 64 B of data";
const RATE: &str = "thousand messages/s";
const CPU: &str = "CPU per message, µs";
const FORMATS: [&str; 4] = ["classic", "sharded", "streams", "python"];
/// Commands that are sent before answers are read.
const PIPELINE: usize = 500;
/// How long the last message may take, and Redis to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let n = if options.quick { 5_000 } else { 100_000 };
    let folder = House::new()
        .scratch()?
        .join(format!("redis-{}", std::process::id()));
    std::fs::create_dir_all(&folder).tried("make a folder for Redis")?;
    let core = sys::cores().first().copied().unwrap_or(0);
    for number in options.rounds("redis") {
        // Another order in each round: what drifts with time falls to all alike.
        for at in 0..FORMATS.len() {
            let format = FORMATS[(at + number) % FORMATS.len()];
            let redis = Redis::start(&folder)?;
            let (rate, cpu_us) = measure(&redis, format, n, core)?;
            report.add(TABLE, format, RATE, rate / 1e3);
            report.add(TABLE, format, CPU, cpu_us);
        }
    }
    std::fs::remove_dir_all(&folder).tried("remove the folder of Redis")
}

/// Messages a second, and microseconds of the server for one.
fn measure(redis: &Redis, format: &str, n: usize, core: usize) -> Result<(f64, f64)> {
    let launch = Launch {
        program: std::env::current_exe().tried("find this program")?,
        arguments: vec![
            "tidegate".into(),
            "{addr}".into(),
            format!("redis+unix://{}", redis.socket.display()),
        ],
    };
    let server = Server::start(&launch, core, &redis.socket.with_extension("log"))?;
    wait(|| Ok(stats(server.address())?.matches(r#""state":"up""#).count() == 2))?;
    let client = listen(server.address())?;
    let message = command(format);
    let mut publisher = UnixStream::connect(&redis.socket).tried("connect a publisher")?;
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
        answers(&mut publisher, some, format)?;
        left -= some;
    }
    wait(|| Ok(delivered(&stats(server.address())?, format) == Some(n)))?;
    let took = start.elapsed().as_secs_f64();
    let cpu_us = (server.cpu_ns()? - cpu) as f64 / 1e3;
    drop(client);
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

/// How many messages of a format the gateway took.
fn delivered(stats: &str, format: &str) -> Option<usize> {
    let (_, body) = stats.split_once("\r\n\r\n")?;
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    usize::try_from(json["formats"][format]["delivered"].as_u64()?).ok()
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

/// A client that reads everything and keeps nothing; it ends with the server.
fn listen(server: SocketAddr) -> Result<std::thread::JoinHandle<()>> {
    let mut socket = TcpStream::connect(server).tried("connect a client")?;
    let path = "/socket.io/?EIO=4&transport=websocket";
    let request = frame::upgrade_request(&server.to_string(), path, false);
    socket.write_all(&request).tried("ask for an upgrade")?;
    let mut hello = Vec::new();
    frame::push_masked(&mut hello, TEXT, b"40");
    socket.write_all(&hello).tried("enter as a client")?;
    let mut piece = vec![0; 64 << 10];
    let mut seen = Vec::new();
    while !seen.windows(3).any(|three| three == b"40{") {
        let read = socket.read(&mut piece).tried("read as a client")?;
        if read == 0 {
            return Err(Error::Server("the server closed the client".to_owned()));
        }
        seen.extend_from_slice(&piece[..read]);
    }
    let read_on = move || while socket.read(&mut piece).is_ok_and(|read| read > 0) {};
    std::thread::Builder::new()
        .name("client".into())
        .spawn(read_on)
        .tried("start a thread")
}

// === Redis ===

/// A server of one's own; dropping it kills it.
struct Redis {
    socket: PathBuf,
    child: Child,
}

impl Redis {
    fn start(folder: &Path) -> Result<Self> {
        let socket = folder.join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            // What waits for a server that is behind is part of what is measured.
            .args(["--client-output-buffer-limit", "pubsub 0 0 0", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .tried("start redis-server (cargo xtask setup)")?;
        let redis = Self { socket, child };
        wait(|| Ok(UnixStream::connect(&redis.socket).is_ok()))?;
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
