//! A small histogram of durations: one kilobyte, within 6 %, so that a thousand statements can have four each.
//!
//! The process-wide figures use [`tidegate_vitals::Registry`]; its histograms are thirty times as large.

/// 2³ buckets per power of two.
const SUB_BITS: u32 = 3;
/// Below this everything is one bucket: 1.024 µs.
const LEAST_BITS: u32 = 10;
/// From here on everything is one bucket: 275 s.
const MOST_BITS: u32 = 38;
const BUCKETS: usize = (((MOST_BITS - LEAST_BITS) << SUB_BITS) + 2) as usize;

/// Counts of nanoseconds.
#[derive(Debug, Clone)]
pub(super) struct Histogram(Box<[u32; BUCKETS]>);

impl Histogram {
    pub(super) fn new() -> Self {
        Self(Box::new([0; BUCKETS]))
    }

    /// Counts one value.
    #[inline]
    pub(super) fn record(&mut self, ns: u64) {
        let bucket = &mut self.0[bucket_of(ns)];
        *bucket = bucket.saturating_add(1);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0.iter()) {
            *own = own.saturating_add(*other);
        }
    }

    /// The value at or below which the share `p` of all lies, at most `max`; zero when empty.
    pub(super) fn quantile(&self, p: f64, max: u64) -> u64 {
        let count: u64 = self.0.iter().map(|n| u64::from(*n)).sum();
        let rank = ((p * count as f64).ceil() as u64).max(1);
        let mut below = 0;
        for (index, n) in self.0.iter().enumerate() {
            below += u64::from(*n);
            if below >= rank {
                return middle_of(index).min(max);
            }
        }
        0
    }
}

#[inline]
fn bucket_of(ns: u64) -> usize {
    if ns < 1 << LEAST_BITS {
        return 0;
    }
    if ns >= 1 << MOST_BITS {
        return BUCKETS - 1;
    }
    let power = ns.ilog2();
    let sub = (ns >> (power - SUB_BITS)) as usize & ((1 << SUB_BITS) - 1);
    1 + (((power - LEAST_BITS) as usize) << SUB_BITS) + sub
}

fn middle_of(index: usize) -> u64 {
    if index == 0 {
        return 1 << (LEAST_BITS - 1);
    }
    if index == BUCKETS - 1 {
        return u64::MAX;
    }
    let power = LEAST_BITS + ((index - 1) >> SUB_BITS) as u32;
    let sub = ((index - 1) & ((1 << SUB_BITS) - 1)) as u64;
    let width = 1_u64 << (power - SUB_BITS);
    (1_u64 << power) + sub * width + width / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_reported_within_a_sixteenth() {
        let mut ns = 1_u64 << LEAST_BITS;
        while ns < 1 << MOST_BITS {
            let reported = middle_of(bucket_of(ns));
            assert!(reported.abs_diff(ns) * 16 <= ns, "{ns} as {reported}");
            ns += ns / 37 + 1;
        }
    }

    #[test]
    fn quantiles_stay_below_the_greatest_value_and_are_zero_when_empty() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile(0.5, 0), 0);
        for ms in 1..=100_u64 {
            histogram.record(ms * 1_000_000);
        }
        let median = histogram.quantile(0.5, 100_000_000);
        assert!((47_000_000..=53_000_000).contains(&median), "{median}");
        assert!(histogram.quantile(1.0, 100_000_000) <= 100_000_000);
        histogram.record(u64::MAX);
        assert_eq!(histogram.quantile(1.0, u64::MAX), u64::MAX);
    }
}
