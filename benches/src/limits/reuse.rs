//! What it saves to keep a buffer or a compressor for the next one, and from which size on.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

use tidegate_wire::deflate::Deflater;
use tikv_jemallocator::Jemalloc;

use super::{Options, Report};
use crate::error::{Result, Tried};
use crate::sys;

const USED: &str = "all of it used";
const TOUCHED: &str = "1 KiB of it used";
const KEPT: &str = "kept for the next";
const ANEW: &str = "jemalloc, anew";
const ZEROED: &str = "jemalloc, anew and zeroed";
const ANEW_SYSTEM: &str = "system, anew";
const DEFLATER: &str = "a message of 1 KiB deflated, CPU ns";
const MESSAGE: &str = "message";
const NEW: &str = "made anew";

/// Sizes of a buffer, KiB: reads and writes of a shard are 64.
const SIZES: [usize; 5] = [1, 8, 32, 64, 256];
/// What a read of a small message leaves in a buffer, bytes.
const SMALL: usize = 1 << 10;

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let n = if options.quick { 200 } else { 20_000 };
    for _ in options.rounds("reuse") {
        for kib in SIZES {
            buffers(kib, n, report)?;
        }
        deflaters(n, report)?;
    }
    for kib in [32, 64] {
        let ratio = report.ratio(&table(kib), ANEW, KEPT, TOUCHED);
        let what = format!("reuse: a buffer of {kib} KiB for a small read, anew against kept");
        report.budget(what, "≥1.5×", ratio, |times| times >= 1.5);
    }
    let ratio = report.ratio(DEFLATER, NEW, KEPT, MESSAGE);
    let what = "reuse: a compressor for each message against one kept";
    report.budget(what, "≥1.5×", ratio, |times| times >= 1.5);
    Ok(())
}

fn table(kib: usize) -> String {
    format!("a buffer of {kib} KiB, CPU ns a use")
}

fn buffers(kib: usize, n: usize, report: &mut Report) -> Result<()> {
    let (table, bytes) = (table(kib), kib << 10);
    for (column, used) in [(USED, bytes), (TOUCHED, SMALL)] {
        let mut kept = vec![0_u8; bytes];
        let mut put = |who, ns| report.add(&table, who, column, ns);
        put(KEPT, cpu_ns(n, |at| touch(&mut kept, used, at))?);
        put(ANEW, cpu_ns(n, |at| anew(&Jemalloc, bytes, false, used, at))?);
        put(ZEROED, cpu_ns(n, |at| anew(&Jemalloc, bytes, true, used, at))?);
        put(
            ANEW_SYSTEM,
            cpu_ns(n, |at| anew(&System, bytes, false, used, at))?,
        );
    }
    Ok(())
}

fn deflaters(n: usize, report: &mut Report) -> Result<()> {
    let text: String = (0..).map(|n| format!("{{\"price\":{n}.25}},")).take(70).collect();
    let data = &text.as_bytes()[..SMALL];
    let mut kept = Deflater::new(1);
    let cost = cpu_ns(n, |_| _ = black_box(kept.deflate(black_box(data), 15)))?;
    report.add(DEFLATER, KEPT, MESSAGE, cost);
    let cost = cpu_ns(n, |_| {
        _ = black_box(Deflater::new(1).deflate(black_box(data), 15))
    })?;
    report.add(DEFLATER, NEW, MESSAGE, cost);
    Ok(())
}

/// Takes a buffer, uses a part of it and gives it back.
fn anew(allocator: &impl GlobalAlloc, bytes: usize, zeroed: bool, used: usize, at: usize) {
    let layout = Layout::array::<u8>(bytes).expect("a size of the table");
    // SAFETY: rule 5, the layout is not empty, and the bytes are ours until they are given back with the same layout.
    unsafe {
        let start = if zeroed {
            allocator.alloc_zeroed(layout)
        } else {
            allocator.alloc(layout)
        };
        assert!(!start.is_null(), "{bytes} bytes");
        start.write_bytes(at as u8, used);
        black_box(start);
        allocator.dealloc(start, layout);
    }
}

fn touch(buffer: &mut [u8], used: usize, at: usize) {
    buffer[..used].fill(at as u8);
    black_box(buffer);
}

/// The CPU time of the process for one of `n` calls, nanoseconds; the median of five runs.
fn cpu_ns(n: usize, mut call: impl FnMut(usize)) -> Result<f64> {
    let process = std::process::id();
    let mut runs = [0.0; 5];
    for run in &mut runs {
        let before = sys::cpu_ns(process).tried("read the CPU clock")?;
        (0..n).for_each(&mut call);
        let after = sys::cpu_ns(process).tried("read the CPU clock")?;
        *run = (after - before) as f64 / n as f64;
    }
    runs.sort_by(f64::total_cmp);
    Ok(runs[2])
}
