//! Finds memory that grows without a reason, and names the code that asks for it.
//!
//! ```text
//! samples (live − accounted, load) ─▶ buckets (their minimum) ─▶ window ─▶ regression on time and load ─▶ suspicious?
//! first time: heap sampling on ─▶ second window agrees: alarm with what grew between two heap profiles
//! ```
//!
//! A plain slope alarms on every warm-up, so growth counts only if it
//! - is left after what the accounts explain and after what the load explains (a multiple regression),
//! - shows in the *minimum* of each bucket, so that garbage that is collected now and then does not count,
//! - is far outside the noise, which is corrected for neighbours that resemble each other (lag-1 autocorrelation, the
//!   effective sample size of Bayley and Hammersley 1946),
//! - does not flatten inside its window, and comes again at a similar rate in the next window, which shares no sample.
//!
//! Found are leaks of 8 MiB a window and more beside noise, warm-ups and load; beside teeth that last longer than a bucket
//! from twice their height on.
//!
//! [`crate::objects`] are watched the same way, each kind by itself.

mod fit;
#[doc(hidden)]
pub mod series;
mod window;

pub use fit::Fit;

use std::sync::Arc;
use std::time::Duration;

use crate::allocator::{self, HeapProfile, HeapSite};
use crate::clock::Instant;
use crate::metric::{Counter, Gauge, Id, Registry};
use crate::objects::Objects;
use window::{Point, Window};

/// What the detector goes by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Samples of this time become one point, their minimum.
    pub bucket: Duration,
    /// Points of a window; a window is evaluated when it is full, and the next one begins.
    pub buckets: usize,
    /// Less unexplained growth in a window than this is never suspicious, bytes.
    pub growth_bytes_min: u64,
    /// Nor is less than this share of what is unexplained on average, per mille.
    pub growth_min_per_mille: u16,
    /// Nor is growth of a kind of object by fewer than this in a window.
    pub growth_objects_min: u64,
    /// How many standard errors the growth must be away from nothing.
    pub significance: f64,
    /// The least ratio of the second half of a window to the whole, and of the second window to the first.
    pub agreement: f64,
}

/// One look at the process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Bytes in use, as the allocator counts them, or resident where it does not.
    pub live_bytes: u64,
    /// Bytes that the accounts explain.
    pub accounted_bytes: u64,
    /// A figure that memory may fairly follow, such as connections.
    pub load: f64,
}

/// Turns heap sampling on and off.
pub trait HeapSampler: Send + Sync {
    /// Begins to sample; says whether it can.
    fn start(&self) -> bool;
    /// Ends it.
    fn stop(&self);
    /// The sampled allocations that are alive.
    fn profile(&self) -> Option<HeapProfile>;
}

/// The sampler of the allocator; does nothing in a build without it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllocatorSampler;

/// What grows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// Bytes that neither accounts nor load explain.
    Bytes,
    /// Objects of a kind.
    Objects(&'static str),
}

/// A leak: two windows after each other agree.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// When it was raised.
    pub at: Instant,
    /// What grows.
    pub subject: Subject,
    /// By how much an hour, bytes or objects, in the second window.
    pub per_hour: f64,
    /// The first evaluation.
    pub first: Fit,
    /// The one that agreed.
    pub second: Fit,
    /// The stacks that grew most between the two, at most ten; empty where the heap cannot be sampled.
    pub sites: Vec<HeapSite>,
}

/// What the detector has done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// Samples taken in.
    pub samples: u64,
    /// Windows evaluated.
    pub evaluations: u64,
    /// Windows that were suspicious after one that was not.
    pub suspicions: u64,
    /// Leaks found.
    pub alarms: u64,
    /// The last evaluation of the bytes.
    pub last: Option<Fit>,
    /// Whether the heap is being sampled for a suspicion.
    pub sampling: bool,
}

/// Takes samples and raises alarms. Its owner calls [`Detector::sample`] at least four times a bucket.
pub struct Detector {
    config: Config,
    sampler: Arc<dyn HeapSampler>,
    objects: Option<Objects>,
    /// The bytes, then one for each kind of object; [`Objects`] bounds the kinds.
    tracks: Vec<Track>,
    stats: Stats,
    /// The heap when the sampling began.
    base: Option<HeapProfile>,
    last_alarm: Option<Alarm>,
    figures: Figures,
}

#[derive(Debug)]
struct Track {
    subject: Subject,
    window: Window,
    state: State,
}

/// What is thought of one subject.
#[derive(Debug, Clone, Copy)]
enum State {
    /// Nothing. Left for `Suspected` by a suspicious window.
    Calm,
    /// One window was suspicious. Left for `Leaking` if the next agrees, else for `Calm`.
    Suspected(Fit),
    /// The alarm was raised, and is not raised again. Left for `Calm` by a window without suspicion.
    Leaking,
}

#[derive(Debug)]
struct Figures {
    evaluations: Counter,
    suspicions: Counter,
    alarms: Counter,
    growth: Gauge,
}

/// More stacks than this say no more.
const SITES_MAX: usize = 10;

// === impl Config ===

impl Config {
    /// For a server in operation: windows of two hours, an alarm after four at the earliest.
    pub const fn production() -> Self {
        Self {
            bucket: Duration::from_secs(300),
            buckets: 24,
            growth_bytes_min: 1 << 20,
            growth_min_per_mille: 10,
            growth_objects_min: 100,
            significance: 5.0,
            agreement: 0.6,
        }
    }

    /// For tests: windows of three seconds.
    pub const fn short() -> Self {
        Self {
            bucket: Duration::from_millis(125),
            growth_bytes_min: 256 << 10,
            ..Self::production()
        }
    }

    /// The time of a window.
    pub fn window(&self) -> Duration {
        self.bucket
            .saturating_mul(u32::try_from(self.buckets).unwrap_or(u32::MAX))
    }
}

// === impl AllocatorSampler ===

impl HeapSampler for AllocatorSampler {
    fn start(&self) -> bool {
        allocator::set_heap_profile(true).is_ok()
    }

    fn stop(&self) {
        // Where sampling cannot be turned off it could not be turned on.
        let _ = allocator::set_heap_profile(false);
    }

    fn profile(&self) -> Option<HeapProfile> {
        allocator::heap_profile_dump().ok()
    }
}

// === impl Alarm ===

impl Alarm {
    /// The functions of the stack that grew most, innermost first.
    pub fn top_functions(&self) -> Vec<String> {
        self.sites.first().map(HeapSite::functions).unwrap_or_default()
    }
}

// === impl Detector ===

impl Detector {
    /// A detector that has seen nothing.
    pub fn new(config: Config, sampler: Arc<dyn HeapSampler>, registry: &Registry) -> Self {
        Self {
            tracks: vec![Track::new(Subject::Bytes)],
            config,
            sampler,
            objects: None,
            stats: Stats::default(),
            base: None,
            last_alarm: None,
            figures: Figures::new(registry),
        }
    }

    /// Watches these objects too.
    #[must_use]
    pub fn with_objects(self, objects: Objects) -> Self {
        Self {
            objects: Some(objects),
            ..self
        }
    }

    /// Takes in one sample; an alarm if it completes a second window that agrees with the one before.
    ///
    /// Several subjects may leak at once; the bytes are told first, the others count in the statistics.
    pub fn sample(&mut self, sample: &Sample) -> Option<Alarm> {
        self.stats.samples += 1;
        self.add_kinds();
        let mut alarm = None;
        for at in 0..self.tracks.len() {
            let value = self.value(at, sample);
            let found = self.track(at, sample, value);
            alarm = alarm.or(found);
        }
        self.set_sampling();
        if alarm.is_some() {
            self.last_alarm.clone_from(&alarm);
        }
        alarm
    }

    /// What it has done.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// The last leak found.
    pub fn last_alarm(&self) -> Option<&Alarm> {
        self.last_alarm.as_ref()
    }

    fn add_kinds(&mut self) {
        let kinds = self.objects.as_ref().map(Objects::list).unwrap_or_default();
        for kind in kinds.iter().skip(self.tracks.len() - 1) {
            self.tracks.push(Track::new(Subject::Objects(kind.name)));
        }
    }

    fn value(&self, at: usize, sample: &Sample) -> f64 {
        match (&self.tracks[at].subject, &self.objects) {
            (Subject::Objects(name), Some(objects)) => objects.live(name).unwrap_or(0) as f64,
            // Never below zero: accounts may run ahead of what is touched.
            _ => sample.live_bytes.saturating_sub(sample.accounted_bytes) as f64,
        }
    }

    fn track(&mut self, at: usize, sample: &Sample, value: f64) -> Option<Alarm> {
        let point = Point {
            at: sample.at,
            value,
            load: sample.load,
        };
        let fit = self.tracks[at].window.add(point, &self.config)?;
        self.stats.evaluations += 1;
        self.figures.evaluations.inc();
        let is_bytes = self.tracks[at].subject == Subject::Bytes;
        if is_bytes {
            self.stats.last = Some(fit);
            self.figures.growth.set(fit.per_hour(self.config.window()) as i64);
        }
        let suspicious = fit.is_suspicious(&self.config, is_bytes);
        let next = match (self.tracks[at].state, suspicious) {
            (State::Calm, true) => {
                self.stats.suspicions += 1;
                self.figures.suspicions.inc();
                State::Suspected(fit)
            }
            (State::Suspected(first), true) if fit.growth >= first.growth * self.config.agreement => {
                let alarm = self.alarm(at, sample.at, first, fit);
                self.tracks[at].state = State::Leaking;
                return Some(alarm);
            }
            (State::Leaking, true) => State::Leaking,
            (_, _) => State::Calm,
        };
        self.tracks[at].state = next;
        None
    }

    fn alarm(&mut self, at: usize, now: Instant, first: Fit, second: Fit) -> Alarm {
        self.stats.alarms += 1;
        self.figures.alarms.inc();
        let grown = self
            .base
            .as_ref()
            .and_then(|base| Some(self.sampler.profile()?.since(base)));
        let mut sites = grown.map(|grown| grown.sites).unwrap_or_default();
        sites.truncate(SITES_MAX);
        Alarm {
            at: now,
            subject: self.tracks[at].subject.clone(),
            per_hour: second.per_hour(self.config.window()),
            first,
            second,
            sites,
        }
    }

    /// The heap is sampled as long as anything is suspected, and no longer.
    fn set_sampling(&mut self) {
        let wanted = self
            .tracks
            .iter()
            .any(|track| matches!(track.state, State::Suspected(_)));
        if wanted && !self.stats.sampling && self.sampler.start() {
            self.base = self.sampler.profile();
            self.stats.sampling = true;
        } else if !wanted && self.stats.sampling {
            self.sampler.stop();
            self.base = None;
            self.stats.sampling = false;
        }
    }
}

impl std::fmt::Debug for Detector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detector")
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

// === impl Track ===

impl Track {
    fn new(subject: Subject) -> Self {
        Self {
            subject,
            window: Window::default(),
            state: State::Calm,
        }
    }
}

// === impl Figures ===

impl Figures {
    fn new(registry: &Registry) -> Self {
        Self {
            evaluations: registry.counter(Id::LeakEvaluations, &[]),
            suspicions: registry.counter(Id::LeakSuspicions, &[]),
            alarms: registry.counter(Id::LeakAlarms, &[]),
            growth: registry.gauge(Id::LeakGrowth, &[]),
        }
    }
}
