//! The folder of one server: locked while its owner lives, swept when the owner has died without tidying up.

use std::{
    env,
    fs::{self, DirBuilder, File, OpenOptions},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::process::{Signal, pidfd_send_signal};

use crate::{
    error::{Error, Result},
    process::{descriptor, wait_gone},
    user::User,
};

/// Longest path of a Unix socket that Linux takes, without the ending zero.
const SOCKET_PATH_MAX: usize = 107;
/// How long a server of a dead owner may take to end.
const LEFT_OVER_TIMEOUT: Duration = Duration::from_secs(10);

/// The folder that holds everything of this crate for one pair of users.
#[derive(Debug)]
pub(crate) struct Base(PathBuf);

/// Held while folders are made or removed, by one process at a time.
pub(crate) struct BaseLock(#[expect(dead_code, reason = "the lock ends with the file")] File);

impl Base {
    /// Makes or finds the base folder, which belongs to the calling user alone.
    pub(crate) fn open(user: &User) -> Result<Self> {
        let path = env::temp_dir().join(format!("tidegate-pg-{}", user.key()));
        make(&path, 0o711)?;
        let meta = fs::symlink_metadata(&path).map_err(Error::file("looking at", &path))?;
        let is_ours =
            meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0;
        if is_ours {
            return Ok(Self(path));
        }
        // Anybody may write into the temporary folder; what others put there is not trusted with a server.
        let source = std::io::Error::other("it belongs to another user or others may write to it");
        Err(Error::file("using", path)(source))
    }

    pub(crate) fn lock(&self) -> Result<BaseLock> {
        let file = open_lock(&self.0.join("lock"))?;
        file.lock().map_err(Error::file("locking", &self.0))?;
        Ok(BaseLock(file))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Removes folders whose owners have died, their servers first.
    fn sweep(&self, _lock: &BaseLock) {
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_name().to_string_lossy().starts_with('c') {
                continue;
            }
            let owner = open_lock(&path.join("owner"));
            if owner.is_ok_and(|owner| owner.try_lock().is_ok()) {
                end_server(&path.join("data"));
                // What cannot be removed now is tried again by the next start.
                let _later = fs::remove_dir_all(&path);
            }
        }
    }
}

/// The folder of one server.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    socket: PathBuf,
    is_temporary: bool,
    /// Another folder that holds the socket, because the path of this one is too long for it.
    short: Option<Box<Folder>>,
    /// Locked while we live; the kernel lets go of it however we end.
    _owner: File,
}

impl Folder {
    /// A folder that goes away with its owner.
    pub(crate) fn temporary(base: &Base, user: &User) -> Result<Self> {
        static N: AtomicU64 = AtomicU64::new(0);
        let lock = base.lock()?;
        base.sweep(&lock);
        // A folder that could not be swept may have the process id that is now ours.
        let path = loop {
            let n = N.fetch_add(1, Ordering::Relaxed);
            let path = base.path(&format!("c{}-{n}", std::process::id()));
            if !path.exists() {
                break path;
            }
        };
        Self::open(path, true, user)
    }

    /// A folder that stays.
    pub(crate) fn lasting(path: &Path, base: &Base, user: &User) -> Result<Self> {
        let path = std::path::absolute(path).map_err(Error::file("finding", path))?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&path)
            .map_err(Error::file("creating", &path))?;
        let mut folder = Self::open(path, false, user)?;
        let longest = folder.socket.join(".s.PGSQL.65535");
        if longest.as_os_str().len() > SOCKET_PATH_MAX {
            let short = Self::temporary(base, user)?;
            folder.socket.clone_from(&short.socket);
            folder.short = Some(Box::new(short));
        }
        Ok(folder)
    }

    fn open(path: PathBuf, is_temporary: bool, user: &User) -> Result<Self> {
        make(&path, 0o711)?;
        let owner = open_lock(&path.join("owner"))?;
        if owner.try_lock().is_err() {
            return Err(Error::InUse(path));
        }
        let socket = path.join("s");
        make(&socket, 0o700)?;
        user.give(&socket)?;
        let folder = Self {
            path,
            socket,
            is_temporary,
            short: None,
            _owner: owner,
        };
        // A lasting folder may still have the server of an owner that died.
        end_server(&folder.data());
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // What cannot be removed now is swept by the next start.
            let _later = fs::remove_dir_all(&self.path);
        }
    }
}

/// Makes a folder; one that is there already is left as it is.
pub(crate) fn make(path: &Path, mode: u32) -> Result<()> {
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(Error::file("creating", path)(error)),
    }
}

fn open_lock(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true);
    options.open(path).map_err(Error::file("opening", path))
}

/// Ends a server that still runs on `data`: its owner was killed before the server heard of it.
fn end_server(data: &Path) {
    let file = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let Some(pid) = file
        .lines()
        .next()
        .and_then(|line| line.trim().parse::<u32>().ok())
    else {
        return;
    };
    let Some(process) = descriptor(pid) else { return };
    // The server stands in its data folder; another process with the same id does not.
    let stands_in = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    if stands_in != fs::canonicalize(data).unwrap_or_default() {
        return;
    }
    for signal in [Signal::INT, Signal::KILL] {
        let _gone = pidfd_send_signal(&process, signal);
        if wait_gone(&process, LEFT_OVER_TIMEOUT) {
            return;
        }
    }
}
