//! One run of a server: started, watched and reaped by a keeper thread.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{
    error::{Error, Result},
    log::Log,
    user::last_lines,
};

/// Lines of the log that come with an error.
const ERROR_LINES: usize = 12;

/// What to start and how to see that it is ready.
pub(crate) struct Spec {
    pub(crate) name: &'static str,
    pub(crate) command: Command,
    /// A part of the log line that says so.
    pub(crate) ready: &'static str,
    pub(crate) timeout: Duration,
}

/// One run of a server.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    pid: u32,
    /// A descriptor of the process: a signal through it never hits a reused process id.
    fd: OwnedFd,
    life: Arc<Life>,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Life {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_ready: bool,
    /// How it ended.
    exit: Option<String>,
}

impl Life {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits until `done`; false if that took longer than `timeout`.
    fn wait(&self, timeout: Duration, done: impl Fn(&State) -> bool) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), timeout, |state| !done(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }
}

impl Process {
    /// Starts it and returns when its log says that it is ready.
    pub(crate) fn start(spec: Spec, log: Arc<Log>) -> Result<Self> {
        let life = Arc::new(Life::default());
        let (tell, told) = sync_channel(1);
        let keeper = Keeper {
            ready: spec.ready,
            life: Arc::clone(&life),
            log: Arc::clone(&log),
        };
        let command = spec.command;
        // The death signal follows the thread that spawns, so this one lives until the server has ended.
        thread::Builder::new()
            .name(format!("keeper-{}", spec.name))
            .spawn(move || keeper.run(command, &tell))
            .map_err(|source| spawn_error(spec.name, source))?;
        let (pid, fd) = started(spec.name, &told)?;
        let process = Self {
            name: spec.name,
            pid,
            fd,
            life,
            log,
        };
        process.wait_ready(spec.timeout)?;
        Ok(process)
    }

    fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let is_settled = self
            .life
            .wait(timeout, |state| state.is_ready || state.exit.is_some());
        if let Some(status) = self.life.lock().exit.clone() {
            return Err(Error::Ended {
                program: self.name,
                status,
                text: self.last_words(),
            });
        }
        if is_settled {
            return Ok(());
        }
        let error = self.slow("ready", timeout);
        self.signal(Signal::KILL);
        Err(error)
    }

    pub(crate) fn is_running(&self) -> bool {
        self.life.lock().exit.is_none()
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks with `signal`, and kills what has not ended after `timeout`.
    pub(crate) fn stop(&self, signal: Signal, timeout: Duration) -> Result<()> {
        self.signal(signal);
        if self.life.wait(timeout, |state| state.exit.is_some()) {
            return Ok(());
        }
        let error = self.slow("down", timeout);
        self.kill_all(timeout)?;
        Err(error)
    }

    /// Kills the process and all of its children at once, as a crash of the machine would; returns when all are gone.
    pub(crate) fn kill_all(&self, timeout: Duration) -> Result<()> {
        // Stopped, it can neither start another child nor react to the death of one.
        self.signal(Signal::STOP);
        let children: Vec<OwnedFd> = children(self.pid).into_iter().filter_map(descriptor).collect();
        for child in &children {
            // One that has gone already is what we want.
            let _gone = pidfd_send_signal(child, Signal::KILL);
        }
        self.signal(Signal::KILL);
        let all_gone = children.iter().all(|child| wait_gone(child, timeout));
        if all_gone && self.life.wait(timeout, |state| state.exit.is_some()) {
            return Ok(());
        }
        Err(self.slow("dead", timeout))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended meanwhile; that is seen by whoever waits.
        let _gone = pidfd_send_signal(&self.fd, signal);
    }

    fn slow(&self, what: &'static str, timeout: Duration) -> Error {
        Error::Slow {
            program: self.name,
            what,
            seconds: timeout.as_secs(),
            text: self.last_words(),
        }
    }

    fn last_words(&self) -> String {
        last_lines(&self.log.text(), ERROR_LINES)
    }
}

// === Keeper ===

struct Keeper {
    ready: &'static str,
    life: Arc<Life>,
    log: Arc<Log>,
}

type Started = std::io::Result<(u32, OwnedFd)>;

impl Keeper {
    fn run(self, mut command: Command, tell: &SyncSender<Started>) {
        // A group of its own: Ctrl-C on the terminal is for us, and we then stop the server in order.
        command
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                let _gone = tell.send(Err(error));
                return;
            }
        };
        let fd = descriptor(child.id()).ok_or_else(std::io::Error::last_os_error);
        let reader = self.read_log(&mut child);
        let _gone = tell.send(fd.map(|fd| (child.id(), fd)));
        let status = match child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        // A server that refuses to start says why in its last lines; whoever waits for its end wants to read them.
        // After a kill, children that outlive it hold the pipe open, so only a clean end is waited for.
        if let Some(reader) = reader.filter(|_| !status.contains("signal")) {
            let _panicked = reader.join();
        }
        self.life.set(|state| state.exit = Some(status));
    }

    fn read_log(&self, child: &mut Child) -> Option<thread::JoinHandle<()>> {
        let stderr = child.stderr.take()?;
        let (ready, life, log) = (self.ready, Arc::clone(&self.life), Arc::clone(&self.log));
        let read = move || {
            for line in BufReader::new(stderr)
                .split(b'\n')
                .map_while(std::result::Result::ok)
            {
                let line = String::from_utf8_lossy(&line).into_owned();
                let is_ready = line.contains(ready);
                log.push(line);
                if is_ready {
                    life.set(|state| state.is_ready = true);
                }
            }
        };
        thread::Builder::new()
            .name("server-log".to_owned())
            .spawn(read)
            .ok()
    }
}

fn started(name: &str, told: &Receiver<Started>) -> Result<(u32, OwnedFd)> {
    let told = told.recv().expect("the keeper tells before it ends");
    told.map_err(|source| spawn_error(name, source))
}

fn spawn_error(name: &str, source: std::io::Error) -> Error {
    Error::Spawn {
        program: name.to_owned(),
        source,
    }
}

// === Processes ===

/// A descriptor of a live process.
pub(crate) fn descriptor(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Waits until the process behind a descriptor has ended.
pub(crate) fn wait_gone(process: &OwnedFd, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).ok();
    let mut wanted = [PollFd::new(process, PollFlags::IN)];
    poll(&mut wanted, timeout.as_ref()).is_ok_and(|n| n > 0)
}

/// The children of a process now.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything; state and parent follow the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read() {
        let parent = parent_of(std::process::id());
        assert_eq!(parent, Some(std::os::unix::process::parent_id()));
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let spec = Spec {
            name: "postgres",
            command: Command::new("/nowhere/postgres"),
            ready: "ready",
            timeout: Duration::from_secs(1),
        };
        let error = Process::start(spec, Arc::default()).unwrap_err();
        assert_eq!(error.to_string(), "starting postgres");
    }

    #[test]
    fn a_program_that_ends_at_once_tells_its_last_words() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo no room here >&2; exit 3"]);
        let spec = Spec {
            name: "sh",
            command,
            ready: "ready",
            timeout: Duration::from_secs(10),
        };
        let error = Process::start(spec, Arc::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sh ended with exit status: 3 before it was ready: no room here"
        );
    }
}
