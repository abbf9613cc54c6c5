//! How well the memory level chooses what to keep, and how well its curve foretells what more memory would bring.

use tidegate_cache::{Ghost, Loaded, Policy, trace};
use tokio::runtime::Runtime;

use super::caches::{TIDEGATE, key, own};
use super::{Options, Report, runtime};
use crate::error::Result;

const TABLE: &str = "hit ratio from empty, 50,000 keys, room for 2,500, %";
const CLAIRVOYANT: &str = "knows the future (Belady)";
const LRU: &str = "least recently used";
/// Drifting by 10 ranks in 2,000 requests renews a cache full of the most popular keys once in 500,000 requests, fast
/// drifting by 25 once in 200,000.
const STREAMS: [&str; 4] = ["zipf 0.9", "with scans", "drifting", "drifting fast"];
const CURVE: &str = "miss-ratio curve, sampled at 1 %, 100,000 of 1,000,000 keys";
const FORETOLD: &str = "hit ratio foretold, %";
const EXACT: &str = "exact simulation, %";
const OFF: &str = "off, points";
const WORST: &str = "worst";

const KEYS: usize = 50_000;
const CAPACITY: usize = 2_500;

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let runtime = runtime()?;
    let len = if options.quick { 100_000 } else { 400_000 };
    for number in options.rounds("hit_ratio") {
        let plain = trace::zipf(KEYS, 0.9, len, number as u64);
        let streams = [
            plain.clone(),
            trace::with_scans(&plain, 20_000, CAPACITY),
            trace::drifting(&plain, KEYS as u64, 2_000, 10),
            trace::drifting(&plain, KEYS as u64, 2_000, 25),
        ];
        for (name, requests) in STREAMS.into_iter().zip(&streams) {
            report.add(TABLE, TIDEGATE, name, 100.0 * ours(&runtime, requests)?);
            report.add(TABLE, LRU, name, 100.0 * trace::lru(requests, CAPACITY));
            report.add(
                TABLE,
                CLAIRVOYANT,
                name,
                100.0 * trace::clairvoyant(requests, CAPACITY),
            );
        }
        curve(number as u64, options.quick, report);
    }
    for name in STREAMS {
        let (best, own) = (
            report.samples(TABLE, CLAIRVOYANT, name),
            report.samples(TABLE, TIDEGATE, name),
        );
        let below = best
            .iter()
            .zip(own)
            .map(|(best, own)| best - own)
            .reduce(f64::max);
        report.budget(
            format!("hit_ratio: below what knows the future, {name}"),
            "≤12 points",
            below,
            |points| points <= 12.0,
        );
    }
    let worst = report.samples(CURVE, WORST, OFF).iter().copied().reduce(f64::max);
    report.budget(
        "hit_ratio: miss-ratio curve, largest error",
        "≤1.5 points",
        worst,
        |points| points <= 1.5,
    );
    Ok(())
}

fn ours(runtime: &Runtime, requests: &[u64]) -> Result<f64> {
    let cache = own(runtime, CAPACITY)?;
    let policy = Policy::default();
    for request in requests {
        let key = key(*request);
        if cache.get(&key).is_none() {
            cache.insert(&key, &policy, Loaded::of(""));
        }
    }
    let stats = cache.stats();
    assert!(
        stats.entries <= CAPACITY,
        "{} values in {CAPACITY}",
        stats.entries
    );
    Ok(stats.hit_rate())
}

/// The curve that a cache would keep, beside the same policy at full size.
fn curve(seed: u64, is_quick: bool, report: &mut Report) {
    let (keys, capacity, len) = if is_quick {
        (200_000, 50_000, 400_000)
    } else {
        (1_000_000, 100_000, 4_000_000)
    };
    let requests = trace::zipf(keys, 0.9, len, seed);
    let ghost = Ghost::new(capacity as u64, capacity, 0.01);
    for request in &requests {
        ghost.access(trace::mixed(*request), 1);
    }
    let mut worst: f64 = 0.0;
    for expected in ghost.curve() {
        let exact = exact(&requests, (capacity as f64 * expected.scale) as usize);
        let who = format!("{}× the memory", expected.scale);
        let off = 100.0 * (expected.hit_rate - exact).abs();
        report.add(CURVE, &who, FORETOLD, 100.0 * expected.hit_rate);
        report.add(CURVE, &who, EXACT, 100.0 * exact);
        report.add(CURVE, &who, OFF, off);
        worst = worst.max(off);
    }
    report.add(CURVE, WORST, OFF, worst);
}

fn exact(requests: &[u64], capacity: usize) -> f64 {
    let mut map: quick_cache::unsync::Cache<u64, ()> = quick_cache::unsync::Cache::new(capacity);
    let mut hits = 0_u64;
    for request in requests {
        if map.get(request).is_some() {
            hits += 1;
        } else {
            map.insert(*request, ());
        }
    }
    hits as f64 / requests.len() as f64
}
