//! Tables, roll-ups and partitions: made, checked and kept.
//!
//! [`sql`], [`own`], [`outbox`], [`table`](mod@table), [`rollup`], [`partition`] and [`timescale`] only write SQL; nothing in them opens a
//! connection.

pub mod backfill;
pub mod catalog;
pub mod check;
mod database;
#[cfg(feature = "sqlite")]
mod decimal;
#[cfg(feature = "sqlite")]
pub mod functions;
pub mod keeper;
pub mod migrate;
pub mod outbox;
pub mod own;
pub mod partition;
pub mod plan;
pub mod privilege;
pub mod rollup;
pub mod session;
pub mod sql;
pub mod stats;
pub mod table;
pub mod timescale;

pub use check::check;
pub use database::{ensure_own, fill, live, migrate, missing_privileges, plan_sql, validate};
pub use keeper::{Keeper, make_partitions_for};
pub use stats::{TableStats, tables};
