//! A database layer that never loses a row and never hides a slow query.
//!
//! ```text
//! rows ──▶ feed (validate) ──▶ ingest: claim + rows + roll-ups, one transaction ──▶ ack ──▶ hooks
//!                                └─ spool (segment log) while the database is away
//! reads ─▶ query (typed, paged) ─▶ pipeline · pool · replica ──▶ PostgreSQL or SQLite
//!                                   └─ statement monitor
//! ```
//!
//! This crate knows nothing of sockets, rooms, HTTP or tokens; who calls is a string, and what a claim is worth is
//! handed in. It starts no server.

pub mod backend;
pub mod database;
pub mod error;
pub mod feed;
pub mod hook;
pub mod ingest;
pub mod kind;
#[cfg(feature = "postgres")]
pub mod pipeline;
pub mod pool;
pub mod query;
#[cfg(feature = "postgres")]
pub mod relay;
mod relief;
#[cfg(feature = "postgres")]
pub mod replica;
pub mod row;
pub mod schema;
pub mod select;
#[cfg(feature = "spool")]
pub mod spool;
pub mod statement;
pub mod template;
pub mod transaction;
pub mod value;

pub use database::{Config, Context, Database, ServerInfo};
pub use error::Error;
pub use feed::{Feed, OnConflict, Operation};
pub use hook::{Commit, CommitHook, Fanout, How};
pub use kind::Kind;
pub use pool::Pool;
#[cfg(feature = "postgres")]
pub use relay::Relay;
pub use select::{ColumnInfo, ReadToken, Rows, Select};
pub use template::Template;
pub use transaction::{Isolation, Row, Transaction};
pub use value::{Type, Value};

/// What the page on moving to Tidegate shows must compile.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/migration.md")]
pub struct MigrationPage;
