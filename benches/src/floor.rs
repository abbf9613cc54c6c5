//! The floor: a bare coalescing writer, which does nothing but the sends that any server must do.
//!
//! Every text message goes to every connection. All messages that one turn of epoll brought are appended to one
//! shared buffer, and each connection gets it in one `send`. No rooms, sessions, timers, limits or accounts.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use crate::error::{Result, Tried};
use crate::frame::{self, Head};
use crate::sys::Epoll;

const LISTENER: usize = usize::MAX;
const SCRATCH_BYTES: usize = 64 * 1024;

struct Peer {
    stream: TcpStream,
    upgraded: bool,
    /// An incomplete request head or frame.
    rest: Vec<u8>,
    /// What the kernel did not take yet.
    unsent: Vec<u8>,
}

struct Floor {
    listener: TcpListener,
    epoll: Epoll,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    scratch: Vec<u8>,
    /// The frames of this turn, the same for every connection.
    pending: Vec<u8>,
}

/// Serves until it is killed.
pub(crate) fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).tried(format!("listen on {address}"))?;
    listener
        .set_nonblocking(true)
        .tried("make the listener non-blocking")?;
    let epoll = Epoll::new().tried("make an epoll")?;
    epoll
        .add(listener.as_raw_fd(), LISTENER, false)
        .tried("watch the listener")?;
    let mut floor = Floor {
        listener,
        epoll,
        peers: Vec::new(),
        free: Vec::new(),
        scratch: vec![0; SCRATCH_BYTES],
        pending: Vec::new(),
    };
    loop {
        floor.turn()?;
    }
}

impl Floor {
    fn turn(&mut self) -> Result<()> {
        let n_ready = self.epoll.wait(-1).tried("wait for sockets")?;
        for index in 0..n_ready {
            let ready = self.epoll.ready(index);
            if ready.token == LISTENER {
                self.accept()?;
                continue;
            }
            if ready.writable {
                self.resume(ready.token);
            }
            if !self.receive(ready.token) {
                self.close(ready.token);
            }
        }
        self.flush();
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).tried("accept a connection"),
            };
            stream
                .set_nonblocking(true)
                .tried("make a connection non-blocking")?;
            stream.set_nodelay(true).tried("set no delay")?;
            let token = self.free.pop().unwrap_or(self.peers.len());
            self.epoll
                .add(stream.as_raw_fd(), token, true)
                .tried("watch a connection")?;
            let peer = Some(Peer {
                stream,
                upgraded: false,
                rest: Vec::new(),
                unsent: Vec::new(),
            });
            if token == self.peers.len() {
                self.peers.push(peer);
            } else {
                self.peers[token] = peer;
            }
        }
    }

    fn close(&mut self, token: usize) {
        if self.peers[token].take().is_some() {
            self.free.push(token);
        }
    }

    /// Reads what has come; false ends the connection.
    fn receive(&mut self, token: usize) -> bool {
        let Some(peer) = &mut self.peers[token] else {
            return true;
        };
        loop {
            match peer.stream.read(&mut self.scratch) {
                Ok(0) => return false,
                Ok(n) => {
                    if !peer.take_in(&mut self.scratch[..n], &mut self.pending) {
                        return false;
                    }
                    if n < SCRATCH_BYTES {
                        return true;
                    }
                }
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            }
        }
    }

    fn resume(&mut self, token: usize) {
        let Some(peer) = &mut self.peers[token] else {
            return;
        };
        if !peer.unsent.is_empty() {
            let unsent = std::mem::take(&mut peer.unsent);
            peer.send(&unsent);
        }
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        for peer in self.peers.iter_mut().flatten().filter(|peer| peer.upgraded) {
            peer.send(&self.pending);
        }
        self.pending.clear();
    }
}

impl Peer {
    fn take_in(&mut self, bytes: &mut [u8], pending: &mut Vec<u8>) -> bool {
        if self.upgraded && self.rest.is_empty() {
            let (used, open) = frames(bytes, pending);
            self.rest.extend_from_slice(&bytes[used..]);
            return open;
        }
        self.rest.extend_from_slice(bytes);
        if !self.upgraded {
            return self.upgrade();
        }
        let (used, open) = frames(&mut self.rest, pending);
        self.rest.drain(..used);
        open
    }

    fn upgrade(&mut self) -> bool {
        let Some(end) = self.rest.windows(4).position(|window| window == b"\r\n\r\n") else {
            return true;
        };
        let head = String::from_utf8_lossy(&self.rest[..end]).into_owned();
        self.rest.drain(..end + 4);
        let Some(key) = frame::header(&head, "sec-websocket-key") else {
            return false;
        };
        let accept = frame::accept_for(key);
        let reply = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.upgraded = true;
        self.send(reply.as_bytes());
        true
    }

    fn send(&mut self, bytes: &[u8]) {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return;
        }
        match self.stream.write(bytes) {
            Ok(sent) => self.unsent.extend_from_slice(&bytes[sent..]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.unsent.extend_from_slice(bytes),
            // The next read sees the end of the connection.
            Err(_) => {}
        }
    }
}

/// Appends every whole text frame to `pending`; returns the bytes used and whether the connection stays open.
fn frames(bytes: &mut [u8], pending: &mut Vec<u8>) -> (usize, bool) {
    let mut at = 0;
    while let Some(head) = Head::read(&bytes[at..]) {
        let end = at.saturating_add(head.frame_bytes());
        if end > bytes.len() {
            break;
        }
        let payload = &mut bytes[at + head.head_bytes..end];
        if let Some(mask) = head.mask {
            payload
                .iter_mut()
                .zip(mask.iter().cycle())
                .for_each(|(byte, mask)| *byte ^= mask);
        }
        match head.first {
            frame::TEXT => frame::push_plain(pending, frame::TEXT, payload),
            frame::CLOSE => return (end, false),
            _ => {}
        }
        at = end;
    }
    (at, true)
}
