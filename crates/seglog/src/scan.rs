//! Reading records of one segment file, in order, and finding the next one behind damage.

use std::{fs::File, io, ops::RangeInclusive, os::unix::fs::FileExt};

use crate::format::{ALIGN, DATA_AT, FRAME_BYTES, Frame, SegmentHead, record_bytes};

/// A segment file that is read from front to back.
#[derive(Debug)]
pub(crate) struct Scanner {
    head: SegmentHead,
    window: Window,
}

/// What lies at a byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Record(Entry),
    /// The frame is sound, the payload is not.
    BadPayload(Entry),
    /// Nothing that could be a record here.
    Nothing,
}

/// A record whose frame is sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) at: u64,
    pub(crate) len: usize,
    pub(crate) number: u64,
    pub(crate) synced: u64,
}

/// Where the records of a segment end that nobody sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) end: u64,
    pub(crate) next_number: u64,
    /// Whether bytes lie behind the end, the rest of a write that was under way.
    pub(crate) is_torn: bool,
}

/// Bytes read ahead.
const WINDOW_BYTES: usize = 256 << 10;

/// A part of a file. Bytes beyond the limit of a call are never kept, because they may still change.
#[derive(Debug)]
struct Window {
    file: File,
    start: u64,
    bytes: Vec<u8>,
}

// === impl Scanner ===

impl Scanner {
    pub(crate) const fn new(head: SegmentHead, file: File) -> Self {
        let window = Window {
            file,
            start: 0,
            bytes: Vec::new(),
        };
        Self { head, window }
    }

    pub(crate) const fn sequence(&self) -> u64 {
        self.head.sequence
    }

    /// What lies at byte `at`, records ending at `limit` at the latest. A record of a number outside of `numbers` is
    /// none: records stand in order.
    pub(crate) fn read(&mut self, at: u64, limit: u64, numbers: &RangeInclusive<u64>) -> io::Result<Found> {
        let Some(bytes) = self.window.get(at, FRAME_BYTES, limit)? else {
            return Ok(Found::Nothing);
        };
        let frame = Frame::decode(bytes);
        if !self.head.owns(at, &frame) {
            return Ok(Found::Nothing);
        }
        let entry = Entry {
            at,
            len: frame.len as usize,
            number: self.head.number(&frame),
            synced: u64::from(frame.synced),
        };
        let is_sound = numbers.contains(&entry.number) && entry.synced <= at && entry.next() <= limit;
        if !is_sound {
            return Ok(Found::Nothing);
        }
        Ok(match self.payload(entry, limit)? {
            Some(payload) if frame.matches(payload) => Found::Record(entry),
            _ => Found::BadPayload(entry),
        })
    }

    /// The payload of `entry`; none if the file ends before it does.
    pub(crate) fn payload(&mut self, entry: Entry, limit: u64) -> io::Result<Option<&[u8]>> {
        self.window.get(entry.at + FRAME_BYTES as u64, entry.len, limit)
    }

    /// The first whole record from byte `from` on, of a number not below `number`.
    pub(crate) fn find(&mut self, from: u64, limit: u64, number: u64) -> io::Result<Option<Entry>> {
        let mut at = from.next_multiple_of(ALIGN);
        while let Some(candidate) = self.candidate(at, limit)? {
            if let Found::Record(entry) = self.read(candidate, limit, &(number..=u64::MAX))? {
                return Ok(Some(entry));
            }
            at = candidate + ALIGN;
        }
        Ok(None)
    }

    /// The next byte from `at` on whose frame is sound by itself.
    fn candidate(&mut self, mut at: u64, limit: u64) -> io::Result<Option<u64>> {
        const STEP: usize = 64 << 10;
        loop {
            let len = STEP.min(usize::try_from(limit.saturating_sub(at)).unwrap_or(STEP));
            let bytes = match self.window.upto(at, len, limit)? {
                bytes if bytes.len() < FRAME_BYTES => return Ok(None),
                bytes => bytes,
            };
            let mut i = 0;
            while i + FRAME_BYTES <= bytes.len() {
                // Most of what is searched is the untouched room of a preallocated file.
                let is_zero = bytes[i + 12..i + 16] == [0; 4];
                if !is_zero && self.head.owns(at + i as u64, &Frame::decode(&bytes[i..])) {
                    return Ok(Some(at + i as u64));
                }
                i += ALIGN as usize;
            }
            at += i as u64;
        }
    }

    /// Finds the end of a segment that nobody sealed, in a file of `limit` bytes.
    ///
    /// A bad record is damage when a later one says that the segment had been durable beyond it; otherwise it is where
    /// a crash cut the writing, and everything behind it, which no sync confirmed, is left out.
    pub(crate) fn tail(&mut self, limit: u64) -> io::Result<Tail> {
        let (mut at, mut number) = (DATA_AT, self.head.first_number);
        let mut proven = 0;
        loop {
            let behind = match self.read(at, limit, &(number..=number))? {
                Found::Record(entry) => {
                    proven = proven.max(entry.synced);
                    (at, number) = (entry.next(), number + 1);
                    continue;
                }
                Found::BadPayload(entry) => entry.next(),
                Found::Nothing => at + ALIGN,
            };
            if proven <= at {
                proven = self.proof(behind, limit, number, at)?;
            }
            let next = match proven > at {
                true => self.find(behind, limit, number)?,
                false => None,
            };
            let Some(entry) = next else { break };
            (at, number) = (entry.at, entry.number);
        }
        let is_torn = {
            let rest = self.window.upto(at, FRAME_BYTES, limit)?;
            rest.iter().any(|byte| *byte != 0)
        };
        Ok(Tail {
            end: at,
            next_number: number,
            is_torn,
        })
    }

    /// Up to which byte a record from `from` on says that the segment was durable, if that is beyond `at`; else 0.
    fn proof(&mut self, mut from: u64, limit: u64, number: u64, at: u64) -> io::Result<u64> {
        while let Some(entry) = self.find(from, limit, number)? {
            if entry.synced > at {
                return Ok(entry.synced);
            }
            from = entry.next();
        }
        Ok(0)
    }
}

// === impl Entry ===

impl Entry {
    /// The byte behind the record.
    pub(crate) const fn next(&self) -> u64 {
        self.at + record_bytes(self.len)
    }
}

// === impl Window ===

impl Window {
    /// Exactly `len` bytes at `at`; none if they do not all lie before `limit` and the end of the file.
    fn get(&mut self, at: u64, len: usize, limit: u64) -> io::Result<Option<&[u8]>> {
        if at.checked_add(len as u64).is_none_or(|end| end > limit) {
            return Ok(None);
        }
        let bytes = self.upto(at, len, limit)?;
        Ok((bytes.len() == len).then_some(bytes))
    }

    /// At most `len` bytes at `at`, fewer only at the end of the file. `at + len` must not be beyond `limit`, or the
    /// bytes end there.
    fn upto(&mut self, at: u64, len: usize, limit: u64) -> io::Result<&[u8]> {
        let room = usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = len.min(room);
        let is_here = at >= self.start && at + len as u64 <= self.start + self.bytes.len() as u64;
        if !is_here {
            self.fill(at, len.max(WINDOW_BYTES).min(room))?;
        }
        let from = (at - self.start) as usize;
        Ok(&self.bytes[from..self.bytes.len().min(from + len)])
    }

    fn fill(&mut self, at: u64, len: usize) -> io::Result<()> {
        // The length of a frame was checked against its file, so memory is bounded by a segment.
        self.bytes.resize(len, 0);
        self.start = at;
        let mut n_read = 0;
        while n_read < len {
            match self.file.read_at(&mut self.bytes[n_read..], at + n_read as u64) {
                Ok(0) => break,
                Ok(n) => n_read += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.bytes.clear();
                    return Err(error);
                }
            }
        }
        self.bytes.truncate(n_read);
        Ok(())
    }
}
