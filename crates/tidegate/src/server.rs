//! A running server: what it is made of, how it starts, reloads and ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_auth::Authenticator;
use tidegate_flow::{Group, instances, task};
use tidegate_gateway::{self as gateway, Gateway, TlsConfig};
use tidegate_store::{CommitHook, database::Context};
use tidegate_vitals::{Clock, Id, Ledger, Registry, Timeline, Watch, pressure::Shed, process, profile};
use tokio::{net::TcpListener, time::Instant};

use crate::{
    Error, Outside, Settings, SettingsError, Store,
    api::{AdminListener, Api, ApiConfig, Asset, Parts, Place, Service},
    bridge::Bridge,
    data::Attached,
    glue::{
        store_cache::Answers,
        store_gateway::{self, Live},
    },
    hook::{Around, Hook},
    limits::{
        Memory, Requests,
        memory::{self, Watching},
    },
    settings::{AppConfig, BridgeConfig, CacheSettings, StoreConfig},
};

/// Seconds between sweeps of idle metric series.
const SWEEP_EVERY_TICKS: u32 = 60;

/// Where the system tells no memory limit, plan with this much, bytes.
const MEMORY_FALLBACK_BYTES: u64 = 1 << 30;

/// How long the position in the outbox may take to be written when the server ends.
const RELAY_WAIT: Duration = Duration::from_secs(5);

/// The application is told of ends for as long as this at least, where the drain has taken all of its time: whoever ends
/// the process waits a little longer than `drain.timeout`.
const FAREWELL_LEAST: Duration = Duration::from_secs(5);

/// Kept answers go first when memory is short: they cost only misses.
const CACHE_ORDER: u8 = 10;

type Extend = Box<dyn FnOnce(gateway::Builder) -> gateway::Builder + Send>;

/// Collects what a server needs; [`Builder::start`] starts it.
pub struct Builder {
    settings: Settings,
    auth: Option<tidegate_auth::Config>,
    /// The inner none: nothing is declared that needs one.
    store: Option<Option<StoreConfig>>,
    /// The inner none: no query keeps its answers.
    cache: Option<Option<CacheSettings>>,
    /// The inner none: there is no application.
    app: Option<Option<AppConfig>>,
    /// The inner none: nobody publishes through Redis.
    bridge: Option<Option<BridgeConfig>>,
    hooks: Vec<Arc<dyn CommitHook>>,
    assets: Vec<Asset>,
    extend: Vec<Extend>,
}

/// A running server. [`Tidegate::shutdown`] ends it; dropped, it is cut off.
pub struct Tidegate {
    api: Arc<Api>,
    gateway: Arc<Gateway>,
    admin_addr: Option<SocketAddr>,
    started_with: Settings,
    tasks: Arc<Group>,
    live: Arc<Live>,
    /// Both end with the server.
    _watching: Watching,
    _reading: Reading,
    /// Reloads follow each other.
    reloading: tokio::sync::Mutex<()>,
}

/// Publications by SQL are read while this is there: their reader holds what leads back to it.
struct Reading(Arc<Api>);

/// What a reload did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// Keys that differ from those the process started with and wait for a restart.
    pub needs_restart: Vec<String>,
    /// Whether new certificates are in use.
    pub certificates_changed: bool,
}

// === impl Builder ===

impl Builder {
    /// The settings; the defaults unless given.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The access rules with their secrets, from [`Settings::auth`]. Unless given, they are composed without
    /// environment and files, so settings that name either are refused.
    #[must_use]
    pub fn auth(mut self, auth: tidegate_auth::Config) -> Self {
        self.auth = Some(auth);
        self
    }

    /// The database with its secrets, from [`Settings::store`]. Unless given, it is composed without environment, so
    /// settings that name a variable are refused.
    #[must_use]
    pub fn store(mut self, store: Option<StoreConfig>) -> Self {
        self.store = Some(store);
        self
    }

    /// Where answers of queries are kept, with its secrets, from [`Settings::cache`]. Unless given, it is composed without
    /// environment, so settings that name a variable are refused.
    #[must_use]
    pub fn cache(mut self, cache: Option<CacheSettings>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// The application behind the server with its secret, from [`Settings::app`]. Unless given, it is composed without
    /// environment, so settings that name one are refused.
    #[must_use]
    pub fn app(mut self, app: Option<AppConfig>) -> Self {
        self.app = Some(app);
        self
    }

    /// Where publishers speak through Redis, from [`Settings::bridge`]. Unless given, it is composed without environment,
    /// so settings that name a variable are refused.
    #[must_use]
    pub fn bridge(mut self, bridge: Option<BridgeConfig>) -> Self {
        self.bridge = Some(bridge);
        self
    }

    /// Called after every commit of rows, before they are acknowledged, in the order of these calls. Must not block.
    #[must_use]
    pub fn on_commit(mut self, hook: Arc<dyn CommitHook>) -> Self {
        self.hooks.push(hook);
        self
    }

    /// Serves `body` at `path` on the main listener.
    #[must_use]
    pub fn asset(
        mut self,
        path: impl Into<String>,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Self {
        self.assets.push(Asset {
            path: path.into(),
            content_type,
            body: body.into(),
        });
        self
    }

    /// Adds handlers and namespaces to the gateway before it listens.
    #[must_use]
    pub fn gateway(
        mut self,
        extend: impl FnOnce(gateway::Builder) -> gateway::Builder + Send + 'static,
    ) -> Self {
        self.extend.push(Box::new(extend));
        self
    }

    /// Opens the database, where feeds or queries are declared, then the listeners, and serves.
    ///
    /// # Errors
    /// [`Error::Settings`] before anything is opened; [`Error::Store`] when the database cannot be reached, refuses us
    /// or is not as declared; [`Error::Listen`] and [`Error::Gateway`] when the system or the gateway refuses.
    ///
    /// # Cancel safety
    /// Dropped before it ends, no listener stays open.
    pub async fn start(self) -> Result<Tidegate, Error> {
        let settings = self.settings;
        let auth = given(self.auth, || settings.auth(&Outside::none()))?;
        let authenticator = Arc::new(Authenticator::new(auth)?);
        let config = given(self.store, || settings.store(&Outside::none()))?;
        let app = given(self.app, || settings.app(&Outside::none()))?;
        let cache = given(self.cache, || settings.cache(&Outside::none()))?;
        let bridge = given(self.bridge, || settings.bridge(&Outside::none()))?;
        bridge.as_ref().map_or(Ok(()), BridgeConfig::check)?;
        let levels = memory::config(&settings)?;
        let admin = match settings.admin_listen() {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        let ledger = Ledger::new(settings.ledger_limit_bytes(host_memory()));
        let context = Context::new(Clock::real(), Registry::new()).with_ledger(ledger);
        let hook = open_hook(app, &context).await?;
        let live = Arc::new(Live::default());
        let rows = (config, cache, self.hooks);
        let store = open_store(rows, &settings, &context, &live).await?;
        let memory = Arc::new(Memory::new(levels, &settings, &context));
        let parts = (context, Arc::clone(&memory));
        let api = Arc::new(new_api(&settings, &authenticator, parts, (store, hook)));
        let loopback = settings.listen().ip().is_loopback();
        let alone = admin.is_none();
        let service = Service::new(
            &api,
            |place| alone || place != Place::Admin,
            self.assets,
            loopback,
        );
        let mut builder = gateway_on(&settings, &api, authenticator, service);
        for extend in self.extend {
            builder = extend(builder);
        }
        let gateway = match listen(builder, settings.listen()).await {
            Ok(gateway) => Arc::new(gateway),
            Err(error) => {
                // Nobody has sent anything yet, so nothing can be left waiting.
                finish(&api, Instant::now(), Duration::ZERO).await;
                return Err(error);
            }
        };
        live.set_publisher(Some(gateway.publisher()));
        let around = (api.clock.clone(), &api.registry, &api.ledger);
        api.set_bridge(bridge.map(|config| Bridge::start(config, &gateway, around)));
        for part in pressed(&gateway, &api) {
            memory.pressure.register(part);
        }
        let watching = memory.watch().map_err(|source| Error::Thread {
            name: "memory",
            source,
        })?;
        let server = Tidegate::assemble(api, (gateway, live, watching), admin, settings);
        // Last: what is read from here on is told, so whoever is to hear it must be reachable.
        if let Some(store) = server.api.has_store()
            && let Err(error) = store.start_relay(server.gateway.publisher())
        {
            server.api.set_bridge(None);
            finish(&server.api, Instant::now(), Duration::ZERO).await;
            return Err(error);
        }
        Ok(server)
    }
}

/// What the caller composed, or what the settings alone say.
fn given<T>(
    composed: Option<T>,
    compose: impl FnOnce() -> Result<T, SettingsError>,
) -> Result<T, SettingsError> {
    composed.map_or_else(compose, Ok)
}

/// The database with what is attached to its rows; none where nothing is declared that needs it.
async fn open_store(
    (config, cache, commit): (
        Option<StoreConfig>,
        Option<CacheSettings>,
        Vec<Arc<dyn CommitHook>>,
    ),
    settings: &Settings,
    context: &Context,
    live: &Arc<Live>,
) -> Result<Option<Arc<Store>>, Error> {
    let Some(config) = config else { return Ok(None) };
    let answers = match cache {
        Some(cache) => Some(Arc::new(Answers::open(&cache, settings, context).await?)),
        None => None,
    };
    let attached = Attached {
        live: Arc::clone(live),
        answers,
        commit,
    };
    let store = Store::open(&config, settings, context.clone(), attached).await?;
    Ok(Some(Arc::new(store)))
}

/// What gives memory back, besides the allocator.
fn pressed(gateway: &Gateway, api: &Api) -> Vec<Arc<dyn Shed>> {
    let mut parts: Vec<Arc<dyn Shed>> = vec![gateway.shed()];
    if let Some(store) = api.has_store() {
        parts.extend([store.database().shed(), store.ingest().shed()]);
        if let Some(answers) = store.answers() {
            parts.push(answers.cache().shed(CACHE_ORDER));
        }
    }
    parts
}

/// The gateway with everything that stands behind it.
fn gateway_on(
    settings: &Settings,
    api: &Arc<Api>,
    authenticator: Arc<Authenticator>,
    service: Service,
) -> gateway::Builder {
    let mut builder = Gateway::builder()
        .config(settings.gateway())
        .auth(authenticator)
        .clock(api.clock.clone())
        .metrics(api.registry.clone())
        .ledger(api.ledger.clone())
        .http(Arc::new(service));
    if let Some((cert, key)) = settings.tls_files() {
        builder = builder.tls(TlsConfig {
            cert: cert.to_owned(),
            key: key.to_owned(),
        });
    }
    if api.has_store().is_some() {
        builder = store_gateway::with_events(builder, settings, api);
    }
    match &api.hook {
        Some(hook) => hook.with_handlers(builder),
        None => builder,
    }
}

/// Ends what stands behind a gateway that has ended: the application hears until the deadline, rows are stored within
/// the time.
async fn finish(api: &Api, deadline: Instant, timeout: Duration) {
    if let Some(hook) = &api.hook {
        hook.finish(deadline).await;
    }
    if let Some(store) = api.has_store() {
        store.finish(timeout).await;
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })
}

/// Listens, with the address in the error where the system refuses it.
async fn listen(builder: gateway::Builder, address: SocketAddr) -> Result<Gateway, Error> {
    builder.listen(address).await.map_err(|error| match error {
        gateway::Error::Io { source, .. } if is_about_address(&source) => Error::Listen { address, source },
        error => error.into(),
    })
}

fn is_about_address(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    matches!(error.kind(), AddrInUse | AddrNotAvailable | PermissionDenied)
}

fn new_api(
    settings: &Settings,
    authenticator: &Arc<Authenticator>,
    (context, memory): (Context, Arc<Memory>),
    (store, hook): (Option<Arc<Store>>, Option<Arc<Hook>>),
) -> Api {
    let Context {
        clock,
        registry,
        ledger,
    } = context;
    Api::new(ApiConfig {
        memory,
        requests: Requests::new(&settings.concurrency(), settings.limits_requests(), clock.clone()),
        timeline: Timeline::new(registry.clone(), clock.clone()),
        ledger,
        registry,
        clock,
        budget_bytes: settings.memory_budget_bytes(host_memory()),
        body_bytes_max: settings.body_bytes_max(),
        authenticator: Arc::clone(authenticator),
        connections_max: settings.connections_max(),
        store,
        hook,
    })
}

/// The way to the application. Its spool is read from the disk, so not on this thread.
async fn open_hook(app: Option<AppConfig>, context: &Context) -> Result<Option<Arc<Hook>>, Error> {
    let Some(app) = app else { return Ok(None) };
    let around = Around {
        clock: context.clock.clone(),
        registry: context.registry.clone(),
        ledger: context.ledger.clone(),
    };
    let opened = tokio::task::spawn_blocking(move || Hook::open(app, &around)).await;
    let opened = opened.unwrap_or_else(|error| Err(std::io::Error::other(error)));
    opened.map(Some).map_err(Error::App)
}

/// Memory that the process may plan with, bytes.
pub(crate) fn host_memory() -> u64 {
    process::memory_limit().unwrap_or(MEMORY_FALLBACK_BYTES)
}

// === impl Tidegate ===

impl Tidegate {
    /// Starts from default settings, which let nobody in and listen on loopback.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            settings: Settings::default(),
            auth: None,
            store: None,
            cache: None,
            app: None,
            bridge: None,
            hooks: Vec::new(),
            assets: Vec::new(),
            extend: Vec::new(),
        }
    }

    fn assemble(
        api: Arc<Api>,
        (gateway, live, watching): (Arc<Gateway>, Arc<Live>, Watching),
        admin: Option<TcpListener>,
        started_with: Settings,
    ) -> Self {
        let weak = Arc::downgrade(&gateway);
        api.set_parts(Some(Parts {
            publisher: gateway.publisher(),
            inspector: gateway.inspector(),
            is_draining: Box::new(move || weak.upgrade().is_none_or(|gateway| gateway.is_draining())),
        }));
        let tasks = Arc::new(Group::new());
        tasks.spawn("ticker", tick(Arc::clone(&api)));
        let admin_addr = admin.as_ref().and_then(|listener| listener.local_addr().ok());
        if let Some((listener, address)) = admin.zip(admin_addr) {
            let loopback = address.ip().is_loopback();
            let service = Service::new(&api, |place| place != Place::Main, Vec::new(), loopback);
            tasks.spawn(
                "admin-listener",
                AdminListener::new(listener, service, Arc::clone(&tasks)).run(),
            );
        }
        Self {
            _reading: Reading(Arc::clone(&api)),
            api,
            gateway,
            admin_addr,
            started_with,
            tasks,
            live,
            _watching: watching,
            reloading: tokio::sync::Mutex::new(()),
        }
    }

    /// The gateway: publish, inspect, emit.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The database; none where no feed and no query is declared.
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        self.api.has_store().map(AsRef::as_ref)
    }

    /// Address of the main listener.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.gateway.local_addr()
    }

    /// Address of the administration listener, if it has one of its own.
    #[must_use]
    pub const fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// The figures.
    #[must_use]
    pub fn metrics(&self) -> &Registry {
        &self.api.registry
    }

    /// The last hour of the figures.
    #[must_use]
    pub fn timeline(&self) -> &Timeline {
        &self.api.timeline
    }

    /// The memory accounts.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.api.ledger
    }

    /// Takes what may change in a running server from `settings`: limits, rooms, roles, access, memory, certificates,
    /// feeds, queries.
    ///
    /// # Errors
    /// What is wrong; everything then stays as it was.
    ///
    /// # Cancel safety
    /// Dropped before it ends, feeds and queries may be taken and the rest not; the next reload sets all right.
    pub async fn reload(&self, settings: &Settings, auth: tidegate_auth::Config) -> Result<Reloaded, Error> {
        let _turn = self.reloading.lock().await;
        let result = self.try_reload(settings, auth).await;
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        self.api.registry.counter(Id::ConfigReloads, &[outcome]).inc();
        result
    }

    async fn try_reload(&self, settings: &Settings, auth: tidegate_auth::Config) -> Result<Reloaded, Error> {
        let authenticator = Arc::new(Authenticator::new(auth)?);
        let (new, mut config) = (settings.gateway(), self.started_with.gateway());
        config.limits = new.limits;
        config.rooms = new.rooms;
        // What can refuse comes first; after it nothing fails.
        let levels = memory::config(settings)?;
        let certificates_changed = self.gateway.reload_tls()?;
        if let Some(store) = self.api.has_store() {
            store.reload(settings).await?;
        }
        self.api.memory.pressure.set_config(levels);
        self.gateway.reload(&config)?;
        self.api.requests.set_on(settings.limits_requests());
        self.gateway.set_auth(Arc::clone(&authenticator));
        self.api.set_authenticator(authenticator);
        self.api.set_connections_max(settings.connections_max());
        self.api
            .ledger
            .set_limit(settings.ledger_limit_bytes(host_memory()));
        Ok(Reloaded {
            needs_restart: self.needs_restart(settings),
            certificates_changed,
        })
    }

    /// What takes effect only in a new process: settings that say so, and the first use of a part that was not started.
    fn needs_restart(&self, settings: &Settings) -> Vec<String> {
        let mut keys = self.started_with.needs_restart(settings);
        let missing = match self.api.has_store() {
            None => settings.needs_store().then_some("store"),
            Some(store) => (store.answers().is_none() && settings.keeps_answers()).then_some("cache"),
        };
        keys.extend(missing.map(str::to_owned));
        keys
    }

    /// Drains: not ready, no new clients, the others closed at the configured pace; the application is told of every end, and
    /// the API answers it meanwhile; rows that wait are stored; then everything ends.
    ///
    /// # Cancel safety
    /// Dropped, the drain goes no further; dropping the server then cuts what is left.
    pub async fn shutdown(self) {
        let limit = self.started_with.gateway().drain.timeout;
        let drained_by = Instant::now() + limit;
        self.gateway.drain().await;
        let deadline = drained_by.max(Instant::now() + limit.min(FAREWELL_LEAST));
        // What is published from here on would reach nobody; it stays in the outbox for whoever reads next.
        if let Some(store) = self.api.has_store() {
            store.finish_relay(RELAY_WAIT).await;
        }
        // Nobody is left to be spoken to.
        self.api.set_bridge(None);
        self.gateway.end_sessions(deadline).await;
        if let Some(hook) = &self.api.hook {
            hook.settle(deadline).await;
        }
        self.gateway.shutdown().await;
        finish(&self.api, deadline, limit).await;
        // All three lead back to the gateway, whose handlers lead here.
        self.api.memory.pressure.unregister_all();
        self.live.set_publisher(None);
        self.api.set_parts(None);
        // The ticker and the administration listener never end by themselves.
        drop(self.tasks);
    }
}

// === impl Reading ===

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(store) = self.0.has_store() {
            store.cut_relay();
        }
    }
}

/// Takes the figures of each second.
async fn tick(api: Arc<Api>) {
    let mut watch = Watch::new(&api.registry, api.ledger.clone());
    let mut profiles = profile::Watch::new(&api.registry);
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut ticks: u32 = 0;
    loop {
        seconds.tick().await;
        watch.tick();
        profiles.tick();
        task::record(&api.registry);
        instances::record(&api.registry);
        api.requests.record(&api.registry);
        if let Some(answers) = api.has_store().and_then(|store| store.answers()) {
            // Reading them sets the gauges.
            drop(answers.cache().stats());
        }
        if let Some(hook) = &api.hook {
            hook.record(&api.registry);
        }
        api.timeline.tick(api.clock.now());
        ticks = ticks.wrapping_add(1);
        if ticks.is_multiple_of(SWEEP_EVERY_TICKS) {
            api.registry.sweep(api.clock.now());
        }
    }
}
