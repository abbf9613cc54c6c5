//! Short statements: shared connections beside one connection for each statement, and beside pgbench.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate_cluster::Cluster;
use tidegate_store::{Config, Context, Database, Select, Value};
use tidegate_vitals::{Clock, Registry};
use tokio::runtime::Builder;

use super::{Options, Report, cluster};
use crate::error::{Error, Result, Tried};
use crate::sys;

/// Connections of the exclusive pools, and clients of pgbench.
const SIZE: usize = 20;
/// Rows of pgbench's table at scale 1.
const N_ROWS: i64 = 100_000;
const TASKS: [usize; 4] = [1, 16, 64, 256];
const SQL: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";

const PIPELINE: &str = "Tidegate, shared connections";
const EXCLUSIVE: &str = "Tidegate, a connection each, read-only transaction";
#[cfg(feature = "store-peers")]
const DEADPOOL: &str = "deadpool-postgres, a connection each";
const PGBENCH: &str = "pgbench -S -M prepared, 20 clients";

const RATE: &str = "thousand/s";
const CPU: &str = "CPU of server and client, µs";

/// Somebody who answers one short statement.
trait Ask: Send + Sync + 'static {
    fn ask(&self, key: i64) -> impl Future<Output = i64> + Send;
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cluster = cluster()?;
    let pgbench = pgbench();
    fill(&cluster, pgbench.as_deref())?;
    if pgbench.is_none() {
        report.note("pgbench is not installed: its row is missing.");
    }
    let time = Duration::from_millis(if options.quick { 50 } else { 1_500 });
    for number in 1..=options.n_rounds() {
        eprintln!("pipeline: round {number} of {}", options.n_rounds());
        for n_tasks in TASKS {
            let table = title(n_tasks);
            let mut add = |who: &str, (rate, cpu): (f64, f64)| {
                report.add(&table, who, RATE, rate / 1e3);
                report.add(&table, who, CPU, cpu);
            };
            add(
                PIPELINE,
                drive(&cluster, n_tasks, time, async |url| open(&url, true).await)?,
            );
            add(
                EXCLUSIVE,
                drive(&cluster, n_tasks, time, async |url| open(&url, false).await)?,
            );
            #[cfg(feature = "store-peers")]
            add(
                DEADPOOL,
                drive(&cluster, n_tasks, time, async |url| peer::open(&url))?,
            );
        }
        if let Some(pgbench) = &pgbench {
            report.add(
                &title(TASKS[2]),
                PGBENCH,
                RATE,
                run_pgbench(&cluster, pgbench, time)? / 1e3,
            );
        }
    }
    #[cfg(feature = "store-peers")]
    for n_tasks in [64, 256] {
        report.budget(
            format!("pipeline: short statements of {n_tasks} tasks, better than a connection each"),
            "≥2.5×",
            report.ratio(&title(n_tasks), PIPELINE, DEADPOOL, RATE),
            |times| times >= 2.5,
        );
    }
    Ok(())
}

fn title(n_tasks: usize) -> String {
    format!("one row by key, prepared, {n_tasks} tasks, two threads")
}

/// Statements a second, and microseconds of processor for each.
fn drive<A: Ask>(
    cluster: &Cluster,
    n_tasks: usize,
    time: Duration,
    open: impl AsyncFnOnce(String) -> A,
) -> Result<(f64, f64)> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")?;
    runtime.block_on(async {
        let asker = Arc::new(open(cluster.url("postgres")).await);
        // Connections are opened and statements prepared before the time runs.
        spin(&asker, n_tasks, time / 4).await;
        let (before, started) = (busy_ns(cluster)?, Instant::now());
        let n = spin(&asker, n_tasks, time).await;
        let took = started.elapsed();
        let busy_us = busy_ns(cluster)?.saturating_sub(before) as f64 / 1e3;
        Ok((n as f64 / took.as_secs_f64(), busy_us / n.max(1) as f64))
    })
}

async fn spin<A: Ask>(asker: &Arc<A>, n_tasks: usize, time: Duration) -> u64 {
    let n_answers = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + time;
    let tasks: Vec<_> = (0..n_tasks)
        .map(|task| {
            let (asker, n_answers) = (Arc::clone(asker), Arc::clone(&n_answers));
            tokio::spawn(async move {
                let mut key = task as i64;
                while Instant::now() < until {
                    key = (key * 7_919 + 13) % N_ROWS;
                    assert_eq!(asker.ask(key + 1).await, 0, "every account begins with nothing");
                    n_answers.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("every statement is answered");
    }
    n_answers.load(Relaxed)
}

/// Processor time of this process and of the server's sessions.
fn busy_ns(cluster: &Cluster) -> Result<u64> {
    let own = sys::cpu_ns(std::process::id()).tried("read our processor time")?;
    let Some(server) = cluster.pid() else {
        return Err(Error::Server("the private PostgreSQL server ended".to_owned()));
    };
    let children = fs::read_to_string(format!("/proc/{server}/task/{server}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    Ok(own + children.filter_map(|pid| sys::cpu_ns(pid).ok()).sum::<u64>())
}

// === Who answers ===

struct Ours {
    database: Database,
    pipeline: bool,
}

async fn open(url: &str, pipeline: bool) -> Ours {
    let mut config = Config::new(url);
    (config.pool.size, config.pool.overflow) = (SIZE, 0);
    let context = Context::new(Clock::real(), Registry::new());
    let database = Database::open(config, context)
        .await
        .expect("the cluster's own URL");
    Ours { database, pipeline }
}

impl Ask for Ours {
    async fn ask(&self, key: i64) -> i64 {
        let params = [Value::Int(key)];
        let select = Select {
            pipeline: self.pipeline,
            ..Select::new(SQL, &params)
        };
        let rows = self.database.select(select).await.expect("the server is there");
        let rows = rows.collect().await.expect("the server is there");
        match rows[0][0] {
            Value::Int(balance) => balance,
            _ => unreachable!("the column is an integer"),
        }
    }
}

#[cfg(feature = "store-peers")]
mod peer {
    //! deadpool-postgres with its cheapest recycling and cached statements.

    use std::str::FromStr;

    use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod};
    use tokio_postgres::NoTls;

    use super::{Ask, SIZE, SQL};

    pub(super) fn open(url: &str) -> Pool {
        let config = tokio_postgres::Config::from_str(url).expect("the cluster's own URL");
        let fast = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = Manager::from_config(config, NoTls, fast);
        let pool = Pool::builder(manager).max_size(SIZE).build();
        pool.expect("no timeout is set, so no runtime is needed")
    }

    impl Ask for Pool {
        async fn ask(&self, key: i64) -> i64 {
            let client = self.get().await.expect("the server is there");
            let statement = client.prepare_cached(SQL).await.expect("the table is there");
            let key = i32::try_from(key).expect("pgbench counts accounts in four bytes");
            let row = client
                .query_one(&statement, &[&key])
                .await
                .expect("the account is there");
            i64::from(row.get::<_, i32>(0))
        }
    }
}

// === pgbench ===

/// The newest installed one.
fn pgbench() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<_> = folders
        .map(|folder| folder.path().join("bin/pgbench"))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop()
}

fn fill(cluster: &Cluster, pgbench: Option<&Path>) -> Result<()> {
    match pgbench {
        Some(pgbench) => call(cluster, pgbench, &["-i", "-s", "1", "-q"]).map(drop),
        None => {
            let sql = "CREATE TABLE pgbench_accounts AS SELECT n AS aid, 0 AS abalance \
                       FROM generate_series(1, 100000) AS n; \
                       ALTER TABLE pgbench_accounts ADD PRIMARY KEY (aid)";
            cluster
                .psql("postgres", sql)
                .map(drop)
                .map_err(super::from_cluster)
        }
    }
}

/// Statements a second.
fn run_pgbench(cluster: &Cluster, pgbench: &Path, time: Duration) -> Result<f64> {
    let seconds = time.as_secs().max(1).to_string();
    let clients = SIZE.to_string();
    let arguments = [
        "-S", "-M", "prepared", "-n", "-c", &clients, "-j", "2", "-T", &seconds,
    ];
    let text = call(cluster, pgbench, &arguments)?;
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
    rate.ok_or_else(|| Error::Server(format!("pgbench said no rate: {text}")))
}

fn call(cluster: &Cluster, pgbench: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(pgbench)
        .args(arguments)
        .arg(cluster.url("postgres"))
        .output()
        .tried("run pgbench")?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(Error::Server(format!(
            "pgbench: {}",
            String::from_utf8_lossy(&output.stderr)
        ))),
    }
}
