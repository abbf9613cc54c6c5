//! `/api/performance/cache/…` and `/api/cache/invalidate`: kept answers, how well they serve, and how to drop them.

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_cache::{Expected, Stats, Times};
use tidegate_gateway::{Code, Error};
use tidegate_vitals::{Id, Key, Metric};

use super::{
    failure::Failure,
    figures::{over, ratio},
    history,
    route::{Call, Reply},
};
use crate::glue::store_cache::Answers;

/// What the names of the cache's metrics begin with.
const METRICS: &str = "cache_";

/// Most tags, and most prefixes, of one request.
pub(crate) const TAGS_MAX: usize = 1_000;

/// `POST /api/cache/invalidate`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Invalidate {
    tags: Vec<String>,
    prefixes: Vec<String>,
    all: bool,
}

/// `GET /api/performance/cache/stats`
pub(crate) async fn stats(call: Call) -> Result<Reply, Failure> {
    with_answers(&call, |answers| {
        let stats = answers.cache().stats();
        json!({
            "ok": true,
            "ts_ms": call.api.clock.wall_ms(),
            "queries": answers.queries(),
            "cache": now(&stats),
        })
    })
}

/// `GET /api/performance/cache/summary`
pub(crate) async fn summary(call: Call) -> Result<Reply, Failure> {
    let line = &call.api.timeline;
    with_answers(&call, |answers| {
        let stats = answers.cache().stats();
        json!({
            "ok": true,
            "ts_ms": call.api.clock.wall_ms(),
            "history_s": line.len(),
            "hit_rate": hit_rate(&stats),
            "bytes": over(line, Id::CacheBytes, 1.0),
            "entries": over(line, Id::CacheEntries, 1.0),
            "per_second": {
                "hits": over(line, Id::CacheHits, 1.0),
                "misses": over(line, Id::CacheMisses, 1.0),
                "stale_hits": over(line, Id::CacheStaleHits, 1.0),
                "evictions": over(line, Id::CacheEvictions, 1.0),
                "invalidations": over(line, Id::CacheInvalidations, 1.0),
                "loads": over(line, Id::CacheLoads, 1.0),
            },
            "load_ms": {
                "p50": over(line, Key::of(Id::CacheLoad).p50(), 1e-6),
                "p95": over(line, Key::of(Id::CacheLoad).p95(), 1e-6),
                "p99": over(line, Key::of(Id::CacheLoad).p99(), 1e-6),
            },
        })
    })
}

/// `GET /api/performance/cache/metrics`
pub(crate) async fn metrics(call: Call) -> Result<Reply, Failure> {
    answers(&call, |_| ())?;
    history::series(&call, |metric: &Metric| metric.name.starts_with(METRICS))
}

/// `POST /api/cache/invalidate`
pub(crate) async fn invalidate(call: Call) -> Result<Reply, Failure> {
    let asked: Invalidate = serde_json::from_slice(&call.body).map_err(Error::Json)?;
    for (name, list) in [("tags", &asked.tags), ("prefixes", &asked.prefixes)] {
        if list.len() > TAGS_MAX {
            let message = format!("{name} has {} entries, allowed is 0 to {TAGS_MAX}", list.len());
            return Err(Error::BadRequest(message).into());
        }
    }
    if asked.tags.is_empty() && asked.prefixes.is_empty() && !asked.all {
        return Err(Error::BadRequest("nothing to invalidate: give tags, prefixes or all".to_owned()).into());
    }
    with_answers(&call, |answers| {
        if asked.all {
            answers.cache().clear();
        } else {
            answers.invalidate(&asked.tags, &asked.prefixes);
        }
        tracing::info!(
            n_tags = asked.tags.len(),
            n_prefixes = asked.prefixes.len(),
            all = asked.all,
            "cache invalidated by hand"
        );
        json!({"ok": true})
    })
}

fn with_answers(call: &Call, show: impl FnOnce(&Answers) -> Value) -> Result<Reply, Failure> {
    Ok(Reply::json(&answers(call, show)?))
}

fn answers<T>(call: &Call, see: impl FnOnce(&Answers) -> T) -> Result<T, Failure> {
    let store = call.api.has_store();
    let none = || {
        Failure::of(
            Code::NotFound,
            "no query keeps its answers: queries.*.cache is not set",
        )
    };
    let answers = store.and_then(|store| store.answers()).ok_or_else(none)?;
    Ok(see(answers))
}

fn hit_rate(stats: &Stats) -> Option<f64> {
    let hits = stats.hits_memory + stats.hits_disk + stats.hits_remote;
    ratio(hits, hits + stats.misses)
}

fn now(stats: &Stats) -> Value {
    json!({
        "hit_rate": hit_rate(stats),
        "hits": {
            "memory": stats.hits_memory,
            "disk": stats.hits_disk,
            "remote": stats.hits_remote,
            "stale": stats.stale_hits,
            "empty": stats.negative_hits,
        },
        "misses": stats.misses,
        "loads": {
            "ok": stats.loads_ok,
            "failed": stats.loads_failed,
            "panicked": stats.loads_panicked,
            "aborted": stats.loads_aborted,
            "refused": stats.loads_refused,
            "joined": stats.loads_joined,
            "in_flight": stats.loads_in_flight,
            "time": times(&stats.load),
        },
        "not_stored": {
            "invalidated": stats.not_stored_invalidated,
            "behind": stats.not_stored_behind,
            "too_large": stats.not_stored_too_large,
            "memory_full": stats.not_stored_memory_full,
        },
        "inserts": stats.inserts,
        "evictions": stats.evictions,
        "expirations": stats.expirations,
        "promotions": stats.promotions,
        "invalidations": stats.invalidations,
        "hit_time": times(&stats.hit),
        "memory": {
            "bytes": stats.bytes,
            "entries": stats.entries,
            "capacity_bytes": stats.capacity_bytes,
            "bytes_max": stats.bytes_max,
        },
        "disk": stats.disk.as_ref().map(disk),
        "remote": stats.remote.as_ref().map(remote),
        "curve": stats.curve.iter().map(expected).collect::<Value>(),
    })
}

fn disk(disk: &tidegate_cache::DiskStats) -> Value {
    json!({
        "bytes": disk.bytes,
        "entries": disk.entries,
        "queued": disk.queued,
        "puts": disk.puts,
        "gets": disk.gets,
        "dropped_queue_full": disk.dropped_queue_full,
        "dropped_oldest": disk.dropped_oldest,
        "dropped_disk_error": disk.dropped_disk_error,
        "dropped_damaged": disk.dropped_damaged,
        "recovered": disk.recovered,
    })
}

fn remote(remote: &tidegate_cache::RemoteStats) -> Value {
    json!({
        "connected": remote.is_connected,
        "connects": remote.connects,
        "puts": remote.puts,
        "puts_dropped": remote.puts_dropped,
        "timeouts": remote.timeouts,
        "errors": remote.errors,
        "refused": remote.refused,
        "pushed": remote.pushed,
        "pending": remote.pending,
    })
}

fn expected(point: &Expected) -> Value {
    json!({"scale": point.scale, "hit_rate": point.hit_rate})
}

fn times(times: &Times) -> Value {
    json!({
        "count": times.count,
        "mean_us": times.mean.as_secs_f64() * 1e6,
        "p50_us": times.p50.as_secs_f64() * 1e6,
        "p99_us": times.p99.as_secs_f64() * 1e6,
        "max_us": times.max.as_secs_f64() * 1e6,
    })
}
