//! One server under measurement: started on its own core, watched from outside, ended without exception.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::error::{Error, Result, Tried};
use crate::sys;

/// How to start a server; its address is put in place of `{addr}`.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
}

/// A running server; dropping it kills its whole process group.
pub(crate) struct Server {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
}

const READY_WITHIN: Duration = Duration::from_secs(20);

impl Server {
    /// Starts a server on a free port and waits until it accepts connections.
    pub(crate) fn start(launch: &Launch, core: usize, log: &Path) -> Result<Self> {
        // Between our look for a free port and the server's bind somebody else may take it: try again.
        let mut last = None;
        for _ in 0..3 {
            match Self::try_start(launch, core, log) {
                Ok(server) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("three attempts were made"))
    }

    fn try_start(launch: &Launch, core: usize, log: &Path) -> Result<Self> {
        let address = free_address().tried("look for a free port")?;
        let output = File::create(log).tried(format!("create {}", log.display()))?;
        let errors = output.try_clone().tried("share the log file")?;
        let mut command = Command::new(&launch.program);
        command.args(
            launch
                .arguments
                .iter()
                .map(|argument| argument.replace("{addr}", &address.to_string())),
        );
        command
            .env("NODE_ENV", "production")
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        sys::contain(&mut command, core);
        let child = command
            .spawn()
            .tried(format!("start {}", launch.program.display()))?;
        let mut server = Self {
            child,
            address,
            log: log.to_path_buf(),
        };
        server.wait_ready()?;
        Ok(server)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < READY_WITHIN {
            if let Some(status) = self.child.try_wait().tried("look after the server")? {
                return Err(Error::Server(format!(
                    "it ended at once with {status}: {}",
                    self.last_words()
                )));
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(Error::Server(format!(
            "it does not listen after {READY_WITHIN:?}: {}",
            self.last_words()
        )))
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// CPU time of all its processes, in nanoseconds.
    pub(crate) fn cpu_ns(&self) -> Result<u64> {
        self.processes()
            .into_iter()
            .map(|pid| sys::cpu_ns(pid).tried("read the server's CPU clock"))
            .sum()
    }

    /// Resident memory of all its processes, in bytes, exact to the page.
    pub(crate) fn rss_bytes(&self) -> Result<u64> {
        self.processes().into_iter().map(rss_bytes).sum()
    }

    /// The end of what it wrote, on one line.
    pub(crate) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text
            .lines()
            .rev()
            .filter(|line| !line.trim().is_empty())
            .take(3)
            .collect();
        lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Every process of its group.
    fn processes(&self) -> Vec<u32> {
        let leader = self.child.id();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|&pid: &u32| pid == leader || group_of(pid) == Some(leader))
            .collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        sys::kill_group(self.child.id());
        // It was killed: the wait only reaps it.
        let _ = self.child.wait();
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// The process group is the fifth field of `stat`, the third after the name, which stands in parentheses.
fn group_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(2)?.parse().ok()
}

/// `statm` lags by some pages per thread; `smaps_rollup` walks the pages and is exact.
fn rss_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).tried(format!("read {path}"))?;
    let kib = text.lines().find_map(|line| {
        line.strip_prefix("Rss:")?
            .split_whitespace()
            .next()?
            .parse::<u64>()
            .ok()
    });
    kib.map(|kib| kib * 1024)
        .ok_or_else(|| Error::Server(format!("{path} has no Rss line")))
}
