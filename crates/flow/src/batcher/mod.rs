//! Natural batching: takes what is queued, flushes it, repeats; an idle key waits for nothing.
//!
//! A key's first item is flushed at once. What arrives during that flush forms the next batch; it goes when it is full,
//! when somebody asks, or when its oldest item has waited for `delay`. So batches grow with load by themselves.

mod config;
mod queues;
mod worker;

use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};

pub use config::{BatcherConfig, Stats, WhenFull};
use queues::{Offered, Queues};

/// Collects items by key and flushes them in batches. Clones are the same batcher.
///
/// Items of one key are flushed in the order in which they were pushed, one flush at a time; different keys flush beside
/// each other. Waiting items are bounded over all keys by count and bytes; those being flushed come on top, at most
/// `flushes_max` batches. A key costs memory and a task only while it has items.
pub struct Batcher<K, T>(Arc<Shared<K, T>>);

/// An item that was not queued, given back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused<T> {
    /// The item.
    pub item: T,
    /// Why.
    pub why: Why,
}

/// Why an item was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// The queue had no room.
    #[error("batcher {name} full: {items} of {items_max} items, {bytes} of {bytes_max} bytes waiting")]
    Full {
        /// The batcher's name.
        name: &'static str,
        /// Items waiting.
        items: usize,
        /// Most items that may wait.
        items_max: usize,
        /// Bytes waiting.
        bytes: usize,
        /// Most bytes that may wait.
        bytes_max: usize,
    },
    /// The item alone is larger than the whole queue.
    #[error("item of {bytes} bytes too large for batcher {name}: at most {bytes_max}")]
    TooLarge {
        /// The batcher's name.
        name: &'static str,
        /// Bytes of the item.
        bytes: usize,
        /// Most bytes that may wait.
        bytes_max: usize,
    },
    /// [`Batcher::finish`] was called.
    #[error("batcher {name} is finished")]
    Finished {
        /// The batcher's name.
        name: &'static str,
    },
}

type FlushFuture = Pin<Box<dyn Future<Output = ()> + Send>>;
type Flush<K, T> = Box<dyn Fn(K, Vec<T>) -> FlushFuture + Send + Sync>;

struct Shared<K, T> {
    config: BatcherConfig,
    weigh: fn(&T) -> usize,
    flush: Flush<K, T>,
    queues: Mutex<Queues<K, T>>,
    /// Those who wait for room stand in line here, so that room goes to who came first.
    door: tokio::sync::Mutex<()>,
    /// Tells the one who holds the door that there may be room.
    room: Notify,
    /// One permit per flush running.
    flushes: Semaphore,
    runtime: Handle,
}

// === impl Batcher ===

impl<K, T> Batcher<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Send + 'static,
{
    /// A batcher on the current runtime. `weigh` tells an item's bytes; `flush` takes a batch and does with it what it
    /// must, including its own errors: a batch counts as flushed when the future ends, even by a panic.
    ///
    /// # Panics
    /// Outside a tokio runtime, or if the configuration contradicts itself (see [`BatcherConfig`]).
    pub fn new<F, Fut>(config: BatcherConfig, weigh: fn(&T) -> usize, flush: F) -> Self
    where
        F: Fn(K, Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        config.assert_sound();
        Self(Arc::new(Shared {
            flush: Box::new(move |key, batch| Box::pin(flush(key, batch))),
            queues: Mutex::new(Queues::new(&config)),
            door: tokio::sync::Mutex::new(()),
            room: Notify::new(),
            flushes: Semaphore::new(config.flushes_max),
            runtime: Handle::current(),
            config,
            weigh,
        }))
    }

    /// Queues `item`; when the queue is full, does what [`WhenFull`] says.
    ///
    /// # Errors
    /// [`Refused`] with the item.
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready drops the item unqueued; once it is ready the item is queued.
    pub async fn push(&self, key: K, item: T) -> Result<(), Refused<T>> {
        if self.0.config.when_full != WhenFull::Wait {
            return self.try_push(key, item);
        }
        let _door = self.0.door.lock().await;
        let mut item = match self.0.offer(key.clone(), item) {
            Err(refused) if refused.why.is_full() => refused.item,
            done => return done,
        };
        self.0.queues().stats.waited += 1;
        loop {
            self.0.room.notified().await;
            item = match self.0.offer(key.clone(), item) {
                Err(refused) if refused.why.is_full() => refused.item,
                done => return done,
            };
        }
    }

    /// Queues `item` without waiting; where [`Batcher::push`] would wait, this refuses.
    ///
    /// # Errors
    /// [`Refused`] with the item.
    pub fn try_push(&self, key: K, item: T) -> Result<(), Refused<T>> {
        let offered = self.0.offer(key, item);
        if offered.as_ref().is_err_and(|refused| refused.why.is_full()) {
            self.0.queues().stats.rejected += 1;
        }
        offered
    }

    /// Flushes what waits for `key` now and returns when it is flushed; without items, at once.
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing back: the items are still flushed.
    pub async fn flush(&self, key: &K) {
        let flushed = self.0.queues().ask(key);
        wait_for(flushed).await;
    }

    /// Flushes what waits for any key now and returns when all of it is flushed.
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing back: the items are still flushed.
    pub async fn flush_all(&self) {
        let flushed = self.0.queues().ask_all();
        for flushed in flushed {
            wait_for(Some(flushed)).await;
        }
    }

    /// Refuses new items from now on, and returns when all queued ones are flushed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the batcher refusing and flushing; it may be called again.
    pub async fn finish(&self) {
        self.0.queues().finish();
        self.0.room.notify_one();
        self.flush_all().await;
    }

    /// What it has done, and what waits now.
    pub fn stats(&self) -> Stats {
        self.0.queues().stats()
    }
}

impl<K, T> Clone for Batcher<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, T> fmt::Debug for Batcher<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

// === impl Why ===

impl Why {
    /// Whether the same item may be taken later.
    pub const fn is_retryable(&self) -> bool {
        self.is_full()
    }

    const fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

impl<T> Refused<T> {
    /// Whether the same item may be taken later.
    pub const fn is_retryable(&self) -> bool {
        self.why.is_retryable()
    }
}

// === impl Shared ===

impl<K, T> Shared<K, T> {
    fn queues(&self) -> MutexGuard<'_, Queues<K, T>> {
        // A panic can only come from a foreign `Drop` or `Hash`; the counts are changed before those run.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T> Shared<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Send + 'static,
{
    fn offer(self: &Arc<Self>, key: K, item: T) -> Result<(), Refused<T>> {
        let bytes = (self.weigh)(&item);
        let offered = self.queues().offer(&key, item, bytes)?;
        match offered {
            Offered::Woke(worker) => worker.notify_one(),
            Offered::NewKey => worker::start(Arc::clone(self), key),
            Offered::Waits => {}
        }
        Ok(())
    }
}

async fn wait_for(flushed: Option<oneshot::Receiver<()>>) {
    if let Some(flushed) = flushed {
        // An error means that the runtime is going down and the worker with it: there is nothing to wait for.
        let _ = flushed.await;
    }
}
