//! The log itself: one owner, who appends, syncs and releases.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    config::Config,
    error::{Error, Result},
    fetch::Fetcher,
    format::{DATA_AT, SegmentHead, record_bytes},
    head::Head,
    lock::Lock,
    position::Position,
    reader::Reader,
    recover::{self, Recovery},
    segment::{self, Segment},
    shared::{Part, Shared},
    sync::{Durable, Mark, Synced, Syncing},
};

/// A log, held by one owner at a time. Dropping it keeps what is synced, and what the system still writes.
#[derive(Debug)]
pub struct Log {
    dir: PathBuf,
    dir_file: Arc<File>,
    config: Config,
    /// By rising sequence, the last one possibly being written. One per file, so `bytes_max` bounds it.
    segments: VecDeque<Segment>,
    /// The file of the last segment while it is written; none while there is none, so that a file is never written
    /// again once a doubt about it arose.
    active: Option<Arc<File>>,
    head_file: Head,
    head: Position,
    synced: Position,
    end: Position,
    next_sequence: u64,
    withdrawals: u64,
    /// How often names in the folder changed, and up to which change they are durable.
    dir_changes: u64,
    dir_synced: u64,
    shared: Arc<Shared>,
    recovery: Recovery,
    counted: Counted,
    _lock: Lock,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    appended_records: u64,
    appended_bytes: u64,
    syncs: u64,
    withdrawn_records: u64,
    released_records: u64,
    dropped_records: u64,
}

/// What a log holds and has done since it was opened; its owner records it where it likes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Records not released, those not synced included.
    pub records: u64,
    /// Bytes of the segment files; a preallocated one counts with all its room.
    pub bytes: u64,
    /// Segment files.
    pub segments: usize,
    /// Records appended.
    pub appended_records: u64,
    /// Bytes of their payloads.
    pub appended_bytes: u64,
    /// Fsyncs of records that worked.
    pub syncs: u64,
    /// Records taken back because an fsync failed.
    pub withdrawn_records: u64,
    /// Records released.
    pub released_records: u64,
    /// Records dropped unread by [`Log::drop_oldest`].
    pub dropped_records: u64,
}

/// What left a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Released {
    /// Records.
    pub records: u64,
    /// Bytes given back to the disk.
    pub bytes: u64,
}

// === impl Log ===

impl Log {
    /// Takes the folder, making it if need be, and recovers what it holds. Reads at most one segment; the others are
    /// checked when they are read.
    ///
    /// # Errors
    /// [`Error::Config`] for bounds that contradict each other, [`Error::Locked`] when somebody has the folder,
    /// [`Error::Version`] for files of another version, [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<Self> {
        let dir = dir.as_ref();
        config.check()?;
        let lock = Lock::take(dir)?;
        let dir_file = File::open(dir).map_err(Error::io("open", dir))?;
        let mut survey = recover::survey(dir)?;
        let mut head_file = Head::open(dir, &survey.saved)?;
        // Before anything is removed: a sequence that is free again must never lie before a remembered position.
        head_file.write(survey.head)?;
        head_file.sync()?;
        survey.settle(dir, &dir_file)?;
        let shared = Arc::new(Shared::default());
        for segment in &survey.segments {
            shared.push(part(segment, segment.end));
        }
        if let Some(last) = survey.segments.last() {
            shared.advance(last.end, survey.end.number);
        }
        Ok(Self {
            dir: dir.to_owned(),
            dir_file: Arc::new(dir_file),
            config,
            segments: survey.segments.into(),
            active: None,
            head_file,
            head: survey.head,
            synced: survey.end,
            end: survey.end,
            next_sequence: survey.next_sequence,
            withdrawals: 0,
            dir_changes: 0,
            dir_synced: 0,
            shared,
            recovery: survey.recovery,
            counted: Counted::default(),
            _lock: lock,
        })
    }

    /// What was found when it was opened.
    #[must_use]
    pub const fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The oldest record that is not released.
    #[must_use]
    pub const fn head(&self) -> Position {
        self.head
    }

    /// Everything before this place is durable.
    #[must_use]
    pub const fn synced(&self) -> Position {
        self.synced
    }

    /// Where the next record goes, unless it needs a new segment.
    #[must_use]
    pub const fn end(&self) -> Position {
        self.end
    }

    /// Whether every record is released.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.number >= self.end.number
    }

    /// What it holds and has done.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Counted {
            appended_records,
            appended_bytes,
            syncs,
            withdrawn_records,
            released_records,
            dropped_records,
        } = self.counted;
        Stats {
            records: self.end.number.saturating_sub(self.head.number),
            bytes: self.bytes(),
            segments: self.segments.len(),
            appended_records,
            appended_bytes,
            syncs,
            withdrawn_records,
            released_records,
            dropped_records,
        }
    }

    /// Bytes of the segment files; a preallocated one counts with all its room.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Moves the size bound, for an owner of several logs that share one. A bound below what is there only stops growth.
    pub const fn set_bytes_max(&mut self, bytes_max: u64) {
        self.config.bytes_max = bytes_max;
    }

    /// A reader of durable records from `from` on; `from` is [`Log::head`] or a place that was read before.
    #[must_use]
    pub fn reader(&self, from: Position) -> Reader {
        Reader::new(&self.dir, Arc::clone(&self.shared), from.max(self.head))
    }

    /// A reader of single records by their places, for an owner who keeps an index of them.
    #[must_use]
    pub fn fetcher(&self) -> Fetcher {
        Fetcher::new(&self.dir, self.config.record_bytes_max)
    }

    // --- Appending ---

    /// Puts a record at the end; it is durable after the next sync.
    ///
    /// # Errors
    /// [`Error::TooLarge`]; [`Error::Full`] under the size bound; [`Error::Io`] when the disk refuses: the record is
    /// not in the log, all others are. [`Error::Withdrawn`] when a new segment was needed and the old one could not be
    /// synced: then the other records since the last sync are gone too.
    pub fn append(&mut self, payload: &[u8]) -> Result<Position> {
        let (size, limit) = (payload.len(), self.config.record_bytes_max);
        if size > limit {
            return Err(Error::TooLarge { size, limit });
        }
        let needed = record_bytes(size);
        if self.active.is_none() || self.room_here() < needed {
            self.roll(needed)?;
        }
        self.write(payload)
    }

    fn room_here(&self) -> u64 {
        self.segments
            .back()
            .map_or(0, |segment| segment.bytes.saturating_sub(segment.end))
    }

    /// Writes into the active segment, which has room.
    fn write(&mut self, payload: &[u8]) -> Result<Position> {
        let segment = self.segments.back_mut().expect("roll made a segment");
        let file = self.active.as_ref().expect("roll made it active");
        let SegmentHead { sequence, .. } = segment.head;
        let synced = match self.synced.segment == sequence {
            true => self.synced.offset,
            false => DATA_AT,
        };
        let (offset, number) = (segment.end, self.end.number);
        let frame = segment.head.frame(offset, number, synced, payload);
        if let Err(error) = segment::write_record(file, offset, &frame, payload) {
            // The torn part would never pass for a record; cutting it gives its room back. The next record goes to the
            // same place.
            let _ = file.set_len(offset);
            return Err(Error::io("write", &segment::path(&self.dir, sequence))(error));
        }
        segment.end += record_bytes(payload.len());
        let position = Position {
            segment: sequence,
            offset,
            number,
        };
        self.end = Position {
            segment: sequence,
            offset: segment.end,
            number: number + 1,
        };
        self.counted.appended_records += 1;
        self.counted.appended_bytes += payload.len() as u64;
        Ok(position)
    }

    /// Seals the active segment and makes a new one with room for `needed` bytes.
    fn roll(&mut self, needed: u64) -> Result<()> {
        let needed = DATA_AT + needed;
        let unused = self.active.as_ref().map_or(0, |_| self.room_here());
        self.room(needed, unused)?;
        self.seal()?;
        let wanted = self.room(needed, 0)?.min(self.config.segment_bytes).max(needed);
        let previous = self.segments.back();
        let head = SegmentHead {
            sequence: self.next_sequence,
            salt: segment::salt(),
            first_number: self.end.number,
            previous: previous.map_or(0, |segment| segment.head.sequence),
            previous_end: previous.map_or(0, |segment| segment.end),
        };
        let preallocate = self.config.preallocate;
        let (file, bytes) = segment::create(&self.dir, &head, wanted, needed, preallocate)?;
        let segment = Segment {
            head,
            end: DATA_AT,
            bytes,
        };
        self.next_sequence += 1;
        self.dir_changes += 1;
        self.segments.push_back(segment);
        self.shared.push(part(&segment, DATA_AT));
        self.active = Some(Arc::new(file));
        Ok(())
    }

    /// Bytes that new files may have, if they are enough; `unused` ones will be given back first.
    fn room(&self, needed: u64, unused: u64) -> Result<u64> {
        let bytes = self.bytes() - unused;
        let limit = self.config.bytes_max;
        let room = limit.saturating_sub(bytes);
        match room >= needed {
            true => Ok(room),
            false => Err(Error::Full { bytes, limit, needed }),
        }
    }

    /// Ends the active segment: durable, and cut to its length. Its successor names that length, so that even a cut
    /// that a crash undoes leaves no doubt where it ends.
    fn seal(&mut self) -> Result<()> {
        self.sync()?;
        let Some(file) = self.active.take() else {
            return Ok(());
        };
        let segment = self.segments.back_mut().expect("the active one is the last");
        if file.set_len(segment.end).is_ok() {
            segment.bytes = segment.end;
        }
        Ok(())
    }

    // --- Syncing ---

    /// Makes all appended records durable, and says how many were not yet.
    ///
    /// # Errors
    /// See [`Log::finish_sync`].
    pub fn sync(&mut self) -> Result<Durable> {
        match self.start_sync() {
            Some(syncing) => self.finish_sync(syncing.run()),
            None => Ok(Durable {
                records: 0,
                end: self.synced,
            }),
        }
    }

    /// Prepares an fsync of what is appended so far; none if all is durable. The log may be used while it runs.
    pub fn start_sync(&self) -> Option<Syncing> {
        let file = self.active.as_ref()?;
        if self.end == self.synced {
            return None;
        }
        let is_dir_new = self.dir_changes > self.dir_synced;
        Some(Syncing {
            file: Arc::clone(file),
            dir: is_dir_new.then(|| Arc::clone(&self.dir_file)),
            mark: Mark {
                end: self.end,
                withdrawals: self.withdrawals,
                dir_changes: self.dir_changes,
            },
        })
    }

    /// Takes the outcome of an fsync: readers see the records.
    ///
    /// After a failed fsync the system may have dropped the pages and still report success next time, so neither the
    /// file nor its cached contents can be trusted beyond what was durable before. Every record after that is taken
    /// back, the segment is cut there and never written again, and the next append makes a new one, which names where
    /// the old one ends. The caller still has the records and may append them again.
    ///
    /// # Errors
    /// [`Error::Withdrawn`] when this fsync failed, or an earlier one whose records this one was to cover.
    pub fn finish_sync(&mut self, synced: Synced) -> Result<Durable> {
        let Synced { mark, result } = synced;
        if mark.withdrawals != self.withdrawals {
            return Err(Error::Withdrawn {
                records: 0,
                source: None,
            });
        }
        if let Err(error) = result {
            return Err(self.withdraw(error));
        }
        self.dir_synced = self.dir_synced.max(mark.dir_changes);
        self.counted.syncs += 1;
        let records = mark.end.number.saturating_sub(self.synced.number);
        if mark.end > self.synced {
            self.synced = mark.end;
            self.shared.advance(mark.end.offset, mark.end.number);
        }
        Ok(Durable {
            records,
            end: self.synced,
        })
    }

    fn withdraw(&mut self, error: io::Error) -> Error {
        let records = self.end.number - self.synced.number;
        self.withdrawals += 1;
        self.counted.withdrawn_records += records;
        self.end = self.synced;
        if let Some(file) = self.active.take() {
            self.abandon(&file);
        }
        Error::Withdrawn {
            records,
            source: Some(error),
        }
    }

    /// Gives up the active segment beyond what is durable of it.
    fn abandon(&mut self, file: &File) {
        let segment = self.segments.back_mut().expect("the active one is the last");
        if segment.head.sequence == self.synced.segment {
            segment.end = self.synced.offset;
            if file.set_len(segment.end).is_ok() {
                segment.bytes = segment.end;
            }
        } else {
            // Nothing of it was durable. If it stays behind, the next segment does not name it, and recovery removes it.
            let path = segment::path(&self.dir, segment.head.sequence);
            let _ = fs::remove_file(path);
            self.dir_changes += 1;
            self.segments.pop_back();
            self.shared.pop_back();
        }
    }

    // --- Releasing ---

    /// Records before `up_to` are no longer needed, and files without others are removed. `up_to` is [`crate::Record::next`]
    /// of the last one; what is not durable is not released.
    ///
    /// A process that is killed now does not see them again. After a loss of power it may, until [`Log::checkpoint`] or
    /// the removal of a file made the position durable.
    ///
    /// # Errors
    /// [`Error::Io`]: they are released for this process, but may come back after a restart.
    pub fn release(&mut self, up_to: Position) -> Result<Released> {
        let up_to = up_to.min(self.synced);
        if up_to <= self.head {
            return Ok(Released::default());
        }
        let records = up_to.number.saturating_sub(self.head.number);
        self.head = up_to;
        self.counted.released_records += records;
        self.head_file.write(up_to)?;
        let bytes = self.remove_released()?;
        Ok(Released { records, bytes })
    }

    /// Makes the released position durable.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses.
    pub fn checkpoint(&mut self) -> Result<()> {
        if !self.head_file.is_dirty() {
            return Ok(());
        }
        // Written again, because a failed fsync may have forgotten the bytes.
        self.head_file.write(self.head)?;
        self.head_file.sync()
    }

    /// Gives the room of the last segment back too, if every record is durable and released. The next append makes a new
    /// one, so this is for an owner who expects none soon.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses.
    pub fn shrink(&mut self) -> Result<u64> {
        if self.head != self.end || self.synced != self.end {
            return Ok(0);
        }
        self.active = None;
        self.remove_released()
    }

    /// Removes the oldest segment with all its records, read or not, for an owner who would rather lose the oldest than
    /// refuse the newest. None if there is no segment.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk refuses; [`Error::Withdrawn`] when the only segment could not be synced.
    pub fn drop_oldest(&mut self) -> Result<Option<Released>> {
        if self.segments.len() == 1 {
            self.seal()?;
        }
        let Some(oldest) = self.segments.front() else {
            return Ok(None);
        };
        let next = match self.segments.get(1) {
            Some(next) => Position {
                segment: next.head.sequence,
                offset: DATA_AT,
                number: next.head.first_number,
            },
            None => Position {
                segment: oldest.head.sequence,
                offset: oldest.end,
                number: self.end.number,
            },
        };
        let records = next.number.saturating_sub(self.head.number);
        self.head = next;
        self.counted.dropped_records += records;
        self.head_file.write(next)?;
        let bytes = self.remove_released()?;
        Ok(Some(Released { records, bytes }))
    }

    /// Removes segments that lie before the head as a whole, the active one excepted.
    fn remove_released(&mut self) -> Result<u64> {
        let mut bytes = 0;
        while let Some(&segment) = self.segments.front() {
            let sequence = segment.head.sequence;
            let is_active = self.active.is_some() && self.segments.len() == 1;
            let is_released = sequence < self.head.segment
                || sequence == self.head.segment && segment.end <= self.head.offset;
            if is_active || !is_released {
                break;
            }
            // Its sequence may be used again after a restart, so the position must be durable first.
            self.checkpoint()?;
            let path = segment::path(&self.dir, sequence);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("remove", &path)(error));
                }
                _ => {}
            }
            bytes += segment.bytes;
            self.dir_changes += 1;
            self.segments.pop_front();
            self.shared.pop_front();
        }
        Ok(bytes)
    }
}

fn part(segment: &Segment, end: u64) -> Part {
    Part {
        sequence: segment.head.sequence,
        first_number: segment.head.first_number,
        end,
    }
}
