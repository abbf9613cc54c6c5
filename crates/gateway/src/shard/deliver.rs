//! From the inbox to the outboxes: each message once to each receiver.

use std::{rc::Rc, sync::Arc};

use rustc_hash::FxHashSet;
use smallvec::SmallVec;
use tidegate_vitals::profiled;
use tidegate_wire::socketio;

use super::{
    Shard,
    command::Command,
    conn::NO_CONN,
    session::{Batching, Member},
};
use crate::{
    close::CloseReason,
    id::Id,
    message::{Dest, Dests, Message, batch_json, batch_piece},
    outbox::{Pushed, Run},
};

/// Most bytes of messages whose frames are joined into one buffer for all receivers.
const JOIN_BYTES: usize = 48 << 10;
/// Most messages of such a buffer.
const JOIN_MESSAGES: usize = 512;

impl Shard {
    /// Hands a message, and those right behind it with the same receivers, to their outboxes.
    #[profiled(name = "gateway::shard::deliver")]
    pub(super) fn deliver(&mut self, first: Arc<Message>) {
        self.load
            .note_delivery(!self.dirty.is_empty() && self.dirty_since < self.now);
        let mut bytes = first.bytes();
        let mut messages: SmallVec<[Arc<Message>; 1]> = SmallVec::from_elem(first, 1);
        while let Some(Command::Deliver(next)) = self.pending.front() {
            bytes += next.bytes();
            if bytes > JOIN_BYTES || messages.len() == JOIN_MESSAGES || !messages[0].joins(next) {
                break;
            }
            let Some(Command::Deliver(next)) = self.pending.pop_front() else {
                break;
            };
            messages.push(next);
        }
        let message = messages[messages.len() - 1].clone();
        let run = Run::shared(messages);
        self.spaces[usize::from(message.namespace_index)].seen = message.seq;
        match &message.to[..] {
            [] => self.deliver_to_all(&message, &run),
            [Dest::Room(id)] if message.except.is_empty() && message.ack.is_none() => {
                self.deliver_to_room(&message, id.0 as usize, &run);
            }
            _ => self.deliver_to_some(&message, &run),
        }
        if message.urgent {
            self.flush_urgent();
        }
        self.close_too_slow();
    }

    fn deliver_to_room(&mut self, message: &Message, room: usize, run: &Rc<Run>) {
        let space = &mut self.spaces[usize::from(message.namespace_index)];
        let Some(list) = space.rooms.get_mut(room) else {
            return;
        };
        // Nothing that a delivery does changes membership: what must be closed is closed afterwards.
        let members = std::mem::take(list);
        for member in &members {
            self.push(*member, run, message.urgent);
        }
        self.spaces[usize::from(message.namespace_index)].rooms[room] = members;
    }

    fn deliver_to_all(&mut self, message: &Message, run: &Rc<Run>) {
        let namespace = usize::from(message.namespace_index);
        let members = std::mem::take(&mut self.spaces[namespace].members);
        if message.except.is_empty() && message.ack.is_none() {
            for member in &members {
                self.push(*member, run, message.urgent);
            }
        } else {
            self.push_chosen(members.iter().copied(), message, run);
        }
        self.spaces[namespace].members = members;
    }

    /// Several targets, exceptions or acks: everybody once, those left out not at all.
    fn deliver_to_some(&mut self, message: &Message, run: &Rc<Run>) {
        let chosen = self.receivers(message.namespace_index, &message.to);
        self.push_chosen(chosen.into_iter(), message, run);
    }

    /// Everybody here whom one of several targets names, once.
    pub(super) fn receivers(&self, namespace: u16, to: &Dests) -> Vec<Member> {
        let mut seen = FxHashSet::default();
        let mut chosen: Vec<Member> = Vec::new();
        for dest in to {
            match dest {
                Dest::Room(id) => {
                    let members = self.room(namespace, *id);
                    chosen.extend(members.iter().filter(|member| seen.insert(member.session)));
                }
                Dest::User(_, sessions) => {
                    for session in sessions {
                        chosen.extend(
                            self.member_of(*session)
                                .filter(|member| seen.insert(member.session)),
                        );
                    }
                }
                Dest::Session(_, session) => {
                    chosen.extend(
                        self.member_of(*session)
                            .filter(|member| seen.insert(member.session)),
                    );
                }
            }
        }
        chosen
    }

    /// Whether exceptions leave a session out.
    pub(super) fn is_excepted(&self, index: u32, except: &Dests) -> bool {
        let session = &self.sessions[index as usize];
        except.iter().any(|dest| match dest {
            Dest::Room(id) => session.membership(*id).is_some(),
            Dest::User(name, _) => session.user() == Some(name),
            Dest::Session(id, _) => session.id == *id,
        })
    }

    fn member_of(&self, session: crate::message::SessionRef) -> Option<Member> {
        let index = self.slot(session)?;
        let session = &self.sessions[index as usize];
        session.opened.then(|| session.member(index))
    }

    fn push_chosen(&mut self, members: impl Iterator<Item = Member>, message: &Message, run: &Rc<Run>) {
        let mut asked: Vec<Id> = Vec::new();
        for member in members {
            if self.is_excepted(member.session, &message.except) {
                continue;
            }
            if message.ack.is_some() && member.conn != NO_CONN {
                asked.push(self.sessions[member.session as usize].id);
            }
            self.push(member, run, message.urgent);
        }
        if let Some(ack) = message.ack {
            self.shared.namespaces[usize::from(message.namespace_index)].ack_delivered(ack, asked);
        }
    }

    /// Puts a run into one receiver's outbox. The fast path is two look-ups and one push.
    #[inline]
    fn push(&mut self, member: Member, run: &Rc<Run>, urgent: bool) {
        if member.conn == NO_CONN {
            return;
        }
        if member.batch {
            return self.push_batched(member, run);
        }
        let limits = &self.easing.outbox;
        let conn = &mut self.conns[member.conn as usize];
        let whole = conn.takes_joined() || run.n_messages() == 1;
        if conn.is_open() && whole && !conn.is_blocked() && conn.outbox.fits(run.bytes(), limits) {
            conn.outbox.push(run.clone(), member.offset);
            if !conn.dirty {
                conn.dirty = true;
                self.mark_dirty(member.conn);
            }
        } else {
            self.push_slow(member, run);
        }
        if urgent {
            self.urgent.push(member.conn);
        }
        self.tally.deliveries += 1;
    }

    pub(super) fn mark_dirty(&mut self, conn: u32) {
        if self.dirty.is_empty() {
            self.dirty_since = self.now;
        }
        self.dirty.push_back(conn);
    }

    /// For a receiver that is behind: one message at a time, by its policy.
    #[cold]
    fn push_slow(&mut self, member: Member, run: &Rc<Run>) {
        if !self.conns[member.conn as usize].is_open() {
            return;
        }
        if !self.conns[member.conn as usize].is_blocked() {
            // Much came within one turn: a socket that takes it is not slow.
            self.flush_conn(member.conn);
        }
        let limits = self.easing.outbox.clone();
        for single in run.singles() {
            let Some(conn) = self
                .conns
                .get_mut(member.conn as usize)
                .filter(|conn| conn.is_open())
            else {
                return;
            };
            let blocked = conn.is_blocked();
            if blocked && single.is_volatile() {
                self.tally.dropped += 1;
                continue;
            }
            match conn.outbox.push_slow(single.clone(), member.offset, &limits) {
                Pushed::Queued => {}
                Pushed::Conflated => self.tally.conflated += 1,
                Pushed::Dropped(n) => self.tally.dropped += n as u64,
                Pushed::TooSlow => {
                    self.too_slow.push((member.conn, CloseReason::SlowConsumer));
                    return;
                }
            }
            if !conn.dirty {
                conn.dirty = true;
                self.mark_dirty(member.conn);
            }
        }
        self.settle(member.conn);
    }

    /// Keeps the outbox account true for a connection that is behind.
    pub(super) fn settle(&mut self, index: u32) {
        let _closed = self.is_settled(index);
    }

    /// The same; false if the account is full, for which the connection is closed.
    pub(super) fn is_settled(&mut self, index: u32) -> bool {
        let Some(conn) = self.conns.get_mut(index as usize) else {
            return true;
        };
        let charge = if conn.outbox.is_empty() {
            0
        } else {
            conn.outbox.charge()
        };
        if charge > conn.charged {
            if self.outboxes.charge(charge - conn.charged).is_err() {
                self.too_slow.push((index, CloseReason::OutOfMemory));
                return false;
            }
        } else {
            self.outboxes.release(conn.charged - charge);
        }
        conn.charged = charge;
        true
    }

    pub(super) fn close_too_slow(&mut self) {
        while let Some((conn, reason)) = self.too_slow.pop() {
            if self.conns.get(conn as usize).is_some_and(super::Conn::is_open) {
                if reason == CloseReason::SlowConsumer {
                    self.shared.figures.slow_closed.inc();
                }
                self.close_conn(conn, reason);
            }
        }
    }

    /// Collects messages for a client that asked for batch events.
    fn push_batched(&mut self, member: Member, run: &Rc<Run>) {
        let config = self.shared.config.batch.clone();
        for single in run.singles() {
            let Some(message) = single.message() else { continue };
            let alone = message.urgent || message.ack.is_some() || !message.attachments.is_empty();
            let piece = if alone {
                None
            } else {
                single.piece(|| batch_piece(&message.args))
            };
            let Some(piece) = piece else {
                self.flush_batch(member.session);
                let plain = Member {
                    batch: false,
                    ..member
                };
                self.push(plain, single, message.urgent);
                continue;
            };
            if self.outboxes.charge(piece.len() + 1).is_err() {
                self.too_slow.push((member.conn, CloseReason::OutOfMemory));
                return;
            }
            let now_ms = self.now.as_millis();
            let batching = self.sessions[member.session as usize]
                .batching
                .get_or_insert_default();
            if batching.n == 0 {
                batching.due_ms = now_ms + config.delay.as_millis() as u64;
            } else {
                batching.pieces.push(',');
            }
            batching.pieces.push_str(piece);
            batching.charged += piece.len() + 1;
            batching.n += 1;
            batching.seq = message.seq;
            let full = batching.n >= config.messages_max || batching.pieces.len() >= config.bytes_max;
            self.tally.deliveries += 1;
            if full {
                self.flush_batch(member.session);
            }
        }
        self.arm_session(member.session);
    }

    /// What a batching session has collected; its bytes are given back.
    pub(super) fn take_batch(&mut self, index: u32) -> Option<Box<Batching>> {
        let batching = self.sessions[index as usize].batching.take()?;
        self.outboxes.release(batching.charged);
        (batching.n > 0).then_some(batching)
    }

    /// Sends what a batching session has collected as one event.
    pub(super) fn flush_batch(&mut self, index: u32) {
        let Some(batching) = self.take_batch(index) else {
            return;
        };
        let session = &self.sessions[index as usize];
        let namespace = &self.shared.namespaces[usize::from(session.namespace)];
        let tail = session
            .pid
            .is_some()
            .then(|| namespace.epoch.offset_string(batching.seq));
        let json = batch_json(&batching.pieces, batching.n);
        let mut text = String::with_capacity(json.len() + 40);
        socketio::put_event(&mut text, &namespace.name, None, 0, &json, tail.as_deref());
        let conn = session.conn;
        self.shared.figures.batch_messages.record(batching.n as u64);
        self.shared.figures.batch_events.inc();
        if conn != NO_CONN {
            self.send_text(conn, text, Vec::new());
        }
    }
}
