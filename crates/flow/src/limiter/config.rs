//! The limits of a limiter, and the shares of its partitions.

use std::sync::Arc;
use std::time::Duration;

/// The limits of a limiter.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Its name in errors and figures.
    pub name: &'static str,
    /// How much may be in flight.
    pub limit: Limit,
    /// Who shares it, at most [`PARTITIONS_MAX`]; whoever is not named belongs to [`Partition::OTHER`].
    pub shares: Vec<Share>,
    /// Most callers that may wait, over all partitions; 0: who cannot enter is refused at once.
    pub waiting_max: usize,
    /// How long a caller may wait; zero: it is refused at once.
    pub wait_max: Duration,
}

/// How much may be in flight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Always this much, at least 1.
    Fixed(usize),
    /// As much as keeps latency near that of an idle server.
    Adaptive(Adaptive),
}

/// The bounds and the pace of a limit that finds itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adaptive {
    /// The limit at first, from `min` to `max`.
    pub initial: usize,
    /// Never less than this, at least 1.
    pub min: usize,
    /// Never more than this.
    pub max: usize,
    /// The limit moves at most once in this time.
    pub window: Duration,
    /// It moves only on this many samples, at least 1; a window lasts until it has them.
    pub window_samples_min: u32,
    /// The latency of an idle server is measured again after this many windows, at least 1.
    pub probe_windows: u32,
}

/// What one partition may have, in thousandths of the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Its name, as of a role.
    pub name: Arc<str>,
    /// Enters whatever the others do. What it leaves unused, others may borrow. All shares together are at most 1000.
    pub guaranteed_per_mille: u16,
    /// Never more than this, even when the rest is idle: from the guarantee to 1000.
    pub most_per_mille: u16,
}

/// One of a limiter's partitions; [`super::Limiter::partition`] finds it by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Partition(pub(super) usize);

/// Most partitions of a limiter, [`Partition::OTHER`] apart.
pub const PARTITIONS_MAX: usize = 15;

// === impl Config ===

impl Config {
    /// No shares; up to 64 callers wait for at most 100 ms.
    pub fn new(name: &'static str, limit: Limit) -> Self {
        Self {
            name,
            limit,
            shares: Vec::new(),
            waiting_max: 64,
            wait_max: Duration::from_millis(100),
        }
    }

    pub(super) fn assert_sound(&self) {
        let name = self.name;
        match self.limit {
            Limit::Fixed(limit) => assert!(limit >= 1, "limiter {name}: limit is 0, at least 1"),
            Limit::Adaptive(adaptive) => adaptive.assert_sound(name),
        }
        let n_shares = self.shares.len();
        assert!(
            n_shares <= PARTITIONS_MAX,
            "limiter {name}: {n_shares} partitions, at most {PARTITIONS_MAX}"
        );
        let guaranteed: u32 = self
            .shares
            .iter()
            .map(|share| u32::from(share.guaranteed_per_mille))
            .sum();
        assert!(
            guaranteed <= 1000,
            "limiter {name}: {guaranteed} per mille guaranteed, at most 1000"
        );
        for share in &self.shares {
            let (guaranteed, most) = (share.guaranteed_per_mille, share.most_per_mille);
            assert!(
                (guaranteed.max(1)..=1000).contains(&most),
                "limiter {name}: partition {} may have {most} per mille, from {} to 1000",
                share.name,
                guaranteed.max(1)
            );
        }
    }
}

// === impl Adaptive ===

impl Default for Adaptive {
    /// From 4 to 1000, 20 at first; a second's window of at least 50 samples; a probe every 30 windows.
    fn default() -> Self {
        Self {
            initial: 20,
            min: 4,
            max: 1000,
            window: Duration::from_secs(1),
            window_samples_min: 50,
            probe_windows: 30,
        }
    }
}

impl Adaptive {
    fn assert_sound(&self, name: &str) {
        let Self {
            initial, min, max, ..
        } = *self;
        assert!(min >= 1, "limiter {name}: min is 0, at least 1");
        assert!(
            (min..=max).contains(&initial),
            "limiter {name}: initial is {initial}, from {min} to {max}"
        );
        assert!(
            self.window_samples_min >= 1 && self.probe_windows >= 1 && !self.window.is_zero(),
            "limiter {name}: window, window_samples_min and probe_windows are above zero"
        );
    }
}

// === impl Share ===

impl Share {
    /// `guaranteed_per_mille` for sure, and whatever is idle.
    pub fn new(name: impl Into<Arc<str>>, guaranteed_per_mille: u16) -> Self {
        Self {
            name: name.into(),
            guaranteed_per_mille,
            most_per_mille: 1000,
        }
    }
}

// === impl Partition ===

impl Partition {
    /// Everybody without a share: nothing is guaranteed, everything may be borrowed.
    pub const OTHER: Self = Self(0);
}
