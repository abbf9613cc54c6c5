//! The shape of a trading day: when it is busy, when it rests, what the clock on the wall shows.

use std::time::Duration;

/// A part of the day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first minutes: everything moves.
    Open,
    /// Steady trading before noon.
    Morning,
    /// The market rests; only a few late prices.
    Lunch,
    /// Steady trading after noon.
    Afternoon,
    /// The last minutes: everything moves again.
    Close,
}

impl Phase {
    /// As the page knows it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Morning => "morning",
            Self::Lunch => "lunch",
            Self::Afternoon => "afternoon",
            Self::Close => "close",
        }
    }
}

/// One stretch of the day: how much of the compressed day it takes, its minutes on the wall, its rates.
struct Stretch {
    phase: Phase,
    share: f64,
    from_minute: f64,
    to_minute: f64,
    rate_from: f64,
    rate_to: f64,
}

/// 09:30 to 11:30 and 13:00 to 15:00, with the ninety minutes of lunch cut short.
const DAY: [Stretch; 5] = [
    Stretch {
        phase: Phase::Open,
        share: 0.12,
        from_minute: 570.0,
        to_minute: 595.0,
        rate_from: 3.0,
        rate_to: 1.2,
    },
    Stretch {
        phase: Phase::Morning,
        share: 0.33,
        from_minute: 595.0,
        to_minute: 690.0,
        rate_from: 1.2,
        rate_to: 0.7,
    },
    Stretch {
        phase: Phase::Lunch,
        share: 0.06,
        from_minute: 690.0,
        to_minute: 780.0,
        rate_from: 0.05,
        rate_to: 0.05,
    },
    Stretch {
        phase: Phase::Afternoon,
        share: 0.37,
        from_minute: 780.0,
        to_minute: 880.0,
        rate_from: 0.8,
        rate_to: 0.9,
    },
    Stretch {
        phase: Phase::Close,
        share: 0.12,
        from_minute: 880.0,
        to_minute: 900.0,
        rate_from: 1.2,
        rate_to: 3.0,
    },
];

/// Where the day stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moment {
    /// Days since the start.
    pub(crate) day: u64,
    /// Part of the day.
    pub(crate) phase: Phase,
    /// Activity against the day's average, which is 1.
    pub(crate) rate: f64,
    /// Minutes since midnight on the market's wall.
    pub(crate) minute: u32,
}

/// The moment after `elapsed`, with days of length `day`; one day follows the other.
pub(crate) fn moment(elapsed: Duration, day: Duration) -> Moment {
    let days = elapsed.as_secs_f64() / day.as_secs_f64();
    let mut progress = days.fract();
    let average: f64 = DAY
        .iter()
        .map(|s| s.share * f64::midpoint(s.rate_from, s.rate_to))
        .sum();
    for stretch in &DAY {
        if progress < stretch.share {
            let part = progress / stretch.share;
            let between = |from: f64, to: f64| from + (to - from) * part;
            return Moment {
                day: days as u64,
                phase: stretch.phase,
                rate: between(stretch.rate_from, stretch.rate_to) / average,
                minute: between(stretch.from_minute, stretch.to_minute) as u32,
            };
        }
        progress -= stretch.share;
    }
    // Rounding can leave the last instant of the day without a stretch.
    Moment {
        day: days as u64,
        phase: Phase::Close,
        rate: DAY[4].rate_to / average,
        minute: 899,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(1_000);

    #[test]
    fn the_day_has_its_phases() {
        let check = |seconds, phase, minute| {
            let now = moment(Duration::from_secs(seconds), LENGTH);
            assert_eq!((now.phase, now.minute), (phase, minute), "after {seconds}");
        };
        check(0, Phase::Open, 570);
        check(200, Phase::Morning, 618);
        check(460, Phase::Lunch, 705);
        check(520, Phase::Afternoon, 782);
        check(999, Phase::Close, 899);
        check(1_000, Phase::Open, 570);
        assert_eq!(moment(Duration::from_secs(2_500), LENGTH).day, 2);
    }

    #[test]
    fn open_and_close_are_busy_and_lunch_rests() {
        let rate = |seconds| moment(Duration::from_secs(seconds), LENGTH).rate;
        assert!(rate(0) > 2.0 * rate(300));
        assert!(rate(999) > 2.0 * rate(700));
        assert!(rate(480) < 0.1);
    }

    #[test]
    fn shares_fill_the_day_and_the_average_is_one() {
        assert!((DAY.iter().map(|stretch| stretch.share).sum::<f64>() - 1.0).abs() < 1e-9);
        let sum: f64 = (0..1_000)
            .map(|second| moment(Duration::from_secs(second), LENGTH).rate)
            .sum();
        assert!((sum / 1_000.0 - 1.0).abs() < 0.02, "average {}", sum / 1_000.0);
    }
}
