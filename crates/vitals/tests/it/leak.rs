//! The leak detector: over made-up histories, and what it does with the sampling of the heap.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_vitals::allocator::{HeapProfile, HeapSite};
use tidegate_vitals::leak::{Config, Detector, HeapSampler, Sample, Subject, series};
use tidegate_vitals::objects::Objects;
use tidegate_vitals::{Clock, Id, Instant, Registry};

/// A heap in which one site grows with each look.
#[derive(Default)]
struct Heap {
    starts: AtomicU32,
    stops: AtomicU32,
    looks: AtomicU64,
    order: Mutex<Vec<&'static str>>,
}

impl HeapSampler for Heap {
    fn start(&self) -> bool {
        self.order.lock().expect("no test panics in here").push("start");
        self.starts.fetch_add(1, Relaxed) < u32::MAX
    }

    fn stop(&self) {
        self.order.lock().expect("no test panics in here").push("stop");
        self.stops.fetch_add(1, Relaxed);
    }

    fn profile(&self) -> Option<HeapProfile> {
        let looks = self.looks.fetch_add(1, Relaxed) + 1;
        let site = |address, bytes| HeapSite {
            addresses: vec![address],
            bytes,
            objects: 1,
        };
        Some(HeapProfile {
            rate_bytes: 1,
            sites: vec![site(1, 1000), site(2, 100 * looks)],
        })
    }
}

fn detector(config: Config) -> (Detector, Arc<Heap>, Registry) {
    let (heap, registry) = (Arc::new(Heap::default()), Registry::new());
    let sampler: Arc<dyn HeapSampler> = heap.clone();
    (Detector::new(config, sampler, &registry), heap, registry)
}

#[test]
fn two_hundred_histories_are_told_apart() {
    for config in [Config::production(), Config::short()] {
        for seed in [1, 1_000, 77_777] {
            let (mut false_alarms, mut missed) = (Vec::new(), Vec::new());
            for series in series::generate(seed, 100, &config) {
                let (mut detector, _, _) = detector(config);
                let alarmed = series.samples.iter().filter_map(|s| detector.sample(s)).count() > 0;
                match (series.leak_bytes > 0, alarmed) {
                    (false, true) => false_alarms.push((series.seed, series.shape)),
                    (true, false) => missed.push((series.seed, series.shape, series.leak_bytes >> 20)),
                    _ => {}
                }
            }
            assert!(
                false_alarms.len() <= 2,
                "seed {seed}: false alarms {false_alarms:?}"
            );
            assert!(missed.is_empty(), "seed {seed}: missed {missed:?}");
        }
    }
}

/// Samples of `value(window)` unaccounted bytes and steady load until an alarm or the end.
fn run(detector: &mut Detector, windows: f64, live: impl Fn(f64) -> u64) -> Option<(Subject, Vec<u64>)> {
    let config = Config::short();
    let (clock, hand) = Clock::manual();
    let n = (windows * 24.0 * 4.0) as u64;
    for at in 0..=n {
        let sample = Sample {
            at: clock.now(),
            live_bytes: live(at as f64 / 96.0),
            accounted_bytes: 0,
            load: 10.0,
        };
        hand.advance(config.bucket / 4);
        if let Some(alarm) = detector.sample(&sample) {
            let sites = alarm.sites.iter().map(|site| site.addresses[0]).collect();
            return Some((alarm.subject, sites));
        }
    }
    None
}

#[test]
fn the_first_suspicion_samples_the_heap_and_the_alarm_names_the_site() {
    let (mut detector, heap, registry) = detector(Config::short());
    let alarm = run(&mut detector, 3.0, |windows| 100_000_000 + (windows * 4e6) as u64);
    assert_eq!(
        alarm,
        Some((Subject::Bytes, vec![2])),
        "what did not grow is no site"
    );
    assert_eq!(*heap.order.lock().unwrap(), ["start", "stop"]);
    let stats = detector.stats();
    assert_eq!((stats.evaluations, stats.suspicions, stats.alarms), (2, 1, 1));
    assert!(!stats.sampling);
    let growth = stats.last.unwrap().growth;
    assert!((growth - 4e6).abs() < 4e4, "{growth}");
    let snapshot = registry.snapshot();
    assert_eq!(snapshot.counter(Id::LeakAlarms), 1);
    assert!(snapshot.gauge(Id::LeakGrowth) > 0);
}

#[test]
fn a_suspicion_that_is_not_confirmed_turns_sampling_off_again() {
    let (mut detector, heap, _) = detector(Config::short());
    let once = |windows: f64| 100_000_000 + (windows.min(1.0) * 9e6) as u64;
    assert_eq!(run(&mut detector, 3.0, once), None);
    assert_eq!((heap.starts.load(Relaxed), heap.stops.load(Relaxed)), (1, 1));
    assert_eq!((detector.stats().suspicions, detector.stats().alarms), (1, 0));
}

#[test]
fn a_leak_is_told_once_until_it_stops() {
    let config = Config::short();
    let (mut detector, _, _) = detector(config);
    let alarms = (0..=96 * 6).filter_map(|at: u64| {
        detector.sample(&Sample {
            at: Instant::ZERO + config.bucket / 4 * at as u32,
            live_bytes: 100_000_000 + at * 40_000,
            accounted_bytes: 0,
            load: 10.0,
        })
    });
    assert_eq!(alarms.count(), 1);
    assert_eq!(detector.stats().evaluations, 6);
}

#[test]
fn objects_that_only_grow_are_found_by_kind() {
    let (detector, _, registry) = detector(Config::short());
    let objects = Objects::new(&registry);
    let (rooms, timers) = (objects.kind("rooms"), objects.kind("timers"));
    let mut detector = detector.with_objects(objects.clone());
    let steady = |windows: f64| {
        rooms.set(500);
        timers.set((windows * 400.0) as u64);
        100_000_000
    };
    let alarm = run(&mut detector, 3.0, steady);
    assert_eq!(alarm.map(|alarm| alarm.0), Some(Subject::Objects("timers")));
    objects.tick();
    let live: Vec<_> = objects.list().iter().map(|kind| (kind.name, kind.live)).collect();
    assert_eq!((live[0], live[1].0), (("rooms", 500), "timers"));
    assert!(registry.snapshot().gauge(Id::ObjectsPeak) > 500);
}

#[test]
fn objects_are_counted_while_they_are_held() {
    let objects = Objects::new(&Registry::new());
    let sessions = objects.kind("sessions");
    let held: Vec<_> = (0..5).map(|_| sessions.hold()).collect();
    drop(held);
    let _one = objects.kind("sessions").hold();
    let stats = sessions.stats();
    assert_eq!((stats.live, stats.peak, objects.live("rooms")), (1, 5, None));
}

#[test]
fn histories_are_the_same_for_a_seed() {
    let config = Config::production();
    let (a, b) = (
        series::Series::new(5, true, &config),
        series::Series::new(5, true, &config),
    );
    assert_eq!(a.samples, b.samples);
    assert_eq!(a.length(), Duration::from_secs(6 * 7200));
}
