//! What the monitor says of statements on a clock moved by hand.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tidegate_vitals::clock::ManualClock;

use super::*;

fn monitor(config: Config) -> (Monitor, ManualClock, Registry) {
    let (clock, hand) = Clock::manual();
    let registry = Registry::new();
    (Monitor::new(config, clock, &registry), hand, registry)
}

/// Runs a statement that waits, executes and fetches for so many milliseconds.
fn run(
    monitor: &Monitor,
    hand: &ManualClock,
    sql: &str,
    ms: [u64; 3],
    result: std::result::Result<(), &str>,
) {
    let mut timing = monitor.begin(sql, Location::caller());
    hand.advance(Duration::from_millis(ms[0]));
    timing.acquired();
    hand.advance(Duration::from_millis(ms[1]));
    timing.executed();
    hand.advance(Duration::from_millis(ms[2]));
    timing.finish(3, result);
}

#[test]
fn times_are_split_into_wait_execute_and_fetch() {
    let (monitor, hand, _) = monitor(Config::default());
    run(
        &monitor,
        &hand,
        "select a from t where b = 1",
        [10, 20, 30],
        Ok(()),
    );
    run(
        &monitor,
        &hand,
        "select a from t where b = 2",
        [30, 40, 50],
        Ok(()),
    );
    let top = monitor.top(Order::Total, 10);
    assert_eq!(top.len(), 1);
    let totals = &top[0].totals;
    assert_eq!((totals.calls, totals.rows), (2, 6));
    assert_eq!(
        (
            totals.wait.total_ms,
            totals.execute.total_ms,
            totals.fetch.total_ms
        ),
        (40.0, 60.0, 80.0)
    );
    assert_eq!((totals.total.mean_ms, totals.total.max_ms), (90.0, 120.0));
    assert_eq!(top[0].tables, ["t"]);
    assert_eq!(monitor.tables(10)[0].totals.calls, 2);
}

#[test]
fn lists_are_sorted_as_asked() {
    let (monitor, hand, _) = monitor(Config::default());
    run(&monitor, &hand, "select slow from t", [0, 500, 0], Ok(()));
    (0..10).for_each(|_| run(&monitor, &hand, "select often from t", [0, 60, 0], Ok(())));
    let check = |order, expected: &str| assert_eq!(monitor.top(order, 1)[0].text, expected, "{order:?}");
    check(Order::Total, "select often from t");
    check(Order::Calls, "select often from t");
    check(Order::Rows, "select often from t");
    check(Order::Mean, "select slow from t");
}

#[test]
fn slow_statements_are_told_at_their_end_with_their_caller_and_without_literals() {
    let (monitor, hand, registry) = monitor(Config::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&told);
    monitor.on_slow(Arc::new(move |slow| hears.lock().unwrap().push(slow.clone())));
    run(
        &monitor,
        &hand,
        "select a from t where secret = 'xyz'",
        [9_000, 999, 0],
        Ok(()),
    );
    assert!(
        told.lock().unwrap().is_empty(),
        "waiting for a connection makes no statement slow"
    );
    run(
        &monitor,
        &hand,
        "select a from t where secret = 'xyz'",
        [5, 700, 300],
        Ok(()),
    );
    run(
        &monitor,
        &hand,
        "select a from t where secret = 'xyz'",
        [5, 5_000, 0],
        Err("57014"),
    );
    let told = told.lock().unwrap();
    assert_eq!(
        told.iter().map(|slow| slow.level).collect::<Vec<_>>(),
        [Level::Warning, Level::Critical]
    );
    let json = serde_json::to_string(&told[0]).unwrap();
    assert!(
        !json.contains("xyz") && json.contains("\"execute_ms\":700.0"),
        "{json}"
    );
    assert!(
        told[0].caller.contains("statement/tests.rs:"),
        "{}",
        told[0].caller
    );
    assert_eq!(told[1].sqlstate.as_deref(), Some("57014"));
    assert_eq!(monitor.slow(1)[0].level, Level::Critical);
    let summary = monitor.summary();
    assert_eq!(
        (summary.statements, summary.slow, summary.critical, summary.errors),
        (3, 2, 1, 1)
    );
    assert!((summary.slow_ratio - 2.0 / 3.0).abs() < 1e-9);
    assert_eq!(registry.counter(Id::StoreStatementErrors, &["57014"]).get(), 1);
}

#[test]
fn the_slow_list_keeps_the_newest() {
    let (monitor, hand, _) = monitor(Config {
        slow_list_max: 2,
        ..Config::default()
    });
    for column in ["a", "b", "c"] {
        run(
            &monitor,
            &hand,
            &format!("select {column}"),
            [0, 2_000, 0],
            Ok(()),
        );
    }
    let texts: Vec<_> = monitor.slow(9).into_iter().map(|slow| slow.text).collect();
    assert_eq!(texts, ["select c", "select b"]);
}

#[test]
fn a_timing_that_is_dropped_counts_as_cancelled() {
    let (monitor, hand, _) = monitor(Config::default());
    let timing = monitor.begin("select pg_sleep(9)", Location::caller());
    hand.advance(Duration::from_millis(7));
    drop(timing);
    let totals = &monitor.top(Order::Calls, 1)[0].totals;
    assert_eq!(
        (totals.cancelled, totals.wait.total_ms, totals.execute.total_ms),
        (1, 7.0, 0.0)
    );
    assert_eq!(monitor.summary().cancelled, 1);
}

#[test]
fn a_full_list_gives_the_place_of_the_least_time_away_and_counts_it_as_other() {
    let (monitor, hand, _) = monitor(Config {
        fingerprints_max: 3,
        ..Config::default()
    });
    for (column, ms) in [("a", 30), ("b", 10), ("c", 20)] {
        run(&monitor, &hand, &format!("select {column}"), [0, ms, 0], Ok(()));
    }
    let late = monitor.begin("select b", Location::caller());
    run(&monitor, &hand, "select d", [0, 40, 0], Ok(()));
    late.finish(1, Ok(()));
    let texts: Vec<_> = monitor
        .top(Order::Total, 9)
        .into_iter()
        .map(|stats| stats.text)
        .collect();
    assert_eq!(texts, ["select d", "select a", "select c"]);
    let other = monitor.other();
    assert_eq!(
        (other.totals.calls, other.totals.rows),
        (2, 4),
        "one that had ended and one under way"
    );
    assert_eq!(monitor.summary().statements, 5);
    run(&monitor, &hand, "select b", [0, 90, 0], Ok(()));
    assert_eq!(
        monitor.top(Order::Total, 1)[0].text,
        "select b",
        "a known text finds a new place"
    );
}

#[test]
fn ten_thousand_different_statements_stay_within_the_bounds() {
    let (monitor, hand, _) = monitor(Config {
        tables_max: 10,
        ..Config::default()
    });
    for i in 0..10_000 {
        run(
            &monitor,
            &hand,
            &format!("select a{i} from t{i}"),
            [0, 1, 0],
            Ok(()),
        );
    }
    assert_eq!(monitor.top(Order::Total, 20_000).len(), 1_000);
    assert_eq!(monitor.tables(100).len(), 11);
    let summary = monitor.summary();
    assert_eq!(
        (summary.statements, summary.fingerprints, summary.other),
        (10_000, 1_000, 9_000)
    );
}

#[test]
fn many_threads_lose_no_count() {
    let monitor = Monitor::new(
        Config {
            fingerprints_max: 8,
            ..Config::default()
        },
        Clock::real(),
        &Registry::new(),
    );
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let i @ 0..4_000 = next.fetch_add(1, Relaxed) {
                    let sql = format!("select c{} from t", i % 16);
                    monitor.begin(&sql, Location::caller()).finish(1, Ok(()));
                }
            });
        }
    });
    let listed: u64 = monitor
        .top(Order::Calls, 99)
        .iter()
        .map(|stats| stats.totals.calls)
        .sum();
    assert_eq!(listed + monitor.other().totals.calls, 4_000);
    assert_eq!(monitor.tables(1)[0].totals.calls, 4_000);
}

#[test]
fn a_monitor_that_is_off_counts_nothing() {
    let (monitor, hand, _) = monitor(Config {
        enabled: false,
        ..Config::default()
    });
    run(&monitor, &hand, "select 1", [0, 9_000, 0], Ok(()));
    assert!(monitor.top(Order::Total, 9).is_empty() && monitor.slow(9).is_empty());
}

#[test]
fn settings_out_of_range_are_named() {
    let check = |config: Config, expected: &str| {
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(
        Config {
            slow: Duration::ZERO,
            ..Config::default()
        },
        "monitor.slow",
    );
    check(
        Config {
            critical: Duration::from_millis(1),
            ..Config::default()
        },
        "less than slow = 1s",
    );
    check(
        Config {
            fingerprints_max: 0,
            ..Config::default()
        },
        "0 is not 1 to 10,000",
    );
    assert!(Config::default().check().is_ok());
}
