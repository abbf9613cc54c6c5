//! Bounds how much is in flight, by a limit that is fixed or finds itself, and says no early to the rest.
//!
//! ```text
//! acquire(partition) ─▶ place free? ─▶ Permit ─▶ succeed · fail · ignore ─▶ latency ─▶ the limit moves
//!                        └▶ a short line, bounded by count and time ─▶ Refused { retry_after, .. }
//! ```
//!
//! ```
//! use tidegate_flow::limiter::{Limiter, Partition};
//! use tidegate_vitals::Clock;
//!
//! let queries = Limiter::fixed("queries", 1, Clock::real());
//! let permit = queries.try_acquire(Partition::OTHER).expect("nobody else is here");
//! let refused = queries.try_acquire(Partition::OTHER).unwrap_err();
//! assert_eq!((refused.limit, refused.in_flight), (1, 1));
//! permit.succeed();
//! assert!(queries.try_acquire(Partition::OTHER).is_ok());
//! ```

mod config;
#[doc(hidden)]
pub mod simulate;
mod state;
mod vegas;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_vitals::{Clock, Id, Registry};
use tokio::sync::oneshot;

pub use config::{Adaptive, Config, Limit, PARTITIONS_MAX, Partition, Share};
use state::{Let, Place, State};
use vegas::Sample;

/// Lets a bounded number of calls in. Clones are the same limiter.
///
/// Latency is read from the [`Clock`] given, waits are the runtime's own; both can be moved by hand.
#[derive(Clone)]
pub struct Limiter(Arc<Shared>);

/// The right to be in flight. Dropping it is [`Permit::ignore`].
#[must_use = "a permit that is dropped gives its place back"]
pub struct Permit {
    shared: Arc<Shared>,
    place: Place,
    sample: Sample,
}

/// Why a call was not let in, in numbers of the limit that was in the way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {how}: {in_flight} of {limit} in flight for {}, {waiting} waiting", self.whose())]
pub struct Refused {
    /// The limiter's name.
    pub name: &'static str,
    /// The limit.
    pub limit: usize,
    /// In flight under it.
    pub in_flight: usize,
    /// Waiting for it.
    pub waiting: usize,
    /// When it is worth to try again.
    pub retry_after: Duration,
    /// The caller's partition.
    pub partition: Arc<str>,
    /// Whose limit it is.
    pub why: Why,
    /// Whether it could wait.
    pub how: How,
}

/// Whose limit a call met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// The caller's own: its partition may have no more, whatever the others do (HTTP 429).
    Partition,
    /// Everybody's: the server takes no more (HTTP 503).
    Server,
}

/// How a call was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum How {
    /// It was not to wait.
    AtOnce,
    /// The line was full.
    QueueFull,
    /// It waited for as long as it may.
    TimedOut,
}

/// How a limiter stands, and what it has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// The limit, without the cut of a probe.
    pub limit: usize,
    /// Calls in flight.
    pub in_flight: usize,
    /// Calls waiting.
    pub waiting: usize,
    /// Calls let in.
    pub admitted: u64,
    /// Calls refused.
    pub refused: Refusals,
    /// Mean latency without a queue, as last measured; adaptive limits only.
    pub baseline: Option<Duration>,
    /// Mean latency of the last window; adaptive limits only.
    pub latency: Option<Duration>,
    /// How often the baseline was measured.
    pub probes: u32,
    /// The same by partition, [`Partition::OTHER`] first.
    pub partitions: Vec<PartitionStats>,
}

/// How a partition stands, and what it has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStats {
    /// Its name.
    pub name: Arc<str>,
    /// Places it is sure of now.
    pub guaranteed: usize,
    /// Calls in flight.
    pub in_flight: usize,
    /// Calls waiting.
    pub waiting: usize,
    /// Calls let in.
    pub admitted: u64,
    /// Calls refused.
    pub refused: Refusals,
}

/// Calls refused, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Refusals {
    /// At once, by the partition's own limit.
    pub partition: u64,
    /// At once, by the server's limit.
    pub server: u64,
    /// Because the line was full.
    pub queue_full: u64,
    /// After having waited.
    pub timed_out: u64,
}

struct Shared {
    config: Config,
    clock: Clock,
    state: Mutex<State>,
}

/// Leaves the line when the wait ends, in whatever way.
struct InLine<'a> {
    shared: &'a Shared,
    id: u64,
}

// === impl Limiter ===

impl Limiter {
    /// A limiter as configured.
    ///
    /// # Panics
    /// If the configuration contradicts itself (see [`Config`]).
    pub fn new(config: Config, clock: Clock) -> Self {
        config.assert_sound();
        let state = Mutex::new(State::new(&config, clock.now()));
        Self(Arc::new(Shared { config, clock, state }))
    }

    /// At most `limit` calls, at least 1, and the short line of [`Config::new`].
    pub fn fixed(name: &'static str, limit: usize, clock: Clock) -> Self {
        Self::new(Config::new(name, Limit::Fixed(limit)), clock)
    }

    /// As many calls as keep latency near that of an idle server, and the short line of [`Config::new`].
    pub fn adaptive(name: &'static str, adaptive: Adaptive, clock: Clock) -> Self {
        Self::new(Config::new(name, Limit::Adaptive(adaptive)), clock)
    }

    /// The partition of this name, or [`Partition::OTHER`]. Look it up once and keep it.
    pub fn partition(&self, name: &str) -> Partition {
        Partition(self.0.state().partition(name))
    }

    /// Lets a call in, at once or after a short wait in line.
    ///
    /// # Errors
    /// [`Refused`] when the line is full, or after `wait_max` in it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the line; a place that was just given goes to the next.
    pub async fn acquire(&self, partition: Partition) -> Result<Permit, Refused> {
        let (why, id, told) = match self.0.enter_or_queue(partition)? {
            Entered::Now(place) => return Ok(Permit::new(&self.0, place)),
            Entered::Line(why, id, told) => (why, id, told),
        };
        let in_line = InLine { shared: &self.0, id };
        match tokio::time::timeout(self.0.config.wait_max, told).await {
            Ok(permit) => Ok(permit.expect("who waits is told, or leaves the line first")),
            Err(_) => {
                drop(in_line);
                Err(self.0.refuse(partition, why, How::TimedOut))
            }
        }
    }

    /// Lets a call in at once or not at all.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn try_acquire(&self, partition: Partition) -> Result<Permit, Refused> {
        let mut state = self.0.state();
        match state.enter(partition.0, self.0.clock.now()) {
            Ok(place) => Ok(Permit::new(&self.0, place)),
            Err(why) => Err(state.refuse(self.0.config.name, partition.0, why, How::AtOnce)),
        }
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        self.0.state().stats()
    }

    /// Writes the statistics into `registry`; its owner calls it once a second.
    pub fn record(&self, registry: &Registry) {
        let (name, stats) = (self.0.config.name, self.stats());
        registry.gauge(Id::LimiterLimit, &[name]).set(stats.limit as i64);
        let baseline = stats.baseline.unwrap_or_default().as_micros();
        registry.gauge(Id::LimiterBaseline, &[name]).set(baseline as i64);
        for partition in &stats.partitions {
            let labels = [name, &*partition.name];
            registry
                .gauge(Id::LimiterInFlight, &labels)
                .set(partition.in_flight as i64);
            registry
                .gauge(Id::LimiterWaiting, &labels)
                .set(partition.waiting as i64);
            crate::raise(
                &registry.counter(Id::LimiterAdmitted, &labels),
                partition.admitted,
            );
        }
        let Refusals {
            partition,
            server,
            queue_full,
            timed_out,
        } = stats.refused;
        let refused = [
            ("partition", partition),
            ("server", server),
            ("queue_full", queue_full),
            ("timed_out", timed_out),
        ];
        for (reason, n) in refused {
            crate::raise(&registry.counter(Id::LimiterRefused, &[name, reason]), n);
        }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

// === impl Permit ===

impl Permit {
    fn new(shared: &Arc<Shared>, place: Place) -> Self {
        Self {
            shared: Arc::clone(shared),
            place,
            sample: Sample::Unknown,
        }
    }

    /// The call worked: its latency counts.
    pub fn succeed(mut self) {
        self.sample = Sample::Took(self.shared.clock.now() - self.place.since);
    }

    /// The call failed because what it used was overloaded: the limit comes down.
    pub fn fail(mut self) {
        self.sample = Sample::Overloaded;
    }

    /// The call says nothing of the load, as when it was invalid or its caller left.
    pub fn ignore(self) {}

    /// The partition it counts for.
    pub fn partition(&self) -> Partition {
        Partition(self.place.partition)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.exit(self.place, self.sample);
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({}, {:?})", self.shared.config.name, self.place)
    }
}

// === impl Refused ===

impl Refused {
    /// Always: load passes.
    pub const fn is_retryable(&self) -> bool {
        true
    }

    /// Whether the caller's own partition was in the way, and not the load of all.
    pub const fn is_own(&self) -> bool {
        matches!(self.why, Why::Partition)
    }

    fn whose(&self) -> &str {
        if self.is_own() { &self.partition } else { "all" }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtOnce => "full",
            Self::QueueFull => "full with its line",
            Self::TimedOut => "full for too long",
        })
    }
}

// === impl Refusals ===

impl Refusals {
    /// All of them.
    pub const fn total(&self) -> u64 {
        self.partition + self.server + self.queue_full + self.timed_out
    }

    fn count(&mut self, why: Why, how: How) {
        let cell = match (how, why) {
            (How::AtOnce, Why::Partition) => &mut self.partition,
            (How::AtOnce, Why::Server) => &mut self.server,
            (How::QueueFull, _) => &mut self.queue_full,
            (How::TimedOut, _) => &mut self.timed_out,
        };
        *cell += 1;
    }

    fn add(&mut self, other: &Self) {
        self.partition += other.partition;
        self.server += other.server;
        self.queue_full += other.queue_full;
        self.timed_out += other.timed_out;
    }
}

// === impl Shared ===

enum Entered {
    Now(Place),
    Line(Why, u64, oneshot::Receiver<Permit>),
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing foreign runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In one step, so that no place can become free between the look and the wait.
    fn enter_or_queue(&self, partition: Partition) -> Result<Entered, Refused> {
        let Config {
            name,
            waiting_max,
            wait_max,
            ..
        } = self.config;
        let mut state = self.state();
        let why = match state.enter(partition.0, self.clock.now()) {
            Ok(place) => return Ok(Entered::Now(place)),
            Err(why) => why,
        };
        if waiting_max == 0 || wait_max.is_zero() {
            return Err(state.refuse(name, partition.0, why, How::AtOnce));
        }
        match state.queue(partition.0, waiting_max) {
            Some((id, told)) => Ok(Entered::Line(why, id, told)),
            None => Err(state.refuse(name, partition.0, why, How::QueueFull)),
        }
    }

    fn refuse(&self, partition: Partition, why: Why, how: How) -> Refused {
        self.state().refuse(self.config.name, partition.0, why, how)
    }

    fn exit(self: &Arc<Self>, place: Place, sample: Sample) {
        let entered = self.state().exit(place, self.clock.now(), sample);
        // Outside the lock: a permit that nobody takes gives its place back by this same way.
        for (tell, place) in entered {
            self.hand((tell, place));
        }
    }

    fn hand(self: &Arc<Self>, (tell, place): Let) {
        let _ = tell.send(Permit::new(self, place));
    }
}

// === impl InLine ===

impl Drop for InLine<'_> {
    fn drop(&mut self) {
        self.shared.state().leave(self.id);
    }
}
