//! Who is in a room, and the throttled word of it.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::{Inner, Namespace, rooms::Present};
use crate::{Args, Publication, message::RoomId};

/// Shortest time between two `presence` events of a room.
const ANNOUNCE_EVERY_MS: u64 = 1_000;
/// Names in one `presence` event; the count is always right, the rest of the names is left out.
const NAMES_MAX: usize = 1_000;

impl Namespace {
    /// `who` has one more session in a room.
    pub(crate) fn arrive(&self, id: RoomId, who: &Arc<str>) {
        let now_ms = self.clock.wall_ms();
        let mut inner = self.lock();
        let Some(table) = inner.rooms.get_mut(id).and_then(|room| room.presence.as_mut()) else {
            return;
        };
        let present = table.users.entry(who.clone()).or_insert(Present {
            sessions: 0,
            since_ms: now_ms,
        });
        present.sessions += 1;
        if present.sessions == 1 {
            self.figures.presence_members.add(1);
            // Who went and came back within the second is not news.
            if !table.left.remove(who) && table.joined.len() < NAMES_MAX {
                table.joined.insert(who.clone());
            }
            inner.queue_announcement(id);
        }
    }

    /// `who` has one session less in a room.
    pub(crate) fn depart(&self, id: RoomId, who: &Arc<str>) {
        let mut inner = self.lock();
        let Some(table) = inner.rooms.get_mut(id).and_then(|room| room.presence.as_mut()) else {
            return;
        };
        let Some(present) = table.users.get_mut(who) else {
            return;
        };
        present.sessions -= 1;
        if present.sessions == 0 {
            table.users.remove(who);
            self.figures.presence_members.add(-1);
            if !table.joined.remove(who) && table.left.len() < NAMES_MAX {
                table.left.insert(who.clone());
            }
            inner.queue_announcement(id);
        }
    }

    /// Publishes the changes of presence that are due. Called about four times a second by one shard.
    pub(crate) fn announce_presence(&self) {
        let now_ms = self.clock.wall_ms();
        let mut due = Vec::new();
        let mut inner = self.lock();
        for id in std::mem::take(&mut inner.presence_due) {
            match inner.take_announcement(id, now_ms) {
                Announcement::Now(publication) => due.push(publication),
                Announcement::Later => inner.presence_due.push(id),
                Announcement::None => inner.rooms.collect(id),
            }
        }
        drop(inner);
        for publication in due {
            // A full inbox loses the word of a change, not the change: the next one tells the count again.
            let _refused = self.publish(publication);
        }
    }
}

enum Announcement {
    Now(Publication),
    Later,
    None,
}

impl Inner {
    fn queue_announcement(&mut self, id: RoomId) {
        let Some(room) = self.rooms.get_mut(id) else {
            return;
        };
        let announces = room
            .options
            .as_ref()
            .is_some_and(|options| options.join_leave_events);
        let Some(table) = room.presence.as_mut() else {
            return;
        };
        if !announces {
            table.joined.clear();
            table.left.clear();
            if table.users.is_empty() {
                self.rooms.collect(id);
            }
        } else if !table.queued {
            table.queued = true;
            self.presence_due.push(id);
        }
    }

    fn take_announcement(&mut self, id: RoomId, now_ms: u64) -> Announcement {
        let Some(room) = self.rooms.get_mut(id) else {
            return Announcement::None;
        };
        let (name, is_empty) = (room.name.clone(), room.n_members() == 0);
        let Some(table) = room.presence.as_mut() else {
            return Announcement::None;
        };
        if now_ms < table.announced_ms + ANNOUNCE_EVERY_MS {
            return Announcement::Later;
        }
        table.queued = false;
        table.announced_ms = now_ms;
        let joined = sorted(std::mem::take(&mut table.joined));
        let left = sorted(std::mem::take(&mut table.left));
        // Nobody is left to hear it, and a room that nobody is in goes.
        if joined.is_empty() && left.is_empty() || is_empty {
            return Announcement::None;
        }
        let change = serde_json::json!({
            "room": &*name, "joined": joined, "left": left, "count": table.users.len(),
        });
        let args = Args::one(&change).expect("names and a number are JSON");
        Announcement::Now(Publication::to_room(&*name, "presence", args))
    }
}

fn sorted(names: FxHashSet<Arc<str>>) -> Vec<Arc<str>> {
    let mut names: Vec<_> = names.into_iter().collect();
    names.sort_unstable();
    names
}
