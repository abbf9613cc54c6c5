//! Ten virtual minutes of twice the load a server can bear, with and without an adaptive limit:
//! `cargo run --release --example limiter -p tidegate-flow`.

use std::time::{Duration, Instant};

use tidegate_flow::limiter::simulate::{Phase, Simulation, summary};
use tidegate_flow::limiter::{Adaptive, Limiter};

const MINUTE: Duration = Duration::from_secs(60);

fn show(what: &str, load: f64, minutes: u32, make: fn(tidegate_vitals::Clock) -> Limiter) {
    let started = Instant::now();
    let mut simulation = Simulation::new(1, make);
    let phase = Phase {
        lasts: MINUTE * minutes,
        workers: 20,
        service: Duration::from_millis(50),
        load,
    };
    let slices = simulation.run(phase, MINUTE);
    let all = summary(&slices);
    let late = summary(slices.get(1..).filter(|late| !late.is_empty()).unwrap_or(&slices));
    println!(
        "{what:<28} goodput {:5.1} %   P99 {:>8.1?}   limit {:>4}   drift {:4.1} %   ({:.0?})",
        100.0 * all.goodput,
        late.p99,
        simulation.limiter().stats().limit,
        100.0 * late.drift,
        started.elapsed()
    );
}

fn main() {
    show("load 0.2, adaptive", 0.2, 10, |clock| {
        Limiter::adaptive("adaptive", Adaptive::default(), clock)
    });
    show("load 2, adaptive", 2.0, 10, |clock| {
        Limiter::adaptive("adaptive", Adaptive::default(), clock)
    });
    show("load 2, fixed at 1000", 2.0, 10, |clock| {
        Limiter::fixed("fixed", 1_000, clock)
    });
    show("load 2, fixed at 10", 2.0, 10, |clock| {
        Limiter::fixed("fixed", 10, clock)
    });
}
