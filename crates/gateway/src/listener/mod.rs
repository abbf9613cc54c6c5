//! From the network to a shard: accept, TLS, request heads, upgrades; everything else goes to the HTTP service.

pub(crate) mod origin;
pub(crate) mod proxy;
mod request;
pub(crate) mod tls;
mod upgrade;

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

use crate::{Error, shared::Shared};
use origin::Origins;
use proxy::Trusted;
use tls::TlsAcceptor;

/// The body of an HTTP answer.
pub type HttpBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
/// How long a TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the process ran out of files: accepting again at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Connections that have not become a WebSocket: API callers, polling clients between requests, slow senders.
pub(crate) const HTTP_CONNECTIONS_MAX: usize = 16_384;

/// Answers the requests that are not Socket.IO's.
pub trait HttpService: Send + Sync + 'static {
    /// Answers one request.
    fn call(
        &self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> Pin<Box<dyn Future<Output = Response<HttpBody>> + Send>>;
}

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The client's address; behind trusted proxies the one they name.
    pub address: IpAddr,
    /// Whether the request came through a trusted proxy.
    pub trusted: bool,
    /// Whether it came over TLS.
    pub tls: bool,
}

/// What every accepted connection needs.
pub(crate) struct Front {
    pub(crate) shared: Arc<Shared>,
    pub(crate) origins: Origins,
    trusted: Trusted,
    http: Option<Arc<dyn HttpService>>,
    tls: Option<TlsAcceptor>,
    pub(crate) places: Arc<Semaphore>,
}

impl Front {
    pub(crate) fn new(
        shared: Arc<Shared>,
        http: Option<Arc<dyn HttpService>>,
        tls: Option<TlsAcceptor>,
    ) -> Result<Self, Error> {
        let setting = |key, value: &[String], error: String| Error::Setting {
            key,
            value: value.join(", "),
            allowed: error,
        };
        let config = &shared.config;
        let origins = Origins::parse(&config.origins)
            .map_err(|error| setting("origins", &config.origins, error.to_string()))?;
        let trusted = Trusted::parse(&config.trusted_proxies)
            .map_err(|error| setting("trusted_proxies", &config.trusted_proxies, error.to_string()))?;
        let places = Arc::new(Semaphore::new(HTTP_CONNECTIONS_MAX));
        Ok(Self {
            shared,
            origins,
            trusted,
            http,
            tls,
            places,
        })
    }
}

/// Accepts until told to stop.
pub(crate) async fn accept(listener: TcpListener, front: Arc<Front>, mut stop: watch::Receiver<bool>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => return,
        };
        match accepted {
            Ok((socket, peer)) => {
                let Ok(place) = front.places.clone().try_acquire_owned() else {
                    front.shared.figures.refused("http_connections");
                    continue;
                };
                let front = front.clone();
                let stop = stop.clone();
                tokio::spawn(async move {
                    serve(&front, socket, peer.ip(), stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of files, or a peer that left before it was taken.
                tracing::warn!(%error, "accept failed");
                front.shared.figures.refused("accept_error");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(front: &Arc<Front>, socket: TcpStream, peer: IpAddr, stop: watch::Receiver<bool>) {
    // Frames are joined by the outbox; what it writes must leave at once.
    let _unsupported = socket.set_nodelay(true);
    let Some(tls) = &front.tls else {
        return serve_http(front, TokioIo::new(socket), peer, false, stop).await;
    };
    match tokio::time::timeout(TLS_TIMEOUT, tls.accept(socket)).await {
        Ok(Ok(stream)) => {
            front.shared.figures.tls_handshakes.inc();
            serve_http(front, TokioIo::new(stream), peer, true, stop).await;
        }
        Ok(Err(_)) | Err(_) => front.shared.figures.tls_handshake_errors.inc(),
    }
}

async fn serve_http<I>(front: &Arc<Front>, io: I, peer: IpAddr, tls: bool, mut stop: watch::Receiver<bool>)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let front = front.clone();
        async move { Ok::<_, std::convert::Infallible>(front.answer(request, peer, tls).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(front.shared.config.request_head_timeout)
        .max_headers(64)
        .serve_connection(io, service)
        .with_upgrades();
    tokio::pin!(connection);
    let stopped = async move { stop.wait_for(|stopped| *stopped).await.is_ok() };
    tokio::select! {
        // A client that hangs up or sends nonsense is answered by the server and needs no word here.
        _ended = connection.as_mut() => {}
        _ = stopped => {
            // The answer under way is still sent; then the connection ends.
            connection.as_mut().graceful_shutdown();
            let _ended = connection.await;
        }
    }
}

impl Front {
    /// Routes one request: Socket.IO and its like here, the rest to the service.
    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        address: IpAddr,
        tls: bool,
    ) -> Response<HttpBody> {
        let trusted = self.trusted.contains(address);
        let address = proxy::client_address(address, request.headers(), &self.trusted);
        let peer = Peer {
            address,
            trusted,
            tls,
        };
        let endpoints = &self.shared.endpoints;
        match endpoints
            .iter()
            .position(|endpoint| endpoint.matches(request.uri().path()))
        {
            Some(index) => self.answer_endpoint(index, request, peer).await,
            None => match &self.http {
                Some(http) => http.call(request, peer).await,
                None => json(
                    404,
                    r#"{"ok":false,"error":{"code":"not_found","message":"no such path","retryable":false}}"#,
                ),
            },
        }
    }
}

/// A body of known bytes.
pub(crate) fn body(bytes: impl Into<Bytes>) -> HttpBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A JSON answer.
pub(crate) fn json(status: u16, text: impl Into<Bytes>) -> Response<HttpBody> {
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    response.body(body(text)).expect("status and header are valid")
}
