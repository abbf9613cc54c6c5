//! A profile as JSON, every list bounded.

use serde_json::{Map, Value, json};
use tidegate_gateway::Error;
use tidegate_vitals::{
    HistogramSnapshot, Id,
    allocator::HeapProfile,
    profile::{CpuProfile, Hot, findings::Finding, lock, poll, threads},
    span,
};

use super::{Statement, Taken};
use crate::api::{Failure, shown_snapshot};

/// Folded stacks in an answer; what has no room is counted.
const FOLDED_BYTES_MAX: usize = 1 << 20;
/// Functions named as the hottest.
const HOTTEST_MAX: usize = 50;
/// Threads, those with most time first.
const THREADS_MAX: usize = 64;
/// Locks and tasks by name.
const NAMES_MAX: usize = 64;
/// Places in the program that hold memory; names cost time to find.
const SITES_MAX: usize = 20;
/// Innermost functions of such a place.
const SITE_FUNCTIONS_MAX: usize = 12;

/// What the names of functions begin with that only stand between the program and its memory.
const ALLOCATOR: [&str; 14] = [
    "prof_",
    "_rjem_",
    "do_rallocx",
    "imalloc",
    "ialloc",
    "<tikv_jemallocator::",
    "__rustc::__rust_",
    "alloc::alloc::",
    "<alloc::alloc::",
    "alloc::raw_vec::",
    "<alloc::raw_vec::",
    "alloc_impl_runtime",
    "box_new_uninit",
    "with_capacity_in",
];

/// Times of requests and of what they are made of.
const LATENCIES: [Id; 11] = [
    Id::HttpRequest,
    Id::GatewayAdmission,
    Id::GatewayDeliveryLatency,
    Id::GatewayTurn,
    Id::StorePoolAcquire,
    Id::StoreStatement,
    Id::StoreQuery,
    Id::StoreIngestCommit,
    Id::StoreIngestAck,
    Id::StoreSpoolSync,
    Id::CacheLoad,
];

impl Taken {
    /// The whole report.
    ///
    /// # Errors
    /// None that is known; what cannot be written as JSON would be a defect.
    pub(crate) fn to_json(&self) -> Result<Value, Failure> {
        let report = &self.report;
        let threads = report.threads.iter().take(THREADS_MAX);
        let slow = serde_json::to_value(&self.slow).map_err(Error::Json)?;
        Ok(json!({
            "ok": true,
            "tidegate": env!("CARGO_PKG_VERSION"),
            "started_ms": report.started_ms,
            "seconds": report.length.as_secs_f64(),
            "findings": self.findings().iter().map(finding).collect::<Value>(),
            "cpu": self.cpu(),
            "functions": report.functions.iter().map(function).collect::<Value>(),
            "latencies": self.latencies(),
            "threads": threads.map(thread).collect::<Value>(),
            "locks": report.locks.iter().take(NAMES_MAX).map(a_lock).collect::<Value>(),
            "polls": report.polls.iter().take(NAMES_MAX).map(task).collect::<Value>(),
            "instances": self.shown_instances(),
            "statements": self.statements.iter().map(statement).collect::<Value>(),
            "slow_statements": slow,
            "memory": self.memory(),
            "cache": self.cache(),
            "limiter": self.limiter(),
        }))
    }

    /// The samples of the processor.
    ///
    /// # Errors
    /// `unavailable` with the reason where there are none.
    pub(crate) fn samples(&self) -> Result<&CpuProfile, Failure> {
        let none = |reason: &String| {
            let message = format!("the processor could not be sampled: {reason}");
            Failure::of(tidegate_gateway::Code::Unavailable, message)
        };
        self.report.cpu.as_ref().map_err(none)
    }

    fn cpu(&self) -> Value {
        let cpu = match &self.report.cpu {
            Ok(cpu) => cpu,
            Err(reason) => return json!({"error": reason}),
        };
        let (folded, left_out) = cpu.folded_within(FOLDED_BYTES_MAX);
        json!({
            "source": cpu.source.as_str(),
            "hertz": cpu.hertz,
            "samples": cpu.samples,
            "lost": cpu.lost,
            "threads": cpu.threads,
            "threads_refused": cpu.threads_refused,
            "hottest": cpu.hottest(HOTTEST_MAX).iter().map(hot).collect::<Value>(),
            "folded": folded,
            "folded_left_out": left_out,
        })
    }

    fn latencies(&self) -> Value {
        let mut list = Vec::new();
        for id in LATENCIES {
            for now in self.after.figures.of(id) {
                let Some(histogram) = now.value.as_histogram() else {
                    continue;
                };
                let then = self
                    .before
                    .figures
                    .of(id)
                    .iter()
                    .find(|then| then.labels == now.labels);
                let since = match then.and_then(|then| then.value.as_histogram()) {
                    Some(then) => histogram.since(then),
                    None => histogram.clone(),
                };
                if since.count() > 0 {
                    let labels = now.labels.iter().map(|(_, value)| format!(" {value}"));
                    let name = std::iter::once(id.metric().name.to_owned())
                        .chain(labels)
                        .collect::<String>();
                    list.push(latency(&name, &since));
                }
            }
        }
        Value::Array(list)
    }

    fn shown_instances(&self) -> Value {
        let shown = |i: &tidegate_vitals::profile::findings::Instances| {
            json!({
                "name": i.name,
                "created": i.created,
                "hits": i.hits,
                "creation_ns": i.creation_ns,
                "waited": i.contended,
            })
        };
        self.instances().iter().map(shown).collect()
    }

    fn memory(&self) -> Value {
        let allocator = |stats: Option<tidegate_vitals::allocator::Stats>| {
            stats.map(|stats| {
                json!({
                    "allocated_bytes": stats.allocated,
                    "active_bytes": stats.active,
                    "resident_bytes": stats.resident,
                    "retained_bytes": stats.retained,
                })
            })
        };
        let heap = self.heap.as_ref().map(|heap| match heap {
            Ok(heap) => json!({
                "rate_bytes": heap.alive.rate_bytes,
                "alive_bytes": heap.alive.bytes(),
                "grown_bytes": heap.grown.bytes(),
                "alive": sites(&heap.alive),
                "grown": sites(&heap.grown),
            }),
            Err(reason) => json!({"error": reason}),
        });
        json!({
            "before": shown_snapshot(&self.before.memory),
            "after": shown_snapshot(&self.after.memory),
            "allocator_before": allocator(self.before.allocator),
            "allocator_after": allocator(self.after.allocator),
            "heap": heap,
        })
    }

    fn cache(&self) -> Value {
        let (Some(then), Some(now)) = (&self.before.cache, &self.after.cache) else {
            return Value::Null;
        };
        let since = |now: u64, then: u64| now.saturating_sub(then);
        let hits = |stats: &tidegate_cache::Stats| stats.hits_memory + stats.hits_disk + stats.hits_remote;
        let (hits, misses) = (since(hits(now), hits(then)), since(now.misses, then.misses));
        json!({
            "hits": hits,
            "misses": misses,
            "hit_rate": (hits + misses > 0).then(|| hits as f64 / (hits + misses) as f64),
            "stale_hits": since(now.stale_hits, then.stale_hits),
            "loads": since(now.loads_ok, then.loads_ok),
            "loads_failed": since(now.loads_failed, then.loads_failed),
            "loads_joined": since(now.loads_joined, then.loads_joined),
            "evictions": since(now.evictions, then.evictions),
            "invalidations": since(now.invalidations, then.invalidations),
            "bytes": now.bytes,
            "capacity_bytes": now.capacity_bytes,
            "entries": now.entries,
        })
    }

    fn limiter(&self) -> Value {
        let (then, now) = (&self.before.limiter, &self.after.limiter);
        let refused = |stats: &tidegate_flow::limiter::Stats| {
            let by = stats.refused;
            by.partition + by.server + by.queue_full + by.timed_out
        };
        let ms = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64() * 1e3);
        json!({
            "limit": now.limit,
            "in_flight": now.in_flight,
            "waiting": now.waiting,
            "admitted": now.admitted.saturating_sub(then.admitted),
            "refused": refused(now).saturating_sub(refused(then)),
            "baseline_ms": ms(now.baseline),
            "latency_ms": ms(now.latency),
        })
    }
}

fn finding(finding: &Finding) -> Value {
    let evidence = finding
        .evidence
        .iter()
        .map(|one| json!({"name": one.name, "value": one.value, "unit": one.unit}));
    json!({
        "kind": finding.kind.as_str(),
        "score": finding.score,
        "title": {"en": finding.title_en, "zh": finding.title_zh},
        "change": {"en": finding.change_en, "zh": finding.change_zh},
        "evidence": evidence.collect::<Value>(),
    })
}

fn hot(hot: &Hot) -> Value {
    json!({"function": hot.function, "own": hot.own, "total": hot.total})
}

fn function(f: &span::Figures) -> Value {
    json!({
        "name": f.name,
        "file": f.file,
        "line": f.line,
        "calls": f.calls,
        "total_ns": f.total_ns,
        "mean_ns": f.mean_ns,
        "deviation_ns": f.deviation_ns,
        "p50_ns": f.p50_ns,
        "p95_ns": f.p95_ns,
        "p99_ns": f.p99_ns,
        "max_ns": f.max_ns,
        "allocated_bytes": f.allocated_bytes,
        "polls": f.polls,
        "awaiting_ns": f.awaiting_ns,
    })
}

fn latency(name: &str, histogram: &HistogramSnapshot) -> Value {
    let mean = histogram.mean();
    let squares: f64 = histogram
        .buckets()
        .map(|(value, n)| (value as f64 - mean).powi(2) * n as f64)
        .sum();
    json!({
        "name": name,
        "calls": histogram.count(),
        "mean_ns": mean,
        "deviation_ns": (squares / histogram.count().max(1) as f64).sqrt(),
        "p50_ns": histogram.quantile(0.50),
        "p95_ns": histogram.quantile(0.95),
        "p99_ns": histogram.quantile(0.99),
        "max_ns": histogram.max(),
    })
}

fn thread(t: &threads::Figures) -> Value {
    json!({
        "tid": t.tid,
        "name": t.name,
        "cpu_ns": t.cpu_ns,
        "run_delay_ns": t.run_delay_ns,
        "slices": t.slices,
        "voluntary_switches": t.voluntary_switches,
        "involuntary_switches": t.involuntary_switches,
    })
}

fn a_lock(l: &lock::Figures) -> Value {
    json!({
        "name": l.name,
        "acquisitions": l.acquisitions,
        "contended": l.contended,
        "wait_ns": l.wait_ns,
        "wait_p99_ns": l.wait_p99_ns,
        "wait_max_ns": l.wait_max_ns,
    })
}

fn task(p: &poll::Figures) -> Value {
    json!({
        "name": p.name,
        "polls": p.polls,
        "long_polls": p.long_polls,
        "busy_ns": p.busy_ns,
        "max_since_start_ns": p.max_ns,
    })
}

fn statement(s: &Statement) -> Value {
    json!({
        "text": s.text,
        "calls": s.calls,
        "busy_ms": s.busy_ms,
        "mean_ms": s.busy_ms / s.calls.max(1) as f64,
        "rows": s.rows,
        "p99_since_start_ms": s.p99_since_start_ms,
    })
}

/// Whether a function only stands between the program and its memory.
fn is_of_allocator(name: &str) -> bool {
    ALLOCATOR.iter().any(|prefix| name.starts_with(prefix))
}

fn sites(heap: &HeapProfile) -> Value {
    let site = |site: &tidegate_vitals::allocator::HeapSite| {
        let functions = site.functions();
        let own = functions.iter().skip_while(|name| is_of_allocator(name));
        let functions: Vec<&String> = own.take(SITE_FUNCTIONS_MAX).collect();
        let members = [
            ("bytes", json!(site.bytes)),
            ("objects", json!(site.objects)),
            ("functions", json!(functions)),
        ];
        Value::Object(Map::from_iter(
            members.map(|(name, value)| (name.to_owned(), value)),
        ))
    };
    heap.sites.iter().take(SITES_MAX).map(site).collect()
}
