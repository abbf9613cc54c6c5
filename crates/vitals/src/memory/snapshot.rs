//! Labelled snapshots of memory: what was held when, how fast it grows, what lies between two of them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Class, Ledger};
use crate::allocator;
use crate::clock::{Clock, Instant};
use crate::pressure::Level;
use crate::process;

/// The last snapshots, at most [`SNAPSHOTS_MAX`]. Clones are the same list.
#[derive(Clone)]
pub struct Snapshots(Arc<Inner>);

/// More push the oldest out: a day of one every five and a half minutes.
pub const SNAPSHOTS_MAX: usize = 256;

/// Longer labels are cut: they come from requests.
const LABEL_BYTES_MAX: usize = 64;

/// What was held at one moment, bytes; zero where the system does not tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Its number, counted from one.
    pub number: u64,
    /// What it was taken for.
    pub label: Arc<str>,
    /// When, in unix milliseconds.
    pub unix_ms: u64,
    /// When, on the clock that does not jump.
    pub at: Instant,
    /// Resident memory.
    pub rss_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// What the allocator has given out; `None` in a build without it.
    pub allocated_bytes: Option<u64>,
    /// What the allocator keeps in memory.
    pub resident_bytes: Option<u64>,
    /// What each class of the accounts holds, in the order of [`Class::ALL`].
    pub accounted: Vec<(Class, u64)>,
    /// The level of pressure.
    pub level: Level,
}

/// From one snapshot to a later one; negative where something shrank.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The number of the first.
    pub from: u64,
    /// The number of the second.
    pub to: u64,
    /// Time between them, seconds.
    pub seconds: f64,
    /// Resident memory.
    pub rss_bytes: i64,
    /// Address space.
    pub virtual_bytes: i64,
    /// What the allocator has given out.
    pub allocated_bytes: Option<i64>,
    /// What the allocator keeps in memory.
    pub resident_bytes: Option<i64>,
    /// The classes that changed.
    pub accounted: Vec<(Class, i64)>,
}

/// How fast memory grows, over all kept snapshots.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Resident memory, bytes an hour.
    pub rss_bytes_per_hour: f64,
    /// What the allocator has given out, bytes an hour.
    pub allocated_bytes_per_hour: Option<f64>,
    /// Snapshots it was made from.
    pub snapshots: usize,
    /// Time they cover, seconds.
    pub seconds: f64,
}

struct Inner {
    ledger: Ledger,
    clock: Clock,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    taken: u64,
    kept: VecDeque<Snapshot>,
}

// === impl Snapshots ===

impl Snapshots {
    /// None yet.
    pub fn new(ledger: Ledger, clock: Clock) -> Self {
        Self(Arc::new(Inner {
            ledger,
            clock,
            list: Mutex::default(),
        }))
    }

    /// Takes one and keeps it. A label is cut after 64 bytes.
    pub fn take(&self, label: &str, level: Level) -> Snapshot {
        let status = process::status();
        let stats = allocator::stats();
        let ledger = &self.0.ledger;
        let accounted = Class::ALL.iter().map(|&class| (class, ledger.used_by(class)));
        let mut snapshot = Snapshot {
            number: 0,
            label: label[..label.floor_char_boundary(LABEL_BYTES_MAX)].into(),
            unix_ms: self.0.clock.wall_ms(),
            at: self.0.clock.now(),
            rss_bytes: status.map_or(0, |status| status.rss_bytes),
            virtual_bytes: status.map_or(0, |status| status.virtual_bytes),
            allocated_bytes: stats.map(|stats| stats.allocated),
            resident_bytes: stats.map(|stats| stats.resident),
            accounted: accounted.collect(),
            level,
        };
        let mut list = self.lock();
        list.taken += 1;
        snapshot.number = list.taken;
        if list.kept.len() == SNAPSHOTS_MAX {
            list.kept.pop_front();
        }
        list.kept.push_back(snapshot.clone());
        snapshot
    }

    /// Those that are kept, oldest first.
    pub fn list(&self) -> Vec<Snapshot> {
        self.lock().kept.iter().cloned().collect()
    }

    /// What changed from the newest snapshot of one label to the newest of another; `None` if either is not kept.
    pub fn between(&self, from: &str, to: &str) -> Option<Difference> {
        let list = self.lock();
        let newest = |label| list.kept.iter().rev().find(|snapshot| &*snapshot.label == label);
        Some(newest(to)?.since(newest(from)?))
    }

    /// How fast memory grows; `None` with fewer than three snapshots or no time between them.
    pub fn growth(&self) -> Option<Growth> {
        let list = self.lock();
        let (first, last) = (list.kept.front()?, list.kept.back()?);
        if list.kept.len() < 3 {
            return None;
        }
        let hours = |snapshot: &Snapshot| (snapshot.at - first.at).as_secs_f64() / 3600.0;
        let points = |of: fn(&Snapshot) -> Option<u64>| {
            let values = list.kept.iter().filter_map(|s| Some((hours(s), of(s)? as f64)));
            values.collect::<Vec<_>>()
        };
        Some(Growth {
            rss_bytes_per_hour: slope(&points(|s| Some(s.rss_bytes)))?,
            allocated_bytes_per_hour: slope(&points(|s| s.allocated_bytes)),
            snapshots: list.kept.len(),
            seconds: (last.at - first.at).as_secs_f64(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.0.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snapshots({})", self.lock().kept.len())
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Bytes over all classes.
    pub fn accounted_bytes(&self) -> u64 {
        self.accounted.iter().map(|(_, bytes)| bytes).sum()
    }

    /// What changed since `earlier`.
    pub fn since(&self, earlier: &Self) -> Difference {
        let change = |new: u64, old: u64| new as i64 - old as i64;
        let optional = |new: Option<u64>, old: Option<u64>| new.zip(old).map(|(new, old)| change(new, old));
        let classes = self.accounted.iter().zip(&earlier.accounted);
        let classes = classes.map(|((class, new), (_, old))| (*class, change(*new, *old)));
        Difference {
            from: earlier.number,
            to: self.number,
            seconds: (self.at - earlier.at).as_secs_f64(),
            rss_bytes: change(self.rss_bytes, earlier.rss_bytes),
            virtual_bytes: change(self.virtual_bytes, earlier.virtual_bytes),
            allocated_bytes: optional(self.allocated_bytes, earlier.allocated_bytes),
            resident_bytes: optional(self.resident_bytes, earlier.resident_bytes),
            accounted: classes.filter(|(_, change)| *change != 0).collect(),
        }
    }
}

/// The median of the slopes between all pairs (Theil 1950, Sen 1968): up to 29 % of the points may be anything, so one
/// purge or one burst does not tilt it, as it would a least-squares line. For 256 points 32,640 slopes, a millisecond.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let mut slopes: Vec<f64> = Vec::with_capacity(points.len() * points.len() / 2);
    for (at, (t0, y0)) in points.iter().enumerate() {
        let later = points[at + 1..].iter().filter(|(t1, _)| t1 > t0);
        slopes.extend(later.map(|(t1, y1)| (y1 - y0) / (t1 - t0)));
    }
    let middle = slopes.len() / 2;
    (!slopes.is_empty()).then(|| *slopes.select_nth_unstable_by(middle, f64::total_cmp).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slope_ignores_a_burst_and_a_purge() {
        let mut points: Vec<_> = (0..20)
            .map(|t| (f64::from(t), 1000.0 + 7.0 * f64::from(t)))
            .collect();
        assert_eq!(slope(&points), Some(7.0));
        points[3].1 = 1e9;
        points[19].1 = 0.0;
        assert_eq!(slope(&points), Some(7.0));
        assert_eq!(slope(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }
}
