//! How many rows wait: bounded over all feeds, and given back wherever a chunk ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use tidegate_vitals::{Gauge, Guard, Level};

use crate::error::{Error, Result};
use crate::relief::{Force, Relieved};

/// The rows that wait.
#[derive(Debug, Clone)]
pub(super) struct Backlog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rows: AtomicUsize,
    rows_max: usize,
    /// What is left of `rows_max` at the level of memory pressure in force.
    rows_limit: AtomicUsize,
    force: Force,
    /// Bytes that the rows hold in the ledger.
    bytes: AtomicU64,
    refused: Relieved,
    is_alerted: AtomicBool,
    gauge: Gauge,
}

/// Room for some rows and their memory; dropping it gives both back.
#[derive(Debug)]
pub(super) struct Room {
    backlog: Backlog,
    rows: usize,
    memory: Guard,
}

/// What may wait under high pressure, of `rows_max`, per mille: at the lower edge of the level and at its upper.
const HIGH_PERMILLE: (f32, f32) = (500.0, 125.0);

// === impl Backlog ===

impl Backlog {
    pub(super) fn new(rows_max: usize, gauge: Gauge, refused: Relieved) -> Self {
        Self(Arc::new(Inner {
            rows: AtomicUsize::new(0),
            rows_max,
            rows_limit: AtomicUsize::new(rows_max),
            force: Force::default(),
            bytes: AtomicU64::new(0),
            refused,
            is_alerted: AtomicBool::new(false),
            gauge,
        }))
    }

    /// Takes room for `rows`, whose memory is paid already.
    pub(super) fn reserve(&self, rows: usize, memory: Guard) -> Result<Room> {
        let (most, limit) = (self.0.rows_max, self.0.rows_limit.load(Relaxed));
        if rows > most {
            return Err(Error::TooLarge {
                what: "rows of one request".to_owned(),
                size: rows as u64,
                limit: most as u64,
            });
        }
        let taken = self.0.rows.fetch_update(Relaxed, Relaxed, |waiting| {
            (waiting + rows <= limit).then_some(waiting + rows)
        });
        let waiting = taken.map_err(|waiting| self.full(waiting, limit))? + rows;
        self.0.gauge.add(rows as i64);
        self.0.bytes.fetch_add(memory.bytes() as u64, Relaxed);
        if waiting * 5 >= most * 4 && !self.0.is_alerted.swap(true, Relaxed) {
            tracing::warn!(waiting, limit = most, "rows wait to be stored");
        }
        Ok(Room {
            backlog: self.clone(),
            rows,
            memory,
        })
    }

    /// Refuses where no row at all may wait: before anything is read.
    pub(super) fn check_open(&self) -> Result<()> {
        match self.0.rows_limit.load(Relaxed) {
            0 => Err(self.full(self.rows(), 0)),
            _ => Ok(()),
        }
    }

    /// Lets fewer rows wait as memory gets short, none at critical, and all of them again at normal.
    pub(super) fn press(&self, level: Level, within: f32) {
        let (from, to) = HIGH_PERMILLE;
        let permille = match level {
            Level::Normal | Level::Moderate => 1_000.0,
            Level::High => from - (from - to) * within.clamp(0.0, 1.0),
            Level::Critical => 0.0,
        };
        let limit = self.0.rows_max * permille as usize / 1_000;
        self.0.force.set(level);
        self.0.rows_limit.store(limit, Relaxed);
    }

    fn full(&self, waiting: usize, limit: usize) -> Error {
        if limit == self.0.rows_max {
            return Error::BacklogFull { waiting, limit };
        }
        self.0.refused.count(1, 0);
        let level = self.level().as_str();
        Error::Pressed {
            level,
            waiting,
            limit,
        }
    }

    /// The level of memory pressure in force.
    pub(super) fn level(&self) -> Level {
        self.0.force.level()
    }

    /// Most rows that may wait at that level.
    pub(super) fn rows_limit(&self) -> usize {
        self.0.rows_limit.load(Relaxed)
    }

    /// Bytes that the waiting rows hold in the ledger.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Relaxed)
    }

    /// Requests refused because memory was short.
    pub(super) fn refused(&self) -> u64 {
        self.0.refused.n()
    }

    pub(super) fn rows(&self) -> usize {
        self.0.rows.load(Relaxed)
    }

    pub(super) fn rows_max(&self) -> usize {
        self.0.rows_max
    }

    /// Whether four fifths were reached, and half was not since.
    pub(super) fn is_alerted(&self) -> bool {
        self.0.is_alerted.load(Relaxed)
    }
}

// === impl Room ===

impl Room {
    /// Splits a part off.
    pub(super) fn split(&mut self, rows: usize, bytes: usize) -> Self {
        let rows = rows.min(self.rows);
        self.rows -= rows;
        Self {
            backlog: self.backlog.clone(),
            rows,
            memory: self.memory.split(bytes.min(self.memory.bytes())),
        }
    }

    /// Takes the memory out that was paid for the written form of the rows.
    #[cfg(feature = "spool")]
    pub(super) fn take_written(&mut self) -> Guard {
        let written = self.memory.split(self.memory.bytes() / 2);
        let inner = &self.backlog.0;
        inner.bytes.fetch_sub(written.bytes() as u64, Relaxed);
        written
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let inner = &self.backlog.0;
        let waiting = inner.rows.fetch_sub(self.rows, Relaxed) - self.rows;
        inner.gauge.add(-(self.rows as i64));
        inner.bytes.fetch_sub(self.memory.bytes() as u64, Relaxed);
        if waiting * 2 <= inner.rows_max && inner.is_alerted.swap(false, Relaxed) {
            tracing::info!(waiting, "rows no longer pile up");
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_vitals::{Class, Id, Ledger, Registry};

    use super::*;
    use crate::relief::Reaction;

    fn new(rows_max: usize) -> (Backlog, Gauge) {
        let registry = Registry::new();
        let gauge = registry.gauge(Id::StoreIngestBacklog, &[]);
        let refused = Relieved::new(&registry, Reaction::Refuse);
        (Backlog::new(rows_max, gauge.clone(), refused), gauge)
    }

    #[test]
    fn fewer_rows_may_wait_the_shorter_memory_is() {
        let (backlog, _) = new(1_000);
        let ledger = Ledger::new(100);
        let check = |level, within, expected: usize| {
            backlog.press(level, within);
            assert_eq!(backlog.rows_limit(), expected, "{level:?} {within}");
            let room = backlog.reserve(expected, ledger.empty(Class::Batches));
            assert_eq!(room.unwrap().rows, expected);
            let refused = backlog.reserve(expected + 1, ledger.empty(Class::Batches));
            let refused = refused.unwrap_err();
            assert_eq!(refused.is_retryable(), expected < 1_000, "{refused}");
            if expected < 1_000 {
                assert_eq!(refused.code(), "overloaded");
            }
            assert_eq!(backlog.check_open().is_err(), expected == 0);
        };
        check(Level::Moderate, 1.0, 1_000);
        check(Level::High, 0.0, 500);
        check(Level::High, 1.0, 125);
        check(Level::Critical, 0.0, 0);
        check(Level::Normal, 0.0, 1_000);
        assert_eq!(backlog.refused(), 4);
    }

    #[test]
    fn room_is_bounded_and_given_back() {
        let (backlog, gauge) = new(100);
        let ledger = Ledger::new(100);
        let mut room = backlog
            .reserve(60, ledger.reserve(Class::Batches, 60).unwrap())
            .unwrap();
        assert!(!backlog.is_alerted());
        let refused = backlog.reserve(41, ledger.empty(Class::Batches)).unwrap_err();
        assert_eq!(refused.to_string(), "backlog full: 60 of 100 rows waiting");
        let other = backlog.reserve(40, ledger.empty(Class::Batches)).unwrap();
        assert!(backlog.is_alerted());
        let mut part = room.split(10, 30);
        drop(room);
        assert_eq!((backlog.rows(), gauge.get()), (50, 50));
        assert_eq!((backlog.bytes(), ledger.used()), (30, 30));
        drop(part.take_written());
        assert_eq!((backlog.bytes(), ledger.used()), (15, 15));
        assert!(!backlog.is_alerted());
        drop((part, other));
        assert_eq!((backlog.rows(), backlog.bytes(), ledger.used()), (0, 0, 0));
        assert!(matches!(
            backlog.reserve(101, ledger.empty(Class::Batches)),
            Err(Error::TooLarge { .. })
        ));
    }
}
