//! What is counted of one feed.

use std::time::Duration;

use tidegate_vitals::{Counter, Histogram, Id, Registry};

use super::backend::Method;
use super::outcome::ChunkOutcome;

/// Counters of one feed.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) stored: Counter,
    pub(super) duplicates: Counter,
    missing: Counter,
    dead: Counter,
    pub(super) rejected: Counter,
    pub(super) spooled: Counter,
    refused: Counter,
    dead_letters: Counter,
    commits: [Counter; Method::ALL.len()],
    batch: Histogram,
    commit: Histogram,
    pub(super) replayed: Counter,
}

impl Figures {
    pub(super) fn new(registry: &Registry, feed: &str) -> Self {
        let rows = |outcome| registry.counter(Id::StoreIngestRows, &[feed, outcome]);
        Self {
            stored: rows("stored"),
            duplicates: rows("duplicate"),
            missing: rows("missing"),
            dead: rows("dead_lettered"),
            rejected: rows("rejected"),
            spooled: rows("spooled"),
            refused: rows("refused"),
            dead_letters: registry.counter(Id::StoreDeadLetters, &[feed]),
            commits: Method::ALL.map(|method| registry.counter(Id::StoreIngestCommits, &[method.as_str()])),
            batch: registry.histogram(Id::StoreIngestBatch, &[]),
            commit: registry.histogram(Id::StoreIngestCommit, &[]),
            replayed: registry.counter(Id::StoreSpoolReplayed, &[]),
        }
    }

    pub(super) fn committed(&self, method: Method, n_rows: usize, took: Duration) {
        self.commits[method as usize].inc();
        self.batch.record(n_rows as u64);
        self.commit.record(took.as_nanos() as u64);
    }

    pub(super) fn stored(&self, outcome: &ChunkOutcome) {
        self.stored.add(outcome.stored);
        self.duplicates.add(outcome.duplicates);
        self.missing.add(outcome.missing);
        self.dead.add(outcome.dead.len() as u64);
        self.dead_letters.add(outcome.dead.len() as u64);
    }

    pub(super) fn refused(&self, n_rows: usize) {
        self.refused.add(n_rows as u64);
    }
}
