//! How a gateway is put together.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tidegate_auth::Authenticator;
use tidegate_vitals::{Clock, Ledger, Registry};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
};

use crate::{
    Config, Error, Gateway,
    broker::{Broker, InProcess},
    close::CloseReason,
    endpoint::{Endpoint, Kind, RawMessage},
    figures::Figures,
    gateway::Inner,
    handler::{Event, NamespaceBuilder},
    id::Random,
    listener::{
        self, Front, HttpService,
        tls::{TlsAcceptor, TlsConfig},
    },
    live::Live,
    namespace::{Namespace, Parts},
    offset::Epoch,
    shard::{Shard, inbox::Inbox},
    shared::Shared,
    socket::Socket,
};

/// Accounted memory of a gateway that was given no ledger: enough for tests and small servers.
const LEDGER_BYTES: u64 = 1 << 30;
/// Connections that the kernel holds until they are accepted, at most `net.core.somaxconn`. With the usual 128 a thousand
/// clients at once are told nothing, and try again after one second and after two.
const BACKLOG: u32 = 4_096;

/// Puts a gateway together; see [`Gateway::builder`].
#[derive(Default)]
pub struct Builder {
    config: Config,
    auth: Option<Arc<Authenticator>>,
    anonymous: bool,
    clock: Option<Clock>,
    registry: Option<Registry>,
    ledger: Option<Ledger>,
    http: Option<Arc<dyn HttpService>>,
    tls: Option<TlsConfig>,
    broker: Option<Arc<dyn Broker>>,
    root: NamespaceBuilder,
    namespaces: Vec<(String, NamespaceBuilder)>,
    endpoints: Vec<Endpoint>,
}

impl Builder {
    /// All settings at once.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Changes some settings.
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Who is let in, and what they may do. Without it, nobody: see [`Builder::anonymous`].
    #[must_use]
    pub fn auth(mut self, auth: Arc<Authenticator>) -> Self {
        self.auth = Some(auth);
        self
    }

    /// Lets everybody in without credentials. They may do what the application's handlers do for them; built-in
    /// events stay refused, since no role allows them.
    #[must_use]
    pub fn anonymous(mut self) -> Self {
        self.anonymous = true;
        self
    }

    /// The clock to live by.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// The figures to count into.
    #[must_use]
    pub fn metrics(mut self, registry: Registry) -> Self {
        self.registry = Some(registry);
        self
    }

    /// The memory account to charge. Default: 1 GiB of its own.
    #[must_use]
    pub fn ledger(mut self, ledger: Ledger) -> Self {
        self.ledger = Some(ledger);
        self
    }

    /// What answers every request that is not Socket.IO's.
    #[must_use]
    pub fn http(mut self, service: Arc<dyn HttpService>) -> Self {
        self.http = Some(service);
        self
    }

    /// Certificate and key.
    #[must_use]
    pub fn tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Where publications go. Default: this process.
    #[must_use]
    pub fn broker(mut self, broker: Arc<dyn Broker>) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Handlers of `/`, all at once.
    #[must_use]
    pub fn root(mut self, build: impl FnOnce(NamespaceBuilder) -> NamespaceBuilder) -> Self {
        self.root = build(self.root);
        self
    }

    /// See [`NamespaceBuilder::middleware`]; for `/`.
    #[must_use]
    pub fn middleware<F, Fut>(mut self, middleware: F) -> Self
    where
        F: Fn(crate::ConnectRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<tidegate_auth::Identity, Error>> + Send + 'static,
    {
        self.root = self.root.middleware(middleware);
        self
    }

    /// See [`NamespaceBuilder::on_connect`]; for `/`.
    #[must_use]
    pub fn on_connect<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Socket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.root = self.root.on_connect(handler);
        self
    }

    /// See [`NamespaceBuilder::on_disconnect`]; for `/`.
    #[must_use]
    pub fn on_disconnect<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Socket, CloseReason) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.root = self.root.on_disconnect(handler);
        self
    }

    /// See [`NamespaceBuilder::on`]; for `/`.
    #[must_use]
    pub fn on<T, R, F, Fut>(mut self, event: &str, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(Socket, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Error>> + Send + 'static,
    {
        self.root = self.root.on(event, handler);
        self
    }

    /// See [`NamespaceBuilder::on_event`]; for `/`.
    #[must_use]
    pub fn on_event<F, Fut>(mut self, event: &str, handler: F) -> Self
    where
        F: Fn(Socket, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.root = self.root.on_event(event, handler);
        self
    }

    /// See [`NamespaceBuilder::on_inline`]; for `/`.
    #[must_use]
    pub fn on_inline<F>(mut self, event: &str, handler: F) -> Self
    where
        F: Fn(&Socket, Event) + Send + Sync + 'static,
    {
        self.root = self.root.on_inline(event, handler);
        self
    }

    /// Another namespace, whose name begins with `/`.
    #[must_use]
    pub fn namespace(mut self, name: &str, build: impl FnOnce(NamespaceBuilder) -> NamespaceBuilder) -> Self {
        self.namespaces
            .push((name.to_owned(), build(NamespaceBuilder::default())));
        self
    }

    /// A plain Engine.IO endpoint: each message is answered with what `handler` makes of it, on the shard's thread.
    #[must_use]
    pub fn engine_endpoint(
        mut self,
        path: &str,
        handler: impl Fn(RawMessage) -> Option<RawMessage> + Send + Sync + 'static,
    ) -> Self {
        let message_bytes_max = self.config.payload_bytes_max;
        let kind = Kind::EngineIo(Arc::new(handler));
        self.endpoints.push(Endpoint {
            path: path.to_owned(),
            kind,
            message_bytes_max,
        });
        self
    }

    /// A plain WebSocket endpoint for messages up to `message_bytes_max`, answered on the shard's thread.
    #[must_use]
    pub fn websocket_endpoint(
        mut self,
        path: &str,
        message_bytes_max: usize,
        handler: impl Fn(RawMessage) -> Option<RawMessage> + Send + Sync + 'static,
    ) -> Self {
        let kind = Kind::WebSocket(Arc::new(handler));
        self.endpoints.push(Endpoint {
            path: path.to_owned(),
            kind,
            message_bytes_max,
        });
        self
    }

    /// Starts to listen. Handlers run on the runtime that this is called on.
    ///
    /// # Errors
    /// A setting out of range, an address that cannot be bound, a certificate that cannot be read.
    ///
    /// # Cancel safety
    /// Dropped before it returns, nothing runs.
    pub async fn listen(self, address: SocketAddr) -> Result<Gateway, Error> {
        let listener = bind(address).map_err(|source| Error::Io {
            what: format!("listening on {address}"),
            source,
        })?;
        self.serve(listener)
    }

    /// Starts on a listener that is bound already.
    ///
    /// # Errors
    /// As [`Builder::listen`].
    pub fn serve(mut self, listener: TcpListener) -> Result<Gateway, Error> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |source| Error::Io { what, source }
        };
        let address = listener
            .local_addr()
            .map_err(io("reading the listener's address"))?;
        let tls = self.tls.take().map(|tls| TlsAcceptor::load(&tls)).transpose();
        let tls = tls.map_err(|error| Error::BadRequest(error.to_string()))?;
        let http = self.http.take();
        let broker = self.broker.take().unwrap_or_else(|| Arc::new(InProcess));
        let shared = Arc::new(self.into_shared(Some(tokio::runtime::Handle::current()))?);
        let front = Front::new(shared.clone(), http, tls.clone())?;
        let places = front.places.clone();
        let threads = start_shards(&shared)?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(listener::accept(listener, Arc::new(front), stopped));
        let inner = Inner {
            shared,
            broker,
            address,
            tls,
            stop,
            places,
            threads: Mutex::new(threads),
        };
        Ok(Gateway {
            inner: Arc::new(inner),
        })
    }

    /// Everything but the threads and the listener.
    pub(crate) fn into_shared(self, runtime: Option<tokio::runtime::Handle>) -> Result<Shared, Error> {
        let config = self.config;
        config.validate()?;
        let auth = match self.auth {
            Some(auth) => auth,
            None => default_auth(self.anonymous)?,
        };
        let clock = self.clock.unwrap_or_else(Clock::real);
        let registry = self.registry.unwrap_or_default();
        let ledger = self.ledger.unwrap_or_else(|| Ledger::new(LEDGER_BYTES));
        let figures = Arc::new(Figures::new(&registry));
        let live = Arc::new(Live::new(&config, auth)?);
        let n_shards = match config.shards {
            0 => std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(64),
            n => n,
        };
        let inboxes = (0..n_shards).map(|shard| Inbox::new(shard, config.inbox_commands_max).map(Arc::new));
        let inboxes: Arc<[Arc<Inbox>]> = inboxes.collect::<Result<Vec<_>, _>>()?.into();
        let epoch = Epoch::new(clock.wall_ms());
        let all = std::iter::once(("/".to_owned(), self.root)).chain(self.namespaces);
        let mut namespaces: Vec<Arc<Namespace>> = Vec::new();
        for (name, builder) in all {
            check_namespace(&name, &namespaces)?;
            let parts = Parts {
                index: namespaces.len() as u16,
                name: name.into(),
                handlers: builder.handlers,
                epoch,
                clock: clock.clone(),
                ledger: ledger.clone(),
                figures: figures.clone(),
                live: live.clone(),
                inboxes: inboxes.clone(),
            };
            namespaces.push(Arc::new(Namespace::new(parts, &config)));
        }
        let mut endpoints = self.endpoints;
        let socket_io = Endpoint {
            path: config.path.clone(),
            kind: Kind::SocketIo,
            message_bytes_max: config.payload_bytes_max,
        };
        endpoints.insert(0, socket_io);
        Ok(Shared::new(
            config, live, namespaces, endpoints, inboxes, figures, registry, ledger, clock, runtime,
        )?)
    }
}

/// Listens with room for a crowd that comes back at once.
fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // As the standard library does it: an address that was in use a moment ago can be taken again.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn default_auth(anonymous: bool) -> Result<Arc<Authenticator>, Error> {
    let config = tidegate_auth::Config {
        anonymous,
        ..tidegate_auth::Config::default()
    };
    let auth = Authenticator::new(config).map_err(|error| Error::BadRequest(error.to_string()))?;
    Ok(Arc::new(auth))
}

fn check_namespace(name: &str, before: &[Arc<Namespace>]) -> Result<(), Error> {
    let allowed =
        "a name that begins with /, without comma or question mark, used once, at most 1,000 of them";
    let valid = name.starts_with('/')
        && !name.contains([',', '?'])
        && before.len() < 1_000
        && !before.iter().any(|namespace| &*namespace.name == name);
    if valid {
        return Ok(());
    }
    Err(Error::Setting {
        key: "namespace",
        value: name.to_owned(),
        allowed: allowed.to_owned(),
    })
}

fn start_shards(shared: &Arc<Shared>) -> Result<Vec<std::thread::JoinHandle<()>>, Error> {
    let mut threads = Vec::new();
    for index in 0..shared.inboxes.len() {
        let shared = shared.clone();
        // Made inside its thread: a shard's buffers are not shared with any other.
        let run = move || match Shard::new(index as u16, shared, Random::system()) {
            Ok(shard) => shard.run(),
            Err(error) => tracing::error!(shard = index, %error, "shard could not start"),
        };
        let thread = std::thread::Builder::new()
            .name(format!("shard-{index}"))
            .spawn(run);
        threads.push(thread.map_err(|source| Error::Io {
            what: format!("starting shard {index}"),
            source,
        })?);
    }
    Ok(threads)
}

/// An echo, for the endpoints of conformance tests.
#[must_use]
pub fn echo(message: RawMessage) -> Option<RawMessage> {
    match message {
        RawMessage::Binary(data) => Some(RawMessage::Binary(Bytes::clone(&data))),
        text @ RawMessage::Text(_) => Some(text),
    }
}
