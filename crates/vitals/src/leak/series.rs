//! Made-up histories of memory, for tests and benchmarks of the detector: each from a seed, always the same.

use std::time::Duration;

use super::{Config, Sample};
use crate::clock::Instant;

/// What a history looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A level with noise.
    Flat,
    /// Rises fast, then ever slower, to a level.
    WarmUp,
    /// Rises and falls back, as where garbage is collected now and then.
    Sawtooth,
    /// Follows a load that comes and goes.
    Waves,
    /// Follows a load that jumps and stays.
    Step,
    /// Bytes in accounts grow; the rest stays.
    Accounted,
}

/// One history.
#[derive(Debug, Clone)]
pub struct Series {
    /// The seed it came from.
    pub seed: u64,
    /// What it looks like.
    pub shape: Shape,
    /// What leaks in a window, bytes; zero for none.
    pub leak_bytes: u64,
    /// The samples, four a bucket.
    pub samples: Vec<Sample>,
}

/// Windows in a history.
const WINDOWS: usize = 6;
const SAMPLES_PER_BUCKET: usize = 4;
const MIB: f64 = 1_048_576.0;
const SHAPES: [Shape; 6] = [
    Shape::Flat,
    Shape::WarmUp,
    Shape::Sawtooth,
    Shape::Waves,
    Shape::Step,
    Shape::Accounted,
];

/// A generator of numbers: splitmix64.
struct Dice(u64);

/// `n` histories without a leak and `n` with one, all shapes in turn.
pub fn generate(seed: u64, n: u64, config: &Config) -> Vec<Series> {
    let clean = (0..n).map(|at| Series::new(seed.wrapping_add(at), false, config));
    let leaking = (n..2 * n).map(|at| Series::new(seed.wrapping_add(at), true, config));
    clean.chain(leaking).collect()
}

// === impl Series ===

impl Series {
    /// The history of a seed. A leak takes 8 to 64 MiB a window, beside 200 to 400 MiB that are in use.
    ///
    /// Beside a sawtooth it takes at least twice the height of the teeth: teeth longer than a bucket hide a smaller one
    /// from two windows, and the detector rather stays silent.
    pub fn new(seed: u64, leaks: bool, config: &Config) -> Self {
        let mut dice = Dice(seed);
        let shape = SHAPES[(seed % SHAPES.len() as u64) as usize];
        let leak_bytes = if leaks {
            (dice.between(8.0, 64.0) * MIB) as u64
        } else {
            0
        };
        let mut course = Course::new(shape, &mut dice);
        if leaks && shape == Shape::Sawtooth {
            course.size = course.size.min(leak_bytes as f64 / 2.0);
        }
        let step = config.bucket / SAMPLES_PER_BUCKET as u32;
        let per_window = config.buckets * SAMPLES_PER_BUCKET;
        // Noise that remembers: each value keeps a part of the one before.
        let memory = dice.between(0.0, 0.7);
        let mut noise = 0.0;
        let mut sample = |at: usize| {
            let windows = at as f64 / per_window as f64;
            noise = noise * memory + dice.between(-0.5, 0.5) * MIB;
            let (live, accounted, load) = course.at(windows);
            let live = live + accounted + noise + leak_bytes as f64 * windows;
            Sample {
                at: Instant::ZERO + step.saturating_mul(at as u32),
                live_bytes: live as u64,
                accounted_bytes: accounted as u64,
                load: (load + dice.between(-2.0, 2.0)).max(0.0),
            }
        };
        let samples = (0..WINDOWS * per_window + 1).map(&mut sample).collect();
        Self {
            seed,
            shape,
            leak_bytes,
            samples,
        }
    }

    /// The time it covers.
    pub fn length(&self) -> Duration {
        let ends = self.samples.first().zip(self.samples.last());
        ends.map_or(Duration::ZERO, |(first, last)| last.at - first.at)
    }
}

/// The course of a history without noise and leak.
struct Course {
    shape: Shape,
    base: f64,
    size: f64,
    /// In windows.
    time: f64,
    load: f64,
}

// === impl Course ===

impl Course {
    fn new(shape: Shape, dice: &mut Dice) -> Self {
        Self {
            shape,
            base: dice.between(200.0, 400.0) * MIB,
            size: dice.between(10.0, 100.0) * MIB,
            time: dice.between(0.1, 1.0),
            load: dice.between(500.0, 5000.0),
        }
    }

    /// Unaccounted bytes, accounted bytes and load after so many windows.
    fn at(&self, windows: f64) -> (f64, f64, f64) {
        let Self {
            base,
            size,
            time,
            load,
            ..
        } = *self;
        match self.shape {
            Shape::Flat => (base, 0.0, load),
            Shape::WarmUp => (base + size * (1.0 - (-windows / time).exp()), 0.0, load),
            // Up to a third of a window from one collection to the next.
            Shape::Sawtooth => (base + size * (windows / (time / 3.0)).fract(), 0.0, load),
            Shape::Waves => {
                let wave = 1.0 + 0.5 * (windows / time * std::f64::consts::TAU).sin();
                (base + size * wave, 0.0, load * wave)
            }
            Shape::Step => {
                let height = if windows > 1.0 + time { 2.0 } else { 1.0 };
                (base + size * height, 0.0, load * height)
            }
            Shape::Accounted => (base, size * windows, load),
        }
    }
}

// === impl Dice ===

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
