//! What can go wrong in a chore.

use std::{fmt, io};

pub(crate) type Result<T> = std::result::Result<T, Error>;

#[derive(Debug)]
pub(crate) enum Error {
    /// The command line itself is wrong.
    Usage(String),
    /// A command could not be started: usually it is not installed.
    Start { command: String, source: io::Error },
    /// A command ran and failed.
    Failed { command: String, how: String },
    /// A file could not be read or written.
    File { path: String, source: io::Error },
    /// Something is missing that only a person can provide.
    Missing(String),
    /// Checks ran and found problems, which are printed already.
    Found { what: &'static str, n_problems: usize },
    /// Tests ran and failed; the last line printed says how many.
    Told,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) | Self::Missing(text) => f.write_str(text),
            Self::Start { command, source } => write!(f, "cannot start `{command}`: {source}"),
            Self::Failed { command, how } => write!(f, "`{command}` failed: {how}"),
            Self::File { path, source } => write!(f, "{path}: {source}"),
            Self::Told => f.write_str("tests failed"),
            Self::Found { what, n_problems } => write!(f, "{what}: {n_problems} problems"),
        }
    }
}
