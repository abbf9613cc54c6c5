//! The limit that finds itself: as much in flight as the server works on, plus a short queue.
//!
//! After Brakmo and Peterson, TCP Vegas (1995): with `b` the latency of the idle server and `r` the latency now, Little's
//! law says that `L × (1 − b/r)` of the `L` in flight are waiting. That queue is held between √L/2 and √L: enough to keep
//! the server busy between two arrivals, and a small part of any latency.
//!
//! `b` must be measured while nothing waits, which under lasting overload never happens by itself; a baseline that
//! creeps up with the load lets the limit creep after it. So from time to time the limit is cut by 2√L, twice the queue
//! there should be, and the next few calls are measured. It is not cut to the floor, which would cost the throughput of
//! a whole round trip. If all of what was measured waited in a queue, the cut still shows as latency gained, and the
//! limit comes down until a probe finds the queue empty.

use std::time::Duration;

use tidegate_vitals::Instant;

use super::config::Adaptive;

#[derive(Debug)]
pub(super) struct Vegas {
    config: Adaptive,
    /// From `min` to `max`.
    limit: f64,
    /// Mean latency of the last window, nanoseconds.
    latency: Option<f64>,
    /// Mean latency without a queue, nanoseconds.
    baseline: Option<f64>,
    window: Window,
    phase: Phase,
    /// The number of the last probe; calls carry it to tell which one they belong to.
    n_probes: u32,
    windows_since_probe: u32,
    /// Probes in the baseline.
    n_learned: u32,
    /// Whether the last probe found what was expected. If not, the next one comes soon and cuts deeper.
    is_sure: bool,
    /// Windows in a row that lowered the limit.
    n_lowered: u32,
}

/// What was seen since `since`.
#[derive(Debug, Default)]
struct Window {
    since: Instant,
    n_samples: u32,
    n_overloaded: u32,
    sum_ns: f64,
    in_flight_max: usize,
}

#[derive(Debug)]
enum Phase {
    /// To `Draining` when a probe is due.
    Steady,
    /// The limit is cut; to `Measuring` when no more than that is in flight, to `Steady` at the deadline.
    Draining(Instant),
    /// The limit is cut and calls that start are measured; to `Waiting` when enough have, or at the deadline.
    Measuring(Instant, Probe),
    /// The limit is back; to `Steady` when all measured calls have ended, or at the deadline, without a result.
    Waiting(Instant, Probe),
}

#[derive(Debug, Clone, Copy, Default)]
struct Probe {
    n_started: u32,
    n_ended: u32,
    n_samples: u32,
    sum_ns: f64,
}

/// The number of the probe that measures a call; 0 for none.
pub(super) type Mark = u32;

/// How a call ended, for the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sample {
    Took(Duration),
    Overloaded,
    Unknown,
}

/// A phase of a probe takes no longer than this many windows.
const PHASE_WINDOWS: u32 = 5;
/// The pause before a probe while the baseline is unsure: the limit may have been born into overload.
const UNSURE_PROBE_WINDOWS: u32 = 4;
/// After this many lowerings in a row the server itself may have become slower: look at it.
const LOWERED_MAX: u32 = 5;
/// Measured calls of a probe, at least; for exponential times the error of their mean is 7 %.
const PROBE_SAMPLES_MIN: u32 = 200;

// === impl Vegas ===

impl Vegas {
    pub(super) fn new(config: Adaptive, now: Instant) -> Self {
        Self {
            limit: config.initial as f64,
            latency: None,
            baseline: None,
            window: Window::starting(now),
            phase: Phase::Steady,
            n_probes: 0,
            windows_since_probe: 0,
            n_learned: 0,
            is_sure: false,
            n_lowered: 0,
            config,
        }
    }

    /// What may be in flight now: less during a probe.
    pub(super) fn limit(&self) -> usize {
        match self.phase {
            Phase::Draining(_) | Phase::Measuring(..) => self.probe_limit(),
            Phase::Steady | Phase::Waiting(..) => self.settled(),
        }
    }

    /// The limit without the cut of a probe.
    pub(super) fn settled(&self) -> usize {
        self.limit as usize
    }

    pub(super) fn baseline(&self) -> Option<Duration> {
        self.baseline.map(|ns| Duration::from_nanos(ns as u64))
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        self.latency.map(|ns| Duration::from_nanos(ns as u64))
    }

    pub(super) fn n_probes(&self) -> u32 {
        self.n_probes
    }

    /// A call starts, with this much in flight, itself included.
    pub(super) fn started(&mut self, now: Instant, in_flight: usize) -> Mark {
        self.window.in_flight_max = self.window.in_flight_max.max(in_flight);
        let wanted = self.probe_samples();
        let Phase::Measuring(_, probe) = &mut self.phase else {
            return 0;
        };
        probe.n_started += 1;
        if probe.n_started >= wanted {
            let probe = *probe;
            self.wait(now, probe);
        }
        self.n_probes
    }

    /// A call ended, with this much in flight without it.
    pub(super) fn ended(&mut self, now: Instant, in_flight: usize, mark: Mark, sample: Sample) {
        self.window.add(sample);
        if mark == self.n_probes {
            self.measured(sample);
        }
        self.advance(now, in_flight);
        let is_cut = matches!(self.phase, Phase::Draining(_) | Phase::Measuring(..));
        if !is_cut && now - self.window.since >= self.config.window {
            self.close(now);
        }
    }

    fn measured(&mut self, sample: Sample) {
        let (Phase::Measuring(_, probe) | Phase::Waiting(_, probe)) = &mut self.phase else {
            return;
        };
        probe.n_ended += 1;
        if let Sample::Took(took) = sample {
            probe.n_samples += 1;
            probe.sum_ns += took.as_nanos() as f64;
        }
    }

    /// Moves a probe on.
    fn advance(&mut self, now: Instant, in_flight: usize) {
        let deadline = now + self.config.window * PHASE_WINDOWS;
        match self.phase {
            Phase::Steady => {}
            Phase::Draining(_) if in_flight <= self.probe_limit() => {
                self.phase = Phase::Measuring(deadline, Probe::default());
            }
            Phase::Draining(until) if now >= until => self.steady(now),
            Phase::Measuring(until, probe) if now >= until => self.wait(now, probe),
            Phase::Waiting(_, probe) if probe.n_ended >= probe.n_started => {
                self.learn(probe);
                self.phase = Phase::Steady;
            }
            // Without its slowest calls the mean would be too small: better none.
            Phase::Waiting(until, _) if now >= until => self.phase = Phase::Steady,
            Phase::Draining(_) | Phase::Measuring(..) | Phase::Waiting(..) => {}
        }
    }

    fn wait(&mut self, now: Instant, probe: Probe) {
        self.phase = Phase::Waiting(now + self.config.window * PHASE_WINDOWS, probe);
        self.window = Window::starting(now);
    }

    fn steady(&mut self, now: Instant) {
        self.phase = Phase::Steady;
        self.window = Window::starting(now);
    }

    /// Takes a probe's mean as the baseline: at once if the server is another than before, else smoothed.
    fn learn(&mut self, probe: Probe) {
        if probe.n_samples < self.config.window_samples_min {
            return;
        }
        let mean = probe.sum_ns / f64::from(probe.n_samples);
        let before = self.baseline.unwrap_or(mean);
        self.is_sure = self.n_learned > 0 && (0.8 * before..=1.25 * before).contains(&mean);
        if !(0.7 * before..=1.4 * before).contains(&mean) {
            self.n_learned = 0;
        }
        self.n_learned += 1;
        // The mean of all probes, in the long run of the last few.
        let weight = (1.0 / f64::from(self.n_learned)).max(0.2);
        self.baseline = Some(before + weight * (mean - before));
    }

    /// Ends a window: moves the limit by what it saw.
    fn close(&mut self, now: Instant) {
        let seen = self.window.n_samples + self.window.n_overloaded;
        if seen < self.config.window_samples_min {
            // Too few for a mean; what was seen long ago says nothing of now.
            if now - self.window.since >= self.config.window * PHASE_WINDOWS * 2 {
                self.window = Window::starting(now);
            }
            return;
        }
        let window = std::mem::replace(&mut self.window, Window::starting(now));
        let limit = self.moved(&window);
        self.n_lowered = if limit < self.limit { self.n_lowered + 1 } else { 0 };
        self.limit = limit.clamp(self.config.min as f64, self.config.max as f64);
        self.windows_since_probe += 1;
        if matches!(self.phase, Phase::Steady) && self.is_probe_due() {
            self.n_probes += 1;
            self.windows_since_probe = 0;
            self.n_lowered = 0;
            self.phase = Phase::Draining(now + self.config.window * PHASE_WINDOWS);
        }
    }

    fn moved(&mut self, window: &Window) -> f64 {
        let limit = self.limit;
        let n_seen = window.n_samples + window.n_overloaded;
        // One in a hundred refused for overload is the server's own word: no estimate is needed.
        if window.n_overloaded * 100 >= n_seen {
            return limit * 0.9;
        }
        let mean = window.sum_ns / f64::from(window.n_samples);
        self.latency = Some(mean);
        let baseline = self.baseline.get_or_insert(mean);
        // A window faster than that is no chance: the server is another. Smaller steps down would only collect noise.
        if mean < 0.8 * *baseline {
            *baseline = mean;
        }
        let queue = limit * (1.0 - *baseline / mean).max(0.0);
        let headroom = limit.sqrt();
        if queue >= headroom {
            limit - ((queue - headroom) / 2.0 + 0.5).min(0.3 * limit)
        } else if queue < headroom / 2.0 && window.in_flight_max as f64 >= limit / 2.0 {
            limit + headroom / 2.0
        } else {
            limit
        }
    }

    fn is_probe_due(&self) -> bool {
        let pause = if self.is_sure {
            self.config.probe_windows
        } else {
            UNSURE_PROBE_WINDOWS
        };
        self.windows_since_probe >= pause.min(self.config.probe_windows) || self.n_lowered >= LOWERED_MAX
    }

    /// Lower by twice the queue there should be, so that the server stays busy; by half while little is known.
    fn probe_limit(&self) -> usize {
        let headroom = if self.is_sure {
            2.0 * self.limit.sqrt()
        } else {
            self.limit
        };
        let cut = self.limit - headroom;
        (cut.max(self.limit / 2.0) as usize).max(1)
    }

    fn probe_samples(&self) -> u32 {
        (2 * self.settled() as u32).max(PROBE_SAMPLES_MIN)
    }
}

// === impl Window ===

impl Window {
    fn starting(since: Instant) -> Self {
        Self {
            since,
            ..Self::default()
        }
    }

    fn add(&mut self, sample: Sample) {
        match sample {
            Sample::Took(took) => {
                self.n_samples += 1;
                self.sum_ns += took.as_nanos() as f64;
            }
            Sample::Overloaded => self.n_overloaded += 1,
            Sample::Unknown => {}
        }
    }
}
