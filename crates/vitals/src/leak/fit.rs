//! Ordinary least squares of memory on time and load, with an honest error of the slope.

use std::time::Duration;

use super::Config;
use super::window::Point;

/// What one window says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fit {
    /// Growth over the window that time alone explains, bytes or objects.
    pub growth: f64,
    /// Standard errors between that and nothing.
    pub significance: f64,
    /// What each unit of load takes, bytes or objects; zero if the load did not move.
    pub per_load: f64,
    /// Share of the variance that time and load explain, 0 to 1.
    pub r_squared: f64,
    /// The rate in the second half of the window, as a share of the whole.
    pub second_half: f64,
    /// The mean value of the window.
    pub mean: f64,
}

/// Points fewer than this say nothing.
const POINTS_MIN: usize = 8;

// === impl Fit ===

impl Fit {
    /// Growth for an hour, if it took `window`.
    pub fn per_hour(&self, window: Duration) -> f64 {
        self.growth * 3600.0 / window.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    pub(super) fn is_suspicious(&self, config: &Config, is_bytes: bool) -> bool {
        let least = if is_bytes {
            let share = self.mean * f64::from(config.growth_min_per_mille) / 1000.0;
            share.max(config.growth_bytes_min as f64)
        } else {
            config.growth_objects_min as f64
        };
        self.growth >= least
            && self.significance >= config.significance
            && self.second_half >= config.agreement
    }
}

/// A column without its mean.
struct Centred {
    values: Vec<f64>,
    mean: f64,
}

// === impl Centred ===

impl Centred {
    fn new(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter_mut().for_each(|value| *value -= mean);
        Self { values, mean }
    }

    fn dot(&self, other: &Self) -> f64 {
        self.values.iter().zip(&other.values).map(|(a, b)| a * b).sum()
    }
}

/// The fit of a full window; `None` for too few points or no time between them.
pub(super) fn fit(points: &[Point]) -> Option<Fit> {
    let (first, last) = (points.first()?, points.last()?);
    let span = (last.at - first.at).as_secs_f64();
    if points.len() < POINTS_MIN || span <= 0.0 {
        return None;
    }
    // Time in windows, so that a slope is the growth over one.
    let step = points.len() as f64 / (points.len() - 1) as f64;
    let time = |point: &Point| (point.at - first.at).as_secs_f64() / span / step;
    let t = Centred::new(points.iter().map(time));
    let load = Centred::new(points.iter().map(|point| point.load));
    let y = Centred::new(points.iter().map(|point| point.value));
    let (tt, tl, ll) = (t.dot(&t), t.dot(&load), load.dot(&load));
    let (ty, ly) = (t.dot(&y), load.dot(&y));
    // Load that does not move, or moves exactly with time, cannot be told from it.
    let determinant = tt * ll - tl * tl;
    let has_load = determinant > 1e-9 * tt * ll && ll > 0.0;
    let (growth, per_load, variance_factor) = if has_load {
        let growth = (ll * ty - tl * ly) / determinant;
        (growth, (tt * ly - tl * ty) / determinant, ll / determinant)
    } else if ll > 0.0 {
        // All of the growth may be the load's: nothing is left for time.
        (0.0, ly / ll, 1.0 / tt)
    } else {
        (ty / tt, 0.0, 1.0 / tt)
    };
    let rows = t.values.iter().zip(&load.values).zip(&y.values);
    let residuals: Vec<f64> = rows.map(|((t, l), y)| y - growth * t - per_load * l).collect();
    let square_sum: f64 = residuals.iter().map(|r| r * r).sum();
    let freedom = points.len() as f64 - if has_load { 3.0 } else { 2.0 };
    let error =
        (square_sum / freedom * variance_factor).sqrt() * autocorrelation_factor(&residuals, square_sum);
    let total = y.dot(&y);
    Some(Fit {
        growth,
        significance: if error > 0.0 {
            growth / error
        } else {
            growth.signum() * f64::INFINITY
        },
        per_load,
        r_squared: if total > 0.0 {
            1.0 - square_sum / total
        } else {
            1.0
        },
        second_half: second_half(&t, &load, &y, per_load, growth),
        mean: y.mean,
    })
}

/// By how much neighbours that resemble each other make the error larger than it looks.
fn autocorrelation_factor(residuals: &[f64], square_sum: f64) -> f64 {
    if square_sum <= 0.0 {
        return 1.0;
    }
    let lagged: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
    let r = (lagged / square_sum).clamp(0.0, 0.9);
    ((1.0 + r) / (1.0 - r)).sqrt()
}

/// The slope of the second half, load taken out, as a share of the whole.
fn second_half(t: &Centred, load: &Centred, y: &Centred, per_load: f64, growth: f64) -> f64 {
    let from = t.values.len() / 2;
    let left = y.values.iter().zip(&load.values).map(|(y, l)| y - per_load * l);
    let (t, left) = (
        Centred::new(t.values[from..].iter().copied()),
        Centred::new(left.skip(from)),
    );
    if growth == 0.0 {
        return 0.0;
    }
    t.dot(&left) / t.dot(&t) / growth
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Instant;

    fn fit_of(value: impl Fn(f64, f64) -> f64, load: impl Fn(f64) -> f64) -> Fit {
        let point = |at: u64| {
            let t = at as f64 / 24.0;
            Point {
                at: Instant::from_millis(at * 1000),
                value: value(t, load(t)),
                load: load(t),
            }
        };
        fit(&(0..24).map(point).collect::<Vec<_>>()).unwrap()
    }

    fn check(actual: f64, expected: f64) {
        assert!(
            (actual - expected).abs() <= 1e-6 * expected.abs().max(1.0),
            "{actual} is not {expected}"
        );
    }

    #[test]
    fn growth_and_load_are_told_apart() {
        let wave = |t: f64| 100.0 + 50.0 * (t * 12.0).sin();
        let fit = fit_of(|t, load| 7000.0 + 480.0 * t + 9.0 * load, wave);
        check(fit.growth, 480.0);
        check(fit.per_load, 9.0);
        check(fit.r_squared, 1.0);
        check(fit.second_half, 1.0);
        check(fit_of(|_, load| 5.0 * load, wave).growth, 0.0);
    }

    #[test]
    fn load_that_rises_with_time_takes_all_the_blame() {
        let fit = fit_of(|t, _| 1000.0 * t, |t| 10.0 * t);
        check(fit.growth, 0.0);
        check(fit.per_load, 100.0);
    }

    #[test]
    fn a_curve_that_flattens_shows_in_its_second_half() {
        let fit = fit_of(|t, _| 1e6 * (1.0 - (-4.0 * t).exp()), |_| 3.0);
        assert!(fit.growth > 0.0 && fit.second_half < 0.5, "{fit:?}");
    }
}
