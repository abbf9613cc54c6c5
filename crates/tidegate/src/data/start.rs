//! Opens the database of a server: connections, our own objects, managed tables, then the way of rows.

use std::{
    sync::{Arc, RwLock},
    time::Duration,
};

use tidegate_store::{
    CommitHook, Database, Fanout, Feed, Kind, ServerInfo,
    database::{self, Context},
    ingest::{self, Hooks, Ingest},
    pipeline,
    query::Queries,
    relay, replica,
    schema::{self, Keeper, keeper, migrate::Options},
    spool,
};

use super::{Declared, Store, secret};
use crate::{
    Error, Settings,
    glue::{store_advisor::Plans, store_cache::Answers, store_gateway::Live},
    settings::{SpoolSettings, StoreConfig},
};

/// How long the start waits for the database. Whoever supervises the process starts it again.
const START_WAIT: Duration = Duration::from_secs(10);

/// How long a start that failed waits for its tasks to end.
const FINISH_WAIT: Duration = Duration::from_secs(1);

/// What the server sees of its sessions.
const APPLICATION: &str = "tidegate";

impl StoreConfig {
    /// The configuration of the connections.
    #[must_use]
    pub fn database(&self) -> database::Config {
        database::Config {
            pool: self.pool.clone(),
            pipeline: pipeline::Config {
                is_enabled: self.pipeline_connections > 0,
                connections: self.pipeline_connections.max(1),
                in_flight_max: self.pipeline_in_flight,
                ..pipeline::Config::default()
            },
            replicas: replica::Config {
                urls: self.replicas.clone(),
                lag_max: self.replica_lag_max,
                ..replica::Config::default()
            },
            statement_timeout: Some(self.statement_timeout),
            application_name: APPLICATION.to_owned(),
            monitor: self.monitor.clone(),
            ..database::Config::new(self.url.clone())
        }
    }

    /// The configuration of the way of rows in.
    #[must_use]
    pub fn ingest(&self) -> ingest::Config {
        ingest::Config {
            backlog_rows_max: self.ingest.backlog_rows_max,
            batch_rows_max: self.ingest.batch_rows_max,
            patience: self.ingest.patience,
            delay: self.ingest.delay,
            writers: self.ingest.writers,
            claims_keep: self.ingest.claims_kept,
            spool: self.spool.as_ref().map(SpoolSettings::config),
            ..ingest::Config::default()
        }
    }

    /// What signs cursors.
    ///
    /// # Errors
    /// The folder of the data cannot be used.
    pub(crate) fn secret(&self) -> Result<[u8; 32], Error> {
        match &self.cursor_secret {
            Some(text) => Ok(secret::derived(text)),
            None => secret::kept(&self.data_dir).map_err(|source| Error::Data {
                folder: self.data_dir.clone(),
                source,
            }),
        }
    }
}

impl StoreConfig {
    /// How publications by SQL are read, with the name of this node; none: they are not.
    ///
    /// # Errors
    /// The folder of the data cannot be used.
    pub(crate) fn relay(&self) -> Result<Option<relay::Config>, Error> {
        let Some(config) = self.relay.clone() else {
            return Ok(None);
        };
        if !config.node.is_empty() {
            return Ok(Some(config));
        }
        let node = secret::node(&self.data_dir).map_err(|source| Error::Data {
            folder: self.data_dir.clone(),
            source,
        })?;
        Ok(Some(relay::Config { node, ..config }))
    }
}

impl SpoolSettings {
    fn config(&self) -> spool::Config {
        spool::Config {
            bytes_max: self.bytes_max,
            segment_bytes: self.segment_bytes,
            ..spool::Config::new(self.dir.clone())
        }
    }
}

/// Asks the server who it is, for a while: it may be starting as well. Where no connection came about, the reason is the
/// last one's, not that somebody waited for it.
pub(super) async fn reached(database: &Database) -> Result<ServerInfo, Error> {
    use tidegate_store::Error as E;
    let waited = match tokio::time::timeout(START_WAIT, database.ping()).await {
        Ok(Ok(server)) => return Ok(server),
        Ok(Err(error)) if !matches!(error, E::PoolTimeout(_)) => return Err(error.into()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {START_WAIT:?}"),
    };
    let told = database.stats().pool.and_then(|pool| pool.connect_error);
    let message = told.map_or(waited, |(text, _)| text);
    let target = database.target().to_owned();
    let before = format!("cannot connect to {target}: ");
    let message = message.strip_prefix(&before).unwrap_or(&message).to_owned();
    Err(E::Connect {
        target,
        message,
        sqlstate: None,
    }
    .into())
}

/// What a store tells of its rows.
pub(crate) struct Attached {
    pub(crate) live: Arc<Live>,
    pub(crate) answers: Option<Arc<Answers>>,
    pub(crate) commit: Vec<Arc<dyn CommitHook>>,
}

impl Attached {
    fn hooks(&self) -> Hooks {
        // The cache first: whoever is told of a commit may ask again at once.
        let answers = self.answers.iter();
        let cache = answers.map(|answers| Arc::clone(answers) as Arc<dyn CommitHook>);
        Hooks {
            commit: cache.chain(self.commit.iter().cloned()).collect(),
            fanout: Some(Arc::clone(&self.live) as Arc<dyn Fanout>),
        }
    }
}

impl Store {
    /// Opens everything, or says the first thing that is wrong.
    ///
    /// # Errors
    /// A database that cannot be reached or refuses us, a table that is not as declared, a folder that cannot be used.
    ///
    /// # Cancel safety
    /// Dropped before it ends, connections close and nothing is left but objects that were made.
    pub(crate) async fn open(
        config: &StoreConfig,
        settings: &Settings,
        context: Context,
        attached: Attached,
    ) -> Result<Self, Error> {
        let (secret, relay) = (config.secret()?, config.relay()?);
        let (feeds, queries) = (settings.feeds(), settings.queries());
        let plain: Vec<Feed> = feeds.iter().map(|declared| declared.feed.clone()).collect();
        let database = Database::open(config.database(), context.clone()).await?;
        let server = reached(&database).await?;
        if relay.is_some() && server.kind != Kind::Postgres {
            let what = "store.relay".to_owned();
            let needs = "PostgreSQL";
            return Err(tidegate_store::Error::Unsupported { what, needs }.into());
        }
        tracing::info!(
            kind = %server.kind,
            version = server.version,
            target = database.target(),
            "database"
        );
        let report = schema::migrate(&database, &plain, Options::default()).await?;
        for step in report.steps.iter().filter(|step| !step.sql.is_empty()) {
            tracing::info!(object = step.object, outcome = ?step.outcome, "schema");
        }
        attached.live.set(feeds);
        let hooks = attached.hooks();
        let ingest = Ingest::start(
            database.clone(),
            plain.clone(),
            config.ingest(),
            hooks,
            context.clone(),
        )
        .await?;
        let rest = async {
            // What the table lacks is said at once, not with the first row.
            for feed in &plain {
                ingest.validate(&feed.name).await?;
            }
            let plans = Plans::watch(&database, &config.url, &context)?;
            let queries = Queries::open(database.clone(), queries.clone(), secret, context).await?;
            // Claims are removed by ingest, which also knows what waits in the spool.
            let keeper = Keeper::start(database.clone(), plain.clone(), keeper::Config::default())?;
            Ok::<_, tidegate_store::Error>((queries, keeper, plans))
        };
        match rest.await {
            Ok((opened, keeper, plans)) => Ok(Self {
                database,
                ingest,
                queries: opened,
                keeper: tokio::sync::Mutex::new(Some(keeper)),
                relay_config: relay,
                relay: RwLock::default(),
                live: attached.live,
                answers: attached.answers,
                plans,
                declared: RwLock::new(Arc::new(Declared::new(plain, queries))),
            }),
            Err(error) => {
                // Its tasks hold the spool until they end; nobody has sent a row yet.
                let _nothing_waits = ingest.finish(FINISH_WAIT).await;
                database.close().await;
                Err(error.into())
            }
        }
    }
}
