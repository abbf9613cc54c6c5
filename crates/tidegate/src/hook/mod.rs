//! The application behind the server: connects, events and disconnects go to it over HTTP, its answers come back.
//!
//! ```text
//! CONNECT ─▶ on_admit ──┐                     ┌─▶ identity, data, rooms ─▶ the session begins, or connect_error
//! event ───▶ on_any ────┼─▶ place ─▶ breaker ─▶ POST ─▶ answer ─┼─▶ user, data, join, leave, emit, ack, disconnect
//! the end ─▶ on_end ────┘ └─ farewell: queue ─▶ spool (fsync) ─▶ told until it was heard
//! ```
//!
//! The gateway keeps the order of a session: its next event waits until the one before is answered. Connects and events
//! are asked at most once; a disconnect is told at least once, under the same id.

mod answer;
mod apply;
mod asking;
mod binary;
mod client;
mod farewell;
mod figures;
mod request;
mod sign;

use std::{io, sync::Arc};

use tidegate_flow::breaker;
use tidegate_gateway::{Admitted, Builder, CloseReason, Entrant, Error, Event, NamespaceBuilder, Socket};
use tidegate_vitals::{Clock, Ledger, Registry};
use tokio::time::Instant;

use crate::settings::AppConfig;
use asking::Asking;
pub(crate) use binary::{from_app as without_marks, to_app as with_bytes};
use farewell::Farewell;
pub(crate) use farewell::segment_bytes;
use figures::outcome;
use request::{Asked, Kind};

/// The way to one application.
pub(crate) struct Hook {
    asking: Arc<Asking>,
    farewell: Farewell,
    /// Of this start of the process: sessions of another one are over, whether a disconnect tells so or not.
    boot: String,
}

/// What the hook has in common with the rest of the server.
#[derive(Clone)]
pub(crate) struct Around {
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) ledger: Ledger,
}

/// The hook as it is now.
pub(crate) struct Now {
    pub(crate) in_flight_max: usize,
    pub(crate) waiting_max: usize,
    pub(crate) breaker: breaker::Stats,
}

// === impl Hook ===

impl Hook {
    /// Opens the spool of disconnects and begins to tell what is in it. Blocks on the disk.
    ///
    /// # Errors
    /// The spool or the trusted certificates cannot be used.
    pub(crate) fn open(config: AppConfig, around: &Around) -> io::Result<Arc<Self>> {
        let spool = config.spool.clone();
        let asking = Arc::new(Asking::new(config, around)?);
        let farewell = Farewell::open(spool.as_ref(), Arc::clone(&asking))?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        Ok(Arc::new(Self {
            asking,
            farewell,
            boot: request::hex(&random),
        }))
    }

    /// Puts the application behind its namespaces.
    pub(crate) fn with_handlers(self: &Arc<Self>, mut builder: Builder) -> Builder {
        for name in &self.asking.config.namespaces {
            let hook = Arc::clone(self);
            builder = match name.as_str() {
                "/" => builder.root(|namespace| hook.behind(namespace)),
                name => builder.namespace(name, |namespace| hook.behind(namespace)),
            };
        }
        builder
    }

    fn behind(self: Arc<Self>, namespace: NamespaceBuilder) -> NamespaceBuilder {
        let (connects, events, ends) = (Arc::clone(&self), Arc::clone(&self), self);
        namespace
            .on_admit(move |entrant| {
                let hook = Arc::clone(&connects);
                async move { hook.connect(&entrant).await }
            })
            .on_any(move |socket, event| {
                let hook = Arc::clone(&events);
                async move { hook.event(&socket, &event).await }
            })
            .on_end(move |socket, reason| ends.end(socket, reason))
    }

    /// Ends: what waits is written to disk and, as far as the time allows, told.
    ///
    /// # Cancel safety
    /// Dropped, what is on disk is told by the next start.
    pub(crate) async fn finish(&self, deadline: Instant) {
        self.farewell.finish(deadline).await;
    }

    /// Waits until every disconnect that was noted has been told, or the deadline is there.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub(crate) async fn settle(&self, deadline: Instant) {
        self.farewell.settle(deadline).await;
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            in_flight_max: self.asking.config.in_flight,
            waiting_max: self.asking.config.waiting_max,
            breaker: self.asking.breaker.stats(),
        }
    }

    /// Writes what is read now and then; called once a second.
    pub(crate) fn record(&self, registry: &Registry) {
        self.asking.breaker.record(registry);
    }

    async fn connect(&self, entrant: &Entrant) -> Result<Admitted, Error> {
        let asked = Asked::connect(&self.boot, entrant)?;
        let answer = match self.asking.ask(asked).await {
            Ok(answer) => answer,
            Err(unanswered) => {
                if unanswered.may_have_been_heard() {
                    // It may have let the session in, which never begins.
                    self.tell(Asked::not_begun(&self.boot, entrant), entrant.id());
                }
                return Err(unanswered.for_client());
            }
        };
        let admitted = apply::admit(entrant.request(), answer);
        let outcome = if admitted.is_ok() {
            outcome::OK
        } else {
            outcome::REFUSED
        };
        self.asking.figures.ended(Kind::Connect, outcome);
        admitted
    }

    async fn event(&self, socket: &Socket, event: &Event) {
        let wanted = self
            .asking
            .config
            .events
            .iter()
            .any(|pattern| pattern.matches_name(event.name()));
        if !wanted {
            return event.answer::<()>(Err(Error::NotFound {
                kind: "handler for event",
                name: event.name().to_owned(),
            }));
        }
        let asked = match Asked::event(&self.boot, socket, event) {
            Ok(asked) => asked,
            Err(error) => return event.answer::<()>(Err(error)),
        };
        match self.asking.ask(asked).await {
            Ok(answer) => {
                let outcome = match apply::to_session(socket, answer, Some(event)) {
                    Ok(()) => outcome::OK,
                    Err(error) => {
                        tracing::warn!(session = %socket.id(), %error, "an answer could not be carried out");
                        event.answer::<()>(Err(error));
                        outcome::NOT_DONE
                    }
                };
                self.asking.figures.ended(Kind::Event, outcome);
            }
            Err(unanswered) => event.answer::<()>(Err(unanswered.for_client())),
        }
    }

    fn end(&self, socket: &Socket, reason: CloseReason) {
        self.tell(Asked::disconnect(&self.boot, socket, reason), socket.id());
    }

    fn tell(&self, disconnect: Result<Asked, Error>, session: &str) {
        match disconnect {
            Ok(asked) => self.farewell.push(asked.body),
            Err(error) => tracing::error!(session, %error, "disconnect could not be written"),
        }
    }
}
