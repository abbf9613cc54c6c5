//! Acting on many sessions at once: who is meant is found here, where the members are.

use std::{rc::Rc, sync::Arc};

use super::{
    Shard,
    command::{ActHere, Joined, Todo},
    conn::NO_CONN,
};
use crate::{
    Error,
    act::{Acted, Report},
    close::CloseReason,
    message::{RoomId, SessionRef},
    namespace::{Act, By},
    outbox::Run,
};

/// Frames queued in one step of a join of many, between two looks at the clock; the simulation takes small steps.
const STEP_FRAMES: usize = if cfg!(test) { 2 } else { 1_024 };

/// A join of many under way.
pub(super) struct Joining {
    act: Arc<Act>,
    rooms: Arc<[Joined]>,
    /// Nobody can be in all that were named.
    too_many: bool,
    /// What each room keeps.
    kept: Vec<Vec<Rc<Run>>>,
    chosen: Vec<SessionRef>,
    /// So many of them are handled.
    done: usize,
    /// Memberships of each room that are counted and have not come about.
    unused: Vec<(RoomId, u32)>,
    /// Sessions that are not in all rooms.
    refused: usize,
    report: Option<Arc<Report>>,
}

impl Joining {
    fn refuse_rest(&mut self) {
        self.refused += self.chosen.len() - self.done;
        self.done = self.chosen.len();
    }
}

impl Shard {
    /// An action takes effect: behind everything published before it, and before everything after.
    pub(super) fn on_act(&mut self, here: ActHere) {
        let ActHere {
            act,
            todo,
            counted,
            report,
        } = here;
        let chosen = self.chosen(&act);
        let sessions = chosen.len();
        match todo {
            Todo::Join { rooms, too_many } => {
                let unused = rooms.iter().map(|room| (room.id, counted)).collect();
                let kept: Result<_, Error> = rooms.iter().map(|room| self.kept(act.seq, room)).collect();
                let mut joining = Box::new(Joining {
                    act,
                    rooms,
                    too_many,
                    kept: Vec::new(),
                    chosen,
                    done: 0,
                    unused,
                    refused: 0,
                    report,
                });
                match kept {
                    Ok(kept) => joining.kept = kept,
                    Err(_full) => joining.refuse_rest(),
                }
                return self.join_on(joining);
            }
            Todo::Leave(rooms) => self.leave_many(act.namespace, &chosen, &rooms),
            Todo::Disconnect { close } => self.disconnect_many(&chosen, close),
        }
        self.acted(&act, report, Acted { sessions, refused: 0 });
    }

    /// An action is done: a session that moves on from here has not missed it.
    fn acted(&mut self, act: &Act, report: Option<Arc<Report>>, acted: Acted) {
        self.spaces[usize::from(act.namespace)].acted = act.no;
        if let Some(report) = report {
            report.add(acted);
        }
    }

    /// Everybody here whom an action means, once.
    fn chosen(&self, act: &Act) -> Vec<SessionRef> {
        let members = if act.to.is_empty() {
            self.spaces[usize::from(act.namespace)].members.clone()
        } else {
            self.receivers(act.namespace, &act.to)
        };
        members
            .into_iter()
            .filter(|member| !self.is_excepted(member.session, &act.except))
            .map(|member| self.reference(member.session))
            .collect()
    }

    /// Memberships that were counted ahead come about, for as many sessions as one step has; in the end the rest is given
    /// back. Sessions that ended meanwhile have not joined; those that the account has no place for are refused.
    pub(super) fn join_on(&mut self, mut joining: Box<Joining>) {
        let n_frames = 1 + joining.kept.iter().map(Vec::len).sum::<usize>();
        let until = joining.done + (STEP_FRAMES / n_frames).max(1);
        while let Some(&session) = joining.chosen.get(joining.done) {
            if joining.done == until {
                self.joining = Some(joining);
                return;
            }
            joining.done += 1;
            if let Some(index) = self.slot(session)
                && !self.join_all(index, &mut joining)
            {
                joining.refuse_rest();
            }
        }
        let Joining {
            act,
            chosen,
            mut unused,
            refused,
            report,
            ..
        } = *joining;
        unused.retain(|&(_, left)| left > 0);
        if !unused.is_empty() {
            self.shared.namespaces[usize::from(act.namespace)].exit_many(&unused, self.index);
        }
        self.shared.figures.action_refused.add(refused as u64);
        let sessions = chosen.len();
        self.acted(&act, report, Acted { sessions, refused });
    }

    /// One session joins all rooms; false if what they keep found no place in the account.
    fn join_all(&mut self, index: u32, joining: &mut Joining) -> bool {
        let max = self.shared.live.limits().rooms_per_session;
        let mut full = joining.too_many;
        for (n, room) in joining.rooms.iter().enumerate() {
            let room = (room, &joining.kept[n][..]);
            match self.join_room(index, joining.act.seq, room, By::Server, max) {
                Ok(()) => {
                    let left = &mut joining.unused[n].1;
                    debug_assert!(*left > 0, "whoever is here was counted");
                    *left = left.saturating_sub(1);
                }
                Err(error) => full |= error.is_some(),
            }
        }
        joining.refused += usize::from(full);
        self.is_settled(self.sessions[index as usize].conn)
    }

    fn leave_many(&mut self, namespace: u16, chosen: &[SessionRef], rooms: &[RoomId]) {
        let mut ended = Vec::new();
        for session in chosen {
            self.leave_rooms(session.index, rooms, &mut ended);
        }
        if !ended.is_empty() {
            self.shared.namespaces[usize::from(namespace)].exit(&ended, self.index);
        }
    }

    fn disconnect_many(&mut self, chosen: &[SessionRef], close: bool) {
        for session in chosen {
            // The end of one may have been the end of another on the same connection.
            let Some(index) = self.slot(*session) else {
                continue;
            };
            match self.sessions[index as usize].conn {
                conn if close && conn != NO_CONN => self.close_conn(conn, CloseReason::Kicked),
                _ => self.end_session(index, CloseReason::Kicked),
            }
        }
    }
}
