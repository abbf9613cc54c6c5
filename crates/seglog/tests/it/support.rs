//! Folders that go away, and logs read to their end.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use tidegate_seglog::{Config, Log, Reader, Record};

/// A folder that is removed with this.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// In memory where the system has such a place, for properties that open hundreds of logs: they look at what the
    /// files hold, not at what a disk does.
    pub(crate) fn quick() -> Self {
        let memory = Path::new("/dev/shm");
        match memory.is_dir() {
            true => Self::below(memory),
            false => Self::new(),
        }
    }

    fn below(parent: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("seglog-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = parent.join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Segment files, oldest first.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let names = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        let mut segments: Vec<PathBuf> = names
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        segments.sort();
        segments
    }

    /// Bytes of all segment files.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments()
            .iter()
            .map(|path| fs::metadata(path).unwrap().len())
            .sum()
    }

    /// The same files in a folder of their own, as a crash would leave them.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        for entry in fs::read_dir(&self.0).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.0.join(entry.file_name())).unwrap();
        }
        copy
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Small segments, so that there are many.
pub(crate) const SMALL: Config = Config {
    segment_bytes: 4_096,
    bytes_max: 64 << 10,
    record_bytes_max: 1_000,
    preallocate: true,
};

pub(crate) fn read_all(reader: &mut Reader) -> Vec<Record> {
    std::iter::from_fn(|| reader.read().unwrap()).collect()
}

pub(crate) fn payloads(log: &Log) -> Vec<Vec<u8>> {
    let records = read_all(&mut log.reader(log.head()));
    records.into_iter().map(|record| record.payload).collect()
}

/// A payload that no other has.
pub(crate) fn payload(i: u64, len: usize) -> Vec<u8> {
    let mut payload = i.to_le_bytes().to_vec();
    payload.resize(len.max(8), i as u8);
    payload
}
