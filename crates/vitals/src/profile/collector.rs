//! Gathers everything for some seconds.

use std::time::Duration;

use super::cpu::{self, COLLECT_EVERY, Sampler};
use super::report::{CpuProfile, Memory, Report};
use super::{Error, Result, lock, poll, threads};
use crate::clock::{Clock, Instant};
use crate::process;
use crate::span::{self, Reading};

/// The longest profile: what is kept of it is bounded for that time.
pub const SECONDS_MAX: u64 = 300;

/// What to gather.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long.
    pub length: Duration,
    /// How to sample the processor; none leaves that part out.
    pub cpu: Option<cpu::Config>,
}

/// One profile to be made.
#[derive(Debug)]
pub struct Collector {
    config: Config,
    clock: Clock,
}

/// What was read at the start.
struct Before {
    functions: Vec<Reading>,
    locks: Vec<lock::Reading>,
    polls: Vec<poll::Figures>,
    threads: Vec<threads::Reading>,
    rss_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            length: Duration::from_secs(10),
            cpu: Some(cpu::Config::default()),
        }
    }
}

// === impl Collector ===

impl Collector {
    /// A collector that measures its length with `clock`.
    ///
    /// # Errors
    /// The length is zero or above [`SECONDS_MAX`].
    pub fn new(config: Config, clock: Clock) -> Result<Self> {
        if config.length < Duration::from_millis(1) || config.length > Duration::from_secs(SECONDS_MAX) {
            return Err(Error::Length {
                given_ms: config.length.as_millis(),
                max_s: SECONDS_MAX,
            });
        }
        Ok(Self { config, clock })
    }

    /// Gathers for the configured time. It blocks, so the caller gives it a thread of its own; `wait` is how that
    /// thread waits, [`std::thread::sleep`] outside tests. `#[profiled]` functions are recorded meanwhile,
    /// whatever the setting says. What cannot be had is missing from the report, with the reason.
    pub fn run(&self, mut wait: impl FnMut(Duration)) -> Report {
        let wait = |length| {
            wait(length);
            true
        };
        self.run_while(wait, || ())
    }

    /// The same, until `wait` says `false`: whoever wanted the profile has gone. What was gathered until then is
    /// reported, without the processor's part, whose names would take time that nobody waits for. `measured` is called
    /// when the time is over and nothing has been named yet: naming reads debug information into memory.
    pub fn run_while(&self, mut wait: impl FnMut(Duration) -> bool, measured: impl FnOnce()) -> Report {
        let recording = span::record();
        let (start, started_ms) = (self.clock.now(), self.clock.wall_ms());
        let mut sampler = match self.config.cpu {
            Some(config) => Sampler::start(config).map_err(|error| explain(&error)),
            None => Err("not asked for".to_owned()),
        };
        let before = Before::read();
        let is_whole = self.pass(start, &mut sampler, &mut wait);
        let length = self.clock.now() - start;
        let mut report = before.report(started_ms, length);
        drop(recording);
        measured();
        // Naming takes time and memory, so it comes when nothing is measured any more.
        report.cpu = sampler.and_then(|sampler| {
            if !is_whole {
                return Err("ended early".to_owned());
            }
            let (source, stacks) = sampler.finish();
            let hertz = self.config.cpu.map_or(0, |config| config.hertz);
            Ok(CpuProfile::new(source, hertz, &stacks, started_ms, length))
        });
        report
    }

    /// Lets the time pass, and collects samples on the way. Says whether all of it has passed.
    fn pass(
        &self,
        start: Instant,
        sampler: &mut std::result::Result<Sampler, String>,
        wait: &mut impl FnMut(Duration) -> bool,
    ) -> bool {
        let end = start + self.config.length;
        loop {
            let left = end - self.clock.now();
            if left.is_zero() {
                return true;
            }
            if !wait(left.min(COLLECT_EVERY)) {
                return false;
            }
            if let Ok(sampler) = sampler {
                sampler.collect();
            }
        }
    }
}

fn explain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

// === impl Before ===

impl Before {
    fn read() -> Self {
        Self {
            functions: span::readings(),
            locks: lock::readings(),
            polls: poll::figures(),
            threads: threads::readings(),
            rss_bytes: process::rss_bytes().unwrap_or(0),
        }
    }

    fn report(&self, started_ms: u64, length: Duration) -> Report {
        Report {
            started_ms,
            length,
            cpu: Err(String::new()),
            threads: threads::between(&self.threads, &threads::readings()),
            functions: self.functions(),
            locks: lock::between(&self.locks, &lock::readings()),
            polls: poll::between(&self.polls, &poll::figures()),
            memory: Memory {
                rss_before_bytes: self.rss_bytes,
                rss_after_bytes: process::rss_bytes().unwrap_or(0),
            },
        }
    }

    /// Functions called since, by falling total time.
    fn functions(&self) -> Vec<span::Figures> {
        let since = |now: Reading| match self.functions.iter().find(|then| then.is_of(&now)) {
            Some(then) => now.since(then).figures(),
            None => now.figures(),
        };
        let all = span::readings().into_iter().map(since);
        let mut all: Vec<span::Figures> = all.filter(|f| f.calls > 0 || f.polls > 0).collect();
        all.sort_by(|a, b| b.total_ns.cmp(&a.total_ns).then_with(|| a.name.cmp(&b.name)));
        all
    }
}
