//! The budgets that Tidegate's row is held to, and whether this run met them.

use crate::measure::Plan;
use crate::report::Report;
use crate::row::Row;

/// A promise about Tidegate's figures.
pub(crate) struct Budget {
    what: String,
    rule: Rule,
}

enum Rule {
    /// Tidegate's own figure, divided by `unit`, is at most `limit`.
    AtMost {
        key: String,
        unit: f64,
        limit: f64,
        suffix: &'static str,
    },
    /// The peer's figure is at least `factor` times Tidegate's in the same round.
    Better { peer: Row, key: String, factor: f64 },
}

/// One budget beside what was measured.
#[derive(serde::Serialize)]
pub(crate) struct Verdict {
    /// What is promised.
    pub(crate) what: String,
    /// The limit.
    pub(crate) budget: String,
    /// The median of this run.
    pub(crate) measured: String,
    /// Whether it was met.
    pub(crate) is_met: bool,
}

/// The factors of each peer with 1, 8 and 64 messages in flight; uWebSockets' "on a par" is read as within 10 %.
const FACTORS: [(Row, &[f64]); 5] = [
    (Row::Socketioxide, &[1.6, 2.0, 3.5]),
    (Row::SocketIo, &[2.0, 8.0, 25.0]),
    (Row::PythonSocketio, &[8.0]),
    (Row::Centrifuge, &[1.3, 1.4, 3.0]),
    (Row::Uws, &[0.9, 0.9, 0.9]),
];
const FLOOR_LIMITS: [f64; 3] = [1.35, 1.4, 1.5];
const MILLIS: f64 = 1e6;

/// Every budget that this bench can judge.
pub(crate) fn all(plan: &Plan) -> Vec<Budget> {
    let mut budgets = Vec::new();
    for (flight, limit) in plan.flights.into_iter().zip(FLOOR_LIMITS) {
        let what = format!("CPU per delivery, {flight} in flight, against the floor");
        budgets.push(at_most(what, format!("floor_cpu_{flight}"), 1.0, limit, "×"));
    }
    for (peer, factors) in FACTORS {
        for (flight, factor) in plan.flights.into_iter().zip(factors) {
            let what = format!(
                "CPU per delivery, {flight} in flight, better than {}",
                peer.title()
            );
            let rule = Rule::Better {
                peer,
                key: format!("cpu_{flight}"),
                factor: *factor,
            };
            budgets.push(Budget { what, rule });
        }
    }
    let deflated = "deflated fan-out against our plain path".to_owned();
    budgets.push(at_most(deflated, "deflated_ratio".into(), 1.0, 1.15, "×"));
    budgets.push(Budget {
        what: "deflated fan-out better than socket.io".into(),
        rule: Rule::Better {
            peer: Row::SocketIo,
            key: "cpu_deflated".into(),
            factor: 4.0,
        },
    });
    budgets.extend(latencies(plan));
    for n_idle in plan.n_idle {
        let what = format!("memory per idle connection at {n_idle}");
        budgets.push(at_most(what, format!("rss_{n_idle}"), 1024.0, 4.0, " KiB"));
    }
    budgets
}

fn latencies(plan: &Plan) -> Vec<Budget> {
    let wide = format!("one publish to {} subscribers", plan.n_wide);
    let full = format!(
        "full load, {} in flight, P99 (flush window 50 ms + 10 ms)",
        plan.flights[2]
    );
    vec![
        at_most(
            "lone message, P50 against a bare echo".into(),
            "floor_lone_p50".into(),
            1.0,
            1.3,
            "×",
        ),
        at_most(
            "half of saturation, P50".into(),
            "half_p50".into(),
            MILLIS,
            1.0,
            " ms",
        ),
        at_most(
            "half of saturation, P99".into(),
            "half_p99".into(),
            MILLIS,
            5.0,
            " ms",
        ),
        at_most(full, "full_p99".into(), MILLIS, 60.0, " ms"),
        at_most(wide, "wide".into(), MILLIS, 65.0, " ms"),
    ]
}

fn at_most(what: String, key: String, unit: f64, limit: f64, suffix: &'static str) -> Budget {
    Budget {
        what,
        rule: Rule::AtMost {
            key,
            unit,
            limit,
            suffix,
        },
    }
}

impl Budget {
    /// Judges the run; `None` when it holds no figures for this budget.
    pub(crate) fn judge(&self, report: &Report) -> Option<Verdict> {
        let (budget, measured, is_met) = match &self.rule {
            Rule::AtMost {
                key,
                unit,
                limit,
                suffix,
            } => {
                let value = median(&report.values(Row::Tidegate, key))? / unit;
                (
                    format!("≤{limit}{suffix}"),
                    format!("{value:.2}{suffix}"),
                    value <= *limit,
                )
            }
            Rule::Better { peer, key, factor } => {
                let value = median(&report.ratios(*peer, Row::Tidegate, key))?;
                (format!("≥{factor}×"), format!("{value:.2}×"), value >= *factor)
            }
        };
        Some(Verdict {
            what: self.what.clone(),
            budget,
            measured,
            is_met,
        })
    }
}

/// The middle of some values, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(values: &[f64], expected: Option<f64>) {
        assert_eq!(median(values), expected);
    }

    #[test]
    fn the_median_is_the_middle() {
        check(&[], None);
        check(&[3.0], Some(3.0));
        check(&[9.0, 1.0, 5.0], Some(5.0));
        check(&[4.0, 1.0, 2.0, 9.0], Some(3.0));
    }

    #[test]
    fn every_factor_has_its_flight() {
        assert!(
            FACTORS
                .iter()
                .all(|(_, factors)| factors.len() <= Plan::whole().flights.len())
        );
    }
}
