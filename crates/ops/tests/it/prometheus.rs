//! The text is read back by a small strict parser, as a scraper would.

use std::collections::{BTreeMap, HashSet};

use tidegate_ops::prometheus::{CONTENT_TYPE, render};
use tidegate_vitals::{Id, Kind, Registry, TABLE};

/// One family as the text describes it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    help: String,
    /// Suffix and labels as written, and value, in order.
    samples: Vec<(String, f64)>,
}

/// Reads OpenMetrics text; panics where it breaks a rule of the format.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("the text ends with EOF");
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in body.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let mut word = || words.next().expect("a comment has three words");
            let (what, name, rest) = (word(), word(), word());
            if name != current {
                assert!(!families.contains_key(name), "family {name} comes twice");
                name.clone_into(&mut current);
            }
            let family = families.entry(current.clone()).or_default();
            assert!(family.samples.is_empty(), "{what} of {name} after its samples");
            match what {
                "HELP" => rest.clone_into(&mut family.help),
                "TYPE" => rest.clone_into(&mut family.kind),
                "UNIT" => family.unit = Some(rest.to_owned()),
                other => panic!("unknown comment {other}"),
            }
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            let suffix = series
                .strip_prefix(&*current)
                .unwrap_or_else(|| panic!("{series} outside {current}"));
            let family = families.get_mut(&current).expect("samples follow their comments");
            family
                .samples
                .push((suffix.to_owned(), value.parse().expect("a value is a number")));
        }
    }
    families
}

fn check_family(name: &str, family: &Family) {
    let mut seen = HashSet::new();
    for (suffix, _) in &family.samples {
        assert!(seen.insert(suffix), "{name}{suffix} twice");
        let suffix = suffix.split_once('{').map_or(suffix.as_str(), |(name, _)| name);
        let allowed: &[&str] = match &*family.kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "histogram" => &["_sum", "_count", "_bucket"],
            other => panic!("{name} is of type {other}"),
        };
        assert!(allowed.contains(&suffix), "{name}{suffix} in a {}", family.kind);
    }
    if let Some(unit) = &family.unit {
        assert!(
            name.ends_with(&format!("_{unit}")),
            "{name} does not end in its unit {unit}"
        );
    }
}

/// One series of every metric in the table.
fn full_registry() -> Registry {
    let registry = Registry::new();
    for metric in TABLE {
        let labels = vec!["x"; metric.labels.len()];
        match metric.kind {
            Kind::Counter => registry.counter(metric.id, &labels).add(3),
            Kind::Gauge => registry.gauge(metric.id, &labels).set(-5),
            Kind::Histogram => registry.histogram(metric.id, &labels).record(1_000),
        }
    }
    registry
}

#[test]
fn every_figure_of_the_table_is_told() {
    let families = parse(&render(&full_registry().snapshot()));
    for metric in TABLE {
        let name = format!("tidegate_{}", metric.name);
        let family = families.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(family.help, metric.help_en);
        assert_eq!(family.unit.as_deref(), metric.unit.base());
        // The encoder writes help as it stands; these would have to be escaped.
        assert!(!metric.help_en.contains(['\\', '\n', '"']), "{name}");
        check_family(&name, family);
    }
    assert_eq!(families.len(), TABLE.len());
}

#[test]
fn values_are_in_base_units() {
    let registry = Registry::new();
    registry.counter(Id::ProcessCpu, &[]).add(1_500_000_000);
    registry
        .counter(Id::GatewayBytesOut, &[])
        .add(u64::from(u32::MAX) * 1000);
    registry.gauge(Id::GatewayShardUtilisation, &["0"]).set(250);
    registry.gauge(Id::GatewayFlushWindow, &["0"]).set(50_000);
    registry.gauge(Id::GatewaySessions, &[]).set(7);
    let text = render(&registry.snapshot());
    for line in [
        "tidegate_process_cpu_seconds_total 1.5\n",
        "tidegate_gateway_out_bytes_total 4294967295000\n",
        "tidegate_gateway_shard_utilisation_ratio{shard=\"0\"} 0.25\n",
        "tidegate_gateway_flush_window_seconds{shard=\"0\"} 0.05\n",
        "tidegate_gateway_sessions 7\n",
        "# TYPE tidegate_gateway_sessions gauge\n",
        "# UNIT tidegate_process_cpu_seconds seconds\n",
    ] {
        assert!(text.contains(line), "{line} not in\n{text}");
    }
}

#[test]
fn histogram_buckets_rise_to_the_count() {
    let registry = Registry::new();
    let latency = registry.histogram(Id::GatewayDeliveryLatency, &[]);
    for value in [10, 900, 3_000, 3_000, 700_000, 500_000_000_000] {
        latency.record(value);
    }
    let families = parse(&render(&registry.snapshot()));
    let family = &families["tidegate_gateway_delivery_latency_seconds"];
    let buckets: Vec<_> = family
        .samples
        .iter()
        .filter(|sample| sample.0.starts_with("_bucket"))
        .collect();
    assert!(buckets.len() <= 32, "the number of buckets is bounded");
    assert!(
        buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1),
        "{buckets:?}"
    );
    let value = |suffix: &str| {
        family
            .samples
            .iter()
            .find(|sample| sample.0 == suffix)
            .unwrap_or_else(|| panic!("{suffix}: {family:?}"))
            .1
    };
    assert!((value("_count") - 6.0).abs() < f64::EPSILON);
    assert!((value("_sum") - 500.000_706_91).abs() < 1e-9);
    assert!(
        (value("_bucket{le=\"0.000001\"}") - 2.0).abs() < f64::EPSILON,
        "{buckets:?}"
    );
    assert!((value("_bucket{le=\"0.000005\"}") - 4.0).abs() < f64::EPSILON);
    assert!((value("_bucket{le=\"100.0\"}") - 5.0).abs() < f64::EPSILON);
    assert!((value("_bucket{le=\"+Inf\"}") - 6.0).abs() < f64::EPSILON);
}

#[test]
fn label_values_are_escaped() {
    let registry = Registry::new();
    registry.counter(Id::HttpRequests, &["/a\"b\\c\nd", "200"]).inc();
    let text = render(&registry.snapshot());
    assert!(
        text.contains(r#"tidegate_http_requests_total{route="/a\"b\\c\nd",status="200"} 1"#),
        "{text}"
    );
}

#[test]
fn an_empty_registry_is_still_valid_text() {
    assert_eq!(render(&Registry::new().snapshot()), "# EOF\n");
    assert!(CONTENT_TYPE.starts_with("application/openmetrics-text"));
}
