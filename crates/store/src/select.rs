//! One read-only statement and its rows.

use std::{panic::Location, time::Duration};

use crate::{
    error::{Error, Result},
    value::{Type, Value},
};

/// A read-only statement for [`Database::select`](crate::Database::select).
#[derive(Debug, Clone, Copy)]
pub struct Select<'a> {
    /// The text, with `$1`, `$2` and so on for parameters.
    pub sql: &'a str,
    /// One value for each parameter.
    pub params: &'a [Value],
    /// The declared types of the parameters, where the database cannot tell them.
    pub types: &'a [Type],
    /// Names and types of the columns, where the database cannot tell them.
    pub returns: &'a [(String, Type)],
    /// How long it may take, the wait for a connection included, until the last row.
    pub timeout: Duration,
    /// Whether it may share a connection with other short statements.
    pub pipeline: bool,
    /// Whether a replica may answer.
    pub replica: bool,
    /// What the answer must contain, if a replica answers.
    pub token: Option<&'a ReadToken>,
    /// Whom statistics name.
    pub caller: &'static Location<'static>,
}

/// A place in the log of a server: whatever was committed before it is visible on a replica that has replayed so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct ReadToken {
    /// The cluster's own number.
    pub system_id: u64,
    /// Which of the cluster's histories; another one goes to the primary.
    pub timeline: u32,
    /// Bytes of log.
    pub lsn: u64,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnInfo {
    /// Its name in the statement.
    pub name: String,
    /// Its type.
    pub kind: Type,
}

/// Rows as they come from the server.
pub struct Rows(pub(crate) Source);

/// One arm per way of getting rows.
pub(crate) enum Source {
    #[cfg(feature = "postgres")]
    Postgres(crate::backend::postgres::Stream),
    #[cfg(feature = "sqlite")]
    Sqlite(crate::backend::sqlite::Stream),
}

impl<'a> Select<'a> {
    /// A statement with the usual limits: 30 s, on a connection of its own, on the primary.
    #[track_caller]
    #[must_use]
    pub fn new(sql: &'a str, params: &'a [Value]) -> Self {
        Self {
            sql,
            params,
            types: &[],
            returns: &[],
            timeout: Duration::from_secs(30),
            pipeline: false,
            replica: false,
            token: None,
            caller: Location::caller(),
        }
    }

    pub(crate) fn timed_out(&self) -> Error {
        Error::Timeout {
            what: "statement".to_owned(),
            after: self.timeout,
        }
    }
}

impl Rows {
    /// The columns. Behind a pooler they are known only when there is a row.
    #[must_use]
    pub fn columns(&self) -> &[ColumnInfo] {
        match &self.0 {
            #[cfg(feature = "postgres")]
            Source::Postgres(stream) => stream.columns(),
            #[cfg(feature = "sqlite")]
            Source::Sqlite(stream) => stream.columns(),
        }
    }

    /// The next row, one value for each column; `None` after the last.
    ///
    /// # Errors
    /// The server's refusal, [`Error::Timeout`], [`Error::Lost`], or a value that has no place in an answer. There is no
    /// row after an error.
    ///
    /// # Cancel safety
    /// Safe: no row is lost.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        match &mut self.0 {
            #[cfg(feature = "postgres")]
            Source::Postgres(stream) => stream.next().await,
            #[cfg(feature = "sqlite")]
            Source::Sqlite(stream) => stream.next().await,
        }
    }

    /// All rows that are still to come; for answers that are known to be small.
    ///
    /// # Errors
    /// As [`Rows::next`].
    ///
    /// # Cancel safety
    /// Rows read so far are lost.
    pub async fn collect(mut self) -> Result<Vec<Vec<Value>>> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("columns", &self.columns())
            .finish_non_exhaustive()
    }
}
