//! A small seeded generator: the same seed makes the same trading day.

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// Starts from `seed`.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Evenly from 0 (included) to 1 (not).
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Evenly from 0 to `n` - 1; 0 for an empty range.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.unit() * n as f64) as usize
    }

    /// About normal with mean 0 and deviation 1: the sum of twelve even ones.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_their_range_and_repeat_by_seed() {
        let (mut a, mut b) = (Random::new(7), Random::new(7));
        let mut sum = 0.0;
        for _ in 0..10_000 {
            let unit = a.unit();
            assert!((0.0..1.0).contains(&unit));
            assert!((unit - b.unit()).abs() < f64::EPSILON);
            assert!(a.below(5) < 5 && b.below(5) < 5);
            let normal = a.normal();
            b.normal();
            assert!(normal.abs() <= 6.0);
            sum += normal;
        }
        assert!((sum / 10_000.0).abs() < 0.1);
        assert_eq!(a.below(0), 0);
    }
}
