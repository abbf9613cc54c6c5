//! Chunks that are on their way on this node: who sends one again waits for the first, and what is stored is given out in
//! the order in which it came.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::backend::Mark;
use super::outcome::ChunkOutcome;
use crate::error::Error;

/// What a submitter gets for one chunk. `None`: its id belongs to other content.
pub(super) type Answer = Result<Option<ChunkOutcome>, Error>;

/// Most spooled chunks that are remembered; one that is sent again beyond that is spooled again, and its claim makes that
/// harmless.
const SPOOLED_MAX: usize = 100_000;

/// Less room than this is not worth giving back.
const SPARE_MIN: usize = 64;

/// Chunks of one feed by their claim.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Bounded by the backlog: an entry leaves when its chunk ends.
    flying: FxHashMap<Mark, Flight>,
    /// Bounded by [`SPOOLED_MAX`]; an entry leaves when its record is replayed.
    spooled: FxHashMap<Mark, ([u8; 32], u64)>,
}

#[derive(Debug)]
struct Flight {
    hash: [u8; 32],
    waiters: Vec<oneshot::Sender<Answer>>,
}

/// How a chunk may go on.
#[derive(Debug)]
pub(super) enum Entered {
    /// It is the first of its claim.
    First(oneshot::Receiver<Answer>),
    /// Another one is on its way, or is spooled: its answer is ours.
    Joined(oneshot::Receiver<Answer>),
}

// === impl Flights ===

impl Flights {
    pub(super) fn enter(&self, mark: &Mark, hash: [u8; 32]) -> Entered {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.lock();
        if let Some((known, n_rows)) = inner.spooled.get(mark) {
            let outcome = ChunkOutcome {
                is_spooled: true,
                ..ChunkOutcome::all(*n_rows as usize)
            };
            // Nobody can have dropped the other end yet.
            let _ = sender.send(Ok((*known == hash).then_some(outcome)));
            return Entered::Joined(receiver);
        }
        match inner.flying.get_mut(mark) {
            Some(flight) if flight.hash == hash => {
                flight.waiters.push(sender);
                Entered::Joined(receiver)
            }
            Some(_) => {
                let _ = sender.send(Ok(None));
                Entered::Joined(receiver)
            }
            None => {
                let waiters = vec![sender];
                inner.flying.insert(mark.clone(), Flight { hash, waiters });
                Entered::First(receiver)
            }
        }
    }

    /// Tells all who wait for this chunk.
    pub(super) fn leave(&self, mark: &Mark, answer: &Answer) {
        let flight = self.lock().flying.remove(mark);
        for waiter in flight.into_iter().flat_map(|flight| flight.waiters) {
            // A submitter that went away needs no answer.
            let _ = waiter.send(answer.clone());
        }
    }

    /// Remembers a chunk that waits in the spool.
    pub(super) fn spooled(&self, mark: &Mark, hash: [u8; 32], n_rows: u64) {
        let mut inner = self.lock();
        if inner.spooled.len() < SPOOLED_MAX {
            inner.spooled.insert(mark.clone(), (hash, n_rows));
        }
    }

    /// Forgets a chunk that left the spool.
    pub(super) fn replayed(&self, mark: &Mark) {
        self.lock().spooled.remove(mark);
    }

    /// Gives room back that nothing needs; says how many bytes, roughly.
    pub(super) fn shrink(&self) -> usize {
        let inner = &mut *self.lock();
        let (flying, spooled) = (inner.flying.capacity(), inner.spooled.capacity());
        // Moving what stays takes time under the lock, so it must be little.
        if flying > SPARE_MIN.max(4 * inner.flying.len()) {
            inner.flying.shrink_to_fit();
        }
        if spooled > SPARE_MIN.max(4 * inner.spooled.len()) {
            inner.spooled.shrink_to_fit();
        }
        (flying - inner.flying.capacity()) * size_of::<(Mark, Flight)>()
            + (spooled - inner.spooled.capacity()) * size_of::<(Mark, ([u8; 32], u64))>()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock can leave the maps in a bad state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts what ends in any order back into the order in which it began.
#[derive(Debug)]
pub(super) struct Sequence<T>(Mutex<Pending<T>>);

#[derive(Debug)]
struct Pending<T> {
    next: u64,
    /// Bounded by the backlog, whose room is given back only when an item is given out.
    ended: BTreeMap<u64, T>,
}

// === impl Sequence ===

impl<T> Sequence<T> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Pending {
            next: 0,
            ended: BTreeMap::new(),
        }))
    }

    /// The item of this number ended; gives out all that nothing earlier holds back. Every number must end once.
    pub(super) fn end(&self, number: u64, item: T, mut give: impl FnMut(T)) {
        // Given out under the lock: the order is the point. Nothing under it can leave the map in a bad state.
        let mut pending = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pending.ended.insert(number, item);
        loop {
            let next = pending.next;
            let Some(item) = pending.ended.remove(&next) else {
                return;
            };
            pending.next += 1;
            give(item);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(chunk: u32) -> Mark {
        Mark {
            principal: "p".into(),
            id: "a".into(),
            chunk,
        }
    }

    #[test]
    fn who_sends_again_gets_the_answer_of_the_first() {
        let flights = Flights::default();
        let Entered::First(mut first) = flights.enter(&mark(0), [1; 32]) else {
            panic!("nobody was there")
        };
        let Entered::Joined(mut again) = flights.enter(&mark(0), [1; 32]) else {
            panic!("the first is on its way")
        };
        let Entered::Joined(mut other) = flights.enter(&mark(0), [2; 32]) else {
            panic!("the first is on its way")
        };
        assert!(matches!(other.try_recv(), Ok(Ok(None))));
        flights.leave(&mark(0), &Ok(Some(ChunkOutcome::all(7))));
        assert_eq!(first.try_recv().unwrap().unwrap(), Some(ChunkOutcome::all(7)));
        assert_eq!(again.try_recv().unwrap().unwrap(), Some(ChunkOutcome::all(7)));
        assert!(matches!(flights.enter(&mark(0), [1; 32]), Entered::First(_)));
    }

    #[test]
    fn spooled_chunks_answer_until_they_are_replayed() {
        let flights = Flights::default();
        flights.spooled(&mark(0), [1; 32], 5);
        let Entered::Joined(mut again) = flights.enter(&mark(0), [1; 32]) else {
            panic!("it is spooled")
        };
        assert!(again.try_recv().unwrap().unwrap().unwrap().is_spooled);
        flights.replayed(&mark(0));
        assert!(matches!(flights.enter(&mark(0), [1; 32]), Entered::First(_)));
    }

    #[test]
    fn what_ends_early_waits_for_what_began_before() {
        let sequence = Sequence::new();
        let mut given = Vec::new();
        for number in [1, 3, 0, 2] {
            sequence.end(number, number, |item| given.push(item));
        }
        assert_eq!(given, [0, 1, 2, 3]);
    }
}
