//! Index plans and advice over any PostgreSQL connection.
//!
//! ```text
//! plan file ──▶ look ──▶ what is there, missing, different        apply ──▶ created · existing · failed
//! statements seen ──▶ read (filter, order, group) ──▶ candidates ──▶ proved by hypopg, else by statistics ──▶ findings
//! statistics ──▶ unused · duplicate                               a slow statement ──▶ explain
//! ```
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tidegate_advisor::{Limits, Plan, Statement, advise, apply};
//!
//! let (client, connection) = tokio_postgres::connect("postgres://app@db/market", tokio_postgres::NoTls).await?;
//! tokio::spawn(connection);
//!
//! let report = apply(&client, &Plan::orders(), None, &mut |_progress| {}).await?;
//! println!("{} created, {} there already, {} failed", report.created, report.existing, report.failed);
//!
//! let seen = [Statement {
//!     sql: "SELECT sum(amount) FROM orders WHERE store = $1 AND date > $2".to_owned(),
//!     calls: 1_000,
//!     mean_ms: 12.0,
//!     ..Statement::default()
//! }];
//! for finding in advise(&client, &seen, Limits::default()).await?.findings {
//!     println!("{} saves {:.0} ms", finding.sql, finding.saved_ms);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The caller opens the connection. This crate knows nothing of pools, feeds or the gateway, and it never changes a
//! table: it creates indexes that a plan names and drops those it is told to drop.

mod advise;
mod apply;
mod candidate;
mod catalog;
mod error;
mod explain;
mod name;
mod observed;
mod plan;
mod prove;
mod statement;
mod usage;

pub use advise::{Advice, Evidence, Finding, Limits, Skipped, WriteCost, advise};
pub use apply::{Done, Outcome, Progress, Report, State, Step, apply, drop_index, look};
pub use error::{Error, Result};
pub use explain::{Mode, Node, Summary, explain};
pub use observed::{Statement, from_database, from_server};
pub use plan::{Index, Key, Plan};
pub use prove::Proof;
pub use usage::{Duplicate, Unused, UnusedIndex, duplicate, unused};
