//! Rows that wait on this node's disk while the database is away: one log per feed under one folder.
//!
//! ```text
//! append ─▶ waiting ─▶ one thread per busy feed: write all, fsync once ─▶ answers
//!                                 └─ dir/<feed>/…seg ─▶ next ─▶ (database) ─▶ done
//! ```
//!
//! A record that was answered is on the disk. It comes back from [`Spool::next`], after a restart too, until it is done;
//! its claim makes it harmless if it comes twice. One bound on bytes holds for all feeds; when it or the disk is full,
//! appending fails and nothing is lost.

mod budget;
mod config;
mod error;
mod export;
mod line;
mod meters;
mod record;
mod stats;

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidegate_seglog::{Lock, disk::Disk};
use tidegate_vitals::{Class, Guard, Id};
use tokio::task::spawn_blocking;

use crate::database::Context;
use crate::error::{Error, Result};
use crate::relief::Account;
use budget::Budget;
use line::{Line, Shared};
use meters::Meters;

pub use config::Config;
pub use export::{export, list};
pub use record::{Claim, ID_BYTES_MAX, PRINCIPAL_BYTES_MAX, Record};
pub use stats::{FeedStats, Stats};

/// A place in a feed's spool: just behind a record that [`Spool::next`] gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(tidegate_seglog::Position);

/// The spool of a node. Clones are the same spool.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    disk: Disk,
    /// By feed; bounded by `feeds_max`. A feed stays once it has spooled.
    lines: Mutex<BTreeMap<String, Arc<Line>>>,
    _lock: Lock,
}

// === impl Spool ===

impl Spool {
    /// Opens the spool, reads what waits and takes the folder for this process. Blocks on the disk: about a second for
    /// each GiB that waits.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting out of range, a folder in memory or one that another process holds;
    /// [`Error::Io`] when the disk fails.
    pub fn open(config: Config, context: &Context) -> Result<Self> {
        let registry = &context.registry;
        config.check()?;
        let lock = Lock::take(&config.dir).map_err(error::of_log)?;
        let disk = Disk::of(&config.dir).map_err(|error| error::of_path(&config.dir, &error))?;
        if disk == Disk::Memory && !config.allow_tmpfs {
            return Err(Error::Config {
                what: format!("spool folder {}", config.dir.display()),
                problem: "lies in memory (tmpfs), so rows acknowledged as spooled would not survive a restart of the \
                          machine; give a folder on a disk"
                    .to_owned(),
            });
        }
        let gauge = registry.gauge(Id::StoreSpoolBytes, &[]);
        let shared = Shared {
            budget: Budget::new(config.bytes_max, gauge),
            meters: Meters::new(registry),
            account: Account::spool(context),
            clock: context.clock.clone(),
            config,
        };
        let feeds = export::feeds(&shared.config.dir)?;
        let (n_feeds, limit) = (feeds.len(), shared.config.feeds_max);
        if n_feeds > limit {
            return Err(too_many_feeds(n_feeds, limit));
        }
        let mut lines = BTreeMap::new();
        for feed in feeds {
            let line = Line::recover(&feed, &shared)?;
            lines.insert(feed, Arc::new(line));
        }
        let spool = Self(Arc::new(Inner {
            shared: Arc::new(shared),
            disk,
            lines: Mutex::new(lines),
            _lock: lock,
        }));
        spool.record();
        Ok(spool)
    }

    /// Puts a record behind those of its feed; returns when it is on the disk. Many calls share one fsync.
    ///
    /// # Errors
    /// [`Error::SpoolFull`], [`Error::NoMemory`], [`Error::BacklogFull`] when the disk does not keep up, [`Error::TooLarge`], or
    /// [`Error::Io`] when the disk failed or is full: then the record is not in the spool, and all that were answered
    /// are.
    ///
    /// # Cancel safety
    /// A call that is dropped may or may not spool the record.
    pub async fn append(&self, feed: &str, record: Record) -> Result<()> {
        let nothing = self.0.shared.account.empty();
        self.append_paid(feed, record, nothing).await
    }

    /// The same with memory that was paid before, for what is to be written.
    pub(crate) async fn append_paid(&self, feed: &str, record: Record, mut paid: Guard) -> Result<()> {
        paid.move_to(Class::Spool);
        let (size, limit) = (record.rows.len(), self.0.shared.config.record_bytes_max);
        if size > limit {
            return Err(Error::TooLarge {
                what: "rows of a spooled chunk".to_owned(),
                size: size as u64,
                limit: limit as u64,
            });
        }
        let line = self.line_for(feed)?;
        let (answered, must_start) = line.enqueue(&record, paid, &self.0.shared)?;
        if must_start {
            // It ends by itself as soon as nothing waits, and holds the spool until then.
            let inner = Arc::clone(&self.0);
            drop(spawn_blocking(move || line.commit(&inner.shared)));
        }
        drop(record);
        match answered.await {
            Ok(result) => result,
            Err(_) => Err(error::io_error("the process is ending".to_owned())),
        }
    }

    /// Whether nothing of `feed` waits, neither on the disk nor for its fsync.
    #[must_use]
    pub fn is_empty(&self, feed: &str) -> bool {
        self.line(feed).is_none_or(|line| line.is_empty())
    }

    /// The oldest record of `feed` that is not done; the same one until it is. The position is for [`Spool::done`].
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails; [`Error::Config`] when the record is whole but of a version that this one
    /// does not know: it is kept, and the feed's replay stops there.
    ///
    /// # Cancel safety
    /// Nothing changes when it is dropped.
    pub async fn next(&self, feed: &str) -> Result<Option<(Position, Record)>> {
        let Some(line) = self.line(feed) else {
            return Ok(None);
        };
        if let Some((position, record)) = line.next_at_hand() {
            return Ok(Some((Position(position), record)));
        }
        self.read(line, None).await
    }

    /// The record of `feed` behind the one that came with `position`, for whoever commits several at once. None also
    /// when 4,096 records or 64 MiB of rows are read and not done.
    ///
    /// # Errors
    /// As [`Spool::next`].
    ///
    /// # Cancel safety
    /// Nothing changes when it is dropped.
    pub async fn next_after(&self, feed: &str, position: Position) -> Result<Option<(Position, Record)>> {
        let Some(line) = self.line(feed) else {
            return Ok(None);
        };
        self.read(line, Some(position.0)).await
    }

    /// The record of `feed` that came with `position`, and all before it, are stored: they never come back.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails: the records may come back after a restart, and claims make that harmless.
    ///
    /// # Cancel safety
    /// A call that is dropped takes effect all the same, or not at all if it never ran.
    pub async fn done(&self, feed: &str, position: Position) -> Result<()> {
        let Some(line) = self.line(feed) else {
            return Ok(());
        };
        let inner = Arc::clone(&self.0);
        joined(spawn_blocking(move || line.done(position.0, &inner.shared)).await)?
    }

    /// Feeds of which something waits, by name; also those that are not declared any more.
    #[must_use]
    pub fn feeds(&self) -> Vec<String> {
        let lines = self.lines();
        let waiting = lines.iter().filter(|(_, line)| !line.is_empty());
        waiting.map(|(feed, _)| feed.clone()).collect()
    }

    /// What waits.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.0.shared;
        let feeds: Vec<FeedStats> = self.lines().values().map(|line| line.stats()).collect();
        let oldest = feeds.iter().filter_map(|feed| feed.oldest_at_ms).min();
        Stats {
            rows: feeds.iter().map(|feed| feed.rows).sum(),
            records: feeds.iter().map(|feed| feed.records).sum(),
            bytes: shared.budget.used(),
            bytes_max: shared.config.bytes_max,
            oldest_age_ms: oldest.map(|at_ms| shared.clock.wall_ms().saturating_sub(at_ms)),
            damaged_records: feeds.iter().map(|feed| feed.damaged_records).sum(),
            disk: self.0.disk.as_str(),
            feeds: feeds
                .into_iter()
                .filter(|feed| feed.records + feed.damaged_records > 0)
                .collect(),
        }
    }

    /// What the folder lies on; on [`Disk::Overlay`] the rows end with the container.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.0.disk
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.0.shared.config.dir
    }

    /// Writes the age into the registry, which nothing else moves while nothing happens; the owner calls it once a
    /// second.
    pub fn record(&self) {
        let age_us = self.stats().oldest_age_ms.unwrap_or(0).saturating_mul(1_000);
        self.0
            .shared
            .meters
            .age
            .set(i64::try_from(age_us).unwrap_or(i64::MAX));
    }

    async fn read(
        &self,
        line: Arc<Line>,
        after: Option<tidegate_seglog::Position>,
    ) -> Result<Option<(Position, Record)>> {
        let inner = Arc::clone(&self.0);
        let read = joined(spawn_blocking(move || line.next(after, &inner.shared)).await)??;
        Ok(read.map(|(position, record)| (Position(position), record)))
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Line>>> {
        self.0.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, feed: &str) -> Option<Arc<Line>> {
        self.lines().get(feed).cloned()
    }

    /// The line of a feed, made if need be; its files are made by the first record.
    fn line_for(&self, feed: &str) -> Result<Arc<Line>> {
        let mut lines = self.lines();
        if let Some(line) = lines.get(feed) {
            return Ok(Arc::clone(line));
        }
        if !export::is_name(feed) {
            return Err(Error::UnknownFeed(feed.to_owned()));
        }
        let (n_feeds, limit) = (lines.len() + 1, self.0.shared.config.feeds_max);
        if n_feeds > limit {
            return Err(too_many_feeds(n_feeds, limit));
        }
        let line = Arc::new(Line::new(feed));
        lines.insert(feed.to_owned(), Arc::clone(&line));
        Ok(line)
    }
}

fn too_many_feeds(n_feeds: usize, limit: usize) -> Error {
    Error::Config {
        what: "spool feeds_max".to_owned(),
        problem: format!("{n_feeds} feeds, at most {limit}"),
    }
}

fn joined<T>(result: std::result::Result<T, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|error| error::io_error(format!("a thread of the spool ended: {error}")))
}
