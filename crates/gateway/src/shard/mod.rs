//! One shard: a thread that owns its connections, sessions, outboxes and room lists.
//!
//! A turn waits on one epoll, reads what is ready, handles commands in order, fires deadlines and writes what is
//! waiting. Nothing here blocks, and no state is shared with another shard but through inboxes and the short lock
//! of a namespace.

mod act;
mod admit;
mod builtin;
pub(crate) mod command;
pub(crate) mod conn;
mod deliver;
pub(crate) mod ending;
mod enter;
mod flush;
mod forward;
pub(crate) mod inbox;
mod inspect;
mod leave;
pub(crate) mod link;
mod marks;
mod packets;
mod poller;
pub(crate) mod polling;
mod read;
mod relief;
pub(crate) mod session;
#[cfg(test)]
mod simulation;
mod sweep;
mod timers;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustc_hash::FxHashMap;
use slab::Slab;
use tidegate_vitals::{Class, Instant, Local};
use tidegate_wire::deflate::Inflater;

use crate::{
    Error,
    close::CloseReason,
    id::{Id, Random},
    message::{Encoder, RoomId, SessionRef},
    shared::Shared,
};
use command::{Command, Who};
use conn::Conn;
use inbox::Inbox;
use poller::{Interest, Poller, Ready, Token};
use relief::Easing;
use session::{Member, Membership, Session};
use sweep::{Load, Tally};
use timers::{NEVER, Owner, Timers};

/// Bytes read from a socket at once; one buffer for all connections of the shard.
const SCRATCH_BYTES: usize = 64 << 10;
/// How long one part of a turn may take before the others get their share.
const BUDGET: Duration = Duration::from_millis(1);
/// Connections written in one part of a turn.
const FLUSH_MAX: usize = 256;
/// What the outbox account takes from the ledger at a time.
const ACCOUNT_CHUNK: usize = 64 << 10;

/// What a connection is charged for beside its outbox and incomplete messages: its slot, its deadline, its place in
/// the tables of the acceptor.
pub(crate) const CONN_BYTES: usize = size_of::<Conn>() + 128;
/// What a session is charged for: its slot, its deadline, its place among all, its entries by id, secret and user.
pub(crate) const SESSION_BYTES: usize = size_of::<Session>() + size_of::<Member>() + 160;
/// What one membership costs, in its session and in its room's list.
pub(crate) const MEMBERSHIP_BYTES: usize = size_of::<Membership>() + size_of::<Member>();

/// One shard.
pub(crate) struct Shard {
    pub(crate) index: u16,
    pub(crate) shared: Arc<Shared>,
    inbox: Arc<Inbox>,
    poller: Poller,
    conns: Slab<Conn>,
    sessions: Slab<Session>,
    spaces: Vec<Space>,
    /// Connections by Engine.IO sid: only those that have or had polling, which are looked up by it.
    sids: FxHashMap<Id, u32>,
    /// Polling sessions that are over, until the request that was under way meets its end: until when, and its answer.
    goodbyes: VecDeque<(Id, u64, Vec<u8>)>,
    timers: Timers,
    /// Connections with something to write, the longest waiting first.
    dirty: VecDeque<u32>,
    dirty_since: Instant,
    /// Connections with something urgent, written whatever the flush window says.
    urgent: Vec<u32>,
    /// Connections found too slow while a list was walked; closed right after.
    too_slow: Vec<(u32, CloseReason)>,
    commands: Vec<Command>,
    pending: VecDeque<Command>,
    ready: Vec<Ready>,
    scratch: Vec<u8>,
    out: Vec<u8>,
    encoder: Encoder,
    inflater: Inflater,
    outboxes: Local,
    reads: Local,
    /// Pays for connections and sessions themselves.
    people: Local,
    easing: Easing,
    tally: Tally,
    load: Load,
    random: Random,
    /// Sessions that moved to another shard lately.
    departed: VecDeque<forward::Departed>,
    generation: u32,
    now: Instant,
    draining: Option<sweep::Draining>,
    /// A join of many that took its part of the turn; nothing behind it is handled before it is done.
    joining: Option<Box<act::Joining>>,
    /// No session begins or waits for recovery any more.
    ended: bool,
    stopped: bool,
}

/// What a shard knows of one namespace.
#[derive(Default)]
struct Space {
    members: Vec<Member>,
    /// Members by room id.
    rooms: Vec<Vec<Member>>,
    /// Position up to which everything for this shard was handed on.
    seen: u64,
    /// Number of the newest action that was handled here.
    acted: u64,
}

impl Shard {
    pub(crate) fn new(index: u16, shared: Arc<Shared>, random: Random) -> Result<Self, Error> {
        let inbox = shared.inboxes[usize::from(index)].clone();
        let poller = Poller::new(inbox.bell())?;
        let deflate = &shared.config.deflate;
        let now = shared.clock.now();
        Ok(Self {
            index,
            inbox,
            poller,
            conns: Slab::new(),
            sessions: Slab::new(),
            spaces: shared.namespaces.iter().map(|_| Space::default()).collect(),
            sids: FxHashMap::default(),
            goodbyes: VecDeque::new(),
            timers: Timers::default(),
            dirty: VecDeque::new(),
            dirty_since: now,
            urgent: Vec::new(),
            too_slow: Vec::new(),
            commands: Vec::new(),
            pending: VecDeque::new(),
            ready: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES],
            out: Vec::with_capacity(SCRATCH_BYTES),
            encoder: Encoder::new(deflate.level, deflate.threshold_bytes),
            inflater: Inflater::new(),
            outboxes: shared.ledger.local(Class::Outboxes, ACCOUNT_CHUNK),
            reads: shared.ledger.local(Class::ReadBuffers, ACCOUNT_CHUNK),
            people: shared.ledger.local(Class::Sessions, ACCOUNT_CHUNK),
            easing: Easing::new(&shared.config.outbox),
            tally: Tally::default(),
            load: Load::new(&shared, index, now),
            random,
            departed: VecDeque::new(),
            generation: 0,
            now,
            draining: None,
            joining: None,
            ended: false,
            stopped: false,
            shared,
        })
    }

    /// Runs until stopped.
    pub(crate) fn run(mut self) {
        // Handlers that run here may spawn tasks and set timers of the service runtime.
        let runtime = self.shared.runtime.clone();
        let _context = runtime.as_ref().map(tokio::runtime::Handle::enter);
        while !self.stopped {
            self.turn(true);
        }
    }

    /// One turn; waits for something to do only if `may_sleep`.
    pub(crate) fn turn(&mut self, may_sleep: bool) {
        let timeout = self.wait_ns(may_sleep);
        let mut ready = std::mem::take(&mut self.ready);
        let rang = self.poller.wait(timeout, &mut ready);
        self.inbox.awake(rang);
        self.now = self.shared.clock.now();
        let began = self.now;
        for event in ready.drain(..) {
            self.on_ready(event);
        }
        self.ready = ready;
        self.handle_commands();
        self.ease();
        self.fire_timers();
        self.flush();
        self.close_too_slow();
        self.housekeep(began);
    }

    /// How long the wait may last.
    fn wait_ns(&mut self, may_sleep: bool) -> Option<u64> {
        let waits = !self.pending.is_empty() || self.joining.is_some() || !self.urgent.is_empty();
        let idle = may_sleep && !waits && !self.easing.is_busy();
        if !idle || !self.inbox.may_sleep() {
            return Some(0);
        }
        let now = self.shared.clock.now();
        let mut due_ns = self
            .timers
            .next_ms()
            .min(self.load.due_ms())
            .saturating_mul(1_000_000);
        if !self.dirty.is_empty() {
            due_ns = due_ns.min(self.window_end().as_nanos());
        }
        (due_ns != u64::MAX).then(|| due_ns.saturating_sub(now.as_nanos()))
    }

    fn on_ready(&mut self, event: Ready) {
        let current = |conn: &Conn| conn.generation & 0x7fff_ffff == event.generation;
        if !self.conns.get(event.conn as usize).is_some_and(current) {
            return;
        }
        if event.probe {
            return self.on_probe_ready(event.conn);
        }
        if event.writable {
            self.on_writable(event.conn);
        }
        match self.conns.get(event.conn as usize).filter(|conn| current(conn)) {
            // Not watched for reading, so this is the end: left alone it would wake the shard without pause.
            Some(conn) if event.readable && conn.paused => {
                self.abort_conn(event.conn, CloseReason::TransportError);
            }
            Some(_) if event.readable => self.on_readable(event.conn),
            _ => {}
        }
    }

    /// Handles commands in order until none is left or the budget is spent.
    fn handle_commands(&mut self) {
        if self.pending.is_empty() {
            self.inbox.drain(&mut self.commands);
            self.pending.extend(self.commands.drain(..));
            if self.commands.capacity() > 4_096 {
                self.commands = Vec::new();
            }
        }
        let before = self.pending.len();
        while self.handle_next() {
            if self.shared.clock.now().since(self.now) > BUDGET {
                break;
            }
        }
        self.inbox.done(before - self.pending.len());
        if self.pending.is_empty() && self.pending.capacity() > 4_096 {
            self.pending = VecDeque::new();
        }
    }

    /// Handles what is next; false if nothing is left.
    fn handle_next(&mut self) -> bool {
        if let Some(joining) = self.joining.take() {
            self.join_on(joining);
        } else if let Some(command) = self.pending.pop_front() {
            self.handle(command);
        } else {
            return false;
        }
        true
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Deliver(message) => self.deliver(message),
            Command::Opened { session, seq } => self.on_opened(session, seq),
            Command::Recovered { session, replay } => self.on_recovered(session, replay),
            Command::Joined {
                session,
                seq,
                rooms,
                by,
            } => self.on_joined(session, seq, rooms, by),
            Command::Left { session, rooms, ack } => self.on_left(session, rooms, ack),
            Command::Act(here) => self.on_act(*here),
            Command::Reply {
                session,
                text,
                attachments,
            } => self.on_reply(session, text, attachments),
            Command::HandlerDone(done) => self.on_handler_done(done),
            Command::Decided(decided) => self.on_decided(*decided),
            Command::Admitted(admission) => self.on_admitted(*admission),
            Command::TakeOver { session, pid, asker } => self.on_take_over(session, pid, asker),
            Command::TakenOver { asker, moved } => self.on_taken_over(asker, moved),
            Command::WebSocket(new) => self.on_websocket(*new),
            Command::Poll(poll) => self.on_poll(*poll),
            Command::Disconnect { who, reason } => self.on_disconnect(&who, reason),
            Command::Cut { session } => self.on_cut(session),
            Command::Flush { session } => self.on_flush(session),
            Command::Identify { session, identity } => self.on_identify(session, identity),
            Command::SetData { session, data } => self.on_set_data(session, data),
            Command::Inspect {
                among,
                after,
                limit,
                reply,
            } => self.on_inspect(among, after, limit, reply),
            Command::InspectOne { session, reply } => self.on_inspect_one(session, reply),
            Command::MakeRoom => self.make_room(),
            Command::Relieve => self.on_relieve(),
            Command::Reload => self.load.reload(&self.shared),
            Command::Drain { per_second } => self.on_drain(per_second),
            Command::EndAll { done } => {
                self.end_all();
                // Whoever asked may not wait any longer.
                let _answered = done.send(());
            }
            Command::Stop => self.on_stop(),
        }
    }

    fn fire_timers(&mut self) {
        let now_ms = self.now.as_millis();
        while let Some((due_ms, owner)) = self.timers.pop_due(now_ms) {
            match owner {
                Owner::Conn { index, generation } => {
                    let Some(conn) = self.conns.get_mut(index as usize) else {
                        continue;
                    };
                    if conn.generation != generation {
                        continue;
                    }
                    if conn.armed_ms == due_ms {
                        conn.armed_ms = NEVER;
                    }
                    self.on_conn_due(index, now_ms);
                    self.arm_conn(index);
                }
                Owner::Session { index, generation } => {
                    let Some(session) = self.sessions.get_mut(index as usize) else {
                        continue;
                    };
                    if session.generation != generation {
                        continue;
                    }
                    if session.armed_ms == due_ms {
                        session.armed_ms = NEVER;
                    }
                    self.on_session_due(index, now_ms);
                    self.arm_session(index);
                }
            }
        }
    }

    fn arm_conn(&mut self, index: u32) {
        if let Some(conn) = self.conns.get_mut(index as usize) {
            let owner = Owner::Conn {
                index,
                generation: conn.generation,
            };
            self.timers.arm(conn.next_due_ms(), &mut conn.armed_ms, owner);
        }
    }

    fn arm_session(&mut self, index: u32) {
        if let Some(session) = self.sessions.get_mut(index as usize) {
            let owner = Owner::Session {
                index,
                generation: session.generation,
            };
            self.timers
                .arm(session.next_due_ms(), &mut session.armed_ms, owner);
        }
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn reference(&self, index: u32) -> SessionRef {
        let generation = self.sessions[index as usize].generation;
        SessionRef {
            shard: self.index,
            index,
            generation,
        }
    }

    /// The slot of a session that is still the one meant.
    fn slot(&self, session: SessionRef) -> Option<u32> {
        let found = self.sessions.get(session.index as usize)?;
        (found.generation == session.generation && session.shard == self.index).then_some(session.index)
    }

    fn is_conn(&self, index: u32, generation: u32) -> bool {
        self.conns
            .get(index as usize)
            .is_some_and(|conn| conn.generation == generation)
    }

    fn interest(&self, index: u32) {
        let Some(conn) = self.conns.get(index as usize) else {
            return;
        };
        if let conn::Transport::WebSocket(socket) = &conn.transport {
            let token = Token {
                conn: index,
                generation: conn.generation,
                probe: false,
            };
            let interest = Interest {
                read: !conn.paused,
                write: socket.blocked,
            };
            // The socket is registered as long as the connection lives; a failure shows at the next read.
            let _unregistered = self.poller.modify(&socket.link, token, interest);
        }
    }

    fn on_disconnect(&mut self, who: &Who, reason: CloseReason) {
        match who {
            Who::Session(session) => match self.slot(*session) {
                Some(index) => self.end_session(index, reason),
                None => self.forward(*session, |session| Command::Disconnect {
                    who: Who::Session(session),
                    reason,
                }),
            },
            Who::Room { namespace, room } => {
                let members = self.room(*namespace, *room).iter().map(|member| member.session);
                let members: Vec<u32> = members.collect();
                for index in members {
                    if self.sessions.contains(index as usize) {
                        self.end_session(index, reason);
                    }
                }
            }
        }
    }

    fn room(&self, namespace: u16, room: RoomId) -> &[Member] {
        self.spaces[usize::from(namespace)]
            .rooms
            .get(room.0 as usize)
            .map_or(&[], Vec::as_slice)
    }

    fn count_load(&self, change: isize) {
        self.shared.loads[usize::from(self.index)].fetch_add(change as usize, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{namespace::RESIDENT_BYTES, outbox::Outbox};

    /// What an idle connection with one session may take: 1.1 KiB is what was measured with a hundred thousand of them,
    /// and a gibibyte then holds a million. A field that nobody needs while idle goes behind a box.
    const IDLE_BYTES_MAX: usize = 1_126;

    #[test]
    fn an_idle_connection_stays_within_its_budget() {
        let parts = [CONN_BYTES, SESSION_BYTES, RESIDENT_BYTES];
        let sizes = (
            size_of::<Conn>(),
            size_of::<Outbox>(),
            size_of::<Session>(),
            size_of::<Member>(),
        );
        let sum: usize = parts.iter().sum();
        assert!(
            sum <= IDLE_BYTES_MAX,
            "{sum} bytes: {parts:?}, conn, outbox, session, member {sizes:?}"
        );
    }

    /// What a field of this type takes beyond the pointer that stands for it.
    fn inline<T>() -> usize {
        size_of::<Option<T>>() - size_of::<Option<Box<T>>>()
    }

    /// A connection and its session with everything inline that few of them need at a time, against what they are.
    #[test]
    fn the_layout_is_a_fifth_smaller_than_the_plain_one() {
        let transport = size_of::<conn::Polling>().saturating_sub(size_of::<conn::WebSocket>());
        let in_conn = transport + inline::<conn::Assembly>() + inline::<conn::Handshake>();
        let rooms = inline::<Vec<session::LeftRoom>>();
        let in_session = rooms
            + inline::<session::Pending>()
            + inline::<session::Batching>()
            + inline::<crate::admit::Given>()
            + inline::<crate::handler::ConnectRequest>();
        let compact = size_of::<Conn>() + size_of::<Session>();
        let saved = in_conn + in_session;
        let share = saved * 100 / (compact + saved);
        println!("{compact} bytes, {saved} saved: {share} %");
        assert!(share >= 20, "{share} % of {}", compact + saved);
    }

    #[test]
    fn what_is_boxed_because_few_need_it_stays_boxed() {
        assert!(size_of::<Outbox>() <= 56, "{}", size_of::<Outbox>());
        assert!(size_of::<Member>() <= 12, "{}", size_of::<Member>());
        assert!(size_of::<Conn>() <= 384, "{}", size_of::<Conn>());
        assert!(size_of::<Session>() <= 304, "{}", size_of::<Session>());
    }
}
