//! Everything that can go wrong between a caller and the database.

use std::{sync::Arc, time::Duration};

/// What failed, naming the thing and the numbers.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A declaration or setting contradicts itself or the database.
    #[error("{what}: {problem}")]
    Config {
        /// The feed, query, table or key.
        what: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The backend in use cannot do this.
    #[error("{what} needs {needs}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What would be needed, for example `PostgreSQL`.
        needs: &'static str,
    },
    /// No connection became free in time; the text names who holds them.
    #[error("{0}")]
    PoolTimeout(String),
    /// The pool is closed for good.
    #[error("pool closed")]
    PoolClosed,
    /// The database could not be reached, or refused us.
    #[error("cannot connect to {target}: {message}")]
    Connect {
        /// Host, port and database, without the password.
        target: String,
        /// What the system or the server said.
        message: String,
        /// The server's code, if it answered.
        sqlstate: Option<String>,
    },
    /// The connection ended while a statement was in flight: whether it took effect is not known.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The database refused a statement.
    #[error("{message} (SQLSTATE {sqlstate})")]
    Database {
        /// Five characters.
        sqlstate: String,
        /// The server's primary message.
        message: String,
        /// Schema-qualified table, column or constraint, where the server names one.
        object: Option<String>,
        /// The library's own error.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// The statement or the wait before it took longer than allowed.
    #[error("{what} took longer than {after:?}")]
    Timeout {
        /// What took so long.
        what: String,
        /// The limit.
        after: Duration,
    },
    /// A transaction inside a transaction.
    #[error("a transaction is open already: use the one you were given instead of opening another")]
    Nested,
    /// No feed of this name.
    #[error("unknown feed {0:?}")]
    UnknownFeed(String),
    /// No query of this name.
    #[error("unknown query {0:?}")]
    UnknownQuery(String),
    /// A parameter is missing, unknown, of another type or out of range.
    #[error("parameter {name}: {problem}")]
    Parameter {
        /// Its name.
        name: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// The token lacks a claim that a query is filled from.
    #[error("query {query} needs the claim {claim:?}")]
    MissingClaim {
        /// The query.
        query: String,
        /// The claim.
        claim: String,
    },
    /// The request is not shaped as it must be.
    #[error("{0}")]
    BadRequest(String),
    /// The cursor was not made by us for this query, these parameters and this caller.
    #[error("cursor invalid: {0}")]
    CursorInvalid(&'static str),
    /// The same id came with other rows.
    #[error("id {id:?} was used for other rows: chunk {chunk} differs")]
    IdReused {
        /// The caller's id.
        id: String,
        /// The first chunk of 1,000 rows that differs, from 0.
        chunk: u32,
    },
    /// Too many rows wait already.
    #[error("backlog full: {waiting} of {limit} rows waiting")]
    BacklogFull {
        /// Rows waiting.
        waiting: usize,
        /// Most rows that may wait.
        limit: usize,
    },
    /// Memory is short: fewer rows may wait than usual, or none.
    #[error("memory is short ({level}): {waiting} of {limit} rows waiting")]
    Pressed {
        /// The level of memory pressure.
        level: &'static str,
        /// Rows waiting.
        waiting: usize,
        /// Most rows that may wait at this level.
        limit: usize,
    },
    /// The memory accounts of the process have no room for it.
    #[error("no memory for {what}")]
    NoMemory {
        /// The rows, the answer.
        what: &'static str,
        /// What the ledger said.
        #[source]
        full: tidegate_vitals::Full,
    },
    /// The database is away and the spool has no room.
    #[error("spool full: {bytes} of {limit} bytes")]
    SpoolFull {
        /// Bytes in the spool.
        bytes: u64,
        /// Most bytes it may hold.
        limit: u64,
    },
    /// The producer sent more rows than its quota.
    #[error("quota of feed {feed}: {rows_per_second} rows/s used up")]
    Quota {
        /// The feed.
        feed: String,
        /// The quota.
        rows_per_second: u32,
        /// When the request would be taken.
        retry_after: Duration,
    },
    /// More rows or bytes than allowed.
    #[error("{what} too large: {size}, at most {limit}")]
    TooLarge {
        /// The request, the row, the answer.
        what: String,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The feed takes no rows until somebody mends the database.
    #[error("feed {feed} suspended: {reason}")]
    Suspended {
        /// The feed.
        feed: String,
        /// The error that suspended it.
        reason: String,
    },
    /// The disk failed.
    #[error("{what}: {message}")]
    Io {
        /// The file or the operation.
        what: String,
        /// What the system said.
        message: String,
    },
}

/// `Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

// === impl Error ===

impl Error {
    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::PoolTimeout(_)
            | Self::Connect { .. }
            | Self::Lost(_)
            | Self::Timeout { .. }
            | Self::BacklogFull { .. }
            | Self::Pressed { .. }
            | Self::NoMemory { .. }
            | Self::SpoolFull { .. }
            | Self::Quota { .. }
            | Self::Suspended { .. }
            | Self::Io { .. } => true,
            Self::Database { sqlstate, .. } => is_transient(sqlstate),
            _ => false,
        }
    }

    /// The SQLSTATE, where the server gave one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Database { sqlstate, .. } => Some(sqlstate),
            Self::Connect { sqlstate, .. } => sqlstate.as_deref(),
            _ => None,
        }
    }
}

impl Error {
    /// The code that clients see; each has one HTTP status.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::PoolTimeout(_) | Self::Pressed { .. } | Self::NoMemory { .. } => "overloaded",
            Self::PoolClosed | Self::Connect { .. } | Self::Lost(_) => "unavailable",
            Self::Suspended { .. } | Self::Io { .. } => "unavailable",
            Self::Database { sqlstate, .. } if sqlstate == "57014" => "timeout",
            Self::Database { sqlstate, .. } if is_transient(sqlstate) => "unavailable",
            Self::Timeout { .. } => "timeout",
            Self::UnknownFeed(_) => "unknown_feed",
            Self::UnknownQuery(_) => "not_found",
            Self::Parameter { .. } | Self::BadRequest(_) | Self::Unsupported { .. } => "bad_request",
            Self::MissingClaim { .. } => "forbidden",
            Self::CursorInvalid(_) => "cursor_invalid",
            Self::IdReused { .. } => "id_reused",
            Self::BacklogFull { .. } => "backlog_full",
            Self::SpoolFull { .. } => "spool_full",
            Self::Quota { .. } => "rate_limited",
            Self::TooLarge { .. } => "too_large",
            Self::Config { .. } | Self::Database { .. } | Self::Nested => "internal",
        }
    }

    /// What clients are told: the error itself where they can mend it; otherwise no word of hosts, tables and code, which
    /// belong in the log.
    #[must_use]
    pub fn client_message(&self) -> String {
        if matches!(self, Self::Pressed { .. } | Self::NoMemory { .. }) {
            return "memory is short".to_owned();
        }
        match (self.code(), self.sqlstate()) {
            ("internal" | "unavailable", Some(sqlstate)) => {
                format!("the database refused (SQLSTATE {sqlstate})")
            }
            ("internal", None) => "the server is not set up for this; its log says more".to_owned(),
            ("unavailable", None) => "the database is away".to_owned(),
            ("overloaded", _) => "no database connection became free in time".to_owned(),
            ("timeout", Some(_)) => "the statement took too long".to_owned(),
            _ => self.to_string(),
        }
    }
}

/// Whether an error of this SQLSTATE passes by itself: lost connections (08), a read-only server (25006), serialization
/// and deadlock (40), resources (53), objects in use (55), intervention (57), system errors (58).
#[must_use]
pub fn is_transient(sqlstate: &str) -> bool {
    sqlstate == "25006"
        || ["08", "40", "53", "55", "57", "58"]
            .iter()
            .any(|class| sqlstate.starts_with(class))
}

/// What the statistics of statements file `error` under: the server's code, or the one it would have given.
pub(crate) fn code(error: &Error) -> &str {
    match error {
        Error::Lost(_) => "08006",
        Error::Timeout { .. } => "57014",
        Error::PoolTimeout(_) | Error::PoolClosed => "08001",
        Error::NoMemory { .. } => "53200",
        Error::Parameter { .. } | Error::TooLarge { .. } => "22023",
        other => other.sqlstate().unwrap_or("XX000"),
    }
}
