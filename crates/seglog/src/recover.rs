//! Finding out what a folder holds after whatever happened to it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    format::DATA_AT,
    head::{self, Saved},
    position::Position,
    scan::Scanner,
    segment::{self, Beginning, Segment},
};

/// What was found when a log was opened.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Records that are there and not released; some of them may turn out damaged when they are read.
    pub records: u64,
    /// Records that were durable and lay before the oldest segment that is left. Other damage is counted by whoever
    /// reads, see [`crate::Reader::damage`].
    pub lost_records: u64,
    /// Whether a write was cut off; what it wrote was never confirmed by a sync.
    pub is_torn: bool,
    /// Files that could not be understood, under the names they have now. They do not count against the size bound.
    pub set_aside: Vec<PathBuf>,
    /// Whether the released position could not be read, so that released records come back.
    pub is_head_lost: bool,
}

/// What a folder holds, found without changing it.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Segments with records that are not released, in order.
    pub(crate) segments: Vec<Segment>,
    pub(crate) saved: Saved,
    pub(crate) head: Position,
    pub(crate) end: Position,
    pub(crate) next_sequence: u64,
    /// Segments that are released, given up, or were never written.
    pub(crate) trash: Vec<u64>,
    /// Segments without a readable head.
    pub(crate) damaged: Vec<u64>,
    pub(crate) recovery: Recovery,
}

/// Reads the heads of all segments, and the records of the newest.
pub(crate) fn survey(dir: &Path) -> Result<Survey> {
    let saved = head::read(dir)?;
    let sequences = sequences(dir)?;
    let position = saved.position.unwrap_or(Position::START);
    let newest = sequences.last().copied().unwrap_or(0).max(position.segment);
    let mut survey = Survey {
        segments: Vec::new(),
        saved,
        head: position,
        end: position,
        next_sequence: newest.saturating_add(1),
        trash: Vec::new(),
        damaged: Vec::new(),
        recovery: Recovery {
            is_head_lost: saved.is_damaged && saved.position.is_none(),
            ..Recovery::default()
        },
    };
    survey.read_heads(dir, &sequences)?;
    survey.drop_abandoned();
    survey.find_ends(dir)?;
    survey.drop_empty_last();
    survey.apply_head();
    Ok(survey)
}

/// Sequences of the segments in `dir`, rising. The size bound of the log bounds their number.
fn sequences(dir: &Path) -> Result<Vec<u64>> {
    let mut sequences = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        let name = entry.map_err(Error::io("list", dir))?.file_name();
        sequences.extend(name.to_str().and_then(segment::sequence));
    }
    sequences.sort_unstable();
    Ok(sequences)
}

/// Opens a file that another process may be removing.
fn open(path: &Path) -> Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path)(error)),
    }
}

// === impl Survey ===

impl Survey {
    fn read_heads(&mut self, dir: &Path, sequences: &[u64]) -> Result<()> {
        for sequence in sequences {
            let path = segment::path(dir, *sequence);
            let Some(file) = open(&path)? else { continue };
            let bytes = file.metadata().map_err(Error::io("read", &path))?.len();
            match segment::read_head(&path, &file, *sequence)? {
                Beginning::Sound(head) => self.segments.push(Segment {
                    head,
                    end: DATA_AT,
                    bytes,
                }),
                Beginning::Unwritten => self.trash.push(*sequence),
                Beginning::Damaged => self.damaged.push(*sequence),
            }
        }
        Ok(())
    }

    /// A segment that its successor does not name as the previous one was given up after a failed fsync.
    fn drop_abandoned(&mut self) {
        let mut kept: Vec<Segment> = Vec::with_capacity(self.segments.len());
        for segment in self.segments.drain(..).rev() {
            let is_abandoned = kept
                .last()
                .is_some_and(|next| next.head.previous < segment.head.sequence);
            match is_abandoned {
                true => self.trash.push(segment.head.sequence),
                false => kept.push(segment),
            }
        }
        kept.reverse();
        self.segments = kept;
    }

    fn find_ends(&mut self, dir: &Path) -> Result<()> {
        for i in 0..self.segments.len() {
            let next = self.segments.get(i + 1).map(|next| next.head);
            let segment = &mut self.segments[i];
            let sealed_by = next.filter(|next| next.previous == segment.head.sequence);
            if let Some(next) = sealed_by {
                segment.end = next.previous_end.max(DATA_AT);
                continue;
            }
            let path = segment::path(dir, segment.head.sequence);
            let Some(file) = open(&path)? else { continue };
            let tail = Scanner::new(segment.head, file)
                .tail(segment.bytes)
                .map_err(Error::io("read", &path))?;
            segment.end = tail.end;
            // With a successor that names another, the segments in between are gone, or their heads are.
            if next.is_none() {
                self.recovery.is_torn = tail.is_torn;
                self.end = Position {
                    segment: segment.head.sequence,
                    offset: tail.end,
                    number: tail.next_number,
                };
            }
        }
        Ok(())
    }

    fn drop_empty_last(&mut self) {
        let Some(last) = self.segments.pop_if(|last| last.end == DATA_AT) else {
            return;
        };
        self.trash.push(last.head.sequence);
        if let Some(segment) = self.segments.last() {
            self.end = Position {
                segment: segment.head.sequence,
                offset: segment.end,
                number: last.head.first_number,
            };
        }
    }

    /// Leaves out what is released.
    fn apply_head(&mut self) {
        let released = self.head;
        let n_released = self
            .segments
            .iter()
            .take_while(|segment| {
                let sequence = segment.head.sequence;
                sequence < released.segment || sequence == released.segment && segment.end <= released.offset
            })
            .count();
        let gone = self.segments.drain(..n_released);
        self.trash.extend(gone.map(|segment| segment.head.sequence));
        match self.segments.first() {
            Some(first) if first.head.sequence == released.segment => {
                self.head.offset = released.offset.max(DATA_AT);
            }
            Some(first) => {
                self.head = Position {
                    segment: first.head.sequence,
                    offset: DATA_AT,
                    number: first.head.first_number,
                };
                if self.saved.position.is_some() {
                    self.recovery.lost_records = self.head.number.saturating_sub(released.number);
                }
            }
            None => {
                self.end = self.end.max(released);
                self.head = self.end;
            }
        }
        self.recovery.records = self.end.number.saturating_sub(self.head.number);
    }

    /// Does to the folder what was found to be right, and makes that durable.
    pub(crate) fn settle(&mut self, dir: &Path, dir_file: &File) -> Result<()> {
        for sequence in self.trash.drain(..) {
            let path = segment::path(dir, sequence);
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
        for sequence in self.damaged.drain(..) {
            let path = segment::path(dir, sequence);
            let aside = path.with_extension("damaged");
            fs::rename(&path, &aside).map_err(Error::io("set aside", &path))?;
            self.recovery.set_aside.push(aside);
        }
        let n_segments = self.segments.len();
        for (i, segment) in self.segments.iter_mut().enumerate() {
            let path = segment::path(dir, segment.head.sequence);
            let is_last = i + 1 == n_segments;
            if segment.bytes <= segment.end && !is_last {
                continue;
            }
            let file = File::options()
                .write(true)
                .open(&path)
                .map_err(Error::io("open", &path))?;
            if segment.bytes > segment.end {
                file.set_len(segment.end).map_err(Error::io("cut", &path))?;
                segment.bytes = segment.end;
            }
            // Records of the last one may lie only in the system's memory, left by a process that was killed: what
            // readers get to see must not vanish later.
            if is_last {
                file.sync_data().map_err(Error::io("sync", &path))?;
            }
        }
        dir_file.sync_all().map_err(Error::io("sync", dir))
    }
}
