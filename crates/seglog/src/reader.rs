//! Reading a log in order, on any thread, while it grows.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    error::{Error, Result},
    position::Position,
    recover,
    scan::{Entry, Found, Scanner},
    segment::{self, Beginning},
    shared::{Lookup, Part, Shared},
};

/// Reads durable records in order; sees what is synced while it reads.
#[derive(Debug)]
pub struct Reader {
    dir: PathBuf,
    shared: Arc<Shared>,
    at: Position,
    scanner: Option<Scanner>,
    damage: Damage,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Where it lies, as [`crate::Log::append`] said.
    pub position: Position,
    /// The place behind it: what to release once it is no longer needed, and where to read on.
    pub next: Position,
    /// What was appended.
    pub payload: Vec<u8>,
}

/// What a disk lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Damage {
    /// Records that were durable and cannot be read.
    pub records: u64,
    /// Bytes skipped to find the next one.
    pub bytes: u64,
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(dir: &Path, shared: Arc<Shared>, from: Position) -> Self {
        Self {
            dir: dir.to_owned(),
            shared,
            at: from,
            scanner: None,
            damage: Damage::default(),
        }
    }

    /// Reads the log under `dir` as it is now, without taking it: another process may own it and go on. What that one
    /// releases meanwhile is skipped.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read; [`Error::Version`] for files of another version.
    pub fn peek(dir: &Path) -> Result<Self> {
        let survey = recover::survey(dir)?;
        let shared = Arc::new(Shared::default());
        for segment in &survey.segments {
            shared.push(Part {
                sequence: segment.head.sequence,
                first_number: segment.head.first_number,
                end: segment.end,
            });
        }
        if let Some(last) = survey.segments.last() {
            shared.advance(last.end, survey.end.number);
        }
        Ok(Self::new(dir, shared, survey.head))
    }

    /// The next record; none for now if all durable ones are read. Damaged records are skipped and counted.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails; the same record is tried again by the next call.
    pub fn read(&mut self) -> Result<Option<Record>> {
        loop {
            match self.shared.lookup(self.at) {
                Lookup::CaughtUp { next_number } => {
                    self.lost_up_to(next_number);
                    return Ok(None);
                }
                Lookup::Next(start) => {
                    self.lost_up_to(start.number);
                    self.at = start;
                }
                Lookup::Gone(start) => self.at = start,
                Lookup::Here { end } => {
                    if let Some(record) = self.read_here(end)? {
                        return Ok(Some(record));
                    }
                }
            }
        }
    }

    /// Where it reads next.
    #[must_use]
    pub const fn position(&self) -> Position {
        self.at
    }

    /// What it had to skip so far.
    #[must_use]
    pub const fn damage(&self) -> Damage {
        self.damage
    }

    /// Numbers below `next_number` that did not come in this segment are lost.
    fn lost_up_to(&mut self, next_number: u64) {
        let lost = next_number.saturating_sub(self.at.number);
        self.damage.records += lost;
        self.at.number += lost;
    }

    /// Reads in the segment of `at`, whose records end at `end`; none if another look is needed.
    fn read_here(&mut self, end: u64) -> Result<Option<Record>> {
        if !self.open(end)? {
            return Ok(None);
        }
        let Self {
            scanner, at, damage, ..
        } = self;
        let scanner = scanner.as_mut().expect("open left one");
        let failed = |error| Error::io("read", &segment::path(&self.dir, at.segment))(error);
        let number = at.number;
        let behind = match scanner.read(at.offset, end, &(number..=number)).map_err(failed)? {
            Found::Record(entry) => return self.take(entry, end).map(Some),
            Found::BadPayload(entry) => entry.next(),
            Found::Nothing => at.offset + 1,
        };
        let next = scanner.find(behind, end, number).map_err(failed)?;
        let (offset, number) = next.map_or((end, number), |entry| (entry.at, entry.number));
        damage.records += number - at.number;
        damage.bytes += offset - at.offset;
        (at.offset, at.number) = (offset, number);
        Ok(None)
    }

    fn take(&mut self, entry: Entry, end: u64) -> Result<Record> {
        let scanner = self.scanner.as_mut().expect("the entry came from it");
        let payload = scanner
            .payload(entry, end)
            .map_err(Error::io("read", &segment::path(&self.dir, self.at.segment)))?;
        let position = self.at;
        let record = Record {
            position,
            next: Position {
                segment: position.segment,
                offset: entry.next(),
                number: entry.number + 1,
            },
            payload: payload.expect("its checksum was just compared").to_vec(),
        };
        self.at = record.next;
        Ok(record)
    }

    /// Whether the file of the current segment is open. If it is gone or has no head, `at` has moved on.
    fn open(&mut self, end: u64) -> Result<bool> {
        let sequence = self.at.segment;
        if self
            .scanner
            .as_ref()
            .is_some_and(|scanner| scanner.sequence() == sequence)
        {
            return Ok(true);
        }
        let path = segment::path(&self.dir, sequence);
        let skip_to_end = Position {
            offset: end,
            ..self.at
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Released between the look and now, by this process or by the one that is peeked at.
                if matches!(self.shared.lookup(self.at), Lookup::Here { .. }) {
                    self.at = skip_to_end;
                }
                return Ok(false);
            }
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        match segment::read_head(&path, &file, sequence)? {
            Beginning::Sound(head) => {
                self.scanner = Some(Scanner::new(head, file));
                Ok(true)
            }
            Beginning::Unwritten | Beginning::Damaged => {
                self.damage.bytes += end.saturating_sub(self.at.offset);
                self.at = skip_to_end;
                Ok(false)
            }
        }
    }
}

// === impl Damage ===

impl Damage {
    /// Whether nothing is lost.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.records == 0 && self.bytes == 0
    }
}
