//! One bound on bytes over the logs of all feeds.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_seglog::Log;
use tidegate_vitals::Gauge;

use super::error;
use crate::error::Error;

/// Bytes of the files of all feeds, exact and never above the bound.
pub(super) struct Budget {
    limit: u64,
    used: Mutex<u64>,
    gauge: Gauge,
}

impl Budget {
    pub(super) const fn new(limit: u64, gauge: Gauge) -> Self {
        let used = Mutex::new(0);
        Self { limit, used, gauge }
    }

    fn lock(&self) -> MutexGuard<'_, u64> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn used(&self) -> u64 {
        *self.lock()
    }

    /// Counts the files of a log that was opened.
    pub(super) fn add(&self, bytes: u64) {
        let mut used = self.lock();
        *used += bytes;
        self.gauge.set(*used as i64);
    }

    /// Does something to a log that may change its files. One log grows at a time, so that two never take the same
    /// bytes. Writes go to the system's memory and are short; only a new file waits for the fsync of the one before.
    pub(super) fn spend<T>(&self, log: &mut Log, work: impl FnOnce(&mut Log) -> T) -> T {
        let mut used = self.lock();
        let others = used.saturating_sub(log.bytes());
        log.set_bytes_max(self.limit.saturating_sub(others));
        let outcome = work(log);
        *used = others + log.bytes();
        self.gauge.set(*used as i64);
        outcome
    }

    /// An error of a log; one that is full tells of the bytes of all.
    pub(super) fn error(&self, error: tidegate_seglog::Error) -> Error {
        match error {
            tidegate_seglog::Error::Full { .. } => Error::SpoolFull {
                bytes: self.used(),
                limit: self.limit,
            },
            other => error::of_log(other),
        }
    }
}
