//! One connection on which statements of ours run: text in, text out, on either database.
//!
//! Everything here uses the simple protocol, so that it works behind a pooler that knows no prepared statements.

#[cfg(feature = "sqlite")]
use rusqlite::types::ValueRef;

use crate::{
    error::{Error, Result},
    kind::Kind,
    transaction::Transaction,
};

/// A connection, or a transaction on it, that is ours for now.
#[derive(Clone, Copy)]
pub enum Session<'a> {
    /// A PostgreSQL client.
    #[cfg(feature = "postgres")]
    Postgres(&'a tokio_postgres::Client),
    /// A SQLite connection that may write.
    #[cfg(feature = "sqlite")]
    Sqlite(&'a crate::backend::sqlite::Connection),
}

/// A row as text; null is none.
pub(crate) type TextRow = Vec<Option<String>>;

impl<'a> Session<'a> {
    /// The connection of an open transaction.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a database that this build does not know.
    pub fn of(transaction: &'a Transaction) -> Result<Self> {
        #[cfg(feature = "postgres")]
        if let Some(client) = transaction.client() {
            return Ok(Self::Postgres(client));
        }
        #[cfg(feature = "sqlite")]
        if let Some(connection) = transaction.sqlite() {
            return Ok(Self::Sqlite(connection));
        }
        Err(Error::Unsupported {
            what: format!("the schema of {}", transaction.kind()),
            needs: "PostgreSQL or SQLite",
        })
    }
}

impl Session<'_> {
    /// Which database it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => Kind::Postgres,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => Kind::Sqlite,
        }
    }

    /// Runs one statement; the number of rows it changed.
    pub(crate) async fn run(&self, sql: &str) -> Result<u64> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(client) => {
                let messages = client
                    .simple_query(sql)
                    .await
                    .map_err(crate::backend::postgres::error)?;
                Ok(messages.iter().fold(0, |n, message| match message {
                    tokio_postgres::SimpleQueryMessage::CommandComplete(rows) => n + rows,
                    _ => n,
                }))
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(connection) => {
                let sql = sql.to_owned();
                connection
                    .call(move |connection| {
                        let mut statement = connection.prepare(&sql)?;
                        match statement.column_count() {
                            0 => statement.execute([]).map(|n| n as u64),
                            _ => {
                                let mut rows = statement.query([])?;
                                while rows.next()?.is_some() {}
                                Ok(0)
                            }
                        }
                    })
                    .await
            }
        }
    }

    /// Reads the rows of one statement.
    pub(crate) async fn rows(&self, sql: &str) -> Result<Vec<TextRow>> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(client) => {
                let messages = client
                    .simple_query(sql)
                    .await
                    .map_err(crate::backend::postgres::error)?;
                let rows = messages.iter().filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                let text = |row: &tokio_postgres::SimpleQueryRow| {
                    (0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()
                };
                Ok(rows.map(text).collect())
            }
            #[cfg(feature = "sqlite")]
            Self::Sqlite(connection) => {
                let sql = sql.to_owned();
                connection
                    .call(move |connection| {
                        let mut statement = connection.prepare(&sql)?;
                        let n = statement.column_count();
                        let text =
                            |row: &rusqlite::Row<'_>| (0..n).map(|at| row.get_ref(at).map(text_of)).collect();
                        statement.query_map([], text)?.collect()
                    })
                    .await
            }
        }
    }

    /// Reads one value; none for null and for no row.
    pub(crate) async fn value(&self, sql: &str) -> Result<Option<String>> {
        let rows = self.rows(sql).await?;
        Ok(rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next())
            .flatten())
    }

    /// Reads whether one value is true.
    pub(crate) async fn is(&self, sql: &str) -> Result<bool> {
        Ok(is_true(self.value(sql).await?.as_deref()))
    }
}

/// Whether a boolean was written as true by either database.
pub(crate) fn is_true(text: Option<&str>) -> bool {
    matches!(text, Some("t" | "true" | "1"))
}

/// Reads an integer; none for null and for what is no integer.
pub(crate) fn number(text: Option<&String>) -> Option<i64> {
    let text = text?;
    // A bound of an extract is written with places where the server computes with numeric.
    text.split('.').next()?.parse().ok()
}

#[cfg(feature = "sqlite")]
fn text_of(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(value) => Some(value.to_string()),
        ValueRef::Real(value) => Some(value.to_string()),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Some(format!("{} bytes", bytes.len())),
    }
}
