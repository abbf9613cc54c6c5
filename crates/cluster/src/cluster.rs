//! A private server: started, crashed, restarted, promoted and copied at will.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::TcpListener,
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::process::Signal;

use crate::{
    binaries::Binaries,
    config::Config,
    error::{Error, Result},
    folder::{Base, Folder, make},
    log::Log,
    process::{Process, Spec},
    template::{self, SUPERUSER},
    user::{User, finished, output, quiet},
};

/// The line of the log after which clients are served; a standby's line begins the same way.
const READY: &str = "database system is ready to accept";
/// The port of a server that listens on its socket alone, where the port is only a part of the socket's name.
const SOCKET_PORT: u16 = 5432;
/// Another program may take a free port before the server does; more than this many in a row is no accident.
const PORT_TRIES: u32 = 5;
/// How many names are tried for a new database.
const NAME_TRIES: u32 = 1_000;

/// A private PostgreSQL server. Dropping it stops the server and removes a temporary folder; a server whose owner
/// is killed ends by itself, and its folder is removed by the next start of any cluster on the machine.
#[derive(Debug)]
pub struct Cluster {
    // The server is stopped before its folder goes: `Drop` does the first, the field the second.
    folder: Folder,
    config: Config,
    binaries: Binaries,
    user: User,
    password: String,
    port: Mutex<u16>,
    process: Mutex<Option<Process>>,
    log: Arc<Log>,
    n_databases: AtomicU64,
}

impl Cluster {
    /// A fresh server on a Unix socket in a temporary folder, durable and moderate with memory.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or the server does not start; the message has its last lines.
    pub fn temporary() -> Result<Self> {
        Self::start(Config::default())
    }

    /// A server as `config` says; with a folder that has data already, a server on that data.
    ///
    /// # Errors
    /// A wrong setting, PostgreSQL is not installed, the folder is in use, or the server does not start.
    pub fn start(config: Config) -> Result<Self> {
        let cluster = Self::prepare(config, None)?;
        let data = cluster.folder.data();
        if !data.join("PG_VERSION").exists() {
            let base = Base::open(&cluster.user)?;
            template::fill(&data, &base, &cluster.binaries, &cluster.user)?;
        }
        cluster.start_again()?;
        if cluster.config.tcp {
            let sql = format!("ALTER ROLE {SUPERUSER} PASSWORD '{}'", cluster.password);
            cluster.psql("postgres", &sql)?;
        }
        Ok(cluster)
    }

    fn prepare(config: Config, password: Option<String>) -> Result<Self> {
        config.check()?;
        let user = User::find()?;
        let base = Base::open(&user)?;
        let folder = match &config.folder {
            Some(path) => Folder::lasting(path, &base, &user)?,
            None => Folder::temporary(&base, &user)?,
        };
        let version = fs::read_to_string(folder.data().join("PG_VERSION")).ok();
        let binaries = Binaries::find(config.binaries.as_deref(), version.as_deref().map(str::trim))?;
        Ok(Self {
            folder,
            config,
            binaries,
            user,
            password: password.map_or_else(random_word, Ok)?,
            port: Mutex::new(SOCKET_PORT),
            process: Mutex::new(None),
            log: Arc::default(),
            n_databases: AtomicU64::new(0),
        })
    }

    /// The URL of a database over the Unix socket, as superuser; the database need not exist.
    pub fn url(&self, database: &str) -> String {
        let host = encoded(&self.folder.socket().to_string_lossy());
        format!(
            "postgres://{SUPERUSER}@{host}:{}/{}",
            self.port(),
            encoded(database)
        )
    }

    /// The URL of a database over TCP on loopback, with the password; none unless [`Config::tcp`].
    pub fn tcp_url(&self, database: &str) -> Option<String> {
        let (port, password) = (self.port(), &self.password);
        let database = encoded(database);
        let url = format!("postgres://{SUPERUSER}:{password}@127.0.0.1:{port}/{database}");
        self.config.tcp.then_some(url)
    }

    /// Folder of the Unix socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.socket()
    }

    /// Port, which is also a part of the socket's name.
    pub fn port(&self) -> u16 {
        *lock(&self.port)
    }

    /// Folder of the socket, the data and the settings.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The postmaster's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        let process = lock(&self.process);
        process
            .as_ref()
            .filter(|process| process.is_running())
            .map(Process::pid)
    }

    /// The last mebibyte the server said, over all of its starts.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Makes an empty database whose name begins with `prefix`, and gives its URL over the Unix socket.
    ///
    /// # Errors
    /// The server is not running, or refuses.
    pub fn create_database(&self, prefix: &str) -> Result<String> {
        let mut tries = 0;
        loop {
            let n = self.n_databases.fetch_add(1, Ordering::Relaxed);
            let name = format!("{prefix}_{n}");
            let quoted = name.replace('"', "\"\"");
            match self.psql("postgres", &format!("CREATE DATABASE \"{quoted}\"")) {
                // A lasting folder remembers the databases of earlier runs.
                Err(Error::Failed { text, .. }) if text.contains("already exists") && tries < NAME_TRIES => {
                    tries += 1;
                }
                result => return result.map(|_| self.url(&name)),
            }
        }
    }

    /// Runs statements through `psql`, each in its own transaction, and gives the rows: columns separated by `|`,
    /// without headers and without the last line end. Stops at the first error.
    ///
    /// # Errors
    /// The server is not running, or a statement fails.
    pub fn psql(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = quiet(&self.binaries.program("psql"));
        command
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d"])
            .arg(self.url(database))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let spawn_error = |source| Error::Spawn {
            program: "psql".to_owned(),
            source,
        };
        let mut child = command.spawn().map_err(spawn_error)?;
        let mut stdin = child.stdin.take().expect("stdin was asked for as a pipe");
        let sql = sql.to_owned();
        // Beside us: psql may print more than a pipe holds before it has read everything.
        let writer = std::thread::spawn(move || {
            // psql that has ended early says why in its own words.
            let _gone = stdin.write_all(sql.as_bytes());
        });
        let result = child.wait_with_output().map_err(spawn_error)?;
        let _panicked = writer.join();
        finished(&result, "psql").map(|text| text.trim_end_matches('\n').to_owned())
    }

    /// Kills the postmaster and every backend with SIGKILL, as a crash does; returns when all are gone.
    ///
    /// # Errors
    /// The server is not running, or does not die.
    pub fn kill(&self) -> Result<()> {
        let mut process = lock(&self.process);
        let running = process.take().filter(Process::is_running);
        let running = running.ok_or_else(|| Error::NotRunning(self.folder.path().to_owned()))?;
        running.kill_all(self.config.stop_timeout)
    }

    /// Stops the server fast: transactions are rolled back, clients are cut, everything is written. A server that
    /// is not running is left as it is.
    ///
    /// # Errors
    /// It did not end in time and was killed.
    pub fn stop(&self) -> Result<()> {
        let process = lock(&self.process).take();
        match process.filter(Process::is_running) {
            Some(process) => process.stop(Signal::INT, self.config.stop_timeout),
            None => Ok(()),
        }
    }

    /// Starts the server after [`Cluster::stop`] or [`Cluster::kill`], on the same socket and port.
    ///
    /// # Errors
    /// It runs already, or does not start.
    pub fn start_again(&self) -> Result<()> {
        let mut process = lock(&self.process);
        if process.as_ref().is_some_and(Process::is_running) {
            return Err(Error::Running(self.folder.path().to_owned()));
        }
        let mut tries = 0;
        loop {
            self.choose_port()?;
            match self.start_process() {
                Ok(started) => {
                    *process = Some(started);
                    return Ok(());
                }
                // Clients know the port of a server that ran before, so only a first start looks for another.
                Err(Error::Ended { text, .. })
                    if text.contains("Address already in use") && tries < PORT_TRIES && !self.has_run() =>
                {
                    tries += 1;
                    *lock(&self.port) = SOCKET_PORT;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Stops and starts the server.
    ///
    /// # Errors
    /// Those of [`Cluster::stop`] and [`Cluster::start_again`].
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Makes a standby the primary, and returns when it is one.
    ///
    /// # Errors
    /// The server is not running, is no standby, or takes longer than the start timeout.
    pub fn promote(&self) -> Result<()> {
        let seconds = self.config.start_timeout.as_secs();
        let promoted = self.psql("postgres", &format!("SELECT pg_promote(true, {seconds})"))?;
        if promoted == "t" {
            return Ok(());
        }
        Err(Error::Slow {
            program: "postgres",
            what: "promoted",
            seconds,
            text: crate::user::last_lines(&self.log(), 12),
        })
    }

    /// A streaming standby of this server, copied by `pg_basebackup`; it has the same settings and a temporary
    /// folder of its own.
    ///
    /// # Errors
    /// This server is not running, or the copy or the standby's start fails.
    pub fn replica(&self) -> Result<Self> {
        let config = Config {
            folder: None,
            ..self.config.clone()
        };
        let replica = Self::prepare(config, Some(self.password.clone()))?;
        let data = replica.folder.data();
        make(&data, 0o700)?;
        self.user.give(&data)?;
        let mut copy = self.user.command(&self.binaries.program("pg_basebackup"), None);
        copy.arg("-D")
            .arg(&data)
            .args(["-R", "-X", "stream", "-c", "fast", "-d"]);
        let name = replica.folder.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy();
        // The name under which the primary shows this standby, and by which it can be made synchronous.
        copy.arg(format!("{}?application_name={name}", self.url("postgres")));
        output(&mut copy, "pg_basebackup")?;
        replica.start_again()?;
        Ok(replica)
    }

    /// The name under which a primary shows this standby in `pg_stat_replication`.
    pub fn standby_name(&self) -> String {
        let name = self.folder.path().file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn choose_port(&self) -> Result<()> {
        let mut port = lock(&self.port);
        if self.config.tcp && *port == SOCKET_PORT {
            let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
            *port = free
                .map_err(Error::file("finding a free port for", self.folder.path()))?
                .port();
        }
        Ok(())
    }

    fn has_run(&self) -> bool {
        self.log.text().contains(READY)
    }

    fn start_process(&self) -> Result<Process> {
        let settings = self.folder.path().join("postgresql.conf");
        let text = self
            .config
            .text(&self.folder.socket().to_string_lossy(), self.port());
        fs::write(&settings, text).map_err(Error::file("writing", &settings))?;
        // SIGINT is postgres's fast shutdown.
        let mut command = self.user.command(&self.binaries.program("postgres"), Some("INT"));
        // Our own file instead of the data folder's: a copy of the data takes no settings along.
        let settings = format!("config_file={}", settings.display());
        command.arg("-D").arg(self.folder.data()).args(["-c", &settings]);
        let spec = Spec {
            name: "postgres",
            command,
            ready: READY,
            timeout: self.config.start_timeout,
        };
        Process::start(spec, Arc::clone(&self.log))
    }

    pub(crate) const fn user(&self) -> &User {
        &self.user
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A server that did not stop in time was killed; nothing more can be done with it here.
        let _killed = self.stop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Percent-encodes what has a meaning of its own in a URL.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("writing to a string cannot fail");
        }
    }
    out
}

/// 128 bits from the kernel, in hexadecimal.
fn random_word() -> Result<String> {
    use std::io::Read as _;
    let path = "/dev/urandom";
    let mut bytes = [0_u8; 16];
    let mut file = fs::File::open(path).map_err(Error::file("opening", path))?;
    file.read_exact(&mut bytes)
        .map_err(Error::file("reading", path))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded_for_urls() {
        let check = |text, expected| assert_eq!(encoded(text), expected);
        check("/tmp/a-b", "%2Ftmp%2Fa-b");
        check("a b%", "a%20b%25");
    }

    #[test]
    fn passwords_differ() {
        let (one, other) = (random_word().unwrap(), random_word().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
