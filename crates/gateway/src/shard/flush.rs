//! From the outboxes to the sockets: one write per connection and turn.

use std::rc::Rc;

use bytes::Bytes;
use tidegate_vitals::Instant;
use tidegate_wire::websocket;

use super::{
    BUDGET, FLUSH_MAX, Shard,
    command::PollReply,
    conn::{ConnState, Transport},
    timers::NEVER,
};
use crate::{
    close::CloseReason,
    message::{SessionRef, websocket_bytes},
    outbox::{Outbox, Run, Wire},
};

/// Bytes written to one connection before the others have their turn: some 30 µs of a loopback's work. Without it a
/// message of a megabyte would hold up everybody on the shard for each of its receivers.
const SHARE_BYTES: usize = 64 << 10;
/// One flush in so many is timed: the clock would cost more than the figure is worth.
const SAMPLE: u64 = 16;

impl Shard {
    /// The end of the flush window of what waits.
    pub(super) fn window_end(&self) -> Instant {
        self.dirty_since + self.load.window()
    }

    /// Writes what waits, the longest waiting first, within the budget. A connection that has more than its share goes on
    /// in the next turn, behind what came meanwhile.
    pub(super) fn flush(&mut self) {
        self.flush_urgent();
        if self.dirty.is_empty() || self.window_end() > self.now {
            return;
        }
        let began = self.shared.clock.now();
        let waiting = self.dirty.len().min(FLUSH_MAX);
        for n in 1..=waiting {
            let Some(index) = self.dirty.pop_front() else {
                break;
            };
            self.flush_if_dirty(index, SHARE_BYTES);
            if n % 16 == 0 && self.shared.clock.now().since(began) > BUDGET {
                break;
            }
        }
    }

    pub(super) fn flush_urgent(&mut self) {
        while let Some(index) = self.urgent.pop() {
            self.flush_if_dirty(index, usize::MAX);
        }
    }

    fn flush_if_dirty(&mut self, index: u32, share_bytes: usize) {
        if let Some(conn) = self.conns.get_mut(index as usize)
            && std::mem::take(&mut conn.dirty)
        {
            self.flush_share(index, share_bytes);
        }
    }

    /// Writes as much of a connection's outbox as its transport takes now.
    pub(super) fn flush_conn(&mut self, index: u32) {
        self.flush_share(index, usize::MAX);
    }

    /// The same for about so many bytes; what is left waits for the next turn.
    fn flush_share(&mut self, index: u32, share_bytes: usize) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        match &conn.transport {
            // Replies and batches wait like everything else, and are paid for.
            Transport::WebSocket(socket) if socket.blocked => self.settle(index),
            Transport::WebSocket(_) => self.flush_websocket(index, share_bytes),
            Transport::Polling(polling) if polling.waiting.is_some() => self.flush_polling(index),
            Transport::Polling(_) => self.settle(index),
        }
    }

    fn flush_websocket(&mut self, index: u32, share_bytes: usize) {
        let conn = &mut self.conns[index as usize];
        let Transport::WebSocket(socket) = &mut conn.transport else {
            return;
        };
        let wire = Wire {
            window_bits: socket.window_bits,
        };
        let latency = self
            .tally
            .sample(SAMPLE)
            .then(|| conn.outbox.oldest().map(|message| message.at))
            .flatten();
        let (mut failed, mut left) = (false, share_bytes);
        while left > 0 {
            let (bytes, entries) = conn.outbox.gather(&mut self.out, wire, &mut self.encoder, left);
            let asked = bytes.len();
            if asked == 0 {
                break;
            }
            match socket.link.write(bytes) {
                Ok(n) => {
                    let whole = (n == asked).then_some(entries).flatten();
                    let frames = note_written(&mut conn.outbox, n, whole, wire, &mut self.encoder);
                    self.tally.wrote(n, frames);
                    left = left.saturating_sub(n);
                    if n < asked {
                        socket.blocked = true;
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    socket.blocked = true;
                    break;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    failed = true;
                    break;
                }
            }
        }
        if let Ok(false) = socket.link.flush() {
            socket.blocked = true;
        }
        if left == 0 && !socket.blocked && !conn.outbox.is_empty() && !conn.dirty {
            conn.dirty = true;
            self.dirty.push_back(index);
        }
        let (blocked, charged) = (socket.blocked, conn.charged > 0);
        if let Some(at) = latency {
            let spent = self.shared.clock.now().since(at).as_nanos() as u64;
            self.shared.figures.delivery_latency.record(spent);
        }
        if failed {
            // Closed after the list that may be under way; nothing is written to it meanwhile.
            self.too_slow.push((index, CloseReason::TransportError));
        } else if blocked {
            self.wait_writable(index);
        } else {
            if charged {
                self.settle(index);
            }
            self.finish_if_flushed(index);
        }
    }

    /// The socket took less than it was given: watch it, and watch the clock.
    fn wait_writable(&mut self, index: u32) {
        let stall = self.shared.config.outbox.stall_timeout.as_millis() as u64;
        let conn = &mut self.conns[index as usize];
        // A closed connection has its deadline already, however slowly it takes the rest.
        if conn.is_open() {
            conn.stall_due_ms = self.now.as_millis() + stall;
        }
        self.interest(index);
        self.arm_conn(index);
        self.settle(index);
    }

    pub(super) fn on_writable(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        if let Transport::WebSocket(socket) = &mut conn.transport {
            if !socket.blocked {
                return;
            }
            socket.blocked = false;
            conn.dirty = false;
            if conn.state == ConnState::Open {
                conn.stall_due_ms = NEVER;
            }
        }
        self.flush_conn(index);
        // Still blocked: the interest stays; else it is no longer wanted.
        self.interest(index);
    }

    fn flush_polling(&mut self, index: u32) {
        let max = self.shared.config.payload_bytes_max;
        let conn = &mut self.conns[index as usize];
        let Transport::Polling(polling) = &mut conn.transport else {
            return;
        };
        if conn.outbox.is_empty() {
            return self.finish_if_flushed(index);
        }
        let mut frames = 0;
        let payload = conn
            .outbox
            .payload(max, polling.packets_max, &mut self.encoder, |run| {
                frames += run.n_messages() as u64;
            });
        if payload.is_empty() {
            return;
        }
        self.tally.wrote(payload.len(), frames);
        if let Some(reply) = polling.waiting.take() {
            // A client that hung up meanwhile comes back for recovery; the payload is lost with its request.
            let _hung_up = reply.send(PollReply::Payload(payload));
        }
        self.settle(index);
        self.finish_if_flushed(index);
    }

    /// A closed connection whose last frames are written is shut down.
    fn finish_if_flushed(&mut self, index: u32) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        if let ConnState::Flushing(_) = conn.state
            && conn.outbox.is_empty()
        {
            self.linger(index);
        }
    }

    /// Queues a packet for one connection.
    pub(super) fn send_text(&mut self, index: u32, text: String, attachments: Vec<Bytes>) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        let run = match &conn.transport {
            Transport::WebSocket(socket) => {
                let bits = socket.window_bits;
                Run::Raw(websocket_bytes(&text, &attachments, bits, &mut self.encoder))
            }
            Transport::Polling(_) => Run::Text { text, attachments },
        };
        self.send_run(index, run);
    }

    /// Queues a WebSocket frame for one connection.
    pub(super) fn send_frame(&mut self, index: u32, op: websocket::OpCode, data: &[u8]) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        let bits = match &conn.transport {
            Transport::WebSocket(socket) if !op.is_control() => socket.window_bits,
            _ => None,
        };
        let mut bytes = Vec::with_capacity(data.len() + 10);
        if bits.is_some() {
            self.encoder.put_data(&mut bytes, op, data, bits);
        } else {
            websocket::put_frame(&mut bytes, op, false, data);
        }
        self.send_run(index, Run::Raw(bytes));
    }

    pub(super) fn send_run(&mut self, index: u32, run: Run) {
        self.send_shared(index, Rc::new(run), false);
    }

    /// Queues what other connections may get as well, with its recovery offset where that is wanted.
    pub(super) fn send_shared(&mut self, index: u32, run: Rc<Run>, offset: bool) {
        let hard = self.shared.config.outbox.hard_bytes;
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        let over = !conn.outbox.is_empty() && conn.outbox.bytes() + run.bytes() > hard;
        if over && conn.is_open() && conn.is_blocked() {
            self.too_slow.push((index, CloseReason::SlowConsumer));
            return;
        }
        conn.outbox.push(run, offset);
        if !conn.dirty {
            conn.dirty = true;
            self.mark_dirty(index);
        }
        if over {
            self.flush_if_dirty(index, usize::MAX);
        }
    }

    /// Writes what waits for one session, or for all, at once.
    pub(super) fn on_flush(&mut self, session: Option<SessionRef>) {
        let chosen: Vec<u32> = match session {
            Some(session) => self.slot(session).into_iter().collect(),
            None => self.sessions.iter().map(|(index, _)| index as u32).collect(),
        };
        for index in chosen {
            self.flush_batch(index);
            let conn = self.sessions[index as usize].conn;
            self.flush_if_dirty(conn, usize::MAX);
        }
    }
}

/// Takes what is written out of the outbox, whole entries if it was just those; returns how many messages they were.
fn note_written(
    outbox: &mut Outbox,
    written: usize,
    whole: Option<usize>,
    wire: Wire,
    encoder: &mut crate::message::Encoder,
) -> u64 {
    let mut frames = 0;
    let count = |run: &Run| frames += run.n_messages() as u64;
    match whole {
        Some(entries) => outbox.pop(entries, count),
        None => outbox.advance(written, wire, encoder, count),
    }
    frames
}
