//! Everything that can go wrong between an owner and its log.

use std::{
    io,
    path::{Path, PathBuf},
};

/// What failed, naming the thing and the numbers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A bound contradicts another.
    #[error("{key} = {value}: allowed is {allowed}")]
    Config {
        /// The field of [`crate::Config`].
        key: &'static str,
        /// Its value.
        value: u64,
        /// What it may be.
        allowed: String,
    },
    /// Another process, or another log of this one, has the folder.
    #[error("{} is in use{}", dir.display(), pid.map_or_else(String::new, |pid| format!(" by process {pid}")))]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// Who has it, if it says.
        pid: Option<u32>,
    },
    /// The record does not fit under the bound; nothing of it was written.
    #[error("log full: {bytes} of {limit} bytes, {needed} more needed")]
    Full {
        /// Bytes of the segments.
        bytes: u64,
        /// The bound.
        limit: u64,
        /// What the record would add.
        needed: u64,
    },
    /// The payload is longer than a record may be.
    #[error("record of {size} bytes, at most {limit}")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// The bound.
        limit: usize,
    },
    /// A file was written by another version of this code.
    #[error("{} has format {found}, known is {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The disk did not confirm the newest records: they are taken back, and may be appended again.
    #[error("fsync failed, {records} records taken back")]
    Withdrawn {
        /// How many records, all of them appended after the last sync that worked.
        records: u64,
        /// What the system said; absent when an earlier call said it already.
        #[source]
        source: Option<io::Error>,
    },
    /// The disk failed or is full; what is in the log stays, nothing was added.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

// === impl Error ===

impl Error {
    /// Whether the same call may succeed later without anybody changing a setting.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Full { .. } | Self::Withdrawn { .. } | Self::Io { .. } | Self::Locked { .. }
        )
    }

    /// An error of the system, as `map_err` wants it.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
