//! The bytes on the disk: blocks that stand twice, and the frame before each payload.
//!
//! ```text
//! segment   block · pad to 512 · the same block · pad to 1,024 · records
//! block     kind 8 | version 4 | 0 4 | five words of 8 | crc32c 4 | 0 4           all little-endian
//! record    len 4 | number 4 | synced 4 | check 4 | payload crc32c 4 | payload | zeros to a multiple of 4
//! ```
//!
//! `check` covers the frame together with the segment's sequence, its random salt and the record's place, and the
//! payload's checksum continues from it. So a frame that was written for another segment or place, or that a payload
//! imitates without knowing the salt, is never valid. `synced` says up to which byte the segment was durable when the
//! record was written: it tells damage (a bad record below that byte) from a torn tail (above it).

use crc32c::{crc32c, crc32c_append};

/// The version this code reads and writes.
pub(crate) const VERSION: u32 = 1;
pub(crate) const SEGMENT_KIND: [u8; 8] = *b"TGSEGLOG";
pub(crate) const HEAD_KIND: [u8; 8] = *b"TGSEGHED";

pub(crate) const BLOCK_BYTES: usize = 64;
/// Both copies of a block lie in sectors of their own, so that a torn write or a bad sector leaves one.
pub(crate) const BLOCKS_AT: [u64; 2] = [0, 512];
/// Where records begin.
pub(crate) const DATA_AT: u64 = 1_024;
pub(crate) const FRAME_BYTES: usize = 20;
/// Records begin at multiples of this, which makes the search behind a damaged one four times shorter.
pub(crate) const ALIGN: u64 = 4;

/// Bytes of a record in its segment.
pub(crate) const fn record_bytes(payload: usize) -> u64 {
    (FRAME_BYTES as u64 + payload as u64).next_multiple_of(ALIGN)
}

pub(crate) type Words = [u64; 5];

/// What 64 bytes turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Block {
    Valid(Words),
    OtherVersion(u32),
    Invalid,
}

/// The first block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentHead {
    pub(crate) sequence: u64,
    /// Random, so that nobody who writes payloads can imitate a record.
    pub(crate) salt: u64,
    /// The number of its first record.
    pub(crate) first_number: u64,
    /// The sequence of the segment before it when it was made; 0: none. Segments in between were given up.
    pub(crate) previous: u64,
    /// Where that one's records end.
    pub(crate) previous_end: u64,
}

/// What stands before a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) len: u32,
    /// The low half of the record's number.
    pub(crate) number: u32,
    pub(crate) synced: u32,
    pub(crate) check: u32,
    pub(crate) payload_check: u32,
}

pub(crate) fn encode_block(kind: [u8; 8], words: Words) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..8].copy_from_slice(&kind);
    block[8..12].copy_from_slice(&VERSION.to_le_bytes());
    for (word, place) in words.iter().zip(block[16..56].chunks_exact_mut(8)) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let check = crc32c(&block[..56]);
    block[56..60].copy_from_slice(&check.to_le_bytes());
    block
}

pub(crate) fn decode_block(kind: [u8; 8], block: &[u8; BLOCK_BYTES]) -> Block {
    if block[..8] != kind || u32_at(block, 56) != crc32c(&block[..56]) {
        return Block::Invalid;
    }
    match u32_at(block, 8) {
        VERSION => Block::Valid(std::array::from_fn(|i| u64_at(block, 16 + 8 * i))),
        other => Block::OtherVersion(other),
    }
}

// === impl SegmentHead ===

impl SegmentHead {
    pub(crate) const fn words(&self) -> Words {
        [
            self.sequence,
            self.salt,
            self.first_number,
            self.previous,
            self.previous_end,
        ]
    }

    pub(crate) const fn from_words(words: Words) -> Self {
        let [sequence, salt, first_number, previous, previous_end] = words;
        Self {
            sequence,
            salt,
            first_number,
            previous,
            previous_end,
        }
    }

    /// The frame of `payload` as record `number` at byte `at`, the segment being durable up to byte `synced`.
    pub(crate) fn frame(&self, at: u64, number: u64, synced: u64, payload: &[u8]) -> Frame {
        let (len, number, synced) = (payload.len() as u32, number as u32, synced as u32);
        let check = self.check(at, len, number, synced);
        Frame {
            len,
            number,
            synced,
            check,
            payload_check: crc32c_append(check, payload),
        }
    }

    /// Whether `frame` was written for byte `at` of this segment.
    pub(crate) fn owns(&self, at: u64, frame: &Frame) -> bool {
        frame.check == self.check(at, frame.len, frame.number, frame.synced)
    }

    /// The whole number of a record, of which the frame has the low half. A segment holds fewer than 2³² records.
    pub(crate) const fn number(&self, frame: &Frame) -> u64 {
        let since_first = frame.number.wrapping_sub(self.first_number as u32);
        self.first_number.saturating_add(since_first as u64)
    }

    /// Never 0, so that zeros are never a record.
    fn check(&self, at: u64, len: u32, number: u32, synced: u32) -> u32 {
        let mut bytes = [0; 36];
        bytes[..8].copy_from_slice(&self.salt.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[16..24].copy_from_slice(&at.to_le_bytes());
        bytes[24..28].copy_from_slice(&len.to_le_bytes());
        bytes[28..32].copy_from_slice(&number.to_le_bytes());
        bytes[32..].copy_from_slice(&synced.to_le_bytes());
        crc32c(&bytes).max(1)
    }
}

// === impl Frame ===

impl Frame {
    pub(crate) fn encode(&self) -> [u8; FRAME_BYTES] {
        let mut bytes = [0; FRAME_BYTES];
        let words = [self.len, self.number, self.synced, self.check, self.payload_check];
        for (word, place) in words.iter().zip(bytes.chunks_exact_mut(4)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// # Panics
    /// If there are fewer than [`FRAME_BYTES`].
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        Self {
            len: u32_at(bytes, 0),
            number: u32_at(bytes, 4),
            synced: u32_at(bytes, 8),
            check: u32_at(bytes, 12),
            payload_check: u32_at(bytes, 16),
        }
    }

    pub(crate) fn matches(&self, payload: &[u8]) -> bool {
        self.payload_check == crc32c_append(self.check, payload)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes were taken"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes were taken"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: SegmentHead = SegmentHead {
        sequence: 3,
        salt: 4,
        first_number: u64::MAX / 2,
        previous: 2,
        previous_end: 4_096,
    };

    proptest! {
        #[test]
        fn blocks_come_back_and_no_changed_bit_does(words: Words, byte in 0_usize..60, bit in 0_u8..8) {
            let mut block = encode_block(SEGMENT_KIND, words);
            prop_assert_eq!(decode_block(SEGMENT_KIND, &block), Block::Valid(words));
            prop_assert_eq!(decode_block(HEAD_KIND, &block), Block::Invalid);
            block[byte] ^= 1 << bit;
            prop_assert_eq!(decode_block(SEGMENT_KIND, &block), Block::Invalid);
        }

        #[test]
        fn a_frame_is_valid_only_at_its_place(at in 1_024_u64..9_000, other: u64, payload: Vec<u8>, bit in 0_usize..160) {
            let number = HEAD.first_number + 5_000_000_000 % (1 << 32);
            let frame = HEAD.frame(at, number, 1_024, &payload);
            prop_assert_eq!(Frame::decode(&frame.encode()), frame);
            prop_assert!(HEAD.owns(at, &frame) && frame.matches(&payload));
            prop_assert_eq!(HEAD.number(&frame), number);
            prop_assert!(other == at || !HEAD.owns(other, &frame));
            let renewed = SegmentHead { sequence: 4, ..HEAD };
            prop_assert!(!renewed.owns(at, &frame), "another segment's bytes");
            let mut bytes = frame.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let bad = Frame::decode(&bytes);
            prop_assert!(!HEAD.owns(at, &bad) || !bad.matches(&payload));
        }
    }

    #[test]
    fn zeros_are_no_record() {
        assert!(!HEAD.owns(DATA_AT, &Frame::decode(&[0; FRAME_BYTES])));
    }

    #[test]
    fn another_version_is_told_apart_from_damage() {
        let mut block = encode_block(SEGMENT_KIND, [1; 5]);
        block[8] = 9;
        let check = crc32c(&block[..56]);
        block[56..60].copy_from_slice(&check.to_le_bytes());
        assert_eq!(decode_block(SEGMENT_KIND, &block), Block::OtherVersion(9));
    }
}
