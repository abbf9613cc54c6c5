//! `store` and `advisor`: a few of the slow statements get their plan, never on the path of a statement.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tidegate_advisor::{Mode, Summary, explain};
use tidegate_flow::{Task, task};
use tidegate_store::{
    Database, Kind,
    backend::postgres::{Dsn, Postgres, Session},
    database::Context,
    statement::{SlowStatement, Verb, redacted},
};
use tidegate_vitals::{Clock, Counter, Id, clock::Instant};
use tokio::{sync::mpsc, time::timeout};

/// Plans asked for in a minute: when a whole database is slow, every statement is, and none needs more work beside it.
const PER_MINUTE: u32 = 6;
const MINUTE: Duration = Duration::from_secs(60);
/// The plan of one fingerprint holds for so long; a failure too.
const HOLDS: Duration = Duration::from_secs(600);
/// Plans that are kept; the oldest makes room.
const PLANS_MAX: usize = 128;
/// Dial, plan and all.
const DEADLINE: Duration = Duration::from_secs(10);
/// The server gives up planning after this.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// The plans of slow statements. Dropped, it asks for no more.
pub(crate) struct Plans {
    shared: Arc<Shared>,
    _task: Task<()>,
}

/// The plan of a statement, as the slow list shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// When it was made, unix milliseconds.
    at_ms: u64,
    #[serde(flatten)]
    summary: Summary,
}

struct Shared {
    clock: Clock,
    state: Mutex<State>,
    explained: Counter,
    failed: Counter,
    skipped: Counter,
}

#[derive(Default)]
struct State {
    /// The youngest last; at most [`PLANS_MAX`].
    known: VecDeque<Known>,
    /// The minute in which plans were asked for, and how many.
    minute: Option<Instant>,
    n_asked: u32,
}

struct Known {
    fingerprint: String,
    since: Instant,
    /// None: asked for and not here yet, or it could not be had.
    plan: Option<Plan>,
}

struct Ask {
    fingerprint: String,
    sql: Arc<str>,
}

// === impl Plans ===

impl Plans {
    /// Watches the statements of `database`, which `url` leads to; none where there are no plans to be had.
    ///
    /// # Errors
    /// The address is wrong.
    pub(crate) fn watch(
        database: &Database,
        url: &str,
        context: &Context,
    ) -> Result<Option<Self>, tidegate_store::Error> {
        if database.kind() != Kind::Postgres {
            return Ok(None);
        }
        let session = Session {
            statement_timeout: Some(STATEMENT_TIMEOUT),
            application_name: "tidegate plans".to_owned(),
            is_read_only: true,
        };
        let server = Postgres::new(Dsn::parse(url)?, session)?;
        let outcome = |outcome| context.registry.counter(Id::StoreStatementPlans, &[outcome]);
        let shared = Arc::new(Shared {
            clock: context.clock.clone(),
            state: Mutex::default(),
            explained: outcome("explained"),
            failed: outcome("failed"),
            skipped: outcome("skipped"),
        });
        // One under way and one waiting; what comes meanwhile is left out.
        let (sender, asks) = mpsc::channel(1);
        let listener = Arc::clone(&shared);
        database
            .monitor()
            .on_slow(Arc::new(move |slow: &SlowStatement| listener.hear(slow, &sender)));
        let task = task::spawn("statement-plans", work(Arc::clone(&shared), server, asks));
        Ok(Some(Self { shared, _task: task }))
    }

    /// The plan of the statements with this fingerprint, if one was made.
    pub(crate) fn of(&self, fingerprint: &str) -> Option<Plan> {
        let state = self.shared.state();
        let known = state.known.iter().find(|known| known.fingerprint == fingerprint);
        known.and_then(|known| known.plan.clone())
    }
}

/// One plan after the other.
async fn work(shared: Arc<Shared>, server: Postgres, mut asks: mpsc::Receiver<Ask>) {
    while let Some(ask) = asks.recv().await {
        match timeout(DEADLINE, plan(&server, &ask.sql)).await {
            Ok(Ok(Some(summary))) => {
                shared.explained.inc();
                shared.keep(&ask.fingerprint, summary);
            }
            // A pooler in between gives each transaction another session.
            Ok(Ok(None)) => shared.skipped.inc(),
            Ok(Err(problem)) => shared.fail(&ask, &problem),
            Err(_) => shared.fail(&ask, "it took too long"),
        }
    }
}

/// On a session of its own: the pool is for those who wait, and may be what is slow.
async fn plan(server: &Postgres, sql: &str) -> Result<Option<Summary>, String> {
    let connection = server.open().await.map_err(|error| error.to_string())?;
    if connection.info().through_pooler {
        return Ok(None);
    }
    // Without parameters: the plan that is right for every value. Nothing runs.
    let explained = explain(connection.client(), sql, &[], Mode::Plan).await;
    let mut summary = explained.map_err(|error| error.to_string())?;
    // Conditions may hold literals of the statement, which nobody is to see.
    for node in &mut summary.nodes {
        node.filter = node.filter.take().map(|filter| redacted(&filter));
    }
    Ok(Some(summary))
}

// === impl Shared ===

impl Shared {
    /// At the end of a slow statement, on its own task: notes it, or leaves it.
    fn hear(&self, slow: &SlowStatement, asks: &mpsc::Sender<Ask>) {
        let Some(sql) = slow.sample.clone().filter(|_| slow.verb == Verb::Select) else {
            return;
        };
        let Ok(place) = asks.try_reserve() else {
            self.skipped.inc();
            return;
        };
        match self.state().may_ask(&slow.fingerprint, self.clock.now()) {
            Some(true) => place.send(Ask {
                fingerprint: slow.fingerprint.clone(),
                sql,
            }),
            Some(false) => self.skipped.inc(),
            None => {}
        }
    }

    fn keep(&self, fingerprint: &str, summary: Summary) {
        let at_ms = self.clock.wall_ms();
        let mut state = self.state();
        let known = state
            .known
            .iter_mut()
            .find(|known| known.fingerprint == fingerprint);
        if let Some(known) = known {
            known.plan = Some(Plan { at_ms, summary });
        }
    }

    fn fail(&self, ask: &Ask, problem: &str) {
        self.failed.inc();
        tracing::debug!(
            fingerprint = ask.fingerprint,
            problem,
            "slow statement not explained"
        );
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can leave the lists in a bad state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Whether to ask for a plan now; none if one was asked for lately. Yes is remembered.
    fn may_ask(&mut self, fingerprint: &str, now: Instant) -> Option<bool> {
        let is_fresh = |known: &Known| known.fingerprint == fingerprint && now - known.since < HOLDS;
        if self.known.iter().any(is_fresh) {
            return None;
        }
        if self.minute.is_none_or(|minute| now - minute >= MINUTE) {
            (self.minute, self.n_asked) = (Some(now), 0);
        }
        if self.n_asked == PER_MINUTE {
            return Some(false);
        }
        self.n_asked += 1;
        self.known.retain(|known| known.fingerprint != fingerprint);
        if self.known.len() == PLANS_MAX {
            self.known.pop_front();
        }
        self.known.push_back(Known {
            fingerprint: fingerprint.to_owned(),
            since: now,
            plan: None,
        });
        Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_are_asked_for_seldom_and_once_for_each_statement() {
        let start = Clock::real().now();
        let mut state = State::default();
        let mut check = |fingerprint: &str, after_s: u64, expected: Option<bool>| {
            let now = start + Duration::from_secs(after_s);
            assert_eq!(
                state.may_ask(fingerprint, now),
                expected,
                "{fingerprint} after {after_s} s"
            );
        };
        check("a", 0, Some(true));
        check("a", 1, None);
        for fingerprint in ["b", "c", "d", "e", "f"] {
            check(fingerprint, 2, Some(true));
        }
        check("g", 3, Some(false));
        check("g", 60, Some(true));
        check("a", 599, None);
        check("a", 600, Some(true));
    }

    #[test]
    fn the_list_of_plans_is_bounded() {
        let mut state = State::default();
        let start = Clock::real().now();
        for n in 0..2 * PLANS_MAX as u64 {
            assert_eq!(
                state.may_ask(&n.to_string(), start + n as u32 * MINUTE),
                Some(true)
            );
        }
        assert_eq!(state.known.len(), PLANS_MAX);
    }
}
