//! Turns the settings of the database into what the store needs, secrets and addresses read from outside.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tidegate_store::{pool, relay, statement};

use super::{Outside, Settings, SettingsError, model};

/// What comes before the path of a SQLite file.
const SQLITE: &str = "sqlite:";

/// Shortest secret of cursors, bytes.
const SECRET_BYTES_MIN: usize = 32;

/// Where the database is and how it is used: [`Settings::store`].
#[derive(Clone)]
pub struct StoreConfig {
    /// The primary.
    pub url: String,
    /// Servers that follow it.
    pub replicas: Vec<String>,
    /// A replica further behind is not read from.
    pub replica_lag_max: Duration,
    /// Longest statement of our own.
    pub statement_timeout: Duration,
    /// Connections.
    pub pool: pool::Config,
    /// Shared connections for short statements; 0 is none.
    pub pipeline_connections: usize,
    /// Statements in flight on each of them.
    pub pipeline_in_flight: usize,
    /// What is slow.
    pub monitor: statement::Config,
    /// How rows are gathered.
    pub ingest: IngestSettings,
    /// Rows that wait while the database is away; none: they are refused.
    pub spool: Option<SpoolSettings>,
    /// Folder for what this node keeps.
    pub data_dir: PathBuf,
    /// What signs cursors; none: one is made and kept in the folder.
    pub cursor_secret: Option<Vec<u8>>,
    /// How publications by SQL are read, without a name where one is to be made and kept in the folder; none: they are not.
    pub relay: Option<relay::Config>,
}

/// How rows are gathered and committed.
#[derive(Clone, Copy, Debug)]
pub struct IngestSettings {
    /// Rows that may wait.
    pub backlog_rows_max: usize,
    /// Rows of one commit.
    pub batch_rows_max: usize,
    /// How long a batch is tried while the database is away.
    pub patience: Duration,
    /// How long rows wait for others while writers are busy.
    pub delay: Duration,
    /// Writers of a feed whose order does not matter.
    pub writers: usize,
    /// How long an id is remembered.
    pub claims_kept: Duration,
}

/// Rows that wait on disk.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// Its folder.
    pub dir: PathBuf,
    /// Most bytes of all its files.
    pub bytes_max: u64,
    /// Bytes of one file.
    pub segment_bytes: u64,
}

impl std::fmt::Debug for StoreConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // URLs hold passwords.
        f.debug_struct("StoreConfig")
            .field("pool", &self.pool)
            .field("data_dir", &self.data_dir)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Whether something is declared that needs the database.
    #[must_use]
    pub fn needs_store(&self) -> bool {
        let values = &self.values;
        !values.feeds.is_empty() || !values.queries.is_empty() || values.store.relay.enabled
    }

    /// The name under which clients send a built-in event, if it is answered.
    pub(crate) fn builtin(&self, event: &str) -> Option<String> {
        let (events, prefix) = self.builtins();
        let is_on = events.iter().any(|on| on == event);
        is_on.then(|| format!("{prefix}{event}"))
    }

    /// The configuration of the database; none if nothing is declared that needs it.
    ///
    /// # Errors
    /// A variable that is not set, a secret that is too short.
    pub fn store(&self, outside: &Outside<'_>) -> Result<Option<StoreConfig>, SettingsError> {
        if !self.needs_store() {
            return Ok(None);
        }
        let store = &self.values.store;
        let url = match &store.url_env {
            Some(name) => variable("store.url_env", name, outside)?,
            None => store.url.clone(),
        };
        let cursor_secret = match &store.cursor_secret_env {
            Some(name) => Some(secret(&variable("store.cursor_secret_env", name, outside)?)?),
            None => None,
        };
        Ok(Some(StoreConfig {
            url: in_folder(&url, &self.folder),
            replicas: store.replicas.clone(),
            replica_lag_max: store.replica_lag_max.0,
            statement_timeout: store.statement_timeout.0,
            pool: connections(&store.pool),
            pipeline_connections: store.pipeline.connections,
            pipeline_in_flight: store.pipeline.in_flight,
            monitor: statement::Config {
                slow: store.slow.0,
                critical: store.critical.0,
                ..statement::Config::default()
            },
            ingest: IngestSettings {
                backlog_rows_max: store.ingest.backlog_rows_max,
                batch_rows_max: store.ingest.batch_rows_max,
                patience: store.ingest.patience.0,
                delay: store.ingest.delay.0,
                writers: store.ingest.writers,
                claims_kept: store.ingest.claims_kept.0,
            },
            spool: store.spool.enabled.then(|| self.spool()),
            data_dir: self.folder.join(&store.data_dir),
            cursor_secret,
            relay: store.relay.enabled.then(|| relay_of(&store.relay)),
        }))
    }

    /// Whether what the outbox holds fits into the memory accounts, whose limit is given in bytes.
    pub(crate) fn check_relay(&self, limit: u64) -> Result<(), SettingsError> {
        let relay = &self.values.store.relay;
        let sizes = [
            ("store.relay.batch_bytes_max", &relay.batch_bytes_max),
            ("store.relay.row_bytes_max", &relay.row_bytes_max),
        ];
        let max = limit / RELAY_SHARE;
        match sizes.into_iter().find(|(_, size)| relay.enabled && size.0 > max) {
            Some((key, size)) => {
                let allowed = format!(
                    "at most {max} bytes, an eighth of the memory accounts ({limit} bytes); see memory.budget"
                );
                Err(SettingsError::value(key, format!("\"{size}\""), allowed))
            }
            None => Ok(()),
        }
    }

    fn spool(&self) -> SpoolSettings {
        let store = &self.values.store;
        let dir = match &store.spool.dir {
            Some(dir) => self.folder.join(dir),
            None => self.folder.join(&store.data_dir).join("spool"),
        };
        SpoolSettings {
            dir,
            bytes_max: store.spool.bytes_max.0,
            segment_bytes: store.spool.segment_bytes.0,
        }
    }
}

/// A row is in memory once as it was read and three times as a message, beside all else.
const RELAY_SHARE: u64 = 8;
/// Nodes that were not seen for want of a database are not gone.
const FORGETS_AFTER_MIN: Duration = Duration::from_secs(60);

fn relay_of(block: &model::Relay) -> relay::Config {
    relay::Config {
        poll: block.poll.0,
        batch_rows_max: block.batch_rows_max,
        batch_bytes_max: block.batch_bytes_max.0,
        row_bytes_max: block.row_bytes_max.0,
        retain: block.retain.0,
        rows_max: block.rows_max,
        bytes_max: block.bytes_max.0,
        is_strict: block.when_full == model::WhenFull::Error,
        node_gone_after: block.node_gone_after.0,
        forgets_after: block.node_gone_after.0.max(FORGETS_AFTER_MIN),
        alarm_rows: block.alarm_rows,
        alarm_age: block.alarm_age.0,
        ..relay::Config::new(block.node.clone().unwrap_or_default())
    }
}

fn connections(block: &model::Pool) -> pool::Config {
    let leak_after = block.leak_after.0;
    pool::Config {
        min: block.min,
        size: block.size,
        overflow: block.overflow,
        acquire_timeout: block.acquire_timeout.0,
        idle_timeout: block.idle_timeout.0,
        lifetime: block.lifetime.0,
        leak_after: (!leak_after.is_zero()).then_some(leak_after),
        pre_ping: block.pre_ping,
        ..pool::Config::default()
    }
}

/// A relative SQLite file is meant from the folder of the settings.
fn in_folder(url: &str, folder: &Path) -> String {
    match url.strip_prefix(SQLITE) {
        Some(path) if !path.starts_with([':', '/']) => {
            format!("{SQLITE}{}", folder.join(path).display())
        }
        _ => url.to_owned(),
    }
}

/// The value of the environment variable that a setting names.
///
/// # Errors
/// When it is not set or empty.
pub(super) fn variable(key: &str, name: &str, outside: &Outside<'_>) -> Result<String, SettingsError> {
    (outside.env)(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| SettingsError::Environment {
            key: key.to_owned(),
            name: name.to_owned(),
        })
}

fn secret(text: &str) -> Result<Vec<u8>, SettingsError> {
    if text.len() >= SECRET_BYTES_MIN {
        return Ok(text.as_bytes().to_vec());
    }
    let key = "store.cursor_secret_env";
    let value = format!("a secret of {} bytes", text.len());
    let allowed = format!("at least {SECRET_BYTES_MIN} bytes");
    Err(SettingsError::value(key, value, allowed))
}
