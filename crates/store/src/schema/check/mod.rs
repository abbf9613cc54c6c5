//! What is right and wrong with a database for these feeds, and what to do about it, in English and Chinese.

mod feeds;
mod folder;
mod server;

use std::{path::PathBuf, time::Duration};

use crate::{
    database::{Database, ServerInfo},
    feed::Feed,
    kind::Kind,
    schema::{
        catalog::Live,
        privilege::{self, Missing},
        session::Session,
        stats::{self, TableStats},
    },
    transaction::Options,
};

/// What the check has to know besides the database.
#[derive(Debug, Clone)]
pub struct Config {
    /// Nodes that connect to the same database, this one included; at least 1.
    pub nodes: u32,
    /// Most connections that one node opens, if that is not what this one would: pool size, overflow and shared ones.
    pub connections: Option<u32>,
    /// The folder of the spool, if there is one.
    pub spool: Option<PathBuf>,
    /// How long the server may take to answer; then it counts as unreachable.
    pub timeout: Duration,
}

/// How good or bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it must be.
    Good,
    /// Worth knowing.
    Note,
    /// Works now, and will not one day or under load.
    Warning,
    /// Does not work, or loses rows.
    Error,
}

/// The same sentence in both languages.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Words {
    /// English.
    pub en: String,
    /// Chinese.
    pub zh: String,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What was looked at, the same in every version and language.
    pub code: &'static str,
    /// How good or bad it is.
    pub severity: Severity,
    /// The feed, table, folder or server.
    pub subject: String,
    /// What is right or wrong.
    pub what: Words,
    /// What to do; empty where nothing is to be done.
    pub advice: Words,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            nodes: 1,
            connections: None,
            spool: None,
            timeout: Duration::from_secs(5),
        }
    }
}

// === impl Words ===

impl Words {
    /// Both sentences.
    pub fn new(en: impl Into<String>, zh: impl Into<String>) -> Self {
        Self {
            en: en.into(),
            zh: zh.into(),
        }
    }
}

// === impl Finding ===

impl Finding {
    fn good(code: &'static str, subject: impl Into<String>, what: Words) -> Self {
        Self::of(Severity::Good, code, subject, what)
    }

    fn note(code: &'static str, subject: impl Into<String>, what: Words) -> Self {
        Self::of(Severity::Note, code, subject, what)
    }

    fn warning(code: &'static str, subject: impl Into<String>, what: Words) -> Self {
        Self::of(Severity::Warning, code, subject, what)
    }

    fn error(code: &'static str, subject: impl Into<String>, what: Words) -> Self {
        Self::of(Severity::Error, code, subject, what)
    }

    fn of(severity: Severity, code: &'static str, subject: impl Into<String>, what: Words) -> Self {
        Self {
            code,
            severity,
            subject: subject.into(),
            what,
            advice: Words::default(),
        }
    }

    fn so(mut self, en: impl Into<String>, zh: impl Into<String>) -> Self {
        self.advice = Words::new(en, zh);
        self
    }
}

/// Everything the findings are made of, read at once.
struct Seen {
    info: ServerInfo,
    live: Live,
    tables: Vec<TableStats>,
    settings: server::Settings,
    privileges: Vec<Missing>,
}

/// Looks at everything and gives what it found, the worst first. A database that cannot be asked is a finding, not an
/// error.
///
/// # Cancel safety
/// It only reads.
pub async fn check(database: &Database, feeds: &[Feed], config: &Config) -> Vec<Finding> {
    let mut findings = match tokio::time::timeout(config.timeout, look(database, feeds)).await {
        Ok(Ok(seen)) => judge(database, feeds, config, &seen),
        Ok(Err(error)) => vec![unreachable_finding(database, &error.to_string())],
        Err(_) => vec![unreachable_finding(
            database,
            &last_dial(database, config.timeout),
        )],
    };
    findings.extend(config.spool.iter().flat_map(|spool| folder::check(spool)));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// What the pool heard when it tried, which is more than that time ran out.
fn last_dial(database: &Database, timeout: Duration) -> String {
    let said = database
        .stats()
        .pool
        .and_then(|pool| pool.connect_error)
        .map(|(error, _)| error);
    said.unwrap_or_else(|| format!("no answer within {} s", timeout.as_secs_f32()))
}

fn unreachable_finding(database: &Database, said: &str) -> Finding {
    let what = Words::new(format!("cannot be used: {said}"), format!("无法使用：{said}"));
    Finding::error("server_reachable", database.target(), what).so(
        "Check address, port, user and password in the database URL, that the server runs, and that it lets this user in \
         (pg_hba.conf).",
        "请检查数据库 URL 中的地址、端口、用户与密码，确认服务器正在运行，且 pg_hba.conf 允许该用户登录。",
    )
}

async fn look(database: &Database, feeds: &[Feed]) -> crate::error::Result<Seen> {
    let info = database.ping().await?;
    let options = Options {
        is_on_primary: true,
        ..Options::default()
    };
    database
        .read_with(options, async |transaction| {
            let session = Session::of(transaction)?;
            let live = Live::read(session, feeds).await?;
            Ok(Seen {
                info: info.clone(),
                tables: stats::read(session).await?,
                settings: server::Settings::read(session).await?,
                privileges: privilege::read(session, feeds, &live).await?,
                live,
            })
        })
        .await
}

fn judge(database: &Database, feeds: &[Feed], config: &Config, seen: &Seen) -> Vec<Finding> {
    let mut findings = Vec::new();
    match seen.info.kind {
        Kind::Postgres => {
            let each = config.connections.unwrap_or_else(|| connections_of(database));
            findings.extend(server::check(
                &seen.info,
                &seen.settings,
                (config.nodes.max(1), each),
            ));
            #[cfg(feature = "postgres")]
            findings.extend(server::replicas(&database.stats().replicas));
            findings.extend(feeds::check_timescale(
                feeds,
                seen.live.timescale,
                seen.settings.has_timescale,
            ));
            findings.extend(feeds::check_tables(feeds, &seen.tables));
        }
        Kind::Sqlite => findings.extend(folder::check_sqlite(&seen.info, feeds)),
    }
    findings.push(feeds::check_own(&seen.live));
    let now = super::database::now_micros(database);
    for feed in feeds {
        findings.extend(feeds::check(feed, &seen.live, &seen.privileges, now));
    }
    findings
}

/// Most connections that this process opens to the server.
fn connections_of(database: &Database) -> u32 {
    let stats = database.stats();
    let own = stats.pool.map_or(0, |pool| pool.size + pool.overflow);
    #[cfg(feature = "postgres")]
    let shared = stats.pipeline.map_or(0, |pipeline| pipeline.connections);
    #[cfg(not(feature = "postgres"))]
    let shared = 0;
    u32::try_from(own + shared).unwrap_or(u32::MAX)
}
