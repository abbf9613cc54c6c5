//! A server in virtual time, to see what a limiter does to its load: seeded, and without sleeping.
//!
//! Calls arrive by themselves (exponential gaps), are worked on by so many workers (exponential times) in order of
//! arrival, and are refused when the limiter says so: M/M/c with admission.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use tidegate_vitals::{Clock, Instant, ManualClock};

use super::{Limiter, Partition, Permit};
use crate::retry::Random;

/// How the world is for a while.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// How long.
    pub lasts: Duration,
    /// Calls worked on at a time, at least 1.
    pub workers: usize,
    /// Mean time of one call.
    pub service: Duration,
    /// Calls that arrive, as a multiple of what all workers can do.
    pub load: f64,
}

/// What happened in one slice of time.
#[derive(Debug, Clone)]
pub struct Slice {
    /// Calls that ended.
    pub done: u64,
    /// Calls that all workers could have done in it.
    pub capacity: f64,
    /// Calls refused.
    pub refused: u64,
    /// Latencies of the calls that ended, microseconds.
    pub latencies_us: Vec<u32>,
    /// The limit at its end.
    pub limit: usize,
    /// Mean of the limit over its seconds.
    pub limit_mean: f64,
}

/// A run: feed it phases.
pub struct Simulation {
    limiter: Limiter,
    hand: ManualClock,
    clock: Clock,
    random: Random,
    busy: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Those worked on, by the number in `busy`; bounded by the limiter as `line` is.
    working: std::collections::HashMap<u64, Call>,
    line: VecDeque<Call>,
    next: u64,
}

struct Call {
    since: Instant,
    permit: Permit,
}

// === impl Simulation ===

impl Simulation {
    /// A server that `make` guards, with the clock it is given.
    pub fn new(seed: u64, make: impl FnOnce(Clock) -> Limiter) -> Self {
        let (clock, hand) = Clock::manual();
        Self {
            limiter: make(clock.clone()),
            hand,
            clock,
            random: Random::seeded(seed),
            busy: BinaryHeap::new(),
            working: std::collections::HashMap::new(),
            line: VecDeque::new(),
            next: 0,
        }
    }

    /// The limiter.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Lives through `phase`, and tells of it by slices of this length.
    pub fn run(&mut self, phase: Phase, slice: Duration) -> Vec<Slice> {
        let n_slices = phase.lasts.as_nanos() / slice.as_nanos().max(1);
        (0..n_slices).map(|_| self.slice(phase, slice)).collect()
    }

    fn slice(&mut self, phase: Phase, lasts: Duration) -> Slice {
        let rate = phase.workers as f64 / phase.service.as_secs_f64();
        let mut seen = Slice {
            done: 0,
            capacity: rate * lasts.as_secs_f64(),
            refused: 0,
            latencies_us: Vec::new(),
            limit: 0,
            limit_mean: 0.0,
        };
        let gap = Duration::from_secs_f64(1.0 / (rate * phase.load));
        let end = self.clock.now() + lasts;
        let mut arrival = self.clock.now() + self.exponential(gap);
        let second = Duration::from_secs(1);
        let (mut look, mut n_looks) = (self.clock.now() + second, 0_u32);
        loop {
            let ended = self.busy.peek().map(|Reverse((at, _))| *at);
            let at = ended.map_or(arrival, |ended| ended.min(arrival)).min(look);
            if at > end {
                break;
            }
            self.hand.set(Duration::from_nanos(at.as_nanos()));
            if at == look {
                seen.limit_mean += self.limiter.stats().limit as f64;
                n_looks += 1;
                look += second;
            } else if at == arrival {
                self.arrive(&mut seen);
                arrival += self.exponential(gap);
            } else {
                self.end(&mut seen);
            }
            self.work(phase);
        }
        self.hand.set(Duration::from_nanos(end.as_nanos()));
        seen.limit = self.limiter.stats().limit;
        seen.limit_mean /= f64::from(n_looks.max(1));
        seen
    }

    fn arrive(&mut self, seen: &mut Slice) {
        match self.limiter.try_acquire(Partition::OTHER) {
            Ok(permit) => self.line.push_back(Call {
                since: self.clock.now(),
                permit,
            }),
            Err(_) => seen.refused += 1,
        }
    }

    fn end(&mut self, seen: &mut Slice) {
        let Reverse((at, number)) = self.busy.pop().expect("it was looked at");
        let call = self.working.remove(&number).expect("it is worked on");
        seen.done += 1;
        seen.latencies_us.push((at - call.since).as_micros() as u32);
        call.permit.succeed();
    }

    /// Gives idle workers something to do.
    fn work(&mut self, phase: Phase) {
        while self.busy.len() < phase.workers {
            let Some(call) = self.line.pop_front() else { return };
            let until = self.clock.now() + self.exponential(phase.service);
            self.busy.push(Reverse((until, self.next)));
            self.working.insert(self.next, call);
            self.next += 1;
        }
    }

    fn exponential(&mut self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.random.unit()).ln())
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulation")
            .field("limiter", &self.limiter)
            .field("now", &self.clock.now())
            .finish_non_exhaustive()
    }
}

/// Goodput, latency and drift over some slices.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// Calls done, as a part of what the workers could have done.
    pub goodput: f64,
    /// 99 of 100 calls took no longer.
    pub p99: Duration,
    /// How far the mean limit of a slice went from that of the first, as a part of it.
    pub drift: f64,
}

/// Sums slices up.
///
/// # Panics
/// Without any.
pub fn summary(slices: &[Slice]) -> Summary {
    let first = slices.first().expect("at least one slice").limit_mean;
    let done: u64 = slices.iter().map(|slice| slice.done).sum();
    let capacity: f64 = slices.iter().map(|slice| slice.capacity).sum();
    let mut latencies: Vec<u32> = slices
        .iter()
        .flat_map(|slice| slice.latencies_us.iter().copied())
        .collect();
    latencies.sort_unstable();
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or(0);
    let drift = slices
        .iter()
        .map(|slice| (slice.limit_mean - first).abs() / first)
        .fold(0.0, f64::max);
    Summary {
        goodput: done as f64 / capacity,
        p99: Duration::from_micros(u64::from(p99)),
        drift,
    }
}
