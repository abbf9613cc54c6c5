//! The schema's work on an open [`Database`].

use std::time::Duration;

use crate::{
    database::Database,
    error::Result,
    feed::Feed,
    schema::{
        backfill::{self, Progress},
        catalog::{Live, Problem, problems},
        migrate::{Options, POLL, Patience, Report, attempt},
        plan::{Allowed, Step, plan},
        privilege::{self, Missing},
        session::Session,
    },
};

/// Between two steps of filling a roll-up, so that writers come in between.
const BREATH: Duration = Duration::from_millis(10);

/// The time by the database's own clock setting, in microseconds since 1970.
pub(crate) fn now_micros(database: &Database) -> i64 {
    i64::try_from(database.context().clock.wall_ms()).unwrap_or(i64::MAX / 1000) * 1000
}

/// Makes what is missing: our own tables, managed tables and their columns, roll-ups, partitions. Nothing is changed or
/// dropped otherwise. Runs once, whoever else runs it at the same time; a second run does nothing.
///
/// # Errors
/// [`crate::Error::Config`] for a declaration that is not sound, [`crate::Error::Timeout`] if another migration does not
/// end in time, and what the database says; then nothing was changed.
///
/// # Cancel safety
/// Dropping it rolls back.
pub async fn migrate(database: &Database, feeds: &[Feed], options: Options) -> Result<Report> {
    let mut patience = Patience::new(&options);
    let (now, options) = (now_micros(database), &options);
    loop {
        let outcome = database
            .write(async |transaction| attempt(Session::of(transaction)?, feeds, options, now).await)
            .await;
        if let Some(report) = patience.judge(outcome)? {
            return Ok(report);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Makes our own tables where they are missing; what ingest needs before its first row.
///
/// # Errors
/// As [`migrate`].
///
/// # Cancel safety
/// As [`migrate`].
pub async fn ensure_own(database: &Database) -> Result<()> {
    migrate(database, &[], Options::default()).await.map(|_| ())
}

/// What [`migrate`] would do, with the statements, without doing it.
///
/// # Errors
/// As [`migrate`].
///
/// # Cancel safety
/// It only reads.
pub async fn plan_sql(database: &Database, feeds: &[Feed], allowed: Allowed) -> Result<Vec<Step>> {
    let live = live(database, feeds).await?;
    plan(&live, feeds, allowed, now_micros(database))
}

/// What is there of the feeds' tables.
///
/// # Errors
/// What the database says.
///
/// # Cancel safety
/// It only reads.
pub async fn live(database: &Database, feeds: &[Feed]) -> Result<Live> {
    let options = crate::transaction::Options {
        is_on_primary: true,
        ..Default::default()
    };
    database
        .read_with(options, async |transaction| {
            Live::read(Session::of(transaction)?, feeds).await
        })
        .await
}

/// What the role lacks to store rows of these feeds, on the tables that are there.
///
/// # Errors
/// What the database says.
///
/// # Cancel safety
/// It only reads.
pub async fn missing_privileges(database: &Database, feeds: &[Feed]) -> Result<Vec<Missing>> {
    let options = crate::transaction::Options {
        is_on_primary: true,
        ..Default::default()
    };
    database
        .read_with(options, async |transaction| {
            let session = Session::of(transaction)?;
            let live = Live::read(session, feeds).await?;
            privilege::read(session, feeds, &live).await
        })
        .await
}

/// What is wrong with the table of a feed; none if there is no table. Empty: nothing.
///
/// # Errors
/// What the database says.
///
/// # Cancel safety
/// It only reads.
pub async fn validate(database: &Database, feed: &Feed) -> Result<Option<Vec<Problem>>> {
    let live = live(database, std::slice::from_ref(feed)).await?;
    let table = live.tables.get(&feed.table);
    Ok(table.map(|table| problems(live.kind, feed, table)))
}

/// Fills roll-ups that were added to tables with rows, to the end; `progress` hears the table of each step. Writers may
/// go on meanwhile, if all of them know the roll-ups. Steps that another node is at are left to it.
///
/// # Errors
/// What the database says; the next call goes on where this one stopped.
///
/// # Cancel safety
/// The step is rolled back, the steps before it stay.
pub async fn fill(database: &Database, feeds: &[Feed], progress: impl Fn(&str) + Send + Sync) -> Result<u64> {
    let mut n_steps = 0;
    for feed in feeds {
        for rollup in &feed.rollups {
            while fill_step(database, feed, rollup).await? == Progress::More {
                n_steps += 1;
                progress(&rollup.table);
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    Ok(n_steps)
}

pub(crate) async fn fill_step(
    database: &Database,
    feed: &Feed,
    rollup: &crate::feed::Rollup,
) -> Result<Progress> {
    database
        .write(async |transaction| backfill::step(Session::of(transaction)?, feed, rollup).await)
        .await
}
