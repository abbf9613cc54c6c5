//! What the process knows of itself: clock, metrics, timeline, memory accounts.
//!
//! ```text
//! hot path ─▶ Counter · Gauge · Histogram ─▶ Registry ─▶ Snapshot ─▶ Timeline, stats, Prometheus text
//! cgroup, RSS, host ─▶ Pressure ─▶ Level ─▶ Shed (who gives back) ─▶ measured by the next tick
//! samples of memory ─▶ leak::Detector ─▶ Alarm (which function) ─▶ allocator (jemalloc, feature `jemalloc`)
//! frames, buffers ─▶ Guard · Local ─▶ Ledger (one limit, one account per class)
//! #[profiled] ─▶ span: figures of functions ─┐
//! threads, locks, polls, stacks ────────────┴▶ profile::Collector ─▶ Report ─▶ findings, flame graph, pprof
//! ```
//!
//! Each figure is declared once, in [`metric::TABLE`]; everything that shows it is a view of that entry.
//!
//! ```
//! use tidegate_vitals::{Class, Clock, Id, Ledger, Registry};
//!
//! let clock = Clock::real();
//! let registry = Registry::new();
//! let publishes = registry.counter(Id::GatewayPublishes, &[]);
//! let latency = registry.histogram(Id::GatewayDeliveryLatency, &[]);
//!
//! let start = clock.now();
//! publishes.inc();
//! latency.record((clock.now() - start).as_nanos() as u64);
//! assert_eq!(registry.snapshot().counter(Id::GatewayPublishes), 1);
//!
//! let ledger = Ledger::new(1024);
//! let guard = ledger.reserve(Class::Frames, 1000)?;
//! assert!(ledger.reserve(Class::Frames, 100).is_err());
//! drop(guard);
//! assert_eq!(ledger.used(), 0);
//! # Ok::<(), tidegate_vitals::Full>(())
//! ```
//!
//! This crate knows nothing of sockets, rooms, rows or any text format; it starts no thread and no task.
//! What must happen once a second ([`Timeline::tick`], [`Watch::tick`], [`Pressure::tick`], [`Registry::sweep`]) is called by its owner.

pub mod allocator;
pub mod clock;
mod error;
pub mod leak;
pub mod memory;
pub mod metric;
pub mod objects;
pub mod pressure;
pub mod process;
pub mod timeline;
pub mod watch;

// Profiling.
pub mod profile;
pub mod span;
pub use tidegate_macros::profiled;

pub use clock::{Clock, Instant, ManualClock};
pub use error::Error;
pub use memory::{Class, Full, Guard, Ledger, Local};
pub use metric::{
    Counter, Gauge, Histogram, HistogramSnapshot, Id, Kind, Label, Metric, Registry, Series, Snapshot, TABLE,
    Unit, Value,
};
pub use pressure::{Level, Pressure, Shed};
pub use timeline::{Key, Point, Timeline};
pub use watch::Watch;
