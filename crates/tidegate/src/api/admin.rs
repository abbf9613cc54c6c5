//! The administration listener: plain HTTP/1.1 for few callers, bounded in number and time.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::body::Body;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tidegate_flow::Group;
use tokio::{net::TcpListener, sync::Semaphore};

use super::{route::Caller, service::Service};

/// Connections served at a time; operators and scrapers are few.
const CONNECTIONS_MAX: usize = 256;

/// How long a request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// After a failed accept (usually: no more descriptors) the next one waits this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener that serves until it is dropped.
pub(crate) struct AdminListener {
    listener: TcpListener,
    service: Service,
    tasks: Arc<Group>,
}

impl AdminListener {
    /// Wraps a bound listener; its connections become tasks of `tasks`.
    pub(crate) const fn new(listener: TcpListener, service: Service, tasks: Arc<Group>) -> Self {
        Self {
            listener,
            service,
            tasks,
        }
    }

    /// Accepts and serves for ever.
    ///
    /// # Cancel safety
    /// Dropped, it accepts no more; connections that are served go on until their group ends.
    pub(crate) async fn run(self) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let serving = serve(self.service.clone(), stream, peer);
                    self.tasks.spawn("admin-connection", async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "administration listener could not accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve(service: Service, stream: tokio::net::TcpStream, peer: SocketAddr) {
    let caller = Caller {
        address: peer.ip(),
        proxied: false,
        loopback_listener: service.is_loopback(),
    };
    let answer = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(service.answer(request.map(Body::new), caller).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "administration connection ended early");
    }
}
