//! How many rows a second each producer may send: one token bucket each, as many as are remembered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tidegate_vitals::Instant;

/// The producers of one feed.
#[derive(Debug)]
pub(super) struct Quota {
    producers_max: usize,
    buckets: Mutex<FxHashMap<Arc<str>, Bucket>>,
}

/// Rows that may be sent at once; below zero after a request larger than a second's worth.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rows: f64,
    at: Instant,
}

// === impl Quota ===

impl Quota {
    pub(super) fn new(producers_max: usize) -> Self {
        Self {
            producers_max,
            buckets: Mutex::default(),
        }
    }

    /// Takes `rows` of what `producer` may send, or says how long to wait. A request of more than a second's worth is
    /// taken when the bucket is full, and paid for afterwards.
    pub(super) fn take(
        &self,
        producer: &Arc<str>,
        rows: usize,
        per_second: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        // Nothing under this lock can leave the map in a bad state.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = f64::from(per_second);
        if !buckets.contains_key(producer) && buckets.len() >= self.producers_max {
            make_room(&mut buckets, rate, now);
        }
        let bucket = buckets
            .entry(Arc::clone(producer))
            .or_insert(Bucket { rows: rate, at: now });
        bucket.refill(rate, now);
        let needed = (rows as f64).min(rate);
        if bucket.rows < needed {
            return Err(Duration::from_secs_f64((needed - bucket.rows) / rate));
        }
        bucket.rows -= rows as f64;
        Ok(())
    }
}

/// Forgets whoever has a full bucket, which loses nothing; if all are in use, the one unused for longest.
fn make_room(buckets: &mut FxHashMap<Arc<str>, Bucket>, rate: f64, now: Instant) {
    let n_before = buckets.len();
    buckets.retain(|_, bucket| {
        bucket.refill(rate, now);
        bucket.rows < rate
    });
    if buckets.len() == n_before {
        let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at);
        if let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) {
            buckets.remove(&oldest);
        }
    }
}

impl Bucket {
    fn refill(&mut self, rate: f64, now: Instant) {
        let passed: Duration = now - self.at;
        let earned = passed.as_secs_f64() * rate;
        if earned >= 1.0 || self.rows + earned >= rate {
            self.rows = (self.rows + earned).min(rate);
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn a_producer_gets_its_rows_a_second() {
        let quota = Quota::new(10);
        let alice: Arc<str> = "alice".into();
        assert_eq!(quota.take(&alice, 100, 100, at(0)), Ok(()));
        assert_eq!(
            quota.take(&alice, 10, 100, at(0)),
            Err(Duration::from_millis(100))
        );
        assert_eq!(quota.take(&alice, 10, 100, at(100)), Ok(()));
        assert_eq!(quota.take(&"bob".into(), 100, 100, at(100)), Ok(()));
        // More than a second's worth: paid for afterwards.
        assert_eq!(quota.take(&alice, 300, 100, at(1_100)), Ok(()));
        assert_eq!(
            quota.take(&alice, 1, 100, at(2_000)),
            Err(Duration::from_millis(1_110))
        );
        assert_eq!(quota.take(&alice, 1, 100, at(3_110)), Ok(()));
    }

    #[test]
    fn the_producers_remembered_are_bounded() {
        let quota = Quota::new(3);
        for n in 0..100 {
            assert_eq!(quota.take(&n.to_string().into(), 10, 10, at(n)), Ok(()));
        }
        assert!(quota.buckets.lock().unwrap().len() <= 3);
    }
}
