//! What can go wrong between a request for a server and a server that answers.

use std::{io, path::PathBuf};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no server, or why it did not do as told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program is not installed.
    #[error("no {program} here: looked in {looked_in}; Debian has it in the package {package}")]
    Missing {
        /// Name of the program.
        program: &'static str,
        /// Folders that were looked at.
        looked_in: String,
        /// Debian's package.
        package: &'static str,
    },
    /// Root must step down to another user, and there is none.
    #[error("running as root, and neither user {0} exists: postgres refuses to run as root")]
    NoUser(&'static str),
    /// A setting cannot be used.
    #[error("setting {name}: {problem}")]
    Setting {
        /// The name given.
        name: String,
        /// What is wrong and what would be right.
        problem: &'static str,
    },
    /// A file or folder could not be used.
    #[error("{doing} {path}")]
    File {
        /// What was tried, as in `creating`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another live process owns the folder.
    #[error("{0} is in use by another process")]
    InUse(PathBuf),
    /// A program could not be started.
    #[error("starting {program}")]
    Spawn {
        /// Name of the program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} ended with {status}: {text}")]
    Failed {
        /// Name of the program.
        program: String,
        /// Its exit status.
        status: String,
        /// The last lines it said.
        text: String,
    },
    /// The server ended before it was ready, or by itself.
    #[error("{program} ended with {status} before it was ready: {text}")]
    Ended {
        /// Name of the program.
        program: &'static str,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        text: String,
    },
    /// The server took too long.
    #[error("{program} was not {what} within {seconds} s: {text}")]
    Slow {
        /// Name of the program.
        program: &'static str,
        /// What was waited for.
        what: &'static str,
        /// The limit, seconds.
        seconds: u64,
        /// The last lines of its log.
        text: String,
    },
    /// The server is not running, and the call needs it.
    #[error("the server of {0} is not running")]
    NotRunning(PathBuf),
    /// The server runs already.
    #[error("the server of {0} is running already")]
    Running(PathBuf),
}

impl Error {
    /// Whether the same call may succeed later without a change to the machine or the call.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Slow { .. } | Self::InUse(_) | Self::NotRunning(_))
    }

    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}
