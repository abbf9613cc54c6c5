//! Rooms of a namespace: who has members where, and what is kept for those who join.

use std::{collections::VecDeque, sync::Arc};

use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use smallvec::SmallVec;

use super::ring::Log;
use crate::{
    Error,
    message::{Message, Policy, RoomId},
    room::RoomOptions,
};

/// All rooms of one namespace. A room goes when nobody is in it and it keeps nothing.
#[derive(Default)]
pub(crate) struct Rooms {
    by_name: FxHashMap<Arc<str>, RoomId>,
    slab: Slab<Room>,
}

/// One room.
pub(crate) struct Room {
    pub(crate) name: Arc<str>,
    /// Members by shard; a session that waits for recovery counts where it was.
    members: SmallVec<[u32; 4]>,
    pub(crate) log: Log,
    pub(crate) options: Option<Arc<RoomOptions>>,
    kept: Option<Box<Kept>>,
    pub(crate) presence: Option<Box<PresenceTable>>,
}

/// Messages kept for those who join.
#[derive(Default)]
pub(crate) struct Kept {
    /// The newest messages of each conflation key, in order of publication.
    last: VecDeque<Arc<Message>>,
    history: VecDeque<Arc<Message>>,
}

/// Who is in a room.
#[derive(Default)]
pub(crate) struct PresenceTable {
    pub(crate) users: FxHashMap<Arc<str>, Present>,
    /// Who came since the last announcement and was not there at it.
    pub(crate) joined: FxHashSet<Arc<str>>,
    /// Who was there at the last announcement and is gone.
    pub(crate) left: FxHashSet<Arc<str>>,
    pub(crate) announced_ms: u64,
    pub(crate) queued: bool,
}

/// One user of a room.
pub(crate) struct Present {
    pub(crate) sessions: u32,
    pub(crate) since_ms: u64,
}

impl Rooms {
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    pub(crate) fn id(&self, name: &str) -> Option<RoomId> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn get(&self, id: RoomId) -> Option<&Room> {
        self.slab.get(id.0 as usize)
    }

    pub(crate) fn get_mut(&mut self, id: RoomId) -> Option<&mut Room> {
        self.slab.get_mut(id.0 as usize)
    }

    pub(crate) fn find(&self, name: &str) -> Option<&Room> {
        self.id(name).and_then(|id| self.get(id))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Room> {
        self.slab.iter().map(|(_, room)| room)
    }

    /// The room of that name, made if needed.
    pub(crate) fn intern(
        &mut self,
        name: &str,
        shards: usize,
        max: usize,
        options: impl FnOnce() -> Option<Arc<RoomOptions>>,
    ) -> Result<RoomId, Error> {
        if let Some(id) = self.id(name) {
            return Ok(id);
        }
        if self.slab.len() >= max {
            return Err(Error::TooMany { what: "rooms", max });
        }
        let name: Arc<str> = name.into();
        let options = options();
        let presence = options
            .as_ref()
            .is_some_and(|options| options.presence)
            .then(Box::default);
        let id = self.slab.insert(Room {
            name: name.clone(),
            members: SmallVec::from_elem(0, shards),
            log: Log::default(),
            options,
            kept: None,
            presence,
        });
        let id = RoomId(u32::try_from(id).expect("rooms are limited far below 2^32"));
        self.by_name.insert(name, id);
        Ok(id)
    }

    /// Counts one member of `shard`.
    pub(crate) fn enter(&mut self, id: RoomId, shard: u16) {
        if let Some(room) = self.slab.get_mut(id.0 as usize) {
            room.members[usize::from(shard)] += 1;
        }
    }

    /// Takes one member of `shard` away, and the room with the last.
    pub(crate) fn exit(&mut self, id: RoomId, shard: u16) {
        let Some(room) = self.slab.get_mut(id.0 as usize) else {
            return;
        };
        let count = &mut room.members[usize::from(shard)];
        debug_assert!(*count > 0, "every exit follows an entry");
        *count = count.saturating_sub(1);
        self.collect(id);
    }

    /// Removes a room that nobody is in and that keeps nothing.
    pub(crate) fn collect(&mut self, id: RoomId) {
        let empty = self.get(id).is_some_and(|room| {
            room.n_members() == 0
                && room.kept.is_none()
                && room.presence.as_ref().is_none_or(|p| p.is_settled())
        });
        if empty {
            let room = self.slab.remove(id.0 as usize);
            self.by_name.remove(&room.name);
        }
    }
}

impl PresenceTable {
    fn is_settled(&self) -> bool {
        self.users.is_empty() && self.joined.is_empty() && self.left.is_empty()
    }
}

impl Room {
    pub(crate) fn n_members(&self) -> usize {
        self.members.iter().map(|&n| n as usize).sum()
    }

    /// One bit for each shard that has members.
    pub(crate) fn shards(&self) -> u64 {
        self.members
            .iter()
            .enumerate()
            .filter(|&(_, &n)| n > 0)
            .fold(0, |mask, (shard, _)| mask | 1 << shard)
    }

    pub(crate) fn n_retained(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.last.len())
    }

    pub(crate) fn n_history(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.history.len())
    }

    /// Keeps a published message as the room's options say.
    pub(crate) fn keep(&mut self, message: &Arc<Message>) {
        let Some(options) = self.options.clone().filter(|options| options.keeps_messages()) else {
            return;
        };
        let kept = self.kept.get_or_insert_default();
        let newest = kept.history.back().or(kept.last.back());
        if newest.is_some_and(|newest| newest.seq == message.seq) {
            // A publisher may name one room twice.
            return;
        }
        if options.last > 0 {
            kept.keep_last(message, &options);
        }
        if options.history_messages > 0 {
            kept.history.push_back(message.clone());
            kept.trim_history(&options, message.ts_ms);
        }
    }

    /// What comes with a join, oldest first.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Message>> {
        self.kept
            .as_ref()
            .map_or_else(Vec::new, |kept| kept.last.iter().cloned().collect())
    }

    /// The newest `limit` messages of history, oldest first.
    pub(crate) fn history(&self, limit: usize, now_ms: u64) -> Vec<Arc<Message>> {
        let (Some(kept), Some(options)) = (&self.kept, &self.options) else {
            return Vec::new();
        };
        let oldest = now_ms.saturating_sub(options.history_age.as_millis() as u64);
        let skip = kept.history.len().saturating_sub(limit);
        kept.history
            .iter()
            .skip(skip)
            .filter(|message| message.ts_ms >= oldest)
            .cloned()
            .collect()
    }

    /// Adopts changed options; what they no longer keep is dropped.
    pub(crate) fn set_options(&mut self, options: Option<Arc<RoomOptions>>) {
        let keeps = options.as_ref().is_some_and(|options| options.keeps_messages());
        if !keeps {
            self.kept = None;
        }
        match (&options, &self.presence) {
            (Some(options), None) if options.presence => self.presence = Some(Box::default()),
            (options, Some(_)) if !options.as_ref().is_some_and(|options| options.presence) => {
                self.presence = None;
            }
            _ => {}
        }
        self.options = options;
    }
}

impl Kept {
    fn keep_last(&mut self, message: &Arc<Message>, options: &RoomOptions) {
        let key = key(message);
        let same = |other: &Arc<Message>| self::key(other) == key;
        if self.last.iter().filter(|other| same(other)).count() >= options.last {
            let oldest = self
                .last
                .iter()
                .position(same)
                .expect("at least one was just counted");
            self.last.remove(oldest);
        }
        if self.last.len() >= options.keys_max.saturating_mul(options.last) {
            self.last.pop_front();
        }
        self.last.push_back(message.clone());
    }

    fn trim_history(&mut self, options: &RoomOptions, now_ms: u64) {
        let oldest = now_ms.saturating_sub(options.history_age.as_millis() as u64);
        while self.history.len() > options.history_messages
            || self.history.front().is_some_and(|message| message.ts_ms < oldest)
        {
            self.history.pop_front();
        }
    }
}

fn key(message: &Message) -> u64 {
    match message.policy {
        Policy::Conflate(key) => key,
        Policy::Disconnect | Policy::DropOldest => 0,
    }
}
