//! One instance per key: created once however many ask, found without a lock, listed by name.
//!
//! ```
//! use tidegate_flow::instances::{self, Config, Instances};
//!
//! // One pool per address, for as long as somebody uses it.
//! let pools = Instances::<String, Vec<u8>>::weak(Config::new("pools"));
//! let address = "db.example.org:5432".to_owned();
//! let create = || Ok::<_, std::io::Error>(vec![0; 16]);
//! let pool = pools.get_or_create(&address, create).expect("there is room");
//! let same = pools.get(&address).expect("it is in use");
//! assert!(std::sync::Arc::ptr_eq(&pool, &same));
//! assert_eq!(instances::list()[0].stats.created, 1);
//! drop((pool, same));
//! assert!(pools.get(&address).is_none());
//! ```

mod slot;
mod stats;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use foldhash::fast::RandomState;
use tidegate_vitals::{Clock, Id, Registry};

use crate::once::{self, Once};
use slot::{Held, Slot};
use stats::Counts;
pub use stats::Stats;

/// Instances by key. Clones are the same registry.
///
/// A strong one keeps its instances until they are removed; a weak one keeps none: an instance lives for as long as
/// somebody holds it. Keys may be of any size, as a struct of all parameters of an instance.
pub struct Instances<K: Eq + Hash, T>(Arc<Shared<K, T>>);

/// The limits of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Its name in errors, figures and [`list`].
    pub name: &'static str,
    /// Most instances, at least 1, those in creation included.
    pub instances_max: usize,
    /// What happens to a new key when there are as many.
    pub when_full: WhenFull,
    /// How long a caller waits for an asynchronous creation.
    pub wait_max: Duration,
    /// An asynchronous creation is aborted after this time.
    pub create_max: Duration,
}

/// What happens to a new key for which there is no room. Dead weak instances make room in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// It is refused.
    Reject,
    /// An instance that nobody holds is dropped for it; if there is none, it is refused. Whoever takes an instance in
    /// the moment in which it is dropped keeps it beside a later one of the same key.
    DropIdle,
}

/// Places of a new table; it grows.
const CAPACITY: usize = 64;

/// An error of any kind, as a creation may give it.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why there is no instance.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failed {
    /// Its creation gave an error.
    #[error("an instance of {name} could not be created")]
    Create {
        /// The registry's name.
        name: &'static str,
        /// What went wrong.
        #[source]
        cause: Arc<Cause>,
    },
    /// An asynchronous creation panicked, hung or was aborted.
    #[error("an instance of {name} was not created: {why}")]
    Ended {
        /// The registry's name.
        name: &'static str,
        /// How it ended.
        why: once::Failed<Cause>,
    },
    /// There are too many instances.
    #[error("too many instances of {name}: {instances} of {instances_max}")]
    Full {
        /// The registry's name.
        name: &'static str,
        /// How many there are.
        instances: usize,
        /// How many there may be.
        instances_max: usize,
    },
}

/// A registry, as [`list`] shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: &'static str,
    /// Whether it keeps its instances alive.
    pub is_strong: bool,
    /// How it stands.
    pub stats: Stats,
}

/// Every registry alive, by name.
pub fn list() -> Vec<Listed> {
    let alive: Vec<_> = registries().iter().filter_map(Weak::upgrade).collect();
    let mut listed: Vec<_> = alive.iter().map(|registry| registry.listed()).collect();
    listed.sort_by_key(|listed| listed.name);
    listed
}

/// Writes the statistics of every registry into `registry`; its owner calls it once a second. Registries of one name
/// are one figure, that of the last.
pub fn record(registry: &Registry) {
    for Listed { name, stats, .. } in list() {
        registry.gauge(Id::Instances, &[name]).set(stats.alive as i64);
        let calls = [
            ("hit", stats.hits),
            ("created", stats.created),
            ("failed", stats.failed),
            ("refused", stats.refused),
            ("waited", stats.waited),
        ];
        for (outcome, n) in calls {
            crate::raise(&registry.counter(Id::InstancesCalls, &[name, outcome]), n);
        }
    }
}

struct Shared<K: Eq + Hash, T> {
    config: Config,
    is_strong: bool,
    clock: Clock,
    /// Grows to `instances_max`; [`Shared::give_up`] removes, and so do [`Instances::remove`] and a full table.
    slots: papaya::HashMap<K, Arc<Slot<T>>, RandomState>,
    /// Slots in the table or about to be; reserved first.
    n_slots: AtomicUsize,
    counts: Counts,
    creations: Once<K, Arc<T>, Cause>,
}

/// Gives a slot up that was not filled, when a creation on the caller's thread ends without an instance.
struct Place<'a, K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    shared: &'a Shared<K, T>,
    key: &'a K,
    slot: Arc<Slot<T>>,
}

/// Does the same for a creation in a flight, also when it is dropped.
struct Creating<K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    shared: Arc<Shared<K, T>>,
    key: K,
    slot: Arc<Slot<T>>,
    /// Whether this caller's own work runs in a flight.
    is_mine: bool,
}

// === impl Instances ===

impl<K, T> Instances<K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// A registry that keeps its instances.
    ///
    /// # Panics
    /// If `instances_max` is zero.
    pub fn strong(config: Config) -> Self {
        Self::new(config, true)
    }

    /// A registry whose instances live for as long as somebody holds them.
    ///
    /// # Panics
    /// If `instances_max` is zero.
    pub fn weak(config: Config) -> Self {
        Self::new(config, false)
    }

    fn new(config: Config, is_strong: bool) -> Self {
        let (name, instances_max) = (config.name, config.instances_max);
        assert!(
            instances_max >= 1,
            "instances {name}: instances_max is 0, at least 1"
        );
        let creations = once::Config {
            flights_max: instances_max,
            wait_max: config.wait_max,
            run_max: config.create_max,
        };
        let shared = Arc::new(Shared {
            config,
            is_strong,
            clock: Clock::real(),
            // What leaves the table is dropped as soon as no thread reads in it, not in batches: it may be a pool of
            // connections.
            slots: papaya::HashMap::builder()
                .hasher(RandomState::default())
                .capacity(instances_max.min(CAPACITY))
                .collector(seize::Collector::new().batch_size(1))
                .build(),
            n_slots: AtomicUsize::new(0),
            counts: Counts::default(),
            creations: Once::new(name, creations),
        });
        let listed: Weak<Shared<K, T>> = Arc::downgrade(&shared);
        registries().push(listed);
        Self(shared)
    }

    /// The instance of `key`, if there is one. Takes no lock.
    #[inline]
    pub fn get(&self, key: &K) -> Option<Arc<T>> {
        let instance = self.0.slots.pin().get(key)?.get()?;
        self.0.counts.hit();
        Some(instance)
    }

    /// The instance of `key`, made by `create` if there is none. Who asks meanwhile waits on the thread; if it fails,
    /// the next of them tries. `create` must not ask for the same key.
    ///
    /// # Errors
    /// [`Failed`].
    #[inline]
    pub fn get_or_create<E: Into<Cause>>(
        &self,
        key: &K,
        create: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, Failed> {
        match self.get(key) {
            Some(instance) => Ok(instance),
            None => self.create(key, create),
        }
    }

    #[cold]
    fn create<E: Into<Cause>>(
        &self,
        key: &K,
        create: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, Failed> {
        loop {
            let place = Place {
                slot: self.0.slot(key)?,
                shared: &self.0,
                key,
            };
            let (gone, has_waited) = place.slot.lock();
            if has_waited {
                self.0.counts.waited();
            }
            if *gone {
                drop(gone);
                continue;
            }
            if let Some(instance) = place.slot.get() {
                self.0.counts.hit();
                return Ok(instance);
            }
            // Filled, and its instance has died: before it was asked for or just then.
            if !place.slot.is_empty() {
                drop(gone);
                continue;
            }
            let started = self.0.clock.now();
            let result = create().map_err(Into::into);
            return self.0.created(&place.slot, started, result).map_err(|cause| {
                let name = self.0.config.name;
                drop(gone);
                Failed::Create {
                    name,
                    cause: Arc::new(cause),
                }
            });
        }
    }

    /// Like [`Instances::get_or_create`] for an asynchronous `create`, which runs once for all who ask meanwhile, also
    /// when it fails; see [`Once`]. A key should be created in one of the two ways, not in both.
    ///
    /// # Errors
    /// [`Failed`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait, not the creation.
    pub async fn get_or_create_async<E, F, Fut>(&self, key: &K, create: F) -> Result<Arc<T>, Failed>
    where
        E: Into<Cause>,
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<T, E>> + Send + 'static,
    {
        if let Some(instance) = self.get(key) {
            return Ok(instance);
        }
        let shared = &self.0;
        let mut creating = Creating {
            slot: shared.slot(key)?,
            shared: Arc::clone(shared),
            key: key.clone(),
            is_mine: false,
        };
        if self.0.creations.is_in_flight(key) {
            shared.counts.waited();
        }
        let work = move || {
            creating.is_mine = true;
            let created = create();
            async move { creating.finish(created).await }
        };
        let name = shared.config.name;
        shared
            .creations
            .run(key, work)
            .await
            .map_err(|failed| match failed {
                once::Failed::Work(cause) => Failed::Create { name, cause },
                why => Failed::Ended { name, why },
            })
    }

    /// Removes the instance of `key`; those who hold it keep it.
    pub fn remove(&self, key: &K) -> Option<Arc<T>> {
        let slot = Arc::clone(self.0.slots.pin().get(key)?);
        let instance = slot.get()?;
        self.0.give_up(key, &slot);
        Some(instance)
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        self.0.stats()
    }
}

impl<K: Eq + Hash, T> Clone for Instances<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash, T> fmt::Debug for Instances<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Instances")
            .field("config", &self.0.config)
            .field("is_strong", &self.0.is_strong)
            .finish_non_exhaustive()
    }
}

// === impl Config ===

impl Config {
    /// 1024 instances; a creation is waited for 10 s and runs for 30 s.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            instances_max: 1024,
            when_full: WhenFull::Reject,
            wait_max: Duration::from_secs(10),
            create_max: Duration::from_secs(30),
        }
    }
}

// === impl Failed ===

impl Failed {
    /// Whether the same call may work later. For [`Failed::Create`] only the cause knows; this says no.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Create { .. } => false,
            Self::Ended { why, .. } => why.is_retryable(),
            Self::Full { .. } => true,
        }
    }
}

// === impl Shared ===

impl<K, T> Shared<K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    /// The slot of `key`, a new one if there is none or its instance is dead.
    fn slot(&self, key: &K) -> Result<Arc<Slot<T>>, Failed> {
        loop {
            let slots = self.slots.pin();
            match slots.get(key) {
                Some(slot) if slot.is_dead() => _ = self.give_up(key, slot),
                Some(slot) => return Ok(Arc::clone(slot)),
                None => {
                    self.reserve()?;
                    let slot = Arc::new(Slot::new());
                    if slots.try_insert(key.clone(), Arc::clone(&slot)).is_ok() {
                        return Ok(slot);
                    }
                    self.n_slots.fetch_sub(1, Relaxed);
                }
            }
        }
    }

    /// Takes a slot out that its creation left empty, unless another creation looks after it.
    fn leave(&self, key: &K, slot: &Arc<Slot<T>>, is_mine: bool) {
        // A joined flight looks after the slot itself; and whoever has the lock is creating now and will come here too.
        if !slot.is_empty() || (!is_mine && self.creations.is_in_flight(key)) {
            return;
        }
        if let Some(mut gone) = slot.try_lock()
            && !*gone
            && slot.is_empty()
        {
            *gone = true;
            self.take_out(key, slot);
        }
    }

    /// Counts a slot before it exists.
    fn reserve(&self) -> Result<(), Failed> {
        let instances_max = self.config.instances_max;
        let more = |n: usize| (n < instances_max).then_some(n + 1);
        if self.n_slots.fetch_update(Relaxed, Relaxed, more).is_ok() {
            return Ok(());
        }
        self.make_room();
        let reserved = self.n_slots.fetch_update(Relaxed, Relaxed, more);
        reserved.map(|_| ()).map_err(|instances| {
            self.counts.refused();
            Failed::Full {
                name: self.config.name,
                instances,
                instances_max,
            }
        })
    }

    /// Drops all dead slots, and if that was none and it may, one that is idle.
    fn make_room(&self) {
        let slots = self.slots.pin();
        let mut idle = None;
        let mut is_done = false;
        for (key, slot) in &slots {
            if slot.is_dead() {
                is_done |= self.give_up(key, slot);
            } else if idle.is_none() && slot.is_idle() {
                idle = Some((key, slot));
            }
        }
        if let (false, WhenFull::DropIdle, Some((key, slot))) = (is_done, self.config.when_full, idle) {
            self.give_up(key, slot);
        }
    }

    /// Takes a slot from the table, if it is still in it.
    fn give_up(&self, key: &K, slot: &Arc<Slot<T>>) -> bool {
        let (mut gone, _) = slot.lock();
        if *gone {
            return false;
        }
        *gone = true;
        self.take_out(key, slot);
        true
    }

    /// Removes a slot that is gone from the table.
    fn take_out(&self, key: &K, slot: &Arc<Slot<T>>) {
        let slots = self.slots.pin();
        let removed = slots.remove_if(key, |_, there| Arc::ptr_eq(there, slot));
        if matches!(removed, Ok(Some(_))) {
            self.n_slots.fetch_sub(1, Relaxed);
        }
    }

    /// Fills a slot whose lock the caller holds, or counts the failure.
    fn created(
        &self,
        slot: &Slot<T>,
        started: tidegate_vitals::Instant,
        result: Result<T, Cause>,
    ) -> Result<Arc<T>, Cause> {
        let took = self.clock.now() - started;
        let instance = Arc::new(result.inspect_err(|_| self.counts.failed())?);
        self.counts.created(took);
        slot.fill(if self.is_strong {
            Held::Strong(Arc::clone(&instance))
        } else {
            Held::Weak(Arc::downgrade(&instance))
        });
        Ok(instance)
    }
}

impl<K: Eq + Hash, T> Shared<K, T> {
    fn stats(&self) -> Stats {
        self.counts.read(self.n_slots.load(Relaxed))
    }
}

// === impl Creating ===

impl<K, T> Creating<K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    async fn finish<E: Into<Cause>>(
        mut self,
        create: impl Future<Output = Result<T, E>>,
    ) -> Result<Arc<T>, Cause> {
        let shared = Arc::clone(&self.shared);
        // Another flight may have ended between this caller's look and its start.
        if let Some(instance) = self.slot.get() {
            return Ok(instance);
        }
        let started = shared.clock.now();
        let result = create.await.map_err(Into::into);
        loop {
            {
                let (gone, _) = self.slot.lock();
                if let Some(instance) = self.slot.get() {
                    return Ok(instance);
                }
                if !*gone && self.slot.is_empty() {
                    return shared.created(&self.slot, started, result);
                }
            }
            // It was given up meanwhile: the instance needs another place.
            self.slot = shared.slot(&self.key)?;
        }
    }
}

impl<K, T> Drop for Creating<K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.shared.leave(&self.key, &self.slot, self.is_mine);
    }
}

impl<K, T> Drop for Place<'_, K, T>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.shared.leave(self.key, &self.slot, false);
    }
}

// === Listing ===

trait Registered: Send + Sync {
    fn listed(&self) -> Listed;
}

impl<K, T> Registered for Shared<K, T>
where
    K: Eq + Hash + Send + Sync,
    T: Send + Sync,
{
    fn listed(&self) -> Listed {
        Listed {
            name: self.config.name,
            is_strong: self.is_strong,
            stats: self.stats(),
        }
    }
}

impl<K: Eq + Hash, T> Drop for Shared<K, T> {
    fn drop(&mut self) {
        registries().retain(|registry| registry.strong_count() > 0);
    }
}

/// One entry per registry alive; each removes itself.
static REGISTRIES: Mutex<Vec<Weak<dyn Registered>>> = Mutex::new(Vec::new());

fn registries() -> std::sync::MutexGuard<'static, Vec<Weak<dyn Registered>>> {
    REGISTRIES.lock().unwrap_or_else(PoisonError::into_inner)
}
