//! The timeline: one point a second, an hour long, nothing more.

use std::time::Duration;

use tidegate_vitals::timeline::POINTS_MAX;
use tidegate_vitals::{Clock, Id, Key, ManualClock, Registry, Timeline};

struct Hour {
    clock: Clock,
    hand: ManualClock,
    registry: Registry,
    timeline: Timeline,
}

impl Hour {
    fn new() -> Self {
        let (clock, hand) = Clock::manual();
        hand.set_wall_ms(0);
        let registry = Registry::new();
        let timeline = Timeline::new(registry.clone(), clock.clone());
        Self {
            timeline,
            registry,
            clock,
            hand,
        }
    }

    fn tick_after(&self, ms: u64) {
        self.hand.advance(Duration::from_millis(ms));
        self.timeline.tick(self.clock.now());
    }

    fn values<'a>(&self, key: impl Into<Key<'a>>) -> Vec<f64> {
        self.timeline
            .series(key, ..)
            .iter()
            .map(|point| point.value)
            .collect()
    }
}

#[test]
fn counters_are_kept_as_rates_per_second() {
    let hour = Hour::new();
    let counter = hour.registry.counter(Id::GatewayPublishes, &[]);
    counter.add(1000);
    hour.tick_after(0);
    assert_eq!(hour.values(Id::GatewayPublishes), [], "one reading is no rate");
    counter.add(10);
    hour.tick_after(1000);
    counter.add(10);
    hour.tick_after(2000);
    assert_eq!(hour.values(Id::GatewayPublishes), [10.0, 5.0]);
    assert_eq!(hour.timeline.average(Id::GatewayPublishes), Some(7.5));
    assert_eq!(hour.timeline.peak(Id::GatewayPublishes), Some(10.0));
    assert_eq!(hour.timeline.last(Id::GatewayPublishes).unwrap().unix_ms, 3000);
}

#[test]
fn histograms_are_kept_per_second() {
    let hour = Hour::new();
    let histogram = hour.registry.histogram(Id::GatewayDeliveryLatency, &[]);
    hour.tick_after(0);
    (1..=100).for_each(|value| histogram.record(value));
    hour.tick_after(1000);
    hour.tick_after(1000);
    histogram.record(7);
    hour.tick_after(1000);
    let key = Key::of(Id::GatewayDeliveryLatency);
    assert_eq!(hour.values(key), [50.5, 7.0], "a silent second has no point");
    assert_eq!(hour.values(key.p50()), [50.0, 7.0]);
    assert_eq!(hour.values(key.p95()), [95.0, 7.0]);
    assert_eq!(hour.values(key.p99()), [99.0, 7.0]);
}

#[test]
fn small_labels_have_tracks_of_their_own() {
    let hour = Hour::new();
    let active = hour.registry.gauge(Id::GatewayConnections, &["active"]);
    let idle = hour.registry.gauge(Id::GatewayConnections, &["idle"]);
    active.set(3);
    idle.set(4);
    hour.tick_after(0);
    idle.set(1);
    hour.tick_after(1000);
    let key = Key::of(Id::GatewayConnections);
    assert_eq!(hour.values(key), [7.0, 4.0]);
    assert_eq!(hour.values(key.label("idle")), [4.0, 1.0]);
    assert_eq!(hour.values(key.label("nobody")), []);
    let labels = hour.timeline.label_values(Id::GatewayConnections);
    assert_eq!(
        labels.iter().map(|label| &**label).collect::<Vec<_>>(),
        ["active", "idle"]
    );

    hour.registry.counter(Id::ConfigReloads, &["ok"]).add(5);
    hour.tick_after(1000);
    assert_eq!(hour.values(Key::of(Id::ConfigReloads).label("ok")), [5.0]);
}

#[test]
fn an_hour_is_kept_and_no_more() {
    let hour = Hour::new();
    let gauge = hour.registry.gauge(Id::GatewaySessions, &[]);
    let ticks = POINTS_MAX as i64 + 100;
    for n in 0..ticks {
        gauge.set(n);
        hour.tick_after(1000);
    }
    let points = hour.timeline.series(Id::GatewaySessions, ..);
    assert_eq!(points.len(), POINTS_MAX);
    assert_eq!(
        (points[0].value as i64, points[POINTS_MAX - 1].value as i64),
        (100, ticks - 1)
    );
    assert!(
        points
            .windows(2)
            .all(|pair| pair[1].unix_ms == pair[0].unix_ms + 1000)
    );
    assert_eq!(hour.timeline.peak(Id::GatewaySessions), Some((ticks - 1) as f64));

    let last_ms = points[POINTS_MAX - 1].unix_ms;
    assert_eq!(
        hour.timeline
            .series(Id::GatewaySessions, last_ms - 9000..=last_ms)
            .len(),
        10
    );
    assert_eq!(hour.timeline.series(Id::GatewaySessions, last_ms + 1..).len(), 0);
}

#[test]
fn ticks_that_come_too_soon_are_left_out() {
    let hour = Hour::new();
    hour.registry.gauge(Id::GatewaySessions, &[]).set(1);
    assert!(hour.timeline.is_empty());
    hour.tick_after(0);
    hour.tick_after(100);
    hour.tick_after(300);
    assert_eq!(hour.timeline.len(), 1);
    hour.tick_after(600);
    assert_eq!(hour.timeline.len(), 2);
}

#[test]
fn labels_without_end_do_not_grow_the_timeline() {
    let hour = Hour::new();
    for n in 0..100 {
        hour.registry
            .gauge(Id::LedgerUsed, &[&format!("class {n}")])
            .set(1);
        hour.tick_after(1000);
    }
    assert!(hour.timeline.label_values(Id::LedgerUsed).len() <= 17);
    assert_eq!(hour.timeline.last(Id::LedgerUsed).unwrap().value as i64, 17);
}
