//! How a cache is made: bounds, levels and what it is told by its surroundings.

use std::sync::Arc;

use tidegate_flow::once;
use tidegate_vitals::{Clock, Ledger, Registry};

#[cfg(feature = "remote")]
use crate::remote::{Remote, RemoteConfig};
use crate::{
    cache::Cache,
    disk::{self, Disk, DiskConfig},
    error::{Error, Result},
    memory::Bounds,
    tags::Tags,
};

/// Makes a [`Cache`].
#[derive(Debug, Clone)]
pub struct Builder {
    name: &'static str,
    bounds: Bounds,
    disk: Option<DiskConfig>,
    #[cfg(feature = "remote")]
    remote: Option<RemoteConfig>,
    flights: once::Config,
    tag_slots: usize,
    sample_rate: f64,
    clock: Clock,
    registry: Registry,
    ledger: Ledger,
}

/// Everything a cache is made of.
pub(crate) struct Parts {
    pub(crate) name: &'static str,
    pub(crate) bounds: Bounds,
    pub(crate) disk: Option<Disk>,
    #[cfg(feature = "remote")]
    pub(crate) remote: Option<Remote>,
    pub(crate) flights: once::Config,
    pub(crate) sample_rate: f64,
    pub(crate) tags: Arc<Tags>,
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) ledger: Ledger,
}

/// Least bytes of memory: below, the bookkeeping would be larger than what it keeps.
const MEMORY_BYTES_MIN: u64 = 64 << 10;

// === impl Builder ===

impl Builder {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            bounds: Bounds {
                bytes_max: 64 << 20,
                entries_max: 100_000,
            },
            disk: None,
            #[cfg(feature = "remote")]
            remote: None,
            flights: once::Config::default(),
            tag_slots: 1 << 16,
            sample_rate: 0.01,
            clock: Clock::real(),
            registry: Registry::new(),
            ledger: Ledger::new(u64::MAX),
        }
    }

    /// Bounds of the memory level; default 64 MiB and 100,000 values. Bytes count keys and bookkeeping too. A value must
    /// fit into a shard, an eighth of the bytes on two cores and less on more.
    #[must_use]
    pub const fn memory(mut self, bytes_max: u64, entries_max: usize) -> Self {
        self.bounds = Bounds {
            bytes_max,
            entries_max,
        };
        self
    }

    /// Adds the disk level.
    #[must_use]
    pub fn disk(mut self, config: DiskConfig) -> Self {
        self.disk = Some(config);
        self
    }

    /// Adds the remote level.
    #[cfg(feature = "remote")]
    #[must_use]
    pub fn remote(mut self, config: RemoteConfig) -> Self {
        self.remote = Some(config);
        self
    }

    /// Limits of the loads under way: how many, how long a caller waits, how long a load may take.
    #[must_use]
    pub const fn flights(mut self, config: once::Config) -> Self {
        self.flights = config;
        self
    }

    /// Slots of the table of tags, a power of two from 1 to 2²⁴, 16 bytes each; default 65,536. Tags that share one
    /// invalidate each other.
    #[must_use]
    pub const fn tag_slots(mut self, slots: usize) -> Self {
        self.tag_slots = slots;
        self
    }

    /// The share of keys that the miss-ratio curve is made from; default 0.01.
    #[must_use]
    pub const fn sample_rate(mut self, rate: f64) -> Self {
        self.sample_rate = rate;
        self
    }

    /// The clock; default the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Where the figures are; default one of its own.
    #[must_use]
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// Who pays for the bytes; default nobody.
    #[must_use]
    pub fn ledger(mut self, ledger: Ledger) -> Self {
        self.ledger = ledger;
        self
    }

    /// Makes the cache: takes the folder of the disk level and starts to connect to the remote one. It does not wait for
    /// Redis, which may come later.
    ///
    /// # Errors
    /// [`Error::Config`] for a bound out of its range; [`Error::Disk`] when the folder cannot be taken.
    ///
    /// # Cancel safety
    /// Dropping the future may leave the folder taken until the files are closed behind it.
    ///
    /// # Panics
    /// Outside a tokio runtime with time enabled.
    pub async fn build(self) -> Result<Cache> {
        self.check()?;
        let around = disk::Surroundings {
            name: self.name,
            tags: Arc::new(Tags::new(self.tag_slots)),
            clock: self.clock.clone(),
            ledger: self.ledger.clone(),
            registry: self.registry.clone(),
        };
        let disk = match self.disk {
            Some(config) => {
                let around = around.clone();
                let opened = tokio::task::spawn_blocking(move || Disk::open(config, &around));
                Some(opened.await.expect("opening neither panics nor is it aborted")?)
            }
            None => None,
        };
        #[cfg(feature = "remote")]
        let remote = self
            .remote
            .map(|config| Remote::start(config, &around))
            .transpose()?;
        Ok(Cache::of(Parts {
            name: self.name,
            bounds: self.bounds,
            disk,
            #[cfg(feature = "remote")]
            remote,
            flights: self.flights,
            sample_rate: self.sample_rate,
            tags: around.tags,
            clock: self.clock,
            registry: self.registry,
            ledger: self.ledger,
        }))
    }

    fn check(&self) -> Result<()> {
        let Bounds {
            bytes_max,
            entries_max,
        } = self.bounds;
        if bytes_max < MEMORY_BYTES_MIN {
            let allowed = format!("at least {MEMORY_BYTES_MIN}");
            return Err(Error::config("memory.bytes_max", &bytes_max, allowed));
        }
        if entries_max == 0 {
            return Err(Error::config("memory.entries_max", &entries_max, "at least 1"));
        }
        if !self.tag_slots.is_power_of_two() || self.tag_slots > 1 << 24 {
            let allowed = "a power of two up to 16777216";
            return Err(Error::config("tag_slots", &self.tag_slots, allowed));
        }
        if !(self.sample_rate > 0.0 && self.sample_rate <= 1.0) {
            return Err(Error::config(
                "sample_rate",
                &self.sample_rate,
                "above 0, at most 1",
            ));
        }
        if self.flights.flights_max == 0 {
            return Err(Error::config("flights.flights_max", &0, "at least 1"));
        }
        #[cfg(feature = "remote")]
        if let Some(remote) = &self.remote {
            remote.check()?;
        }
        match &self.disk {
            Some(disk) => disk.check(self.name),
            None => Ok(()),
        }
    }
}
