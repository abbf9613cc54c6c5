//! One session with a PostgreSQL server.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use rustc_hash::FxHashMap;
use tokio::time::timeout;
use tokio_postgres::{Client, Statement};

use super::{
    connector::Postgres,
    dsn::Host,
    error::{error, io_error},
    socket::{CancelSocket, Socket},
};
use crate::{
    database::ServerInfo,
    error::{Error, Result},
};

/// Most statements kept prepared on one session; the one unused for longest goes first.
const STATEMENTS_MAX: usize = 256;
/// Longer texts are prepared each time: they are made by programs and seldom the same twice.
const STATEMENT_BYTES_MAX: usize = 64 << 10;
/// How long what was left behind may still end by itself before it is cancelled.
const DRAIN_GRACE: Duration = Duration::from_millis(20);
/// How long a cancel request, and the answer to it, may take.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);
/// Cancel requests sent for one statement: one may arrive before the statement does.
const CANCELS_MAX: u32 = 5;

/// An open session. Statements of one session run one after another, in the order in which they were sent.
pub struct Connection {
    client: Arc<Client>,
    info: Arc<ServerInfo>,
    origin: Origin,
    ending: Arc<OnceLock<String>>,
    statements: Mutex<Statements>,
    /// Statements begun and not known to have ended.
    n_running: AtomicU32,
    is_in_transaction: AtomicBool,
    is_broken: AtomicBool,
}

/// How a session was opened.
pub(super) struct Origin {
    pub(super) connector: Postgres,
    /// Which of its hosts.
    pub(super) host: usize,
    /// The address behind the host's name.
    pub(super) peer: Host,
    /// [`Postgres::types`] at that time.
    pub(super) types: u32,
}

/// Marks a statement as running until [`Running::finish`]. Dropped without it, the session is drained before its next
/// use: the statement is cancelled and what is left of its answer thrown away.
#[must_use = "a mark that is dropped costs a cancel request"]
pub struct Running<'a>(&'a Connection);

#[derive(Default)]
struct Statements {
    by_sql: FxHashMap<Box<str>, (Statement, u64)>,
    n_used: u64,
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(
        client: Arc<Client>,
        info: ServerInfo,
        origin: Origin,
        ending: Arc<OnceLock<String>>,
    ) -> Self {
        Self {
            client,
            info: Arc::new(info),
            origin,
            ending,
            statements: Mutex::default(),
            n_running: AtomicU32::new(0),
            is_in_transaction: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
        }
    }

    /// The client library's own handle. Statements sent through it outside of a transaction need [`Connection::running`]
    /// around them, or a dropped future leaves them to the next user.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// What is known of the server.
    pub fn info(&self) -> &Arc<ServerInfo> {
        &self.info
    }

    /// The statement, prepared once for this session and kept. Through a pooler it is prepared anew, for use in the
    /// transaction that is open.
    ///
    /// # Errors
    /// The server's refusal, or [`Error::Lost`].
    ///
    /// # Cancel safety
    /// A dropped call may leave a prepared statement behind that is closed at once; the session stays usable.
    pub async fn prepare(&self, sql: &str) -> Result<Statement> {
        let is_kept = !self.info.through_pooler && sql.len() <= STATEMENT_BYTES_MAX;
        if is_kept && let Some(statement) = self.lock().find(sql) {
            return Ok(statement);
        }
        let running = self.running();
        let prepared = self.client.prepare(sql).await;
        running.finish();
        let statement = prepared.map_err(|error| self.error(error))?;
        if is_kept {
            // What falls out is closed by a message, sent after the lock is gone.
            let _evicted = self.lock().insert(sql, statement.clone());
        }
        Ok(statement)
    }

    /// Forgets the prepared form of `sql`: the server said that it no longer fits.
    pub fn forget(&self, sql: &str) {
        let _closed = self.lock().by_sql.remove(sql);
    }

    /// Forgets every prepared statement; says how many. The server is told behind whatever runs.
    pub(crate) fn forget_all(&self) -> usize {
        let forgotten = std::mem::take(&mut self.lock().by_sql);
        forgotten.len()
    }

    /// Marks the beginning of a statement.
    pub fn running(&self) -> Running<'_> {
        self.n_running.fetch_add(1, Relaxed);
        Running(self)
    }

    /// Says that a transaction is open, or that none is.
    pub fn set_in_transaction(&self, is_open: bool) {
        self.is_in_transaction.store(is_open, Relaxed);
    }

    /// Says that this session must not be used again.
    pub fn set_broken(&self) {
        self.is_broken.store(true, Relaxed);
    }

    /// Whether the socket is open as far as is known, and nobody called the session broken.
    pub fn is_usable(&self) -> bool {
        let is_former = self.origin.connector.is_former(&self.info);
        let is_outdated = self.origin.types != self.origin.connector.types();
        !self.client.is_closed() && !self.is_broken.load(Relaxed) && !is_former && !is_outdated
    }

    /// Whether a statement or a transaction was left behind.
    pub fn needs_drain(&self) -> bool {
        self.n_running.load(Relaxed) > 0 || self.is_in_transaction.load(Relaxed)
    }

    /// The store's error, with the reason why the session ended if it did. A session that a pooler moved away from its
    /// prepared statements is marked broken.
    pub fn error(&self, failure: tokio_postgres::Error) -> Error {
        let mut mapped = error(failure);
        if let Error::Lost(message) = &mut mapped
            && let Some(ending) = self.ending.get()
        {
            *message = ending.clone();
        }
        match mapped.sqlstate() {
            Some("26000" | "42P05") if self.info.through_pooler => {
                self.set_broken();
                self.origin.connector.forget_types(self.origin.types);
            }
            Some("57P01" | "57P02" | "57P03") => self.demoted(),
            _ => {}
        }
        mapped
    }

    /// The server goes away or no longer takes writes: this session is not used again, and roles are looked at anew.
    pub(crate) fn demoted(&self) {
        self.set_broken();
        self.origin.connector.suspect();
    }

    /// A handle that outlives the borrow.
    pub(super) fn shared_client(&self) -> Arc<Client> {
        Arc::clone(&self.client)
    }

    /// Asks the server to end the statement that runs in this session, and waits until the signal is delivered.
    ///
    /// # Errors
    /// The server cannot be reached.
    ///
    /// # Cancel safety
    /// Dropping it may leave a request under way, which hits whatever the session does then.
    pub async fn cancel(&self) -> Result<()> {
        let Origin {
            connector,
            host,
            peer,
            ..
        } = &self.origin;
        let target = connector.target_of(*host);
        let asked = timeout(CANCEL_TIMEOUT, async {
            let socket = Socket::open(peer)
                .await
                .map_err(|error| io_error(&target, &error))?;
            let token = self.client.cancel_token();
            let tls = connector.tls_for::<CancelSocket>(connector.host(*host));
            token
                .cancel_query_raw(CancelSocket::new(socket), tls)
                .await
                .map_err(error)
        });
        asked.await.map_err(|_| Error::Timeout {
            what: format!("cancel request to {target}"),
            after: CANCEL_TIMEOUT,
        })?
    }

    /// A round trip that does nothing.
    ///
    /// # Errors
    /// [`Error::Lost`], or the server's last words.
    ///
    /// # Cancel safety
    /// Dropped, the session needs to be drained.
    pub async fn check(&self) -> Result<()> {
        let running = self.running();
        let answer = self.client.batch_execute("").await;
        running.finish();
        answer.map_err(|error| self.error(error))
    }

    /// Ends what was left behind: cancels a statement that still runs, throws its answer away, rolls back.
    ///
    /// # Errors
    /// The session cannot be saved and must be closed.
    ///
    /// # Cancel safety
    /// Dropped, the session must be closed.
    pub async fn drain(&self) -> Result<()> {
        let mut end = if self.is_in_transaction.load(Relaxed) {
            "ROLLBACK"
        } else {
            ""
        };
        {
            // It queues behind whatever runs: its answer means that all before it has ended.
            let mut ended = std::pin::pin!(self.client.batch_execute(end));
            match timeout(DRAIN_GRACE, &mut ended).await {
                Ok(Ok(())) => return self.drained(),
                Ok(Err(failure)) => return Err(self.error(failure)),
                Err(_) => {}
            }
            let mut outcome = None;
            for _ in 0..CANCELS_MAX {
                self.cancel().await?;
                outcome = timeout(CANCEL_TIMEOUT / CANCELS_MAX, &mut ended).await.ok();
                if outcome.is_some() {
                    break;
                }
            }
            match outcome {
                Some(Ok(())) => end = "",
                Some(Err(failure)) if is_cancelled(&failure) => {}
                Some(Err(failure)) => return Err(self.error(failure)),
                None => {
                    return Err(Error::Timeout {
                        what: "draining a session".to_owned(),
                        after: CANCEL_TIMEOUT,
                    });
                }
            }
        }
        // A request that came too late for the statement may have hit the rollback, or waits for what comes next.
        for _ in 0..=CANCELS_MAX {
            match self.client.batch_execute(end).await {
                Ok(()) if end.is_empty() => return self.drained(),
                Ok(()) => end = "",
                Err(failure) if is_cancelled(&failure) => {}
                Err(failure) => return Err(self.error(failure)),
            }
        }
        Err(Error::Lost(
            "the session does not settle after a cancel request".to_owned(),
        ))
    }

    fn drained(&self) -> Result<()> {
        self.n_running.store(0, Relaxed);
        self.set_in_transaction(false);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Statements> {
        // Nothing under this lock can leave the map in a bad state.
        self.statements.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("info", &self.info)
            .field("n_running", &self.n_running)
            .field("is_in_transaction", &self.is_in_transaction)
            .finish_non_exhaustive()
    }
}

fn is_cancelled(failure: &tokio_postgres::Error) -> bool {
    failure.code().is_some_and(|code| code.code() == "57014")
}

// === impl Running ===

impl Running<'_> {
    /// The statement has ended, well or badly.
    pub fn finish(self) {
        // Saturating: a drain may have set the count to zero in between.
        let ended = |n_running: u32| Some(n_running.saturating_sub(1));
        let _ = self.0.n_running.fetch_update(Relaxed, Relaxed, ended);
    }
}

// === impl Statements ===

impl Statements {
    fn find(&mut self, sql: &str) -> Option<Statement> {
        self.n_used += 1;
        let (statement, used) = self.by_sql.get_mut(sql)?;
        *used = self.n_used;
        Some(statement.clone())
    }

    fn insert(&mut self, sql: &str, statement: Statement) -> Option<Statement> {
        let mut evicted = None;
        if self.by_sql.len() >= STATEMENTS_MAX {
            // A scan of a few hundred entries, paid only by sessions with more statements than that.
            let oldest = self.by_sql.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = oldest.map(|(sql, _)| sql.clone());
            evicted = oldest
                .and_then(|sql| self.by_sql.remove(&sql))
                .map(|(statement, _)| statement);
        }
        self.by_sql.insert(sql.into(), (statement, self.n_used));
        evicted
    }
}
