//! Single flight: callers who want the same thing at the same time share one piece of work.
//!
//! ```text
//! run("a") ─┐
//! run("a") ─┼─▶ [flight "a": a task of its own] ─▶ one outcome, told to all three
//! run("a") ─┘      ends by itself, by a panic, or at run_max; dropped callers do not end it
//! ```
//!
//! ```
//! use tidegate_flow::{Once, once};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let quotes = Once::<String, f64, std::io::Error>::new("quotes", once::Config::default());
//! let price = quotes.run(&"600519".to_owned(), || async { Ok(1685.0) }).await.expect("the work works");
//! assert_eq!(price, 1685.0);
//! assert_eq!(quotes.stats().runs, 1);
//! # }
//! ```

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_vitals::{Id, Registry};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::task::{catch_panic, message_of, spawn_unowned};

/// Runs work once per key at a time. Clones share their flights.
///
/// A key is in the table only while its work runs. It leaves before the outcome is told, so whoever calls after having
/// seen an outcome starts anew and can never be given that same outcome again.
pub struct Once<K, V, E>(Arc<Shared<K, V, E>>);

/// The limits of a [`Once`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Most flights at a time, at least 1; a call that would start one more is refused.
    pub flights_max: usize,
    /// Each caller is answered within this time, whatever the flight does.
    pub wait_max: Duration,
    /// A flight is aborted after this time, at its next await, and all its callers are told.
    pub run_max: Duration,
}

/// Why a caller got no value. All callers of one flight get the same, unless their own wait ended first.
pub enum Failed<E> {
    /// The work gave this error.
    Work(Arc<E>),
    /// The work panicked with this message.
    Panicked(String),
    /// The caller had waited for `wait_max`, or the flight had run for `run_max`.
    TimedOut(Duration),
    /// There were too many flights to start another.
    Busy {
        /// Flights running.
        flights: usize,
    },
    /// The runtime went down under the flight.
    Aborted,
}

/// What a [`Once`] has done, and what runs now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Flights started.
    pub runs: u64,
    /// Calls that joined a flight of another.
    pub joined: u64,
    /// Flights that ended with the work's error.
    pub failed: u64,
    /// Flights that panicked.
    pub panicked: u64,
    /// Flights aborted after `run_max`.
    pub timed_out: u64,
    /// Callers who gave up after `wait_max`; their flights went on.
    pub gave_up: u64,
    /// Calls refused for lack of a flight.
    pub refused: u64,
    /// Flights running now.
    pub in_flight: usize,
}

type Outcome<V, E> = Result<V, Failed<E>>;
type Told<V, E> = watch::Receiver<Option<Outcome<V, E>>>;

struct Shared<K, V, E> {
    name: &'static str,
    config: Config,
    /// Grows to `flights_max`; each entry is removed by its own [`Flight`], and by nothing else.
    flights: Mutex<HashMap<K, Told<V, E>>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    runs: AtomicU64,
    joined: AtomicU64,
    failed: AtomicU64,
    panicked: AtomicU64,
    timed_out: AtomicU64,
    gave_up: AtomicU64,
    refused: AtomicU64,
}

/// The duty to tell the outcome of one flight. Dropped, it removes the key and then tells, so that it happens at the
/// end, on a panic and when the runtime drops the task.
struct Flight<K: Eq + Hash, V, E> {
    shared: Arc<Shared<K, V, E>>,
    key: K,
    tell: watch::Sender<Option<Outcome<V, E>>>,
    outcome: Option<Outcome<V, E>>,
}

// === impl Once ===

impl<K, V, E> Once<K, V, E>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    /// Flights run as tasks of this name.
    ///
    /// # Panics
    /// If `flights_max` is zero.
    pub fn new(name: &'static str, config: Config) -> Self {
        assert!(
            config.flights_max >= 1,
            "once {name}: flights_max is 0, at least 1"
        );
        Self(Arc::new(Shared {
            name,
            config,
            flights: Mutex::default(),
            counts: Counts::default(),
        }))
    }

    /// Joins the flight of `key`, or starts one with `work`, and gives its outcome.
    ///
    /// # Errors
    /// [`Failed`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Dropping the future ends the wait, not the flight.
    pub async fn run<F, Fut>(&self, key: &K, work: F) -> Result<V, Failed<E>>
    where
        F: FnOnce() -> Fut + Send,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let told = match self.0.board(key)? {
            (told, None) => told,
            (told, Some(flight)) => {
                flight.start(work);
                told
            }
        };
        self.0.wait(told).await
    }

    /// What it has done, and what runs now.
    pub fn stats(&self) -> Stats {
        let read = |cell: &AtomicU64| cell.load(Relaxed);
        let counts = &self.0.counts;
        Stats {
            runs: read(&counts.runs),
            joined: read(&counts.joined),
            failed: read(&counts.failed),
            panicked: read(&counts.panicked),
            timed_out: read(&counts.timed_out),
            gave_up: read(&counts.gave_up),
            refused: read(&counts.refused),
            in_flight: self.0.flights().len(),
        }
    }

    /// Whether a flight of `key` runs now.
    pub fn is_in_flight(&self, key: &K) -> bool {
        self.0.flights().contains_key(key)
    }

    /// Writes the statistics into `registry`; its owner calls it once a second.
    pub fn record(&self, registry: &Registry) {
        let (name, stats) = (self.0.name, self.stats());
        registry
            .gauge(Id::OnceFlights, &[name])
            .set(stats.in_flight as i64);
        let counts = [
            ("started", stats.runs),
            ("joined", stats.joined),
            ("failed", stats.failed),
            ("panicked", stats.panicked),
            ("timed_out", stats.timed_out),
            ("gave_up", stats.gave_up),
            ("refused", stats.refused),
        ];
        for (outcome, n) in counts {
            crate::raise(&registry.counter(Id::OnceCalls, &[name, outcome]), n);
        }
    }
}

impl<K, V, E> Clone for Once<K, V, E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K, V, E> fmt::Debug for Once<K, V, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once")
            .field("name", &self.0.name)
            .field("config", &self.0.config)
            .finish_non_exhaustive()
    }
}

// === impl Config ===

impl Default for Config {
    /// 1024 flights; a caller waits for at most 10 s, a flight runs for at most 30 s.
    fn default() -> Self {
        Self {
            flights_max: 1024,
            wait_max: Duration::from_secs(10),
            run_max: Duration::from_secs(30),
        }
    }
}

// === impl Failed ===

impl<E> Failed<E> {
    /// Whether the same call may work later. For [`Failed::Work`] only the error within knows; this says no.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Work(_) | Self::Panicked(_) => false,
            Self::TimedOut(_) | Self::Busy { .. } | Self::Aborted => true,
        }
    }
}

impl<E> Clone for Failed<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Work(error) => Self::Work(Arc::clone(error)),
            Self::Panicked(message) => Self::Panicked(message.clone()),
            Self::TimedOut(after) => Self::TimedOut(*after),
            Self::Busy { flights } => Self::Busy { flights: *flights },
            Self::Aborted => Self::Aborted,
        }
    }
}

impl<E> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(_) => f.write_str("the shared work failed"),
            Self::Panicked(message) => write!(f, "the shared work panicked: {message}"),
            Self::TimedOut(after) => write!(
                f,
                "the shared work gave no answer within {} ms",
                after.as_millis()
            ),
            Self::Busy { flights } => write!(f, "too much shared work: {flights} flights running"),
            Self::Aborted => f.write_str("the shared work was aborted"),
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(error) => f.debug_tuple("Work").field(error).finish(),
            Self::Panicked(message) => f.debug_tuple("Panicked").field(message).finish(),
            Self::TimedOut(after) => f.debug_tuple("TimedOut").field(after).finish(),
            Self::Busy { flights } => f.debug_struct("Busy").field("flights", flights).finish(),
            Self::Aborted => f.write_str("Aborted"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Failed<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Work(error) => Some(&**error),
            _ => None,
        }
    }
}

// === impl Shared ===

impl<K, V, E> Shared<K, V, E> {
    fn flights(&self) -> MutexGuard<'_, HashMap<K, Told<V, E>>> {
        // Foreign code under this lock is `Hash` and `Eq` only, which leave the map as it was.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Clone, V: Clone, E> Shared<K, V, E> {
    /// Where the outcome will be told; with the flight itself if it is the caller's to start.
    #[expect(
        clippy::type_complexity,
        reason = "a pair, taken apart where it is returned to"
    )]
    fn board(self: &Arc<Self>, key: &K) -> Result<(Told<V, E>, Option<Flight<K, V, E>>), Failed<E>> {
        let mut flights = self.flights();
        let n_flights = flights.len();
        let place = match flights.entry(key.clone()) {
            Entry::Occupied(flight) => {
                count(&self.counts.joined);
                return Ok((flight.get().clone(), None));
            }
            Entry::Vacant(_) if n_flights >= self.config.flights_max => {
                count(&self.counts.refused);
                return Err(Failed::Busy { flights: n_flights });
            }
            Entry::Vacant(place) => place,
        };
        let (tell, told) = watch::channel(None);
        place.insert(told.clone());
        count(&self.counts.runs);
        let flight = Flight {
            shared: Arc::clone(self),
            key: key.clone(),
            tell,
            outcome: None,
        };
        Ok((told, Some(flight)))
    }

    async fn wait(&self, mut told: Told<V, E>) -> Outcome<V, E> {
        let wait_max = self.config.wait_max;
        match timeout(wait_max, told.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().expect("waited until it is there"),
            Ok(Err(_)) => unreachable!("a flight tells before it goes"),
            Err(_) => {
                count(&self.counts.gave_up);
                Err(Failed::TimedOut(wait_max))
            }
        }
    }
}

// === impl Flight ===

impl<K, V, E> Flight<K, V, E>
where
    K: Eq + Hash + Send + Sync + 'static,
    V: Send + Sync + 'static,
    E: Send + Sync + 'static,
{
    fn start<F, Fut>(self, work: F)
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let (runtime, name) = (Handle::current(), self.shared.name);
        match catch_unwind(AssertUnwindSafe(work)) {
            // `run_max` bounds it, and so it needs no owner.
            Ok(work) => spawn_unowned(&runtime, name, async move {
                let outcome = self.fly(work).await;
                self.land(outcome);
            }),
            Err(panic) => {
                let outcome = self.panicked(&*panic);
                self.land(outcome);
            }
        }
    }

    async fn fly(&self, work: impl Future<Output = Result<V, E>>) -> Outcome<V, E> {
        let Shared { counts, config, .. } = &*self.shared;
        match timeout(config.run_max, catch_panic(work)).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) => {
                count(&counts.failed);
                Err(Failed::Work(Arc::new(error)))
            }
            Ok(Err(panic)) => self.panicked(&*panic),
            Err(_) => {
                count(&counts.timed_out);
                Err(Failed::TimedOut(config.run_max))
            }
        }
    }

    fn land(mut self, outcome: Outcome<V, E>) {
        self.outcome = Some(outcome);
    }

    fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> Outcome<V, E> {
        count(&self.shared.counts.panicked);
        Err(Failed::Panicked(message_of(panic)))
    }
}

impl<K: Eq + Hash, V, E> Drop for Flight<K, V, E> {
    fn drop(&mut self) {
        // In this order: whoever is told finds no flight to join that is over.
        let _told = self.shared.flights().remove(&self.key);
        let outcome = self.outcome.take().unwrap_or(Err(Failed::Aborted));
        self.tell.send_replace(Some(outcome));
    }
}

fn count(cell: &AtomicU64) {
    cell.fetch_add(1, Relaxed);
}
