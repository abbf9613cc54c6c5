//! What a profile found, as plain data.

use std::collections::HashMap;
use std::time::Duration;

use super::cpu::{Source, Stacks};
use super::symbol::Symbols;
use super::{flame, lock, poll, pprof, threads};
use crate::span;

/// Everything a [`super::Collector`] gathered.
#[derive(Debug)]
pub struct Report {
    /// When it began, in unix milliseconds.
    pub started_ms: u64,
    /// How long it took.
    pub length: Duration,
    /// Processor time, or why there is none.
    pub cpu: Result<CpuProfile, String>,
    /// Each thread's share of the processor.
    pub threads: Vec<threads::Figures>,
    /// Functions with `#[profiled]` that were called meanwhile.
    pub functions: Vec<span::Figures>,
    /// Timed locks.
    pub locks: Vec<lock::Figures>,
    /// Watched tasks.
    pub polls: Vec<poll::Figures>,
    /// Memory at both ends.
    pub memory: Memory,
}

/// Resident memory at both ends; zero where the system does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// At the start, in bytes.
    pub rss_before_bytes: u64,
    /// At the end, in bytes.
    pub rss_after_bytes: u64,
}

/// Sampled stacks with their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuProfile {
    /// What sampled.
    pub source: Source,
    /// Samples a second of running thread.
    pub hertz: u32,
    /// How long was sampled.
    pub length: Duration,
    /// When it began, in unix milliseconds.
    pub started_ms: u64,
    /// Samples taken.
    pub samples: u64,
    /// Samples lost: a buffer was full, or there were too many distinct stacks.
    pub lost: u64,
    /// Threads seen running.
    pub threads: usize,
    /// Threads that could not be sampled.
    pub threads_refused: u64,
    /// Distinct frames; stacks refer to them by place.
    pub frames: Vec<Frame>,
    /// Distinct stacks, most frequent first.
    pub stacks: Vec<Stack>,
}

/// One place in the program.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Function, demangled; the address where no name is known.
    pub function: String,
    /// Source file; empty if unknown.
    pub file: String,
    /// Line; zero if unknown.
    pub line: u32,
    /// Whether the compiler put it into its caller.
    pub inlined: bool,
}

/// One way to get somewhere, and how often it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Name of the thread.
    pub thread: String,
    /// Places in [`CpuProfile::frames`], outermost first.
    pub frames: Vec<usize>,
    /// Samples.
    pub count: u64,
}

/// A function's part of all samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Hot {
    /// The function.
    pub function: String,
    /// Share of samples in the function itself or what was inlined into it, 0 to 1.
    pub own: f64,
    /// Share of samples in it or what it calls.
    pub total: f64,
}

// === impl CpuProfile ===

impl CpuProfile {
    pub(super) fn new(
        source: Source,
        hertz: u32,
        sampled: &Stacks,
        started_ms: u64,
        length: Duration,
    ) -> Self {
        let mut symbols = Symbols::new();
        let mut merged: HashMap<(String, Vec<usize>), u64> = HashMap::new();
        for (thread, addresses, count) in sampled.iter() {
            let mut frames = Vec::new();
            for (at, address) in addresses.iter().enumerate() {
                if !symbols.is_code(*address) {
                    break; // What follows was read from the same wrong place.
                }
                frames.extend_from_slice(symbols.resolve(*address, at == 0));
            }
            frames.reverse();
            *merged.entry((thread.to_owned(), frames)).or_default() += count;
        }
        let stack = |((thread, frames), count)| Stack {
            thread,
            frames,
            count,
        };
        let mut stacks: Vec<Stack> = merged.into_iter().map(stack).collect();
        let key = |stack: &Stack| (stack.thread.clone(), stack.frames.clone());
        stacks.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| key(a).cmp(&key(b))));
        Self {
            source,
            hertz,
            length,
            started_ms,
            samples: sampled.samples,
            lost: sampled.lost,
            threads: sampled.n_threads(),
            threads_refused: sampled.threads_refused,
            frames: symbols.finish(),
            stacks,
        }
    }

    /// Names of a stack, outermost first, the thread in front.
    pub fn names<'a>(&'a self, stack: &'a Stack) -> impl Iterator<Item = &'a str> {
        let frames = stack
            .frames
            .iter()
            .map(|place| self.frames[*place].function.as_str());
        std::iter::once(stack.thread.as_str()).chain(frames)
    }

    /// One line a stack, names separated by `;`, then the count: what flame graph tools read. A `;` inside a name, as in
    /// that of an array, becomes a comma.
    pub fn folded(&self) -> String {
        self.folded_within(usize::MAX).0
    }

    /// The same in at most so many bytes, the most frequent stacks first; and the samples of the stacks that had no room.
    pub fn folded_within(&self, bytes_max: usize) -> (String, u64) {
        let (mut text, mut left_out) = (String::new(), 0);
        for stack in &self.stacks {
            let names: Vec<String> = self.names(stack).map(|name| name.replace(';', ",")).collect();
            let line = format!("{} {}\n", names.join(";"), stack.count);
            if text.len() + line.len() > bytes_max {
                left_out += stack.count;
            } else {
                text.push_str(&line);
            }
        }
        (text, left_out)
    }

    /// Frames and stacks of folded lines, for a profile that is read back; a line that is none is left out. Files and
    /// lines are not in that form, nor what was inlined.
    pub fn parse_folded(text: &str) -> (Vec<Frame>, Vec<Stack>) {
        let (mut frames, mut places) = (Vec::new(), HashMap::new());
        let mut place = |name: &str| {
            *places.entry(name.to_owned()).or_insert_with(|| {
                frames.push(Frame {
                    function: name.to_owned(),
                    file: String::new(),
                    line: 0,
                    inlined: false,
                });
                frames.len() - 1
            })
        };
        let mut stack = |line: &str| {
            let (names, count) = line.rsplit_once(' ')?;
            let count = count.parse().ok()?;
            let (thread, names) = names.split_once(';').unwrap_or((names, ""));
            let names = names.split(';').filter(|name| !name.is_empty());
            Some(Stack {
                thread: thread.to_owned(),
                frames: names.map(&mut place).collect(),
                count,
            })
        };
        let stacks = text.lines().filter_map(&mut stack).collect();
        (frames, stacks)
    }

    /// The profile as pprof's protobuf, uncompressed.
    pub fn pprof(&self) -> Vec<u8> {
        pprof::encode(self)
    }

    /// A flame graph as one SVG file: it loads nothing and runs nothing.
    pub fn flame_graph(&self, title: &str) -> String {
        flame::render(self, title)
    }

    /// The `n` functions with most samples of their own. What was inlined counts for the function it was put into.
    pub fn hottest(&self, n: usize) -> Vec<Hot> {
        let all: u64 = self.stacks.iter().map(|stack| stack.count).sum();
        let mut counts: HashMap<&str, (u64, u64)> = HashMap::new();
        for stack in &self.stacks {
            let frames = stack.frames.iter().map(|place| &self.frames[*place]);
            let functions = frames.filter(|frame| !frame.inlined);
            let mut names: Vec<&str> = functions.map(|frame| frame.function.as_str()).collect();
            if let Some(innermost) = names.last() {
                counts.entry(innermost).or_default().0 += stack.count;
            }
            // A recursive function counts once.
            names.sort_unstable();
            names.dedup();
            for name in names {
                counts.entry(name).or_default().1 += stack.count;
            }
        }
        let share = |count: u64| count as f64 / all.max(1) as f64;
        let hot = |(function, (own, total)): (&str, (u64, u64))| Hot {
            function: function.to_owned(),
            own: share(own),
            total: share(total),
        };
        let mut hottest: Vec<Hot> = counts.into_iter().map(hot).collect();
        hottest.sort_by(|a, b| {
            b.own
                .total_cmp(&a.own)
                .then(b.total.total_cmp(&a.total))
                .then_with(|| a.function.cmp(&b.function))
        });
        hottest.truncate(n);
        hottest
    }
}
