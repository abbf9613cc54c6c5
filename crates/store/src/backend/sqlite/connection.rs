//! One SQLite connection on a thread of its own: calls are done in order, a dropped one is interrupted.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use rusqlite::InterruptHandle;
use tokio::sync::{mpsc, oneshot};

use super::{error, placeholder, value};
use crate::{
    error::{Error, Result},
    select::ColumnInfo,
    value::{Type, Value},
};

/// Calls that may wait for a connection; its owner has one at a time, and a drain.
const CALLS_MAX: usize = 4;

/// Rows that are read ahead of the reader.
const ROWS_AHEAD: usize = 64;

/// Marks its end in the state before it answers, so that whoever got the answer finds the connection idle.
type Call = Box<dyn FnOnce(&mut rusqlite::Connection, &State) + Send>;

/// A connection; dropped, it is closed when its running call has ended.
pub struct Connection {
    calls: mpsc::Sender<Call>,
    state: Arc<State>,
    interrupt: Arc<InterruptHandle>,
}

/// What the thread and the handle both know.
#[derive(Default)]
struct State {
    /// Calls given and not done.
    running: AtomicU64,
    in_transaction: AtomicBool,
}

/// Rows of a statement as they are read; dropped before the end, the statement is interrupted. Whoever claimed the
/// connection for it gives it back after the rows.
pub struct Rows {
    columns: Columns,
    rows: mpsc::Receiver<Result<Vec<Value>>>,
    is_ended: bool,
    interrupt: Arc<InterruptHandle>,
}

// === impl Connection ===

impl Connection {
    /// Opens by `open` on a new thread.
    pub(super) async fn start(
        open: impl FnOnce() -> Result<rusqlite::Connection> + Send + 'static,
    ) -> Result<Self> {
        let (calls, inbox) = mpsc::channel(CALLS_MAX);
        let (opened, answer) = oneshot::channel();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        std::thread::Builder::new()
            .name("sqlite".to_owned())
            .spawn(move || match open() {
                Ok(connection) => {
                    if opened.send(Ok(connection.get_interrupt_handle())).is_ok() {
                        serve(connection, inbox, &shared);
                    }
                }
                // Nobody waits for it any more when this cannot be sent.
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|e| Error::Io {
                what: "thread for an SQLite connection".to_owned(),
                message: e.to_string(),
            })?;
        let interrupt = Arc::new(answer.await.map_err(|_| ended())??);
        Ok(Self {
            calls,
            state,
            interrupt,
        })
    }

    /// Runs `work` on the connection's thread.
    ///
    /// # Errors
    /// What `work` gave; [`Error::Lost`] when the thread has ended.
    ///
    /// # Cancel safety
    /// Dropped, the running statement is interrupted; whether it took effect is not known, as with any database.
    pub async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(move |connection| work(connection).map_err(error)).await
    }

    /// As [`Connection::call`], for work with errors of the house.
    ///
    /// # Errors
    /// What `work` gave; [`Error::Lost`] when the thread has ended.
    ///
    /// # Cancel safety
    /// As [`Connection::call`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut rusqlite::Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, answer) = oneshot::channel();
        let call: Call = Box::new(move |connection, state| {
            let result = (!done.is_closed()).then(|| work(connection));
            state.call_ended(connection);
            if let Some(result) = result {
                // The caller may have gone meanwhile; then nobody needs the answer.
                let _ = done.send(result);
            }
        });
        self.state.running.fetch_add(1, Ordering::AcqRel);
        if self.calls.send(call).await.is_err() {
            self.state.running.fetch_sub(1, Ordering::AcqRel);
            return Err(ended());
        }
        let mut guard = Interrupt {
            connection: self,
            is_armed: true,
        };
        let answer = answer.await.map_err(|_| ended());
        guard.is_armed = false;
        answer?
    }

    /// Executes one statement; returns the number of rows it changed.
    ///
    /// # Errors
    /// [`Error::Database`].
    ///
    /// # Cancel safety
    /// As [`Connection::call`].
    pub async fn execute(&self, sql: &str, params: &[Value]) -> Result<u64> {
        let (sql, params) = (
            placeholder::numbered(sql).into_owned(),
            params.iter().map(value::to_sqlite).collect::<Vec<_>>(),
        );
        self.call(move |c| {
            let mut statement = c.prepare_cached(&sql)?;
            if statement.column_count() == 0 {
                return statement
                    .execute(rusqlite::params_from_iter(params))
                    .map(|n| n as u64);
            }
            let mut rows = statement.query(rusqlite::params_from_iter(params))?;
            let mut n_rows = 0;
            while rows.next()?.is_some() {
                n_rows += 1;
            }
            Ok(n_rows)
        })
        .await
    }

    /// Starts a query; rows are read while they are taken, at most 64 ahead. Columns named in `returns` get those types.
    ///
    /// # Errors
    /// [`Error::Database`] when the statement cannot be prepared.
    ///
    /// # Cancel safety
    /// Dropped, nothing is left running.
    pub async fn query(&self, sql: &str, params: &[Value], returns: &[(String, Type)]) -> Result<Rows> {
        let (sender, rows) = mpsc::channel(ROWS_AHEAD);
        let (started, columns) = oneshot::channel();
        let job = Query {
            sql: placeholder::numbered(sql).into_owned(),
            params: params.iter().map(value::to_sqlite).collect(),
            returns: returns.to_vec(),
        };
        self.state.running.fetch_add(1, Ordering::AcqRel);
        let call: Call = Box::new(move |connection, state| {
            let failed = job.run(connection, started, &sender).err();
            state.call_ended(connection);
            if let Some(error) = failed {
                // The reader may have gone; then nobody asks why the reading ended.
                let _ = sender.blocking_send(Err(error));
            }
        });
        if self.calls.send(call).await.is_err() {
            self.state.running.fetch_sub(1, Ordering::AcqRel);
            return Err(ended());
        }
        let columns = columns.await.map_err(|_| ended())??;
        Ok(Rows {
            columns,
            rows,
            is_ended: false,
            interrupt: Arc::clone(&self.interrupt),
        })
    }

    /// Whether its thread still serves.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.calls.is_closed()
    }

    /// Whether a call is running or waiting.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.state.running.load(Ordering::Acquire) > 0
    }

    /// Whether a transaction is open, as of the last call that ended.
    #[must_use]
    pub fn in_transaction(&self) -> bool {
        self.state.in_transaction.load(Ordering::Acquire)
    }

    /// Ends the running statement, if any, with SQLSTATE 57014.
    pub fn interrupt(&self) {
        if self.is_busy() {
            self.interrupt.interrupt();
        }
    }
}

/// Interrupts what runs when its caller goes away.
struct Interrupt<'a> {
    connection: &'a Connection,
    is_armed: bool,
}

impl Drop for Interrupt<'_> {
    fn drop(&mut self) {
        if self.is_armed {
            self.connection.interrupt();
        }
    }
}

fn serve(mut connection: rusqlite::Connection, mut inbox: mpsc::Receiver<Call>, state: &State) {
    while let Some(call) = inbox.blocking_recv() {
        call(&mut connection, state);
    }
}

// === impl State ===

impl State {
    fn call_ended(&self, connection: &rusqlite::Connection) {
        self.in_transaction
            .store(!connection.is_autocommit(), Ordering::Release);
        self.running.fetch_sub(1, Ordering::AcqRel);
    }
}

fn ended() -> Error {
    Error::Lost("the thread of an SQLite connection ended".to_owned())
}

// === Queries ===

struct Query {
    sql: String,
    params: Vec<rusqlite::types::Value>,
    returns: Vec<(String, Type)>,
}

type Columns = Arc<[ColumnInfo]>;

impl Query {
    /// Gives the columns, then the rows; an error after the columns is returned.
    fn run(
        self,
        connection: &rusqlite::Connection,
        started: oneshot::Sender<Result<Columns>>,
        rows: &mpsc::Sender<Result<Vec<Value>>>,
    ) -> Result<()> {
        let mut statement = match connection.prepare_cached(&self.sql) {
            Ok(statement) => statement,
            Err(e) => {
                let _ = started.send(Err(error(e)));
                return Ok(());
            }
        };
        let columns: Columns = statement.columns().map(|column| self.column(&column)).collect();
        let kinds: Vec<Option<&Type>> = columns.iter().map(|column| self.kind(&column.name)).collect();
        if started.send(Ok(Arc::clone(&columns))).is_err() {
            return Ok(());
        }
        let mut found = statement
            .query(rusqlite::params_from_iter(&self.params))
            .map_err(error)?;
        while let Some(row) = found.next().map_err(error)? {
            let values = kinds
                .iter()
                .enumerate()
                .map(|(i, kind)| value::from_sqlite(row.get_ref(i).map_err(error)?, *kind))
                .collect::<Result<Vec<Value>>>()?;
            if rows.blocking_send(Ok(values)).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn column(&self, column: &rusqlite::Column<'_>) -> ColumnInfo {
        let declared = match column.decl_type() {
            Some("INTEGER" | "INT") => Type::Int8,
            Some("REAL") => Type::Float8,
            _ => Type::Text,
        };
        ColumnInfo {
            name: column.name().to_owned(),
            kind: self.kind(column.name()).cloned().unwrap_or(declared),
        }
    }

    fn kind(&self, column: &str) -> Option<&Type> {
        self.returns
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, kind)| kind)
    }
}

// === impl Rows ===

impl Rows {
    /// The columns. Where no type was asked for, it is the nearest to the declared one, and values come as they are kept.
    #[must_use]
    pub fn columns(&self) -> &[ColumnInfo] {
        &self.columns
    }

    /// The next row; none at the end.
    ///
    /// # Errors
    /// [`Error::Database`]; nothing follows it.
    ///
    /// # Cancel safety
    /// No row is lost.
    pub async fn next(&mut self) -> Result<Option<Vec<Value>>> {
        let row = self.rows.recv().await;
        self.is_ended = !matches!(row, Some(Ok(_)));
        row.transpose()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // The connection is still claimed for these rows, so that nobody else's statement can be hit.
        if !self.is_ended {
            self.interrupt.interrupt();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{Access, Sqlite};
    use super::*;

    /// A folder of its own that is removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("tidegate-sqlite-{name}-{}", std::process::id()));
            Self(folder)
        }

        fn open(&self, access: Access) -> Sqlite {
            Sqlite::new(&self.0.join("below/t.db"), access)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const COUNTER: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT i FROM n";

    async fn rows(rows: &mut Rows) -> Vec<Vec<Value>> {
        let mut all = Vec::new();
        while let Some(row) = rows.next().await.unwrap() {
            all.push(row);
        }
        all
    }

    #[tokio::test]
    async fn a_reader_sees_what_a_writer_committed_and_writes_nothing() {
        let folder = Folder::new("reader");
        let writer = folder.open(Access::Write).open().await.unwrap();
        writer
            .execute("CREATE TABLE t (a INTEGER, b TEXT) STRICT", &[])
            .await
            .unwrap();
        let reader = folder.open(Access::Read).open().await.unwrap();
        let changed = writer
            .execute(
                "INSERT INTO t VALUES (?1, ?2)",
                &[Value::Int(7), Value::Text("x".into())],
            )
            .await
            .unwrap();
        assert_eq!(changed, 1);
        let mut found = reader
            .query("SELECT a, b FROM t", &[], &[("b".to_owned(), Type::Text)])
            .await
            .unwrap();
        assert_eq!(found.columns().len(), 2);
        assert_eq!(rows(&mut found).await, [[Value::Int(7), Value::Text("x".into())]]);
        let refused = reader.execute("DELETE FROM t", &[]).await.unwrap_err();
        assert_eq!(refused.sqlstate(), Some("25006"));
    }

    #[tokio::test]
    async fn a_dropped_call_is_interrupted() {
        let folder = Folder::new("dropped");
        let writer = folder.open(Access::Write).open().await.unwrap();
        let endless = format!("SELECT count(*) FROM ({COUNTER})");
        let running = writer.execute(&endless, &[Value::Int(i64::MAX)]);
        // The call is under way after one poll; then its caller goes.
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(20), running)
                .await
                .is_err()
        );
        writer.execute("SELECT 1", &[]).await.unwrap();
        assert!(writer.is_open() && !writer.in_transaction());
    }

    #[tokio::test]
    async fn dropped_rows_end_their_statement() {
        let folder = Folder::new("rows");
        let writer = folder.open(Access::Write).open().await.unwrap();
        let mut found = writer.query(COUNTER, &[Value::Int(i64::MAX)], &[]).await.unwrap();
        assert_eq!(found.next().await.unwrap(), Some(vec![Value::Int(1)]));
        drop(found);
        let mut found = writer.query(COUNTER, &[Value::Int(1_000)], &[]).await.unwrap();
        assert_eq!(rows(&mut found).await.len(), 1_000);
    }

    #[tokio::test]
    async fn a_transaction_left_behind_shows() {
        let folder = Folder::new("transaction");
        let writer = folder.open(Access::Write).open().await.unwrap();
        writer.execute("BEGIN IMMEDIATE", &[]).await.unwrap();
        assert!(writer.in_transaction());
        writer.execute("ROLLBACK", &[]).await.unwrap();
        assert!(!writer.in_transaction());
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_opened_is_named() {
        let folder = Folder::new("absent");
        let Err(refused) = folder.open(Access::Read).open().await else {
            panic!("a reader opened a file that is not there");
        };
        assert!(refused.to_string().contains("below/t.db"), "{refused}");
    }
}
