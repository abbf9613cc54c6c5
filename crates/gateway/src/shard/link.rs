//! A non-blocking socket of a shard, plain or under TLS.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{RecvFlags, SendFlags};

/// Most plain bytes a TLS connection takes ahead of its socket.
const TLS_BUFFER_BYTES: usize = 64 << 10;

/// A socket that never blocks.
pub(crate) enum Link {
    Tcp(TcpStream),
    /// A local socket: behind a proxy on the same host, and in simulations.
    #[cfg_attr(not(test), expect(dead_code, reason = "only simulations make one yet"))]
    Unix(UnixStream),
    Tls(Box<Tls>),
}

/// A TLS session over its socket.
pub(crate) struct Tls {
    pub(crate) socket: TcpStream,
    pub(crate) session: rustls::ServerConnection,
}

impl Link {
    /// Reads what is there; 0 at the end of the stream.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => recv(socket.as_fd(), buffer),
            Self::Unix(socket) => recv(socket.as_fd(), buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }

    /// Writes as much as the socket takes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => send(socket.as_fd(), bytes),
            Self::Unix(socket) => send(socket.as_fd(), bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    /// Pushes on what a TLS session holds back; true when nothing is left.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(true),
            Self::Tls(tls) => tls.flush(),
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn finish(&mut self) {
        // A socket that is already gone needs no goodbye.
        let _gone = match self {
            Self::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Self::Unix(socket) => socket.shutdown(Shutdown::Write),
            Self::Tls(tls) => {
                tls.session.send_close_notify();
                let _blocked = tls.flush();
                tls.socket.shutdown(Shutdown::Write)
            }
        };
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
            Self::Tls(tls) => tls.socket.as_fd(),
        }
    }
}

fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (n, _) = rustix::net::recv(socket, buffer, RecvFlags::DONTWAIT)?;
    Ok(n)
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(
        socket,
        bytes,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    )?)
}

impl Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            self.session.process_new_packets().map_err(io::Error::other)?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.session.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        let n = self.session.writer().write(bytes)?;
        self.flush()?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.socket) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
