//! Buckets of one distribution with one writer: plain additions, readable from other threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A power of two is cut into this many buckets, so a bucket is at most 1/16 of its lower end wide and its middle at
/// most 1/32 (3.2 %) off.
const SUB: u64 = 1 << SUB_BITS;
const SUB_BITS: u32 = 4;
/// Values from 2⁴⁰ ns (18 minutes) on share the last bucket.
const POWERS: u32 = 40;
/// 4.6 KiB of them.
const BUCKETS: usize = ((POWERS - SUB_BITS + 1) as usize) << SUB_BITS;

/// Buckets that one thread fills and any thread reads. With several writers additions may be lost; nothing else.
#[derive(Debug)]
pub struct Buckets([AtomicU64; BUCKETS]);

/// What buckets held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution(Box<[u64]>);

// === impl Buckets ===

impl Buckets {
    pub(crate) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }

    /// Adds one value; only one thread at a time may call it.
    #[inline]
    pub(crate) fn record(&self, value: u64) {
        bump(&self.0[index_of(value)], 1);
    }

    /// Adds one value from any thread.
    pub(crate) fn record_shared(&self, value: u64) {
        self.0[index_of(value)].fetch_add(1, Relaxed);
    }

    /// Adds what the buckets hold to `sum`.
    pub(crate) fn add_to(&self, sum: &mut Distribution) {
        for (into, from) in sum.0.iter_mut().zip(&self.0) {
            *into += from.load(Relaxed);
        }
    }
}

/// A single writer's addition: a load and a store, without the bus lock of a read-modify-write.
#[inline]
pub(crate) fn bump(cell: &AtomicU64, by: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
}

#[inline]
fn index_of(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let power = value.ilog2();
    if power >= POWERS {
        return BUCKETS - 1;
    }
    let sub = (value >> (power - SUB_BITS)) & (SUB - 1);
    (((power - SUB_BITS + 1) as usize) << SUB_BITS) + sub as usize
}

/// Lowest value of a bucket and how many values it takes.
fn range_of(index: usize) -> (u64, u64) {
    let (block, sub) = ((index >> SUB_BITS) as u32, index as u64 & (SUB - 1));
    if block == 0 {
        return (sub, 1);
    }
    let width = 1 << (block - 1);
    ((SUB + sub) * width, width)
}

/// What a bucket is reported as.
fn middle_of(index: usize) -> u64 {
    let (low, width) = range_of(index);
    low + (width - 1) / 2
}

// === impl Distribution ===

impl Distribution {
    pub(crate) fn new() -> Self {
        Self(vec![0; BUCKETS].into_boxed_slice())
    }

    /// How many values it holds.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The value below which the share `q` (0 to 1) of all lies, within 3.2 %; zero when empty.
    pub fn quantile(&self, q: f64) -> u64 {
        let count = self.count();
        let wanted = ((q * count as f64).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, n) in self.0.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return middle_of(index);
            }
        }
        0
    }

    /// The upper end of the highest bucket that holds something.
    pub fn max(&self) -> u64 {
        let top = self.0.iter().rposition(|n| *n > 0);
        top.map_or(0, |index| {
            let (low, width) = range_of(index);
            low + width - 1
        })
    }

    /// Standard deviation, from the middles of the buckets.
    pub fn deviation(&self) -> f64 {
        let count = self.count();
        if count == 0 {
            return 0.0;
        }
        let filled = || self.0.iter().enumerate().filter(|(_, n)| **n > 0);
        let of = |index: usize, n: &u64, f: &dyn Fn(f64) -> f64| f(middle_of(index) as f64) * *n as f64;
        let mean = filled().map(|(index, n)| of(index, n, &|v| v)).sum::<f64>() / count as f64;
        let squares: f64 = filled()
            .map(|(index, n)| of(index, n, &|v| (v - mean).powi(2)))
            .sum();
        (squares / count as f64).sqrt()
    }

    /// What came since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let pairs = self.0.iter().zip(&earlier.0);
        Self(pairs.map(|(now, then)| now.saturating_sub(*then)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_range() {
        for index in 0..BUCKETS {
            let (low, width) = range_of(index);
            assert_eq!(index_of(low), index);
            assert_eq!(index_of(low + width - 1), index);
            assert_eq!(index_of(middle_of(index)), index);
        }
        assert_eq!(index_of(u64::MAX), BUCKETS - 1);
        assert_eq!(index_of(1 << 39), BUCKETS - 16);
    }

    #[test]
    fn a_middle_is_within_a_thirty_second() {
        for value in (0..39).flat_map(|power| [1u64 << power, (1 << power) + (1 << power) / 3]) {
            let off = middle_of(index_of(value)).abs_diff(value) as f64;
            assert!(off <= value as f64 / 32.0, "{value} is off by {off}");
        }
    }

    #[test]
    fn buckets_of_a_function_and_thread_stay_near_five_kib() {
        assert!(size_of::<Buckets>() <= 5 * 1024, "{}", size_of::<Buckets>());
    }

    #[test]
    fn deviation_of_a_known_set() {
        let buckets = Buckets::new();
        for value in [2, 4, 4, 4, 5, 5, 7, 9] {
            buckets.record(value);
        }
        let mut read = Distribution::new();
        buckets.add_to(&mut read);
        assert!((read.deviation() - 2.0).abs() < 1e-9);
        assert_eq!(
            (read.count(), read.max(), read.quantile(0.5), read.quantile(1.0)),
            (8, 9, 4, 9)
        );
    }
}
