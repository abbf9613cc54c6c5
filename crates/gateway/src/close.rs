//! Why a session or connection ended: one table for code, log, statistics and docs/protocol.md.

use serde::Serialize;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident, $text:literal, $kind:ident, $code:literal, $advice:literal;)+) => {
        /// Why a session or its connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum CloseReason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl CloseReason {
            /// Every reason, in the order of docs/protocol.md.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As it stands on the wire, in the log and in statistics.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// Who ended it, and whether a client should come back.
            #[must_use]
            pub const fn kind(self) -> CloseKind {
                match self { $(Self::$name => CloseKind::$kind,)+ }
            }

            /// The WebSocket close code (RFC 6455 section 7.4; 4000–4999 are ours).
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)+ }
            }

            /// What a client should do.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)+ }
            }
        }
    };
}

/// Who ended it, and what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseKind {
    /// The server says so for good: a Socket.IO DISCONNECT, after which standard clients stay away.
    Terminal,
    /// The server closes the connection with a code: standard clients reconnect and may recover.
    Retryable,
    /// The client left of its own will.
    Client,
}

reasons! {
    /// Disconnected by an operator or by the application.
    Kicked, "kicked", Terminal, 4000, "stay away until the user acts";
    /// The token's time is over and it was not renewed.
    TokenExpired, "token_expired", Terminal, 4001, "get a new token, then connect again";
    /// The same session came back on another connection.
    Replaced, "replaced", Terminal, 4002, "nothing: the newer connection goes on";
    /// No namespace was joined in time.
    ConnectTimeout, "connect_timeout", Retryable, 4003, "send CONNECT at once after the handshake";
    /// No pong in time.
    PingTimeout, "ping_timeout", Retryable, 4004, "reconnect; recovery is likely";
    /// The socket failed or was cut without a close.
    TransportError, "transport_error", Retryable, 4005, "reconnect; recovery is likely";
    /// The outbox passed its hard limit, or the socket took nothing for too long.
    SlowConsumer, "slow_consumer", Retryable, 4008, "reconnect, subscribe to less, or ask for batch events";
    /// Silent for too long, and the server is set to close such sessions.
    Stale, "stale", Retryable, 4009, "reconnect when there is something to do";
    /// A packet that is not of the protocol.
    ParseError, "parse_error", Retryable, 1002, "fix the client: it sent what the protocol forbids";
    /// Text that is not UTF-8, or compressed data that is not deflate.
    InvalidData, "invalid_data", Retryable, 1007, "fix the client: it sent invalid UTF-8 or deflate data";
    /// A message over the size limit.
    TooLarge, "too_large", Retryable, 1009, "send smaller messages; maxPayload of the handshake is the limit";
    /// The memory account is full.
    OutOfMemory, "out_of_memory", Retryable, 4010, "reconnect later with back-off";
    /// The process runs short of memory, and this connection had been silent longest.
    MemoryPressure, "memory_pressure", Retryable, 4012, "reconnect with back-off; recovery is likely";
    /// The application behind the gateway was asked whether to let the session in, and did not answer.
    AppUnavailable, "app_unavailable", Retryable, 4013, "reconnect later with back-off";
    /// The server shuts down; another one takes over.
    Draining, "draining", Retryable, 1012, "reconnect at once; recovery is likely on the same server only";
    /// Two polling requests of one kind at a time.
    Overlap, "overlapping_requests", Retryable, 4011, "fix the client: one GET and one POST at a time";
    /// The client sent DISCONNECT for its namespace.
    ClientLeft, "client_left", Client, 1000, "nothing";
    /// The client closed the connection.
    TransportClosed, "transport_closed", Client, 1000, "nothing; a reconnect may recover";
}

impl CloseReason {
    /// Whether standard clients stay away afterwards.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        self.kind() == CloseKind::Terminal
    }

    /// Whether the session waits for its client to come back.
    #[must_use]
    pub fn is_recoverable(self) -> bool {
        match self.kind() {
            CloseKind::Terminal => false,
            CloseKind::Retryable => self != Self::Stale,
            // A browser that goes to sleep or changes network also ends with a clean transport close.
            CloseKind::Client => self == Self::TransportClosed,
        }
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
