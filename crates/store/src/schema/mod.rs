//! Tables, roll-ups and partitions: made, checked and kept.
//!
//! [`sql`], [`own`], [`table`], [`rollup`], [`partition`] and [`timescale`] only write SQL; nothing in them opens a connection.

#[cfg(feature = "sqlite")]
mod decimal;
#[cfg(feature = "sqlite")]
pub mod functions;
pub mod own;
pub mod partition;
pub mod rollup;
pub mod sql;
pub mod table;
pub mod timescale;
