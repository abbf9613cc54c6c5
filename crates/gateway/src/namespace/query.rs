//! What can be asked of a namespace without asking its shards.

use std::sync::Arc;

use serde_json::value::RawValue;
use tidegate_wire::socketio;

use super::Namespace;
use crate::{
    Error, Target,
    id::Id,
    inspect::{HistoryItem, Page, Presence, PresenceMember, RoomInfo},
    message::{Dests, Message, SessionRef},
};

impl Namespace {
    /// Where a session lives.
    pub(crate) fn session(&self, id: &str) -> Option<SessionRef> {
        let id = Id::parse(id)?;
        self.lock().sessions.get(&id).map(|resident| resident.at)
    }

    /// What a target names; nothing if that does not exist.
    pub(crate) fn find(&self, target: &Target) -> Result<Dests, Error> {
        self.lock().resolve(self, std::slice::from_ref(target), false)
    }

    /// Where the session of an id lives.
    pub(crate) fn place(&self, id: Id) -> Option<SessionRef> {
        self.lock().sessions.get(&id).map(|resident| resident.at)
    }

    /// The sessions of a user.
    pub(crate) fn user_sessions(&self, user: &str) -> Vec<SessionRef> {
        self.lock()
            .users
            .get(user)
            .map_or_else(Vec::new, |user| user.sessions.to_vec())
    }

    /// The names of users and how many sessions each has, by name, after `after`.
    pub(crate) fn users(&self) -> Vec<(Arc<str>, usize)> {
        self.lock()
            .users
            .iter()
            .map(|(name, user)| (name.clone(), user.sessions.len()))
            .collect()
    }

    /// Rooms by name.
    pub(crate) fn rooms(&self, after: Option<&str>, limit: usize) -> Page<RoomInfo> {
        let inner = self.lock();
        let is_after = |name: &str| after.is_none_or(|after| name > after);
        let mut items: Vec<RoomInfo> = inner
            .rooms
            .iter()
            .filter(|room| is_after(&room.name))
            .map(|room| RoomInfo {
                name: room.name.to_string(),
                namespace: self.name.to_string(),
                members: room.n_members(),
                retained: room.n_retained(),
                history: room.n_history(),
            })
            .collect();
        drop(inner);
        items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more {
            items.last().map(|room| room.name.clone())
        } else {
            None
        };
        Page { items, next }
    }

    /// Sessions in a room.
    pub(crate) fn room_members(&self, id: crate::message::RoomId) -> usize {
        self.lock().rooms.get(id).map_or(0, super::Room::n_members)
    }

    /// A room's name.
    pub(crate) fn room_name(&self, id: crate::message::RoomId) -> Option<Arc<str>> {
        self.lock().rooms.get(id).map(|room| room.name.clone())
    }

    /// Which shards have members of a room.
    pub(crate) fn room_shards(&self, room: &str) -> Option<(crate::message::RoomId, u64)> {
        let inner = self.lock();
        let id = inner.rooms.id(room)?;
        inner.rooms.get(id).map(|room| (id, room.shards()))
    }

    /// Who is in a room; none where the room does not exist or keeps no presence.
    pub(crate) fn presence(&self, room: &str, limit: usize) -> Option<Presence> {
        let inner = self.lock();
        let table = inner.rooms.find(room)?.presence.as_ref()?;
        let mut members: Vec<PresenceMember> = table
            .users
            .iter()
            .map(|(user, present)| PresenceMember {
                user: user.to_string(),
                sessions: present.sessions as usize,
                since_ms: present.since_ms,
            })
            .collect();
        let count = members.len();
        drop(inner);
        members.sort_unstable_by(|a, b| a.user.cmp(&b.user));
        members.truncate(limit);
        Some(Presence { count, members })
    }

    /// The newest messages of a room's history, oldest first; none where the room does not exist.
    pub(crate) fn history(&self, room: &str, limit: usize) -> Option<Vec<HistoryItem>> {
        let now_ms = self.clock.wall_ms();
        let messages = self.lock().rooms.find(room)?.history(limit, now_ms);
        Some(
            messages
                .iter()
                .filter_map(|message| history_item(message))
                .collect(),
        )
    }

    /// Position of the newest message.
    pub(crate) fn seq(&self) -> u64 {
        self.lock().seq
    }

    /// Sessions by id and as counted by shard, in one number that is 0 only if both are.
    #[cfg(test)]
    pub(crate) fn n_sessions(&self) -> usize {
        let inner = self.lock();
        inner.sessions.len()
            + inner
                .sessions_per_shard
                .iter()
                .map(|&n| n as usize)
                .sum::<usize>()
    }

    /// Rooms, users, bytes and messages of the ring.
    pub(crate) fn sizes(&self) -> [usize; 4] {
        let inner = self.lock();
        [
            inner.rooms.len(),
            inner.users.len(),
            inner.ring.bytes(),
            inner.ring.len(),
        ]
    }
}

fn history_item(message: &Message) -> Option<HistoryItem> {
    let view = socketio::event(&message.args).ok()?;
    let args = format!(
        "[{}]",
        view.args
            .iter()
            .map(|arg| arg.get())
            .collect::<Vec<_>>()
            .join(",")
    );
    Some(HistoryItem {
        offset: message.epoch.offset_string(message.seq),
        ts_ms: message.ts_ms,
        event: view.name.into_owned(),
        args: RawValue::from_string(args).ok()?,
    })
}
