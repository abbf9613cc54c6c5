//! The cache itself: looking up, loading once, storing what is still true.

use std::{
    error, fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
};

use bytes::Bytes;
use tidegate_flow::Once;
use tidegate_vitals::{Class, Clock, Instant, Ledger};

#[cfg(feature = "remote")]
use crate::remote::Remote;
use crate::{
    config::{Builder, Parts},
    disk::Disk,
    entry::{Entry, Hit, Source},
    error::{Erased, LoadError},
    flight::{self, Flight},
    ghost::Ghost,
    key::Key,
    memory::Memory,
    policy::{Loaded, Policy},
    stats::{Figures, Stats, ns},
    tags::{self, Slots, Tags},
};

/// Values by key in up to three levels. Clones are the same cache.
#[derive(Clone)]
pub struct Cache(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) name: &'static str,
    pub(crate) memory: Memory,
    pub(crate) tags: Arc<Tags>,
    pub(crate) clock: Clock,
    ledger: Ledger,
    pub(crate) figures: Arc<Figures>,
    ghost: Ghost,
    once: Once<Key, Hit, Erased>,
    pub(crate) disk: Option<Disk>,
    #[cfg(feature = "remote")]
    pub(crate) remote: Option<Remote>,
    serial: AtomicU64,
}

/// What memory says of a key.
enum Look {
    Fresh(Arc<Entry>),
    /// Its time is over, but as far as its tags say it is still true.
    Old(Arc<Entry>),
    Missing,
}

/// What a load notes before it reads anything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begun {
    pub(crate) epoch: u64,
    pub(crate) serial: u64,
}

/// A value on its way into memory.
pub(crate) struct Draft {
    pub(crate) value: Bytes,
    pub(crate) slots: Slots,
    pub(crate) begun: Begun,
    pub(crate) position: Option<u64>,
    pub(crate) is_negative: bool,
    pub(crate) lower_levels: bool,
    pub(crate) fresh_until: Instant,
}

// === impl Cache ===

impl Cache {
    /// A cache of this name, which its figures carry as a label.
    #[must_use]
    pub fn builder(name: &'static str) -> Builder {
        Builder::new(name)
    }

    pub(crate) fn of(parts: Parts) -> Self {
        let figures = Arc::new(Figures::new(&parts.registry, parts.name));
        let behind = parts.disk.as_ref().map(Disk::behind);
        let bounds = parts.bounds;
        Self(Arc::new(Inner {
            name: parts.name,
            memory: Memory::new(bounds, &figures, behind),
            tags: parts.tags,
            clock: parts.clock,
            ledger: parts.ledger,
            figures,
            ghost: Ghost::new(bounds.bytes_max, bounds.entries_max, parts.sample_rate),
            once: Once::new("cache-load", parts.flights),
            disk: parts.disk,
            #[cfg(feature = "remote")]
            remote: parts.remote,
            serial: AtomicU64::new(1),
        }))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// The value in memory if it is fresh; anything else is a miss. Lower levels are not asked.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Hit> {
        let hit = self.get_fresh(key);
        if hit.is_none() {
            self.0.figures.misses.inc();
        }
        hit
    }

    /// Like [`Cache::get`], but a miss is not counted: for callers who make their policy only when they need it and then
    /// call [`Cache::get_or_load`], which counts.
    #[inline]
    #[must_use]
    pub fn get_fresh(&self, key: &Key) -> Option<Hit> {
        let inner = &*self.0;
        if Figures::is_sample() {
            return inner.timed(|| inner.fresh(key));
        }
        inner.fresh(key)
    }

    /// The value of `key`: from memory, else from disk, else from the remote level, else by `load`, which runs once however
    /// many callers wait for it, as a task that no caller's end ends.
    ///
    /// What a load brings is stored unless one of its tags was invalidated after it began, or it was read at a replica that
    /// had not replayed what its tags were invalidated for. A caller who came after an invalidation is never given what a
    /// load before it brought.
    ///
    /// # Errors
    /// [`LoadError`] when the load failed, panicked or took too long, and nothing stale may be served.
    ///
    /// # Cancel safety
    /// Safe: the load goes on and its value is stored.
    pub async fn get_or_load<E, F, Fut>(
        &self,
        key: &Key,
        policy: &Policy,
        load: F,
    ) -> Result<Hit, LoadError<E>>
    where
        E: error::Error + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded, E>> + Send + 'static,
    {
        if let Some(hit) = self.get_fresh(key) {
            return Ok(hit);
        }
        let inner = &self.0;
        let now = inner.clock.now();
        if let Look::Old(entry) = inner.look(key, now) {
            if entry.is_within(policy.stale, now) {
                let hit = inner.memory_hit(key, entry, true);
                self.refresh(key, policy, &hit, load).await;
                return Ok(hit);
            }
            if !entry.is_within(policy.stale_on_error, now) {
                inner.expire(key, &entry);
            }
        }
        self.fly(key, policy, load).await
    }

    /// Stores a value that was read or made just now, without a load.
    pub fn insert(&self, key: &Key, policy: &Policy, loaded: Loaded) {
        let begun = self.0.begin();
        let entry = self.0.accept(key, policy, begun, loaded);
        self.0.ghost.access_seen(key.hashed(), entry.weight);
    }

    /// Removes a value from all levels; `true` if this node had it. A load under way may bring it back, and other nodes keep
    /// it: what must not be seen again has a tag.
    pub fn remove(&self, key: &Key) -> bool {
        let inner = &self.0;
        let serial = inner.serial.load(Relaxed);
        let in_memory = inner.memory.remove(key);
        let on_disk = inner.disk.as_ref().is_some_and(|disk| disk.remove(key, serial));
        #[cfg(feature = "remote")]
        if let Some(remote) = &inner.remote {
            remote.remove(key);
        }
        in_memory || on_disk
    }

    /// Drops every value of these tags, on this node before it returns and on the others as soon as Redis hears of it.
    /// Call it after the commit and before anybody is told of it, with the commit's position in the log if replicas are
    /// read. Gives the number of tags.
    pub fn invalidate_tags<T: AsRef<str>>(&self, tags: &[T], position: Option<u64>) -> usize {
        let inner = &self.0;
        // First kept as unconfirmed, so that no read from Redis can begin in between and find the old token.
        #[cfg(feature = "remote")]
        if let Some(remote) = &inner.remote {
            remote.invalidate(tags.iter().map(AsRef::as_ref));
        }
        inner
            .tags
            .raise(&tags::slots(tags.iter().map(AsRef::as_ref)), position);
        inner.figures.invalidations.add(tags.len() as u64);
        tags.len()
    }

    /// Like [`Cache::invalidate_tags`], and waits until Redis has confirmed it, at most for its deadline. `false`: it has
    /// not; the invalidation is kept and sent when it is back.
    ///
    /// # Cancel safety
    /// Safe: this node has dropped the values, and what is unconfirmed is sent anyway.
    pub async fn invalidate_everywhere<T: AsRef<str>>(&self, tags: &[T], position: Option<u64>) -> bool {
        self.invalidate_tags(tags, position);
        #[cfg(feature = "remote")]
        if let Some(remote) = &self.0.remote {
            return remote.deliver().await;
        }
        true
    }

    /// Forgets every value on this node, and drops tagged ones everywhere.
    pub fn clear(&self) {
        let inner = &self.0;
        #[cfg(feature = "remote")]
        if let Some(remote) = &inner.remote {
            remote.invalidate_all();
        }
        inner.tags.raise_all();
        inner.memory.clear();
        if let Some(disk) = &inner.disk {
            disk.clear(inner.serial.load(Relaxed));
        }
    }

    /// Frees at least `bytes` of memory if they are there, by lowering the capacity to what is left; gives what went. It
    /// works through what it evicts: for a large cache call it from a thread that may wait. [`Cache::restore`] undoes it.
    pub fn shrink(&self, bytes: u64) -> u64 {
        let memory = &self.0.memory;
        memory.set_capacity(memory.bytes().saturating_sub(bytes))
    }

    /// Gives the memory level the capacity that it was made with, or last resized to.
    pub fn restore(&self) {
        let memory = &self.0.memory;
        memory.set_capacity(memory.bytes_max());
    }

    /// Resizes the memory level while it works; a smaller one evicts at once.
    pub fn resize(&self, bytes_max: u64) {
        self.0.memory.set_bytes_max(bytes_max);
    }

    /// What it holds and has done; sets its gauges. Its owner calls it once a second.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = &self.0;
        let mut stats = inner.figures.read(inner.once.stats());
        stats.bytes = inner.memory.bytes();
        stats.entries = inner.memory.len();
        stats.capacity_bytes = inner.memory.capacity();
        stats.bytes_max = inner.memory.bytes_max();
        stats.curve = inner.ghost.curve_of(inner.figures.requests());
        stats.disk = inner.disk.as_ref().map(Disk::stats);
        #[cfg(feature = "remote")]
        {
            stats.remote = inner.remote.as_ref().map(Remote::stats);
        }
        inner.figures.set_gauges(&stats);
        stats
    }

    /// Waits until what was evicted so far is on disk.
    ///
    /// # Cancel safety
    /// Safe: it is written anyway.
    pub async fn flush(&self) {
        if let Some(disk) = &self.0.disk {
            disk.flush().await;
        }
    }

    /// Ends the levels in order: what is queued for the disk is written and durable, the connection is closed. The cache may
    /// still be used, as if both were away.
    ///
    /// # Cancel safety
    /// Not safe: what was not ended goes on.
    pub async fn finish(&self) {
        #[cfg(feature = "remote")]
        if let Some(remote) = &self.0.remote {
            remote.finish().await;
        }
        if let Some(disk) = &self.0.disk {
            disk.finish().await;
        }
    }

    // --- Loading ---

    async fn fly<E, F, Fut>(&self, key: &Key, policy: &Policy, load: F) -> Result<Hit, LoadError<E>>
    where
        E: error::Error + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded, E>> + Send + 'static,
    {
        let inner = &self.0;
        let begun = inner.tags.begin();
        let mut load = Some(load);
        let mut outcome = self.run(key, policy, &mut load).await;
        if let Ok(hit) = &outcome
            && load.is_some()
            && inner.is_outdated(hit.entry(), begun)
        {
            // Joined a load that began before an invalidation that this caller knows of. That load has ended, and the next
            // one begins now.
            outcome = self.run(key, policy, &mut load).await;
        }
        match outcome {
            Ok(hit) => {
                inner.count(key, &hit);
                if hit.is_stale()
                    && let Some(load) = load.take()
                {
                    self.refresh(key, policy, &hit, load).await;
                }
                Ok(hit)
            }
            Err(failed) => {
                if matches!(failed, tidegate_flow::once::Failed::Busy { .. }) {
                    inner.figures.loads_refused.inc();
                }
                inner.on_error(key, policy).ok_or_else(|| LoadError::of(failed))
            }
        }
    }

    /// Joins or starts the flight of `key`; `load` is gone if it was started.
    async fn run<E, F, Fut>(
        &self,
        key: &Key,
        policy: &Policy,
        load: &mut Option<F>,
    ) -> Result<Hit, tidegate_flow::once::Failed<Erased>>
    where
        E: error::Error + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded, E>> + Send + 'static,
    {
        let start = || {
            let flight = Flight::new(Arc::clone(&self.0), key.clone(), policy.clone());
            flight::fly(flight, load.take().expect("a flight is started once"))
        };
        self.0.once.run(key, start).await
    }

    /// Starts a refresh behind a stale hit, if it is time for one; does not wait for it.
    async fn refresh<E, F, Fut>(&self, key: &Key, policy: &Policy, hit: &Hit, load: F)
    where
        E: error::Error + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded, E>> + Send + 'static,
    {
        if !hit.entry().may_refresh(self.0.clock.now()) {
            return;
        }
        let mut load = Some(load);
        let mut run = pin!(self.run(key, policy, &mut load));
        // The first poll starts the flight, which goes on by itself.
        poll_fn(|context| {
            let _ = run.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = &self.0.memory;
        let (name, entries, bytes) = (self.0.name, memory.len(), memory.bytes());
        write!(
            f,
            "Cache({name}, {entries} values, {bytes} of {} bytes)",
            memory.capacity()
        )
    }
}

// === impl Inner ===

impl Inner {
    #[inline]
    fn fresh(&self, key: &Key) -> Option<Hit> {
        let entry = self.memory.get(key)?;
        let now = self.clock.coarse();
        if now >= entry.fresh_until || !self.is_true(&entry, now) {
            return None;
        }
        self.figures.hits_memory.inc();
        if entry.is_negative {
            self.figures.negative_hits.inc();
        }
        self.ghost.access_seen(key.hashed(), entry.weight);
        Some(Hit::new(entry, Source::Memory, false))
    }

    #[cold]
    fn timed(&self, look: impl FnOnce() -> Option<Hit>) -> Option<Hit> {
        let start = self.clock.now();
        let hit = look()?;
        self.figures.hit.record(ns(start, self.clock.now()));
        Some(hit)
    }

    /// Whether nothing is known that makes a value wrong, its time apart.
    #[inline]
    fn is_true(&self, entry: &Entry, now: Instant) -> bool {
        if !self.tags.is_current(entry.epoch, &entry.slots) {
            return false;
        }
        #[cfg(feature = "remote")]
        if let Some(remote) = &self.remote {
            return entry.slots.is_empty() || remote.is_trusted(entry.loaded_at, now);
        }
        let _ = now;
        true
    }

    /// A look that leads further than [`Inner::fresh`]; removes what is no longer true.
    fn look(&self, key: &Key, now: Instant) -> Look {
        let Some(entry) = self.memory.get(key) else {
            return Look::Missing;
        };
        if !self.is_true(&entry, now) {
            self.expire(key, &entry);
            return Look::Missing;
        }
        match now < entry.fresh_until {
            true => Look::Fresh(entry),
            false => Look::Old(entry),
        }
    }

    fn expire(&self, key: &Key, entry: &Arc<Entry>) {
        if self.memory.remove_this(key, entry) {
            self.figures.expirations.inc();
        }
    }

    fn memory_hit(&self, key: &Key, entry: Arc<Entry>, is_stale: bool) -> Hit {
        let hit = Hit::new(entry, Source::Memory, is_stale);
        self.count(key, &hit);
        hit
    }

    /// What may be served in place of a failed load.
    fn on_error(&self, key: &Key, policy: &Policy) -> Option<Hit> {
        let now = self.clock.now();
        match self.look(key, now) {
            Look::Old(entry) if entry.is_within(policy.stale_on_error, now) => {
                Some(self.memory_hit(key, entry, true))
            }
            Look::Fresh(entry) => Some(self.memory_hit(key, entry, false)),
            Look::Old(_) | Look::Missing => {
                self.figures.misses.inc();
                None
            }
        }
    }

    /// Counts an answer that did not come by [`Inner::fresh`].
    fn count(&self, key: &Key, hit: &Hit) {
        self.figures.count_hit(hit.source());
        if hit.is_stale() {
            self.figures.stale_hits.inc();
        }
        if hit.is_negative() && hit.source() != Source::Load {
            self.figures.negative_hits.inc();
        }
        self.ghost.access_seen(key.hashed(), hit.entry().weight);
    }

    /// Whether a value was read before an invalidation that a caller who began at `begun` may know of.
    fn is_outdated(&self, entry: &Entry, begun: u64) -> bool {
        begun > entry.epoch && !self.tags.is_current(entry.epoch, &entry.slots)
    }

    // --- Storing ---

    /// What every load, and every insert, does before it reads anything.
    pub(crate) fn begin(&self) -> Begun {
        Begun {
            epoch: self.tags.begin(),
            serial: self.serial.fetch_add(1, Relaxed),
        }
    }

    /// Makes an entry of what a load brought, and stores it if it is still true.
    pub(crate) fn accept(&self, key: &Key, policy: &Policy, begun: Begun, loaded: Loaded) -> Arc<Entry> {
        let named = policy.tags.iter().chain(&loaded.tags);
        let ttl = policy.ttl_of(loaded.is_negative, key.hashed() ^ begun.serial);
        let draft = Draft {
            value: loaded.value,
            slots: tags::slots(named.map(|tag| &**tag)),
            begun,
            position: loaded.position,
            is_negative: loaded.is_negative,
            lower_levels: policy.lower_levels,
            fresh_until: self.clock.now() + ttl,
        };
        let entry = self.store(key, draft, !ttl.is_zero());
        if let Some(disk) = &self.disk {
            disk.remove(key, begun.serial.saturating_sub(1));
        }
        entry
    }

    /// Makes an entry of `draft`, and puts it into memory if it is still true and there is room.
    pub(crate) fn store(&self, key: &Key, draft: Draft, keep: bool) -> Arc<Entry> {
        let bytes = Entry::bytes(key, &draft.value, &draft.slots);
        let mut entry = Entry {
            value: draft.value,
            slots: draft.slots,
            epoch: draft.begun.epoch,
            serial: draft.begun.serial,
            loaded_at: self.clock.now(),
            fresh_until: draft.fresh_until,
            position: draft.position,
            weight: u32::try_from(bytes).unwrap_or(u32::MAX),
            is_negative: draft.is_negative,
            lower_levels: draft.lower_levels,
            is_on_disk: false,
            refresh_at: AtomicU64::new(0),
            is_replaced: AtomicBool::new(false),
            guard: None,
        };
        let stored = keep && self.pay(&mut entry, bytes);
        let entry = Arc::new(entry);
        if stored {
            self.put(key, &entry);
        }
        entry
    }

    /// Brings a value of the disk into memory, as it is.
    pub(crate) fn promote(&self, key: &Key, mut entry: Entry) -> Arc<Entry> {
        let bytes = Entry::bytes(key, &entry.value, &entry.slots);
        entry.weight = u32::try_from(bytes).unwrap_or(u32::MAX);
        let stored = self.pay(&mut entry, bytes);
        let entry = Arc::new(entry);
        if stored {
            self.put(key, &entry);
            self.figures.promotions.inc();
        }
        entry
    }

    /// Whether `entry` may be stored; then its bytes are paid for.
    fn pay(&self, entry: &mut Entry, bytes: usize) -> bool {
        let not_stored = &self.figures.not_stored;
        let refused = if !self.tags.is_current(entry.epoch, &entry.slots) {
            &not_stored.invalidated
        } else if !self.tags.is_caught_up(entry.position, &entry.slots) {
            &not_stored.behind
        } else if let Some(weight) = self.memory.weight(bytes) {
            entry.weight = weight;
            match self.ledger.reserve(Class::Caches, bytes) {
                Ok(guard) => {
                    entry.guard = Some(guard);
                    return true;
                }
                Err(_) => &not_stored.memory_full,
            }
        } else {
            &not_stored.too_large
        };
        refused.inc();
        false
    }

    fn put(&self, key: &Key, entry: &Arc<Entry>) {
        let known = self.memory.get(key);
        if known.is_some_and(|known| known.serial > entry.serial) {
            return;
        }
        self.memory.insert(key.clone(), Arc::clone(entry));
        self.figures.inserts.inc();
    }
}
