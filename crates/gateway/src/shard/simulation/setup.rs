//! What a simulation is made of: chance, limits, a gateway without threads, sockets with small buffers.

use std::{net::IpAddr, os::unix::net::UnixStream, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_auth::{Authenticator, Role, TrustedUser};
use tidegate_vitals::{Clock, Ledger};
use tidegate_wire::websocket::OpCode;

use super::{
    super::{
        command::{Command, NewWebSocket},
        conn::Handshake,
        link::Link,
    },
    SHARDS, WINDOW,
    oracle::{Aim, ROOMS},
};
use crate::{Builder, Gateway, Target, room::RoomOptions, shared::Shared};

pub(super) fn room_name(room: usize) -> String {
    // The last two keep presence.
    if room < ROOMS - 2 {
        format!("r{room}")
    } else {
        format!("p{room}")
    }
}

pub(super) fn attachment(n: usize) -> Vec<u8> {
    n.to_be_bytes().repeat(1 + n % 5)
}

/// xorshift: the same script for the same seed.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub(super) fn room(&mut self) -> usize {
        self.index(ROOMS)
    }
}

/// What differs between simulations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) recovery: bool,
    pub(super) soft_bytes: usize,
    pub(super) hard_bytes: usize,
    pub(super) ring_bytes: usize,
}

impl Plan {
    pub(super) const ALL: [Self; 4] = [
        // Nothing is ever too much, so that every session in time must be recovered.
        Self {
            recovery: true,
            soft_bytes: 16 << 20,
            hard_bytes: 32 << 20,
            ring_bytes: 32 << 20,
        },
        // Slow readers overflow.
        Self {
            recovery: true,
            soft_bytes: 4 << 10,
            hard_bytes: 16 << 10,
            ring_bytes: 32 << 20,
        },
        // The ring forgets.
        Self {
            recovery: true,
            soft_bytes: 64 << 10,
            hard_bytes: 128 << 10,
            ring_bytes: 64 << 10,
        },
        Self {
            recovery: false,
            soft_bytes: 4 << 10,
            hard_bytes: 16 << 10,
            ring_bytes: 64 << 10,
        },
    ];

    pub(super) fn is_generous(self) -> bool {
        self.recovery && self.soft_bytes >= 16 << 20
    }
}

pub(super) fn builder(plan: Plan, clock: Clock, ledger: Ledger) -> Builder {
    let all = || vec!["*".to_owned()];
    let role = Role {
        join: all(),
        publish: all(),
        presence: all(),
        ..Role::default()
    };
    let auth = tidegate_auth::Config {
        anonymous: true,
        anonymous_roles: vec!["any".to_owned()],
        trusted_user: Some(TrustedUser {
            roles: vec!["any".to_owned()],
        }),
        roles: [("any".to_owned(), role)].into(),
        ..tidegate_auth::Config::default()
    };
    let presence = RoomOptions {
        presence: true,
        presence_grace: Duration::from_secs(2),
        join_leave_events: true,
        ..RoomOptions::default()
    };
    Gateway::builder()
        .clock(clock)
        .ledger(ledger)
        .auth(Arc::new(Authenticator::new(auth).unwrap()))
        .configure(|c| {
            c.shards = SHARDS as usize;
            (c.ping_interval, c.ping_timeout) = (Duration::from_secs(5), Duration::from_secs(4));
            c.connect_timeout = Duration::from_secs(5);
            c.outbox.stall_timeout = Duration::from_secs(6);
            (c.outbox.soft_bytes, c.outbox.hard_bytes) = (plan.soft_bytes, plan.hard_bytes);
            (c.recovery.enabled, c.recovery.window) = (plan.recovery, WINDOW);
            c.recovery.ring_bytes_max = plan.ring_bytes;
            c.sessions.idle_after = Duration::from_secs(3);
            c.deflate.threshold_bytes = 256;
            c.batch.messages_max = 8;
            let board = RoomOptions {
                last: 1,
                ..RoomOptions::default()
            };
            c.rooms = vec![("p*".to_owned(), presence), ("board".to_owned(), board)];
        })
}

/// The server's end with a buffer of a few frames, and the client's.
pub(super) fn sockets() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    near.set_nonblocking(true).unwrap();
    far.set_nonblocking(true).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&near, 4_096).unwrap();
    (near, far)
}

pub(super) fn frame(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    tidegate_wire::websocket::put_masked_frame(
        &mut bytes,
        OpCode::Text,
        true,
        false,
        [9; 4],
        text.as_bytes(),
    );
    bytes
}

/// Hands an upgraded connection to a shard, as the listener does.
pub(super) fn enter(
    shared: &Shared,
    shard: usize,
    near: UnixStream,
    early: Bytes,
    window_bits: Option<u8>,
    user: Option<&str>,
) {
    let address = IpAddr::from([127, 0, 0, 1]);
    let limits = shared.live.limits();
    let permit = shared
        .admission
        .admit(address, &limits, shared.connections_limit(), shared.clock.now());
    let mut headers = http::HeaderMap::new();
    if let Some(user) = user {
        headers.insert("x-user-id", user.parse().unwrap());
    }
    let handshake = Handshake {
        query: "EIO=4&transport=websocket".to_owned(),
        headers,
        address,
        trusted: true,
    };
    let new = NewWebSocket {
        link: Link::Unix(near),
        early,
        endpoint: 0,
        window_bits,
        upgrades: None,
        handshake: Arc::new(handshake),
        permit: Some(permit.unwrap()),
    };
    shared.inboxes[shard]
        .push(Command::WebSocket(Box::new(new)))
        .unwrap();
}

pub(super) fn target(aim: &Aim) -> Target {
    match aim {
        Aim::Room(room) => Target::Room(room_name(*room)),
        Aim::User(name) => Target::User(name.clone()),
        Aim::Session(id) => Target::Session(id.clone()),
    }
}
