//! The end of sessions and connections, each with one reason.

use tidegate_wire::{socketio, websocket};

use super::{
    CONN_BYTES, SESSION_BYTES, Shard,
    command::PollReply,
    conn::{Conn, ConnState, NO_CONN, Transport},
    timers::NEVER,
};
use crate::{close::CloseReason, message::SessionRef, outbox::Run};

/// How long a closed socket may take to say goodbye.
const LINGER_MS: u64 = 2_000;

impl Shard {
    /// Closes a connection: its sessions end or wait, what is queued is still written, then the reason.
    pub(super) fn close_conn(&mut self, index: u32, reason: CloseReason) {
        self.close_with(index, reason, true);
    }

    /// As `close_conn`; without saying why to a peer that knows.
    pub(super) fn close_with(&mut self, index: u32, reason: CloseReason, say: bool) {
        let Some(conn) = self.conns.get(index as usize).filter(|conn| conn.is_open()) else {
            return;
        };
        let terminal = reason.is_terminal();
        let engine = self.shared.endpoints[usize::from(conn.endpoint)].is_engine();
        // A client that closes hears nothing more.
        let switches = conn.is_switching() && reason != CloseReason::TransportClosed;
        self.end_sessions(index, reason, terminal);
        self.shared.figures.closed(reason);
        match &self.conns[index as usize].transport {
            Transport::WebSocket(_) if say => self.send_close(index, reason),
            // Who is told to stay away closes by itself: a close packet beside the DISCONNECT would come before it.
            Transport::Polling(_) if engine && !terminal && !switches => {
                // A request that waits must end: with the reason, or with nothing to say where the client closed.
                let text = if reason == CloseReason::TransportClosed {
                    "6"
                } else {
                    "1"
                };
                self.send_run(
                    index,
                    Run::Text {
                        text: text.to_owned(),
                        attachments: Vec::new(),
                    },
                );
            }
            _ => {}
        }
        let slow = matches!(reason, CloseReason::SlowConsumer | CloseReason::OutOfMemory);
        if slow || reason == CloseReason::TransportError {
            // Its socket takes nothing: waiting for it to take a goodbye would keep all that memory.
            return self.finish_conn(index);
        }
        let conn = &mut self.conns[index as usize];
        conn.state = ConnState::Flushing(reason);
        conn.heartbeat.due_ms = NEVER;
        conn.connect_due_ms = NEVER;
        // A peer that does not take the rest is cut at the end of this.
        conn.stall_due_ms = self.now.as_millis() + LINGER_MS;
        if conn.paused {
            conn.paused = false;
            self.shared.figures.reading_paused.add(-1);
            self.interest(index);
        }
        let is_polling = matches!(self.conns[index as usize].transport, Transport::Polling(_));
        if is_polling && !switches {
            return self.close_polling(index, reason);
        }
        self.arm_conn(index);
        // Who changes to a WebSocket polls no more, and listens there after its word to switch.
        if !is_polling {
            self.flush_conn(index);
        }
    }

    /// Ends a connection whose socket is of no use any more.
    pub(super) fn abort_conn(&mut self, index: u32, reason: CloseReason) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        if conn.is_open() {
            self.end_sessions(index, reason, false);
            self.shared.figures.closed(reason);
        }
        self.finish_conn(index);
    }

    fn finish_conn(&mut self, index: u32) {
        if let Some(conn) = self.conns.get_mut(index as usize)
            && let Transport::WebSocket(socket) = &mut conn.transport
        {
            socket.link.finish();
        }
        self.remove_conn(index);
    }

    fn end_sessions(&mut self, index: u32, reason: CloseReason, say: bool) {
        let sessions = std::mem::take(&mut self.conns[index as usize].sessions);
        for slot in sessions {
            if say {
                self.send_disconnect(index, slot.namespace);
            }
            let session = &self.sessions[slot.session as usize];
            let known = session.opened || session.recovered > 0 || !session.rooms.is_empty();
            if reason.is_recoverable() && session.pid.is_some() && known && !self.ended {
                self.detach(slot.session, reason);
                self.wait_for_recovery(slot.session);
            } else {
                self.remove_session(slot.session, reason);
            }
        }
    }

    pub(super) fn send_close(&mut self, index: u32, reason: CloseReason) {
        let mut bytes = Vec::new();
        websocket::put_close(&mut bytes, reason.code(), reason.as_str());
        self.send_run(index, Run::Raw(bytes));
    }

    pub(super) fn send_disconnect(&mut self, conn: u32, namespace: u16) {
        let mut text = String::with_capacity(16);
        socketio::put_disconnect(&mut text, &self.shared.namespaces[usize::from(namespace)].name);
        self.send_text(conn, text, Vec::new());
    }

    /// All is written and our side shut down: the connection waits for the peer's end.
    pub(super) fn linger(&mut self, index: u32) {
        let due_ms = self.now.as_millis() + LINGER_MS;
        let conn = &mut self.conns[index as usize];
        match &mut conn.transport {
            Transport::WebSocket(socket) => {
                socket.link.finish();
                conn.state = ConnState::Lingering { due_ms };
                conn.stall_due_ms = NEVER;
                self.interest(index);
                self.arm_conn(index);
            }
            Transport::Polling(_) => self.remove_conn(index),
        }
    }

    /// Takes a connection out; its socket closes, its place and memory are given back.
    pub(super) fn remove_conn(&mut self, index: u32) {
        let Some(mut conn) = self.conns.try_remove(index as usize) else {
            return;
        };
        self.count_load(-1);
        if conn.paused {
            self.shared.figures.reading_paused.add(-1);
        }
        self.people.release(CONN_BYTES);
        self.outboxes.release(conn.charged);
        self.reads.release(conn.read_charged);
        self.sids.remove(&conn.sid);
        if let Transport::Polling(polling) = &mut conn.transport
            && let Some(waiting) = polling.waiting.take()
        {
            let _hung_up = waiting.send(PollReply::Payload(b"1".to_vec()));
        }
    }

    /// Ends one session; its connection goes on if it has others.
    pub(super) fn end_session(&mut self, index: u32, reason: CloseReason) {
        let session = &self.sessions[index as usize];
        let (conn, namespace) = (session.conn, session.namespace);
        if conn == NO_CONN {
            return self.remove_session(index, reason);
        }
        if self.conns[conn as usize].sessions.len() == 1 && reason != CloseReason::ClientLeft {
            return self.close_conn(conn, reason);
        }
        if reason != CloseReason::ClientLeft {
            self.send_disconnect(conn, namespace);
        }
        let connection = &mut self.conns[conn as usize];
        connection.sessions.retain(|slot| slot.session != index);
        if connection.sessions.is_empty() {
            let timeout = self.shared.config.connect_timeout.as_millis() as u64;
            connection.connect_due_ms = self.now.as_millis() + timeout;
            self.arm_conn(conn);
        }
        self.shared.figures.closed(reason);
        self.remove_session(index, reason);
        // Its handlers may have been why the connection was not read.
        self.resume_reading(conn);
    }

    pub(super) fn on_cut(&mut self, at: SessionRef) {
        if let Some(index) = self.slot(at) {
            let conn = self.sessions[index as usize].conn;
            self.abort_conn(conn, CloseReason::TransportError);
        }
    }

    /// The session loses its connection but stays.
    pub(super) fn detach(&mut self, index: u32, reason: CloseReason) {
        let conn = self.sessions[index as usize].conn;
        if reason == CloseReason::Replaced
            && let Some(connection) = self.conns.get_mut(conn as usize)
        {
            connection.sessions.retain(|slot| slot.session != index);
            let namespace = self.sessions[index as usize].namespace;
            self.send_disconnect(conn, namespace);
            if self.conns[conn as usize].sessions.is_empty() {
                self.close_conn(conn, reason);
            } else {
                self.resume_reading(conn);
            }
        }
        self.tell_disconnect(index, reason);
        // What was collected is replayed.
        let _collected = self.take_batch(index);
        let session = &mut self.sessions[index as usize];
        session.conn = NO_CONN;
        session.lost = reason;
        self.update_lists(index);
    }

    /// Starts the recovery window, and the grace of presence.
    pub(super) fn wait_for_recovery(&mut self, index: u32) {
        let now_ms = self.now.as_millis();
        let session = &mut self.sessions[index as usize];
        session.expires_ms = now_ms + self.shared.config.recovery.window.as_millis() as u64;
        if session.rooms.iter().any(|membership| membership.presence) {
            session.grace_ms = now_ms + self.load.presence_grace_ms();
        }
        self.arm_session(index);
    }

    /// Deadlines of a session: its batch, its presence, its token or its recovery window.
    pub(super) fn on_session_due(&mut self, index: u32, now_ms: u64) {
        let session = &mut self.sessions[index as usize];
        if session.grace_ms <= now_ms {
            session.grace_ms = NEVER;
            self.set_present(index, false);
        }
        let session = &mut self.sessions[index as usize];
        if session.expires_ms <= now_ms {
            let waiting = session.conn == NO_CONN;
            session.expires_ms = NEVER;
            return if waiting {
                let reason = self.sessions[index as usize].lost;
                self.remove_session(index, reason);
            } else {
                self.end_session(index, CloseReason::TokenExpired);
            };
        }
        if session
            .batching
            .as_ref()
            .is_some_and(|batching| batching.due_ms <= now_ms)
        {
            self.flush_batch(index);
        }
    }

    /// Whether presence counts a session.
    pub(super) fn set_present(&mut self, index: u32, present: bool) {
        let session = &mut self.sessions[index as usize];
        if session.present == present {
            return;
        }
        session.present = present;
        let who = session.who();
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        for membership in session.rooms.iter().filter(|membership| membership.presence) {
            if present {
                namespace.arrive(membership.id, &who);
            } else {
                namespace.depart(membership.id, &who);
            }
        }
    }

    /// Ends a session for good and gives back everything it held.
    pub(super) fn remove_session(&mut self, index: u32, reason: CloseReason) {
        if self.sessions[index as usize].conn != NO_CONN {
            self.tell_disconnect(index, reason);
        }
        let noted = self.note_end(index, reason);
        self.set_present(index, false);
        let at = self.reference(index);
        self.remove_from_lists(index);
        let _collected = self.take_batch(index);
        let session = self.sessions.remove(index as usize);
        self.people.release(SESSION_BYTES);
        self.tally.sessions -= 1;
        let rooms: Vec<_> = session.rooms.iter().map(|membership| membership.id).collect();
        let user = session.user();
        self.shared.namespaces[usize::from(session.namespace)].close(session.id, at, user, &rooms);
        if let Some(pid) = session.pid {
            self.shared.remove_pid(pid);
        }
        if let Some(user) = user {
            self.shared.admission.release_user(user);
        }
        if noted {
            self.shared.wind_up(session.id);
        }
    }

    /// Ends every session and cuts every connection. The shard still answers: handlers of what ends may ask it.
    pub(super) fn end_all(&mut self) {
        self.end_told();
        let conns: Vec<u32> = self.conns.iter().map(|(index, _)| index as u32).collect();
        for index in conns {
            self.abort_conn(index, CloseReason::Draining);
        }
    }

    /// The thread ends.
    pub(super) fn on_stop(&mut self) {
        self.stopped = true;
        self.end_told();
    }

    /// Whoever wants to know of the end of sessions hears of those that are left.
    fn end_told(&mut self) {
        self.ended = true;
        let told = |namespace: u16| {
            self.shared.namespaces[usize::from(namespace)]
                .handlers
                .on_end
                .is_some()
        };
        let sessions = self
            .sessions
            .iter()
            .filter(|(_, session)| told(session.namespace));
        let left: Vec<(u32, u32)> = sessions
            .map(|(index, session)| (index as u32, session.conn))
            .collect();
        for (index, conn) in left {
            let reason = match self.conns.get_mut(conn as usize) {
                Some(conn) => {
                    conn.sessions.retain(|slot| slot.session != index);
                    CloseReason::Draining
                }
                None => self.sessions[index as usize].lost,
            };
            self.remove_session(index, reason);
        }
    }

    /// Tells the application that a session lost its connection.
    fn tell_disconnect(&mut self, index: u32, reason: CloseReason) {
        let session = &self.sessions[index as usize];
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        if let (Some(handler), Some(runtime), true) = (
            namespace.handlers.on_disconnect.clone(),
            &self.shared.runtime,
            session.opened,
        ) {
            runtime.spawn(handler(self.socket(index), reason));
        }
    }

    /// Takes a session off the lists of its namespace and rooms.
    pub(super) fn remove_from_lists(&mut self, index: u32) {
        if !self.sessions[index as usize].opened {
            return;
        }
        let session = &self.sessions[index as usize];
        let (namespace, place) = (session.namespace, session.place as usize);
        let rooms: Vec<_> = session.rooms.clone();
        for membership in rooms {
            // Looked up again: taking one place can move another of the same session's.
            let position = self.sessions[index as usize].membership(membership.id);
            let current = self.sessions[index as usize].rooms[position.expect("rooms are not changed here")];
            self.remove_place(namespace, current);
        }
        let members = &mut self.spaces[usize::from(namespace)].members;
        members.swap_remove(place);
        if let Some(moved) = members.get(place) {
            self.sessions[moved.session as usize].place = place as u32;
        }
        if members.is_empty() {
            self.spaces[usize::from(namespace)].members = Vec::new();
        }
    }

    /// Copies what deliveries need to know of a session to the lists it is on.
    fn update_lists(&mut self, index: u32) {
        let session = &self.sessions[index as usize];
        if !session.opened {
            return;
        }
        let member = session.member(index);
        let space = &mut self.spaces[usize::from(session.namespace)];
        space.members[session.place as usize] = member;
        for membership in &session.rooms {
            space.rooms[membership.id.0 as usize][membership.place as usize] = member;
        }
    }
}

impl Conn {
    /// Whether its pong is late.
    pub(super) fn is_pong_overdue(&self, now_ms: u64) -> bool {
        self.heartbeat.waiting && self.heartbeat.due_ms < now_ms
    }
}
