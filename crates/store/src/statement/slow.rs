//! The slow list: the last slow statements, a log line for some of them, and callbacks for all.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_vitals::clock::Instant;

use super::stats::{Level, SlowStatement};

type Tell = Arc<dyn Fn(&SlowStatement) + Send + Sync>;

/// The last slow statements and who wants to hear of them.
pub(super) struct SlowList {
    state: Mutex<State>,
    max: usize,
}

struct State {
    list: VecDeque<SlowStatement>,
    tell: Vec<Tell>,
    /// The second in which lines were logged, and how many.
    second: Instant,
    n_logged: u32,
    n_silent: u64,
}

/// When a whole database is slow every statement is; ten lines a second tell it too.
const LINES_PER_SECOND: u32 = 10;

impl SlowList {
    pub(super) fn new(max: usize) -> Self {
        Self {
            state: Mutex::new(State {
                list: VecDeque::new(),
                tell: Vec::new(),
                second: Instant::default(),
                n_logged: 0,
                n_silent: 0,
            }),
            max: max.max(1),
        }
    }

    pub(super) fn on_slow(&self, tell: Tell) {
        self.lock().tell.push(tell);
    }

    /// Newest first.
    pub(super) fn last(&self, n: usize) -> Vec<SlowStatement> {
        self.lock().list.iter().rev().take(n).cloned().collect()
    }

    /// Remembers a statement, logs it unless too many were, and tells who asked, outside the lock.
    pub(super) fn report(&self, slow: &SlowStatement, now: Instant) {
        let (tell, silent) = {
            let mut state = self.lock();
            if state.list.len() == self.max {
                state.list.pop_front();
            }
            state.list.push_back(slow.clone());
            (state.tell.clone(), state.may_log(now))
        };
        if let Some(silent) = silent {
            log(slow, silent);
        }
        for tell in tell {
            tell(slow);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a line may be logged, and how many were not since the last one.
    fn may_log(&mut self, now: Instant) -> Option<u64> {
        if now - self.second >= Duration::from_secs(1) {
            self.second = now;
            self.n_logged = 0;
        }
        if self.n_logged == LINES_PER_SECOND {
            self.n_silent += 1;
            return None;
        }
        self.n_logged += 1;
        Some(std::mem::take(&mut self.n_silent))
    }
}

impl fmt::Debug for SlowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlowList")
            .field("len", &self.lock().list.len())
            .finish_non_exhaustive()
    }
}

fn log(slow: &SlowStatement, silent: u64) {
    let level = match slow.level {
        Level::Warning => "warning",
        Level::Critical => "critical",
    };
    tracing::warn!(
        level,
        fingerprint = slow.fingerprint,
        execute_ms = slow.execute.as_millis() as u64,
        fetch_ms = slow.fetch.as_millis() as u64,
        wait_ms = slow.wait.as_millis() as u64,
        rows = slow.rows,
        caller = slow.caller,
        text = slow.text,
        not_logged = silent,
        "slow statement"
    );
}
