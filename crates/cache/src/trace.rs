//! Streams of requests for tests and benchmarks, and the policies that a cache is compared with on them.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// A small generator of random numbers (SplitMix64), the same on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

/// Draws ranks 0, 1, … whose frequency falls with a power of the rank.
#[derive(Debug, Clone)]
pub struct Zipf {
    /// The summed share of all ranks up to each.
    summed: Vec<f64>,
}

// === impl Random ===

impl Random {
    /// The stream of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The next share of one.
    pub fn share(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

// === impl Zipf ===

impl Zipf {
    /// Ranks below `n`, the i-th drawn in proportion to `(i + 1)^-exponent`.
    ///
    /// # Panics
    /// If `n` is zero.
    #[must_use]
    pub fn new(n: usize, exponent: f64) -> Self {
        assert!(n > 0, "ranks to draw from");
        let mut sum = 0.0;
        let mut summed: Vec<f64> = (1..=n)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        summed.iter_mut().for_each(|share| *share /= sum);
        Self { summed }
    }

    /// The next rank.
    pub fn draw(&self, random: &mut Random) -> u64 {
        let share = random.share();
        self.summed
            .partition_point(|sum| *sum < share)
            .min(self.summed.len() - 1) as u64
    }
}

/// A number whose bits depend on all bits of `key`, as a hash of it would.
#[must_use]
pub fn mixed(key: u64) -> u64 {
    Random::new(key).draw()
}

/// `len` requests for `keys` keys by [`Zipf`].
#[must_use]
pub fn zipf(keys: usize, exponent: f64, len: usize, seed: u64) -> Vec<u64> {
    let (zipf, mut random) = (Zipf::new(keys, exponent), Random::new(seed));
    (0..len).map(|_| zipf.draw(&mut random)).collect()
}

/// As [`zipf`], and after each `every` requests a scan over `scan` keys that never come again.
#[must_use]
pub fn with_scans(requests: &[u64], every: usize, scan: usize) -> Vec<u64> {
    let mut next = 1 << 40;
    let mut mixed = Vec::with_capacity(requests.len() + requests.len() / every * scan);
    for part in requests.chunks(every) {
        mixed.extend_from_slice(part);
        mixed.extend(next..next + scan as u64);
        next += scan as u64;
    }
    mixed
}

/// As [`zipf`], but what is popular moves on by `step` keys after each `every` requests.
#[must_use]
pub fn drifting(requests: &[u64], keys: u64, every: usize, step: u64) -> Vec<u64> {
    let moved = |(at, rank): (usize, &u64)| (rank + (at / every) as u64 * step) % keys;
    requests.iter().enumerate().map(moved).collect()
}

/// Share of requests that a cache of `capacity` keys hits if it knows the future: it evicts what is needed last.
/// (L. A. Belady, 1966: no policy that must store each key it misses does better.)
#[must_use]
pub fn clairvoyant(requests: &[u64], capacity: usize) -> f64 {
    let mut next = vec![usize::MAX; requests.len()];
    let mut seen: HashMap<u64, usize> = HashMap::new();
    for (at, key) in requests.iter().enumerate().rev() {
        next[at] = seen.insert(*key, at).unwrap_or(usize::MAX);
    }
    let mut held: HashMap<u64, usize> = HashMap::new();
    let mut by_need: BTreeSet<(usize, u64)> = BTreeSet::new();
    let mut hits = 0_u64;
    for (at, key) in requests.iter().enumerate() {
        match held.remove(key) {
            Some(need) => {
                hits += 1;
                by_need.remove(&(need, *key));
            }
            None if held.len() == capacity => {
                let (_, last) = by_need.pop_last().expect("as many as are held");
                held.remove(&last);
            }
            None => {}
        }
        held.insert(*key, next[at]);
        by_need.insert((next[at], *key));
    }
    hits as f64 / requests.len().max(1) as f64
}

/// Share of requests that the least-recently-used policy hits with `capacity` keys.
#[must_use]
pub fn lru(requests: &[u64], capacity: usize) -> f64 {
    let mut held: HashMap<u64, u64> = HashMap::new();
    let mut order: VecDeque<(u64, u64)> = VecDeque::new();
    let mut hits = 0_u64;
    for (now, key) in (0_u64..).zip(requests) {
        if held.insert(*key, now).is_some() {
            hits += 1;
        }
        order.push_back((*key, now));
        while held.len() > capacity {
            let (key, used) = order.pop_front().expect("as many uses as are held at least");
            if held.get(&key) == Some(&used) {
                held.remove(&key);
            }
        }
    }
    hits as f64 / requests.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_policies_on_a_known_stream() {
        let requests = [1, 2, 3, 1, 2, 3, 1, 2, 3];
        assert!(lru(&requests, 2).abs() < 1e-9, "a cycle longer than the cache");
        assert!((lru(&requests, 3) - 6.0 / 9.0).abs() < 1e-9);
        assert!((clairvoyant(&requests, 2) - 3.0 / 9.0).abs() < 1e-9);
        assert!((clairvoyant(&requests, 3) - 6.0 / 9.0).abs() < 1e-9);
    }

    #[test]
    fn streams_have_their_shapes() {
        let requests = zipf(1_000, 0.9, 20_000, 1);
        let count = |rank| requests.iter().filter(|key| **key == rank).count();
        assert!(count(0) > 3 * count(9) && count(9) > count(500));
        assert_eq!(with_scans(&requests[..100], 50, 10).len(), 120);
        assert_eq!(drifting(&[0, 0, 0], 10, 2, 3), [0, 0, 3]);
    }
}
