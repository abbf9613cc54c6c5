//! Rooms of a namespace: who has members where, and what is kept for those who join.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use rustc_hash::{FxHashMap, FxHashSet};
use slab::Slab;
use smallvec::SmallVec;
use tidegate_vitals::Local;

use super::{
    relief::Trimmed,
    ring::{Log, cost},
};
use crate::{
    Error,
    message::{Message, Policy, RoomId},
    relief::WHOLE,
    room::RoomOptions,
    shard::MEMBERSHIP_BYTES,
};

/// What a room costs beside its name: its slot, and its entry by name.
const ROOM_BYTES: usize = size_of::<Room>() + 96;

/// All rooms of one namespace. A room goes when nobody is in it and it keeps nothing.
pub(crate) struct Rooms {
    by_name: FxHashMap<Arc<str>, RoomId>,
    slab: Slab<Room>,
    /// Pays for rooms and memberships.
    account: Local,
    /// How much of its size a history may have, per mille; less than all only under memory pressure.
    share: u16,
    /// The next room whose history is to be cut to that; none while all are.
    uncut: Option<usize>,
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
    last: BTreeMap<u64, Arc<Message>>,
    /// Positions of those by conflation key, oldest first.
    keys: FxHashMap<u64, VecDeque<u64>>,
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
    pub(crate) fn new(account: Local) -> Self {
        Self {
            by_name: FxHashMap::default(),
            slab: Slab::new(),
            account,
            share: WHOLE,
            uncut: None,
        }
    }

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
        self.account.charge(ROOM_BYTES + name.len())?;
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

    /// Counts one member of `shard`. A room that was made for it goes again if the membership cannot be paid for.
    pub(crate) fn enter(&mut self, id: RoomId, shard: u16) -> Result<RoomId, Error> {
        self.enter_many(id, shard, 1).map(|()| id)
    }

    /// Counts `n` members of `shard`, as [`Rooms::enter`] counts one.
    pub(crate) fn enter_many(&mut self, id: RoomId, shard: u16, n: u32) -> Result<(), Error> {
        let Some(room) = self.slab.get_mut(id.0 as usize) else {
            return Ok(());
        };
        if let Err(full) = self.account.charge(MEMBERSHIP_BYTES * n as usize) {
            self.collect(id);
            return Err(full.into());
        }
        room.members[usize::from(shard)] += n;
        Ok(())
    }

    /// Counts a member of one shard on another.
    pub(crate) fn shift(&mut self, id: RoomId, from: u16, to: u16) {
        if let Some(room) = self.slab.get_mut(id.0 as usize) {
            debug_assert!(room.members[usize::from(from)] > 0, "who moves was counted");
            room.members[usize::from(to)] += 1;
            room.members[usize::from(from)] -= 1;
        }
    }

    /// Takes one member of `shard` away, and the room with the last.
    pub(crate) fn exit(&mut self, id: RoomId, shard: u16) {
        self.exit_many(id, shard, 1);
    }

    /// Takes `n` members of `shard` away, and the room with the last.
    pub(crate) fn exit_many(&mut self, id: RoomId, shard: u16, n: u32) {
        let Some(room) = self.slab.get_mut(id.0 as usize) else {
            return;
        };
        let count = &mut room.members[usize::from(shard)];
        debug_assert!(*count >= n, "every exit follows an entry");
        *count = count.saturating_sub(n);
        self.account.release(MEMBERSHIP_BYTES * n as usize);
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
            self.account.release(ROOM_BYTES + room.name.len());
        }
    }

    /// How much of its size a history may have, per mille.
    pub(crate) fn share(&self) -> u16 {
        self.share
    }

    /// Lets histories have so much of their size from now on, per mille.
    pub(crate) fn set_share(&mut self, permille: u16) {
        self.uncut = (permille < self.share).then_some(0);
        self.share = permille;
    }

    /// Cuts the histories of the next `n` rooms to their share.
    pub(crate) fn trim_histories(&mut self, n: usize) -> Trimmed {
        let mut trimmed = Trimmed::default();
        let Some(from) = self.uncut else {
            return trimmed;
        };
        let until = (from + n).min(self.slab.capacity());
        for index in from..until {
            let Some(room) = self.slab.get_mut(index) else {
                continue;
            };
            if let (Some(kept), Some(options)) = (&mut room.kept, &room.options) {
                let (messages, bytes) = kept.cut_history(history_max(options, self.share));
                trimmed.history_messages += messages;
                trimmed.history_bytes += bytes;
            }
        }
        trimmed.more = until < self.slab.capacity();
        self.uncut = trimmed.more.then_some(until);
        trimmed
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

    pub(crate) fn n_members_of(&self, shard: usize) -> u32 {
        self.members[shard]
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

    /// Whether published messages stay here.
    pub(crate) fn keeps(&self) -> bool {
        self.options
            .as_ref()
            .is_some_and(|options| options.keeps_messages())
    }

    /// Keeps a published message as the room's options say; of its history only a share, per mille.
    pub(crate) fn keep(&mut self, message: &Arc<Message>, share: u16) {
        let Some(options) = self.options.clone().filter(|options| options.keeps_messages()) else {
            return;
        };
        let kept = self.kept.get_or_insert_default();
        let newest = kept.history.back().or(kept.last.values().next_back());
        if newest.is_some_and(|newest| newest.seq == message.seq) {
            // A publisher may name one room twice.
            return;
        }
        if options.last > 0 {
            kept.keep_last(message, &options);
        }
        if options.history_messages > 0 {
            kept.history.push_back(message.clone());
            kept.cut_history(history_max(&options, share));
            kept.drop_old(&options, message.ts_ms);
        }
    }

    /// What comes with a join, oldest first.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Message>> {
        self.kept
            .as_ref()
            .map_or_else(Vec::new, |kept| kept.last.values().cloned().collect())
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
        let seqs = self.keys.entry(key(message)).or_default();
        seqs.push_back(message.seq);
        self.last.insert(message.seq, message.clone());
        if seqs.len() > options.last
            && let Some(oldest) = seqs.pop_front()
        {
            self.last.remove(&oldest);
        }
        if self.last.len() > options.keys_max.saturating_mul(options.last)
            && let Some((_, oldest)) = self.last.pop_first()
        {
            self.forget_oldest(key(&oldest));
        }
    }

    /// The oldest message of a key is gone.
    fn forget_oldest(&mut self, key: u64) {
        if let Some(seqs) = self.keys.get_mut(&key) {
            seqs.pop_front();
            if seqs.is_empty() {
                self.keys.remove(&key);
            }
        }
    }

    /// Cuts history to so many messages; says how many went, and their bytes.
    fn cut_history(&mut self, messages_max: usize) -> (u64, u64) {
        let over = self.history.len().saturating_sub(messages_max);
        let bytes = self
            .history
            .drain(..over)
            .map(|message| cost(&message) as u64)
            .sum();
        (over as u64, bytes)
    }

    /// Drops history above its age.
    fn drop_old(&mut self, options: &RoomOptions, now_ms: u64) {
        let oldest = now_ms.saturating_sub(options.history_age.as_millis() as u64);
        while self.history.front().is_some_and(|message| message.ts_ms < oldest) {
            self.history.pop_front();
        }
    }
}

/// How many messages a history may have; the newest stays whatever the share.
fn history_max(options: &RoomOptions, share: u16) -> usize {
    if share == WHOLE {
        return options.history_messages;
    }
    let part = options.history_messages as u64 * u64::from(share) / u64::from(WHOLE);
    (part as usize).max(options.history_messages.min(1))
}

fn key(message: &Message) -> u64 {
    match message.policy {
        Policy::Conflate(key) => key,
        Policy::Disconnect | Policy::DropOldest => 0,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_vitals::{Class, Ledger};

    use super::*;
    use crate::message::example;

    fn empty() -> Rooms {
        Rooms::new(Ledger::new(1 << 20).local(Class::Rooms, 0))
    }

    fn options(last: usize, history: usize) -> Option<Arc<RoomOptions>> {
        let options = RoomOptions {
            last,
            keys_max: 3,
            history_messages: history,
            ..RoomOptions::default()
        };
        Some(Arc::new(options))
    }

    fn room(rooms: &mut Rooms, options: Option<Arc<RoomOptions>>) -> RoomId {
        rooms.intern("a", 3, 9, || options).unwrap()
    }

    #[test]
    fn a_room_lives_as_long_as_somebody_is_in_it() {
        let mut rooms = empty();
        let id = room(&mut rooms, None);
        rooms.enter(id, 0).unwrap();
        rooms.enter(id, 2).unwrap();
        rooms.enter(id, 2).unwrap();
        assert_eq!(
            rooms.get(id).map(|room| (room.n_members(), room.shards())),
            Some((3, 0b101))
        );
        for (shard, left) in [(2, 0b101), (0, 0b100)] {
            rooms.exit(id, shard);
            assert_eq!(rooms.get(id).map(Room::shards), Some(left));
        }
        rooms.exit(id, 2);
        assert_eq!((rooms.len(), rooms.id("a")), (0, None));
    }

    #[test]
    fn a_room_that_keeps_messages_outlives_its_members() {
        let mut rooms = empty();
        let id = room(&mut rooms, options(1, 0));
        rooms.enter(id, 0).unwrap();
        rooms
            .get_mut(id)
            .unwrap()
            .keep(&Arc::new(example(1, 100, Policy::Disconnect)), WHOLE);
        rooms.exit(id, 0);
        assert_eq!(rooms.find("a").map(Room::n_retained), Some(1));
        rooms.get_mut(id).unwrap().set_options(None);
        rooms.collect(id);
        assert_eq!(rooms.len(), 0);
    }

    #[test]
    fn rooms_are_limited_in_number() {
        let mut rooms = empty();
        assert!(rooms.intern("a", 1, 1, || None).is_ok());
        assert!(rooms.intern("a", 1, 1, || None).is_ok());
        assert!(rooms.intern("b", 1, 1, || None).is_err());
    }

    /// Keeps messages of these keys (0 is none) at positions from 1; which come with a join, which are history.
    #[track_caller]
    fn check(last: usize, history: usize, keys: &[u64], snapshot: &[u64], past: &[u64]) {
        let mut rooms = empty();
        let id = room(&mut rooms, options(last, history));
        let room = rooms.get_mut(id).unwrap();
        for (at, &key) in keys.iter().enumerate() {
            let policy = if key == 0 {
                Policy::Disconnect
            } else {
                Policy::Conflate(key)
            };
            room.keep(&Arc::new(example(at as u64 + 1, 100, policy)), WHOLE);
        }
        let seqs =
            |messages: Vec<Arc<Message>>| messages.iter().map(|message| message.seq).collect::<Vec<_>>();
        assert_eq!(seqs(room.snapshot()), snapshot);
        assert_eq!(seqs(room.history(2, keys.len() as u64)), past);
    }

    #[test]
    fn the_newest_of_each_key_comes_with_a_join_in_order() {
        check(1, 0, &[1, 2, 1, 2, 1], &[4, 5], &[]);
        check(2, 0, &[1, 2, 1, 1], &[2, 3, 4], &[]);
        check(3, 0, &[0, 0, 0, 0], &[2, 3, 4], &[]);
        // Three keys are the limit: the oldest goes.
        check(1, 0, &[1, 2, 3, 4], &[2, 3, 4], &[]);
        check(0, 0, &[1, 2], &[], &[]);
    }

    #[test]
    fn history_keeps_the_newest_of_any_key() {
        check(0, 3, &[1, 1, 0, 1, 2], &[], &[4, 5]);
    }

    #[test]
    fn history_ends_at_its_age() {
        let mut rooms = empty();
        let id = room(&mut rooms, options(0, 9));
        let hour_ms = 3_600_000;
        let room = rooms.get_mut(id).unwrap();
        // An example's time is its position.
        for seq in [0, 1, hour_ms] {
            room.keep(&Arc::new(example(seq, 100, Policy::Disconnect)), WHOLE);
        }
        assert_eq!(room.history(9, hour_ms + 1).len(), 2);
        room.keep(&Arc::new(example(hour_ms + 2, 100, Policy::Disconnect)), WHOLE);
        assert_eq!(room.n_history(), 2);
    }

    #[test]
    fn histories_are_cut_to_their_share_and_grow_again_later() {
        let mut rooms = empty();
        let id = room(&mut rooms, options(0, 10));
        let publish = |rooms: &mut Rooms, seq| {
            let share = rooms.share();
            let message = Arc::new(example(seq, 100, Policy::Disconnect));
            rooms.get_mut(id).unwrap().keep(&message, share);
        };
        (0..10).for_each(|seq| publish(&mut rooms, seq));
        rooms.set_share(250);
        let trimmed = rooms.trim_histories(8);
        assert_eq!((trimmed.history_messages, trimmed.more), (8, false));
        publish(&mut rooms, 10);
        assert_eq!(rooms.get(id).map(Room::n_history), Some(2));
        rooms.set_share(WHOLE);
        (11..30).for_each(|seq| publish(&mut rooms, seq));
        assert_eq!(rooms.get(id).map(Room::n_history), Some(10));
    }

    #[test]
    fn rooms_and_memberships_are_paid_for_and_refused_when_they_cannot_be() {
        let ledger = Ledger::new((ROOM_BYTES + 1 + MEMBERSHIP_BYTES) as u64);
        let mut rooms = Rooms::new(ledger.local(Class::Rooms, 0));
        let id = room(&mut rooms, None);
        rooms.enter(id, 0).unwrap();
        assert!(matches!(rooms.enter(id, 1), Err(Error::Memory(_))));
        assert!(matches!(rooms.intern("b", 3, 9, || None), Err(Error::Memory(_))));
        rooms.shift(id, 0, 2);
        assert_eq!(rooms.get(id).map(Room::shards), Some(0b100));
        rooms.exit(id, 2);
        assert_eq!((rooms.len(), ledger.used()), (0, 0));
    }
}
