//! Rows on their way in: validated, claimed, stored in batches exactly once, and told about.
//!
//! ```text
//! submit ─▶ row::Reader ─▶ chunks of 1,000 ─▶ Backlog (50,000 rows) ─▶ queue of the feed ─▶ writers ─▶ backend::commit
//!              │ rejected                                                                   │ away
//!              ▼                                                                            ▼
//!            answer ◀────────────── outcome of each chunk ◀──────────────────────────── spool ─▶ replay
//! ```
//!
//! A chunk is claimed in the transaction that stores its rows: whoever sends it again, before or after, here or through
//! another node, gets the recorded outcome. See [`Outcome`] for what an answer means.

mod backend;
mod backlog;
mod config;
pub mod dead_letter;
mod declaration;
mod figures;
mod flight;
mod fold;
mod hooks;
mod lane;
mod outcome;
#[cfg(feature = "postgres")]
mod postgres;
mod queue;
mod quota;
mod relief;
mod request;
#[cfg(feature = "spool")]
mod spooling;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(test)]
mod testing;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tidegate_flow::task::Group;
use tidegate_vitals::{Histogram, Id, Level, Shed, profiled};
use tokio::sync::Notify;
use tokio::time::timeout;

use self::backend::{Chunk, Failure, Method, Plan, Settled};
use self::backlog::Backlog;
use self::lane::Lane;
use crate::database::{Context, Database};
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::relief::{Account, Reaction, Relieved};
use crate::schema::own;

pub use config::Config;
pub use hooks::Hooks;
pub(crate) use hooks::write_tag;
pub use outcome::{DeadRow, LIST_MAX, Outcome, State};
#[cfg(feature = "postgres")]
pub use postgres::copy;
pub use relief::ReliefStats;
pub use request::{ID_BYTES_MAX, PRINCIPAL_BYTES_MAX, Request, Rows};

/// Takes rows in. Clones are the same one.
#[derive(Clone)]
pub struct Ingest(Arc<Shared>);

/// What all feeds share.
pub(crate) struct Shared {
    database: Database,
    backend: Backend,
    config: Config,
    hooks: Hooks,
    context: Context,
    #[cfg(feature = "spool")]
    spool: Option<crate::spool::Spool>,
    backlog: Backlog,
    /// Pays for rows that wait.
    account: Account,
    /// Pays for rows that come back from the spool.
    #[cfg(feature = "spool")]
    replay: Account,
    spare: Relieved,
    lanes: RwLock<BTreeMap<String, Arc<Lane>>>,
    group: Group,
    is_stopping: AtomicBool,
    stop: Notify,
    ack: Histogram,
}

/// One arm per database; see [`backend`] for what each must do.
enum Backend {
    #[cfg(feature = "postgres")]
    Postgres(postgres::Writer),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::Writer),
}

/// Figures of the way in at one moment.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Stats {
    /// Rows that wait to be stored.
    pub backlog_rows: usize,
    /// Most rows that may wait.
    pub backlog_rows_max: usize,
    /// Whether four fifths of that were reached and half was not since.
    pub is_backlog_alert: bool,
    /// What memory pressure takes of that.
    pub relief: ReliefStats,
    /// Feeds by name.
    pub feeds: Vec<FeedStats>,
    /// What waits on disk.
    #[cfg(feature = "spool")]
    pub spool: Option<crate::spool::Stats>,
}

/// Figures of one feed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FeedStats {
    /// Its name.
    pub feed: String,
    /// Rows in its queue.
    pub waiting_rows: usize,
    /// Whether new rows go to the spool, because older ones are there.
    pub is_spooling: bool,
    /// Why it is suspended.
    pub suspended: Option<String>,
    /// Rows stored or changed since the start.
    pub stored: u64,
    /// Rows whose key was there already.
    pub duplicates: u64,
    /// Rows that did not fit the feed.
    pub rejected: u64,
    /// Rows that were spooled.
    pub spooled: u64,
}

/// How often claims that are too old are removed.
const EXPIRE_EVERY: Duration = Duration::from_secs(3_600);

// === impl Ingest ===

impl Ingest {
    /// Starts taking rows for `feeds`. A database that is away is no reason to fail: rows wait, or go to the spool.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting or a feed that is not sound, two feeds of one name, or a spool that cannot be
    /// opened.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing running.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(
        database: Database,
        feeds: Vec<Feed>,
        config: Config,
        hooks: Hooks,
        context: Context,
    ) -> Result<Self> {
        config.check()?;
        let backend = Backend::of(&database);
        let plans = plans(feeds)?;
        let refused = Relieved::new(&context.registry, Reaction::Refuse);
        #[cfg(feature = "spool")]
        let spool = open_spool(&config, &context).await?;
        let registry = &context.registry;
        let gauge = registry.gauge(Id::StoreIngestBacklog, &[]);
        let shared = Arc::new(Shared {
            backlog: Backlog::new(config.backlog_rows_max, gauge, refused),
            account: Account::rows(&context),
            #[cfg(feature = "spool")]
            replay: Account::spool(&context),
            spare: Relieved::new(registry, Reaction::Spare),
            ack: registry.histogram(Id::StoreIngestAck, &[]),
            database,
            backend,
            config,
            hooks,
            context,
            #[cfg(feature = "spool")]
            spool,
            lanes: RwLock::default(),
            group: Group::new(),
            is_stopping: AtomicBool::new(false),
            stop: Notify::new(),
        });
        for plan in plans {
            shared.open_lane(plan).await?;
        }
        shared
            .group
            .spawn("store-ingest-claims", expire(Arc::clone(&shared)));
        Ok(Self(shared))
    }

    /// Declares the feeds anew. Rows that were taken in before are stored as they were declared then; feeds that are not
    /// declared any more take no new rows. A suspended feed is tried again at once.
    ///
    /// # Errors
    /// [`Error::Config`] for a feed that is not sound; then all stays as it was.
    ///
    /// # Cancel safety
    /// Dropped, some feeds may be declared anew and others not.
    pub async fn set_feeds(&self, feeds: Vec<Feed>) -> Result<()> {
        let shared = &self.0;
        let plans = plans(feeds)?;
        let names: HashSet<String> = plans.iter().map(|plan| plan.feed.name.clone()).collect();
        shared.backend.forget_all();
        for plan in plans {
            match shared.lane(&plan.feed.name) {
                Some(lane) => lane.set_plan(plan),
                None => shared.open_lane(plan).await?,
            }
        }
        let mut lanes = shared.lanes.write().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|name, lane| {
            let is_kept = names.contains(name);
            if !is_kept {
                lane.queue.close();
            }
            is_kept
        });
        Ok(())
    }

    /// The feeds as they are declared now, by name.
    #[must_use]
    pub fn feeds(&self) -> Vec<Feed> {
        let lanes = self.0.lanes.read().unwrap_or_else(PoisonError::into_inner);
        lanes.values().map(|lane| lane.plan().feed.clone()).collect()
    }

    /// Compares a feed with its table: the table, each column with its type, nulls, the key, the privileges. A feed that
    /// was suspended and is well now takes rows again.
    ///
    /// # Errors
    /// [`Error::Config`] naming everything that does not fit, [`Error::UnknownFeed`], or why the database could not be
    /// asked.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn validate(&self, feed: &str) -> Result<()> {
        let lane = self
            .0
            .lane(feed)
            .ok_or_else(|| Error::UnknownFeed(feed.to_owned()))?;
        self.0.backend.validate(&lane.plan()).await?;
        lane.resume();
        Ok(())
    }

    /// Figures of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.0;
        let lanes = shared.lanes.read().unwrap_or_else(PoisonError::into_inner);
        let feed = |lane: &Arc<Lane>| FeedStats {
            feed: lane.name.clone(),
            waiting_rows: lane.queue.n_rows(),
            is_spooling: lane.is_spooling.load(Relaxed),
            suspended: lane.suspension().map(|suspension| suspension.reason),
            stored: lane.figures.stored.get(),
            duplicates: lane.figures.duplicates.get(),
            rejected: lane.figures.rejected.get(),
            spooled: lane.figures.spooled.get(),
        };
        Stats {
            backlog_rows: shared.backlog.rows(),
            backlog_rows_max: shared.backlog.rows_max(),
            is_backlog_alert: shared.backlog.is_alerted(),
            relief: shared.relief_stats(),
            feeds: lanes.values().map(feed).collect(),
            #[cfg(feature = "spool")]
            spool: shared.spool.as_ref().map(crate::spool::Spool::stats),
        }
    }

    /// What gives memory back when it is short: rows are stored without delay from moderate on, fewer and fewer may wait
    /// at high, and none are taken in at critical. What is acknowledged is never touched. It does nothing once this is
    /// gone.
    #[must_use]
    pub fn shed(&self) -> Arc<dyn Shed> {
        Arc::new(relief::Relief::new(&self.0))
    }

    /// The spool, where one is configured.
    #[cfg(feature = "spool")]
    #[must_use]
    pub fn spool(&self) -> Option<&crate::spool::Spool> {
        self.0.spool.as_ref()
    }

    /// Takes no more rows, stores what waits or puts it into the spool, and ends.
    ///
    /// # Errors
    /// [`Error::Timeout`] when that took longer than `limit`; rows that were not stored by then are not acknowledged.
    ///
    /// # Cancel safety
    /// Dropping the future gives up what is not stored yet.
    pub async fn finish(&self, limit: Duration) -> Result<()> {
        let shared = &self.0;
        shared.is_stopping.store(true, Relaxed);
        shared.stop.notify_waiters();
        for lane in shared
            .lanes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
        {
            lane.queue.close();
        }
        shared
            .group
            .finish(limit)
            .await
            .map_err(|unfinished| Error::Timeout {
                what: unfinished.to_string(),
                after: limit,
            })
    }
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ingest").field("stats", &self.stats()).finish()
    }
}

fn plans(feeds: Vec<Feed>) -> Result<Vec<Arc<Plan>>> {
    let mut names = HashSet::new();
    let twice = feeds.iter().find(|feed| !names.insert(feed.name.as_str()));
    if let Some(feed) = twice {
        return Err(Error::Config {
            what: format!("feed {}", feed.name),
            problem: "declared twice".to_owned(),
        });
    }
    feeds
        .into_iter()
        .map(|feed| Plan::new(feed).map(Arc::new))
        .collect()
}

#[cfg(feature = "spool")]
async fn open_spool(config: &Config, context: &Context) -> Result<Option<crate::spool::Spool>> {
    let Some(config) = config.spool.clone() else {
        return Ok(None);
    };
    let context = context.clone();
    let opened = tokio::task::spawn_blocking(move || crate::spool::Spool::open(config, &context));
    match opened.await {
        Ok(opened) => opened.map(Some),
        Err(_) => Err(Error::Io {
            what: "opening the spool".to_owned(),
            message: "the process is ending".to_owned(),
        }),
    }
}

// === impl Shared ===

impl Shared {
    fn lane(&self, feed: &str) -> Option<Arc<Lane>> {
        // Feeds are put in and taken out whole.
        let lanes = self.lanes.read().unwrap_or_else(PoisonError::into_inner);
        lanes.get(feed).map(Arc::clone)
    }

    async fn open_lane(self: &Arc<Self>, plan: Arc<Plan>) -> Result<()> {
        let lane = Arc::new(Lane::new(self, plan));
        lane.queue.hurry(self.backlog.level() >= Level::Moderate);
        #[cfg(feature = "spool")]
        if let Some(spool) = &self.spool
            && spooling::recall(spool, &lane).await?
        {
            let _gate = lane.gate.lock().await;
            spooling::begin(self, &lane);
        }
        for _ in 0..self.config.writers {
            self.group.spawn(
                "store-ingest-writer",
                lane::write(Arc::clone(self), Arc::clone(&lane)),
            );
        }
        let name = lane.name.clone();
        self.lanes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, lane);
        Ok(())
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Relaxed)
    }

    /// Waits; not longer than until the store is closing.
    pub(crate) async fn pause(&self, pause: Duration) {
        let mut stopped = std::pin::pin!(self.stop.notified());
        stopped.as_mut().enable();
        if !self.is_stopping() {
            // Whether it is time or the end, the caller looks again.
            let _ = timeout(pause, stopped).await;
        }
    }

    /// Commits once. Bounded, so that a connection that says nothing cannot hold a feed for ever.
    #[profiled(name = "store::ingest::commit")]
    async fn commit(
        &self,
        plan: &Plan,
        chunks: &[&Chunk],
    ) -> std::result::Result<(Vec<Settled>, Method), Failure> {
        let limit = self.config.commit_timeout;
        let committed = timeout(limit, self.backend.commit(plan, chunks, self.config.patience)).await;
        committed.unwrap_or_else(|_| {
            Err(Failure::Again(Error::Timeout {
                what: format!("commit of feed {}", plan.feed.name),
                after: limit,
            }))
        })
    }

    /// How long claims must be kept: as long as one may be sent again, or waits in the spool.
    fn claims_keep(&self) -> Duration {
        let keep = self.config.claims_keep;
        #[cfg(feature = "spool")]
        if let Some(age_ms) = self.spool.as_ref().and_then(|spool| spool.stats().oldest_age_ms) {
            return keep.max(Duration::from_millis(age_ms) + Duration::from_secs(86_400));
        }
        keep
    }
}

/// Removes claims that are too old, a few thousand at a time.
async fn expire(shared: Arc<Shared>) {
    loop {
        shared.pause(EXPIRE_EVERY).await;
        if shared.is_stopping() {
            return;
        }
        let sql = own::expire_claims_sql(shared.database.kind(), shared.claims_keep().as_secs());
        loop {
            let removed = shared
                .database
                .write(async |transaction| transaction.execute(&sql, &[]).await);
            match removed.await {
                Ok(0) => break,
                Ok(_) if shared.is_stopping() => break,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "old claims not removed");
                    break;
                }
            }
        }
    }
}

// === impl Backend ===

impl Backend {
    fn of(database: &Database) -> Self {
        #[cfg(feature = "postgres")]
        if let Some(pool) = database.postgres() {
            let (monitor, context) = (database.monitor().clone(), database.context().clone());
            let writer = postgres::Writer::new(pool.clone(), monitor, context);
            return Self::Postgres(writer);
        }
        #[cfg(feature = "sqlite")]
        if let Some(pool) = database.sqlite() {
            let writer = sqlite::Writer::new(pool.clone(), database.monitor().clone());
            return Self::Sqlite(writer);
        }
        unreachable!("{} has no arm here", database.kind())
    }

    async fn commit(
        &self,
        plan: &Plan,
        chunks: &[&Chunk],
        patience: Duration,
    ) -> std::result::Result<(Vec<Settled>, Method), Failure> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(writer) => writer.commit(plan, chunks, patience).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(writer) => writer.commit(plan, chunks, patience).await,
        }
    }

    async fn validate(&self, plan: &Plan) -> Result<()> {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(writer) => writer.validate(plan).await,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(writer) => writer.validate(plan).await,
        }
    }

    fn forget_all(&self) {
        match self {
            #[cfg(feature = "postgres")]
            Self::Postgres(writer) => writer.forget_all(),
            #[cfg(feature = "sqlite")]
            Self::Sqlite(_) => {}
        }
    }
}
