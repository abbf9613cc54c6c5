//! The limiter: ten simulated minutes of twice the load that a server can bear.

use std::time::Duration;

use tidegate_flow::limiter::simulate::{Phase, Simulation, Summary, summary};
use tidegate_flow::limiter::{Adaptive, Limiter};
use tidegate_vitals::Clock;

use super::{Options, Report};
use crate::error::Result;

const TABLE: &str = "twice the load, 20 workers of 50 ms, after the first minute";
const GOODPUT: &str = "goodput, %";
const P99: &str = "P99, ms";
const TIMES: &str = "P99 against unloaded";
const DRIFT: &str = "drift of the limit, %";
const ADAPTIVE: &str = "adaptive";

const MINUTE: Duration = Duration::from_secs(60);

type Make = fn(Clock) -> Limiter;

/// Who guards the server.
const GUARDS: [(&str, Make); 5] = [
    (ADAPTIVE, |clock| {
        Limiter::adaptive("bench", Adaptive::default(), clock)
    }),
    ("fixed at 10", |clock| Limiter::fixed("bench", 10, clock)),
    ("fixed at 20, as if the workers were known", |clock| {
        Limiter::fixed("bench", 20, clock)
    }),
    ("fixed at 1,000", |clock| Limiter::fixed("bench", 1_000, clock)),
    ("no limit", |clock| {
        Limiter::fixed("bench", usize::MAX >> 1, clock)
    }),
];

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let minutes = if options.quick { 3 } else { 10 };
    for number in options.rounds("limiter") {
        let seed = number as u64;
        let unloaded = simulate(seed, 0.2, minutes, GUARDS[0].1);
        for (who, make) in GUARDS {
            let loaded = simulate(seed, 2.0, minutes, make);
            report.add(TABLE, who, GOODPUT, 100.0 * loaded.goodput);
            report.add(TABLE, who, P99, loaded.p99.as_secs_f64() * 1e3);
            report.add(
                TABLE,
                who,
                TIMES,
                loaded.p99.as_secs_f64() / unloaded.p99.as_secs_f64(),
            );
            report.add(TABLE, who, DRIFT, 100.0 * loaded.drift);
        }
    }
    // Of all rounds, the worst: a limiter must not depend on luck.
    let worst = |report: &Report, column| {
        report
            .samples(TABLE, ADAPTIVE, column)
            .iter()
            .copied()
            .reduce(f64::max)
    };
    let goodput = report
        .samples(TABLE, ADAPTIVE, GOODPUT)
        .iter()
        .copied()
        .reduce(f64::min);
    let (p99, drift) = (worst(report, TIMES), worst(report, DRIFT));
    report.budget(
        "limiter: least goodput under twice the load",
        "≥97 %",
        goodput,
        |share| share >= 97.0,
    );
    report.budget("limiter: largest P99 against unloaded", "≤1.5×", p99, |times| {
        times <= 1.5
    });
    report.budget("limiter: largest drift of the limit", "≤25 %", drift, |share| {
        share <= 25.0
    });
    Ok(())
}

fn simulate(seed: u64, load: f64, minutes: u32, make: Make) -> Summary {
    let phase = Phase {
        lasts: MINUTE * minutes,
        workers: 20,
        service: Duration::from_millis(50),
        load,
    };
    let slices = Simulation::new(seed, make).run(phase, MINUTE);
    // In the first minute an adaptive limit looks for its place.
    summary(&slices[1..])
}
