//! Recovery offsets: `epoch-seq` in fixed width, so that they compare as text and frames have one length.

/// Digits of an epoch: milliseconds of the start in base 36, unique for every start of a node.
const EPOCH_LEN: usize = 8;
/// Digits of a position: base 36, enough for 131,621 years at a billion messages a second.
const SEQ_LEN: usize = 12;
/// Characters of an offset.
pub(crate) const LEN: usize = EPOCH_LEN + 1 + SEQ_LEN;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The start of a gateway, in the form that stands in offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch([u8; EPOCH_LEN]);

impl Epoch {
    pub(crate) fn new(unix_ms: u64) -> Self {
        Self(digits(unix_ms))
    }

    /// The offset of position `seq`.
    pub(crate) fn offset(self, seq: u64) -> [u8; LEN] {
        let mut text = [b'-'; LEN];
        text[..EPOCH_LEN].copy_from_slice(&self.0);
        text[EPOCH_LEN + 1..].copy_from_slice(&digits::<SEQ_LEN>(seq));
        text
    }

    /// The offset as a string.
    pub(crate) fn offset_string(self, seq: u64) -> String {
        String::from_utf8(self.offset(seq).to_vec()).expect("digits are ASCII")
    }

    /// The position an offset names, if it is one of this epoch.
    pub(crate) fn position(self, offset: &str) -> Option<u64> {
        let (epoch, seq) = offset.split_once('-')?;
        if epoch.as_bytes() != self.0 || seq.len() != SEQ_LEN {
            return None;
        }
        u64::from_str_radix(seq, 36).ok()
    }
}

fn digits<const N: usize>(mut value: u64) -> [u8; N] {
    let mut text = [b'0'; N];
    for place in text.iter_mut().rev() {
        *place = DIGITS[(value % 36) as usize];
        value /= 36;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_read_back_and_compare_by_order() {
        let epoch = Epoch::new(1_780_000_000_000);
        let mut last = String::new();
        for seq in [0, 1, 35, 36, 1_295, 1_296, 1 << 40] {
            let offset = epoch.offset_string(seq);
            assert_eq!(offset.len(), LEN);
            assert_eq!(epoch.position(&offset), Some(seq));
            assert!(offset > last);
            last = offset;
        }
    }

    #[test]
    fn foreign_offsets_are_no_position() {
        let epoch = Epoch::new(1_780_000_000_000);
        let other = Epoch::new(1_780_000_000_001);
        for text in [
            "",
            "-",
            "hello",
            "00000000-1",
            &other.offset_string(5),
            "zzzzzzzz-zzzzzzzzzzzzzz",
        ] {
            assert_eq!(epoch.position(text), None, "{text:?}");
        }
    }
}
