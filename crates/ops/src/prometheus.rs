//! A snapshot as OpenMetrics text, the format that Prometheus scrapes.
//!
//! Source of the format: OpenMetrics 1.0. Names get the prefix `tidegate_`, counters `_total`; values are in base units
//! (seconds, bytes, ratio). Histograms have a fixed set of buckets for each unit, so that a scrape has a bounded size.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit as TextUnit};
use tidegate_vitals::{HistogramSnapshot, Kind, Metric, Series, Snapshot, TABLE, Unit, Value};

/// The `Content-Type` of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What stands before every name.
const PREFIX: &str = "tidegate";

/// 1 µs to 100 s in steps of about two: network and handlers lie in between.
const BOUNDS_NS: &[u64] = &[
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    100_000_000_000,
];

/// Powers of two for numbers of things, per mille and microseconds.
const BOUNDS_COUNT: &[u64] = &[
    1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 65_536, 1_048_576,
];

/// Powers of four from 64 B to 1 GiB.
const BOUNDS_BYTES: &[u64] = &[
    64,
    256,
    1_024,
    4_096,
    16_384,
    65_536,
    262_144,
    1_048_576,
    4_194_304,
    16_777_216,
    67_108_864,
    268_435_456,
    1_073_741_824,
];

/// The text of all series of `snapshot`; metrics that have none are left out.
pub fn render(snapshot: &Snapshot) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(View(snapshot.clone())));
    let mut text = String::new();
    encode(&mut text, &registry).expect("writing into a string cannot fail");
    text
}

/// A snapshot as the encoder wants to see it.
#[derive(Debug)]
struct View(Snapshot);

// === impl View ===

impl Collector for View {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for metric in TABLE {
            let series = self.0.of(metric.id);
            if !series.is_empty() {
                encode_metric(&mut encoder, metric, series)?;
            }
        }
        Ok(())
    }
}

fn encode_metric(encoder: &mut DescriptorEncoder<'_>, metric: &Metric, series: &[Series]) -> fmt::Result {
    let unit = text_unit(metric.unit);
    // The encoder puts the unit behind the name, where the table already has it.
    let name = match metric.unit.base().and_then(|base| metric.name.strip_suffix(base)) {
        Some(name) => name.trim_end_matches('_'),
        None => metric.name,
    };
    let mut encoder =
        encoder.encode_descriptor(name, metric.help_en, unit.as_ref(), text_type(metric.kind))?;
    for one in series {
        if one.labels.is_empty() {
            encode_value(&mut encoder, metric.unit, &one.value)?;
        } else {
            let labels: Vec<(&str, &str)> =
                one.labels.iter().map(|(name, value)| (*name, &**value)).collect();
            encode_value(&mut encoder.encode_family(&labels)?, metric.unit, &one.value)?;
        }
    }
    Ok(())
}

fn encode_value(encoder: &mut MetricEncoder<'_>, unit: Unit, value: &Value) -> fmt::Result {
    let is_whole = unit.adds_up();
    match value {
        Value::Counter(sum) if is_whole => encoder.encode_counter::<NoLabelSet, _, f64>(sum, None),
        Value::Counter(sum) => {
            encoder.encode_counter::<NoLabelSet, _, f64>(&in_base(unit, *sum as f64), None)
        }
        Value::Gauge(value) if is_whole => encoder.encode_gauge(value),
        Value::Gauge(value) => encoder.encode_gauge(&in_base(unit, *value as f64)),
        Value::Histogram(histogram) => {
            let sum = in_base(unit, histogram.sum() as f64);
            encoder.encode_histogram::<NoLabelSet>(sum, histogram.count(), &buckets(unit, histogram), None)
        }
    }
}

/// Upper bound in the base unit and how many values lie between it and the bound before.
///
/// A value within 1.6 % of a bound may be counted in the bucket above it: the histogram's own buckets are that wide.
fn buckets(unit: Unit, histogram: &HistogramSnapshot) -> Vec<(f64, u64)> {
    let bounds = match unit {
        Unit::Nanoseconds => BOUNDS_NS,
        Unit::Bytes => BOUNDS_BYTES,
        Unit::Count | Unit::Microseconds | Unit::PerMille => BOUNDS_COUNT,
    };
    let mut below = 0;
    let mut buckets = Vec::with_capacity(bounds.len() + 1);
    for &bound in bounds {
        let upto = histogram.count_at_most(bound);
        buckets.push((in_base(unit, bound as f64), upto - below));
        below = upto;
    }
    buckets.push((f64::INFINITY, histogram.count() - below));
    buckets
}

/// A recorded value in the base unit. Divides, because 2,500 / 10⁹ prints as 2.5e-6 where 2,500 × 10⁻⁹ may not.
fn in_base(unit: Unit, recorded: f64) -> f64 {
    recorded / (1.0 / unit.scale()).round()
}

fn text_unit(unit: Unit) -> Option<TextUnit> {
    match unit {
        Unit::Count => None,
        Unit::Bytes => Some(TextUnit::Bytes),
        Unit::Nanoseconds | Unit::Microseconds => Some(TextUnit::Seconds),
        Unit::PerMille => unit.base().map(|base| TextUnit::Other(base.to_owned())),
    }
}

fn text_type(kind: Kind) -> MetricType {
    match kind {
        Kind::Counter => MetricType::Counter,
        Kind::Gauge => MetricType::Gauge,
        Kind::Histogram => MetricType::Histogram,
    }
}
