//! The way of publishers through Redis or Valkey: code that speaks to a Socket.IO server there speaks to this one unchanged.
//!
//! ```text
//! channels ─▶ subscriber ─┐                                    ┌─▶ gateway: publish, join, leave, disconnect
//!                         ├─▶ formats: bytes ─▶ Ask ─▶ desk ───┤
//! streams ──▶ reader ─────┘        └─▶ Refused, counted        └─▶ no place: wait, and do not read on
//! ```
//!
//! Two connections, each read by one task and only as fast as the gateway takes what comes. Nothing is ever written but
//! subscriptions and reads. Redis away is a degraded state, shown and left by itself; nobody else waits for it.

mod desk;
mod figures;
pub mod formats;
mod link;
mod resp;
mod streams;
mod subscriber;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_flow::task::{self, Task};
use tidegate_gateway::Gateway;
use tidegate_vitals::{Class, Clock, Full, Guard, Ledger, Registry};

use crate::settings::BridgeConfig;
use desk::{Desk, Patience};
use figures::Figures;
pub(crate) use figures::Link;
use formats::{Format, Reason, Refused};
use link::Address;

/// Redis from which sharded pub/sub is there.
const SHARDED_SINCE: u32 = 7;
/// Messages up to this are read without being charged for: many come, one is read at a time.
const UNPAID_BYTES: usize = 4 << 10;
/// A message as JSON, which may be longer than its MessagePack, its arguments, and those as the gateway takes them.
const READING_TIMES: usize = 8;

/// A running bridge; it ends with [`Bridge::finish`], or dropped.
pub(crate) struct Bridge {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<Task<()>>>,
}

/// What both connections stand on.
struct Shared {
    config: BridgeConfig,
    address: Address,
    namespaces: Vec<String>,
    /// Patterns of the classic channels, glob characters in the key escaped.
    broadcasts: String,
    requests: String,
    ledger: Ledger,
    figures: Arc<Figures>,
    state: Mutex<[State; Link::ALL.len()]>,
    /// Channels that Redis did not grant to the connection that stands.
    channels_refused: AtomicUsize,
}

/// Whether a connection stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// It is being made for the first time.
    #[default]
    Starting,
    /// Everything is heard, or read.
    Up,
    /// Lost, or never made; it is tried again. Why.
    Away(String),
}

// === impl Bridge ===

impl Bridge {
    /// Begins to connect; waits for nothing.
    ///
    /// # Panics
    /// At an address that [`check_address`] refuses.
    pub(crate) fn start(
        config: BridgeConfig,
        gateway: &Gateway,
        (clock, registry, ledger): (Clock, &Registry, &Ledger),
    ) -> Self {
        let figures = Arc::new(Figures::new(registry, clock));
        let pattern = |prefix: &str| format!("{}#*", escaped(prefix));
        let shared = Arc::new(Shared {
            address: Address::parse(&config.url).expect("the address was checked"),
            namespaces: gateway.namespaces(),
            broadcasts: pattern(&config.key),
            requests: pattern(&format!("{}-request", config.key)),
            ledger: ledger.clone(),
            figures: Arc::clone(&figures),
            state: Mutex::default(),
            channels_refused: AtomicUsize::new(0),
            config,
        });
        let desk = |patience| Desk::new(gateway.publisher(), Arc::clone(&figures), patience);
        let config = &shared.config;
        let mut tasks = Vec::new();
        if config.uses(Link::PubSub) {
            let rooms = (config.hears(Format::Sharded) && config.follow_rooms).then(|| gateway.watch_rooms());
            let desk = desk(Patience::Until(config.wait));
            let run = subscriber::run(Arc::clone(&shared), desk, rooms);
            tasks.push(task::spawn("bridge-pubsub", run));
        }
        if config.uses(Link::Streams) {
            let run = streams::run(Arc::clone(&shared), desk(Patience::Always));
            tasks.push(task::spawn("bridge-streams", run));
        }
        Self {
            shared,
            tasks: Mutex::new(tasks),
        }
    }

    /// Which connections there are, and how they are.
    pub(crate) fn states(&self) -> Vec<(Link, State)> {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let links = Link::ALL
            .into_iter()
            .filter(|link| self.shared.config.uses(*link));
        links.map(|link| (link, state[link as usize].clone())).collect()
    }

    /// Whether all of them stand.
    pub(crate) fn is_up(&self) -> bool {
        self.states().iter().all(|(_, state)| *state == State::Up)
    }

    /// Channels that Redis does not grant: an old server, or one with access rules.
    pub(crate) fn channels_refused(&self) -> usize {
        self.shared.channels_refused.load(Relaxed)
    }

    pub(crate) fn config(&self) -> &BridgeConfig {
        &self.shared.config
    }

    /// Reads no more.
    pub(crate) fn finish(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }
}

/// Opens a connection, asks Redis what it is, and closes it.
///
/// # Errors
/// What Redis or the system answered.
///
/// # Cancel safety
/// Dropped, the connection ends.
pub(crate) async fn reach(config: &BridgeConfig) -> io::Result<Reached> {
    const INFO_BYTES_MAX: usize = 64 << 10;
    const TIMEOUT: Duration = Duration::from_secs(5);
    let address = Address::parse(&config.url).map_err(io::Error::other)?;
    let version = tokio::time::timeout(TIMEOUT, async {
        let ledger = Ledger::new(INFO_BYTES_MAX as u64);
        let mut connection = address.connect(&ledger, INFO_BYTES_MAX).await?;
        connection.version().await
    });
    let version = version
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    Ok(Reached {
        version,
        is_too_old: version < SHARDED_SINCE && config.hears(Format::Sharded),
    })
}

/// What [`reach`] found.
pub(crate) struct Reached {
    /// Major version.
    pub(crate) version: u32,
    /// Sharded pub/sub is asked for and not there.
    pub(crate) is_too_old: bool,
}

/// An address that can be used.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check_address(url: &str) -> Result<(), String> {
    Address::parse(url).map(drop)
}

/// A name in a pattern of Redis.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for letter in name.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            out.push('\\');
        }
        out.push(letter);
    }
    out
}

// === impl Shared ===

impl Shared {
    async fn connect(&self) -> io::Result<link::Connection> {
        let max = self.config.message_bytes_max;
        self.address.connect(&self.ledger, max).await
    }

    /// The channel of a namespace that sharded adapters share.
    fn channel(&self, namespace: &str) -> String {
        format!("{}#{namespace}#", self.config.channel_prefix)
    }

    /// Pays for the copies of a message that it takes to understand it, for as long as that lasts.
    fn pay_reading(&self, bytes: usize) -> Result<Option<Guard>, Refused> {
        if bytes <= UNPAID_BYTES {
            return Ok(None);
        }
        let guard = self.ledger.reserve(Class::ReadBuffers, READING_TIMES * bytes);
        let no_memory = |error: Full| Refused::new(Reason::Memory, error.to_string());
        guard.map(Some).map_err(no_memory)
    }

    fn up(&self, link: Link) {
        self.set(link, State::Up);
        self.figures.up(link);
        tracing::info!(link = link.as_str(), "redis is heard");
    }

    /// A connection was lost or not made; logged when that is new.
    fn lost(&self, link: Link, error: &io::Error) {
        self.figures.down(link);
        if link == Link::PubSub {
            self.figures.rooms.set(0);
        }
        if let State::Starting | State::Up = self.set(link, State::Away(error.to_string())) {
            tracing::warn!(link = link.as_str(), %error, "redis is away and tried again");
        }
    }

    fn set(&self, link: Link, state: State) -> State {
        let mut states = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut states[link as usize], state)
    }
}
