//! Looks at a database without serving: what is right, what is wrong, what it cannot do.

use std::{fmt::Display, fs, path::Path};

use tidegate_cache::RemoteConfig;
use tidegate_seglog::disk::Disk;
use tidegate_store::{
    Database, Feed, Kind, Select, ServerInfo, Value,
    database::Context,
    query::Queries,
    relay,
    schema::{self, plan::Outcome},
    spool,
};
use tidegate_vitals::{Clock, Registry};

use super::start::reached;
use crate::{
    Error, Settings,
    settings::{CacheSettings, SpoolSettings, StoreConfig},
};

/// Whether something must be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It is as it should be.
    Good,
    /// Somebody should know.
    Note,
    /// Something will not work.
    Problem,
}

/// What was found about one part of the store.
#[derive(Clone, Debug)]
pub struct StoreFinding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub subject: &'static str,
    /// What was found; stable, the key of its text in each language.
    pub code: &'static str,
    /// What the text is filled with.
    pub values: Vec<(&'static str, String)>,
}

/// PostgreSQL keeps these for its own administrators.
const RESERVED_CONNECTIONS: usize = 3;

/// Looks at everything that feeds and queries stand on. Changes nothing.
///
/// # Errors
/// None: what cannot be looked at is a finding.
///
/// # Cancel safety
/// It only reads.
pub async fn look(settings: &Settings, config: &StoreConfig) -> Vec<StoreFinding> {
    let mut found = Found(Vec::new());
    if let Err(error) = config.secret() {
        found.problem("data", "data_bad", &[("cause", &chain(&error))]);
    }
    if let Some(spool) = &config.spool {
        look_at_spool(&mut found, spool);
    }
    let mut small = config.database();
    // A look needs few connections, and must not wait for ever.
    (small.pool.min, small.pool.size, small.pool.overflow) = (0, 2, 0);
    let context = Context::new(Clock::real(), Registry::new());
    let database = match Database::open(small, context.clone()).await {
        Ok(database) => database,
        Err(error) => {
            found.problem("database", "database_bad", &[("cause", &chain(&error))]);
            return found.0;
        }
    };
    match reached(&database).await {
        Ok(server) => {
            let (kind, target) = (server.kind, database.target());
            let version = &server.version;
            found.good(
                "database",
                "database_good",
                &[("kind", &kind), ("version", version), ("target", &target)],
            );
            look_inside(&mut found, settings, config, (&database, &server, context)).await;
        }
        Err(error) => found.problem("database", "database_bad", &[("cause", &chain(&error))]),
    }
    database.close().await;
    found.0
}

/// Looks at where answers of queries are kept. Makes the folder of the disk level, as the server would.
///
/// # Errors
/// None: what cannot be looked at is a finding.
///
/// # Cancel safety
/// Dropped, the connection that tries Redis ends.
pub async fn look_at_cache(config: &CacheSettings) -> Vec<StoreFinding> {
    let mut found = Found(Vec::new());
    if let Some((dir, _)) = &config.disk {
        let shown = dir.display();
        match fs::create_dir_all(dir).and_then(|()| try_to_write(dir)) {
            Ok(()) => found.good("cache", "cache_dir_good", &[("dir", &shown)]),
            Err(cause) => found.problem("cache", "cache_dir_bad", &[("dir", &shown), ("cause", &cause)]),
        }
    }
    if let Some((url, _)) = &config.redis {
        match RemoteConfig::new(url).reach().await {
            Ok(()) => found.good("cache", "redis_good", &[]),
            // The server starts without it and takes it into use when it comes.
            Err(cause) => found.note("cache", "redis_away", &[("cause", &chain(&cause))]),
        }
    }
    found.0
}

/// Writes a file of its own and removes it.
fn try_to_write(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(format!("check-{}", std::process::id()));
    fs::write(&probe, b"tidegate check")?;
    fs::remove_file(&probe)
}

async fn look_inside(
    found: &mut Found,
    settings: &Settings,
    config: &StoreConfig,
    (database, server, context): (&Database, &ServerInfo, Context),
) {
    let feeds: Vec<Feed> = settings
        .feeds()
        .into_iter()
        .map(|declared| declared.feed)
        .collect();
    match server.kind {
        Kind::Postgres => {
            look_at_server(found, config, (database, server)).await;
            look_at_relay(found, config, database).await;
        }
        Kind::Sqlite => look_at_limits(found, settings, config, &feeds),
    }
    let is_whole = match look_at_tables(found, database, &feeds).await {
        Ok(is_whole) => is_whole,
        Err(error) => {
            found.problem("tables", "tables_bad", &[("cause", &error)]);
            true
        }
    };
    let secret = [0; 32];
    let declared = settings.queries();
    let n = declared.len();
    match Queries::open(database.clone(), declared, secret, context).await {
        // What they ask is made at the start of the server.
        Err(error) if !is_whole => found.note("queries", "queries_bad", &[("cause", &error)]),
        Err(error) => found.problem("queries", "queries_bad", &[("cause", &error)]),
        Ok(queries) => match queries.check().await {
            Err(error) => found.problem("queries", "queries_bad", &[("cause", &error)]),
            Ok(findings) => {
                for finding in &findings {
                    let (query, cause) = (&finding.query, &finding.message);
                    let level = match finding.code {
                        "broken" => Level::Problem,
                        _ => Level::Note,
                    };
                    found.add(
                        level,
                        "queries",
                        "query_finding",
                        &[("query", query), ("cause", cause)],
                    );
                }
                if findings.is_empty() && n > 0 {
                    found.good("queries", "queries_good", &[("n", &n)]);
                }
            }
        },
    }
}

async fn look_at_server(
    found: &mut Found,
    config: &StoreConfig,
    (database, server): (&Database, &ServerInfo),
) {
    if server.is_replica {
        found.problem("database", "is_replica", &[("target", &database.target())]);
    }
    if server.through_pooler {
        found.note("database", "through_pooler", &[]);
    }
    if server.is_on_tmpfs == Some(true) {
        found.note("database", "on_tmpfs", &[]);
    }
    for (name, wanted, code) in [
        ("synchronous_commit", "off", "commit_off"),
        ("fsync", "off", "fsync_off"),
    ] {
        if setting(database, name).await.as_deref() == Some(wanted) {
            found.problem("database", code, &[]);
        }
    }
    if !config.replicas.is_empty()
        && setting(database, "synchronous_standby_names")
            .await
            .is_some_and(|names| names.is_empty())
    {
        found.note("replicas", "not_synchronous", &[]);
    }
    if let Some(allowed) = setting(database, "max_connections")
        .await
        .and_then(|text| text.parse::<usize>().ok())
    {
        // One more listens for publications by SQL.
        let listening = usize::from(config.relay.is_some());
        let wanted = config.pool.connections_max() + config.pipeline_connections + listening;
        let values: [(&'static str, &dyn Display); 2] = [("wanted", &wanted), ("allowed", &allowed)];
        match wanted + RESERVED_CONNECTIONS <= allowed {
            true => found.good("pool", "pool_good", &values),
            false => found.problem("pool", "pool_bad", &values),
        }
    }
}

/// What waits in the outbox, who reads it, and what holds it up.
async fn look_at_relay(found: &mut Found, config: &StoreConfig, database: &Database) {
    let look = match relay::look(database).await {
        // It is made at the start of the server, which another finding says.
        Ok(None) => return,
        Ok(Some(look)) => look,
        Err(cause) if config.relay.is_some() => {
            return found.problem("relay", "relay_bad", &[("cause", &cause)]);
        }
        Err(_) => return,
    };
    let (rows, age) = (look.rows, format!("{} s", look.oldest.as_secs()));
    let Some(config) = &config.relay else {
        if rows > 0 {
            found.note("relay", "relay_off", &[("rows", &rows), ("age", &age)]);
        }
        return;
    };
    let is_full = look.bytes >= config.bytes_max;
    if !look.may_read {
        let cause = "this role may not write to its tables";
        found.problem("relay", "relay_bad", &[("cause", &cause)]);
    }
    let values: [(&'static str, &dyn Display); 4] = [
        ("rows", &rows),
        ("age", &age),
        ("bytes", &look.bytes),
        ("n", &look.nodes.len()),
    ];
    match rows > config.alarm_rows || look.oldest > config.alarm_age || is_full {
        true => found.problem("relay", "relay_waiting", &values),
        false => found.good("relay", "relay_good", &values),
    }
    if let Some(transaction) = look.oldest_transaction.filter(|_| look.oldest > config.alarm_age) {
        found.note("relay", "relay_held", &[("transaction", &transaction)]);
    }
    for (node, seen) in look.nodes.iter().filter(|(_, seen)| *seen > config.alarm_age) {
        let age = format!("{} s", seen.as_secs());
        found.note("relay", "relay_node_away", &[("node", node), ("age", &age)]);
    }
    if look.dead > 0 {
        let reason = look.newest_reason.unwrap_or_default();
        found.note("relay", "relay_dead", &[("n", &look.dead), ("cause", &reason)]);
    }
}

async fn setting(database: &Database, name: &str) -> Option<String> {
    let sql = format!("SELECT current_setting('{name}')");
    let rows = database
        .select(Select::new(&sql, &[]))
        .await
        .ok()?
        .collect()
        .await
        .ok()?;
    match rows.first()?.first()? {
        Value::Text(text) => Some(text.to_string()),
        _ => None,
    }
}

/// What is declared and SQLite cannot do.
fn look_at_limits(found: &mut Found, settings: &Settings, config: &StoreConfig, feeds: &[Feed]) {
    let mut needs = |what: String| found.problem("database", "needs_postgres", &[("what", &what)]);
    for feed in feeds {
        if feed.partition.is_some() {
            needs(format!("feeds.{}.partition", feed.name));
        }
    }
    for query in settings.queries().iter().filter(|query| query.replica) {
        needs(format!("queries.{}.replica", query.name));
    }
    if !config.replicas.is_empty() {
        needs("store.replicas".to_owned());
    }
    if config.relay.is_some() {
        needs("store.relay".to_owned());
    }
    found.note("database", "sqlite_limits", &[]);
}

/// Whether nothing is to be made.
async fn look_at_tables(
    found: &mut Found,
    database: &Database,
    feeds: &[Feed],
) -> Result<bool, tidegate_store::Error> {
    let mut is_whole = true;
    for feed in feeds {
        let (name, table) = (&feed.name, &feed.table);
        match schema::validate(database, feed).await? {
            None if feed.manage => {}
            None => found.problem("feeds", "table_missing", &[("feed", name), ("table", table)]),
            Some(problems) => {
                for problem in &problems {
                    let level = match problem.is_fatal() && !feed.manage {
                        true => Level::Problem,
                        false => Level::Note,
                    };
                    let values: [(&'static str, &dyn Display); 3] =
                        [("feed", name), ("table", table), ("cause", problem)];
                    found.add(level, "feeds", "table_differs", &values);
                }
                if problems.is_empty() {
                    found.good("feeds", "table_good", &[("feed", name), ("table", table)]);
                }
            }
        }
    }
    for missing in schema::missing_privileges(database, feeds).await? {
        let privileges = missing.privileges.join(", ");
        let values: [(&'static str, &dyn Display); 4] = [
            ("feed", &missing.feed),
            ("table", &missing.table),
            ("privileges", &privileges),
            ("grant", &missing.grant()),
        ];
        match missing.is_needed {
            true => found.problem("feeds", "no_privilege", &values),
            false => found.note("feeds", "no_privilege_for_changes", &values),
        }
    }
    for step in schema::plan_sql(database, feeds, schema::plan::Allowed::default()).await? {
        if matches!(step.outcome, Outcome::Created | Outcome::Altered) {
            found.note("tables", "to_migrate", &[("object", &step.object)]);
            is_whole = false;
        }
    }
    Ok(is_whole)
}

fn look_at_spool(found: &mut Found, config: &SpoolSettings) {
    let dir = config.dir.display();
    if let Err(cause) = fs::create_dir_all(&config.dir) {
        found.problem("spool", "spool_bad", &[("dir", &dir), ("cause", &cause)]);
        return;
    }
    match Disk::of(&config.dir) {
        Err(cause) => found.problem("spool", "spool_bad", &[("dir", &dir), ("cause", &cause)]),
        Ok(Disk::Memory) => found.problem("spool", "spool_tmpfs", &[("dir", &dir)]),
        Ok(Disk::Overlay) => found.note("spool", "spool_overlay", &[("dir", &dir)]),
        Ok(_) => found.good("spool", "spool_good", &[("dir", &dir)]),
    }
    match spool::list(&config.dir) {
        Err(cause) => found.problem("spool", "spool_bad", &[("dir", &dir), ("cause", &cause)]),
        Ok(feeds) => {
            for feed in feeds {
                found.note(
                    "spool",
                    "spool_waiting",
                    &[
                        ("feed", &feed.feed),
                        ("rows", &feed.rows),
                        ("bytes", &feed.bytes),
                        ("age", &age(feed.oldest_at_ms)),
                    ],
                );
                if feed.damaged_records > 0 {
                    let values: [(&'static str, &dyn Display); 2] =
                        [("feed", &feed.feed), ("n", &feed.damaged_records)];
                    found.problem("spool", "spool_damaged", &values);
                }
            }
        }
    }
}

/// Seconds since then, as people read it.
fn age(at_ms: Option<u64>) -> String {
    let now = Clock::real().wall_ms();
    format!("{} s", now.saturating_sub(at_ms.unwrap_or(now)) / 1_000)
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

struct Found(Vec<StoreFinding>);

impl Found {
    fn add(
        &mut self,
        level: Level,
        subject: &'static str,
        code: &'static str,
        values: &[(&'static str, &dyn Display)],
    ) {
        let values = values.iter().map(|(name, value)| (*name, value.to_string()));
        self.0.push(StoreFinding {
            level,
            subject,
            code,
            values: values.collect(),
        });
    }

    fn good(&mut self, subject: &'static str, code: &'static str, values: &[(&'static str, &dyn Display)]) {
        self.add(Level::Good, subject, code, values);
    }

    fn note(&mut self, subject: &'static str, code: &'static str, values: &[(&'static str, &dyn Display)]) {
        self.add(Level::Note, subject, code, values);
    }

    fn problem(
        &mut self,
        subject: &'static str,
        code: &'static str,
        values: &[(&'static str, &dyn Display)],
    ) {
        self.add(Level::Problem, subject, code, values);
    }
}

/// Opens the database of the settings for a verb that serves nobody: few connections, and an answer or an error.
///
/// # Errors
/// The database cannot be reached or refuses us.
///
/// # Cancel safety
/// Dropped before it ends, nothing stays open.
pub async fn open_for_verb(config: &StoreConfig) -> Result<Database, Error> {
    let mut small = config.database();
    (small.pool.min, small.pool.size, small.pool.overflow) = (0, 4, 0);
    let context = Context::new(Clock::real(), Registry::new());
    let database = Database::open(small, context).await?;
    reached(&database).await?;
    Ok(database)
}
