//! Leaves an application alone that is down: after failures in a row nobody asks, then one asks.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidegate_vitals::{Counter, Gauge};
use tokio::time::Instant;

/// One for all requests to the application.
pub(super) struct Breaker {
    state: Mutex<State>,
    failures_max: u32,
    pause: Duration,
    open: Gauge,
    opened: Counter,
}

enum State {
    /// Everybody may ask. Left for `Open` after `failures_max` failures in a row.
    Closed { failures: u32 },
    /// Nobody may ask. After `until` the next one who wants to leaves it for `Probing`.
    Open { until: Instant },
    /// One is asking. Left for `Closed` when it is answered, for `Open` when it fails or is dropped.
    Probing,
}

/// A permission to ask. Dropped without a word it counts as a failure: whoever asked gave up waiting.
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_told: bool,
}

impl Breaker {
    pub(super) fn new(failures_max: u32, pause: Duration, open: Gauge, opened: Counter) -> Self {
        Self {
            state: Mutex::new(State::Closed { failures: 0 }),
            failures_max,
            pause,
            open,
            opened,
        }
    }

    /// A permission to ask, if there is one.
    pub(super) fn enter(&self) -> Option<Pass<'_>> {
        let mut state = self.lock();
        let is_probe = match *state {
            State::Closed { .. } => false,
            State::Open { until } if Instant::now() >= until => true,
            State::Open { .. } | State::Probing => return None,
        };
        if is_probe {
            *state = State::Probing;
        }
        Some(Pass {
            breaker: self,
            is_probe,
            is_told: false,
        })
    }

    /// Whether asking is of no use now.
    pub(super) fn is_shut(&self) -> bool {
        match *self.lock() {
            State::Closed { .. } => false,
            State::Open { until } => Instant::now() < until,
            State::Probing => true,
        }
    }

    /// `closed`, `open` or `half_open`.
    pub(super) fn state(&self) -> &'static str {
        match *self.lock() {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::Probing => "half_open",
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shut(&self, state: &mut State) {
        let until = Instant::now() + self.pause;
        *state = State::Open { until };
    }
}

impl Pass<'_> {
    /// The application answered.
    pub(super) fn succeed(mut self) {
        self.is_told = true;
        let mut state = self.breaker.lock();
        let was_shut = !matches!(*state, State::Closed { .. });
        // An answer to a request from before the failures says nothing new.
        if self.is_probe || !was_shut {
            *state = State::Closed { failures: 0 };
            self.breaker.open.set(0);
        }
        if self.is_probe {
            tracing::info!("the application answers again");
        }
    }

    /// It did not.
    pub(super) fn fail(mut self) {
        self.is_told = true;
        self.failed();
    }

    fn failed(&self) {
        let mut state = self.breaker.lock();
        match &mut *state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures < self.breaker.failures_max {
                    return;
                }
                tracing::warn!(failures = *failures, "the application is down");
                self.breaker.open.set(1);
                self.breaker.opened.inc();
                self.breaker.shut(&mut state);
            }
            State::Probing if self.is_probe => self.breaker.shut(&mut state),
            State::Open { .. } | State::Probing => {}
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.failed();
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_vitals::{Id, Registry};

    use super::*;

    fn breaker(registry: &Registry) -> Breaker {
        let open = registry.gauge(Id::AppBreakerOpen, &[]);
        let opened = registry.counter(Id::AppBreakerOpened, &[]);
        Breaker::new(3, Duration::from_secs(1), open, opened)
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_shut_it_and_one_probe_opens_it() {
        let registry = Registry::new();
        let breaker = breaker(&registry);
        breaker.enter().unwrap().fail();
        breaker.enter().unwrap().fail();
        breaker.enter().unwrap().succeed();
        for _ in 0..3 {
            assert_eq!(breaker.state(), "closed");
            breaker.enter().unwrap().fail();
        }
        assert!(breaker.enter().is_none() && breaker.is_shut());
        assert_eq!(registry.snapshot().gauge(Id::AppBreakerOpen), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        let probe = breaker.enter().unwrap();
        assert!(breaker.enter().is_none(), "one probe at a time");
        probe.fail();
        assert!(breaker.is_shut());
        tokio::time::advance(Duration::from_secs(1)).await;
        // A probe that is given up is no answer.
        drop(breaker.enter().unwrap());
        assert_eq!(breaker.state(), "open");
        tokio::time::advance(Duration::from_secs(1)).await;
        breaker.enter().unwrap().succeed();
        assert_eq!(breaker.state(), "closed");
        assert_eq!(registry.snapshot().gauge(Id::AppBreakerOpen), 0);
        assert_eq!(registry.snapshot().counter(Id::AppBreakerOpened), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn late_answers_from_before_do_not_open_it() {
        let registry = Registry::new();
        let breaker = breaker(&registry);
        let late = breaker.enter().unwrap();
        for _ in 0..3 {
            breaker.enter().unwrap().fail();
        }
        late.succeed();
        assert!(breaker.is_shut());
    }
}
