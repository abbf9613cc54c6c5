//! Marks in the order of a namespace: where a session begins, joins and leaves.

use std::{rc::Rc, sync::Arc};

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_auth::Identity;
use tidegate_vitals::Class;
use tidegate_wire::socketio;

use super::{
    Shard,
    command::{Command, Joined},
    conn::NO_CONN,
    session::{Membership, user_of},
};
use crate::{
    Error,
    message::{Message, RoomId, SessionRef},
    namespace::{By, Replay},
    outbox::Run,
};

impl Shard {
    /// A new session begins: from here on it gets what is for everybody, and its client hears its id.
    pub(super) fn on_opened(&mut self, session: SessionRef, seq: u64) {
        let Some(index) = self.slot(session) else { return };
        self.pass_mark(index, seq);
        let session = &mut self.sessions[index as usize];
        (session.started, session.acked, session.pinged) = (seq, seq, seq);
        self.begin(index);
        self.announce_connect(index);
        self.run_on_connect(index, false);
    }

    /// A recovered session goes on: the same id, then everything it missed, then what is new.
    pub(super) fn on_recovered(&mut self, session: SessionRef, replay: Replay) {
        let Some(index) = self.slot(session) else { return };
        self.pass_mark(index, replay.seq);
        self.begin(index);
        self.announce_connect(index);
        let (conn, offset) = {
            let session = &mut self.sessions[index as usize];
            session.recovered += 1;
            (session.conn, session.pid.is_some())
        };
        self.shared.figures.recovered.inc();
        for message in replay.messages {
            self.send_message(conn, Run::shared(SmallVec::from_elem(message, 1)), offset);
        }
        self.sessions[index as usize].pinged = replay.seq.min(self.sessions[index as usize].acked);
        self.run_on_connect(index, true);
    }

    /// A mark at position `seq` is handled: everything before it was handed on.
    fn pass_mark(&mut self, index: u32, seq: u64) {
        let space = &mut self.spaces[usize::from(self.sessions[index as usize].namespace)];
        space.seen = space.seen.max(seq);
    }

    fn send_message(&mut self, conn: u32, run: Rc<Run>, offset: bool) {
        let Some(conn_ref) = self.conns.get_mut(conn as usize) else {
            return;
        };
        conn_ref.outbox.push(run, offset);
        if !conn_ref.dirty {
            conn_ref.dirty = true;
            self.mark_dirty(conn);
        }
    }

    /// Puts an opened session on the lists of its namespace and rooms.
    fn begin(&mut self, index: u32) {
        let session = &mut self.sessions[index as usize];
        session.opened = true;
        let member = session.member(index);
        let space = &mut self.spaces[usize::from(session.namespace)];
        session.place = space.members.len() as u32;
        space.members.push(member);
        for membership in &mut session.rooms {
            membership.place = space.enter(membership.id, member);
        }
    }

    fn announce_connect(&mut self, index: u32) {
        let session = &self.sessions[index as usize];
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        let mut text = String::with_capacity(80);
        let json = match session.pid {
            Some(pid) => format!(r#"{{"sid":"{}","pid":"{}"}}"#, session.id, pid),
            None => format!(r#"{{"sid":"{}"}}"#, session.id),
        };
        socketio::put_connect(&mut text, &namespace.name, &json);
        self.send_text(session.conn, text, Vec::new());
    }

    /// The rooms of a join take effect: what they keep, then the ack, then what is new.
    pub(super) fn on_joined(&mut self, at: SessionRef, seq: u64, rooms: Vec<Joined>, by: By) {
        let Some(index) = self.slot(at) else {
            if let Err(rooms) = self.forward_join(at, rooms, by) {
                self.give_back(at, &rooms);
            }
            return;
        };
        let max = self.shared.live.limits().rooms_per_session;
        let mut refused = None;
        for room in rooms {
            let may = self.may_join(index, room.id, max);
            let kept = may.and_then(|()| self.kept(seq, &room).map_err(Some));
            let joined = kept.and_then(|kept| self.join_room(index, seq, (&room, &kept), by, max));
            if let Err(error) = joined {
                self.give_back(at, std::slice::from_ref(&room));
                refused = error.or(refused);
            }
        }
        if let By::Client { ack: Some(ack) } = by {
            match refused {
                None => self.ack_ok(index, ack, ""),
                Some(error) => self.ack_error(index, ack, &error),
            }
        }
    }

    /// Memberships that were counted ahead but do not come about.
    fn give_back(&self, at: SessionRef, rooms: &[Joined]) {
        let ids: Vec<RoomId> = rooms.iter().map(|room| room.id).collect();
        // Rooms belong to the namespace of the mark; a session's slot may be gone, so each is asked by room.
        if let Some(namespace) = rooms.first().map(|room| room.namespace) {
            self.shared.namespaces[usize::from(namespace)].exit(&ids, at.shard);
        }
    }

    /// What a room keeps, as whoever joins at `seq` gets it: paid for and encoded once for all of them.
    pub(super) fn kept(&self, seq: u64, room: &Joined) -> Result<Vec<Rc<Run>>, Error> {
        let at_join = |message: &Arc<Message>| {
            let cost = Message::cost(message.args.len(), &message.attachments);
            let guard = self.shared.ledger.reserve(Class::Frames, cost);
            let guard = guard.inspect_err(|_| self.shared.figures.no_memory("join"))?;
            let message = Arc::new(message.at_join(seq, self.now, guard));
            Ok(Run::shared(SmallVec::from_elem(message, 1)))
        };
        room.snapshot.iter().map(at_join).collect()
    }

    /// Whether a session can enter a room, or why not; no error where it is a member already.
    fn may_join(&self, index: u32, room: RoomId, max: usize) -> Result<(), Option<Error>> {
        let session = &self.sessions[index as usize];
        if session.membership(room).is_some() {
            return Err(None);
        }
        if session.rooms.len() >= max {
            return Err(Some(Error::TooMany {
                what: "rooms of a session",
                max,
            }));
        }
        Ok(())
    }

    /// Adds one membership, or says why not, as above.
    pub(super) fn join_room(
        &mut self,
        index: u32,
        seq: u64,
        (room, kept): (&Joined, &[Rc<Run>]),
        by: By,
        max: usize,
    ) -> Result<(), Option<Error>> {
        self.may_join(index, room.id, max)?;
        let session = &mut self.sessions[index as usize];
        let presence = room.options.as_ref().is_some_and(|options| options.presence);
        let member = session.member(index);
        let space = &mut self.spaces[usize::from(session.namespace)];
        let place = if session.opened {
            space.enter(room.id, member)
        } else {
            0
        };
        let by_client = by != By::Server;
        session.rooms.push(Membership {
            id: room.id,
            place,
            since: seq,
            by_client,
            presence,
        });
        let (conn, batch, offset, namespace) = (
            session.conn,
            session.batch,
            session.pid.is_some(),
            session.namespace,
        );
        if presence && session.present {
            let who = session.who();
            self.shared.namespaces[usize::from(namespace)].arrive(room.id, &who);
        }
        if batch {
            self.flush_batch(index);
        }
        for run in kept {
            self.send_shared(conn, run.clone(), offset);
        }
        Ok(())
    }

    /// Leaves take effect: nothing of these rooms comes after the ack.
    pub(super) fn on_left(&mut self, at: SessionRef, rooms: Vec<RoomId>, ack: Option<u64>) {
        let Some(index) = self.slot(at) else {
            return self.forward_leave(at, rooms);
        };
        let mut ended = Vec::with_capacity(rooms.len());
        self.leave_rooms(index, &rooms, &mut ended);
        let namespace = usize::from(self.sessions[index as usize].namespace);
        if !ended.is_empty() {
            self.shared.namespaces[namespace].exit(&ended, self.index);
        }
        if let Some(ack) = ack {
            self.ack_ok(index, ack, "");
        }
    }

    /// Takes a session out of rooms; the namespace still counts those that are added to `ended`.
    pub(super) fn leave_rooms(&mut self, index: u32, rooms: &[RoomId], ended: &mut Vec<RoomId>) {
        if self.sessions[index as usize].batch {
            self.flush_batch(index);
        }
        for &id in rooms {
            if let Some(position) = self.sessions[index as usize].membership(id) {
                self.leave_room(index, position);
                ended.push(id);
            }
        }
    }

    fn leave_room(&mut self, index: u32, position: usize) {
        let session = &mut self.sessions[index as usize];
        let membership = session.rooms.swap_remove(position);
        let namespace = session.namespace;
        session.remember_left(&membership, self.spaces[usize::from(namespace)].seen);
        let who = (membership.presence && session.present).then(|| session.who());
        if session.opened {
            self.remove_place(namespace, membership);
        }
        if let Some(who) = who {
            self.shared.namespaces[usize::from(namespace)].depart(membership.id, &who);
        }
    }

    /// Takes a session off a room's list; the last of the list takes its place.
    pub(super) fn remove_place(&mut self, namespace: u16, membership: Membership) {
        let list = &mut self.spaces[usize::from(namespace)].rooms[membership.id.0 as usize];
        list.swap_remove(membership.place as usize);
        if list.is_empty() {
            *list = Vec::new();
        } else if let Some(moved) = list.get(membership.place as usize) {
            let other = &mut self.sessions[moved.session as usize];
            let of_room = other.rooms.iter_mut().find(|other| other.id == membership.id);
            of_room.expect("who is on a room's list is a member").place = membership.place;
        }
    }

    /// The answer of a handler to an event.
    pub(super) fn on_reply(&mut self, at: SessionRef, text: String, attachments: Vec<Bytes>) {
        if let Some(index) = self.slot(at) {
            let conn = self.sessions[index as usize].conn;
            if conn != NO_CONN {
                self.send_text(conn, text, attachments);
            }
        }
    }

    /// The application, or a renewed token, names another identity.
    pub(super) fn on_identify(&mut self, at: SessionRef, identity: Arc<Identity>) {
        let Some(index) = self.slot(at) else {
            return self.forward(at, |session| Command::Identify { session, identity });
        };
        let session = &mut self.sessions[index as usize];
        session.note_proof(&identity);
        let (old, new) = (user_of(&session.identity).cloned(), user_of(&identity).cloned());
        let present = session.present;
        if old != new {
            // Presence knew it by its old name.
            self.set_present(index, false);
            let session = &self.sessions[index as usize];
            self.shared.namespaces[usize::from(session.namespace)].rename(at, old.as_ref(), new.as_ref());
            if let Some(old) = &old {
                self.shared.admission.release_user(old);
            }
            if let Some(new) = &new {
                // Who the application says it is is not refused for a limit on clients.
                self.shared.admission.admit_user(new, None);
            }
        }
        self.sessions[index as usize].identity = identity;
        self.set_present(index, present);
        self.set_expiry(index);
    }

    pub(super) fn ack_ok(&mut self, index: u32, ack: u64, more: &str) {
        let json = format!(r#"[{{"ok":true{more}}}]"#);
        self.send_ack(index, ack, &json);
    }

    pub(super) fn ack_error(&mut self, index: u32, ack: u64, error: &Error) {
        let json = format!("[{}]", error.to_json());
        self.send_ack(index, ack, &json);
    }

    fn send_ack(&mut self, index: u32, ack: u64, json: &str) {
        let session = &self.sessions[index as usize];
        let (conn, namespace) = (session.conn, usize::from(session.namespace));
        let mut text = String::with_capacity(json.len() + 32);
        socketio::put_ack(&mut text, &self.shared.namespaces[namespace].name, ack, 0, json);
        if conn != NO_CONN {
            self.send_text(conn, text, Vec::new());
        }
    }
}

impl super::Space {
    /// Puts a member on a room's list; returns its place.
    fn enter(&mut self, id: RoomId, member: super::Member) -> u32 {
        let room = id.0 as usize;
        if self.rooms.len() <= room {
            self.rooms.resize_with(room + 1, Vec::new);
        }
        self.rooms[room].push(member);
        self.rooms[room].len() as u32 - 1
    }
}
