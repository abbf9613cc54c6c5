//! What all handles, claims and tasks of a pool share: the slots, the gate, the queue of waiters and the hand-off.
//!
//! An acquire that finds the gate open takes the lowest idle bit and the slot's entry: no pool-wide lock. The gate closes
//! while somebody waits, so that nobody overtakes; a release then hands its connection straight to the first waiter.
//! A waiter that closes the gate and a release that sets its bit each look at the other's word afterwards
//! (sequentially consistent), so one of the two sees the other.
//!
//! The one lock, `inner`, guards the queue and the state of opening; it meets no await, and nothing is sent or woken
//! under it.

use std::collections::VecDeque;
use std::panic::Location;
use std::sync::atomic::{
    AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidegate_flow::retry::Random;
use tidegate_flow::task::Group;
use tidegate_vitals::{Clock, Registry};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, timeout};

use super::claim::Claim;
use super::config::Config;
use super::connector::Connector;
use super::counts::Counts;
use super::ramp::Ramp;
use super::slot::{Entry, Mask, Slot, State};
use crate::relief::Force;

/// How long the proof of a connection holds.
pub(super) const PROOF: Duration = Duration::from_secs(1);
/// Timeouts shorter than this are told to the keeper, which otherwise looks every 50 ms.
const SOON: Duration = Duration::from_millis(100);
/// How long a check may take.
pub(super) const CHECK_MAX: Duration = Duration::from_millis(500);

/// Reasons for an acquire to leave the fast path, as bits.
pub(super) mod gate {
    /// Somebody waits.
    pub(in super::super) const WAITED: u32 = 1;
    /// Nothing is given out.
    pub(in super::super) const SUSPENDED: u32 = 2;
    /// Closed for good.
    pub(in super::super) const CLOSED: u32 = 4;
    /// The coarse clock stands still.
    pub(in super::super) const ASLEEP: u32 = 8;
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Lifetime,
    Idle,
    Overflow,
    /// Its socket was closed, or its user said so.
    Broken,
    /// It did not answer a check.
    Check,
    /// What was left on it could not be cleaned up.
    Drain,
    Closed,
    /// Memory is short, and nobody used it.
    Pressure,
}

pub(super) struct Shared<C: Connector> {
    gate: AtomicU32,
    /// Nanoseconds since `origin`, moved on by the keeper.
    now: AtomicU64,
    generation: AtomicU32,
    pub(super) mask: Mask,
    pub(super) slots: Box<[Slot<C::Connection>]>,
    pub(super) connector: C,
    pub(super) clock: Clock,
    pub(super) config: Config,
    origin: Instant,
    inner: Mutex<Inner<C>>,
    pub(super) counts: Counts,
    pub(super) runtime: Handle,
    pub(super) tasks: Group,
    /// Wakes the keeper.
    pub(super) keeper: Notify,
    /// Told whenever a slot became vacant.
    pub(super) vacated: Notify,
    /// Closed together with the pool: what waits for a permit learns of it.
    pub(super) closing: Semaphore,
    /// Connections that demand asks for, as the keeper last found.
    pub(super) wanted: AtomicUsize,
    /// How short memory is.
    pub(super) force: Force,
}

pub(super) struct Inner<C: Connector> {
    /// By rising ticket; bounded by `waiting_max`.
    pub(super) waiters: VecDeque<Waiter<C>>,
    /// Tickets rise from zero; those of the front fall from there.
    next_ticket: i64,
    front_ticket: i64,
    /// Slots that are not vacant.
    pub(super) n_occupied: usize,
    pub(super) ramp: Ramp,
    pub(super) random: Random,
    /// What the last failed dial said, and when.
    pub(super) connect_error: Option<(u64, String)>,
    /// Slots whose successor is being opened: at most [`REPLACEMENTS_MAX`](super::config::REPLACEMENTS_MAX).
    pub(super) replacing: Vec<usize>,
}

pub(super) struct Waiter<C: Connector> {
    ticket: i64,
    /// When it is sent away, in nanoseconds since the pool's start.
    deadline: u64,
    location: &'static Location<'static>,
    sender: oneshot::Sender<Claim<C>>,
}

impl<C: Connector> Inner<C> {
    /// Where a waiter with this ticket stands or would stand: nearly always at an end.
    fn place_of(&self, ticket: i64) -> usize {
        match self.waiters.back() {
            Some(last) if last.ticket >= ticket => {
                self.waiters.partition_point(|waiter| waiter.ticket < ticket)
            }
            _ => self.waiters.len(),
        }
    }
}

impl<C: Connector> Shared<C> {
    pub(super) fn new(connector: C, config: Config, clock: Clock, registry: &Registry) -> Self {
        let n_slots = config.connections_max();
        let inner = Inner {
            waiters: VecDeque::new(),
            next_ticket: 0,
            front_ticket: 0,
            n_occupied: 0,
            ramp: Ramp::new(config.dials_max),
            random: Random::from_system(),
            connect_error: None,
            replacing: Vec::new(),
        };
        Self {
            gate: AtomicU32::new(0),
            now: AtomicU64::new(0),
            generation: AtomicU32::new(0),
            mask: Mask::new(n_slots),
            slots: (0..n_slots).map(|_| Slot::new()).collect(),
            connector,
            clock,
            config,
            origin: Instant::now(),
            inner: Mutex::new(inner),
            counts: Counts::new(registry),
            runtime: Handle::current(),
            tasks: Group::new(),
            keeper: Notify::new(),
            vacated: Notify::new(),
            closing: Semaphore::new(0),
            wanted: AtomicUsize::new(0),
            force: Force::default(),
        }
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner<C>> {
        // Nothing under this lock panics between two states.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === Time ===

    /// The coarse moment: nanoseconds since the pool's start, at most one tick old while anything happens.
    #[inline]
    pub(super) fn now(&self) -> u64 {
        self.now.load(Relaxed)
    }

    /// Brings the coarse clock up to date.
    pub(super) fn refresh_now(&self) -> u64 {
        let exact = self.origin.elapsed().as_nanos() as u64;
        self.now.fetch_max(exact, Relaxed).max(exact)
    }

    pub(super) fn instant(&self, at: u64) -> Instant {
        self.origin + Duration::from_nanos(at)
    }

    /// Starts the coarse clock again after a quiet time.
    pub(super) fn wake(&self) {
        if self.has(gate::ASLEEP) && self.gate.fetch_and(!gate::ASLEEP, SeqCst) & gate::ASLEEP != 0 {
            self.refresh_now();
            self.keeper.notify_one();
        }
    }

    // === Gate ===

    #[inline]
    pub(super) fn has(&self, bits: u32) -> bool {
        self.gate.load(SeqCst) & bits != 0
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.gate.load(Acquire) == 0
    }

    /// Sets bits; says which were set before.
    pub(super) fn set(&self, bits: u32) -> u32 {
        self.gate.fetch_or(bits, SeqCst)
    }

    pub(super) fn clear(&self, bits: u32) {
        self.gate.fetch_and(!bits, SeqCst);
    }

    // === Proof ===

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Acquire)
    }

    /// The first dead connection of the present generation makes all others suspect.
    pub(super) fn suspect(&self, generation: u32) {
        let next = generation.wrapping_add(1);
        if self
            .generation
            .compare_exchange(generation, next, SeqCst, Relaxed)
            .is_ok()
        {
            self.keeper.notify_one();
        }
    }

    #[inline]
    pub(super) fn is_fresh(&self, entry: &Entry<C::Connection>) -> bool {
        let is_proven =
            !self.config.pre_ping || self.now().saturating_sub(entry.proven) < PROOF.as_nanos() as u64;
        entry.generation == self.generation() && is_proven && self.connector.is_usable(&entry.connection)
    }

    // === Taking ===

    /// Takes the lowest idle slot, whoever waits.
    #[inline]
    pub(super) fn take_idle(self: &Arc<Self>, location: &'static Location<'static>) -> Option<Claim<C>> {
        let slot = self.mask.take_lowest()?;
        Some(Claim::new(self, self.slots[slot].take(), location))
    }

    /// Takes this slot's connection out, if it is idle.
    pub(super) fn take_from(&self, slot: usize) -> Option<Box<Entry<C::Connection>>> {
        self.mask.take(slot).then(|| self.slots[slot].take())
    }

    // === Giving back ===

    /// Takes a connection back from its user.
    #[inline]
    pub(super) fn release(self: &Arc<Self>, mut entry: Box<Entry<C::Connection>>) {
        if entry.weight > 0 {
            let held = self.clock.now() - entry.begun;
            self.counts.hold.record_n(held.as_nanos() as u64, entry.weight);
        }
        if !self.connector.is_usable(&entry.connection) {
            return self.discard(entry, Reason::Broken);
        }
        if entry.is_probing || self.connector.needs_drain(&entry.connection) {
            return self.drain(entry);
        }
        entry.proven = self.now();
        self.offer(entry);
    }

    /// Gives a clean connection to the first waiter, or makes it idle.
    #[inline]
    pub(super) fn offer(self: &Arc<Self>, mut entry: Box<Entry<C::Connection>>) {
        if self.has(gate::WAITED | gate::CLOSED) {
            match self.hand_over(entry) {
                None => return,
                Some(back) => entry = back,
            }
        }
        if self.make_idle(entry) && self.has(gate::WAITED | gate::CLOSED) {
            self.settle();
        }
    }

    #[inline]
    fn make_idle(self: &Arc<Self>, entry: Box<Entry<C::Connection>>) -> bool {
        let at = entry.slot;
        let slot = &self.slots[at];
        if slot.replaced.load(SeqCst) == entry.expires {
            self.discard(entry, Reason::Lifetime);
            return false;
        }
        slot.put(entry, self.now());
        self.mask.put(at);
        true
    }

    /// Gives the connection to the first waiter; gives it back if nobody waits for it.
    #[cold]
    fn hand_over(
        self: &Arc<Self>,
        mut entry: Box<Entry<C::Connection>>,
    ) -> Option<Box<Entry<C::Connection>>> {
        if self.has(gate::CLOSED) {
            self.discard(entry, Reason::Closed);
            return None;
        }
        if self.slots[entry.slot].replaced.load(SeqCst) == entry.expires {
            self.discard(entry, Reason::Lifetime);
            return None;
        }
        while let Some(waiter) = self.pop_waiter() {
            let claim = Claim::new(self, entry, waiter.location);
            match waiter.sender.send(claim) {
                Ok(()) => return None,
                // It was dropped just now: the next one.
                Err(claim) => entry = claim.into_entry(),
            }
        }
        Some(entry)
    }

    fn pop_waiter(&self) -> Option<Waiter<C>> {
        if self.has(gate::SUSPENDED) {
            return None;
        }
        let mut inner = self.inner();
        let waiter = inner.waiters.pop_front()?;
        self.open_if_empty(&inner);
        Some(waiter)
    }

    /// Opens the gate when nobody waits any more; called under the lock, as is closing it.
    fn open_if_empty(&self, inner: &Inner<C>) {
        if inner.waiters.is_empty() {
            self.clear(gate::WAITED);
        }
    }

    /// Brings idle connections and waiters together, as long as there are both; closes them when the pool is closed.
    #[cold]
    pub(super) fn settle(self: &Arc<Self>) {
        loop {
            let is_closed = self.has(gate::CLOSED);
            if !is_closed && (self.has(gate::SUSPENDED) || !self.has(gate::WAITED)) {
                return;
            }
            let Some(slot) = self.mask.take_lowest() else {
                return;
            };
            let entry = self.slots[slot].take();
            if is_closed {
                self.discard(entry, Reason::Closed);
            } else if let Some(back) = self.hand_over(entry) {
                self.make_idle(back);
            }
        }
    }

    // === Waiting ===

    /// Joins the queue: behind everybody, or at the place of `ticket`, which was held before. `deadline` is when the
    /// keeper sends it away. `None`: as many wait as may.
    pub(super) fn enqueue(
        &self,
        ticket: &mut Option<i64>,
        location: &'static Location<'static>,
        deadline: u64,
    ) -> Option<oneshot::Receiver<Claim<C>>> {
        let (sender, receiver) = oneshot::channel();
        let mut inner = self.inner();
        if inner.waiters.len() >= self.config.waiting_max {
            return None;
        }
        let ticket = *ticket.get_or_insert(inner.next_ticket);
        inner.next_ticket = inner.next_ticket.max(ticket + 1);
        let at = inner.place_of(ticket);
        inner.waiters.insert(
            at,
            Waiter {
                ticket,
                deadline,
                location,
                sender,
            },
        );
        self.set(gate::WAITED);
        // A deadline within the keeper's step must be known to it.
        let is_soon = self.config.acquire_timeout < SOON;
        if is_soon || inner.n_occupied < self.config.capacity() {
            self.keeper.notify_one();
        }
        Some(receiver)
    }

    /// A place before all who wait now, for one who came before them. No two get the same.
    pub(super) fn front_ticket(&self) -> i64 {
        let mut inner = self.inner();
        inner.front_ticket -= 1;
        inner.front_ticket
    }

    /// Leaves the queue, if still there.
    pub(super) fn leave(&self, ticket: i64) {
        let mut inner = self.inner();
        let at = inner.place_of(ticket);
        let is_there = inner
            .waiters
            .get(at)
            .is_some_and(|waiter| waiter.ticket == ticket);
        let left = is_there.then(|| inner.waiters.remove(at));
        self.open_if_empty(&inner);
        drop(inner);
        // Dropping a sender wakes its receiver: not under the lock.
        drop(left);
    }

    /// Sends away those whose deadline has passed; says when the next one passes.
    pub(super) fn send_late_away(&self, now: u64) -> Option<u64> {
        let mut late = Vec::new();
        let mut inner = self.inner();
        // Deadlines rise with the tickets, because all wait equally long.
        while inner.waiters.front().is_some_and(|waiter| waiter.deadline <= now) {
            late.extend(inner.waiters.pop_front());
        }
        let next = inner.waiters.front().map(|waiter| waiter.deadline);
        self.open_if_empty(&inner);
        drop(inner);
        drop(late);
        next
    }

    // === Ends ===

    /// Cleans up in the background, then offers the connection; bounded by `drain_timeout`.
    #[cold]
    fn drain(self: &Arc<Self>, entry: Box<Entry<C::Connection>>) {
        self.slots[entry.slot].enter(State::Draining, self.now());
        let mut held = Held::new(self, entry, Reason::Drain);
        self.tasks.spawn_on(&self.runtime, "pool-drain", async move {
            let shared = Arc::clone(&held.shared);
            let generation = shared.generation();
            let connection = held.connection();
            let drain = shared.connector.drain(connection);
            let is_clean = matches!(timeout(shared.config.drain_timeout, drain).await, Ok(Ok(())))
                && shared.connector.is_usable(held.connection());
            if is_clean {
                held.offer(generation);
            }
        });
    }

    /// Checks a connection that nobody uses in the background, then offers it.
    pub(super) fn probe(self: &Arc<Self>, entry: Box<Entry<C::Connection>>) {
        self.slots[entry.slot].enter(State::Probing, self.now());
        let mut held = Held::new(self, entry, Reason::Check);
        self.tasks.spawn_on(&self.runtime, "pool-check", async move {
            let shared = Arc::clone(&held.shared);
            let generation = shared.generation();
            if !shared.connector.is_usable(held.connection()) {
                return;
            }
            let check = shared.connector.check(held.connection());
            if let Ok(Ok(())) = timeout(CHECK_MAX, check).await {
                held.offer(generation);
            }
        });
    }

    /// Closes a connection for `reason`, off the caller's path: dropping some kinds takes time.
    #[cold]
    pub(super) fn discard(self: &Arc<Self>, entry: Box<Entry<C::Connection>>, reason: Reason) {
        let is_dead = matches!(reason, Reason::Broken | Reason::Check | Reason::Drain);
        let state = if is_dead { State::Broken } else { State::Stale };
        self.slots[entry.slot].enter(state, self.now());
        self.counts.closed(reason);
        if is_dead && reason != Reason::Drain {
            self.suspect(entry.generation);
        }
        let closing = Closing {
            shared: Arc::clone(self),
            slot: entry.slot,
            entry: Some(entry),
        };
        self.tasks
            .spawn_on(&self.runtime, "pool-close", async move { drop(closing) });
    }

    /// The slot holds nothing any more.
    pub(super) fn vacate(&self, slot: usize) {
        self.slots[slot].enter(State::Vacant, self.now());
        self.inner().n_occupied -= 1;
        self.keeper.notify_one();
        self.vacated.notify_waiters();
    }

    /// Lets nobody in any more, sends waiters away and closes what is idle.
    pub(super) fn shut(self: &Arc<Self>) {
        self.set(gate::CLOSED);
        self.closing.close();
        let waiters = std::mem::take(&mut self.inner().waiters);
        drop(waiters);
        self.settle();
        self.keeper.notify_one();
    }
}

// === What a task holds ===

/// A connection in the hands of a task of the pool. Dropped before it is offered, it is closed.
struct Held<C: Connector> {
    shared: Arc<Shared<C>>,
    entry: Option<Box<Entry<C::Connection>>>,
    reason: Reason,
}

impl<C: Connector> Held<C> {
    fn new(shared: &Arc<Shared<C>>, mut entry: Box<Entry<C::Connection>>, reason: Reason) -> Self {
        entry.is_probing = false;
        Self {
            shared: Arc::clone(shared),
            entry: Some(entry),
            reason,
        }
    }

    fn connection(&mut self) -> &mut C::Connection {
        let entry = self.entry.as_mut().expect("taken only when it is offered");
        &mut entry.connection
    }

    /// Offers it as proven in this generation.
    fn offer(mut self, generation: u32) {
        if let Some(mut entry) = self.entry.take() {
            entry.proven = self.shared.refresh_now();
            entry.generation = generation;
            self.shared.offer(entry);
        }
    }
}

impl<C: Connector> Drop for Held<C> {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            self.shared.discard(entry, self.reason);
        }
    }
}

/// A connection being closed: the slot is vacant after it, even if the task that closes it never runs.
struct Closing<C: Connector> {
    shared: Arc<Shared<C>>,
    slot: usize,
    entry: Option<Box<Entry<C::Connection>>>,
}

impl<C: Connector> Drop for Closing<C> {
    fn drop(&mut self) {
        drop(self.entry.take());
        self.shared.vacate(self.slot);
    }
}
