//! Runs a thousand calls, a hundred at a time, and reports on them: `cargo run --example join_bounded -p tidegate-flow`.

use std::time::Duration;

use tidegate_flow::join::{Config, Failed, join_bounded};

/// A call that takes a few milliseconds, and fails for every hundredth number.
async fn call(number: u64) -> Result<u64, String> {
    tokio::time::sleep(Duration::from_millis(1 + number % 7)).await;
    match number % 100 {
        42 => Err(format!("{number} is not available")),
        _ => Ok(number * 2),
    }
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() {
    let joined = join_bounded((0..1_000).map(call), Config::default()).await;
    println!(
        "{} calls in {:?}, at most {} at a time; {:.1} % worked",
        joined.outcomes.len(),
        joined.elapsed,
        joined.in_flight_max,
        100.0 * joined.success_rate()
    );
    let latency = joined.latency;
    println!(
        "latency: mean {:?}, half within {:?}, 95 % within {:?}, longest {:?}",
        latency.mean, latency.p50, latency.p95, latency.max
    );
    for (number, outcome) in joined.outcomes.iter().enumerate() {
        if let Err(Failed::Error(error)) = outcome {
            println!("call {number} failed: {error}");
        }
    }
}
