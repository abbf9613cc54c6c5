//! What is counted of the outbox.

use tidegate_vitals::{Counter, Gauge, Histogram, Id, Registry};

#[derive(Debug)]
pub(super) struct Figures {
    pub(super) published: Counter,
    pub(super) duplicates: Counter,
    pub(super) tags_only: Counter,
    pub(super) refused: Counter,
    pub(super) expired: Counter,
    pub(super) lost: Counter,
    pub(super) dropped: Counter,
    pub(super) batch: Histogram,
    pub(super) delay: Histogram,
    pub(super) waiting: Gauge,
    pub(super) oldest: Gauge,
    pub(super) bytes: Gauge,
    pub(super) alarm: Gauge,
    pub(super) full: Counter,
    pub(super) failures: Counter,
    registry: Registry,
}

impl Figures {
    pub(super) fn new(registry: &Registry) -> Self {
        let rows = |outcome| registry.counter(Id::StoreRelayRows, &[outcome]);
        Self {
            published: rows("published"),
            duplicates: rows("duplicate"),
            tags_only: rows("tags_only"),
            refused: rows("refused"),
            expired: rows("expired"),
            lost: rows("lost"),
            dropped: rows("dropped"),
            batch: registry.histogram(Id::StoreRelayBatch, &[]),
            delay: registry.histogram(Id::StoreRelayDelay, &[]),
            waiting: registry.gauge(Id::StoreRelayWaiting, &[]),
            oldest: registry.gauge(Id::StoreRelayOldest, &[]),
            bytes: registry.gauge(Id::StoreRelayBytes, &[]),
            alarm: registry.gauge(Id::StoreRelayAlarm, &[]),
            full: registry.counter(Id::StoreRelayFull, &[]),
            failures: registry.counter(Id::StoreRelayFailures, &[]),
            registry: registry.clone(),
        }
    }

    pub(super) fn refused(&self, reason: &str) {
        self.refused.inc();
        self.registry.counter(Id::StoreRelayRefused, &[reason]).inc();
    }

    /// Rows that were handed to somebody or put aside.
    pub(super) fn read(&self) -> u64 {
        let all = [
            &self.published,
            &self.duplicates,
            &self.tags_only,
            &self.refused,
            &self.expired,
        ];
        all.iter().map(|counter| counter.get()).sum()
    }
}
