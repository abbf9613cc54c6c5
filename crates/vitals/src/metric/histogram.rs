//! A log-linear histogram: values below 128 exact, larger ones within 0.8 %.
//!
//! Each power of two is cut into 64 equal buckets. A bucket is at most 1/64 of its lower end wide and is
//! reported by its middle, so a quantile is off by at most 1/128. All of `u64` is covered in 3,776 buckets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::counter::{thread_shard, thread_shards};

/// A distribution. Clones record into the same figure; recording never allocates.
#[derive(Clone, Debug)]
pub struct Histogram(pub(super) Arc<HistogramCells>);

/// What a histogram held at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    count: u64,
    sum: u64,
    max: u64,
    /// Buckets that hold something: index and count, by rising index.
    buckets: Vec<(u16, u64)>,
}

/// The cells behind a [`Histogram`], one set per thread shard.
#[derive(Debug)]
pub(super) struct HistogramCells {
    shards: Box<[ShardCells]>,
}

#[repr(align(128))]
#[derive(Debug)]
struct ShardCells {
    sum: AtomicU64,
    max: AtomicU64,
    buckets: Box<[AtomicU64]>,
}

/// 2⁶ buckets per power of two.
const SUB_BITS: u32 = 6;
const SUB: u64 = 1 << SUB_BITS;
/// One linear block for values below 64, then one block for each of the 58 higher powers.
const BUCKETS: usize = ((64 - SUB_BITS + 1) as usize) << SUB_BITS;
/// A histogram's buckets are 30 KB a shard; more shards than this would not pay.
const HISTOGRAM_SHARDS_MAX: usize = 4;

// === impl Histogram ===

impl Histogram {
    /// Records one value, in the unit of the metric.
    #[inline]
    pub fn record(&self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records `n` equal values at the price of one.
    #[inline]
    pub fn record_n(&self, value: u64, n: u64) {
        let shards = &self.0.shards;
        let shard = &shards[thread_shard() & (shards.len() - 1)];
        shard.buckets[bucket_of(value)].fetch_add(n, Relaxed);
        shard.sum.fetch_add(value.wrapping_mul(n), Relaxed);
        if value > shard.max.load(Relaxed) {
            shard.max.fetch_max(value, Relaxed);
        }
    }

    /// What has been recorded so far.
    pub fn snapshot(&self) -> HistogramSnapshot {
        self.0.snapshot()
    }
}

// === impl HistogramCells ===

impl HistogramCells {
    pub(super) fn new() -> Self {
        let shards = thread_shards().min(HISTOGRAM_SHARDS_MAX);
        Self {
            shards: (0..shards).map(|_| ShardCells::new()).collect(),
        }
    }

    pub(super) fn snapshot(&self) -> HistogramSnapshot {
        let mut taken = HistogramSnapshot::default();
        for index in 0..BUCKETS {
            let n = self
                .shards
                .iter()
                .map(|shard| shard.buckets[index].load(Relaxed))
                .sum();
            if n > 0 {
                taken.buckets.push((index as u16, n));
                taken.count += n;
            }
        }
        for shard in &self.shards {
            taken.sum = taken.sum.wrapping_add(shard.sum.load(Relaxed));
            taken.max = taken.max.max(shard.max.load(Relaxed));
        }
        taken
    }
}

impl ShardCells {
    fn new() -> Self {
        Self {
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

// === impl HistogramSnapshot ===

impl HistogramSnapshot {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their exact sum, in the unit of the metric; wraps after 2⁶⁴.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The largest value ever recorded, exact; for a difference ([`HistogramSnapshot::since`]) within 0.8 %.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The exact mean; zero when nothing was recorded.
    pub fn mean(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            self.sum as f64 / self.count as f64
        }
    }

    /// The value below or at which the share `p` (0 to 1) of all values lies, within 0.8 %; zero when empty.
    ///
    /// Nearest rank: the smallest recorded value whose rank is at least `p · count`.
    pub fn quantile(&self, p: f64) -> u64 {
        let rank = ((p.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).max(1);
        let mut below = 0;
        for &(index, n) in &self.buckets {
            below += n;
            if below >= rank {
                return middle_of(index).min(self.max);
            }
        }
        0
    }

    /// How many values are at most `bound`, to the bucket (0.8 %).
    pub fn count_at_most(&self, bound: u64) -> u64 {
        self.buckets
            .iter()
            .take_while(|(index, _)| last_of(*index) <= bound)
            .map(|(_, n)| n)
            .sum()
    }

    /// The buckets that hold something: largest value of the bucket and count, rising.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().map(|&(index, n)| (last_of(index), n))
    }

    /// Adds the values of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
        for &(index, n) in &other.buckets {
            match self.buckets.binary_search_by_key(&index, |bucket| bucket.0) {
                Ok(at) => self.buckets[at].1 += n,
                Err(at) => self.buckets.insert(at, (index, n)),
            }
        }
    }

    /// What was recorded after `earlier` was taken of the same histogram.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut old = earlier.buckets.iter().peekable();
        let mut since = Self {
            sum: self.sum.wrapping_sub(earlier.sum),
            ..Self::default()
        };
        for &(index, n) in &self.buckets {
            while old.next_if(|bucket| bucket.0 < index).is_some() {}
            let before = old
                .next_if(|bucket| bucket.0 == index)
                .map_or(0, |bucket| bucket.1);
            if n > before {
                since.buckets.push((index, n - before));
                since.count += n - before;
            }
        }
        since.max = since
            .buckets
            .last()
            .map_or(0, |&(index, _)| last_of(index).min(self.max));
        since
    }
}

/// The bucket of a value: its block by the highest bit, its place by the six bits below.
#[inline]
fn bucket_of(value: u64) -> usize {
    if value < SUB {
        return value as usize;
    }
    let shift = value.ilog2() - SUB_BITS;
    ((shift as usize) << SUB_BITS) + (value >> shift) as usize
}

/// The smallest value of a bucket and how many values it spans.
fn span_of(index: u16) -> (u64, u64) {
    let index = u64::from(index);
    if index < SUB {
        return (index, 1);
    }
    let shift = (index >> SUB_BITS) - 1;
    (((index & (SUB - 1)) + SUB) << shift, 1 << shift)
}

fn last_of(index: u16) -> u64 {
    let (first, width) = span_of(index);
    first + (width - 1)
}

fn middle_of(index: u16) -> u64 {
    let (first, width) = span_of(index);
    first + (width - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_tile_all_values() {
        let mut next = 0_u64;
        for index in 0..BUCKETS as u16 {
            let (first, width) = span_of(index);
            assert_eq!(first, next, "bucket {index}");
            assert_eq!(bucket_of(first), usize::from(index));
            assert_eq!(bucket_of(last_of(index)), usize::from(index));
            next = first.wrapping_add(width);
        }
        assert_eq!(next, 0, "the last bucket ends at u64::MAX");
    }

    #[test]
    fn small_values_are_exact() {
        for value in 0..128 {
            assert_eq!(middle_of(bucket_of(value) as u16), value);
        }
    }

    #[test]
    fn empty_histogram_answers_zero() {
        let empty = HistogramSnapshot::default();
        assert_eq!(
            (empty.quantile(0.5), empty.max(), empty.count_at_most(u64::MAX)),
            (0, 0, 0)
        );
        assert!(empty.mean().abs() < f64::EPSILON);
    }
}
