//! Opens sessions: finds the right host, logs in, learns what stands at the other end.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_flow::task::Group;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
    time::timeout,
};
use tokio_postgres::{
    AsyncMessage, Client, SimpleQueryMessage, SimpleQueryRow,
    config::SslMode,
    tls::{MakeTlsConnect, TlsConnect},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    connection::{Connection, Origin},
    dsn::{Dsn, Host, Place, Pooler, TlsMode},
    error::{connect_error, io_error},
    socket::{Socket, process_id},
    tls,
};
use crate::{
    database::ServerInfo,
    error::{Error, Result},
    kind::Kind,
    pool,
};

/// Most types of one database whose names are learned in advance behind a pooler.
const TYPES_MAX: usize = 500;

/// Settings of every session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The server ends statements that run longer; `None` leaves its own setting. Behind a pooler it holds only where a
    /// transaction sets it.
    pub statement_timeout: Option<Duration>,
    /// Shown in the server's list of sessions, unless the URL gives one.
    pub application_name: String,
    /// Transactions are read-only unless they say otherwise.
    pub is_read_only: bool,
}

/// Opens sessions with the servers of one URL. Clones share what was learned.
#[derive(Clone)]
pub struct Postgres(Arc<Shared>);

struct Shared {
    dsn: Dsn,
    session: Session,
    tls: MakeRustlsConnect,
    target: String,
    /// Drives the sockets of all sessions. Each task ends with its session.
    drivers: Group,
    /// Woken by notifications (LISTEN), and when a session ends.
    heard: Arc<Notify>,
    learned: Arc<Learned>,
}

/// What was found out about the servers, shared by all who connect to them.
#[derive(Default)]
struct Learned {
    /// The host that answered last: tried first.
    preferred: AtomicUsize,
    /// The highest timeline seen. A primary with a lower one was replaced and does not know it.
    timeline: AtomicU32,
    /// Grows when a pooler's sessions turn out to know too few of the database's types.
    types: AtomicU32,
    /// Woken when something looks like a change of roles.
    suspicion: Notify,
}

// === impl Postgres ===

impl Postgres {
    /// What opens sessions as `dsn` says.
    ///
    /// # Errors
    /// [`Error::Config`] when the trusted certificates cannot be read.
    pub fn new(dsn: Dsn, session: Session) -> Result<Self> {
        Self::with(dsn, session, Arc::default())
    }

    /// The same servers with sessions of another kind.
    ///
    /// # Errors
    /// As [`Postgres::new`].
    pub fn with_session(&self, session: Session) -> Result<Self> {
        Self::with(self.0.dsn.clone(), session, Arc::clone(&self.0.learned))
    }

    fn with(dsn: Dsn, session: Session, learned: Arc<Learned>) -> Result<Self> {
        let tls = tls::connector(&dsn)?;
        let target = dsn.target();
        Ok(Self(Arc::new(Shared {
            dsn,
            session,
            tls,
            target,
            drivers: Group::new(),
            heard: Arc::default(),
            learned,
        })))
    }

    /// The settings of its sessions.
    pub fn session(&self) -> &Session {
        &self.0.session
    }

    /// How the URL was read.
    pub fn dsn(&self) -> &Dsn {
        &self.0.dsn
    }

    /// Opens a session with the first host that will do, beginning with the one that did last.
    ///
    /// # Errors
    /// [`Error::Connect`] of the host that came closest: a server's refusal counts more than silence.
    ///
    /// # Cancel safety
    /// Dropping it closes what was opened.
    pub async fn open(&self) -> Result<Connection> {
        let n_hosts = self.0.dsn.hosts.len();
        let first = self.0.learned.preferred.load(Relaxed);
        let mut worst = None;
        for at in (0..n_hosts).map(|step| (first + step) % n_hosts) {
            match self.open_host(at).await {
                Ok(connection) => {
                    self.0.learned.preferred.store(at, Relaxed);
                    return Ok(connection);
                }
                Err(error) if worst.is_none() || error.sqlstate().is_some() => worst = Some(error),
                Err(_) => {}
            }
        }
        Err(worst.expect("a URL has at least one host"))
    }

    /// Opens a session with one host of the URL.
    ///
    /// # Errors
    /// [`Error::Connect`], also when the host follows another one and writes are needed.
    ///
    /// # Cancel safety
    /// Dropping it closes what was opened.
    pub async fn open_host(&self, at: usize) -> Result<Connection> {
        let after = self.0.dsn.connect_timeout;
        match timeout(after, self.log_in(at)).await {
            Ok(connection) => connection,
            Err(_) => Err(self.refused(at, format!("no answer within {} s", after.as_secs()))),
        }
    }

    pub(super) fn host(&self, at: usize) -> &Host {
        &self.0.dsn.hosts[at]
    }

    pub(super) fn target_of(&self, at: usize) -> String {
        let dsn = &self.0.dsn;
        let database = dsn
            .database
            .as_deref()
            .or(dsn.user.as_deref())
            .unwrap_or_default();
        format!("{}/{database}", dsn.hosts[at])
    }

    pub(super) fn tls_for<S>(
        &self,
        host: &Host,
    ) -> impl TlsConnect<S, Stream: Send + 'static, Future: Send> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut tls = self.0.tls.clone();
        let made = MakeTlsConnect::<S>::make_tls_connect(&mut tls, host.name());
        made.unwrap_or_else(|never| match never {})
    }

    /// Something looks like a change of roles: whoever watches them looks at once.
    pub(crate) fn suspect(&self) {
        self.0.learned.suspicion.notify_one();
    }

    /// Waits for the next [`Postgres::suspect`]; one that came before counts.
    pub(crate) async fn suspected(&self) {
        self.0.learned.suspicion.notified().await;
    }

    /// Waits until a session of this very handle got a notification or ended; one that came before counts.
    pub(crate) async fn heard(&self) {
        self.0.heard.notified().await;
    }

    /// The highest timeline seen on a primary.
    pub(crate) fn timeline(&self) -> u32 {
        self.0.learned.timeline.load(Relaxed)
    }

    /// Whether another server took over since this one was the primary.
    pub(super) fn is_former(&self, info: &ServerInfo) -> bool {
        self.0.dsn.needs_primary() && info.timeline < self.timeline()
    }

    /// How often the types had to be learned anew.
    pub(super) fn types(&self) -> u32 {
        self.0.learned.types.load(Relaxed)
    }

    /// A session opened when it was the `known`th time lacks a type: it and its like are not used again.
    pub(super) fn forget_types(&self, known: u32) {
        let _ = self
            .0
            .learned
            .types
            .compare_exchange(known, known + 1, Relaxed, Relaxed);
    }

    /// The host at which the next session begins to look.
    pub(crate) fn prefer(&self, host: usize) {
        self.0.learned.preferred.store(host, Relaxed);
    }

    /// Ends the sockets of all sessions, at the latest after `limit`.
    pub(crate) async fn finish(&self, limit: Duration) {
        // Those that did not end in time were aborted, which closes their sockets.
        let _ = self.0.drivers.finish(limit).await;
    }

    fn refused(&self, at: usize, message: String) -> Error {
        Error::Connect {
            target: self.target_of(at),
            message,
            sqlstate: None,
        }
    }

    async fn log_in(&self, at: usize) -> Result<Connection> {
        let (is_pooled, (client, peer, ending)) = match self.start(at, true).await {
            // A pooler refuses start-up options that it does not know how to share.
            Err(Error::Connect {
                message,
                sqlstate: Some(sqlstate),
                ..
            }) if sqlstate == "08P01" && message.contains("startup parameter") => {
                (true, self.start(at, false).await?)
            }
            started => (false, started?),
        };
        let (mut info, backend) = self.greet(at, &client).await?;
        info.through_pooler = match self.0.dsn.pooler {
            Pooler::Transaction => true,
            Pooler::Session => false,
            // The number that the other end gave us as its process is not the server's: somebody stands between.
            Pooler::Detect => is_pooled || process_id(&client.cancel_token()).await != Some(backend),
        };
        self.check_role(at, &info)?;
        let types = self.types();
        if info.through_pooler {
            learn_types(&client).await;
        }
        Ok(Connection::new(
            Arc::new(client),
            info,
            Origin {
                connector: self.clone(),
                host: at,
                peer,
                types,
            },
            ending,
        ))
    }

    async fn start(&self, at: usize, with_options: bool) -> Result<(Client, Host, Arc<OnceLock<String>>)> {
        let host = self.host(at);
        let target = self.target_of(at);
        let socket = Socket::open(host)
            .await
            .map_err(|error| io_error(&target, &error))?;
        let peer = socket.peer(host);
        let config = self.client_config(host, with_options);
        let (client, connection) = config
            .connect_raw(socket, self.tls_for::<Socket>(host))
            .await
            .map_err(|error| connect_error(&target, &error))?;
        let ending = Arc::new(OnceLock::new());
        let shared = &self.0;
        let woken = (Arc::clone(&shared.learned), Arc::clone(&shared.heard));
        let drive = drive(connection, Arc::clone(&ending), woken);
        match self.0.drivers.spawn("store-postgres-connection", drive) {
            true => Ok((client, peer, ending)),
            false => Err(Error::PoolClosed),
        }
    }

    fn client_config(&self, host: &Host, with_options: bool) -> tokio_postgres::Config {
        let (dsn, session) = (&self.0.dsn, &self.0.session);
        let mut config = tokio_postgres::Config::new();
        config.ssl_mode(match (&host.place, dsn.tls) {
            // A Unix socket does not leave the machine.
            (Place::Unix(_), _) | (_, TlsMode::Disable) => SslMode::Disable,
            (_, TlsMode::Prefer) => SslMode::Prefer,
            _ => SslMode::Require,
        });
        config.application_name(
            dsn.application_name
                .as_deref()
                .unwrap_or(&session.application_name),
        );
        if let Some(user) = &dsn.user {
            config.user(user);
        }
        if let Some(database) = &dsn.database {
            config.dbname(database);
        }
        if let Some(password) = &dsn.password {
            config.password(password);
        }
        let options = session.options(dsn.options.as_deref());
        if with_options && !options.is_empty() {
            config.options(&options);
        }
        config
    }

    /// Asks the server who it is; also the process that serves this question.
    async fn greet(&self, at: usize, client: &Client) -> Result<(ServerInfo, i32)> {
        let messages = client.simple_query(GREETING).await;
        let messages = messages.map_err(|error| connect_error(&self.target_of(at), &error))?;
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let row = row.ok_or_else(|| self.refused(at, "no answer to the first question".to_owned()))?;
        let text = |name: &str| row.get(name).unwrap_or_default();
        let info = ServerInfo {
            kind: Kind::Postgres,
            version: text("version").split(' ').next().unwrap_or_default().to_owned(),
            version_number: number(row, "version_number"),
            host: self.host(at).to_string(),
            is_replica: text("is_replica") == "t",
            through_pooler: false,
            system_id: number(row, "system_id"),
            timeline: u32::from_str_radix(text("timeline"), 16).unwrap_or_default(),
            is_on_tmpfs: None,
        };
        Ok((info, number(row, "backend")))
    }

    fn check_role(&self, at: usize, info: &ServerInfo) -> Result<()> {
        if !self.0.dsn.needs_primary() {
            return Ok(());
        }
        if info.is_replica {
            return Err(self.refused(at, "the server is a replica, and writes are needed".to_owned()));
        }
        let highest = self.0.learned.timeline.fetch_max(info.timeline, Relaxed);
        match info.timeline < highest {
            true => Err(self.refused(
                at,
                format!(
                    "a former primary: it is on timeline {}, another one on {highest}",
                    info.timeline
                ),
            )),
            false => Ok(()),
        }
    }
}

impl pool::Connector for Postgres {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection> {
        self.open().await
    }

    fn is_usable(&self, connection: &Connection) -> bool {
        connection.is_usable()
    }

    async fn check(&self, connection: &mut Connection) -> Result<()> {
        connection.check().await
    }

    fn needs_drain(&self, connection: &Connection) -> bool {
        connection.needs_drain()
    }

    async fn drain(&self, connection: &mut Connection) -> Result<()> {
        connection.drain().await
    }

    fn forget_statements(&self, connection: &mut Connection) -> usize {
        connection.forget_all()
    }

    fn target(&self) -> &str {
        &self.0.target
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Postgres({})", self.0.target)
    }
}

/// The first question of every session: one round trip, one row.
const GREETING: &str = "SELECT current_setting('server_version') AS version, \
     current_setting('server_version_num') AS version_number, \
     pg_is_in_recovery() AS is_replica, pg_backend_pid() AS backend, \
     (SELECT system_identifier FROM pg_control_system()) AS system_id, \
     CASE WHEN NOT pg_is_in_recovery() THEN substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END AS timeline";

fn number<T: std::str::FromStr + Default>(row: &SimpleQueryRow, name: &str) -> T {
    row.get(name)
        .and_then(|text| text.parse().ok())
        .unwrap_or_default()
}

/// Moves bytes between the socket and the callers until the session ends, and writes down why it did.
async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    ending: Arc<OnceLock<String>>,
    (learned, heard): (Arc<Learned>, Arc<Notify>),
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                tracing::debug!(
                    sqlstate = notice.code().code(),
                    message = notice.message(),
                    "notice of the database"
                );
            }
            Some(Ok(AsyncMessage::Notification(_))) => heard.notify_one(),
            Some(Ok(_)) => {}
            Some(Err(failure)) => {
                let message = match super::error::error(failure) {
                    Error::Database {
                        sqlstate, message, ..
                    } => format!("{message} (SQLSTATE {sqlstate})"),
                    Error::Lost(message) => message,
                    other => other.to_string(),
                };
                // First written down, then dropped: whoever waits for an answer finds the reason.
                let _ = ending.set(message);
                learned.suspicion.notify_one();
                heard.notify_one();
                return;
            }
            None => return,
        }
    }
}

/// Makes the client library know the database's own types. It would ask for each by statements prepared for the session,
/// which a pooler does not keep; here they are made and removed in one transaction.
async fn learn_types(client: &Client) {
    let listed = client.simple_query(TYPES).await.unwrap_or_default();
    let names = listed.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let columns: Vec<String> = names
        .take(TYPES_MAX)
        .map(|name| format!("NULL::{name},NULL::{name}[]"))
        .collect();
    if columns.is_empty() {
        return;
    }
    let learned = async {
        client.batch_execute("BEGIN").await?;
        client.prepare(&format!("SELECT {}", columns.join(","))).await?;
        client.batch_execute("DEALLOCATE ALL;COMMIT").await
    };
    if let Err(error) = learned.await {
        tracing::warn!(%error, "types of the database not learned: statements that use them fail behind the pooler");
        // The session is new: if this fails too, its next statement says so.
        let _ = client.batch_execute("ROLLBACK").await;
    }
}

const TYPES: &str = "SELECT oid::regtype::text FROM pg_type \
     WHERE typtype IN ('e', 'd') AND has_type_privilege(oid, 'USAGE') AND typnamespace NOT IN \
     ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) ORDER BY oid";

// === impl Session ===

impl Session {
    fn options(&self, own: Option<&str>) -> String {
        let mut options = own.unwrap_or_default().to_owned();
        let mut set = |setting: String| {
            let gap = if options.is_empty() { "" } else { " " };
            options.push_str(gap);
            options.push_str("-c ");
            options.push_str(&setting);
        };
        // A statement whose client is gone ends within ten seconds instead of running to its end.
        set("client_connection_check_interval=10s".to_owned());
        if let Some(limit) = self.statement_timeout {
            set(format!("statement_timeout={}", limit.as_millis()));
        }
        if self.is_read_only {
            set("default_transaction_read_only=on".to_owned());
        }
        options
    }
}

impl Default for Session {
    fn default() -> Self {
        Self {
            statement_timeout: None,
            application_name: "tidegate".to_owned(),
            is_read_only: false,
        }
    }
}
