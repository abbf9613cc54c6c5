//! What is counted of the bridge.

use std::sync::{Mutex, PoisonError};

use tidegate_vitals::{Clock, Counter, Gauge, Id, Instant, Registry};

use super::formats::{Format, Reason, Refused};

/// How long one reason stays silent in the log after a line.
const SILENT_NS: u64 = 10_000_000_000;

/// A connection to Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Channels: classic, sharded, python.
    PubSub,
    /// Streams.
    Streams,
}

impl Link {
    pub(crate) const ALL: [Self; 2] = [Self::PubSub, Self::Streams];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::PubSub => "pubsub",
            Self::Streams => "streams",
        }
    }
}

/// Counters of each format and link, found once.
pub(super) struct Figures {
    registry: Registry,
    clock: Clock,
    formats: [OfFormat; Format::ALL.len()],
    up: [Gauge; Link::ALL.len()],
    pub(super) trimmed: Counter,
    pub(super) rooms: Gauge,
    silent: Mutex<[Option<Silent>; Reason::ALL.len()]>,
}

struct OfFormat {
    received: Counter,
    delivered: Counter,
    ignored: Counter,
    waited: Counter,
    bytes: Counter,
}

/// A reason that was logged a short while ago.
#[derive(Clone, Copy)]
struct Silent {
    since: Instant,
    n_more: u64,
}

// === impl Figures ===

impl Figures {
    pub(super) fn new(registry: &Registry, clock: Clock) -> Self {
        let of = |format: Format| {
            let counter = |id| registry.counter(id, &[format.as_str()]);
            OfFormat {
                received: counter(Id::BridgeReceived),
                delivered: counter(Id::BridgeDelivered),
                ignored: counter(Id::BridgeIgnored),
                waited: counter(Id::BridgeWaited),
                bytes: counter(Id::BridgeBytes),
            }
        };
        Self {
            formats: Format::ALL.map(of),
            up: Link::ALL.map(|link| registry.gauge(Id::BridgeUp, &[link.as_str()])),
            trimmed: registry.counter(Id::BridgeTrimmed, &[]),
            rooms: registry.gauge(Id::BridgeRooms, &[]),
            silent: Mutex::default(),
            registry: registry.clone(),
            clock,
        }
    }

    pub(super) fn received(&self, format: Format, bytes: u64) {
        let counters = &self.formats[format as usize];
        counters.received.inc();
        counters.bytes.add(bytes);
    }

    pub(super) fn delivered(&self, format: Format) {
        self.formats[format as usize].delivered.inc();
    }

    /// Something between other servers.
    pub(super) fn ignored(&self, format: Format) {
        self.formats[format as usize].ignored.inc();
    }

    /// The gateway had no place at once.
    pub(super) fn waited(&self, format: Format) {
        self.formats[format as usize].waited.inc();
    }

    pub(super) fn up(&self, link: Link) {
        self.up[link as usize].set(1);
        self.registry.counter(Id::BridgeConnects, &[link.as_str()]).inc();
    }

    pub(super) fn down(&self, link: Link) {
        self.up[link as usize].set(0);
    }

    /// Counts each, and logs one of a kind now and then.
    pub(super) fn refused(&self, format: Format, refused: &Refused) {
        let labels = [format.as_str(), refused.reason.as_str()];
        self.registry.counter(Id::BridgeRefused, &labels).inc();
        if let Some(n_before) = self.may_log(refused.reason) {
            tracing::warn!(format = labels[0], reason = labels[1], about = %refused.about, n_before,
                "a message from Redis was not carried out");
        }
    }

    /// How many of this reason were not logged since the last line; none: not yet.
    fn may_log(&self, reason: Reason) -> Option<u64> {
        let now = self.clock.now();
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &mut silent[reason as usize];
        if let Some(last) = last
            && now.since(last.since).as_nanos() < u128::from(SILENT_NS)
        {
            last.n_more += 1;
            return None;
        }
        let n_before = last.map_or(0, |last| last.n_more);
        *last = Some(Silent {
            since: now,
            n_more: 0,
        });
        Some(n_before)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_line_of_a_kind_in_a_while() {
        let (clock, hand) = Clock::manual();
        let figures = Figures::new(&Registry::new(), clock);
        assert_eq!(figures.may_log(Reason::Pickle), Some(0));
        assert_eq!(figures.may_log(Reason::Pickle), None);
        assert_eq!(figures.may_log(Reason::Malformed), Some(0));
        hand.advance(Duration::from_nanos(SILENT_NS));
        assert_eq!(figures.may_log(Reason::Pickle), Some(1));
    }
}
