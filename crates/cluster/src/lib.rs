//! Private servers from installed binaries, PostgreSQL before all, for tests and for programs that bring their own database.
//!
//! ```text
//! Cluster::start(config)
//!   │ folder     a place of its own, locked by its owner; those of dead owners are swept
//!   │ template   initdb once per machine and version, then copied
//!   │ user       root steps down through setpriv, which also sends SIGINT when the starting process ends
//!   ▼ process    a keeper thread starts the server, reads its log for "ready", and reaps it
//! postgres ◀── Unix socket (and, if asked for, a free loopback port) ── url(database)
//! ```
//!
//! ```no_run
//! let cluster = tidegate_cluster::Cluster::temporary()?;
//! let url = cluster.create_database("orders")?;
//! assert_eq!(cluster.psql("postgres", "SELECT 1 + 1")?, "2");
//! cluster.kill()?; // as a crash does
//! cluster.start_again()?;
//! # let _ = url;
//! # Ok::<(), tidegate_cluster::Error>(())
//! ```
//!
//! Everything blocks; call it from `spawn_blocking` inside a runtime. The crate knows no client protocol: it speaks
//! to the server through `psql` alone. It never touches a cluster of the system.

mod binaries;
mod cluster;
mod config;
mod error;
mod folder;
mod log;
mod pgbouncer;
mod process;
mod redis;
mod template;
mod user;

pub use cluster::Cluster;
pub use config::Config;
pub use error::{Error, Result};
pub use pgbouncer::PgBouncer;
pub use redis::Redis;
