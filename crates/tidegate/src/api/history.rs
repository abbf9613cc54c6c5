//! `metrics`: the kept history as time series.

use serde_json::{Value, json};
use tidegate_gateway::Error;
use tidegate_vitals::{Id, Key, Kind, Metric, Timeline};

use super::{
    failure::Failure,
    route::{Call, Reply},
};

/// `GET /api/performance/websocket/metrics`
pub(crate) async fn metrics(call: Call) -> Result<Reply, Failure> {
    series(&call, |_| true)
}

/// The series asked for; unless names are given, of all metrics that belong.
pub(crate) fn series(call: &Call, belongs: impl Fn(&Metric) -> bool) -> Result<Reply, Failure> {
    let ids = match call.text("names") {
        None => Id::all().filter(|id| belongs(id.metric())).collect(),
        Some(names) => chosen(names)?,
    };
    let from_ms = call
        .api
        .clock
        .wall_ms()
        .saturating_sub(call.count("seconds") as u64 * 1_000);
    let series: Vec<Value> = ids
        .into_iter()
        .flat_map(|id| of_metric(&call.api.timeline, id, from_ms))
        .collect();
    Ok(Reply::json(&json!({"ok": true, "step_s": 1, "series": series})))
}

fn chosen(names: &str) -> Result<Vec<Id>, Failure> {
    let known = |name: &str| {
        let unknown = || Error::BadRequest(format!("no metric is named {name:?}; /metrics lists them"));
        Id::by_name(name).ok_or_else(|| unknown().into())
    };
    names.split(',').map(known).collect()
}

/// Every track of one metric that has points.
fn of_metric(line: &Timeline, id: Id, from_ms: u64) -> Vec<Value> {
    let metric = id.metric();
    let whole = Key::of(id);
    let mut series = vec![track(line, metric, ("value", None), whole, from_ms)];
    if metric.kind == Kind::Histogram {
        for (stat, key) in [("p50", whole.p50()), ("p95", whole.p95()), ("p99", whole.p99())] {
            series.push(track(line, metric, (stat, None), key, from_ms));
        }
    }
    for label in line.label_values(id) {
        series.push(track(
            line,
            metric,
            ("value", Some(&label)),
            whole.label(&label),
            from_ms,
        ));
    }
    series.into_iter().flatten().collect()
}

fn track(
    line: &Timeline,
    metric: &Metric,
    (stat, label): (&str, Option<&str>),
    key: Key<'_>,
    from_ms: u64,
) -> Option<Value> {
    let scale = metric.unit.scale();
    let points: Vec<Value> = line
        .series(key, from_ms..)
        .iter()
        .map(|point| json!([point.unix_ms, point.value * scale]))
        .collect();
    if points.is_empty() {
        return None;
    }
    let rate = metric.kind == Kind::Counter;
    Some(json!({
        "name": metric.name,
        "stat": if rate { "per_second" } else { stat },
        "label": label.zip(metric.labels.first()).map(|(value, label)| json!({"name": label.name, "value": value})),
        "unit": metric.unit.base(),
        "help": metric.help_en,
        "help_zh": metric.help_zh,
        "points": points,
    }))
}
