//! Who is let in: limits on connections, addresses, users and the rate of arrival.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use rustc_hash::FxHashMap;
use tidegate_vitals::Instant;

use crate::config::Limits;

/// Counts what is inside and decides on what wants in.
#[derive(Default)]
pub(crate) struct Admission {
    connections: AtomicUsize,
    arrivals: AtomicU64,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    addresses: FxHashMap<IpAddr, usize>,
    users: FxHashMap<Arc<str>, usize>,
    accepts: Option<Bucket>,
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Connections,
    Address,
    Rate,
    Draining,
    Memory,
    Origin,
}

impl Refusal {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Address => "address",
            Self::Rate => "accept_rate",
            Self::Draining => "draining",
            Self::Memory => "memory",
            Self::Origin => "origin",
        }
    }
}

/// A place inside; given back when dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    address: IpAddr,
    counted: bool,
    order: u64,
}

impl Permit {
    /// Its place in the order of arrival: of two connections of a client the greater is the newer.
    pub(crate) fn order(&self) -> u64 {
        self.order
    }
}

impl Admission {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections inside.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Lets a connection in, or says which limit it met.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: IpAddr,
        limits: &Limits,
        connections_max: usize,
        now: Instant,
    ) -> Result<Permit, Refusal> {
        if let Some(per_second) = limits.accepts_per_second {
            let mut counts = self.counts();
            let bucket = counts
                .accepts
                .get_or_insert_with(|| Bucket::full(per_second, now));
            if !bucket.take(per_second, per_second, now) {
                return Err(Refusal::Rate);
            }
        }
        if self.connections.fetch_add(1, Ordering::Relaxed) >= connections_max {
            self.connections.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Connections);
        }
        let mut permit = Permit {
            admission: self.clone(),
            address,
            counted: false,
            order: self.arrivals.fetch_add(1, Ordering::Relaxed),
        };
        if let Some(max) = limits.connections_per_address {
            let mut counts = self.counts();
            let n = counts.addresses.entry(address).or_default();
            if *n >= max {
                drop(counts);
                return Err(Refusal::Address);
            }
            *n += 1;
            permit.counted = true;
        }
        Ok(permit)
    }

    /// Counts one more session of a user, if the user may have one more.
    pub(crate) fn admit_user(&self, user: &Arc<str>, max: Option<usize>) -> bool {
        let mut counts = self.counts();
        let n = counts.users.entry(user.clone()).or_default();
        if max.is_some_and(|max| *n >= max) {
            return false;
        }
        *n += 1;
        true
    }

    #[cfg(test)]
    pub(crate) fn n_users(&self) -> usize {
        self.counts().users.len()
    }

    /// One session less of a user.
    pub(crate) fn release_user(&self, user: &str) {
        let mut counts = self.counts();
        if let Some(n) = counts.users.get_mut(user) {
            *n -= 1;
            if *n == 0 {
                counts.users.remove(user);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        if !self.counted {
            return;
        }
        let mut counts = self.admission.counts();
        if let Some(n) = counts.addresses.get_mut(&self.address) {
            *n -= 1;
            if *n == 0 {
                counts.addresses.remove(&self.address);
            }
        }
    }
}

/// A token bucket of 16 bytes: one per session, so no crate's own clock and no allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Thousandths of a token.
    level: u64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(burst: u32, now: Instant) -> Self {
        Self {
            level: u64::from(burst).max(1) * 1_000,
            at: now,
        }
    }

    /// Takes one token of a bucket that holds `burst` and gains `per_second`.
    pub(crate) fn take(&mut self, per_second: u32, burst: u32, now: Instant) -> bool {
        let gained = now.since(self.at).as_millis() as u64 * u64::from(per_second);
        if gained > 0 {
            self.level = (self.level + gained).min(u64::from(burst).max(1) * 1_000);
            self.at = now;
        }
        if self.level < 1_000 {
            return false;
        }
        self.level -= 1_000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(limits: &Limits, connections_max: usize, expected: &[Option<Refusal>]) {
        let admission = Arc::new(Admission::default());
        let address = IpAddr::from([127, 0, 0, 1]);
        let mut inside = Vec::new();
        for want in expected {
            let got = admission.admit(address, limits, connections_max, Instant::from_millis(5));
            assert_eq!(got.as_ref().err(), want.as_ref());
            inside.extend(got);
        }
        inside.clear();
        assert_eq!(admission.connections(), 0);
        assert!(admission.counts().addresses.is_empty());
    }

    #[test]
    fn each_limit_refuses_by_its_own_name_and_gives_back() {
        let limits = Limits::default();
        check(&limits, 2, &[None, None, Some(Refusal::Connections)]);
        let limits = Limits {
            connections_per_address: Some(1),
            ..Limits::default()
        };
        check(&limits, 9, &[None, Some(Refusal::Address)]);
    }

    #[test]
    fn a_bucket_refills_with_time() {
        let mut bucket = Bucket::full(2, Instant::from_millis(0));
        let takes = |bucket: &mut Bucket, ms| bucket.take(2, 2, Instant::from_millis(ms));
        assert_eq!(
            [0, 0, 0, 499, 500, 501, 5_000, 5_000, 5_000].map(|ms| takes(&mut bucket, ms)),
            [true, true, false, false, true, false, true, true, false]
        );
    }
}
