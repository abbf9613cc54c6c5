//! Clients that ask a server to count and wait for its acknowledgements, all of them on one epoll.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use crate::error::{Error, Result, Tried};
use crate::frame::{self, Head};
use crate::histogram::Histogram;
use crate::sys::Epoll;

const PATH: &str = "/socket.io/?EIO=4&transport=websocket";
/// The longest answer to a handshake has some hundred bytes.
const SCRATCH_BYTES: usize = 16 << 10;
/// How long all clients may take to get in, and the next acknowledgement to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the clock is looked at while nothing comes.
const TURN_MS: i32 = 100;

/// All clients of one server.
pub(super) struct Clients {
    epoll: Epoll,
    clients: Vec<Client>,
    board: Board,
    /// Whose turn it is to ask.
    next: usize,
    scratch: Vec<u8>,
}

/// How clients came in that all connected at once.
pub(super) struct Arrival {
    /// Until the last of them was in.
    pub(super) took: Duration,
    /// Those that were refused, closed, or not in at the end of the patience.
    pub(super) n_failed: usize,
}

/// What was asked for a while.
pub(super) struct Asked {
    pub(super) n_acked: u64,
    pub(super) took: Duration,
    /// From the write of an event to the read of its acknowledgement.
    pub(super) latencies: Histogram,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Waits for the 101; to `Greeting`, or `Lost`.
    Upgrading,
    /// Waits for the end of the protocol's own handshake; to `In`, or `Lost`.
    Greeting,
    /// Asks; to `Lost`.
    In,
    /// The server refused or closed it, and nothing follows.
    Lost,
}

struct Client {
    stream: TcpStream,
    stage: Stage,
    /// An incomplete response head or frame.
    rest: Vec<u8>,
    /// The number of its next event, and the id that its acknowledgement has.
    number: u64,
    /// What is not acknowledged, with the time of its write.
    asked: VecDeque<(u64, Instant)>,
}

/// What all clients share.
struct Board {
    n_in: usize,
    n_lost: usize,
    last_in: Instant,
    n_acked: u64,
    latencies: Histogram,
}

impl Clients {
    /// Connects `n` clients without waiting for any, then waits until each is in or lost.
    pub(super) fn arrive(address: SocketAddr, n: usize) -> Result<(Self, Arrival)> {
        let start = Instant::now();
        let mut clients = Self {
            epoll: Epoll::new().tried("make an epoll")?,
            clients: Vec::with_capacity(n),
            board: Board {
                n_in: 0,
                n_lost: 0,
                last_in: start,
                n_acked: 0,
                latencies: Histogram::new(),
            },
            next: 0,
            scratch: vec![0; SCRATCH_BYTES],
        };
        for _ in 0..n {
            clients.connect(address)?;
        }
        while clients.board.n_in + clients.board.n_lost < n && start.elapsed() < PATIENCE {
            clients.poll()?;
        }
        let arrival = Arrival {
            took: clients.board.last_in - start,
            n_failed: n - clients.board.n_in,
        };
        Ok((clients, arrival))
    }

    /// The system completes a connection before the server accepts it, so this hardly waits.
    fn connect(&mut self, address: SocketAddr) -> Result<()> {
        let mut stream = TcpStream::connect(address).tried(format!("connect to {address}"))?;
        stream.set_nonblocking(true).tried("make a client non-blocking")?;
        stream.set_nodelay(true).tried("send at once")?;
        let token = self.clients.len();
        self.epoll
            .add(stream.as_raw_fd(), token, false)
            .tried("watch a client")?;
        let request = frame::upgrade_request(&address.to_string(), PATH, false);
        stream.write_all(&request).tried("ask for an upgrade")?;
        self.clients.push(Client {
            stream,
            stage: Stage::Upgrading,
            rest: Vec::new(),
            number: 0,
            asked: VecDeque::new(),
        });
        Ok(())
    }

    /// Asks for a while, each client in turn, so that `flight` events wait for their acknowledgement at any time, and
    /// then until the last is acknowledged.
    pub(super) fn ask(&mut self, flight: usize, time: Duration) -> Result<Asked> {
        self.board.n_acked = 0;
        self.board.latencies = Histogram::new();
        let start = Instant::now();
        for _ in 0..flight {
            self.ask_one()?;
        }
        let (mut n_asked, mut progress) = (flight as u64, start);
        while self.board.n_acked < n_asked {
            let before = self.board.n_acked;
            self.poll()?;
            if self.board.n_lost > 0 {
                return Err(Error::Server("it closed a client that was asking".to_owned()));
            }
            if self.board.n_acked > before {
                progress = Instant::now();
            } else if progress.elapsed() > PATIENCE {
                let text = format!("{before} of {n_asked} events acknowledged, and none for {PATIENCE:?}");
                return Err(Error::Server(text));
            }
            let n_free = self.board.n_acked - before;
            for _ in 0..if start.elapsed() < time { n_free } else { 0 } {
                self.ask_one()?;
                n_asked += 1;
            }
        }
        Ok(Asked {
            n_acked: n_asked,
            took: start.elapsed(),
            latencies: std::mem::replace(&mut self.board.latencies, Histogram::new()),
        })
    }

    fn ask_one(&mut self) -> Result<()> {
        let at = self.next;
        self.next = (at + 1) % self.clients.len();
        let client = &mut self.clients[at];
        client.number += 1;
        let number = client.number;
        client.asked.push_back((number, Instant::now()));
        let text = format!(r#"42{number}["count",{number}]"#);
        client.send(&text).tried("ask as a client")
    }

    fn poll(&mut self) -> Result<()> {
        let n_ready = self.epoll.wait(TURN_MS).tried("wait for sockets")?;
        for index in 0..n_ready {
            let client = &mut self.clients[self.epoll.ready(index).token];
            client.receive(&mut self.scratch, &mut self.board)?;
        }
        Ok(())
    }
}

// === impl Client ===

impl Client {
    /// Reads what there is; a connection that ends is a lost client and no error.
    fn receive(&mut self, scratch: &mut [u8], board: &mut Board) -> Result<()> {
        while self.stage != Stage::Lost {
            match self.stream.read(scratch) {
                Ok(0) => self.lose(board),
                Ok(n) => {
                    self.rest.extend_from_slice(&scratch[..n]);
                    self.take_in(board)?;
                    // A short read empties a socket: the next byte makes a new edge.
                    if n < scratch.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.lose(board),
            }
        }
        Ok(())
    }

    fn take_in(&mut self, board: &mut Board) -> Result<()> {
        let bytes = std::mem::take(&mut self.rest);
        let mut at = 0;
        if self.stage == Stage::Upgrading {
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
                self.rest = bytes;
                return Ok(());
            };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                self.lose(board);
                return Ok(());
            }
            self.stage = Stage::Greeting;
            at = end + 4;
        }
        while let Some(head) = Head::read(&bytes[at..]).filter(|head| head.frame_bytes() <= bytes.len() - at)
        {
            let payload = &bytes[at + head.head_bytes..at + head.frame_bytes()];
            match head.first {
                frame::TEXT => self.hear(payload, board)?,
                frame::CLOSE => self.lose(board),
                _ => {}
            }
            at += head.frame_bytes();
        }
        self.rest.extend_from_slice(&bytes[at..]);
        Ok(())
    }

    fn hear(&mut self, text: &[u8], board: &mut Board) -> Result<()> {
        match (self.stage, text) {
            (Stage::Greeting, [b'0', b'{', ..]) => self.answer("40", board),
            (_, b"2") => self.answer("3", board),
            (Stage::Greeting, [b'4', b'0', b'{', ..]) => {
                self.stage = Stage::In;
                board.n_in += 1;
                board.last_in = Instant::now();
            }
            (Stage::Greeting, [b'4', b'4', ..]) => self.lose(board),
            (Stage::In, [b'4', b'3', rest @ ..]) => return self.acknowledged(rest, board),
            _ => {}
        }
        Ok(())
    }

    /// `rest` is the id of the event, and the list of what its handler returned.
    fn acknowledged(&mut self, rest: &[u8], board: &mut Board) -> Result<()> {
        let now = Instant::now();
        let place =
            counted(rest).and_then(|number| self.asked.iter().position(|(asked, _)| *asked == number));
        let Some((_, written)) = place.and_then(|place| self.asked.remove(place)) else {
            let text = String::from_utf8_lossy(rest);
            return Err(Error::Server(format!("it acknowledged {text}, which is wrong")));
        };
        board.n_acked += 1;
        board.latencies.record((now - written).as_nanos() as u64);
        Ok(())
    }

    /// Part of the handshake or of a heartbeat: one that cannot be written is a lost client.
    fn answer(&mut self, text: &str, board: &mut Board) {
        if self.send(text).is_err() {
            self.lose(board);
        }
    }

    /// Sends a few bytes, which a socket's buffer always has room for.
    fn send(&mut self, text: &str) -> std::io::Result<()> {
        let mut bytes = Vec::with_capacity(text.len() + 14);
        frame::push_masked(&mut bytes, frame::TEXT, text.as_bytes());
        self.stream.write_all(&bytes)
    }

    fn lose(&mut self, board: &mut Board) {
        if self.stage == Stage::Lost {
            return;
        }
        board.n_in -= usize::from(self.stage == Stage::In);
        board.n_lost += 1;
        self.stage = Stage::Lost;
        // The other side may have closed it already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The event that `<id>[<n>]` acknowledges; none unless `n` is the number after it.
fn counted(rest: &[u8]) -> Option<u64> {
    let (id, list) = std::str::from_utf8(rest).ok()?.split_once('[')?;
    let number: u64 = id.parse().ok()?;
    let answer: u64 = list.strip_suffix(']')?.trim().parse().ok()?;
    (answer.checked_sub(1) == Some(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(rest: &str, expected: Option<u64>) {
        assert_eq!(counted(rest.as_bytes()), expected, "{rest}");
    }

    #[test]
    fn an_acknowledgement_is_that_of_its_event() {
        check("7[8]", Some(7));
        check("0[1]", Some(0));
        check("7[7]", None);
        check("7[0]", None);
        check(r#"7[{"error":"app_unavailable"}]"#, None);
        check("7[]", None);
        check("7[8", None);
        check("[8]", None);
    }
}
