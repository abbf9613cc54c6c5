//! One namespace: one order of messages, the ring behind it, and who is where.

mod acks;
mod act;
mod ids;
mod presence;
mod publish;
mod query;
mod recover;
mod relief;
mod ring;
mod rooms;

use std::{
    hash::RandomState,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
};

use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tidegate_vitals::{Class, Clock, Ledger};

pub(crate) use act::{Act, KICKED};
pub(crate) use recover::{Moved, MovedRoom, Replay};
pub(crate) use relief::Trimmed;

use crate::{
    Collected, Error, Target,
    config::Config,
    figures::Figures,
    handler::Handlers,
    id::Id,
    live::Live,
    message::{Dest, Dests, RoomId, SessionRef},
    offset::Epoch,
    shard::{
        command::{Command, Joined},
        inbox::Inbox,
    },
};
use acks::{Acks, Answered};
use act::Acts;
use ids::PublishIds;
use ring::{Log, Ring};
use rooms::{Room, Rooms};

/// What the account of rooms takes from the ledger at a time.
const ROOMS_CHUNK: usize = 64 << 10;

/// One namespace. Everything that has an order in it happens under one short lock.
pub(crate) struct Namespace {
    pub(crate) index: u16,
    pub(crate) name: Arc<str>,
    pub(crate) handlers: Handlers,
    pub(crate) epoch: Epoch,
    clock: Clock,
    ledger: Ledger,
    figures: Arc<Figures>,
    live: Arc<Live>,
    inboxes: Arc<[Arc<Inbox>]>,
    hasher: RandomState,
    recovery: bool,
    /// Bytes of the ring, for those who do not wait for the lock.
    ring_bytes: AtomicU64,
    inner: Mutex<Inner>,
}

struct Inner {
    seq: u64,
    ring: Ring,
    rooms: Rooms,
    /// Sessions by public id, those that wait for recovery included.
    sessions: FxHashMap<Id, Resident>,
    users: FxHashMap<Arc<str>, User>,
    sessions_per_shard: Vec<u32>,
    everyone: Log,
    ids: PublishIds,
    acks: Acks,
    acts: Acts,
    presence_due: Vec<RoomId>,
}

/// What a namespace keeps of each session.
#[cfg(test)]
pub(crate) const RESIDENT_BYTES: usize = size_of::<(Id, Resident)>();

struct Resident {
    at: SessionRef,
    log: Option<Box<Log>>,
}

#[derive(Default)]
struct User {
    sessions: SmallVec<[SessionRef; 1]>,
    log: Log,
}

/// Everything a namespace is made from.
pub(crate) struct Parts {
    pub(crate) index: u16,
    pub(crate) name: Arc<str>,
    pub(crate) handlers: Handlers,
    pub(crate) epoch: Epoch,
    pub(crate) clock: Clock,
    pub(crate) ledger: Ledger,
    pub(crate) figures: Arc<Figures>,
    pub(crate) live: Arc<Live>,
    pub(crate) inboxes: Arc<[Arc<Inbox>]>,
}

impl Namespace {
    pub(crate) fn new(parts: Parts, config: &Config) -> Self {
        let inner = Inner {
            seq: 0,
            ring: Ring::new(config.recovery.ring_bytes_max),
            rooms: Rooms::new(parts.ledger.local(Class::Rooms, ROOMS_CHUNK)),
            sessions: FxHashMap::default(),
            users: FxHashMap::default(),
            sessions_per_shard: vec![0; parts.inboxes.len()],
            everyone: Log::default(),
            ids: PublishIds::new(config.publish_ids_max, config.publish_id_ttl),
            acks: Acks::new(config.limits.acks_in_flight),
            acts: Acts::new(parts.inboxes.len()),
            presence_due: Vec::new(),
        };
        Self {
            index: parts.index,
            name: parts.name,
            handlers: parts.handlers,
            epoch: parts.epoch,
            clock: parts.clock,
            ledger: parts.ledger,
            figures: parts.figures,
            live: parts.live,
            inboxes: parts.inboxes,
            hasher: RandomState::new(),
            recovery: config.recovery.enabled,
            ring_bytes: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One place in the inbox of each shard of the mask, or none at all.
    fn reserve(&self, shards: u64) -> Result<(), Error> {
        for (index, inbox) in self.of(shards) {
            if let Err(error) = inbox.reserve() {
                self.of(shards & ((1 << index) - 1))
                    .for_each(|(_, inbox)| inbox.release());
                self.figures.inbox_full.inc();
                return Err(error);
            }
        }
        Ok(())
    }

    fn fill(&self, shards: u64, command: impl Fn() -> Command) {
        self.of(shards).for_each(|(_, inbox)| inbox.fill(command()));
    }

    fn wake(&self, shards: u64) {
        self.of(shards).for_each(|(_, inbox)| inbox.wake());
    }

    fn of(&self, shards: u64) -> impl Iterator<Item = (usize, &Arc<Inbox>)> {
        self.inboxes
            .iter()
            .enumerate()
            .filter(move |(index, _)| shards & 1 << index != 0)
    }

    /// Registers a new session at this point of the order; its shard hears of it as `Opened`.
    pub(crate) fn open(&self, id: Id, at: SessionRef, user: Option<&Arc<str>>) -> Result<(), Error> {
        let shards = 1 << at.shard;
        let mut inner = self.lock();
        self.reserve(shards)?;
        inner.sessions_per_shard[usize::from(at.shard)] += 1;
        inner.sessions.insert(id, Resident { at, log: None });
        if let Some(user) = user {
            inner.users.entry(user.clone()).or_default().sessions.push(at);
        }
        let seq = inner.seq;
        self.fill(shards, || Command::Opened { session: at, seq });
        drop(inner);
        self.wake(shards);
        Ok(())
    }

    /// Takes a session out of everything it was in.
    pub(crate) fn close(&self, id: Id, at: SessionRef, user: Option<&Arc<str>>, rooms: &[RoomId]) {
        let mut inner = self.lock();
        if inner.sessions.get(&id).is_some_and(|resident| resident.at == at) {
            inner.sessions.remove(&id);
        }
        inner.sessions_per_shard[usize::from(at.shard)] -= 1;
        if let Some(user) = user {
            inner.remove_from_user(user, at);
        }
        for &room in rooms {
            inner.rooms.exit(room, at.shard);
        }
    }

    /// Another user name for a session, after a renewal or by the application.
    pub(crate) fn rename(&self, at: SessionRef, old: Option<&Arc<str>>, new: Option<&Arc<str>>) {
        let mut inner = self.lock();
        if let Some(old) = old {
            inner.remove_from_user(old, at);
        }
        if let Some(new) = new {
            inner.users.entry(new.clone()).or_default().sessions.push(at);
        }
    }

    /// Puts a session into rooms at this point of the order; what they keep comes with it.
    ///
    /// Counted at once, so that a publish right after it reaches the session; the shard adds the membership when
    /// the mark passes, which is exactly between what was published before and after.
    pub(crate) fn join(&self, session: Id, names: &[&str], by: By) -> Result<(), Error> {
        let limits = self.live.limits();
        names
            .iter()
            .try_for_each(|name| check_name("room", name, limits.name_bytes_max))?;
        let mut inner = self.lock();
        let at = inner.at(session)?;
        // Nobody else's own room, whatever the patterns say; the session's own it has already.
        if let Some(name) = names.iter().find(|name| inner.is_own_room(name)) {
            return Err(Error::Forbidden {
                action: "join",
                target: (**name).to_owned(),
            });
        }
        let shards = 1 << at.shard;
        self.reserve(shards)?;
        let joined = self.enter(&mut inner, at, names);
        if let Err(Error::Memory(_)) = joined {
            self.figures.no_memory("join");
        }
        match joined {
            Ok(rooms) => {
                let seq = inner.seq;
                let mark = Command::Joined {
                    session: at,
                    seq,
                    rooms,
                    by,
                };
                self.inboxes[usize::from(at.shard)].fill(mark);
                drop(inner);
                self.wake(shards);
                Ok(())
            }
            Err(error) => {
                self.inboxes[usize::from(at.shard)].release();
                Err(error)
            }
        }
    }

    fn enter(&self, inner: &mut Inner, at: SessionRef, names: &[&str]) -> Result<Vec<Joined>, Error> {
        let mut joined = Vec::with_capacity(names.len());
        for name in names {
            match inner
                .intern(self, name)
                .and_then(|id| inner.rooms.enter(id, at.shard))
            {
                Ok(id) => {
                    let room = inner.rooms.get(id).expect("the room was just made");
                    joined.push(Joined {
                        namespace: self.index,
                        id,
                        snapshot: room.snapshot(),
                        options: room.options.clone(),
                    });
                }
                Err(error) => {
                    joined
                        .iter()
                        .for_each(|joined| inner.rooms.exit(joined.id, at.shard));
                    return Err(error);
                }
            }
        }
        Ok(joined)
    }

    /// Sends a join after its session, which was at `from` when it was asked for: the rooms are counted where the
    /// session is now, and the join takes its place in the order anew. Gives the rooms back if the session is gone.
    pub(crate) fn follow(
        &self,
        session: Id,
        from: SessionRef,
        mut rooms: Vec<Joined>,
    ) -> Result<(), Vec<Joined>> {
        let mut inner = self.lock();
        let Ok(to) = inner.at(session) else {
            return Err(rooms);
        };
        for room in &mut rooms {
            inner.rooms.shift(room.id, from.shard, to.shard);
            room.snapshot = inner.rooms.get(room.id).map_or_else(Vec::new, Room::snapshot);
        }
        let mark = Command::Joined {
            session: to,
            seq: inner.seq,
            rooms,
            by: By::Server,
        };
        // It stands for a join that had its place before.
        self.inboxes[usize::from(to.shard)].push_always(mark);
        Ok(())
    }

    /// Asks the session's shard to leave rooms at this point of the order.
    pub(crate) fn leave(&self, session: Id, names: &[&str], ack: Option<u64>) -> Result<(), Error> {
        let inner = self.lock();
        let at = inner.at(session)?;
        let shards = 1 << at.shard;
        self.reserve(shards)?;
        let rooms = names.iter().filter_map(|name| inner.rooms.id(name)).collect();
        self.inboxes[usize::from(at.shard)].fill(Command::Left {
            session: at,
            rooms,
            ack,
        });
        drop(inner);
        self.wake(shards);
        Ok(())
    }

    /// Gives back a membership that its shard did not keep or has ended.
    pub(crate) fn exit(&self, rooms: &[RoomId], shard: u16) {
        let mut inner = self.lock();
        for &room in rooms {
            inner.rooms.exit(room, shard);
        }
    }

    /// A shard delivered an event that asks for acks.
    pub(crate) fn ack_delivered(&self, ack: u64, sessions: Vec<Id>) {
        if !self.lock().acks.delivered(ack, sessions) {
            self.figures.no_memory("acks");
        }
    }

    /// A client acknowledged; false if nobody asked it.
    pub(crate) fn ack_answer(&self, ack: u64, session: Id, args: &str, data: Vec<bytes::Bytes>) -> bool {
        let answered = self.lock().acks.answer(ack, session, args, data);
        if answered == Answered::Dropped {
            self.figures.acks_dropped.inc();
        }
        answered != Answered::Unasked
    }

    /// Ends a wait for acks.
    pub(crate) fn ack_time_out(&self, ack: u64) -> Option<Collected> {
        self.lock().acks.time_out(ack)
    }

    /// Adopts changed room options for the rooms that exist.
    pub(crate) fn reload(&self) {
        let mut inner = self.lock();
        let names: Vec<(RoomId, Arc<str>)> = inner
            .rooms
            .iter()
            .filter_map(|room| Some((inner.rooms.id(&room.name)?, room.name.clone())))
            .collect();
        for (id, name) in names {
            let options = self.live.room_options(&name);
            if let Some(room) = inner.rooms.get_mut(id) {
                room.set_options(options);
            }
            inner.rooms.collect(id);
        }
    }
}

/// Who asks to join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// The server's own code, which may put a session anywhere.
    Server,
    /// The client, by a built-in event; the ack it waits for.
    Client { ack: Option<u64> },
}

// === impl Inner ===

impl Inner {
    fn at(&self, session: Id) -> Result<SessionRef, Error> {
        self.sessions
            .get(&session)
            .map(|resident| resident.at)
            .ok_or(Error::Gone)
    }

    /// Whether a room name is the id of a session.
    fn is_own_room(&self, name: &str) -> bool {
        Id::parse(name).is_some_and(|id| self.sessions.contains_key(&id))
    }

    fn intern(&mut self, namespace: &Namespace, name: &str) -> Result<RoomId, Error> {
        let max = namespace.live.limits().rooms;
        self.rooms.intern(name, self.sessions_per_shard.len(), max, || {
            namespace.live.room_options(name)
        })
    }

    /// Names become ids; what does not exist is left out, but a room that keeps messages is made for them.
    /// Who is left out: a user by name alone.
    fn resolve_excepted<'t>(
        &mut self,
        namespace: &Namespace,
        targets: impl IntoIterator<Item = &'t Target>,
    ) -> Result<Dests, Error> {
        let mut dests = self.resolve(namespace, targets, false)?;
        for dest in &mut dests {
            if let Dest::User(_, sessions) = dest {
                *sessions = SmallVec::new();
            }
        }
        Ok(dests)
    }

    fn resolve<'t>(
        &mut self,
        namespace: &Namespace,
        targets: impl IntoIterator<Item = &'t Target>,
        make: bool,
    ) -> Result<Dests, Error> {
        let mut dests = Dests::new();
        for target in targets {
            match target {
                Target::Room(name) => dests.extend(self.resolve_room(namespace, name, make)?),
                Target::User(name) => {
                    if let Some((name, user)) = self.users.get_key_value(name.as_str()) {
                        dests.push(Dest::User(name.clone(), user.sessions.clone()));
                    }
                }
                Target::Session(id) => dests.extend(self.resolve_session(id)),
            }
        }
        Ok(dests)
    }

    fn resolve_room(&mut self, namespace: &Namespace, name: &str, make: bool) -> Result<Option<Dest>, Error> {
        if let Some(id) = self.rooms.id(name) {
            return Ok(Some(Dest::Room(id)));
        }
        // Every session is in the room that bears its id.
        if let Some(dest) = self.resolve_session(name) {
            return Ok(Some(dest));
        }
        let keeps = make
            && namespace
                .live
                .room_options(name)
                .is_some_and(|options| options.keeps_messages());
        if !keeps {
            return Ok(None);
        }
        check_name("room", name, namespace.live.limits().name_bytes_max)?;
        Ok(Some(Dest::Room(self.intern(namespace, name)?)))
    }

    fn resolve_session(&self, id: &str) -> Option<Dest> {
        let id = Id::parse(id)?;
        self.sessions
            .get(&id)
            .map(|resident| Dest::Session(id, resident.at))
    }

    /// One bit for each shard with receivers.
    fn shards_of(&self, to: &Dests) -> u64 {
        if to.is_empty() {
            let with = self
                .sessions_per_shard
                .iter()
                .enumerate()
                .filter(|&(_, &n)| n > 0);
            return with.fold(0, |mask, (shard, _)| mask | 1 << shard);
        }
        to.iter().fold(0, |mask, dest| mask | self.shards_of_dest(dest))
    }

    fn shards_of_dest(&self, dest: &Dest) -> u64 {
        match dest {
            Dest::Room(id) => self.rooms.get(*id).map_or(0, Room::shards),
            Dest::User(_, sessions) => sessions.iter().fold(0, |mask, at| mask | 1 << at.shard),
            Dest::Session(_, at) => 1 << at.shard,
        }
    }

    fn remove_from_user(&mut self, name: &Arc<str>, at: SessionRef) {
        if let Some(user) = self.users.get_mut(name) {
            user.sessions.retain(|session| *session != at);
            if user.sessions.is_empty() {
                self.users.remove(name);
            }
        }
    }
}

/// A room's name: not empty, not over the limit.
pub(crate) fn check_name(what: &'static str, name: &str, max: usize) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::BadRequest(format!("the name of a {what} is empty")));
    }
    if name.len() > max {
        return Err(Error::TooLarge {
            what,
            bytes: name.len(),
            max,
        });
    }
    Ok(())
}
