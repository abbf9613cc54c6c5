//! The bytes of a value on the disk; the segment log adds the checksum.
//!
//! ```text
//! version 1 | flags 1 | tags 2 | key 4 | fresh until, unix ms 8 | position 8 | tags' hashes 4 each | key | value
//! ```
//! All little-endian; flag 1: there is a position.

use std::sync::atomic::{AtomicBool, AtomicU64};

use bytes::Bytes;
use tidegate_vitals::Instant;

use super::index::Place;
use crate::{entry::Entry, key::Key, tags::Slots};

/// A record that was read and makes sense.
pub(super) struct Record {
    bytes: Bytes,
    slots: Slots,
    key_bytes: usize,
    pub(super) fresh_until_ms: u64,
    position: Option<u64>,
}

const VERSION: u8 = 1;
const HAS_POSITION: u8 = 1;
const HEAD_BYTES: usize = 24;

/// Writes `entry` into `buffer`, which is emptied first.
pub(super) fn encode(buffer: &mut Vec<u8>, key: &Key, entry: &Entry, fresh_until_ms: u64) {
    buffer.clear();
    buffer.push(VERSION);
    buffer.push(if entry.position.is_some() { HAS_POSITION } else { 0 });
    buffer.extend_from_slice(&(entry.slots.len() as u16).to_le_bytes());
    buffer.extend_from_slice(&(key.as_bytes().len() as u32).to_le_bytes());
    buffer.extend_from_slice(&fresh_until_ms.to_le_bytes());
    buffer.extend_from_slice(&entry.position.unwrap_or(0).to_le_bytes());
    for slot in &entry.slots {
        buffer.extend_from_slice(&slot.to_le_bytes());
    }
    buffer.extend_from_slice(key.as_bytes());
    buffer.extend_from_slice(&entry.value);
}

/// Bytes that `entry` takes as a record.
pub(super) fn size(key: &Key, entry: &Entry) -> usize {
    HEAD_BYTES + 4 * entry.slots.len() + key.as_bytes().len() + entry.value.len()
}

// === impl Record ===

impl Record {
    /// None for bytes of another version, or that contradict themselves.
    pub(super) fn decode(payload: Vec<u8>) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = payload.first_chunk()?;
        if head[0] != VERSION || head[1] > HAS_POSITION {
            return None;
        }
        let n_slots = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let key_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let word =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes were taken"));
        let (fresh_until_ms, position) = (word(8), word(16));
        let position = (head[1] == HAS_POSITION).then_some(position);
        let slots = payload.get(HEAD_BYTES..HEAD_BYTES + 4 * n_slots)?;
        let slots = slots.chunks_exact(4);
        let slots = slots
            .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes each")))
            .collect();
        let mut bytes = Bytes::from(payload);
        let rest = bytes.split_off(HEAD_BYTES + 4 * n_slots);
        (key_bytes <= rest.len()).then_some(Self {
            bytes: rest,
            slots,
            key_bytes,
            fresh_until_ms,
            position,
        })
    }

    pub(super) fn key(&self) -> &[u8] {
        &self.bytes[..self.key_bytes]
    }

    pub(super) fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// The value as it was when it was written, its bytes not yet paid for.
    pub(super) fn into_entry(self, place: Place, now: Instant) -> Entry {
        Entry {
            // Copied, so that the head and the key do not stay in memory beside it.
            value: Bytes::copy_from_slice(&self.bytes[self.key_bytes..]),
            slots: self.slots,
            epoch: place.epoch,
            serial: place.serial,
            loaded_at: now,
            fresh_until: place.fresh_until,
            position: self.position,
            weight: 0,
            is_negative: false,
            lower_levels: true,
            is_on_disk: true,
            refresh_at: AtomicU64::new(0),
            is_replaced: AtomicBool::new(false),
            guard: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_comes_back() {
        let key = Key::new("latest", b"600519");
        let place = Place {
            at: tidegate_seglog::Position::START,
            fresh_until: Instant::from_millis(9),
            epoch: 4,
            serial: 7,
        };
        for position in [None, Some(88)] {
            let entry = Entry {
                value: Bytes::from_static(b"1685.00"),
                slots: Slots::from_slice(&[3, 900]),
                epoch: 4,
                serial: 7,
                loaded_at: Instant::ZERO,
                fresh_until: Instant::from_millis(9),
                position,
                weight: 0,
                is_negative: false,
                lower_levels: true,
                is_on_disk: false,
                refresh_at: AtomicU64::new(0),
                is_replaced: AtomicBool::new(false),
                guard: None,
            };
            let mut buffer = vec![1, 2, 3];
            encode(&mut buffer, &key, &entry, 55);
            assert_eq!(buffer.len(), size(&key, &entry));
            let record = Record::decode(buffer).unwrap();
            assert_eq!(
                (record.key(), record.slots(), record.fresh_until_ms),
                (key.as_bytes(), &[3, 900][..], 55)
            );
            let again = record.into_entry(place, Instant::ZERO);
            assert_eq!(
                (again.value, again.position, again.serial),
                (entry.value, position, 7)
            );
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_no_record_or_a_whole_one(mut payload: Vec<u8>, forced in 0_u8..3) {
            if let Some(first) = payload.first_mut() {
                *first = forced;
            }
            if let Some(record) = Record::decode(payload.clone()) {
                prop_assert!(record.key().len() <= payload.len());
            }
        }
    }
}
