//! What can go wrong between a plan and the database.

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The database refused, or could not be reached any more.
    #[error("{doing}: {}", said(source))]
    Database {
        /// What was asked of it.
        doing: &'static str,
        /// What it said.
        #[source]
        source: tokio_postgres::Error,
    },
    /// The plan is not what a plan looks like.
    #[error("not an index plan: {0}")]
    Syntax(String),
    /// An index of a plan cannot be meant.
    #[error("index {index}: {problem}")]
    Index {
        /// Its name, or its number when it has none.
        index: String,
        /// What is wrong.
        problem: String,
    },
    /// There is no such index.
    #[error("index {0} does not exist")]
    NoIndex(String),
    /// An index must not be dropped.
    #[error("index {index} is not dropped: {reason}")]
    Refused {
        /// Its name.
        index: String,
        /// Why not.
        reason: String,
    },
    /// Another session applies a plan to this database.
    #[error("another session applies an index plan to this database")]
    Busy,
    /// A statement cannot be read.
    #[error("statement cannot be read: {0}")]
    Statement(String),
    /// Observed statements are not what they should be.
    #[error("observed statements: {0}")]
    Observed(String),
}

impl Error {
    /// Whether the same call may succeed later without a change to it.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy => true,
            Self::Database { source, .. } => {
                let code = source.code().map(|code| code.code().to_owned());
                // Lost connections, and the classes in which PostgreSQL says that another time may be better.
                source.is_closed()
                    || code.is_some_and(|code| ["08", "40", "53", "55", "57"].contains(&&code[..2]))
            }
            _ => false,
        }
    }

    /// The SQLSTATE, where the database gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Database { source, .. } => source.code().map(tokio_postgres::error::SqlState::code),
            _ => None,
        }
    }

    pub(crate) fn database(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> Self {
        move |source| Self::Database { doing, source }
    }
}

/// The server's own sentence; the client's says only that there was an error.
fn said(error: &tokio_postgres::Error) -> String {
    error
        .as_db_error()
        .map_or_else(|| error.to_string(), |error| error.message().to_owned())
}
