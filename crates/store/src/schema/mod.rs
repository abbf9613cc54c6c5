//! Tables, roll-ups and partitions: made, checked and kept.
//!
//! [`sql`], [`own`], [`table`], [`rollup`], [`partition`] and [`timescale`] only write SQL; nothing in them opens a connection.

pub mod backfill;
pub mod catalog;
#[cfg(feature = "sqlite")]
mod decimal;
#[cfg(feature = "sqlite")]
pub mod functions;
pub mod migrate;
pub mod own;
pub mod partition;
pub mod plan;
pub mod rollup;
pub mod session;
pub mod sql;
pub mod table;
pub mod timescale;
