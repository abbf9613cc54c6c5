//! Brings the database to what the feeds declare: once, whoever else tries at the same time.
//!
//! Everything happens in one transaction, under a transaction's advisory lock that is polled, never waited for: a session
//! that waits inside a statement holds a snapshot, and an index built CONCURRENTLY elsewhere would wait for it in turn.
//! A transaction's lock and one transaction also work behind a pooler that changes sessions between transactions.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    error::{Error, Result},
    feed::Feed,
    kind::Kind,
    schema::{
        catalog::{Live, Problem, problems},
        own,
        plan::{Allowed, Outcome, Step, plan},
        session::Session,
    },
};

/// How a migration runs.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long to wait for another migration to end.
    pub wait: Duration,
    /// How long a statement may wait for a lock on a table before everything is rolled back and tried again.
    pub lock_wait: Duration,
    /// What may be dropped.
    pub allowed: Allowed,
}

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Each object with what became of it and the statements that ran.
    pub steps: Vec<Step>,
    /// What still is not as the feeds say, and is not ours to change: feed and sentence.
    pub problems: Vec<(String, String)>,
}

/// `tidegate` in ASCII, for all of our advisory locks; the second number says what is locked.
pub(crate) const LOCK: i32 = 0x7469_6465;
const MIGRATING: i32 = 1;

/// Between two looks at the lock.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Runs that met a conflict: another session that has no part in our lock.
const CONFLICTS_MAX: u32 = 5;

impl Default for Options {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(60),
            lock_wait: Duration::from_secs(10),
            allowed: Allowed::default(),
        }
    }
}

impl Report {
    /// How many objects had this outcome.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.steps.iter().filter(|step| step.outcome == outcome).count()
    }
}

/// The statements that a migration would run, without running them.
///
/// # Errors
/// As [`crate::schema::plan::plan`], and what the database says.
///
/// # Cancel safety
/// It only reads.
pub async fn plan_sql(
    session: Session<'_>,
    feeds: &[Feed],
    allowed: Allowed,
    now_micros: i64,
) -> Result<Vec<Step>> {
    let live = Live::read(session, feeds).await?;
    plan(&live, feeds, allowed, now_micros)
}

/// Migrates on a connection that is in no transaction.
///
/// # Errors
/// [`Error::Config`] for a declaration that is not sound, [`Error::Timeout`] if another migration does not end in time,
/// and what the database says; then nothing was changed.
///
/// # Cancel safety
/// Dropped before its end, the connection is left in a transaction that must be rolled back; nothing was changed.
pub async fn migrate(
    session: Session<'_>,
    feeds: &[Feed],
    options: &Options,
    now_micros: i64,
) -> Result<Report> {
    let mut patience = Patience::new(options);
    loop {
        session.run(begin_sql(session.kind())).await?;
        let outcome = match attempt(session, feeds, options, now_micros).await {
            Ok(Some(report)) => session.run("COMMIT").await.map(|_| Some(report)),
            other => {
                session.run("ROLLBACK").await?;
                other
            }
        };
        if let Some(report) = patience.judge(outcome)? {
            return Ok(report);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How long and how often a migration is tried.
pub(crate) struct Patience {
    since: Instant,
    wait: Duration,
    conflicts: u32,
}

impl Patience {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            since: Instant::now(),
            wait: options.wait,
            conflicts: 0,
        }
    }

    /// The report, or none if it is to be tried again after [`POLL`].
    pub(crate) fn judge(&mut self, outcome: Result<Option<Report>>) -> Result<Option<Report>> {
        match outcome {
            Ok(Some(report)) => return Ok(Some(report)),
            Ok(None) => {}
            Err(error) if is_conflict(&error) && self.conflicts < CONFLICTS_MAX => self.conflicts += 1,
            Err(error) => return Err(error),
        }
        match self.since.elapsed() > self.wait {
            true => Err(Error::Timeout {
                what: "waiting for another migration".to_owned(),
                after: self.wait,
            }),
            false => Ok(None),
        }
    }
}

const fn begin_sql(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "BEGIN",
        Kind::Sqlite => "BEGIN IMMEDIATE",
    }
}

/// Migrates inside a transaction; none if another migration is at work.
pub(crate) async fn attempt(
    session: Session<'_>,
    feeds: &[Feed],
    options: &Options,
    now_micros: i64,
) -> Result<Option<Report>> {
    if session.kind() == Kind::Postgres {
        let lock = format!("SELECT pg_try_advisory_xact_lock({LOCK}, {MIGRATING})");
        if !session.is(&lock).await? {
            return Ok(None);
        }
        let lock_wait = format!(
            "SET LOCAL lock_timeout = {}",
            options.lock_wait.as_millis().max(1)
        );
        for setting in [
            lock_wait.as_str(),
            "SET LOCAL statement_timeout = 0",
            "SET LOCAL client_min_messages = warning",
            own::LEAVE_SQL,
        ] {
            session.run(setting).await?;
        }
    }
    let live = Live::read(session, feeds).await?;
    let steps = plan(&live, feeds, options.allowed, now_micros)?;
    for sql in steps.iter().flat_map(|step| &step.sql) {
        session.run(sql).await?;
    }
    let live = Live::read(session, feeds).await?;
    Ok(Some(Report {
        steps,
        problems: remaining(&live, feeds),
    }))
}

/// What is not as the feeds say.
fn remaining(live: &Live, feeds: &[Feed]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for feed in feeds {
        match live.tables.get(&feed.table) {
            None => found.push((feed.name.clone(), format!("table {} is missing", feed.table))),
            Some(table) => {
                let problems: Vec<Problem> = problems(live.kind, feed, table);
                found.extend(
                    problems
                        .iter()
                        .map(|problem| (feed.name.clone(), problem.to_string())),
                );
            }
        }
    }
    found
}

/// Somebody made the same object at the same time without our lock, or held a lock for too long.
pub(crate) fn is_conflict(error: &Error) -> bool {
    let codes = ["40001", "40P01", "55P03", "42P07", "42701", "42P06", "23505", "5"];
    error.sqlstate().is_some_and(|state| codes.contains(&state))
}
