//! Commands that reach a shard just after their session has moved to another.

use super::{
    Shard,
    command::{Asker, Command, Joined},
};
use crate::{
    id::Id,
    message::{RoomId, SessionRef},
    namespace::By,
};

/// Departures remembered, the oldest forgotten first: a command is at most a few turns behind its session.
const DEPARTED_MAX: usize = 1_024;

/// A session that was here.
pub(super) struct Departed {
    at: SessionRef,
    namespace: u16,
    id: Id,
}

impl Shard {
    pub(super) fn note_departure(&mut self, at: SessionRef, namespace: u16, id: Id) {
        if self.departed.len() == DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.departed.push_back(Departed { at, namespace, id });
    }

    fn departed(&self, at: SessionRef) -> Option<&Departed> {
        self.departed.iter().rev().find(|departed| departed.at == at)
    }

    /// Sends a command after its session, if that was here and lives on. While it is on its way its namespace
    /// still names this shard, and the command waits here for another turn.
    pub(super) fn forward(&self, at: SessionRef, command: impl FnOnce(SessionRef) -> Command) {
        let Some(departed) = self.departed(at) else {
            return;
        };
        let namespace = &self.shared.namespaces[usize::from(departed.namespace)];
        if let Some(now_at) = namespace.place(departed.id) {
            // It stands for one command that was admitted before.
            self.shared.inboxes[usize::from(now_at.shard)].push_always(command(now_at));
        }
    }

    pub(super) fn forward_leave(&self, at: SessionRef, rooms: Vec<RoomId>) {
        // Who waited for the ack had the connection that is gone.
        self.forward(at, |session| Command::Left {
            session,
            rooms,
            ack: None,
        });
    }

    /// A join by the application goes after its session; what cannot follow is given back.
    pub(super) fn forward_join(&self, at: SessionRef, rooms: Vec<Joined>, by: By) -> Result<(), Vec<Joined>> {
        match self.departed(at) {
            Some(departed) if by == By::Server => {
                let namespace = &self.shared.namespaces[usize::from(departed.namespace)];
                namespace.follow(departed.id, at, rooms)
            }
            _ => Err(rooms),
        }
    }

    /// Asks once more for a session that is on its way or has not begun; gives the asker back if there is none.
    pub(super) fn forward_take_over(&self, at: SessionRef, pid: Id, asker: Asker) -> Result<(), Asker> {
        let begins = self
            .slot(at)
            .is_some_and(|index| !self.sessions[index as usize].opened);
        match self.shared.find_pid(pid) {
            Some(session) if session != at || begins || self.departed(at).is_some() => {
                let inbox = &self.shared.inboxes[usize::from(session.shard)];
                inbox.push_always(Command::TakeOver { session, pid, asker });
                Ok(())
            }
            _ => Err(asker),
        }
    }
}
