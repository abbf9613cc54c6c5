//! Figures of single functions: calls, time and allocated bytes, at a price that may stay on in production.
//!
//! `#[profiled]` puts one static [`Site`] into a function. While profiling is on, each call adds to buckets that belong
//! to the calling thread (about 5 KiB a function and thread), so that nothing is shared on the way; reading merges
//! them, and a thread that ends hands its figures over. Off, a call costs one relaxed load.
//!
//! ```
//! use tidegate_vitals::{profiled, span};
//!
//! #[profiled(crate = tidegate_vitals)]
//! fn add(a: u64, b: u64) -> u64 {
//!     a + b
//! }
//!
//! span::set_enabled(true);
//! assert_eq!(add(1, 2), 3);
//! let functions = span::figures();
//! assert!(functions.iter().any(|f| f.name.ends_with("add") && f.calls >= 1));
//! ```

mod buckets;
mod figures;
mod local;
mod poll;
mod site;
pub mod tick;

pub use buckets::{Buckets, Distribution};
pub use figures::{Figures, Reading};
pub use poll::polled;
pub use site::{SITES_MAX, Site, Span};

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

/// What hot paths look at: whether the setting or anybody's [`Recording`] wants it.
static ENABLED: AtomicBool = AtomicBool::new(false);
static WANTED: Mutex<Wanted> = Mutex::new(Wanted {
    by_setting: false,
    by_recordings: 0,
});
static ALLOCATED: OnceLock<fn() -> u64> = OnceLock::new();

struct Wanted {
    by_setting: bool,
    by_recordings: usize,
}

/// Keeps recording on while it lives, whatever the setting says; see [`record`].
#[derive(Debug)]
#[must_use = "recording may end when this is dropped"]
pub struct Recording(());

/// Turns recording on or off for the whole process. The first turning on calibrates the processor's counter, which
/// takes about five milliseconds.
pub fn set_enabled(on: bool) {
    want(|wanted| wanted.by_setting = on);
}

/// Records until the result is dropped; after that the setting decides again.
pub fn record() -> Recording {
    want(|wanted| wanted.by_recordings += 1);
    Recording(())
}

impl Drop for Recording {
    fn drop(&mut self) {
        want(|wanted| wanted.by_recordings -= 1);
    }
}

fn want(change: impl FnOnce(&mut Wanted)) {
    let mut wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner);
    change(&mut wanted);
    let on = wanted.by_setting || wanted.by_recordings > 0;
    if on {
        tick::calibrate();
    }
    ENABLED.store(on, Relaxed);
}

/// Whether calls are recorded.
#[inline]
pub fn is_enabled() -> bool {
    ENABLED.load(Relaxed)
}

/// Installs the reader of the bytes that the calling thread has allocated since it began; the first one stays.
/// It is called twice in each recorded call, so it must be as cheap as reading a variable. Says whether it was taken.
pub fn set_allocated_hook(read: fn() -> u64) -> bool {
    ALLOCATED.set(read).is_ok()
}

#[inline]
fn allocated_bytes() -> u64 {
    ALLOCATED.get().map_or(0, |read| read())
}

/// The figures of every function that was called while recording was on, by falling total time.
pub fn figures() -> Vec<Figures> {
    let mut all: Vec<Figures> = readings().iter().map(Reading::figures).collect();
    all.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.name.cmp(&b.name)));
    all
}

/// Every function with its buckets: for differences between two moments, see [`Reading::since`].
pub fn readings() -> Vec<Reading> {
    site::readings(ALLOCATED.get().is_some())
}

/// How many functions have been called while recording was on.
pub fn n_sites() -> usize {
    site::n_sites()
}

/// What was not recorded: functions beyond [`SITES_MAX`], and calls on threads that were already ending.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    /// Functions that found the table full; their calls are not recorded.
    pub sites: u64,
    /// Calls that ended after the thread's figures had been handed over.
    pub calls: u64,
}

/// What was not recorded so far.
pub fn lost() -> Lost {
    site::lost()
}
