//! Bounded retries: exponential back-off with full jitter, under a deadline and a shared budget.
//!
//! ```
//! use std::time::Duration;
//! use tidegate_flow::retry::{Budget, Random, Retry};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let retry = Retry { attempts_max: 5, ..Retry::default() };
//! let budget = Budget::new(10, 0.1);
//! let mut random = Random::from_system();
//! let run = retry
//!     .run(&budget, &mut random, |_| true, async |attempt: u32| if attempt < 3 { Err("busy") } else { Ok(attempt) })
//!     .await;
//! assert_eq!(run.result, Ok(3));
//! assert_eq!(run.attempts, 3);
//! # }
//! ```

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How often and how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// Attempts in all, the first included; at least 1.
    pub attempts_max: u32,
    /// The pause before the second attempt is between zero and this; it doubles with every attempt.
    pub pause: Duration,
    /// The doubling stops here.
    pub pause_max: Duration,
    /// No attempt starts later than this after the first. It does not cut a running attempt short.
    pub deadline: Duration,
}

/// A token bucket that keeps retries from multiplying load: each first attempt earns a part of a token, each retry
/// spends one. Share one among the callers of one server.
#[derive(Debug)]
pub struct Budget {
    /// Thousandths of a token.
    tokens: AtomicU64,
    most: u64,
    earned: u64,
    n_runs: AtomicU64,
    n_retries: AtomicU64,
    n_refused: AtomicU64,
}

/// What a [`Budget`] has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// First attempts.
    pub runs: u64,
    /// Retries that were paid for.
    pub retries: u64,
    /// Retries that the budget refused.
    pub refused: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<T, E> {
    /// The last attempt's result.
    pub result: Result<T, E>,
    /// Attempts made.
    pub attempts: u32,
    /// Time spent in pauses.
    pub paused: Duration,
    /// Why no further attempt was made.
    pub end: End,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It worked.
    Done,
    /// Another attempt would fail the same way.
    Permanent,
    /// All attempts were made.
    Attempts,
    /// The next attempt would have started after the deadline.
    Deadline,
    /// The budget had no token.
    Budget,
}

/// A small random generator for jitter: fast, seedable, not for secrets (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

const TOKEN: u64 = 1_000;

// === impl Retry ===

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts_max: 4,
            pause: Duration::from_millis(20),
            pause_max: Duration::from_secs(1),
            deadline: Duration::from_secs(10),
        }
    }
}

impl Retry {
    /// Calls `attempt` with 1, 2, … until it works, fails for good by `is_retryable`, or a limit is met.
    ///
    /// # Cancel safety
    /// Dropping the future drops the running attempt; tokens spent stay spent.
    pub async fn run<T, E>(
        &self,
        budget: &Budget,
        random: &mut Random,
        is_retryable: impl Fn(&E) -> bool,
        mut attempt: impl AsyncFnMut(u32) -> Result<T, E>,
    ) -> Run<T, E> {
        let deadline = Instant::now() + self.deadline;
        budget.earn();
        let mut paused = Duration::ZERO;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let result = attempt(attempts).await;
            let pause = self.pause_before(attempts, random);
            let end = match &result {
                Ok(_) => Some(End::Done),
                Err(error) if !is_retryable(error) => Some(End::Permanent),
                Err(_) => self.stop(attempts, Instant::now() + pause > deadline, budget),
            };
            if let Some(end) = end {
                return Run {
                    result,
                    attempts,
                    paused,
                    end,
                };
            }
            sleep_until(Instant::now() + pause).await;
            paused += pause;
        }
    }

    /// The pause after the attempt of this number: anything up to the doubled pause, so that those who failed together
    /// do not come back together.
    pub fn pause_before(&self, attempts: u32, random: &mut Random) -> Duration {
        let doubled = self.pause.saturating_mul(2_u32.saturating_pow(attempts - 1));
        doubled.min(self.pause_max).mul_f64(random.unit())
    }

    /// The limit that forbids another attempt; the budget is asked last, because asking spends.
    fn stop(&self, attempts: u32, is_late: bool, budget: &Budget) -> Option<End> {
        if attempts >= self.attempts_max {
            Some(End::Attempts)
        } else if is_late {
            Some(End::Deadline)
        } else if !budget.spend() {
            Some(End::Budget)
        } else {
            None
        }
    }
}

// === impl Budget ===

impl Budget {
    /// Holds up to `burst` retries, full at first; every first attempt earns `ratio` of one (0.1: at most one retry for
    /// ten calls in the long run).
    #[must_use]
    pub fn new(burst: u32, ratio: f64) -> Self {
        let most = u64::from(burst) * TOKEN;
        Self {
            tokens: AtomicU64::new(most),
            most,
            earned: (ratio.clamp(0.0, 1_000.0) * TOKEN as f64) as u64,
            n_runs: AtomicU64::new(0),
            n_retries: AtomicU64::new(0),
            n_refused: AtomicU64::new(0),
        }
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            runs: self.n_runs.load(Relaxed),
            retries: self.n_retries.load(Relaxed),
            refused: self.n_refused.load(Relaxed),
        }
    }

    fn earn(&self) {
        self.n_runs.fetch_add(1, Relaxed);
        let more = |tokens: u64| Some((tokens + self.earned).min(self.most));
        self.tokens
            .fetch_update(Relaxed, Relaxed, more)
            .expect("the closure always returns a value");
    }

    fn spend(&self) -> bool {
        let less = |tokens: u64| tokens.checked_sub(TOKEN);
        let is_paid = self.tokens.fetch_update(Relaxed, Relaxed, less).is_ok();
        let count = if is_paid { &self.n_retries } else { &self.n_refused };
        count.fetch_add(1, Relaxed);
        is_paid
    }
}

impl<T, E> Run<T, E> {
    /// Attempts beyond the first.
    pub const fn retries(&self) -> u32 {
        self.attempts - 1
    }
}

// === impl Random ===

impl Random {
    /// The same seed gives the same numbers.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Another sequence in every process and at every call.
    #[must_use]
    pub fn from_system() -> Self {
        // The standard library keys its hash maps from the system's entropy.
        Self(RandomState::new().build_hasher().finish())
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        // Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014).
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from zero up to, but not including, one.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
