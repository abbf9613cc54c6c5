//! What is known of one function: the merged reading, and the figures people look at.

use super::buckets::Distribution;

/// A function's merged counts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    pub(super) name: String,
    pub(super) file: &'static str,
    pub(super) line: u32,
    pub(super) calls: u64,
    pub(super) time_ns: u64,
    pub(super) total_ns: u64,
    pub(super) max_ns: u64,
    pub(super) allocated_bytes: u64,
    pub(super) has_allocated: bool,
    pub(super) polls: u64,
    pub(super) awaiting_ns: u64,
    pub(super) distribution: Distribution,
}

/// The figures of one function. Plain values, so that a stored report can be read back into them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// Path of the function, or the name given to the attribute.
    pub name: String,
    /// Source file and line.
    pub file: String,
    /// Line of the function.
    pub line: u32,
    /// Calls that ended.
    pub calls: u64,
    /// Time in the function and what it calls; a recursive call counts once.
    pub total_ns: u64,
    /// Mean time of a call; an async call takes the sum of its polls.
    pub mean_ns: f64,
    /// Standard deviation of a call's time.
    pub deviation_ns: f64,
    /// Half of the calls took less.
    pub p50_ns: u64,
    /// 95 % of the calls took less.
    pub p95_ns: u64,
    /// 99 % of the calls took less.
    pub p99_ns: u64,
    /// The longest call.
    pub max_ns: u64,
    /// Bytes allocated in the function and what it calls, where the allocator counts them.
    pub allocated_bytes: Option<u64>,
    /// Polls of an async function; zero for others.
    pub polls: u64,
    /// Time between the polls of an async function.
    pub awaiting_ns: u64,
}

// === impl Reading ===

impl Reading {
    pub(super) fn empty(name: &str, file: &'static str, line: u32) -> Self {
        Self {
            name: name.to_owned(),
            file,
            line,
            calls: 0,
            time_ns: 0,
            total_ns: 0,
            max_ns: 0,
            allocated_bytes: 0,
            has_allocated: false,
            polls: 0,
            awaiting_ns: 0,
            distribution: Distribution::new(),
        }
    }

    /// Path of the function, or the name given to the attribute.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether `other` is of the same function.
    pub fn is_of(&self, other: &Self) -> bool {
        self.name == other.name && self.file == other.file && self.line == other.line
    }

    /// What came since `earlier`, which is of the same function. The maximum is then the end of the highest bucket.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let distribution = self.distribution.since(&earlier.distribution);
        Self {
            name: self.name.clone(),
            calls: self.calls.saturating_sub(earlier.calls),
            time_ns: self.time_ns.saturating_sub(earlier.time_ns),
            total_ns: self.total_ns.saturating_sub(earlier.total_ns),
            max_ns: self.max_ns.min(distribution.max()),
            allocated_bytes: self.allocated_bytes.saturating_sub(earlier.allocated_bytes),
            polls: self.polls.saturating_sub(earlier.polls),
            awaiting_ns: self.awaiting_ns.saturating_sub(earlier.awaiting_ns),
            distribution,
            ..*self
        }
    }

    /// The figures people look at.
    pub fn figures(&self) -> Figures {
        let quantile = |q| self.distribution.quantile(q).min(self.max_ns);
        Figures {
            name: self.name.clone(),
            file: self.file.to_owned(),
            line: self.line,
            calls: self.calls,
            total_ns: self.total_ns,
            mean_ns: if self.calls == 0 {
                0.0
            } else {
                self.time_ns as f64 / self.calls as f64
            },
            deviation_ns: self.distribution.deviation(),
            p50_ns: quantile(0.50),
            p95_ns: quantile(0.95),
            p99_ns: quantile(0.99),
            max_ns: self.max_ns,
            allocated_bytes: self.has_allocated.then_some(self.allocated_bytes),
            polls: self.polls,
            awaiting_ns: self.awaiting_ns,
        }
    }
}
