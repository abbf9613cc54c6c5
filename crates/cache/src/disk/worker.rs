//! The thread that owns the files: recovers, writes, drops the oldest.

use std::{
    fs, io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tidegate_seglog::{Error, Log, Position};
use tidegate_vitals::Instant;

use super::{DiskConfig, Job, Jobs, State, index::Place, record};
use crate::{disk::record::Record, entry::Entry, key::Key};

pub(super) struct Worker {
    state: Arc<State>,
    log: Log,
    buffer: Vec<u8>,
    /// After a failure nothing is written until here.
    paused_until: Instant,
    pause: Duration,
}

/// How long a disk that failed is left alone: doubled with each failure in a row.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The last record of a clean end. It says that everything before it was durable, so that what is bad there later is
/// damage, one by one, and not the place where a crash cut the writing.
const CLOSED: &[u8] = &[];

/// Opens the log in its folder, and says how many files were removed because they could not be understood, how many
/// values went with lost ones, and whether the end was cut off.
pub(super) fn open(config: &DiskConfig) -> Result<(Log, u64), Error> {
    let mut alien = 0;
    let log = match Log::open(&config.dir, config.log()) {
        Err(Error::Version { .. }) => {
            // Written by another version: a cache has nothing worth converting.
            alien += remove_files(config).map_err(|source| Error::Io {
                action: "empty",
                path: config.dir.clone(),
                source,
            })?;
            Log::open(&config.dir, config.log())?
        }
        other => other?,
    };
    for path in &log.recovery().set_aside {
        alien += 1;
        let _ = fs::remove_file(path);
    }
    alien += log.recovery().lost_records + u64::from(log.recovery().is_torn);
    Ok((log, alien))
}

/// Removes the log's own files; the folder belongs to the cache.
fn remove_files(config: &DiskConfig) -> io::Result<u64> {
    let mut removed = 0;
    for entry in fs::read_dir(&config.dir)? {
        let path = entry?.path();
        let is_segment = path.extension().is_some_and(|extension| extension == "seg");
        let is_head = path.file_name().is_some_and(|name| name == "head");
        if is_segment || is_head {
            fs::remove_file(path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

// === impl Worker ===

impl Worker {
    pub(super) fn new(state: Arc<State>, log: Log) -> Self {
        Self {
            state,
            log,
            buffer: Vec::new(),
            paused_until: Instant::ZERO,
            pause: PAUSE_MIN,
        }
    }

    /// Works until it is told to finish, or nobody is left who could.
    pub(super) fn run(mut self, jobs: &Jobs) {
        self.recover();
        self.state.is_recovered.store(true, Relaxed);
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Put(key, entry) => {
                    self.put(&key, &entry);
                    self.state.queued.fetch_sub(1, Relaxed);
                    self.state
                        .queued_bytes
                        .fetch_sub(u64::from(entry.weight), Relaxed);
                }
                Job::Clear => self.clear(),
                Job::Flush(tell) => {
                    let _ = tell.try_send(());
                }
                Job::Finish => break,
            }
            self.state.bytes.store(self.log.bytes(), Relaxed);
            if self.state.queued.load(Relaxed) == 0 {
                self.state.index().settle();
            }
        }
        self.close();
    }

    /// What is not synced may be lost with the machine; with the process it is not.
    fn close(&mut self) {
        if self.log.synced() == self.log.end() {
            return;
        }
        // A cache may lose what a disk refuses; a value that is damaged later is then counted with the rest of its file.
        if self.log.sync().is_ok() && self.log.append(CLOSED).is_ok() {
            let _ = self.log.sync();
        }
    }

    /// Enters what an earlier process left, as values whose time ends now: it is not known what was invalidated since.
    fn recover(&mut self) {
        let (now, wall_ms) = (self.state.clock.now(), self.state.clock.wall_ms());
        let epoch = self.state.tags.begin();
        let mut reader = self.log.reader(self.log.head());
        loop {
            let read = match reader.read() {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(_) => {
                    self.state.dropped.disk_error.inc();
                    break;
                }
            };
            if read.payload == CLOSED {
                continue;
            }
            let record = Record::decode(read.payload);
            let known = record.and_then(|record| Some((Key::from_bytes(record.key())?, record)));
            let Some((key, record)) = known else {
                self.state.dropped.damaged.inc();
                continue;
            };
            let mut index = self.state.index();
            // What is found later is newer: if it does not come in, what it replaced must not stay either.
            index.forget(key.hashed());
            if record.fresh_until_ms > wall_ms && !index.is_full() {
                let place = Place {
                    at: read.position,
                    fresh_until: now,
                    epoch,
                    serial: 0,
                };
                index.insert(key.hashed(), place);
                self.state.recovered.fetch_add(1, Relaxed);
            }
        }
        self.state.dropped.damaged.add(reader.damage().records);
    }

    fn put(&mut self, key: &Key, entry: &Entry) {
        let now = self.state.clock.now();
        if !self.state.is_wanted(entry, now) || entry.is_replaced() {
            return;
        }
        if record::size(key, entry) > self.state.config.value_bytes_max {
            return;
        }
        if now < self.paused_until {
            self.state.dropped.disk_error.inc();
            return;
        }
        let left = entry.fresh_until.since(now).as_millis() as u64;
        let fresh_until_ms = self.state.clock.wall_ms().saturating_add(left);
        record::encode(&mut self.buffer, key, entry, fresh_until_ms);
        match self.append() {
            Ok(at) => self.enter(key, entry, at),
            Err(_) => self.back_off(now),
        }
    }

    fn enter(&mut self, key: &Key, entry: &Entry, at: Position) {
        self.pause = PAUSE_MIN;
        let place = Place {
            at,
            fresh_until: entry.fresh_until,
            epoch: entry.epoch,
            serial: entry.serial,
        };
        self.state.index().insert(key.hashed(), place);
        self.state.puts.fetch_add(1, Relaxed);
        self.state.put_bytes.fetch_add(self.buffer.len() as u64, Relaxed);
    }

    /// Appends what is in the buffer, dropping the oldest segments while there is no room for it.
    fn append(&mut self) -> Result<Position, Error> {
        while self.state.index().is_full() {
            if !self.drop_oldest()? {
                let (bytes, limit, needed) = (self.log.bytes(), 0, self.buffer.len() as u64);
                return Err(Error::Full { bytes, limit, needed });
            }
        }
        loop {
            match self.log.append(&self.buffer) {
                Err(full @ Error::Full { .. }) => {
                    if !self.drop_oldest()? {
                        return Err(full);
                    }
                }
                other => return other,
            }
        }
    }

    /// Drops the oldest segment; `false` if there is none.
    fn drop_oldest(&mut self) -> Result<bool, Error> {
        let dropped = self.log.drop_oldest()?.is_some();
        let first = match self.log.is_empty() {
            true => u64::MAX,
            false => self.log.head().segment(),
        };
        let values = self.state.index().drop_before(first);
        self.state.fetcher.forget_before(first);
        self.state.dropped.oldest.add(values);
        Ok(dropped)
    }

    fn clear(&mut self) {
        while matches!(self.drop_oldest(), Ok(true)) {}
    }

    /// The disk failed or is full: the cache goes on without it for a while.
    fn back_off(&mut self, now: Instant) {
        self.state.dropped.disk_error.inc();
        self.paused_until = now + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}
