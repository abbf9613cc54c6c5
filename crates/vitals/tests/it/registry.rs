//! The registry: handles, bounds on labels and series, eviction, snapshots.

use std::time::Duration;

use tidegate_vitals::metric::{OTHER, SERIES_IDLE};
use tidegate_vitals::{Clock, Id, Registry, Value};

#[test]
fn threads_lose_no_count() {
    let registry = Registry::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let counter = registry.counter(Id::GatewayDeliveries, &[]);
            let gauge = registry.gauge(Id::GatewayOutboxBytes, &[]);
            scope.spawn(move || {
                for _ in 0..50_000 {
                    counter.inc();
                    gauge.add(3);
                    gauge.add(-2);
                }
            });
        }
    });
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.counter(Id::GatewayDeliveries), 400_000);
    assert_eq!(snapshot.gauge(Id::GatewayOutboxBytes), 400_000);
}

#[test]
fn the_same_labels_are_the_same_figure() {
    let registry = Registry::new();
    registry.counter(Id::HttpRequests, &["/healthz", "200"]).add(2);
    registry.counter(Id::HttpRequests, &["/healthz", "200"]).add(3);
    registry.counter(Id::HttpRequests, &["/healthz", "503"]).add(7);
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.counter(Id::HttpRequests), 12);
    let series = snapshot.of(Id::HttpRequests);
    assert_eq!(series.len(), 2);
    assert_eq!(series[0].label("status"), Some("200"));
    assert_eq!(series[0].value, Value::Counter(5));
    assert_eq!(snapshot.by_label(Id::HttpRequests).count(), 2);
    assert_eq!(snapshot.counter(Id::GatewayAcks), 0, "an unused figure is zero");
}

#[test]
fn gauges_add_up_only_where_a_sum_means_something() {
    let registry = Registry::new();
    registry.gauge(Id::GatewayConnections, &["active"]).set(10);
    registry.gauge(Id::GatewayConnections, &["idle"]).set(20);
    registry.gauge(Id::GatewayShardUtilisation, &["0"]).set(200);
    registry.gauge(Id::GatewayShardUtilisation, &["1"]).set(600);
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.gauge(Id::GatewayConnections), 30);
    assert_eq!(snapshot.gauge(Id::GatewayShardUtilisation), 400);
    let by_state: Vec<_> = snapshot.by_label(Id::GatewayConnections).collect();
    assert_eq!(
        by_state,
        [("active", &Value::Gauge(10)), ("idle", &Value::Gauge(20))]
    );
}

#[test]
fn values_over_a_labels_bound_become_other() {
    let registry = Registry::new();
    let max = Id::HttpRequests.metric().labels[0].values_max;
    for n in 0..max + 10 {
        registry
            .counter(Id::HttpRequests, &[&format!("/{n}"), "200"])
            .inc();
    }
    registry.counter(Id::HttpRequests, &["/0", "200"]).inc();
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.of(Id::HttpRequests).len(), max + 1);
    let other = snapshot
        .by_label(Id::HttpRequests)
        .find(|(route, _)| *route == OTHER)
        .unwrap();
    assert_eq!(other.1, &Value::Counter(10));
    assert_eq!(
        snapshot.counter(Id::HttpRequests),
        max as u64 + 11,
        "nothing is lost"
    );
    assert_eq!(snapshot.counter(Id::SeriesOverflow), 10);
}

#[test]
fn the_cap_on_series_holds_over_all_metrics() {
    let registry = Registry::with_series_max(3);
    for reason in ["a", "b", "c", "d", "e"] {
        registry.counter(Id::GatewayRefused, &[reason]).inc();
        registry.counter(Id::GatewayClosed, &[reason]).inc();
    }
    let labelled = |id| registry.snapshot().of(id).len();
    // Three places, and `other` once for each metric.
    assert_eq!(labelled(Id::GatewayRefused) + labelled(Id::GatewayClosed), 3 + 2);
    assert_eq!(registry.snapshot().counter(Id::GatewayRefused), 5);
    assert_eq!(registry.snapshot().counter(Id::GatewayClosed), 5);
    assert_eq!(registry.snapshot().counter(Id::SeriesOverflow), 7);
}

#[test]
fn idle_series_are_forgotten_and_make_room() {
    let (clock, hand) = Clock::manual();
    let registry = Registry::with_series_max(2);
    let held = registry.counter(Id::GatewayRefused, &["held"]);
    registry.counter(Id::GatewayRefused, &["idle"]).inc();
    registry.counter(Id::GatewayAccepted, &[]).inc();

    assert_eq!(registry.sweep(clock.now()), 0, "the first sweep only notes");
    hand.advance(SERIES_IDLE - Duration::from_secs(1));
    assert_eq!(registry.sweep(clock.now()), 0);
    hand.advance(Duration::from_secs(1));
    assert_eq!(registry.sweep(clock.now()), 1);

    held.inc();
    registry.counter(Id::GatewayRefused, &["new"]).inc();
    let snapshot = registry.snapshot();
    let reasons: Vec<_> = snapshot
        .by_label(Id::GatewayRefused)
        .map(|(reason, _)| reason)
        .collect();
    assert_eq!(reasons, ["held", "new"]);
    assert_eq!(
        snapshot.counter(Id::GatewayAccepted),
        1,
        "series without labels stay"
    );
}

#[test]
fn a_series_used_again_is_not_idle() {
    let (clock, hand) = Clock::manual();
    let registry = Registry::new();
    for _ in 0..5 {
        registry.counter(Id::GatewayRefused, &["often"]).inc();
        assert_eq!(registry.sweep(clock.now()), 0);
        hand.advance(SERIES_IDLE / 2);
    }
    assert_eq!(registry.snapshot().counter(Id::GatewayRefused), 5);
}

#[test]
#[should_panic(expected = "gateway_sessions is a Gauge")]
fn a_wrong_kind_is_a_mistake_in_code() {
    let _ = Registry::new().counter(Id::GatewaySessions, &[]);
}

#[test]
#[should_panic(expected = "gateway_refused has 1 labels, 0 given")]
fn a_missing_label_is_a_mistake_in_code() {
    let _ = Registry::new().counter(Id::GatewayRefused, &[]);
}
