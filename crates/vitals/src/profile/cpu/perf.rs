//! The kernel's sampler, on this process alone: perf_event_open(2).
//!
//! Unsafe code here follows three rules. **F1**: a system call gets only pointers to locals that outlive it, of the
//! layout its manual page names, and its result is used only if it reports success. **F2**: a mapping is `LEN` bytes
//! long and lives as long as its [`Ring`]; all accesses stay below that length, and the data area is read only between
//! tail and head, which the kernel leaves alone until the tail is moved. **F3**: a file descriptor that the kernel
//! just returned has no other owner.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::{Error, Result, threads};
use super::{FRAMES_MAX, Source, Stacks, THREADS_MAX};

/// All threads that are sampled.
pub(super) struct Perf {
    hertz: u32,
    event: Event,
    rings: Vec<(u32, Ring)>,
    refused: Vec<u32>,
    n_refused: u64,
    record: Vec<u8>,
    frames: Vec<u64>,
}

/// What drives the samples: `type` and `config` of the attribute.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Event {
    Cycles,
    Clock,
}

/// One thread's buffer, shared with the kernel: a page of positions, then the records.
struct Ring {
    base: *mut u8,
    /// Closing it ends the sampling.
    _file: File,
}

/// `struct perf_event_attr` in its fifth version, the first that bounds the stack.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_frequency: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_kind: u32,
    breakpoint: [u64; 2],
    branch_sample_type: u64,
    user_registers: u64,
    user_stack: u32,
    clock_id: i32,
    interrupt_registers: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

const SAMPLE_TID: u64 = 1 << 1;
const SAMPLE_CALLCHAIN: u64 = 1 << 5;
const EXCLUDE_KERNEL: u64 = 1 << 5;
const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
const FREQUENCY: u64 = 1 << 10;
const EXCLUDE_CALLCHAIN_KERNEL: u64 = 1 << 21;
const FLAG_CLOSE_ON_EXEC: libc::c_ulong = 8;
const RECORD_LOST: u32 = 2;
const RECORD_SAMPLE: u32 = 9;
/// Addresses from here on are marks between kernel and user frames.
const CONTEXT_MARKS: u64 = u64::MAX - 4_094;

const PAGE: usize = 4_096;
/// 16 KiB of records: a hundred milliseconds at 999 Hz bring 100 stacks of at most a kilobyte; deeper ones that do not
/// fit are reported as lost.
const DATA: usize = 4 * PAGE;
const LEN: usize = PAGE + DATA;
/// Where `perf_event_mmap_page` keeps the positions.
const HEAD_AT: usize = 1_024;
const TAIL_AT: usize = 1_032;

// === impl Perf ===

impl Perf {
    pub(super) fn start(hertz: u32) -> Result<Self> {
        let (event, probe) = match Ring::open(Event::Cycles, hertz, 0) {
            Ok(ring) => (Event::Cycles, ring),
            // Virtual machines seldom have a cycle counter.
            Err(_) => (
                Event::Clock,
                Ring::open(Event::Clock, hertz, 0).map_err(Error::Perf)?,
            ),
        };
        drop(probe);
        let mut perf = Self {
            hertz,
            event,
            rings: Vec::new(),
            refused: Vec::new(),
            n_refused: 0,
            record: Vec::new(),
            frames: Vec::with_capacity(FRAMES_MAX),
        };
        perf.watch_new_threads();
        Ok(perf)
    }

    pub(super) fn source(&self) -> Source {
        match self.event {
            Event::Cycles => Source::PerfCycles,
            Event::Clock => Source::PerfClock,
        }
    }

    pub(super) fn collect(&mut self, stacks: &mut Stacks) {
        let Self {
            rings,
            record,
            frames,
            ..
        } = self;
        for (_, ring) in rings.iter() {
            ring.drain(record, |kind, body| take(kind, body, frames, stacks));
        }
        self.watch_new_threads();
        stacks.threads_refused = self.n_refused;
    }

    fn watch_new_threads(&mut self) {
        let alive = threads::ids();
        self.rings.retain(|(tid, _)| alive.contains(tid));
        self.refused.retain(|tid| alive.contains(tid));
        for tid in alive {
            if self.rings.iter().any(|(known, _)| *known == tid) || self.refused.contains(&tid) {
                continue;
            }
            let ring = (self.rings.len() < THREADS_MAX).then(|| Ring::open(self.event, self.hertz, tid));
            match ring {
                Some(Ok(ring)) => self.rings.push((tid, ring)),
                _ => {
                    self.n_refused += 1;
                    self.refused.push(tid);
                }
            }
        }
    }
}

/// Reads one record: a sample with its chain, or the kernel's word that some are lost.
fn take(kind: u32, body: &[u8], frames: &mut Vec<u64>, stacks: &mut Stacks) {
    let word = |at: usize| {
        let bytes = body.get(at..at + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    match kind {
        RECORD_LOST => stacks.lost += word(8).unwrap_or(0),
        RECORD_SAMPLE => {
            let (Some(ids), Some(n)) = (word(0), word(8)) else {
                return;
            };
            let tid = (ids >> 32) as u32;
            frames.clear();
            let chain = (0..n as usize).map_while(|i| word(16 + i * 8));
            frames.extend(chain.filter(|address| *address < CONTEXT_MARKS).take(FRAMES_MAX));
            stacks.add(tid, frames);
        }
        _ => {}
    }
}

// === impl Ring ===

impl Ring {
    /// Begins to sample thread `tid`; zero is the calling one.
    fn open(event: Event, hertz: u32, tid: u32) -> io::Result<Self> {
        let attributes = Attributes {
            // Hardware is type 0 with cycles as 0, software type 1 with the processor's clock as 0.
            kind: u32::from(event == Event::Clock),
            size: size_of::<Attributes>() as u32,
            sample_frequency: u64::from(hertz),
            sample_type: SAMPLE_TID | SAMPLE_CALLCHAIN,
            flags: EXCLUDE_KERNEL | EXCLUDE_HYPERVISOR | FREQUENCY | EXCLUDE_CALLCHAIN_KERNEL,
            sample_max_stack: FRAMES_MAX as u16,
            ..Attributes::default()
        };
        // SAFETY: F1, perf_event_open(2): attributes, thread, any core, no group, flags.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                tid as libc::pid_t,
                -1,
                -1,
                FLAG_CLOSE_ON_EXEC,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: F3.
        let file = unsafe { File::from_raw_fd(fd as i32) };
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: F1, mmap(2): a new mapping, placed by the kernel.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            base: base.cast(),
            _file: file,
        })
    }

    /// Hands each record to `take` and gives its place back. `record` is where a record is put together.
    fn drain(&self, record: &mut Vec<u8>, mut take: impl FnMut(u32, &[u8])) {
        let head = self.position(HEAD_AT).load(Ordering::Acquire);
        let mut tail = self.position(TAIL_AT).load(Ordering::Relaxed);
        while tail < head {
            // `perf_event_header`: kind (4 bytes), misc (2), size (2).
            self.copy(tail, 8, record);
            let kind = u32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            let size = u64::from(u16::from_ne_bytes([record[6], record[7]]));
            if size < 8 || size > head - tail {
                tail = head; // No kernel writes this; better nothing than nonsense.
                break;
            }
            self.copy(tail + 8, size as usize - 8, record);
            take(kind, record);
            tail += size;
        }
        self.position(TAIL_AT).store(tail, Ordering::Release);
    }

    fn position(&self, at: usize) -> &AtomicU64 {
        // SAFETY: F2; the page is aligned and both places lie in it at multiples of eight.
        unsafe { &*self.base.add(at).cast::<AtomicU64>() }
    }

    /// Copies `n` bytes from `position`, which may run over the end of the area to its start.
    fn copy(&self, position: u64, n: usize, into: &mut Vec<u8>) {
        into.clear();
        let start = (position % DATA as u64) as usize;
        let first = n.min(DATA - start);
        for (from, len) in [(start, first), (0, n - first)] {
            // SAFETY: F2; `start + first` and `n - first` are at most `DATA`, since a record is no longer than that.
            into.extend_from_slice(unsafe {
                std::slice::from_raw_parts(self.base.add(PAGE + from), len.min(DATA))
            });
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: F2; nobody refers to the mapping any more.
        unsafe { libc::munmap(self.base.cast(), LEN) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_has_the_kernels_size() {
        assert_eq!(size_of::<Attributes>(), 112);
    }

    #[test]
    fn records_are_read_and_damaged_ones_ignored() {
        let mut stacks = Stacks::default();
        let mut frames = Vec::new();
        let words = |list: &[u64]| {
            list.iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        let sample = words(&[7 << 32 | 7, 3, u64::MAX - 511, 0x10, 0x20]);
        take(RECORD_SAMPLE, &sample, &mut frames, &mut stacks);
        assert_eq!(frames, [0x10, 0x20], "the mark of user frames is no frame");
        take(
            RECORD_SAMPLE,
            &words(&[7 << 32, u64::MAX, 0x10]),
            &mut frames,
            &mut stacks,
        );
        assert_eq!(frames, [0x10], "a count beyond the record reads what is there");
        take(RECORD_SAMPLE, &[1, 2, 3], &mut frames, &mut stacks);
        take(RECORD_LOST, &words(&[0, 5]), &mut frames, &mut stacks);
        assert_eq!((stacks.samples, stacks.lost), (2, 5));
    }
}
