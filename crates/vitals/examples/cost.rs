//! Prints what one call of each handle and one tick of the pressure watch cost: `cargo run --release -p tidegate-vitals --example cost`.

use std::hint::black_box;
use std::sync::Mutex;

use tidegate_vitals::pressure::{Config, Pressure, Reader};
use tidegate_vitals::profile::TimedMutex;
use tidegate_vitals::{Class, Clock, Id, Ledger, Registry, profiled, span};

const CALLS: u64 = 10_000_000;
const ROUNDS: usize = 5;
const TICKS: u64 = 2_000;

fn main() {
    let clock = Clock::real();
    let registry = Registry::new();
    let counter = registry.counter(Id::GatewayDeliveries, &[]);
    let gauge = registry.gauge(Id::GatewayOutboxBytes, &[]);
    let histogram = registry.histogram(Id::GatewayDeliveryLatency, &[]);
    let ledger = Ledger::new(u64::MAX);
    let mut local = ledger.local(Class::Outboxes, 65_536);

    print(&clock, "loop alone", |i| _ = black_box(i));
    print(&clock, "counter add", |i| counter.add(i & 3));
    print(&clock, "gauge add", |i| gauge.add(i as i64 & 3));
    print(&clock, "histogram record", |i| {
        histogram.record(i.wrapping_mul(0x9E37_79B9) & 0xF_FFFF);
    });
    print(&clock, "clock now", |_| _ = black_box(clock.now()));
    print(&clock, "ledger reserve + drop", |i| {
        drop(ledger.reserve(Class::Frames, i as usize & 1023));
    });
    print(&clock, "local charge + release", |i| {
        local.charge(i as usize & 1023).expect("the ledger has no limit");
        local.release(i as usize & 1023);
    });
    let pressure = Pressure::new(Config::new(1 << 40), Reader::system(), &registry, clock.clone());
    print_n(&clock, "pressure level", CALLS, |_| {
        _ = black_box(pressure.level());
    });
    print_n(&clock, "pressure tick", TICKS, |_| {
        _ = black_box(pressure.tick());
    });
    costs_of_profiling(&clock);
    black_box((counter.get(), gauge.get(), histogram.snapshot().count()));
}

#[profiled]
fn empty(i: u64) -> u64 {
    black_box(i)
}

fn costs_of_profiling(clock: &Clock) {
    print(clock, "#[profiled], off", |i| _ = black_box(empty(i)));
    span::set_enabled(true);
    print(clock, "#[profiled], on", |i| _ = black_box(empty(i)));
    span::set_enabled(false);
    let (plain, timed) = (Mutex::new(0), TimedMutex::new("cost", 0));
    print(clock, "std mutex", |i| *plain.lock().expect("nobody panics") += i);
    print(clock, "timed mutex", |i| {
        *timed.lock().expect("nobody panics") += i;
    });
}

fn print(clock: &Clock, name: &str, call: impl FnMut(u64)) {
    print_n(clock, name, CALLS, call);
}

/// The best of a few rounds: the machine's other work only ever adds.
fn print_n(clock: &Clock, name: &str, calls: u64, mut call: impl FnMut(u64)) {
    let round = |_| {
        let start = clock.now();
        (0..calls).for_each(|i| call(black_box(i)));
        (clock.now() - start).as_nanos() as f64 / calls as f64
    };
    let best = (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min);
    println!("{name:<24} {best:>8.1} ns");
}
