//! `Instances` beside a map behind a mutex: creating, finding, and both at once.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::hint::black_box;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustc_hash::FxBuildHasher;
use tidegate_flow::instances::{Config, Instances};

use super::threads::{COUNTS, cost, table};
use super::{Options, Report};
use crate::error::Result;

const ACCESS: &str = "one of 64 that are there";
const FIRST: &str = "first creation, each thread its own keys";
const BOTH: &str = "one of 64 that are there, but one call in 64 creates for 20 µs";
const NOTHING: &str = "of nothing";
const SLOW: &str = "of 20 µs";
const CALL: &str = "call";

const OWN: &str = "Instances";
const LOCKED: &str = "Mutex<HashMap>";
const LOCKED_FAST: &str = "Mutex<HashMap>, unseeded hash";
const KEYS: u64 = 64;
/// Instances of one registry where many are created.
const REGISTRY: usize = 256;

/// One instance per key, whichever way.
trait Map: Sync {
    fn get(&self, key: u64, create: impl FnOnce() -> u64) -> Arc<u64>;
}

/// The usual way: everything under one lock, the creation too, so that it happens once.
struct Locked<S>(Mutex<HashMap<u64, Arc<u64>, S>>);

impl<S: BuildHasher + Default> Locked<S> {
    fn new() -> Self {
        Self(Mutex::new(HashMap::default()))
    }
}

impl<S: BuildHasher + Send> Map for Locked<S> {
    fn get(&self, key: u64, create: impl FnOnce() -> u64) -> Arc<u64> {
        let mut map = self.0.lock().expect("no creation panics here");
        Arc::clone(map.entry(key).or_insert_with(|| Arc::new(create())))
    }
}

impl Map for Instances<u64, u64> {
    fn get(&self, key: u64, create: impl FnOnce() -> u64) -> Arc<u64> {
        self.get_or_create(&key, || Ok::<_, Infallible>(create()))
            .expect("there is room, and no creation fails")
    }
}

fn instances() -> Instances<u64, u64> {
    Instances::strong(Config {
        instances_max: 1 << 24,
        ..Config::new("bench")
    })
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let n = if options.quick { 10_000 } else { 1_000_000 };
    for number in options.rounds("instances") {
        for threads in COUNTS {
            // Turned by the round, because whoever comes first finds a colder machine.
            for at in 0..3 {
                match (at + number) % 3 {
                    0 => round(OWN, instances, (threads, n), report)?,
                    1 => round(LOCKED, Locked::<RandomState>::new, (threads, n), report)?,
                    _ => round(LOCKED_FAST, Locked::<FxBuildHasher>::new, (threads, n), report)?,
                }
            }
        }
    }
    promises(report);
    Ok(())
}

fn round<M: Map>(
    who: &str,
    make: fn() -> M,
    (threads, n): (usize, usize),
    report: &mut Report,
) -> Result<()> {
    let map = make();
    let found = |_, at: usize| _ = black_box(map.get(at as u64 % KEYS, || at as u64));
    cost(1, KEYS as usize, found)?;
    cost(threads, n, found)?.put(report, &table(ACCESS, threads), who, CALL);

    first(who, make, (threads, n / 10), report)?;

    let map = make();
    cost(1, KEYS as usize, |_, at| _ = map.get(at as u64, || at as u64))?;
    let both = |thread: usize, at: usize| {
        let key = if at.is_multiple_of(64) {
            key(thread, at)
        } else {
            at as u64 % KEYS
        };
        black_box(map.get(key, || slow(at)));
    };
    cost(threads, n / 50, both)?.put(report, &table(BOTH, threads), who, CALL);
    Ok(())
}

/// Creations in registries of their own, because one holds a few hundred at most.
fn first<M: Map>(
    who: &str,
    make: fn() -> M,
    (threads, n): (usize, usize),
    report: &mut Report,
) -> Result<()> {
    let per_map = REGISTRY / threads;
    let maps: Vec<M> = (0..n.div_ceil(per_map)).map(|_| make()).collect();
    let new = |thread: usize, at: usize| _ = black_box(maps[at / per_map].get(key(thread, at), || at as u64));
    cost(threads, n, new)?.put(report, &table(FIRST, threads), who, NOTHING);

    let map = make();
    let slowly = |thread: usize, at: usize| _ = black_box(map.get(key(thread, at), || slow(at)));
    cost(threads, n / 100, slowly)?.put(report, &table(FIRST, threads), who, SLOW);
    Ok(())
}

/// A key that no other thread asks for, and that is not among the first [`KEYS`].
const fn key(thread: usize, at: usize) -> u64 {
    (thread as u64 + 1) << 32 | at as u64
}

/// A creation that takes a while, as one that asks the system for something.
fn slow(at: usize) -> u64 {
    let until = Instant::now() + Duration::from_micros(20);
    while Instant::now() < until {
        std::hint::spin_loop();
    }
    at as u64
}

fn promises(report: &mut Report) {
    let nothing = ("first creation of nothing", FIRST, NOTHING, 15.0);
    let slow = ("first creation of 20 µs", FIRST, SLOW, 15.0);
    let access = ("access", ACCESS, CALL, 40.0);
    let contention = ("contention: access beside creations", BOTH, CALL, 30.0);
    promise(report, 1, &[nothing, access]);
    promise(report, 2, &[slow, access, contention]);
    promise(report, 4, &[slow, access, contention]);
}

/// What is promised with so many threads: its name, where it stands, and by how many percent it is less.
fn promise(report: &mut Report, threads: usize, promises: &[(&str, &str, &str, f64)]) {
    for (what, name, column, promised) in promises {
        let ratio = report.ratio(&table(name, threads), OWN, LOCKED, column);
        report.budget(
            format!("instances: {what}, less than Mutex<HashMap>, threads: {threads}"),
            format!("≥{promised} %"),
            ratio.map(|ratio| 100.0 * (1.0 - ratio)),
            |percent| percent >= *promised,
        );
    }
}
