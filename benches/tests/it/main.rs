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

#[test]
fn the_pool_is_measured_by_a_small_run() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-benches"))
        .args(["store", "--quick", "--only", "pool"])
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{table}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for title in ["nobody waits", "512 tasks on 20", "crash and restart", "dropped"] {
        assert!(table.contains(title), "{title} in {table}");
    }
}
