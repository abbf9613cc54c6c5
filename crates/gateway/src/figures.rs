//! The gateway's handles into the one table of figures.

use rustc_hash::FxHashMap;
use tidegate_vitals::{Counter, Gauge, Histogram, Id, Registry};

use crate::{close::CloseReason, inspect::State, relief::Reaction};

/// Handles resolved once, so that counting is one add.
pub(crate) struct Figures {
    pub(crate) accepted: Counter,
    pub(crate) admission: Histogram,
    pub(crate) handshake_errors: Counter,
    pub(crate) tls_handshakes: Counter,
    pub(crate) tls_handshake_errors: Counter,
    pub(crate) slow_closed: Counter,
    pub(crate) recover_eligible: Counter,
    pub(crate) recovered: Counter,
    pub(crate) taken_over: Counter,
    pub(crate) messages_in: Counter,
    pub(crate) messages_out: Counter,
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    pub(crate) events: Counter,
    pub(crate) publishes: Counter,
    pub(crate) deliveries: Counter,
    pub(crate) writes: Counter,
    pub(crate) frames_per_write: Histogram,
    pub(crate) batch_messages: Histogram,
    pub(crate) batch_events: Counter,
    pub(crate) dropped: Counter,
    pub(crate) conflated: Counter,
    pub(crate) delivery_latency: Histogram,
    pub(crate) deflate_saved: Counter,
    pub(crate) turn: Histogram,
    pub(crate) inbox_full: Counter,
    pub(crate) rate_limited: Counter,
    pub(crate) acks: Counter,
    pub(crate) ack_timeouts: Counter,
    pub(crate) acks_dropped: Counter,
    pub(crate) handlers_in_flight: Gauge,
    pub(crate) handler_errors: Counter,
    pub(crate) ending_dropped: Counter,
    pub(crate) reading_paused: Gauge,
    pub(crate) presence_members: Gauge,
    /// Sessions that an action did not get into all rooms.
    pub(crate) action_refused: Counter,
    pub(crate) ring_bytes: Gauge,
    pub(crate) ring_messages: Gauge,
    pub(crate) rooms: Gauge,
    pub(crate) users: Gauge,
    pub(crate) sessions: Gauge,
    pub(crate) outbox_bytes: Gauge,
    pub(crate) outbox_frames: Gauge,
    pub(crate) states: [Gauge; State::ALL.len()],
    pub(crate) websockets: Gauge,
    pub(crate) pollings: Gauge,
    closed: FxHashMap<CloseReason, Counter>,
    relief: [Counter; Reaction::ALL.len()],
    relief_bytes: [Counter; Reaction::ALL.len()],
    registry: Registry,
}

impl Figures {
    pub(crate) fn new(registry: &Registry) -> Self {
        let counter = |id| registry.counter(id, &[]);
        let gauge = |id| registry.gauge(id, &[]);
        let histogram = |id| registry.histogram(id, &[]);
        let transport = |name| registry.gauge(Id::GatewayConnectionsTransport, &[name]);
        let closed =
            |reason: &CloseReason| (*reason, registry.counter(Id::GatewayClosed, &[reason.as_str()]));
        Self {
            accepted: counter(Id::GatewayAccepted),
            admission: histogram(Id::GatewayAdmission),
            handshake_errors: counter(Id::GatewayHandshakeErrors),
            tls_handshakes: counter(Id::GatewayTlsHandshakes),
            tls_handshake_errors: counter(Id::GatewayTlsHandshakeErrors),
            slow_closed: counter(Id::GatewaySlowClosed),
            recover_eligible: counter(Id::GatewayRecoverEligible),
            recovered: counter(Id::GatewayRecovered),
            taken_over: counter(Id::GatewayTakenOver),
            messages_in: counter(Id::GatewayMessagesIn),
            messages_out: counter(Id::GatewayMessagesOut),
            bytes_in: counter(Id::GatewayBytesIn),
            bytes_out: counter(Id::GatewayBytesOut),
            events: counter(Id::GatewayEvents),
            publishes: counter(Id::GatewayPublishes),
            deliveries: counter(Id::GatewayDeliveries),
            writes: counter(Id::GatewayWrites),
            frames_per_write: histogram(Id::GatewayFramesPerWrite),
            batch_messages: histogram(Id::GatewayBatchSize),
            batch_events: counter(Id::GatewayBatchEvents),
            dropped: counter(Id::GatewayDropped),
            conflated: counter(Id::GatewayConflated),
            delivery_latency: histogram(Id::GatewayDeliveryLatency),
            deflate_saved: counter(Id::GatewayDeflateSavedBytes),
            turn: histogram(Id::GatewayTurn),
            inbox_full: counter(Id::GatewayInboxFull),
            rate_limited: counter(Id::GatewayRateLimited),
            acks: counter(Id::GatewayAcks),
            ack_timeouts: counter(Id::GatewayAckTimeouts),
            acks_dropped: counter(Id::GatewayAcksDropped),
            handlers_in_flight: gauge(Id::GatewayHandlerInFlight),
            handler_errors: counter(Id::GatewayHandlerErrors),
            ending_dropped: counter(Id::GatewayEndingDropped),
            reading_paused: gauge(Id::GatewayReadingPaused),
            presence_members: gauge(Id::GatewayPresenceMembers),
            action_refused: counter(Id::GatewayActionRefused),
            ring_bytes: gauge(Id::GatewayRingBytes),
            ring_messages: gauge(Id::GatewayRingMessages),
            rooms: gauge(Id::GatewayRooms),
            users: gauge(Id::GatewayUsers),
            sessions: gauge(Id::GatewaySessions),
            outbox_bytes: gauge(Id::GatewayOutboxBytes),
            outbox_frames: gauge(Id::GatewayOutboxFrames),
            states: State::ALL.map(|state| registry.gauge(Id::GatewayConnections, &[state.as_str()])),
            websockets: transport("websocket"),
            pollings: transport("polling"),
            closed: CloseReason::ALL.iter().map(closed).collect(),
            relief: Reaction::ALL.map(|reaction| registry.counter(Id::GatewayRelief, &[reaction.as_str()])),
            relief_bytes: Reaction::ALL
                .map(|reaction| registry.counter(Id::GatewayReliefBytes, &[reaction.as_str()])),
            registry: registry.clone(),
        }
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        self.closed[&reason].inc();
    }

    /// A connection or request was not let in; `reason` is one of a fixed few.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.registry.counter(Id::GatewayRefused, &[reason]).inc();
    }

    /// Something was given up under memory pressure: `n` messages, connections or walks, and `bytes` with them.
    pub(crate) fn relieved(&self, reaction: Reaction, n: u64, bytes: u64) {
        self.relief[reaction as usize].add(n);
        self.relief_bytes[reaction as usize].add(bytes);
    }

    /// How much was given up so far, by reaction.
    #[cfg(test)]
    pub(crate) fn relieved_so_far(&self) -> [u64; Reaction::ALL.len()] {
        self.relief.each_ref().map(Counter::get)
    }

    /// The memory accounts had no room; `what` is one of a fixed few.
    pub(crate) fn no_memory(&self, what: &'static str) {
        self.registry.counter(Id::GatewayNoMemory, &[what]).inc();
    }

    /// Something was asked of `sessions` sessions at once; `action` is one of a fixed few.
    pub(crate) fn action(&self, action: &'static str, sessions: usize) {
        self.registry.counter(Id::GatewayActions, &[action]).inc();
        let counter = self.registry.counter(Id::GatewayActionSessions, &[action]);
        counter.add(sessions as u64);
    }

    pub(crate) fn recover_missed(&self, reason: &'static str) {
        self.registry.counter(Id::GatewayRecoverMissed, &[reason]).inc();
    }

    pub(crate) fn of_shard(&self, id: Id, shard: u16) -> Gauge {
        self.registry.gauge(id, &[&shard.to_string()])
    }
}
