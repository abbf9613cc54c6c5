//! Bounds of a log.

use crate::{
    error::{Error, Result},
    format::{DATA_AT, record_bytes},
};

/// Bounds of a log; [`Config::check`] is called when it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one segment file, 4 KiB to 1 GiB; default 8 MiB. The last one before the bound may be smaller.
    pub segment_bytes: u64,
    /// Most bytes of all segment files together, at least one segment; default 1 GiB.
    pub bytes_max: u64,
    /// Most bytes of one payload; default 4 MiB. It must fit into a segment.
    pub record_bytes_max: usize,
    /// Whether the disk is asked for a segment's whole room when the segment is made, so that a full disk is met there
    /// and not in the middle of a record; default true. A disk that cannot do that is used without.
    pub preallocate: bool,
}

const SEGMENT_BYTES_MIN: u64 = 4 << 10;
/// Offsets are four bytes in the files, and recovery reads at most one segment.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 8 << 20,
            bytes_max: 1 << 30,
            record_bytes_max: 4 << 20,
            preallocate: true,
        }
    }
}

impl Config {
    /// Whether the bounds fit together.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key, its value and what is allowed.
    pub fn check(&self) -> Result<()> {
        let refused = |key, value: u64, allowed: String| Err(Error::Config { key, value, allowed });
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes) {
            let allowed = format!("{SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}");
            return refused("segment_bytes", self.segment_bytes, allowed);
        }
        if self.bytes_max < self.segment_bytes {
            let allowed = format!("at least segment_bytes, {}", self.segment_bytes);
            return refused("bytes_max", self.bytes_max, allowed);
        }
        let payload_max = self.segment_bytes - DATA_AT - record_bytes(0);
        if self.record_bytes_max == 0 || self.record_bytes_max as u64 > payload_max {
            let allowed = format!("1 to {payload_max}, what a segment holds");
            return refused("record_bytes_max", self.record_bytes_max as u64, allowed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(segment_bytes: u64, bytes_max: u64, record_bytes_max: usize, expected: Option<&str>) {
        let config = Config {
            segment_bytes,
            bytes_max,
            record_bytes_max,
            preallocate: true,
        };
        let refused = config.check().err().map(|error| error.to_string());
        assert_eq!(refused.as_deref(), expected);
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused_with_numbers() {
        check(4_096, 4_096, 3_052, None);
        check(
            4_096,
            4_096,
            3_053,
            Some("record_bytes_max = 3053: allowed is 1 to 3052, what a segment holds"),
        );
        check(
            4_096,
            4_096,
            0,
            Some("record_bytes_max = 0: allowed is 1 to 3052, what a segment holds"),
        );
        check(
            1_024,
            4_096,
            10,
            Some("segment_bytes = 1024: allowed is 4096 to 1073741824"),
        );
        check(
            8_192,
            4_096,
            10,
            Some("bytes_max = 4096: allowed is at least segment_bytes, 8192"),
        );
    }

    #[test]
    fn defaults_are_sound() {
        assert!(Config::default().check().is_ok());
    }
}
