//! The store against real databases.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod ingest;
mod ingest_kills;
mod ingest_once;
mod ingest_partitions;
#[cfg(feature = "spool")]
mod ingest_spool;
mod ingest_sqlite;
mod ingest_timescale;
mod pipeline;
mod pool;
mod postgres;
#[cfg(feature = "spool")]
mod pressure;
mod query;
mod query_plan;
mod query_sqlite;
mod query_stream;
mod relay;
mod relay_functions;
mod relay_servers;
mod replica;
mod schema_check;
mod schema_example;
mod schema_keeper;
mod schema_migrate;
mod schema_rollup;
#[cfg(feature = "spool")]
mod spool;
mod sqlite;
mod statement;
mod support;
mod transaction;
