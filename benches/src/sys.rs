//! The kernel calls that the standard library lacks: pinning, limits, CPU clocks and epoll.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The cores this process may run on, in order.
pub(crate) fn cores() -> Vec<usize> {
    let mut set = empty_set();
    // SAFETY: rule 1, the kernel writes at most `size_of_val(&set)` bytes into a set that we own.
    let got = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if got != 0 {
        return vec![0];
    }
    // SAFETY: rule 1, `CPU_ISSET` reads inside the set for indices below `CPU_SETSIZE`.
    (0..libc::CPU_SETSIZE as usize)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect()
}

/// Keeps this process on one core.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    let mut set = empty_set();
    // SAFETY: rule 1, the set is ours and the call bounds-checks the index.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: rule 1, the kernel reads `size_of_val(&set)` bytes of a set that we own.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) }).map(drop)
}

fn empty_set() -> libc::cpu_set_t {
    // SAFETY: rule 2, `cpu_set_t` is an array of integers, for which all zeros is a value: the empty set.
    unsafe { std::mem::zeroed() }
}

/// Raises the limit of open files to the hardest allowed and returns it.
pub(crate) fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: rule 1, the kernel writes one `rlimit` that we own.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: rule 1, the kernel reads one `rlimit` that we own.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// The CPU time of a process with all its threads, the ended ones included, in nanoseconds.
pub(crate) fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: rule 1, the call writes one clock id that we own.
    let error = unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: rule 1, the kernel writes one `timespec` that we own.
    check(unsafe { libc::clock_gettime(clock, &raw mut time) })?;
    Ok(time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned())
}

/// Bytes that the allocator has given out to this process and not got back.
pub(crate) fn heap_bytes() -> usize {
    // SAFETY: rule 4, no memory is involved: the figures are returned by value.
    let figures = unsafe { libc::mallinfo2() };
    figures.uordblks + figures.hblkhd
}

/// Makes the command's process run on `core`, lead a group of its own and die with this one.
pub(crate) fn contain(command: &mut Command, core: usize) {
    command.process_group(0);
    // SAFETY: rule 3, between fork and exec only `prctl` and `sched_setaffinity` run: neither allocates nor
    // locks, so both are safe in the child of a process with several threads.
    unsafe {
        command.pre_exec(move || {
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            pin(core)
        });
    }
}

/// Ends every process of a group that [`contain`] made.
pub(crate) fn kill_group(leader: u32) {
    // SAFETY: rule 4, no memory is involved; the group is led by a child that is not yet reaped, so its id is ours.
    unsafe { libc::kill(-leader.cast_signed(), libc::SIGKILL) };
}

/// Edge-triggered readiness of many sockets.
pub(crate) struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// One socket that became ready.
#[derive(Clone, Copy)]
pub(crate) struct Ready {
    /// What was given to [`Epoll::add`].
    pub(crate) token: usize,
    /// The socket takes bytes again.
    pub(crate) writable: bool,
}

impl Epoll {
    /// A set without sockets.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: rule 4, no memory is involved.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: rule 5, the descriptor is new, open and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; 1024],
        })
    }

    /// Watches a socket, edge-triggered: for reading, and with `writable` for writing as well.
    pub(crate) fn add(&self, socket: RawFd, token: usize, writable: bool) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLET | if writable { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event {
            events: interest.cast_unsigned(),
            u64: token as u64,
        };
        let add = libc::EPOLL_CTL_ADD;
        // SAFETY: rule 1, the kernel reads one event that we own.
        check(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), add, socket, &raw mut event) }).map(drop)
    }

    /// Waits at most `timeout_ms` and returns how many sockets are ready.
    pub(crate) fn wait(&mut self, timeout_ms: i32) -> io::Result<usize> {
        let room = self.events.len() as i32;
        // SAFETY: rule 1, the kernel writes at most `room` events into a vector of that length.
        let n = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), self.events.as_mut_ptr(), room, timeout_ms) };
        match check(n) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            other => other.map(|n| n as usize),
        }
    }

    /// The ready socket at `index`, below what [`Epoll::wait`] returned.
    pub(crate) fn ready(&self, index: usize) -> Ready {
        let event = self.events[index];
        Ready {
            token: event.u64 as usize,
            writable: event.events & libc::EPOLLOUT.cast_unsigned() != 0,
        }
    }
}

fn check(returned: i32) -> io::Result<i32> {
    if returned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_clock_of_a_process_runs() {
        let before = cpu_ns(std::process::id()).unwrap();
        let mut sum = 0_u64;
        for n in 0..2_000_000_u64 {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(n));
        }
        assert!(
            cpu_ns(std::process::id()).unwrap() > before,
            "no time passed for {sum}"
        );
    }

    #[test]
    fn there_is_a_core() {
        assert!(!cores().is_empty());
    }
}
