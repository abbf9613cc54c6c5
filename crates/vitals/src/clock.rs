//! The only reader of time: a real clock, or one that a test moves by hand.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of time that is cheap to clone and to share between threads.
///
/// All real clocks of a process count from one origin, so their instants can be compared.
#[derive(Clone)]
pub struct Clock(Source);

/// The hand that moves a manual [`Clock`]; clones move the same clock.
#[derive(Clone)]
pub struct ManualClock(Arc<Manual>);

/// A moment: nanoseconds since the clock's start. Arithmetic saturates at both ends.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

#[derive(Clone)]
enum Source {
    Real(Origin),
    Manual(Arc<Manual>),
}

/// Where real clocks count from, on both of the system's monotonic clocks.
#[derive(Clone, Copy)]
struct Origin {
    exact: std::time::Instant,
    coarse_ns: u64,
}

struct Manual {
    elapsed_ns: AtomicU64,
    wall_start_ms: AtomicU64,
}

/// Where a manual clock's calendar begins: 2024-01-01T00:00:00Z, in unix milliseconds.
const MANUAL_WALL_START_MS: u64 = 1_704_067_200_000;

// === impl Clock ===

impl Clock {
    /// The clock of the machine: monotonic for [`Clock::now`], calendar for [`Clock::wall_ms`].
    pub fn real() -> Self {
        static ORIGIN: OnceLock<Origin> = OnceLock::new();
        let start = || Origin {
            exact: std::time::Instant::now(),
            coarse_ns: coarse_ns(),
        };
        Self(Source::Real(*ORIGIN.get_or_init(start)))
    }

    /// A clock that stands still at zero until its [`ManualClock`] moves it.
    pub fn manual() -> (Self, ManualClock) {
        let manual = Arc::new(Manual {
            elapsed_ns: AtomicU64::new(0),
            wall_start_ms: AtomicU64::new(MANUAL_WALL_START_MS),
        });
        (Self(Source::Manual(Arc::clone(&manual))), ManualClock(manual))
    }

    /// The present moment; never earlier than one read before on any thread.
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::Real(origin) => Instant(saturating_ns(origin.exact.elapsed())),
            Source::Manual(manual) => Instant(manual.elapsed_ns.load(Relaxed)),
        }
    }

    /// The moment of the kernel's last tick: up to 10 ms before [`Clock::now`], at a fraction of its price, because no
    /// counter of the processor is read. A manual clock gives the same for both.
    #[inline]
    pub fn coarse(&self) -> Instant {
        match &self.0 {
            Source::Real(origin) => Instant(coarse_ns().saturating_sub(origin.coarse_ns)),
            Source::Manual(manual) => Instant(manual.elapsed_ns.load(Relaxed)),
        }
    }

    /// The calendar time in unix milliseconds; it may jump when the machine's clock is set.
    pub fn wall_ms(&self) -> u64 {
        match &self.0 {
            Source::Real(_) => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as u64),
            Source::Manual(manual) => {
                let elapsed_ms = manual.elapsed_ns.load(Relaxed) / 1_000_000;
                manual.wall_start_ms.load(Relaxed).saturating_add(elapsed_ms)
            }
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.0, Source::Real(_)) {
            "real"
        } else {
            "manual"
        };
        write!(f, "Clock({kind}, {:?})", self.now())
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// Moves the clock forward.
    pub fn advance(&self, d: Duration) {
        let step = saturating_ns(d);
        let moved = |ns: u64| Some(ns.saturating_add(step));
        self.0
            .elapsed_ns
            .fetch_update(Relaxed, Relaxed, moved)
            .expect("the closure always returns a value");
    }

    /// Puts the clock at `since_start`; going back is ignored, because no clock does.
    pub fn set(&self, since_start: Duration) {
        self.0.elapsed_ns.fetch_max(saturating_ns(since_start), Relaxed);
    }

    /// Sets the calendar so that it reads `unix_ms` now; the monotonic side stays.
    pub fn set_wall_ms(&self, unix_ms: u64) {
        let elapsed_ms = self.0.elapsed_ns.load(Relaxed) / 1_000_000;
        self.0
            .wall_start_ms
            .store(unix_ms.saturating_sub(elapsed_ms), Relaxed);
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({:?})", Instant(self.0.elapsed_ns.load(Relaxed)))
    }
}

// === impl Instant ===

impl Instant {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// Later than every moment that comes: for deadlines that are off.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `ns` nanoseconds after the clock's start.
    pub const fn from_nanos(ns: u64) -> Self {
        Self(ns)
    }

    /// The moment `ms` milliseconds after the clock's start; saturates.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole microseconds since the clock's start.
    pub const fn as_micros(self) -> u64 {
        self.0 / 1_000
    }

    /// Whole milliseconds since the clock's start.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time from `earlier` to this moment; zero when `earlier` is the later one.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(saturating_ns(d)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, d: Duration) -> Self {
        Self(self.0.saturating_sub(saturating_ns(d)))
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// Nanoseconds of the system's monotonic clock at its last tick.
#[inline]
fn coarse_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes one `timespec` into the place it is given, and this one lives until the call returns.
    let code = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    debug_assert_eq!(code, 0, "every Linux since 2.6.32 has this clock");
    (time.tv_sec as u64).saturating_mul(1_000_000_000) + time.tv_nsec as u64
}

fn saturating_ns(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_clock_moves_only_by_hand() {
        let (clock, hand) = Clock::manual();
        assert_eq!(clock.now(), Instant::ZERO);
        hand.advance(Duration::from_millis(1500));
        assert_eq!(clock.now().as_millis(), 1500);
        assert_eq!(clock.wall_ms(), MANUAL_WALL_START_MS + 1500);
        hand.set(Duration::from_secs(1));
        assert_eq!(clock.now().as_millis(), 1500, "a clock does not go back");
        hand.set_wall_ms(5_000);
        assert_eq!(clock.wall_ms(), 5_000);
    }

    #[test]
    fn arithmetic_saturates() {
        let second = Duration::from_secs(1);
        assert_eq!(Instant::ZERO - second, Instant::ZERO);
        assert_eq!(Instant::MAX + second, Instant::MAX);
        assert_eq!(Instant::ZERO - Instant::MAX, Duration::ZERO);
        assert_eq!(
            Instant::from_millis(3) - Instant::from_millis(1),
            Duration::from_millis(2)
        );
    }

    #[test]
    fn the_coarse_clock_follows_the_exact_one() {
        let clock = Clock::real();
        // Ticks come every 10 ms at the slowest; ten of them bound a busy machine.
        let before = clock.now();
        let coarse = clock.coarse();
        assert!(coarse <= clock.now() + Duration::from_millis(10));
        assert!(coarse + Duration::from_millis(100) >= before);
        let (manual, hand) = Clock::manual();
        hand.advance(Duration::from_nanos(7));
        assert_eq!(manual.coarse(), manual.now());
    }

    #[test]
    fn real_clocks_share_one_origin() {
        let (a, b) = (Clock::real(), Clock::real());
        let first = a.now();
        let second = b.now();
        assert!(first <= second);
        assert!(a.wall_ms() > MANUAL_WALL_START_MS);
    }
}
