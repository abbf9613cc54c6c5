//! `#[profiled]`: what it adds to a call, and that a busy function takes no more memory than an idle one.

use std::hint::black_box;
use std::time::{Duration, Instant};

use tidegate_vitals::{profiled, span};

use super::threads::{COUNTS, cost, table};
use super::{Options, Report};
use crate::error::{Result, Tried};
use crate::sys;

const WHAT: &str = "a function that does nothing";
const CALL: &str = "call";
const CALL_CPU: &str = "call, CPU";
const PLAIN: &str = "without #[profiled]";
const OFF: &str = "#[profiled], off";
const ON: &str = "#[profiled], on";
const MEMORY: &str = "memory at 3 million calls a second";
const RATE: &str = "million calls/s";
const HEAP: &str = "heap grown after the first second, bytes";

/// Calls in a millisecond of the paced run.
const PER_MS: u32 = 3_000;

#[inline(never)]
fn plain(at: usize) -> usize {
    black_box(at)
}

#[inline(never)]
#[profiled]
fn marked(at: usize) -> usize {
    black_box(at)
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let n = if options.quick { 50_000 } else { 10_000_000 };
    for _ in options.rounds("profiled") {
        for threads in COUNTS {
            let table = table(WHAT, threads);
            let call = |_, at| _ = black_box(marked(black_box(at)));
            cost(threads, n, |_, at| _ = black_box(plain(black_box(at))))?.put(report, &table, PLAIN, CALL);
            cost(threads, n, call)?.put(report, &table, OFF, CALL);
            let recording = span::record();
            cost(threads, n, call)?.put(report, &table, ON, CALL);
            drop(recording);
        }
        let seconds = if options.quick { 0.2 } else { 5.0 };
        memory(seconds, report)?;
    }
    for threads in COUNTS {
        let table = table(WHAT, threads);
        let added = |report: &Report, who| {
            let both = report
                .median(&table, who, CALL_CPU)
                .zip(report.median(&table, PLAIN, CALL_CPU));
            both.map(|(marked, plain)| marked - plain)
        };
        let (on, off) = (added(report, ON), added(report, OFF));
        let what = format!("profiled: CPU that it adds to a call, on, threads: {threads}");
        report.budget(what, "≤50 ns", on, |ns| ns <= 50.0);
        let what = format!("profiled: CPU that it adds to a call, off, threads: {threads}");
        report.budget(what, "≤2 ns", off, |ns| ns <= 2.0);
    }
    let grown = report.samples(MEMORY, ON, HEAP).iter().copied().reduce(f64::max);
    report.budget(
        "profiled: heap grown at 3 million calls a second",
        "0 bytes",
        grown,
        |bytes| bytes <= 0.0,
    );
    Ok(())
}

/// Calls at a steady pace on one thread, the heap read after a fifth of the time and at the end.
fn memory(seconds: f64, report: &mut Report) -> Result<()> {
    let paced = move || {
        paced(seconds * 0.2);
        let before = sys::heap_bytes();
        let rate = paced(seconds * 0.8);
        (rate, sys::heap_bytes().saturating_sub(before))
    };
    let recording = span::record();
    let thread = std::thread::Builder::new().name("paced".into()).spawn(paced);
    let thread = thread.tried("start a thread")?;
    let (rate, grown) = thread.join().expect("counting does not panic");
    drop(recording);
    report.add(MEMORY, ON, RATE, rate / 1e6);
    report.add(MEMORY, ON, HEAP, grown as f64);
    Ok(())
}

/// Calls for so many seconds; how many it came to in one.
fn paced(seconds: f64) -> f64 {
    let start = Instant::now();
    let n_ms = (seconds * 1e3).ceil() as u32;
    for ms in 1..=n_ms {
        for at in 0..PER_MS {
            black_box(marked(black_box(at as usize)));
        }
        let due = start + Duration::from_millis(u64::from(ms));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    f64::from(n_ms) * f64::from(PER_MS) / start.elapsed().as_secs_f64()
}
