//! How long the polls of named tasks take: a long one keeps every other task of its thread waiting.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::span::{self, tick};

/// A poll longer than this counts as long: a runtime with thousands of tasks has a millisecond for each turn.
pub const LONG_POLL: Duration = Duration::from_millis(1);

/// Names with figures of their own; later names count together as [`OTHER`].
pub const NAMES_MAX: usize = 256;
/// The name under which tasks beyond [`NAMES_MAX`] count.
pub const OTHER: &str = "other";

/// The polls of all tasks of one name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// The task's name.
    pub name: String,
    /// Polls so far.
    pub polls: u64,
    /// Of those, longer than [`LONG_POLL`].
    pub long_polls: u64,
    /// Time in polls.
    pub busy_ns: u64,
    /// The longest poll since the process began.
    pub max_ns: u64,
}

struct Cells {
    name: &'static str,
    polls: AtomicU64,
    long_polls: AtomicU64,
    busy_ns: AtomicU64,
    max_ns: AtomicU64,
}

static NAMES: Mutex<BTreeMap<&'static str, &'static Cells>> = Mutex::new(BTreeMap::new());

/// Runs `future` and counts its polls under `name`, which is written in code: names are never forgotten.
///
/// # Cancel safety
/// As that of `future`.
pub async fn watch<F: Future>(name: &'static str, clock: Clock, future: F) -> F::Output {
    let cells = cells_of(name);
    let mut future = pin!(future);
    poll_fn(|context| {
        let start = clock.now();
        let polled = future.as_mut().poll(context);
        cells.record(clock.now() - start);
        polled
    })
    .await
}

/// As [`watch`], but only while recording is on ([`crate::span::is_enabled`]); off, a poll costs one load more.
///
/// # Cancel safety
/// As that of `future`.
pub async fn watch_recording<F: Future>(name: &'static str, future: F) -> F::Output {
    let mut cells = None;
    let mut future = pin!(future);
    poll_fn(|context| {
        if !span::is_enabled() {
            return future.as_mut().poll(context);
        }
        let cells: &'static Cells = cells.get_or_insert_with(|| cells_of(name));
        let start = tick::now();
        let polled = future.as_mut().poll(context);
        cells.record(Duration::from_nanos(tick::ns_between(start, tick::now())));
        polled
    })
    .await
}

/// The figures of every name, by falling busy time.
pub fn figures() -> Vec<Figures> {
    let names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    sorted(names.values().map(|cells| cells.figures()).collect())
}

/// What came between two lists of figures; the longest poll stays that of the process.
pub(super) fn between(earlier: &[Figures], later: &[Figures]) -> Vec<Figures> {
    let since = |now: &Figures| match earlier.iter().find(|then| then.name == now.name) {
        Some(then) => Figures {
            name: now.name.clone(),
            polls: now.polls.saturating_sub(then.polls),
            long_polls: now.long_polls.saturating_sub(then.long_polls),
            busy_ns: now.busy_ns.saturating_sub(then.busy_ns),
            max_ns: now.max_ns,
        },
        None => now.clone(),
    };
    sorted(later.iter().map(since).collect())
}

fn sorted(mut all: Vec<Figures>) -> Vec<Figures> {
    all.sort_by(|a, b| b.busy_ns.cmp(&a.busy_ns).then_with(|| a.name.cmp(&b.name)));
    all
}

fn cells_of(name: &'static str) -> &'static Cells {
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    let is_full = names.len() >= NAMES_MAX && !names.contains_key(name);
    let name = if is_full { OTHER } else { name };
    names
        .entry(name)
        .or_insert_with(|| Box::leak(Box::new(Cells::new(name))))
}

// === impl Cells ===

impl Cells {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            polls: AtomicU64::new(0),
            long_polls: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }

    fn record(&self, took: Duration) {
        let ns = took.as_nanos() as u64;
        self.polls.fetch_add(1, Relaxed);
        self.long_polls.fetch_add(u64::from(took > LONG_POLL), Relaxed);
        self.busy_ns.fetch_add(ns, Relaxed);
        if ns > self.max_ns.load(Relaxed) {
            self.max_ns.fetch_max(ns, Relaxed);
        }
    }

    fn figures(&self) -> Figures {
        Figures {
            name: self.name.to_owned(),
            polls: self.polls.load(Relaxed),
            long_polls: self.long_polls.load(Relaxed),
            busy_ns: self.busy_ns.load(Relaxed),
            max_ns: self.max_ns.load(Relaxed),
        }
    }
}
