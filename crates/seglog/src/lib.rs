//! A bounded log of records on a disk: append, group fsync, read back, release, recover.
//!
//! ```text
//!            append ──▶ 0003.seg ··· sync ──▶ durable ──▶ Reader ──▶ release(position)
//!  dir/  lock   head   0000…01.seg   0000…02.seg   0000…03.seg (preallocated)
//!               └─ what is released      └─ sealed: cut to its exact length
//! ```
//!
//! It is synchronous and knows no clock, no runtime and no metrics: its owner decides when to [`Log::sync`], so that
//! many appends share one fsync, and reads the counters of [`Log::stats`].
//!
//! What it promises, the disk keeping what it confirmed:
//! - a record that was synced is read back, in order, until it is released; one that was not may be lost, and then all
//!   behind it are lost too;
//! - nothing is read that was not appended: a record is valid only at its place in its file, so neither a torn tail nor
//!   old bytes of a preallocated file nor bytes inside a payload can pass for one;
//! - a damaged record costs itself alone, and is counted ([`Reader::damage`]);
//! - files never exceed [`Config::bytes_max`] together;
//! - a full disk or a failed fsync ends the call, not the log: see [`Log::finish_sync`].
//!
//! ```
//! use tidegate_seglog::{Config, Log};
//! # fn main() -> Result<(), tidegate_seglog::Error> {
//! # let dir = std::env::temp_dir().join(format!("seglog-doc-{}", std::process::id()));
//! let mut log = Log::open(&dir, Config::default())?;
//! log.append(b"first")?;
//! log.append(b"second")?;
//! log.sync()?; // one fsync for both
//!
//! let mut reader = log.reader(log.head());
//! while let Some(record) = reader.read()? {
//!     println!("{} bytes", record.payload.len());
//!     log.release(record.next)?; // it does not come back
//! }
//! assert_eq!(log.stats().records, 0);
//! # drop(log); std::fs::remove_dir_all(&dir).expect("ours");
//! # Ok(())
//! # }
//! ```

mod config;
pub mod disk;
mod error;
mod fetch;
mod format;
mod head;
mod lock;
mod log;
mod position;
mod reader;
mod recover;
mod scan;
mod segment;
mod shared;
mod sync;

pub use config::Config;
pub use error::{Error, Result};
pub use fetch::Fetcher;
pub use lock::Lock;
pub use log::{Log, Released, Stats};
pub use position::Position;
pub use reader::{Damage, Reader, Record};
pub use recover::Recovery;
pub use sync::{Durable, Synced, Syncing};
