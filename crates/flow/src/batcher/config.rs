//! The limits of a batcher, what it does when they are met, what it counts.

use std::time::Duration;

/// The limits of a batcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatcherConfig {
    /// Its name in errors and task counts.
    pub name: &'static str,
    /// Most items of one batch, at least 1.
    pub batch_items_max: usize,
    /// Most bytes of one batch, at least 1; an item larger than that goes alone.
    pub batch_bytes_max: usize,
    /// How long the oldest item of a busy key may wait for company; zero: only as long as the flush before it takes.
    pub delay: Duration,
    /// Most items that wait, over all keys; at least a batch.
    pub queue_items_max: usize,
    /// Most bytes that wait, over all keys; at least a batch.
    pub queue_bytes_max: usize,
    /// Most flushes at a time, over all keys, at least 1; per key it is always one.
    pub flushes_max: usize,
    /// What happens to an item for which there is no room.
    pub when_full: WhenFull,
}

/// What happens to an item for which there is no room; each outcome has a counter in [`Stats`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Its sender waits, first come first served.
    Wait,
    /// It is given back.
    Reject,
    /// The oldest waiting items of all keys make room.
    DropOldest,
    /// It replaces what waits for its own key, being newer; if that makes no room, it is given back.
    Conflate,
}

/// What a batcher has done, and what waits now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Items waiting now, those being flushed apart.
    pub waiting_items: usize,
    /// Bytes waiting now.
    pub waiting_bytes: usize,
    /// Keys that have items waiting or being flushed.
    pub keys: usize,
    /// Batches flushed.
    pub flushed_batches: u64,
    /// Items flushed.
    pub flushed_items: u64,
    /// Flushes that panicked; their items count as flushed.
    pub panicked: u64,
    /// Pushes that waited for room.
    pub waited: u64,
    /// Items given back for lack of room.
    pub rejected: u64,
    /// Items dropped as the oldest.
    pub dropped: u64,
    /// Items replaced by a newer one of their key.
    pub conflated: u64,
}

// === impl BatcherConfig ===

impl BatcherConfig {
    pub(super) fn assert_sound(&self) {
        let Self {
            name,
            batch_items_max,
            batch_bytes_max,
            queue_items_max,
            queue_bytes_max,
            flushes_max,
            ..
        } = *self;
        assert!(
            batch_items_max >= 1,
            "batcher {name}: batch_items_max is {batch_items_max}, at least 1"
        );
        assert!(
            batch_bytes_max >= 1,
            "batcher {name}: batch_bytes_max is {batch_bytes_max}, at least 1"
        );
        assert!(
            flushes_max >= 1,
            "batcher {name}: flushes_max is {flushes_max}, at least 1"
        );
        assert!(
            queue_items_max >= batch_items_max && queue_bytes_max >= batch_bytes_max,
            "batcher {name}: a queue of {queue_items_max} items and {queue_bytes_max} bytes is smaller than a batch"
        );
    }
}
