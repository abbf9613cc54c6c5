//! The pool on a real PostgreSQL server: restarts, fairness, refusals, dropped queries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate_cluster::Cluster;
use tidegate_store::backend::postgres::{Connection, Dsn, Postgres, Session};
use tidegate_store::error::Result;
use tidegate_store::pool::{Config, Pool};
use tidegate_vitals::{Clock, Registry};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::interval;

use crate::support;

/// How often a test looks whether what it waits for has happened.
const LOOK: Duration = Duration::from_millis(2);

fn pool(url: &str, config: Config) -> Pool<Postgres> {
    let session = Session {
        statement_timeout: None,
        application_name: "pool test".into(),
        is_read_only: false,
    };
    let connector = Postgres::new(Dsn::parse(url).unwrap(), session).unwrap();
    Pool::start(connector, config, Clock::real(), &Registry::new()).unwrap()
}

fn fixed(size: usize) -> Config {
    Config {
        min: size,
        size,
        overflow: 0,
        ..Config::default()
    }
}

/// Runs one statement as the store does: marked, so that a dropped future leaves nothing behind.
async fn run(connection: &Connection, sql: &str) -> Result<()> {
    let running = connection.running();
    let ran = connection.client().batch_execute(sql).await;
    running.finish();
    ran.map_err(|error| connection.error(error))
}

/// What the workers of the restart saw.
#[derive(Default)]
struct Seen {
    is_up_again: AtomicBool,
    stop: AtomicBool,
    acquire_failures: AtomicU64,
    statement_failures: AtomicU64,
    /// Nanoseconds since the start of the test.
    first_success: AtomicU64,
    successes: AtomicU64,
}

async fn work(pool: Pool<Postgres>, seen: Arc<Seen>, origin: Instant) {
    while !seen.stop.load(Relaxed) {
        let Ok(claim) = pool.acquire().await else {
            seen.acquire_failures.fetch_add(1, Relaxed);
            continue;
        };
        if run(&claim, "SELECT pg_sleep(0.002)").await.is_err() {
            seen.statement_failures.fetch_add(1, Relaxed);
            continue;
        }
        seen.successes.fetch_add(1, Relaxed);
        let at = origin.elapsed().as_nanos() as u64;
        if seen.is_up_again.load(Relaxed) {
            seen.first_success.fetch_min(at, Relaxed);
        }
    }
}

/// Waits until the workers have had `n` more successes.
async fn progress(seen: &Seen, n: u64) {
    let goal = seen.successes.load(Relaxed) + n;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut look = interval(LOOK);
    while seen.successes.load(Relaxed) < goal {
        assert!(
            Instant::now() < deadline,
            "no progress: {}",
            seen.successes.load(Relaxed)
        );
        look.tick().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_and_restart_of_the_server_fails_no_acquire() {
    const WORKERS: u64 = 30;
    let cluster = Arc::new(spawn_blocking(|| Cluster::temporary().unwrap()).await.unwrap());
    let pool = pool(&cluster.url("postgres"), fixed(20));
    let origin = Instant::now();
    let seen = Arc::new(Seen::default());
    seen.first_success.store(u64::MAX, Relaxed);
    let mut workers = JoinSet::new();
    for _ in 0..WORKERS {
        workers.spawn(work(pool.clone(), Arc::clone(&seen), origin));
    }
    progress(&seen, 300).await;
    let errors_before = pool.stats().connect_errors;
    let down = Instant::now();
    let server = Arc::clone(&cluster);
    let restart = move || {
        server.kill().unwrap();
        server.start_again().unwrap();
    };
    spawn_blocking(restart).await.unwrap();
    let outage = down.elapsed();
    let up = origin.elapsed();
    seen.is_up_again.store(true, Relaxed);
    let n_errors = pool.stats().connect_errors - errors_before;
    // What a client costs that comes now: on a busy machine that alone takes long.
    let server = Arc::clone(&cluster);
    spawn_blocking(move || server.psql("postgres", "SELECT 1").unwrap())
        .await
        .unwrap();
    let client = origin.elapsed() - up;
    progress(&seen, 300).await;
    seen.stop.store(true, Relaxed);
    workers.join_all().await;
    assert_eq!(seen.acquire_failures.load(Relaxed), 0);
    let failed = seen.statement_failures.load(Relaxed);
    assert!(failed <= WORKERS, "{failed} statements failed");
    let first = Duration::from_nanos(seen.first_success.load(Relaxed)).saturating_sub(up);
    let most = Duration::from_millis(100) + client;
    assert!(
        first <= most,
        "first success after {first:?}, a client takes {client:?}"
    );
    // Some dials while the pauses are still short, then at most 40 a second.
    let most = 10.0 + 40.0 * outage.as_secs_f64();
    assert!((n_errors as f64) <= most, "{n_errors} failed dials in {outage:?}");
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_tasks_share_twenty_connections_fairly() {
    let pool = pool(&support::database(), fixed(20));
    let stop = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..512 {
        let (pool, stop, total) = (pool.clone(), Arc::clone(&stop), Arc::clone(&total));
        tasks.spawn(async move {
            let mut served = 0_u64;
            while !stop.load(Relaxed) {
                let claim = pool.acquire().await.unwrap();
                run(&claim, "SELECT 1").await.unwrap();
                served += 1;
                total.fetch_add(1, Relaxed);
            }
            served
        });
    }
    // A task that is one ahead of the others weighs less the longer it goes on.
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut look = interval(LOOK);
    while total.load(Relaxed) < 512 * 40 && Instant::now() < deadline {
        look.tick().await;
    }
    stop.store(true, Relaxed);
    let served = tasks.join_all().await;
    let sum: f64 = served.iter().map(|n| *n as f64).sum();
    let squares: f64 = served.iter().map(|n| (*n as f64).powi(2)).sum();
    let jain = sum * sum / (512.0 * squares);
    assert!(jain >= 0.999, "{jain}: {served:?}");
    pool.close().await;
}

#[tokio::test]
async fn a_wrong_password_and_a_server_that_is_not_there_are_named() {
    let cluster = spawn_blocking(|| {
        let cluster = Cluster::temporary().unwrap();
        cluster
            .psql("postgres", "CREATE ROLE locked LOGIN PASSWORD 'right'")
            .unwrap();
        let rules = cluster.psql("postgres", "SHOW hba_file").unwrap();
        let old = std::fs::read_to_string(&rules).unwrap();
        std::fs::write(&rules, format!("local all locked scram-sha-256\n{old}")).unwrap();
        cluster.psql("postgres", "SELECT pg_reload_conf()").unwrap();
        cluster
    })
    .await
    .unwrap();
    let (folder, port) = (cluster.socket_folder().display().to_string(), cluster.port());
    let host = folder.replace('/', "%2F");
    let wrong = format!("postgres://locked:wrong@{host}:{port}/postgres");
    let nowhere = "postgres://app@%2Fnowhere%2Fat%2Fall:5432/postgres";
    for (url, message) in [
        (wrong.as_str(), "password authentication failed"),
        (nowhere, "No such file"),
    ] {
        let config = Config {
            acquire_timeout: Duration::from_millis(1_500),
            ..fixed(2)
        };
        let pool = pool(url, config);
        let error = pool.acquire().await.unwrap_err().to_string();
        assert!(error.starts_with("no connection to "), "{error}");
        assert!(
            error.contains("last connect error") && error.contains(message),
            "{error}"
        );
        assert!(!error.contains("wrong"), "the password stays out of it: {error}");
        pool.close().await;
    }
}

#[tokio::test]
async fn a_dropped_query_keeps_nobody_waiting() {
    let pool = pool(&support::database(), fixed(1));
    let claim = pool.acquire().await.unwrap();
    let started = Instant::now();
    let cut = tokio::time::timeout(Duration::from_millis(100), run(&claim, "SELECT pg_sleep(2)")).await;
    assert!(cut.is_err());
    drop(claim);
    let claim = pool.acquire().await.unwrap();
    run(&claim, "SELECT 1").await.unwrap();
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    assert_eq!(pool.stats().connects, 1, "the same connection, cleaned up");
}
