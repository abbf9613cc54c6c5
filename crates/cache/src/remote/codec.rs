//! The bytes of a value in Redis.
//!
//! ```text
//! version 1 | flags 1 | tokens 2 | key 4 | run 8 | fresh until, unix ms 8 | position 8 | tokens 8 each | key | value
//! ```
//! All little-endian; flag 1: there is a position, flag 2: there is nothing.

use bytes::Bytes;

/// A value with what decides whether it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blob {
    /// Which run of the server it was written in.
    pub(crate) run: u64,
    pub(crate) fresh_until_ms: u64,
    pub(crate) position: Option<u64>,
    pub(crate) is_negative: bool,
    /// Of all tags and of each tag, in the order of the policy.
    pub(crate) tokens: Vec<u64>,
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
}

const VERSION: u8 = 1;
const HAS_POSITION: u8 = 1;
const IS_NEGATIVE: u8 = 2;
const HEAD_BYTES: usize = 32;

// === impl Blob ===

impl Blob {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let size = HEAD_BYTES + 8 * self.tokens.len() + self.key.len() + self.value.len();
        let mut bytes = Vec::with_capacity(size);
        let has_position = if self.position.is_some() { HAS_POSITION } else { 0 };
        let is_negative = if self.is_negative { IS_NEGATIVE } else { 0 };
        bytes.extend_from_slice(&[VERSION, has_position | is_negative]);
        bytes.extend_from_slice(&(self.tokens.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(self.key.len() as u32).to_le_bytes());
        for word in [self.run, self.fresh_until_ms, self.position.unwrap_or(0)] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for token in &self.tokens {
            bytes.extend_from_slice(&token.to_le_bytes());
        }
        bytes.extend_from_slice(&self.key);
        bytes.extend_from_slice(&self.value);
        bytes
    }

    /// None for bytes of another version, or that contradict themselves.
    pub(crate) fn decode(bytes: Vec<u8>) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let flags = head[1];
        if head[0] != VERSION || flags > HAS_POSITION | IS_NEGATIVE {
            return None;
        }
        let n_tokens = usize::from(u16::from_le_bytes([head[2], head[3]]));
        let key_bytes = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let word =
            |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes were taken"));
        let (run, fresh_until_ms, position) = (word(8), word(16), word(24));
        let tokens = bytes.get(HEAD_BYTES..HEAD_BYTES + 8 * n_tokens)?.chunks_exact(8);
        let tokens = tokens
            .map(|token| u64::from_le_bytes(token.try_into().expect("eight bytes each")))
            .collect();
        let mut key = Bytes::from(bytes).split_off(HEAD_BYTES + 8 * n_tokens);
        if key_bytes > key.len() {
            return None;
        }
        let value = key.split_off(key_bytes);
        Some(Self {
            run,
            fresh_until_ms,
            position: (flags & HAS_POSITION != 0).then_some(position),
            is_negative: flags & IS_NEGATIVE != 0,
            tokens,
            key,
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_blob_comes_back(
            words: [u64; 3], has_position: bool, is_negative: bool, tokens in proptest::collection::vec(any::<u64>(), 0..5),
            key: Vec<u8>, value: Vec<u8>,
        ) {
            let blob = Blob {
                run: words[0],
                fresh_until_ms: words[1],
                position: has_position.then_some(words[2]),
                is_negative,
                tokens,
                key: key.into(),
                value: value.into(),
            };
            prop_assert_eq!(Blob::decode(blob.encode()), Some(blob));
        }

        #[test]
        fn hostile_bytes_never_panic(mut bytes: Vec<u8>, forced in 0_u8..3) {
            if let Some(first) = bytes.first_mut() {
                *first = forced;
            }
            let _ = Blob::decode(bytes);
        }
    }
}
