//! How many API requests and queries run at once: one adaptive limit, shared by roles.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use tidegate_auth::Identity;
use tidegate_flow::limiter::{
    Adaptive, Config, Limit, Limiter, Partition, Permit, Refused, Share, Stats, Why,
};
use tidegate_gateway::Code;
use tidegate_vitals::{Clock, Registry};

use crate::{api::Failure, settings::ConcurrencySettings};

/// The limit on requests at once.
pub(crate) struct Requests {
    limiter: Limiter,
    /// Roles with a share of their own, in the order of the settings.
    roles: Vec<(Arc<str>, Partition)>,
    is_on: AtomicBool,
}

/// A request on its way. Dropped without an end, it says nothing of the load.
pub(crate) struct Turn(Option<Permit>);

// === impl Requests ===

impl Requests {
    pub(crate) fn new(settings: &ConcurrencySettings, is_on: bool, clock: Clock) -> Self {
        let limit = Limit::Adaptive(Adaptive {
            initial: settings.initial,
            min: settings.min,
            max: settings.max,
            ..Adaptive::default()
        });
        let shares = settings.shares.iter().map(|share| Share {
            name: share.role.as_str().into(),
            guaranteed_per_mille: share.guaranteed * 10,
            most_per_mille: share.most * 10,
        });
        let limiter = Limiter::new(
            Config {
                shares: shares.collect(),
                waiting_max: settings.queue_max,
                wait_max: settings.wait_max,
                ..Config::new("requests", limit)
            },
            clock,
        );
        let roles = settings.shares.iter();
        let roles = roles.map(|share| (share.role.as_str().into(), limiter.partition(&share.role)));
        Self {
            roles: roles.collect(),
            limiter,
            is_on: AtomicBool::new(is_on),
        }
    }

    /// Lets a request of this caller run, at once or after a short wait.
    ///
    /// # Errors
    /// `rate_limited` where the caller's own role has all that it may have, `overloaded` where the server has.
    ///
    /// # Cancel safety
    /// Dropping it leaves the line.
    pub(crate) async fn turn(&self, identity: &Identity) -> Result<Turn, Failure> {
        if !self.is_on.load(Relaxed) {
            return Ok(Turn(None));
        }
        let admitted = self.limiter.acquire(self.partition(identity)).await;
        admitted
            .map(|permit| Turn(Some(permit)))
            .map_err(|refused| failure(&refused))
    }

    /// Whether the limit counts; on and off in a running server.
    pub(crate) fn set_on(&self, is_on: bool) {
        self.is_on.store(is_on, Relaxed);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    pub(crate) fn stats(&self) -> Stats {
        self.limiter.stats()
    }

    pub(crate) fn record(&self, registry: &Registry) {
        self.limiter.record(registry);
    }

    /// The share of the caller's first role that has one.
    fn partition(&self, identity: &Identity) -> Partition {
        let mut shares = self.roles.iter();
        let of_caller = shares.find(|(role, _)| identity.roles.iter().any(|own| **own == **role));
        of_caller.map_or(Partition::OTHER, |(_, partition)| *partition)
    }
}

// === impl Turn ===

impl Turn {
    /// The request ended with this result: failures of what is behind us, and they alone, say that it has too much to do.
    pub(crate) fn end<T>(self, result: &Result<T, Failure>) {
        let Some(permit) = self.0 else { return };
        match result.as_ref().map_err(|failure| failure.error.code()) {
            Ok(_) => permit.succeed(),
            Err(Code::Timeout | Code::Overloaded | Code::BacklogFull) => permit.fail(),
            Err(_) => permit.ignore(),
        }
    }

    /// The request only waits from here on; how long it took so far says nothing.
    pub(crate) fn leave(self) {
        if let Some(permit) = self.0 {
            permit.ignore();
        }
    }
}

fn failure(refused: &Refused) -> Failure {
    let code = match refused.why {
        Why::Partition => Code::RateLimited,
        Why::Server => Code::Overloaded,
    };
    let retry_after = Some(refused.retry_after);
    Failure {
        retry_after,
        ..Failure::of(code, refused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tidegate_auth::Method;

    use super::*;
    use crate::settings::RoleShare;

    #[tokio::test]
    async fn a_caller_who_has_all_it_may_have_is_told_429_and_others_503_when_nothing_is_left() {
        let visitors = RoleShare {
            role: "visitor".to_owned(),
            guaranteed: 0,
            most: 50,
        };
        let settings = ConcurrencySettings {
            min: 4,
            max: 4,
            initial: 4,
            queue_max: 0,
            wait_max: Duration::from_millis(1),
            shares: vec![visitors],
        };
        let requests = Requests::new(&settings, true, Clock::real());
        let caller = |role: &str| Identity {
            roles: [role.into()].into(),
            ..Identity::new("one", Method::Token)
        };
        let mut held = Vec::new();
        let mut check = async |role: &str, expected: Option<u16>| {
            let turn = requests.turn(&caller(role)).await;
            let refused = turn.as_ref().err();
            assert_eq!(
                refused.map(|failure| failure.error.code().status()),
                expected,
                "{role}"
            );
            assert!(refused.is_none_or(|failure| failure.retry_after.is_some()));
            held.extend(turn);
        };
        check("visitor", None).await;
        check("visitor", None).await;
        check("visitor", Some(429)).await;
        check("trader", None).await;
        check("trader", None).await;
        check("trader", Some(503)).await;
    }
}
