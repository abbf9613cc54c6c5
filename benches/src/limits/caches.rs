//! The caches that are measured beside each other: all keyed by bytes, all with values that are shared.

use bytes::Bytes;
use tidegate_cache::{Cache, Key, Loaded, Policy};
use tokio::runtime::Runtime;

use super::from_cache;
use crate::error::Result;

/// Which one.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Tidegate,
    QuickCache,
    #[cfg(feature = "limits-peers")]
    Moka,
    #[cfg(feature = "limits-peers")]
    Lru,
}

/// The same keys for all, each cache in the form it takes.
pub(super) struct Keys {
    own: Vec<Key>,
    bytes: Vec<Box<[u8]>>,
}

/// What is measured of a cache.
pub(super) trait Subject: Sync {
    /// Whether the key of this number is there; the value is taken out and dropped.
    fn hit(&self, at: usize) -> bool;
    /// Stores the value under the key of this number.
    fn insert(&self, at: usize);
    /// How many values it holds.
    fn len(&self) -> usize;
}

/// The usual namespace of a query.
const NAMESPACE: &str = "cost";
/// Of all values, unless they are empty.
const TTL: std::time::Duration = std::time::Duration::from_secs(600);

impl Kind {
    /// All that this build has.
    pub(super) const ALL: &[Self] = &[
        Self::Tidegate,
        Self::QuickCache,
        #[cfg(feature = "limits-peers")]
        Self::Moka,
        #[cfg(feature = "limits-peers")]
        Self::Lru,
    ];

    /// What tables call it.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Tidegate => TIDEGATE,
            Self::QuickCache => "quick_cache, bare",
            #[cfg(feature = "limits-peers")]
            Self::Moka => MOKA,
            #[cfg(feature = "limits-peers")]
            Self::Lru => "lru behind a mutex",
        }
    }

    /// An empty one for `capacity` values.
    pub(super) fn make<'a>(
        self,
        runtime: &Runtime,
        capacity: usize,
        keys: &'a Keys,
        value: &'a Bytes,
    ) -> Result<Box<dyn Subject + 'a>> {
        Ok(match self {
            Self::Tidegate => Box::new(Own {
                cache: own(runtime, capacity)?,
                policy: Policy::of_ttl(TTL).tagged(&["ticks:600519"]),
                keys,
                value,
            }),
            Self::QuickCache => Box::new(Quick {
                cache: quick_cache::sync::Cache::new(capacity),
                keys,
                value,
            }),
            #[cfg(feature = "limits-peers")]
            Self::Moka => Box::new(peers::moka(capacity, keys, value)),
            #[cfg(feature = "limits-peers")]
            Self::Lru => Box::new(peers::lru(capacity, keys, value)),
        })
    }
}

pub(super) const TIDEGATE: &str = "Tidegate";
pub(super) const MOKA: &str = "moka";

/// Tidegate's memory level alone, bounded by the number of values: each may take 4 KiB.
pub(super) fn own(runtime: &Runtime, capacity: usize) -> Result<Cache> {
    let builder = Cache::builder(NAMESPACE).memory(capacity as u64 * 4_096, capacity);
    runtime.block_on(builder.build()).map_err(from_cache)
}

/// The key of a number, as Tidegate's caches take it.
pub(super) fn key(at: u64) -> Key {
    Key::new(NAMESPACE, &at.to_le_bytes())
}

// === impl Keys ===

impl Keys {
    /// The first `n` keys.
    pub(super) fn new(n: usize) -> Self {
        let bytes = |at: u64| {
            [NAMESPACE.as_bytes(), &at.to_le_bytes()]
                .concat()
                .into_boxed_slice()
        };
        Self {
            own: (0..n as u64).map(key).collect(),
            bytes: (0..n as u64).map(bytes).collect(),
        }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.own.len()
    }
}

struct Own<'a> {
    cache: Cache,
    policy: Policy,
    keys: &'a Keys,
    value: &'a Bytes,
}

impl Subject for Own<'_> {
    fn hit(&self, at: usize) -> bool {
        self.cache.get(&self.keys.own[at]).is_some()
    }

    fn insert(&self, at: usize) {
        let loaded = Loaded::of(self.value.clone());
        self.cache.insert(&self.keys.own[at], &self.policy, loaded);
    }

    fn len(&self) -> usize {
        self.cache.stats().entries
    }
}

struct Quick<'a> {
    cache: quick_cache::sync::Cache<Box<[u8]>, Bytes>,
    keys: &'a Keys,
    value: &'a Bytes,
}

impl Subject for Quick<'_> {
    fn hit(&self, at: usize) -> bool {
        self.cache.get(&*self.keys.bytes[at]).is_some()
    }

    fn insert(&self, at: usize) {
        self.cache.insert(self.keys.bytes[at].clone(), self.value.clone());
    }

    fn len(&self) -> usize {
        self.cache.len()
    }
}

#[cfg(feature = "limits-peers")]
mod peers {
    use std::num::NonZeroUsize;
    use std::sync::{Mutex, PoisonError};

    use bytes::Bytes;

    use super::{Keys, Subject, TTL};

    pub(super) struct Moka<'a> {
        cache: moka::sync::Cache<Box<[u8]>, Bytes>,
        keys: &'a Keys,
        value: &'a Bytes,
    }

    pub(super) struct Lru<'a> {
        cache: Mutex<lru::LruCache<Box<[u8]>, Bytes>>,
        keys: &'a Keys,
        value: &'a Bytes,
    }

    pub(super) fn moka<'a>(capacity: usize, keys: &'a Keys, value: &'a Bytes) -> Moka<'a> {
        let builder = moka::sync::Cache::builder().max_capacity(capacity as u64);
        Moka {
            cache: builder.time_to_live(TTL).build(),
            keys,
            value,
        }
    }

    pub(super) fn lru<'a>(capacity: usize, keys: &'a Keys, value: &'a Bytes) -> Lru<'a> {
        let capacity = NonZeroUsize::new(capacity).expect("every table has keys");
        Lru {
            cache: Mutex::new(lru::LruCache::new(capacity)),
            keys,
            value,
        }
    }

    impl Subject for Moka<'_> {
        fn hit(&self, at: usize) -> bool {
            self.cache.get(&*self.keys.bytes[at]).is_some()
        }

        fn insert(&self, at: usize) {
            self.cache.insert(self.keys.bytes[at].clone(), self.value.clone());
        }

        fn len(&self) -> usize {
            self.cache.run_pending_tasks();
            self.cache.entry_count() as usize
        }
    }

    impl Lru<'_> {
        fn cache(&self) -> std::sync::MutexGuard<'_, lru::LruCache<Box<[u8]>, Bytes>> {
            self.cache.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl Subject for Lru<'_> {
        fn hit(&self, at: usize) -> bool {
            self.cache().get(&*self.keys.bytes[at]).cloned().is_some()
        }

        fn insert(&self, at: usize) {
            let (key, value) = (self.keys.bytes[at].clone(), self.value.clone());
            drop(self.cache().push(key, value));
        }

        fn len(&self) -> usize {
            self.cache().len()
        }
    }
}
