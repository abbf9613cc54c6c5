//! Where each value lies on the disk, by the hash of its key.

use std::collections::{HashMap, VecDeque};

use tidegate_seglog::Position;
use tidegate_vitals::{Class, Guard, Instant, Ledger};

use super::INDEX_ENTRY_BYTES;
use crate::key::BuildIdentity;

/// Where a value lies and what is known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) at: Position,
    pub(super) fresh_until: Instant,
    pub(super) epoch: u64,
    pub(super) serial: u64,
}

/// Bounded by `entries_max`; entries leave with their segment, or when they turn out to be useless.
pub(super) struct Index {
    places: HashMap<u64, Place, BuildIdentity>,
    /// The hashes in each segment, oldest first, so that a segment's entries can leave with it.
    segments: VecDeque<(u64, Vec<u64>)>,
    /// Hashes in all lists: more than places, since a value that is written again stands in two of them.
    listed: usize,
    entries_max: usize,
    /// What was removed, and which values of it must not come back: those that waited to be written meanwhile. Emptied
    /// whenever none waits; beyond [`REMOVED_MAX`], no value that waits comes in.
    removed: HashMap<u64, u64, BuildIdentity>,
    /// Values up to this serial are not entered.
    floor: u64,
    /// Memory of the index, reserved in steps.
    guard: Guard,
}

/// Entries paid for at a time.
const STEP: usize = 4_096;
const REMOVED_MAX: usize = 4_096;

// === impl Index ===

impl Index {
    pub(super) fn new(entries_max: usize, ledger: &Ledger) -> Self {
        Self {
            places: HashMap::default(),
            segments: VecDeque::new(),
            listed: 0,
            entries_max,
            removed: HashMap::default(),
            floor: 0,
            guard: ledger.empty(Class::Caches),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn get(&self, hash: u64) -> Option<Place> {
        self.places.get(&hash).copied()
    }

    /// Whether another entry needs room first: the bound is reached, or the ledger gives nothing.
    pub(super) fn is_full(&mut self) -> bool {
        let paid = self.guard.bytes() / INDEX_ENTRY_BYTES;
        self.listed >= self.entries_max
            || self.listed >= paid && self.guard.grow(STEP * INDEX_ENTRY_BYTES).is_err()
    }

    /// Enters a place, unless a newer value of its key is known.
    pub(super) fn insert(&mut self, hash: u64, place: Place) {
        let newer = self.get(hash).map(|known| known.serial);
        let is_old = newer.is_some_and(|newer| newer > place.serial)
            || self
                .removed
                .get(&hash)
                .is_some_and(|removed| *removed >= place.serial)
            || place.serial < self.floor;
        if is_old {
            return;
        }
        self.places.insert(hash, place);
        self.listed += 1;
        let segment = place.at.segment();
        match self.segments.back_mut() {
            Some((last, hashes)) if *last == segment => hashes.push(hash),
            _ => self.segments.push_back((segment, vec![hash])),
        }
    }

    /// Removes `hash` with all values up to `serial`, those on their way included, if any are.
    pub(super) fn remove(&mut self, hash: u64, serial: u64, has_waiting: bool) -> bool {
        if self.removed.len() >= REMOVED_MAX {
            self.removed.clear();
            // Where none waits, a memory that fills up must not lose what it will evict.
            if has_waiting {
                self.floor = self.floor.max(serial);
            }
        }
        self.removed.insert(hash, serial);
        self.places.remove(&hash).is_some()
    }

    /// A newer value of `hash` was found among what an earlier process left.
    pub(super) fn forget(&mut self, hash: u64) {
        if self.get(hash).is_some_and(|place| place.serial == 0) {
            self.places.remove(&hash);
        }
    }

    /// No value waits to be written any more.
    pub(super) fn settle(&mut self) {
        self.removed.clear();
    }

    /// Removes `hash` if it still leads to `place`.
    pub(super) fn remove_place(&mut self, hash: u64, place: Place) -> bool {
        self.get(hash) == Some(place) && self.places.remove(&hash).is_some()
    }

    /// Forgets what lies in segments before `segment`; says how many values that were.
    pub(super) fn drop_before(&mut self, segment: u64) -> u64 {
        let mut dropped = 0;
        while let Some((first, _)) = self.segments.front()
            && *first < segment
        {
            let (first, hashes) = self.segments.pop_front().expect("there is a first one");
            self.listed -= hashes.len();
            for hash in hashes {
                if self.get(hash).is_some_and(|place| place.at.segment() == first) {
                    self.places.remove(&hash);
                    dropped += 1;
                }
            }
        }
        self.give_back();
        dropped
    }

    /// Removes everything up to `serial`, what is on its way included.
    pub(super) fn clear(&mut self, serial: u64) {
        self.floor = self.floor.max(serial + 1);
        self.places = HashMap::default();
        self.segments.clear();
        self.listed = 0;
        self.give_back();
    }

    fn give_back(&mut self) {
        let needed = self.listed.next_multiple_of(STEP) * INDEX_ENTRY_BYTES;
        let surplus = self.guard.bytes().saturating_sub(needed);
        self.guard.shrink(surplus);
    }
}
