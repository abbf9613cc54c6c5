//! A cache in up to three levels that never gives out what a commit has made wrong.
//!
//! ```text
//! get_or_load ─▶ memory ─hit─▶ Hit                      invalidate_tags(tags, position) after each commit:
//!                  │ miss                                 tags' epochs rise ─▶ values of before are dropped when found
//!                  ▼ one flight per key                                    └▶ Redis ─▶ pushed to all other nodes
//!                 disk ─▶ remote (Redis) ─▶ load ─▶ still true? ─▶ memory ─evicted─▶ disk
//! ```
//!
//! ```
//! use std::{convert::Infallible, time::Duration};
//! use tidegate_cache::{Cache, Key, Loaded, Policy, Source};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::builder("queries").memory(16 << 20, 10_000).build().await?;
//! let key = Key::new("latest", b"600519");
//! let policy = Policy::of_ttl(Duration::from_secs(5)).tagged(&["ticks:600519"]);
//!
//! let load = || async { Ok::<_, Infallible>(Loaded::of("1685.00")) };
//! let first = cache.get_or_load(&key, &policy, load).await?;
//! let second = cache.get_or_load(&key, &policy, load).await?;
//! assert_eq!((first.source(), second.source()), (Source::Load, Source::Memory));
//!
//! cache.invalidate_tags(&["ticks:600519"], None); // after the commit that stored a new row
//! assert!(cache.get(&key).is_none());
//! # Ok(())
//! # }
//! ```
//!
//! What it promises:
//! - A value that began to be loaded before the last invalidation of one of its tags is never given to a caller who came
//!   after it: not from memory, not from disk, not from Redis, and not by joining the load ([`Cache::invalidate_tags`]).
//!   Between nodes that holds while Redis is there; while it is not, for at most [`RemoteConfig::staleness_max`] after its
//!   loss was noticed.
//! - A load runs once for all who wait for it, also when it fails, hangs or panics, and each is answered in time.
//! - Memory and disk never exceed their bounds; bytes are paid for in the ledger before they are kept.
//! - Losing the disk or Redis, or any part of them, costs loads and nothing else.
//! - What is found on disk after a restart counts as past its time, because nobody knows what was invalidated meanwhile:
//!   it is served only where the policy allows stale values, while it is loaded anew.
//!
//! A hit in memory takes the shard's read lock in quick_cache, reads the kernel's coarse clock and one word per tag.
//!
//! [`Memo`] keeps results of functions by their arguments; it has no tags and no levels.
//!
//! This crate knows nothing of queries, rows or tenants: what a value depends on is the caller's to put into the key and
//! the tags.

mod cache;
mod config;
mod disk;
mod entry;
mod error;
mod flight;
pub mod ghost;
mod key;
pub mod memo;
mod memory;
mod policy;
mod remote;
mod shed;
mod stats;
mod tags;
#[doc(hidden)]
pub mod trace;

pub use cache::Cache;
pub use config::Builder;
pub use disk::{DiskConfig, INDEX_ENTRY_BYTES, Stats as DiskStats};
pub use entry::{Hit, Source};
pub use error::{Error, LoadError, Result};
pub use ghost::{Expected, Ghost};
pub use key::{Key, NAMESPACE_BYTES_MAX};
pub use memo::{Memo, MemoConfig, MemoStats};
pub use policy::{Loaded, Policy};
pub use remote::{RemoteConfig, Stats as RemoteStats};
pub use shed::Shrinker;
pub use stats::{Stats, Times};
