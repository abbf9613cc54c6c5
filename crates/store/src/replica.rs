//! Replicas: which of them may answer a read, and who is the primary.
//!
//! A replica is measured against what the primary's log was at known moments: its lag is the age of the oldest of them
//! that it has not replayed. No clock but our own is read.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_flow::task::Group;
use tidegate_vitals::{Clock, Counter, Gauge, Id, Level, Registry, clock::Instant};
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;

use crate::{
    backend::postgres::{Connection, Dsn, Postgres, Session, lsn_of},
    database::Context,
    error::{Error, Result},
    pool::{self, Connector, Pool},
};

pub use crate::select::ReadToken;

/// Servers that follow the primary, and when they may answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// One URL for each; at most 16.
    pub urls: Vec<String>,
    /// A replica that is further behind is not asked: 100 ms to 1 h.
    pub lag_max: Duration,
    /// How often roles and lag are looked at: 50 ms to 60 s.
    pub every: Duration,
    /// The pool of each.
    pub pool: pool::Config,
}

/// A replica at one moment.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Stats {
    /// Host, port and database.
    pub target: String,
    /// Whether it is asked.
    pub healthy: bool,
    /// Why not.
    pub reason: Option<String>,
    /// How far it is behind, in milliseconds, at the last look.
    pub lag_ms: u64,
    /// Reads that run on it.
    pub in_flight: u32,
    /// Moving average of the time of its reads, in microseconds.
    pub latency_us: u64,
    /// Reads it answered.
    pub reads: u64,
    /// Its pool.
    pub pool: pool::Stats,
}

/// The replicas of one database, and the watch over its primary.
pub(crate) struct Replicas {
    members: Vec<Arc<Replica>>,
    to_primary: Counter,
    watch: Group,
}

/// One replica.
pub(crate) struct Replica {
    pool: Pool<Postgres>,
    in_flight: AtomicU32,
    latency_us: AtomicU64,
    reads: Counter,
    lag: Gauge,
    clock: Clock,
    seen: Mutex<Seen>,
}

/// What the last look found.
#[derive(Debug, Clone)]
struct Seen {
    /// Why it is not asked; `None`: it is.
    reason: Option<String>,
    system_id: u64,
    timeline: u32,
    replayed: u64,
    lag: Duration,
}

/// A read that runs on a replica, until it is dropped.
pub(crate) struct InFlight {
    replica: Arc<Replica>,
    started: Instant,
}

/// A replica that was picked.
pub(crate) struct Picked {
    replica: Arc<Replica>,
}

/// Where the primary's log was, and when.
#[derive(Default)]
struct History {
    /// The oldest first; at most [`HISTORY_MAX`].
    places: VecDeque<(Instant, u64)>,
    timeline: u32,
    system_id: u64,
}

/// What one look at a server found.
struct Look {
    is_replica: bool,
    lsn: u64,
    timeline: u32,
    system_id: u64,
}

/// One a second for an hour: the largest lag bound.
const HISTORY_MAX: usize = 3_600;
const REPLICAS_MAX: usize = 16;
/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
const LOOK: &str = "SELECT pg_is_in_recovery(), \
     CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, \
     CASE WHEN pg_is_in_recovery() THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), \
     (SELECT timeline_id FROM pg_control_checkpoint()))::text \
     ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, \
     (SELECT system_identifier FROM pg_control_system())";

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            lag_max: Duration::from_secs(10),
            every: Duration::from_secs(1),
            pool: pool::Config {
                min: 1,
                ..pool::Config::default()
            },
        }
    }
}

impl Config {
    /// # Errors
    /// [`Error::Config`] naming the value that is out of its range.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &str, problem| {
            Err(Error::Config {
                what: format!("replicas.{key}"),
                problem,
            })
        };
        self.pool.check()?;
        if self.urls.len() > REPLICAS_MAX {
            return wrong(
                "urls",
                format!("{} are more than {REPLICAS_MAX}", self.urls.len()),
            );
        }
        let (ms, s) = (Duration::from_millis, Duration::from_secs);
        if !(ms(100)..=s(3_600)).contains(&self.lag_max) {
            return wrong("lag_max", format!("{:?} is not 100ms to 3600s", self.lag_max));
        }
        if !(ms(50)..=s(60)).contains(&self.every) {
            return wrong("every", format!("{:?} is not 50ms to 60s", self.every));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URLs may hold passwords.
        write!(
            f,
            "Config({} replicas, lag_max {:?})",
            self.urls.len(),
            self.lag_max
        )
    }
}

// === impl Replicas ===

impl Replicas {
    /// Opens a pool for each replica and starts to watch them and the primary behind `primary`.
    pub(crate) fn start(primary: &Pool<Postgres>, config: &Config, context: &Context) -> Result<Self> {
        let registry = &context.registry;
        let open = |url: &String| Replica::open(url, primary.connector(), config, context).map(Arc::new);
        let members = config.urls.iter().map(open).collect::<Result<Vec<_>>>()?;
        let watch = Group::new();
        let history = Arc::new(Mutex::new(History::default()));
        let n_hosts = primary.connector().dsn().hosts.len();
        // Nothing depends on the role of a single server without replicas.
        if !members.is_empty() || n_hosts > 1 {
            let watcher = PrimaryWatch {
                pool: primary.clone(),
                clock: context.clock.clone(),
                every: config.every,
                history: Arc::clone(&history),
                connection: None,
            };
            watch.spawn("store-primary-watch", watcher.run());
        }
        for member in &members {
            let watcher = ReplicaWatch {
                replica: Arc::clone(member),
                clock: context.clock.clone(),
                config: config.clone(),
                history: Arc::clone(&history),
                connection: None,
            };
            watch.spawn("store-replica-watch", watcher.run());
        }
        let to_primary = registry.counter(Id::StoreReplicaReads, &["primary"]);
        Ok(Self {
            members,
            to_primary,
            watch,
        })
    }

    /// The replica that answers soonest, of those that may: the fewest reads in flight, weighed by how long they take.
    pub(crate) fn pick(&self, token: Option<&ReadToken>) -> Option<Picked> {
        let able = self
            .members
            .iter()
            .filter(|replica| lock(&replica.seen).may_answer(token));
        let best = able.min_by_key(|replica| {
            let waiting = u64::from(replica.in_flight.load(Relaxed)) + 1;
            waiting * replica.latency_us.load(Relaxed).max(1)
        });
        best.map(|replica| Picked {
            replica: Arc::clone(replica),
        })
    }

    /// A read goes to the primary.
    pub(crate) fn count_primary(&self) {
        self.to_primary.inc();
    }

    pub(crate) fn stats(&self) -> Vec<Stats> {
        self.members.iter().map(|replica| replica.stats()).collect()
    }

    pub(crate) async fn close(&self) {
        // The watchers have nothing to finish.
        let _ = self.watch.finish(Duration::ZERO).await;
        for member in &self.members {
            member.pool.close().await;
        }
    }

    /// Tells the pools how short memory is; see [`Pool::press`].
    pub(crate) fn press(&self, level: Level) -> u64 {
        self.members.iter().map(|member| member.pool.press(level)).sum()
    }
}

// === impl Replica ===

impl Replica {
    fn open(url: &str, primary: &Postgres, config: &Config, context: &Context) -> Result<Self> {
        let session = Session {
            is_read_only: true,
            ..primary.session().clone()
        };
        let mut dsn = Dsn::parse(url)?;
        dsn.needs_primary = Some(false);
        let connector = Postgres::new(dsn, session)?;
        let target = connector.target().to_owned();
        // Its figures are in its own statistics: under the primary's names they would overwrite each other.
        let pool = Pool::start(
            connector,
            config.pool.clone(),
            context.clock.clone(),
            &Registry::new(),
        )?;
        Ok(Self {
            pool,
            in_flight: AtomicU32::new(0),
            latency_us: AtomicU64::new(0),
            reads: context.registry.counter(Id::StoreReplicaReads, &[&target]),
            lag: context.registry.gauge(Id::StoreReplicaLag, &[&target]),
            clock: context.clock.clone(),
            seen: Mutex::new(Seen::not_yet()),
        })
    }

    fn stats(&self) -> Stats {
        let seen = lock(&self.seen).clone();
        Stats {
            target: self.pool.connector().target().to_owned(),
            healthy: seen.reason.is_none(),
            reason: seen.reason,
            lag_ms: seen.lag.as_millis() as u64,
            in_flight: self.in_flight.load(Relaxed),
            latency_us: self.latency_us.load(Relaxed),
            reads: self.reads.get(),
            pool: self.pool.stats(),
        }
    }

    fn give_up(&self, reason: String) {
        let mut seen = lock(&self.seen);
        if seen.reason.as_ref() != Some(&reason) {
            tracing::warn!(
                replica = self.pool.connector().target(),
                reason,
                "replica not asked"
            );
        }
        seen.reason = Some(reason);
    }
}

// === impl Picked ===

impl Picked {
    pub(crate) fn pool(&self) -> &Pool<Postgres> {
        &self.replica.pool
    }

    /// Counts a read until the result is dropped.
    pub(crate) fn enter(&self) -> InFlight {
        self.replica.in_flight.fetch_add(1, Relaxed);
        self.replica.reads.inc();
        InFlight {
            replica: Arc::clone(&self.replica),
            started: self.replica.clock.now(),
        }
    }

    /// A read failed there and goes to the primary.
    pub(crate) fn failed(&self, error: &Error) {
        // A conflict with the replay is one statement's misfortune; all else says something about the server.
        if error.sqlstate() != Some("40001") {
            self.replica.give_up(error.to_string());
            self.replica.pool.connector().suspect();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let took_us = (self.replica.clock.now() - self.started).as_micros() as u64;
        self.replica.in_flight.fetch_sub(1, Relaxed);
        let mean = self.replica.latency_us.load(Relaxed);
        let mean = if mean == 0 {
            took_us
        } else {
            (mean * 7 + took_us) / 8
        };
        self.replica.latency_us.store(mean, Relaxed);
    }
}

// === impl Seen ===

impl Seen {
    fn not_yet() -> Self {
        Self {
            reason: Some("not looked at yet".to_owned()),
            system_id: 0,
            timeline: 0,
            replayed: 0,
            lag: Duration::ZERO,
        }
    }

    fn may_answer(&self, token: Option<&ReadToken>) -> bool {
        let has = |token: &ReadToken| {
            token.system_id == self.system_id && token.timeline == self.timeline && token.lsn <= self.replayed
        };
        self.reason.is_none() && token.is_none_or(has)
    }

    fn of(look: &Look, history: &History, now: Instant, lag_max: Duration) -> Self {
        let lag = history.lag(look.lsn, now);
        let reason = if history.system_id != 0 && look.system_id != history.system_id {
            Some("it belongs to another cluster".to_owned())
        } else if !look.is_replica && look.timeline != history.timeline {
            Some(format!(
                "it no longer follows: it is on timeline {}, the primary on {}",
                look.timeline, history.timeline
            ))
        } else if lag > lag_max {
            Some(format!("{lag:.1?} behind, at most {lag_max:?} allowed"))
        } else {
            None
        };
        Self {
            reason,
            system_id: look.system_id,
            timeline: look.timeline,
            replayed: look.lsn,
            lag,
        }
    }
}

// === impl History ===

impl History {
    fn push(&mut self, look: &Look, now: Instant) {
        if look.timeline != self.timeline || look.system_id != self.system_id {
            // Places in another history mean nothing in this one.
            self.places.clear();
            (self.timeline, self.system_id) = (look.timeline, look.system_id);
        }
        if self.places.back().is_some_and(|(_, lsn)| *lsn == look.lsn) {
            // Nothing was written since: whoever has replayed so far is not behind.
            return;
        }
        if self.places.len() == HISTORY_MAX {
            self.places.pop_front();
        }
        self.places.push_back((now, look.lsn));
    }

    /// The age of the oldest place that a server which has replayed up to `lsn` has not reached.
    fn lag(&self, lsn: u64, now: Instant) -> Duration {
        let missing = self.places.partition_point(|(_, place)| *place <= lsn);
        self.places
            .get(missing)
            .map_or(Duration::ZERO, |(at, _)| now - *at)
    }
}

// === The watches ===

struct PrimaryWatch {
    pool: Pool<Postgres>,
    clock: Clock,
    every: Duration,
    history: Arc<Mutex<History>>,
    connection: Option<Connection>,
}

impl PrimaryWatch {
    async fn run(mut self) {
        loop {
            self.look().await;
            let suspected = self.pool.connector().suspected();
            // A suspicion is looked into at once.
            let _ = timeout(self.every, suspected).await;
        }
    }

    async fn look(&mut self) {
        let connector = self.pool.connector().clone();
        let open = || connector.open();
        match look(&mut self.connection, open).await {
            Ok(look) if !look.is_replica => lock(&self.history).push(&look, self.clock.now()),
            Ok(_) => self.connection = None,
            Err(error) => tracing::debug!(%error, "no primary"),
        }
        let n_hosts = connector.dsn().hosts.len();
        let Some(current) = &self.connection else {
            return;
        };
        let (host, timeline) = (current.info().host.clone(), current.info().timeline);
        for at in 0..n_hosts {
            if connector.dsn().hosts[at].to_string() == host {
                continue;
            }
            // Opens only where writes are taken, and on no older timeline: then the other one was replaced.
            if let Ok(other) = connector.open_host(at).await
                && other.info().timeline > timeline
            {
                tracing::warn!(
                    from = host,
                    to = other.info().host,
                    "another server is the primary now"
                );
                connector.prefer(at);
                self.pool.report_broken();
                self.connection = Some(other);
                return;
            }
        }
    }
}

struct ReplicaWatch {
    replica: Arc<Replica>,
    clock: Clock,
    config: Config,
    history: Arc<Mutex<History>>,
    connection: Option<Connection>,
}

impl ReplicaWatch {
    async fn run(mut self) {
        loop {
            self.look().await;
            let suspected = self.replica.pool.connector().suspected();
            let _ = timeout(self.config.every, suspected).await;
        }
    }

    async fn look(&mut self) {
        let connector = self.replica.pool.connector().clone();
        match look(&mut self.connection, || connector.open()).await {
            Ok(look) => {
                let seen = Seen::of(&look, &lock(&self.history), self.clock.now(), self.config.lag_max);
                self.replica.lag.set(seen.lag.as_micros() as i64);
                if let Some(reason) = &seen.reason {
                    self.replica.give_up(reason.clone());
                }
                *lock(&self.replica.seen) = seen;
            }
            Err(error) => self.replica.give_up(error.to_string()),
        }
    }
}

/// Looks at a server, over a connection that is kept for the next time.
async fn look<F>(connection: &mut Option<Connection>, open: impl FnOnce() -> F) -> Result<Look>
where
    F: Future<Output = Result<Connection>>,
{
    let usable = connection.take().filter(Connection::is_usable);
    let looked = timeout(LOOK_TIMEOUT, async {
        let current = match usable {
            Some(current) => current,
            None => open().await?,
        };
        let messages = current
            .client()
            .simple_query(LOOK)
            .await
            .map_err(|error| current.error(error))?;
        let look = Look::read(&messages);
        let look = look.ok_or_else(|| Error::Lost("the server did not say where its log is".to_owned()))?;
        Ok((look, current))
    });
    let looked = looked.await;
    let (look, current) = looked.map_err(|_| Error::Timeout {
        what: "a look at the server".to_owned(),
        after: LOOK_TIMEOUT,
    })??;
    *connection = Some(current);
    Ok(look)
}

impl Look {
    fn read(messages: &[SimpleQueryMessage]) -> Option<Self> {
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })?;
        let is_replica = row.get(0)? == "t";
        // A file name has it in hexadecimal, the views in decimal.
        let radix = if is_replica { 10 } else { 16 };
        Some(Self {
            is_replica,
            lsn: lsn_of(row.get(1)?)?,
            timeline: u32::from_str_radix(row.get(2)?, radix).ok()?,
            system_id: row.get(3)?.parse().ok()?,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing under these locks can leave a value half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(is_replica: bool, lsn: u64, timeline: u32) -> Look {
        Look {
            is_replica,
            lsn,
            timeline,
            system_id: 7,
        }
    }

    /// The primary was at 100 after one second, at 200 after two, at 300 after three.
    fn history() -> History {
        let mut history = History::default();
        for second in 1..=3 {
            history.push(
                &look(false, second * 100, 1),
                Instant::from_millis(second * 1_000),
            );
        }
        history
    }

    fn check_lag(lsn: u64, expected_ms: u64) {
        let lag = history().lag(lsn, Instant::from_millis(5_000));
        assert_eq!(lag, Duration::from_millis(expected_ms), "at {lsn}");
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_place_not_reached() {
        check_lag(300, 0);
        check_lag(299, 2_000);
        check_lag(200, 2_000);
        check_lag(150, 3_000);
        check_lag(0, 4_000);
        assert_eq!(History::default().lag(0, Instant::from_millis(9)), Duration::ZERO);
    }

    fn check(look: &Look, expected: Option<&str>) {
        let seen = Seen::of(
            look,
            &history(),
            Instant::from_millis(5_000),
            Duration::from_secs(2),
        );
        match (seen.reason, expected) {
            (None, None) => {}
            (Some(reason), Some(expected)) => assert!(reason.contains(expected), "{reason}"),
            (reason, expected) => panic!("{reason:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_replica_answers_while_it_is_near_and_follows() {
        check(&look(true, 300, 1), None);
        check(&look(true, 250, 1), None);
        check(&look(true, 150, 1), Some("3.0s behind"));
        check(&look(false, 400, 2), Some("no longer follows"));
        check(
            &Look {
                system_id: 8,
                ..look(true, 300, 1)
            },
            Some("another cluster"),
        );
    }

    #[test]
    fn a_token_of_another_history_goes_to_the_primary() {
        let seen = Seen::of(
            &look(true, 300, 1),
            &history(),
            Instant::from_millis(5_000),
            Duration::from_secs(2),
        );
        let token = ReadToken {
            system_id: 7,
            timeline: 1,
            lsn: 300,
        };
        assert!(seen.may_answer(None));
        assert!(seen.may_answer(Some(&token)));
        assert!(!seen.may_answer(Some(&ReadToken { lsn: 301, ..token })));
        assert!(!seen.may_answer(Some(&ReadToken { timeline: 2, ..token })));
        assert!(!seen.may_answer(Some(&ReadToken {
            system_id: 8,
            ..token
        })));
    }

    #[test]
    fn another_timeline_begins_another_history() {
        let mut history = history();
        history.push(&look(false, 50, 2), Instant::from_millis(4_000));
        assert_eq!(history.lag(50, Instant::from_millis(9_000)), Duration::ZERO);
    }
}
