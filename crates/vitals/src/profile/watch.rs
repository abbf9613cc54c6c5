//! Writes the counts of profiling into the registry, once a second.

use std::collections::HashMap;

use super::{lock, poll};
use crate::metric::{Id, Registry};
use crate::span;

/// Remembers what was written; its owner calls [`Watch::tick`] once a second.
#[derive(Debug)]
pub struct Watch {
    registry: Registry,
    /// By figure and label: at most [`lock::NAMES_MAX`] and [`poll::NAMES_MAX`] of each.
    seen: HashMap<(Id, String), u64>,
}

// === impl Watch ===

impl Watch {
    /// A watch that writes into `registry`.
    pub fn new(registry: &Registry) -> Self {
        Self {
            registry: registry.clone(),
            seen: HashMap::new(),
        }
    }

    /// Reads everything once.
    pub fn tick(&mut self) {
        let functions = self.registry.gauge(Id::ProfileFunctions, &[]);
        functions.set(span::n_sites() as i64);
        let lost = span::lost();
        self.add(Id::ProfileFunctionsRefused, None, lost.sites);
        self.add(Id::ProfileCallsLost, None, lost.calls);
        for lock in lock::readings() {
            let (name, acquisitions, contended, wait_ns) = lock.totals();
            self.add(Id::LockAcquisitions, Some(name), acquisitions);
            self.add(Id::LockContended, Some(name), contended);
            self.add(Id::LockWait, Some(name), wait_ns);
        }
        for task in poll::figures() {
            self.add(Id::TaskPolls, Some(&task.name), task.polls);
            self.add(Id::TaskLongPolls, Some(&task.name), task.long_polls);
        }
    }

    /// Adds what a count has grown by.
    fn add(&mut self, id: Id, label: Option<&str>, total: u64) {
        let seen = self
            .seen
            .entry((id, label.unwrap_or_default().to_owned()))
            .or_default();
        let grown = total.saturating_sub(*seen);
        *seen = total;
        self.registry.counter(id, label.as_slice()).add(grown);
    }
}
