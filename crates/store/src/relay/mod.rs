//! Publications that applications write by SQL, read from the outbox and handed on in the order of their transactions.
//!
//! ```text
//! tidegate.publish(…) ─▶ row with the transaction's xid8 ─commit─▶ NOTIFY ─▶ wakes the reader
//! reader: rows below pg_snapshot_xmin, by (xid, id), behind this node's position
//!         ─▶ tags void ─▶ publish ─▶ position written, rows that every node has read deleted
//! ```
//!
//! A row whose transaction may still have neighbours below it is not read yet, so none is ever skipped. Every node has
//! clients of its own, so every node reads every row, and a row goes when all have. A node that ends between publishing
//! and writing its position publishes again what it had published since, under the same keys.

mod figures;
mod listen;
mod look;
mod read;
mod run;
mod sql;

use std::{sync::Arc, time::Duration};

pub use look::{Look, ROWS_MAX, look};
use serde::{Deserialize, Serialize};
use tidegate_flow::{Task, task};
use tokio::sync::Notify;

use crate::{
    database::Database,
    error::{Error, Result},
};

/// How the outbox is read and bounded.
#[derive(Debug, Clone)]
pub struct Config {
    /// The name of this node; the same after a restart, and no other node's.
    pub node: String,
    /// Longest time between two looks, for when a notification is lost.
    pub poll: Duration,
    /// Rows of one read.
    pub batch_rows_max: usize,
    /// Bytes of one read; one row may be larger.
    pub batch_bytes_max: u64,
    /// A larger row is put aside.
    pub row_bytes_max: u64,
    /// Older rows are given up.
    pub retain: Duration,
    /// More rows are given up, the oldest first.
    pub rows_max: u64,
    /// When the files of the table have so many bytes, `publish` takes no more.
    pub bytes_max: u64,
    /// Whether `publish` then fails; otherwise it warns, counts and goes on.
    pub is_strict: bool,
    /// A node that was not seen for so long holds no rows back any more.
    pub node_gone_after: Duration,
    /// A process says so of others only after it has itself read for so long without a failure: after an outage of the
    /// database nobody was seen, and nobody is gone.
    pub forgets_after: Duration,
    /// A row that finds no memory is put aside after so long; those behind it wait too.
    pub short_max: Duration,
    /// More waiting rows raise the alarm.
    pub alarm_rows: u64,
    /// So does an older one.
    pub alarm_age: Duration,
}

/// Where in the order of the outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The transaction.
    pub xid: u64,
    /// The row.
    pub id: i64,
}

/// One publication.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its place in the order.
    pub position: Position,
    /// In which history of the server: after a crash or a promotion, numbers may be given out again.
    pub history: Arc<str>,
    /// The namespace.
    pub namespace: String,
    /// Rooms that receive it.
    pub rooms: Vec<String>,
    /// The event; none: it only makes tags void.
    pub event: Option<String>,
    /// Its argument as JSON; none: it has none.
    pub data: Option<String>,
    /// What it makes void.
    pub tags: Vec<String>,
    /// What else was said.
    pub options: Options,
    /// Why it cannot be published, if that is known already: a code, a colon and a sentence.
    pub problem: Option<String>,
    /// From the call of the function to the read.
    pub age: Duration,
    /// Its bytes, as limits count them.
    pub n_bytes: u64,
}

/// What a publication may say besides its rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Users that receive it.
    pub users: Vec<String>,
    /// Sessions that receive it.
    pub sessions: Vec<String>,
    /// Everybody in the namespace receives it.
    pub everyone: bool,
    /// Rooms that are left out.
    pub except_rooms: Vec<String>,
    /// Users that are left out.
    pub except_users: Vec<String>,
    /// Sessions that are left out.
    pub except_sessions: Vec<String>,
    /// While it waits for a slow reader, a newer one with the same key takes its place.
    pub conflate: Option<String>,
    /// Written at once.
    pub urgent: bool,
    /// May be lost when its reader is slow.
    pub volatile: bool,
}

/// Where publications go. Nothing here may block.
pub trait Sink: Send + Sync {
    /// Makes answers with these tags void; called for all rows of a read before any of them is published. A tag that ends
    /// in `*` stands for all that begin so.
    fn invalidate(&self, tags: &[&str]);

    /// Makes every answer void: publications were lost, and their tags with them.
    fn invalidate_all(&self);

    /// Publishes one. Its [`Entry::key`] is the same when it comes again.
    fn publish(&self, entry: &Entry) -> Outcome;
}

/// What became of a publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has its place in the order of its namespace.
    Published,
    /// It had one already.
    Duplicate,
    /// Its receivers have no room now; it is tried again for as long as it takes.
    Full,
    /// There is no memory for it, or no more rooms; it is tried again for [`Config::short_max`] and then put aside.
    Short {
        /// A short code, for figures.
        reason: &'static str,
        /// The whole sentence.
        message: String,
    },
    /// It can never be published.
    Refused {
        /// A short code, for figures.
        reason: &'static str,
        /// The whole sentence.
        message: String,
    },
}

/// Figures of this moment.
#[derive(Debug, Clone, Serialize)]
pub struct Stats {
    /// This node.
    pub node: String,
    /// `starting`, `reading`, `superseded` by another process of the same name, or `failing`.
    pub state: &'static str,
    /// How far this node has published.
    pub position: Position,
    /// Rows that this node has not read, as of the last look, five seconds apart.
    pub waiting_rows: u64,
    /// Age of the oldest of them.
    pub oldest_ms: u64,
    /// Bytes of the table's files.
    pub bytes: u64,
    /// Nodes that read.
    pub nodes: u64,
    /// Rows that were put aside, in the table.
    pub dead_rows: u64,
    /// Whether more rows wait, or for longer, than is allowed without an alarm.
    pub alarm: bool,
    /// Rows read.
    pub read: u64,
    /// Published.
    pub published: u64,
    /// Recognised as published before.
    pub duplicates: u64,
    /// Without an event: only tags.
    pub tags_only: u64,
    /// Put aside.
    pub refused: u64,
    /// Given up unread: too old or too many.
    pub lost: u64,
    /// Dropped by `publish` because the outbox was full.
    pub dropped: u64,
    /// What the last failure said; none once it is over.
    pub failure: Option<String>,
}

/// The reader of an outbox. [`Relay::finish`] ends it in order; dropped, it is cut off.
pub struct Relay {
    shared: Arc<run::Shared>,
    reader: Task<()>,
    listener: Task<()>,
}

// === impl Config ===

impl Config {
    /// The defaults for a node.
    #[must_use]
    pub fn new(node: impl Into<String>) -> Self {
        Self {
            node: node.into(),
            poll: Duration::from_secs(1),
            batch_rows_max: 1_000,
            batch_bytes_max: 4 << 20,
            row_bytes_max: 1 << 20,
            retain: Duration::from_secs(3_600),
            rows_max: 1_000_000,
            bytes_max: 1 << 30,
            is_strict: false,
            node_gone_after: Duration::from_secs(600),
            forgets_after: Duration::from_secs(600),
            short_max: Duration::from_secs(30),
            alarm_rows: 10_000,
            alarm_age: Duration::from_secs(30),
        }
    }

    /// Checks the values.
    ///
    /// # Errors
    /// [`Error::Config`] with the key, the value and what is allowed.
    pub fn check(&self) -> Result<()> {
        let problem = if self.node.is_empty() || self.node.len() > sql::NODE_BYTES_MAX {
            format!("node {:?}: 1 to {} bytes", self.node, sql::NODE_BYTES_MAX)
        } else if self.poll.is_zero() || self.batch_rows_max == 0 || self.batch_bytes_max == 0 {
            "poll, batch_rows_max and batch_bytes_max: more than 0".to_owned()
        } else if i32::try_from(self.row_bytes_max).is_err() {
            format!("row_bytes_max {}: at most {}", self.row_bytes_max, i32::MAX)
        } else if self.node_gone_after < run::KEEP_EVERY * 4 {
            format!(
                "node_gone_after {:?}: at least {:?}",
                self.node_gone_after,
                run::KEEP_EVERY * 4
            )
        } else {
            return Ok(());
        };
        Err(Error::Config {
            what: "relay".to_owned(),
            problem,
        })
    }
}

// === impl Position ===

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.xid, self.id)
    }
}

// === impl Entry ===

impl Entry {
    /// What is the same whenever this publication comes: history, transaction and number.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}-{}", self.history, self.position)
    }
}

// === impl Relay ===

impl Relay {
    /// Starts to read. A database that is away is no error: reading begins when it is there.
    ///
    /// # Errors
    /// As [`Config::check`]; [`Error::Unsupported`] where there is no outbox.
    pub fn start(database: &Database, config: Config, sink: Arc<dyn Sink>) -> Result<Self> {
        config.check()?;
        let Some(pool) = database.postgres() else {
            return Err(Error::Unsupported {
                what: "the outbox".to_owned(),
                needs: "PostgreSQL",
            });
        };
        let wake = Arc::new(Notify::new());
        let listener = listen::Listener::new(pool.connector(), config.poll, Arc::clone(&wake))?;
        let shared = Arc::new(run::Shared::new(database, config, sink, wake));
        Ok(Self {
            reader: task::spawn("relay-reader", run::run(Arc::clone(&shared))),
            listener: task::spawn("relay-listener", listener.run()),
            shared,
        })
    }

    /// Figures of this moment.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Publishes no more and writes down how far it came, at most for `limit`.
    ///
    /// # Cancel safety
    /// The tasks end all the same; what was published since the last position comes again.
    pub async fn finish(self, limit: Duration) {
        drop(self.listener);
        self.shared.stop();
        if tokio::time::timeout(limit, self.reader.finish()).await.is_err() {
            tracing::warn!("position in the outbox not written: its last publications come again");
        }
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
