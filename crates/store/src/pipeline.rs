//! Shared connections for short statements: many in flight on each, answered in order.
//!
//! ```text
//! select ─▶ short? ─ no ──────────────────────────────▶ a connection of its own
//!             └ yes ─▶ permit ─▶ lane with the fewest in flight ─▶ prepared statement ─▶ rows, all at once
//!                                  └ away, too slow, too many rows ─▶ a connection of its own
//! ```
//! No statement here is ever cancelled: a late request would hit a neighbour. The server's own timeout ends what is too
//! slow, and what was slow once runs elsewhere for a while.

use std::{
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt;
use rustc_hash::{FxHashMap, FxHasher};
use tidegate_flow::task::Group;
use tidegate_vitals::{Clock, Counter, Gauge, Id, clock::Instant};
use tokio::sync::{OnceCell, Semaphore};
use tokio_postgres::{Row, Statement};

use crate::{
    backend::postgres::{Collected, Connection, Postgres, Session, columns_of},
    database::Context,
    error::{Error, Result},
    select::{ColumnInfo, Select},
    statement::Timing,
};

/// How short statements share connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whether they do.
    pub is_enabled: bool,
    /// Shared connections, 1 to 16.
    pub connections: usize,
    /// Statements in flight on each, 1 to 1,000; more wait.
    pub in_flight_max: usize,
    /// The server ends a statement that runs longer, and it runs again on a connection of its own: 10 ms to 60 s.
    pub statement_timeout: Duration,
    /// A statement that takes longer on average holds up its neighbours and moves to a connection of its own: at least
    /// 1 ms.
    pub slow_after: Duration,
    /// For how long it stays there; at least 1 s.
    pub slow_for: Duration,
    /// An answer of more rows is not for a shared connection, 1 to 100,000.
    pub rows_max: usize,
    /// Statement texts whose times are remembered and that stay prepared, 1 to 10,000.
    pub statements_max: usize,
}

/// Figures of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Open shared connections.
    pub connections: usize,
    /// Statements in flight.
    pub in_flight: usize,
    /// Statements that wait for their turn to be sent.
    pub waiting: usize,
    /// Texts that run elsewhere because they were slow or large.
    pub moved: usize,
    /// Answered here.
    pub answered: u64,
    /// Refused by the server.
    pub failed: u64,
    /// Sent elsewhere.
    pub elsewhere: u64,
}

/// What the pipeline made of a statement.
pub(crate) enum Answer {
    /// Its rows.
    Rows(Collected),
    /// It needs a connection of its own.
    Elsewhere,
}

pub(crate) struct Pipeline(Arc<Shared>);

struct Shared {
    connector: Postgres,
    config: Config,
    clock: Clock,
    lanes: Box<[Lane]>,
    permits: Semaphore,
    /// By the hash of a text; bounded by `statements_max`.
    known: Mutex<FxHashMap<u64, Known>>,
    /// A pooler stands between: sharing is its business.
    is_off: AtomicBool,
    dials: Group,
    waiting: AtomicU32,
    metrics: Metrics,
}

struct Metrics {
    in_flight: Gauge,
    answered: Counter,
    failed: Counter,
    elsewhere: Counter,
}

/// A place for one shared connection.
#[derive(Default)]
struct Lane {
    live: Mutex<Option<Arc<Live>>>,
    is_dialling: AtomicBool,
    /// No dial before this moment, in nanoseconds of the clock.
    dial_at: AtomicU64,
    n_refusals: AtomicU32,
}

/// An open shared connection.
struct Live {
    connection: Connection,
    prepared: Mutex<FxHashMap<Box<str>, Arc<OnceCell<Prepared>>>>,
    in_flight: AtomicU32,
    /// Statements whose callers left before the answer came; zero again with the next answer, which is behind theirs.
    abandoned: AtomicU32,
    /// When the last answer was complete, in nanoseconds of the clock.
    last_done: AtomicU64,
}

#[derive(Clone)]
struct Prepared {
    statement: Statement,
    columns: Arc<[ColumnInfo]>,
}

/// What is known of one text.
#[derive(Clone, Copy, Default)]
struct Known {
    /// Whether it may run here at all, by its words.
    is_eligible: bool,
    /// Moving average of its time on the server.
    mean_us: u32,
    /// Until when it runs elsewhere; zero: it does not.
    moved_until: u64,
}

/// Counts a statement as in flight until it is dropped.
struct InFlight<'a> {
    shared: &'a Shared,
    live: &'a Live,
    is_answered: bool,
}

/// Why a statement goes elsewhere after it was tried here.
enum Miss {
    Failed(Error),
    TooManyRows,
}

/// Pauses between dials of a lane: they double up to the second.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A time counts as at most so many times longer than allowed. A machine that stalls makes one answer late on each
/// connection and must move nothing; three such answers in a row do.
const OUTLIER: u32 = 4;
/// How many answers the average looks back on.
const MEMORY: u32 = 8;

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            is_enabled: true,
            connections: 4,
            in_flight_max: 128,
            statement_timeout: Duration::from_secs(1),
            slow_after: Duration::from_millis(20),
            slow_for: Duration::from_secs(60),
            rows_max: 1_000,
            statements_max: 1_000,
        }
    }
}

impl Config {
    /// # Errors
    /// [`Error::Config`] naming the value that is out of its range.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, problem: String| {
            Err(Error::Config {
                what: format!("pipeline.{key}"),
                problem,
            })
        };
        for (key, value, most) in [
            ("connections", self.connections, 16),
            ("in_flight_max", self.in_flight_max, 1_000),
            ("rows_max", self.rows_max, 100_000),
            ("statements_max", self.statements_max, 10_000),
        ] {
            if !(1..=most).contains(&value) {
                return wrong(key, format!("{value} is not 1 to {most}"));
            }
        }
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        for (key, value, least, most) in [
            ("statement_timeout", self.statement_timeout, ms(10), s(60)),
            ("slow_after", self.slow_after, ms(1), s(60)),
            ("slow_for", self.slow_for, s(1), s(86_400)),
        ] {
            if !(least..=most).contains(&value) {
                return wrong(key, format!("{value:?} is not {least:?} to {most:?}"));
            }
        }
        Ok(())
    }
}

// === impl Pipeline ===

impl Pipeline {
    /// A pipeline to the servers of `primary`. Connections come with the first statements.
    pub(crate) fn new(primary: &Postgres, config: &Config, context: &Context) -> Result<Self> {
        let connector = primary.with_session(Session {
            statement_timeout: Some(config.statement_timeout),
            is_read_only: true,
            ..primary.session().clone()
        })?;
        let registry = &context.registry;
        let outcome = |name| registry.counter(Id::StorePipelineStatements, &[name]);
        let metrics = Metrics {
            in_flight: registry.gauge(Id::StorePipelineInFlight, &[]),
            answered: outcome("answered"),
            failed: outcome("failed"),
            elsewhere: outcome("elsewhere"),
        };
        Ok(Self(Arc::new(Shared {
            connector,
            clock: context.clock.clone(),
            lanes: (0..config.connections).map(|_| Lane::default()).collect(),
            permits: Semaphore::new(config.connections * config.in_flight_max),
            known: Mutex::default(),
            is_off: AtomicBool::new(false),
            dials: Group::new(),
            waiting: AtomicU32::new(0),
            metrics,
            config: config.clone(),
        })))
    }

    /// Runs `select` on a shared connection if it can be; `timing` is taken when it was answered here.
    ///
    /// Dropping the future leaves the statement to its end on the server; its answer is thrown away.
    pub(crate) async fn run(&self, select: &Select<'_>, timing: &mut Option<Timing>) -> Result<Answer> {
        let shared = &self.0;
        let key = key_of(select.sql);
        if !shared.may_run(key, select.sql) {
            shared.metrics.elsewhere.inc();
            return Ok(Answer::Elsewhere);
        }
        let _permit = match shared.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => shared.wait_for_permit().await?,
        };
        let Some((lane, live)) = self.pick() else {
            shared.metrics.elsewhere.inc();
            return Ok(Answer::Elsewhere);
        };
        if let Some(timing) = timing {
            timing.acquired();
        }
        match shared.run_on(&live, key, select).await {
            Ok(rows) => {
                shared.metrics.answered.inc();
                if let Some(mut timing) = timing.take() {
                    timing.executed();
                    timing.finish(rows.rows.len() as u64, Ok(()));
                }
                Ok(Answer::Rows(rows))
            }
            Err(Miss::TooManyRows) => {
                shared.move_away(key);
                shared.metrics.elsewhere.inc();
                Ok(Answer::Elsewhere)
            }
            Err(Miss::Failed(error)) => shared.after_failure(lane, &live, key, error),
        }
    }

    pub(crate) fn stats(&self) -> Stats {
        let shared = &self.0;
        let lives: Vec<_> = shared.lanes.iter().filter_map(Lane::live).collect();
        let now = shared.clock.now().as_nanos();
        Stats {
            connections: lives.iter().filter(|live| live.connection.is_usable()).count(),
            in_flight: lives
                .iter()
                .map(|live| live.in_flight.load(Relaxed) as usize)
                .sum(),
            waiting: shared.waiting.load(Relaxed) as usize,
            moved: lock(&shared.known)
                .values()
                .filter(|known| known.moved_until > now)
                .count(),
            answered: shared.metrics.answered.get(),
            failed: shared.metrics.failed.get(),
            elsewhere: shared.metrics.elsewhere.get(),
        }
    }

    pub(crate) async fn close(&self) {
        self.0.is_off.store(true, Relaxed);
        let _ = self.0.dials.finish(PAUSE_MAX).await;
        for lane in &self.0.lanes {
            *lock(&lane.live) = None;
        }
        self.0.connector.finish(PAUSE_MAX).await;
    }

    /// The lane with the fewest statements in flight. Lanes without a connection get one, off this path.
    fn pick(&self) -> Option<(&Lane, Arc<Live>)> {
        let mut best: Option<(&Lane, Arc<Live>)> = None;
        for (at, lane) in self.0.lanes.iter().enumerate() {
            match lane.live().filter(|live| self.0.is_good(live)) {
                Some(live) => {
                    let load = live.in_flight.load(Relaxed);
                    if best
                        .as_ref()
                        .is_none_or(|(_, best)| load < best.in_flight.load(Relaxed))
                    {
                        best = Some((lane, live));
                    }
                }
                None => self.dial(at),
            }
        }
        best
    }

    fn dial(&self, at: usize) {
        let shared = &self.0;
        let lane = &shared.lanes[at];
        let too_early = shared.clock.now().as_nanos() < lane.dial_at.load(Relaxed);
        if too_early || shared.is_off.load(Relaxed) || lane.is_dialling.swap(true, Relaxed) {
            return;
        }
        let dialling = Arc::clone(shared);
        shared
            .dials
            .spawn("store-pipeline-dial", async move { dialling.fill(at).await });
    }
}

// === impl Shared ===

impl Shared {
    async fn wait_for_permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        struct Waiting<'a>(&'a AtomicU32);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        self.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(&self.waiting);
        self.permits.acquire().await.map_err(|_| Error::PoolClosed)
    }

    /// Opens the connection of a lane.
    async fn fill(&self, at: usize) {
        let lane = &self.lanes[at];
        match self.connector.open().await {
            Ok(connection) if connection.info().through_pooler => {
                tracing::info!(
                    "a pooler stands before the database: short statements do not share connections"
                );
                self.is_off.store(true, Relaxed);
            }
            Ok(connection) => {
                lane.n_refusals.store(0, Relaxed);
                *lock(&lane.live) = Some(Arc::new(Live::new(connection, self.clock.now())));
            }
            Err(error) => {
                let n_refusals = lane.n_refusals.fetch_add(1, Relaxed).min(10);
                let pause = PAUSE.saturating_mul(1 << n_refusals).min(PAUSE_MAX);
                lane.dial_at.store((self.clock.now() + pause).as_nanos(), Relaxed);
                tracing::debug!(%error, ?pause, "no shared connection for short statements");
            }
        }
        lane.is_dialling.store(false, Relaxed);
    }

    fn is_good(&self, live: &Live) -> bool {
        // A lane that nobody waits for any more, because its answers do not come, is given up.
        let is_stuck = live.abandoned.load(Relaxed) as usize >= self.config.in_flight_max;
        live.connection.is_usable() && !is_stuck
    }

    async fn run_on(
        &self,
        live: &Live,
        key: u64,
        select: &Select<'_>,
    ) -> std::result::Result<Collected, Miss> {
        let mut in_flight = InFlight::new(self, live);
        let mut outcome = self.try_on(live, key, select).await;
        if matches!(&outcome, Err(Miss::Failed(error)) if crate::backend::postgres::is_stale(error)) {
            live.forget(select.sql);
            outcome = self.try_on(live, key, select).await;
        }
        in_flight.is_answered = true;
        outcome
    }

    async fn try_on(
        &self,
        live: &Live,
        key: u64,
        select: &Select<'_>,
    ) -> std::result::Result<Collected, Miss> {
        let failed = |error| Miss::Failed(live.connection.error(error));
        let prepared = live
            .prepare(select.sql, self.config.statements_max)
            .await
            .map_err(Miss::Failed)?;
        let started = self.clock.now();
        let rows = live
            .connection
            .client()
            .query_raw(&prepared.statement, select.params)
            .await
            .map_err(failed)?;
        let mut rows = std::pin::pin!(rows);
        let mut collected: Vec<Row> = Vec::new();
        while let Some(row) = rows.next().await {
            if collected.len() == self.config.rows_max {
                return Err(Miss::TooManyRows);
            }
            collected.push(row.map_err(failed)?);
        }
        self.record(live, key, started);
        Ok(Collected {
            columns: prepared.columns,
            rows: collected,
        })
    }

    /// Takes the time of an answer. It began when it was sent, or when the answer before it was complete.
    fn record(&self, live: &Live, key: u64, started: Instant) {
        let now = self.clock.now();
        let before = Instant::from_nanos(live.last_done.swap(now.as_nanos(), Relaxed));
        let took_us = (now - started.max(before)).as_micros();
        let slow_us = self.config.slow_after.as_micros();
        let mut known = lock(&self.known);
        let Some(known) = known.get_mut(&key) else {
            return;
        };
        if known.is_slow_after(took_us as u64, slow_us as u64) {
            known.moved_until = (now + self.config.slow_for).as_nanos();
            known.mean_us = 0;
        }
    }

    fn move_away(&self, key: u64) {
        let until = (self.clock.now() + self.config.slow_for).as_nanos();
        if let Some(known) = lock(&self.known).get_mut(&key) {
            known.moved_until = until;
        }
    }

    /// Whether a text may run here now.
    fn may_run(&self, key: u64, sql: &str) -> bool {
        if self.is_off.load(Relaxed) {
            return false;
        }
        let mut all = lock(&self.known);
        if let Some(known) = all.get_mut(&key) {
            if known.moved_until == 0 {
                return known.is_eligible;
            }
            if self.clock.now().as_nanos() < known.moved_until {
                return false;
            }
            known.moved_until = 0;
            return known.is_eligible;
        }
        if all.len() >= self.config.statements_max {
            // What was moved is worth remembering, the rest is soon known again.
            all.retain(|_, known| known.moved_until > 0);
            if all.len() >= self.config.statements_max {
                return false;
            }
        }
        let is_eligible = is_eligible(sql);
        all.insert(
            key,
            Known {
                is_eligible,
                ..Known::default()
            },
        );
        is_eligible
    }

    /// What a failure means for its statement and for its lane.
    fn after_failure(&self, lane: &Lane, live: &Arc<Live>, key: u64, error: Error) -> Result<Answer> {
        let is_slow = error.sqlstate() == Some("57014");
        if is_slow {
            self.move_away(key);
        }
        let is_lost = !live.connection.is_usable() || matches!(error, Error::Lost(_));
        if is_lost {
            lane.drop_if(live);
            self.connector.suspect();
        }
        // It only reads, so it may run again.
        if is_slow || is_lost {
            self.metrics.elsewhere.inc();
            return Ok(Answer::Elsewhere);
        }
        self.metrics.failed.inc();
        Err(error)
    }
}

// === impl Lane ===

impl Lane {
    fn live(&self) -> Option<Arc<Live>> {
        lock(&self.live).clone()
    }

    fn drop_if(&self, live: &Arc<Live>) {
        let mut current = lock(&self.live);
        current.take_if(|current| Arc::ptr_eq(current, live));
    }
}

// === impl Live ===

impl Live {
    fn new(connection: Connection, now: Instant) -> Self {
        Self {
            connection,
            prepared: Mutex::default(),
            in_flight: AtomicU32::new(0),
            abandoned: AtomicU32::new(0),
            last_done: AtomicU64::new(now.as_nanos()),
        }
    }

    /// The prepared form of `sql`; whoever comes first prepares it for all.
    async fn prepare(&self, sql: &str, most: usize) -> Result<Prepared> {
        let cell = {
            let mut prepared = lock(&self.prepared);
            match prepared.get(sql) {
                Some(cell) => Arc::clone(cell),
                None => {
                    if prepared.len() >= most {
                        prepared.clear();
                    }
                    Arc::clone(prepared.entry(sql.into()).or_default())
                }
            }
        };
        let prepare = async || {
            let statement = self.connection.client().prepare(sql).await;
            let statement = statement.map_err(|error| self.connection.error(error))?;
            let columns = columns_of(statement.columns())?;
            Ok::<_, Error>(Prepared { statement, columns })
        };
        cell.get_or_try_init(prepare).await.cloned()
    }

    fn forget(&self, sql: &str) {
        let _closed = lock(&self.prepared).remove(sql);
    }
}

// === impl Known ===

impl Known {
    /// Takes a time into the average, and says whether that is too long now.
    fn is_slow_after(&mut self, took_us: u64, slow_us: u64) -> bool {
        let took_us = took_us.min(slow_us * u64::from(OUTLIER)) as u32;
        self.mean_us = self.mean_us - self.mean_us / MEMORY + took_us / MEMORY;
        u64::from(self.mean_us) > slow_us
    }
}

// === impl InFlight ===

impl<'a> InFlight<'a> {
    fn new(shared: &'a Shared, live: &'a Live) -> Self {
        live.in_flight.fetch_add(1, Relaxed);
        shared.metrics.in_flight.add(1);
        Self {
            shared,
            live,
            is_answered: false,
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.live.in_flight.fetch_sub(1, Relaxed);
        self.shared.metrics.in_flight.add(-1);
        match self.is_answered {
            true => self.live.abandoned.store(0, Relaxed),
            false => {
                self.live.abandoned.fetch_add(1, Relaxed);
            }
        }
    }
}

/// Whether a text may share a session: it only reads, and it neither sets nor holds anything in the session.
fn is_eligible(sql: &str) -> bool {
    let lower = sql.trim_start().to_ascii_lowercase();
    let reads = ["select", "with", "values", "table", "("]
        .iter()
        .any(|word| lower.starts_with(word));
    let stays = [
        "set_config",
        "pg_advisory",
        "pg_try_advisory",
        "setseed",
        "dblink",
        "lo_open",
    ];
    reads && !stays.iter().any(|word| lower.contains(word))
}

fn key_of(sql: &str) -> u64 {
    let mut hasher = FxHasher::default();
    sql.hash(&mut hasher);
    hasher.finish()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can leave a value half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str, expected: bool) {
        assert_eq!(is_eligible(sql), expected, "{sql}");
    }

    #[test]
    fn only_plain_reads_share_a_session() {
        check("SELECT 1", true);
        check("  with a as (select 1) select * from a", true);
        check("VALUES (1)", true);
        check("SET search_path = x", false);
        check("select set_config('search_path', 'x', false)", false);
        check("SELECT pg_advisory_lock(1)", false);
        check("INSERT INTO a VALUES (1)", false);
    }

    #[test]
    fn one_stall_moves_nothing_and_slow_answers_do() {
        let check = |times: &[u64], expected: Option<usize>| {
            let mut known = Known::default();
            let moved = times
                .iter()
                .position(|took_us| known.is_slow_after(*took_us, 20_000));
            assert_eq!(moved, expected, "{times:?}");
        };
        check(&[100, 3_000_000, 100, 100, 100, 100], None);
        check(&[100; 100], None);
        check(&[19_000; 100], None);
        check(&[100, 200_000, 200_000, 200_000], Some(3));
        check(&[25_000; 100], Some(12));
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let check = |change: fn(&mut Config), expected: Option<&str>| {
            let mut config = Config::default();
            change(&mut config);
            let message = config.check().err().map(|error| error.to_string());
            assert_eq!(message.as_deref(), expected);
        };
        check(|_| {}, None);
        check(
            |config| config.connections = 0,
            Some("pipeline.connections: 0 is not 1 to 16"),
        );
        check(
            |config| config.slow_for = Duration::ZERO,
            Some("pipeline.slow_for: 0ns is not 1s to 86400s"),
        );
    }
}
