//! Entering a namespace: credentials, limits, a fresh session or a recovered one.

use std::sync::Arc;

use serde_json::Value;
use tidegate_auth::{Action, Credentials, Identity};
use tidegate_wire::socketio;

use super::{
    SESSION_BYTES, Shard,
    command::{Asker, Command, Decided, Entry},
    conn::{Conn, Handshake, NO_CONN, Slot},
    session::{Membership, Session, user_of},
    timers::NEVER,
};
use crate::{
    Error,
    admission::Refusal,
    close::CloseReason,
    handler::ConnectRequest,
    id::Id,
    message::SessionRef,
    namespace::{KICKED, Moved, MovedRoom},
    shared::Shared,
};

impl Shard {
    /// A CONNECT packet.
    pub(super) fn on_connect_packet(&mut self, index: u32, name: &str, data: &str) {
        let Some(namespace) = self.shared.namespace(name).map(|namespace| namespace.index) else {
            return self.send_connect_error(index, name, r#"{"message":"Invalid namespace"}"#);
        };
        let conn = &self.conns[index as usize];
        if conn.session(namespace).is_some() {
            return self.close_conn(index, CloseReason::ParseError);
        }
        let max = self.shared.live.limits().namespaces_per_connection;
        if conn.sessions.len() + usize::from(conn.entering) >= max {
            let error = Error::TooMany {
                what: "namespaces of a connection",
                max,
            };
            return self.refuse_entry(index, namespace, &error);
        }
        let Some(handshake) = conn.handshake.clone() else {
            // It left its only namespace and wants back: on a new connection, with fresh credentials.
            return self.close_conn(index, CloseReason::ClientLeft);
        };
        let generation = conn.generation;
        self.conns[index as usize].entering += 1;
        let asked = Asked::new(data, namespace, handshake);
        self.decide(index, generation, asked);
    }

    /// Decides at once where that costs nothing, else on the service runtime.
    fn decide(&mut self, conn: u32, generation: u32, asked: Asked) {
        let shared = self.shared.clone();
        let namespace = asked.namespace;
        let pid = asked.pid;
        let quick = shared.namespaces[usize::from(namespace)]
            .handlers
            .middleware
            .is_none()
            && !asked.has_token();
        match (&shared.runtime, quick) {
            (Some(runtime), false) => {
                let shard = usize::from(self.index);
                let task_shared = shared.clone();
                runtime.spawn(async move {
                    let result = decide_slow(&task_shared, asked).await;
                    let decided = Box::new(Decided {
                        conn,
                        generation,
                        namespace,
                        pid,
                        result,
                    });
                    // One decision for one CONNECT that was counted on its connection.
                    task_shared.inboxes[shard].push_always(Command::Decided(decided));
                });
            }
            _ => {
                let result = asked
                    .authenticate(&shared)
                    .map(|identity| asked.entry(&shared, identity));
                self.on_decided(Decided {
                    conn,
                    generation,
                    namespace,
                    pid,
                    result,
                });
            }
        }
    }

    pub(super) fn on_decided(&mut self, decided: Decided) {
        let Decided {
            conn,
            generation,
            namespace,
            pid,
            result,
        } = decided;
        if !self.is_conn(conn, generation) || !self.conns[conn as usize].is_open() {
            return;
        }
        self.conns[conn as usize].entering -= 1;
        if self.conns[conn as usize].session(namespace).is_some() {
            // A second CONNECT that was sent before the first was decided.
            return self.close_conn(conn, CloseReason::ParseError);
        }
        let entry = match result {
            Ok(_) if self.shared.is_draining() => {
                return self.refuse_entry(conn, namespace, &Error::Draining);
            }
            Ok(entry) => entry,
            Err(error) => {
                self.shared.figures.handshake_errors.inc();
                return self.refuse_entry(conn, namespace, &error);
            }
        };
        let asker = Asker {
            order: self.conns[conn as usize].permit.order(),
            shard: self.index,
            conn,
            generation,
            entry: Box::new(entry),
        };
        match pid.filter(|_| asker.entry.recovery) {
            Some(pid) => self.ask_for(pid, asker),
            None => self.open_session(asker),
        }
    }

    /// Asks the shard that holds a session for it.
    fn ask_for(&mut self, pid: Id, asker: Asker) {
        self.shared.figures.recover_eligible.inc();
        match self.shared.find_pid(pid) {
            Some(session) => {
                let inbox = self.shared.inboxes[usize::from(session.shard)].clone();
                inbox.push_always(Command::TakeOver { session, pid, asker });
            }
            None => {
                self.shared.figures.recover_missed("unknown");
                self.open_session(asker);
            }
        }
    }

    /// Another connection has the secret of a session of ours.
    pub(super) fn on_take_over(&mut self, at: SessionRef, pid: Id, asker: Asker) {
        let found = self
            .slot(at)
            .filter(|&index| self.sessions[index as usize].opened);
        let (found, asker) = match found {
            Some(index) => (Some(index), asker),
            None => match self.forward_take_over(at, pid, asker) {
                Ok(()) => return,
                Err(asker) => (None, asker),
            },
        };
        let moved = found.ok_or("unknown").and_then(|index| {
            self.may_take_over(index, pid, &asker)?;
            Ok(Box::new(self.extract(index)))
        });
        if let Err(reason) = moved {
            self.shared.figures.recover_missed(reason);
        }
        let inbox = self.shared.inboxes[usize::from(asker.shard)].clone();
        inbox.push_always(Command::TakenOver {
            asker,
            moved: moved.ok(),
        });
    }

    /// Whether the asker may have a session of ours, or why not.
    fn may_take_over(&self, index: u32, pid: Id, asker: &Asker) -> Result<(), &'static str> {
        let session = &self.sessions[index as usize];
        if session.pid != Some(pid) || session.namespace != asker.entry.namespace {
            return Err("unknown");
        }
        if !session.proved().is_same_user(&asker.entry.identity) {
            return Err("other_user");
        }
        // A client that has opened a newer connection since has given up the one that asks.
        let newer = |conn: &Conn| conn.permit.order() > asker.order;
        if self.conns.get(session.conn as usize).is_some_and(newer) {
            return Err("older_connection");
        }
        Ok(())
    }

    /// Takes a session out of this shard; the namespace still counts it here until it arrives elsewhere.
    fn extract(&mut self, index: u32) -> Moved {
        if self.sessions[index as usize].conn != NO_CONN {
            self.shared.figures.taken_over.inc();
            self.detach(index, CloseReason::Replaced);
        }
        let from = self.reference(index);
        self.remove_from_lists(index);
        let session = self.sessions.remove(index as usize);
        self.people.release(SESSION_BYTES);
        self.tally.sessions -= 1;
        self.note_departure(from, session.namespace, session.id);
        let rooms = session.rooms.iter();
        Moved {
            namespace: session.namespace,
            id: session.id,
            pid: session.pid.expect("only sessions with a secret are found by it"),
            rooms: rooms
                .map(|m| MovedRoom {
                    id: m.id,
                    since: m.since,
                    by_client: m.by_client,
                    presence: m.presence,
                })
                .collect(),
            left: session.left,
            position: session.acked.max(session.started),
            identity: session.identity,
            from,
            acted: self.spaces[usize::from(session.namespace)].acted,
            recovered: session.recovered,
            errors: session.errors,
            connected_ms: session.connected_ms,
            last_event_ms: session.last_event_ms,
            present: session.present,
            address: session.address,
            lost: session.lost,
            handlers: session.handlers,
            given: session.given,
        }
    }

    /// The session that was asked for has arrived, or is gone.
    pub(super) fn on_taken_over(&mut self, asker: Asker, moved: Option<Box<Moved>>) {
        match moved {
            Some(moved) => self.adopt(asker, *moved),
            None => self.open_session(asker),
        }
    }

    fn adopt(&mut self, asker: Asker, mut moved: Moved) {
        let namespace = self.shared.namespaces[usize::from(asker.entry.namespace)].clone();
        let client = namespace.client_position(asker.entry.offset.as_deref());
        moved.position = moved.position.max(client.unwrap_or(0));
        moved.renew(&asker.entry.identity);
        self.drop_forbidden_rooms(&mut moved);
        if let Err(error) = self.pay_session() {
            self.shared.figures.recover_missed("memory");
            self.discard(moved);
            return self.refuse_entry(asker.conn, asker.entry.namespace, &error);
        }
        let alive = self.may_enter(&asker);
        let conn = if alive { asker.conn } else { NO_CONN };
        let mut session = self.new_session(&asker, conn, moved.id, Some(moved.pid));
        session.identity = moved.identity.clone();
        let index = self.insert_session(session);
        let to = self.reference(index);
        match namespace.recover(&moved, to, self.shared.config.outbox.soft_bytes) {
            Ok(()) => self.resume(index, moved, alive),
            Err(reason) => {
                self.shared.figures.recover_missed(reason);
                self.drop_slot(index);
                self.discard(moved);
                match reason {
                    KICKED => self.turn_out(&asker),
                    _ => self.open_session(asker),
                }
            }
        }
    }

    /// A session that was disconnected on its way is not let in afresh: its client stays away, as the others do.
    fn turn_out(&mut self, asker: &Asker) {
        if !self.may_enter(asker) {
            return;
        }
        self.shared.figures.closed(CloseReason::Kicked);
        self.send_disconnect(asker.conn, asker.entry.namespace);
        let conn = &self.conns[asker.conn as usize];
        if conn.sessions.is_empty() && conn.entering == 0 {
            self.close_conn(asker.conn, CloseReason::Kicked);
        }
    }

    /// Fills a recovered session's slot with what it had.
    fn resume(&mut self, index: u32, moved: Moved, alive: bool) {
        let to = self.reference(index);
        self.shared.put_pid(moved.pid, to);
        let session = &mut self.sessions[index as usize];
        session.rooms = moved
            .rooms
            .iter()
            .map(|room| Membership {
                id: room.id,
                place: 0,
                since: room.since,
                by_client: room.by_client,
                presence: room.presence,
            })
            .collect();
        session.left = moved.left;
        (session.acked, session.started) = (moved.position, moved.position);
        (session.recovered, session.errors) = (moved.recovered, moved.errors);
        (session.connected_ms, session.last_event_ms) = (moved.connected_ms, moved.last_event_ms);
        session.present = moved.present;
        (session.lost, session.handlers, session.given) = (moved.lost, moved.handlers, moved.given);
        if !moved.present {
            self.set_present(index, true);
        }
        if !alive {
            self.wait_for_recovery(index);
        }
    }

    /// Rooms that the client joined by itself and may not be in any more.
    fn drop_forbidden_rooms(&self, moved: &mut Moved) {
        let auth = self.shared.live.auth();
        let permissions = auth.permissions();
        let namespace = &self.shared.namespaces[usize::from(moved.namespace)];
        let identity = moved.identity.clone();
        let who = moved.who();
        moved.rooms.retain(|room| {
            let allowed = !room.by_client
                || namespace
                    .room_name(room.id)
                    .is_some_and(|name| permissions.allows(Action::Join, &name, &identity));
            if !allowed {
                if moved.present && room.presence {
                    namespace.depart(room.id, &who);
                }
                namespace.exit(&[room.id], moved.from.shard);
            }
            allowed
        });
    }

    /// A session that cannot go on: everything it held is given back.
    fn discard(&self, mut moved: Moved) {
        let noted = self.note_end_of_moved(&mut moved);
        let namespace = &self.shared.namespaces[usize::from(moved.namespace)];
        let rooms: Vec<_> = moved.rooms.iter().map(|room| room.id).collect();
        let user = user_of(&moved.identity);
        if moved.present {
            let who = moved.who();
            for room in moved.rooms.iter().filter(|room| room.presence) {
                namespace.depart(room.id, &who);
            }
        }
        namespace.close(moved.id, moved.from, user, &rooms);
        self.shared.remove_pid(moved.pid);
        if let Some(user) = user {
            self.shared.admission.release_user(user);
        }
        if noted {
            self.shared.wind_up(moved.id);
        }
    }

    /// Whether the connection is still there and has no session in the namespace yet.
    pub(super) fn may_enter(&self, asker: &Asker) -> bool {
        self.is_conn(asker.conn, asker.generation) && {
            let conn = &self.conns[asker.conn as usize];
            conn.is_open() && conn.session(asker.entry.namespace).is_none()
        }
    }

    /// Charges one more session.
    pub(super) fn pay_session(&mut self) -> Result<(), Error> {
        let paid = self.people.charge(SESSION_BYTES);
        Ok(paid.inspect_err(|_| self.shared.figures.no_memory("session"))?)
    }

    pub(super) fn new_session(&mut self, asker: &Asker, conn: u32, id: Id, pid: Option<Id>) -> Session {
        let now_ms = self.now.as_millis();
        let address = self
            .conns
            .get(conn as usize)
            .map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |c| c.address);
        Session {
            generation: self.next_generation(),
            namespace: asker.entry.namespace,
            id,
            pid,
            conn,
            identity: asker.entry.identity.clone(),
            address,
            rooms: Vec::new(),
            left: None,
            place: 0,
            opened: false,
            batch: asker.entry.batch,
            present: true,
            started: 0,
            acked: 0,
            pinged: 0,
            connected_ms: now_ms,
            last_event_ms: now_ms,
            errors: 0,
            recovered: 0,
            events: None,
            handlers: None,
            batching: None,
            given: None,
            lost: CloseReason::TransportClosed,
            request: asker.entry.request.clone(),
            expires_ms: NEVER,
            grace_ms: NEVER,
            armed_ms: NEVER,
        }
    }

    pub(super) fn insert_session(&mut self, session: Session) -> u32 {
        let (conn, namespace) = (session.conn, session.namespace);
        let index = self.sessions.insert(session) as u32;
        self.tally.sessions += 1;
        if let Some(conn) = self.conns.get_mut(conn as usize) {
            conn.sessions.push(Slot {
                namespace,
                session: index,
            });
            conn.connect_due_ms = NEVER;
            if self.shared.namespaces.len() == 1 {
                // Nobody can ask for it any more: half a kilobyte less for each idle connection.
                conn.handshake = None;
            }
        }
        self.set_expiry(index);
        index
    }

    /// Takes back a slot whose session did not come about.
    pub(super) fn drop_slot(&mut self, index: u32) {
        let session = self.sessions.remove(index as usize);
        self.people.release(SESSION_BYTES);
        self.tally.sessions -= 1;
        if let Some(conn) = self.conns.get_mut(session.conn as usize) {
            conn.sessions.retain(|slot| slot.session != index);
        }
    }

    /// Sets the deadline that a token's end makes.
    pub(super) fn set_expiry(&mut self, index: u32) {
        let (now_ms, wall_ms) = (self.now.as_millis(), self.shared.clock.wall_ms());
        let session = &mut self.sessions[index as usize];
        if session.conn != NO_CONN {
            let left = |expires: u64| now_ms + expires.saturating_sub(wall_ms);
            session.expires_ms = session.identity.expires_at_ms.map_or(NEVER, left);
        }
        self.arm_session(index);
    }

    pub(super) fn refuse_entry(&mut self, conn: u32, namespace: u16, error: &Error) {
        let name = self.shared.namespaces[usize::from(namespace)].name.clone();
        let message = match error {
            Error::Application { message, .. } | Error::Refused { message, .. } => message.clone(),
            other => other.code().as_str().to_owned(),
        };
        let message = Value::String(message);
        let json = match error {
            Error::Refused { data: None, .. } => format!(r#"{{"message":{message}}}"#),
            Error::Refused { data: Some(data), .. } => format!(r#"{{"message":{message},"data":{data}}}"#),
            _ => format!(r#"{{"message":{message},"data":{}}}"#, error.to_json()),
        };
        self.send_connect_error(conn, &name, &json);
    }

    fn send_connect_error(&mut self, conn: u32, name: &str, json: &str) {
        let mut text = String::with_capacity(json.len() + name.len() + 8);
        socketio::put_connect_error(&mut text, name, json);
        self.send_text(conn, text, Vec::new());
    }
}

/// What a CONNECT asks for.
struct Asked {
    namespace: u16,
    auth: String,
    handshake: Arc<Handshake>,
    token: Option<String>,
    api_key: Option<String>,
    pid: Option<Id>,
    offset: Option<String>,
    batch: bool,
    recovery: Option<bool>,
}

impl Asked {
    fn new(data: &str, namespace: u16, handshake: Arc<Handshake>) -> Self {
        let auth = if data.is_empty() { "{}" } else { data };
        let value: Value = serde_json::from_str(auth).unwrap_or_default();
        let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let flag = |name: &str| match value.get(name) {
            Some(Value::Bool(on)) => Some(*on),
            Some(Value::Number(number)) => number.as_u64().map(|number| number != 0),
            Some(Value::String(text)) => parse_flag(text),
            _ => handshake.query_value(name).and_then(parse_flag),
        };
        Self {
            namespace,
            auth: auth.to_owned(),
            token: text("token"),
            api_key: text("apiKey").or_else(|| text("api_key")),
            pid: text("pid").and_then(|pid| Id::parse(&pid)),
            offset: text("offset"),
            batch: flag("batch").unwrap_or(false),
            recovery: flag("recovery"),
            handshake,
        }
    }

    fn credentials(&self) -> Credentials<'_> {
        let handshake = &self.handshake;
        Credentials {
            auth_token: self.token.as_deref(),
            authorization: handshake.header("authorization"),
            cookie: handshake.header("cookie"),
            api_key: self.api_key.as_deref().or_else(|| handshake.header("x-api-key")),
            trusted_user: handshake.header("x-user-id").filter(|_| handshake.trusted),
        }
    }

    fn has_token(&self) -> bool {
        self.token.is_some()
            || self.api_key.is_some()
            || !self.handshake.headers.is_empty() && {
                let credentials = self.credentials();
                credentials.authorization.is_some()
                    || credentials.cookie.is_some()
                    || credentials.api_key.is_some()
            }
    }

    fn authenticate(&self, shared: &Shared) -> Result<Arc<Identity>, Error> {
        shared
            .live
            .authenticate(&self.credentials(), shared.clock.wall_ms())
    }

    fn request(&self, shared: &Shared, identity: Arc<Identity>) -> ConnectRequest {
        ConnectRequest {
            namespace: shared.namespaces[usize::from(self.namespace)].name.clone(),
            auth: self.auth.clone(),
            identity,
            handshake: self.handshake.clone(),
        }
    }

    fn entry(&self, shared: &Shared, identity: Arc<Identity>) -> Entry {
        // A client that does not know recovery hands the offset to its handlers as one argument too many.
        let knows = self.recovery.unwrap_or_else(|| !self.handshake.is_python());
        let namespace = &shared.namespaces[usize::from(self.namespace)];
        let request = namespace
            .handlers
            .wants_request()
            .then(|| Box::new(self.request(shared, identity.clone())));
        Entry {
            request,
            namespace: self.namespace,
            identity,
            offset: self.offset.clone(),
            batch: self.batch,
            recovery: shared.config.recovery.enabled && knows,
        }
    }
}

fn parse_flag(text: &str) -> Option<bool> {
    match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Credentials, then the namespace's own middleware.
async fn decide_slow(shared: &Arc<Shared>, asked: Asked) -> Result<Entry, Error> {
    let namespace = &shared.namespaces[usize::from(asked.namespace)];
    let identity = asked.authenticate(shared);
    let Some(middleware) = &namespace.handlers.middleware else {
        return Ok(asked.entry(shared, identity?));
    };
    let identity = Arc::new(middleware(asked.request(shared, identity?)).await?);
    Ok(asked.entry(shared, identity))
}

impl Conn {
    /// Why a connection is not taken, as HTTP says it.
    pub(crate) const fn refusal_status(refusal: Refusal) -> u16 {
        match refusal {
            Refusal::Connections | Refusal::Draining | Refusal::Memory => 503,
            Refusal::Address | Refusal::Rate => 429,
            Refusal::Origin => 403,
        }
    }
}
