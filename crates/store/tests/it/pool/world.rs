//! A scripted database server for the tests of the pool.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tidegate_store::pool::{Config, Connector, Pool};
use tidegate_store::{Error, error::Result};
use tidegate_vitals::{Clock, Registry};
use tokio::time::{Instant, sleep};

/// A server with its connections; clones are the same.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<Server>>);

/// How a round trip ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Works,
    Fails,
    Never,
}

pub(crate) struct Server {
    /// What a dial says instead of connecting: a message, and a SQLSTATE if the server answers.
    pub(crate) refuses: Option<(&'static str, Option<&'static str>)>,
    pub(crate) connect_ms: u64,
    pub(crate) check: Answer,
    pub(crate) drain: Answer,
    pub(crate) drain_ms: u64,
    /// When each dial began.
    pub(crate) dials: Vec<Instant>,
    pub(crate) dialing: usize,
    pub(crate) dialing_max: usize,
    pub(crate) open: BTreeSet<u64>,
    pub(crate) open_max: usize,
    /// Connections whose socket is closed.
    pub(crate) dead: BTreeSet<u64>,
    pub(crate) checks: usize,
    pub(crate) drains: usize,
    next: u64,
}

pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) is_dirty: bool,
    world: World,
}

impl World {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Server {
            refuses: None,
            connect_ms: 1,
            check: Answer::Works,
            drain: Answer::Works,
            drain_ms: 1,
            dials: Vec::new(),
            dialing: 0,
            dialing_max: 0,
            open: BTreeSet::new(),
            open_max: 0,
            dead: BTreeSet::new(),
            checks: 0,
            drains: 0,
            next: 0,
        })))
    }

    pub(crate) fn server(&self) -> MutexGuard<'_, Server> {
        self.0.lock().unwrap()
    }

    /// The server goes away: every connection is dead, dials are refused.
    pub(crate) fn crash(&self) {
        let mut server = self.server();
        server.refuses = Some(("connection refused", None));
        let open = server.open.clone();
        server.dead.extend(open);
    }

    pub(crate) fn start(&self) {
        self.server().refuses = None;
    }

    pub(crate) fn n_open(&self) -> usize {
        self.server().open.len()
    }

    pub(crate) fn pool(&self, config: Config) -> Pool<World> {
        Pool::start(self.clone(), config, Clock::real(), &Registry::new()).unwrap()
    }

    fn is_dead(&self, id: u64) -> bool {
        self.server().dead.contains(&id)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut server = self.world.server();
        server.open.remove(&self.id);
        server.dead.remove(&self.id);
    }
}

/// Counts a dial as under way until it ends or is dropped.
struct Dial<'a>(&'a World);

impl Drop for Dial<'_> {
    fn drop(&mut self) {
        self.0.server().dialing -= 1;
    }
}

async fn answer(answer: Answer) -> Result<()> {
    match answer {
        Answer::Works => Ok(()),
        Answer::Fails => Err(Error::Lost("reset by peer".into())),
        Answer::Never => std::future::pending().await,
    }
}

impl Connector for World {
    type Connection = Connection;

    async fn connect(&self) -> Result<Connection> {
        let (_dial, pause) = {
            let mut server = self.server();
            server.dials.push(Instant::now());
            server.dialing += 1;
            server.dialing_max = server.dialing_max.max(server.dialing);
            (Dial(self), server.connect_ms)
        };
        if pause > 0 {
            sleep(Duration::from_millis(pause)).await;
        }
        let mut server = self.server();
        if let Some((message, sqlstate)) = server.refuses {
            return Err(Error::Connect {
                target: self.target().to_owned(),
                message: message.to_owned(),
                sqlstate: sqlstate.map(str::to_owned),
            });
        }
        server.next += 1;
        let id = server.next;
        server.open.insert(id);
        server.open_max = server.open_max.max(server.open.len());
        Ok(Connection {
            id,
            is_dirty: false,
            world: self.clone(),
        })
    }

    fn is_usable(&self, connection: &Connection) -> bool {
        !self.is_dead(connection.id)
    }

    async fn check(&self, connection: &mut Connection) -> Result<()> {
        let how = {
            let mut server = self.server();
            server.checks += 1;
            if server.dead.contains(&connection.id) {
                Answer::Fails
            } else {
                server.check
            }
        };
        tokio::task::yield_now().await;
        answer(how).await
    }

    fn needs_drain(&self, connection: &Connection) -> bool {
        connection.is_dirty
    }

    async fn drain(&self, connection: &mut Connection) -> Result<()> {
        let (how, pause) = {
            let mut server = self.server();
            server.drains += 1;
            (server.drain, server.drain_ms)
        };
        if pause > 0 {
            sleep(Duration::from_millis(pause)).await;
        }
        answer(how).await?;
        connection.is_dirty = false;
        Ok(())
    }

    fn target(&self) -> &str {
        "db:5432/market"
    }
}
