//! Where processor time goes: stacks of all threads, taken 99 times a second of their running.
//!
//! The kernel's sampler (`perf_event_open`) is used where it is allowed, a timer signal with a walk along the frame
//! pointers elsewhere. Both see user code only, and whole stacks only in a program built with frame pointers
//! (`-C force-frame-pointers=yes`); without them the innermost function is right and its callers may be missing.

mod perf;
mod signal;
mod stacks;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) use stacks::Stacks;

use super::{Error, Result};

/// How to sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Samples a second of running thread; 99 does not beat with work that happens a hundred times a second.
    pub hertz: u32,
    /// Which sampler to use.
    pub source: Choice,
}

/// Which sampler to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The kernel's; the signal if that is refused.
    Best,
    /// The kernel's or none.
    Perf,
    /// The signal.
    Signal,
}

/// What took the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The kernel's sampler on the processor's cycle counter.
    PerfCycles,
    /// The kernel's sampler on its clock, where no cycle counter is to be had.
    PerfClock,
    /// A timer signal per thread.
    Signal,
}

/// Samples a second that are allowed.
pub const HERTZ_MAX: u32 = 999;
/// The most frames of a stack; outer ones beyond it are cut off.
pub const FRAMES_MAX: usize = 127;
/// Threads that are sampled: 20 KiB of the kernel's memory each.
pub const THREADS_MAX: usize = 256;
/// How often the samples are collected and new threads looked for.
pub(crate) const COLLECT_EVERY: Duration = Duration::from_millis(100);

/// A running profile; only one at a time in a process. Dropping it stops it.
pub(crate) struct Sampler {
    backend: Backend,
    stacks: Stacks,
    _only: Only,
}

enum Backend {
    Perf(perf::Perf),
    Signal(signal::Signal),
}

/// The proof that no other profile runs.
struct Only;

static RUNNING: AtomicBool = AtomicBool::new(false);

// === impl Source ===

impl Source {
    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PerfCycles => "perf cycles",
            Self::PerfClock => "perf cpu-clock",
            Self::Signal => "signal",
        }
    }

    /// The one of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        let all = [Self::PerfCycles, Self::PerfClock, Self::Signal];
        all.into_iter().find(|source| source.as_str() == name)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hertz: 99,
            source: Choice::Best,
        }
    }
}

// === impl Sampler ===

impl Sampler {
    pub(crate) fn start(config: Config) -> Result<Self> {
        if config.hertz == 0 || config.hertz > HERTZ_MAX {
            return Err(Error::Hertz {
                given: config.hertz,
                max: HERTZ_MAX,
            });
        }
        let only = Only::claim()?;
        let backend = match config.source {
            Choice::Perf => Backend::Perf(perf::Perf::start(config.hertz)?),
            Choice::Signal => Backend::Signal(signal::Signal::start(config.hertz)?),
            Choice::Best => match perf::Perf::start(config.hertz) {
                Ok(perf) => Backend::Perf(perf),
                Err(_) => Backend::Signal(signal::Signal::start(config.hertz)?),
            },
        };
        Ok(Self {
            backend,
            stacks: Stacks::default(),
            _only: only,
        })
    }

    /// Takes over what was sampled and begins to watch new threads; call it every [`COLLECT_EVERY`].
    pub(crate) fn collect(&mut self) {
        match &mut self.backend {
            Backend::Perf(perf) => perf.collect(&mut self.stacks),
            Backend::Signal(signal) => signal.collect(&mut self.stacks),
        }
    }

    /// Stops and hands over all stacks.
    pub(crate) fn finish(mut self) -> (Source, Stacks) {
        self.collect();
        let source = match &self.backend {
            Backend::Perf(perf) => perf.source(),
            Backend::Signal(_) => Source::Signal,
        };
        (source, self.stacks)
    }
}

impl Only {
    fn claim() -> Result<Self> {
        if RUNNING.swap(true, Ordering::AcqRel) {
            return Err(Error::Busy);
        }
        Ok(Self)
    }
}

impl Drop for Only {
    fn drop(&mut self) {
        RUNNING.store(false, Ordering::Release);
    }
}
