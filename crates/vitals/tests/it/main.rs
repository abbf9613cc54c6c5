//! Tests of vitals through its public interface.

mod allocator;
mod histogram;
mod leak;
mod ledger;
mod pressure;
mod profile;
mod registry;
mod snapshot;
mod span;
mod timeline;
mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One profile runs at a time in a process, and what it switches on is on for everybody.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
