//! The connections to the application: kept alive, plain or TLS, one exchange at a time on each.

use std::{
    future::Future,
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::http::{HeaderValue, Request, Uri, header};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tidegate_vitals::{Clock, Full as MemoryFull, Guard};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tower::Service;

use super::sign::{SIGNATURE, Signer, TIMESTAMP};
use crate::settings::AppConfig;

/// Where Linux distributions keep the certificates they trust.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Posts to one application.
pub(super) struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    url: Uri,
    signer: Signer,
    clock: Clock,
    answer_bytes_max: usize,
}

/// Why there is no answer that can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// No connection, or it broke.
    #[error("no connection")]
    Unreachable(#[source] legacy::Error),
    /// The answer broke off.
    #[error("answer broke off")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It says that something went wrong.
    #[error("status {0}")]
    Status(u16),
    /// No memory for the answer.
    #[error("no memory for the answer")]
    Memory(#[from] MemoryFull),
    /// More than is read.
    #[error("answer of more than {0} bytes")]
    TooLarge(usize),
}

/// Opens connections.
#[derive(Clone)]
struct Connector {
    tls: Option<TlsConnector>,
}

/// A connection, with TLS or without.
enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Client {
    /// Opens nothing yet.
    ///
    /// # Errors
    /// When the trusted certificates of an https application cannot be used.
    pub(super) fn new(config: &AppConfig, clock: Clock) -> io::Result<Self> {
        let is_tls = config.url.scheme_str() == Some("https");
        let tls = is_tls.then(|| tls(config.roots.as_deref())).transpose()?;
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(config.keep_alive)
            .pool_max_idle_per_host(if config.keep_alive == Duration::ZERO {
                0
            } else {
                config.in_flight
            })
            .build(Connector { tls });
        Ok(Self {
            http,
            url: config.url.clone(),
            signer: Signer::new(&config.secret),
            clock,
            answer_bytes_max: config.answer_bytes_max,
        })
    }

    /// One exchange. A request that was written is never written again. The answer is paid for as it comes, by `memory`.
    pub(super) async fn post(
        &self,
        body: Bytes,
        traceparent: &str,
        memory: &mut Guard,
    ) -> Result<Bytes, Failed> {
        let request = self.request(body, traceparent);
        let response = self.http.request(request).await.map_err(Failed::Unreachable)?;
        let status = response.status();
        if !status.is_success() {
            return Err(Failed::Status(status.as_u16()));
        }
        let mut body = Limited::new(response.into_body(), self.answer_bytes_max);
        let mut whole = Bytes::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    Failed::TooLarge(self.answer_bytes_max)
                } else {
                    Failed::Broken(error)
                }
            })?;
            // Trailers are nobody's.
            let Ok(part) = frame.into_data() else { continue };
            memory.grow(part.len())?;
            whole = joined(whole, part);
        }
        Ok(whole)
    }

    fn request(&self, body: Bytes, traceparent: &str) -> Request<Full<Bytes>> {
        let timestamp_s = self.clock.wall_ms() / 1_000;
        let signature = self.signer.sign(timestamp_s, &body);
        let text = |text: &str| HeaderValue::from_str(text).expect("hexadecimal digits are a header's value");
        let mut request = Request::post(self.url.clone())
            .body(Full::new(body))
            .expect("the address was read as one");
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("tidegate"));
        headers.insert(TIMESTAMP, HeaderValue::from(timestamp_s));
        headers.insert(SIGNATURE, text(&signature));
        headers.insert("traceparent", text(traceparent));
        request
    }
}

/// One after the other; nothing is copied where there is only one.
fn joined(whole: Bytes, part: Bytes) -> Bytes {
    if whole.is_empty() {
        return part;
    }
    let mut whole = BytesMut::from(whole);
    whole.extend_from_slice(&part);
    whole.freeze()
}

impl Failed {
    /// Whether the application, or the way to it, is down: another request would fail the same way.
    pub(super) const fn is_down(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Broken(_) => true,
            Self::Status(status) => matches!(status, 502..=504),
            Self::TooLarge(_) | Self::Memory(_) => false,
        }
    }

    /// Whether the request may have been written. Without a connection it was not.
    pub(super) fn may_have_been_heard(&self) -> bool {
        !matches!(self, Self::Unreachable(error) if error.is_connect())
    }
}

// === TLS ===

fn tls(roots: Option<&str>) -> io::Result<TlsConnector> {
    let roots = match roots {
        Some(pem) => trusted(
            CertificateDer::pem_slice_iter(pem.as_bytes()).collect(),
            "app.ca_file",
        )?,
        None => {
            let path = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
            let path =
                path.ok_or_else(|| io::Error::other("this machine has no list of trusted certificates"))?;
            let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
            trusted(read, &path.display().to_string())?
        }
    };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn trusted(
    read: Result<Vec<CertificateDer<'static>>, rustls_pki_types::pem::Error>,
    name: &str,
) -> io::Result<RootCertStore> {
    let certificates = read.map_err(|error| io::Error::other(format!("{name}: {error}")))?;
    let mut roots = RootCertStore::empty();
    match roots.add_parsable_certificates(certificates) {
        (0, _) => Err(io::Error::other(format!("{name} holds no certificate"))),
        _ => Ok(roots),
    }
}

// === impl Connector ===

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            // Requests are small, and each is one write.
            stream.set_nodelay(true)?;
            let Some(tls) = tls else {
                return Ok(TokioIo::new(Stream::Plain(stream)));
            };
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            let stream = tls.connect(name, stream).await?;
            Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
        })
    }
}

// === impl Stream ===

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_vitals::{Class, Ledger};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{Outside, Settings};

    /// An application that answers one request with `pieces`, each in a write of its own; what is read with a ledger of 100 B.
    async fn read(pieces: &'static [&'static str]) -> Result<Bytes, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let _request = stream.read(&mut [0; 4_096]).await.unwrap();
            for piece in pieces {
                // It may have heard enough.
                let _gone = stream.write_all(piece.as_bytes()).await;
            }
        });
        let text =
            format!("[app]\nurl = \"http://{at}/\"\nsecret_env = \"S\"\nspool = {{ enabled = false }}");
        let outside = Outside {
            env: &|_| Some("s".repeat(32)),
            read: &|_| Err(io::ErrorKind::NotFound.into()),
        };
        let config = Settings::parse(&text).unwrap().app(&outside).unwrap().unwrap();
        let client = Client::new(&config, Clock::real()).unwrap();
        let ledger = Ledger::new(100);
        let mut memory = ledger.empty(Class::Handlers);
        let whole = client
            .post(Bytes::from_static(b"{}"), "00-00-00-01", &mut memory)
            .await?;
        assert_eq!(memory.bytes(), whole.len());
        Ok(whole)
    }

    #[tokio::test]
    async fn an_answer_is_paid_for_as_it_comes() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        const FORTY: &str = "28\r\n0123456789012345678901234567890123456789\r\n";
        let whole = read(&[HEAD, FORTY, FORTY, "0\r\n\r\n"]).await.unwrap();
        assert_eq!(whole, "0123456789".repeat(8));
        let refused = read(&[HEAD, FORTY, FORTY, FORTY, "0\r\n\r\n"]).await;
        assert!(matches!(refused, Err(Failed::Memory(_))), "{refused:?}");
    }
}
