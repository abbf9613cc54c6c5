//! The clock of spans: the processor's counter where it runs evenly, the clock of the process elsewhere.
//!
//! Unsafe code here follows one rule. **S1**: `rdtsc` reads a register that every x86-64 processor has; it has no
//! precondition. Whether its value means time is asked of `cpuid` first (Intel SDM 3B, 18.17.4, invariant TSC).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::clock::Clock;

/// Nanoseconds of a tick times 2³²; zero until calibrated.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);
const SCALE_BITS: u32 = 32;
/// How long the counter is compared with the clock: an error of 100 ns at either end is then 0.004 %.
const CALIBRATION_NS: u64 = 5_000_000;

/// Whether ticks come from the processor's counter; otherwise each is a nanosecond of [`Clock`], read by a slower call.
pub fn is_counter() -> bool {
    static INVARIANT: OnceLock<bool> = OnceLock::new();
    *INVARIANT.get_or_init(invariant)
}

/// Learns how long a tick is; later calls do nothing.
pub(super) fn calibrate() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| NS_PER_TICK.store(measure(), Relaxed));
}

/// The present tick of this processor. Only differences mean something.
#[inline]
pub(crate) fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_fast() {
        return counter();
    }
    Clock::real().now().as_nanos()
}

/// Nanoseconds between two ticks; zero if they stand the wrong way round.
#[inline]
pub(crate) fn ns_between(from: u64, to: u64) -> u64 {
    let ticks = to.saturating_sub(from);
    ((u128::from(ticks) * u128::from(NS_PER_TICK.load(Relaxed))) >> SCALE_BITS) as u64
}

/// One nanosecond a tick is what the fallback writes; the counter never runs at exactly that.
#[inline]
#[cfg(target_arch = "x86_64")]
fn is_fast() -> bool {
    NS_PER_TICK.load(Relaxed) != 1 << SCALE_BITS
}

fn measure() -> u64 {
    #[cfg(target_arch = "x86_64")]
    if is_counter() {
        return measure_counter();
    }
    1 << SCALE_BITS
}

#[cfg(target_arch = "x86_64")]
fn measure_counter() -> u64 {
    let clock = Clock::real();
    let (ticks_start, ns_start) = pair(&clock);
    let (mut ticks, mut ns) = (ticks_start, ns_start);
    while ns - ns_start < CALIBRATION_NS {
        std::hint::spin_loop();
        (ticks, ns) = pair(&clock);
    }
    let n_ticks = u128::from(ticks.saturating_sub(ticks_start).max(1));
    let scaled = (u128::from(ns - ns_start) << SCALE_BITS) / n_ticks;
    // A counter of exactly 1 GHz must not look like the fallback; the error is 2⁻³².
    let scaled = u64::try_from(scaled).unwrap_or(u64::MAX);
    if scaled == 1 << SCALE_BITS {
        scaled + 1
    } else {
        scaled
    }
}

/// Tick and time of one moment: the closest of a few tries, because the thread may lose its core between the reads.
#[cfg(target_arch = "x86_64")]
fn pair(clock: &Clock) -> (u64, u64) {
    let tries = (0..4).map(|_| {
        let before = counter();
        let ns = clock.now().as_nanos();
        let after = counter();
        (
            after.saturating_sub(before),
            before + after.saturating_sub(before) / 2,
            ns,
        )
    });
    let (_, ticks, ns) = tries.min().expect("there are four tries");
    (ticks, ns)
}

#[inline]
#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: S1.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// CPUID 0x80000007, EDX bit 8: the counter runs at one rate in every power state.
#[cfg(target_arch = "x86_64")]
fn invariant() -> bool {
    use core::arch::x86_64::__cpuid;
    let highest = __cpuid(0x8000_0000).eax;
    highest >= 0x8000_0007 && __cpuid(0x8000_0007).edx & (1 << 8) != 0
}

#[cfg(not(target_arch = "x86_64"))]
fn invariant() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_the_clock_agree_within_a_percent() {
        calibrate();
        let clock = Clock::real();
        let (tick_start, start) = (now(), clock.now());
        while (clock.now() - start).as_millis() < 20 {
            std::hint::spin_loop();
        }
        let inner = ns_between(tick_start, now());
        let outer = (clock.now() - start).as_nanos() as u64;
        // Between the two reads at either end the thread may lose its core; that shows in neither direction alone.
        assert!(inner >= 19_800_000, "{inner} ns of at least 20 ms");
        assert!(
            inner <= outer + outer / 50 + 5_000_000,
            "{inner} ns, the clock says {outer}"
        );
    }

    #[test]
    fn a_span_backwards_is_nothing() {
        calibrate();
        assert_eq!(ns_between(5, 3), 0);
    }
}
