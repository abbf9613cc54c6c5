//! HTTP long-polling and the upgrade from it.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_wire::{
    engineio::{self, Packet},
    websocket::{self, OpCode, Reader, ReaderConfig, Role, WsEvent},
};
use tokio::sync::oneshot;

use super::{
    CONN_BYTES, Shard,
    command::{NewWebSocket, Poll, PollReply, PollRequest},
    conn::{ConnState, Handshake, Held, Polling, Probe, Transport, WebSocket},
    poller::{Interest, Token},
};
use crate::{admission::Permit, close::CloseReason, id::Id};

/// Ends a request with nothing to say.
const NOOP: &[u8] = b"6";
/// Packets in one body: more than any client sends, few enough to handle in one turn.
const PACKETS_MAX: usize = 10_000;
/// Packets in one answer that python-engineio takes (`Payload.max_decode_packets`).
const PYTHON_PACKETS_MAX: usize = 16;
/// How long, and for how many sessions, a closed one is remembered for the request under way.
const GOODBYE_MS: u64 = 2_000;
const GOODBYES_MAX: usize = 256;
/// What is kept for it, at most; a client that is further behind learns that its session is unknown.
const GOODBYE_BYTES_MAX: usize = 16 << 10;
/// Error codes and texts of the Engine.IO protocol.
pub(crate) const UNKNOWN_SID: PollReply = PollReply::Refused(1, "Session ID unknown");
pub(crate) const BAD_REQUEST: PollReply = PollReply::Refused(3, "Bad request");

impl Shard {
    pub(super) fn on_poll(&mut self, poll: Poll) {
        match poll.request {
            PollRequest::Open {
                endpoint,
                handshake,
                permit,
            } => {
                self.open_polling(endpoint, handshake, permit, poll.reply);
            }
            PollRequest::Get { sid } => self.on_get(sid, poll.reply),
            PollRequest::Post { sid, body } => self.on_post(sid, body, poll.reply),
        }
    }

    fn open_polling(
        &mut self,
        endpoint: u8,
        handshake: Arc<Handshake>,
        permit: Permit,
        reply: oneshot::Sender<PollReply>,
    ) {
        if self.people.charge(CONN_BYTES).is_err() {
            let _hung_up = reply.send(PollReply::NoMemory);
            return;
        }
        let sid = Id::engine(0, self.index, &mut self.random);
        let generation = self.next_generation();
        let packets_max = if handshake.is_python() {
            PYTHON_PACKETS_MAX
        } else {
            usize::MAX
        };
        let polling = Transport::Polling(Box::new(Polling {
            packets_max,
            waiting: None,
            held: None,
            probe: None,
        }));
        let conn = self.new_conn(generation, endpoint, polling, sid, permit, handshake);
        let index = self.conns.insert(conn) as u32;
        self.count_load(1);
        self.sids.insert(sid, index);
        self.shared.figures.accepted.inc();
        let upgrades: &[&str] = if self.shared.config.websocket {
            &["websocket"]
        } else {
            &[]
        };
        let open = self.engine_handshake(sid, upgrades);
        self.arm_conn(index);
        if reply.send(PollReply::Payload(open.into_bytes())).is_err() {
            self.abort_conn(index, CloseReason::TransportClosed);
        }
    }

    /// The connection that polls with this sid, with its deadlines looked at first.
    fn polling(&mut self, sid: Id) -> Option<u32> {
        let index = *self.sids.get(&sid)?;
        let now_ms = self.shared.clock.now().as_millis();
        if self.conns[index as usize].next_due_ms() <= now_ms {
            self.on_conn_due(index, now_ms);
        }
        let conn = self.conns.get(index as usize)?;
        (conn.sid == sid && conn.is_open() && matches!(conn.transport, Transport::Polling(_)))
            .then_some(index)
    }

    fn on_get(&mut self, sid: Id, reply: oneshot::Sender<PollReply>) {
        let Some(index) = self.polling(sid) else {
            let answer = if self.is_closed_while_switching(sid) {
                NOOP.to_vec()
            } else if let Some(goodbye) = self.take_goodbye(sid) {
                goodbye
            } else {
                let _hung_up = reply.send(UNKNOWN_SID);
                return;
            };
            let _hung_up = reply.send(PollReply::Payload(answer));
            return;
        };
        let is_switching = self.conns[index as usize].is_switching();
        let Transport::Polling(polling) = &mut self.conns[index as usize].transport else {
            return;
        };
        if polling
            .waiting
            .as_ref()
            .is_some_and(|waiting| !waiting.is_closed())
        {
            let _hung_up = reply.send(BAD_REQUEST);
            return self.close_conn(index, CloseReason::Overlap);
        }
        if is_switching {
            // The client must end its last request before it may upgrade.
            let _hung_up = reply.send(PollReply::Payload(NOOP.to_vec()));
            return;
        }
        polling.waiting = Some(reply);
        self.flush_conn(index);
    }

    /// Whether a connection is closed and waits for its client to switch, and hear of it there.
    fn is_closed_while_switching(&self, sid: Id) -> bool {
        let conn = self
            .sids
            .get(&sid)
            .and_then(|index| self.conns.get(*index as usize));
        conn.is_some_and(|conn| conn.sid == sid && !conn.is_open() && conn.is_switching())
    }

    /// The end of a polling connection: what waits is answered, and the next request where none waits now.
    pub(super) fn close_polling(&mut self, index: u32, reason: CloseReason) {
        let conn = &mut self.conns[index as usize];
        conn.dirty = false;
        let is_blocked = conn.is_blocked();
        if reason == CloseReason::TransportClosed && is_blocked {
            // A client's last GET and the POST that closes travel on two connections, and the POST may be first.
            self.note_goodbye(index, NOOP.to_vec());
        } else if reason.is_terminal() {
            let last_words = if is_blocked { self.last_words(index) } else { None };
            self.note_goodbye(index, last_words.unwrap_or_else(|| b"1".to_vec()));
        }
        self.flush_conn(index);
        // The sid is dead at once, whoever still has to fetch the last packets.
        if self.conns.contains(index as usize) {
            self.remove_conn(index);
        }
    }

    /// What a client has still to hear, the DISCONNECT last, if it is little.
    fn last_words(&mut self, index: u32) -> Option<Vec<u8>> {
        let conn = &mut self.conns[index as usize];
        let Transport::Polling(polling) = &conn.transport else {
            return None;
        };
        if conn.outbox.bytes() > GOODBYE_BYTES_MAX {
            return None;
        }
        let mut frames = 0;
        let payload = conn
            .outbox
            .payload(GOODBYE_BYTES_MAX, polling.packets_max, &mut self.encoder, |run| {
                frames += run.n_messages() as u64;
            });
        self.tally.wrote(payload.len(), frames);
        (!payload.is_empty() && conn.outbox.is_empty()).then_some(payload)
    }

    fn note_goodbye(&mut self, index: u32, last_words: Vec<u8>) {
        if self.goodbyes.len() == GOODBYES_MAX {
            self.goodbyes.pop_front();
        }
        let (sid, due_ms) = (self.conns[index as usize].sid, self.now.as_millis() + GOODBYE_MS);
        self.goodbyes.push_back((sid, due_ms, last_words));
    }

    /// The answer to a GET that comes after the end of its session.
    fn take_goodbye(&mut self, sid: Id) -> Option<Vec<u8>> {
        let now_ms = self.now.as_millis();
        self.goodbyes.retain(|(_, due_ms, _)| *due_ms > now_ms);
        let found = self.goodbyes.iter().position(|(gone, ..)| *gone == sid)?;
        self.goodbyes.remove(found).map(|(.., last_words)| last_words)
    }

    fn on_post(&mut self, sid: Id, body: Bytes, reply: oneshot::Sender<PollReply>) {
        let Some(index) = self.polling(sid) else {
            // What was on its way is for nobody any more, and no error: the client has still to switch.
            let is_late = self.is_closed_while_switching(sid);
            let _hung_up = reply.send(if is_late { PollReply::Accepted } else { UNKNOWN_SID });
            return;
        };
        self.tally.bytes_in += body.len() as u64;
        if self.conns[index as usize].paused {
            return self.hold(index, Held { body, reply });
        }
        self.answer_post(index, Held { body, reply });
    }

    /// Keeps a body until reading goes on; its client sends no other meanwhile.
    fn hold(&mut self, index: u32, post: Held) {
        let Transport::Polling(polling) = &mut self.conns[index as usize].transport else {
            return;
        };
        if polling.held.is_some() {
            let _hung_up = post.reply.send(BAD_REQUEST);
            return self.close_conn(index, CloseReason::Overlap);
        }
        polling.held = Some(Box::new(post));
    }

    /// Reads what came while reading was paused.
    pub(super) fn take_held(&mut self, index: u32) {
        if let Some(conn) = self.conns.get_mut(index as usize)
            && let Transport::Polling(polling) = &mut conn.transport
            && let Some(post) = polling.held.take()
        {
            self.answer_post(index, *post);
        }
    }

    fn answer_post(&mut self, index: u32, Held { body, reply }: Held) {
        let answer = if self.take_payload(index, &body) {
            PollReply::Accepted
        } else {
            BAD_REQUEST
        };
        let _hung_up = reply.send(answer);
        self.settle_read(index);
    }

    /// Handles the packets of a body; false where it is not one.
    fn take_payload(&mut self, index: u32, body: &[u8]) -> bool {
        let generation = self.conns[index as usize].generation;
        let Ok(body) = std::str::from_utf8(body) else {
            self.close_conn(index, CloseReason::InvalidData);
            return false;
        };
        for packet in engineio::decode_payload(body, PACKETS_MAX) {
            if !self.is_conn(index, generation) || !self.conns[index as usize].is_open() {
                return true;
            }
            match packet {
                Ok(packet) => {
                    self.tally.messages_in += 1;
                    self.on_engine_packet(index, packet);
                }
                Err(_) => {
                    self.close_conn(index, CloseReason::ParseError);
                    return false;
                }
            }
        }
        true
    }

    /// A WebSocket that wants to become the transport of a polling connection.
    pub(super) fn on_upgrade(&mut self, sid: Id, new: NewWebSocket) {
        let due_ms = self.now.as_millis() + self.shared.config.upgrade_timeout.as_millis() as u64;
        let Some(index) = self.polling(sid) else {
            return refuse_socket(new, CloseReason::ParseError, "session unknown");
        };
        let generation = self.conns[index as usize].generation;
        let Transport::Polling(polling) = &mut self.conns[index as usize].transport else {
            return;
        };
        if polling.probe.is_some() {
            return refuse_socket(new, CloseReason::ParseError, "session unknown");
        }
        let token = Token {
            conn: index,
            generation,
            probe: true,
        };
        if self
            .poller
            .add(
                &new.link,
                token,
                Interest {
                    read: true,
                    write: false,
                },
            )
            .is_err()
        {
            return;
        }
        let socket = WebSocket {
            link: new.link,
            reader: Reader::new(),
            window_bits: new.window_bits,
            blocked: false,
        };
        polling.probe = Some(Box::new(Probe {
            socket,
            probed: false,
            due_ms,
        }));
        self.arm_conn(index);
        if !new.early.is_empty() {
            self.feed_probe(index, &mut new.early.to_vec());
        }
    }

    pub(super) fn on_probe_ready(&mut self, index: u32) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let read = match &mut self.conns[index as usize].transport {
            Transport::Polling(polling) => polling
                .probe
                .as_mut()
                .map(|probe| probe.socket.link.read(&mut scratch)),
            Transport::WebSocket(_) => None,
        };
        match read {
            Some(Ok(n)) if n > 0 => {
                self.tally.bytes_in += n as u64;
                self.feed_probe(index, &mut scratch[..n]);
            }
            Some(Err(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            // The client gave up upgrading; polling goes on.
            Some(_) => self.drop_probe(index),
            None => {}
        }
        self.scratch = scratch;
    }

    /// Before the upgrade only two packets are allowed: the probe, and the word to switch.
    fn feed_probe(&mut self, index: u32, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let Transport::Polling(polling) = &mut self.conns[index as usize].transport else {
                // Switched: what follows is ordinary traffic.
                return self.feed(index, &mut bytes[at..]);
            };
            let Some(probe) = &mut polling.probe else { return };
            let config = ReaderConfig {
                message_bytes_max: 1_024,
                deflate: probe.socket.window_bits.is_some(),
                role: Role::Server,
            };
            let Ok(step) = probe
                .socket
                .reader
                .step(&mut bytes[at..], &config, &mut self.inflater)
            else {
                return self.drop_probe(index);
            };
            at += step.consumed;
            let Some(event) = step.event else { continue };
            match probe_packet(&event) {
                Some(ProbePacket::Probe) => self.answer_probe(index),
                Some(ProbePacket::Upgrade) => self.switch(index),
                None => return self.drop_probe(index),
            }
        }
    }

    fn answer_probe(&mut self, index: u32) {
        let Transport::Polling(polling) = &mut self.conns[index as usize].transport else {
            return;
        };
        let Some(probe) = &mut polling.probe else { return };
        probe.probed = true;
        let mut frame = Vec::new();
        websocket::put_frame(&mut frame, OpCode::Text, false, b"3probe");
        // Eight bytes on a fresh socket always fit.
        let _written = probe.socket.link.write(&frame);
        if let Some(waiting) = polling.waiting.take() {
            let _hung_up = waiting.send(PollReply::Payload(NOOP.to_vec()));
        }
    }

    /// The WebSocket takes over, with everything that waits.
    fn switch(&mut self, index: u32) {
        let conn = &mut self.conns[index as usize];
        let Transport::Polling(polling) = &mut conn.transport else {
            return;
        };
        let Some(probe) = polling.probe.take().filter(|probe| probe.probed) else {
            return self.drop_probe(index);
        };
        if let Some(waiting) = polling.waiting.take() {
            let _hung_up = waiting.send(PollReply::Payload(NOOP.to_vec()));
        }
        conn.transport = Transport::WebSocket(probe.socket);
        self.sids.remove(&self.conns[index as usize].sid);
        let conn = &mut self.conns[index as usize];
        if let Transport::WebSocket(socket) = &conn.transport {
            let token = Token {
                conn: index,
                generation: conn.generation,
                probe: false,
            };
            // Registered by the probe; only the token changes.
            let _registered = self.poller.modify(
                &socket.link,
                token,
                Interest {
                    read: true,
                    write: false,
                },
            );
        }
        if let ConnState::Flushing(reason) = self.conns[index as usize].state {
            self.send_close(index, reason);
        }
        self.flush_conn(index);
    }

    pub(super) fn drop_overdue_probe(&mut self, index: u32, now_ms: u64) {
        if let Transport::Polling(polling) = &self.conns[index as usize].transport
            && polling.probe.as_ref().is_some_and(|probe| probe.due_ms <= now_ms)
        {
            self.drop_probe(index);
        }
    }

    fn drop_probe(&mut self, index: u32) {
        if let Transport::Polling(polling) = &mut self.conns[index as usize].transport
            && let Some(mut probe) = polling.probe.take()
        {
            probe.socket.link.finish();
            if let ConnState::Flushing(reason) = self.conns[index as usize].state {
                // It stays with polling, so it hears the rest there.
                self.close_polling(index, reason);
            }
        }
    }
}

enum ProbePacket {
    Probe,
    Upgrade,
}

fn probe_packet(event: &WsEvent<'_>) -> Option<ProbePacket> {
    let WsEvent::Text(text) = event else { return None };
    match engineio::decode_text(text) {
        Ok(Packet::Ping(data)) if data == "probe" => Some(ProbePacket::Probe),
        Ok(Packet::Upgrade) => Some(ProbePacket::Upgrade),
        _ => None,
    }
}

/// A socket that finds no place: its connection is gone or has its WebSocket already, or memory is short.
pub(super) fn refuse_socket(mut new: NewWebSocket, reason: CloseReason, text: &str) {
    let mut frame = Vec::<u8>::new();
    websocket::put_close(&mut frame, reason.code(), text);
    let _written = new.link.write(&frame);
    new.link.finish();
}

/// Whether a request body is one of the polling transport.
pub(crate) fn is_text(content_type: Option<&str>) -> bool {
    content_type
        .is_none_or(|kind| kind.starts_with("text/plain") || kind.starts_with("application/x-www-form"))
}
