//! Profiles on demand: where processor time goes, who waits for a core or a lock, which polls are long.
//!
//! Nothing here runs until it is asked for, except the counting inside [`lock`] and [`poll`] wrappers. A
//! [`Collector`] gathers everything for some seconds into a [`Report`]; [`findings::rank`] says what stands out and what
//! to change, [`compare::compare`] whether a change paid.
//!
//! ```no_run
//! use std::time::Duration;
//! use tidegate_vitals::{Clock, profile};
//!
//! let collector = profile::Collector::new(profile::Config::default(), Clock::real())?;
//! let report = collector.run(std::thread::sleep);
//! if let Ok(cpu) = &report.cpu {
//!     std::fs::write("flame.svg", cpu.flame_graph("tidegate")).expect("the folder can be written");
//! }
//! for finding in profile::findings::rank(&report, &profile::findings::Inputs::default()) {
//!     println!("{:>3} {}", finding.score, finding.title_en);
//! }
//! # Ok::<(), profile::Error>(())
//! ```

mod collector;
pub mod compare;
pub mod cpu;
pub mod findings;
mod flame;
pub mod lock;
pub mod poll;
mod pprof;
mod report;
mod symbol;
pub mod threads;
mod watch;

pub use collector::{Collector, Config, SECONDS_MAX};
pub use lock::{TimedMutex, TimedRwLock};
pub use report::{CpuProfile, Frame, Hot, Memory, Report, Stack};
pub use watch::Watch;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// One profile runs at a time: two would disturb each other's figures.
    #[error("another profile is running")]
    Busy,
    /// The length is out of range.
    #[error("profile length of {given_ms} ms is outside 1 ms to {max_s} s")]
    Length {
        /// What was asked for.
        given_ms: u128,
        /// The longest one, in seconds.
        max_s: u64,
    },
    /// The rate is out of range.
    #[error("{given} samples a second are outside 1 to {max}")]
    Hertz {
        /// What was asked for.
        given: u32,
        /// The highest rate.
        max: u32,
    },
    /// The kernel's sampler is refused: `kernel.perf_event_paranoid` or the container forbids it.
    #[error("perf_event_open was refused")]
    Perf(#[source] std::io::Error),
    /// No timer could be made for any thread.
    #[error("no thread could be given a timer")]
    Timer(#[source] std::io::Error),
    /// Something else in the process uses the signal.
    #[error("SIGPROF already has a handler")]
    SignalTaken,
}

/// The result of this module's functions.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy)
    }
}
