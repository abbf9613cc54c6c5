//! How fast connections are opened: one, two, four at a time while it works; one prober with back-off when it does not.

use std::time::Duration;

use tidegate_flow::retry::Random;

use crate::error::Error;

/// The state of opening. Moments are nanoseconds since the pool's start.
#[derive(Debug)]
pub(super) struct Ramp {
    dials_max: usize,
    /// Dials allowed at a time.
    window: usize,
    /// Set while the last dial failed.
    down: Option<Down>,
}

#[derive(Debug, Clone, Copy)]
struct Down {
    since: u64,
    failed_at: u64,
    n_failures: u32,
    kind: Kind,
    /// Between a half and one.
    jitter: f64,
}

/// What a failure says about the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nobody answers, or the server is starting or stopping: it may be back any moment.
    Away,
    /// The server has no room for us.
    Full,
    /// The server answers and does not want us: only an operator changes that.
    Refused,
}

/// The first pause after a failure; it doubles from there.
const PAUSE: Duration = Duration::from_millis(10);
/// The longest pause while tasks wait: a server that is back serves within 100 ms, of which opening a connection takes
/// its part. At most 40 dials a second.
const PAUSE_WAITED: Duration = Duration::from_millis(50);
/// While tasks wait for a server that has been away for longer than [`LONG`].
const PAUSE_LONG: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(60);
/// Nobody waits, or the server refuses us.
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Ramp {
    pub(super) const fn new(dials_max: usize) -> Self {
        Self {
            dials_max,
            window: 1,
            down: None,
        }
    }

    /// How many dials may run at `now`.
    pub(super) fn window(&self, now: u64, is_waited: bool) -> usize {
        if self.next_at(is_waited).is_some_and(|at| now < at) {
            return 0;
        }
        self.window
    }

    /// When the prober may try again; `None` while opening works.
    pub(super) fn next_at(&self, is_waited: bool) -> Option<u64> {
        let down = self.down?;
        Some(down.failed_at.saturating_add(down.pause_ns(is_waited)))
    }

    /// Since when the server is down, if it is.
    pub(super) fn down_since(&self) -> Option<u64> {
        self.down.map(|down| down.since)
    }

    pub(super) fn succeeded(&mut self) {
        // The one probe that came through is not yet a reason for four more.
        self.window = (self.window * 2).min(self.dials_max);
        self.down = None;
    }

    pub(super) fn failed(&mut self, now: u64, error: &Error, random: &mut Random) {
        let (since, n_failures) = self
            .down
            .map_or((now, 1), |down| (down.since, down.n_failures.saturating_add(1)));
        self.window = 1;
        self.down = Some(Down {
            since,
            failed_at: now,
            n_failures,
            kind: Kind::of(error),
            jitter: 0.5 + random.unit() / 2.0,
        });
    }
}

impl Down {
    fn pause_ns(&self, is_waited: bool) -> u64 {
        // Threads that fail together may tell it in another order than they read the clock.
        let is_long = self.failed_at.saturating_sub(self.since) > LONG.as_nanos() as u64;
        let longest = match self.kind {
            Kind::Refused => PAUSE_MAX,
            _ if !is_waited => PAUSE_MAX,
            Kind::Full => PAUSE_LONG,
            Kind::Away if is_long => PAUSE_LONG,
            Kind::Away => PAUSE_WAITED,
        };
        let doubled = PAUSE * 2_u32.pow((self.n_failures - 1).min(16));
        doubled.min(longest).mul_f64(self.jitter).as_nanos() as u64
    }
}

impl Kind {
    fn of(error: &Error) -> Self {
        match error.sqlstate() {
            Some(code) if code.starts_with("53") => Self::Full,
            // Starting up and shutting down are 57P03 and 57P01; 08 are broken links.
            Some(code) if code.starts_with("57") || code.starts_with("08") => Self::Away,
            Some(_) => Self::Refused,
            None => Self::Away,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn refusal(sqlstate: Option<&str>) -> Error {
        Error::Connect {
            target: "db".into(),
            message: "no".into(),
            sqlstate: sqlstate.map(str::to_owned),
        }
    }

    /// The pause after each of `n` failures in a row, in milliseconds without jitter.
    fn pauses(sqlstate: Option<&str>, is_waited: bool, n: usize) -> Vec<u64> {
        let mut ramp = Ramp::new(4);
        let mut random = Random::seeded(7);
        let pause = |_| {
            ramp.failed(0, &refusal(sqlstate), &mut random);
            ramp.down.as_mut().unwrap().jitter = 1.0;
            ramp.next_at(is_waited).unwrap() / MS
        };
        (0..n).map(pause).collect()
    }

    #[test]
    fn pauses_double_up_to_what_the_failure_says() {
        for (sqlstate, is_waited, expected) in [
            (None, true, [10, 20, 40, 50, 50, 50]),
            (Some("57P03"), true, [10, 20, 40, 50, 50, 50]),
            (None, false, [10, 20, 40, 80, 160, 320]),
            (Some("53300"), true, [10, 20, 40, 80, 160, 320]),
            (Some("28P01"), true, [10, 20, 40, 80, 160, 320]),
        ] {
            assert_eq!(
                pauses(sqlstate, is_waited, 6),
                expected,
                "{sqlstate:?} {is_waited}"
            );
        }
        assert_eq!(pauses(Some("28P01"), true, 40).last(), Some(&5_000));
        assert_eq!(pauses(Some("53300"), true, 40).last(), Some(&500));
    }

    #[test]
    fn a_long_outage_is_probed_less_often() {
        let mut ramp = Ramp::new(4);
        let mut random = Random::seeded(7);
        for at in 0..70 {
            ramp.failed(at * 1_000 * MS, &refusal(None), &mut random);
        }
        let pause = ramp.next_at(true).unwrap() - 69_000 * MS;
        assert!((250 * MS..=500 * MS).contains(&pause), "{pause}");
    }

    #[test]
    fn one_then_two_then_four_and_one_again_after_a_failure() {
        let mut ramp = Ramp::new(4);
        let mut random = Random::seeded(7);
        let mut windows = Vec::new();
        for _ in 0..4 {
            windows.push(ramp.window(0, true));
            ramp.succeeded();
        }
        assert_eq!(windows, [1, 2, 4, 4]);
        ramp.failed(5, &refusal(None), &mut random);
        assert_eq!(ramp.window(5, true), 0, "not before the pause");
        assert_eq!(ramp.window(100 * MS, true), 1);
        assert_eq!(ramp.down_since(), Some(5));
        ramp.succeeded();
        assert_eq!(ramp.down_since(), None);
    }
}
