//! Results of functions, kept by their arguments: what `#[cached]` stands on.

use std::{
    fmt,
    future::Future,
    hash::Hash,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use quick_cache::sync;
use tidegate_vitals::{Clock, Instant};

/// Keeps the results of one function. Clones are the same memo; usually it is a `static` in a `LazyLock`.
///
/// ```
/// use std::{sync::LazyLock, time::Duration};
/// use tidegate_cache::{Memo, MemoConfig};
///
/// static SQUARES: LazyLock<Memo<u64, u64>> =
///     LazyLock::new(|| Memo::new("squares", MemoConfig { capacity: 100, ttl: Some(Duration::from_secs(60)) }));
///
/// let square = |n: u64| SQUARES.get_or_insert_with(&n, || n * n);
/// assert_eq!((square(7), square(7)), (49, 49));
/// assert_eq!((SQUARES.stats().hits, SQUARES.stats().misses), (1, 1));
/// ```
pub struct Memo<K, V>(Arc<Inner<K, V>>);

/// Bounds of a [`Memo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoConfig {
    /// Most results; default 1,000.
    pub capacity: usize,
    /// How long a result counts; none: until it makes room for others. Default one hour.
    pub ttl: Option<Duration>,
}

/// What a memo holds and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoStats {
    /// Its name.
    pub name: &'static str,
    /// Calls that found a result.
    pub hits: u64,
    /// Calls that did not.
    pub misses: u64,
    /// Results found past their time.
    pub expirations: u64,
    /// Results held.
    pub entries: usize,
    /// Most results.
    pub capacity: usize,
}

struct Inner<K, V> {
    name: &'static str,
    config: MemoConfig,
    clock: Clock,
    results: sync::Cache<K, Kept<V>>,
    hits: AtomicU64,
    misses: AtomicU64,
    expirations: AtomicU64,
}

#[derive(Clone)]
struct Kept<V> {
    value: V,
    until: Instant,
}

/// What the list of all memos sees of each.
trait Listed: Send + Sync {
    fn stats(&self) -> MemoStats;
    fn clear(&self);
}

/// Every memo alive; what is gone leaves when the next one comes. One per function with a memo, so code bounds it.
static ALL: Mutex<Vec<Weak<dyn Listed>>> = Mutex::new(Vec::new());

/// The statistics of every memo alive, by name.
#[must_use]
pub fn list() -> Vec<MemoStats> {
    let mut stats: Vec<MemoStats> = alive().iter().map(|memo| memo.stats()).collect();
    stats.sort_unstable_by_key(|stats| stats.name);
    stats
}

/// Clears every memo of this name; says how many there were.
pub fn clear(name: &str) -> usize {
    let mut named = alive();
    named.retain(|memo| memo.stats().name == name);
    named.iter().for_each(|memo| memo.clear());
    named.len()
}

fn alive() -> Vec<Arc<dyn Listed>> {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    all.iter().filter_map(Weak::upgrade).collect()
}

impl Default for MemoConfig {
    fn default() -> Self {
        Self {
            capacity: 1_000,
            ttl: Some(Duration::from_secs(3_600)),
        }
    }
}

// === impl Memo ===

impl<K, V> Memo<K, V>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// A memo that is listed under `name` as long as it lives.
    #[must_use]
    pub fn new(name: &'static str, config: MemoConfig) -> Self {
        Self::with_clock(name, config, Clock::real())
    }

    /// Like [`Memo::new`], with a clock of the caller's.
    #[must_use]
    pub fn with_clock(name: &'static str, config: MemoConfig, clock: Clock) -> Self {
        let inner = Arc::new(Inner {
            name,
            config,
            clock,
            results: sync::Cache::new(config.capacity.max(1)),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            expirations: AtomicU64::new(0),
        });
        let listed: Arc<dyn Listed> = Arc::clone(&inner) as _;
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|memo| memo.strong_count() > 0);
        all.push(Arc::downgrade(&listed));
        Self(inner)
    }

    /// The result for `key` if it is there and counts.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<V> {
        let inner = &self.0;
        let found = inner.look(key);
        let counter = if found.is_some() {
            &inner.hits
        } else {
            &inner.misses
        };
        counter.fetch_add(1, Relaxed);
        found
    }

    /// The result for `key`, made by `make` if need be. Threads that want the same key at the same time wait for one of
    /// them; `make` must not ask for its own key.
    pub fn get_or_insert_with(&self, key: &K, make: impl FnOnce() -> V) -> V {
        let made: Result<V, std::convert::Infallible> = self.try_get_or_insert_with(key, || Ok(make()));
        match made {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    /// Like [`Memo::get_or_insert_with`]; an error is given to the caller and not kept, and the next in line tries.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn try_get_or_insert_with<E>(&self, key: &K, make: impl FnOnce() -> Result<V, E>) -> Result<V, E> {
        let inner = &self.0;
        if let Some(value) = inner.look(key) {
            inner.hits.fetch_add(1, Relaxed);
            return Ok(value);
        }
        let mut made = false;
        let kept = inner.results.get_or_insert_with(key, || {
            made = true;
            make().map(|value| inner.kept(value))
        });
        inner.count(made);
        kept.map(|kept| kept.value)
    }

    /// The result for `key`, made by `make` if need be. Tasks that want the same key at the same time wait for one of them.
    ///
    /// # Cancel safety
    /// Safe: if the one who makes it is dropped, the next in line makes it.
    pub async fn get_or_insert_async(&self, key: &K, make: impl Future<Output = V>) -> V {
        let made = self.try_get_or_insert_async(key, async { Ok::<V, std::convert::Infallible>(make.await) });
        match made.await {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    /// Like [`Memo::get_or_insert_async`]; an error is given to the caller and not kept, and the next in line tries.
    ///
    /// # Errors
    /// Those of `make`.
    ///
    /// # Cancel safety
    /// Safe: if the one who makes it is dropped, the next in line makes it.
    pub async fn try_get_or_insert_async<E>(
        &self,
        key: &K,
        make: impl Future<Output = Result<V, E>>,
    ) -> Result<V, E> {
        let inner = &self.0;
        if let Some(value) = inner.look(key) {
            inner.hits.fetch_add(1, Relaxed);
            return Ok(value);
        }
        let mut made = false;
        let work = async {
            made = true;
            make.await.map(|value| inner.kept(value))
        };
        let kept = inner.results.get_or_insert_async(key, work).await;
        inner.count(made);
        kept.map(|kept| kept.value)
    }

    /// Forgets one result; `true` if it was there.
    pub fn remove(&self, key: &K) -> bool {
        self.0.results.remove(key).is_some()
    }

    /// Forgets all results.
    pub fn clear(&self) {
        self.0.results.clear();
    }

    /// What it holds and has done.
    #[must_use]
    pub fn stats(&self) -> MemoStats {
        Listed::stats(&*self.0)
    }
}

impl<K, V> Clone for Memo<K, V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V> fmt::Debug for Memo<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memo({})", self.0.name)
    }
}

// === impl Inner ===

impl<K: Eq + Hash, V: Clone> Inner<K, V> {
    fn look(&self, key: &K) -> Option<V> {
        let kept = self.results.get(key)?;
        if self.config.ttl.is_none() || self.clock.coarse() < kept.until {
            return Some(kept.value);
        }
        let now = self.clock.coarse();
        if self.results.remove_if(key, |kept| kept.until <= now).is_some() {
            self.expirations.fetch_add(1, Relaxed);
        }
        None
    }

    fn kept(&self, value: V) -> Kept<V> {
        let until = self.config.ttl.map_or(Instant::MAX, |ttl| self.clock.now() + ttl);
        Kept { value, until }
    }

    fn count(&self, made: bool) {
        let counter = if made { &self.misses } else { &self.hits };
        counter.fetch_add(1, Relaxed);
    }
}

impl<K, V> Listed for Inner<K, V>
where
    K: Eq + Hash + Send + Sync,
    V: Clone + Send + Sync,
{
    fn stats(&self) -> MemoStats {
        MemoStats {
            name: self.name,
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            expirations: self.expirations.load(Relaxed),
            entries: self.results.len(),
            capacity: self.config.capacity,
        }
    }

    fn clear(&self) {
        self.results.clear();
    }
}

impl MemoStats {
    /// Share of calls that found a result, 0 to 1; 0 without calls.
    #[must_use]
    pub fn hit_rate(&self) -> f64 {
        let calls = self.hits + self.misses;
        if calls == 0 {
            0.0
        } else {
            self.hits as f64 / calls as f64
        }
    }
}
