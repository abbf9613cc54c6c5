//! The statement monitor: what timing a statement costs, alone and on a real server.

use std::hint::black_box;
use std::panic::Location;
use std::time::{Duration, Instant};

use tidegate_store::statement::{self, Monitor};
use tidegate_store::{Config, Context, Database, Select, Value};
use tidegate_vitals::{Clock, Registry};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

use super::{Options, Report, cluster};
use crate::error::{Error, Result, Tried};
use crate::sys;

const ALONE: &str = "one statement of 200 bytes, without a server";
const REAL: &str = "short statements on PostgreSQL, 32 tasks, two threads";
const ON: &str = "monitor on";
const OFF: &str = "monitor off";
/// A usual statement: 200 bytes.
const SQL: &str = "SELECT o.id, o.day, o.amount, s.name FROM orders o JOIN stores s ON s.id = o.store \
    WHERE o.store = $1 AND o.day >= $2 AND o.channel IN ('web', 'app', 'shop') ORDER BY o.day DESC, o.id DESC LIMIT 50";
const N_TASKS: usize = 32;

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cluster = cluster()?;
    let url = cluster.url("postgres");
    let time = Duration::from_millis(if options.quick { 50 } else { 1_000 });
    for number in 1..=options.n_rounds() {
        eprintln!("monitor: round {number} of {}", options.n_rounds());
        alone(options, report);
        // In turn and turned around: whoever comes second finds a warmer server.
        let both = if number % 2 == 1 { [ON, OFF] } else { [OFF, ON] };
        for who in both {
            let (per_second, cpu_ns) = threads()?.block_on(real(&url, who == ON, time))?;
            report.add(REAL, who, "thousand/s", per_second / 1e3);
            report.add(REAL, who, "CPU, ns", cpu_ns);
        }
    }
    report.budget(
        "monitor: finding a statement's shape when its text was seen before, ns",
        "≤250",
        report.median(ALONE, "begin, text seen before", "ns"),
        |ns| ns <= 250.0,
    );
    report.budget(
        "monitor: throughput on beside off",
        "≥0.98",
        report.ratio(REAL, ON, OFF, "thousand/s"),
        |ratio| ratio >= 0.98,
    );
    Ok(())
}

/// The cost of the calls themselves, on one thread.
fn alone(options: &Options, report: &mut Report) {
    let n: u32 = if options.quick { 20_000 } else { 500_000 };
    let monitor = Monitor::new(statement::Config::default(), Clock::real(), &Registry::new());
    let caller = Location::caller();
    // The best of ten slices: other work on the machine only ever adds.
    let mut measure = |who: &str, n: u32, call: &mut dyn FnMut(u32)| {
        let slice = |at: u32, call: &mut dyn FnMut(u32)| {
            let start = Instant::now();
            (at * (n / 10)..(at + 1) * (n / 10)).for_each(call);
            start.elapsed().as_nanos() as f64 / f64::from(n / 10)
        };
        let best = (0..10)
            .map(|at| slice(at, &mut *call))
            .fold(f64::INFINITY, f64::min);
        report.add(ALONE, who, "ns", best);
    };
    measure("begin to finish, text seen before", n, &mut |_| {
        let mut timing = monitor.begin(black_box(SQL), caller);
        timing.acquired();
        timing.executed();
        timing.finish(50, Ok(()));
    });
    let off = Monitor::new(
        statement::Config {
            enabled: false,
            ..statement::Config::default()
        },
        Clock::real(),
        &Registry::new(),
    );
    // What `begin` does besides reading the clock is finding the shape; timings are kept, so that no finish is counted.
    let mut timings = Vec::with_capacity(n as usize);
    measure("begin, text seen before", n, &mut |_| {
        timings.push(monitor.begin(black_box(SQL), caller));
    });
    timings.into_iter().for_each(|timing| timing.finish(1, Ok(())));
    measure("begin to finish, monitor off", n, &mut |_| {
        off.begin(black_box(SQL), caller).finish(50, Ok(()));
    });
    let texts: Vec<String> = (0..n / 20)
        .map(|at| SQL.replace("50", &(at + 100_000).to_string()))
        .collect();
    measure(
        "begin to finish, text never seen (read and shaped)",
        n / 21,
        &mut |at| {
            monitor
                .begin(black_box(&texts[at as usize % texts.len()]), caller)
                .finish(50, Ok(()));
        },
    );
}

/// Statements a second, and the CPU of this process for each.
async fn real(url: &str, enabled: bool, time: Duration) -> Result<(f64, f64)> {
    let mut config = Config::new(url);
    config.monitor.enabled = enabled;
    let context = Context::new(Clock::real(), Registry::new());
    let database = Database::open(config, context).await.map_err(from_store)?;
    for _ in 0..200 {
        ask(&database).await.map_err(from_store)?;
    }
    let cpu = || sys::cpu_ns(std::process::id()).unwrap_or(0);
    let (started, cpu_before) = (Instant::now(), cpu());
    let mut tasks = JoinSet::new();
    for _ in 0..N_TASKS {
        let database = database.clone();
        tasks.spawn(async move {
            let mut n = 0_u64;
            while started.elapsed() < time {
                n += u64::from(ask(&database).await.is_ok());
            }
            n
        });
    }
    let n: u64 = tasks.join_all().await.into_iter().sum();
    let (wall, cpu_ns) = (started.elapsed(), cpu() - cpu_before);
    database.close().await;
    Ok((n as f64 / wall.as_secs_f64(), cpu_ns as f64 / n.max(1) as f64))
}

async fn ask(database: &Database) -> tidegate_store::error::Result<Vec<Vec<Value>>> {
    let select = Select {
        pipeline: true,
        ..Select::new("SELECT 1 AS one", &[])
    };
    database.select(select).await?.collect().await
}

/// The store's error in the words of this package.
#[expect(clippy::needless_pass_by_value, reason = "it is what map_err gives")]
pub(super) fn from_store(error: tidegate_store::Error) -> Error {
    Error::Server(format!("store: {}", crate::error::chain(&error)))
}

fn threads() -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")
}
