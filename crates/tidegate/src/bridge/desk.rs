//! Hands what was read to the gateway, and waits where it has no place at the moment.

use std::{sync::Arc, time::Duration};

use tidegate_gateway::{Code, Error, Published, Publisher};
use tokio::time::{Instant, sleep};

use super::{
    figures::Figures,
    formats::{Act, Ask, Format, Reason, Refused},
};

/// Pauses between two attempts to get a place: the first, doubled up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// How long a message may wait for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// So long, then it is dropped: what comes by pub/sub piles up in Redis, which closes a reader that is too far behind.
    Until(Duration),
    /// As long as it takes: a stream keeps what was not read.
    Always,
}

/// The way into the gateway for one connection, in order.
pub(super) struct Desk {
    publisher: Publisher,
    pub(super) figures: Arc<Figures>,
    patience: Patience,
    /// The last message was dropped after its wait. Those after it do not wait until one gets through, so that a full
    /// gateway delays what comes by one wait and not by one for each message.
    is_full: bool,
}

impl Desk {
    pub(super) fn new(publisher: Publisher, figures: Arc<Figures>, patience: Patience) -> Self {
        Self {
            publisher,
            figures,
            patience,
            is_full: false,
        }
    }

    /// Carries out what was read, or counts why not.
    ///
    /// # Cancel safety
    /// Dropped while it waits, the message is not carried out.
    pub(super) async fn take(&mut self, format: Format, bytes: u64, read: Result<Ask, Refused>) {
        self.figures.received(format, bytes);
        let done = match read {
            Ok(Ask::Publish(publication)) => {
                let publisher = self.publisher.clone();
                let publish = || publisher.publish(publication.clone());
                self.insist(format, publish).await.map(|_: Published| ())
            }
            Ok(Ask::Act(act)) => {
                let publisher = self.publisher.clone();
                self.insist(format, || carry_out(&publisher, &act)).await
            }
            Ok(Ask::Nothing) => return self.figures.ignored(format),
            Err(refused) => Err(refused),
        };
        match done {
            Ok(()) => self.figures.delivered(format),
            Err(refused) => self.figures.refused(format, &refused),
        }
    }

    /// Tries until there is a place or the patience is over.
    async fn insist<T>(
        &mut self,
        format: Format,
        attempt: impl Fn() -> Result<T, Error>,
    ) -> Result<T, Refused> {
        let mut pause = PAUSES.0;
        let mut began = None;
        loop {
            let error = match attempt() {
                Ok(done) => {
                    self.is_full = false;
                    return Ok(done);
                }
                Err(error) => error,
            };
            if error.code() != Code::Overloaded {
                return Err(refused(&error));
            }
            let waited = began.map_or(Duration::ZERO, |began: Instant| began.elapsed());
            if let Patience::Until(most) = self.patience
                && (self.is_full || waited >= most)
            {
                self.is_full = true;
                return Err(refused(&error));
            }
            if began.is_none() {
                began = Some(Instant::now());
                self.figures.waited(format);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }
}

fn carry_out(publisher: &Publisher, act: &Act) -> Result<(), Error> {
    let asked = publisher.act(&act.namespace, &act.to, &act.except, act.action.clone());
    asked.map(drop)
}

fn refused(error: &Error) -> Refused {
    let reason = match error {
        Error::NotFound {
            kind: "namespace", ..
        } => Reason::NoNamespace,
        Error::Memory(_) => Reason::Memory,
        Error::Overloaded { .. } => Reason::Overloaded,
        _ => Reason::Rejected,
    };
    Refused::new(reason, error.to_string())
}
