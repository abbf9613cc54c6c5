//! What has to be done every minute: partitions ahead of time, retention, expiry of claims, filling roll-ups.
//!
//! On any number of nodes: each piece of work takes a transaction's advisory lock or leaves the piece to who has it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_flow::{Task, task};

use crate::{
    database::Database,
    error::{Error, Result},
    feed::Feed,
    kind::Kind,
    schema::{
        backfill::Progress,
        catalog::{Live, Shape, read_partitions},
        database::{fill_step, live, now_micros},
        migrate::{LOCK, is_conflict},
        own,
        partition::{self, DELETED_AT_ONCE},
        session::Session,
        sql::{Relation, fnv},
        table::retain_column,
        timescale::{self, Timescale},
    },
};

/// The second number of the lock of each piece of work begins here; a feed's name is mixed in.
const KEEPING: i32 = 2;

/// Deletions in a row for one table in one pass: a backlog is worked off over several, and others get their turn.
const DELETIONS_MAX: u32 = 40;
/// Steps of filling one roll-up in one pass.
const FILL_STEPS_MAX: u32 = 64;

/// How often and for how long.
#[derive(Debug, Clone)]
pub struct Config {
    /// Between two passes; at least 1 s. Each waits up to a fifth longer, so that nodes do not meet.
    pub every: Duration,
    /// How long a claim is kept; at least an hour, and longer than any spool entry may wait. None leaves it to ingest,
    /// which removes claims by its own setting.
    pub keep_claims: Option<Duration>,
}

/// What was done since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Passes that ended.
    pub passes: u64,
    /// Pieces of work that failed; they are tried again in the next pass.
    pub failures: u64,
    /// Pieces of work left to another node.
    pub elsewhere: u64,
    /// Partitions made.
    pub partitions_created: u64,
    /// Partitions dropped because nothing in them was to be kept.
    pub partitions_dropped: u64,
    /// Rows removed because they were too old.
    pub rows_deleted: u64,
    /// Claims removed.
    pub claims_expired: u64,
    /// Steps done in filling roll-ups.
    pub fill_steps: u64,
    /// What the last failure said.
    pub last_failure: Option<String>,
}

/// The task that keeps tables as their feeds say. Dropping it ends it.
pub struct Keeper {
    shared: Arc<Shared>,
    task: Option<Task<()>>,
}

struct Shared {
    database: Database,
    config: Config,
    feeds: Mutex<Arc<[Feed]>>,
    passes: AtomicU64,
    failures: AtomicU64,
    elsewhere: AtomicU64,
    partitions_created: AtomicU64,
    partitions_dropped: AtomicU64,
    rows_deleted: AtomicU64,
    claims_expired: AtomicU64,
    fill_steps: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(60),
            keep_claims: None,
        }
    }
}

impl Config {
    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, the value and what is allowed.
    pub fn check(&self) -> Result<()> {
        let problem = match self {
            Self { every, .. } if *every < Duration::from_secs(1) => format!("every {every:?}: at least 1 s"),
            Self {
                keep_claims: Some(keep),
                ..
            } if *keep < Duration::from_secs(3600) => {
                format!("keep_claims {keep:?}: at least an hour")
            }
            _ => return Ok(()),
        };
        Err(Error::Config {
            what: "keeper".to_owned(),
            problem,
        })
    }
}

// === impl Keeper ===

impl Keeper {
    /// Starts the task on the current runtime; its first pass begins at once.
    ///
    /// # Errors
    /// As [`Config::check`].
    pub fn start(database: Database, feeds: Vec<Feed>, config: Config) -> Result<Self> {
        config.check()?;
        let shared = Arc::new(Shared::new(database, feeds, config));
        let task = task::spawn("store keeper", {
            let shared = shared.clone();
            async move {
                loop {
                    shared.pass().await;
                    tokio::time::sleep(shared.pause()).await;
                }
            }
        });
        Ok(Self {
            shared,
            task: Some(task),
        })
    }

    /// Changes the feeds, from the next piece of work on.
    pub fn set_feeds(&self, feeds: Vec<Feed>) {
        *self.shared.feeds.lock().unwrap_or_else(PoisonError::into_inner) = feeds.into();
    }

    /// Does everything once, now, beside the task.
    ///
    /// # Cancel safety
    /// The piece of work at hand is rolled back.
    pub async fn pass(&self) {
        self.shared.pass().await;
    }

    /// What was done since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Ends the task; the piece of work at hand is rolled back.
    ///
    /// # Cancel safety
    /// The task ends all the same.
    pub async fn finish(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            // It was aborted; that is its only end.
            let _ = task.finish().await;
        }
    }
}

// === impl Shared ===

impl Shared {
    fn new(database: Database, feeds: Vec<Feed>, config: Config) -> Self {
        Self {
            database,
            config,
            feeds: Mutex::new(feeds.into()),
            passes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
            partitions_created: AtomicU64::new(0),
            partitions_dropped: AtomicU64::new(0),
            rows_deleted: AtomicU64::new(0),
            claims_expired: AtomicU64::new(0),
            fill_steps: AtomicU64::new(0),
            last_failure: Mutex::new(None),
        }
    }

    /// The pause after a pass: a fifth of it is chance, taken from the pass's number and this process's clock.
    fn pause(&self) -> Duration {
        let every = self.config.every;
        let seed = self.database.context().clock.wall_ms() ^ u64::from(std::process::id()) << 20;
        every + every.mul_f64(0.2 * f64::from(fnv(&seed.to_le_bytes())) / f64::from(u32::MAX))
    }

    async fn pass(&self) {
        let feeds = self.feeds.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let expired = self.expire_claims().await;
        self.note("claims", expired);
        match live(&self.database, &feeds).await {
            Err(error) => self.note("catalog", Err(error)),
            Ok(live) => {
                for feed in feeds.iter() {
                    let ahead = self.make_partitions(feed, &live).await;
                    self.note(&feed.name, ahead);
                    let kept = self.retain(feed, &live).await;
                    self.note(&feed.name, kept);
                    let filled = self.fill(feed, &live).await;
                    self.note(&feed.name, filled);
                }
            }
        }
        self.passes.fetch_add(1, Relaxed);
    }

    fn note(&self, what: &str, outcome: Result<()>) {
        let Err(error) = outcome else {
            return;
        };
        self.failures.fetch_add(1, Relaxed);
        let text = format!("{what}: {error}");
        let mut last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        // Once for each failure, not once a minute.
        if last.as_deref() != Some(text.as_str()) {
            tracing::warn!(what, %error, "upkeep failed, will be tried again");
        }
        *last = Some(text);
    }

    /// Runs statements in one transaction under the lock of `what`; none if another node has it. Each gives the number of
    /// rows it changed.
    async fn alone(&self, what: &str, statements: &[String]) -> Result<Option<Vec<u64>>> {
        let lock = lock_sql(what);
        let done = self
            .database
            .write(async |transaction| {
                let session = Session::of(transaction)?;
                if session.kind() == Kind::Postgres {
                    if !session.is(&lock).await? {
                        return Ok(None);
                    }
                    // Behind whoever uses the table now; everybody else would queue up behind us.
                    session.run("SET LOCAL lock_timeout = '1s'").await?;
                    session.run(own::LEAVE_SQL).await?;
                }
                let mut changed = Vec::with_capacity(statements.len());
                for sql in statements {
                    changed.push(session.run(sql).await?);
                }
                Ok(Some(changed))
            })
            .await?;
        if done.is_none() {
            self.elsewhere.fetch_add(1, Relaxed);
        }
        Ok(done)
    }

    async fn expire_claims(&self) -> Result<()> {
        let Some(keep) = self.config.keep_claims else {
            return Ok(());
        };
        let sql = [own::expire_claims_sql(self.database.kind(), keep.as_secs())];
        let n_expired = self.repeat_delete("claims", &sql).await?;
        self.claims_expired.fetch_add(n_expired, Relaxed);
        Ok(())
    }

    /// Deletes piece by piece, each in a transaction of its own.
    async fn repeat_delete(&self, what: &str, sql: &[String]) -> Result<u64> {
        let mut n_deleted = 0;
        for _ in 0..DELETIONS_MAX {
            let Some(changed) = self.alone(what, sql).await? else {
                break;
            };
            let n_now: u64 = changed.iter().sum();
            n_deleted += n_now;
            if n_now < DELETED_AT_ONCE {
                break;
            }
        }
        Ok(n_deleted)
    }

    async fn make_partitions(&self, feed: &Feed, live: &Live) -> Result<()> {
        let Some(existing) = live.partitions.get(&feed.table).filter(|_| feed.manage) else {
            return Ok(());
        };
        let wanted = partition::ahead(feed, now_micros(&self.database));
        for range in partition::missing(feed, &wanted, existing) {
            let made = self
                .alone(&feed.table, &partition::create_sql(feed, &range))
                .await;
            match made {
                Ok(made) => self
                    .partitions_created
                    .fetch_add(u64::from(made.is_some()), Relaxed),
                // Whoever made it meanwhile did our work.
                Err(error) if is_conflict(&error) => self.elsewhere.fetch_add(1, Relaxed),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    async fn retain(&self, feed: &Feed, live: &Live) -> Result<()> {
        let (Some(retain), Some(column)) = (feed.retain, retain_column(feed)?) else {
            return Ok(());
        };
        let Some(there) = live.tables.get(&feed.table) else {
            return Ok(());
        };
        if live.timescale.takes(feed) {
            // With the full licence a policy of TimescaleDB does it.
            let drop = timescale::drop_sql(feed).filter(|_| live.timescale == Timescale::Apache);
            return match drop {
                Some(sql) => self.alone(&feed.table, &[sql]).await.map(|_| ()),
                None => Ok(()),
            };
        }
        let now = now_micros(&self.database);
        let existing = live.partitions.get(&feed.table);
        match (there.shape, existing) {
            (Shape::Partitioned, Some(existing)) if feed.manage => {
                self.drop_partitions(feed, existing, now).await
            }
            (Shape::Table, _) => {
                let table = Relation::parse(&feed.table)?;
                let cutoff = now - retain.as_micros() as i64;
                let sql = [partition::delete_sql(live.kind, &table, column, cutoff)];
                let n_deleted = self.repeat_delete(&feed.table, &sql).await?;
                self.rows_deleted.fetch_add(n_deleted, Relaxed);
                Ok(())
            }
            // Partitions that are not ours: whoever made them drops them.
            _ => Ok(()),
        }
    }

    async fn drop_partitions(&self, feed: &Feed, existing: &[partition::Range], now: i64) -> Result<()> {
        for range in partition::expired(feed, existing, now) {
            let dropped = self.alone(&feed.table, &[partition::drop_sql(range)]).await;
            match dropped {
                Ok(dropped) => self
                    .partitions_dropped
                    .fetch_add(u64::from(dropped.is_some()), Relaxed),
                // Another node dropped it already.
                Err(error) if error.sqlstate() == Some("42P01") => self.elsewhere.fetch_add(1, Relaxed),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    async fn fill(&self, feed: &Feed, live: &Live) -> Result<()> {
        for rollup in &feed.rollups {
            let is_complete = live
                .rollups
                .get(&rollup.table)
                .is_none_or(|made| made.is_complete);
            let there = live.tables.get(&rollup.table);
            // A continuous aggregate fills itself.
            if is_complete || there.is_none_or(|there| there.shape == Shape::View) {
                continue;
            }
            for _ in 0..FILL_STEPS_MAX {
                let progress = fill_step(&self.database, feed, rollup).await?;
                self.fill_steps
                    .fetch_add(u64::from(progress != Progress::Elsewhere), Relaxed);
                if progress != Progress::More {
                    break;
                }
            }
        }
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats {
            passes: self.passes.load(Relaxed),
            failures: self.failures.load(Relaxed),
            elsewhere: self.elsewhere.load(Relaxed),
            partitions_created: self.partitions_created.load(Relaxed),
            partitions_dropped: self.partitions_dropped.load(Relaxed),
            rows_deleted: self.rows_deleted.load(Relaxed),
            claims_expired: self.claims_expired.load(Relaxed),
            fill_steps: self.fill_steps.load(Relaxed),
            last_failure: self
                .last_failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

/// Tries to take the lock of a piece of work, such as a feed's table, until the transaction ends.
pub(crate) fn lock_sql(what: &str) -> String {
    format!(
        "SELECT pg_try_advisory_xact_lock({LOCK}, {})",
        (fnv(what.as_bytes()) as i32).wrapping_add(KEEPING)
    )
}

/// Makes the partitions that rows of these times need and that are missing; for rows the database refused with SQLSTATE
/// 23514 because no partition takes them. Returns how many were made; others may be making the same.
///
/// # Errors
/// [`Error::TooLarge`] for more than [`partition::COVERING_MAX`] partitions; what the database says.
///
/// # Cancel safety
/// The partition at hand is rolled back, those before it stay.
pub async fn make_partitions_for(
    database: &Database,
    feed: &Feed,
    times_micros: impl IntoIterator<Item = i64>,
) -> Result<usize> {
    let wanted = partition::covering(feed, times_micros, now_micros(database))?;
    let mut n_made = 0;
    for range in wanted {
        let made = database
            .write(async |transaction| {
                let session = Session::of(transaction)?;
                let existing = read_partitions(session, feed).await?;
                let missing = partition::missing(feed, std::slice::from_ref(&range), &existing);
                session.run("SET LOCAL lock_timeout = '5s'").await?;
                session.run(own::LEAVE_SQL).await?;
                for gap in &missing {
                    for sql in partition::create_sql(feed, gap) {
                        session.run(&sql).await?;
                    }
                }
                Ok(missing.len())
            })
            .await;
        n_made += match made {
            Ok(made) => made,
            Err(error) if is_conflict(&error) => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(n_made)
}
