//! The four levels of memory pressure, what decides between them, and where each begins.

use std::time::Duration;

use crate::clock::Instant;
use crate::error::Error;

/// How short memory is. Levels are ordered: `High` is above `Moderate`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// Nothing to do.
    #[default]
    Normal,
    /// Give back what costs little.
    Moderate,
    /// Refuse what is new, shrink what is there.
    High,
    /// Anything that keeps the process alive.
    Critical,
}

/// Where each level begins, per mille of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Where [`Level::Moderate`] begins.
    pub moderate: u16,
    /// Where [`Level::High`] begins.
    pub high: u16,
    /// Where [`Level::Critical`] begins.
    pub critical: u16,
}

/// The signal that the ladder goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signal {
    /// The largest of the sources.
    pub(super) per_mille: u32,
    /// The share of time in which some task waited for memory.
    pub(super) stall_per_mille: Option<u32>,
}

/// What the ladder needs to know of the settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) thresholds: Thresholds,
    pub(super) hysteresis: u16,
    pub(super) dwell: Duration,
    /// From which share of stalled time on the level is raised by one; `None`: never.
    pub(super) stall_per_mille: Option<u16>,
}

/// The level now: up at once, down only after the dwell and below the edge by the hysteresis.
#[derive(Debug)]
pub(super) struct Ladder {
    level: Level,
    since: Instant,
    stalled: bool,
}

// === impl Level ===

impl Level {
    /// Every level, rising.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Moderate, Self::High, Self::Critical];

    /// Its name in figures and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Moderate => "moderate",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    pub(super) fn from_u8(value: u8) -> Self {
        Self::ALL[usize::from(value).min(Self::ALL.len() - 1)]
    }

    pub(super) fn raised(self) -> Self {
        Self::from_u8(self as u8 + 1)
    }
}

impl std::fmt::Display for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Thresholds ===

impl Thresholds {
    /// 60, 72 and 80 per cent: room for what arrives between two ticks.
    pub const DEFAULT: Self = Self {
        moderate: 600,
        high: 720,
        critical: 800,
    };

    /// 72, 80 and 90 per cent: more of the memory in use, less room for a burst.
    pub const COMMON: Self = Self {
        moderate: 720,
        high: 800,
        critical: 900,
    };

    /// The ladder below a given critical level: high 8 points and moderate 20 points under it.
    pub const fn below(critical: u16) -> Self {
        Self {
            moderate: critical.saturating_sub(200),
            high: critical.saturating_sub(80),
            critical,
        }
    }

    /// Where a level begins, per mille; zero for normal.
    pub const fn edge(&self, level: Level) -> u16 {
        match level {
            Level::Normal => 0,
            Level::Moderate => self.moderate,
            Level::High => self.high,
            Level::Critical => self.critical,
        }
    }

    /// Whether the levels rise with room for `hysteresis` between them.
    ///
    /// # Errors
    /// [`Error::Levels`].
    pub fn check(&self, hysteresis: u16) -> Result<(), Error> {
        let edges = [0, self.moderate, self.high, self.critical];
        let rises = edges
            .windows(2)
            .all(|pair| pair[0].saturating_add(hysteresis) < pair[1]);
        if rises && self.critical <= 1000 {
            return Ok(());
        }
        Err(Error::Levels {
            moderate: self.moderate,
            high: self.high,
            critical: self.critical,
            hysteresis,
        })
    }

    /// The level of a signal.
    pub fn level_of(&self, per_mille: u32) -> Level {
        let reached = |level: &&Level| per_mille >= u32::from(self.edge(**level));
        *Level::ALL
            .iter()
            .rev()
            .find(reached)
            .expect("normal begins at zero")
    }

    /// How far into `level` the signal is, 0 to 1.
    pub(super) fn within(&self, level: Level, per_mille: u32) -> f32 {
        let lower = f32::from(self.edge(level));
        let upper = match level {
            Level::Critical => 1000.0,
            below => f32::from(self.edge(below.raised())),
        };
        ((per_mille as f32 - lower) / (upper - lower).max(1.0)).clamp(0.0, 1.0)
    }
}

impl Default for Thresholds {
    fn default() -> Self {
        Self::DEFAULT
    }
}

// === impl Ladder ===

impl Ladder {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            level: Level::Normal,
            since: now,
            stalled: false,
        }
    }

    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Takes in one signal; says from which level it moved, if it did.
    pub(super) fn step(&mut self, now: Instant, signal: Signal, rules: &Rules) -> Option<Level> {
        self.stalled = self.is_stalled(signal.stall_per_mille, rules.stall_per_mille);
        let up = self.raise(rules.thresholds.level_of(signal.per_mille));
        let held = signal.per_mille.saturating_add(u32::from(rules.hysteresis));
        let down = self.raise(rules.thresholds.level_of(held));
        let rested = now - self.since >= rules.dwell;
        let next = if up > self.level {
            up
        } else if down < self.level && rested {
            down
        } else {
            return None;
        };
        self.since = now;
        Some(std::mem::replace(&mut self.level, next))
    }

    pub(super) fn stalled(&self) -> bool {
        self.stalled
    }

    /// Stalls have their own hysteresis: they end at half of where they begin.
    fn is_stalled(&self, stall: Option<u32>, threshold: Option<u16>) -> bool {
        let Some((stall, threshold)) = stall.zip(threshold) else {
            return false;
        };
        let edge = if self.stalled { threshold / 2 } else { threshold };
        stall >= u32::from(edge.max(1))
    }

    fn raise(&self, level: Level) -> Level {
        if self.stalled { level.raised() } else { level }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        thresholds: Thresholds::DEFAULT,
        hysteresis: 30,
        dwell: Duration::from_secs(2),
        stall_per_mille: Some(100),
    };

    /// `(milliseconds, signal, stall)` one after another, and the level after each.
    fn check(steps: &[(u64, u32, Option<u32>, Level)]) {
        let mut ladder = Ladder::new(Instant::ZERO);
        for &(ms, per_mille, stall_per_mille, expected) in steps {
            let signal = Signal {
                per_mille,
                stall_per_mille,
            };
            let before = ladder.level();
            let moved = ladder.step(Instant::from_millis(ms), signal, &RULES);
            assert_eq!(ladder.level(), expected, "at {ms} ms with {signal:?}");
            assert_eq!(moved, (before != expected).then_some(before), "at {ms} ms");
        }
    }

    #[test]
    fn up_is_immediate_and_may_skip() {
        use Level::{Critical, Moderate, Normal};
        check(&[
            (0, 599, None, Normal),
            (1, 600, None, Moderate),
            (2, 800, None, Critical),
        ]);
        check(&[(0, 2000, None, Critical)]);
    }

    #[test]
    fn down_needs_the_dwell_and_the_hysteresis() {
        use Level::{High, Moderate, Normal};
        check(&[
            (0, 720, None, High),
            (1_999, 100, None, High),
            (2_000, 690, None, High),
            (2_100, 689, None, Moderate),
            (4_000, 0, None, Moderate),
            (4_100, 570, None, Moderate),
            (4_200, 569, None, Normal),
        ]);
        check(&[(0, 799, None, High), (9_000, 0, None, Normal)]);
    }

    #[test]
    fn stalls_raise_by_one_and_never_lower() {
        use Level::{Critical, High, Moderate, Normal};
        check(&[
            (0, 0, Some(99), Normal),
            (1, 0, Some(100), Moderate),
            (3_000, 0, Some(50), Moderate),
            (3_100, 0, Some(49), Normal),
        ]);
        check(&[(0, 600, Some(500), High), (3_000, 600, Some(0), Moderate)]);
        check(&[(0, 900, Some(1000), Critical), (5_000, 900, None, Critical)]);
        check(&[(0, 650, Some(0), Moderate)]);
    }

    #[test]
    fn presets_follow_from_the_critical_level() {
        assert_eq!(Thresholds::below(800), Thresholds::DEFAULT);
        assert_eq!(Thresholds::COMMON.critical, 900);
        for good in [Thresholds::DEFAULT, Thresholds::COMMON, Thresholds::below(1000)] {
            assert_eq!(good.check(30), Ok(()));
        }
        for bad in [Thresholds::below(100), Thresholds::below(1001)] {
            assert!(bad.check(30).is_err(), "{bad:?}");
        }
        assert!(
            Thresholds::DEFAULT.check(80).is_err(),
            "the hysteresis eats a level"
        );
    }

    #[test]
    fn within_scales_inside_the_level() {
        let thresholds = Thresholds::DEFAULT;
        for (level, signal, expected) in [
            (Level::Moderate, 600, 0.0),
            (Level::Moderate, 660, 0.5),
            (Level::Moderate, 590, 0.0),
            (Level::High, 800, 1.0),
            (Level::Critical, 900, 0.5),
            (Level::Critical, 4000, 1.0),
        ] {
            assert_eq!(thresholds.within(level, signal), expected, "{level} at {signal}");
        }
    }
}
