//! What people and programs read of the monitor: plain data, times in milliseconds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::book::{Entry, Table};
use super::figures::{Figures, Part};
use super::tables::Verb;

/// By what the list of statements is sorted, greatest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Time executing and fetching.
    Total,
    /// The mean of that.
    Mean,
    /// Number of calls.
    Calls,
    /// Rows given out or changed.
    Rows,
}

/// How slow a statement was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// At least `slow`.
    Warning,
    /// At least `critical`.
    Critical,
}

/// One part of the time of statements, in milliseconds; quantiles within 6 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Times {
    /// All calls together.
    pub total_ms: f64,
    /// Per call.
    pub mean_ms: f64,
    /// Half of the calls took at most this.
    pub p50_ms: f64,
    /// 99 of 100 calls took at most this.
    pub p99_ms: f64,
    /// The longest call, exact.
    pub max_ms: f64,
}

/// The figures of all statements of one fingerprint since the start.
#[derive(Debug, Clone, Serialize)]
pub struct StatementStats {
    /// The fingerprint, 16 hexadecimal digits; `0` for those that had no place in the list.
    pub fingerprint: String,
    /// The text without literals, comments and case, at most 4 KiB.
    pub text: String,
    /// A text of it as it came, if it was at most 4 KiB. It may hold literals and is never serialized.
    #[serde(skip)]
    pub sample: Option<Arc<str>>,
    /// What it does.
    pub verb: Verb,
    /// The tables it names.
    pub tables: Vec<String>,
    /// The counts and times.
    #[serde(flatten)]
    pub totals: Totals,
}

/// The figures of all statements that name one table since the start.
#[derive(Debug, Clone, Serialize)]
pub struct TableFigures {
    /// The table as statements name it; `other` for those that had no place.
    pub table: String,
    /// The counts and times.
    #[serde(flatten)]
    pub totals: Totals,
}

/// Counts and times of many runs.
#[derive(Debug, Clone, Serialize)]
pub struct Totals {
    /// Statements that ended, however.
    pub calls: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that were given up before their end.
    pub cancelled: u64,
    /// Those that took at least the slow threshold.
    pub slow: u64,
    /// Rows given out or changed.
    pub rows: u64,
    /// Waiting for a connection.
    pub wait: Times,
    /// Until the first row or the end.
    pub execute: Times,
    /// From there to the last row; for streams this includes the reader's own pace.
    pub fetch: Times,
    /// All three.
    pub total: Times,
}

/// A statement that took long.
#[derive(Debug, Clone, Serialize)]
pub struct SlowStatement {
    /// When it ended, unix milliseconds.
    pub at_ms: u64,
    /// How slow it was.
    pub level: Level,
    /// Its fingerprint, 16 hexadecimal digits.
    pub fingerprint: String,
    /// The text with its literals and parameters redacted.
    pub text: String,
    /// The text as it came, if it was at most 4 KiB. It may hold literals and is never serialized.
    #[serde(skip)]
    pub sample: Option<Arc<str>>,
    /// What it does.
    #[serde(skip)]
    pub verb: Verb,
    /// The tables it names.
    pub tables: Vec<String>,
    /// Where in the program it was started: `file:line`.
    pub caller: String,
    /// Waiting for a connection; not part of what makes it slow.
    #[serde(rename = "wait_ms", serialize_with = "as_ms")]
    pub wait: Duration,
    /// Until the first row or the end.
    #[serde(rename = "execute_ms", serialize_with = "as_ms")]
    pub execute: Duration,
    /// From there to the last row.
    #[serde(rename = "fetch_ms", serialize_with = "as_ms")]
    pub fetch: Duration,
    /// Rows given out or changed.
    pub rows: u64,
    /// The error it ended with.
    pub sqlstate: Option<String>,
    /// Whether it was given up before its end.
    pub cancelled: bool,
}

/// All statements since the start.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Statements that ended, however.
    pub statements: u64,
    /// Those that failed.
    pub errors: u64,
    /// Those that were given up before their end.
    pub cancelled: u64,
    /// Those of at least the slow threshold, the critical ones among them.
    pub slow: u64,
    /// Those of at least the critical threshold.
    pub critical: u64,
    /// The share of slow statements, 0 to 1.
    pub slow_ratio: f64,
    /// Time of a statement without the wait for a connection, in milliseconds.
    pub time: Times,
    /// Fingerprints in the list.
    pub fingerprints: usize,
    /// Statements whose fingerprint lost its place.
    pub other: u64,
    /// Statements by what they do.
    pub by_verb: BTreeMap<&'static str, u64>,
    /// Failed statements by SQLSTATE.
    pub by_sqlstate: BTreeMap<String, u64>,
}

impl StatementStats {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            fingerprint: hex(entry.shape.fingerprint),
            text: entry.shape.text.to_string(),
            sample: entry.sample.clone(),
            verb: entry.shape.verb,
            tables: entry.shape.tables.iter().map(ToString::to_string).collect(),
            totals: Totals::of(&entry.figures()),
        }
    }
}

impl TableFigures {
    pub(super) fn of(table: &Table) -> Self {
        Self {
            table: table.name.to_string(),
            totals: Totals::of(&table.figures()),
        }
    }
}

impl Totals {
    fn of(figures: &Figures) -> Self {
        let calls = figures.calls;
        Self {
            calls,
            errors: figures.errors,
            cancelled: figures.cancelled,
            slow: figures.slow,
            rows: figures.rows,
            wait: Times::of(&figures.wait, calls),
            execute: Times::of(&figures.execute, calls),
            fetch: Times::of(&figures.fetch, calls),
            total: Times::of(&figures.total, calls),
        }
    }

    /// Executing and fetching, all calls together.
    #[must_use]
    pub fn busy_ms(&self) -> f64 {
        self.execute.total_ms + self.fetch.total_ms
    }
}

impl Times {
    pub(crate) fn of(part: &Part, calls: u64) -> Self {
        Self {
            total_ms: ms(part.sum_ns),
            mean_ms: if calls == 0 {
                0.0
            } else {
                ms(part.sum_ns) / calls as f64
            },
            p50_ms: ms(part.quantile_ns(0.5)),
            p99_ms: ms(part.quantile_ns(0.99)),
            max_ms: ms(part.max_ns),
        }
    }

    pub(super) fn of_snapshot(taken: &tidegate_vitals::HistogramSnapshot) -> Self {
        Self {
            total_ms: ms(taken.sum()),
            mean_ms: taken.mean() / 1e6,
            p50_ms: ms(taken.quantile(0.5)),
            p99_ms: ms(taken.quantile(0.99)),
            max_ms: ms(taken.max()),
        }
    }
}

/// A fingerprint as people see it: JSON numbers would lose its last digits.
pub(super) fn hex(fingerprint: u64) -> String {
    match fingerprint {
        0 => "0".to_owned(),
        known => format!("{known:016x}"),
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

fn as_ms<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64() * 1e3)
}
