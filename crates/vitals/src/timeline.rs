//! The timeline: one point a second for the last hour, in a fixed amount of memory.

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::{Clock, Instant};
use crate::metric::{HistogramSnapshot, Id, Kind, Metric, Registry, Snapshot, TABLE, Value};

/// Points kept: an hour at one a second.
pub const POINTS_MAX: usize = 3_600;

/// A metric with a single label of at most this many values is also kept per value. The others are kept as one
/// track over all labels, so that the whole table stays below 3 MB.
pub const LABEL_VALUES_MAX: usize = 16;

/// A tick sooner than this after the last one is left out, so that the points cover the hour.
const SPACING_MIN: Duration = Duration::from_millis(500);

/// The last hour of every figure. Clones are the same timeline; its owner calls [`Timeline::tick`] once a second.
///
/// Counters are kept as rates per second, gauges as they stand, histograms as mean, P50, P95 and P99 of what was
/// recorded between two ticks. All values are in the unit of the metric.
#[derive(Clone)]
pub struct Timeline {
    registry: Registry,
    clock: Clock,
    state: Arc<Mutex<State>>,
}

/// What to read: a metric, over all labels or for one label value, and which figure of a distribution.
///
/// An [`Id`] converts into the plain key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    id: Id,
    label: Option<&'a str>,
    stat: Stat,
}

/// One second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When it was taken, unix milliseconds.
    pub unix_ms: u64,
    /// The value in the metric's unit, for counters per second; exact to seven digits.
    pub value: f64,
}

/// Which figure of a metric a track keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stat {
    /// A counter's rate, a gauge's value, a histogram's mean.
    Value,
    P50,
    P95,
    P99,
}

struct State {
    /// Ticks taken; the newest point is at `(ticks - 1) % POINTS_MAX`.
    ticks: usize,
    unix_ms: Box<[u64]>,
    /// Grows to the tracks that the table allows, see [`State::put`]; nothing is removed.
    tracks: HashMap<Id, Vec<Track>>,
    last: Option<(Instant, Snapshot)>,
}

/// One ring. Four bytes a point: seven digits are more than a curve shows, and half the memory.
struct Track {
    label: Option<Arc<str>>,
    stat: Stat,
    /// NaN where there is no value.
    values: Box<[f32]>,
}

// === impl Timeline ===

impl Timeline {
    /// An empty timeline of `registry`; `clock` gives the points their calendar time.
    pub fn new(registry: Registry, clock: Clock) -> Self {
        let state = State {
            ticks: 0,
            unix_ms: vec![0; POINTS_MAX].into_boxed_slice(),
            tracks: HashMap::new(),
            last: None,
        };
        Self {
            registry,
            clock,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Adds the point of this second. A late tick gives one point with the rates of the whole time since the last;
    /// one less than half a second after the last is left out.
    pub fn tick(&self, now: Instant) {
        let snapshot = self.registry.snapshot();
        self.lock().tick(now, self.clock.wall_ms(), snapshot);
    }

    /// The points of `range` (unix milliseconds) in order of time; seconds without a value are missing.
    pub fn series<'a>(&self, key: impl Into<Key<'a>>, range: impl RangeBounds<u64>) -> Vec<Point> {
        let state = self.lock();
        state
            .points(key.into())
            .filter(|point| range.contains(&point.unix_ms))
            .collect()
    }

    /// The newest point, if the last second has one.
    pub fn last<'a>(&self, key: impl Into<Key<'a>>) -> Option<Point> {
        let state = self.lock();
        let newest_ms = state.newest_ms()?;
        state
            .points(key.into())
            .last()
            .filter(|point| point.unix_ms == newest_ms)
    }

    /// The mean over the kept history.
    pub fn average<'a>(&self, key: impl Into<Key<'a>>) -> Option<f64> {
        let state = self.lock();
        let (sum, n) = state
            .points(key.into())
            .fold((0.0, 0_u32), |(sum, n), point| (sum + point.value, n + 1));
        (n > 0).then(|| sum / f64::from(n))
    }

    /// The largest value of the kept history.
    pub fn peak<'a>(&self, key: impl Into<Key<'a>>) -> Option<f64> {
        self.lock()
            .points(key.into())
            .map(|point| point.value)
            .reduce(f64::max)
    }

    /// The label values that have tracks of their own, rising; none for metrics kept as one.
    pub fn label_values(&self, id: Id) -> Vec<Arc<str>> {
        let state = self.lock();
        let tracks = state.tracks.get(&id).into_iter().flatten();
        let mut values: Vec<_> = tracks
            .filter(|track| track.stat == Stat::Value)
            .filter_map(|track| track.label.clone())
            .collect();
        values.sort();
        values
    }

    /// How many points there are.
    pub fn len(&self) -> usize {
        self.lock().ticks.min(POINTS_MAX)
    }

    /// Whether there is no point yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl fmt::Debug for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timeline")
            .field("points", &self.len())
            .finish_non_exhaustive()
    }
}

// === impl Key ===

impl<'a> Key<'a> {
    /// The metric over all labels: a counter's rate, a gauge's value, a histogram's mean.
    pub const fn of(id: Id) -> Self {
        Self {
            id,
            label: None,
            stat: Stat::Value,
        }
    }

    /// The same figure for one value of the metric's only label.
    #[must_use]
    pub const fn label(self, value: &'a str) -> Self {
        Self {
            label: Some(value),
            ..self
        }
    }

    /// The median of a histogram.
    #[must_use]
    pub const fn p50(self) -> Self {
        Self {
            stat: Stat::P50,
            ..self
        }
    }

    /// The 95th percentile of a histogram.
    #[must_use]
    pub const fn p95(self) -> Self {
        Self {
            stat: Stat::P95,
            ..self
        }
    }

    /// The 99th percentile of a histogram.
    #[must_use]
    pub const fn p99(self) -> Self {
        Self {
            stat: Stat::P99,
            ..self
        }
    }
}

impl From<Id> for Key<'_> {
    fn from(id: Id) -> Self {
        Self::of(id)
    }
}

// === impl State ===

impl State {
    fn tick(&mut self, now: Instant, unix_ms: u64, snapshot: Snapshot) {
        let last = self.last.take();
        if let Some((then, old)) = last.as_ref() {
            if now - *then < SPACING_MIN {
                self.last = last;
                return;
            }
            self.add_point(unix_ms);
            let elapsed = now - *then;
            self.put_all(&snapshot, Some((old, elapsed.as_secs_f64())));
        } else {
            self.add_point(unix_ms);
            self.put_all(&snapshot, None);
        }
        self.last = Some((now, snapshot));
    }

    /// Opens the slot of a new point, in which nothing has a value yet.
    fn add_point(&mut self, unix_ms: u64) {
        let slot = self.ticks % POINTS_MAX;
        self.ticks += 1;
        self.unix_ms[slot] = unix_ms;
        for track in self.tracks.values_mut().flatten() {
            track.values[slot] = f32::NAN;
        }
    }

    fn put_all(&mut self, new: &Snapshot, old: Option<(&Snapshot, f64)>) {
        for metric in TABLE.iter().filter(|metric| !new.of(metric.id).is_empty()) {
            match metric.kind {
                Kind::Gauge => self.put(metric, None, Stat::Value, new.gauge(metric.id) as f64),
                Kind::Counter => self.put_rate(metric, new, old),
                Kind::Histogram => self.put_distribution(metric, new, old),
            }
            if is_kept_by_label(metric) {
                self.put_by_label(metric, new, old);
            }
        }
    }

    fn put_rate(&mut self, metric: &Metric, new: &Snapshot, old: Option<(&Snapshot, f64)>) {
        let Some((old, seconds)) = old else { return };
        let grown = new.counter(metric.id).saturating_sub(old.counter(metric.id));
        self.put(metric, None, Stat::Value, grown as f64 / seconds);
    }

    fn put_distribution(&mut self, metric: &Metric, new: &Snapshot, old: Option<(&Snapshot, f64)>) {
        let Some((old, _)) = old else { return };
        let fresh: HistogramSnapshot = new.histogram(metric.id).since(&old.histogram(metric.id));
        if fresh.count() == 0 {
            return;
        }
        self.put(metric, None, Stat::Value, fresh.mean());
        for (stat, p) in [(Stat::P50, 0.50), (Stat::P95, 0.95), (Stat::P99, 0.99)] {
            self.put(metric, None, stat, fresh.quantile(p) as f64);
        }
    }

    fn put_by_label(&mut self, metric: &Metric, new: &Snapshot, old: Option<(&Snapshot, f64)>) {
        for series in new.of(metric.id) {
            let label = &series.labels[0].1;
            match (&series.value, old) {
                (Value::Gauge(value), _) => self.put(metric, Some(label), Stat::Value, *value as f64),
                (Value::Counter(sum), Some((old, seconds))) => {
                    let before = old.by_label(metric.id).find(|(value, _)| *value == &**label);
                    let before = before.and_then(|(_, value)| value.as_counter()).unwrap_or(0);
                    self.put(
                        metric,
                        Some(label),
                        Stat::Value,
                        sum.saturating_sub(before) as f64 / seconds,
                    );
                }
                _ => {}
            }
        }
    }

    /// Writes into the newest slot. A metric has at most one track for each admitted label value, `other` and
    /// the whole; labels that come when these are taken are seen in the whole only.
    fn put(&mut self, metric: &Metric, label: Option<&Arc<str>>, stat: Stat, value: f64) {
        let slot = (self.ticks - 1) % POINTS_MAX;
        let tracks = self.tracks.entry(metric.id).or_default();
        let known = tracks
            .iter()
            .position(|track| track.stat == stat && track.label.as_ref() == label);
        let at = known.unwrap_or(tracks.len());
        if known.is_none() {
            if label.is_some() && tracks.len() >= LABEL_VALUES_MAX + 2 {
                return;
            }
            let values = vec![f32::NAN; POINTS_MAX].into_boxed_slice();
            tracks.push(Track {
                label: label.cloned(),
                stat,
                values,
            });
        }
        tracks[at].values[slot] = value as f32;
    }

    fn points(&self, key: Key<'_>) -> impl Iterator<Item = Point> {
        let tracks = self.tracks.get(&key.id).into_iter().flatten();
        let mut matching =
            tracks.filter(move |track| track.stat == key.stat && track.label.as_deref() == key.label);
        let track = matching.next();
        let first = self.ticks.saturating_sub(POINTS_MAX);
        (first..self.ticks).filter_map(move |tick| {
            let slot = tick % POINTS_MAX;
            let value = f64::from(track?.values[slot]);
            (!value.is_nan()).then(|| Point {
                unix_ms: self.unix_ms[slot],
                value,
            })
        })
    }

    fn newest_ms(&self) -> Option<u64> {
        let newest = self.ticks.checked_sub(1)?;
        Some(self.unix_ms[newest % POINTS_MAX])
    }
}

fn is_kept_by_label(metric: &Metric) -> bool {
    metric.kind != Kind::Histogram
        && metric.labels.len() == 1
        && metric.labels[0].values_max <= LABEL_VALUES_MAX
}
