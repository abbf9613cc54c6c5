//! The spool's figures in the registry.

use tidegate_vitals::{Counter, Gauge, Histogram, Id, Registry};

/// The spool's figures, resolved once.
pub(super) struct Meters {
    pub(super) rows: Gauge,
    pub(super) age: Gauge,
    pub(super) sync: Histogram,
    pub(super) replayed: Counter,
}

impl Meters {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            rows: registry.gauge(Id::StoreSpoolRows, &[]),
            age: registry.gauge(Id::StoreSpoolAge, &[]),
            sync: registry.histogram(Id::StoreSpoolSync, &[]),
            replayed: registry.counter(Id::StoreSpoolReplayed, &[]),
        }
    }
}
