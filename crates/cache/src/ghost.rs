//! What more or less memory would bring: small copies of the cache that see about one key in a hundred.
//!
//! Each copy runs the same replacement policy at a share of the capacity (a quarter to four times), scaled down by the
//! share of keys it sees, as in "Cache Modeling and Optimization using Miniature Simulations" (Waldspurger et al., 2017).
//! Keys are chosen by their hash, so all requests of a chosen key are seen. A sample seldom contains its fair share of
//! the few hottest keys; what is missing to the expected number of requests is theirs, and they hit at any capacity
//! ("SHARDS-adj", Waldspurger et al., 2015).

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use quick_cache::{OptionsBuilder, UnitWeighter, Weighter, sync::DefaultLifecycle, unsync};

use crate::key::BuildIdentity;

/// The capacities that are tried, as shares of the cache's own.
pub const SCALES: [f64; 5] = [0.25, 0.5, 1.0, 2.0, 4.0];

/// The hit rate to expect at one capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// The capacity as a share of the cache's own.
    pub scale: f64,
    /// The expected hit rate, 0 to 1.
    pub hit_rate: f64,
}

/// A miss-ratio curve that is kept while the cache works. Its memory is fixed when it is made.
pub struct Ghost {
    /// A key is seen by some copy if its mixed hash is at most this.
    threshold: u32,
    rate: f64,
    /// All requests, of seen keys or not.
    requests: AtomicU64,
    copies: Mutex<Copies>,
}

type Copies = Vec<Copy>;

struct Copy {
    scale: f64,
    threshold: u32,
    rate: f64,
    seen: u64,
    map: unsync::Cache<u64, u32, Weigh, BuildIdentity, DefaultLifecycle<u64, u32>>,
    hits: u64,
}

#[derive(Clone)]
struct Weigh;

/// Most keys that the largest copy may hold; all copies together hold less than three times as many, at about 60 bytes each.
const KEYS_MAX: usize = 1 << 16;
/// Fewer keys than this in a copy make its answer noise, so small caches are sampled more densely.
const KEYS_MIN: f64 = 512.0;

/// Where a key stands among all, by which it is chosen. Mixed, because the maps use the same hash for their places.
const fn place(hash: u64) -> u32 {
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

// === impl Ghost ===

impl Ghost {
    /// A curve for a cache of `capacity` (in what `access` is given as weight) that holds about `entries` values; one key
    /// in `1 / rate` is seen, more of them where a cache is small.
    #[must_use]
    pub fn new(capacity: u64, entries: usize, rate: f64) -> Self {
        let entries = entries.max(1) as f64;
        let most = KEYS_MAX as f64 / (4.0 * entries);
        let rate = rate.max(KEYS_MIN / entries).min(most).clamp(1e-6, 1.0);
        // A smaller copy sees more keys, so that none holds fewer than the one at the cache's own capacity: below a
        // thousand values chance outweighs the policy.
        let copies: Copies = SCALES
            .iter()
            .map(|scale| Copy::new(*scale, (rate / scale.min(1.0)).min(1.0), capacity as f64, entries))
            .collect();
        Self {
            threshold: copies.iter().map(|copy| copy.threshold).max().unwrap_or(0),
            rate,
            requests: AtomicU64::new(0),
            copies: Mutex::new(copies),
        }
    }

    /// Whether [`Ghost::access`] would look at a key of this hash.
    #[inline]
    #[must_use]
    pub const fn is_seen(&self, hash: u64) -> bool {
        place(hash) <= self.threshold
    }

    /// A key of this hash was asked for, whose value weighs `weight`. Counts the request by itself; for callers who count
    /// requests elsewhere there is [`Ghost::access_seen`].
    pub fn access(&self, hash: u64, weight: u32) {
        self.requests.fetch_add(1, Relaxed);
        self.access_seen(hash, weight);
    }

    /// Like [`Ghost::access`], without counting the request.
    #[inline]
    pub fn access_seen(&self, hash: u64, weight: u32) {
        if self.is_seen(hash) {
            self.look(hash, weight);
        }
    }

    #[cold]
    fn look(&self, hash: u64, weight: u32) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place(hash);
        for copy in copies.iter_mut().filter(|copy| place <= copy.threshold) {
            copy.access(hash, weight);
        }
    }

    /// The share of keys that is seen at the cache's own capacity and above; below it more are.
    #[must_use]
    pub const fn rate(&self) -> f64 {
        self.rate
    }

    /// The curve by requests counted in [`Ghost::access`].
    #[must_use]
    pub fn curve(&self) -> Vec<Expected> {
        self.curve_of(self.requests.load(Relaxed))
    }

    /// The curve, `requests` having been made in all; empty while nothing is known.
    #[must_use]
    pub fn curve_of(&self, requests: u64) -> Vec<Expected> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        if copies.iter().any(|copy| copy.seen == 0) {
            return Vec::new();
        }
        copies.iter().map(|copy| copy.expected(requests)).collect()
    }

    /// Bytes that the copies hold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.iter().map(|copy| copy.map.memory_used().total()).sum()
    }
}

// === impl Copy ===

impl Copy {
    /// A copy at `scale` of a cache of this capacity that holds about `entries` values, which sees `rate` of the keys.
    fn new(scale: f64, rate: f64, capacity: f64, entries: f64) -> Self {
        let share = scale * rate;
        let options = OptionsBuilder::new()
            .weight_capacity((capacity * share).ceil().max(1.0) as u64)
            .estimated_items_capacity((entries * share).ceil() as usize)
            .build()
            .expect("both capacities are given");
        Self {
            scale,
            threshold: (rate * f64::from(u32::MAX)) as u32,
            rate,
            seen: 0,
            map: unsync::Cache::with_options(
                options,
                Weigh,
                BuildIdentity::default(),
                DefaultLifecycle::default(),
            ),
            hits: 0,
        }
    }

    /// What is missing to the expected number of requests belongs to hot keys, which hit.
    fn expected(&self, requests: u64) -> Expected {
        let wanted = (requests as f64 * self.rate).max(1.0);
        let misses = (self.seen - self.hits) as f64;
        Expected {
            scale: self.scale,
            hit_rate: (1.0 - misses / wanted).clamp(0.0, 1.0),
        }
    }

    fn access(&mut self, hash: u64, weight: u32) {
        self.seen += 1;
        if self.map.get(&hash).is_some() {
            self.hits += 1;
        } else {
            self.map.insert(hash, weight);
        }
    }
}

impl Weighter<u64, u32> for Weigh {
    fn weight(&self, key: &u64, weight: &u32) -> u64 {
        u64::from(*weight).max(UnitWeighter.weight(key, weight))
    }
}
