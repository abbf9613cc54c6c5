//! Talks to jemalloc through its one door, `mallctl`.
//!
//! Unsafe code here follows two rules. **A1**: the name ends in a null byte, and the value is a local of exactly the type
//! that jemalloc(3) gives for the name, with its length beside it; jemalloc refuses any other length. **A2**: a C call of
//! the system gets only pointers that outlive it, and a descriptor it returns is owned by one `File` from then on.
//! **A3**: `thread.allocatedp` is the address of the calling thread's own count, which jemalloc(3) keeps in place for the life
//! of that thread and which this thread alone writes; the address never leaves the thread it was asked on.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::{null, null_mut};
use std::time::Duration;

use tikv_jemalloc_sys::mallctl;

use super::Stats;
use crate::error::Error;

/// The number that stands for all arenas in a name: `MALLCTL_ARENAS_ALL`.
const PURGE_ALL: &CStr = c"arena.4096.purge";
const DECAY_ALL: &CStr = c"arena.4096.decay";
/// Arenas beyond this number are not looked at one by one; jemalloc makes four for each core.
const ARENAS_MAX: u32 = 4096;

pub(super) fn stats() -> Option<Stats> {
    // Figures are those of the last epoch.
    set(c"epoch", 1_u64).ok()?;
    let bytes = |name| get::<usize>(name).ok().map(|bytes| bytes as u64);
    Some(Stats {
        allocated: bytes(c"stats.allocated")?,
        active: bytes(c"stats.active")?,
        resident: bytes(c"stats.resident")?,
        mapped: bytes(c"stats.mapped")?,
        retained: bytes(c"stats.retained")?,
        metadata: bytes(c"stats.metadata")?,
    })
}

pub(super) fn purge() -> Result<(), Error> {
    call(PURGE_ALL)
}

pub(super) fn decay() -> Result<(), Error> {
    call(DECAY_ALL)
}

pub(super) fn set_decay(time: Duration) -> Result<(), Error> {
    let ms = isize::try_from(time.as_millis()).unwrap_or(isize::MAX);
    set(c"arenas.dirty_decay_ms", ms)?;
    let n_arenas: u32 = get(c"arenas.narenas")?;
    for arena in 0..n_arenas.min(ARENAS_MAX) {
        let name = CString::new(format!("arena.{arena}.dirty_decay_ms")).expect("no null byte in a number");
        // An arena that no thread has used yet does not exist; it takes the default set above when it comes.
        let _ = set(&name, ms);
    }
    Ok(())
}

pub(super) fn background_thread() -> Option<bool> {
    get::<u8>(c"background_thread").ok().map(|on| on != 0)
}

pub(super) fn set_background_thread(on: bool) -> Result<(), Error> {
    set(c"background_thread", on)
}

thread_local! {
    /// Where this thread's count stands; null until it is asked for, or if there is none.
    static ALLOCATED: Cell<*const u64> = const { Cell::new(null()) };
}

#[inline]
pub(super) fn thread_allocated_bytes() -> u64 {
    let mut place = ALLOCATED.get();
    if place.is_null() {
        place = find_allocated();
    }
    if place.is_null() {
        return 0;
    }
    // SAFETY: A3.
    unsafe { *place }
}

#[cold]
fn find_allocated() -> *const u64 {
    let mut place = null::<u64>();
    let mut length = size_of::<*const u64>();
    // SAFETY: A1, the value is a `uint64_t *`.
    let code = unsafe {
        mallctl(
            c"thread.allocatedp".as_ptr(),
            (&raw mut place).cast(),
            &raw mut length,
            null_mut(),
            0,
        )
    };
    let place = if code == 0 { place } else { null() };
    ALLOCATED.set(place);
    place
}

pub(super) fn heap_profile_available() -> bool {
    get::<u8>(c"opt.prof").is_ok_and(|on| on != 0)
}

pub(super) fn heap_profile_active() -> Option<bool> {
    heap_profile_available()
        .then(|| get::<u8>(c"prof.active").ok())
        .flatten()
        .map(|on| on != 0)
}

pub(super) fn set_heap_profile(on: bool) -> Result<(), Error> {
    if !heap_profile_available() {
        return Err(Error::HeapProfileOff);
    }
    set(c"prof.active", on)
}

/// The text of a dump. It goes through a file in memory: no folder has to be writable, and nobody else can see it.
pub(super) fn heap_dump_text() -> Result<String, Error> {
    if !heap_profile_available() {
        return Err(Error::HeapProfileOff);
    }
    let failed = |error: std::io::Error| Error::HeapDump(error.to_string());
    let mut file = memory_file().map_err(failed)?;
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("no null byte in a number");
    set::<*const c_char>(c"prof.dump", path.as_ptr())?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn symbol(address: u64) -> Option<String> {
    let mut found = None;
    backtrace::resolve(address as *mut _, |symbol| {
        // The last one is the function itself; those before it are inlined into it.
        let name = symbol.name().map(|name| format!("{name:#}"));
        let place = symbol.filename().zip(symbol.lineno());
        found = name.map(|name| match place {
            Some((file, line)) => format!("{name} ({}:{line})", file.display()),
            None => name,
        });
    });
    found
}

fn memory_file() -> std::io::Result<File> {
    // SAFETY: A2, memfd_create(2).
    let fd = unsafe { libc::memfd_create(c"tidegate-heap".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: A2, the descriptor is new and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

fn get<T: Copy + Default>(name: &CStr) -> Result<T, Error> {
    let mut value = T::default();
    let mut length = size_of::<T>();
    // SAFETY: A1.
    let code = unsafe {
        mallctl(
            name.as_ptr(),
            (&raw mut value).cast(),
            &raw mut length,
            null_mut(),
            0,
        )
    };
    checked(name, code).map(|()| value)
}

fn set<T: Copy>(name: &CStr, mut value: T) -> Result<(), Error> {
    // SAFETY: A1.
    let code = unsafe {
        mallctl(
            name.as_ptr(),
            null_mut(),
            null_mut(),
            (&raw mut value).cast(),
            size_of::<T>(),
        )
    };
    checked(name, code)
}

fn call(name: &CStr) -> Result<(), Error> {
    // SAFETY: A1, a name without a value.
    let code = unsafe {
        mallctl(
            name.as_ptr(),
            null_mut(),
            null_mut(),
            null::<u8>().cast_mut().cast(),
            0,
        )
    };
    checked(name, code)
}

fn checked(name: &CStr, code: i32) -> Result<(), Error> {
    if code == 0 {
        return Ok(());
    }
    Err(Error::Allocator {
        name: name.to_string_lossy().into_owned(),
        code,
    })
}
