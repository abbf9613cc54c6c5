//! What `Instances` costs beside a locked map: `cargo run --release --example instances_cost -p tidegate-flow`.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};

use tidegate_flow::instances::{Config, Instances};

type Made = Result<u64, std::io::Error>;

/// The usual way: everything under one lock, the creation too, so that it happens once.
#[derive(Default)]
struct Locked(Mutex<HashMap<u64, Arc<u64>>>);

impl Locked {
    fn get_or_create(&self, key: u64, create: impl FnOnce() -> Made) -> Arc<u64> {
        let mut map = self.0.lock().expect("no creation panics here");
        Arc::clone(
            map.entry(key)
                .or_insert_with(|| Arc::new(create().expect("it works"))),
        )
    }
}

const KEYS: u64 = 64;
const ROUNDS: u32 = 7;

/// The median of a few rounds of `n` calls on each of `threads`, nanoseconds of the whole for one call.
fn measure<S: Sync>(threads: u64, n: u64, make: impl Fn() -> S, call: impl Fn(&S, u64, u64) + Sync) -> f64 {
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (subject, barrier) = (make(), Barrier::new(threads as usize + 1));
            let took = std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (subject, barrier, call) = (&subject, &barrier, &call);
                    scope.spawn(move || {
                        barrier.wait();
                        (0..n).for_each(|i| call(subject, thread, i));
                    });
                }
                barrier.wait();
                Started(Instant::now())
            });
            took.0.elapsed().as_nanos() as f64 / (n * threads) as f64
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

struct Started(Instant);

/// A creation that takes a while, as one that asks the system for something.
fn slow(key: u64) -> Made {
    let until = Instant::now() + Duration::from_micros(20);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    Ok(key)
}

fn instances(name: &'static str) -> Instances<u64, u64> {
    Instances::strong(Config {
        instances_max: 1 << 20,
        ..Config::new(name)
    })
}

fn show(what: &str, ours: f64, locked: f64) {
    println!(
        "{what:<38} {ours:9.1} ns   locked map {locked:9.1} ns   {:+.0} %",
        100.0 * (ours / locked - 1.0)
    );
}

fn main() {
    for threads in [1, 2, 4] {
        let ours = measure(
            threads,
            400_000,
            || instances("access"),
            |all, _, i| {
                black_box(
                    all.get_or_create(&(i % KEYS), || Made::Ok(i))
                        .expect("there is room"),
                );
            },
        );
        let locked = measure(threads, 400_000, Locked::default, |all, _, i| {
            black_box(all.get_or_create(i % KEYS, || Ok(i)));
        });
        show(&format!("access, {threads} threads"), ours, locked);
    }
    let ours = measure(
        1,
        50_000,
        || instances("creation"),
        |all, _, i| {
            black_box(all.get_or_create(&i, || Made::Ok(i)).expect("there is room"));
        },
    );
    let locked = measure(1, 50_000, Locked::default, |all, _, i| {
        black_box(all.get_or_create(i, || Ok(i)));
    });
    show("creation of nothing, 1 thread", ours, locked);
    for threads in [1, 2, 4] {
        // Each thread's keys are its own, so that creations could go beside each other.
        let ours = measure(
            threads,
            1_000,
            || instances("creation"),
            |all, thread, i| {
                let key = thread << 32 | i;
                black_box(all.get_or_create(&key, || slow(key)).expect("there is room"));
            },
        );
        let locked = measure(threads, 1_000, Locked::default, |all, thread, i| {
            let key = thread << 32 | i;
            black_box(all.get_or_create(key, || slow(key)));
        });
        show(&format!("creation of 20 us, {threads} threads"), ours, locked);
    }
    for threads in [2, 4] {
        // All want the same new key at a time, and old ones in between.
        let ours = measure(
            threads,
            4_000,
            || instances("contention"),
            |all, _, i| {
                let key = if i % 8 == 0 { KEYS + i } else { i % KEYS };
                black_box(all.get_or_create(&key, || slow(key)).expect("there is room"));
            },
        );
        let locked = measure(threads, 4_000, Locked::default, |all, _, i| {
            let key = if i % 8 == 0 { KEYS + i } else { i % KEYS };
            black_box(all.get_or_create(key, || slow(key)));
        });
        show(&format!("contention, {threads} threads"), ours, locked);
    }
}
