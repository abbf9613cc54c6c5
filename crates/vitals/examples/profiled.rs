//! A program that profiles itself: `cargo run --release -p tidegate-vitals --example profiled [flame.svg]`.

use std::time::Duration;

use tidegate_vitals::profile::{self, TimedMutex, findings};
use tidegate_vitals::{Clock, profiled, span};

/// Words of a small text, counted by length.
#[profiled]
fn count(text: &str, counts: &TimedMutex<[u64; 16]>) {
    for word in text.split_whitespace() {
        let length = measure(word);
        counts.lock().expect("nobody panics while holding it")[length] += 1;
    }
}

#[profiled]
fn measure(word: &str) -> usize {
    word.chars().filter(|c| c.is_alphabetic()).count().min(15)
}

fn main() {
    let counts = TimedMutex::new("counts", [0; 16]);
    let text = "the quick brown fox jumps over the lazy dog ".repeat(200);
    let config = profile::Config {
        length: Duration::from_secs(2),
        ..profile::Config::default()
    };
    let clock = Clock::real();
    let collector = profile::Collector::new(config, clock.clone()).expect("two seconds are allowed");
    let report = std::thread::scope(|scope| {
        let profiler = scope.spawn(|| collector.run(std::thread::sleep));
        for _ in 0..2 {
            scope.spawn(|| {
                let start = clock.now();
                while (clock.now() - start).as_millis() < 2_000 {
                    count(&text, &counts);
                }
            });
        }
        profiler.join().expect("a profile does not panic")
    });
    print_functions(&report.functions);
    print_findings(&report);
    if let (Some(path), Ok(cpu)) = (std::env::args().nth(1), &report.cpu) {
        std::fs::write(path, cpu.flame_graph("examples/profiled")).expect("the file can be written");
    }
}

fn print_functions(functions: &[span::Figures]) {
    println!(
        "{:<24} {:>10} {:>10} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "function", "calls", "total ms", "mean ns", "p50", "p95", "p99", "max"
    );
    for f in functions {
        let total_ms = f.total_ns as f64 / 1e6;
        println!(
            "{:<24} {:>10} {total_ms:>10.1} {:>9.0} {:>9} {:>9} {:>9} {:>9}",
            f.name, f.calls, f.mean_ns, f.p50_ns, f.p95_ns, f.p99_ns, f.max_ns
        );
    }
}

fn print_findings(report: &profile::Report) {
    println!();
    for finding in findings::rank(report, &findings::Inputs::default()) {
        println!(
            "{:>3} {}\n      {}",
            finding.score, finding.title_en, finding.change_en
        );
    }
}
