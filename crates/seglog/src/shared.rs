//! What readers on other threads may know of a log: which segments there are, and how far each is durable.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{format::DATA_AT, position::Position};

/// A short list behind a lock that never meets the disk.
#[derive(Debug, Default)]
pub(crate) struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By rising sequence; one per file, so the size bound of the log bounds it.
    parts: VecDeque<Part>,
    /// The number that the next record to become durable will have.
    next_number: u64,
}

/// A segment as far as it may be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) sequence: u64,
    pub(crate) first_number: u64,
    pub(crate) end: u64,
}

/// Where a reader goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Records of this segment, up to this byte.
    Here { end: u64 },
    /// The next segment begins here, and follows the one that was read.
    Next(Position),
    /// The reader's segment is gone; the oldest one left begins here.
    Gone(Position),
    /// Nothing more yet; `next_number` is what comes next.
    CaughtUp { next_number: u64 },
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment or push, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, part: Part) {
        self.state().parts.push_back(part);
    }

    pub(crate) fn pop_front(&self) {
        self.state().parts.pop_front();
    }

    pub(crate) fn pop_back(&self) {
        self.state().parts.pop_back();
    }

    /// The newest segment is durable up to byte `end`, where record `next_number` will stand.
    pub(crate) fn advance(&self, end: u64, next_number: u64) {
        let mut state = self.state();
        state.next_number = next_number;
        if let Some(part) = state.parts.back_mut() {
            part.end = end;
        }
    }

    pub(crate) fn lookup(&self, at: Position) -> Lookup {
        let state = self.state();
        let start = |part: &Part| Position {
            segment: part.sequence,
            offset: DATA_AT,
            number: part.first_number,
        };
        let caught_up = Lookup::CaughtUp {
            next_number: state.next_number,
        };
        match state
            .parts
            .binary_search_by_key(&at.segment, |part| part.sequence)
        {
            Ok(i) if at.offset < state.parts[i].end => Lookup::Here {
                end: state.parts[i].end,
            },
            Ok(i) => state
                .parts
                .get(i + 1)
                .map_or(caught_up, |part| Lookup::Next(start(part))),
            Err(i) => state
                .parts
                .get(i)
                .map_or(caught_up, |part| Lookup::Gone(start(part))),
        }
    }
}
