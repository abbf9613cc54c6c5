//! Stops calling what keeps failing, and tries it again with one call at a time.
//!
//! ```text
//! Closed ──too many failures──▶ Open ──after a while──▶ HalfOpen: one probe ──worked──▶ Closed
//!                                ▲                          │
//!                                └────failed, longer pause──┘
//! ```
//!
//! ```
//! use tidegate_flow::breaker::{Breaker, Config, Failed, State};
//! use tidegate_vitals::Clock;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let config = Config { failures_in_row_max: 2, ..Config::new("replica") };
//! let breaker = Breaker::new(config, Clock::real());
//! for _ in 0..2 {
//!     let failed = breaker.call(async { Err::<(), _>("gone") }).await;
//!     assert!(matches!(failed, Err(Failed::Work("gone"))));
//! }
//! assert_eq!(breaker.state(), State::Open);
//! assert!(matches!(breaker.call(async { Ok::<_, &str>(()) }).await, Err(Failed::Open(_))));
//! # }
//! ```

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_vitals::{Clock, Id, Instant, Registry};

use crate::retry::Random;

/// Guards calls to one thing that may fail. Clones are the same breaker.
#[derive(Clone)]
pub struct Breaker(Arc<Shared>);

/// When to stop, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Its name in errors and figures.
    pub name: &'static str,
    /// It opens when this part of the calls in the window failed, above 0 to 1.
    pub failure_rate_max: f64,
    /// … but not on fewer calls than this, at least 1.
    pub calls_min: u32,
    /// What counts is not older than this; it is forgotten in tenths.
    pub window: Duration,
    /// It opens after this many failures in a row, whatever the rate; at least 1.
    pub failures_in_row_max: u32,
    /// How long it stays open at first; it doubles with each probe that fails. The half of it is jitter.
    pub open: Duration,
    /// The doubling stops here.
    pub open_max: Duration,
    /// The jitter's seed; `None` takes one from the system.
    pub seed: Option<u64>,
}

/// Whether calls are let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// All are. To `Open` on too many failures.
    Closed,
    /// None is. To `HalfOpen` by the first call after the pause.
    Open,
    /// One is, the probe. To `Closed` when it works, to `Open` when it fails or is dropped.
    HalfOpen,
}

/// The right to make one call. Dropping it tells nothing, but a probe must tell: dropped, it counts as failed.
#[must_use = "a permit says how its call ended"]
pub struct Permit {
    shared: Arc<Shared>,
    /// Calls from before the last change of state do not count after it.
    era: u64,
    is_told: bool,
}

/// The call was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("breaker {name} is open: worth a try in {} ms", retry_after.as_millis())]
pub struct Refused {
    /// The breaker's name.
    pub name: &'static str,
    /// When the next probe may go; zero while one is on its way.
    pub retry_after: Duration,
}

/// Why [`Breaker::call`] gave no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed<E> {
    /// The call failed.
    Work(E),
    /// It was not made.
    Open(Refused),
}

/// What a breaker has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Its state now.
    pub state: State,
    /// Calls that worked.
    pub succeeded: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls refused.
    pub refused: u64,
    /// How often it opened from closed.
    pub opened: u64,
    /// Probes sent.
    pub probes: u64,
    /// How often it closed again.
    pub closed: u64,
}

struct Shared {
    config: Config,
    clock: Clock,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    era: u64,
    window: Window,
    failures_in_row: u32,
    open_until: Instant,
    /// Openings since it was last closed.
    n_openings: u32,
    random: Random,
    stats: Stats,
}

/// Calls of the last window in slots that are reused in turn.
struct Window {
    slots: [Slot; SLOTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Which tenth of a window since the clock's start it counts.
    turn: u64,
    calls: u32,
    failures: u32,
}

const SLOTS: usize = 10;

// === impl Breaker ===

impl Breaker {
    /// A closed breaker.
    ///
    /// # Panics
    /// If a number in `config` is outside what its field says.
    pub fn new(config: Config, clock: Clock) -> Self {
        config.assert_sound();
        let inner = Mutex::new(Inner::new(&config));
        Self(Arc::new(Shared { config, clock, inner }))
    }

    /// Makes a call if it may be made; an error is a failure.
    ///
    /// # Errors
    /// [`Failed`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the call; a probe that is dropped counts as failed.
    pub async fn call<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, Failed<E>> {
        let permit = self.acquire().map_err(Failed::Open)?;
        let result = call.await;
        match &result {
            Ok(_) => permit.succeed(),
            Err(_) => permit.fail(),
        }
        result.map_err(Failed::Work)
    }

    /// Asks for one call; its end is told by the permit.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn acquire(&self) -> Result<Permit, Refused> {
        let now = self.0.clock.now();
        let mut inner = self.0.inner();
        if let Err(retry_after) = inner.enter(now) {
            let name = self.0.config.name;
            return Err(Refused { name, retry_after });
        }
        Ok(Permit {
            shared: Arc::clone(&self.0),
            era: inner.era,
            is_told: false,
        })
    }

    /// Its state; [`State::Open`] until the first call after the pause.
    pub fn state(&self) -> State {
        self.0.inner().state
    }

    /// What it has seen.
    pub fn stats(&self) -> Stats {
        let inner = self.0.inner();
        Stats {
            state: inner.state,
            ..inner.stats
        }
    }

    /// Writes the statistics into `registry`; its owner calls it once a second.
    pub fn record(&self, registry: &Registry) {
        let (name, stats) = (self.0.config.name, self.stats());
        let state = match stats.state {
            State::Closed => 0,
            State::HalfOpen => 1,
            State::Open => 2,
        };
        registry.gauge(Id::BreakerState, &[name]).set(state);
        let calls = [
            ("succeeded", stats.succeeded),
            ("failed", stats.failed),
            ("refused", stats.refused),
        ];
        for (outcome, n) in calls {
            crate::raise(&registry.counter(Id::BreakerCalls, &[name, outcome]), n);
        }
        let changes = [
            ("open", stats.opened),
            ("half_open", stats.probes),
            ("closed", stats.closed),
        ];
        for (state, n) in changes {
            crate::raise(&registry.counter(Id::BreakerChanges, &[name, state]), n);
        }
    }
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("name", &self.0.config.name)
            .field("stats", &self.stats())
            .finish()
    }
}

// === impl Permit ===

impl Permit {
    /// The call worked.
    pub fn succeed(mut self) {
        self.tell(true);
    }

    /// The call failed by fault of what was called.
    pub fn fail(mut self) {
        self.tell(false);
    }

    fn tell(&mut self, is_success: bool) {
        self.is_told = true;
        let Shared { config, clock, inner } = &*self.shared;
        let now = clock.now();
        let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.count(is_success);
        if inner.era == self.era {
            inner.ended(config, now, is_success);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.is_told {
            return;
        }
        let now = self.shared.clock.now();
        let mut inner = self.shared.inner();
        if inner.state == State::HalfOpen && inner.era == self.era {
            inner.open(&self.shared.config, now);
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({})", self.shared.config.name)
    }
}

// === impl Config ===

impl Config {
    /// Opens at half the calls of 10 s, 20 at least, or at 10 in a row; for 1 s at first and 60 s at most.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            failure_rate_max: 0.5,
            calls_min: 20,
            window: Duration::from_secs(10),
            failures_in_row_max: 10,
            open: Duration::from_secs(1),
            open_max: Duration::from_secs(60),
            seed: None,
        }
    }

    fn assert_sound(&self) {
        let name = self.name;
        let rate = self.failure_rate_max;
        assert!(
            rate > 0.0 && rate <= 1.0,
            "breaker {name}: failure_rate_max is {rate}, above 0 to 1"
        );
        assert!(
            self.calls_min >= 1 && self.failures_in_row_max >= 1,
            "breaker {name}: calls_min and failures_in_row_max are at least 1"
        );
        assert!(
            self.window >= Duration::from_millis(10) && self.open <= self.open_max,
            "breaker {name}: window is at least 10 ms, and open at most open_max"
        );
    }
}

// === impl Failed, Refused ===

impl<E> Failed<E> {
    /// Whether the same call may work later. For [`Failed::Work`] only the error within knows; this says no.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Open(_))
    }
}

impl<E> fmt::Display for Failed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work(_) => f.write_str("the guarded call failed"),
            Self::Open(refused) => refused.fmt(f),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for Failed<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Work(error) => Some(error),
            Self::Open(_) => None,
        }
    }
}

impl Refused {
    /// Always: it opens again by itself.
    pub const fn is_retryable(&self) -> bool {
        true
    }
}

// === impl Shared, Inner ===

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing foreign runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn new(config: &Config) -> Self {
        Self {
            state: State::Closed,
            era: 0,
            window: Window::default(),
            failures_in_row: 0,
            open_until: Instant::ZERO,
            n_openings: 0,
            random: config.seed.map_or_else(Random::from_system, Random::seeded),
            stats: Stats {
                state: State::Closed,
                succeeded: 0,
                failed: 0,
                refused: 0,
                opened: 0,
                probes: 0,
                closed: 0,
            },
        }
    }

    /// Lets a call through, or says how long to wait.
    fn enter(&mut self, now: Instant) -> Result<(), Duration> {
        match self.state {
            State::Closed => Ok(()),
            State::Open if now >= self.open_until => {
                self.change(State::HalfOpen);
                self.stats.probes += 1;
                Ok(())
            }
            State::Open | State::HalfOpen => {
                self.stats.refused += 1;
                Err(self.open_until - now)
            }
        }
    }

    fn count(&mut self, is_success: bool) {
        let cell = if is_success {
            &mut self.stats.succeeded
        } else {
            &mut self.stats.failed
        };
        *cell += 1;
    }

    fn ended(&mut self, config: &Config, now: Instant, is_success: bool) {
        match (self.state, is_success) {
            (State::HalfOpen, true) => self.close(),
            (State::HalfOpen, false) => self.open(config, now),
            (State::Closed, _) => {
                self.failures_in_row = if is_success { 0 } else { self.failures_in_row + 1 };
                let (calls, failures) = self.window.add(config, now, is_success);
                let is_rate = calls >= config.calls_min
                    && f64::from(failures) >= config.failure_rate_max * f64::from(calls);
                if !is_success && (is_rate || self.failures_in_row >= config.failures_in_row_max) {
                    self.stats.opened += 1;
                    self.open(config, now);
                }
            }
            (State::Open, _) => unreachable!("opening begins an era, and no call is let through in it"),
        }
    }

    fn open(&mut self, config: &Config, now: Instant) {
        let doubled = config.open.saturating_mul(2_u32.saturating_pow(self.n_openings));
        let pause = doubled.min(config.open_max);
        // Half for sure and half by chance, so that many processes do not probe together.
        self.open_until = now + pause.mul_f64(0.5 + 0.5 * self.random.unit());
        self.n_openings = self.n_openings.saturating_add(1);
        self.change(State::Open);
    }

    fn close(&mut self) {
        self.n_openings = 0;
        self.stats.closed += 1;
        self.change(State::Closed);
    }

    fn change(&mut self, state: State) {
        self.state = state;
        self.era += 1;
        self.window = Window::default();
        self.failures_in_row = 0;
    }
}

// === impl Window ===

impl Default for Window {
    fn default() -> Self {
        Self {
            slots: [Slot::default(); SLOTS],
        }
    }
}

impl Window {
    /// Counts a call; gives the calls and failures of the window.
    fn add(&mut self, config: &Config, now: Instant, is_success: bool) -> (u32, u32) {
        let turn = (u128::from(now.as_nanos()) * SLOTS as u128 / config.window.as_nanos()) as u64;
        let slot = &mut self.slots[(turn % SLOTS as u64) as usize];
        if slot.turn != turn {
            *slot = Slot {
                turn,
                ..Slot::default()
            };
        }
        slot.calls = slot.calls.saturating_add(1);
        slot.failures = slot.failures.saturating_add(u32::from(!is_success));
        let fresh = self.slots.iter().filter(|slot| slot.turn + SLOTS as u64 > turn);
        fresh.fold((0, 0), |(calls, failures): (u32, u32), slot| {
            (
                calls.saturating_add(slot.calls),
                failures.saturating_add(slot.failures),
            )
        })
    }
}
