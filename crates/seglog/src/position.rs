//! Where a record lies.

/// A place in a log: a segment, a byte in it, and the number of the record there. Later places are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) number: u64,
}

impl Position {
    /// Before every record; a reader from here begins with the oldest one there is.
    pub const START: Self = Self {
        segment: 0,
        offset: 0,
        number: 0,
    };

    /// The segment's sequence, from 1.
    #[must_use]
    pub const fn segment(self) -> u64 {
        self.segment
    }

    /// Bytes from the beginning of the segment's file.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.offset
    }

    /// The number of the record, from 0, without gaps unless records were damaged. A record that was withdrawn gives
    /// its number to the next one.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }
}
