//! One question to the application: a place among those in flight, the breaker, the time-out, the answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tidegate_flow::breaker::{self, Breaker};
use tidegate_gateway::{Code, Error};
use tidegate_vitals::{Class, Clock, Full, Gauge, Guard, Ledger};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    Around,
    answer::{Answer, Wrong},
    client::{Client, Failed},
    figures::{Figures, outcome},
    request::{Asked, Kind},
};
use crate::settings::AppConfig;

/// Asks one application.
pub(super) struct Asking {
    client: Client,
    pub(super) breaker: Breaker,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    pub(super) config: AppConfig,
    pub(super) figures: Figures,
    clock: Clock,
    ledger: Ledger,
    /// Requests with an answer to act on.
    n_answered: AtomicU64,
    /// When a failure was last written to the log, milliseconds.
    logged_ms: AtomicU64,
}

/// Why there is no answer to act on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Not asked: it is down.
    #[error("application is down")]
    Down,
    /// Not asked: too many wait.
    #[error("{waiting} requests wait for the application")]
    Overloaded {
        /// The limit.
        waiting: usize,
    },
    /// Not asked: the memory account is full.
    #[error("no memory for a request")]
    Memory(#[from] Full),
    /// Not asked: those before it kept their places until its time was over.
    #[error("no place among {places} requests within {limit:?}")]
    NoPlace {
        /// As many as are asked at a time.
        places: usize,
        /// The time.
        limit: Duration,
    },
    /// No answer in time.
    #[error("application did not answer within {0:?}")]
    TimedOut(Duration),
    /// The exchange failed.
    #[error("application failed")]
    Failed(#[from] Failed),
    /// The answer cannot be used.
    #[error("application answered what it must not")]
    Wrong(#[from] Wrong),
}

/// A failure is logged at most once in this time, milliseconds; the figures count each.
const LOG_EVERY_MS: u64 = 1_000;

/// One that waits for a place.
struct Waiting<'a>(&'a Asking);

/// One that has a place.
struct Place {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl Asking {
    /// # Errors
    /// When the trusted certificates cannot be used.
    pub(super) fn new(config: AppConfig, around: &Around) -> std::io::Result<Self> {
        let Around {
            clock,
            registry,
            ledger,
        } = around.clone();
        // A probe costs little, so the pause does not grow: an application that is back is found within it.
        let breaker = breaker::Config {
            failures_in_row_max: config.breaker_failures,
            calls_min: u32::MAX,
            open: config.breaker_pause,
            open_max: config.breaker_pause,
            ..breaker::Config::new("app")
        };
        Ok(Self {
            client: Client::new(&config, clock.clone())?,
            breaker: Breaker::new(breaker, clock.clone()),
            places: Arc::new(Semaphore::new(config.in_flight)),
            waiting: AtomicUsize::new(0),
            figures: Figures::new(&registry),
            clock,
            ledger,
            n_answered: AtomicU64::new(0),
            logged_ms: AtomicU64::new(0),
            config,
        })
    }

    /// Asks once, and reads the answer.
    ///
    /// # Cancel safety
    /// Dropped, the application may or may not have been asked.
    pub(super) async fn ask(&self, asked: Asked) -> Result<Answer, Unanswered> {
        let (kind, began) = (asked.kind, self.clock.now());
        let answered = self.try_ask(asked).await;
        let took = self.clock.now().since(began);
        self.figures.time(kind).record(took.as_nanos() as u64);
        match &answered {
            Ok(_) => drop(self.n_answered.fetch_add(1, Relaxed)),
            Err(unanswered) => self.note(kind, unanswered),
        }
        answered
    }

    /// How many requests have had an answer to act on.
    pub(super) fn n_answered(&self) -> u64 {
        self.n_answered.load(Relaxed)
    }

    async fn try_ask(&self, asked: Asked) -> Result<Answer, Unanswered> {
        let mut memory = self.ledger.empty(Class::Handlers);
        let body = self.exchange(asked, &mut memory).await?;
        let answer = Answer::read(&body, self.config.data_bytes_max)?;
        Ok(answer.paid(memory))
    }

    async fn exchange(&self, asked: Asked, memory: &mut Guard) -> Result<Bytes, Unanswered> {
        let (limit, places) = (self.config.timeout, self.config.in_flight);
        let deadline = Instant::now() + limit;
        // What waits is paid for. A disconnect is in memory anyway, and must be told.
        let events = asked.kind != Kind::Disconnect;
        let _memory = events
            .then(|| self.ledger.reserve(Class::Handlers, asked.body.len()))
            .transpose()?;
        let pass = self.breaker.acquire().map_err(|_| Unanswered::Down)?;
        let no_place = |_| Unanswered::NoPlace { places, limit };
        let _place = timeout_at(deadline, self.place()).await.map_err(no_place)??;
        if self.breaker.state() == breaker::State::Open {
            // It was found down while this one waited.
            return Err(Unanswered::Down);
        }
        let answered = self.client.post(asked.body, &asked.traceparent, memory);
        let late = |_| Unanswered::TimedOut(limit);
        let answered = timeout_at(deadline, answered).await.map_err(late);
        match &answered {
            Ok(Err(failed)) if failed.is_down() => pass.fail(),
            Err(_) => pass.fail(),
            Ok(_) => pass.succeed(),
        }
        Ok(answered??)
    }

    async fn place(&self) -> Result<Place, Unanswered> {
        let places = Arc::clone(&self.places);
        let permit = match places.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _waiting = self.wait()?;
                places.acquire_owned().await.expect("the places are never closed")
            }
        };
        self.figures.in_flight.add(1);
        let gauge = self.figures.in_flight.clone();
        Ok(Place {
            gauge,
            _permit: permit,
        })
    }

    fn wait(&self) -> Result<Waiting<'_>, Unanswered> {
        let max = self.config.waiting_max;
        let before = self.waiting.fetch_add(1, Relaxed);
        self.figures.waiting.add(1);
        // Taken back by its end, also where it goes no further.
        let waiting = Waiting(self);
        if before >= max {
            return Err(Unanswered::Overloaded { waiting: max });
        }
        Ok(waiting)
    }

    fn note(&self, kind: Kind, unanswered: &Unanswered) {
        self.figures.ended(kind, unanswered.outcome());
        if let Unanswered::Wrong(wrong) = unanswered {
            self.figures.wrong(wrong.field);
        }
        let now_ms = self.clock.wall_ms();
        let last_ms = self.logged_ms.load(Relaxed);
        let due = now_ms.saturating_sub(last_ms) >= LOG_EVERY_MS;
        if due
            && self
                .logged_ms
                .compare_exchange(last_ms, now_ms, Relaxed, Relaxed)
                .is_ok()
        {
            let cause = std::error::Error::source(unanswered).map(ToString::to_string);
            tracing::warn!(kind = kind.as_str(), error = %unanswered, cause, "the application was no help");
        }
    }
}

impl Unanswered {
    const fn outcome(&self) -> &'static str {
        match self {
            Self::Down => outcome::DOWN,
            Self::Overloaded { .. } | Self::Memory(_) => outcome::OVERLOADED,
            Self::NoPlace { .. } | Self::TimedOut(_) => outcome::TIMEOUT,
            Self::Failed(Failed::Status(_)) => outcome::STATUS,
            Self::Failed(Failed::Memory(_)) => outcome::OVERLOADED,
            Self::Failed(Failed::TooLarge(_)) | Self::Wrong(_) => outcome::INVALID,
            Self::Failed(_) => outcome::UNREACHABLE,
        }
    }

    /// Whether the application may have heard it all the same, and done what it does.
    pub(super) fn may_have_been_heard(&self) -> bool {
        match self {
            Self::Down | Self::Overloaded { .. } | Self::Memory(_) | Self::NoPlace { .. } => false,
            Self::Failed(failed) => failed.may_have_been_heard(),
            Self::TimedOut(_) | Self::Wrong(_) => true,
        }
    }

    /// What the client gets: nothing of how the application is built.
    pub(super) fn for_client(&self) -> Error {
        let (code, message) = match self {
            Self::Overloaded { .. } | Self::Memory(_) => {
                (Code::Overloaded, "too many events wait for the application")
            }
            _ => (Code::AppUnavailable, "the application does not answer"),
        };
        Error::Application {
            code,
            message: message.to_owned(),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
        self.0.figures.waiting.add(-1);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.add(-1);
    }
}
