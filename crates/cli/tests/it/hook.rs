//! The application hears of every end, also of those before a server that was killed.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::Value;

use crate::{Server, tidegate};

const PATIENCE: Duration = Duration::from_secs(60);
const N: usize = 20;

/// An application over plain sockets.
#[derive(Default)]
struct App {
    /// While it is not, ends are answered with 503.
    is_up: AtomicBool,
    /// Sessions whose ends it heard of, answered with 503 and with 200.
    heard: Mutex<[BTreeSet<String>; 2]>,
    changed: Condvar,
}

impl App {
    fn start() -> (Arc<Self>, SocketAddr) {
        let (app, listener) = (
            Arc::new(Self::default()),
            TcpListener::bind("127.0.0.1:0").unwrap(),
        );
        let (shared, at) = (Arc::clone(&app), listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let app = Arc::clone(&shared);
                std::thread::spawn(move || app.answer(stream));
            }
        });
        (app, at)
    }

    /// Until the connection ends.
    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut stream = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if stream.read_line(&mut head).ok()? == 0 {
                    return None;
                }
            }
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1)?.lines().next()?;
            let mut body = vec![0; length.parse().ok()?];
            stream.read_exact(&mut body).ok()?;
            let asked: Value = serde_json::from_slice(&body).ok()?;
            let is_fine = asked["kind"] != "disconnect" || self.is_up.load(Relaxed);
            if asked["kind"] == "disconnect" {
                let session = asked["session"].as_str()?.to_owned();
                self.heard.lock().unwrap()[usize::from(is_fine)].insert(session);
                self.changed.notify_all();
            }
            let status = if is_fine {
                "200 OK"
            } else {
                "503 Service Unavailable"
            };
            let text = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
            );
            stream.get_mut().write_all(text.as_bytes()).ok()?;
        }
    }

    /// Waits until it has heard of the ends of so many sessions, and names them.
    fn until(&self, is_fine: bool, n: usize) -> BTreeSet<String> {
        let few = |heard: &mut [BTreeSet<String>; 2]| heard[usize::from(is_fine)].len() < n;
        let heard = self.heard.lock().unwrap();
        let (heard, waited) = self.changed.wait_timeout_while(heard, PATIENCE, few).unwrap();
        assert!(!waited.timed_out(), "{heard:?}");
        heard[usize::from(is_fine)].clone()
    }
}

/// The body of the answer.
fn ask(server: &Server, method: &str, query: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(server.address).unwrap();
    write!(
        stream,
        "{method} /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        server.address,
        body.len()
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Connects by polling and leaves.
fn come_and_go(server: &Server) {
    let opened = ask(server, "GET", "", "");
    let opened: Value = serde_json::from_str(opened.strip_prefix('0').unwrap()).unwrap();
    let query = format!("&sid={}", opened["sid"].as_str().unwrap());
    assert_eq!(ask(server, "POST", &query, "40"), "ok");
    let connected = ask(server, "GET", &query, "");
    assert!(connected.starts_with("40{"), "{connected}");
    assert_eq!(ask(server, "POST", &query, "41"), "ok");
}

#[test]
fn ends_before_a_kill_are_told_by_the_next_process() {
    let (app, at) = App::start();
    // Not the system's temporary folder: that may lie in memory, where no spool may be.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hook-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("t.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true\n[app]\nurl = \"http://{at}/\"\nsecret_env = \"SECRET\"\n\
         breaker_pause = \"10ms\"\nspool = {{ dir = \"{}\" }}\n",
        folder.join("app").display()
    );
    std::fs::write(&file, text).unwrap();
    let serve = || {
        let mut command = tidegate(&["serve", "-c", &file.display().to_string()]);
        command.env("SECRET", "a secret of the hook, of more than thirty-two bytes");
        Server::start_command(command)
    };
    let server = serve();
    (0..N).for_each(|_| come_and_go(&server));
    // What it was asked for once is on disk.
    let refused = app.until(false, N);
    server.signal("KILL");
    drop(server);
    app.is_up.store(true, Relaxed);
    let server = serve();
    assert_eq!(app.until(true, N), refused);
    server.until("/api/performance/application/stats", r#""waiting":0"#);
    drop(server);
    std::fs::remove_dir_all(&folder).unwrap();
}
