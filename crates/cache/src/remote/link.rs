//! The connection to Redis: made, watched, given up and made anew, and what is asked over it.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use redis::{
    AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, RedisResult,
    Value, aio::MultiplexedConnection,
};
use tidegate_flow::task::{self, Group, Task};
use tidegate_vitals::{Clock, Counter, Id, Instant};
use tokio::{
    sync::{Notify, Semaphore},
    time::{sleep, timeout},
};

use super::{RemoteConfig, Stats, codec::Blob, pending::Pending};
use crate::{
    disk::Surroundings,
    entry::Entry,
    error::{Error, Result},
    key::Key,
    tags::{self, Tags},
};

/// The remote level of one cache.
pub(crate) struct Remote {
    shared: Arc<Shared>,
    link: Mutex<Option<Task<()>>>,
}

/// What [`Remote::fetch`] found.
pub(crate) enum Fetched {
    Found(Found),
    /// Nothing that counts; a load that begins now may be stored.
    Missing(Ticket),
    /// It cannot be asked.
    Away,
}

/// A value whose tokens are those of its tags.
pub(crate) struct Found {
    pub(crate) value: Bytes,
    pub(crate) position: Option<u64>,
    pub(crate) is_negative: bool,
    pub(crate) fresh_for: Duration,
    pub(crate) ticket: Ticket,
}

/// The state of a key's tags before its load began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ticket {
    run: u64,
    tokens: Vec<u64>,
}

struct Shared {
    config: RemoteConfig,
    client: Client,
    prefix: String,
    tags: Arc<Tags>,
    clock: Clock,
    /// None while it cannot be asked.
    current: Mutex<Option<Connected>>,
    /// Since when pushes may have been missed, nanoseconds; [`CONNECTED`]: none are.
    lost_at: AtomicU64,
    /// When the connection was last seen to work.
    last_good: AtomicU64,
    failures: AtomicU32,
    is_broken: AtomicBool,
    wake: Notify,
    pending: Pending,
    puts: Semaphore,
    errands: Group,
    figures: Figures,
}

#[derive(Clone)]
struct Connected {
    connection: MultiplexedConnection,
    run: u64,
}

struct Figures {
    connects: AtomicU64,
    puts: AtomicU64,
    puts_dropped: Counter,
    timeouts: Counter,
    errors: Counter,
    refused: Counter,
    pushed: Counter,
}

const CONNECTED: u64 = u64::MAX;
/// Setting a connection up takes a few round trips.
const CONNECT_DEADLINES: u32 = 10;
/// What errands get to end in when the cache ends.
const FINISH: Duration = Duration::from_millis(500);

// === impl Remote ===

impl Remote {
    /// Starts to connect; does not wait for it.
    pub(crate) fn start(config: RemoteConfig, around: &Surroundings) -> Result<Self> {
        let client = client(&config)?;
        let prefix = config
            .prefix
            .clone()
            .unwrap_or_else(|| format!("tg:{}:", around.name));
        let refused = |reason| {
            around
                .registry
                .counter(Id::CacheRemoteErrors, &[around.name, reason])
        };
        let shared = Arc::new(Shared {
            client,
            prefix,
            tags: Arc::clone(&around.tags),
            lost_at: AtomicU64::new(around.clock.now().as_nanos()),
            last_good: AtomicU64::new(around.clock.now().as_nanos()),
            clock: around.clock.clone(),
            current: Mutex::new(None),
            failures: AtomicU32::new(0),
            is_broken: AtomicBool::new(false),
            wake: Notify::new(),
            pending: Pending::new(config.pending_max),
            puts: Semaphore::new(config.puts_max),
            errands: Group::new(),
            figures: Figures {
                connects: AtomicU64::new(0),
                puts: AtomicU64::new(0),
                puts_dropped: refused("put_dropped"),
                timeouts: refused("timeout"),
                errors: refused("error"),
                refused: refused("refused"),
                pushed: around
                    .registry
                    .counter(Id::CacheRemoteInvalidations, &[around.name]),
            },
            config,
        });
        let link = task::spawn("cache-remote", keep(Arc::clone(&shared)));
        Ok(Self {
            shared,
            link: Mutex::new(Some(link)),
        })
    }

    /// Whether a value with tags that was loaded at `loaded_at` still counts, as far as the connection is concerned.
    #[inline]
    pub(crate) fn is_trusted(&self, loaded_at: Instant, now: Instant) -> bool {
        let lost_at = self.shared.lost_at.load(Relaxed);
        lost_at == CONNECTED || {
            let since = loaded_at.max(Instant::from_nanos(lost_at));
            now < since + self.shared.config.staleness_max
        }
    }

    /// The value of `key`, if it is there and none of its tags was invalidated since it was loaded.
    pub(crate) async fn fetch(&self, key: &Key, tags: &[Box<str>]) -> Fetched {
        let shared = &self.shared;
        let Some(connected) = shared.connected() else {
            return Fetched::Away;
        };
        // What this node has invalidated and Redis does not know yet must not be read from there.
        if shared.pending.has_any(tags.iter().map(|tag| &**tag)) {
            return Fetched::Away;
        }
        let mut names = shared.tag_names(tags);
        names.push(shared.value_name(key));
        let Some(mut found) = shared.read(&connected, &names).await else {
            return Fetched::Away;
        };
        let bytes = found.pop().flatten();
        names.pop();
        let tokens: Option<Vec<u64>> = found
            .iter()
            .map(|token| token.as_deref().and_then(token_of))
            .collect();
        let tokens = match tokens {
            Some(tokens) => tokens,
            None => match shared.make_tokens(&connected, &names).await {
                Some(tokens) => {
                    return Fetched::Missing(Ticket {
                        run: connected.run,
                        tokens,
                    });
                }
                None => return Fetched::Away,
            },
        };
        let ticket = Ticket {
            run: connected.run,
            tokens,
        };
        match bytes.and_then(|bytes| shared.judge(bytes, key, &ticket)) {
            Some(found) => Fetched::Found(found),
            None => Fetched::Missing(ticket),
        }
    }

    /// Stores a value behind the caller's back.
    pub(crate) fn store(&self, ticket: Ticket, key: &Key, entry: &Entry, ttl: Duration) {
        let shared = Arc::clone(&self.shared);
        let Some(connected) = shared.connected() else {
            return;
        };
        let ttl = ttl.min(shared.config.ttl_max);
        let blob = Blob {
            run: ticket.run,
            fresh_until_ms: shared.clock.wall_ms().saturating_add(ttl.as_millis() as u64),
            position: entry.position,
            is_negative: entry.is_negative,
            tokens: ticket.tokens,
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: entry.value.clone(),
        };
        if ticket.run != connected.run
            || blob.value.len() > shared.config.value_bytes_max
            || ttl.as_millis() == 0
        {
            shared.figures.puts_dropped.inc();
            return;
        }
        let mut command = redis::cmd("SET");
        command.arg(shared.value_name(key)).arg(blob.encode());
        command.arg("PX").arg(ttl.as_millis() as u64);
        self.errand(move || async move {
            let mut connection = connected.connection;
            let stored = shared.call(command.exec_async(&mut connection)).await;
            if stored.is_some() {
                shared.figures.puts.fetch_add(1, Relaxed);
            }
        });
    }

    pub(crate) fn remove(&self, key: &Key) {
        let shared = Arc::clone(&self.shared);
        let Some(connected) = shared.connected() else {
            return;
        };
        let mut command = redis::cmd("DEL");
        command.arg(shared.value_name(key));
        self.errand(move || async move {
            let mut connection = connected.connection;
            let _ = shared.call(command.exec_async(&mut connection)).await;
        });
    }

    /// Runs `work` as a task, or drops it if too many are under way.
    fn errand<F, Fut>(&self, work: F)
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send,
    {
        let shared = Arc::clone(&self.shared);
        let Ok(permit) = self.shared.puts.try_acquire() else {
            self.shared.figures.puts_dropped.inc();
            return;
        };
        permit.forget();
        self.shared.errands.spawn("cache-errand", async move {
            work().await;
            shared.puts.add_permits(1);
        });
    }

    /// Other nodes must drop these tags; the link sends it.
    pub(crate) fn invalidate<'a>(&self, tags: impl Iterator<Item = &'a str>) {
        self.shared.pending.add(tags);
        self.shared.wake.notify_one();
    }

    /// Other nodes must drop all tags.
    pub(crate) fn invalidate_all(&self) {
        self.shared.pending.add_all();
        self.shared.wake.notify_one();
    }

    /// Sends what is unconfirmed; whether nothing is left.
    pub(crate) async fn deliver(&self) -> bool {
        match self.shared.connected() {
            Some(connected) => self.shared.deliver(&connected).await,
            None => false,
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let (shared, figures) = (&self.shared, &self.shared.figures);
        Stats {
            is_connected: shared.lost_at.load(Relaxed) == CONNECTED,
            connects: figures.connects.load(Relaxed),
            puts: figures.puts.load(Relaxed),
            puts_dropped: figures.puts_dropped.get(),
            timeouts: figures.timeouts.get(),
            errors: figures.errors.get(),
            refused: figures.refused.get(),
            pushed: figures.pushed.get(),
            pending: shared.pending.len(),
        }
    }

    pub(crate) async fn finish(&self) {
        let link = self.link.lock().unwrap_or_else(PoisonError::into_inner).take();
        if self.shared.pending.len() > 0 {
            self.deliver().await;
        }
        drop(link);
        let _ = self.shared.errands.finish(FINISH).await;
        self.shared.lose();
    }
}

pub(super) fn client(config: &RemoteConfig) -> Result<Client> {
    let refused = |error: redis::RedisError| Error::config("remote.url", &"(hidden)", error.to_string());
    let info = config.url.as_str().into_connection_info().map_err(refused)?;
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    Client::open(info.set_redis_settings(settings)).map_err(refused)
}

/// One connection, one answer.
pub(super) async fn reach(config: &RemoteConfig) -> Result<()> {
    let client = client(config)?;
    let asked = async {
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").exec_async(&mut connection).await
    };
    match timeout(config.deadline * CONNECT_DEADLINES, asked).await {
        Ok(answered) => answered.map_err(|error: redis::RedisError| Error::Away(error.to_string())),
        Err(_) => Err(Error::Away("no answer in time".to_owned())),
    }
}

/// Keeps a connection as long as the task lives.
async fn keep(shared: Arc<Shared>) {
    let mut pause = shared.config.pause_min;
    loop {
        let deadline = shared.config.deadline * CONNECT_DEADLINES;
        match timeout(deadline, connect(&shared)).await {
            Ok(Ok(connected)) => {
                if shared.begin(connected).await {
                    pause = shared.config.pause_min;
                    shared.watch().await;
                }
                shared.lose();
            }
            Ok(Err(_)) => shared.figures.errors.inc(),
            Err(_) => shared.figures.timeouts.inc(),
        }
        sleep(pause).await;
        pause = (pause * 2).min(shared.config.pause_max);
    }
}

/// Connects, asks to be told of every change of a tag, and learns which run of the server this is.
async fn connect(shared: &Arc<Shared>) -> RedisResult<Connected> {
    shared.is_broken.store(false, Relaxed);
    // Weak: the connection's own task must not keep what owns the connection.
    let told = Arc::downgrade(shared);
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_push_sender(move |push: PushInfo| {
            if let Some(shared) = told.upgrade() {
                shared.pushed(&push);
            }
            Ok::<(), redis::aio::SendError>(())
        });
    let mut connection = shared
        .client
        .get_multiplexed_async_connection_with_config(&config)
        .await?;
    let mut track = redis::cmd("CLIENT");
    // Our own invalidations have dropped the values here already.
    track
        .arg("TRACKING")
        .arg("ON")
        .arg("BCAST")
        .arg("PREFIX")
        .arg(shared.tag_name(""));
    track.arg("NOLOOP").exec_async(&mut connection).await?;
    let about: String = redis::cmd("INFO")
        .arg("server")
        .query_async(&mut connection)
        .await?;
    let run = about
        .lines()
        .find_map(|line| line.strip_prefix("run_id:"))
        .unwrap_or_default();
    Ok(Connected {
        connection,
        run: tags::word(run),
    })
}

// === impl Shared ===

impl Shared {
    fn connected(&self) -> Option<Connected> {
        self.current
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes a new connection into use: first this node's invalidations go out, then everything that others may have
    /// invalidated meanwhile is dropped here.
    async fn begin(&self, connected: Connected) -> bool {
        if !self.deliver(&connected).await {
            return false;
        }
        self.tags.raise_all();
        self.good();
        self.figures.connects.fetch_add(1, Relaxed);
        // Both under the lock: a connection that is lost at this moment must not be taken for one that works.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(connected);
        self.lost_at.store(CONNECTED, Relaxed);
        true
    }

    /// The connection is no longer used, and pushes are missed since it was last seen to work.
    fn lose(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.take().is_some() {
            self.lost_at.store(self.last_good.load(Relaxed), Relaxed);
        }
    }

    fn good(&self) {
        self.failures.store(0, Relaxed);
        self.last_good.fetch_max(self.clock.now().as_nanos(), Relaxed);
    }

    /// Sends invalidations and tries the connection until it fails.
    async fn watch(&self) {
        while let Some(connected) = self.connected() {
            if timeout(self.config.ping, self.wake.notified()).await.is_err() {
                let mut connection = connected.connection.clone();
                let ping = redis::cmd("PING");
                if self.call(ping.exec_async(&mut connection)).await.is_none() {
                    return;
                }
            }
            if self.is_broken.load(Relaxed) || !self.deliver(&connected).await {
                return;
            }
        }
    }

    /// Runs on the connection's own task: must not wait.
    fn pushed(&self, push: &PushInfo) {
        match push.kind {
            PushKind::Invalidate => match push.data.first() {
                Some(Value::Array(names)) => self.dropped(names),
                // Nil: the database was flushed.
                _ => self.tags.raise_all(),
            },
            PushKind::Disconnection => self.give_up(),
            _ => {}
        }
    }

    /// Tags that other nodes have invalidated.
    fn dropped(&self, names: &[Value]) {
        let prefix = self.tag_name("");
        for name in names {
            let Value::BulkString(name) = name else { continue };
            let tag = name
                .strip_prefix(prefix.as_bytes())
                .and_then(|tag| std::str::from_utf8(tag).ok());
            match tag {
                Some("") | None => self.tags.raise_all(),
                Some(tag) => self.tags.raise(&tags::slots([tag].into_iter()), None),
            }
            self.figures.pushed.inc();
        }
    }

    fn give_up(&self) {
        self.is_broken.store(true, Relaxed);
        self.lose();
        self.wake.notify_one();
    }

    /// Waits for `work` until the deadline. None: it failed, which may end the connection.
    async fn call<T>(&self, work: impl Future<Output = RedisResult<T>>) -> Option<T> {
        match timeout(self.config.deadline, work).await {
            Ok(Ok(answer)) => {
                self.good();
                return Some(answer);
            }
            Ok(Err(error)) => {
                self.figures.errors.inc();
                if error.is_io_error() || error.is_connection_dropped() {
                    self.give_up();
                }
            }
            Err(_) => self.figures.timeouts.inc(),
        }
        if self.failures.fetch_add(1, Relaxed) + 1 >= self.config.failures_max {
            self.give_up();
        }
        None
    }

    async fn read(&self, connected: &Connected, names: &[Vec<u8>]) -> Option<Vec<Option<Vec<u8>>>> {
        let mut connection = connected.connection.clone();
        let mut command = redis::cmd("MGET");
        command.arg(names);
        let found: Vec<Option<Vec<u8>>> = self.call(command.query_async(&mut connection)).await?;
        (found.len() == names.len()).then_some(found)
    }

    /// Gives each of these tags a token if it has none, and reads them. What others made at the same time counts.
    async fn make_tokens(&self, connected: &Connected, names: &[Vec<u8>]) -> Option<Vec<u64>> {
        let mut connection = connected.connection.clone();
        let mut commands = redis::pipe();
        for name in names {
            let set = commands.cmd("SET").arg(name).arg(&new_token()[..]).arg("NX");
            set.arg("PX").arg(self.tag_ttl_ms()).ignore();
        }
        commands.cmd("MGET").arg(names);
        let found: (Vec<Option<Vec<u8>>>,) = self.call(commands.query_async(&mut connection)).await?;
        found
            .0
            .iter()
            .map(|token| token.as_deref().and_then(token_of))
            .collect()
    }

    /// Sends what is unconfirmed, in batches; whether nothing is left.
    async fn deliver(&self, connected: &Connected) -> bool {
        loop {
            let batch = self.pending.batch();
            if batch.is_empty() {
                return true;
            }
            let mut connection = connected.connection.clone();
            let mut commands = redis::pipe();
            let all = batch.all.iter().map(|_| "");
            for tag in all.chain(batch.tags.iter().map(|(tag, _)| &**tag)) {
                let set = commands.cmd("SET").arg(self.tag_name(tag)).arg(&new_token()[..]);
                set.arg("PX").arg(self.tag_ttl_ms()).ignore();
            }
            if self.call(commands.exec_async(&mut connection)).await.is_none() {
                return false;
            }
            self.pending.settle(&batch);
        }
    }

    /// Longer than any value is kept.
    fn tag_ttl_ms(&self) -> u64 {
        (self.config.ttl_max * 2).as_millis() as u64
    }

    /// What the bytes under `key` say, if they count.
    fn judge(&self, bytes: Vec<u8>, key: &Key, ticket: &Ticket) -> Option<Found> {
        let blob = Blob::decode(bytes).filter(|blob| {
            blob.run == ticket.run
                && blob.key == key.as_bytes()
                && blob.value.len() <= self.config.value_bytes_max
        });
        let Some(blob) = blob else {
            self.figures.refused.inc();
            return None;
        };
        let fresh_for = blob.fresh_until_ms.saturating_sub(self.clock.wall_ms());
        (blob.tokens == ticket.tokens && fresh_for > 0).then(|| Found {
            // Copied, so that head and key do not stay in memory beside it.
            value: Bytes::copy_from_slice(&blob.value),
            position: blob.position,
            is_negative: blob.is_negative,
            fresh_for: Duration::from_millis(fresh_for),
            ticket: ticket.clone(),
        })
    }

    fn tag_name(&self, tag: &str) -> String {
        format!("{}t:{tag}", self.prefix)
    }

    /// The names of all tags together and of each.
    fn tag_names(&self, tags: &[Box<str>]) -> Vec<Vec<u8>> {
        let each = tags.iter().map(|tag| &**tag);
        std::iter::once("")
            .chain(each)
            .map(|tag| self.tag_name(tag).into_bytes())
            .collect()
    }

    fn value_name(&self, key: &Key) -> Vec<u8> {
        let mut name = format!("{}v:", self.prefix).into_bytes();
        name.extend_from_slice(key.as_bytes());
        name
    }
}

/// A token that no other has: 64 random bits.
fn new_token() -> [u8; 8] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    RandomState::new()
        .hash_one(NEXT.fetch_add(1, Relaxed))
        .to_le_bytes()
}

fn token_of(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_le_bytes)
}
