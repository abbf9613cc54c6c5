//! The embedded backend: one writer and some readers on one SQLite file in WAL mode.
//!
//! Values are kept so that SQL can work with them and nothing is lost: `bool` and integers as INTEGER, floats as REAL,
//! `timestamptz` as INTEGER microseconds and `date` as INTEGER days since 1970-01-01 in UTC, `numeric`, `uuid`, `jsonb`
//! and arrays (JSON) as TEXT. Tables of ours are STRICT.

mod connection;
mod error;
mod placeholder;
mod server;
pub mod value;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use connection::{Connection, Rows};
pub use error::error;
use rusqlite::OpenFlags;
pub(crate) use server::{Server, Stream, Transaction};

use crate::{
    error::{Error, Result},
    pool::Connector,
};

/// How long a statement waits for another process's lock before it fails as busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements kept by a connection.
const STATEMENTS_MAX: usize = 256;

/// What a connection may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything. SQLite has one writer at a time, so a pool of these has one connection.
    Write,
    /// Reading only; sees the newest commit at the start of each statement or transaction.
    Read,
}

/// Opens connections to one file.
#[derive(Debug, Clone)]
pub struct Sqlite {
    path: PathBuf,
    access: Access,
    target: String,
}

// === impl Sqlite ===

impl Sqlite {
    /// The file that a URL such as `sqlite:data/tidegate.db` names.
    ///
    /// # Errors
    /// [`Error::Config`] when it is not such a URL, or names no file: an in-memory database would lose acknowledged
    /// rows, and each connection would see another one.
    pub fn path_of(url: &str) -> Result<PathBuf> {
        let problem = |problem: &str| Error::Config {
            what: format!("database URL {url:?}"),
            problem: problem.to_owned(),
        };
        let path = url
            .strip_prefix("sqlite:")
            .ok_or_else(|| problem("an SQLite file is named as sqlite:FOLDER/FILE"))?;
        let path = path.strip_prefix("//").unwrap_or(path);
        match path {
            "" => Err(problem("names no file, such as sqlite:data/tidegate.db")),
            _ if path.starts_with(":memory:") || path.contains('?') => Err(problem(
                "an in-memory database loses acknowledged rows, and parameters are not taken: name a file",
            )),
            _ => Ok(PathBuf::from(path)),
        }
    }

    /// A connector to the file at `path`; the folder above it is created when a writer connects.
    #[must_use]
    pub fn new(path: &Path, access: Access) -> Self {
        Self {
            path: path.to_owned(),
            access,
            target: format!("sqlite:{}", path.display()),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a connection with the settings that our promises need.
    ///
    /// # Errors
    /// [`Error::Connect`] naming the file and what SQLite or the system said.
    ///
    /// # Cancel safety
    /// Dropped, the connection is closed as soon as it is open.
    pub async fn open(&self) -> Result<Connection> {
        let this = self.clone();
        Connection::start(move || this.open_now()).await
    }

    fn open_now(&self) -> Result<rusqlite::Connection> {
        let refused = |message: String| Error::Connect {
            target: self.target.clone(),
            message,
            sqlstate: None,
        };
        let flags = match self.access {
            Access::Write => {
                let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
                if let Some(folder) = folder {
                    std::fs::create_dir_all(folder)
                        .map_err(|e| refused(format!("folder {}: {e}", folder.display())))?;
                }
                OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
            }
            // A reader of a WAL file needs its shared index, which only a read-write handle may make;
            // `query_only` below keeps it from writing rows.
            Access::Read => OpenFlags::SQLITE_OPEN_READ_WRITE,
        };
        let connection =
            rusqlite::Connection::open_with_flags(&self.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
                .map_err(|e| refused(e.to_string()))?;
        self.configure(&connection)
            .and_then(|()| crate::schema::functions::register(&connection))
            .map_err(|e| refused(e.to_string()))?;
        Ok(connection)
    }

    fn configure(&self, connection: &rusqlite::Connection) -> rusqlite::Result<()> {
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        if self.access == Access::Write {
            // A commit returns when it is on the disk: an acknowledged row survives the machine.
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.pragma_update(None, "synchronous", "FULL")?;
        } else {
            connection.pragma_update(None, "query_only", true)?;
        }
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        connection.pragma_update(None, "cache_size", -16_384)
    }
}

impl Connector for Sqlite {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection> {
        self.open().await
    }

    fn is_usable(&self, connection: &Connection) -> bool {
        connection.is_open()
    }

    async fn check(&self, connection: &mut Connection) -> Result<()> {
        connection.call(|c| c.query_row("SELECT 1", [], |_| Ok(()))).await
    }

    fn needs_drain(&self, connection: &Connection) -> bool {
        connection.is_busy() || connection.in_transaction()
    }

    async fn drain(&self, connection: &mut Connection) -> Result<()> {
        connection.interrupt();
        connection
            .call(|c| match c.is_autocommit() {
                true => Ok(()),
                false => c.execute_batch("ROLLBACK"),
            })
            .await
    }

    fn target(&self) -> &str {
        &self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: Option<&str>) {
        let path = Sqlite::path_of(url).ok();
        assert_eq!(path.as_deref(), expected.map(Path::new), "{url}");
    }

    #[test]
    fn urls_name_files() {
        check("sqlite:data/tidegate.db", Some("data/tidegate.db"));
        check("sqlite:/var/lib/t.db", Some("/var/lib/t.db"));
        check("sqlite:///var/lib/t.db", Some("/var/lib/t.db"));
        check("sqlite:", None);
        check("sqlite::memory:", None);
        check("sqlite:a.db?mode=memory", None);
        check("postgres://x/y", None);
    }
}
