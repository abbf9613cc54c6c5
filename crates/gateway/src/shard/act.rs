//! Acting on many sessions at once: who is meant is found here, where the members are.

use super::{
    Shard,
    command::{ActHere, Joined, Todo},
    conn::NO_CONN,
};
use crate::{
    act::Acted,
    close::CloseReason,
    message::{RoomId, SessionRef},
    namespace::{Act, By},
};

impl Shard {
    /// An action takes effect: behind everything published before it, and before everything after.
    pub(super) fn on_act(&mut self, here: ActHere) {
        let ActHere {
            act,
            todo,
            counted,
            report,
        } = here;
        self.spaces[usize::from(act.namespace)].acted = act.no;
        let chosen = self.chosen(&act);
        let sessions = chosen.len();
        let mut refused = 0;
        match todo {
            Todo::Join(rooms) => refused = self.join_many(&act, &chosen, &rooms, counted),
            Todo::Leave(rooms) => self.leave_many(act.namespace, &chosen, &rooms),
            Todo::Disconnect { close } => self.disconnect_many(&chosen, close),
        }
        self.shared.figures.action_refused.add(refused as u64);
        if let Some(report) = report {
            report.add(Acted { sessions, refused });
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

    /// Memberships that were counted ahead come about, and the rest is given back. Says how many sessions are not in all
    /// rooms.
    fn join_many(&mut self, act: &Act, chosen: &[SessionRef], rooms: &[Joined], counted: u32) -> usize {
        let max = self.shared.live.limits().rooms_per_session;
        let mut unused: Vec<(RoomId, u32)> = rooms.iter().map(|room| (room.id, counted)).collect();
        let mut refused = 0;
        for session in chosen {
            let mut full = false;
            for (room, (_, left)) in rooms.iter().zip(&mut unused) {
                match self.join_room(session.index, act.seq, room, By::Server, max) {
                    Ok(()) => {
                        debug_assert!(*left > 0, "whoever is here was counted");
                        *left = left.saturating_sub(1);
                    }
                    Err(error) => full |= error.is_some(),
                }
            }
            refused += usize::from(full);
        }
        unused.retain(|&(_, left)| left > 0);
        if !unused.is_empty() {
            self.shared.namespaces[usize::from(act.namespace)].exit_many(&unused, self.index);
        }
        refused
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
