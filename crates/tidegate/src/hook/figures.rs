//! The figures of the hook.

use tidegate_vitals::{Gauge, Histogram, Id, Registry};

use super::request::Kind;

/// Counted by the hook.
pub(super) struct Figures {
    registry: Registry,
    times: [Histogram; Kind::ALL.len()],
    pub(super) in_flight: Gauge,
    pub(super) waiting: Gauge,
    pub(super) spool_records: Gauge,
    pub(super) spool_bytes: Gauge,
}

/// How a request ended, as the figures name it.
pub(super) mod outcome {
    /// Answered and done.
    pub(crate) const OK: &str = "ok";
    /// Answered: this client may not come in.
    pub(crate) const REFUSED: &str = "refused";
    /// An answer that cannot be used.
    pub(crate) const INVALID: &str = "invalid";
    /// An answer that could not be carried out, for a limit.
    pub(crate) const NOT_DONE: &str = "not_done";
    /// No answer in time.
    pub(crate) const TIMEOUT: &str = "timeout";
    /// No connection, or it broke.
    pub(crate) const UNREACHABLE: &str = "unreachable";
    /// Not asked: the application is down.
    pub(crate) const DOWN: &str = "down";
    /// Not asked: too many wait.
    pub(crate) const OVERLOADED: &str = "overloaded";
    /// Another status than 2xx.
    pub(crate) const STATUS: &str = "status";
}

impl Figures {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            times: Kind::ALL.map(|kind| registry.histogram(Id::AppRequest, &[kind.as_str()])),
            in_flight: registry.gauge(Id::AppInFlight, &[]),
            waiting: registry.gauge(Id::AppWaiting, &[]),
            spool_records: registry.gauge(Id::AppSpoolRecords, &[]),
            spool_bytes: registry.gauge(Id::AppSpoolBytes, &[]),
            registry: registry.clone(),
        }
    }

    pub(super) fn time(&self, kind: Kind) -> &Histogram {
        &self.times[kind as usize]
    }

    pub(super) fn ended(&self, kind: Kind, outcome: &'static str) {
        self.registry
            .counter(Id::AppRequests, &[kind.as_str(), outcome])
            .inc();
    }

    pub(super) fn wrong(&self, field: &'static str) {
        self.registry.counter(Id::AppAnswerErrors, &[field]).inc();
    }

    pub(super) fn lost(&self, reason: &'static str, n: u64) {
        self.registry.counter(Id::AppDisconnectsLost, &[reason]).add(n);
    }
}
