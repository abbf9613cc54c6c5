//! What all shards, handles and the listener of one gateway share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rustc_hash::FxHashMap;
use tidegate_auth::Identity;
use tidegate_vitals::{Class, Clock, Full, Guard, Ledger, Registry};

use crate::{
    admission::Admission, config::Config, endpoint::Endpoint, figures::Figures, id::Id, live::Live,
    message::SessionRef, namespace::Namespace, relief::Relief, shard::ending::Ending, shard::inbox::Inbox,
};

/// Compressor and decompressor of one shard, with their windows (zlib: 256 KiB and 44 KiB).
const CONTEXT_BYTES: usize = 300 << 10;

/// The common part of one gateway.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) live: Arc<Live>,
    pub(crate) namespaces: Vec<Arc<Namespace>>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) inboxes: Arc<[Arc<Inbox>]>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) registry: Registry,
    pub(crate) ledger: Ledger,
    pub(crate) clock: Clock,
    /// Where handlers run; none in simulations, which have none.
    pub(crate) runtime: Option<tokio::runtime::Handle>,
    /// Connections of each shard.
    pub(crate) loads: Vec<AtomicUsize>,
    pub(crate) draining: AtomicBool,
    /// Fresh sessions that the application has been asked about and that have neither begun nor been turned away.
    pub(crate) n_asked: AtomicUsize,
    /// What is given up under memory pressure.
    pub(crate) relief: Relief,
    /// Pays for the compressors and decompressors of all shards.
    _contexts: Guard,
    /// Connections the process can hold: the open-file limit less a reserve.
    pub(crate) connections_max: usize,
    /// Sessions by their secret, those that can come back.
    pids: Mutex<FxHashMap<Id, SessionRef>>,
    /// Sessions that are over while events of theirs are handled; see `shard/ending.rs` for their bound.
    endings: Mutex<FxHashMap<Id, Ending>>,
}

impl Shared {
    #[expect(
        clippy::too_many_arguments,
        reason = "the one place where the parts come together"
    )]
    pub(crate) fn new(
        config: Config,
        live: Arc<Live>,
        namespaces: Vec<Arc<Namespace>>,
        endpoints: Vec<Endpoint>,
        inboxes: Arc<[Arc<Inbox>]>,
        figures: Arc<Figures>,
        registry: Registry,
        ledger: Ledger,
        clock: Clock,
        runtime: Option<tokio::runtime::Handle>,
    ) -> Result<Self, Full> {
        let loads = inboxes.iter().map(|_| AtomicUsize::new(0)).collect();
        let relief = Relief::new(inboxes.len());
        let contexts = ledger.reserve(Class::Compression, inboxes.len() * CONTEXT_BYTES)?;
        Ok(Self {
            config,
            live,
            namespaces,
            endpoints,
            inboxes,
            admission: Arc::default(),
            figures,
            registry,
            ledger,
            clock,
            runtime,
            loads,
            draining: AtomicBool::new(false),
            n_asked: AtomicUsize::new(0),
            relief,
            _contexts: contexts,
            connections_max: open_files_limit(),
            pids: Mutex::default(),
            endings: Mutex::default(),
        })
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.iter().find(|namespace| &*namespace.name == name)
    }

    /// Whether somebody may send an event to the application's handler of all events.
    pub(crate) fn may_send(&self, event: &str, identity: &Identity) -> bool {
        self.live.auth().permissions().allows_event(event, identity)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The shard with the fewest connections.
    pub(crate) fn least_loaded(&self) -> usize {
        let load = |shard: &usize| self.loads[*shard].load(Ordering::Relaxed);
        (0..self.loads.len())
            .min_by_key(load)
            .expect("there is at least one shard")
    }

    pub(crate) fn connections_limit(&self) -> usize {
        self.live
            .limits()
            .connections
            .map_or(self.connections_max, |max| max.min(self.connections_max))
    }

    fn pids(&self) -> std::sync::MutexGuard<'_, FxHashMap<Id, SessionRef>> {
        self.pids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn endings(&self) -> std::sync::MutexGuard<'_, FxHashMap<Id, Ending>> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find_pid(&self, pid: Id) -> Option<SessionRef> {
        self.pids().get(&pid).copied()
    }

    pub(crate) fn put_pid(&self, pid: Id, at: SessionRef) {
        self.pids().insert(pid, at);
    }

    pub(crate) fn remove_pid(&self, pid: Id) {
        self.pids().remove(&pid);
    }

    #[cfg(test)]
    pub(crate) fn n_pids(&self) -> usize {
        self.pids().len()
    }
}

/// Files the process may hold, less what logs, timers, databases and HTTP need.
fn open_files_limit() -> usize {
    const RESERVE: u64 = 128;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(RESERVE))
        .unwrap_or(usize::MAX)
        .max(1)
}
