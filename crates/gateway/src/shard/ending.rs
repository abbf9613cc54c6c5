//! Sessions that are over while events of theirs are still being handled; the application hears of the end after them.

use std::{panic::AssertUnwindSafe, sync::Arc};

use super::{Shard, builtin, packets::Done, session::Pending};
use crate::{
    close::CloseReason,
    handler::{Event, Handler},
    id::Id,
    message::SessionRef,
    namespace::Moved,
    shared::Shared,
    socket::Socket,
};

/// Sessions of one gateway that may be in this state with events that wait; of more, the waiting events are dropped,
/// and counted.
const ENDINGS_MAX: usize = 4_096;

/// A session that is over.
pub(crate) struct Ending {
    socket: Socket,
    reason: CloseReason,
    pending: Option<Box<Pending>>,
}

impl Shard {
    /// Notes that a session of ours is over; before its name is given back, so that nobody finds neither. False where
    /// nobody wants to know.
    pub(super) fn note_end(&mut self, index: u32, reason: CloseReason) -> bool {
        let session = &self.sessions[index as usize];
        if self.shared.namespaces[usize::from(session.namespace)]
            .handlers
            .on_end
            .is_none()
        {
            return false;
        }
        let socket = self.socket(index);
        let pending = self.sessions[index as usize].handlers.take();
        self.shared.put_ending(Ending {
            socket,
            reason,
            pending,
        });
        true
    }

    /// As `note_end`, of a session that was to move here and could not.
    pub(super) fn note_end_of_moved(&self, moved: &mut Moved) -> bool {
        if self.shared.namespaces[usize::from(moved.namespace)]
            .handlers
            .on_end
            .is_none()
        {
            return false;
        }
        let socket = Socket {
            shared: self.shared.clone(),
            namespace: moved.namespace,
            id: moved.id,
            identity: moved.identity.clone(),
            address: moved.address,
            recovered: false,
            data: moved.given.as_ref().and_then(|given| given.data.clone()),
        };
        let (reason, pending) = (moved.lost, moved.handlers.take());
        self.shared.put_ending(Ending {
            socket,
            reason,
            pending,
        });
        true
    }
}

impl Shared {
    fn put_ending(&self, mut ending: Ending) {
        let mut endings = self.endings();
        if endings.len() >= ENDINGS_MAX
            && let Some(pending) = &mut ending.pending
        {
            self.figures.ending_dropped.add(pending.queue.len() as u64);
            pending.queue.clear();
        }
        endings.insert(ending.socket.id, ending);
    }

    /// A handler of a session that is over has ended.
    pub(crate) fn on_ending_handler_done(self: &Arc<Self>, id: Id) {
        self.forget_run(id);
        self.wind_up(id);
    }

    /// Handles the next event of a session that is over, or tells the application of the end after the last.
    pub(crate) fn wind_up(self: &Arc<Self>, id: Id) {
        while let Some((socket, event)) = self.next_of_ending(id) {
            self.run_last(&socket, event);
        }
    }

    /// The next event of an ending session that may be handled now. Without any, and with none running, it is told.
    fn next_of_ending(&self, id: Id) -> Option<(Socket, Event)> {
        let mut endings = self.endings();
        let ending = endings.get_mut(&id)?;
        if let Some(pending) = &mut ending.pending {
            if pending.running > 0 {
                return None;
            }
            if let Some(event) = pending.queue.pop_front() {
                pending.running += 1;
                return Some((ending.socket.clone(), event));
            }
        }
        let ending = endings.remove(&id)?;
        drop(endings);
        ending.tell();
        None
    }

    /// Events that only a live session can have are gone with it.
    fn run_last(self: &Arc<Self>, socket: &Socket, event: Event) {
        let handlers = &self.namespaces[usize::from(socket.namespace)].handlers;
        let own = handlers.events.get(&event.name);
        let any = || {
            handlers
                .any
                .as_ref()
                .filter(|_| builtin::find(&self.config.builtins, &event.name).is_none())
                .filter(|_| self.may_send(&event.name, socket.identity()))
        };
        match (own.or_else(any), &self.runtime) {
            (Some(Handler::Async(run)), Some(runtime)) => {
                let (run, socket) = (run.clone(), socket.clone());
                let done = Done::new(SessionRef::NOWHERE, &socket);
                runtime.spawn(async move {
                    let _done = done;
                    run(socket, event).await;
                });
                return;
            }
            (Some(Handler::Inline(run)), _) => {
                let failed = std::panic::catch_unwind(AssertUnwindSafe(|| run(socket, event))).is_err();
                self.figures.handler_errors.add(u64::from(failed));
            }
            _ => {}
        }
        self.forget_run(socket.id);
    }

    fn forget_run(&self, id: Id) {
        if let Some(pending) = self
            .endings()
            .get_mut(&id)
            .and_then(|ending| ending.pending.as_mut())
        {
            pending.running = pending.running.saturating_sub(1);
        }
    }

    /// The gateway stops: what still waits is dropped, and every end is told.
    pub(crate) fn end_all(&self) {
        let endings = std::mem::take(&mut *self.endings());
        for ending in endings.into_values() {
            if let Some(pending) = &ending.pending {
                self.figures.ending_dropped.add(pending.queue.len() as u64);
            }
            ending.tell();
        }
    }
}

impl Ending {
    fn tell(&self) {
        let shared = &self.socket.shared;
        let handlers = &shared.namespaces[usize::from(self.socket.namespace)].handlers;
        if let Some(end) = &handlers.on_end
            && std::panic::catch_unwind(AssertUnwindSafe(|| end(&self.socket, self.reason))).is_err()
        {
            shared.figures.handler_errors.inc();
        }
    }
}
