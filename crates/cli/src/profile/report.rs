//! The report of a server, read back into types.

use std::time::Duration;

use serde::Deserialize;
use tidegate_vitals::profile::{
    CpuProfile,
    compare::{Item, Run},
    cpu::Source,
};

use crate::words::Lang;

/// A report. What a newer server adds is ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Report {
    pub(super) tidegate: String,
    pub(super) started_ms: u64,
    pub(super) seconds: f64,
    pub(super) findings: Vec<Finding>,
    pub(super) cpu: Cpu,
    pub(super) functions: Vec<Function>,
    pub(super) latencies: Vec<Latency>,
    pub(super) threads: Vec<Thread>,
    pub(super) locks: Vec<Lock>,
    pub(super) polls: Vec<Task>,
    pub(super) instances: Vec<Instances>,
    pub(super) statements: Vec<Statement>,
    pub(super) memory: Memory,
    pub(super) cache: Option<Cache>,
    pub(super) limiter: Limiter,
}

#[derive(Debug, Deserialize)]
pub(super) struct Finding {
    pub(super) kind: String,
    pub(super) score: u32,
    title: Both,
    change: Both,
    pub(super) evidence: Vec<Evidence>,
}

#[derive(Debug, Deserialize)]
struct Both {
    en: String,
    zh: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Evidence {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) unit: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Cpu {
    Samples(Samples),
    Missing { error: String },
}

#[derive(Debug, Deserialize)]
pub(super) struct Samples {
    pub(super) source: String,
    pub(super) hertz: u32,
    pub(super) samples: u64,
    pub(super) lost: u64,
    pub(super) threads: usize,
    pub(super) threads_refused: u64,
    pub(super) hottest: Vec<Hot>,
    pub(super) folded: String,
    pub(super) folded_left_out: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Hot {
    pub(super) function: String,
    pub(super) own: f64,
    pub(super) total: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) calls: u64,
    pub(super) total_ns: u64,
    pub(super) mean_ns: f64,
    pub(super) deviation_ns: f64,
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) max_ns: u64,
    pub(super) allocated_bytes: Option<u64>,
    pub(super) awaiting_ns: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Latency {
    pub(super) name: String,
    pub(super) calls: u64,
    pub(super) mean_ns: f64,
    pub(super) deviation_ns: f64,
    pub(super) p50_ns: u64,
    pub(super) p95_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) max_ns: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Thread {
    pub(super) name: String,
    pub(super) cpu_ns: u64,
    pub(super) run_delay_ns: u64,
    pub(super) voluntary_switches: u64,
    pub(super) involuntary_switches: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Lock {
    pub(super) name: String,
    pub(super) acquisitions: u64,
    pub(super) contended: u64,
    pub(super) wait_ns: u64,
    pub(super) wait_p99_ns: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) polls: u64,
    pub(super) long_polls: u64,
    pub(super) busy_ns: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Instances {
    pub(super) name: String,
    pub(super) created: u64,
    pub(super) hits: u64,
    pub(super) creation_ns: u64,
    pub(super) waited: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Statement {
    pub(super) text: String,
    pub(super) calls: u64,
    pub(super) busy_ms: f64,
    pub(super) mean_ms: f64,
    pub(super) rows: u64,
    pub(super) p99_since_start_ms: f64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Memory {
    pub(super) before: Snapshot,
    pub(super) after: Snapshot,
    pub(super) heap: Option<Heap>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Snapshot {
    pub(super) rss_bytes: u64,
    pub(super) allocated_bytes: Option<u64>,
    pub(super) accounted_bytes: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Heap {
    Sites { alive: Vec<Site>, grown: Vec<Site> },
    Missing { error: String },
}

#[derive(Debug, Deserialize)]
pub(super) struct Site {
    pub(super) bytes: u64,
    pub(super) objects: u64,
    pub(super) functions: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Cache {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) hit_rate: Option<f64>,
    pub(super) loads: u64,
    pub(super) loads_failed: u64,
    pub(super) evictions: u64,
    pub(super) bytes: u64,
    pub(super) capacity_bytes: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Limiter {
    pub(super) limit: usize,
    pub(super) in_flight: usize,
    pub(super) waiting: usize,
    pub(super) admitted: u64,
    pub(super) refused: u64,
    pub(super) latency_ms: Option<f64>,
}

// === impl Report ===

impl Report {
    /// Reads a report.
    ///
    /// # Errors
    /// What is missing from it.
    pub(super) fn parse(text: &str) -> serde_json::Result<Self> {
        serde_json::from_str(text)
    }

    /// One stack a line.
    pub(super) fn folded(&self) -> &str {
        match &self.cpu {
            Cpu::Samples(samples) => &samples.folded,
            Cpu::Missing { .. } => "",
        }
    }

    /// The stacks as one picture.
    pub(super) fn flame_graph(&self, title: &str) -> String {
        self.samples().flame_graph(title)
    }

    /// Processor time of all threads over the length.
    pub(super) fn cores_busy(&self) -> f64 {
        let busy: u64 = self.threads.iter().map(|thread| thread.cpu_ns).sum();
        busy as f64 / 1e9 / self.seconds.max(1e-3)
    }

    /// The functions, for a comparison.
    pub(super) fn run_of_functions(&self) -> Run {
        let item = |f: &Function| item(&f.name, f.calls, (f.mean_ns, f.deviation_ns), f.p99_ns);
        Run {
            items: self.functions.iter().map(item).collect(),
        }
    }

    /// The latencies, for a comparison.
    pub(super) fn run_of_latencies(&self) -> Run {
        let item = |l: &Latency| item(&l.name, l.calls, (l.mean_ns, l.deviation_ns), l.p99_ns);
        Run {
            items: self.latencies.iter().map(item).collect(),
        }
    }

    fn samples(&self) -> CpuProfile {
        let (frames, stacks) = CpuProfile::parse_folded(self.folded());
        let length = Duration::try_from_secs_f64(self.seconds).unwrap_or_default();
        let empty = CpuProfile {
            source: Source::Signal,
            hertz: 0,
            length,
            started_ms: self.started_ms,
            samples: 0,
            lost: 0,
            threads: 0,
            threads_refused: 0,
            frames,
            stacks,
        };
        match &self.cpu {
            Cpu::Missing { .. } => empty,
            Cpu::Samples(samples) => CpuProfile {
                source: Source::of_name(&samples.source).unwrap_or(Source::Signal),
                hertz: samples.hertz,
                samples: samples.samples,
                lost: samples.lost,
                threads: samples.threads,
                threads_refused: samples.threads_refused,
                ..empty
            },
        }
    }
}

fn item(name: &str, calls: u64, (mean_ns, deviation_ns): (f64, f64), p99_ns: u64) -> Item {
    Item {
        name: name.to_owned(),
        calls,
        mean_ns,
        deviation_ns,
        p99_ns,
    }
}

// === impl Finding ===

impl Finding {
    /// What it is.
    pub(super) fn title(&self, lang: Lang) -> &str {
        self.title.of(lang)
    }

    /// What to change.
    pub(super) fn change(&self, lang: Lang) -> &str {
        self.change.of(lang)
    }
}

impl Both {
    fn of(&self, lang: Lang) -> &str {
        match lang {
            Lang::En => &self.en,
            Lang::Zh => &self.zh,
        }
    }
}
