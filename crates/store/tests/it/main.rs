//! The store against real databases.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

#[cfg(feature = "spool")]

mod pipeline;
mod pool;
mod postgres;
mod schema_migrate;
mod schema_rollup;
mod spool;
mod sqlite;
mod support;
mod transaction;
