//! The database of a running server: opened, asked, reloaded and ended as one.

pub(crate) mod ask;
pub(crate) mod envelope;
pub(crate) mod lines;
pub(crate) mod look;
pub(crate) mod rows;
mod secret;
mod start;
pub(crate) mod upload;

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

pub(crate) use start::Attached;
use tidegate_gateway::Publisher;
use tidegate_store::{
    Database, Feed, Relay,
    ingest::Ingest,
    query::{Queries, Query},
    relay,
    schema::{self, Keeper, migrate::Options},
};

use crate::{
    Error, Settings,
    glue::{store_advisor::Plans, store_cache::Answers, store_gateway::Live, store_relay::Told},
};

/// The database of a running server: [`crate::Tidegate::store`].
pub struct Store {
    database: Database,
    ingest: Ingest,
    queries: Queries,
    /// Gone once the server ends.
    keeper: tokio::sync::Mutex<Option<Keeper>>,
    live: Arc<Live>,
    relay_config: Option<relay::Config>,
    /// From when clients can be told until they cannot.
    relay: RwLock<Option<Relay>>,
    answers: Option<Arc<Answers>>,
    /// None on a database without plans.
    plans: Option<Plans>,
    declared: RwLock<Arc<Declared>>,
}

/// What is declared at the moment.
#[derive(Default)]
pub(crate) struct Declared {
    pub(crate) feeds: HashMap<String, Feed>,
    pub(crate) queries: HashMap<String, Query>,
}

const LOCK: &str = "nothing panics while it holds this lock";

// === impl Store ===

impl Store {
    /// The database: transactions, reads, statistics.
    #[must_use]
    pub const fn database(&self) -> &Database {
        &self.database
    }

    /// The way of rows in.
    #[must_use]
    pub const fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// The declared queries.
    #[must_use]
    pub const fn queries(&self) -> &Queries {
        &self.queries
    }

    /// The answers that are kept; none where no query asks for it.
    pub(crate) const fn answers(&self) -> Option<&Arc<Answers>> {
        self.answers.as_ref()
    }

    /// The plans of slow statements; none on a database without.
    pub(crate) const fn plans(&self) -> Option<&Plans> {
        self.plans.as_ref()
    }

    /// Figures of publications by SQL; none where they are not read.
    #[must_use]
    pub fn relay(&self) -> Option<relay::Stats> {
        self.relay.read().expect(LOCK).as_ref().map(Relay::stats)
    }

    /// Begins to hand publications by SQL to clients, where the settings say so.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub(crate) fn start_relay(&self, publisher: Publisher) -> Result<(), Error> {
        let Some(config) = self.relay_config.clone() else {
            return Ok(());
        };
        let told = Arc::new(Told::new(publisher, self.answers.clone()));
        *self.relay.write().expect(LOCK) = Some(Relay::start(&self.database, config, told)?);
        Ok(())
    }

    /// Hands out no more of them, at once.
    pub(crate) fn cut_relay(&self) {
        drop(self.relay.write().expect(LOCK).take());
    }

    /// Hands out no more of them, and writes down how far it came.
    ///
    /// # Cancel safety
    /// Those published last come again after the next start.
    pub(crate) async fn finish_relay(&self, timeout: Duration) {
        let relay = self.relay.write().expect(LOCK).take();
        if let Some(relay) = relay {
            relay.finish(timeout).await;
        }
    }

    /// `up` or `away`, as the health check says it.
    pub(crate) fn state(&self) -> &'static str {
        let is_down = self
            .database
            .stats()
            .pool
            .is_some_and(|pool| pool.down_ms.is_some());
        if is_down { "away" } else { "up" }
    }

    pub(crate) fn declared(&self) -> Arc<Declared> {
        Arc::clone(&self.declared.read().expect(LOCK))
    }

    /// Takes changed feeds and queries; what is under way ends as it began.
    ///
    /// # Errors
    /// A declaration that cannot work; the old ones then stay.
    ///
    /// # Cancel safety
    /// Dropped, feeds may be taken and queries not; the next reload sets both right.
    pub(crate) async fn reload(&self, settings: &Settings) -> Result<(), Error> {
        let (feeds, queries) = (settings.feeds(), settings.queries());
        let plain: Vec<Feed> = feeds.iter().map(|declared| declared.feed.clone()).collect();
        schema::migrate(&self.database, &plain, Options::default()).await?;
        // What can refuse comes first.
        self.queries.set(queries.clone()).await?;
        self.ingest.set_feeds(plain.clone()).await?;
        if let Some(keeper) = &*self.keeper.lock().await {
            keeper.set_feeds(plain.clone());
        }
        self.live.set(feeds);
        if let Some(answers) = &self.answers {
            answers.set_rules(settings.cache_rules());
        }
        *self.declared.write().expect(LOCK) = Arc::new(Declared::new(plain, queries));
        Ok(())
    }

    /// Stores what waits, at most for `timeout`, and closes every connection.
    ///
    /// # Cancel safety
    /// Rows that wait are then in the spool or were never acknowledged.
    pub(crate) async fn finish(&self, timeout: Duration) {
        if let Err(error) = self.ingest.finish(timeout).await {
            tracing::warn!(%error, "rows that were not acknowledged are lost");
        }
        if let Some(keeper) = self.keeper.lock().await.take() {
            keeper.finish().await;
        }
        self.database.close().await;
        if let Some(answers) = &self.answers {
            answers.cache().finish().await;
        }
    }
}

// === impl Declared ===

impl Declared {
    fn new(feeds: Vec<Feed>, queries: Vec<Query>) -> Self {
        Self {
            feeds: feeds.into_iter().map(|feed| (feed.name.clone(), feed)).collect(),
            queries: queries
                .into_iter()
                .map(|query| (query.name.clone(), query))
                .collect(),
        }
    }
}
