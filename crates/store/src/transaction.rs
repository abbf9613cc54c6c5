//! Transactions: committed on `Ok`, rolled back on `Err`, panic or drop, repeated when they may be.

use std::{
    ops::{AsyncFn, AsyncFnOnce, Index},
    panic::Location,
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;
use tidegate_flow::retry::{Random, Retry};
use tokio::time::Instant;

use crate::{
    database::{Backend, Database},
    error::{Error, Result},
    kind::Kind,
    select::{ColumnInfo, ReadToken},
    statement::Timing,
    value::Value,
};

/// An open transaction; given to the closure of [`Database::write`] and [`Database::read`].
pub struct Transaction {
    inner: Inner,
    database: Database,
    is_read_only: bool,
}

/// One arm per database.
enum Inner {
    #[cfg(feature = "postgres")]
    Postgres(crate::backend::postgres::Transaction),
    #[cfg(feature = "sqlite")]
    Sqlite(crate::backend::sqlite::Transaction),
}

/// Work that may run again: implemented for `async |tx| …`, whose futures must be `Send`. A closure with `move` keeps what
/// it captured for itself and cannot give it to more than one run: leave `move` out, so that it borrows.
pub trait Work<'t, T>: Sync {
    /// Runs it.
    fn run(&self, transaction: &'t Transaction) -> impl Future<Output = Result<T>> + Send;
}

/// Work that runs at most once: implemented for `async |tx| …` and `async move |tx| …`.
pub trait WorkOnce<'t, T> {
    /// Runs it.
    fn run(self, transaction: &'t Transaction) -> impl Future<Output = Result<T>> + Send;
}

/// How a transaction runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// What it sees of others; the server's own setting if absent.
    pub isolation: Option<Isolation>,
    /// Reads only: what the answers must contain. A replica that has not got so far is not asked.
    pub token: Option<&'a ReadToken>,
    /// Reads only: ask the primary even if there are replicas.
    pub is_on_primary: bool,
}

/// What a transaction sees of others that run at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// All statements see what was committed before the first.
    RepeatableRead,
    /// As if transactions ran one after another; conflicts are errors and the transaction is repeated.
    Serializable,
}

/// What a transaction may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin<'a> {
    pub(crate) isolation: Option<Isolation>,
    pub(crate) is_read_only: bool,
    /// May run on a replica.
    pub(crate) replica: bool,
    pub(crate) token: Option<&'a ReadToken>,
    pub(crate) caller: &'static Location<'static>,
}

/// One row of an answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    columns: Arc<[ColumnInfo]>,
    values: Vec<Value>,
}

/// Why a transaction did not commit, and whether running it again may help.
struct Failure {
    error: Error,
    retry: Again,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It would fail the same way, or its outcome is not known.
    No,
    /// Somebody else was in the way.
    Conflict,
    /// There was no connection, or it ended before the commit was sent: nothing was stored.
    Connection,
}

/// Runs of one transaction that met conflicts.
const CONFLICTS_MAX: u32 = 8;
/// Pauses between runs: they double from the first to the last.
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// Databases with an open transaction around the running code.
    static OPEN: SmallVec<[u64; 2]>;
}

/// # Errors
/// [`Error::Nested`] when the caller runs inside a transaction of this database: waiting there for another connection
/// could wait for itself.
pub(crate) fn check_not_inside(database: u64) -> Result<()> {
    match OPEN.try_with(|open| open.contains(&database)) {
        Ok(true) => Err(Error::Nested),
        _ => Ok(()),
    }
}

fn open_with(database: u64) -> SmallVec<[u64; 2]> {
    let mut open = OPEN.try_with(Clone::clone).unwrap_or_default();
    open.push(database);
    open
}

// === impl Database ===

impl Database {
    /// Runs `work` in a transaction and commits it if `work` gives `Ok`. It runs again, from its beginning, after a
    /// conflict with another transaction (SQLSTATE 40001, 40P01) and when the connection ended before the commit was
    /// sent, for at most the pool's acquire timeout; `work` must bear that.
    ///
    /// # Errors
    /// What `work` gave; why the commit failed; [`Error::Nested`]. [`Error::Lost`] when the answer to the commit did not
    /// come: whether it took effect is not known.
    ///
    /// # Cancel safety
    /// Dropping the future rolls back, unless the commit was sent already.
    #[track_caller]
    pub fn write<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: AsyncFn(&Transaction) -> Result<T> + for<'t> Work<'t, T> + Send,
    {
        let begin = Begin::write(Location::caller(), Options::default());
        async move { self.repeat(begin, work, false).await.map(|(value, _)| value) }
    }

    /// Like [`Database::write`], with options.
    ///
    /// # Errors
    /// As [`Database::write`].
    ///
    /// # Cancel safety
    /// As [`Database::write`].
    #[track_caller]
    pub fn write_with<T, F>(&self, options: Options<'_>, work: F) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: AsyncFn(&Transaction) -> Result<T> + for<'t> Work<'t, T> + Send,
    {
        let begin = Begin::write(Location::caller(), options);
        async move { self.repeat(begin, work, false).await.map(|(value, _)| value) }
    }

    /// Like [`Database::write`]; also says up to where a replica must have come to see it.
    ///
    /// # Errors
    /// As [`Database::write`].
    ///
    /// # Cancel safety
    /// As [`Database::write`].
    #[track_caller]
    pub fn write_token<T, F>(&self, work: F) -> impl Future<Output = Result<(T, Option<ReadToken>)>> + Send
    where
        T: Send,
        F: AsyncFn(&Transaction) -> Result<T> + for<'t> Work<'t, T> + Send,
    {
        let begin = Begin::write(Location::caller(), Options::default());
        async move { self.repeat(begin, work, true).await }
    }

    /// Like [`Database::write`] for work that can be done only once: it is never repeated after it began.
    ///
    /// # Errors
    /// As [`Database::write`].
    ///
    /// # Cancel safety
    /// As [`Database::write`].
    #[track_caller]
    pub fn write_once<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: AsyncFnOnce(&Transaction) -> Result<T> + for<'t> WorkOnce<'t, T> + Send,
    {
        let begin = Begin::write(Location::caller(), Options::default());
        async move {
            let transaction = self.begin_once(begin).await?;
            let worked = OPEN.scope(open_with(self.id()), work.run(&transaction)).await;
            let ended = transaction.end(worked, false).await;
            ended.map(|(value, _)| value).map_err(|failure| failure.error)
        }
    }

    /// Runs `work` in a read-only transaction, on a replica if there is one that is near enough. It may run again, as
    /// [`Database::write`].
    ///
    /// # Errors
    /// As [`Database::write`].
    ///
    /// # Cancel safety
    /// Dropping the future ends the transaction.
    #[track_caller]
    pub fn read<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: AsyncFn(&Transaction) -> Result<T> + for<'t> Work<'t, T> + Send,
    {
        let begin = Begin::read(Location::caller(), Options::default());
        async move { self.repeat(begin, work, false).await.map(|(value, _)| value) }
    }

    /// Like [`Database::read`], with options.
    ///
    /// # Errors
    /// As [`Database::write`].
    ///
    /// # Cancel safety
    /// As [`Database::read`].
    #[track_caller]
    pub fn read_with<T, F>(&self, options: Options<'_>, work: F) -> impl Future<Output = Result<T>> + Send
    where
        T: Send,
        F: AsyncFn(&Transaction) -> Result<T> + for<'t> Work<'t, T> + Send,
    {
        let begin = Begin::read(Location::caller(), options);
        async move { self.repeat(begin, work, false).await.map(|(value, _)| value) }
    }

    async fn repeat<T, F>(&self, begin: Begin<'_>, work: F, token: bool) -> Result<(T, Option<ReadToken>)>
    where
        T: Send,
        F: for<'t> Work<'t, T>,
    {
        let mut repeats = Repeats::new(self);
        let mut begin = begin;
        loop {
            let failure = match self.begin(begin).await {
                Err(error) => Failure::of_begin(error),
                Ok(transaction) => {
                    let worked = OPEN.scope(open_with(self.id()), work.run(&transaction)).await;
                    match transaction.end(worked, token).await {
                        Ok(done) => return Ok(done),
                        Err(failure) => failure,
                    }
                }
            };
            let Some(pause) = repeats.pause_after(&failure) else {
                return Err(failure.error);
            };
            self.transactions().retried.inc();
            // What went wrong on a replica may go well on the primary.
            begin.replica = false;
            tokio::time::sleep(pause).await;
        }
    }

    /// Begins on whatever connection lives: nothing was done yet, so a dead one costs nothing.
    async fn begin_once(&self, begin: Begin<'_>) -> Result<Transaction> {
        let mut repeats = Repeats::new(self);
        loop {
            let failure = match self.begin(begin).await {
                Ok(transaction) => return Ok(transaction),
                Err(error) => Failure::of_begin(error),
            };
            let Some(pause) = repeats.pause_after(&failure) else {
                return Err(failure.error);
            };
            self.transactions().retried.inc();
            tokio::time::sleep(pause).await;
        }
    }

    async fn begin(&self, begin: Begin<'_>) -> Result<Transaction> {
        check_not_inside(self.id())?;
        let inner = match self.backend() {
            #[cfg(feature = "postgres")]
            Backend::Postgres(server) => Inner::Postgres(server.begin(begin).await?),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(server) => Inner::Sqlite(server.begin(begin).await?),
        };
        let database = self.clone();
        let is_read_only = begin.is_read_only;
        Ok(Transaction {
            inner,
            database,
            is_read_only,
        })
    }
}

// === Work ===

impl<'t, T, F, R> Work<'t, T> for F
where
    F: Fn(&'t Transaction) -> R + Sync,
    R: Future<Output = Result<T>> + Send,
{
    fn run(&self, transaction: &'t Transaction) -> impl Future<Output = Result<T>> + Send {
        self(transaction)
    }
}

impl<'t, T, F, R> WorkOnce<'t, T> for F
where
    F: FnOnce(&'t Transaction) -> R,
    R: Future<Output = Result<T>> + Send,
{
    fn run(self, transaction: &'t Transaction) -> impl Future<Output = Result<T>> + Send {
        self(transaction)
    }
}

// === impl Begin ===

impl<'a> Begin<'a> {
    fn write(caller: &'static Location<'static>, options: Options<'a>) -> Self {
        Self {
            isolation: options.isolation,
            is_read_only: false,
            replica: false,
            token: None,
            caller,
        }
    }

    fn read(caller: &'static Location<'static>, options: Options<'a>) -> Self {
        Self {
            isolation: options.isolation,
            is_read_only: true,
            replica: !options.is_on_primary,
            token: options.token,
            caller,
        }
    }
}

impl Isolation {
    pub(crate) const fn as_sql(self) -> &'static str {
        match self {
            Self::ReadCommitted => "READ COMMITTED",
            Self::RepeatableRead => "REPEATABLE READ",
            Self::Serializable => "SERIALIZABLE",
        }
    }
}

// === impl Transaction ===

impl Transaction {
    /// Which database it runs on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.database.kind()
    }

    /// Runs a statement and says how many rows it changed. Parameters are `$1`, `$2` and so on.
    ///
    /// # Errors
    /// A parameter that does not fit, more than 65,535 of them, or the server's refusal, after which the transaction can
    /// only be rolled back.
    ///
    /// # Cancel safety
    /// Dropped, the transaction must be given up.
    #[track_caller]
    pub fn execute<'a>(
        &'a self,
        sql: &'a str,
        params: &'a [Value],
    ) -> impl Future<Output = Result<u64>> + Send + 'a {
        let timing = self.timing(sql, Location::caller());
        async move {
            let done = match &self.inner {
                #[cfg(feature = "postgres")]
                Inner::Postgres(transaction) => transaction.execute(sql, params).await,
                #[cfg(feature = "sqlite")]
                Inner::Sqlite(transaction) => transaction.execute(sql, params).await,
            };
            finish(timing, done.as_ref().copied().unwrap_or_default(), &done);
            done
        }
    }

    /// Runs a statement and gives its rows, all at once.
    ///
    /// # Errors
    /// As [`Transaction::execute`]; also a column of a type that is not ours.
    ///
    /// # Cancel safety
    /// As [`Transaction::execute`].
    #[track_caller]
    pub fn query<'a>(
        &'a self,
        sql: &'a str,
        params: &'a [Value],
    ) -> impl Future<Output = Result<Vec<Row>>> + Send + 'a {
        let timing = self.timing(sql, Location::caller());
        async move {
            let done = match &self.inner {
                #[cfg(feature = "postgres")]
                Inner::Postgres(transaction) => transaction.query(sql, params).await,
                #[cfg(feature = "sqlite")]
                Inner::Sqlite(transaction) => transaction.query(sql, params).await,
            };
            finish(timing, done.as_ref().map_or(0, |rows| rows.len() as u64), &done);
            done
        }
    }

    /// Runs statements without parameters, separated by semicolons, and throws their rows away.
    ///
    /// # Errors
    /// As [`Transaction::execute`].
    ///
    /// # Cancel safety
    /// As [`Transaction::execute`].
    #[track_caller]
    pub fn batch<'a>(&'a self, sql: &'a str) -> impl Future<Output = Result<()>> + Send + 'a {
        let timing = self.timing(sql, Location::caller());
        async move {
            let done = match &self.inner {
                #[cfg(feature = "postgres")]
                Inner::Postgres(transaction) => transaction.batch(sql).await,
                #[cfg(feature = "sqlite")]
                Inner::Sqlite(transaction) => transaction.batch(sql).await,
            };
            finish(timing, 0, &done);
            done
        }
    }

    /// The client library's own handle, on PostgreSQL: for COPY and pipelining. The monitor does not see what goes
    /// through it.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn client(&self) -> Option<&tokio_postgres::Client> {
        self.connection()
            .map(crate::backend::postgres::Connection::client)
    }

    /// The session it runs in, on PostgreSQL.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn connection(&self) -> Option<&crate::backend::postgres::Connection> {
        match &self.inner {
            Inner::Postgres(transaction) => Some(transaction.connection()),
            #[cfg(feature = "sqlite")]
            Inner::Sqlite(_) => None,
        }
    }

    /// The connection it runs on, on SQLite.
    #[cfg(feature = "sqlite")]
    #[must_use]
    pub fn sqlite(&self) -> Option<&crate::backend::sqlite::Connection> {
        match &self.inner {
            Inner::Sqlite(transaction) => Some(transaction.connection()),
            #[cfg(feature = "postgres")]
            Inner::Postgres(_) => None,
        }
    }

    /// The monitor of its database.
    #[cfg(feature = "postgres")]
    pub(crate) fn monitor(&self) -> &crate::statement::Monitor {
        self.database.monitor()
    }

    fn timing(&self, sql: &str, caller: &'static Location<'static>) -> Timing {
        let mut timing = self.database.monitor().begin(sql, caller);
        timing.acquired();
        timing
    }

    /// Commits or rolls back, and gives the connection back.
    async fn end<T>(
        self,
        worked: Result<T>,
        token: bool,
    ) -> std::result::Result<(T, Option<ReadToken>), Failure> {
        let Self {
            inner,
            database,
            is_read_only,
        } = self;
        let counts = database.transactions();
        match worked {
            Ok(value) => {
                let committed = match inner {
                    #[cfg(feature = "postgres")]
                    Inner::Postgres(transaction) => transaction.commit(token).await,
                    #[cfg(feature = "sqlite")]
                    Inner::Sqlite(transaction) => transaction.commit().await.map(|()| None),
                };
                match committed {
                    Ok(token) => {
                        counts.committed.inc();
                        Ok((value, token))
                    }
                    Err(error) => {
                        let is_unknown = matches!(error, Error::Lost(_)) && !is_read_only;
                        let count = if is_unknown {
                            &counts.unknown
                        } else {
                            &counts.rolled_back
                        };
                        count.inc();
                        Err(Failure::of_commit(error, is_read_only))
                    }
                }
            }
            Err(error) => {
                counts.rolled_back.inc();
                match inner {
                    #[cfg(feature = "postgres")]
                    Inner::Postgres(transaction) => transaction.roll_back(&error).await,
                    #[cfg(feature = "sqlite")]
                    Inner::Sqlite(transaction) => transaction.roll_back().await,
                }
                Err(Failure::of_work(error, is_read_only))
            }
        }
    }
}

fn finish<T>(mut timing: Timing, rows: u64, done: &Result<T>) {
    timing.executed();
    timing.finish(rows, done.as_ref().map(|_| ()).map_err(crate::error::code));
}

impl std::fmt::Debug for Transaction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transaction({:?})", self.database)
    }
}

// === impl Failure ===

impl Failure {
    fn of_begin(error: Error) -> Self {
        let retry = if is_about_connection(&error) {
            Again::Connection
        } else {
            Again::No
        };
        Self { error, retry }
    }

    fn of_work(error: Error, is_read_only: bool) -> Self {
        // A write in a read-only transaction is refused by any server.
        let is_ours = is_read_only && error.sqlstate() == Some("25006");
        let retry = if is_conflict(&error) {
            Again::Conflict
        } else if is_about_connection(&error) && !is_ours {
            Again::Connection
        } else {
            Again::No
        };
        Self { error, retry }
    }

    fn of_commit(error: Error, is_read_only: bool) -> Self {
        let retry = if is_conflict(&error) {
            Again::Conflict
        } else if is_read_only && is_about_connection(&error) {
            Again::Connection
        } else {
            // A lost answer is never repeated: the commit may stand.
            Again::No
        };
        Self { error, retry }
    }
}

/// Another transaction was in the way; also a plan that no longer fits its table, which the next run makes anew.
fn is_conflict(error: &Error) -> bool {
    match error {
        Error::Database {
            sqlstate, message, ..
        } => match &**sqlstate {
            "40001" | "40P01" | "26000" => true,
            "0A000" => message.contains("cached plan"),
            _ => false,
        },
        _ => false,
    }
}

/// The connection ended, or its server no longer takes writes.
fn is_about_connection(error: &Error) -> bool {
    match error {
        Error::Lost(_) => true,
        Error::Database { sqlstate, .. } => matches!(&**sqlstate, "25006" | "57P01" | "57P02" | "57P03"),
        _ => false,
    }
}

/// How often one transaction may still be repeated.
struct Repeats {
    deadline: Instant,
    n_runs: u32,
    n_conflicts: u32,
    random: Random,
    retry: Retry,
}

impl Repeats {
    fn new(database: &Database) -> Self {
        let limit = match database.backend() {
            #[cfg(feature = "postgres")]
            Backend::Postgres(server) => server.pool().config().acquire_timeout,
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(server) => server.writer().config().acquire_timeout,
        };
        Self {
            deadline: Instant::now() + limit,
            n_runs: 0,
            n_conflicts: 0,
            random: Random::from_system(),
            retry: Retry {
                pause: PAUSE,
                pause_max: PAUSE_MAX,
                ..Retry::default()
            },
        }
    }

    /// How long to wait before the next run, if there may be one.
    fn pause_after(&mut self, failure: &Failure) -> Option<Duration> {
        self.n_runs += 1;
        match failure.retry {
            Again::No => return None,
            Again::Conflict => self.n_conflicts += 1,
            Again::Connection => {}
        }
        let pause = self.retry.pause_before(self.n_runs, &mut self.random);
        let may = self.n_conflicts < CONFLICTS_MAX && Instant::now() + pause < self.deadline;
        may.then_some(pause)
    }
}

// === impl Row ===

impl Row {
    pub(crate) fn new(columns: Arc<[ColumnInfo]>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// The value of the column of this name; `None` if there is no such column.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let at = self.columns.iter().position(|column| column.name == name)?;
        self.values.get(at)
    }

    /// The columns.
    #[must_use]
    pub fn columns(&self) -> &[ColumnInfo] {
        &self.columns
    }

    /// One value for each column.
    #[must_use]
    pub fn values(&self) -> &[Value] {
        &self.values
    }

    /// One value for each column.
    #[must_use]
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }
}

impl Index<usize> for Row {
    type Output = Value;

    fn index(&self, at: usize) -> &Value {
        &self.values[at]
    }
}
