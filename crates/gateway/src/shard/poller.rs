//! One epoll: which sockets of a shard are ready.

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};

use crate::Error;

/// Most events taken in one wait.
const EVENTS: usize = 512;
/// The token of the inbox's bell.
const BELL: u64 = u64::MAX;
/// Set in tokens of sockets that are about to replace a polling connection's transport.
const PROBE: u64 = 1 << 63;

/// What is ready.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ready {
    pub(crate) conn: u32,
    pub(crate) generation: u32,
    pub(crate) probe: bool,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// What a socket is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interest {
    pub(crate) read: bool,
    pub(crate) write: bool,
}

/// One socket's name in the epoll.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token {
    pub(crate) conn: u32,
    pub(crate) generation: u32,
    pub(crate) probe: bool,
}

impl Token {
    fn data(self) -> epoll::EventData {
        let probe = if self.probe { PROBE } else { 0 };
        epoll::EventData::new_u64(
            probe | u64::from(self.generation & 0x7fff_ffff) << 32 | u64::from(self.conn),
        )
    }
}

/// An epoll and the events of its last wait.
pub(crate) struct Poller {
    epoll: OwnedFd,
    buffer: Box<[MaybeUninit<epoll::Event>; EVENTS]>,
}

impl Poller {
    pub(crate) fn new(bell: BorrowedFd<'_>) -> Result<Self, Error> {
        let failed = |what: &'static str| {
            move |error: Errno| Error::Io {
                what: what.to_owned(),
                source: error.into(),
            }
        };
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed("epoll_create"))?;
        epoll::add(
            &epoll,
            bell,
            epoll::EventData::new_u64(BELL),
            epoll::EventFlags::IN,
        )
        .map_err(failed("epoll_ctl"))?;
        Ok(Self {
            epoll,
            buffer: Box::new([MaybeUninit::uninit(); EVENTS]),
        })
    }

    pub(crate) fn add(&self, socket: impl AsFd, token: Token, interest: Interest) -> std::io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, token.data(), flags(interest))?)
    }

    pub(crate) fn modify(&self, socket: impl AsFd, token: Token, interest: Interest) -> std::io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, token.data(), flags(interest))?)
    }

    /// Waits until something is ready or `timeout_ns` have passed (none: as long as it takes), and appends what
    /// is ready. Says whether the bell rang.
    pub(crate) fn wait(&mut self, timeout_ns: Option<u64>, ready: &mut Vec<Ready>) -> bool {
        let timeout = timeout_ns.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000) as i64,
            tv_nsec: (ns % 1_000_000_000) as _,
        });
        let events = match epoll::wait(&self.epoll, &mut self.buffer[..], timeout.as_ref()) {
            Ok((events, _)) => events,
            // A signal; the caller comes back at once.
            Err(_) => return false,
        };
        let mut rang = false;
        for event in events.iter() {
            let data = event.data.u64();
            if data == BELL {
                rang = true;
                continue;
            }
            let seen = event.flags;
            let ended = seen.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            ready.push(Ready {
                conn: data as u32,
                generation: (data >> 32) as u32 & 0x7fff_ffff,
                probe: data & PROBE != 0,
                readable: ended || seen.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
                writable: ended || seen.contains(epoll::EventFlags::OUT),
            });
        }
        rang
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    flags.set(epoll::EventFlags::IN, interest.read);
    flags.set(epoll::EventFlags::OUT, interest.write);
    flags
}
