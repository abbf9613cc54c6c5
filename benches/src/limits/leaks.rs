//! The leak detector: made-up histories of memory, half of them with a leak.

use std::sync::Arc;

use tidegate_vitals::Registry;
use tidegate_vitals::allocator::HeapProfile;
use tidegate_vitals::leak::{Config, Detector, HeapSampler, series};

use super::{Options, Report};
use crate::budget::median;
use crate::error::Result;

const TABLE: &str = "100 histories with a leak and 100 without, of six windows each";
const FALSE: &str = "false alarms, %";
const FOUND: &str = "leaks found, %";
const TIME: &str = "time to the alarm, windows";
const SLOWEST: &str = "slowest, windows";

/// The detectors, with the time of a window.
const DETECTORS: [(&str, Config); 2] = [
    ("in production, windows of 2 hours", Config::production()),
    ("in tests, windows of 3 s", Config::short()),
];

/// A heap that cannot be sampled: the alarm is what counts here.
struct NoHeap;

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    for number in options.rounds("leaks") {
        for (who, config) in DETECTORS {
            judge(who, config, number as u64 * 1_000, report);
        }
    }
    for (who, _) in DETECTORS {
        let worst = report.samples(TABLE, who, FALSE).iter().copied().reduce(f64::max);
        report.budget(
            format!("leaks: most false alarms, {who}"),
            "≤2 %",
            worst,
            |share| share <= 2.0,
        );
    }
    Ok(())
}

fn judge(who: &str, config: Config, seed: u64, report: &mut Report) {
    let (mut n_clean, mut n_false, mut n_leaking) = (0_u32, 0_u32, 0_u32);
    let mut times = Vec::new();
    for series in series::generate(seed, 100, &config) {
        let mut detector = Detector::new(config, Arc::new(NoHeap), &Registry::new());
        let alarm = series.samples.iter().find_map(|sample| detector.sample(sample));
        if series.leak_bytes == 0 {
            n_clean += 1;
            n_false += u32::from(alarm.is_some());
        } else {
            n_leaking += 1;
            let windows = |alarm: tidegate_vitals::leak::Alarm| {
                let since = alarm.at - series.samples[0].at;
                since.as_secs_f64() / config.window().as_secs_f64()
            };
            times.extend(alarm.map(windows));
        }
    }
    report.add(TABLE, who, FALSE, 100.0 * f64::from(n_false) / f64::from(n_clean));
    report.add(
        TABLE,
        who,
        FOUND,
        100.0 * times.len() as f64 / f64::from(n_leaking),
    );
    if let Some(middle) = median(&times) {
        report.add(TABLE, who, TIME, middle);
        report.add(TABLE, who, SLOWEST, times.iter().copied().fold(0.0, f64::max));
    }
}

impl HeapSampler for NoHeap {
    fn start(&self) -> bool {
        false
    }

    fn stop(&self) {}

    fn profile(&self) -> Option<HeapProfile> {
        None
    }
}
