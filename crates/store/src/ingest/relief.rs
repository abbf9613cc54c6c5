//! The way in under memory pressure: stores at once, then takes in less, then nothing, until memory is back.

use std::sync::{Arc, PoisonError, Weak};

use tidegate_vitals::Level;
use tidegate_vitals::pressure::{Ask, Shed};

use super::Shared;
use super::lane::Lane;

/// The part that gives memory back. It holds nothing alive.
pub(super) struct Relief(Weak<Shared>);

/// What memory pressure does to the way in. The counts are since the start, over all databases of the process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ReliefStats {
    /// The level in force: normal, moderate, high or critical.
    pub level: &'static str,
    /// Most rows that may wait at that level.
    pub backlog_rows_limit: usize,
    /// Bytes that waiting rows hold in the memory accounts.
    pub backlog_bytes: u64,
    /// Batches that were stored before their delay was over.
    pub flushed: u64,
    /// Requests refused by the level.
    pub refused: u64,
    /// Requests refused because the memory accounts were full.
    pub no_memory: u64,
    /// How often room that nothing needed was given back.
    pub spare: u64,
}

/// After the connections that nobody uses, before what clients would miss.
const ORDER: u8 = 40;

// === impl Relief ===

impl Relief {
    pub(super) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }
}

impl Shed for Relief {
    fn name(&self) -> &'static str {
        "store_ingest"
    }

    fn order(&self) -> u8 {
        ORDER
    }

    fn shed(&self, ask: &Ask) -> u64 {
        let Some(shared) = self.0.upgrade() else { return 0 };
        shared.press(ask.level, ask.within);
        // What waits is stored now, and its memory comes back with that.
        shared.shrink() + shared.backlog.bytes()
    }

    fn level(&self, level: Level) {
        if let Some(shared) = self.0.upgrade() {
            shared.press(level, 0.0);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn press(&self, level: Level, within: f32) {
        self.backlog.press(level, within);
        self.each_lane(|lane| lane.queue.hurry(level >= Level::Moderate));
    }

    /// Gives back room that nothing needs; says how many bytes.
    fn shrink(&self) -> u64 {
        let mut n_bytes = 0;
        self.each_lane(|lane| n_bytes += (lane.queue.shrink() + lane.flights.shrink()) as u64);
        if n_bytes > 0 {
            self.spare.count(1, n_bytes);
        }
        n_bytes
    }

    fn each_lane(&self, mut work: impl FnMut(&Lane)) {
        // Feeds are put in and taken out whole.
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        lanes.values().for_each(|lane| work(lane));
    }

    pub(super) fn relief_stats(&self) -> ReliefStats {
        // All queues count into one figure.
        let mut flushed = 0;
        self.each_lane(|lane| flushed = lane.queue.n_flushed());
        ReliefStats {
            level: self.backlog.level().as_str(),
            backlog_rows_limit: self.backlog.rows_limit(),
            backlog_bytes: self.backlog.bytes(),
            flushed,
            refused: self.backlog.refused(),
            no_memory: self.account.refused(),
            spare: self.spare.n(),
        }
    }
}
