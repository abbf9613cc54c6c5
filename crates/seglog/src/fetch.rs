//! Reading single records at known places, on any thread, without reading what lies around them.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    error::{Error, Result},
    format::{FRAME_BYTES, Frame, SegmentHead},
    position::Position,
    segment::{self, Beginning},
};

/// Reads records by their places. It sees what was appended before it is synced: what a failed fsync takes back is never
/// found again, because its place is not written a second time.
#[derive(Debug)]
pub struct Fetcher {
    dir: PathBuf,
    record_bytes_max: usize,
    /// The newest used last; at most [`FILES_MAX`].
    open: Mutex<Vec<Arc<Opened>>>,
}

#[derive(Debug)]
struct Opened {
    head: SegmentHead,
    file: File,
}

/// Files kept open: enough for 256 MiB of segments of the usual size, few against a process' limit.
const FILES_MAX: usize = 32;

// === impl Fetcher ===

impl Fetcher {
    pub(crate) fn new(dir: &Path, record_bytes_max: usize) -> Self {
        Self {
            dir: dir.to_owned(),
            record_bytes_max,
            open: Mutex::default(),
        }
    }

    /// The payload of the record that [`crate::Log::append`] put at `position`; none if it was dropped, released, taken
    /// back or damaged.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk fails.
    pub fn fetch(&self, position: Position) -> Result<Option<Vec<u8>>> {
        let Some(opened) = self.opened(position.segment)? else {
            return Ok(None);
        };
        let failed = |error| Error::io("read", &segment::path(&self.dir, position.segment))(error);
        let mut bytes = [0; FRAME_BYTES];
        if !read_whole(&opened.file, &mut bytes, position.offset).map_err(failed)? {
            return Ok(None);
        }
        let frame = Frame::decode(&bytes);
        let is_it =
            opened.head.owns(position.offset, &frame) && opened.head.number(&frame) == position.number;
        // The length is checked before anything is allocated by it.
        if !is_it || frame.len as usize > self.record_bytes_max {
            return Ok(None);
        }
        let mut payload = vec![0; frame.len as usize];
        let at = position.offset + FRAME_BYTES as u64;
        let is_whole = read_whole(&opened.file, &mut payload, at).map_err(failed)?;
        Ok((is_whole && frame.matches(&payload)).then_some(payload))
    }

    /// Closes the files of segments before `sequence`, so that the disk gets their room back.
    pub fn forget_before(&self, sequence: u64) {
        self.list().retain(|opened| opened.head.sequence >= sequence);
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Opened>>> {
        // Each change is one push or removal, so a panic elsewhere leaves nothing half done.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, sequence: u64) -> Result<Option<Arc<Opened>>> {
        let find = |list: &[Arc<Opened>]| list.iter().position(|opened| opened.head.sequence == sequence);
        let known = {
            let list = self.list();
            find(&list).map(|at| Arc::clone(&list[at]))
        };
        if known.is_some() {
            return Ok(known);
        }
        let Some(opened) = self.open_file(sequence)?.map(Arc::new) else {
            return Ok(None);
        };
        let mut list = self.list();
        if find(&list).is_none() {
            if list.len() == FILES_MAX {
                list.remove(0);
            }
            list.push(Arc::clone(&opened));
        }
        Ok(Some(opened))
    }

    fn open_file(&self, sequence: u64) -> Result<Option<Opened>> {
        let path = segment::path(&self.dir, sequence);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path)(error)),
        };
        match segment::read_head(&path, &file, sequence)? {
            Beginning::Sound(head) => Ok(Some(Opened { head, file })),
            Beginning::Unwritten | Beginning::Damaged => Ok(None),
        }
    }
}

/// Fills `bytes` from byte `at` on; `false` if the file ends before.
fn read_whole(file: &File, bytes: &mut [u8], at: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
