//! Whether a change paid: two runs of the same work, before and after.

use std::cmp::Ordering;

/// What is compared of one run; made from a report or from a stored one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// Functions, statements: whatever has calls and a time each.
    pub items: Vec<Item>,
}

/// One thing that is called.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Item {
    /// Its name, the same in both runs.
    pub name: String,
    /// Calls.
    pub calls: u64,
    /// Mean time of a call.
    pub mean_ns: f64,
    /// Standard deviation of a call's time.
    pub deviation_ns: f64,
    /// 99 % of the calls took less.
    pub p99_ns: u64,
}

/// What to do with the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It is faster, and nothing that weighs became slower.
    Keep,
    /// It is slower, or something that weighs became much slower.
    RollBack,
    /// The difference is within the noise, or there are too few calls.
    Inconclusive,
}

/// The decision with what it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What to do.
    pub decision: Decision,
    /// Time of the earlier run's calls at the later run's means, as a ratio: 0.8 is a fifth less.
    pub ratio: f64,
    /// Why, in English.
    pub reason_en: String,
    /// Why, in Chinese.
    pub reason_zh: String,
    /// The things compared, heaviest first.
    pub changes: Vec<Change>,
}

/// One thing before and after.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Calls in the two runs.
    pub calls: (u64, u64),
    /// Mean times.
    pub mean_ns: (f64, f64),
    /// P99 times.
    pub p99_ns: (u64, u64),
    /// Share of the earlier run's time, 0 to 1.
    pub weight: f64,
    /// How many standard errors lie between the means; negative is faster.
    pub errors: f64,
}

/// With fewer calls a mean says nothing.
const CALLS_MIN: u64 = 30;
/// Standard errors between two means before they count as different: by chance once in four hundred.
const ERRORS_MIN: f64 = 3.0;
/// A change of all the time smaller than this is not worth keeping code for.
const RATIO_MIN: f64 = 0.03;
/// What has this share of the time weighs; if it becomes this much slower, the change goes.
const WEIGHT_MIN: f64 = 0.05;
const SLOWER_MAX: f64 = 1.10;

/// Compares two runs. Mean times are compared, not totals, so the runs need not be equally long.
pub fn compare(before: &Run, after: &Run) -> Verdict {
    let changes = changes(before, after);
    let ratio: f64 = changes.iter().map(|c| c.weight * c.mean_ns.1 / c.mean_ns.0).sum();
    let slower = changes.iter().find(|c| c.is_slower());
    let is_sure = |sign: f64| {
        changes
            .iter()
            .any(|c| c.weight >= WEIGHT_MIN && c.errors * sign >= ERRORS_MIN)
    };
    let percent = (ratio - 1.0) * 100.0;
    let (decision, reason_en, reason_zh) = if changes.is_empty() {
        let reason_en = format!("nothing has {CALLS_MIN} calls in both runs: profile longer");
        (
            Decision::Inconclusive,
            reason_en,
            format!("两次运行中没有达到 {CALLS_MIN} 次调用的项目：请延长分析时间"),
        )
    } else if let Some(slower) = slower {
        let by = (slower.mean_ns.1 / slower.mean_ns.0 - 1.0) * 100.0;
        (
            Decision::RollBack,
            format!("`{}` became {by:.1} % slower", slower.name),
            format!("`{}` 变慢了 {by:.1}%", slower.name),
        )
    } else if ratio <= 1.0 - RATIO_MIN && is_sure(-1.0) {
        let (en, zh) = (
            format!("the same calls take {:.1} % less time", -percent),
            format!("相同调用耗时减少 {:.1}%", -percent),
        );
        (Decision::Keep, en, zh)
    } else if ratio >= 1.0 + RATIO_MIN && is_sure(1.0) {
        let (en, zh) = (
            format!("the same calls take {percent:.1} % more time"),
            format!("相同调用耗时增加 {percent:.1}%"),
        );
        (Decision::RollBack, en, zh)
    } else {
        let (en, zh) = (
            format!("the difference of {percent:.1} % is within the noise"),
            format!("{percent:.1}% 的差异在噪声范围内"),
        );
        (Decision::Inconclusive, en, zh)
    };
    let ratio = if changes.is_empty() { 1.0 } else { ratio };
    Verdict {
        decision,
        ratio,
        reason_en,
        reason_zh,
        changes,
    }
}

fn changes(before: &Run, after: &Run) -> Vec<Change> {
    let usable = |item: &&Item| item.calls >= CALLS_MIN && item.mean_ns > 0.0;
    let pairs = before.items.iter().filter(usable).filter_map(|then| {
        let now = after
            .items
            .iter()
            .filter(usable)
            .find(|now| now.name == then.name)?;
        Some((then, now))
    });
    let pairs: Vec<(&Item, &Item)> = pairs.collect();
    let all: f64 = pairs.iter().map(|(then, _)| then.total_ns()).sum();
    let change = |(then, now): &(&Item, &Item)| Change {
        name: then.name.clone(),
        calls: (then.calls, now.calls),
        mean_ns: (then.mean_ns, now.mean_ns),
        p99_ns: (then.p99_ns, now.p99_ns),
        weight: then.total_ns() / all,
        errors: errors(then, now),
    };
    let mut changes: Vec<Change> = pairs.iter().map(change).collect();
    changes.sort_by(|a, b| b.weight.partial_cmp(&a.weight).unwrap_or(Ordering::Equal));
    changes
}

/// Welch's statistic: the difference of two means over its standard error.
fn errors(then: &Item, now: &Item) -> f64 {
    let of = |item: &Item| item.deviation_ns.powi(2) / item.calls as f64;
    let error = (of(then) + of(now)).sqrt();
    let difference = now.mean_ns - then.mean_ns;
    if error > 0.0 {
        difference / error
    } else if difference == 0.0 {
        0.0
    } else {
        difference.signum() * f64::INFINITY
    }
}

// === impl Item ===

impl Item {
    fn total_ns(&self) -> f64 {
        self.mean_ns * self.calls as f64
    }
}

impl From<&crate::span::Figures> for Item {
    fn from(figures: &crate::span::Figures) -> Self {
        Self {
            name: figures.name.clone(),
            calls: figures.calls,
            mean_ns: figures.mean_ns,
            deviation_ns: figures.deviation_ns,
            p99_ns: figures.p99_ns,
        }
    }
}

// === impl Change ===

impl Change {
    fn is_slower(&self) -> bool {
        self.weight >= WEIGHT_MIN && self.errors >= ERRORS_MIN && self.mean_ns.1 > self.mean_ns.0 * SLOWER_MAX
    }
}

// === impl Decision ===

impl Decision {
    /// Its name in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::RollBack => "roll_back",
            Self::Inconclusive => "inconclusive",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(items: &[(&str, u64, f64, f64)]) -> Run {
        let item = |&(name, calls, mean_ns, deviation_ns): &(&str, u64, f64, f64)| Item {
            name: name.to_owned(),
            calls,
            mean_ns,
            deviation_ns,
            p99_ns: 0,
        };
        Run {
            items: items.iter().map(item).collect(),
        }
    }

    fn check(before: &[(&str, u64, f64, f64)], after: &[(&str, u64, f64, f64)], expected: Decision) {
        let verdict = compare(&run(before), &run(after));
        assert_eq!(verdict.decision, expected, "{verdict:?}");
    }

    #[test]
    fn a_sure_gain_is_kept() {
        let before = [("f", 1000, 100.0, 20.0), ("g", 1000, 50.0, 5.0)];
        check(
            &before,
            &[("f", 2000, 70.0, 20.0), ("g", 2000, 50.1, 5.0)],
            Decision::Keep,
        );
    }

    #[test]
    fn a_loss_is_rolled_back() {
        let before = [("f", 1000, 100.0, 20.0)];
        check(&before, &[("f", 1000, 108.0, 20.0)], Decision::RollBack);
    }

    #[test]
    fn a_gain_that_costs_something_weighty_is_rolled_back() {
        let before = [("f", 1000, 100.0, 20.0), ("g", 1000, 50.0, 5.0)];
        check(
            &before,
            &[("f", 1000, 50.0, 20.0), ("g", 1000, 60.0, 5.0)],
            Decision::RollBack,
        );
    }

    #[test]
    fn noise_and_too_few_calls_decide_nothing() {
        let before = [("f", 100, 100.0, 200.0)];
        check(&before, &[("f", 100, 80.0, 200.0)], Decision::Inconclusive);
        check(
            &[("f", 29, 100.0, 1.0)],
            &[("f", 1000, 10.0, 1.0)],
            Decision::Inconclusive,
        );
        check(
            &[("f", 100, 100.0, 1.0)],
            &[("g", 100, 10.0, 1.0)],
            Decision::Inconclusive,
        );
        check(
            &[("f", 10_000, 100.0, 1.0)],
            &[("f", 10_000, 99.0, 1.0)],
            Decision::Inconclusive,
        );
        check(&[], &[], Decision::Inconclusive);
    }

    #[test]
    fn the_ratio_weighs_by_time() {
        let verdict = compare(
            &run(&[("f", 100, 900.0, 1.0), ("g", 100, 100.0, 1.0)]),
            &run(&[("f", 100, 450.0, 1.0), ("g", 100, 100.0, 1.0)]),
        );
        assert!((verdict.ratio - 0.55).abs() < 1e-9);
        assert_eq!(verdict.changes[0].name, "f");
    }
}
