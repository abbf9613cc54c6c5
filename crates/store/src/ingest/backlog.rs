//! How many rows wait: bounded over all feeds, and given back wherever a chunk ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tidegate_vitals::Gauge;

use crate::error::{Error, Result};

/// The rows that wait.
#[derive(Debug, Clone)]
pub(super) struct Backlog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rows: AtomicUsize,
    rows_max: usize,
    is_alerted: AtomicBool,
    gauge: Gauge,
}

/// Room for some rows; dropping it gives the room back.
#[derive(Debug)]
pub(super) struct Room {
    backlog: Backlog,
    rows: usize,
}

// === impl Backlog ===

impl Backlog {
    pub(super) fn new(rows_max: usize, gauge: Gauge) -> Self {
        Self(Arc::new(Inner {
            rows: AtomicUsize::new(0),
            rows_max,
            is_alerted: AtomicBool::new(false),
            gauge,
        }))
    }

    /// Takes room for `rows`.
    pub(super) fn reserve(&self, rows: usize) -> Result<Room> {
        let limit = self.0.rows_max;
        if rows > limit {
            return Err(Error::TooLarge {
                what: "rows of one request".to_owned(),
                size: rows as u64,
                limit: limit as u64,
            });
        }
        let taken = self.0.rows.fetch_update(Relaxed, Relaxed, |waiting| {
            (waiting + rows <= limit).then_some(waiting + rows)
        });
        let waiting = taken.map_err(|waiting| Error::BacklogFull { waiting, limit })? + rows;
        self.0.gauge.add(rows as i64);
        if waiting * 5 >= limit * 4 && !self.0.is_alerted.swap(true, Relaxed) {
            tracing::warn!(waiting, limit, "rows wait to be stored");
        }
        Ok(Room {
            backlog: self.clone(),
            rows,
        })
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
    pub(super) fn split(&mut self, rows: usize) -> Self {
        let rows = rows.min(self.rows);
        self.rows -= rows;
        Self {
            backlog: self.backlog.clone(),
            rows,
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let inner = &self.backlog.0;
        let waiting = inner.rows.fetch_sub(self.rows, Relaxed) - self.rows;
        inner.gauge.add(-(self.rows as i64));
        if waiting * 2 <= inner.rows_max && inner.is_alerted.swap(false, Relaxed) {
            tracing::info!(waiting, "rows no longer pile up");
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_vitals::{Id, Registry};

    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let gauge = Registry::new().gauge(Id::StoreIngestBacklog, &[]);
        let backlog = Backlog::new(100, gauge.clone());
        let mut room = backlog.reserve(60).unwrap();
        assert!(!backlog.is_alerted());
        let refused = backlog.reserve(41).unwrap_err();
        assert_eq!(refused.to_string(), "backlog full: 60 of 100 rows waiting");
        let other = backlog.reserve(40).unwrap();
        assert!(backlog.is_alerted());
        let part = room.split(10);
        drop(room);
        assert_eq!((backlog.rows(), gauge.get()), (50, 50));
        assert!(!backlog.is_alerted());
        drop((part, other));
        assert_eq!(backlog.rows(), 0);
        assert!(matches!(backlog.reserve(101), Err(Error::TooLarge { .. })));
    }
}
