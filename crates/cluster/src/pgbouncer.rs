//! A connection pooler in front of a cluster, as many installations have one.

use std::{fs, sync::Arc, time::Duration};

use rustix::process::Signal;

use crate::{
    binaries,
    cluster::Cluster,
    error::{Error, Result},
    folder::{Base, Folder},
    log::Log,
    process::{Process, Spec},
    template::SUPERUSER,
};

const PORT: u16 = 6432;
const TIMEOUT: Duration = Duration::from_secs(20);

/// A running pgbouncer in transaction mode, on a Unix socket of its own; it ends when dropped or when its owner dies.
#[derive(Debug)]
pub struct PgBouncer {
    process: Process,
    log: Arc<Log>,
    folder: Folder,
}

impl PgBouncer {
    /// Starts it in front of `cluster`; every database of the cluster is reachable through it.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let program = binaries::in_path("pgbouncer", "pgbouncer")?;
        let user = cluster.user();
        let folder = Folder::temporary(&Base::open(user)?, user)?;
        let (users, settings) = (
            folder.path().join("users.txt"),
            folder.path().join("pgbouncer.ini"),
        );
        let write = |path: &std::path::Path, text: String| {
            fs::write(path, text).map_err(Error::file("writing", path))
        };
        write(&users, format!("\"{SUPERUSER}\" \"\"\n"))?;
        write(&settings, text(cluster, &folder))?;
        let mut command = user.command(&program, Some("TERM"));
        command.arg(&settings);
        let log = Arc::new(Log::default());
        let spec = Spec {
            name: "pgbouncer",
            command,
            ready: "process up",
            timeout: TIMEOUT,
        };
        let process = Process::start(spec, Arc::clone(&log))?;
        Ok(Self { process, log, folder })
    }

    /// The URL of a database of the cluster through this pooler.
    pub fn url(&self, database: &str) -> String {
        let host = self.folder.socket().to_string_lossy().replace('/', "%2F");
        format!("postgres://{SUPERUSER}@{host}:{PORT}/{database}")
    }

    /// What it said.
    pub fn log(&self) -> String {
        self.log.text()
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        // One that did not stop in time was killed.
        let _killed = self.process.stop(Signal::TERM, TIMEOUT);
    }
}

fn text(cluster: &Cluster, folder: &Folder) -> String {
    let (host, port) = (cluster.socket_folder().display(), cluster.port());
    let (socket, users) = (folder.socket().display(), folder.path().join("users.txt"));
    let users = users.display();
    format!(
        "[databases]\n* = host={host} port={port} user={SUPERUSER}\n[pgbouncer]\nlisten_addr =\n\
         listen_port = {PORT}\nunix_socket_dir = {socket}\nauth_type = trust\nauth_file = {users}\n\
         pool_mode = transaction\nmax_client_conn = 1000\ndefault_pool_size = 20\n\
         ignore_startup_parameters = extra_float_digits,search_path,statement_timeout,options\n"
    )
}
