//! A private Redis, or Valkey: the level that caches share, and the way of publishers.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    binaries,
    error::{Error, Result},
    folder::{Base, Folder},
    log::Log,
    process::{Process, Spec},
    user::User,
};

const TIMEOUT: Duration = Duration::from_secs(30);
/// A shell, because both write their log to standard output, and ours is read from standard error.
const RUN: &str = r#"exec "$@" >&2"#;

/// A running server without a disk, on a Unix socket of its own; it ends when dropped or when its owner dies.
///
/// It is `redis-server` from `PATH`, or the program whose path the environment variable `TIDEGATE_REDIS_SERVER` holds, such
/// as a `valkey-server`.
#[derive(Debug)]
pub struct Redis {
    /// None between a kill and the next start.
    process: Option<Process>,
    program: PathBuf,
    args: Vec<OsString>,
    user: User,
    log: Arc<Log>,
    folder: Folder,
}

impl Redis {
    /// Starts one with its defaults.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// Starts one with more arguments, such as `["--maxmemory", "64mb"]`.
    ///
    /// # Errors
    /// It is not installed, does not start, or does not know an argument.
    pub fn start_with(args: &[&str]) -> Result<Self> {
        let program = match env::var_os("TIDEGATE_REDIS_SERVER") {
            Some(path) => path.into(),
            None => binaries::in_path("redis-server", "redis-server")?,
        };
        let user = User::own()?;
        let mut redis = Self {
            process: None,
            program,
            args: args.iter().map(OsString::from).collect(),
            folder: Folder::temporary(&Base::open(&user)?, &user)?,
            user,
            log: Arc::default(),
        };
        redis.start_again()?;
        Ok(redis)
    }

    /// The socket it listens on, the same after each start.
    pub fn socket(&self) -> PathBuf {
        self.folder.socket().join("redis")
    }

    /// The URL of its first database.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// Kills it as a crash does; what it held is gone.
    ///
    /// # Errors
    /// It is not running, or does not die.
    pub fn kill(&mut self) -> Result<()> {
        self.running()?.kill_all(TIMEOUT)?;
        self.process = None;
        Ok(())
    }

    /// Starts it after a kill, on the same socket.
    ///
    /// # Errors
    /// It runs already, or does not start.
    pub fn start_again(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Err(Error::Running(self.folder.path().to_owned()));
        }
        let mut command = self.user.command(Path::new("/bin/sh"), Some("KILL"));
        command.args(["-c", RUN, "sh"]).arg(&self.program);
        command.args(["--port", "0", "--save", "", "--appendonly", "no"]);
        command.arg("--unixsocket").arg(self.socket());
        command.arg("--dir").arg(self.folder.path()).args(&self.args);
        let spec = Spec {
            name: "redis-server",
            command,
            ready: "eady to accept connections",
            timeout: TIMEOUT,
        };
        self.process = Some(Process::start(spec, Arc::clone(&self.log))?);
        Ok(())
    }

    /// Stops its clock: connections stay and get no answer until [`resume`](Self::resume).
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&self) -> Result<()> {
        self.running()?.signal(Signal::STOP);
        Ok(())
    }

    /// Lets it go on after [`pause`](Self::pause).
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self) -> Result<()> {
        self.running()?.signal(Signal::CONT);
        Ok(())
    }

    /// What it said.
    pub fn log(&self) -> String {
        self.log.text()
    }

    fn running(&self) -> Result<&Process> {
        let process = self.process.as_ref();
        process.ok_or_else(|| Error::NotRunning(self.folder.path().to_owned()))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(process) = &self.process {
            // It has nothing to save, and one that is paused hears nothing else.
            let _gone = process.kill_all(TIMEOUT);
        }
    }
}
