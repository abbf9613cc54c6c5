//! Runs many futures, so many at a time, and gives every outcome in order.
//!
//! ```
//! use tidegate_flow::join::{Config, join_bounded};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let squares = (0..1_000_u64).map(|n| async move { Ok::<_, std::io::Error>(n * n) });
//! let joined = join_bounded(squares, Config::default()).await;
//! assert_eq!(joined.n_succeeded(), 1_000);
//! assert!(matches!(joined.outcomes[31], Ok(961)));
//! assert!(joined.in_flight_max <= 100);
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::task::{catch_panic, counted};

/// How many futures run at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// The name of their tasks.
    pub name: &'static str,
    /// Most that run at a time, at least 1.
    pub limit: usize,
    /// How many are started before the others get a turn, at least 1: a long list does not take the thread for itself.
    pub run: usize,
}

/// What became of the futures.
#[derive(Debug)]
pub struct Joined<T, E> {
    /// One for each future, in the order in which they were given.
    pub outcomes: Vec<Result<T, Failed<E>>>,
    /// How long they took, each from its start to its end.
    pub latency: Latency,
    /// Most that ran at a time.
    pub in_flight_max: usize,
    /// From the first start to the last end.
    pub elapsed: Duration,
}

/// Why a future gave no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed<E> {
    /// It ended with this error.
    Error(E),
    /// It panicked with this message.
    Panicked(String),
}

/// A summary of latencies; zero without any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Latency {
    /// The shortest.
    pub min: Duration,
    /// The mean.
    pub mean: Duration,
    /// The middle one.
    pub p50: Duration,
    /// 95 of 100 took no longer.
    pub p95: Duration,
    /// The longest.
    pub max: Duration,
}

/// How many futures run at a time by default.
pub const LIMIT: usize = 100;
/// How many are started in a row by default.
pub const RUN: usize = 10;

/// Runs `futures` as tasks, at most [`Config::limit`] at a time, and waits for all of them. The iterator is asked for the
/// next one only when it can start, so a long list is never built.
///
/// # Panics
/// Outside a tokio runtime, or if a number in `config` is zero.
///
/// # Cancel safety
/// Dropping the future aborts what runs; what has not started never does.
pub async fn join_bounded<I, T, E>(futures: I, config: Config) -> Joined<T, E>
where
    I: IntoIterator,
    I::Item: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    config.assert_sound();
    let started = Instant::now();
    let mut futures = futures.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut ended = Vec::new();
    let (mut in_flight_max, mut n_row) = (0, 0);
    loop {
        while running.len() < config.limit {
            let Some((number, future)) = futures.next() else {
                break;
            };
            running.spawn(timed(config.name, number, future));
            in_flight_max = in_flight_max.max(running.len());
            n_row += 1;
            if n_row == config.run {
                n_row = 0;
                tokio::task::yield_now().await;
            }
        }
        match running.join_next().await {
            Some(end) => ended.push(end.expect("its panics are caught, and nobody aborts it")),
            None => break,
        }
    }
    ended.sort_unstable_by_key(|ended: &Ended<T, E>| ended.number);
    let latency = Latency::of(ended.iter().map(|ended| ended.took).collect());
    Joined {
        outcomes: ended.into_iter().map(|ended| ended.outcome).collect(),
        latency,
        in_flight_max,
        elapsed: started.elapsed(),
    }
}

struct Ended<T, E> {
    number: usize,
    took: Duration,
    outcome: Result<T, Failed<E>>,
}

async fn timed<T, E>(
    name: &'static str,
    number: usize,
    future: impl Future<Output = Result<T, E>>,
) -> Ended<T, E> {
    let started = Instant::now();
    let outcome = match catch_panic(counted(name, future)).await {
        Ok(outcome) => outcome.map_err(Failed::Error),
        Err(panic) => Err(Failed::Panicked(crate::task::message_of(&*panic))),
    };
    Ended {
        number,
        took: started.elapsed(),
        outcome,
    }
}

// === impl Config ===

impl Default for Config {
    /// [`LIMIT`] at a time, started in runs of [`RUN`].
    fn default() -> Self {
        Self {
            name: "join_bounded",
            limit: LIMIT,
            run: RUN,
        }
    }
}

impl Config {
    fn assert_sound(&self) {
        let Self { name, limit, run } = *self;
        assert!(
            limit >= 1 && run >= 1,
            "join {name}: limit is {limit} and run {run}, at least 1"
        );
    }
}

// === impl Joined ===

impl<T, E> Joined<T, E> {
    /// How many gave a value.
    pub fn n_succeeded(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.is_ok()).count()
    }

    /// The part that gave a value, from 0 to 1; 1 if there were none.
    pub fn success_rate(&self) -> f64 {
        match self.outcomes.len() {
            0 => 1.0,
            n => self.n_succeeded() as f64 / n as f64,
        }
    }
}

// === impl Failed ===

impl<E> Failed<E> {
    /// Whether another attempt may work. For [`Failed::Error`] only the error within knows; this says no.
    pub const fn is_retryable(&self) -> bool {
        false
    }
}

impl<E> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(_) => f.write_str("one of the joined failed"),
            Self::Panicked(message) => write!(f, "one of the joined panicked: {message}"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Failed<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Error(error) => Some(error),
            Self::Panicked(_) => None,
        }
    }
}

// === impl Latency ===

impl Latency {
    fn of(mut took: Vec<Duration>) -> Self {
        took.sort_unstable();
        let Some(last) = took.len().checked_sub(1) else {
            return Self::default();
        };
        // The nearest rank: the smallest that so many are not longer than.
        let at = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1];
        Self {
            min: took[0],
            mean: took.iter().sum::<Duration>() / took.len() as u32,
            p50: at(50),
            p95: at(95),
            max: took[last],
        }
    }
}
