//! Reads how much memory is used: files that stay open, parsed in place.
//!
//! A tick costs a few dozen microseconds and allocates nothing: each file is opened once and read with `pread`. Sources:
//! cgroups(7) and the kernel's cgroup-v1 `memory.txt` and cgroup-v2 documents, proc(5), and the document on pressure stall
//! information. What is missing or does not parse is left out of the reading.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::process::{self, V1_NO_LIMIT, Version};

/// Where the figures of memory come from: the files of a machine, or a test's hand.
#[derive(Debug)]
pub struct Reader(Source);

/// The hand that sets what a manual [`Reader`] reads; clones set the same.
#[derive(Debug, Clone, Default)]
pub struct ManualReader(Arc<Mutex<Reading>>);

/// What one tick saw; whatever the system does not tell is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// The fullest of the process's cgroup and its ancestors: what cannot be reclaimed, of the lower of `max` and `high`.
    pub cgroup: Option<Part>,
    /// Resident memory of the process, bytes.
    pub rss_bytes: Option<u64>,
    /// Memory of the host that is not available, of all.
    pub host: Option<Part>,
    /// Share of the last ten seconds in which some task waited for memory, per mille.
    pub stall_per_mille: Option<u32>,
}

/// Some of a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// In use, bytes.
    pub used_bytes: u64,
    /// What there is, bytes; never zero.
    pub limit_bytes: u64,
}

/// What bounds a memory budget: the machine and the cgroups the process is in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Machine {
    /// Memory of the host, bytes.
    pub host_bytes: Option<u64>,
    /// The lowest limit of the cgroups, bytes.
    pub cgroup_bytes: Option<u64>,
}

#[derive(Debug)]
enum Source {
    Files(Box<Files>),
    Manual(ManualReader),
}

/// The open files of a machine.
#[derive(Debug)]
struct Files {
    root: PathBuf,
    cgroups: Vec<Cgroup>,
    statm: Option<File>,
    meminfo: Option<File>,
    stalls: Option<File>,
    page_bytes: u64,
    buffer: Box<[u8]>,
    /// Readings until a file that failed may be opened again; zero while all is well.
    reopen_in: u32,
}

/// One memory cgroup.
#[derive(Debug)]
struct Cgroup {
    limits: Vec<File>,
    current: File,
    stat: File,
    /// The names of the two figures in `stat`; those of v1 that include the folders below begin with `total_`.
    file_keys: [&'static [u8]; 2],
}

/// The deepest nesting that is watched; beyond it the outermost folders are left out.
const CGROUPS_MAX: usize = 16;
/// The whole of `memory.stat` on current kernels is under 3 KiB.
const BUFFER_BYTES: usize = 8 * 1024;
/// After a file failed (the cgroup was removed under us) all are opened again, at most once in so many readings.
const REOPEN_READINGS: u32 = 100;

// === impl Reader ===

impl Reader {
    /// The files of this machine.
    pub fn system() -> Self {
        Self::under(Path::new("/"))
    }

    /// The files of a machine whose root folder is `root`: for tests with `proc` and `sys` of their own.
    pub fn under(root: &Path) -> Self {
        Self(Source::Files(Box::new(Files::open(root))))
    }

    /// A reader that reads what a [`ManualReader`] sets.
    pub fn manual() -> (Self, ManualReader) {
        let hand = ManualReader::default();
        (Self(Source::Manual(hand.clone())), hand)
    }

    /// Reads everything once.
    pub fn read(&mut self) -> Reading {
        match &mut self.0 {
            Source::Files(files) => files.read(),
            Source::Manual(hand) => hand.get(),
        }
    }

    /// What bounds a budget here.
    pub fn machine(&mut self) -> Machine {
        match &mut self.0 {
            Source::Files(files) => files.machine(),
            Source::Manual(hand) => Machine {
                host_bytes: hand.get().host.map(|part| part.limit_bytes),
                cgroup_bytes: hand.get().cgroup.map(|part| part.limit_bytes),
            },
        }
    }
}

// === impl ManualReader ===

impl ManualReader {
    /// What the next ticks read.
    pub fn set(&self, reading: Reading) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = reading;
    }

    /// Sets the resident memory alone.
    pub fn set_rss(&self, bytes: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).rss_bytes = Some(bytes);
    }

    fn get(&self) -> Reading {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Part ===

impl Part {
    /// `used` of `limit`, unless there is nothing to be part of.
    pub fn new(used_bytes: u64, limit_bytes: u64) -> Option<Self> {
        (limit_bytes > 0).then_some(Self {
            used_bytes,
            limit_bytes,
        })
    }

    /// How much of the whole is used, per mille; more than 1000 if it overflows.
    pub fn per_mille(&self) -> u32 {
        let ratio = u128::from(self.used_bytes) * 1000 / u128::from(self.limit_bytes.max(1));
        u32::try_from(ratio).unwrap_or(u32::MAX)
    }

    /// Bytes in use above `per_mille` of the whole.
    pub fn bytes_above(&self, per_mille: u16) -> u64 {
        let edge = u128::from(self.limit_bytes) * u128::from(per_mille) / 1000;
        self.used_bytes
            .saturating_sub(u64::try_from(edge).unwrap_or(u64::MAX))
    }
}

// === impl Files ===

impl Files {
    fn open(root: &Path) -> Self {
        let text = |name: &str| std::fs::read_to_string(root.join(name)).unwrap_or_default();
        let folders = process::cgroup_folders(&text("proc/self/cgroup"), &text("proc/self/mountinfo"));
        let below = |folder: &Path| root.join(folder.strip_prefix("/").unwrap_or(folder));
        let folders = folders.iter().map(|(version, folder)| (*version, below(folder)));
        let folders: Vec<_> = folders.take(CGROUPS_MAX).collect();
        // The stalls of our own cgroup say more than those of the whole machine.
        let own = folders
            .iter()
            .find_map(|(_, folder)| File::open(folder.join("memory.pressure")).ok());
        Self {
            cgroups: folders
                .iter()
                .filter_map(|(version, folder)| Cgroup::open(*version, folder))
                .collect(),
            statm: File::open(root.join("proc/self/statm")).ok(),
            meminfo: File::open(root.join("proc/meminfo")).ok(),
            stalls: own.or_else(|| File::open(root.join("proc/pressure/memory")).ok()),
            page_bytes: process::page_bytes(),
            buffer: vec![0; BUFFER_BYTES].into(),
            reopen_in: 0,
            root: root.to_owned(),
        }
    }

    fn read(&mut self) -> Reading {
        if self.reopen_in == 1 {
            *self = Self::open(&self.root);
        }
        self.reopen_in = self.reopen_in.saturating_sub(1);
        let buffer = &mut self.buffer[..];
        let cgroups = self.cgroups.iter().filter_map(|cgroup| cgroup.part(buffer));
        let cgroup = cgroups.max_by_key(Part::per_mille);
        let pages = pread(self.statm.as_ref(), buffer).and_then(|text| word(text, 1));
        let rss_bytes = pages.and_then(|pages| pages.checked_mul(self.page_bytes));
        let reading = Reading {
            cgroup,
            rss_bytes,
            host: pread(self.meminfo.as_ref(), buffer).and_then(parse_meminfo),
            stall_per_mille: pread(self.stalls.as_ref(), buffer).and_then(parse_stalls),
        };
        let lost = self.cgroups.iter().any(|cgroup| cgroup.is_gone(buffer));
        if lost && self.reopen_in == 0 {
            self.reopen_in = REOPEN_READINGS;
        }
        reading
    }

    fn machine(&mut self) -> Machine {
        let buffer = &mut self.buffer[..];
        let limits = self.cgroups.iter().filter_map(|cgroup| cgroup.limit(buffer));
        let cgroup_bytes = limits.min();
        let host = pread(self.meminfo.as_ref(), buffer).and_then(parse_meminfo);
        Machine {
            host_bytes: host.map(|part| part.limit_bytes),
            cgroup_bytes,
        }
    }
}

// === impl Cgroup ===

impl Cgroup {
    /// `None` for a folder without these figures, as the root of v2 is.
    fn open(version: Version, folder: &Path) -> Option<Self> {
        let (current, file_keys): (_, [&'static [u8]; 2]) = match version {
            Version::V1 => (
                "memory.usage_in_bytes",
                [b"total_inactive_file", b"total_active_file"],
            ),
            Version::V2 => ("memory.current", [b"inactive_file", b"active_file"]),
        };
        let limits = version
            .limit_files()
            .iter()
            .filter_map(|name| File::open(folder.join(name)).ok());
        Some(Self {
            limits: limits.collect(),
            current: File::open(folder.join(current)).ok()?,
            stat: File::open(folder.join("memory.stat")).ok()?,
            file_keys,
        })
    }

    fn part(&self, buffer: &mut [u8]) -> Option<Part> {
        // A folder without a limit is not read further: most ancestors have none.
        let limit_bytes = self.limit(buffer)?;
        let current = pread(Some(&self.current), buffer).and_then(|text| word(text, 0))?;
        let stat = pread(Some(&self.stat), buffer).unwrap_or_default();
        let reclaimable = self
            .file_keys
            .map(|key| field(stat, key).unwrap_or(0))
            .into_iter();
        let used = current.saturating_sub(reclaimable.fold(0, u64::saturating_add));
        Part::new(used, limit_bytes)
    }

    /// The lower of its limits; "max" and the number by which v1 says so are none.
    fn limit(&self, buffer: &mut [u8]) -> Option<u64> {
        let limits = self.limits.iter().filter_map(|file| {
            let text = pread(Some(file), buffer)?;
            word(text, 0).filter(|bytes| (1..V1_NO_LIMIT).contains(bytes))
        });
        limits.min()
    }

    fn is_gone(&self, buffer: &mut [u8]) -> bool {
        self.current.read_at(&mut buffer[..1], 0).is_err()
    }
}

/// The text of a file from its beginning, as much as the buffer takes.
fn pread<'a>(file: Option<&File>, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let n = file?.read_at(buffer, 0).ok()?;
    Some(&buffer[..n])
}

/// The number at place `at` of the first line's words.
fn word(text: &[u8], at: usize) -> Option<u64> {
    let mut words = text
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    number(words.nth(at)?)
}

/// The number after `key` and blanks on a line of its own.
fn field(text: &[u8], key: &[u8]) -> Option<u64> {
    let mut lines = text.split(|byte| *byte == b'\n');
    let rest = lines.find_map(|line| line.strip_prefix(key).filter(|rest| rest.starts_with(b" ")))?;
    word(rest, 0)
}

/// All digits, or nothing.
fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// What is not available, of all: `MemTotal` and `MemAvailable` of `/proc/meminfo`.
fn parse_meminfo(text: &[u8]) -> Option<Part> {
    let bytes = |key: &[u8]| field(text, key).and_then(|kib| kib.checked_mul(1024));
    let (total, available) = (bytes(b"MemTotal:")?, bytes(b"MemAvailable:")?);
    Part::new(total.saturating_sub(available), total)
}

/// `some avg10=1.23 …`: per cent with two digits, as whole per mille.
fn parse_stalls(text: &[u8]) -> Option<u32> {
    let rest = text.strip_prefix(b"some avg10=")?;
    let word = rest.split(u8::is_ascii_whitespace).next()?;
    let percent: f32 = std::str::from_utf8(word).ok()?.parse().ok()?;
    (0.0..=100.0)
        .contains(&percent)
        .then_some((percent * 10.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_parsed_or_left_out() {
        assert_eq!(word(b"12 34 56\n", 1), Some(34));
        for none in [
            &b""[..],
            b"max\n",
            b"x 1\n",
            b"-5\n",
            b"99999999999999999999999\n",
        ] {
            assert_eq!(word(none, 0), None, "{none:?}");
        }
        let stat = b"anon 1\ninactive_file 20\nactive_file 300\nactive_files 9\n";
        assert_eq!(field(stat, b"active_file"), Some(300));
        assert_eq!(field(stat, b"file"), None);
        let meminfo = b"MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n";
        assert_eq!(parse_meminfo(meminfo), Part::new(600 * 1024, 1000 * 1024));
        assert_eq!(parse_meminfo(b"MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
    }

    #[test]
    fn stalls_are_per_mille() {
        for (text, expected) in [
            ("some avg10=1.23 avg60=0.00 avg300=0.00 total=1\n", Some(12)),
            ("some avg10=100.00 avg60=0\n", Some(1000)),
            ("some avg10=NaN avg60=0\n", None),
            ("full avg10=1.00\n", None),
            ("some avg10=\n", None),
            ("", None),
        ] {
            assert_eq!(parse_stalls(text.as_bytes()), expected, "{text:?}");
        }
    }

    #[test]
    fn parts_know_their_share_and_their_excess() {
        let part = Part::new(750, 1000).unwrap();
        assert_eq!((part.per_mille(), part.bytes_above(600)), (750, 150));
        let huge = Part::new(u64::MAX, 1).unwrap();
        assert_eq!(
            (huge.per_mille(), huge.bytes_above(1000)),
            (u32::MAX, u64::MAX - 1)
        );
        assert_eq!(Part::new(1, 0), None);
    }
}
