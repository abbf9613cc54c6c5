//! What is counted for each declared query.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tidegate_vitals::{Clock, Counter, Histogram, Id, Instant, Registry};

use crate::{
    error::Error,
    statement::{Part, Times},
};

/// The figures of one query since the start; they outlive a reload.
#[derive(Debug)]
pub(super) struct Figures {
    name: String,
    clock: Clock,
    counts: Mutex<Counts>,
    /// One counter per [`Outcome`].
    outcomes: [Counter; OUTCOMES.len()],
    time: Histogram,
    rows: Counter,
}

#[derive(Debug)]
struct Counts {
    calls: u64,
    rows: u64,
    outcomes: [u64; OUTCOMES.len()],
    time: Part,
}

/// What became of calls, in the order of the counters.
const OUTCOMES: [&str; 8] = [
    "ok",
    "bad_request",
    "forbidden",
    "cursor_invalid",
    "too_large",
    "timeout",
    "failed",
    "cancelled",
];

/// A call under way; dropped before its end it counts as cancelled.
#[derive(Debug)]
pub(super) struct Running {
    figures: Arc<Figures>,
    start: Instant,
    is_over: bool,
}

/// The figures of a declared query since the start.
#[derive(Debug, Clone, Serialize)]
pub struct QueryStats {
    /// Its name.
    pub query: String,
    /// Calls that ended, however.
    pub calls: u64,
    /// Rows given out.
    pub rows: u64,
    /// Calls that did not end well, those that the caller gave up among them.
    pub errors: u64,
    /// Calls by what became of them; those that never happened are left out.
    pub outcomes: std::collections::BTreeMap<&'static str, u64>,
    /// Time from the call to its last row, the wait for a connection included.
    pub time: Times,
}

impl Figures {
    pub(super) fn new(name: &str, clock: &Clock, registry: &Registry) -> Self {
        Self {
            name: name.to_owned(),
            clock: clock.clone(),
            counts: Mutex::new(Counts {
                calls: 0,
                rows: 0,
                outcomes: [0; OUTCOMES.len()],
                time: Part::new(),
            }),
            outcomes: OUTCOMES.map(|outcome| registry.counter(Id::StoreQueries, &[name, outcome])),
            time: registry.histogram(Id::StoreQuery, &[name]),
            rows: registry.counter(Id::StoreQueryRows, &[]),
        }
    }

    pub(super) fn begin(self: &Arc<Self>) -> Running {
        Running {
            figures: Arc::clone(self),
            start: self.clock.now(),
            is_over: false,
        }
    }

    pub(super) fn stats(&self) -> QueryStats {
        let counts = self.lock();
        let outcomes = OUTCOMES.into_iter().zip(counts.outcomes).filter(|(_, n)| *n > 0);
        QueryStats {
            query: self.name.clone(),
            calls: counts.calls,
            rows: counts.rows,
            errors: counts.calls - counts.outcomes[0],
            outcomes: outcomes.collect(),
            time: Times::of(&counts.time, counts.calls),
        }
    }

    fn record(&self, start: Instant, rows: u64, outcome: &str) {
        let ns = (self.clock.now() - start).as_nanos() as u64;
        let at = OUTCOMES.iter().position(|known| *known == outcome).unwrap_or(6);
        self.outcomes[at].inc();
        self.time.record(ns);
        self.rows.add(rows);
        let mut counts = self.lock();
        counts.calls += 1;
        counts.rows += rows;
        counts.outcomes[at] += 1;
        counts.time.record(ns);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    /// The call ended after so many rows.
    pub(super) fn end(mut self, rows: u64, error: Option<&Error>) {
        self.is_over = true;
        let outcome = error.map_or("ok", |error| match error.code() {
            known @ ("bad_request" | "forbidden" | "cursor_invalid" | "too_large" | "timeout") => known,
            _ => "failed",
        });
        self.figures.record(self.start, rows, outcome);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            self.figures.record(self.start, 0, "cancelled");
        }
    }
}
