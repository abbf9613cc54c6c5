//! The registry: resolves a metric and its labels to a handle, and bounds how many series there are.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::counter::CounterCells;
use super::gauge::GaugeCell;
use super::histogram::HistogramCells;
use super::{Counter, Gauge, Histogram, Id, Kind, Metric, Series, Snapshot, TABLE, Value};
use crate::clock::Instant;

/// All series of a process, or of one test. Clones are the same registry.
///
/// Resolving takes a short lock and may allocate: do it once and keep the handle. Handles never lock.
/// Nothing accumulates between snapshots, so memory is flat when nobody asks.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

/// The label value that stands for all that did not fit.
pub const OTHER: &str = "other";

/// The most labelled series of a registry: 8 MB of counters, and twice what the labels of the table allow, so that only
/// a fault reaches it. The `other` series come on top, one per metric at most.
pub const SERIES_MAX: usize = 4_000;

/// A labelled series to which no handle refers is forgotten after this time, in which a scraper saw it.
pub const SERIES_IDLE: Duration = Duration::from_secs(300);

struct Inner {
    /// One family per entry of the table, in its order.
    families: Box<[Mutex<Family>]>,
    series_max: usize,
    /// Labelled series in all families; families without labels are bounded by the table.
    n_labelled: AtomicUsize,
}

/// The series of one metric. Grows on resolving within the bounds; [`Registry::sweep`] removes.
#[derive(Default)]
struct Family {
    series: HashMap<Labels, Slot>,
    /// For each label, how many series use each of its values.
    values: Vec<HashMap<Arc<str>, usize>>,
}

type Labels = Box<[Arc<str>]>;

struct Slot {
    cells: Cells,
    /// When a sweep first found it without handles.
    idle_since: Option<Instant>,
}

#[derive(Clone)]
enum Cells {
    Counter(Arc<CounterCells>),
    Gauge(Arc<GaugeCell>),
    Histogram(Arc<HistogramCells>),
}

// === impl Registry ===

impl Registry {
    /// An empty registry with the usual bound, [`SERIES_MAX`].
    pub fn new() -> Self {
        Self::with_series_max(SERIES_MAX)
    }

    /// An empty registry that holds at most `series_max` labelled series, `other` apart.
    pub fn with_series_max(series_max: usize) -> Self {
        let families = TABLE.iter().map(|_| Mutex::default()).collect();
        Self(Arc::new(Inner {
            families,
            series_max,
            n_labelled: AtomicUsize::new(0),
        }))
    }

    /// The counter `id` with these label values, in the order of the table.
    ///
    /// A new value beyond its label's bound, or any new series beyond the registry's, becomes [`OTHER`].
    ///
    /// # Panics
    /// If `id` is not a counter, or the number of labels is wrong: both are mistakes in code.
    pub fn counter(&self, id: Id, labels: &[&str]) -> Counter {
        match self.resolve(id, Kind::Counter, labels) {
            Cells::Counter(cells) => Counter(cells),
            _ => unreachable!("resolve checked the kind of {id:?}"),
        }
    }

    /// The gauge `id` with these label values; see [`Registry::counter`].
    ///
    /// # Panics
    /// If `id` is not a gauge, or the number of labels is wrong.
    pub fn gauge(&self, id: Id, labels: &[&str]) -> Gauge {
        match self.resolve(id, Kind::Gauge, labels) {
            Cells::Gauge(cell) => Gauge(cell),
            _ => unreachable!("resolve checked the kind of {id:?}"),
        }
    }

    /// The histogram `id` with these label values; see [`Registry::counter`].
    ///
    /// # Panics
    /// If `id` is not a histogram, or the number of labels is wrong.
    pub fn histogram(&self, id: Id, labels: &[&str]) -> Histogram {
        match self.resolve(id, Kind::Histogram, labels) {
            Cells::Histogram(cells) => Histogram(cells),
            _ => unreachable!("resolve checked the kind of {id:?}"),
        }
    }

    /// Reads every series.
    pub fn snapshot(&self) -> Snapshot {
        let mut series = Vec::new();
        for metric in TABLE {
            let start = series.len();
            series.extend(self.family(metric.id).read(metric));
            series[start..].sort_by(|a, b| a.labels.cmp(&b.labels));
        }
        Snapshot { series }
    }

    /// Forgets labelled series to which no handle has referred for [`SERIES_IDLE`]; call it every minute or so.
    /// Says how many went.
    pub fn sweep(&self, now: Instant) -> usize {
        let gone = TABLE
            .iter()
            .filter(|metric| !metric.labels.is_empty())
            .map(|metric| self.family(metric.id).sweep(now))
            .sum();
        self.0.n_labelled.fetch_sub(gone, Relaxed);
        gone
    }

    /// How many series are alive.
    pub fn n_series(&self) -> usize {
        Id::all().map(|id| self.family(id).series.len()).sum()
    }

    fn resolve(&self, id: Id, kind: Kind, labels: &[&str]) -> Cells {
        let metric = id.metric();
        assert!(
            metric.kind == kind,
            "{} is a {:?}, asked for as {kind:?}",
            metric.name,
            metric.kind
        );
        assert!(
            metric.labels.len() == labels.len(),
            "{} has {} labels, {} given",
            metric.name,
            metric.labels.len(),
            labels.len()
        );
        let (cells, overflowed) = self.resolve_in(metric, labels);
        if overflowed {
            self.counter(Id::SeriesOverflow, &[]).inc();
        }
        cells
    }

    /// The cells for these labels, and whether some had to become [`OTHER`].
    fn resolve_in(&self, metric: &Metric, labels: &[&str]) -> (Cells, bool) {
        let mut family = self.family(metric.id);
        let bounded = family.bounded(metric, labels);
        if let Some(cells) = family.find(&bounded) {
            return (cells, bounded != labels);
        }
        let only_other = vec![OTHER; labels.len()];
        if bounded == only_other || self.take_place() {
            if bounded == only_other && !labels.is_empty() {
                self.0.n_labelled.fetch_add(1, Relaxed);
            }
            return (family.insert(metric, &bounded), bounded != labels);
        }
        let cells = family.find(&only_other).unwrap_or_else(|| {
            self.0.n_labelled.fetch_add(1, Relaxed);
            family.insert(metric, &only_other)
        });
        (cells, true)
    }

    /// Takes one of the places for labelled series, if one is left.
    fn take_place(&self) -> bool {
        let max = self.0.series_max;
        self.0
            .n_labelled
            .fetch_update(Relaxed, Relaxed, |n| (n < max).then_some(n + 1))
            .is_ok()
    }

    fn family(&self, id: Id) -> MutexGuard<'_, Family> {
        // A panic under this lock cannot leave a family half changed in a way that matters for figures.
        self.0.families[id as usize]
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("n_series", &self.n_series())
            .finish_non_exhaustive()
    }
}

// === impl Family ===

impl Family {
    /// The labels with each value that its bound does not admit replaced by [`OTHER`].
    fn bounded<'a>(&self, metric: &Metric, labels: &[&'a str]) -> Vec<&'a str> {
        let admit = |(at, &value): (usize, &&'a str)| {
            let known = self.values.get(at);
            let admitted = known.is_none_or(|values| {
                values.contains_key(value) || values.len() < metric.labels[at].values_max
            });
            if admitted { value } else { OTHER }
        };
        labels.iter().enumerate().map(admit).collect()
    }

    /// The cells of a series, which counts as used again.
    fn find(&mut self, labels: &[&str]) -> Option<Cells> {
        // Resolving is rare; a key of its own keeps the map simple.
        let key: Labels = labels.iter().map(|value| Arc::from(*value)).collect();
        let slot = self.series.get_mut(&key)?;
        slot.idle_since = None;
        Some(slot.cells.clone())
    }

    fn insert(&mut self, metric: &Metric, labels: &[&str]) -> Cells {
        self.values.resize_with(labels.len(), HashMap::new);
        let key: Labels = labels.iter().map(|value| Arc::from(*value)).collect();
        for (values, value) in self.values.iter_mut().zip(&key) {
            // `other` is no value of its own: it must not take the last place of a label.
            if &**value != OTHER {
                *values.entry(Arc::clone(value)).or_default() += 1;
            }
        }
        let cells = Cells::new(metric.kind);
        self.series.insert(
            key,
            Slot {
                cells: cells.clone(),
                idle_since: None,
            },
        );
        cells
    }

    fn sweep(&mut self, now: Instant) -> usize {
        let before = self.series.len();
        let values = &mut self.values;
        self.series.retain(|labels, slot| {
            let keep = !slot.is_over(now);
            if !keep {
                forget_values(values, labels);
            }
            keep
        });
        before - self.series.len()
    }

    fn read<'a>(&'a self, metric: &'a Metric) -> impl Iterator<Item = Series> + 'a {
        self.series.iter().map(|(values, slot)| Series {
            id: metric.id,
            labels: metric
                .labels
                .iter()
                .map(|label| label.name)
                .zip(values.iter().cloned())
                .collect(),
            value: slot.cells.read(),
        })
    }
}

fn forget_values(values: &mut [HashMap<Arc<str>, usize>], labels: &Labels) {
    for (values, value) in values.iter_mut().zip(labels.iter()) {
        if let Some(users) = values.get_mut(value) {
            *users -= 1;
            if *users == 0 {
                values.remove(value);
            }
        }
    }
}

// === impl Slot ===

impl Slot {
    /// Whether nobody has held it for long enough; notes when it was first found without handles.
    fn is_over(&mut self, now: Instant) -> bool {
        if self.cells.n_holders() > 1 {
            self.idle_since = None;
            return false;
        }
        let since = *self.idle_since.get_or_insert(now);
        now - since >= SERIES_IDLE
    }
}

// === impl Cells ===

impl Cells {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter(Arc::new(CounterCells::new())),
            Kind::Gauge => Self::Gauge(Arc::default()),
            Kind::Histogram => Self::Histogram(Arc::new(HistogramCells::new())),
        }
    }

    /// The registry itself and every handle. New handles come from this registry under the family's lock or from
    /// a living handle, so one holder under that lock means that there is none outside.
    fn n_holders(&self) -> usize {
        match self {
            Self::Counter(cells) => Arc::strong_count(cells),
            Self::Gauge(cell) => Arc::strong_count(cell),
            Self::Histogram(cells) => Arc::strong_count(cells),
        }
    }

    fn read(&self) -> Value {
        match self {
            Self::Counter(cells) => Value::Counter(cells.sum()),
            Self::Gauge(cell) => Value::Gauge(cell.value()),
            Self::Histogram(cells) => Value::Histogram(cells.snapshot()),
        }
    }
}
