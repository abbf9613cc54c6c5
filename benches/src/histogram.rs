//! Counts latencies in log-linear buckets, each at most 1/128 wide.

/// 2^7 buckets for every doubling: an error below 0.8 %.
const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;
const N_BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB;

/// A histogram of nanoseconds.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    n: u64,
}

impl Histogram {
    /// An empty histogram; its memory does not grow.
    pub(crate) fn new() -> Self {
        Self {
            counts: vec![0; N_BUCKETS],
            n: 0,
        }
    }

    /// Counts one value.
    pub(crate) fn record(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.n += 1;
    }

    /// The value below which the share `quantile` (0 to 1) of all values lies; 0 if there are none.
    pub(crate) fn quantile(&self, quantile: f64) -> u64 {
        let rank = ((self.n as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return middle(index);
            }
        }
        0
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUB as u64 {
        return ns as usize;
    }
    let shift = 63 - ns.leading_zeros() - SUB_BITS;
    ((shift as usize) << SUB_BITS) + (ns >> shift) as usize
}

fn middle(index: usize) -> u64 {
    if index < 2 * SUB {
        return index as u64;
    }
    let shift = (index >> SUB_BITS) - 1;
    let low = ((index & (SUB - 1)) + SUB) as u64;
    (low << shift) + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: impl IntoIterator<Item = u64>, quantile: f64, expected: u64) {
        let mut histogram = Histogram::new();
        values.into_iter().for_each(|value| histogram.record(value));
        let got = histogram.quantile(quantile);
        assert!(
            got.abs_diff(expected) * 100 <= expected,
            "{got} is not within 1 % of {expected}"
        );
    }

    #[test]
    fn quantiles_are_within_one_percent() {
        check([], 0.5, 0);
        check([7], 0.99, 7);
        check(1..=1_000, 0.5, 500);
        check(1..=100_000, 0.99, 99_000);
        check((0..1_000).map(|n| n * 1_000_003), 0.99, 989 * 1_000_003);
        check([u64::MAX], 0.5, u64::MAX);
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for shift in 0..63 {
            let edge = 1_u64 << shift;
            assert!(bucket(edge) - bucket(edge - 1) <= 1, "gap at {edge}");
        }
        assert_eq!(bucket(u64::MAX), N_BUCKETS - 1);
    }
}
