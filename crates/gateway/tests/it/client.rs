//! A small Socket.IO client over raw frames, which shows its tests every packet.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde_json::Value;
use tidegate_wire::{
    deflate::{Deflater, Inflater},
    engineio::{self, Packet as EnginePacket},
    socketio::{self, Kind, Limits},
    websocket::{OpCode, Reader, ReaderConfig, Role, WsEvent, put_masked_frame},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// How long anything may take before a test fails; generous, since other work may share the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const MASK: [u8; 4] = [7, 77, 177, 27];

/// A byte stream of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// One thing that came from the server.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Packet {
    Connect {
        namespace: String,
        data: Value,
    },
    Refused {
        namespace: String,
        data: Value,
    },
    Event {
        name: String,
        args: Vec<Value>,
        id: Option<u64>,
        binary: Vec<Bytes>,
    },
    Ack {
        id: u64,
        args: Value,
        binary: Vec<Bytes>,
    },
    Disconnect {
        namespace: String,
    },
    Ping,
    /// The close frame, or the end of the stream without one.
    Closed {
        code: Option<u16>,
        reason: String,
    },
}

/// How to open a connection.
#[derive(Clone, Default)]
pub(crate) struct Opening {
    /// Added to the query, beginning with `&`.
    pub(crate) query: &'static str,
    /// More request headers, each with its line end.
    pub(crate) headers: String,
    /// Offer permessage-deflate.
    pub(crate) deflate: bool,
    /// A small receive buffer, so that the server soon meets a full socket.
    pub(crate) small: bool,
    /// Dropped, it resets the connection as a crash would.
    pub(crate) resets: bool,
}

/// A connection, and the session of `/` on it.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    reader: Reader,
    inflater: Inflater,
    deflate: bool,
    buffer: Vec<u8>,
    kept: VecDeque<Packet>,
    assembling: Option<(String, usize, Vec<Bytes>)>,
    next_ack: u64,
    /// Answer pings by itself.
    pub(crate) pongs: bool,
    pub(crate) sid: String,
    pub(crate) pid: Option<String>,
    /// The last string argument of the last event, as standard clients keep it.
    pub(crate) offset: Option<String>,
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// A header of the answer, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(':'));
        lines
            .into_iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

// === impl Client ===

impl Client {
    /// A WebSocket with its Engine.IO handshake done, or the server's refusal.
    pub(crate) async fn try_open(at: SocketAddr, opening: &Opening) -> Result<Self, Answer> {
        let socket = TcpSocket::new_v4().unwrap();
        if opening.small {
            socket.set_recv_buffer_size(4_096).unwrap();
        }
        let stream = timeout(PATIENCE, socket.connect(at))
            .await
            .expect("connected in time")
            .unwrap();
        stream.set_nodelay(true).unwrap();
        if opening.resets {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
        Self::over(Box::new(stream), opening).await
    }

    /// As `try_open` over a stream of the caller's own.
    pub(crate) async fn over(stream: Box<dyn Stream>, opening: &Opening) -> Result<Self, Answer> {
        let path = format!("/socket.io/?EIO=4&transport=websocket{}", opening.query);
        let mut client = Self::upgrade(stream, &path, opening).await?;
        let open = client.next_text().await;
        assert!(open.starts_with("0{"), "handshake: {open}");
        Ok(client)
    }

    /// A WebSocket on any path.
    pub(crate) async fn upgrade(
        mut stream: Box<dyn Stream>,
        path: &str,
        opening: &Opening,
    ) -> Result<Self, Answer> {
        let extension = if opening.deflate {
            "Sec-WebSocket-Extensions: permessage-deflate\r\n"
        } else {
            ""
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extension}{}\r\n",
            opening.headers
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut buffer = Vec::new();
        let head_end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
            if read_some(&mut stream, &mut buffer).await == 0 {
                return Err(parse_answer(&buffer));
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
        if !head.starts_with("HTTP/1.1 101") {
            drain_body(&mut stream, &mut buffer, &head, head_end).await;
            return Err(parse_answer(&buffer));
        }
        Ok(Self {
            stream,
            reader: Reader::new(),
            inflater: Inflater::new(),
            deflate: head.to_ascii_lowercase().contains("permessage-deflate"),
            buffer: buffer.split_off(head_end),
            kept: VecDeque::new(),
            assembling: None,
            next_ack: 0,
            pongs: true,
            sid: String::new(),
            pid: None,
            offset: None,
        })
    }

    pub(crate) async fn open(at: SocketAddr) -> Self {
        Self::try_open(at, &Opening::default())
            .await
            .expect("the server accepts the connection")
    }

    /// An anonymous session of `/`.
    pub(crate) async fn connect(at: SocketAddr) -> Self {
        Self::connect_with(at, &Opening::default(), "").await
    }

    /// A session of `/` with this auth object, which must be let in.
    pub(crate) async fn connect_with(at: SocketAddr, opening: &Opening, auth: &str) -> Self {
        let mut client = Self::try_open(at, opening)
            .await
            .expect("the server accepts the connection");
        match client.enter(auth).await {
            Packet::Connect { .. } => client,
            other => panic!("not connected: {other:?}"),
        }
    }

    /// Asks to enter `/`; the answer is noted and returned.
    pub(crate) async fn enter(&mut self, auth: &str) -> Packet {
        self.send(&format!("40{auth}")).await;
        let answer = self.next().await;
        if let Packet::Connect { data, .. } = &answer {
            self.sid = data["sid"].as_str().unwrap().to_owned();
            self.pid = data["pid"].as_str().map(str::to_owned);
        }
        answer
    }

    /// The auth object with which this session comes back.
    pub(crate) fn recovery_auth(&self) -> String {
        recovery_auth(
            self.pid.as_deref().expect("a session with recovery"),
            self.offset.as_deref(),
        )
    }

    /// Comes back with the secret of a session.
    pub(crate) async fn reconnect(at: SocketAddr, auth: &str) -> Self {
        Self::connect_with(at, &Opening::default(), auth).await
    }

    /// The bare connection, for tests that need thousands and read none of them.
    pub(crate) fn into_stream(self) -> Box<dyn Stream> {
        self.stream
    }

    /// Sends an Engine.IO packet as one text frame.
    pub(crate) async fn send(&mut self, text: &str) {
        self.send_frame(OpCode::Text, text.as_bytes()).await;
    }

    pub(crate) async fn send_frame(&mut self, op: OpCode, data: &[u8]) {
        let mut bytes = Vec::new();
        put_masked_frame(&mut bytes, op, true, false, MASK, data);
        self.send_raw(&bytes).await;
    }

    /// Sends a text frame compressed, whatever that makes of its size.
    pub(crate) async fn send_deflated(&mut self, data: &[u8]) {
        let packed = Deflater::new(9).deflate(data, 15).unwrap();
        let mut bytes = Vec::new();
        put_masked_frame(&mut bytes, OpCode::Text, true, true, MASK, &packed);
        self.send_raw(&bytes).await;
    }

    /// Sends bytes as they are. A server that has closed already is no failure: the test reads why.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) {
        let written = timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("written in time");
        drop(written);
    }

    /// Sends an event without asking for an answer; `args` are JSON values with commas between.
    pub(crate) async fn emit(&mut self, name: &str, args: &str) {
        let comma = if args.is_empty() { "" } else { "," };
        self.send(&format!(r#"42["{name}"{comma}{args}]"#)).await;
    }

    /// Sends an event and returns the id of the answer it asks for.
    pub(crate) async fn emit_asking(&mut self, name: &str, args: &str) -> u64 {
        let id = self.next_ack;
        self.next_ack += 1;
        self.send(&format!(r#"42{id}["{name}",{args}]"#)).await;
        id
    }

    /// Sends an event and returns the first argument of its answer; what comes before is kept for later.
    pub(crate) async fn ask(&mut self, name: &str, args: &str) -> Value {
        let id = self.emit_asking(name, args).await;
        let mut before = VecDeque::new();
        loop {
            match self.next().await {
                Packet::Ack { id: got, args, .. } if got == id => {
                    before.append(&mut self.kept);
                    self.kept = before;
                    return args[0].clone();
                }
                Packet::Closed { code, reason } => panic!("closed instead of an answer: {code:?} {reason}"),
                other => before.push_back(other),
            }
        }
    }

    /// Joins rooms: a JSON string or list of them.
    pub(crate) async fn join(&mut self, rooms: &str) {
        assert_eq!(
            self.ask("join", rooms).await,
            serde_json::json!({"ok": true}),
            "join {rooms}"
        );
    }

    pub(crate) async fn answer(&mut self, id: u64, args: &str) {
        self.send(&format!("43{id}[{args}]")).await;
    }

    /// The next packet; pings are answered on the way.
    pub(crate) async fn next(&mut self) -> Packet {
        match self.kept.pop_front() {
            Some(packet) => packet,
            None => self.read_packet().await,
        }
    }

    /// Forgets what came before the answer of the last `ask`.
    pub(crate) fn forget_kept(&mut self) {
        self.kept.clear();
    }

    /// The next packet if there is one already.
    pub(crate) async fn next_within(&mut self, wait: Duration) -> Option<Packet> {
        timeout(wait, self.next()).await.ok()
    }

    /// The next packet, which must be an event: its name and arguments without the recovery offset.
    pub(crate) async fn event(&mut self) -> (String, Vec<Value>) {
        match self.next().await {
            Packet::Event { name, args, .. } => (name, args),
            other => panic!("an event was expected, not {other:?}"),
        }
    }

    /// The first argument of the next event, which must have this name.
    pub(crate) async fn data_of(&mut self, expected: &str) -> Value {
        let (name, mut args) = self.event().await;
        assert_eq!(name, expected, "with {args:?}");
        if args.is_empty() {
            Value::Null
        } else {
            args.swap_remove(0)
        }
    }

    /// Everything until the end, and how it ended.
    pub(crate) async fn closed(&mut self) -> (Vec<Packet>, Option<u16>, String) {
        let mut before = Vec::new();
        loop {
            match self.next().await {
                Packet::Closed { code, reason } => return (before, code, reason),
                other => before.push(other),
            }
        }
    }

    /// The code with which the server closes, whatever comes before.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        self.closed().await.1
    }

    async fn read_packet(&mut self) -> Packet {
        loop {
            match self.read_frame().await {
                Frame::Text(text) => {
                    if let Some(packet) = self.on_text(&text).await {
                        return packet;
                    }
                }
                Frame::Binary(data) => {
                    let (text, missing, mut parts) =
                        self.assembling.take().expect("an attachment of a packet");
                    parts.push(data);
                    if parts.len() == missing {
                        return self.socket_packet(&text, parts);
                    }
                    self.assembling = Some((text, missing, parts));
                }
                Frame::Closed(code, reason) => return Packet::Closed { code, reason },
            }
        }
    }

    async fn on_text(&mut self, text: &str) -> Option<Packet> {
        match engineio::decode_text(text).expect("the server sends Engine.IO packets") {
            EnginePacket::Ping(_) if self.pongs => {
                self.send("3").await;
                None
            }
            EnginePacket::Ping(_) => Some(Packet::Ping),
            EnginePacket::Message(message) => {
                let packet = socketio::decode(&message, &Limits::default()).expect("a Socket.IO packet");
                let attachments = packet.attachments;
                if attachments > 0 {
                    self.assembling = Some((message.into_owned(), attachments, Vec::new()));
                    return None;
                }
                Some(self.socket_packet(&message, Vec::new()))
            }
            other => panic!("unexpected Engine.IO packet {other:?}"),
        }
    }

    fn socket_packet(&mut self, text: &str, binary: Vec<Bytes>) -> Packet {
        let packet = socketio::decode(text, &Limits::default()).expect("it was decoded before");
        let namespace = packet.namespace.to_owned();
        let json = || serde_json::from_str::<Value>(packet.data).unwrap_or_default();
        match packet.kind {
            Kind::Connect => Packet::Connect {
                namespace,
                data: json(),
            },
            Kind::ConnectError => Packet::Refused {
                namespace,
                data: json(),
            },
            Kind::Disconnect => Packet::Disconnect { namespace },
            Kind::Ack | Kind::BinaryAck => Packet::Ack {
                id: packet.id.unwrap(),
                args: json(),
                binary,
            },
            Kind::Event | Kind::BinaryEvent => {
                let Value::Array(mut args) = json() else {
                    panic!("an event is an array: {text}")
                };
                let name = args.remove(0).as_str().unwrap().to_owned();
                if self.pid.is_some() && packet.id.is_none() {
                    let offset = args.pop().expect("every event carries an offset");
                    self.offset = Some(offset.as_str().expect("offsets are strings").to_owned());
                }
                Packet::Event {
                    name,
                    args,
                    id: packet.id,
                    binary,
                }
            }
        }
    }

    async fn next_text(&mut self) -> String {
        match self.read_frame().await {
            Frame::Text(text) => text,
            other => panic!("a text frame was expected, not {other:?}"),
        }
    }

    /// The next data message or the end; protocol-level pings and pongs are skipped.
    pub(crate) async fn read_frame(&mut self) -> Frame {
        let config = ReaderConfig {
            message_bytes_max: 256 << 20,
            deflate: self.deflate,
            role: Role::Client,
        };
        loop {
            while !self.buffer.is_empty() {
                let step = self.reader.step(&mut self.buffer, &config, &mut self.inflater);
                let step = step.expect("the server sends valid frames");
                let consumed = step.consumed;
                let frame = match step.event {
                    Some(WsEvent::Text(text)) => Some(Frame::Text(text.into_owned())),
                    Some(WsEvent::Binary(data)) => Some(Frame::Binary(data.into_owned().into())),
                    Some(WsEvent::Close { code, reason }) => Some(Frame::Closed(code, reason.into_owned())),
                    _ => None,
                };
                self.buffer.drain(..consumed);
                if let Some(frame) = frame {
                    return frame;
                }
            }
            if read_some(&mut self.stream, &mut self.buffer).await == 0 {
                return Frame::Closed(None, String::new());
            }
        }
    }
}

/// One WebSocket message.
#[derive(Debug)]
pub(crate) enum Frame {
    Text(String),
    Binary(Bytes),
    Closed(Option<u16>, String),
}

/// What a client sends with CONNECT to get its session back.
pub(crate) fn recovery_auth(pid: &str, offset: Option<&str>) -> String {
    match offset {
        Some(offset) => format!(r#"{{"pid":"{pid}","offset":"{offset}"}}"#),
        None => format!(r#"{{"pid":"{pid}"}}"#),
    }
}

// === HTTP ===

/// One request on a connection of its own.
pub(crate) async fn http(at: SocketAddr, request: &str) -> Answer {
    parse_answer(&raw_http(at, request.as_bytes()).await)
}

/// Everything the server says to these bytes until it ends the connection.
pub(crate) async fn raw_http(at: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(at).await.unwrap();
    // A server that refuses early may close while the rest is still being written.
    let _refused_early = timeout(PATIENCE, stream.write_all(request))
        .await
        .expect("written in time");
    let mut answer = Vec::new();
    while read_some(&mut stream, &mut answer).await > 0 {}
    answer
}

pub(crate) async fn get(at: SocketAddr, path: &str, headers: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    http(at, &request).await
}

pub(crate) async fn post(at: SocketAddr, path: &str, body: &str) -> Answer {
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    http(at, &request).await
}

/// A polling session: the path with its sid.
pub(crate) async fn open_polling(at: SocketAddr) -> String {
    let answer = get(at, "/socket.io/?EIO=4&transport=polling", "").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let open: Value = serde_json::from_str(&answer.body[1..]).unwrap();
    format!(
        "/socket.io/?EIO=4&transport=polling&sid={}",
        open["sid"].as_str().unwrap()
    )
}

/// A polling session that has entered `/`.
pub(crate) async fn connect_polling(at: SocketAddr) -> String {
    let path = open_polling(at).await;
    assert_eq!(post(at, &path, "40").await.body, "ok");
    let answer = get(at, &path, "").await;
    assert!(answer.body.starts_with("40{"), "{}", answer.body);
    path
}

/// Reads once; 0 at the end of the stream, a reset included.
async fn read_some(stream: &mut (impl AsyncRead + Unpin + ?Sized), into: &mut Vec<u8>) -> usize {
    into.reserve(16 << 10);
    let read = timeout(PATIENCE, stream.read_buf(into))
        .await
        .expect("something came in time");
    read.unwrap_or(0)
}

async fn drain_body(stream: &mut Box<dyn Stream>, buffer: &mut Vec<u8>, head: &str, head_end: usize) {
    let length = head.lines().filter_map(|line| line.split_once(':'));
    let length = length
        .into_iter()
        .find(|(key, _)| key.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map_or(0, |(_, value)| value.trim().parse().unwrap());
    while buffer.len() < head_end + length {
        if read_some(stream, buffer).await == 0 {
            return;
        }
    }
}

fn parse_answer(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    Answer {
        status,
        head: head.to_owned(),
        body: body.to_owned(),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
