//! Gateways for tests: on a free port, with figures at hand, and a clock that tests may move.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde_json::Value;
use tidegate_auth::{
    ApiKey, ApiKeyValue, Authenticator, Config as AuthConfig, Identity, Method, Role, Secret,
};
use tidegate_gateway::{Args, Builder, ConnectRequest, Event, Gateway, Socket};
use tidegate_vitals::{Clock, Id as Metric, Ledger, ManualClock};
use tokio::time::{Instant, interval, timeout_at};

use crate::client::PATIENCE;

/// A gateway under test.
pub(crate) struct House {
    pub(crate) gateway: Gateway,
    pub(crate) ledger: Ledger,
    pub(crate) at: SocketAddr,
    hand: Option<ManualClock>,
}

/// API key of the user `feed`, who may do everything.
pub(crate) const FEED_KEY: &str = "a key that nobody can guess";

/// Two shards on which everybody may use every built-in event, and `echo` answers.
pub(crate) fn open_house() -> Builder {
    Gateway::builder()
        .auth(authenticator(everything()))
        .configure(|config| config.shards = 2)
        .on_event("echo", |socket: Socket, event: Event| async move {
            if event.wants_ack() {
                event.ack(&event.args());
            } else {
                socket.emit_args("echo", event.args()).unwrap();
            }
        })
}

/// As `open_house`, with the user that the client names in its auth object.
pub(crate) fn named_house() -> Builder {
    open_house().middleware(|request: ConnectRequest| async move {
        let auth: Value = request.auth()?;
        let mut identity = Identity::new(auth["user"].as_str().unwrap_or("nobody"), Method::Application);
        identity.roles = vec!["all".into()].into();
        Ok(identity)
    })
}

pub(crate) fn authenticator(config: AuthConfig) -> Arc<Authenticator> {
    Arc::new(Authenticator::new(config).unwrap())
}

/// Everybody may do everything.
pub(crate) fn everything() -> AuthConfig {
    let any = || vec!["*".to_owned()];
    let all = Role {
        join: any(),
        publish: any(),
        presence: any(),
        ..Role::default()
    };
    AuthConfig {
        anonymous: true,
        anonymous_roles: vec!["all".to_owned()],
        roles: [("all".to_owned(), all)].into(),
        api_keys: vec![ApiKey {
            name: "feed".to_owned(),
            key: ApiKeyValue::Plain(Secret::new(FEED_KEY)),
            user: None,
            tenant: None,
            roles: vec!["all".to_owned()],
            claims: serde_json::Map::new(),
        }],
        ..AuthConfig::default()
    }
}

// === impl House ===

impl House {
    /// Starts on the machine's clock.
    pub(crate) async fn start(builder: Builder) -> Self {
        Self::serve(builder, None).await
    }

    /// Starts on a clock that stands still until [`House::pass`]; nobody is pinged within the first hour.
    pub(crate) async fn start_manual(builder: Builder) -> Self {
        let (clock, hand) = Clock::manual();
        let builder = builder.clock(clock).configure(|config| {
            if config.ping_interval == Duration::from_secs(25) {
                config.ping_interval = Duration::from_secs(3_600);
            }
        });
        Self::serve(builder, Some(hand)).await
    }

    async fn serve(builder: Builder, hand: Option<ManualClock>) -> Self {
        let ledger = Ledger::new(1 << 30);
        let gateway = builder
            .ledger(ledger.clone())
            .listen(([127, 0, 0, 1], 0).into())
            .await
            .unwrap();
        Self {
            at: gateway.local_addr(),
            gateway,
            ledger,
            hand,
        }
    }

    /// Moves the manual clock and lets every shard see it.
    pub(crate) async fn pass(&self, time: Duration) {
        self.hand.as_ref().expect("a manual clock").advance(time);
        self.nudge().await;
    }

    /// Every shard takes two turns, so that what its timers caused is done as well.
    pub(crate) async fn nudge(&self) {
        for _ in 0..2 {
            self.gateway.inspector().connections(None, 1).await;
        }
    }

    /// Waits until `condition` holds. On a manual clock time moves by a tick with each look.
    pub(crate) async fn eventually(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut tick = interval(Duration::from_millis(5));
        while !condition() {
            assert!(
                timeout_at(deadline, tick.tick()).await.is_ok(),
                "not in time: {what}"
            );
            if self.hand.is_some() {
                self.nudge().await;
            }
        }
    }

    /// Waits until a figure has this value, all labels together. On a manual clock figures are handed over by
    /// ticks, so time passes by one.
    pub(crate) async fn figure(&self, id: Metric, expected: u64) {
        self.tick_figures().await;
        let mut got = 0;
        let what = format!("{} = {expected}", id.metric().name);
        let read = || {
            got = self.count(id);
            got == expected
        };
        self.eventually(&what, read).await;
        assert_eq!(got, expected, "{what}");
    }

    /// A figure with one label, now.
    pub(crate) fn labelled(&self, id: Metric, label: &str) -> u64 {
        let snapshot = self.gateway.metrics().snapshot();
        let found = snapshot
            .by_label(id)
            .find(|(name, _)| *name == label)
            .map(|(_, value)| {
                let gauge = || value.as_gauge().unwrap_or(0).max(0) as u64;
                value.as_counter().unwrap_or_else(gauge)
            });
        found.unwrap_or(0)
    }

    /// A figure of any kind, all labels together, now.
    pub(crate) fn count(&self, id: Metric) -> u64 {
        let snapshot = self.gateway.metrics().snapshot();
        let values = snapshot.of(id).iter().map(|series| &series.value);
        values
            .filter_map(|value| {
                value
                    .as_counter()
                    .or_else(|| value.as_gauge().map(|n| n.max(0) as u64))
            })
            .sum()
    }

    async fn tick_figures(&self) {
        if self.hand.is_some() {
            for _ in 0..4 {
                self.pass(Duration::from_millis(250)).await;
            }
        }
    }

    /// Publishes one number to a room.
    pub(crate) fn say(&self, room: &str, n: u64) {
        self.gateway.to(room).emit("m", &n).unwrap();
    }

    /// Ends the gateway; everything it held must come back.
    pub(crate) async fn end(self) {
        self.gateway.shutdown().await;
        assert_eq!(self.gateway.n_connections(), 0);
    }
}

/// Arguments from JSON text.
pub(crate) fn args(array: &str) -> Args {
    Args::from_json_array(array, Vec::new()).unwrap()
}

/// The code in an answer of the error shape; empty where it is none.
pub(crate) fn code_of(answer: &Value) -> &str {
    assert_eq!(
        answer["ok"].as_bool().unwrap_or(false),
        answer["error"].is_null(),
        "{answer}"
    );
    answer["error"]["code"].as_str().unwrap_or("")
}
