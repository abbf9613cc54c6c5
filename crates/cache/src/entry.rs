//! One stored value and what is known of it.

use std::{
    fmt,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use tidegate_vitals::{Guard, Instant};

use crate::{key::Key, tags::Slots};

/// A value with everything that decides whether it may be served. It never changes, but for one mark.
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    pub(crate) slots: Slots,
    /// The last invalidation before its load began.
    pub(crate) epoch: u64,
    /// Rises with each load in this process: of two values of a key, the greater one is newer.
    pub(crate) serial: u64,
    pub(crate) loaded_at: Instant,
    pub(crate) fresh_until: Instant,
    pub(crate) position: Option<u64>,
    pub(crate) weight: u32,
    pub(crate) is_negative: bool,
    /// Whether it may be written behind.
    pub(crate) lower_levels: bool,
    /// Whether it came from the disk and need not be written again while it is there.
    pub(crate) is_on_disk: bool,
    /// When the next refresh behind a stale hit may start, nanoseconds of the clock.
    pub(crate) refresh_at: AtomicU64,
    /// Set when a newer value takes its place, so that it is not written behind.
    pub(crate) is_replaced: AtomicBool,
    /// Its bytes in the ledger; none while it only passes through.
    pub(crate) guard: Option<Guard>,
}

/// A value that was found or loaded. Holding it keeps its bytes in memory, whatever happens to the cache.
#[derive(Clone)]
pub struct Hit {
    entry: Arc<Entry>,
    source: Source,
    is_stale: bool,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// This process' memory.
    Memory,
    /// This node's disk.
    Disk,
    /// Redis or Valkey.
    Remote,
    /// A load, one's own or one that was joined.
    Load,
}

/// What a value costs beyond its bytes and its key's: the entry with its count, the map's share (52 bytes measured in
/// quick_cache), and the head of the key's bytes.
const OVERHEAD_BYTES: usize = size_of::<Entry>() + 16 + 52 + 16;

/// Least time between two refreshes of one stale value.
const REFRESH_PAUSE: Duration = Duration::from_secs(1);

// === impl Entry ===

impl Entry {
    /// Bytes that a value of this size costs in memory.
    pub(crate) fn bytes(key: &Key, value: &[u8], slots: &Slots) -> usize {
        let spilled = if slots.spilled() { slots.len() * 4 } else { 0 };
        OVERHEAD_BYTES + key.as_bytes().len() + value.len() + spilled
    }

    /// Whether it may be served as stale `window` after its time.
    pub(crate) fn is_within(&self, window: Duration, now: Instant) -> bool {
        now < self.fresh_until + window
    }

    /// Whether the caller is the one to start a refresh; the next one may be started [`REFRESH_PAUSE`] later, so that a
    /// load that fails is not tried with every hit.
    pub(crate) fn may_refresh(&self, now: Instant) -> bool {
        let due = self.refresh_at.load(Relaxed);
        let next = (now + REFRESH_PAUSE).as_nanos();
        due <= now.as_nanos()
            && self
                .refresh_at
                .compare_exchange(due, next, Relaxed, Relaxed)
                .is_ok()
    }

    pub(crate) fn replace(&self) {
        self.is_replaced.store(true, Relaxed);
    }

    pub(crate) fn is_replaced(&self) -> bool {
        self.is_replaced.load(Relaxed)
    }
}

// === impl Hit ===

impl Hit {
    pub(crate) const fn new(entry: Arc<Entry>, source: Source, is_stale: bool) -> Self {
        Self {
            entry,
            source,
            is_stale,
        }
    }

    /// The value; empty when there is nothing.
    #[must_use]
    pub fn value(&self) -> &Bytes {
        &self.entry.value
    }

    /// Whether it says that there is nothing.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        self.entry.is_negative
    }

    /// Whether its time is over: it is being refreshed, or its load failed.
    #[must_use]
    pub const fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Where it came from.
    #[must_use]
    pub const fn source(&self) -> Source {
        self.source
    }

    /// When it was loaded in this process or brought into it.
    #[must_use]
    pub fn loaded_at(&self) -> Instant {
        self.entry.loaded_at
    }

    /// Up to which log position it contains everything, if it was read where that matters.
    #[must_use]
    pub fn position(&self) -> Option<u64> {
        self.entry.position
    }

    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }
}

impl fmt::Debug for Hit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stale = if self.is_stale { ", stale" } else { "" };
        write!(
            f,
            "Hit({} bytes from {}{stale})",
            self.value().len(),
            self.source.as_str()
        )
    }
}

// === impl Source ===

impl Source {
    /// `memory`, `disk`, `remote` or `load`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Remote => "remote",
            Self::Load => "load",
        }
    }
}
