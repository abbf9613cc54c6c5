//! Every setting of the gateway, with its default, unit and range.

use std::time::Duration;

use crate::{Error, room::RoomOptions};

/// Settings of one gateway. [`Config::default`] is what [`crate::Gateway::builder`] starts from: no limit on
/// connections, addresses or accept rate below the open-file limit.
#[derive(Clone, Debug)]
pub struct Config {
    /// Path of the Socket.IO endpoint. Default `/socket.io/`.
    pub path: String,
    /// Shard threads; 0 is one a core. Default 0, at most 64.
    pub shards: usize,
    /// Time from a pong to the next ping. Default 25 s, 50 ms to 1 h.
    pub ping_interval: Duration,
    /// How long a pong may take. Default 20 s, 50 ms to 1 h.
    pub ping_timeout: Duration,
    /// How long a connection may live without a namespace. Default 45 s, 10 ms to 1 h.
    pub connect_timeout: Duration,
    /// How long an upgrade from polling may take. Default 10 s.
    pub upgrade_timeout: Duration,
    /// How long a request head may take to arrive (slow-header protection). Default 10 s.
    pub request_head_timeout: Duration,
    /// Largest message or polling body taken from a client, bytes, after inflation (`maxHttpBufferSize`).
    /// Default 1,000,000; 1 KiB to 1 GiB.
    pub payload_bytes_max: usize,
    /// Accept WebSocket. Default true.
    pub websocket: bool,
    /// Accept HTTP long-polling. Default true.
    pub polling: bool,
    /// Origins a browser may come from: `same-origin`, `*`, `https://a.example`, `https://*.example`.
    /// Default `same-origin`.
    pub origins: Vec<String>,
    /// Networks of proxies whose forwarding headers are believed (CIDR). Default none.
    pub trusted_proxies: Vec<String>,
    /// Limits on what one server, user, address or session may hold.
    pub limits: Limits,
    /// Bounds of a connection's outbox.
    pub outbox: OutboxConfig,
    /// The longest flush window under load. Default 50 ms, 0 to 1 s.
    pub flush_window_max: Duration,
    /// Batch events for clients that ask for them.
    pub batch: BatchConfig,
    /// Compression of WebSocket messages.
    pub deflate: DeflateConfig,
    /// Connection state recovery.
    pub recovery: RecoveryConfig,
    /// When a session counts as idle or stale, and how often the sweep looks.
    pub sessions: SessionConfig,
    /// Room options, the first matching pattern counts.
    pub rooms: Vec<(String, RoomOptions)>,
    /// Which built-in events are answered.
    pub builtins: Builtins,
    /// How connections are closed on shutdown.
    pub drain: DrainConfig,
    /// Commands a shard's inbox holds before publishes are refused. Default 65,536; 256 to 16 Mi.
    pub inbox_commands_max: usize,
    /// Idempotency ids remembered per namespace. Default 10,000 for 2 minutes.
    pub publish_ids_max: usize,
    /// How long an idempotency id is remembered. Default 2 min.
    pub publish_id_ttl: Duration,
}

/// Limits on number and rate. `None` is no limit but the operating system's.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of the whole server.
    pub connections: Option<usize>,
    /// Sessions one user may hold.
    pub sessions_per_user: Option<usize>,
    /// Connections from one address.
    pub connections_per_address: Option<usize>,
    /// New connections a second, with a burst of the same size.
    pub accepts_per_second: Option<u32>,
    /// Namespaces one connection may join. Default 16, 1 to 1,000.
    pub namespaces_per_connection: usize,
    /// Rooms one session may join. Default 1,000, 1 to 100,000.
    pub rooms_per_session: usize,
    /// Rooms of one namespace. Default 1,000,000, 1 to 2^30.
    pub rooms: usize,
    /// Bytes of a room's or user's name. Default 256, 1 to 4,096.
    pub name_bytes_max: usize,
    /// Events a second one session may send, with a burst of twice that. Default none.
    pub events_per_second: Option<u32>,
    /// Events of one session waiting for or inside handlers before reading stops. Default 64, 1 to 65,536.
    pub handlers_in_flight: usize,
    /// Bytes of those events. Default 4 MiB.
    pub handler_bytes_in_flight: usize,
    /// Acknowledgements one session may owe at once. Default 10,000.
    pub acks_in_flight: usize,
}

/// Bounds of one connection's outbox.
#[derive(Clone, Debug)]
pub struct OutboxConfig {
    /// Above this the policy of each publication acts, bytes. Default 256 KiB.
    pub soft_bytes: usize,
    /// Above this the connection is closed as a slow consumer, bytes. Default 1 MiB.
    pub hard_bytes: usize,
    /// Entries, whatever their size. Default 65,536.
    pub entries_max: usize,
    /// A socket that takes nothing for this long is closed. Default 30 s.
    pub stall_timeout: Duration,
}

/// Bounds of a batch event.
#[derive(Clone, Debug)]
pub struct BatchConfig {
    /// Messages in one event. Default 100, 1 to 10,000.
    pub messages_max: usize,
    /// Bytes in one event. Default 64 KiB.
    pub bytes_max: usize,
    /// The longest a message waits for others. Default 50 ms.
    pub delay: Duration,
}

/// permessage-deflate without context takeover.
#[derive(Clone, Debug)]
pub struct DeflateConfig {
    /// Offer it. Default true.
    pub enabled: bool,
    /// Smaller messages go plain, bytes. Default 1,024.
    pub threshold_bytes: usize,
    /// zlib level, 1 to 9. Default 3: on 1 KB of JSON within a few percent of 6 at half its time.
    pub level: u32,
}

/// Connection state recovery.
#[derive(Clone, Debug)]
pub struct RecoveryConfig {
    /// Whether sessions may be recovered. Default true.
    pub enabled: bool,
    /// How long a lost session waits. Default 2 min, 1 s to 1 day.
    pub window: Duration,
    /// Bytes of the ring of each namespace. Default 32 MiB, 64 KiB to 64 GiB.
    pub ring_bytes_max: usize,
}

/// Session states and the sweep.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// No event for this long is idle. Default 60 s.
    pub idle_after: Duration,
    /// No event for this long is stale. Default 300 s.
    pub stale_after: Duration,
    /// Close stale sessions in the sweep. Default false.
    pub close_stale: bool,
    /// How often the sweep runs. Default 60 s, 100 ms to 1 h.
    pub sweep_every: Duration,
}

/// Built-in events.
#[derive(Clone, Debug)]
pub struct Builtins {
    /// The events answered: of `join`, `leave`, `publish`, `presence`, `auth`. Default all.
    pub events: Vec<String>,
    /// Put before each name, for example `tidegate:`. Default empty.
    pub prefix: String,
}

/// Shutdown.
#[derive(Clone, Debug)]
pub struct DrainConfig {
    /// Connections closed a second. Default 2,000, 1 to 1,000,000.
    pub closes_per_second: u32,
    /// After this the rest is cut. Default 30 s.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: "/socket.io/".to_owned(),
            shards: 0,
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            connect_timeout: Duration::from_secs(45),
            upgrade_timeout: Duration::from_secs(10),
            request_head_timeout: Duration::from_secs(10),
            payload_bytes_max: 1_000_000,
            websocket: true,
            polling: true,
            origins: vec!["same-origin".to_owned()],
            trusted_proxies: Vec::new(),
            limits: Limits::default(),
            outbox: OutboxConfig::default(),
            flush_window_max: Duration::from_millis(50),
            batch: BatchConfig::default(),
            deflate: DeflateConfig::default(),
            recovery: RecoveryConfig::default(),
            sessions: SessionConfig::default(),
            rooms: Vec::new(),
            builtins: Builtins::default(),
            drain: DrainConfig::default(),
            inbox_commands_max: 65_536,
            publish_ids_max: 10_000,
            publish_id_ttl: Duration::from_secs(120),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: None,
            sessions_per_user: None,
            connections_per_address: None,
            accepts_per_second: None,
            namespaces_per_connection: 16,
            rooms_per_session: 1_000,
            rooms: 1_000_000,
            name_bytes_max: 256,
            events_per_second: None,
            handlers_in_flight: 64,
            handler_bytes_in_flight: 4 << 20,
            acks_in_flight: 10_000,
        }
    }
}

impl Default for OutboxConfig {
    fn default() -> Self {
        Self {
            soft_bytes: 256 << 10,
            hard_bytes: 1 << 20,
            entries_max: 65_536,
            stall_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            messages_max: 100,
            bytes_max: 64 << 10,
            delay: Duration::from_millis(50),
        }
    }
}

impl Default for DeflateConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            threshold_bytes: 1_024,
            level: 3,
        }
    }
}

impl Default for RecoveryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            window: Duration::from_secs(120),
            ring_bytes_max: 32 << 20,
        }
    }
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            idle_after: Duration::from_secs(60),
            stale_after: Duration::from_secs(300),
            close_stale: false,
            sweep_every: Duration::from_secs(60),
        }
    }
}

impl Default for Builtins {
    fn default() -> Self {
        Self {
            events: ["join", "leave", "publish", "presence", "auth"]
                .map(str::to_owned)
                .to_vec(),
            prefix: String::new(),
        }
    }
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            closes_per_second: 2_000,
            timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// Refuses the first setting outside its range, by name.
    ///
    /// # Errors
    /// [`Error::Setting`] with key, value and allowed range.
    pub fn validate(&self) -> Result<(), Error> {
        let millis = Duration::from_millis;
        let hour = Duration::from_secs(3_600);
        if !self.path.starts_with('/') {
            return Err(setting("path", &self.path, &"a path that starts with /"));
        }
        check("shards", self.shards, 0..=64)?;
        check_time("ping_interval", self.ping_interval, millis(50)..=hour)?;
        check_time("ping_timeout", self.ping_timeout, millis(50)..=hour)?;
        check_time("connect_timeout", self.connect_timeout, millis(10)..=hour)?;
        check_time("upgrade_timeout", self.upgrade_timeout, millis(10)..=hour)?;
        check_time(
            "request_head_timeout",
            self.request_head_timeout,
            millis(10)..=hour,
        )?;
        check("payload_bytes_max", self.payload_bytes_max, 1_024..=1 << 30)?;
        check_time(
            "flush_window_max",
            self.flush_window_max,
            Duration::ZERO..=Duration::from_secs(1),
        )?;
        check("inbox_commands_max", self.inbox_commands_max, 256..=16 << 20)?;
        check("publish_ids_max", self.publish_ids_max, 0..=10_000_000)?;
        self.limits.validate()?;
        check("outbox.soft_bytes", self.outbox.soft_bytes, 1_024..=1 << 30)?;
        check(
            "outbox.hard_bytes",
            self.outbox.hard_bytes,
            self.outbox.soft_bytes..=1 << 30,
        )?;
        check("outbox.entries_max", self.outbox.entries_max, 16..=16 << 20)?;
        check_time(
            "outbox.stall_timeout",
            self.outbox.stall_timeout,
            millis(10)..=hour,
        )?;
        check("batch.messages_max", self.batch.messages_max, 1..=10_000)?;
        check("batch.bytes_max", self.batch.bytes_max, 64..=16 << 20)?;
        check_time(
            "batch.delay",
            self.batch.delay,
            Duration::ZERO..=Duration::from_secs(10),
        )?;
        check("deflate.level", self.deflate.level as usize, 1..=9)?;
        check_time(
            "recovery.window",
            self.recovery.window,
            Duration::from_secs(1)..=24 * hour,
        )?;
        check(
            "recovery.ring_bytes_max",
            self.recovery.ring_bytes_max,
            64 << 10..=64 << 30,
        )?;
        check_time(
            "sessions.sweep_every",
            self.sessions.sweep_every,
            millis(100)..=hour,
        )?;
        check(
            "drain.closes_per_second",
            self.drain.closes_per_second as usize,
            1..=1_000_000,
        )
    }
}

impl Limits {
    fn validate(&self) -> Result<(), Error> {
        check(
            "limits.namespaces_per_connection",
            self.namespaces_per_connection,
            1..=1_000,
        )?;
        check("limits.rooms_per_session", self.rooms_per_session, 1..=100_000)?;
        check("limits.rooms", self.rooms, 1..=1 << 30)?;
        check("limits.name_bytes_max", self.name_bytes_max, 1..=4_096)?;
        check("limits.handlers_in_flight", self.handlers_in_flight, 1..=65_536)?;
        check(
            "limits.handler_bytes_in_flight",
            self.handler_bytes_in_flight,
            1_024..=1 << 30,
        )?;
        check("limits.acks_in_flight", self.acks_in_flight, 1..=1_000_000)
    }
}

fn setting(key: &'static str, value: &dyn ToString, allowed: &dyn ToString) -> Error {
    Error::Setting {
        key,
        value: value.to_string(),
        allowed: allowed.to_string(),
    }
}

fn check(key: &'static str, value: usize, allowed: std::ops::RangeInclusive<usize>) -> Result<(), Error> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(setting(
        key,
        &value,
        &format!("{} to {}", allowed.start(), allowed.end()),
    ))
}

fn check_time(
    key: &'static str,
    value: Duration,
    allowed: std::ops::RangeInclusive<Duration>,
) -> Result<(), Error> {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(setting(
        key,
        &format!("{value:?}"),
        &format!("{:?} to {:?}", allowed.start(), allowed.end()),
    ))
}
