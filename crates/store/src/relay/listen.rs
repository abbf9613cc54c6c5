//! Hears that something was published: a session of its own that only listens.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{
    backend::postgres::{Connection, Postgres, Session},
    error::{Error, Result},
};

/// Between two round trips that show whether the session is alive.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How long such a round trip may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Listener {
    server: Postgres,
    /// Between two attempts to connect.
    pause: Duration,
    wake: Arc<Notify>,
}

impl Listener {
    pub(super) fn new(server: &Postgres, pause: Duration, wake: Arc<Notify>) -> Result<Self> {
        let server = server.with_session(Session {
            statement_timeout: Some(CHECK_TIMEOUT),
            application_name: "tidegate relay".to_owned(),
            is_read_only: false,
        })?;
        Ok(Self { server, pause, wake })
    }

    /// Listens for good. Whatever goes wrong costs the time between two looks, no more.
    pub(super) async fn run(self) {
        loop {
            match self.listen().await {
                Ok(connection) if connection.info().through_pooler => {
                    // Such sessions belong to whoever has a transaction; a notification would go to a stranger.
                    tracing::info!("a pooler stands between: the outbox is looked at every store.relay.poll");
                    return;
                }
                Ok(connection) => {
                    // What was published while nobody listened told nobody.
                    self.wake.notify_one();
                    self.hear(&connection).await;
                }
                Err(error) => tracing::debug!(%error, "not listening for publications"),
            }
            sleep(self.pause).await;
        }
    }

    async fn listen(&self) -> Result<Connection> {
        let connection = self.server.open().await?;
        if !connection.info().through_pooler {
            let listening = connection.client().batch_execute("LISTEN tidegate_outbox").await;
            listening.map_err(|error| connection.error(error))?;
        }
        Ok(connection)
    }

    /// Until the session ends.
    async fn hear(&self, connection: &Connection) {
        while connection.is_usable() {
            match timeout(CHECK_EVERY, self.server.heard()).await {
                Ok(()) => self.wake.notify_one(),
                Err(_) => {
                    let alive = timeout(CHECK_TIMEOUT, connection.check()).await;
                    if let Err(error) = alive.unwrap_or(Err(Error::Lost("no answer".to_owned()))) {
                        tracing::debug!(%error, "session that listens is gone");
                        return;
                    }
                }
            }
        }
    }
}
