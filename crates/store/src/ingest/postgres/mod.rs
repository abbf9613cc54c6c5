//! Commits chunks to PostgreSQL: quickly while little waits, by COPY when much does, carefully when a row is refused.

mod bulk;
mod careful;
mod encode;
mod live;
mod partitions;
mod sql;
mod transaction;

use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use tidegate_vitals::{Counter, Id};
use tokio::time::timeout;

pub use bulk::copy;

use self::live::Live;
use self::partitions::Reach;
use self::transaction::Transaction;
use super::backend::{Blame, Chunk, Failure, Method, Plan, Settled, blame};
use crate::backend::postgres::{Connection, Postgres};
use crate::database::Context;
use crate::error::{Error, Result};
use crate::pool::Pool;
use crate::schema::migrate;
use crate::schema::session::Session;
use crate::statement::Monitor;

/// Commits chunks of all feeds to one PostgreSQL.
pub(crate) struct Writer {
    pool: Pool<Postgres>,
    monitor: Monitor,
    context: Context,
    partitions_made: Counter,
    /// What is known of the tables, by the version of the feed. One entry per declaration; forgotten on errors that
    /// speak of a change, and all at once when feeds are declared anew.
    lives: Mutex<FxHashMap<(String, u64), Arc<Live>>>,
    /// Our own tables are known to be there.
    is_ready: tokio::sync::OnceCell<()>,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new(pool: Pool<Postgres>, monitor: Monitor, context: Context) -> Self {
        Self {
            pool,
            monitor,
            partitions_made: context.registry.counter(Id::StoreIngestPartitions, &[]),
            context,
            lives: Mutex::default(),
            is_ready: tokio::sync::OnceCell::new(),
        }
    }

    /// Commits `chunks`; see the seam in `ingest::backend` for what holds.
    pub(crate) async fn commit(
        &self,
        plan: &Plan,
        chunks: &[&Chunk],
        patience: Duration,
    ) -> std::result::Result<(Vec<Settled>, Method), Failure> {
        let connection = match timeout(patience, self.pool.acquire()).await {
            Ok(connection) => connection.map_err(Failure::of)?,
            Err(_) => return Err(Failure::of(self.no_connection(patience))),
        };
        self.prepare(&connection).await.map_err(Failure::of)?;
        match self.attempt(&connection, plan, chunks).await {
            Ok(settled) => Ok(settled),
            Err(error) => {
                if let Blame::Feed = blame(&error) {
                    // The table may have been changed or made anew: it is looked at again before the next rows.
                    self.forget(plan);
                }
                if !connection.is_usable() {
                    connection.broken();
                }
                Err(Failure::of(error))
            }
        }
    }

    /// Says why none came: the last error of those who tried.
    fn no_connection(&self, after: Duration) -> Error {
        match self.pool.stats().connect_error {
            Some((error, _)) => Error::Lost(error),
            None => Error::Timeout {
                what: "waiting for a connection".to_owned(),
                after,
            },
        }
    }

    /// Makes our own tables, once.
    async fn prepare(&self, connection: &Connection) -> Result<()> {
        let make = || async {
            connection.set_in_transaction(true);
            let session = Session::Postgres(connection.client());
            let made = migrate::migrate(session, &[], &migrate::Options::default(), 0).await;
            connection.set_in_transaction(false);
            made.map(drop)
        };
        self.is_ready.get_or_try_init(make).await.map(drop)
    }

    /// Compares the feed with its table.
    pub(crate) async fn validate(&self, plan: &Plan) -> Result<()> {
        let connection = self.pool.acquire().await?;
        self.forget(plan);
        self.live(&connection, plan).await.map(drop)
    }

    /// Nothing known of any table is believed any more.
    pub(crate) fn forget_all(&self) {
        self.lives().clear();
    }

    async fn attempt(
        &self,
        connection: &Connection,
        plan: &Plan,
        chunks: &[&Chunk],
    ) -> Result<(Vec<Settled>, Method)> {
        let mut is_second = false;
        let mut made_before = false;
        loop {
            let live = self.live(connection, plan).await?;
            let caller = Location::caller();
            let ours = live.plan.as_ref().unwrap_or(plan);
            let transaction = Transaction::new(connection, ours, &live, chunks, (&self.monitor, caller));
            let error = match transaction.run().await {
                Ok(settled) => return Ok(settled),
                Err(error) => error,
            };
            if is_stale(&error) && !std::mem::replace(&mut is_second, true) {
                transaction.forget_statements();
                self.forget(plan);
                continue;
            }
            if !matches!(blame(&error), Blame::Row | Blame::FeedOrRow) {
                return Err(error);
            }
            // Whatever row was named first, others of the batch may lack a partition too.
            let reach = self.reach(&transaction).await?;
            let is_made = reach.as_ref().is_some_and(|reach| reach.n_made > 0);
            if is_made && partitions::is_homeless(&error) && !std::mem::replace(&mut made_before, true) {
                continue;
            }
            let settled = careful::commit(&transaction, reach.as_ref()).await?;
            return Ok((settled, Method::Careful));
        }
    }

    /// Makes the partitions that rows lack. Where the database refuses that for good, rows are refused one by one.
    async fn reach(&self, transaction: &Transaction<'_>) -> Result<Option<Reach>> {
        let now = i64::try_from(self.context.clock.wall_ms()).unwrap_or(i64::MAX / 1000) * 1000;
        match partitions::make(transaction, now, &self.partitions_made).await {
            Ok(reach) => Ok(reach),
            Err(error) if blame(&error) == Blame::Nobody => Err(error),
            Err(error) => {
                let feed = &transaction.plan.feed.name;
                tracing::warn!(%feed, %error, "no partition can be made for rows without one");
                Ok(None)
            }
        }
    }

    async fn live(&self, connection: &Connection, plan: &Plan) -> Result<Arc<Live>> {
        let name = (plan.feed.name.clone(), plan.version);
        if let Some(live) = self.lives().get(&name) {
            return Ok(Arc::clone(live));
        }
        let client = connection.client();
        connection.set_in_transaction(true);
        client
            .batch_execute("BEGIN")
            .await
            .map_err(|error| connection.error(error))?;
        let loaded = Live::load(connection, plan).await;
        let ended = client.batch_execute("ROLLBACK").await;
        let live = Arc::new(loaded?);
        ended.map_err(|error| connection.error(error))?;
        connection.set_in_transaction(false);
        self.lives().insert(name, Arc::clone(&live));
        Ok(live)
    }

    fn forget(&self, plan: &Plan) {
        self.lives().remove(&(plan.feed.name.clone(), plan.version));
    }

    fn lives(&self) -> std::sync::MutexGuard<'_, FxHashMap<(String, u64), Arc<Live>>> {
        // Nothing under this lock can leave the map in a bad state.
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a prepared statement, or what we know of the table, no longer fits it: looked at again once. 55000 says that a
/// roll-up's table has become a view.
fn is_stale(error: &Error) -> bool {
    matches!(
        error.sqlstate(),
        Some("0A000" | "26000" | "22P03" | "08P01" | "42P18" | "42804" | "42703" | "55000")
    )
}
