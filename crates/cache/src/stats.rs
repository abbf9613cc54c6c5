//! The figures of a cache, and what people read of them.

use std::{cell::Cell, time::Duration};

use tidegate_flow::once;
use tidegate_vitals::{Counter, Gauge, Histogram, HistogramSnapshot, Id, Instant, Registry};

use crate::{disk, entry::Source, ghost::Expected, remote};

/// Handles of all figures, resolved once.
pub(crate) struct Figures {
    pub(crate) hits_memory: Counter,
    pub(crate) hits_disk: Counter,
    pub(crate) hits_remote: Counter,
    pub(crate) misses: Counter,
    pub(crate) stale_hits: Counter,
    pub(crate) negative_hits: Counter,
    pub(crate) inserts: Counter,
    pub(crate) not_stored: NotStored,
    pub(crate) evictions: Counter,
    pub(crate) expirations: Counter,
    pub(crate) promotions: Counter,
    pub(crate) invalidations: Counter,
    pub(crate) loads_ok: Counter,
    pub(crate) loads_failed: Counter,
    pub(crate) loads_panicked: Counter,
    pub(crate) loads_aborted: Counter,
    pub(crate) loads_refused: Counter,
    pub(crate) load: Histogram,
    pub(crate) hit: Histogram,
    bytes: Gauge,
    entries: Gauge,
    capacity: Gauge,
    disk_bytes: Gauge,
    disk_entries: Gauge,
    remote_up: Gauge,
}

/// Values that were answered and not stored, by reason.
pub(crate) struct NotStored {
    /// A tag was invalidated while it was loaded.
    pub(crate) invalidated: Counter,
    /// A replica had not yet replayed what its tags were invalidated for.
    pub(crate) behind: Counter,
    /// It is larger than a part of the memory level, or than the policy's time allows (zero).
    pub(crate) too_large: Counter,
    /// The ledger had no bytes.
    pub(crate) memory_full: Counter,
}

/// What a cache holds and has done since it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Stats {
    /// Values found in memory.
    pub hits_memory: u64,
    /// Values found on disk.
    pub hits_disk: u64,
    /// Values found in the remote level.
    pub hits_remote: u64,
    /// Requests that no level could answer.
    pub misses: u64,
    /// Hits past their time.
    pub stale_hits: u64,
    /// Hits that say that there is nothing.
    pub negative_hits: u64,
    /// Values stored in memory.
    pub inserts: u64,
    /// Values not stored because a tag was invalidated while they were loaded.
    pub not_stored_invalidated: u64,
    /// Values not stored because the replica they came from was behind.
    pub not_stored_behind: u64,
    /// Values not stored because they are too large.
    pub not_stored_too_large: u64,
    /// Values not stored because the ledger was full.
    pub not_stored_memory_full: u64,
    /// Values that left memory for others.
    pub evictions: u64,
    /// Values found past their time or invalidated, and removed.
    pub expirations: u64,
    /// Values brought into memory from a lower level.
    pub promotions: u64,
    /// Tags invalidated by this node.
    pub invalidations: u64,
    /// Loads that brought a value.
    pub loads_ok: u64,
    /// Loads that failed.
    pub loads_failed: u64,
    /// Loads that panicked.
    pub loads_panicked: u64,
    /// Loads that were ended because they took too long.
    pub loads_aborted: u64,
    /// Requests refused because too many loads were under way.
    pub loads_refused: u64,
    /// Requests that joined the load of another.
    pub loads_joined: u64,
    /// Loads under way.
    pub loads_in_flight: usize,
    /// Time of loads.
    pub load: Times,
    /// Time of hits in memory, one in 256 measured.
    pub hit: Times,
    /// Bytes held in memory.
    pub bytes: u64,
    /// Values held in memory.
    pub entries: usize,
    /// Bytes that memory may hold now.
    pub capacity_bytes: u64,
    /// Bytes that it may hold when nothing presses.
    pub bytes_max: u64,
    /// The disk level, if there is one.
    pub disk: Option<disk::Stats>,
    /// The remote level, if there is one.
    pub remote: Option<remote::Stats>,
    /// The hit rate to expect with less or more memory; empty while nothing is known.
    pub curve: Vec<Expected>,
}

/// A distribution of times.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Times {
    /// How many were measured.
    pub count: u64,
    /// The exact mean.
    pub mean: Duration,
    /// Half were at most this.
    pub p50: Duration,
    /// 99 of 100 were at most this.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// One hit in this many is timed.
const SAMPLE: u32 = 256;

// === impl Figures ===

impl Figures {
    pub(crate) fn new(registry: &Registry, cache: &str) -> Self {
        let counter = |id| registry.counter(id, &[cache]);
        let gauge = |id| registry.gauge(id, &[cache]);
        let histogram = |id| registry.histogram(id, &[cache]);
        let hits = |source: Source| registry.counter(Id::CacheHits, &[cache, source.as_str()]);
        let loads = |outcome| registry.counter(Id::CacheLoads, &[cache, outcome]);
        Self {
            hits_memory: hits(Source::Memory),
            hits_disk: hits(Source::Disk),
            hits_remote: hits(Source::Remote),
            misses: counter(Id::CacheMisses),
            stale_hits: counter(Id::CacheStaleHits),
            negative_hits: counter(Id::CacheNegativeHits),
            inserts: counter(Id::CacheInserts),
            not_stored: NotStored::new(registry, cache),
            evictions: counter(Id::CacheEvictions),
            expirations: counter(Id::CacheExpirations),
            promotions: counter(Id::CachePromotions),
            invalidations: counter(Id::CacheInvalidations),
            loads_ok: loads("ok"),
            loads_failed: loads("failed"),
            loads_panicked: loads("panicked"),
            loads_aborted: loads("aborted"),
            loads_refused: loads("refused"),
            load: histogram(Id::CacheLoad),
            hit: histogram(Id::CacheHit),
            bytes: gauge(Id::CacheBytes),
            entries: gauge(Id::CacheEntries),
            capacity: gauge(Id::CacheCapacity),
            disk_bytes: gauge(Id::CacheDiskBytes),
            disk_entries: gauge(Id::CacheDiskEntries),
            remote_up: gauge(Id::CacheRemoteUp),
        }
    }

    /// Whether this thread should time its next hit.
    #[inline]
    pub(crate) fn is_sample() -> bool {
        thread_local!(static COUNT: Cell<u32> = const { Cell::new(0) });
        COUNT.with(|count| {
            let next = count.get().wrapping_add(1);
            count.set(next);
            next.is_multiple_of(SAMPLE)
        })
    }

    pub(crate) fn count_hit(&self, source: Source) {
        match source {
            Source::Memory => self.hits_memory.inc(),
            Source::Disk => self.hits_disk.inc(),
            Source::Remote => self.hits_remote.inc(),
            Source::Load => self.misses.inc(),
        }
    }

    /// Requests that were answered or not.
    pub(crate) fn requests(&self) -> u64 {
        let hits = self.hits_memory.get() + self.hits_disk.get() + self.hits_remote.get();
        hits + self.misses.get()
    }

    /// Writes what is read from the state into its gauges.
    pub(crate) fn set_gauges(&self, stats: &Stats) {
        self.bytes.set(stats.bytes as i64);
        self.entries.set(stats.entries as i64);
        self.capacity.set(stats.capacity_bytes as i64);
        if let Some(disk) = &stats.disk {
            self.disk_bytes.set(disk.bytes as i64);
            self.disk_entries.set(disk.entries as i64);
        }
        if let Some(remote) = &stats.remote {
            self.remote_up.set(i64::from(remote.is_connected));
        }
    }

    /// What the figures say; levels and flights are filled in by who knows them.
    pub(crate) fn read(&self, flights: once::Stats) -> Stats {
        Stats {
            hits_memory: self.hits_memory.get(),
            hits_disk: self.hits_disk.get(),
            hits_remote: self.hits_remote.get(),
            misses: self.misses.get(),
            stale_hits: self.stale_hits.get(),
            negative_hits: self.negative_hits.get(),
            inserts: self.inserts.get(),
            not_stored_invalidated: self.not_stored.invalidated.get(),
            not_stored_behind: self.not_stored.behind.get(),
            not_stored_too_large: self.not_stored.too_large.get(),
            not_stored_memory_full: self.not_stored.memory_full.get(),
            evictions: self.evictions.get(),
            expirations: self.expirations.get(),
            promotions: self.promotions.get(),
            invalidations: self.invalidations.get(),
            loads_ok: self.loads_ok.get(),
            loads_failed: self.loads_failed.get(),
            loads_panicked: self.loads_panicked.get(),
            loads_aborted: self.loads_aborted.get(),
            loads_refused: self.loads_refused.get(),
            loads_joined: flights.joined,
            loads_in_flight: flights.in_flight,
            load: Times::of(&self.load.snapshot()),
            hit: Times::of(&self.hit.snapshot()),
            bytes: 0,
            entries: 0,
            capacity_bytes: 0,
            bytes_max: 0,
            disk: None,
            remote: None,
            curve: Vec::new(),
        }
    }
}

impl NotStored {
    fn new(registry: &Registry, cache: &str) -> Self {
        let counter = |reason| registry.counter(Id::CacheNotStored, &[cache, reason]);
        Self {
            invalidated: counter("invalidated"),
            behind: counter("behind"),
            too_large: counter("too_large"),
            memory_full: counter("memory_full"),
        }
    }
}

// === impl Stats ===

impl Stats {
    /// Requests that a level answered.
    #[must_use]
    pub const fn hits(&self) -> u64 {
        self.hits_memory + self.hits_disk + self.hits_remote
    }

    /// Share of requests that a level answered, 0 to 1; 0 without requests.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        let requests = self.hits() + self.misses;
        if requests == 0 {
            return 0.0;
        }
        self.hits() as f64 / requests as f64
    }
}

// === impl Times ===

impl Times {
    fn of(taken: &HistogramSnapshot) -> Self {
        Self {
            count: taken.count(),
            mean: Duration::from_nanos(taken.mean() as u64),
            p50: Duration::from_nanos(taken.quantile(0.5)),
            p99: Duration::from_nanos(taken.quantile(0.99)),
            max: Duration::from_nanos(taken.max()),
        }
    }
}

/// Nanoseconds from `start` to `end`.
pub(crate) fn ns(start: Instant, end: Instant) -> u64 {
    end.since(start).as_nanos() as u64
}
