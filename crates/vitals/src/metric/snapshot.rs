//! A snapshot: what all series held when they were read.

use std::sync::Arc;

use super::{HistogramSnapshot, Id};

/// All series at one moment, ordered by [`Id`]; each series by itself is exact, series beside each other were
/// read microseconds apart.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The series; those of one metric stand together, by rising labels.
    pub series: Vec<Series>,
}

/// One metric with one set of label values.
#[derive(Debug, Clone)]
pub struct Series {
    /// The metric.
    pub id: Id,
    /// Label names and values, in the order of the table.
    pub labels: Vec<(&'static str, Arc<str>)>,
    /// What it held.
    pub value: Value,
}

/// What a series held, in the unit of its metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A counter's sum.
    Counter(u64),
    /// A gauge's value.
    Gauge(i64),
    /// A distribution.
    Histogram(HistogramSnapshot),
}

// === impl Snapshot ===

impl Snapshot {
    /// The series of one metric.
    pub fn of(&self, id: Id) -> &[Series] {
        let start = self.series.partition_point(|series| series.id < id);
        let end = self.series.partition_point(|series| series.id <= id);
        &self.series[start..end]
    }

    /// The sum of a counter over its labels; zero if it has not been used.
    ///
    /// It can step back when an idle labelled series is evicted, as any counter does on a restart.
    pub fn counter(&self, id: Id) -> u64 {
        self.of(id)
            .iter()
            .filter_map(|series| series.value.as_counter())
            .fold(0, u64::wrapping_add)
    }

    /// A gauge over its labels: the sum for counts and bytes, the mean for ratios and times; zero if unused.
    pub fn gauge(&self, id: Id) -> i64 {
        let values = || self.of(id).iter().filter_map(|series| series.value.as_gauge());
        let sum: i64 = values().fold(0, i64::saturating_add);
        if id.metric().unit.adds_up() {
            sum
        } else {
            sum / (values().count().max(1) as i64)
        }
    }

    /// A distribution merged over its labels; empty if unused.
    pub fn histogram(&self, id: Id) -> HistogramSnapshot {
        let mut merged = HistogramSnapshot::default();
        for series in self.of(id) {
            if let Value::Histogram(histogram) = &series.value {
                merged.merge(histogram);
            }
        }
        merged
    }

    /// The series of a metric by the value of their first label, rising; none for metrics without labels.
    ///
    /// With several labels a first value comes once for each series that has it.
    pub fn by_label(&self, id: Id) -> impl Iterator<Item = (&str, &Value)> {
        self.of(id)
            .iter()
            .filter_map(|series| Some((&*series.labels.first()?.1, &series.value)))
    }
}

// === impl Series ===

impl Series {
    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|label| label.0 == name)
            .map(|label| &*label.1)
    }
}

// === impl Value ===

impl Value {
    /// The sum, if this is a counter.
    pub fn as_counter(&self) -> Option<u64> {
        if let Self::Counter(sum) = self {
            Some(*sum)
        } else {
            None
        }
    }

    /// The value, if this is a gauge.
    pub fn as_gauge(&self) -> Option<i64> {
        if let Self::Gauge(value) = self {
            Some(*value)
        } else {
            None
        }
    }

    /// The distribution, if this is a histogram.
    pub fn as_histogram(&self) -> Option<&HistogramSnapshot> {
        if let Self::Histogram(histogram) = self {
            Some(histogram)
        } else {
            None
        }
    }
}
