//! Bounded work: every task, batch, call, wait and instance has a limit, a name and a count.
//!
//! ```text
//! task::spawn("name", …) ─▶ Task ─▶ finish()         task::Group ─▶ finish(timeout): all ended, or the names that did not
//! push(key, item) ─▶ [queue of the key] ─▶ flush(key, batch), one at a time per key ─▶ repeat
//! Limiter ─▶ Permit, or Refused early       Breaker ─▶ no calls to what keeps failing       Retry ─▶ few and late
//! Once: one flight per key, told to all     Instances: one per key, found without a lock    join_bounded: all, in order
//! ```
//!
//! ```
//! use std::time::Duration;
//! use tidegate_flow::{Batcher, BatcherConfig, WhenFull};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let config = BatcherConfig {
//!     name: "rows",
//!     batch_items_max: 500,
//!     batch_bytes_max: 1 << 20,
//!     delay: Duration::from_millis(5),
//!     queue_items_max: 10_000,
//!     queue_bytes_max: 16 << 20,
//!     flushes_max: 4,
//!     when_full: WhenFull::Wait,
//! };
//! let rows = Batcher::new(config, String::len, |table: &'static str, rows| async move {
//!     println!("{} rows for {table}", rows.len());
//! });
//! rows.push("ticks", "600519,1685.00".to_owned()).await.expect("not finished yet");
//! rows.finish().await;
//! assert_eq!(rows.stats().flushed_items, 1);
//! # }
//! ```
//!
//! This crate knows nothing of sockets, databases or what a batch is for. Waits are on the runtime's own time, so that
//! tests can pause it; latencies and pauses of limiters and breakers are read from the [`tidegate_vitals::Clock`] they
//! are given.

pub mod batcher;
pub mod breaker;
pub mod instances;
pub mod join;
pub mod limiter;
pub mod once;
pub mod retry;
pub mod task;

pub use batcher::{Batcher, BatcherConfig, Refused, WhenFull, Why};
pub use breaker::Breaker;
pub use instances::Instances;
pub use join::join_bounded;
pub use limiter::{Limiter, Partition, Permit};
pub use once::Once;
pub use task::{Group, Task};

/// Brings `counter` up to `total`, which is counted elsewhere; it is called by one recorder only.
pub(crate) fn raise(counter: &tidegate_vitals::Counter, total: u64) {
    counter.add(total.saturating_sub(counter.get()));
}
