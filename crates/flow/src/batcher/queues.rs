//! The waiting items of all keys: who has room, what goes next, who is told.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::config::{BatcherConfig, Stats, WhenFull};
use super::{Refused, Why};

/// All queues and counts, behind the batcher's lock. Synchronous throughout.
pub(super) struct Queues<K, T> {
    config: BatcherConfig,
    /// A key is here from its first item until its worker finds nothing left, so their number is bounded by the items
    /// waiting and the flushes running.
    keys: HashMap<K, KeyQueue<T>>,
    /// The oldest waiting item of each key that has one, by number.
    heads: BTreeMap<u64, K>,
    next_number: u64,
    waiting_items: usize,
    waiting_bytes: usize,
    finished: bool,
    pub(super) stats: Stats,
}

/// What became of an item that was taken.
pub(super) enum Offered {
    /// It waits for the worker's next round.
    Waits,
    /// Its batch became full: the worker need not wait any longer.
    Woke(Arc<Notify>),
    /// The key has no worker yet.
    NewKey,
}

/// What a worker should do.
pub(super) enum Turn {
    /// Flush now.
    Flush,
    /// Wait for company until this moment, or to be woken.
    Wait(Arc<Notify>, Instant),
}

struct KeyQueue<T> {
    /// By rising number.
    items: VecDeque<Item<T>>,
    bytes: usize,
    /// When the oldest waiting item has waited long enough.
    deadline: Instant,
    wake: Arc<Notify>,
    /// Who waits until all items up to a number are flushed. Emptied after each flush that gets there.
    askers: Vec<(u64, oneshot::Sender<()>)>,
}

struct Item<T> {
    number: u64,
    bytes: usize,
    item: T,
}

// === impl Queues ===

impl<K, T> Queues<K, T> {
    pub(super) fn new(config: &BatcherConfig) -> Self {
        Self {
            config: *config,
            keys: HashMap::new(),
            heads: BTreeMap::new(),
            next_number: 0,
            waiting_items: 0,
            waiting_bytes: 0,
            finished: false,
            stats: Stats::default(),
        }
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    pub(super) fn stats(&self) -> Stats {
        let (waiting_items, waiting_bytes) = (self.waiting_items, self.waiting_bytes);
        Stats {
            waiting_items,
            waiting_bytes,
            keys: self.keys.len(),
            ..self.stats
        }
    }

    fn fits(&self, bytes: usize) -> bool {
        self.waiting_items < self.config.queue_items_max
            && self.waiting_bytes + bytes <= self.config.queue_bytes_max
    }

    fn full(&self) -> Why {
        Why::Full {
            name: self.config.name,
            items: self.waiting_items,
            items_max: self.config.queue_items_max,
            bytes: self.waiting_bytes,
            bytes_max: self.config.queue_bytes_max,
        }
    }

    fn discount(&mut self, items: usize, bytes: usize) {
        self.waiting_items -= items;
        self.waiting_bytes -= bytes;
    }
}

impl<K: Clone + Eq + Hash, T> Queues<K, T> {
    /// Takes an item or gives it back.
    pub(super) fn offer(&mut self, key: &K, item: T, bytes: usize) -> Result<Offered, Refused<T>> {
        match self.make_room(key, bytes) {
            Ok(()) => Ok(self.append(key, item, bytes)),
            Err(why) => Err(Refused { item, why }),
        }
    }

    /// Asks for a flush of what waits for `key`; `None` if there is nothing, not even a flush running.
    pub(super) fn ask(&mut self, key: &K) -> Option<oneshot::Receiver<()>> {
        let upto = self.next_number;
        self.keys.get_mut(key).map(|queue| queue.ask(upto))
    }

    /// Asks for a flush of what waits for any key.
    pub(super) fn ask_all(&mut self) -> Vec<oneshot::Receiver<()>> {
        let upto = self.next_number;
        self.keys.values_mut().map(|queue| queue.ask(upto)).collect()
    }

    /// Whether the worker of `key`, having just flushed, should flush again or wait for company.
    pub(super) fn turn(&self, key: &K) -> Turn {
        match self.keys.get(key) {
            Some(queue) if !queue.is_ripe(&self.config) => {
                Turn::Wait(Arc::clone(&queue.wake), queue.deadline)
            }
            _ => Turn::Flush,
        }
    }

    /// The next batch of `key`; `None` if nothing is left, and then the key is gone and its worker must end.
    pub(super) fn take(&mut self, key: &K) -> Option<Vec<T>> {
        let queue = self
            .keys
            .get_mut(key)
            .expect("a key stays until its own worker finds it empty");
        let Some(head) = queue.items.front().map(|item| item.number) else {
            self.remove(key);
            return None;
        };
        self.heads.remove(&head);
        let (batch, bytes) = queue.take_batch(&self.config);
        if let Some(rest) = queue.items.front() {
            self.heads.insert(rest.number, key.clone());
        }
        self.discount(batch.len(), bytes);
        Some(batch)
    }

    /// Notes that a batch of `key` is flushed, and tells who asked. `false`: nothing is left, the key is gone and its
    /// worker must end.
    pub(super) fn flushed(&mut self, key: &K, n_items: usize, panicked: bool) -> bool {
        self.stats.flushed_batches += 1;
        self.stats.flushed_items += n_items as u64;
        self.stats.panicked += u64::from(panicked);
        let queue = self
            .keys
            .get_mut(key)
            .expect("a key stays until its own worker finds it empty");
        match queue.items.front().map(|item| item.number) {
            Some(head) => {
                queue.tell(head);
                true
            }
            None => {
                self.remove(key);
                false
            }
        }
    }

    /// Forgets a key whose worker was ended from outside, with all that waits there.
    pub(super) fn abandon(&mut self, key: &K) {
        let Some(queue) = self.keys.get(key) else { return };
        let (n_items, n_bytes) = (queue.items.len(), queue.bytes);
        if let Some(head) = queue.items.front().map(|item| item.number) {
            self.heads.remove(&head);
        }
        self.discount(n_items, n_bytes);
        self.stats.dropped += n_items as u64;
        self.remove(key);
    }

    /// Makes room for an item as [`WhenFull`] says.
    fn make_room(&mut self, key: &K, bytes: usize) -> Result<(), Why> {
        let (name, bytes_max) = (self.config.name, self.config.queue_bytes_max);
        if self.finished {
            return Err(Why::Finished { name });
        }
        if bytes > bytes_max {
            return Err(Why::TooLarge {
                name,
                bytes,
                bytes_max,
            });
        }
        match self.config.when_full {
            WhenFull::DropOldest => while !self.fits(bytes) && self.drop_oldest() {},
            WhenFull::Conflate if !self.fits(bytes) => self.conflate(key, bytes),
            _ => {}
        }
        if self.fits(bytes) {
            Ok(())
        } else {
            Err(self.full())
        }
    }

    fn drop_oldest(&mut self) -> bool {
        let Some((_, key)) = self.heads.pop_first() else {
            return false;
        };
        let queue = self.keys.get_mut(&key).expect("a head belongs to a key");
        let oldest = queue.pop().expect("a key with a head has an item");
        if let Some(next) = queue.items.front() {
            self.heads.insert(next.number, key);
        }
        self.discount(1, oldest.bytes);
        self.stats.dropped += 1;
        true
    }

    /// Drops what waits for `key`, but only if that makes room: else the newer item would be lost beside the older.
    fn conflate(&mut self, key: &K, bytes: usize) {
        let bytes_max = self.config.queue_bytes_max;
        let Some(queue) = self.keys.get_mut(key) else {
            return;
        };
        let Some(head) = queue.items.front().map(|item| item.number) else {
            return;
        };
        if self.waiting_bytes - queue.bytes + bytes > bytes_max {
            return;
        }
        let (n_items, n_bytes) = (queue.items.len(), queue.bytes);
        queue.items.clear();
        queue.bytes = 0;
        self.heads.remove(&head);
        self.discount(n_items, n_bytes);
        self.stats.conflated += n_items as u64;
    }

    fn append(&mut self, key: &K, item: T, bytes: usize) -> Offered {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting_items += 1;
        self.waiting_bytes += bytes;
        let config = self.config;
        let is_new = !self.keys.contains_key(key);
        let queue = self.keys.entry(key.clone()).or_insert_with(KeyQueue::new);
        let was_ripe = queue.is_ripe(&config);
        if queue.items.is_empty() {
            // The runtime's clock, so that this deadline and the timer that waits for it agree, in tests too.
            queue.deadline = Instant::now() + config.delay;
            self.heads.insert(number, key.clone());
        }
        queue.items.push_back(Item { number, bytes, item });
        queue.bytes += bytes;
        match (is_new, !was_ripe && queue.is_ripe(&config)) {
            (true, _) => Offered::NewKey,
            (false, true) => Offered::Woke(Arc::clone(&queue.wake)),
            (false, false) => Offered::Waits,
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some(queue) = self.keys.remove(key) {
            for (_, asker) in queue.askers {
                let _ = asker.send(());
            }
        }
    }
}

// === impl KeyQueue ===

impl<T> KeyQueue<T> {
    fn new() -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            deadline: Instant::now(),
            wake: Arc::default(),
            askers: Vec::new(),
        }
    }

    /// Whether the next batch need not wait for company.
    fn is_ripe(&self, config: &BatcherConfig) -> bool {
        self.items.len() >= config.batch_items_max
            || self.bytes >= config.batch_bytes_max
            || !self.askers.is_empty()
    }

    fn ask(&mut self, upto: u64) -> oneshot::Receiver<()> {
        // Those whose asker has gone away need no answer.
        self.askers.retain(|(_, asker)| !asker.is_closed());
        let (asker, flushed) = oneshot::channel();
        self.askers.push((upto, asker));
        self.wake.notify_one();
        flushed
    }

    /// Tells those whose items all lie before `head`.
    fn tell(&mut self, head: u64) {
        for (_, asker) in self.askers.extract_if(.., |(upto, _)| *upto <= head) {
            let _ = asker.send(());
        }
    }

    fn pop(&mut self) -> Option<Item<T>> {
        let oldest = self.items.pop_front()?;
        self.bytes -= oldest.bytes;
        Some(oldest)
    }

    /// The oldest items that fit one batch, at least one, and their bytes.
    fn take_batch(&mut self, config: &BatcherConfig) -> (Vec<T>, usize) {
        let mut batch = Vec::with_capacity(self.items.len().min(config.batch_items_max));
        let mut bytes = 0;
        while let Some(next) = self.items.front() {
            let is_over =
                bytes + next.bytes > config.batch_bytes_max || batch.len() == config.batch_items_max;
            if is_over && !batch.is_empty() {
                break;
            }
            let next = self.pop().expect("the front was there");
            bytes += next.bytes;
            batch.push(next.item);
        }
        (batch, bytes)
    }
}
