//! The bounded way into a shard: commands in one order, and the wake-up of a sleeping thread.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use rustix::event::{EventfdFlags, eventfd};

use super::command::Command;
use crate::Error;

/// Commands waiting for one shard.
pub(crate) struct Inbox {
    shard: usize,
    queue: Mutex<Vec<Command>>,
    /// Reserved places and queued commands together.
    len: AtomicUsize,
    max: usize,
    asleep: AtomicBool,
    bell: OwnedFd,
}

impl Inbox {
    pub(crate) fn new(shard: usize, max: usize) -> Result<Self, Error> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(|error| Error::Io {
            what: "eventfd".to_owned(),
            source: error.into(),
        })?;
        Ok(Self {
            shard,
            queue: Mutex::new(Vec::new()),
            len: AtomicUsize::new(0),
            max,
            asleep: AtomicBool::new(false),
            bell,
        })
    }

    /// Takes a place, to be used by [`Inbox::fill`] or given back by [`Inbox::release`].
    pub(crate) fn reserve(&self) -> Result<(), Error> {
        if self.len.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.len.fetch_sub(1, Ordering::Relaxed);
            return Err(Error::Overloaded {
                shard: self.shard,
                max: self.max,
            });
        }
        Ok(())
    }

    /// Gives a reserved place back.
    pub(crate) fn release(&self) {
        self.len.fetch_sub(1, Ordering::Relaxed);
    }

    /// Queues into a reserved place. The caller wakes the shard once it holds no lock.
    pub(crate) fn fill(&self, command: Command) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(command);
    }

    /// Queues one command and wakes the shard.
    pub(crate) fn push(&self, command: Command) -> Result<(), Error> {
        self.reserve()?;
        self.fill(command);
        self.wake();
        Ok(())
    }

    /// Queues what must not be refused, because it gives something back: a finished handler, a moved session.
    /// Each stands for one thing that was admitted before, so their number is bounded by that.
    pub(crate) fn push_always(&self, command: Command) {
        self.len.fetch_add(1, Ordering::Relaxed);
        self.fill(command);
        self.wake();
    }

    /// Rings the bell if the shard sleeps.
    pub(crate) fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst) {
            // The counter cannot overflow: it is read each time before the shard sleeps again.
            let _rung = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Moves everything queued into `into`, which must be empty; the places stay taken until `done`.
    pub(crate) fn drain(&self, into: &mut Vec<Command>) {
        debug_assert!(into.is_empty(), "commands are handled before new ones are taken");
        std::mem::swap(
            &mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner),
            into,
        );
    }

    /// Frees the places of `n` handled commands.
    pub(crate) fn done(&self, n: usize) {
        self.len.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Announces sleep; false if there is work after all.
    pub(crate) fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let empty = self
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        if !empty {
            self.asleep.store(false, Ordering::SeqCst);
        }
        empty
    }

    /// After the wait: awake, the bell silent.
    pub(crate) fn awake(&self, rang: bool) {
        self.asleep.store(false, Ordering::SeqCst);
        if rang {
            let _count = rustix::io::read(&self.bell, &mut [0_u8; 8]);
        }
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
