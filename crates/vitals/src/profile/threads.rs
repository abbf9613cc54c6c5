//! What each thread got of the processor, and how long it waited for one.
//!
//! Sources: proc(5) and the kernel's `sched-stats` text: `/proc/self/task/*/schedstat` holds nanoseconds on a core,
//! nanoseconds runnable without one, and the number of time slices.

use std::path::Path;

/// One thread's counts since its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    tid: u32,
    name: String,
    cpu_ns: u64,
    run_delay_ns: u64,
    slices: u64,
    voluntary: u64,
    involuntary: u64,
}

/// What one thread did in an interval.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// The system's id of the thread.
    pub tid: u32,
    /// Its name, as far as the system keeps it (15 bytes).
    pub name: String,
    /// Time on a core.
    pub cpu_ns: u64,
    /// Time it was ready to run and had no core.
    pub run_delay_ns: u64,
    /// Times it was given a core.
    pub slices: u64,
    /// Times it gave the core away, to wait for something.
    pub voluntary_switches: u64,
    /// Times the core was taken from it.
    pub involuntary_switches: u64,
}

/// Threads beyond this are not read: a list of that length helps nobody and costs time to read.
pub const THREADS_MAX: usize = 1_024;

/// The ids of the threads alive now; empty where the system does not tell.
pub(super) fn ids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc/self/task");
    let names = entries.into_iter().flatten().flatten();
    names
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(THREADS_MAX)
        .collect()
}

/// The name of a thread.
pub(super) fn name(tid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/self/task/{tid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// Every thread alive now; one that ends meanwhile is left out.
pub fn readings() -> Vec<Reading> {
    ids().into_iter().filter_map(Reading::of).collect()
}

/// What each thread did between two readings, by falling time without a core. Threads that ended are not there; one
/// that began counts from its start.
pub fn between(earlier: &[Reading], later: &[Reading]) -> Vec<Figures> {
    let mut all: Vec<Figures> = later
        .iter()
        .map(|now| now.since(earlier.iter().find(|then| then.tid == now.tid)))
        .collect();
    all.sort_by(|a, b| b.run_delay_ns.cmp(&a.run_delay_ns).then(a.tid.cmp(&b.tid)));
    all
}

impl Reading {
    fn of(tid: u32) -> Option<Self> {
        let folder = format!("/proc/self/task/{tid}");
        let read = |file: &str| std::fs::read_to_string(Path::new(&folder).join(file)).ok();
        let [cpu_ns, run_delay_ns, slices] = parse_schedstat(&read("schedstat")?)?;
        // Without the switches the rest is still worth having.
        let status = read("status").unwrap_or_default();
        Some(Self {
            tid,
            name: name(tid)?,
            cpu_ns,
            run_delay_ns,
            slices,
            voluntary: switches(&status, "voluntary_ctxt_switches:"),
            involuntary: switches(&status, "nonvoluntary_ctxt_switches:"),
        })
    }

    fn since(&self, earlier: Option<&Self>) -> Figures {
        let from = |field: fn(&Self) -> u64| field(self).saturating_sub(earlier.map_or(0, field));
        Figures {
            tid: self.tid,
            name: self.name.clone(),
            cpu_ns: from(|reading| reading.cpu_ns),
            run_delay_ns: from(|reading| reading.run_delay_ns),
            slices: from(|reading| reading.slices),
            voluntary_switches: from(|reading| reading.voluntary),
            involuntary_switches: from(|reading| reading.involuntary),
        }
    }
}

fn parse_schedstat(text: &str) -> Option<[u64; 3]> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?])
}

fn switches(status: &str, key: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_the_kernel() {
        assert_eq!(
            parse_schedstat("150334 2715433 2\n"),
            Some([150_334, 2_715_433, 2])
        );
        assert_eq!(parse_schedstat("150334 x 2"), None);
        assert_eq!(parse_schedstat("1 2"), None);
        let status = "Name:\tx\nvoluntary_ctxt_switches:\t15\nnonvoluntary_ctxt_switches:\t7\n";
        assert_eq!(switches(status, "voluntary_ctxt_switches:"), 15);
        assert_eq!(switches(status, "nonvoluntary_ctxt_switches:"), 7);
        assert_eq!(switches("", "voluntary_ctxt_switches:"), 0);
    }

    #[test]
    fn a_difference_counts_from_the_earlier_reading() {
        let reading = |tid, cpu_ns, run_delay_ns| Reading {
            tid,
            name: format!("t{tid}"),
            cpu_ns,
            run_delay_ns,
            slices: 1,
            voluntary: 0,
            involuntary: 0,
        };
        let all = between(
            &[reading(1, 10, 10), reading(9, 5, 5)],
            &[reading(1, 30, 11), reading(2, 7, 8)],
        );
        let plain: Vec<_> = all
            .iter()
            .map(|f| (f.tid, f.cpu_ns, f.run_delay_ns, f.slices))
            .collect();
        assert_eq!(plain, [(2, 7, 8, 1), (1, 20, 1, 0)]);
    }
}
