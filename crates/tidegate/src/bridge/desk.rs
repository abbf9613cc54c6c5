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

/// How long a message of a stream waits for memory, which other messages behind it may not need.
const MEMORY_WAIT: Duration = Duration::from_secs(10);

/// How long a message may wait for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// So long, then it is dropped: what comes by pub/sub piles up in Redis, which closes a reader that is too far behind.
    Until(Duration),
    /// As long as it takes: a stream keeps what was not read. For memory not as long: there may never be enough for it.
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
            let most = match (self.patience, &error) {
                (Patience::Until(most), _) => Some(most),
                (Patience::Always, Error::Memory(_)) => Some(MEMORY_WAIT),
                (Patience::Always, _) => None,
            };
            if most.is_some_and(|most| self.is_full || waited >= most) {
                self.is_full = self.patience != Patience::Always;
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

#[cfg(test)]
mod tests {
    use tidegate_gateway::Gateway;
    use tidegate_vitals::{Class, Clock, Ledger, Registry};

    use super::*;

    /// How long a message is tried for which there is never enough memory, and what it is counted as.
    async fn check(patience: Patience, waits: Duration) {
        let gateway = Gateway::builder()
            .listen(([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        let figures = Arc::new(Figures::new(&Registry::new(), Clock::manual().0));
        let mut desk = Desk::new(gateway.publisher(), figures, patience);
        let ledger = Ledger::new(0);
        let attempt = || ledger.reserve(Class::Frames, 1).map_err(Error::from);
        tokio::time::pause();
        let began = Instant::now();
        let refused = desk.insist(Format::Streams, attempt).await.unwrap_err();
        assert_eq!(refused.reason, Reason::Memory, "{patience:?}");
        let waited = began.elapsed();
        assert!(waited >= waits && waited <= waits + PAUSES.1, "{waited:?}");
    }

    #[tokio::test]
    async fn what_can_never_be_paid_does_not_stop_its_stream() {
        check(Patience::Always, MEMORY_WAIT).await;
    }

    #[tokio::test]
    async fn channels_wait_as_long_as_the_settings_say() {
        check(
            Patience::Until(Duration::from_millis(50)),
            Duration::from_millis(50),
        )
        .await;
    }
}
