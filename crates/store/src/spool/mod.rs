//! Rows that wait on this node's disk while the database is away: one log per feed under one folder.

mod record;

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate_vitals::{Clock, Registry};

use crate::error::{Error, Result};

pub use record::{Claim, ID_BYTES_MAX, PRINCIPAL_BYTES_MAX, Record};

/// Where the spool lies and what it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its folder, made if it is not there; on a disk, see `allow_tmpfs`.
    pub dir: PathBuf,
    /// Most bytes of all its files together; default 1 GiB.
    pub bytes_max: u64,
    /// Bytes of one file; default 8 MiB.
    pub segment_bytes: u64,
    /// Most bytes of the rows of one record; default 4 MiB, at most what a file holds.
    pub record_bytes_max: usize,
    /// Most feeds, those with rows on disk that are not declared any more included; default 1,024.
    pub feeds_max: usize,
    /// Most records of a feed that wait for one fsync; default 4,096.
    pub waiting_max: usize,
    /// Takes a folder in memory, whose rows a restart of the machine forgets; for tests only.
    pub allow_tmpfs: bool,
}

/// A place in a feed's spool: just behind a record that [`Spool::next`] gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

/// The spool of a node. Clones are the same spool.
#[derive(Clone)]
pub struct Spool;

/// What waits in the spool.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Rows that wait.
    pub rows: u64,
    /// Records that wait.
    pub records: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Most bytes of the files.
    pub bytes_max: u64,
    /// Age of the oldest record that waits.
    pub oldest_age: Option<Duration>,
    /// Feeds with records, by name.
    pub feeds: Vec<FeedStats>,
}

/// What waits of one feed.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct FeedStats {
    /// Its name, even when no such feed is declared any more.
    pub feed: String,
    /// Rows that wait.
    pub rows: u64,
    /// Records that wait.
    pub records: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// When the oldest record was spooled, in unix milliseconds.
    pub oldest_at_ms: Option<u64>,
}

fn later() -> Error {
    Error::Unsupported {
        what: "the spool".to_owned(),
        needs: "its next commit",
    }
}

impl Spool {
    /// Opens the spool, reads what waits and takes the folder for this process. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting out of range, a folder in memory or one that another process holds;
    /// [`Error::Io`] when the disk fails.
    pub fn open(_config: Config, _clock: Clock, _registry: &Registry) -> Result<Self> {
        Err(later())
    }

    /// Puts a record behind those of its feed; returns when it is on the disk. Many calls share one fsync.
    ///
    /// # Errors
    /// [`Error::SpoolFull`], [`Error::BacklogFull`], [`Error::TooLarge`], or [`Error::Io`] when the disk failed or is
    /// full: then the record is not in the spool, and all before it are.
    ///
    /// # Cancel safety
    /// A call that is dropped may or may not spool the record.
    pub async fn append(&self, _feed: &str, _record: Record) -> Result<()> {
        Err(later())
    }

    /// Whether nothing of `feed` waits, neither on the disk nor for its fsync.
    #[must_use]
    pub fn is_empty(&self, _feed: &str) -> bool {
        true
    }

    /// The oldest record of `feed` that is not done; the same one until it is. The position is for [`Spool::done`].
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails.
    ///
    /// # Cancel safety
    /// Nothing changes when it is dropped.
    pub async fn next(&self, _feed: &str) -> Result<Option<(Position, Record)>> {
        Err(later())
    }

    /// The record of `feed` behind the one that came with `position`, for whoever commits several at once.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails.
    ///
    /// # Cancel safety
    /// Nothing changes when it is dropped.
    pub async fn next_after(&self, _feed: &str, _position: Position) -> Result<Option<(Position, Record)>> {
        Err(later())
    }

    /// The record that came with `position`, and all before it, are stored: they never come back.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails: the records may come back after a restart, and claims make that harmless.
    ///
    /// # Cancel safety
    /// A call that is dropped may or may not take effect.
    pub async fn done(&self, _feed: &str, _position: Position) -> Result<()> {
        Err(later())
    }

    /// Feeds of which something waits, by name; also those that are not declared any more.
    #[must_use]
    pub fn feeds(&self) -> Vec<String> {
        Vec::new()
    }

    /// What waits.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            rows: 0,
            records: 0,
            bytes: 0,
            bytes_max: 0,
            oldest_age: None,
            feeds: Vec::new(),
        }
    }

    /// Writes age, rows and bytes into the registry; the owner calls it once a second.
    pub fn record(&self) {}
}

/// What waits in the spool under `dir`, which a running process may hold. Blocks on the disk.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read.
pub fn list(_dir: &Path) -> Result<Vec<FeedStats>> {
    Err(later())
}

/// Writes the records under `dir`, of `feed` or of all, one JSON object a line; says how many. Blocks on the disk.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be read or `out` cannot be written.
pub fn export(_dir: &Path, _feed: Option<&str>, _out: &mut dyn io::Write) -> Result<u64> {
    Err(later())
}
