//! The answers of a build without jemalloc: no figures, and a clear error for every request.

use std::time::Duration;

use super::Stats;
use crate::error::Error;

pub(super) fn stats() -> Option<Stats> {
    None
}

pub(super) fn purge() -> Result<(), Error> {
    Err(Error::AllocatorAbsent)
}

pub(super) fn decay() -> Result<(), Error> {
    Err(Error::AllocatorAbsent)
}

pub(super) fn set_decay(_: Duration) -> Result<(), Error> {
    Err(Error::AllocatorAbsent)
}

pub(super) fn background_thread() -> Option<bool> {
    None
}

pub(super) fn set_background_thread(_: bool) -> Result<(), Error> {
    Err(Error::AllocatorAbsent)
}

pub(super) fn thread_allocated_bytes() -> u64 {
    0
}

pub(super) fn heap_profile_available() -> bool {
    false
}

pub(super) fn heap_profile_active() -> Option<bool> {
    None
}

pub(super) fn set_heap_profile(_: bool) -> Result<(), Error> {
    Err(Error::AllocatorAbsent)
}

pub(super) fn heap_dump_text() -> Result<String, Error> {
    Err(Error::AllocatorAbsent)
}

pub(super) fn symbol(_: u64) -> Option<String> {
    None
}
