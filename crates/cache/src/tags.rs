//! Which tags were invalidated last when: what makes a value that was read before a commit never pass for one after it.
//!
//! One counter of epochs for the whole cache, and a fixed table of slots. A tag belongs to the slot of its hash; a slot
//! holds the epoch of the last invalidation of any of its tags, and the highest log position noted for them. Nothing is
//! ever forgotten and nothing grows: two tags that share a slot invalidate each other's values, which costs a load and
//! never correctness. With the usual 65,536 slots (1 MiB) that happens to one value in 65,536 per invalidation and tag.

use std::{
    hash::{BuildHasher, Hasher},
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire},
    },
};

use smallvec::SmallVec;

/// The hashes of a value's tags; the lower bits of each name its slot. They are the same in every process, so that they
/// can stand in files: a tag that is made to collide only costs loads.
pub(crate) type Slots = SmallVec<[u32; 4]>;

pub(crate) struct Tags {
    /// The number of the last invalidation. A load notes it when it begins.
    epoch: AtomicU64,
    /// Everything with a tag that began before this epoch is invalid.
    floor: AtomicU64,
    /// As many as a power of two; fixed when the cache is made.
    slots: Box<[Slot]>,
}

#[derive(Default)]
struct Slot {
    epoch: AtomicU64,
    position: AtomicU64,
}

// === impl Tags ===

impl Tags {
    pub(crate) fn new(slots: usize) -> Self {
        assert!(
            slots.is_power_of_two(),
            "{slots} slots of tags: not a power of two"
        );
        Self {
            epoch: AtomicU64::new(1),
            floor: AtomicU64::new(1),
            slots: (0..slots).map(|_| Slot::default()).collect(),
        }
    }

    fn at(&self, hash: u32) -> &Slot {
        &self.slots[hash as usize & (self.slots.len() - 1)]
    }

    /// What a load notes before it reads anything. Acquire: who sees an invalidation's number sees its commit too.
    pub(crate) fn begin(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Everything read under these slots before now is invalid; values from a replica must contain `position`.
    pub(crate) fn raise(&self, slots: &[u32], position: Option<u64>) {
        let epoch = self.epoch.fetch_add(1, AcqRel) + 1;
        for slot in slots {
            let slot = self.at(*slot);
            // The position first: who finds the new epoch must not accept a replica that is behind.
            if let Some(position) = position {
                slot.position.fetch_max(position, AcqRel);
            }
            slot.epoch.fetch_max(epoch, AcqRel);
        }
    }

    /// Every value with a tag is invalid.
    pub(crate) fn raise_all(&self) {
        let epoch = self.epoch.fetch_add(1, AcqRel) + 1;
        self.floor.fetch_max(epoch, AcqRel);
    }

    /// Whether what began under `epoch` is still true, as far as its tags say.
    #[inline]
    pub(crate) fn is_current(&self, epoch: u64, slots: &[u32]) -> bool {
        slots.is_empty()
            || self.floor.load(Acquire) <= epoch
                && slots
                    .iter()
                    .all(|slot| self.at(*slot).epoch.load(Acquire) <= epoch)
    }

    /// Whether a value that contains everything up to `position` contains what its tags were invalidated for. Without a
    /// position it was read at the primary, which is never behind.
    pub(crate) fn is_caught_up(&self, position: Option<u64>, slots: &[u32]) -> bool {
        position.is_none_or(|position| {
            slots
                .iter()
                .all(|slot| self.at(*slot).position.load(Acquire) <= position)
        })
    }
}

/// A hash of `text` that is the same in every process.
pub(crate) fn word(text: &str) -> u64 {
    let mut hasher = foldhash::quality::FixedState::with_seed(0x7469_6465).build_hasher();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// The hashes of `tags`, each once.
pub(crate) fn slots<'a>(tags: impl Iterator<Item = &'a str>) -> Slots {
    let mut slots: Slots = tags.map(|tag| word(tag) as u32).collect();
    slots.sort_unstable();
    slots.dedup();
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_began_before_an_invalidation_is_not_current() {
        let tags = Tags::new(1 << 16);
        let (a, b) = (slots(["a"].into_iter()), slots(["b"].into_iter()));
        let before = tags.begin();
        assert!(tags.is_current(before, &a));
        tags.raise(&a, None);
        assert!(!tags.is_current(before, &a));
        assert!(tags.is_current(before, &b) && tags.is_current(before, &[]));
        assert!(tags.is_current(tags.begin(), &a));
        tags.raise_all();
        assert!(!tags.is_current(before, &b));
        assert!(
            tags.is_current(before, &[]),
            "nothing invalidates what has no tag"
        );
    }

    #[test]
    fn a_replica_fills_only_once_it_has_replayed_the_position() {
        let tags = Tags::new(1 << 16);
        let a = slots(["a"].into_iter());
        tags.raise(&a, Some(70));
        tags.raise(&a, Some(50));
        let check =
            |position, expected| assert_eq!(tags.is_caught_up(position, &a), expected, "{position:?}");
        check(Some(69), false);
        check(Some(70), true);
        check(None, true);
        assert!(tags.is_caught_up(Some(0), &[]));
    }

    #[test]
    fn tags_that_share_a_slot_cost_loads_only() {
        let tags = Tags::new(1);
        let before = tags.begin();
        tags.raise(&slots(["a"].into_iter()), None);
        assert!(!tags.is_current(before, &slots(["b"].into_iter())));
    }
}
