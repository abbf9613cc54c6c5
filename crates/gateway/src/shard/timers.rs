//! Deadlines of a shard: a heap in which each connection and session has its next one.
//!
//! A wheel would save a few comparisons and cost the millisecond that a ping timeout must keep.

use std::{cmp::Reverse, collections::BinaryHeap};

/// No deadline.
pub(crate) const NEVER: u64 = u64::MAX;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Conn { index: u32, generation: u32 },
    Session { index: u32, generation: u32 },
}

/// All deadlines, in milliseconds of the clock. Owners that are gone are skipped by their generation.
#[derive(Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(u64, Owner)>>);

impl Timers {
    /// Sets a deadline unless an earlier one is already set (`armed_ms`, which is kept up to date).
    pub(crate) fn arm(&mut self, due_ms: u64, armed_ms: &mut u64, owner: Owner) {
        if due_ms < *armed_ms {
            *armed_ms = due_ms;
            self.0.push(Reverse((due_ms, owner)));
        }
    }

    pub(crate) fn next_ms(&self) -> u64 {
        self.0.peek().map_or(NEVER, |Reverse((due, _))| *due)
    }

    /// The next deadline that has passed.
    pub(crate) fn pop_due(&mut self, now_ms: u64) -> Option<(u64, Owner)> {
        if self.next_ms() > now_ms {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
