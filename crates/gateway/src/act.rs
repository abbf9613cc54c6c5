//! What can be done to many sessions at once, and what came of it.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use serde::Serialize;
use tokio::sync::oneshot;

/// What is done to the sessions that targets choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Puts them into these rooms. A session that waits for recovery joins as well: what is published from then on is
    /// replayed to it when it comes back, but what a room keeps for those who join is not sent to it.
    Join(Vec<String>),
    /// Takes them out of these rooms. Rooms that do not exist, or that a session is not in, are no error.
    Leave(Vec<String>),
    /// Disconnects them for good: standard clients stay away.
    Disconnect {
        /// End the whole connection with the sessions of all its namespaces; otherwise only the session itself, and
        /// the connection if nothing else is on it.
        close: bool,
    },
}

impl Action {
    /// As written in figures.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
            Self::Disconnect { .. } => "disconnect",
        }
    }
}

/// What an action came to, as the shards report it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Acted {
    /// Sessions that it was done to, those that wait for recovery included.
    pub sessions: usize,
    /// Of these, sessions that did not get into all rooms, because they are in as many as one may be in.
    pub refused: usize,
}

/// Collects what shards have done; the last one to let go of it tells whoever waits.
pub(crate) struct Report {
    sessions: AtomicUsize,
    refused: AtomicUsize,
    done: Option<oneshot::Sender<Acted>>,
}

impl Report {
    pub(crate) fn new() -> (Arc<Self>, oneshot::Receiver<Acted>) {
        let (done, receiver) = oneshot::channel();
        let report = Self {
            sessions: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            done: Some(done),
        };
        (Arc::new(report), receiver)
    }

    pub(crate) fn add(&self, acted: Acted) {
        self.sessions.fetch_add(acted.sessions, Ordering::Relaxed);
        self.refused.fetch_add(acted.refused, Ordering::Relaxed);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let acted = Acted {
            sessions: *self.sessions.get_mut(),
            refused: *self.refused.get_mut(),
        };
        if let Some(done) = self.done.take() {
            // Whoever asked may have gone.
            let _unwanted = done.send(acted);
        }
    }
}
