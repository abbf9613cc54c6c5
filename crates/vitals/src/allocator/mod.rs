//! What the allocator holds, how to make it give back, and which code asked for what it holds.
//!
//! With the feature `jemalloc` these are the figures of jemalloc (5.3, its manual is jemalloc(3)); without it every figure
//! is `None` and every request [`Error::AllocatorAbsent`]. The program chooses the allocator; this module only talks to it.
//!
//! Heap profiling has to be there from the first allocation, so the program exports the options that jemalloc reads at its
//! start. The symbol is `_rjem_malloc_conf`, a pointer to a C string, because tikv's build prefixes every name:
//!
//! ```text
//! prof:true,prof_active:false,background_thread:true,dirty_decay_ms:5000
//! ```
//!
//! Small allocations that are sampled were seen to be missing from `allocated`; at the default of one sample in 512 KiB
//! that is under 1 %, so `lg_prof_sample` should not be much below 19. Sampling is off until [`set_heap_profile`] turns it on; until then it costs one branch an allocation.

#[cfg(not(feature = "jemalloc"))]
mod absent;
mod heap;
#[cfg(feature = "jemalloc")]
mod jemalloc;
mod purger;

#[cfg(not(feature = "jemalloc"))]
use absent as backend;
#[cfg(feature = "jemalloc")]
use jemalloc as backend;

pub use heap::{HeapProfile, HeapSite};
pub use purger::{PurgeStats, Purger};

use std::time::Duration;

use crate::error::Error;

/// What the allocator holds, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Given out and in use.
    pub allocated: u64,
    /// In pages that hold something in use.
    pub active: u64,
    /// In memory: active, metadata, and pages that are kept for reuse.
    pub resident: u64,
    /// In mapped regions.
    pub mapped: u64,
    /// Address space that was given back and is kept for reuse; costs no memory.
    pub retained: u64,
    /// The allocator's own.
    pub metadata: u64,
}

// === impl Stats ===

impl Stats {
    /// Memory that is kept and not in use.
    pub const fn idle(&self) -> u64 {
        self.resident.saturating_sub(self.allocated)
    }
}

/// What the allocator holds now.
pub fn stats() -> Option<Stats> {
    backend::stats()
}

/// Gives every unused page back to the system; says by how many bytes the resident memory fell.
///
/// It takes about a millisecond for each 10 MB.
///
/// # Errors
/// [`Error::AllocatorAbsent`] or what the allocator answers.
pub fn purge() -> Result<u64, Error> {
    let before = backend::stats();
    backend::purge()?;
    let after = backend::stats();
    Ok(before.zip(after).map_or(0, |(before, after)| {
        before.resident.saturating_sub(after.resident)
    }))
}

/// Gives back the pages that have been unused for their time, which else happens as allocations go on.
///
/// # Errors
/// [`Error::AllocatorAbsent`] or what the allocator answers.
pub fn decay() -> Result<(), Error> {
    backend::decay()
}

/// How long unused pages are kept, for all arenas that exist and come.
///
/// # Errors
/// [`Error::AllocatorAbsent`] or what the allocator answers.
pub fn set_decay(time: Duration) -> Result<(), Error> {
    backend::set_decay(time)
}

/// Whether threads of the allocator's own give pages back.
pub fn background_thread() -> Option<bool> {
    backend::background_thread()
}

/// Starts or stops those threads.
///
/// # Errors
/// [`Error::AllocatorAbsent`] or what the allocator answers.
pub fn set_background_thread(on: bool) -> Result<(), Error> {
    backend::set_background_thread(on)
}

/// The bytes that the calling thread has asked for since it began, freed ones included; zero where nobody counts. As cheap
/// as reading a variable.
pub fn thread_allocated_bytes() -> u64 {
    backend::thread_allocated_bytes()
}

/// Lets figures of `#[profiled]` functions name the bytes they allocate. Says whether it does: the allocator must count
/// them, and nobody else's reader be there already.
pub fn count_for_functions() -> bool {
    thread_allocated_bytes() > 0 && crate::span::set_allocated_hook(thread_allocated_bytes)
}

/// Whether the process was started so that its heap can be profiled.
pub fn heap_profile_available() -> bool {
    backend::heap_profile_available()
}

/// Whether allocations are being sampled; `None` if they cannot be.
pub fn heap_profile_active() -> Option<bool> {
    backend::heap_profile_active()
}

/// Turns sampling on or off. What was sampled stays in the profile until it is freed.
///
/// # Errors
/// [`Error::HeapProfileOff`] if the process was not started for it.
pub fn set_heap_profile(on: bool) -> Result<(), Error> {
    backend::set_heap_profile(on)
}

/// The sampled allocations that are alive, by the stack that asked for them. Takes milliseconds.
///
/// # Errors
/// [`Error::HeapProfileOff`], or [`Error::HeapDump`] with what failed.
pub fn heap_profile_dump() -> Result<HeapProfile, Error> {
    HeapProfile::parse(&backend::heap_dump_text()?)
}

/// The name of the function at an address of this process, with file and line where they are known; the address itself
/// where nothing is.
pub fn symbol(address: u64) -> String {
    backend::symbol(address).unwrap_or_else(|| format!("{address:#x}"))
}
