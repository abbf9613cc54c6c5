//! From a socket to packets: frames, heartbeats, Engine.IO.

use std::{borrow::Cow, panic::AssertUnwindSafe};

use bytes::Bytes;
use tidegate_wire::{
    engineio::{self, Packet},
    websocket::{OpCode, Reader, ReaderConfig, Role, WsError, WsEvent},
};

use super::{
    CONN_BYTES, SCRATCH_BYTES, Shard,
    command::NewWebSocket,
    conn::{Conn, ConnState, Heartbeat, Transport, WebSocket},
    poller::{Interest, Token},
    polling::refuse_socket,
    timers::NEVER,
};
use crate::{
    admission::Refusal,
    close::CloseReason,
    endpoint::{Kind, RawHandler, RawMessage},
    id::Id,
    outbox::{Outbox, Run},
};

/// Reads of one socket in one turn, so that a flood on one does not starve the others.
const READS_MAX: usize = 4;

impl Shard {
    /// A WebSocket that was just upgraded: a new connection, or the new transport of a polling one.
    pub(super) fn on_websocket(&mut self, new: NewWebSocket) {
        match new.upgrades {
            Some(sid) => self.on_upgrade(sid, new),
            None => self.open_websocket(new),
        }
    }

    fn open_websocket(&mut self, new: NewWebSocket) {
        if self.people.charge(CONN_BYTES).is_err() {
            self.shared.figures.refused(Refusal::Memory.as_str());
            let reason = CloseReason::OutOfMemory;
            return refuse_socket(new, reason, reason.as_str());
        }
        let permit = new.permit.expect("only an upgrade comes without one");
        let sid = Id::engine(0, self.index, &mut self.random);
        let generation = self.next_generation();
        let socket = WebSocket {
            link: new.link,
            reader: Reader::new(),
            window_bits: new.window_bits,
            blocked: false,
        };
        let conn = self.new_conn(
            generation,
            new.endpoint,
            Transport::WebSocket(socket),
            sid,
            permit,
            new.handshake,
        );
        let index = self.conns.insert(conn) as u32;
        self.count_load(1);
        let Transport::WebSocket(socket) = &self.conns[index as usize].transport else {
            return;
        };
        let token = Token {
            conn: index,
            generation,
            probe: false,
        };
        if self
            .poller
            .add(
                &socket.link,
                token,
                Interest {
                    read: true,
                    write: false,
                },
            )
            .is_err()
        {
            self.shared.figures.handshake_errors.inc();
            return self.remove_conn(index);
        }
        self.shared.figures.accepted.inc();
        if self.shared.endpoints[usize::from(new.endpoint)].is_engine() {
            let handshake = self.engine_handshake(sid, &[]);
            self.send_text(index, handshake, Vec::new());
        }
        self.arm_conn(index);
        if self.draining.is_some() {
            return self.close_conn(index, CloseReason::Draining);
        }
        if !new.early.is_empty() {
            let mut early = new.early.to_vec();
            self.feed(index, &mut early);
        }
    }

    pub(super) fn new_conn(
        &self,
        generation: u32,
        endpoint: u8,
        transport: Transport,
        sid: Id,
        permit: crate::admission::Permit,
        handshake: std::sync::Arc<super::conn::Handshake>,
    ) -> Conn {
        let now_ms = self.now.as_millis();
        let config = &self.shared.config;
        let kind = &self.shared.endpoints[usize::from(endpoint)];
        let heartbeat = if kind.is_engine() {
            Heartbeat {
                due_ms: now_ms + config.ping_interval.as_millis() as u64,
                waiting: false,
            }
        } else {
            Heartbeat::OFF
        };
        let is_socket_io = matches!(kind.kind, Kind::SocketIo);
        let connect_due_ms = if is_socket_io {
            now_ms + config.connect_timeout.as_millis() as u64
        } else {
            NEVER
        };
        Conn {
            generation,
            endpoint,
            dirty: false,
            paused: false,
            state: ConnState::Open,
            transport,
            outbox: Outbox::default(),
            charged: 0,
            sessions: smallvec::SmallVec::new(),
            sid,
            address: handshake.address,
            handshake: is_socket_io.then_some(handshake),
            heartbeat,
            connect_due_ms,
            stall_due_ms: NEVER,
            armed_ms: NEVER,
            assembly: None,
            unread: None,
            read_charged: 0,
            entering: 0,
            permit,
        }
    }

    /// The Engine.IO open packet.
    pub(super) fn engine_handshake(&self, sid: Id, upgrades: &[&str]) -> String {
        let config = &self.shared.config;
        engineio::Handshake {
            sid: sid.as_str(),
            upgrades,
            ping_interval_ms: config.ping_interval.as_millis() as u64,
            ping_timeout_ms: config.ping_timeout.as_millis() as u64,
            max_payload: config.payload_bytes_max,
        }
        .encode()
    }

    pub(super) fn on_readable(&mut self, index: u32) {
        let mut scratch = std::mem::take(&mut self.scratch);
        let generation = self.conns[index as usize].generation;
        for _ in 0..READS_MAX {
            let Some(conn) = self
                .conns
                .get_mut(index as usize)
                .filter(|conn| conn.generation == generation)
            else {
                break;
            };
            let lingering = conn.state != ConnState::Open;
            if conn.paused && !lingering {
                break;
            }
            let Transport::WebSocket(socket) = &mut conn.transport else {
                break;
            };
            match socket.link.read(&mut scratch) {
                Ok(0) => {
                    self.on_end_of_stream(index);
                    break;
                }
                // What still comes after a close is read only so that the peer is not reset.
                Ok(_) if lingering => {}
                Ok(n) => {
                    self.tally.bytes_in += n as u64;
                    self.feed(index, &mut scratch[..n]);
                    if n < SCRATCH_BYTES {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.abort_conn(index, CloseReason::TransportError);
                    break;
                }
            }
        }
        self.scratch = scratch;
    }

    fn on_end_of_stream(&mut self, index: u32) {
        let reason = match self.conns[index as usize].state {
            ConnState::Open => CloseReason::TransportClosed,
            ConnState::Flushing(reason) => reason,
            ConnState::Lingering { .. } => return self.remove_conn(index),
        };
        self.abort_conn(index, reason);
    }

    /// Hands received bytes to the connection's reader, frame by frame.
    pub(super) fn feed(&mut self, index: u32, bytes: &mut [u8]) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        let generation = conn.generation;
        let endpoint = &self.shared.endpoints[usize::from(conn.endpoint)];
        let Transport::WebSocket(socket) = &mut conn.transport else {
            return;
        };
        let config = ReaderConfig {
            message_bytes_max: endpoint.message_bytes_max,
            deflate: socket.window_bits.is_some(),
            role: Role::Server,
        };
        let mut reader = std::mem::take(&mut socket.reader);
        let mut at = 0;
        let mut failed = None;
        while at < bytes.len() {
            if self.conns[index as usize].paused {
                self.keep_unread(index, &bytes[at..]);
                break;
            }
            match reader.step(&mut bytes[at..], &config, &mut self.inflater) {
                Ok(step) => {
                    at += step.consumed;
                    match step.event {
                        Some(event) => self.on_ws_event(index, event),
                        None if step.consumed == 0 => break,
                        None => {}
                    }
                }
                Err(error) => failed = Some(error),
            }
            if failed.is_some() || !self.is_conn(index, generation) || !self.conns[index as usize].is_open() {
                break;
            }
        }
        if let Some(error) = failed {
            return self.on_ws_error(index, &error);
        }
        if !self.is_conn(index, generation) {
            return;
        }
        if let Transport::WebSocket(socket) = &mut self.conns[index as usize].transport {
            socket.reader = reader;
        }
        self.settle_read(index);
    }

    fn keep_unread(&mut self, index: u32, rest: &[u8]) {
        self.conns[index as usize]
            .unread
            .get_or_insert_default()
            .extend_from_slice(rest);
    }

    /// Keeps the account of incomplete messages true; a client whose message does not fit must go.
    pub(super) fn settle_read(&mut self, index: u32) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        let (buffered, charged) = (conn.read_bytes(), conn.read_charged);
        if buffered > charged {
            if self.reads.charge(buffered - charged).is_err() {
                return self.close_conn(index, CloseReason::OutOfMemory);
            }
        } else {
            self.reads.release(charged - buffered);
        }
        self.conns[index as usize].read_charged = buffered;
    }

    fn on_ws_error(&mut self, index: u32, error: &WsError) {
        let reason = match error.close_code() {
            1009 => CloseReason::TooLarge,
            1007 => CloseReason::InvalidData,
            _ => CloseReason::ParseError,
        };
        tracing::debug!(%error, "websocket closed for what the client sent");
        self.close_conn(index, reason);
    }

    fn on_ws_event(&mut self, index: u32, event: WsEvent<'_>) {
        match event {
            WsEvent::Text(text) => self.on_message(index, Message::Text(text)),
            WsEvent::Binary(data) => self.on_message(index, Message::Binary(data)),
            WsEvent::Ping(data) => self.send_frame(index, OpCode::Pong, &data),
            WsEvent::Pong(_) => {}
            WsEvent::Close { code, .. } => self.on_ws_close(index, code),
        }
    }

    /// The peer says goodbye: the same code back, then the end.
    fn on_ws_close(&mut self, index: u32, code: Option<u16>) {
        let mut bytes = Vec::new();
        match code {
            Some(code) => tidegate_wire::websocket::put_close(&mut bytes, code, ""),
            None => tidegate_wire::websocket::put_frame(&mut bytes, OpCode::Close, false, &[]),
        }
        self.send_run(index, Run::Raw(bytes));
        self.close_with(index, CloseReason::TransportClosed, false);
    }

    fn on_message(&mut self, index: u32, message: Message<'_>) {
        self.tally.messages_in += 1;
        let shared = self.shared.clone();
        match &shared.endpoints[usize::from(self.conns[index as usize].endpoint)].kind {
            Kind::WebSocket(handler) => {
                let answer = self.call_raw(handler, message.into_raw());
                self.answer_raw(index, answer);
            }
            Kind::SocketIo | Kind::EngineIo(_) => match message {
                Message::Text(text) => self.on_engine_text(index, &text),
                Message::Binary(data) => self.on_engine_binary(index, Bytes::copy_from_slice(&data)),
            },
        }
    }

    /// Runs the handler of a plain endpoint; a panic costs its answer, not the shard.
    fn call_raw(&self, handler: &RawHandler, message: RawMessage) -> Option<RawMessage> {
        std::panic::catch_unwind(AssertUnwindSafe(|| handler(message))).unwrap_or_else(|_| {
            self.shared.figures.handler_errors.inc();
            tracing::error!("handler of a plain endpoint panicked");
            None
        })
    }

    fn answer_raw(&mut self, index: u32, answer: Option<RawMessage>) {
        match answer {
            Some(RawMessage::Text(text)) => self.send_frame(index, OpCode::Text, text.as_bytes()),
            Some(RawMessage::Binary(data)) => self.send_frame(index, OpCode::Binary, &data),
            None => {}
        }
    }

    fn on_engine_text(&mut self, index: u32, text: &str) {
        match engineio::decode_text(text) {
            Ok(packet) => self.on_engine_packet(index, packet),
            Err(_) => self.close_conn(index, CloseReason::ParseError),
        }
    }

    /// One Engine.IO packet, from either transport.
    pub(super) fn on_engine_packet(&mut self, index: u32, packet: Packet<'_>) {
        match packet {
            Packet::Pong(_) => self.on_pong(index),
            Packet::Message(text) => self.on_engine_message(index, &text),
            Packet::Binary(data) => self.on_engine_binary(index, Bytes::from(data.into_owned())),
            Packet::Close => self.close_with(index, CloseReason::TransportClosed, true),
            Packet::Noop => {}
            Packet::Open(_) | Packet::Ping(_) | Packet::Upgrade => {
                self.close_conn(index, CloseReason::ParseError);
            }
        }
    }

    fn on_engine_message(&mut self, index: u32, text: &str) {
        let shared = self.shared.clone();
        match &shared.endpoints[usize::from(self.conns[index as usize].endpoint)].kind {
            Kind::EngineIo(handler) => match self.call_raw(handler, RawMessage::Text(text.to_owned())) {
                Some(RawMessage::Text(text)) => self.send_text(index, format!("4{text}"), Vec::new()),
                Some(RawMessage::Binary(data)) => self.send_engine_binary(index, data),
                None => {}
            },
            _ => self.on_socket_text(index, text),
        }
    }

    fn on_engine_binary(&mut self, index: u32, data: Bytes) {
        let shared = self.shared.clone();
        match &shared.endpoints[usize::from(self.conns[index as usize].endpoint)].kind {
            Kind::EngineIo(handler) => match self.call_raw(handler, RawMessage::Binary(data)) {
                Some(RawMessage::Text(text)) => self.send_text(index, format!("4{text}"), Vec::new()),
                Some(RawMessage::Binary(data)) => self.send_engine_binary(index, data),
                None => {}
            },
            _ => self.on_attachment(index, data),
        }
    }

    fn send_engine_binary(&mut self, index: u32, data: Bytes) {
        match &self.conns[index as usize].transport {
            Transport::WebSocket(_) => self.send_frame(index, OpCode::Binary, &data),
            Transport::Polling(_) => {
                self.send_run(
                    index,
                    Run::Text {
                        text: String::new(),
                        attachments: vec![data],
                    },
                );
            }
        }
    }

    /// The client answered our ping: it lives, and it has seen everything written before that ping.
    fn on_pong(&mut self, index: u32) {
        let interval = self.shared.config.ping_interval.as_millis() as u64;
        let conn = &mut self.conns[index as usize];
        if !conn.heartbeat.waiting {
            return;
        }
        conn.heartbeat = Heartbeat {
            due_ms: self.now.as_millis() + interval,
            waiting: false,
        };
        for slot in &conn.sessions {
            let session = &mut self.sessions[slot.session as usize];
            session.acked = session.acked.max(session.pinged);
        }
        self.arm_conn(index);
    }

    /// Deadlines of a connection.
    pub(super) fn on_conn_due(&mut self, index: u32, now_ms: u64) {
        let conn = &mut self.conns[index as usize];
        if let ConnState::Lingering { due_ms } = conn.state {
            if due_ms <= now_ms {
                self.remove_conn(index);
            }
            return;
        }
        if conn.stall_due_ms <= now_ms {
            if let ConnState::Flushing(reason) = conn.state
                && conn.is_switching()
            {
                // Its client neither switches nor gives up: perhaps it asks once more.
                return self.close_polling(index, reason);
            }
            if conn.is_open() {
                self.shared.figures.slow_closed.inc();
            }
            return self.abort_conn(index, CloseReason::SlowConsumer);
        }
        if conn.connect_due_ms <= now_ms {
            return self.close_conn(index, CloseReason::ConnectTimeout);
        }
        self.drop_overdue_probe(index, now_ms);
        let conn = &mut self.conns[index as usize];
        if conn.paused || conn.heartbeat.due_ms > now_ms {
            return;
        }
        if conn.heartbeat.waiting {
            return self.close_conn(index, CloseReason::PingTimeout);
        }
        // Counted from the moment it was due, so that a dead client is found in time whatever the turn took; but
        // after a long sleep of the whole process its clients must still be able to answer.
        let timeout = self.shared.config.ping_timeout.as_millis() as u64;
        conn.heartbeat.due_ms = (conn.heartbeat.due_ms + timeout).max(now_ms + timeout / 2);
        conn.heartbeat.waiting = true;
        for slot in &conn.sessions {
            let session = &mut self.sessions[slot.session as usize];
            // What a recovered session missed is not yet on its way before its mark has passed.
            if session.opened {
                session.pinged = session
                    .pinged
                    .max(self.spaces[usize::from(session.namespace)].seen);
            }
        }
        // What waits in a batch goes out before the ping that vouches for it.
        self.flush_batches(index);
        self.send_text(index, "2".to_owned(), Vec::new());
    }

    fn flush_batches(&mut self, index: u32) {
        let sessions: smallvec::SmallVec<[u32; 2]> = self.conns[index as usize]
            .sessions
            .iter()
            .map(|slot| slot.session)
            .collect();
        for session in sessions {
            self.flush_batch(session);
        }
    }

    /// Stops or goes on reading from a connection.
    pub(super) fn set_paused(&mut self, index: u32, paused: bool) {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return;
        };
        if conn.paused == paused {
            return;
        }
        conn.paused = paused;
        self.shared
            .figures
            .reading_paused
            .add(if paused { 1 } else { -1 });
        if !paused {
            // The time in which the client could not be heard does not count.
            let timeout = self.shared.config.ping_timeout.as_millis() as u64;
            let now_ms = self.now.as_millis();
            let due_ms = if conn.heartbeat.waiting {
                now_ms + timeout
            } else {
                now_ms
            };
            conn.heartbeat.due_ms = conn.heartbeat.due_ms.max(due_ms);
        }
        self.interest(index);
        self.arm_conn(index);
        if !paused && let Some(mut rest) = self.conns[index as usize].unread.take() {
            self.feed(index, &mut rest);
        }
        if !paused {
            self.take_held(index);
        }
    }
}

enum Message<'a> {
    Text(Cow<'a, str>),
    Binary(Cow<'a, [u8]>),
}

impl Message<'_> {
    fn into_raw(self) -> RawMessage {
        match self {
            Self::Text(text) => RawMessage::Text(text.into_owned()),
            Self::Binary(data) => RawMessage::Binary(Bytes::from(data.into_owned())),
        }
    }
}
