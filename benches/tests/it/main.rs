//! The bench runs, small, in the tests, so that it cannot rot.

use std::process::Command;

#[test]
fn the_floor_is_measured_by_a_small_run() {
    let json = std::env::temp_dir().join(format!("tidegate-bench-{}.json", std::process::id()));
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-benches"))
        .args([
            "fanout",
            "--quick",
            "--rows",
            "floor",
            "--subscribers",
            "50",
            "--seconds",
            "0.05",
            "--json",
        ])
        .arg(&json)
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{table}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(table.contains("CPU per delivery, 64 in flight"), "{table}");
    let text = std::fs::read_to_string(&json).unwrap();
    std::fs::remove_file(&json).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let figures = &report["rounds"][0]["floor"];
    for key in [
        "cpu_1", "cpu_8", "cpu_64", "rate_1", "lone_p50", "open_p99", "half_p99", "full_p99", "wide",
    ] {
        assert!(
            figures[key].as_f64().is_some_and(|value| value > 0.0),
            "{key} in {figures}"
        );
    }
}

/// A small run of these sections shows these titles.
#[track_caller]
fn check(bench: &str, sections: &str, titles: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-benches"))
        .args([bench, "--quick", "--only", sections])
        .output()
        .expect("the bench starts");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{table}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for title in titles {
        assert!(table.contains(title), "{title} in {table}");
    }
}

#[test]
fn the_hook_is_measured_by_a_small_run() {
    check(
        "app",
        "hook",
        &[
            "one event at a time",
            "64 events in flight",
            "connect at once",
            "events per CPU second",
            "latency P99",
            "last one in",
            "Tidegate, application in Rust",
        ],
    );
}

#[test]
fn publishers_through_redis_are_measured_by_a_small_run() {
    check(
        "app",
        "redis",
        &[
            "publishers through Redis",
            "classic",
            "sharded",
            "streams",
            "python",
        ],
    );
}

#[test]
fn the_pool_is_measured_by_a_small_run() {
    let titles = ["nobody waits", "512 tasks on 20", "crash and restart", "dropped"];
    check("store", "pool", &titles);
}

#[test]
fn cache_and_disk_are_measured_by_a_small_run() {
    let titles = [
        "memory level",
        "insert that evicts",
        "memory of an entry",
        "write amplification",
        "under churn",
    ];
    check("limits", "cache,disk", &titles);
}

#[test]
fn instances_and_profiling_are_measured_by_a_small_run() {
    let titles = [
        "Mutex<HashMap>",
        "first creation",
        "#[profiled], on",
        "heap grown",
    ];
    check("limits", "instances,profiled", &titles);
}

#[test]
fn limiter_leaks_and_monitoring_are_measured_by_a_small_run() {
    let titles = ["no limit", "goodput", "leaks found", "not monitored"];
    check("limits", "limiter,leaks,monitoring", &titles);
}

#[test]
fn hit_ratios_are_measured_by_a_small_run() {
    check(
        "limits",
        "hit_ratio",
        &["knows the future", "drifting", "4× the memory"],
    );
}

#[test]
fn publications_by_sql_are_measured_by_a_small_run() {
    check(
        "app",
        "outbox",
        &[
            "1000 rows a second",
            "commit to client P50",
            "commit to client P99",
        ],
    );
}
