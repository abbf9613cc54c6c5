//! `/api/performance/memory/…`: the level and what moves it, who gave back how much, snapshots, leaks.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tidegate_flow::limiter;
use tidegate_gateway::Error;
use tidegate_vitals::{
    Class, Id, Metric,
    allocator::{self, HeapSite},
    leak::{Alarm, Stats as LeakStats, Subject},
    memory::snapshot::{Growth, Snapshot},
    pressure::{Part, ShedStats, Stats, Transition},
};

use super::{
    failure::Failure,
    figures::over,
    history,
    route::{Call, Reply},
};

/// What the names of memory's metrics begin with.
const METRICS: [&str; 7] = [
    "pressure_",
    "process_",
    "ledger_",
    "allocator_",
    "leak_",
    "objects_",
    "limiter_",
];

/// Longest label of a snapshot, bytes.
pub(crate) const LABEL_BYTES_MAX: usize = 64;

/// `POST /api/performance/memory/snapshots`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Take {
    label: String,
}

/// `GET /api/performance/memory/stats`
pub(crate) async fn stats(call: Call) -> Result<Reply, Failure> {
    let (memory, ledger) = (&call.api.memory, &call.api.ledger);
    let pressure = memory.pressure.stats();
    let thresholds = memory.pressure.config().thresholds;
    let purges = memory.purger.stats();
    Ok(Reply::json(&json!({
        "ok": true,
        "ts_ms": call.api.clock.wall_ms(),
        "level": pressure.level.as_str(),
        "since_ms": pressure.since_unix_ms,
        "budget_bytes": memory.pressure.config().budget_bytes,
        "thresholds_ratio": {
            "moderate": share(thresholds.moderate),
            "high": share(thresholds.high),
            "critical": share(thresholds.critical),
        },
        "signal": signal(&pressure),
        "wanted_bytes": pressure.bytes_wanted,
        "reactions": pressure.sheds.iter().map(reaction).collect::<Value>(),
        "transitions": pressure.transitions.iter().map(transition).collect::<Value>(),
        "accounts": {
            "used_bytes": ledger.used(),
            "limit_bytes": ledger.limit(),
            "refused": ledger.refused(),
            "by_class": by_class(Class::ALL.iter().map(|&class| (class, ledger.used_by(class)))),
        },
        "process": process(),
        "allocator": allocator::stats().map(|stats| json!({
            "allocated_bytes": stats.allocated,
            "active_bytes": stats.active,
            "resident_bytes": stats.resident,
            "mapped_bytes": stats.mapped,
            "retained_bytes": stats.retained,
            "metadata_bytes": stats.metadata,
        })),
        "purges": {"pressed": purges.pressed, "idle": purges.idle, "freed_bytes": purges.freed_bytes},
        "growth": memory.snapshots.growth().map(growth),
        "leaks": memory.leaks().map(|(stats, alarm)| leaks(&stats, alarm.as_ref())),
        "requests": requests(&call),
        "objects": memory.objects.list().iter().map(|kind| {
            (kind.name.to_owned(), json!({"live": kind.live, "peak": kind.peak}))
        }).collect::<Map<_, _>>(),
    })))
}

/// `GET /api/performance/memory/summary`
pub(crate) async fn summary(call: Call) -> Result<Reply, Failure> {
    let line = &call.api.timeline;
    let entered = call.api.memory.pressure.stats().entered;
    let names = tidegate_vitals::pressure::Level::ALL.iter();
    let entered = names
        .zip(entered)
        .map(|(level, n)| (level.as_str().to_owned(), n.into()));
    Ok(Reply::json(&json!({
        "ok": true,
        "ts_ms": call.api.clock.wall_ms(),
        "history_s": line.len(),
        "rss_bytes": over(line, Id::ProcessRssBytes, 1.0),
        "virtual_bytes": over(line, Id::ProcessVirtualBytes, 1.0),
        "accounted_bytes": over(line, Id::LedgerUsed, 1.0),
        "refused_per_second": over(line, Id::LedgerRefused, 1.0),
        "level": over(line, Id::PressureLevel, 1.0),
        "levels_entered": entered.collect::<Map<String, Value>>(),
        "growth": call.api.memory.snapshots.growth().map(growth),
    })))
}

/// `GET /api/performance/memory/metrics`
pub(crate) async fn metrics(call: Call) -> Result<Reply, Failure> {
    history::series(&call, |metric: &Metric| {
        METRICS.iter().any(|prefix| metric.name.starts_with(prefix))
    })
}

/// `GET /api/performance/memory/snapshots`
pub(crate) async fn snapshots(call: Call) -> Result<Reply, Failure> {
    let list = call.api.memory.snapshots.list();
    Ok(Reply::json(&json!({
        "ok": true,
        "growth": call.api.memory.snapshots.growth().map(growth),
        "items": list.iter().map(snapshot).collect::<Value>(),
    })))
}

/// `POST /api/performance/memory/snapshots`
pub(crate) async fn take(call: Call) -> Result<Reply, Failure> {
    let Take { label } = serde_json::from_slice(&call.body).map_err(Error::Json)?;
    if !(1..=LABEL_BYTES_MAX).contains(&label.len()) {
        let message = format!(
            "label has {} bytes, allowed is 1 to {LABEL_BYTES_MAX}",
            label.len()
        );
        return Err(Error::BadRequest(message).into());
    }
    let memory = &call.api.memory;
    let taken = memory.snapshots.take(&label, memory.pressure.level());
    Ok(Reply::json(&json!({"ok": true, "snapshot": snapshot(&taken)})))
}

fn requests(call: &Call) -> Value {
    let stats = call.api.requests.stats();
    let refused = |refused: &limiter::Refusals| {
        json!({
            "own_limit": refused.partition,
            "server_limit": refused.server,
            "queue_full": refused.queue_full,
            "timed_out": refused.timed_out,
        })
    };
    let ms = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    json!({
        "enabled": call.api.requests.is_on(),
        "limit": stats.limit,
        "in_flight": stats.in_flight,
        "waiting": stats.waiting,
        "admitted": stats.admitted,
        "refused": refused(&stats.refused),
        "baseline_ms": ms(stats.baseline),
        "latency_ms": ms(stats.latency),
        "roles": stats.partitions.iter().map(|part| json!({
            "role": part.name,
            "guaranteed": part.guaranteed,
            "in_flight": part.in_flight,
            "waiting": part.waiting,
            "admitted": part.admitted,
            "refused": refused(&part.refused),
        })).collect::<Value>(),
    })
}

fn share(per_mille: u16) -> f64 {
    f64::from(per_mille) * 1e-3
}

fn signal(stats: &Stats) -> Value {
    json!({
        "ratio": f64::from(stats.per_mille) * 1e-3,
        "source": stats.source.map(tidegate_vitals::pressure::Cause::as_str),
        "cgroup": stats.cgroup.map(part),
        "rss": stats.rss.map(part),
        "accounts": stats.accounts.map(part),
        "host": stats.host.map(part),
        "stalls_ratio": stats.stall_per_mille.map(|share| f64::from(share) * 1e-3),
    })
}

fn part(part: Part) -> Value {
    json!({"used_bytes": part.used_bytes, "limit_bytes": part.limit_bytes})
}

fn reaction(shed: &ShedStats) -> Value {
    json!({
        "name": shed.name,
        "order": shed.order,
        "calls": shed.calls,
        "asked_bytes": shed.asked_bytes,
        "promised_bytes": shed.promised_bytes,
        "measured_bytes": shed.measured_bytes,
    })
}

fn transition(transition: &Transition) -> Value {
    json!({
        "ts_ms": transition.unix_ms,
        "from": transition.from.as_str(),
        "to": transition.to.as_str(),
        "ratio": f64::from(transition.per_mille) * 1e-3,
        "cause": transition.cause.as_str(),
    })
}

fn process() -> Value {
    let status = tidegate_vitals::process::status();
    json!({
        "rss_bytes": status.map(|status| status.rss_bytes),
        "virtual_bytes": status.map(|status| status.virtual_bytes),
        "threads": status.map(|status| status.threads),
    })
}

fn by_class(bytes: impl Iterator<Item = (Class, u64)>) -> Value {
    let members: Map<String, Value> = bytes
        .map(|(class, bytes)| (class.name().to_owned(), bytes.into()))
        .collect();
    members.into()
}

fn growth(growth: Growth) -> Value {
    json!({
        "rss_bytes_per_hour": growth.rss_bytes_per_hour,
        "allocated_bytes_per_hour": growth.allocated_bytes_per_hour,
        "snapshots": growth.snapshots,
        "seconds": growth.seconds,
    })
}

pub(crate) fn snapshot(snapshot: &Snapshot) -> Value {
    json!({
        "number": snapshot.number,
        "label": snapshot.label,
        "ts_ms": snapshot.unix_ms,
        "level": snapshot.level.as_str(),
        "rss_bytes": snapshot.rss_bytes,
        "virtual_bytes": snapshot.virtual_bytes,
        "allocated_bytes": snapshot.allocated_bytes,
        "resident_bytes": snapshot.resident_bytes,
        "accounted_bytes": by_class(snapshot.accounted.iter().copied()),
    })
}

fn leaks(stats: &LeakStats, alarm: Option<&Alarm>) -> Value {
    json!({
        "samples": stats.samples,
        "evaluations": stats.evaluations,
        "suspicions": stats.suspicions,
        "alarms": stats.alarms,
        "sampling": stats.sampling,
        "last": alarm.map(|alarm| json!({
            "subject": match &alarm.subject {
                Subject::Bytes => "bytes",
                Subject::Objects(name) => name,
            },
            "per_hour": alarm.per_hour,
            "sites": alarm.sites.iter().map(site).collect::<Value>(),
        })),
    })
}

fn site(site: &HeapSite) -> Value {
    json!({"bytes": site.bytes, "functions": site.functions()})
}
