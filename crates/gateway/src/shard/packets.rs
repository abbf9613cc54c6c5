//! Socket.IO packets of a client: events, acks, goodbyes, and the handlers they go to.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use tidegate_vitals::Class;
use tidegate_wire::socketio::{self, Kind, Limits, Packet};

use super::{
    Shard,
    command::{Command, HandlerDone},
    conn::{Assembly, NO_CONN},
};
use crate::{
    Error,
    admission::Bucket,
    close::CloseReason,
    handler::{AckHandle, Event, Handler},
    id::Id,
    message::SessionRef,
    shared::Shared,
    socket::Socket,
};

impl Shard {
    /// The text of a Socket.IO packet.
    pub(super) fn on_socket_text(&mut self, index: u32, text: &str) {
        if self.conns[index as usize].assembly.is_some() {
            return self.close_conn(index, CloseReason::ParseError);
        }
        let packet = match socketio::decode(text, &Limits::default()) {
            Ok(packet) => packet,
            Err(error) => {
                tracing::debug!(%error, "connection closed for a malformed packet");
                return self.close_conn(index, CloseReason::ParseError);
            }
        };
        if packet.kind.is_binary() && packet.attachments > 0 {
            let assembly = Assembly {
                text: text.to_owned(),
                missing: packet.attachments,
                attachments: Vec::new(),
                bytes: text.len(),
            };
            self.conns[index as usize].assembly = Some(Box::new(assembly));
            return;
        }
        self.on_packet(index, &packet, Vec::new());
    }

    /// One attachment of the packet before.
    pub(super) fn on_attachment(&mut self, index: u32, data: Bytes) {
        let max = self.shared.config.payload_bytes_max;
        let Some(assembly) = &mut self.conns[index as usize].assembly else {
            return self.close_conn(index, CloseReason::ParseError);
        };
        assembly.bytes += data.len();
        assembly.missing -= 1;
        assembly.attachments.push(data);
        if assembly.bytes > max {
            return self.close_conn(index, CloseReason::TooLarge);
        }
        if assembly.missing > 0 {
            return;
        }
        let Some(whole) = self.conns[index as usize].assembly.take() else {
            return;
        };
        let packet = socketio::decode(&whole.text, &Limits::default()).expect("it was decoded before");
        match socketio::check_placeholders(packet.data, whole.attachments.len()) {
            Ok(()) => self.on_packet(index, &packet, whole.attachments),
            Err(_) => self.close_conn(index, CloseReason::ParseError),
        }
    }

    fn on_packet(&mut self, index: u32, packet: &Packet<'_>, attachments: Vec<Bytes>) {
        if packet.kind == Kind::Connect {
            return self.on_connect_packet(index, packet.namespace, packet.data);
        }
        let namespace = self
            .shared
            .namespace(packet.namespace)
            .map(|namespace| namespace.index);
        let session = namespace.and_then(|namespace| self.conns[index as usize].session(namespace));
        let Some(session) = session else {
            // The client speaks in a namespace that it has not entered.
            return self.close_conn(index, CloseReason::ParseError);
        };
        match packet.kind {
            Kind::Event | Kind::BinaryEvent => self.on_event(session, packet, attachments),
            Kind::Ack | Kind::BinaryAck => self.on_ack(session, packet, attachments),
            Kind::Disconnect => self.end_session(session, CloseReason::ClientLeft),
            Kind::Connect | Kind::ConnectError => self.close_conn(index, CloseReason::ParseError),
        }
    }

    fn on_ack(&mut self, index: u32, packet: &Packet<'_>, attachments: Vec<Bytes>) {
        let session = &mut self.sessions[index as usize];
        session.last_event_ms = self.now.as_millis();
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        let Some(id) = packet.id else { return };
        if namespace.ack_answer(id, session.id, packet.data, attachments) {
            self.shared.figures.acks.inc();
        } else {
            session.errors = session.errors.saturating_add(1);
        }
    }

    fn on_event(&mut self, index: u32, packet: &Packet<'_>, attachments: Vec<Bytes>) {
        self.tally.events += 1;
        let now = self.now;
        let at = self.reference(index);
        let session = &mut self.sessions[index as usize];
        session.last_event_ms = now.as_millis();
        if let Some(per_second) = self.load.events_per_second() {
            let bucket = session
                .events
                .get_or_insert_with(|| Bucket::full(2 * per_second, now));
            if !bucket.take(per_second, 2 * per_second, now) {
                session.errors = session.errors.saturating_add(1);
                self.shared.figures.rate_limited.inc();
                if let Some(ack) = packet.id {
                    self.ack_error(
                        index,
                        ack,
                        &Error::RateLimited {
                            what: "events",
                            per_second,
                        },
                    );
                }
                return;
            }
        }
        let Some(mut event) = owned_event(packet, attachments) else {
            return;
        };
        let namespace = session.namespace;
        event.ack = packet.id.map(|id| AckHandle {
            shared: self.shared.clone(),
            session: at,
            namespace,
            id,
        });
        if session.is_busy() || !session.opened {
            self.enqueue(index, event);
        } else {
            self.dispatch(index, event);
        }
    }

    /// Keeps an event until the one before it is done; reading stops above the limit.
    fn enqueue(&mut self, index: u32, mut event: Event) {
        if !self.pay_for(index, &mut event) {
            return;
        }
        let limits = self.shared.live.limits();
        let session = &mut self.sessions[index as usize];
        let pending = session.handlers.get_or_insert_default();
        pending.bytes += event.bytes();
        pending.queue.push_back(event);
        let over = pending.queue.len() >= limits.handlers_in_flight
            || pending.bytes >= limits.handler_bytes_in_flight;
        let conn = session.conn;
        if over && conn != NO_CONN {
            self.set_paused(conn, true);
        }
    }

    /// Charges an event that outlives this turn. One that cannot be paid for is answered with an error and dropped.
    fn pay_for(&mut self, index: u32, event: &mut Event) -> bool {
        if event.guard.is_some() {
            return true;
        }
        match self.shared.ledger.reserve(Class::Handlers, event.bytes()) {
            Ok(guard) => event.guard = Some(guard),
            Err(full) => {
                self.shared.figures.no_memory("event");
                let session = &mut self.sessions[index as usize];
                session.errors = session.errors.saturating_add(1);
                event.answer::<()>(Err(full.into()));
            }
        }
        event.guard.is_some()
    }

    /// Hands an event to its handler: the application's, a built-in one, or the one for the rest.
    fn dispatch(&mut self, index: u32, event: Event) {
        let namespace = self.shared.namespaces[usize::from(self.sessions[index as usize].namespace)].clone();
        let handlers = &namespace.handlers;
        if let Some(handler) = handlers.events.get(&event.name) {
            return self.run_handler(index, handler, event);
        }
        if let Some(builtin) = self.builtin(&event.name) {
            return self.run_builtin(index, builtin, &event);
        }
        match &handlers.any {
            Some(_)
                if !self
                    .shared
                    .may_send(&event.name, &self.sessions[index as usize].identity) =>
            {
                event.answer::<()>(Err(Error::Forbidden {
                    action: "send",
                    target: event.name.clone(),
                }));
            }
            Some(handler) => self.run_handler(index, handler, event),
            None => event.answer::<()>(Err(Error::NotFound {
                kind: "handler for event",
                name: event.name.clone(),
            })),
        }
    }

    fn run_handler(&mut self, index: u32, handler: &Handler, mut event: Event) {
        let socket = self.socket(index);
        match handler {
            Handler::Inline(run) => {
                if std::panic::catch_unwind(AssertUnwindSafe(|| run(&socket, event))).is_err() {
                    self.on_handler_failed(index);
                }
            }
            Handler::Async(_) if !self.pay_for(index, &mut event) => {}
            Handler::Async(run) => {
                let run = run.clone();
                self.run_async(index, &socket.clone(), move || run(socket, event));
            }
        }
    }

    /// Runs a future of the application on the service runtime; the session's next event waits for it.
    fn run_async<F>(&mut self, index: u32, socket: &Socket, start: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Some(runtime) = self.shared.runtime.clone() else {
            return;
        };
        self.sessions[index as usize]
            .handlers
            .get_or_insert_default()
            .running += 1;
        let done = Done::new(self.reference(index), socket);
        runtime.spawn(async move {
            let _done = done;
            start().await;
        });
    }

    pub(super) fn run_on_connect(&mut self, index: u32, recovered: bool) {
        let namespace = self.shared.namespaces[usize::from(self.sessions[index as usize].namespace)].clone();
        let request = self.sessions[index as usize].request.take();
        let (Some(handler), Some(request)) = (namespace.handlers.on_connect.clone(), request) else {
            return self.run_queued(index);
        };
        let mut socket = self.socket(index);
        socket.recovered = recovered;
        self.run_async(index, &socket.clone(), move || async move {
            if let Err(error) = handler(socket.clone(), *request).await {
                tracing::info!(session = %socket.id(), %error, "session refused by its connect handler");
                socket.disconnect();
            }
        });
    }

    /// A handler has ended: the next event of the session goes on.
    pub(super) fn on_handler_done(&mut self, done: HandlerDone) {
        let Some(index) = self.slot(done.session) else {
            return self.on_handler_done_elsewhere(done);
        };
        if done.failed {
            self.on_handler_failed(index);
        }
        if let Some(pending) = &mut self.sessions[index as usize].handlers {
            pending.running = pending.running.saturating_sub(1);
        }
        self.run_queued(index);
    }

    /// Its session has moved, or is over.
    fn on_handler_done_elsewhere(&mut self, done: HandlerDone) {
        let namespace = &self.shared.namespaces[usize::from(done.namespace)];
        if let Some(session) = namespace.place(done.id) {
            // It stands for one handler that ran. While the session is on its way it comes back here for another turn.
            let inbox = &self.shared.inboxes[usize::from(session.shard)];
            inbox.push_always(Command::HandlerDone(HandlerDone { session, ..done }));
            return;
        }
        if done.failed {
            self.shared.figures.handler_errors.inc();
        }
        self.shared.on_ending_handler_done(done.id);
    }

    pub(super) fn on_handler_failed(&mut self, index: u32) {
        self.shared.figures.handler_errors.inc();
        let session = &mut self.sessions[index as usize];
        session.errors = session.errors.saturating_add(1);
        tracing::error!(session = %session.id, "event handler panicked");
    }

    fn run_queued(&mut self, index: u32) {
        let generation = self.sessions[index as usize].generation;
        loop {
            let Some(session) = self
                .sessions
                .get_mut(index as usize)
                .filter(|s| s.generation == generation)
            else {
                return;
            };
            let opened = session.opened;
            let Some(pending) = &mut session.handlers else {
                break;
            };
            if pending.running > 0 || !opened {
                break;
            }
            let Some(event) = pending.queue.pop_front() else {
                session.handlers = None;
                break;
            };
            pending.bytes -= event.bytes();
            self.dispatch(index, event);
        }
        if let Some(session) = self.sessions.get(index as usize) {
            self.resume_reading(session.conn);
        }
    }

    /// Goes on reading once no session of the connection is above half its limit.
    pub(super) fn resume_reading(&mut self, conn: u32) {
        if !self.conns.get(conn as usize).is_some_and(|conn| conn.paused) {
            return;
        }
        let limits = self.shared.live.limits();
        let (events, bytes) = (limits.handlers_in_flight / 2, limits.handler_bytes_in_flight / 2);
        let free = self.conns[conn as usize].sessions.iter().all(|slot| {
            let pending = &self.sessions[slot.session as usize].handlers;
            pending
                .as_ref()
                .is_none_or(|pending| pending.queue.len() <= events && pending.bytes <= bytes)
        });
        if free {
            self.set_paused(conn, false);
        }
    }

    /// The application's handle on a session.
    pub(super) fn socket(&self, index: u32) -> Socket {
        let session = &self.sessions[index as usize];
        Socket {
            shared: self.shared.clone(),
            namespace: session.namespace,
            id: session.id,
            identity: session.identity.clone(),
            address: session.address,
            recovered: false,
            data: session.given.as_ref().and_then(|given| given.data.clone()),
        }
    }
}

/// An event with arguments of its own.
fn owned_event(packet: &Packet<'_>, attachments: Vec<Bytes>) -> Option<Event> {
    let view = socketio::event(packet.data).ok()?;
    let args = match view.args.first() {
        Some(first) => {
            // The arguments stand together in the packet, so one copy takes them all.
            let start = first.get().as_ptr() as usize - packet.data.as_ptr() as usize;
            packet.data[start..].trim_end().strip_suffix(']')?.to_owned()
        }
        None => String::new(),
    };
    Some(Event {
        name: view.name.into_owned(),
        args,
        attachments,
        ack: None,
        guard: None,
    })
}

/// Tells the shard that a handler has ended, however it ended.
pub(super) struct Done {
    shared: Arc<Shared>,
    session: SessionRef,
    namespace: u16,
    id: Id,
}

impl Done {
    pub(super) fn new(session: SessionRef, socket: &Socket) -> Self {
        socket.shared.figures.handlers_in_flight.add(1);
        Self {
            shared: socket.shared.clone(),
            session,
            namespace: socket.namespace,
            id: socket.id,
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.shared.figures.handlers_in_flight.add(-1);
        let done = Command::HandlerDone(HandlerDone {
            session: self.session,
            namespace: self.namespace,
            id: self.id,
            failed: std::thread::panicking(),
        });
        self.shared.inboxes[usize::from(self.session.shard)].push_always(done);
    }
}
