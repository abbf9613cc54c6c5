//! Tells the service manager how the server stands: sd_notify(3), datagrams of `NAME=value` lines.

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
    process,
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

/// What the manager is told.
#[derive(Clone, Copy)]
pub(crate) enum State {
    /// It listens, also after a reload.
    Ready,
    /// It takes settings anew.
    Reloading,
    /// It drains.
    Stopping,
    /// It is alive.
    Alive,
}

/// The service manager that started this process; nobody, if it was started in another way.
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// How often it wants to hear that the process is alive.
    alive_every: Option<Duration>,
}

// === impl State ===

impl State {
    const fn line(self) -> &'static str {
        match self {
            Self::Ready => "READY=1",
            Self::Reloading => "RELOADING=1",
            Self::Stopping => "STOPPING=1",
            Self::Alive => "WATCHDOG=1",
        }
    }
}

// === impl Manager ===

impl Manager {
    /// The manager that the environment names. One that cannot be reached is named in the log and does not stop the server.
    pub(crate) fn of_environment() -> Self {
        let socket = env::var("NOTIFY_SOCKET").ok().and_then(|name| {
            let opened = open(&name);
            if let Err(error) = &opened {
                tracing::warn!(socket = name, %error, "the service manager cannot be told anything");
            }
            opened.ok()
        });
        let variable = |name: &str| env::var(name).ok();
        let alive_every = alive_every(
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
            process::id(),
        );
        Self { socket, alive_every }
    }

    /// Says how it stands, without waiting.
    pub(crate) fn tell(&self, state: State) {
        let Some((socket, manager)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.line().as_bytes(), manager) {
            tracing::warn!(state = state.line(), %error, "the service manager was not told");
        }
    }

    /// Says now and then that the runtime still works, as often as the manager asked for; never ends.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost.
    pub(crate) async fn stay_alive(&self) {
        let Some(every) = self.alive_every.filter(|_| self.socket.is_some()) else {
            return std::future::pending().await;
        };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.tell(State::Alive);
        }
    }
}

fn open(name: &str) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None if name.starts_with('/') => SocketAddr::from_pathname(name)?,
        None => return Err(io::Error::other("neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold anything up.
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}

/// Half of the time after which the manager gives the process up, as sd_watchdog_enabled(3) advises.
fn alive_every(limit_us: Option<&str>, meant_for: Option<&str>, pid: u32) -> Option<Duration> {
    if meant_for.is_some_and(|meant| meant != pid.to_string()) {
        return None;
    }
    let limit_us: u64 = limit_us?.parse().ok()?;
    (limit_us >= 2).then(|| Duration::from_micros(limit_us / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_hears_it_twice_as_often_as_it_must() {
        let check = |limit_us: Option<&str>, meant_for: Option<&str>, expected_ms: Option<u64>| {
            let expected = expected_ms.map(Duration::from_millis);
            assert_eq!(
                alive_every(limit_us, meant_for, 7),
                expected,
                "{limit_us:?} {meant_for:?}"
            );
        };
        check(None, None, None);
        check(Some("30000000"), None, Some(15_000));
        check(Some("30000000"), Some("7"), Some(15_000));
        check(Some("30000000"), Some("8"), None);
        check(Some("0"), None, None);
        check(Some("soon"), None, None);
    }

    #[test]
    fn a_name_that_is_no_address_is_refused() {
        for name in ["", "relative", "vsock:2:1"] {
            assert!(open(name).is_err(), "{name}");
        }
        assert!(open("@tidegate-test").is_ok());
    }
}
