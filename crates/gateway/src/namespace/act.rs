//! Acting on many sessions at one point of the order, and what a session on its way to another connection may miss.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use tidegate_vitals::{Class, Guard};

use super::{Inner, Moved, Namespace, Room, check_name, publish::TARGETS_MAX, recover::concerns};
use crate::{
    Action, Error, Target,
    act::Report,
    message::{Dest, Dests, RoomId, SessionRef},
    shard::command::{ActHere, Command, Joined, Todo},
};

/// Most rooms of one action.
pub(crate) const ROOMS_MAX: usize = 1_000;
/// Actions remembered for sessions that are on their way to another connection, which takes them a few turns.
const RECENT_MAX: usize = 4_096;
/// Bytes of those.
const RECENT_BYTES_MAX: usize = 1 << 20;

/// Why a session that was disconnected on its way is not recovered.
pub(crate) const KICKED: &str = "kicked";

/// One action: whom it was meant for, and where in the order it stands.
pub(crate) struct Act {
    /// Counts up from 1.
    pub(crate) no: u64,
    pub(crate) seq: u64,
    pub(crate) namespace: u16,
    pub(crate) to: Dests,
    pub(crate) except: Dests,
    /// Whether it ends the sessions.
    ends: bool,
    /// One bit for each shard that was asked.
    shards: u64,
    bytes: usize,
    _guard: Guard,
}

/// The newest actions of a namespace.
pub(super) struct Acts {
    recent: VecDeque<Arc<Act>>,
    bytes: usize,
    /// Number of the newest action.
    newest: u64,
    /// Number of the newest action that is not remembered any more.
    forgotten: u64,
    /// Number of the newest action that each shard was asked.
    asked: Vec<u64>,
}

/// What of the rooms of an action is counted ahead: members of one room on one shard.
struct Ahead {
    room: RoomId,
    shard: u16,
    n: u32,
}

impl Namespace {
    /// Asks every shard with chosen sessions to act at this point of the order, or none; says how many sessions are
    /// asked at most: a session that two targets choose may count twice, one that is left out counts too.
    pub(crate) fn act(
        &self,
        to: &[Target],
        except: &[Target],
        action: Action,
        report: Option<&Arc<Report>>,
    ) -> Result<usize, Error> {
        let kind = action.as_str();
        let action = self.check_action(to, except, action)?;
        let (to, except) = (once(to), once(except));
        let mut bytes = size_of::<Act>() + (to.len() + except.len()) * size_of::<Dest>();
        let guard = self.ledger.reserve(Class::Rooms, bytes);
        let mut guard = guard.inspect_err(|_| self.figures.no_memory("action"))?;
        let mut inner = self.lock();
        let lists = inner.list_bytes(&to);
        guard
            .grow(lists)
            .inspect_err(|_| self.figures.no_memory("action"))?;
        bytes += lists;
        let chosen = inner.resolve(self, to.iter().copied(), false)?;
        let except = inner.resolve_excepted(self, except)?;
        let nobody = chosen.is_empty() && !to.is_empty();
        let shards = if nobody { 0 } else { inner.shards_of(&chosen) };
        self.reserve(shards)?;
        // Before anything is counted ahead: a room may be among those that choose and those that are joined.
        let counts = inner.n_chosen(&chosen, shards);
        let todo = inner.todo(self, &action, &counts);
        let todo = todo.inspect_err(|_| self.of(shards).for_each(|(_, inbox)| inbox.release()))?;
        let asked = counts.iter().map(|&n| n as usize).sum();
        let act = Arc::new(Act {
            no: inner.acts.newest + 1,
            seq: inner.seq,
            namespace: self.index,
            to: chosen,
            except,
            ends: matches!(action, Action::Disconnect { .. }),
            shards,
            bytes,
            _guard: guard,
        });
        if shards != 0 {
            inner.acts.push(act.clone());
        }
        for (shard, inbox) in self.of(shards) {
            let here = ActHere {
                act: act.clone(),
                todo: todo.clone(),
                counted: counts[shard],
                report: report.cloned(),
            };
            inbox.fill(Command::Act(Box::new(here)));
        }
        drop(inner);
        self.wake(shards);
        self.figures.action(kind, asked);
        Ok(asked)
    }

    /// Checks an action and does all work that needs no lock.
    fn check_action(&self, to: &[Target], except: &[Target], action: Action) -> Result<Action, Error> {
        let n_targets = to.len().max(except.len());
        if n_targets > TARGETS_MAX {
            let text = format!("{n_targets} targets in one action, at most {TARGETS_MAX}");
            return Err(Error::BadRequest(text));
        }
        let (Action::Join(rooms) | Action::Leave(rooms)) = &action else {
            return Ok(action);
        };
        if rooms.is_empty() {
            return Err(Error::BadRequest("no room is named".to_owned()));
        }
        if rooms.len() > ROOMS_MAX {
            let text = format!("{} rooms in one action, at most {ROOMS_MAX}", rooms.len());
            return Err(Error::BadRequest(text));
        }
        let max = self.live.limits().name_bytes_max;
        rooms.iter().try_for_each(|name| check_name("room", name, max))?;
        let once = |mut rooms: Vec<String>| {
            let mut seen = HashSet::new();
            rooms.retain(|room| seen.insert(room.clone()));
            rooms
        };
        Ok(match action {
            Action::Join(rooms) => Action::Join(once(rooms)),
            Action::Leave(rooms) => Action::Leave(once(rooms)),
            other => other,
        })
    }

    /// Gives back what was counted ahead and did not come about.
    pub(crate) fn exit_many(&self, unused: &[(RoomId, u32)], shard: u16) {
        let mut inner = self.lock();
        for &(room, n) in unused {
            inner.rooms.exit_many(room, shard, n);
        }
    }
}

/// Each target once.
fn once(targets: &[Target]) -> Vec<&Target> {
    let mut seen = HashSet::new();
    targets.iter().filter(|target| seen.insert(*target)).collect()
}

// === impl Inner ===

impl Inner {
    /// Bytes of the lists of sessions that come with users.
    fn list_bytes(&self, targets: &[&Target]) -> usize {
        let n_of = |target: &&Target| match target {
            Target::User(name) => self
                .users
                .get(name.as_str())
                .map_or(0, |user| user.sessions.len()),
            Target::Room(_) | Target::Session(_) => 0,
        };
        targets.iter().map(n_of).sum::<usize>() * size_of::<SessionRef>()
    }

    /// What shards have to do; rooms to join are made and counted, so that a publish right after reaches the sessions.
    fn todo(&mut self, namespace: &Namespace, action: &Action, counts: &[u32]) -> Result<Todo, Error> {
        match action {
            Action::Disconnect { close } => Ok(Todo::Disconnect { close: *close }),
            Action::Leave(names) => {
                let rooms = names.iter().filter_map(|name| self.rooms.id(name)).collect();
                Ok(Todo::Leave(rooms))
            }
            Action::Join(names) => {
                // Nobody's own room, whoever asks.
                if let Some(name) = names.iter().find(|name| self.is_own_room(name)) {
                    return Err(Error::Forbidden {
                        action: "join",
                        target: name.clone(),
                    });
                }
                // Nobody is chosen, or only sessions that are gone and have not been taken off yet.
                if counts.iter().all(|&n| n == 0) {
                    return Ok(Todo::Join {
                        rooms: Arc::new([]),
                        too_many: false,
                    });
                }
                let mut ahead = Vec::new();
                let joined = self.count_ahead(namespace, names, counts, &mut ahead);
                if joined.is_err() {
                    for ahead in ahead {
                        self.rooms.exit_many(ahead.room, ahead.shard, ahead.n);
                    }
                }
                joined.inspect_err(|error| {
                    if matches!(error, Error::Memory(_)) {
                        namespace.figures.no_memory("join");
                    }
                })
            }
        }
    }

    fn count_ahead(
        &mut self,
        namespace: &Namespace,
        names: &[String],
        counts: &[u32],
        ahead: &mut Vec<Ahead>,
    ) -> Result<Todo, Error> {
        let mut rooms = Vec::with_capacity(names.len());
        // Rooms are joined in this order, so that none behind as many as a session may be in can come about.
        let max = namespace.live.limits().rooms_per_session;
        for name in names.iter().take(max) {
            let room = self.intern(namespace, name)?;
            for (shard, &n) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
                let shard = shard as u16;
                self.rooms.enter_many(room, shard, n)?;
                ahead.push(Ahead { room, shard, n });
            }
            let options = self.rooms.get(room).and_then(|room| room.options.clone());
            rooms.push(Joined {
                namespace: namespace.index,
                id: room,
                snapshot: self.rooms.get(room).map_or_else(Vec::new, Room::snapshot),
                options,
            });
        }
        Ok(Todo::Join {
            rooms: rooms.into(),
            too_many: names.len() > max,
        })
    }

    /// How many sessions targets choose on each shard of the mask, at most: one that two of them choose is counted twice.
    fn n_chosen(&self, to: &Dests, shards: u64) -> Vec<u32> {
        let on = |(shard, &all): (usize, &u32)| match shards & 1 << shard {
            0 => 0,
            _ if to.is_empty() => all,
            _ => self.n_chosen_of(to, shard).min(all),
        };
        self.sessions_per_shard.iter().enumerate().map(on).collect()
    }

    fn n_chosen_of(&self, to: &Dests, shard: usize) -> u32 {
        let here = |at: &&SessionRef| usize::from(at.shard) == shard;
        to.iter().fold(0, |sum: u32, dest| {
            sum.saturating_add(match dest {
                Dest::Room(id) => self.rooms.get(*id).map_or(0, |room| room.n_members_of(shard)),
                Dest::User(_, sessions) => sessions.iter().filter(here).count() as u32,
                Dest::Session(_, at) => u32::from(here(&at)),
            })
        })
    }
}

// === impl Acts ===

impl Acts {
    pub(super) fn new(n_shards: usize) -> Self {
        Self {
            recent: VecDeque::new(),
            bytes: 0,
            newest: 0,
            forgotten: 0,
            asked: vec![0; n_shards],
        }
    }

    fn push(&mut self, act: Arc<Act>) {
        self.newest = act.no;
        self.bytes += act.bytes;
        for (shard, newest) in self.asked.iter_mut().enumerate() {
            if act.shards & 1 << shard != 0 {
                *newest = act.no;
            }
        }
        self.recent.push_back(act);
        while self.recent.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.recent.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
            self.forgotten = oldest.no;
        }
    }

    /// What a session may have missed that its old shard was asked and had not handled when the session left: an end
    /// (`kicked`), or anything else (`acted`).
    pub(super) fn missed_by(&self, moved: &Moved) -> Option<&'static str> {
        let shard = usize::from(moved.from.shard);
        if self.asked[shard] <= moved.acted {
            return None;
        }
        let later = self.recent.iter().rev().take_while(|act| act.no > moved.acted);
        let mut missed = later.filter(|act| act.shards & 1 << shard != 0 && concerns(act, moved));
        match missed.next() {
            Some(act) if act.ends || missed.any(|act| act.ends) => Some(KICKED),
            Some(_) => Some("acted"),
            None => (self.forgotten > moved.acted).then_some("acted"),
        }
    }
}
