//! The disk level: what memory evicts is written behind, and found again by an index in memory.
//!
//! Its files are a segment log. A put appends, a get reads one record, and room is made by dropping the oldest segment
//! whole, so files never exceed their bound and nothing is ever rewritten. All writing is done by one thread behind a
//! bounded queue; reads run on the runtime's blocking threads. Nothing here ever makes a hit in memory wait, and losing
//! the files, or any part of them, costs misses alone.

mod index;
mod record;
mod worker;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use tidegate_seglog::Fetcher;
use tidegate_vitals::{Clock, Counter, Id, Instant, Ledger, Registry};

use self::{
    index::{Index, Place},
    record::Record,
    worker::Worker,
};
use crate::{
    entry::Entry,
    error::{Error, Result},
    key::Key,
    tags::Tags,
};

/// Bounds of the disk level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// The folder, which belongs to this cache alone: what is in its way there is removed.
    pub dir: PathBuf,
    /// Most bytes of its files together; default 1 GiB.
    pub bytes_max: u64,
    /// Bytes of one file, which is also what is dropped at a time; default 8 MiB.
    pub segment_bytes: u64,
    /// Most bytes of one value with its key and tags; default 1 MiB.
    pub value_bytes_max: usize,
    /// Most values that the index finds, at about [`INDEX_ENTRY_BYTES`] of memory each; default 1,000,000.
    pub entries_max: usize,
    /// Most values waiting to be written; default 1,024.
    pub queue_entries_max: usize,
    /// Most bytes waiting to be written; default 16 MiB.
    pub queue_bytes_max: u64,
}

/// What the disk level holds and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Bytes of its files; a preallocated one counts with all its room.
    pub bytes: u64,
    /// Values that the index finds.
    pub entries: usize,
    /// Values waiting to be written.
    pub queued: u64,
    /// Values written.
    pub puts: u64,
    /// Bytes of keys and values written.
    pub put_bytes: u64,
    /// Values read.
    pub gets: u64,
    /// Values not written because the queue was full.
    pub dropped_queue_full: u64,
    /// Values dropped with their segment to make room.
    pub dropped_oldest: u64,
    /// Values not written, or not read, because the disk failed or was full.
    pub dropped_disk_error: u64,
    /// Values dropped because their bytes were damaged, cut off or not ours.
    pub dropped_damaged: u64,
    /// Values found when it was opened.
    pub recovered: u64,
}

/// Memory that one value costs in the index, bytes: 8 for the hash, 56 for its place, the map's spare room (between 8/7
/// and 16/7 of these), and 8 in the list of its segment. Sampled at half a million values: 106.
pub const INDEX_ENTRY_BYTES: usize = 120;

/// A read that takes longer is a miss.
const READ_MAX: Duration = Duration::from_millis(250);

/// The disk level of one cache.
pub(crate) struct Disk {
    state: Arc<State>,
    behind: Behind,
    worker: Mutex<Option<JoinHandle<()>>>,
}

/// Where evicted values are offered.
#[derive(Clone)]
pub(crate) struct Behind {
    state: Arc<State>,
    queue: SyncSender<Job>,
}

/// What the worker is asked to do.
enum Job {
    Put(Key, Arc<Entry>),
    /// Removes the files that nothing refers to.
    Clear,
    /// Everything offered before is written when this is answered.
    Flush(SyncSender<()>),
    Finish,
}

/// What reads, offers and the worker share.
struct State {
    config: DiskConfig,
    index: Mutex<Index>,
    fetcher: Fetcher,
    tags: Arc<Tags>,
    clock: Clock,
    bytes: AtomicU64,
    /// Whether what was there at the start is in the index.
    is_recovered: AtomicBool,
    /// Values offered and not yet in the index.
    queued: AtomicU64,
    queued_bytes: AtomicU64,
    puts: AtomicU64,
    put_bytes: AtomicU64,
    gets: AtomicU64,
    recovered: AtomicU64,
    dropped: Dropped,
}

struct Dropped {
    queue_full: Counter,
    oldest: Counter,
    disk_error: Counter,
    damaged: Counter,
}

/// What a cache gives its levels.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) name: &'static str,
    pub(crate) tags: Arc<Tags>,
    pub(crate) clock: Clock,
    pub(crate) ledger: Ledger,
    pub(crate) registry: Registry,
}

// === impl DiskConfig ===

impl DiskConfig {
    /// The usual bounds, in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            bytes_max: 1 << 30,
            segment_bytes: 8 << 20,
            value_bytes_max: 1 << 20,
            entries_max: 1_000_000,
            queue_entries_max: 1_024,
            queue_bytes_max: 16 << 20,
        }
    }

    fn log(&self) -> tidegate_seglog::Config {
        tidegate_seglog::Config {
            segment_bytes: self.segment_bytes,
            bytes_max: self.bytes_max,
            record_bytes_max: self.value_bytes_max,
            preallocate: true,
        }
    }

    pub(crate) fn check(&self, cache: &'static str) -> Result<()> {
        if self.bytes_max < 2 * self.segment_bytes {
            let allowed = format!("at least two segments, {}", 2 * self.segment_bytes);
            return Err(Error::config("disk.bytes_max", &self.bytes_max, allowed));
        }
        for (key, value) in [
            ("disk.entries_max", self.entries_max),
            ("disk.queue_entries_max", self.queue_entries_max),
        ] {
            if value == 0 {
                return Err(Error::config(key, &value, "at least 1"));
            }
        }
        let checked = self.log().check();
        checked.map_err(|source| Error::Disk { cache, source })
    }
}

// === impl Disk ===

impl Disk {
    /// Takes the folder and starts the thread, which first looks through what is there. Blocks on the disk.
    pub(crate) fn open(config: DiskConfig, around: &Surroundings) -> Result<Self> {
        config.check(around.name)?;
        let (log, alien) = worker::open(&config).map_err(|source| Error::Disk {
            cache: around.name,
            source,
        })?;
        let dropped = |reason| {
            around
                .registry
                .counter(Id::CacheDiskDropped, &[around.name, reason])
        };
        let (queue, jobs) = sync_channel(config.queue_entries_max);
        let state = Arc::new(State {
            index: Mutex::new(Index::new(config.entries_max, &around.ledger)),
            fetcher: log.fetcher(),
            tags: Arc::clone(&around.tags),
            clock: around.clock.clone(),
            bytes: AtomicU64::new(log.bytes()),
            is_recovered: AtomicBool::new(false),
            queued: AtomicU64::new(0),
            queued_bytes: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            put_bytes: AtomicU64::new(0),
            gets: AtomicU64::new(0),
            recovered: AtomicU64::new(0),
            dropped: Dropped {
                queue_full: dropped("queue_full"),
                oldest: dropped("oldest"),
                disk_error: dropped("disk_error"),
                damaged: dropped("damaged"),
            },
            config,
        });
        state.dropped.damaged.add(alien);
        let worker = Worker::new(Arc::clone(&state), log);
        let thread = std::thread::Builder::new().name("cache-disk".to_owned());
        let spawned = thread.spawn(move || worker.run(&jobs));
        let worker = spawned.map_err(|source| Error::Disk {
            cache: around.name,
            source: tidegate_seglog::Error::Io {
                action: "start a thread for",
                path: state.config.dir.clone(),
                source,
            },
        })?;
        Ok(Self {
            behind: Behind {
                state: Arc::clone(&state),
                queue,
            },
            state,
            worker: Mutex::new(Some(worker)),
        })
    }

    pub(crate) fn behind(&self) -> Behind {
        self.behind.clone()
    }

    /// The value of `key`, fresh or not; none if it is not there, was invalidated, or the disk is too slow.
    pub(crate) async fn get(&self, key: &Key) -> Option<Entry> {
        let place = self.state.index().get(key.hashed())?;
        let (state, key) = (Arc::clone(&self.state), key.clone());
        let read = tokio::task::spawn_blocking(move || state.read(&key, place));
        match tokio::time::timeout(READ_MAX, read).await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) | Err(_) => {
                self.state.dropped.disk_error.inc();
                None
            }
        }
    }

    /// Values of `key` up to `serial` are no longer wanted.
    pub(crate) fn remove(&self, key: &Key, serial: u64) -> bool {
        let mut index = self.state.index();
        index.remove(key.hashed(), serial, self.state.has_waiting())
    }

    /// Values up to `serial` are no longer wanted.
    pub(crate) fn clear(&self, serial: u64) {
        self.state.index().clear(serial);
        // A full queue keeps the files for now; without the index nothing in them is found.
        let _ = self.behind.queue.try_send(Job::Clear);
    }

    pub(crate) fn stats(&self) -> Stats {
        let state = &self.state;
        Stats {
            bytes: state.bytes.load(Relaxed),
            entries: state.index().len(),
            queued: state.queued.load(Relaxed),
            puts: state.puts.load(Relaxed),
            put_bytes: state.put_bytes.load(Relaxed),
            gets: state.gets.load(Relaxed),
            dropped_queue_full: state.dropped.queue_full.get(),
            dropped_oldest: state.dropped.oldest.get(),
            dropped_disk_error: state.dropped.disk_error.get(),
            dropped_damaged: state.dropped.damaged.get(),
            recovered: state.recovered.load(Relaxed),
        }
    }

    /// Waits until everything offered so far is written.
    pub(crate) async fn flush(&self) {
        let queue = self.behind.queue.clone();
        let flushed = move || {
            let (tell, told) = sync_channel(1);
            if queue.send(Job::Flush(tell)).is_ok() {
                let _ = told.recv();
            }
        };
        let _ = tokio::task::spawn_blocking(flushed).await;
    }

    /// Writes what is queued, makes it durable and ends the thread.
    pub(crate) async fn finish(&self) {
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(worker) = worker else { return };
        let queue = self.behind.queue.clone();
        let ended = move || {
            let _ = queue.send(Job::Finish);
            let _ = worker.join();
        };
        let _ = tokio::task::spawn_blocking(ended).await;
    }
}

// === impl Behind ===

impl Behind {
    /// Queues an evicted value, or drops it: never waits.
    pub(crate) fn offer(&self, key: &Key, entry: &Arc<Entry>) {
        let state = &self.state;
        if !entry.lower_levels || entry.is_negative || !state.is_wanted(entry, state.clock.coarse()) {
            return;
        }
        let known = || state.index().get(key.hashed());
        if entry.is_on_disk && known().is_some_and(|place| place.serial == entry.serial) {
            return;
        }
        let bytes = u64::from(entry.weight);
        let queued_bytes = state.queued_bytes.fetch_add(bytes, Relaxed);
        state.queued.fetch_add(1, Relaxed);
        let fits = queued_bytes + bytes <= state.config.queue_bytes_max;
        let job = Job::Put(key.clone(), Arc::clone(entry));
        if !fits || self.queue.try_send(job).is_err() {
            state.queued_bytes.fetch_sub(bytes, Relaxed);
            state.queued.fetch_sub(1, Relaxed);
            state.dropped.queue_full.inc();
        }
    }
}

// === impl State ===

impl State {
    fn index(&self) -> MutexGuard<'_, Index> {
        // Each change leaves the index whole, so a panic elsewhere does no harm.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether values may still come into the index that were offered, or found at the start, before now.
    fn has_waiting(&self) -> bool {
        self.queued.load(Relaxed) > 0 || !self.is_recovered.load(Relaxed)
    }

    fn is_wanted(&self, entry: &Entry, now: Instant) -> bool {
        now < entry.fresh_until && self.tags.is_current(entry.epoch, &entry.slots)
    }

    /// Reads the record at `place`; what is damaged or of another key leaves the index.
    fn read(&self, key: &Key, place: Place) -> Option<Entry> {
        let payload = match self.fetcher.fetch(place.at) {
            Ok(payload) => payload,
            Err(_) => {
                self.dropped.disk_error.inc();
                return None;
            }
        };
        let record = payload.and_then(Record::decode);
        let Some(record) = record else {
            // Dropped with its segment since the look, or damaged: only then is the place still in the index.
            if self.index().remove_place(key.hashed(), place) {
                self.dropped.damaged.inc();
            }
            return None;
        };
        if record.key() != key.as_bytes() || !self.tags.is_current(place.epoch, record.slots()) {
            return None;
        }
        self.gets.fetch_add(1, Relaxed);
        Some(record.into_entry(place, self.clock.now()))
    }
}

type Jobs = Receiver<Job>;
