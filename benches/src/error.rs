//! What can stop a row of the bench.

use std::io;

/// Why a row was not measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A system call or a file failed.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The row needs something that this machine does not have; the others run without it.
    #[error("{0}")]
    Unavailable(String),
    /// A server did or said what it should not have.
    #[error("{0}")]
    Server(String),
    /// Deliveries did not all arrive in time.
    #[error("{got} of {expected} deliveries after {seconds} s")]
    Timeout {
        /// How many arrived.
        got: u64,
        /// How many were published to subscribers.
        expected: u64,
        /// How long they were waited for.
        seconds: u64,
    },
}

/// A result of this package.
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Says what was tried when an `io::Error` came.
pub(crate) trait Tried<T> {
    /// Names the attempt in the error.
    fn tried(self, what: impl Into<String>) -> Result<T>;
}

impl<T> Tried<T> for io::Result<T> {
    fn tried(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io {
            what: what.into(),
            source,
        })
    }
}

/// The error with its causes, for people.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
