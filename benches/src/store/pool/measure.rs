//! The measurements, the same for every pool.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate_cluster::Cluster;
use tokio::sync::Barrier;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use super::super::from_cluster;
use super::N_WORKERS;
use super::subject::Subject;
use crate::error::Result;
use crate::sys;

/// The cost of one claim and giving back.
pub(super) struct Spun {
    pub(super) wall_ns: f64,
    pub(super) cpu_ns: f64,
}

/// What many tasks got out of a pool.
pub(super) struct Contended {
    served: Vec<u64>,
    wall: Duration,
    cpu_ns: u64,
}

/// What workers saw of a restart.
pub(super) struct Restart {
    pub(super) failed_acquires: u64,
    pub(super) failed_statements: u64,
    /// Connections attempted from the crash until the server was up.
    pub(super) dials: Option<u64>,
    pub(super) outage: Duration,
    /// From the moment the server was up to the first statement that worked.
    pub(super) first: Duration,
}

fn cpu() -> u64 {
    sys::cpu_ns(std::process::id()).unwrap_or(0)
}

/// Opens every connection.
async fn warm<S: Subject>(pool: &S, size: usize) {
    let mut held = Vec::new();
    for _ in 0..size {
        held.extend(pool.get().await);
    }
}

/// One task, claiming and giving back.
pub(super) async fn spin<S: Subject>(pool: &S, size: usize, time: Duration) -> Spun {
    const BLOCK: u64 = 1_000;
    warm(pool, size).await;
    for _ in 0..BLOCK {
        pool.once().await;
    }
    let (started, cpu_before) = (Instant::now(), cpu());
    let mut n = 0;
    while started.elapsed() < time {
        for _ in 0..BLOCK {
            std::hint::black_box(pool.once().await);
        }
        n += BLOCK;
        // Lets the pool's own tasks run, at their cost.
        tokio::task::yield_now().await;
    }
    Spun {
        wall_ns: started.elapsed().as_nanos() as f64 / n as f64,
        cpu_ns: (cpu() - cpu_before) as f64 / n as f64,
    }
}

/// Many tasks: each claims, runs one statement, gives back, and again.
pub(super) async fn contend<S: Subject>(pool: &S, n_tasks: usize, time: Duration) -> Contended {
    warm(pool, super::SIZE).await;
    let stop = Arc::new(AtomicBool::new(false));
    // All begin together: who came first would have the pool for himself.
    let begin = Arc::new(Barrier::new(n_tasks + 1));
    let mut tasks = JoinSet::new();
    for _ in 0..n_tasks {
        let (pool, stop, begin) = (pool.clone(), Arc::clone(&stop), Arc::clone(&begin));
        tasks.spawn(async move {
            let mut served = 0;
            begin.wait().await;
            while !stop.load(Relaxed) {
                if let Some(mut held) = pool.get().await {
                    S::run(&mut held, "SELECT 1").await;
                    served += 1;
                }
            }
            served
        });
    }
    begin.wait().await;
    let (started, cpu_before) = (Instant::now(), cpu());
    sleep(time).await;
    stop.store(true, Relaxed);
    let (wall, cpu_ns) = (started.elapsed(), cpu() - cpu_before);
    Contended {
        served: tasks.join_all().await,
        wall,
        cpu_ns,
    }
}

impl Contended {
    fn total(&self) -> f64 {
        self.served.iter().sum::<u64>() as f64
    }

    pub(super) fn rate(&self) -> f64 {
        self.total() / self.wall.as_secs_f64()
    }

    pub(super) fn cpu_ns(&self) -> f64 {
        self.cpu_ns as f64 / self.total()
    }

    /// Jain's index: 1 when all got the same, 1/n when one got everything.
    pub(super) fn jain(&self) -> f64 {
        let squares: f64 = self.served.iter().map(|n| (*n as f64).powi(2)).sum();
        self.total().powi(2) / (self.served.len() as f64 * squares)
    }

    pub(super) fn least_of_mean(&self) -> f64 {
        let least = self.served.iter().copied().min().unwrap_or(0) as f64;
        least * self.served.len() as f64 / self.total()
    }
}

/// What the workers of a restart count.
#[derive(Default)]
struct Counts {
    stop: AtomicBool,
    is_up: AtomicBool,
    failed_acquires: AtomicU64,
    failed_statements: AtomicU64,
    successes: AtomicU64,
    /// The first success since the server is up, in nanoseconds since the start.
    first_ns: AtomicU64,
}

/// Workers go on while the server crashes, is away for a while, and comes back.
pub(super) async fn restart<S: Subject>(pool: &S, cluster: &Arc<Cluster>, away: Duration) -> Result<Restart> {
    warm(pool, super::SIZE).await;
    let origin = Instant::now();
    let counts = Arc::new(Counts::default());
    counts.first_ns.store(u64::MAX, Relaxed);
    let mut workers = JoinSet::new();
    for _ in 0..N_WORKERS {
        workers.spawn(work(pool.clone(), Arc::clone(&counts), origin));
    }
    progress(&counts).await;
    let (crashed, dials_before) = (Instant::now(), pool.dials());
    let server = Arc::clone(cluster);
    let restarted = spawn_blocking(move || {
        server.kill()?;
        std::thread::sleep(away);
        server.start_again()
    });
    restarted
        .await
        .expect("it does not panic")
        .map_err(from_cluster)?;
    counts.is_up.store(true, Relaxed);
    let (up, outage) = (origin.elapsed(), crashed.elapsed());
    let dials = pool.dials().zip(dials_before).map(|(now, before)| now - before);
    progress(&counts).await;
    counts.stop.store(true, Relaxed);
    workers.join_all().await;
    Ok(Restart {
        failed_acquires: counts.failed_acquires.load(Relaxed),
        failed_statements: counts.failed_statements.load(Relaxed),
        dials,
        outage,
        first: Duration::from_nanos(counts.first_ns.load(Relaxed)).saturating_sub(up),
    })
}

async fn work<S: Subject>(pool: S, counts: Arc<Counts>, origin: Instant) {
    while !counts.stop.load(Relaxed) {
        let Some(mut held) = pool.get().await else {
            counts.failed_acquires.fetch_add(1, Relaxed);
            // As a request handler does, it answers with an error and takes the next request.
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        if !S::run(&mut held, "SELECT pg_sleep(0.002)").await {
            counts.failed_statements.fetch_add(1, Relaxed);
            continue;
        }
        counts.successes.fetch_add(1, Relaxed);
        if counts.is_up.load(Relaxed) {
            counts
                .first_ns
                .fetch_min(origin.elapsed().as_nanos() as u64, Relaxed);
        }
    }
}

/// Waits for a few more successes, at most a minute: a pool that never recovers shows it by its first success.
async fn progress(counts: &Counts) {
    let goal = counts.successes.load(Relaxed) + 200;
    let waited = timeout(Duration::from_secs(60), async {
        while counts.successes.load(Relaxed) < goal {
            sleep(Duration::from_millis(1)).await;
        }
    });
    drop(waited.await);
}

/// A user gives up on a slow query; how long until the next user of that connection has a result.
pub(super) async fn dropped<S: Subject>(pool: &S) -> Duration {
    if let Some(mut held) = pool.get().await {
        let slow = S::run(&mut held, "SELECT pg_sleep(2)");
        drop(timeout(Duration::from_millis(100), slow).await);
    }
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(10) {
        if let Some(mut held) = pool.get().await
            && S::run(&mut held, "SELECT 1").await
        {
            break;
        }
    }
    started.elapsed()
}
