//! Sockets to a server: the one of a session, and those for the single packet of a cancel request.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_postgres::{
    CancelToken,
    tls::{ChannelBinding, TlsConnect, TlsStream},
};

use super::dsn::{Host, Place};

/// A silent end is asked after this time,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// again after this,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// and given up after so many questions.
const KEEPALIVE_COUNT: u32 = 3;
/// Bytes that are not acknowledged for so long end the connection.
const UNANSWERED_MS: u32 = 30_000;

/// An open socket.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A socket for a cancel request. Its shutdown ends when the server has closed the other end, which it does after it has
/// signalled the session: whoever waited knows that no signal of this request is still under way.
pub(super) struct CancelSocket {
    socket: Socket,
    is_shut: bool,
}

/// Takes a cancel request without sending it anywhere, to read the number of the session in it.
struct Trap(Vec<u8>);

/// "TLS" over a [`Trap`].
struct TrapTls;

/// The process behind a session as the other end of the wire calls it. Poolers make up a number of their own.
pub(super) async fn process_id(token: &CancelToken) -> Option<i32> {
    let mut trap = Trap(Vec::new());
    token.cancel_query_raw(&mut trap, TrapTls).await.ok()?;
    // Length, code, process, secret: four bytes each, perhaps behind a request for TLS.
    let request = trap.0.last_chunk::<16>()?;
    Some(i32::from_be_bytes([
        request[8],
        request[9],
        request[10],
        request[11],
    ]))
}

// === impl Socket ===

impl Socket {
    /// Where the other end is: a name may stand for several servers, and a cancel request must meet the same one.
    pub(super) fn peer(&self, host: &Host) -> Host {
        match self {
            Self::Tcp(socket) => match socket.peer_addr() {
                Ok(address) => Host {
                    place: Place::Tcp(address.ip().to_string()),
                    port: address.port(),
                },
                Err(_) => host.clone(),
            },
            Self::Unix(_) => host.clone(),
        }
    }

    pub(super) async fn open(host: &Host) -> io::Result<Self> {
        match &host.place {
            Place::Tcp(name) => {
                let socket = TcpStream::connect((name.as_str(), host.port)).await?;
                socket.set_nodelay(true)?;
                watch(&socket)?;
                Ok(Self::Tcp(socket))
            }
            Place::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", host.port));
                Ok(Self::Unix(UnixStream::connect(path).await?))
            }
        }
    }
}

/// Makes the system notice an end that went away without a word: otherwise a statement would wait for it for hours.
fn watch(socket: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, UNANSWERED_MS)?;
    Ok(())
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Unix(socket) => Pin::new(socket).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}

// === impl CancelSocket ===

impl CancelSocket {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            is_shut: false,
        }
    }
}

impl AsyncRead for CancelSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for CancelSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            // The server may have closed already: then there is nothing to shut.
            let _ = ready!(Pin::new(&mut this.socket).poll_shutdown(cx));
            this.is_shut = true;
        }
        loop {
            let mut space = [0; 64];
            let mut buf = ReadBuf::new(&mut space);
            match ready!(Pin::new(&mut this.socket).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                // End of file, or a reset: closed either way.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

// === impl Trap ===

impl AsyncRead for Trap {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buf.put_slice(b"S"); // "yes" to the request for TLS
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Trap {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().0.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for &mut Trap {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<'a> TlsConnect<&'a mut Trap> for TrapTls {
    type Stream = &'a mut Trap;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<&'a mut Trap>>;

    fn connect(self, stream: &'a mut Trap) -> Self::Future {
        std::future::ready(Ok(stream))
    }
}
