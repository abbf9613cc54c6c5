//! One place for a connection: its state, its holder and its counts, under a lock that is never contended for long.

use std::panic::Location;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

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
    pub(super) proven: u64,
    /// Raised for the whole pool when a connection is found dead; an entry of an older generation is suspect.
    pub(super) generation: u32,
    pub(super) is_used: bool,
}

/// Two lines wide, because processors fetch lines in pairs.
#[repr(align(128))]
pub(super) struct Slot<T>(Mutex<Cell<T>>);

pub(super) struct Cell<T> {
    pub(super) state: State,
    /// There while the slot is idle; otherwise its user, its task or nobody has it.
    pub(super) entry: Option<Box<Entry<T>>>,
    /// Who holds it, while active or probing for a user.
    pub(super) holder: Option<&'static Location<'static>>,
    /// When the state began, by the coarse clock.
    pub(super) since: u64,
    /// When its connection is to be replaced.
    pub(super) expires: u64,
    /// Its replacement is open: close it when it comes back.
    pub(super) is_replaced: bool,
    pub(super) is_leak_told: bool,
    pub(super) acquires: u64,
    pub(super) reused: u64,
    /// The coarse moment of the last timed claim, and the claims since.
    sampled: u64,
    unsampled: u64,
}

/// What an acquire takes out of a slot.
pub(super) struct Taken<T> {
    pub(super) entry: Box<Entry<T>>,
    /// How many claims this one stands for in the histogram; zero: it is not timed.
    pub(super) weight: u64,
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
        Self(Mutex::new(Cell {
            state: State::Vacant,
            entry: None,
            holder: None,
            since: 0,
            expires: 0,
            is_replaced: false,
            is_leak_told: false,
            acquires: 0,
            reused: 0,
            sampled: u64::MAX,
            unsampled: 0,
        }))
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, Cell<T>> {
        // Nothing under this lock panics between two states.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters `state` at `now`, held by nobody.
    pub(super) fn enter(&self, state: State, now: u64) {
        let mut cell = self.lock();
        cell.state = state;
        cell.since = now;
        cell.holder = None;
    }
}

impl<T> Cell<T> {
    /// Takes the entry of an idle slot for `holder`.
    #[inline]
    pub(super) fn take(&mut self, holder: &'static Location<'static>, now: u64) -> Taken<T> {
        let entry = self.entry.take().expect("a slot whose bit was taken is idle");
        self.claim(entry, holder, now)
    }

    /// Gives `entry`, which is this slot's, to `holder`.
    #[inline]
    pub(super) fn claim(
        &mut self,
        mut entry: Box<Entry<T>>,
        holder: &'static Location<'static>,
        now: u64,
    ) -> Taken<T> {
        self.state = State::Active;
        self.holder = Some(holder);
        self.since = now;
        self.is_leak_told = false;
        self.acquires += 1;
        self.reused += u64::from(entry.is_used);
        entry.is_used = true;
        self.unsampled += 1;
        let mut weight = 0;
        if self.sampled != now {
            // At most one claim a slot and tick is timed; it stands for those since the last one.
            weight = self.unsampled;
            self.sampled = now;
            self.unsampled = 0;
        }
        Taken { entry, weight }
    }

    /// Puts `entry` back as idle; the caller then sets the bit.
    #[inline]
    pub(super) fn put(&mut self, entry: Box<Entry<T>>, now: u64) {
        self.state = State::Idle;
        self.holder = None;
        self.since = now;
        self.entry = Some(entry);
    }
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
                let bit = bits & bits.wrapping_neg();
                let before = word.fetch_and(!bit, SeqCst);
                if before & bit != 0 {
                    return Some(at * 64 + bit.trailing_zeros() as usize);
                }
                bits = before;
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
        let entry = |proven| {
            Box::new(Entry {
                connection: (),
                proven,
                generation: 0,
                is_used: false,
            })
        };
        let mut cell = slot.lock();
        let weights: Vec<u64> = [5, 5, 5, 6, 7, 7]
            .into_iter()
            .map(|now| cell.claim(entry(now), here, now).weight)
            .collect();
        assert_eq!(weights, [1, 0, 0, 3, 1, 0]);
        assert_eq!((cell.acquires, cell.reused), (6, 0));
    }
}
