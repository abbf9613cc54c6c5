//! One place for a connection: its state, its holder and its counts, without a lock.

use std::mem::ManuallyDrop;
use std::panic::Location;
use std::sync::atomic::{
    AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

use crossbeam_utils::atomic::AtomicCell;
use tidegate_vitals::Instant;

/// Where a slot is in its life. Whoever takes an exit is named with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Holds nothing. Exit: `Connecting`, by the keeper.
    Vacant,
    /// A dial is under way. Exits: `Idle` (it worked and nobody waits), `Active` (it worked, for the first waiter),
    /// `Vacant` (it failed), all by the dial's task; `Stale` if the pool was closed meanwhile.
    Connecting,
    /// Free for the next user. Exits: `Active` by an acquire, `Probing` by the keeper when its generation is suspect,
    /// `Stale` by the keeper (idle too long, too old, too many) or by close.
    Idle,
    /// Claimed by a user. Exits, all by the release: `Idle`, `Active` (handed to the first waiter), `Draining`
    /// (something was left behind), `Stale` (replaced, or the pool was closed), `Broken`; `Probing` by the acquire
    /// itself, when the proof is too old.
    Active,
    /// A round trip proves that it lives. Exits: `Active` or `Idle` when it does, `Broken` when not or not in time, by
    /// whoever asked; `Draining` when the acquire that asked was dropped.
    Probing,
    /// What the last user left is being cleaned up. Exits, by the drain's task: `Idle`, `Active` (first waiter),
    /// `Broken`; `Stale` if the pool was closed or it was replaced.
    Draining,
    /// Alive but not wanted any more. Exit: `Vacant`, by the task that closes it.
    Stale,
    /// Dead or not to be trusted. Exit: `Vacant`, by the task that closes it.
    Broken,
}

/// An open connection with what the pool knows of it. Moments are nanoseconds since the pool's start.
pub(super) struct Entry<T> {
    pub(super) connection: T,
    /// The slot it belongs to for all its life.
    pub(super) slot: usize,
    pub(super) expires: u64,
    pub(super) proven: u64,
    /// Raised for the whole pool when a connection is found dead; an entry of an older generation is suspect.
    pub(super) generation: u32,
    pub(super) is_used: bool,
    /// A check runs on it for a user: dropped now, it must be drained.
    pub(super) is_probing: bool,
    /// Who claimed it last.
    pub(super) location: &'static Location<'static>,
    /// How many claims this one stands for in the histogram of holds; zero: it is not timed.
    pub(super) weight: u64,
    /// When the claim began, if it is timed.
    pub(super) begun: Instant,
}

/// A place for a connection. Whoever owns the slot writes it: the one who took its bit, who holds its connection, or,
/// while it is vacant, the keeper. The others read single figures, so plain loads and stores do. Two lines wide, because
/// processors fetch lines in pairs.
#[repr(align(128))]
pub(super) struct Slot<T> {
    /// There while the slot is idle; otherwise its user, its task or nobody has it. What needs no drop is stored by a
    /// plain store; [`Slot`]'s own drop makes up for it.
    entry: AtomicCell<Option<ManuallyDrop<Box<Entry<T>>>>>,
    /// Who holds it, while active or probing for a user.
    holder: AtomicCell<Option<&'static Location<'static>>>,
    state: AtomicU8,
    /// When the state began, by the coarse clock.
    since: AtomicU64,
    /// When its connection is to be replaced.
    pub(super) expires: AtomicU64,
    /// The `expires` of the connection whose successor is open: close it when it comes back.
    pub(super) replaced: AtomicU64,
    /// The generation of the idle connection.
    generation: AtomicU32,
    /// The `since` of the claim that was reported as a leak. Written by the keeper.
    pub(super) leak_told: AtomicU64,
    acquires: AtomicU64,
    reused: AtomicU64,
    /// The coarse moment of the last timed claim, and the claims since.
    sampled: AtomicU64,
    unsampled: AtomicU64,
}

/// Which slots are idle: one bit each.
pub(super) struct Mask(Box<[AtomicU64]>);

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 8] = [
        Self::Vacant,
        Self::Connecting,
        Self::Idle,
        Self::Active,
        Self::Probing,
        Self::Draining,
        Self::Stale,
        Self::Broken,
    ];

    /// Its name in statistics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vacant => "vacant",
            Self::Connecting => "connecting",
            Self::Idle => "idle",
            Self::Active => "active",
            Self::Probing => "probing",
            Self::Draining => "draining",
            Self::Stale => "stale",
            Self::Broken => "broken",
        }
    }
}

// === impl Slot ===

impl<T> Slot<T> {
    pub(super) fn new() -> Self {
        debug_assert!(
            AtomicCell::<Option<ManuallyDrop<Box<Entry<T>>>>>::is_lock_free(),
            "a box is one word"
        );
        Self {
            entry: AtomicCell::new(None),
            holder: AtomicCell::new(None),
            state: AtomicU8::new(State::Vacant as u8),
            since: AtomicU64::new(0),
            expires: AtomicU64::new(0),
            replaced: AtomicU64::new(0),
            generation: AtomicU32::new(0),
            leak_told: AtomicU64::new(0),
            acquires: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            sampled: AtomicU64::new(u64::MAX),
            unsampled: AtomicU64::new(0),
        }
    }

    pub(super) fn state(&self) -> State {
        State::ALL[usize::from(self.state.load(Acquire))]
    }

    pub(super) fn since(&self) -> u64 {
        self.since.load(Relaxed)
    }

    pub(super) fn holder(&self) -> Option<&'static Location<'static>> {
        self.holder.load()
    }

    pub(super) fn acquires(&self) -> u64 {
        self.acquires.load(Relaxed)
    }

    pub(super) fn reused(&self) -> u64 {
        self.reused.load(Relaxed)
    }

    /// The generation of its connection, while that is idle.
    pub(super) fn generation(&self) -> Option<u32> {
        (self.state() == State::Idle).then(|| self.generation.load(Relaxed))
    }

    /// Whether the successor of its present connection is open.
    pub(super) fn is_replaced(&self) -> bool {
        self.replaced.load(SeqCst) == self.expires.load(Relaxed)
    }

    /// Enters `state`, without a change of hands.
    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Release);
    }

    /// Enters `state` at `now`, held by nobody.
    pub(super) fn enter(&self, state: State, now: u64) {
        self.holder.store(None);
        self.since.store(now, Relaxed);
        self.set_state(state);
    }

    /// Takes the entry out; the caller has taken its bit.
    #[inline]
    pub(super) fn take(&self) -> Box<Entry<T>> {
        let entry = self.entry.take();
        ManuallyDrop::into_inner(entry.expect("a slot whose bit was taken is idle"))
    }

    /// Gives `entry`, which is this slot's, to `holder`.
    #[inline]
    pub(super) fn claim(&self, entry: &mut Entry<T>, holder: &'static Location<'static>, now: u64) {
        self.holder.store(Some(holder));
        self.since.store(now, Relaxed);
        self.set_state(State::Active);
        add(&self.acquires, 1);
        add(&self.reused, u64::from(entry.is_used));
        entry.is_used = true;
        entry.location = holder;
        entry.weight = self.weigh(now);
    }

    /// At most one claim a slot and tick is timed; it stands for those since the last one.
    #[inline]
    fn weigh(&self, now: u64) -> u64 {
        if self.sampled.load(Relaxed) == now {
            add(&self.unsampled, 1);
            return 0;
        }
        self.sampled.store(now, Relaxed);
        self.unsampled.swap(0, Relaxed) + 1
    }

    /// Puts `entry` back as idle; the caller then sets the bit.
    #[inline]
    pub(super) fn put(&self, entry: Box<Entry<T>>, now: u64) {
        self.holder.store(None);
        self.since.store(now, Relaxed);
        self.generation.store(entry.generation, Relaxed);
        self.set_state(State::Idle);
        // Its last one was taken out by whoever holds this one.
        self.entry.store(Some(ManuallyDrop::new(entry)));
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        drop(self.entry.take().map(ManuallyDrop::into_inner));
    }
}

/// Adds without a locked instruction: only the owner of the slot writes.
#[inline]
fn add(count: &AtomicU64, n: u64) {
    count.store(count.load(Relaxed) + n, Relaxed);
}

// === impl Mask ===

impl Mask {
    pub(super) fn new(n_slots: usize) -> Self {
        Self((0..n_slots.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    /// Takes the lowest idle slot: the hottest one.
    #[inline]
    pub(super) fn take_lowest(&self) -> Option<usize> {
        for (at, word) in self.0.iter().enumerate() {
            let mut bits = word.load(SeqCst);
            while bits != 0 {
                let lowest = bits.trailing_zeros();
                // In this form the processor tests and clears in one instruction.
                if word.fetch_and(!(1 << lowest), SeqCst) & (1 << lowest) != 0 {
                    return Some(at * 64 + lowest as usize);
                }
                bits = word.load(SeqCst);
            }
        }
        None
    }

    /// Takes this slot, if it is idle.
    pub(super) fn take(&self, slot: usize) -> bool {
        let bit = 1 << (slot % 64);
        self.0[slot / 64].fetch_and(!bit, SeqCst) & bit != 0
    }

    #[inline]
    pub(super) fn put(&self, slot: usize) {
        let bit = 1 << (slot % 64);
        self.0[slot / 64].fetch_or(bit, SeqCst);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| word.load(SeqCst) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_idle_slot_is_taken_first_across_words() {
        let mask = Mask::new(130);
        for slot in [129, 64, 3, 70] {
            mask.put(slot);
        }
        let order: Vec<_> = std::iter::from_fn(|| mask.take_lowest()).collect();
        assert_eq!(order, [3, 64, 70, 129]);
        assert!(mask.is_empty());
        mask.put(65);
        assert!(!mask.take(64));
        assert!(mask.take(65));
        assert!(!mask.take(65));
    }

    #[test]
    fn one_claim_a_tick_is_timed_and_stands_for_the_others() {
        let slot = Slot::new();
        let here = Location::caller();
        let mut entry = Entry {
            connection: (),
            slot: 0,
            expires: 0,
            proven: 0,
            generation: 0,
            is_used: false,
            is_probing: false,
            location: here,
            weight: 0,
            begun: Instant::ZERO,
        };
        let mut weights = Vec::new();
        for now in [5, 5, 5, 6, 7, 7] {
            slot.claim(&mut entry, here, now);
            weights.push(entry.weight);
        }
        assert_eq!(weights, [1, 0, 0, 3, 1, 0]);
        assert_eq!((slot.acquires(), slot.reused()), (6, 5));
    }
}
