//! A real HTTP application for tests: it checks every signature, keeps what it was asked, and answers as told.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use bytes::Bytes;
use hmac::{Hmac, Mac as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::Value;
use sha2::Sha256;
use tidegate::{Outside, Settings, Tidegate, vitals::Id};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Instant, interval, timeout_at},
};
use tokio_rustls::TlsAcceptor;

use crate::support::Folder;

/// What signs requests to it.
pub(crate) const SECRET: &str = "a secret of the hook, of more than thirty-two bytes";

/// Of `localhost`, signed by itself.
const CERTIFICATE: &str = include_str!("../../../gateway/tests/it/fixtures/one.cert.pem");
const KEY: &str = include_str!("../../../gateway/tests/it/fixtures/one.key.pem");

/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// How it answers one request.
pub(crate) enum Reply {
    Json(Value),
    Text(String),
    Status(u16),
    /// The connection is cut, without an answer.
    Cut,
    /// Not within the patience of a test.
    Never,
}

type Replies = Arc<dyn Fn(Value) -> Pin<Box<dyn Future<Output = Reply> + Send>> + Send + Sync>;

/// A running application. Dropped, it ends soon.
pub(crate) struct App {
    pub(crate) at: SocketAddr,
    shared: Arc<Shared>,
    tasks: Tasks,
}

/// Its listener and its connections.
type Tasks = Arc<Mutex<JoinSet<()>>>;

struct Shared {
    replies: Replies,
    /// Every request, in the order in which they came.
    seen: watch::Sender<Vec<Value>>,
    connections: Mutex<usize>,
    tls: Option<TlsAcceptor>,
}

// === impl App ===

impl App {
    /// Answers by `reply` on a free port.
    pub(crate) async fn start<F, Fut>(reply: F) -> Self
    where
        F: Fn(Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        Self::start_at("127.0.0.1:0".parse().unwrap(), reply).await
    }

    /// As `start`, on an address of one that ended.
    pub(crate) async fn start_at<F, Fut>(at: SocketAddr, reply: F) -> Self
    where
        F: Fn(Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        Self::serve(TcpListener::bind(at).await.unwrap(), None, reply)
    }

    /// As `start`, by TLS with [`CERTIFICATE`].
    pub(crate) async fn start_tls<F, Fut>(reply: F) -> Self
    where
        F: Fn(Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::serve(listener, Some(TlsAcceptor::from(Arc::new(config))), reply)
    }

    fn serve<F, Fut>(listener: TcpListener, tls: Option<TlsAcceptor>, reply: F) -> Self
    where
        F: Fn(Value) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Reply> + Send + 'static,
    {
        let at = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            replies: Arc::new(move |asked| Box::pin(reply(asked))),
            seen: watch::Sender::new(Vec::new()),
            connections: Mutex::new(0),
            tls,
        });
        let tasks = Tasks::default();
        let serving = serve(listener, Arc::clone(&shared), Arc::downgrade(&tasks));
        tasks.lock().unwrap().spawn(serving);
        Self { at, shared, tasks }
    }

    /// Ends it: its connections are cut and its port is free.
    pub(crate) async fn end(self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
        let mut late = std::mem::take(&mut *self.tasks.lock().unwrap());
        late.shutdown().await;
    }

    /// Requests of a kind so far.
    pub(crate) fn seen(&self, kind: &str) -> Vec<Value> {
        let seen = self.shared.seen.borrow();
        seen.iter()
            .filter(|asked| asked["kind"] == kind)
            .cloned()
            .collect()
    }

    /// Everything so far, as `kind` or the name of the event.
    pub(crate) fn story(&self) -> Vec<String> {
        let told = |asked: &Value| {
            asked["event"]
                .as_str()
                .or(asked["kind"].as_str())
                .unwrap()
                .to_owned()
        };
        self.shared.seen.borrow().iter().map(told).collect()
    }

    /// Waits for the `n`-th request of a kind, from 1.
    pub(crate) async fn nth(&self, kind: &str, n: usize) -> Value {
        let mut seen = self.shared.seen.subscribe();
        let enough = seen.wait_for(|seen| seen.iter().filter(|asked| asked["kind"] == kind).count() >= n);
        timeout_at(Instant::now() + PATIENCE, enough)
            .await
            .unwrap_or_else(|_| panic!("no {kind} number {n}: {:?}", self.story()))
            .unwrap();
        self.seen(kind)[n - 1].clone()
    }

    /// Connections that were opened to it.
    pub(crate) fn n_connections(&self) -> usize {
        *self.shared.connections.lock().unwrap()
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, tasks: Weak<Mutex<JoinSet<()>>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        *shared.connections.lock().unwrap() += 1;
        let shared = Arc::clone(&shared);
        let Some(tasks) = tasks.upgrade() else { return };
        tasks.lock().unwrap().spawn(async move {
            let tls = shared.tls.clone();
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that goes away, or does not trust us, is no failure of the test.
            let Some(tls) = tls else {
                return drop(connection.serve_connection(TokioIo::new(stream), service).await);
            };
            if let Ok(stream) = tls.accept(stream).await {
                drop(connection.serve_connection(TokioIo::new(stream), service).await);
            }
        });
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> std::io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let header = |name: &str| head.headers[name].to_str().unwrap().to_owned();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(format!("{}.", header("x-tidegate-timestamp")).as_bytes());
    mac.update(&body);
    let signed: String = mac
        .finalize()
        .into_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    assert_eq!(header("x-tidegate-signature"), format!("v1={signed}"));
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("traceparent").len(), 55);
    let asked: Value = serde_json::from_slice(&body).unwrap();
    shared.seen.send_modify(|seen| seen.push(asked.clone()));
    let (status, text) = match (shared.replies)(asked).await {
        Reply::Json(value) => (200, value.to_string()),
        Reply::Text(text) => (200, text),
        Reply::Status(status) => (status, "not now".to_owned()),
        Reply::Cut => return Err(std::io::Error::other("cut")),
        Reply::Never => std::future::pending().await,
    };
    Ok(Response::builder()
        .status(status)
        .body(Full::new(Bytes::from(text)))
        .unwrap())
}

// === servers in front of it ===

/// A server that asks the application at `at`; `more` are settings beside.
pub(crate) async fn in_front_of(at: SocketAddr, folder: &Folder, more: &str) -> Tidegate {
    in_front_of_url(&format!("http://{at}/hook?x=1"), folder, more).await
}

/// As `in_front_of`, by its address.
pub(crate) async fn in_front_of_url(url: &str, folder: &Folder, more: &str) -> Tidegate {
    let text = format!(
        "listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true\nanonymous_roles = [\"visitor\"]\n[roles.visitor]\njoin = [\"*\"]\nact = [\"*\"]\n\
         publish = [\"*\"]\n\
         [drain]\ntimeout = \"2s\"\n[store]\ndata_dir = \"{}\"\n[app]\nurl = \"{url}\"\n\
         secret_env = \"SECRET\"\n{more}",
        folder.0.display()
    );
    let settings = Settings::parse(&text).unwrap();
    let outside = Outside {
        env: &|_| Some(SECRET.to_owned()),
        read: &|_| Ok(CERTIFICATE.to_owned()),
    };
    let app = settings.app(&outside).unwrap();
    Tidegate::builder()
        .settings(settings)
        .app(app)
        .start()
        .await
        .unwrap()
}

/// The value of a figure, the labels that hold all of `labels` together.
pub(crate) fn figure(server: &Tidegate, id: Id, labels: &[&str]) -> u64 {
    let snapshot = server.metrics().snapshot();
    let series = snapshot.of(id).iter().filter(|series| {
        labels
            .iter()
            .all(|label| series.labels.iter().any(|(_, value)| &**value == *label))
    });
    let number = |value: &tidegate::vitals::Value| {
        value
            .as_counter()
            .or_else(|| value.as_gauge().map(|n| n.max(0) as u64))
            .unwrap_or(0)
    };
    series.map(|series| number(&series.value)).sum()
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut tick = interval(Duration::from_millis(5));
    while !condition() {
        assert!(
            timeout_at(deadline, tick.tick()).await.is_ok(),
            "not in time: {what}"
        );
    }
}
