//! What one call costs when several threads make it at a time.

use std::sync::Barrier;
use std::time::Instant;

use super::Report;
use crate::error::{Result, Tried};
use crate::sys;

/// Threads at a time, in most tables.
pub(super) const COUNTS: [usize; 3] = [1, 2, 4];

/// The cost of one call, nanoseconds.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    /// The time of all, divided by the calls of all threads.
    pub(super) ns: f64,
    /// The CPU time of the process, divided likewise.
    pub(super) cpu_ns: f64,
}

/// Lets `threads` threads begin together and make `n` calls each, with the number of the thread and of the call.
pub(super) fn cost(threads: usize, n: usize, call: impl Fn(usize, usize) + Sync) -> Result<Cost> {
    let (ready, go) = (Barrier::new(threads + 1), Barrier::new(threads + 1));
    let process = std::process::id();
    let (start, cpu_before) = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (ready, go, call) = (&ready, &go, &call);
            scope.spawn(move || {
                ready.wait();
                go.wait();
                (0..n).for_each(|at| call(thread, at));
            });
        }
        ready.wait();
        let before = sys::cpu_ns(process);
        let start = Instant::now();
        go.wait();
        (start, before)
    });
    let elapsed = start.elapsed();
    let cpu = sys::cpu_ns(process).tried("read the CPU clock")? - cpu_before.tried("read the CPU clock")?;
    let n_calls = (threads * n) as f64;
    Ok(Cost {
        ns: elapsed.as_nanos() as f64 / n_calls,
        cpu_ns: cpu as f64 / n_calls,
    })
}

/// The name of a table for so many threads.
pub(super) fn table(what: &str, threads: usize) -> String {
    let s = if threads == 1 { "" } else { "s" };
    format!("{what}, {threads} thread{s}, ns a call")
}

impl Cost {
    /// Adds both figures, in columns that begin with `column`.
    pub(super) fn put(self, report: &mut Report, table: &str, who: &str, column: &str) {
        report.add(table, who, column, self.ns);
        report.add(table, who, &format!("{column}, CPU"), self.cpu_ns);
    }
}
