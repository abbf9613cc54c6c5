//! How many connections to keep: follows demand at once upwards, slowly and with hysteresis downwards.

use std::time::Duration;

/// The moving average of connections in use plus waiting tasks, and the size that it asks for.
#[derive(Debug)]
pub(super) struct Demand {
    min: usize,
    size: usize,
    average: f64,
    target: usize,
}

/// How fast the average follows a rise, and a fall: bursts are met at once, quiet minutes do not close much.
const RISE: Duration = Duration::from_secs(2);
const FALL: Duration = Duration::from_secs(30);
/// The target falls only when the average asks for less than this part of it.
const HYSTERESIS: f64 = 0.75;

impl Demand {
    pub(super) const fn new(min: usize, size: usize) -> Self {
        Self {
            min,
            size,
            average: 0.0,
            target: min,
        }
    }

    /// Takes in that `load` connections were in use or waited for, `elapsed` after the last look.
    pub(super) fn observe(&mut self, load: usize, elapsed: Duration) {
        let load = load as f64;
        let constant = if load > self.average { RISE } else { FALL };
        let weight = 1.0 - (-elapsed.as_secs_f64() / constant.as_secs_f64()).exp();
        self.average += weight * (load - self.average);
        let asked = (self.average.ceil() as usize).clamp(self.min, self.size);
        if asked > self.target || (asked as f64) < HYSTERESIS * self.target as f64 {
            self.target = asked;
        }
    }

    /// Connections to keep open: between the pool's `min` and its `size`.
    pub(super) const fn target(&self) -> usize {
        self.target
    }
}

/// Why an idle connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surplus {
    Overflow,
    Idle,
}

/// What decides which idle connections are closed.
pub(super) struct Limits {
    pub(super) n_open: usize,
    pub(super) keep: usize,
    pub(super) size: usize,
    pub(super) linger_ns: u64,
    pub(super) idle_ns: u64,
}

/// Which of the `idle` slots (number and time idle, by rising number) are closed: the coldest first, and never below
/// what is kept.
pub(super) fn surplus(idle: &[(usize, u64)], limits: &Limits) -> Vec<(usize, Surplus)> {
    let mut n_open = limits.n_open;
    let mut closed = Vec::new();
    for &(slot, idle_ns) in idle.iter().rev() {
        let why = if n_open > limits.size && idle_ns >= limits.linger_ns {
            Surplus::Overflow
        } else if n_open > limits.keep && idle_ns >= limits.idle_ns {
            Surplus::Idle
        } else {
            continue;
        };
        n_open -= 1;
        closed.push((slot, why));
    }
    closed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(loads: &[(usize, u64)], expected: &[usize]) {
        let mut demand = Demand::new(2, 20);
        let mut targets = Vec::new();
        for &(load, seconds) in loads {
            for _ in 0..seconds {
                demand.observe(load, Duration::from_secs(1));
            }
            targets.push(demand.target());
        }
        assert_eq!(targets, expected, "{loads:?}");
    }

    #[test]
    fn the_target_rises_fast_falls_slowly_and_stays_in_bounds() {
        check(&[(0, 60)], &[2]);
        check(&[(10, 10), (10, 60)], &[10, 10]);
        check(&[(500, 5)], &[20]);
        // Eight of ten is within the hysteresis; then it falls.
        check(&[(10, 60), (8, 120), (0, 10), (0, 300)], &[10, 10, 7, 2]);
    }

    #[test]
    fn one_step_of_a_minute_is_sixty_of_a_second() {
        let mut one = Demand::new(0, 100);
        one.observe(50, Duration::from_secs(60));
        assert_eq!(one.target(), 50);
    }

    #[test]
    fn the_coldest_surplus_goes_first_and_what_is_kept_stays() {
        let limits = |n_open, keep| Limits {
            n_open,
            keep,
            size: 4,
            linger_ns: 30,
            idle_ns: 300,
        };
        let idle = [(0, 200), (1, 500), (4, 40), (5, 10), (6, 31)];
        assert_eq!(
            surplus(&idle, &limits(7, 2)),
            [
                (6, Surplus::Overflow),
                (4, Surplus::Overflow),
                (1, Surplus::Overflow)
            ]
        );
        assert_eq!(surplus(&idle[..2], &limits(3, 2)), [(1, Surplus::Idle)]);
        assert_eq!(surplus(&idle, &limits(4, 4)), [], "what is kept stays");
        assert_eq!(surplus(&idle[2..], &limits(4, 0)), []);
    }
}
