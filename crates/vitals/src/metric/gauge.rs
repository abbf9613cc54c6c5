//! A gauge: one signed value that anyone may set or move.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Goes up and down. Clones move the same figure.
///
/// It is one atomic, since a value that is set cannot be sharded: a hot path adds up its own changes and
/// calls [`Gauge::add`] once a turn.
#[derive(Clone, Debug)]
pub struct Gauge(pub(super) Arc<GaugeCell>);

/// The value on lines of its own, so that neighbours do not slow each other.
#[repr(align(128))]
#[derive(Debug, Default)]
pub(super) struct GaugeCell(AtomicI64);

// === impl Gauge ===

impl Gauge {
    /// Sets the value.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.0.store(value, Relaxed);
    }

    /// Moves the value by `change`, which may be negative.
    #[inline]
    pub fn add(&self, change: i64) {
        self.0.0.fetch_add(change, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.value()
    }
}

// === impl GaugeCell ===

impl GaugeCell {
    pub(super) fn value(&self) -> i64 {
        self.0.load(Relaxed)
    }
}
