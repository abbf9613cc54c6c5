//! The statement monitor: every statement timed, grouped by its shape, and told about when it was slow.
//!
//! ```
//! use std::panic::Location;
//! use tidegate_store::statement::{Config, Monitor, Order};
//! use tidegate_vitals::{Clock, Registry};
//!
//! let monitor = Monitor::new(Config::default(), Clock::real(), &Registry::new());
//! let mut timing = monitor.begin("SELECT price FROM ticks WHERE symbol = 'IF2409'", Location::caller());
//! timing.acquired();
//! timing.executed();
//! timing.finish(1, Ok(()));
//! assert_eq!(monitor.top(Order::Total, 1)[0].text, "select price from ticks where symbol = $1");
//! ```

mod book;
mod figures;
mod histogram;
pub(crate) mod lexer;
mod shape;
mod slow;
mod stats;
pub(crate) mod tables;

use std::collections::HashMap;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidegate_vitals::clock::Instant;
use tidegate_vitals::{Clock, Counter, Histogram, Id, Registry};

use self::book::{Book, Seen, Texts};
pub(crate) use self::figures::Part;
use self::figures::{End, Run};
use self::slow::SlowList;
pub use self::stats::{Level, Order, SlowStatement, StatementStats, Summary, TableFigures, Times, Totals};
pub use self::tables::Verb;
use crate::error::{Error, Result};

/// What the monitor keeps and when it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether statements are timed at all.
    pub enabled: bool,
    /// A statement that executes and fetches for at least this long is slow.
    pub slow: Duration,
    /// And from here on critical.
    pub critical: Duration,
    /// Fingerprints in the list, 1 to 10,000; 5 KiB each. When it is full, the one with the least time makes room.
    pub fingerprints_max: usize,
    /// Slow statements remembered, 1 to 10,000.
    pub slow_list_max: usize,
    /// Tables with figures of their own, 1 to 10,000; the others share one place.
    pub tables_max: usize,
}

/// Times every statement. Clones are the same monitor.
#[derive(Clone)]
pub struct Monitor(Arc<Inner>);

/// A statement under way. Dropping it before [`Timing::finish`] counts the statement as cancelled.
#[must_use = "a timing that is dropped counts its statement as cancelled"]
pub struct Timing {
    /// None when the monitor is off, or the statement was counted.
    run: Option<Started>,
}

struct Started {
    monitor: Arc<Inner>,
    seen: Arc<Seen>,
    caller: &'static Location<'static>,
    start: Instant,
    acquired: Option<Instant>,
    executed: Option<Instant>,
    rows: u64,
}

struct Inner {
    config: Config,
    clock: Clock,
    texts: Texts,
    book: Book,
    slow: SlowList,
    metrics: Metrics,
}

struct Metrics {
    registry: Registry,
    by_verb: [Counter; Verb::ALL.len()],
    time: Histogram,
    warning: Counter,
    critical: Counter,
    /// A counter per SQLSTATE, at most [`SQLSTATES_MAX`]; the rest is `other`.
    by_sqlstate: Mutex<HashMap<Box<str>, Counter>>,
}

/// As many as the label of the metric takes.
const SQLSTATES_MAX: usize = 64;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            enabled: true,
            slow: Duration::from_secs(1),
            critical: Duration::from_secs(5),
            fingerprints_max: 1_000,
            slow_list_max: 256,
            tables_max: 1_000,
        }
    }
}

impl Config {
    /// Whether the values are in their ranges.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting, its value and what is allowed.
    pub fn check(&self) -> Result<()> {
        let broken = |what: &str, problem: String| {
            Err(Error::Config {
                what: format!("monitor.{what}"),
                problem,
            })
        };
        if self.slow.is_zero() {
            return broken("slow", "must be longer than 0 s".to_owned());
        }
        if self.critical < self.slow {
            return broken(
                "critical",
                format!("{:?} is less than slow = {:?}", self.critical, self.slow),
            );
        }
        for (what, value) in [
            ("fingerprints_max", self.fingerprints_max),
            ("slow_list_max", self.slow_list_max),
            ("tables_max", self.tables_max),
        ] {
            if !(1..=10_000).contains(&value) {
                return broken(what, format!("{value} is not 1 to 10,000"));
            }
        }
        Ok(())
    }
}

/// A statement, or a part of one, without its literals: the text that fingerprints are made of.
#[must_use]
pub fn redacted(sql: &str) -> String {
    shape::Shape::of(sql).text.into()
}

// === impl Monitor ===

impl Monitor {
    /// A monitor without figures. [`Config::check`] says whether the values make sense.
    #[must_use]
    pub fn new(config: Config, clock: Clock, registry: &Registry) -> Self {
        Self(Arc::new(Inner {
            clock,
            texts: Texts::new(),
            book: Book::new(config.fingerprints_max, config.tables_max),
            slow: SlowList::new(config.slow_list_max),
            metrics: Metrics::new(registry),
            config,
        }))
    }

    /// A statement begins to wait for its connection. Costs about 100 ns if its text was seen before.
    pub fn begin(&self, sql: &str, caller: &'static Location<'static>) -> Timing {
        let inner = &self.0;
        if !inner.config.enabled {
            return Timing { run: None };
        }
        Timing {
            run: Some(Started {
                seen: inner.texts.find(sql, &inner.book),
                caller,
                start: inner.clock.now(),
                acquired: None,
                executed: None,
                rows: 0,
                monitor: Arc::clone(inner),
            }),
        }
    }

    /// The first `n` fingerprints by `order`; what lost its place is not among them.
    #[must_use]
    pub fn top(&self, order: Order, n: usize) -> Vec<StatementStats> {
        let mut entries = self.0.book.entries();
        if order == Order::Total {
            // The usual question needs the figures of n alone.
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.busy_ns()));
            entries.truncate(n);
        }
        let mut stats: Vec<_> = entries.iter().map(|entry| StatementStats::of(entry)).collect();
        stats.retain(|stats| stats.totals.calls > 0);
        let value = |stats: &StatementStats| match order {
            Order::Total => stats.totals.busy_ms(),
            Order::Mean => stats.totals.busy_ms() / stats.totals.calls as f64,
            Order::Calls => stats.totals.calls as f64,
            Order::Rows => stats.totals.rows as f64,
        };
        stats.sort_by(|a, b| {
            value(b)
                .total_cmp(&value(a))
                .then_with(|| a.fingerprint.cmp(&b.fingerprint))
        });
        stats.truncate(n);
        stats
    }

    /// The figures of what lost its place in the list.
    #[must_use]
    pub fn other(&self) -> StatementStats {
        StatementStats::of(&self.0.book.other)
    }

    /// The first `n` tables by time.
    #[must_use]
    pub fn tables(&self, n: usize) -> Vec<TableFigures> {
        let tables = self.0.book.tables();
        let mut stats: Vec<_> = tables.iter().map(|table| TableFigures::of(table)).collect();
        stats.sort_by(|a, b| {
            b.totals
                .busy_ms()
                .total_cmp(&a.totals.busy_ms())
                .then_with(|| a.table.cmp(&b.table))
        });
        stats.truncate(n);
        stats
    }

    /// The last `n` slow statements, newest first.
    #[must_use]
    pub fn slow(&self, n: usize) -> Vec<SlowStatement> {
        self.0.slow.last(n)
    }

    /// All statements together.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.0.summary()
    }

    /// Calls `tell` for each slow statement, at its very end and on the task that ran it: it must not block. Callbacks add
    /// up; they stay as long as the monitor.
    pub fn on_slow(&self, tell: Arc<dyn Fn(&SlowStatement) + Send + Sync>) {
        self.0.slow.on_slow(tell);
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("config", &self.0.config)
            .field("fingerprints", &self.0.book.n_entries())
            .finish_non_exhaustive()
    }
}

// === impl Timing ===

impl Timing {
    /// A connection is there; what came before is the wait.
    pub fn acquired(&mut self) {
        if let Some(run) = &mut self.run {
            run.acquired = Some(run.monitor.clock.now());
        }
    }

    /// The first row, or the end of a statement without rows; what comes after is the fetch.
    pub fn executed(&mut self) {
        if let Some(run) = &mut self.run {
            run.executed = Some(run.monitor.clock.now());
        }
    }

    /// Rows so far, for a statement that may be given up while it gives them.
    pub fn rows(&mut self, rows: u64) {
        if let Some(run) = &mut self.run {
            run.rows = rows;
        }
    }

    /// The statement ended with so many rows, or with an error of this SQLSTATE.
    pub fn finish(mut self, rows: u64, result: std::result::Result<(), &str>) {
        if let Some(mut run) = self.run.take() {
            run.rows = rows;
            match result {
                Ok(()) => run.end(End::Ok, None),
                Err(sqlstate) => run.end(End::Failed, Some(sqlstate)),
            }
        }
    }
}

impl Drop for Timing {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            run.end(End::Cancelled, None);
        }
    }
}

impl Started {
    fn end(self, end: End, sqlstate: Option<&str>) {
        let inner = &*self.monitor;
        let now = inner.clock.now();
        // Without a connection all was wait; a caller that never says `acquired` but went on had no wait.
        let acquired = self.acquired.or(self.executed.map(|_| self.start));
        let acquired = acquired.unwrap_or(if end == End::Ok { self.start } else { now });
        let executed = self.executed.unwrap_or(now);
        let mut run = Run {
            wait_ns: (acquired - self.start).as_nanos() as u64,
            execute_ns: (executed - acquired).as_nanos() as u64,
            fetch_ns: (now - executed).as_nanos() as u64,
            rows: self.rows,
            end,
            is_slow: false,
        };
        let level = inner.config.level(run.busy_ns());
        run.is_slow = level.is_some();
        inner.book.record(&self.seen.entry, &run);
        inner.metrics.record(self.seen.entry.shape.verb, &run, sqlstate);
        if let Some(level) = level {
            self.report(level, &run, sqlstate);
        }
    }

    #[cold]
    fn report(&self, level: Level, run: &Run, sqlstate: Option<&str>) {
        let inner = &*self.monitor;
        let shape = &self.seen.entry.shape;
        match level {
            Level::Warning => inner.metrics.warning.inc(),
            Level::Critical => inner.metrics.critical.inc(),
        }
        let slow = SlowStatement {
            at_ms: inner.clock.wall_ms(),
            level,
            fingerprint: stats::hex(shape.fingerprint),
            text: shape.text.to_string(),
            sample: self.seen.text().map(Arc::clone),
            verb: shape.verb,
            tables: shape.tables.iter().map(ToString::to_string).collect(),
            caller: format!("{}:{}", self.caller.file(), self.caller.line()),
            wait: Duration::from_nanos(run.wait_ns),
            execute: Duration::from_nanos(run.execute_ns),
            fetch: Duration::from_nanos(run.fetch_ns),
            rows: run.rows,
            sqlstate: sqlstate.map(ToOwned::to_owned),
            cancelled: run.end == End::Cancelled,
        };
        inner.slow.report(&slow, inner.clock.now());
    }
}

impl Config {
    fn level(&self, busy_ns: u64) -> Option<Level> {
        let busy = Duration::from_nanos(busy_ns);
        if busy >= self.critical {
            Some(Level::Critical)
        } else if busy >= self.slow {
            Some(Level::Warning)
        } else {
            None
        }
    }
}

// === impl Inner ===

impl Inner {
    fn summary(&self) -> Summary {
        let metrics = &self.metrics;
        let taken = metrics.time.snapshot();
        let by_sqlstate: std::collections::BTreeMap<_, _> = metrics
            .by_sqlstate()
            .iter()
            .map(|(sqlstate, counter)| (sqlstate.to_string(), counter.get()))
            .collect();
        let entries = self.book.entries();
        let cancelled = entries.iter().map(|entry| entry.figures().cancelled).sum::<u64>();
        let other = self.book.other.figures();
        let statements = taken.count();
        let critical = metrics.critical.get();
        let slow = metrics.warning.get() + critical;
        Summary {
            statements,
            errors: by_sqlstate.values().sum(),
            cancelled: cancelled + other.cancelled,
            slow,
            critical,
            slow_ratio: slow as f64 / statements.max(1) as f64,
            time: Times::of_snapshot(&taken),
            fingerprints: entries.len(),
            other: other.calls,
            by_verb: Verb::ALL
                .iter()
                .zip(&metrics.by_verb)
                .map(|(verb, counter)| (verb.as_str(), counter.get()))
                .filter(|(_, n)| *n > 0)
                .collect(),
            by_sqlstate,
        }
    }
}

// === impl Metrics ===

impl Metrics {
    fn new(registry: &Registry) -> Self {
        Self {
            by_verb: Verb::ALL.map(|verb| registry.counter(Id::StoreStatements, &[verb.as_str()])),
            time: registry.histogram(Id::StoreStatement, &[]),
            warning: registry.counter(Id::StoreStatementSlow, &["warning"]),
            critical: registry.counter(Id::StoreStatementSlow, &["critical"]),
            by_sqlstate: Mutex::default(),
            registry: registry.clone(),
        }
    }

    fn record(&self, verb: Verb, run: &Run, sqlstate: Option<&str>) {
        self.by_verb[verb as usize].inc();
        self.time.record(run.busy_ns());
        if let Some(sqlstate) = sqlstate {
            self.count_error(sqlstate);
        }
    }

    #[cold]
    fn count_error(&self, sqlstate: &str) {
        let mut known = self.by_sqlstate();
        let sqlstate = if known.contains_key(sqlstate) || known.len() < SQLSTATES_MAX {
            sqlstate
        } else {
            "other"
        };
        known
            .entry(sqlstate.into())
            .or_insert_with(|| self.registry.counter(Id::StoreStatementErrors, &[sqlstate]))
            .inc();
    }

    fn by_sqlstate(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, Counter>> {
        self.by_sqlstate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
