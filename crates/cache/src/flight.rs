//! One way down the levels for all callers who miss a key at the same time.

use std::{error, future::Future, sync::Arc};

use tidegate_vitals::profiled;

#[cfg(feature = "remote")]
use crate::{
    cache::Draft,
    remote::{Fetched, Ticket},
    tags,
};
use crate::{
    cache::{Begun, Inner},
    entry::{Entry, Hit, Source},
    error::Erased,
    key::Key,
    policy::{Loaded, Policy},
    stats::ns,
};

/// What a flight knows when it begins.
pub(crate) struct Flight {
    inner: Arc<Inner>,
    key: Key,
    policy: Policy,
    begun: Begun,
}

/// Counts how a load ended, also when it is dropped or panics.
struct Outcome<'a> {
    inner: &'a Inner,
    is_told: bool,
}

/// What the levels below memory said.
enum Below {
    Found(Hit),
    /// The right to store in the remote level, if that one could be asked.
    #[cfg(feature = "remote")]
    Missing(Option<Ticket>),
    #[cfg(not(feature = "remote"))]
    Missing,
}

/// Asks the levels below memory in turn, then loads.
pub(crate) async fn fly<E, F, Fut>(flight: Flight, load: F) -> Result<Hit, Erased>
where
    E: error::Error + Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<Loaded, E>> + Send + 'static,
{
    let below = match flight.policy.lower_levels {
        true => flight.below().await,
        false => Below::nothing(),
    };
    #[cfg(feature = "remote")]
    let ticket = match below {
        Below::Found(hit) => return Ok(hit),
        Below::Missing(ticket) => ticket,
    };
    #[cfg(not(feature = "remote"))]
    if let Below::Found(hit) = below {
        return Ok(hit);
    }
    let loaded = flight.load(load).await?;
    #[cfg(feature = "remote")]
    let ticket = ticket.filter(|_| flight.names_all(&loaded));
    let entry = flight
        .inner
        .accept(&flight.key, &flight.policy, flight.begun, loaded);
    #[cfg(feature = "remote")]
    if let Some(ticket) = ticket {
        flight.fill(ticket, &entry);
    }
    Ok(Hit::new(entry, Source::Load, false))
}

// === impl Below ===

impl Below {
    const fn nothing() -> Self {
        #[cfg(feature = "remote")]
        return Self::Missing(None);
        #[cfg(not(feature = "remote"))]
        Self::Missing
    }
}

// === impl Flight ===

impl Flight {
    /// Begins now: what is invalidated from here on makes what it brings worthless.
    pub(crate) fn new(inner: Arc<Inner>, key: Key, policy: Policy) -> Self {
        let begun = inner.begin();
        Self {
            inner,
            key,
            policy,
            begun,
        }
    }

    async fn below(&self) -> Below {
        if let Some(hit) = self.on_disk().await {
            return Below::Found(hit);
        }
        #[cfg(feature = "remote")]
        return self.in_remote().await;
        #[cfg(not(feature = "remote"))]
        Below::nothing()
    }

    /// The value on the disk. One whose time is over is answered or kept as far as the policy allows.
    async fn on_disk(&self) -> Option<Hit> {
        let Self {
            inner, key, policy, ..
        } = self;
        // What is in memory was found too old, and it is what the disk would have.
        if inner.memory.get(key).is_some() {
            return None;
        }
        let entry = inner.disk.as_ref()?.get(key).await?;
        let now = inner.clock.now();
        if now < entry.fresh_until {
            return self
                .is_acceptable(&entry)
                .then(|| Hit::new(inner.promote(key, entry), Source::Disk, false));
        }
        let is_stale = entry.is_within(policy.stale, now);
        if !is_stale && !entry.is_within(policy.stale_on_error, now) {
            return None;
        }
        let entry = inner.promote(key, entry);
        is_stale.then(|| Hit::new(entry, Source::Disk, true))
    }

    fn is_acceptable(&self, entry: &Entry) -> bool {
        self.inner.tags.is_current(entry.epoch, &entry.slots)
            && self.inner.tags.is_caught_up(entry.position, &entry.slots)
    }

    #[profiled(name = "cache::load")]
    async fn load<E, F, Fut>(&self, load: F) -> Result<Loaded, Erased>
    where
        E: error::Error + Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<Loaded, E>> + Send + 'static,
    {
        let inner = &*self.inner;
        let mut outcome = Outcome {
            inner,
            is_told: false,
        };
        let start = inner.clock.now();
        let loaded = load().await;
        inner.figures.load.record(ns(start, inner.clock.now()));
        outcome.is_told = true;
        match loaded {
            Ok(loaded) => {
                inner.figures.loads_ok.inc();
                Ok(loaded)
            }
            Err(error) => {
                inner.figures.loads_failed.inc();
                Err(Erased::new(error))
            }
        }
    }
}

#[cfg(feature = "remote")]
impl Flight {
    async fn in_remote(&self) -> Below {
        let Self {
            inner, key, policy, ..
        } = self;
        let Some(remote) = &inner.remote else {
            return Below::Missing(None);
        };
        let found = match remote.fetch(key, &policy.tags).await {
            Fetched::Found(found) => found,
            Fetched::Missing(ticket) => return Below::Missing(Some(ticket)),
            Fetched::Away => return Below::Missing(None),
        };
        let slots = tags::slots(policy.tags.iter().map(|tag| &**tag));
        let is_good = inner.tags.is_current(self.begun.epoch, &slots)
            && inner.tags.is_caught_up(found.position, &slots);
        if !is_good {
            return Below::Missing(Some(found.ticket));
        }
        // Clocks of two nodes differ: nothing counts for longer than it would here.
        let ttl = found.fresh_for.min(if found.is_negative {
            policy.negative_ttl
        } else {
            policy.ttl
        });
        let draft = Draft {
            value: found.value,
            slots,
            begun: self.begun,
            position: found.position,
            is_negative: found.is_negative,
            lower_levels: true,
            fresh_until: inner.clock.now() + ttl,
        };
        let entry = inner.store(key, draft, !ttl.is_zero());
        inner.figures.promotions.inc();
        Below::Found(Hit::new(entry, Source::Remote, false))
    }

    /// Whether all tags of what was loaded were named before, so that their tokens are known as they were then.
    fn names_all(&self, loaded: &Loaded) -> bool {
        loaded.tags.iter().all(|tag| self.policy.tags.contains(tag))
    }

    /// Stores what was loaded in the remote level, if it was stored here.
    fn fill(&self, ticket: Ticket, entry: &Entry) {
        let Some(remote) = &self.inner.remote else { return };
        let ttl = entry.fresh_until.since(self.inner.clock.now());
        if self.is_acceptable(entry) && !ttl.is_zero() {
            remote.store(ticket, &self.key, entry, ttl);
        }
    }
}

// === impl Outcome ===

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        if self.is_told {
            return;
        }
        let figures = &self.inner.figures;
        if std::thread::panicking() {
            figures.loads_panicked.inc();
        } else {
            figures.loads_aborted.inc();
        }
    }
}
