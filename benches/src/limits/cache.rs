//! The memory level: hits, inserts that evict, and bytes an entry, beside other caches.

use std::hint::black_box;

use bytes::Bytes;
use tidegate_cache::trace;
use tokio::runtime::Runtime;

use super::caches::{Keys, Kind, MOKA, TIDEGATE};
use super::threads::{COUNTS, cost, table};
use super::{Options, Report, runtime};
use crate::error::{Error, Result};
use crate::sys;

const WHAT: &str = "memory level, values of 100 bytes";
const HIT: &str = "hit";
const HIT_CPU: &str = "hit, CPU";
const INSERT: &str = "insert that evicts";
const BYTES: &str = "memory of an entry, its key of 12 bytes and an empty value";
const ENTRY: &str = "bytes";

/// Values that all caches hold when hits are measured.
const HOT: usize = 10_000;
/// Values that they may hold when inserts are measured: one in four of the keys.
const SMALL: usize = 10_000;

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let runtime = runtime()?;
    let (keys, value) = (Keys::new(4 * SMALL), Bytes::from(vec![7; 100]));
    let n = if options.quick { 20_000 } else { 2_000_000 };
    for number in options.rounds("cache") {
        for threads in COUNTS {
            // Turned by the round: whoever comes first finds colder memory.
            for at in 0..Kind::ALL.len() {
                let kind = Kind::ALL[(at + number) % Kind::ALL.len()];
                hits(kind, &runtime, (&keys, &value), (threads, n), report)?;
                inserts(kind, &runtime, (&keys, &value), (threads, n / 4), report)?;
            }
        }
    }
    // It hardly varies.
    let n_entries = if options.quick { 50_000 } else { 1_000_000 };
    bytes(&runtime, n_entries, report)?;
    if Kind::ALL.len() == 2 {
        report.note(
            "Built without the feature limits-peers: moka and the cache behind a mutex are not measured.",
        );
    }
    promises(report);
    Ok(())
}

fn hits(
    kind: Kind,
    runtime: &Runtime,
    (keys, value): (&Keys, &Bytes),
    (threads, n): (usize, usize),
    report: &mut Report,
) -> Result<()> {
    let cache = kind.make(runtime, 2 * HOT, keys, value)?;
    (0..HOT).for_each(|at| cache.insert(at));
    let held = cache.len();
    if held != HOT {
        let text = format!("{} holds {held} of {HOT} values", kind.title());
        return Err(Error::Server(text));
    }
    // A power of two, so that a thread finds its place by a mask.
    let wanted: Vec<usize> = trace::zipf(HOT, 0.9, 1 << 16, 1)
        .into_iter()
        .map(|rank| rank as usize)
        .collect();
    let look = |thread: usize, at: usize| {
        let at = wanted[(at + thread * 9_973) & (wanted.len() - 1)];
        assert!(black_box(cache.hit(at)), "nothing is evicted");
    };
    cost(threads, n / 20, look)?;
    cost(threads, n, look)?.put(report, &table(WHAT, threads), kind.title(), HIT);
    Ok(())
}

fn inserts(
    kind: Kind,
    runtime: &Runtime,
    (keys, value): (&Keys, &Bytes),
    (threads, n): (usize, usize),
    report: &mut Report,
) -> Result<()> {
    let cache = kind.make(runtime, SMALL, keys, value)?;
    (0..keys.len()).for_each(|at| cache.insert(at));
    // All keys in turn, of which the first was evicted when it comes again.
    let store = |thread: usize, at: usize| cache.insert((at + thread * keys.len() / 4) % keys.len());
    let cost = cost(threads, n, store)?;
    let held = cache.len();
    if held > SMALL {
        let text = format!("{} holds {held} values, more than {SMALL}", kind.title());
        return Err(Error::Server(text));
    }
    cost.put(report, &table(WHAT, threads), kind.title(), INSERT);
    Ok(())
}

/// What the allocator has given out for a cache, divided by what the cache holds.
fn bytes(runtime: &Runtime, n: usize, report: &mut Report) -> Result<()> {
    let (keys, value) = (Keys::new(n), Bytes::new());
    for kind in Kind::ALL {
        let before = sys::heap_bytes();
        let cache = kind.make(runtime, n, &keys, &value)?;
        (0..n).for_each(|at| cache.insert(at));
        let held = cache.len();
        let bytes = sys::heap_bytes().saturating_sub(before);
        report.add(BYTES, kind.title(), ENTRY, bytes as f64 / held as f64);
    }
    Ok(())
}

fn promises(report: &mut Report) {
    for threads in COUNTS {
        let table = table(WHAT, threads);
        let hit = report.median(&table, TIDEGATE, HIT_CPU);
        let what = format!("cache: CPU of a hit in memory, threads: {threads}");
        report.budget(what, "≤80 ns", hit, |ns| ns <= 80.0);
        let times = report.ratio(&table, MOKA, TIDEGATE, HIT_CPU);
        let what = format!("cache: CPU of a hit in memory against moka, threads: {threads}");
        report.budget(what, "≥5×", times, |times| times >= 5.0);
    }
}
