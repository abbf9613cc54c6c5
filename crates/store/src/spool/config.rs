//! Where the spool lies and what it may hold.

use std::path::PathBuf;

use crate::{
    error::{Error, Result},
    spool::{error, record::OVERHEAD_BYTES_MAX},
};

/// Where the spool lies and what it may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Its folder, made if it is not there; on a disk, see `allow_tmpfs`.
    pub dir: PathBuf,
    /// Most bytes of all its files together; default 1 GiB.
    pub bytes_max: u64,
    /// Bytes of one file, 4 KiB to 1 GiB; default 8 MiB. Each feed with rows has at least one.
    pub segment_bytes: u64,
    /// Most bytes of the rows of one record; default 4 MiB. It must fit into a file.
    pub record_bytes_max: usize,
    /// Most feeds, those with rows on disk that are not declared any more included; default 1,024.
    pub feeds_max: usize,
    /// Most rows of a feed that wait for an fsync; default 50,000. A record is taken while fewer wait.
    pub waiting_max: usize,
    /// Takes a folder in memory, whose rows a restart of the machine forgets; for tests only.
    pub allow_tmpfs: bool,
}

impl Config {
    /// The usual bounds for a spool under `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            bytes_max: 1 << 30,
            segment_bytes: 8 << 20,
            record_bytes_max: 4 << 20,
            feeds_max: 1_024,
            waiting_max: 50_000,
            allow_tmpfs: false,
        }
    }

    /// Whether the bounds fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, its value and what is allowed.
    pub fn check(&self) -> Result<()> {
        for (key, value) in [("feeds_max", self.feeds_max), ("waiting_max", self.waiting_max)] {
            if value == 0 {
                return Err(Error::Config {
                    what: format!("spool {key} = 0"),
                    problem: "at least 1".to_owned(),
                });
            }
        }
        self.log().check().map_err(error::of_log)
    }

    /// The bounds of one feed's log.
    pub(super) fn log(&self) -> tidegate_seglog::Config {
        tidegate_seglog::Config {
            segment_bytes: self.segment_bytes,
            bytes_max: self.bytes_max,
            record_bytes_max: self.record_bytes_max.saturating_add(OVERHEAD_BYTES_MAX),
            preallocate: true,
        }
    }
}
