//! What a caller wants of a value: how long it is fresh, and what may be served when it is not.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

/// How one value is kept. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long a value is fresh. Zero: concurrent callers share one load, and nothing is stored.
    pub ttl: Duration,
    /// Share of `ttl` (0 to 1) by which each value's own may be shorter, so that values loaded together do not expire
    /// together. It never makes one longer.
    pub jitter: f32,
    /// How long after `ttl` a value is still served while one refresh runs behind it.
    pub stale: Duration,
    /// How long after `ttl` a value is still served when its load fails.
    pub stale_on_error: Duration,
    /// How long "there is nothing" ([`Loaded::nothing`]) is kept; zero: not at all.
    pub negative_ttl: Duration,
    /// What changes the value; [`crate::Cache::invalidate_tags`] drops it. Only values all of whose tags stand here go to
    /// the remote level, because their state must be known before the load begins.
    pub tags: Arc<[Box<str>]>,
    /// Whether lower levels are asked and filled; `false` keeps the value in this process' memory.
    pub lower_levels: bool,
}

/// What a load brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The value.
    pub value: Bytes,
    /// Tags beyond those of the policy, known only from the value.
    pub tags: Vec<Box<str>>,
    /// Up to which position of the database's log the value contains everything, if it was read where that may be behind
    /// (a replica). None: it was read at the primary.
    pub position: Option<u64>,
    /// Whether it says that there is nothing.
    pub is_negative: bool,
}

impl Default for Policy {
    /// A minute, a tenth of jitter, nothing stale.
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(60),
            jitter: 0.1,
            stale: Duration::ZERO,
            stale_on_error: Duration::ZERO,
            negative_ttl: Duration::ZERO,
            tags: Arc::default(),
            lower_levels: true,
        }
    }
}

// === impl Policy ===

impl Policy {
    /// Values that are fresh for `ttl`, all else as by default.
    #[must_use]
    pub fn of_ttl(ttl: Duration) -> Self {
        Self {
            ttl,
            ..Self::default()
        }
    }

    /// The same with these tags.
    #[must_use]
    pub fn tagged<T: AsRef<str>>(mut self, tags: &[T]) -> Self {
        self.tags = tags.iter().map(|tag| Box::from(tag.as_ref())).collect();
        self
    }

    /// How long a value is fresh, given a number that is different for each.
    pub(crate) fn ttl_of(&self, is_negative: bool, chance: u64) -> Duration {
        let ttl = if is_negative { self.negative_ttl } else { self.ttl };
        // The upper half of a multiplied hash, as a share of one.
        let share = (chance.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / (1_u64 << 24) as f64;
        ttl.mul_f64(1.0 - f64::from(self.jitter.clamp(0.0, 1.0)) * share)
    }
}

// === impl Loaded ===

impl Loaded {
    /// A value read at the primary, without tags of its own.
    #[must_use]
    pub fn of(value: impl Into<Bytes>) -> Self {
        Self {
            value: value.into(),
            tags: Vec::new(),
            position: None,
            is_negative: false,
        }
    }

    /// There is nothing under this key.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            is_negative: true,
            ..Self::of(Bytes::new())
        }
    }

    /// The same, read at a replica that had replayed the log up to `position`.
    #[must_use]
    pub fn at(mut self, position: u64) -> Self {
        self.position = Some(position);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_shortens_and_spreads() {
        let policy = Policy {
            jitter: 0.5,
            ..Policy::of_ttl(Duration::from_secs(10))
        };
        let ttls: Vec<Duration> = (0..1_000).map(|chance| policy.ttl_of(false, chance)).collect();
        let (least, most) = (ttls.iter().min().unwrap(), ttls.iter().max().unwrap());
        assert!(*least >= Duration::from_secs(5) && *most <= Duration::from_secs(10));
        assert!(*most - *least > Duration::from_secs(4), "{least:?} to {most:?}");
        assert_eq!(policy.ttl_of(true, 3), Duration::ZERO);
    }
}
