//! The pool beside other pools: the cost of a claim, fairness, a restart of the server, a dropped query.

#[cfg(feature = "store-peers")]
mod hikari;
mod measure;
#[cfg(feature = "store-peers")]
mod peers;
mod subject;
mod tidegate;

use std::sync::Arc;
use std::time::Duration;

use tidegate_cluster::Cluster;
use tokio::runtime::{Builder, Runtime};

use self::measure::{Contended, Restart, contend, dropped, restart, spin};
use super::{Options, Report, cluster};
use crate::error::{Result, Tried};

/// Connections of every pool.
const SIZE: usize = 20;
/// Who shares them when fairness is measured.
const N_TASKS: usize = 512;
/// Who works through the restart.
const N_WORKERS: usize = 30;

const CLAIM: &str = "one task claims and gives back, nobody waits";
const CROWD: &str = "64 tasks on 20 connections, two threads";
const FAIR: &str = "512 tasks on 20 connections";
const RESTART: &str = "30 workers through a crash and restart of the server";
const DROPPED: &str = "a 2 s query dropped after 100 ms, pool of one";

/// A pool that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Tidegate,
    #[cfg(feature = "store-peers")]
    Deadpool,
    #[cfg(feature = "store-peers")]
    Bb8,
    TidegatePostgres,
    #[cfg(feature = "store-peers")]
    DeadpoolPostgres,
    #[cfg(feature = "store-peers")]
    Bb8Postgres,
    #[cfg(feature = "store-peers")]
    Sqlx,
}

use Who::*;

/// Pools of connections that do nothing.
#[cfg(feature = "store-peers")]
const BARE: &[Who] = &[Tidegate, Deadpool, Bb8];
#[cfg(not(feature = "store-peers"))]
const BARE: &[Who] = &[Tidegate];

/// Pools of connections to PostgreSQL.
#[cfg(feature = "store-peers")]
const REAL: &[Who] = &[TidegatePostgres, DeadpoolPostgres, Bb8Postgres, Sqlx];
#[cfg(not(feature = "store-peers"))]
const REAL: &[Who] = &[TidegatePostgres];

/// Calls `$measure` with the pool of `$who`, of `$size` connections to `$url`.
macro_rules! with {
    ($who:expr, $url:expr, $size:expr, |$pool:ident| $measure:expr) => {
        match $who {
            Tidegate => {
                let $pool = tidegate::bare($size);
                $measure
            }
            TidegatePostgres => {
                let $pool = tidegate::postgres($url, $size);
                $measure
            }
            #[cfg(feature = "store-peers")]
            Deadpool => {
                let $pool = peers::deadpool_bare($size);
                $measure
            }
            #[cfg(feature = "store-peers")]
            Bb8 => {
                let $pool = peers::bb8_bare($size);
                $measure
            }
            #[cfg(feature = "store-peers")]
            DeadpoolPostgres => {
                let $pool = peers::deadpool_postgres($url, $size);
                $measure
            }
            #[cfg(feature = "store-peers")]
            Bb8Postgres => {
                let $pool = peers::bb8_postgres($url, $size);
                $measure
            }
            #[cfg(feature = "store-peers")]
            Sqlx => {
                let $pool = peers::sqlx($url, $size);
                $measure
            }
        }
    };
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    if !cfg!(feature = "store-peers") {
        report.note(
            "The other pools are not built in: `cargo xtask bench store` without `--quick` builds them.",
        );
    }
    let cluster = Arc::new(cluster()?);
    let url = cluster.url("postgres");
    let time = Duration::from_millis(if options.quick { 30 } else { 400 });
    #[cfg(feature = "store-peers")]
    let hikari = hikari(report);
    for number in 1..=options.n_rounds() {
        eprintln!("pool: round {number} of {}", options.n_rounds());
        claims(report, &url, time)?;
        #[cfg(feature = "store-peers")]
        if let Some(hikari) = &hikari {
            let spun = hikari.spin(time)?;
            report.add(CLAIM, HIKARI, "wall, ns", spun.wall_ns);
            report.add(CLAIM, HIKARI, "CPU, ns", spun.cpu_ns);
        }
        crowds(report, &url, time)?;
        through_restart(options, report, &cluster, &url)?;
        for &who in REAL {
            let took = threads()?.block_on(async { with!(who, &url, 1, |pool| dropped(&pool).await) });
            report.add(
                DROPPED,
                who.name(),
                "next result after, ms",
                took.as_secs_f64() * 1e3,
            );
        }
    }
    budgets(report);
    Ok(())
}

fn everybody() -> impl Iterator<Item = Who> {
    BARE.iter().chain(REAL).copied()
}

fn claims(report: &mut Report, url: &str, time: Duration) -> Result<()> {
    for who in everybody() {
        let spun = alone()?.block_on(async { with!(who, url, SIZE, |pool| spin(&pool, SIZE, time).await) });
        report.add(CLAIM, who.name(), "wall, ns", spun.wall_ns);
        report.add(CLAIM, who.name(), "CPU, ns", spun.cpu_ns);
    }
    Ok(())
}

fn crowds(report: &mut Report, url: &str, time: Duration) -> Result<()> {
    let crowd = |who, n_tasks, time| -> Result<Contended> {
        Ok(threads()?.block_on(async { with!(who, url, SIZE, |pool| contend(&pool, n_tasks, time).await) }))
    };
    for who in everybody() {
        let crowd = crowd(who, 64, time)?;
        report.add(CROWD, who.name(), "thousand/s", crowd.rate() / 1e3);
        report.add(CROWD, who.name(), "CPU, ns", crowd.cpu_ns());
    }
    for who in everybody() {
        let crowd = crowd(who, N_TASKS, time * 8)?;
        report.add(FAIR, who.name(), "Jain", crowd.jain());
        report.add(FAIR, who.name(), "least / mean", crowd.least_of_mean());
    }
    Ok(())
}

#[cfg(feature = "store-peers")]
const HIKARI: &str = "HikariCP (Java threads, no statistics kept)";

/// HikariCP, where Java and Maven are at hand.
#[cfg(feature = "store-peers")]
fn hikari(report: &mut Report) -> Option<hikari::Hikari> {
    hikari::Hikari::prepare(&crate::row::House::new())
        .map_err(|error| {
            report.note(format!(
                "Not measured: HikariCP: {}.",
                crate::error::chain(&error)
            ))
        })
        .ok()
}

fn through_restart(options: &Options, report: &mut Report, cluster: &Arc<Cluster>, url: &str) -> Result<()> {
    let outage = Duration::from_millis(if options.quick { 300 } else { 2_000 });
    for &who in REAL {
        let runtime = threads()?;
        let seen: Restart = runtime
            .block_on(async { with!(who, url, SIZE, |pool| restart(&pool, cluster, outage).await) })?;
        report.add(
            RESTART,
            who.name(),
            "failed acquires",
            seen.failed_acquires as f64,
        );
        report.add(
            RESTART,
            who.name(),
            "failed statements",
            seen.failed_statements as f64,
        );
        if let Some(dials) = seen.dials {
            report.add(
                RESTART,
                who.name(),
                "dials/s while away",
                dials as f64 / seen.outage.as_secs_f64(),
            );
        }
        report.add(
            RESTART,
            who.name(),
            "first success after it is up, ms",
            seen.first.as_secs_f64() * 1e3,
        );
        runtime.shutdown_background();
    }
    Ok(())
}

fn budgets(report: &mut Report) {
    let ours = Tidegate.name();
    report.budget(
        "pool: claim and give back with statistics, CPU ns",
        "≤40",
        report.median(CLAIM, ours, "CPU, ns"),
        |ns| ns <= 40.0,
    );
    for peer in ["deadpool", "bb8"] {
        report.budget(
            format!("pool: claim and give back, better than {peer}"),
            "≥5×",
            report.ratio(CLAIM, peer, ours, "CPU, ns"),
            |times| times >= 5.0,
        );
    }
    for who in [Tidegate, TidegatePostgres] {
        report.budget(
            format!("pool: Jain's index, 512 tasks on 20, {}", who.name()),
            "≥0.999",
            report.median(FAIR, who.name(), "Jain"),
            |jain| jain >= 0.999,
        );
    }
    let real = TidegatePostgres.name();
    report.budget(
        "pool: acquires that a restart fails",
        "0",
        report.median(RESTART, real, "failed acquires"),
        |n| n == 0.0,
    );
    report.budget(
        "pool: first success after the server is up, ms",
        "≤100",
        report.median(RESTART, real, "first success after it is up, ms"),
        |ms| ms <= 100.0,
    );
}

impl Who {
    const fn name(self) -> &'static str {
        match self {
            Tidegate => "Tidegate",
            TidegatePostgres => "Tidegate, PostgreSQL",
            #[cfg(feature = "store-peers")]
            Deadpool => "deadpool",
            #[cfg(feature = "store-peers")]
            Bb8 => "bb8",
            #[cfg(feature = "store-peers")]
            DeadpoolPostgres => "deadpool-postgres",
            #[cfg(feature = "store-peers")]
            Bb8Postgres => "bb8-postgres",
            #[cfg(feature = "store-peers")]
            Sqlx => "sqlx",
        }
    }
}

/// One thread: what a claim costs by itself.
fn alone() -> Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .tried("start a runtime")
}

/// Two threads, as many as the smallest machine of the bench has cores.
fn threads() -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")
}
