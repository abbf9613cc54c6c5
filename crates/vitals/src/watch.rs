//! Writes what the process and the ledger hold into the registry, once a second.

use crate::memory::{Class, Ledger};
use crate::metric::{Counter, Gauge, Id, Registry};
use crate::process;

/// Keeps the handles for the figures of the process and the ledger; its owner calls [`Watch::tick`] once a second.
#[derive(Debug)]
pub struct Watch {
    registry: Registry,
    ledger: Ledger,
    process: ProcessHandles,
    used: Vec<(Class, Gauge)>,
    limit: Gauge,
    refused: Counter,
    series: Gauge,
    refused_seen: u64,
    cpu_seen_ns: u64,
}

#[derive(Debug)]
struct ProcessHandles {
    rss: Gauge,
    virtual_bytes: Gauge,
    threads: Gauge,
    open_files: Gauge,
    open_files_limit: Gauge,
    cpu: Counter,
}

// === impl Watch ===

impl Watch {
    /// A watch that writes into `registry`.
    pub fn new(registry: &Registry, ledger: Ledger) -> Self {
        let used = Class::ALL
            .iter()
            .map(|&class| (class, registry.gauge(Id::LedgerUsed, &[class.name()])));
        Self {
            used: used.collect(),
            ledger,
            process: ProcessHandles::new(registry),
            limit: registry.gauge(Id::LedgerLimit, &[]),
            refused: registry.counter(Id::LedgerRefused, &[]),
            series: registry.gauge(Id::Series, &[]),
            refused_seen: 0,
            cpu_seen_ns: 0,
            registry: registry.clone(),
        }
    }

    /// Reads everything once; what the system does not tell keeps its last value.
    pub fn tick(&mut self) {
        for (class, gauge) in &self.used {
            gauge.set(self.ledger.used_by(*class) as i64);
        }
        self.limit
            .set(i64::try_from(self.ledger.limit()).unwrap_or(i64::MAX));
        let refused = self.ledger.refused();
        self.refused.add(refused - self.refused_seen);
        self.refused_seen = refused;
        self.series.set(self.registry.n_series() as i64);
        self.process.tick();
        if let Some(cpu_ns) = process::cpu_ns() {
            self.process.cpu.add(cpu_ns.saturating_sub(self.cpu_seen_ns));
            self.cpu_seen_ns = cpu_ns;
        }
    }
}

// === impl ProcessHandles ===

impl ProcessHandles {
    fn new(registry: &Registry) -> Self {
        Self {
            rss: registry.gauge(Id::ProcessRssBytes, &[]),
            virtual_bytes: registry.gauge(Id::ProcessVirtualBytes, &[]),
            threads: registry.gauge(Id::ProcessThreads, &[]),
            open_files: registry.gauge(Id::ProcessOpenFiles, &[]),
            open_files_limit: registry.gauge(Id::ProcessOpenFilesLimit, &[]),
            cpu: registry.counter(Id::ProcessCpu, &[]),
        }
    }

    fn tick(&self) {
        if let Some(status) = process::status() {
            self.rss.set(status.rss_bytes as i64);
            self.virtual_bytes.set(status.virtual_bytes as i64);
            self.threads.set(status.threads as i64);
        }
        if let Some(n) = process::open_files() {
            self.open_files.set(n as i64);
        }
        if let Some(limit) = process::open_files_limit() {
            self.open_files_limit
                .set(i64::try_from(limit).unwrap_or(i64::MAX));
        }
    }
}
