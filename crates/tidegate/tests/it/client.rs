//! A small HTTP client and a small Socket.IO client over plain sockets.

use std::net::SocketAddr;

use serde_json::Value;
use tidegate_wire::websocket::OpCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.body))
    }

    /// The code of a failure.
    pub(crate) fn code(&self) -> String {
        let json = self.json();
        assert_eq!(json["ok"], false, "{json}");
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

/// One request on a connection of its own; `headers` are whole lines.
pub(crate) async fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[&str],
    body: Option<&str>,
) -> Answer {
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers
        .iter()
        .any(|line| line.to_ascii_lowercase().starts_with("host:"))
    {
        head += &format!("Host: {server}\r\n");
    }
    for line in headers {
        head += &format!("{line}\r\n");
    }
    if let Some(body) = body {
        if !headers.iter().any(|line| line.starts_with("Content-Type")) {
            head += "Content-Type: application/json\r\n";
        }
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream
        .write_all(format!("{head}\r\n{}", body.unwrap_or("")).as_bytes())
        .await
        .unwrap();
    let mut text = Vec::new();
    stream.read_to_end(&mut text).await.unwrap();
    parse(&String::from_utf8(text).unwrap())
}

/// A GET without headers of its own.
pub(crate) async fn get(server: SocketAddr, path: &str) -> Answer {
    request(server, "GET", path, &[], None).await
}

fn parse(text: &str) -> Answer {
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { unchunk(body) } else { body.to_owned() };
    Answer {
        status,
        head: head.to_owned(),
        body,
    }
}

fn unchunk(mut text: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        out += &rest[..size];
        text = rest[size..].trim_start_matches("\r\n");
        if size == 0 {
            break;
        }
    }
    out
}

/// What a client reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Text(String),
    Binary(Vec<u8>),
    /// The server closes with this code.
    Close(u16),
}

/// A Socket.IO client over WebSocket.
pub(crate) struct Client {
    stream: TcpStream,
    /// Its Socket.IO id.
    pub(crate) id: String,
    /// What gets its session back.
    pub(crate) pid: String,
}

impl Client {
    /// Connects to `/` with this auth payload.
    pub(crate) async fn connect(server: SocketAddr, auth: &str) -> Self {
        Self::connect_with(server, "", auth).await
    }

    /// As `connect`, with more lines in the head of the opening request.
    pub(crate) async fn connect_with(server: SocketAddr, headers: &str, auth: &str) -> Self {
        let mut client = Self::open(server, headers).await;
        let connected = client.enter(auth).await;
        let json: Value = serde_json::from_str(connected.strip_prefix("40").expect(&connected)).unwrap();
        client.id = json["sid"].as_str().unwrap().to_owned();
        client.pid = json["pid"].as_str().unwrap_or_default().to_owned();
        client
    }

    /// Asks to enter `/`; the packet that answers.
    pub(crate) async fn enter(&mut self, auth: &str) -> String {
        self.send(&format!("40{auth}")).await;
        self.read().await
    }

    /// A WebSocket whose Engine.IO handshake is done.
    pub(crate) async fn open(server: SocketAddr, headers: &str) -> Self {
        let mut stream = TcpStream::connect(server).await.unwrap();
        let request = format!(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        assert!(
            head.starts_with(b"HTTP/1.1 101"),
            "{}",
            String::from_utf8_lossy(&head)
        );
        let mut client = Self {
            stream,
            id: String::new(),
            pid: String::new(),
        };
        assert!(client.read().await.starts_with('0'));
        client
    }

    /// Sends one Engine.IO packet.
    pub(crate) async fn send(&mut self, packet: &str) {
        self.send_frame(OpCode::Text, packet.as_bytes()).await;
    }

    /// Sends one attachment.
    pub(crate) async fn send_binary(&mut self, data: &[u8]) {
        self.send_frame(OpCode::Binary, data).await;
    }

    async fn send_frame(&mut self, op: OpCode, payload: &[u8]) {
        let mut frame = Vec::new();
        tidegate_wire::websocket::put_masked_frame(&mut frame, op, true, false, [1, 2, 3, 4], payload);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// Sends an event that asks for an acknowledgement and returns the answer.
    pub(crate) async fn call(&mut self, event: &str, data: &str) -> Value {
        self.send(&format!("421[\"{event}\",{data}]")).await;
        loop {
            if let Some(json) = self.read().await.strip_prefix("431") {
                return serde_json::from_str(json).unwrap();
            }
        }
    }

    /// The next text frame.
    pub(crate) async fn read(&mut self) -> String {
        loop {
            if let Frame::Text(text) = self.frame().await {
                return text;
            }
        }
    }

    /// The code with which the server closes; what comes before it is skipped.
    pub(crate) async fn close_code(&mut self) -> u16 {
        loop {
            if let Frame::Close(code) = self.frame().await {
                return code;
            }
        }
    }

    /// The next frame of any kind.
    pub(crate) async fn frame(&mut self) -> Frame {
        loop {
            let first = self.stream.read_u8().await.unwrap();
            let size = match self.stream.read_u8().await.unwrap() {
                126 => u64::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap(),
                small => u64::from(small),
            };
            let mut payload = vec![0; size as usize];
            self.stream.read_exact(&mut payload).await.unwrap();
            match first {
                0x81 => return Frame::Text(String::from_utf8(payload).unwrap()),
                0x82 => return Frame::Binary(payload),
                0x88 => return Frame::Close(u16::from_be_bytes([payload[0], payload[1]])),
                _ => {}
            }
        }
    }
}
