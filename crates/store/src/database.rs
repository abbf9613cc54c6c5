//! The façade: one database, opened from a URL.

use std::{
    fmt,
    panic::Location,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_vitals::{
    Clock, Counter, Id, Ledger, Level, Registry,
    pressure::{Ask, Shed},
};
use tokio::time::{Instant, timeout_at};

#[cfg(feature = "postgres")]
use crate::{backend::postgres::Server, pipeline, replica};
#[cfg(feature = "sqlite")]
use crate::{backend::sqlite, select::Source};
use crate::{
    error::{Error, Result},
    kind::Kind,
    pool,
    select::{ReadToken, Rows, Select},
    statement::{self, Monitor},
    transaction,
};

/// Where the database is and how it is used.
#[derive(Clone)]
pub struct Config {
    /// `postgres://user:password@host:port/database?key=value`, `sqlite:path/file.db`.
    pub url: String,
    /// Connections for transactions, streams and long statements.
    pub pool: pool::Config,
    /// Shared connections for short statements.
    #[cfg(feature = "postgres")]
    pub pipeline: pipeline::Config,
    /// Servers that follow this one and may answer reads.
    #[cfg(feature = "postgres")]
    pub replicas: replica::Config,
    /// The server ends any statement that runs longer; `None` leaves the server's own setting. At least 1 ms.
    pub statement_timeout: Option<Duration>,
    /// Shown in the server's list of sessions.
    pub application_name: String,
    /// What is slow, and how many statements are remembered.
    pub monitor: statement::Config,
}

/// What the store shares with the rest of the process.
#[derive(Debug, Clone)]
pub struct Context {
    /// Reads the time.
    pub clock: Clock,
    /// Takes the figures.
    pub registry: Registry,
    /// The account of memory that rows, spool buffers and answers are paid from.
    pub ledger: Ledger,
}

/// A database. Clones are the same one; it closes when the last of them is dropped, or by [`Database::close`].
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    /// Distinguishes databases of one process, so that a transaction inside one of another database is no nesting.
    id: u64,
    backend: Backend,
    monitor: Monitor,
    context: Context,
    transactions: Transactions,
}

/// One arm per database behind the façade.
pub(crate) enum Backend {
    #[cfg(feature = "postgres")]
    Postgres(Server),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::Server),
}

/// Transactions by how they ended.
pub(crate) struct Transactions {
    pub(crate) committed: Counter,
    pub(crate) rolled_back: Counter,
    /// Failed for a reason that passes, and run again.
    pub(crate) retried: Counter,
    /// The answer to the commit was lost.
    pub(crate) unknown: Counter,
}

/// What is known of a server since the session was opened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ServerInfo {
    /// Which database.
    pub kind: Kind,
    /// For example `15.18`.
    pub version: String,
    /// For example 150018.
    pub version_number: u32,
    /// Host and port, or the socket; for SQLite the file.
    pub host: String,
    /// Whether it follows another server.
    pub is_replica: bool,
    /// Whether a pooler such as pgbouncer shares sessions between clients. Then prepared statements, session settings and
    /// session locks are not used, and neither is the pipeline.
    pub through_pooler: bool,
    /// The cluster's own number; the same on all servers that follow each other.
    pub system_id: u64,
    /// Grows with each promotion; 0 on a replica.
    pub timeline: u32,
    /// Whether the data lies in memory and dies with the machine, where that is known.
    pub is_on_tmpfs: Option<bool>,
}

/// Figures of a database at one moment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Stats {
    /// Which database.
    pub kind: Kind,
    /// Host, port and database, without the password.
    pub target: String,
    /// Its pool.
    pub pool: Option<pool::Stats>,
    /// The shared connections for short statements.
    #[cfg(feature = "postgres")]
    pub pipeline: Option<pipeline::Stats>,
    /// Servers that may answer reads.
    #[cfg(feature = "postgres")]
    pub replicas: Vec<replica::Stats>,
    /// Transactions by how they ended.
    pub transactions: TransactionStats,
}

/// Transactions since the start, by how they ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct TransactionStats {
    /// Their changes stand.
    pub committed: u64,
    /// Their changes were taken back.
    pub rolled_back: u64,
    /// Runs that were repeated, for a conflict or a lost connection.
    pub retried: u64,
    /// The answer to the commit was lost.
    pub unknown: u64,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            url: String::new(),
            pool: pool::Config::default(),
            #[cfg(feature = "postgres")]
            pipeline: pipeline::Config::default(),
            #[cfg(feature = "postgres")]
            replicas: replica::Config::default(),
            statement_timeout: None,
            application_name: "tidegate".to_owned(),
            monitor: statement::Config::default(),
        }
    }
}

impl Config {
    /// The defaults for the database at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            ..Self::default()
        }
    }

    /// Checks every value that can be checked without the server.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, the value and what is allowed.
    pub fn check(&self) -> Result<()> {
        self.pool.check()?;
        self.monitor.check()?;
        #[cfg(feature = "postgres")]
        {
            self.pipeline.check()?;
            self.replicas.check()?;
        }
        match self.statement_timeout {
            Some(limit) if limit < Duration::from_millis(1) => Err(Error::Config {
                what: "statement_timeout".to_owned(),
                problem: format!("{limit:?} is less than 1 ms"),
            }),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Config")
            .field("pool", &self.pool)
            .field("application_name", &self.application_name)
            .finish_non_exhaustive()
    }
}

// === impl Context ===

impl Context {
    /// With a ledger of its own that refuses nothing.
    #[must_use]
    pub fn new(clock: Clock, registry: Registry) -> Self {
        Self {
            clock,
            registry,
            ledger: Ledger::new(u64::MAX),
        }
    }

    /// The same, paying from the ledger of the process.
    #[must_use]
    pub fn with_ledger(self, ledger: Ledger) -> Self {
        Self { ledger, ..self }
    }
}

// === impl Database ===

impl Database {
    /// Opens the database. What is wrong with the URL or a setting is said at once; a server that is away is not an
    /// error here: connections come when it does.
    ///
    /// # Errors
    /// [`Error::Config`] or [`Error::Unsupported`].
    ///
    /// # Cancel safety
    /// Dropping it opens nothing.
    pub async fn open(config: Config, context: Context) -> Result<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        config.check()?;
        let monitor = Monitor::new(config.monitor.clone(), context.clock.clone(), &context.registry);
        let backend = Backend::open(&config, &context).await?;
        let outcome = |name| context.registry.counter(Id::StoreTransactions, &[name]);
        let transactions = Transactions {
            committed: outcome("committed"),
            rolled_back: outcome("rolled_back"),
            retried: outcome("retried"),
            unknown: outcome("unknown"),
        };
        let id = NEXT_ID.fetch_add(1, Relaxed);
        Ok(Self(Arc::new(Inner {
            id,
            backend,
            monitor,
            context,
            transactions,
        })))
    }

    /// Which database is behind it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match &self.0.backend {
            #[cfg(feature = "postgres")]
            Backend::Postgres(_) => Kind::Postgres,
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(_) => Kind::Sqlite,
        }
    }

    /// Where it is, without the password.
    #[must_use]
    pub fn target(&self) -> &str {
        match &self.0.backend {
            #[cfg(feature = "postgres")]
            Backend::Postgres(server) => server.target(),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(server) => server.target(),
        }
    }

    /// The clock and the figures it was opened with.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// Times every statement.
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.0.monitor
    }

    /// The pool of connections, on PostgreSQL.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn postgres(&self) -> Option<&pool::Pool<crate::backend::postgres::Postgres>> {
        match &self.0.backend {
            Backend::Postgres(server) => Some(server.pool()),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(_) => None,
        }
    }

    /// The one connection that writes, on SQLite.
    #[cfg(feature = "sqlite")]
    #[must_use]
    pub fn sqlite(&self) -> Option<&pool::Pool<sqlite::Sqlite>> {
        match &self.0.backend {
            Backend::Sqlite(server) => Some(server.writer()),
            #[cfg(feature = "postgres")]
            Backend::Postgres(_) => None,
        }
    }

    /// Asks the server who it is: a round trip on a connection of the pool.
    ///
    /// # Errors
    /// Why there is no connection, or what the server said.
    ///
    /// # Cancel safety
    /// Safe.
    #[track_caller]
    pub fn ping(&self) -> impl Future<Output = Result<ServerInfo>> + Send {
        let caller = Location::caller();
        async move {
            match &self.0.backend {
                #[cfg(feature = "postgres")]
                Backend::Postgres(server) => server.ping(caller).await,
                #[cfg(feature = "sqlite")]
                Backend::Sqlite(server) => server.ping(caller).await,
            }
        }
    }

    /// Runs one read-only statement and gives its rows as they come. Memory stays bounded: the server waits for whoever
    /// reads. Dropping the rows ends the statement.
    ///
    /// # Errors
    /// A wrong parameter, no connection in time, the server's refusal, a column of a type that is not ours;
    /// [`Error::Nested`] inside a transaction of this database.
    ///
    /// # Cancel safety
    /// Dropping the future ends the statement; its connection is cleaned before its next use.
    pub async fn select(&self, select: Select<'_>) -> Result<Rows> {
        transaction::check_not_inside(self.0.id)?;
        let deadline = Instant::now() + select.timeout;
        let timing = self.0.monitor.begin(select.sql, select.caller);
        let opened = async {
            match &self.0.backend {
                #[cfg(feature = "postgres")]
                Backend::Postgres(server) => server.select(&select, deadline, timing).await,
                #[cfg(feature = "sqlite")]
                Backend::Sqlite(server) => {
                    let stream = server.select(&select, deadline, timing).await?;
                    Ok(Rows(Source::Sqlite(stream)))
                }
            }
        };
        match timeout_at(deadline, opened).await {
            Ok(rows) => rows,
            Err(_) => Err(select.timed_out()),
        }
    }

    /// Where the newest commit of this moment is, for reads that must see it: [`Select::token`].
    ///
    /// # Errors
    /// As [`Database::ping`]; [`Error::Unsupported`] where there are no replicas.
    ///
    /// # Cancel safety
    /// Safe.
    #[track_caller]
    pub fn read_token(&self) -> impl Future<Output = Result<ReadToken>> + Send {
        let caller = Location::caller();
        async move {
            match &self.0.backend {
                #[cfg(feature = "postgres")]
                Backend::Postgres(server) => server.read_token(caller).await,
                #[cfg(feature = "sqlite")]
                Backend::Sqlite(_) => Err(Error::Unsupported {
                    what: "a read token".to_owned(),
                    needs: "PostgreSQL",
                }),
            }
        }
    }

    /// Figures of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counts = &self.0.transactions;
        let transactions = TransactionStats {
            committed: counts.committed.get(),
            rolled_back: counts.rolled_back.get(),
            retried: counts.retried.get(),
            unknown: counts.unknown.get(),
        };
        match &self.0.backend {
            #[cfg(feature = "postgres")]
            Backend::Postgres(server) => server.stats(transactions),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(server) => server.stats(transactions),
        }
    }

    /// What gives memory back when it is short: from high on, connections that nobody uses are closed down to the pools'
    /// `min`; at critical, idle ones forget their prepared statements. It does nothing once the database is gone.
    #[must_use]
    pub fn shed(&self) -> Arc<dyn Shed> {
        Arc::new(Relief(Arc::downgrade(&self.0)))
    }

    /// Takes no more work, waits for what runs, closes every connection.
    ///
    /// # Cancel safety
    /// It stays closed; only the waiting ends.
    pub async fn close(&self) {
        match &self.0.backend {
            #[cfg(feature = "postgres")]
            Backend::Postgres(server) => server.close().await,
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(server) => server.close().await,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    pub(crate) fn backend(&self) -> &Backend {
        &self.0.backend
    }

    pub(crate) fn transactions(&self) -> &Transactions {
        &self.0.transactions
    }
}

/// The part of a database that gives memory back. It holds nothing alive.
struct Relief(Weak<Inner>);

impl Relief {
    /// First of all: nobody misses an idle connection.
    const ORDER: u8 = 30;

    fn press(&self, level: Level) -> u64 {
        let Some(inner) = self.0.upgrade() else { return 0 };
        match &inner.backend {
            #[cfg(feature = "postgres")]
            Backend::Postgres(server) => server.press(level),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(server) => server.press(level),
        }
    }
}

impl Shed for Relief {
    fn name(&self) -> &'static str {
        "store_pool"
    }

    fn order(&self) -> u8 {
        Self::ORDER
    }

    fn shed(&self, ask: &Ask) -> u64 {
        self.press(ask.level)
    }

    fn level(&self, level: Level) {
        self.press(level);
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({}, {})", self.kind(), self.target())
    }
}

// === impl Backend ===

impl Backend {
    async fn open(config: &Config, context: &Context) -> Result<Self> {
        if config.url.starts_with("sqlite:") {
            #[cfg(feature = "sqlite")]
            return Ok(Self::Sqlite(sqlite::Server::open(config, context).await?));
            #[cfg(not(feature = "sqlite"))]
            return Err(Error::Unsupported {
                what: "a database URL that begins with sqlite:".to_owned(),
                needs: "the feature `sqlite`",
            });
        }
        #[cfg(feature = "postgres")]
        return Ok(Self::Postgres(Server::open(config, context)?));
        #[cfg(not(feature = "postgres"))]
        Err(Error::Unsupported {
            what: "a database URL of PostgreSQL".to_owned(),
            needs: "the feature `postgres`",
        })
    }
}
