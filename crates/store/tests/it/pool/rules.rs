//! Each rule of the pool on tokio's paused time.

use std::panic::Location;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_store::Error;
use tidegate_store::pool::{Config, Pool, Stats};
use tidegate_vitals::{Clock, Id, Registry, metric::Value};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::model::poll_once;
use super::world::{Answer, World};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A fixed number of connections.
fn fixed(size: usize) -> Config {
    Config {
        min: size,
        size,
        overflow: 0,
        ..Config::default()
    }
}

fn n(stats: &Stats, state: &str) -> usize {
    stats.by_state[state]
}

/// A task that acquires, notes its number, holds for `hold` and gives back.
fn user(pool: &Pool<World>, number: usize, hold: Duration, order: &Arc<Mutex<Vec<usize>>>) -> JoinHandle<()> {
    let (pool, order) = (pool.clone(), Arc::clone(order));
    tokio::spawn(async move {
        let _claim = pool.acquire().await.unwrap();
        order.lock().unwrap().push(number);
        sleep(hold).await;
    })
}

// === Opening ===

#[tokio::test(start_paused = true)]
async fn the_first_connections_come_by_themselves_one_two_four_at_a_time() {
    let world = World::new();
    world.server().connect_ms = 10;
    let pool = world.pool(Config {
        min: 10,
        size: 10,
        ..Config::default()
    });
    assert_eq!(pool.stats().open, 0, "start opens nothing itself");
    let mut seen = Vec::new();
    for _ in 0..5 {
        sleep(ms(10)).await;
        tokio::task::yield_now().await;
        seen.push(world.n_open());
    }
    sleep(ms(20)).await;
    let server = world.server();
    assert_eq!(server.open.len(), 10, "{seen:?}");
    assert_eq!(server.dialing_max, 4);
    let first = server.dials[0];
    let at: Vec<u64> = server
        .dials
        .iter()
        .map(|dial| (*dial - first).as_millis() as u64 / 10)
        .collect();
    assert_eq!(at[..3], [0, 1, 1], "one, then two: {at:?}");
}

#[tokio::test(start_paused = true)]
async fn the_hottest_connection_is_reused() {
    let world = World::new();
    let pool = world.pool(fixed(5));
    sleep(ms(100)).await;
    let first = pool.acquire().await.unwrap().id;
    for _ in 0..50 {
        assert_eq!(pool.acquire().await.unwrap().id, first);
    }
    let stats = pool.stats();
    assert_eq!((stats.acquires, stats.reused, stats.open), (51, 50, 5));
}

#[tokio::test(start_paused = true)]
async fn a_burst_opens_up_to_size_and_overflow_and_no_more() {
    let world = World::new();
    let config = Config {
        min: 1,
        size: 3,
        overflow: 4,
        ..Config::default()
    };
    let pool = world.pool(config);
    let order = Arc::default();
    let users: Vec<_> = (0..50)
        .map(|number| user(&pool, number, ms(20), &order))
        .collect();
    for user in users {
        user.await.unwrap();
    }
    assert_eq!(world.server().open_max, 7);
    assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_hangs_ends_after_connect_timeout() {
    let world = World::new();
    world.server().connect_ms = 3_600_000;
    let pool = world.pool(Config {
        acquire_timeout: secs(12),
        ..fixed(1)
    });
    let error = pool.acquire().await.unwrap_err().to_string();
    assert!(
        error.contains("cannot connect to db:5432/market: no answer within 5s"),
        "{error}"
    );
    assert_eq!(world.server().dialing_max, 1, "one prober");
}

// === In turn ===

#[tokio::test(start_paused = true)]
async fn waiters_are_served_in_the_order_in_which_they_came() {
    let world = World::new();
    let pool = world.pool(fixed(1));
    let order = Arc::default();
    let users: Vec<_> = (0..20).map(|number| user(&pool, number, ms(1), &order)).collect();
    for user in users {
        user.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn nobody_overtakes_a_waiter() {
    let world = World::new();
    let pool = world.pool(fixed(1));
    let claim = pool.acquire().await.unwrap();
    let order = Arc::default();
    let waiter = user(&pool, 0, ms(5), &order);
    tokio::task::yield_now().await;
    drop(claim);
    assert!(
        pool.try_acquire().is_none(),
        "the connection was handed over already"
    );
    let _again = pool.acquire().await.unwrap();
    assert_eq!(*order.lock().unwrap(), [0]);
    waiter.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_an_acquiring_future_loses_nothing() {
    let world = World::new();
    world.server().connect_ms = 50;
    let pool = world.pool(fixed(1));
    // While the dial runs: the dial goes on.
    assert!(timeout(ms(10), pool.acquire()).await.is_err());
    assert_eq!(pool.stats().waiting, 0);
    sleep(ms(100)).await;
    assert_eq!((world.n_open(), world.server().dials.len()), (1, 1));
    // While waiting: the place in the queue is given up.
    let claim = pool.acquire().await.unwrap();
    assert!(timeout(ms(10), pool.acquire()).await.is_err());
    assert_eq!(pool.stats().waiting, 0);
    // Handed over but not yet seen: the next one gets it.
    let mut first = Box::pin(pool.acquire());
    assert!(poll_once(&mut first).await.is_none());
    let mut second = Box::pin(pool.acquire());
    assert!(poll_once(&mut second).await.is_none());
    drop(claim);
    drop(first);
    let claim = second.await.unwrap();
    assert_eq!(claim.id, 1);
    drop(claim);
    assert_eq!(n(&pool.stats(), "idle"), 1);
}

#[tokio::test(start_paused = true)]
async fn more_than_waiting_max_are_refused_at_once() {
    let world = World::new();
    let pool = world.pool(Config {
        waiting_max: 2,
        ..fixed(1)
    });
    let _claim = pool.acquire().await.unwrap();
    let order = Arc::default();
    let waiters = [user(&pool, 0, ms(1), &order), user(&pool, 1, ms(1), &order)];
    tokio::task::yield_now().await;
    let started = Instant::now();
    let error = pool.acquire().await.unwrap_err();
    assert!(matches!(error, Error::PoolTimeout(_)), "{error}");
    assert!(error.to_string().contains("2 waiting"), "{error}");
    assert_eq!(started, Instant::now());
    waiters.iter().for_each(JoinHandle::abort);
}

// === Timeouts say why ===

#[tokio::test(start_paused = true)]
async fn a_timeout_names_the_holders_and_who_waits() {
    let world = World::new();
    let pool = world.pool(Config {
        acquire_timeout: secs(2),
        ..fixed(2)
    });
    let here = Location::caller();
    let old = pool.acquire().await.unwrap();
    sleep(secs(10)).await;
    let young = pool.acquire().await.unwrap();
    let other = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await.map(drop) }
    });
    tokio::task::yield_now().await;
    let error = pool.acquire().await.unwrap_err().to_string();
    let (file, line) = (here.file(), here.line());
    let expected = format!(
        "pool exhausted: 2 of 2 claimed, 2 open, 1 waiting, waited 2.0 s; \
         held by {file}:{} (1, up to 12.0 s), {file}:{} (1, up to 2.0 s)",
        line + 1,
        line + 3
    );
    let expected_alone = expected.replace("1 waiting", "0 waiting");
    assert!(
        error == expected || error == expected_alone,
        "{error}\n{expected}"
    );
    assert_eq!(old.location().line(), line + 1);
    assert!(other.await.unwrap().is_err());
    assert_eq!(pool.stats().timeouts, 2);
    drop((old, young));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_or_is_away_is_named_after_the_timeout() {
    for (message, sqlstate) in [
        ("password authentication failed for user \"app\"", Some("28P01")),
        ("connection refused", None),
    ] {
        let world = World::new();
        world.server().refuses = Some((message, sqlstate));
        let pool = world.pool(Config {
            acquire_timeout: secs(3),
            ..fixed(1)
        });
        let started = Instant::now();
        let error = pool.acquire().await.unwrap_err();
        assert_eq!(started.elapsed().as_secs(), 3);
        let text = error.to_string();
        assert!(error.is_retryable());
        assert!(
            text.starts_with("no connection to db:5432/market for 2.9"),
            "{text}"
        );
        assert!(
            text.ends_with(&format!("ago: cannot connect to db:5432/market: {message}")),
            "{text}"
        );
    }
}

// === A server that goes and comes ===

#[tokio::test(start_paused = true)]
async fn a_restart_fails_no_acquire_and_is_noticed_within_100_ms() {
    let world = World::new();
    let pool = world.pool(fixed(20));
    sleep(ms(200)).await;
    let dials_before = world.server().dials.len();
    let failures = Arc::new(Mutex::new(0));
    let firsts = Arc::new(Mutex::new(Vec::new()));
    let stop = Instant::now() + secs(20);
    let workers: Vec<_> = (0..30)
        .map(|_| {
            let (pool, failures, firsts) = (pool.clone(), Arc::clone(&failures), Arc::clone(&firsts));
            tokio::spawn(async move {
                while Instant::now() < stop {
                    match pool.acquire().await {
                        Ok(_claim) => {
                            firsts.lock().unwrap().push(Instant::now());
                            sleep(ms(3)).await;
                        }
                        Err(_) => *failures.lock().unwrap() += 1,
                    }
                }
            })
        })
        .collect();
    sleep(secs(2)).await;
    world.crash();
    sleep(secs(10)).await;
    let dials = world.server().dials.len() - dials_before;
    let up = Instant::now();
    world.start();
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(*failures.lock().unwrap(), 0);
    let first = firsts
        .lock()
        .unwrap()
        .iter()
        .copied()
        .find(|at| *at >= up)
        .unwrap();
    assert!(first - up <= ms(100), "{:?}", first - up);
    assert!(dials <= 400, "{dials} dials in ten seconds");
    assert!(world.server().dialing_max <= 4);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_us_is_not_hammered() {
    let world = World::new();
    world.server().refuses = Some(("no such role", Some("28000")));
    let pool = world.pool(Config {
        acquire_timeout: secs(60),
        ..fixed(1)
    });
    assert!(pool.acquire().await.is_err());
    let n_dials = world.server().dials.len();
    assert!((15..40).contains(&n_dials), "{n_dials}");
}

#[tokio::test(start_paused = true)]
async fn the_first_dead_connection_makes_its_generation_be_checked() {
    let world = World::new();
    let pool = world.pool(fixed(8));
    sleep(ms(200)).await;
    let claim = pool.acquire().await.unwrap();
    assert_eq!(world.server().checks, 0);
    // The others look alive, but are not.
    world.server().check = Answer::Fails;
    claim.broken();
    sleep(ms(300)).await;
    assert_eq!(world.server().checks, 7, "every other one, once");
    let stats = pool.stats();
    assert_eq!((stats.closed["broken"], stats.closed["check"]), (1, 7));
    world.server().check = Answer::Works;
    sleep(secs(1)).await;
    assert_eq!(world.n_open(), 8, "replaced");
    assert_eq!(world.server().checks, 7, "the new generation is trusted");
}

#[tokio::test(start_paused = true)]
async fn report_broken_checks_what_is_idle_and_keeps_what_lives() {
    let world = World::new();
    let pool = world.pool(fixed(4));
    sleep(ms(200)).await;
    pool.report_broken();
    sleep(ms(200)).await;
    assert_eq!((world.n_open(), world.server().checks), (4, 4));
    assert_eq!(n(&pool.stats(), "idle"), 4);
}

// === Liveness ===

#[tokio::test(start_paused = true)]
async fn a_connection_proven_within_a_second_is_not_checked() {
    for (quiet, pre_ping, expected) in [(ms(800), true, 0), (ms(1_200), true, 1), (secs(60), false, 0)] {
        let world = World::new();
        let pool = world.pool(Config { pre_ping, ..fixed(1) });
        drop(pool.acquire().await.unwrap());
        sleep(quiet).await;
        drop(pool.acquire().await.unwrap());
        assert_eq!(world.server().checks, expected, "{quiet:?} {pre_ping}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_is_bounded_and_the_next_connection_is_tried() {
    let world = World::new();
    let pool = world.pool(fixed(1));
    let first = pool.acquire().await.unwrap().id;
    sleep(secs(5)).await;
    world.server().check = Answer::Never;
    let started = Instant::now();
    let claim = pool.acquire().await.unwrap();
    let took = started.elapsed();
    assert_ne!(claim.id, first);
    assert!((ms(500)..ms(560)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_acquire_dropped_in_its_check_leaves_a_clean_connection() {
    let world = World::new();
    let pool = world.pool(fixed(1));
    drop(pool.acquire().await.unwrap());
    sleep(secs(5)).await;
    world.server().check = Answer::Never;
    assert!(timeout(ms(100), pool.acquire()).await.is_err());
    assert_eq!(n(&pool.stats(), "draining"), 1);
    world.server().check = Answer::Works;
    let claim = pool.acquire().await.unwrap();
    assert_eq!((claim.id, world.server().drains), (1, 1));
}

// === What users leave behind ===

#[tokio::test(start_paused = true)]
async fn what_was_left_running_is_cleaned_up_before_the_next_user() {
    let world = World::new();
    world.server().drain_ms = 30;
    let pool = world.pool(fixed(1));
    let mut claim = pool.acquire().await.unwrap();
    claim.is_dirty = true;
    let started = Instant::now();
    drop(claim);
    assert_eq!(started, Instant::now(), "giving back does not wait");
    assert_eq!(n(&pool.stats(), "draining"), 1);
    let claim = pool.acquire().await.unwrap();
    assert_eq!((claim.id, claim.is_dirty), (1, false));
    assert_eq!(started.elapsed(), ms(30));
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_fails_or_hangs_ends_the_connection() {
    for (drain, expected) in [(Answer::Fails, ms(1)), (Answer::Never, secs(5))] {
        let world = World::new();
        let pool = world.pool(fixed(1));
        let mut claim = pool.acquire().await.unwrap();
        claim.is_dirty = true;
        world.server().drain = drain;
        let started = Instant::now();
        drop(claim);
        let claim = pool.acquire().await.unwrap();
        assert_eq!(claim.id, 2);
        assert!(started.elapsed() >= expected && started.elapsed() < expected + ms(60));
        assert_eq!(pool.stats().closed["drain"], 1);
    }
}

// === Size ===

#[tokio::test(start_paused = true)]
async fn overflow_lingers_and_goes_by_itself() {
    let world = World::new();
    let config = Config {
        min: 1,
        size: 4,
        overflow: 6,
        ..Config::default()
    };
    let pool = world.pool(config);
    let order = Arc::default();
    let users: Vec<_> = (0..10)
        .map(|number| user(&pool, number, secs(1), &order))
        .collect();
    for user in users {
        user.await.unwrap();
    }
    assert_eq!(world.n_open(), 10);
    sleep(secs(25)).await;
    assert_eq!(world.n_open(), 10, "it lingers");
    sleep(secs(8)).await;
    assert_eq!(world.n_open(), 4);
    assert_eq!(pool.stats().closed["overflow"], 6);
}

#[tokio::test(start_paused = true)]
async fn what_demand_no_longer_asks_for_goes_after_the_idle_timeout() {
    let world = World::new();
    let config = Config {
        min: 2,
        size: 10,
        overflow: 0,
        ..Config::default()
    };
    let pool = world.pool(config);
    let order = Arc::default();
    let users: Vec<_> = (0..10)
        .map(|number| user(&pool, number, secs(60), &order))
        .collect();
    for user in users {
        user.await.unwrap();
    }
    assert_eq!((pool.stats().wanted, world.n_open()), (10, 10));
    sleep(secs(250)).await;
    assert_eq!((pool.stats().wanted, world.n_open()), (2, 10));
    sleep(secs(60)).await;
    assert_eq!(world.n_open(), 2);
    assert_eq!(pool.stats().closed["idle"], 8);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_replaced_without_anybody_waiting() {
    let world = World::new();
    let pool = world.pool(fixed(3));
    sleep(ms(100)).await;
    pool.acquire().await.unwrap().broken();
    sleep(ms(100)).await;
    assert_eq!((world.n_open(), world.server().dials.len()), (3, 4));
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_goes_when_its_successor_is_open() {
    let world = World::new();
    world.server().connect_ms = 400;
    let pool = world.pool(Config {
        lifetime: secs(100),
        ..fixed(4)
    });
    sleep(secs(3)).await;
    let mut least = usize::MAX;
    let mut most = 0;
    for _ in 0..1_200 {
        sleep(ms(100)).await;
        least = least.min(world.n_open());
        most = most.max(world.n_open());
    }
    assert_eq!(least, 4, "never fewer");
    assert!(most <= 6, "at most two replacements at a time: {most}");
    assert!(world.server().dials.len() >= 8);
    assert!(pool.stats().closed["lifetime"] >= 4);
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_in_use_goes_when_it_comes_back() {
    let world = World::new();
    let pool = world.pool(Config {
        lifetime: secs(10),
        ..fixed(1)
    });
    let claim = pool.acquire().await.unwrap();
    sleep(secs(15)).await;
    assert_eq!(world.n_open(), 2, "the successor is there");
    drop(claim);
    sleep(ms(10)).await;
    assert_eq!(world.n_open(), 1);
    assert_eq!(pool.acquire().await.unwrap().id, 2);
}

#[tokio::test(start_paused = true)]
async fn lifetimes_are_spread() {
    let world = World::new();
    let pool = world.pool(Config {
        lifetime: secs(1_000),
        dials_max: 64,
        ..fixed(100)
    });
    sleep(secs(890)).await;
    assert_eq!(world.server().dials.len(), 100, "none before nine tenths");
    sleep(secs(110)).await;
    let half = world.server().dials.len() - 100;
    assert!((30..70).contains(&half), "{half}");
    sleep(secs(110)).await;
    assert_eq!(pool.stats().closed["lifetime"], 100);
}

// === Watching and stopping ===

#[tokio::test(start_paused = true)]
async fn a_claim_held_too_long_is_reported_once() {
    let world = World::new();
    let pool = world.pool(Config {
        leak_after: Some(secs(10)),
        ..fixed(2)
    });
    let claim = pool.acquire().await.unwrap();
    sleep(secs(8)).await;
    assert_eq!(pool.stats().leaks, 0);
    sleep(secs(60)).await;
    let stats = pool.stats();
    assert_eq!(stats.leaks, 1);
    let holder = &stats.holders[0];
    assert!(holder.leaked && holder.age_ms >= 68_000, "{holder:?}");
    assert!(holder.location.contains("rules.rs:"), "{holder:?}");
    drop(claim);
    assert!(pool.stats().holders.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_suspended_pool_gives_nothing_out_until_resumed() {
    let world = World::new();
    let pool = world.pool(Config {
        acquire_timeout: secs(5),
        ..fixed(2)
    });
    let claim = pool.acquire().await.unwrap();
    pool.suspend();
    let order = Arc::default();
    let waiter = user(&pool, 0, ms(1), &order);
    sleep(ms(10)).await;
    drop(claim);
    assert!(pool.try_acquire().is_none());
    sleep(secs(1)).await;
    assert!(order.lock().unwrap().is_empty());
    assert!(pool.stats().suspended);
    pool.resume();
    waiter.await.unwrap();
    pool.suspend();
    let error = pool.acquire().await.unwrap_err().to_string();
    assert!(error.contains("the pool is suspended"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn close_sends_waiters_away_and_waits_for_claims() {
    let world = World::new();
    let pool = world.pool(fixed(3));
    sleep(ms(100)).await;
    let claims = [
        pool.acquire().await.unwrap(),
        pool.acquire().await.unwrap(),
        pool.acquire().await.unwrap(),
    ];
    let waiter = tokio::spawn({
        let pool = pool.clone();
        async move { pool.acquire().await.map(drop) }
    });
    tokio::task::yield_now().await;
    let closing = tokio::spawn({
        let pool = pool.clone();
        async move { pool.close().await }
    });
    assert!(matches!(waiter.await.unwrap(), Err(Error::PoolClosed)));
    assert!(matches!(pool.acquire().await, Err(Error::PoolClosed)));
    assert!(pool.try_acquire().is_none());
    sleep(secs(1)).await;
    assert!(!closing.is_finished());
    drop(claims);
    closing.await.unwrap();
    assert_eq!(world.n_open(), 0);
}

#[tokio::test(start_paused = true)]
async fn close_waits_no_longer_than_an_acquire_and_late_claims_close() {
    let world = World::new();
    world.server().connect_ms = 5;
    let pool = world.pool(fixed(1));
    let claim = pool.acquire().await.unwrap();
    let started = Instant::now();
    pool.close().await;
    assert_eq!(started.elapsed().as_secs(), 30);
    drop(claim);
    assert_eq!(world.n_open(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_closes_the_pool() {
    let world = World::new();
    let pool = world.pool(fixed(3));
    sleep(ms(100)).await;
    let claim = pool.acquire().await.unwrap();
    let clone = pool.clone();
    drop(pool);
    sleep(ms(100)).await;
    assert_eq!(world.n_open(), 3);
    drop(clone);
    sleep(ms(100)).await;
    assert_eq!(world.n_open(), 1, "the claim is still out");
    drop(claim);
    sleep(ms(100)).await;
    assert_eq!(world.n_open(), 0);
}

#[tokio::test(start_paused = true)]
async fn try_acquire_takes_what_needs_no_check() {
    let world = World::new();
    let pool = world.pool(fixed(2));
    assert!(pool.try_acquire().is_none(), "nothing is open yet");
    sleep(ms(100)).await;
    let claims = [pool.try_acquire().unwrap(), pool.try_acquire().unwrap()];
    assert!(pool.try_acquire().is_none());
    drop(claims);
    sleep(secs(5)).await;
    assert!(pool.try_acquire().is_none(), "both need a check, which runs now");
    sleep(ms(10)).await;
    assert!(pool.try_acquire().is_some());
    assert_eq!(world.server().checks, 2);
}

#[tokio::test(start_paused = true)]
async fn a_setting_out_of_range_stops_the_start() {
    let config = Config {
        size: 0,
        ..Config::default()
    };
    let error = Pool::start(World::new(), config, Clock::real(), &Registry::new()).unwrap_err();
    assert_eq!(error.to_string(), "pool.size: 0 is not within 1 to 1000");
}

#[tokio::test(start_paused = true)]
async fn the_registry_shows_the_pool() {
    let world = World::new();
    let registry = Registry::new();
    let pool = Pool::start(world.clone(), fixed(2), Clock::real(), &registry).unwrap();
    sleep(ms(100)).await;
    let claim = pool.acquire().await.unwrap();
    drop(pool.acquire().await.unwrap());
    sleep(ms(100)).await;
    drop(pool.acquire().await.unwrap());
    sleep(secs(2)).await;
    for (id, labels, expected) in [
        (Id::StorePoolAcquires, vec![], 3),
        (Id::StorePoolReused, vec![], 1),
        (Id::StorePoolConnects, vec![], 2),
        (Id::StorePoolConnections, vec!["active"], 1),
        (Id::StorePoolConnections, vec!["idle"], 1),
        (Id::StorePoolUse, vec![], 500),
    ] {
        assert_eq!(figure(&registry, id, &labels), expected, "{id:?} {labels:?}");
    }
    assert_eq!(registry.histogram(Id::StorePoolHold, &[]).snapshot().count(), 2);
    drop(claim);
    pool.close().await;
    drop(pool);
    sleep(ms(10)).await;
    assert_eq!(figure(&registry, Id::StorePoolConnections, &["idle"]), 0);
}

fn figure(registry: &Registry, id: Id, labels: &[&str]) -> i64 {
    let snapshot = registry.snapshot();
    let has = |own: &[(&str, Arc<str>)]| own.iter().map(|(_, value)| &**value).eq(labels.iter().copied());
    let series = snapshot.of(id).iter().find(|series| has(&series.labels));
    match series.map(|series| &series.value) {
        Some(Value::Counter(n)) => *n as i64,
        Some(Value::Gauge(n)) => *n,
        _ => 0,
    }
}
