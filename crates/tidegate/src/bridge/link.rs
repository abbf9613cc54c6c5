//! One connection to Redis: opened, authenticated, and opened anew after a pause.

use std::{io, path::PathBuf, time::Duration};

use redis::{Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use tidegate_flow::retry::{Random, Retry};
use tidegate_vitals::Ledger;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::{sleep, timeout},
};

use super::resp::{Item, Reader, Value, invalid};

/// To open a connection and to be let in.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// To take a command that is written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between attempts: anything up to the first, doubled up to the last.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Where Redis is; it may hold a password, so it has no `Debug`.
#[derive(Clone)]
pub(super) struct Address {
    place: Place,
    username: Option<String>,
    password: Option<String>,
    database: i64,
}

#[derive(Clone)]
enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

type ReadHalf = Box<dyn AsyncRead + Send + Unpin>;
type WriteHalf = Box<dyn AsyncWrite + Send + Unpin>;

/// An open connection.
pub(super) struct Connection {
    pub(super) reader: Reader<ReadHalf>,
    writer: WriteHalf,
}

/// How long to wait before the next attempt.
pub(super) struct Pauses {
    retry: Retry,
    random: Random,
    failures: u32,
}

// === impl Address ===

impl Address {
    /// `redis://[user:password@]host[:port][/database]` or `redis+unix:///path`; `valkey` for `redis` as well.
    ///
    /// # Errors
    /// What is wrong with it; the address is not in the text.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let info: ConnectionInfo = url
            .into_connection_info()
            .map_err(|error| format!("no address of Redis: {error}"))?;
        let place = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Place::Tcp(host.clone(), *port),
            ConnectionAddr::Unix(path) => Place::Unix(path.clone()),
            _ => return Err("TLS to Redis is not built in; put it behind a tunnel".to_owned()),
        };
        let settings = info.redis_settings();
        Ok(Self {
            place,
            username: settings.username().map(str::to_owned),
            password: settings.password().map(str::to_owned),
            database: settings.db(),
        })
    }

    /// Opens a connection, authenticated and on its database.
    ///
    /// # Errors
    /// What Redis or the system answered, or that it took too long.
    ///
    /// # Cancel safety
    /// Dropped, the connection ends.
    pub(super) async fn connect(&self, ledger: &Ledger, value_bytes_max: usize) -> io::Result<Connection> {
        let opened = timeout(CONNECT_TIMEOUT, async {
            let mut connection = self.open(ledger, value_bytes_max).await?;
            for command in self.greeting() {
                connection.send(&command).await?;
                connection.expect_ok().await?;
            }
            Ok(connection)
        });
        opened
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn open(&self, ledger: &Ledger, value_bytes_max: usize) -> io::Result<Connection> {
        let (reader, writer): (ReadHalf, WriteHalf) = match &self.place {
            Place::Tcp(host, port) => {
                let stream = TcpStream::connect((&**host, *port)).await?;
                stream.set_nodelay(true)?;
                let (reader, writer) = stream.into_split();
                (Box::new(reader), Box::new(writer))
            }
            Place::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await?.into_split();
                (Box::new(reader), Box::new(writer))
            }
        };
        Ok(Connection {
            reader: Reader::new(reader, ledger.clone(), value_bytes_max),
            writer,
        })
    }

    fn greeting(&self) -> Vec<Cmd> {
        let mut commands = Vec::new();
        if let Some(password) = &self.password {
            let mut auth = redis::cmd("AUTH");
            if let Some(username) = &self.username {
                auth.arg(username);
            }
            auth.arg(password);
            commands.push(auth);
        }
        if self.database != 0 {
            let mut select = redis::cmd("SELECT");
            select.arg(self.database);
            commands.push(select);
        }
        commands
    }
}

// === impl Connection ===

impl Connection {
    pub(super) async fn send(&mut self, command: &Cmd) -> io::Result<()> {
        let bytes = command.get_packed_command();
        let written = timeout(WRITE_TIMEOUT, self.writer.write_all(&bytes)).await;
        written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn expect_ok(&mut self) -> io::Result<()> {
        match self.reader.item().await? {
            Item::Plain(_) => Ok(()),
            Item::Error(text) => Err(io::Error::new(io::ErrorKind::PermissionDenied, text)),
            other => Err(invalid(&format!("{other:?} where OK was expected"))),
        }
    }

    /// Version and text of `INFO server`.
    pub(super) async fn version(&mut self) -> io::Result<u32> {
        self.send(redis::cmd("INFO").arg("server")).await?;
        let info = match self.reader.item().await? {
            Item::Value(Value::Whole { bytes, .. }) => bytes,
            Item::Error(text) => return Err(io::Error::new(io::ErrorKind::PermissionDenied, text)),
            other => return Err(invalid(&format!("{other:?} where INFO was expected"))),
        };
        let text = String::from_utf8_lossy(&info);
        let version = text.lines().find_map(|line| line.strip_prefix("redis_version:"));
        let major = version.and_then(|version| version.split('.').next()?.parse().ok());
        major.ok_or_else(|| invalid("INFO without a version"))
    }
}

// === impl Pauses ===

impl Pauses {
    pub(super) fn new() -> Self {
        Self {
            retry: Retry {
                pause: PAUSE,
                pause_max: PAUSE_MAX,
                ..Retry::default()
            },
            random: Random::from_system(),
            failures: 0,
        }
    }

    /// It works again.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    pub(super) async fn wait(&mut self) {
        self.failures = self.failures.saturating_add(1);
        sleep(self.retry.pause_before(self.failures, &mut self.random)).await;
    }
}
