//! The generator: thousands of raw-frame WebSocket clients on one epoll, which count and check what they are sent.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use flate2::{Decompress, FlushDecompress};

use crate::dialect::{Answer, Body, Dialect, NUMBER_KEY, STAMP_KEY, argument};
use crate::error::{Error, Result, Tried};
use crate::frame::{self, Head};
use crate::histogram::Histogram;
use crate::sys::Epoll;

/// Handshakes under way at one time; well below every server's accept backlog.
const CONNECTING_MAX: usize = 64;
/// One connection of so many has the numbers of all its messages checked.
const CHECKED_EVERY: usize = 16;
/// So many connections have all their deflated messages inflated and checked while a server is measured.
const N_INFLATED: usize = 4;
/// Every deflated message of ticks is longer than this, and every deflated packet of a protocol shorter.
const PACKET_BYTES_MAX: usize = 64;
/// When no further client has heard a probe for so long, another one is sent; doubled each time, because some
/// servers first prepare a message for everybody.
const PROBE_AGAIN: Duration = Duration::from_millis(500);
const N_PROBES: u32 = 7;
/// More than the largest burst that one connection is sent.
const SCRATCH_BYTES: usize = 256 * 1024;

/// Whom a swarm connects to, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Its protocol.
    pub(crate) dialect: Dialect,
    /// The rooms that every client joins.
    pub(crate) rooms: &'static [&'static str],
    /// Whether clients offer permessage-deflate.
    pub(crate) deflate: bool,
    /// Whether waiting burns the generator's core, so that no send has to wake it.
    pub(crate) spin: bool,
}

/// All clients of one server.
pub(crate) struct Swarm {
    target: Target,
    epoll: Epoll,
    connections: Vec<Connection>,
    board: Board,
    scratch: Vec<u8>,
    outgoing: Vec<u8>,
    body: Body,
    number: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for the 101.
    Upgrading,
    /// Waits for the end of the protocol's own handshake.
    Greeting,
    /// Receives deliveries.
    Live,
}

struct Connection {
    stream: TcpStream,
    index: usize,
    stage: Stage,
    /// An incomplete response head or frame.
    rest: Vec<u8>,
    received: u64,
    number: u32,
    inflater: Option<Box<Inflater>>,
}

struct Inflater {
    stream: Decompress,
    reset_each: bool,
}

/// How a delivery looks on the wire.
#[derive(Clone, Copy)]
struct Shape {
    line_bytes: usize,
    stamp_at: usize,
    number_at: usize,
}

/// Messages by which connections show that they are in the room.
struct Probe {
    /// The number of the first one.
    first: u32,
    hit: Vec<bool>,
    n_hits: usize,
    sample: Vec<u8>,
}

/// What all connections share.
struct Board {
    target: Target,
    epoch: Instant,
    now_ns: u64,
    n_live: usize,
    shape: Option<Shape>,
    probe: Option<Probe>,
    /// Deflated messages are counted, and inflated on few connections only: inflating all costs more than
    /// a good server's sending.
    skims: bool,
    deliveries: u64,
    reordered: u64,
    histogram: Option<Histogram>,
}

impl Swarm {
    /// A swarm without connections.
    pub(crate) fn new(target: Target) -> Result<Self> {
        let board = Board {
            target,
            epoch: Instant::now(),
            now_ns: 0,
            n_live: 0,
            shape: None,
            probe: None,
            skims: false,
            deliveries: 0,
            reordered: 0,
            histogram: None,
        };
        Ok(Self {
            target,
            epoll: Epoll::new().tried("make an epoll")?,
            connections: Vec::new(),
            board,
            scratch: vec![0; SCRATCH_BYTES],
            outgoing: Vec::new(),
            body: Body::Pad(0),
            number: 0,
        })
    }

    /// Connects until `n` clients are live.
    pub(crate) fn grow_to(&mut self, n: usize) -> Result<()> {
        let limit = Duration::from_secs(30) + Duration::from_millis(10) * n as u32;
        let start = Instant::now();
        while self.board.n_live < n {
            while self.connections.len() < n && self.connections.len() - self.board.n_live < CONNECTING_MAX {
                self.connect()?;
            }
            self.poll(5)?;
            if start.elapsed() > limit {
                let live = self.board.n_live;
                return Err(Error::Server(format!(
                    "{live} of {n} clients connected after {limit:?}"
                )));
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<()> {
        let address = self.target.address;
        let mut stream = TcpStream::connect(address).tried(format!("connect to {address}"))?;
        stream.set_nonblocking(true).tried("make a client non-blocking")?;
        stream.set_nodelay(true).tried("set no delay")?;
        let index = self.connections.len();
        self.epoll
            .add(stream.as_raw_fd(), index, false)
            .tried("watch a client")?;
        let request = frame::upgrade_request(
            &address.to_string(),
            self.target.dialect.path(),
            self.target.deflate,
        );
        stream.write_all(&request).tried("send an upgrade request")?;
        self.connections.push(Connection {
            stream,
            index,
            stage: Stage::Upgrading,
            rest: Vec::new(),
            received: 0,
            number: 0,
            inflater: None,
        });
        Ok(())
    }

    /// Nanoseconds on the swarm's clock.
    pub(crate) fn now_ns(&self) -> u64 {
        self.board.epoch.elapsed().as_nanos() as u64
    }

    /// How many clients are live.
    pub(crate) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Deliveries since [`Swarm::reset`].
    pub(crate) fn deliveries(&self) -> u64 {
        self.board.deliveries
    }

    /// Messages that arrived out of order at a checked connection since [`Swarm::reset`].
    pub(crate) fn reordered(&self) -> u64 {
        self.board.reordered
    }

    /// Ends the recording of latencies that [`Swarm::reset`] began.
    pub(crate) fn take_histogram(&mut self) -> Histogram {
        self.board.histogram.take().unwrap_or_else(Histogram::new)
    }

    // --- What is sent ---

    /// Makes every client show that it gets messages, and chooses padding so that a delivered frame has exactly
    /// `frame_bytes`, whatever the server adds to it.
    pub(crate) fn aim_at_frame(&mut self, frame_bytes: usize) -> Result<()> {
        let bare = self.probe(Body::Pad(0))?.len();
        let head_bytes = if frame_bytes <= 127 { 2 } else { 4 };
        let Some(pad) = (frame_bytes - head_bytes).checked_sub(bare) else {
            let shortest = bare + frame::server_head_bytes(bare);
            let text =
                format!("its shortest frame has {shortest} bytes, not {frame_bytes}: raise --frame-bytes");
            return Err(Error::Server(text));
        };
        self.aim(Body::Pad(pad))
    }

    /// Sends ticks as JSON from now on, about 70 bytes each.
    pub(crate) fn aim_at_ticks(&mut self, n_ticks: usize) -> Result<()> {
        if self.target.deflate {
            // Deflated frames have no constant length; that of a short message shows that all clients listen.
            self.probe(Body::Pad(0))?;
            self.body = Body::Ticks(n_ticks);
            self.settle()?;
            self.board.skims = true;
            return Ok(());
        }
        self.aim(Body::Ticks(n_ticks))
    }

    fn aim(&mut self, body: Body) -> Result<()> {
        let sample = self.probe(body)?;
        let find = |key: &[u8]| {
            sample
                .windows(key.len())
                .position(|window| window == key)
                .map(|at| at + key.len())
        };
        let (Some(stamp_at), Some(number_at)) = (find(STAMP_KEY), find(NUMBER_KEY)) else {
            return Err(Error::Server("it changed the message".into()));
        };
        self.body = body;
        self.settle()?;
        self.board.shape = Some(Shape {
            line_bytes: sample.len(),
            stamp_at,
            number_at,
        });
        Ok(())
    }

    /// Publishes until one message reached everybody, and returns it as it was delivered.
    fn probe(&mut self, body: Body) -> Result<Vec<u8>> {
        self.board.shape = None;
        self.body = body;
        let n = self.connections.len();
        let first = self.number.wrapping_add(1);
        self.board.probe = Some(Probe {
            first,
            hit: vec![false; n],
            n_hits: 0,
            sample: Vec::new(),
        });
        for attempt in 0..N_PROBES {
            self.publish(1, self.now_ns())?;
            if self.hears_probe(PROBE_AGAIN * 2_u32.pow(attempt))? {
                break;
            }
        }
        let probe = self.board.probe.take().expect("it was put there above");
        if probe.n_hits < n {
            let n_hits = probe.n_hits;
            return Err(Error::Server(format!(
                "a message reached {n_hits} of {n} clients"
            )));
        }
        Ok(probe.sample)
    }

    /// Waits until a message reached everybody; false if none came to a new client for a while, for then somebody
    /// was not in the room when it was published.
    fn hears_probe(&mut self, patience: Duration) -> Result<bool> {
        let mut n_hits = 0;
        let mut progress = Instant::now();
        while progress.elapsed() < patience {
            self.poll(1)?;
            let now = self.board.probe.as_ref().map_or(0, |probe| probe.n_hits);
            if now == self.connections.len() {
                return Ok(true);
            }
            if now > n_hits {
                (n_hits, progress) = (now, Instant::now());
            }
        }
        Ok(false)
    }

    /// Waits until nothing has come for 50 ms.
    fn settle(&mut self) -> Result<()> {
        let mut quiet = Instant::now();
        while quiet.elapsed() < Duration::from_millis(50) {
            if self.poll(10)? > 0 {
                quiet = Instant::now();
            }
        }
        Ok(())
    }

    /// Forgets all counts; `latencies` starts a histogram.
    pub(crate) fn reset(&mut self, latencies: bool) {
        self.board.deliveries = 0;
        self.board.reordered = 0;
        self.board.histogram = latencies.then(Histogram::new);
        for connection in &mut self.connections {
            connection.received = 0;
            connection.number = self.number;
        }
    }

    /// Sends `n` messages in one write on the first connection, stamped with `stamp_ns`.
    pub(crate) fn publish(&mut self, n: usize, stamp_ns: u64) -> Result<()> {
        self.outgoing.clear();
        for _ in 0..n {
            self.number = self.number.wrapping_add(1);
            let text = self
                .target
                .dialect
                .publication(&argument(stamp_ns, self.number, self.body));
            frame::push_masked(&mut self.outgoing, frame::TEXT, text.as_bytes());
        }
        let mut sent = 0;
        while sent < self.outgoing.len() {
            match self.connections[0].stream.write(&self.outgoing[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.poll(0)?;
                }
                Err(error) => return Err(error).tried("publish"),
            }
        }
        Ok(())
    }

    // --- What is received ---

    /// Waits until `total` deliveries were counted since the reset.
    pub(crate) fn wait_for(&mut self, total: u64, limit: Duration) -> Result<()> {
        let start = Instant::now();
        while self.board.deliveries < total {
            self.wait_turn()?;
            if start.elapsed() > limit {
                let got = self.board.deliveries;
                return Err(Error::Timeout {
                    got,
                    expected: total,
                    seconds: limit.as_secs(),
                });
            }
        }
        Ok(())
    }

    /// Receives until the swarm's clock shows `due_ns`.
    pub(crate) fn wait_until(&mut self, due_ns: u64) -> Result<()> {
        while self.now_ns() < due_ns {
            self.wait_turn()?;
        }
        Ok(())
    }

    /// Receives for a while without burning the core: for idle phases.
    pub(crate) fn rest(&mut self, span: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < span {
            self.poll(20)?;
        }
        Ok(())
    }

    /// Fails unless every client got exactly `n` messages since the reset.
    pub(crate) fn verify(&self, n: u64) -> Result<()> {
        match self
            .connections
            .iter()
            .find(|connection| connection.received != n)
        {
            None => Ok(()),
            Some(wrong) => {
                let (index, received) = (wrong.index, wrong.received);
                Err(Error::Server(format!(
                    "client {index} got {received} messages of {n}"
                )))
            }
        }
    }

    fn wait_turn(&mut self) -> Result<usize> {
        self.poll(i32::from(!self.target.spin))
    }

    fn poll(&mut self, timeout_ms: i32) -> Result<usize> {
        let n_ready = self.epoll.wait(timeout_ms).tried("wait for sockets")?;
        for index in 0..n_ready {
            self.receive(self.epoll.ready(index).token)?;
        }
        Ok(n_ready)
    }

    fn receive(&mut self, token: usize) -> Result<()> {
        let connection = &mut self.connections[token];
        loop {
            let kept = connection.rest.len();
            self.scratch[..kept].copy_from_slice(&connection.rest);
            match connection.stream.read(&mut self.scratch[kept..]) {
                Ok(0) => return Err(Error::Server(format!("it closed client {token}"))),
                Ok(n) => {
                    self.board.note_time();
                    let bytes = &self.scratch[..kept + n];
                    let used = connection.take_in(bytes, &mut self.board)?;
                    connection.rest.clear();
                    connection.rest.extend_from_slice(&bytes[used..]);
                    // A short read empties a socket: the next byte makes a new edge.
                    if bytes.len() < SCRATCH_BYTES {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).tried(format!("read from client {token}")),
            }
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Handles whole frames and returns how many bytes they took.
    fn take_in(&mut self, bytes: &[u8], board: &mut Board) -> Result<usize> {
        let mut at = 0;
        if self.stage == Stage::Upgrading {
            let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
                return Ok(0);
            };
            self.upgraded(&String::from_utf8_lossy(&bytes[..end + 2]), board)?;
            at = end + 4;
        }
        while let Some(head) = Head::read(&bytes[at..]) {
            let end = at.saturating_add(head.frame_bytes());
            if end > bytes.len() {
                break;
            }
            self.frame(head.first, &bytes[at + head.head_bytes..end], board)?;
            at = end;
        }
        Ok(at)
    }

    fn upgraded(&mut self, head: &str, board: &mut Board) -> Result<()> {
        if !head.starts_with("HTTP/1.1 101") {
            let status = head.lines().next().unwrap_or_default();
            return Err(Error::Server(format!("it answered {status:?} to an upgrade")));
        }
        self.stage = Stage::Greeting;
        if board.target.deflate {
            let agreed = frame::header(head, "sec-websocket-extensions").unwrap_or_default();
            if !agreed.contains("permessage-deflate") {
                return Err(Error::Server("it did not accept permessage-deflate".into()));
            }
            let reset_each = agreed.contains("server_no_context_takeover");
            self.inflater = Some(Box::new(Inflater {
                stream: Decompress::new(false),
                reset_each,
            }));
        }
        self.obey(board.target.dialect.opened(), board)
    }

    fn frame(&mut self, first: u8, payload: &[u8], board: &mut Board) -> Result<()> {
        match first {
            frame::TEXT => self.text(payload, board),
            frame::TEXT_DEFLATED => self.deflated(payload, board),
            frame::PING => self.send(frame::PONG, payload),
            frame::CLOSE => {
                let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                Err(Error::Server(format!(
                    "it sent a close frame to client {}: {reason:?}",
                    self.index
                )))
            }
            _ => Ok(()),
        }
    }

    /// A frame is one message, but Centrifuge joins several with line feeds.
    fn text(&mut self, payload: &[u8], board: &mut Board) -> Result<()> {
        let mut at = 0;
        while at < payload.len() {
            let end = match board.shape {
                Some(shape) if line_ends_at(payload, at + shape.line_bytes) => {
                    let line = &payload[at..at + shape.line_bytes];
                    self.deliver(line, shape, board);
                    at + shape.line_bytes
                }
                _ => {
                    let rest = &payload[at..];
                    let end = at + rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
                    self.hear(&payload[at..end], board)?;
                    end
                }
            };
            at = end + 1;
        }
        Ok(())
    }

    fn deliver(&mut self, line: &[u8], shape: Shape, board: &mut Board) {
        self.received += 1;
        board.deliveries += 1;
        if let Some(histogram) = &mut board.histogram {
            let stamp_ns = hex(&line[shape.stamp_at..shape.stamp_at + 16]);
            histogram.record(board.now_ns.saturating_sub(stamp_ns));
        }
        if self.index.is_multiple_of(CHECKED_EVERY) {
            self.check_number(hex(&line[shape.number_at..shape.number_at + 8]) as u32, board);
        }
    }

    fn check_number(&mut self, number: u32, board: &mut Board) {
        board.reordered += u64::from(number != self.number.wrapping_add(1));
        self.number = number;
    }

    fn deflated(&mut self, payload: &[u8], board: &mut Board) -> Result<()> {
        if board.skims && self.index >= N_INFLATED {
            if payload.len() <= PACKET_BYTES_MAX {
                // Of all packets only a ping comes so late, and its pong has no content.
                return self.hear(b"2", board);
            }
            self.received += 1;
            board.deliveries += 1;
            return Ok(());
        }
        let Some(inflater) = &mut self.inflater else {
            return Err(Error::Server("it deflates without being asked".into()));
        };
        let line = inflater.inflate(payload)?;
        match number_in(&line) {
            Some(number) if board.skims => {
                self.received += 1;
                board.deliveries += 1;
                self.check_number(number, board);
                Ok(())
            }
            _ => self.text(&line, board),
        }
    }

    /// A text that is not a counted delivery.
    fn hear(&mut self, text: &[u8], board: &mut Board) -> Result<()> {
        if let Some(probe) = &mut board.probe
            && number_in(text).is_some_and(|number| number >= probe.first)
        {
            if !std::mem::replace(&mut probe.hit[self.index], true) {
                probe.n_hits += 1;
                probe.sample = text.to_vec();
            }
            return Ok(());
        }
        self.obey(board.target.dialect.answer(text, board.target.rooms), board)
    }

    fn obey(&mut self, answer: Answer, board: &mut Board) -> Result<()> {
        let texts = match answer {
            Answer::Nothing => return Ok(()),
            Answer::Refused => return Err(Error::Server(format!("it refused client {}", self.index))),
            Answer::Send(texts) => texts,
            Answer::Live(texts) => {
                board.n_live += usize::from(self.stage != Stage::Live);
                self.stage = Stage::Live;
                texts
            }
        };
        texts
            .iter()
            .try_for_each(|text| self.send(frame::TEXT, text.as_bytes()))
    }

    /// Sends a few bytes, which a socket's buffer always has room for.
    fn send(&mut self, first: u8, payload: &[u8]) -> Result<()> {
        let mut bytes = Vec::with_capacity(payload.len() + 14);
        frame::push_masked(&mut bytes, first, payload);
        self.stream
            .write_all(&bytes)
            .tried(format!("answer on client {}", self.index))
    }
}

// === impl Inflater ===

impl Inflater {
    fn inflate(&mut self, payload: &[u8]) -> Result<Vec<u8>> {
        if self.reset_each {
            self.stream.reset(false);
        }
        // RFC 7692, 7.2.2: the sender took these four bytes away.
        let input = [payload, &[0, 0, 0xFF, 0xFF]].concat();
        let mut output = Vec::with_capacity(64 * 1024);
        match self
            .stream
            .decompress_vec(&input, &mut output, FlushDecompress::Sync)
        {
            Ok(_) => Ok(output),
            Err(error) => Err(Error::Server(format!("a message does not inflate: {error}"))),
        }
    }
}

// === impl Board ===

impl Board {
    fn note_time(&mut self) {
        if self.histogram.is_some() {
            self.now_ns = self.epoch.elapsed().as_nanos() as u64;
        }
    }
}

fn line_ends_at(payload: &[u8], end: usize) -> bool {
    payload.len() == end || payload.get(end) == Some(&b'\n')
}

/// The number in a message of ours, wherever the server put it.
fn number_in(text: &[u8]) -> Option<u32> {
    let at = text
        .windows(NUMBER_KEY.len())
        .position(|window| window == NUMBER_KEY)?
        + NUMBER_KEY.len();
    text.get(at..at + 8).map(|digits| hex(digits) as u32)
}

fn hex(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |value, digit| {
        let nibble = if *digit >= b'a' {
            digit - b'a' + 10
        } else {
            digit.wrapping_sub(b'0')
        };
        value << 4 | u64::from(nibble)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_digits_are_read_as_they_were_written() {
        for value in [0, 1, 0xDEAD_BEEF, u64::MAX] {
            assert_eq!(hex(format!("{value:016x}").as_bytes()), value);
        }
    }

    #[test]
    fn the_number_of_a_message_is_found() {
        let text = format!(r#"42["m",{}]"#, argument(1, 0xBEEF, Body::Pad(3)));
        assert_eq!(number_in(text.as_bytes()), Some(0xBEEF));
        assert_eq!(number_in(br#"42["m",{"n":"00"#), None);
        assert_eq!(number_in(b"2"), None);
    }

    #[test]
    fn a_line_ends_with_its_frame_or_a_line_feed() {
        assert!(line_ends_at(b"abc", 3));
        assert!(line_ends_at(b"abc\nabc", 3));
        assert!(!line_ends_at(b"abcd", 3));
        assert!(!line_ends_at(b"ab", 3));
    }
}
