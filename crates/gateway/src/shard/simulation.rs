//! Seeded simulation of shards: real sockets, one thread, a clock moved by hand, and clients that behave badly.
//!
//! `TIDEGATE_SEED=17` runs one seed again and says what each client saw.

mod acting;
mod cases;
mod client;
mod oracle;
mod setup;

use std::{collections::BTreeMap, os::unix::net::UnixStream, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_vitals::{
    Class, Clock, Ledger, ManualClock,
    pressure::{Ask, Level, Shed},
};
use tidegate_wire::{deflate::Inflater, websocket::OpCode};

use super::{
    Shard,
    command::{Command, Who},
};
use crate::{
    Action, Args, Publication, Target, WhenSlow,
    close::CloseReason,
    id::{Id, Random},
    namespace::{By, Namespace},
    relief::{GatewayShed, Reaction},
    shared::Shared,
};
use client::{Around, Client, Line, Traits};
use oracle::{Aim, Member, ROOMS, Sent};
use setup::{Plan, Rng, attachment, builder, enter, frame, room_name, sockets, target};

const SHARDS: u64 = 3;
const CLIENTS: usize = 40;
const STEPS: usize = 2_500;
const SEEDS: u64 = 60;
const WINDOW: Duration = Duration::from_secs(10);

struct World {
    rng: Rng,
    plan: Plan,
    hand: ManualClock,
    ledger: Ledger,
    shared: Arc<Shared>,
    shards: Vec<Shard>,
    clients: Vec<Client>,
    sent: Vec<Sent>,
    /// Connections that their clients have given up without closing them.
    half_open: Vec<UnixStream>,
    inflater: Inflater,
    scratch: Vec<u8>,
    trace: bool,
}

impl World {
    fn new(seed: u64, plan: Plan, trace: bool) -> Self {
        let (clock, hand) = Clock::manual();
        let ledger = Ledger::new(1 << 30);
        let shared = Arc::new(builder(plan, clock, ledger.clone()).into_shared(None).unwrap());
        let shard = |index: u64| {
            let random = Random::Seeded(seed * SHARDS + index + 1);
            Shard::new(index as u16, shared.clone(), random).unwrap()
        };
        Self {
            rng: Rng::new(seed),
            plan,
            hand,
            ledger,
            shards: (0..SHARDS).map(shard).collect(),
            shared,
            clients: Vec::new(),
            sent: Vec::new(),
            half_open: Vec::new(),
            inflater: Inflater::new(),
            scratch: vec![0; 16 << 10],
            trace,
        }
    }

    /// Shards turn and clients read until nothing moves.
    fn rest(&mut self) {
        for _ in 0..10 {
            self.shards.iter_mut().for_each(|shard| shard.turn(false));
            (0..self.clients.len()).for_each(|client| self.pump(client));
        }
    }

    fn populate(&mut self, n: usize) {
        for name in 0..n {
            let rng = &mut self.rng;
            let traits = Traits {
                user: (!rng.percent(20)).then(|| format!("u{}", rng.below(12))),
                batch: rng.percent(20),
                recovers: self.plan.recovery && !rng.percent(20),
                window_bits: rng.percent(30).then_some(15),
            };
            let mut client = Client::new(name, traits);
            client.trace = self.trace;
            self.clients.push(client);
        }
    }

    fn now_ms(&self) -> u64 {
        self.shared.clock.now().as_millis()
    }

    fn space(&self) -> &Arc<Namespace> {
        &self.shared.namespaces[0]
    }

    /// One thing happens, then some clients read and some shards turn.
    fn step(&mut self) {
        let client = self.rng.index(self.clients.len());
        match self.rng.below(1_000) {
            0..=369 => self.publish(),
            370..=499 => self.join_or_leave(client),
            500..=519 => self.cut(client),
            520..=529 => self.go_half_open(client),
            530..=534 => self.close(client),
            535..=539 => self.say_goodbye(client),
            540..=542 => self.kick(client),
            543..=559 => self.clients[client].deaf_until_ms = self.now_ms() + self.rng.below(8_000),
            560..=589 => self.join_by_server(client),
            590..=599 => self.leave_by_server(client),
            600..=609 => self.press(),
            610..=629 => self.act(),
            630..=649 => self.act_on_room(),
            _ => {}
        }
        self.come_back();
        for _ in 0..5 {
            let client = self.rng.index(self.clients.len());
            self.pump(client);
        }
        for _ in 0..self.rng.below(4) {
            self.turn();
        }
        self.hand.advance(Duration::from_millis(self.rng.below(40)));
    }

    /// A random shard turns, or its budget ends after a few commands.
    fn turn(&mut self) {
        let index = self.rng.below(SHARDS) as usize;
        if self.rng.percent(2) {
            self.shards[index].turn(false);
            self.shards[index].check_charges();
        }
        let few = self.rng.percent(30).then(|| 1 + self.rng.below(6));
        match few {
            None => self.shards[index].turn(false),
            Some(n) => self.shards[index].handle_few(n as usize),
        }
    }

    /// Memory runs short, or is enough again.
    fn press(&mut self) {
        let levels = [
            Level::Normal,
            Level::Normal,
            Level::Moderate,
            Level::High,
            Level::Critical,
        ];
        let level = levels[self.rng.index(levels.len())];
        let shed = GatewayShed(self.shared.clone());
        if self.rng.percent(30) {
            return shed.level(level);
        }
        let ask = Ask {
            level,
            within: self.rng.below(11) as f32 / 10.0,
            bytes_wanted: self.rng.below(300_000),
        };
        shed.shed(&ask);
    }

    fn pump(&mut self, client: usize) {
        let epoch = self.space().epoch;
        let mut around = Around {
            sent: &self.sent,
            epoch,
            now_ms: self.shared.clock.now().as_millis(),
            inflater: &mut self.inflater,
            scratch: &mut self.scratch,
        };
        self.clients[client].pump(&mut around);
    }

    fn publish(&mut self) {
        let to = self.aims(8);
        let except = if self.rng.percent(20) {
            self.aims(0)
        } else {
            Vec::new()
        };
        let manner = self.rng.below(10);
        let key = (manner < 3).then(|| self.rng.below(6) as u8);
        let when_slow = match (key, manner) {
            (Some(key), _) => WhenSlow::Conflate(key.to_string()),
            (None, 3) => WhenSlow::DropOldest,
            _ => WhenSlow::Disconnect,
        };
        let n = self.sent.len();
        let volatile = manner == 4;
        let droppable = volatile || manner == 3;
        let publication = Publication {
            to: to.iter().map(target).collect(),
            except: except.iter().map(target).collect(),
            volatile,
            urgent: self.rng.percent(10),
            when_slow,
            id: self.rng.percent(5).then(|| n.to_string()),
            ..Publication::new("m", self.args(n))
        };
        self.send(
            publication,
            Sent {
                n,
                seq: 0,
                to,
                except,
                key,
                droppable,
            },
        );
    }

    fn send(&mut self, publication: Publication, mut sent: Sent) {
        for client in &mut self.clients {
            let standing = client.standing();
            let sid = client.session.as_ref().map(|session| session.sid.as_str());
            client.oracle.on_publish(&sent, standing, sid);
        }
        let again = publication.id.is_some().then(|| publication.clone());
        let published = self.space().publish(publication).unwrap();
        if let Some(again) = again {
            let again = self.space().publish(again).unwrap();
            assert!(
                again.duplicate && again.seq == published.seq,
                "the same id is published once"
            );
        }
        sent.seq = published.seq;
        if self.trace {
            eprintln!(
                "{} is {} to {:?} but {:?} at {}",
                sent.n,
                sent.seq,
                sent.to,
                sent.except,
                self.now_ms()
            );
        }
        self.sent.push(sent);
    }

    /// Some targets; everybody with a chance of one in `everybody`.
    fn aims(&mut self, everybody: u64) -> Vec<Aim> {
        if everybody > 0 && self.rng.below(everybody) == 0 {
            return Vec::new();
        }
        let n = 1 + self.rng.below(6) / 3;
        (0..n).map(|_| self.aim()).collect()
    }

    fn aim(&mut self) -> Aim {
        match self.rng.below(10) {
            0 => Aim::User(format!("u{}", self.rng.below(12))),
            1 => {
                let client = self.rng.index(self.clients.len());
                let sid = self.clients[client].sid();
                sid.map_or(Aim::Room(0), |sid| Aim::Session(sid.to_owned()))
            }
            _ => Aim::Room(self.rng.room()),
        }
    }

    fn args(&mut self, n: usize) -> Args {
        let pad = if self.rng.percent(5) {
            self.rng.below(3_000)
        } else {
            self.rng.below(100)
        };
        let pad = "x".repeat(pad as usize);
        if self.rng.percent(5) {
            let json = format!(r#"{{"n":{n},"pad":"{pad}","bin":{{"_placeholder":true,"num":0}}}}"#);
            return Args {
                json,
                attachments: vec![attachment(n).into()],
            };
        }
        Args {
            json: format!(r#"{{"n":{n},"pad":"{pad}"}}"#),
            attachments: Vec::new(),
        }
    }

    fn join_or_leave(&mut self, client: usize) {
        let rooms: Vec<usize> = (0..1 + self.rng.below(5) / 4).map(|_| self.rng.room()).collect();
        let rooms: BTreeMap<usize, ()> = rooms.into_iter().map(|room| (room, ())).collect();
        let asked_at = self.sent.len();
        let in_doubt = self.rng.percent(50);
        let client = &mut self.clients[client];
        if !client.is_in() || !rooms.keys().all(|&room| client.is_settled(room)) {
            return;
        }
        let rooms: Vec<usize> = rooms.into_keys().collect();
        let join = match client.oracle.rooms[rooms[0]] {
            Member::Out => true,
            Member::In => false,
            Member::Joining | Member::Leaving => in_doubt,
        };
        client.wish(rooms, join, asked_at);
    }

    /// Only for clients that are not on their way to another connection: the order of two is otherwise open.
    fn join_by_server(&mut self, client: usize) {
        let room = self.rng.room();
        let client = &mut self.clients[client];
        if !client.is_in() || !client.is_settled(room) {
            return;
        }
        let id = Id::parse(client.sid().unwrap()).unwrap();
        if self.shared.namespaces[0]
            .join(id, &[&room_name(room)], By::Server)
            .is_ok()
        {
            client.say(format_args!("server joins {room} after {}", self.sent.len()));
            client.oracle.on_joined(room, self.sent.len());
        }
    }

    fn leave_by_server(&mut self, client: usize) {
        let room = self.rng.room();
        let client = &mut self.clients[client];
        if !client.is_in() || !client.is_settled(room) {
            return;
        }
        let sid = client.sid().unwrap().to_owned();
        if self.shared.namespaces[0]
            .leave(Id::parse(&sid).unwrap(), &[&room_name(room)], None)
            .is_ok()
        {
            client.say(format_args!("server leaves {room} after {}", self.sent.len()));
            client.oracle.rooms[room] = Member::Out;
            client.oracle.on_doubt(&self.sent, Some(&sid));
        }
    }

    /// An operator disconnects a session, wherever it is on its ways.
    fn kick(&mut self, client: usize) {
        let client = &mut self.clients[client];
        let Some(sid) = client.sid() else { return };
        if let Some(at) = self.shared.namespaces[0].session(sid) {
            let command = Command::Disconnect {
                who: Who::Session(at),
                reason: CloseReason::Kicked,
            };
            self.shared.inboxes[usize::from(at.shard)].push_always(command);
            client.say("kicked");
            client.doomed = true;
            client.oracle.on_end();
        }
    }

    /// The network is gone, and both sides notice.
    fn cut(&mut self, client: usize) {
        if self.clients[client].line.is_some() {
            self.clients[client].say("cut");
            self.lose(client);
        }
    }

    fn lose(&mut self, client: usize) {
        let away_ms = if self.rng.percent(80) {
            self.rng.below(3_000)
        } else {
            self.rng.below(25_000)
        };
        let now_ms = self.now_ms();
        let client = &mut self.clients[client];
        client.back_at_ms = now_ms + away_ms;
        client.on_lost(&self.sent);
    }

    /// The network is gone, and the server does not notice.
    fn go_half_open(&mut self, client: usize) {
        if let Some(line) = self.clients[client].line.take() {
            self.clients[client].say("half open");
            self.half_open.push(line.stream);
            self.lose(client);
            if self.rng.percent(70) {
                self.clients[client].back_at_ms = self.now_ms();
            }
        }
    }

    /// A browser's tab is closed.
    fn close(&mut self, client: usize) {
        if let Some(line) = &mut self.clients[client].line {
            line.send_frame(OpCode::Close, &1_001_u16.to_be_bytes());
            self.clients[client].say("closed");
            self.lose(client);
        }
    }

    /// The client leaves its namespace for good; its connection stays for a while.
    fn say_goodbye(&mut self, client: usize) {
        let away_ms = self.rng.below(3_000);
        let now_ms = self.now_ms();
        let client = &mut self.clients[client];
        if client.is_in()
            && let Some(mut line) = client.line.take()
        {
            line.send("41");
            client.say("goodbye");
            self.half_open.push(line.stream);
            client.on_lost(&self.sent);
            client.forget();
            client.back_at_ms = now_ms + away_ms;
        }
    }

    fn come_back(&mut self) {
        let now_ms = self.now_ms();
        for client in 0..self.clients.len() {
            if self.clients[client].line.is_none() && self.clients[client].back_at_ms <= now_ms {
                self.dial(client);
            }
        }
        while self.half_open.len() > 10 {
            let one = self.rng.index(self.half_open.len());
            self.half_open.swap_remove(one);
        }
    }

    fn dial(&mut self, client: usize) {
        let now_ms = self.now_ms();
        let early = self.rng.percent(30);
        let shard = match self.rng.percent(70) {
            true => self.shared.least_loaded(),
            false => self.rng.below(SHARDS) as usize,
        };
        let (near, far) = sockets();
        let asked_at = self.sent.len();
        let client = &mut self.clients[client];
        // Within the window with time to spare for what the shards still have to do.
        let in_time = client.alive_at_ms + WINDOW.as_millis() as u64 > now_ms + 3_000;
        let owed =
            self.plan.is_generous() && in_time && client.session.is_some() && !client.doomed && client.stable;
        let mut line = Line::new(far, asked_at, owed);
        client.stable = false;
        let mut bytes = Bytes::new();
        if early {
            bytes = frame(&client.connect_packet()).into();
        } else {
            line.send(&client.connect_packet());
        }
        client.say(format_args!("dials shard {shard} at {now_ms}, owed {owed}"));
        client.line = Some(line);
        let (window_bits, user) = (client.traits.window_bits, client.traits.user.clone());
        enter(&self.shared, shard, near, bytes, window_bits, user.as_deref());
    }

    /// Everybody listens and comes back, until nothing moves any more.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..2_000 {
            let now_ms = self.now_ms();
            for client in 0..self.clients.len() {
                self.clients[client].deaf_until_ms = 0;
                self.clients[client].back_at_ms = self.clients[client].back_at_ms.min(now_ms);
                self.pump(client);
            }
            self.come_back();
            self.shards.iter_mut().for_each(|shard| shard.turn(false));
            self.hand.advance(Duration::from_millis(20));
            let rests = |client: &Client| client.is_in() && client.waiting.is_empty();
            quiet = if self.clients.iter().all(rests) {
                quiet + 1
            } else {
                0
            };
            if quiet == 20 {
                return;
            }
        }
        panic!("the clients never came to rest");
    }

    fn check_nothing_is_missing(&self) {
        for client in &self.clients {
            if let Some(n) = client.oracle.missing() {
                client.check(false, "never got message", n);
            }
        }
    }

    /// Everybody goes, each in its own way, and every window passes.
    fn end(&mut self) {
        for client in 0..self.clients.len() {
            match self.rng.below(4) {
                0 => self.cut(client),
                1 => self.close(client),
                2 => self.say_goodbye(client),
                _ => self.go_half_open(client),
            }
        }
        for _ in 0..100 {
            self.hand.advance(Duration::from_millis(500));
            for _ in 0..3 {
                self.shards.iter_mut().for_each(|shard| shard.turn(false));
            }
        }
    }

    /// Nothing is left of anybody, in any account.
    fn check_accounts(mut self) {
        for shard in &mut self.shards {
            shard.check_empty();
        }
        let shared = &self.shared;
        assert_eq!(shared.n_pids(), 0, "secrets");
        assert_eq!(shared.admission.connections(), 0, "admitted connections");
        assert_eq!(shared.admission.n_users(), 0, "admitted users");
        assert!(shared.inboxes.iter().all(|inbox| inbox.len() == 0), "inboxes");
        let [rooms, users, ring_bytes, _] = shared.namespaces[0].sizes();
        assert_eq!((rooms, users), (0, 0), "rooms and users");
        assert_eq!(shared.namespaces[0].n_sessions(), 0, "sessions");
        let held = [Class::Frames, Class::Rings].map(|class| self.ledger.used_by(class));
        assert_eq!(
            held,
            [0, ring_bytes as u64],
            "messages outside the ring and in it"
        );
        assert_eq!(
            shared.namespaces[0].ring_bytes(),
            ring_bytes as u64,
            "bytes of the ring as shown"
        );
        let handlers = self.ledger.used_by(Class::Handlers);
        assert_eq!(handlers, 0, "events of nobody");
        let figures = &shared.figures;
        let gauges = [
            &figures.sessions,
            &figures.reading_paused,
            &figures.presence_members,
            &figures.outbox_bytes,
        ];
        assert_eq!(
            gauges.map(|gauge| gauge.get()),
            [0; 4],
            "sessions, paused, present, outbox bytes"
        );
        assert!(figures.states.iter().all(|state| state.get() == 0), "states");
        let Self {
            shards,
            shared,
            ledger,
            ..
        } = self;
        drop((shards, shared));
        assert_eq!(ledger.used(), 0, "memory accounts");
    }
}

impl Shard {
    /// A turn whose time is over after `n` commands.
    fn handle_few(&mut self, n: usize) {
        self.now = self.shared.clock.now();
        if self.pending.is_empty() {
            self.inbox.drain(&mut self.commands);
            self.pending.extend(self.commands.drain(..));
        }
        let before = self.pending.len();
        for _ in 0..n {
            if !self.handle_next() {
                break;
            }
        }
        self.inbox.done(before - self.pending.len());
        self.fire_timers();
        self.flush();
        self.close_too_slow();
    }

    /// Whoever is behind is charged for what waits.
    fn check_charges(&self) {
        for (_, conn) in self
            .conns
            .iter()
            .filter(|(_, conn)| conn.is_blocked() && !conn.dirty)
        {
            assert_eq!(conn.charged, conn.outbox.charge(), "charge of {}", conn.sid);
        }
    }

    fn check_empty(&mut self) {
        let queued = [
            self.dirty.len(),
            self.urgent.len(),
            self.too_slow.len(),
            self.pending.len(),
        ];
        assert_eq!(queued, [0; 4], "dirty, urgent, too slow, pending");
        assert_eq!(
            (self.conns.len(), self.sessions.len(), self.sids.len()),
            (0, 0, 0),
            "connections, sessions, sids"
        );
        assert!(
            self.spaces.iter().all(|space| space.members.is_empty()),
            "members"
        );
        assert!(
            self.spaces
                .iter()
                .all(|space| space.rooms.iter().all(Vec::is_empty)),
            "members of rooms"
        );
        assert_eq!(
            [&self.outboxes, &self.reads, &self.people].map(|account| account.charged()),
            [0; 3],
            "bytes of outboxes, reads and sessions"
        );
        assert_eq!(self.timers.len(), 0, "deadlines");
        assert_eq!(
            self.shared.loads[usize::from(self.index)].load(std::sync::atomic::Ordering::Relaxed),
            0,
            "load"
        );
    }
}

/// Says which seed failed, whatever failed.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with TIDEGATE_SEED={}", self.0);
        }
    }
}

/// What a run was made of, so that a script that does nothing is noticed.
#[derive(Debug, Default)]
struct Sums {
    received: usize,
    recovered: usize,
    fresh: usize,
    /// By reaction to memory pressure, in their order.
    relieved: [u64; Reaction::ALL.len()],
}

fn run(seed: u64, trace: bool, sums: &mut Sums) {
    let _named = Named(seed);
    let plan = Plan::ALL[seed as usize % Plan::ALL.len()];
    let mut world = World::new(seed, plan, trace);
    world.populate(CLIENTS);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.check_nothing_is_missing();
    for client in &world.clients {
        sums.received += client.oracle.received;
        sums.recovered += client.recovered;
        sums.fresh += client.fresh;
    }
    for (sum, n) in sums
        .relieved
        .iter_mut()
        .zip(world.shared.figures.relieved_so_far())
    {
        *sum += n;
    }
    world.end();
    world.check_accounts();
}

#[test]
fn what_is_published_arrives_once_in_order_and_only_where_it_belongs() {
    if let Some(seed) = std::env::var("TIDEGATE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        return run(seed, true, &mut Sums::default());
    }
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let some_of = |first| {
        let mut sums = Sums::default();
        (first..=SEEDS)
            .step_by(threads as usize)
            .for_each(|seed| run(seed, false, &mut sums));
        sums
    };
    let mut relieved = [0; Reaction::ALL.len()];
    std::thread::scope(|scope| {
        let all: Vec<_> = (1..=threads)
            .map(|first| scope.spawn(move || some_of(first)))
            .collect();
        for sums in all
            .into_iter()
            .map(|thread| thread.join().expect("no seed fails"))
        {
            println!("{sums:?}");
            let useful = sums.received > 50_000 && sums.recovered > 500 && sums.fresh > 500;
            assert!(useful || threads > 4, "the script does its work: {sums:?}");
            for (all, n) in relieved.iter_mut().zip(sums.relieved) {
                *all += n;
            }
        }
    });
    // No room of the script keeps a history, and nobody in it is silent for minutes.
    let expected = [
        Reaction::Rings,
        Reaction::Storage,
        Reaction::Outboxes,
        Reaction::Idle,
        Reaction::Slow,
    ];
    for reaction in expected {
        assert!(relieved[reaction as usize] > 10, "{reaction:?} in {relieved:?}");
    }
}
