//! The memory level: quick_cache with bytes as weight, and what happens to what leaves it.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use quick_cache::{Lifecycle, OptionsBuilder, Weighter, sync};
use smallvec::SmallVec;

use crate::{
    disk::Behind,
    entry::Entry,
    key::{BuildIdentity, Key},
    stats::Figures,
};

/// Values in memory, bounded by bytes and by number.
pub(crate) struct Memory {
    map: sync::Cache<Key, Arc<Entry>, Weigh, BuildIdentity, Leaving>,
    /// Bytes as configured; the capacity now may be less under pressure.
    bytes_max: AtomicU64,
    /// Least weight of a value: with it the bound on bytes is a bound on entries too.
    weight_min: u32,
}

/// Bounds of the memory level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) bytes_max: u64,
    pub(crate) entries_max: usize,
}

#[derive(Clone)]
struct Weigh;

/// What happens to a value that makes room: it is counted, and written behind if there is a disk.
#[derive(Clone)]
struct Leaving {
    figures: Arc<Figures>,
    behind: Option<Behind>,
}

/// Values are freed after the shard's lock is.
type Freed = SmallVec<[(Key, Arc<Entry>); 2]>;

/// A little more than one part of one more value than may be there: then that one never fits, in no shard, and a single
/// value still leaves its shard some room.
fn weight_min(bounds: Bounds) -> u32 {
    let parts = (bounds.entries_max as u64).saturating_add(1);
    u32::try_from(bounds.bytes_max / parts + 1).unwrap_or(u32::MAX)
}

// === impl Memory ===

impl Memory {
    pub(crate) fn new(bounds: Bounds, figures: &Arc<Figures>, behind: Option<Behind>) -> Self {
        let Bounds {
            bytes_max,
            entries_max,
        } = bounds;
        let options = OptionsBuilder::new()
            .weight_capacity(bytes_max)
            .estimated_items_capacity(entries_max)
            .build()
            .expect("both capacities are given");
        let leaving = Leaving {
            figures: Arc::clone(figures),
            behind,
        };
        let map = sync::Cache::with_options(options, Weigh, BuildIdentity::default(), leaving);
        let memory = Self {
            map,
            bytes_max: AtomicU64::new(bytes_max),
            weight_min: weight_min(bounds),
        };
        memory.set_capacity(bytes_max);
        memory
    }

    #[inline]
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.map.get(key)
    }

    /// What `bytes` weigh here; none if no shard could hold them.
    pub(crate) fn weight(&self, bytes: usize) -> Option<u32> {
        let weight = u32::try_from(bytes).ok()?.max(self.weight_min);
        // The map keeps a thirtieth of a shard for newcomers.
        (u64::from(weight) <= self.map.shard_capacity() / 10 * 9).then_some(weight)
    }

    pub(crate) fn insert(&self, key: Key, entry: Arc<Entry>) {
        if let Some(old) = self.map.peek(&key) {
            old.replace();
        }
        self.map.insert(key, entry);
    }

    /// Removes `entry` if it is still the one under `key`.
    pub(crate) fn remove_this(&self, key: &Key, entry: &Arc<Entry>) -> bool {
        self.map
            .remove_if(key, |found| Arc::ptr_eq(found, entry))
            .is_some()
    }

    pub(crate) fn remove(&self, key: &Key) -> bool {
        self.map.remove(key).is_some()
    }

    pub(crate) fn clear(&self) {
        self.map.clear();
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.map.weight()
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes that it may hold now.
    pub(crate) fn capacity(&self) -> u64 {
        self.map.capacity()
    }

    /// Bytes that it may hold when nothing presses.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Relaxed)
    }

    pub(crate) fn set_bytes_max(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Relaxed);
        self.set_capacity(bytes_max);
    }

    /// Lets it hold `bytes`, evicting what no longer fits; gives the bytes that went.
    pub(crate) fn set_capacity(&self, bytes: u64) -> u64 {
        let before = self.bytes();
        self.map.set_capacity(self.rounded(bytes));
        before.saturating_sub(self.bytes())
    }

    /// The capacity that `bytes` come to: each shard gets an equal part, rounded up by the map, so they are rounded down
    /// here first, and the sum never passes the bound.
    pub(crate) fn rounded(&self, bytes: u64) -> u64 {
        let shards = self.map.num_shards() as u64;
        bytes / shards * shards
    }
}

impl Weighter<Key, Arc<Entry>> for Weigh {
    fn weight(&self, _: &Key, entry: &Arc<Entry>) -> u64 {
        u64::from(entry.weight)
    }
}

impl Lifecycle<Key, Arc<Entry>> for Leaving {
    type RequestState = Freed;

    fn on_evict(&self, freed: &mut Freed, key: Key, entry: Arc<Entry>) {
        if !entry.is_replaced() {
            self.figures.evictions.inc();
            if let Some(behind) = &self.behind {
                behind.offer(&key, &entry);
            }
        }
        freed.push((key, entry));
    }
}
