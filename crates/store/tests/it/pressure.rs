//! The store inside its memory: accounts that are full, levels of pressure, and nothing kept when all is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};
use serde_json::{Map, Value as Json};
use tidegate_cluster::Cluster;
use tidegate_store::ingest::{Config, State};
use tidegate_store::query::{Call, Queries, Query};
use tidegate_store::{Context, Error, Feed, OnConflict};
use tidegate_vitals::pressure::Ask;
use tidegate_vitals::{Class, Clock, Id, Ledger, Level, Registry};
use tokio::sync::Notify;

use crate::ingest::{Bench, feed, ids, request};
use crate::ingest_spool::{Dir, drained};
use crate::postgres::until;
use crate::query::{SECRET, by};
use crate::support;

const TABLE: &str = "CREATE TABLE numbers (id int8)";

fn numbers() -> Vec<Feed> {
    vec![feed("numbers", "id:int8", OnConflict::Error)]
}

/// A store that pays from a ledger of `limit` bytes.
async fn bench(limit: u64, config: Config) -> (Bench, Ledger, Registry) {
    let (ledger, registry) = (Ledger::new(limit), Registry::new());
    let context = Context::new(Clock::real(), registry.clone()).with_ledger(ledger.clone());
    let bench = Bench::open_in(context, support::database(), TABLE, numbers(), config).await;
    (bench, ledger, registry)
}

fn ask(level: Level, within: f32) -> Ask {
    Ask {
        level,
        within,
        bytes_wanted: 1 << 30,
    }
}

/// Holds the table until it is told to let go; returns when it does hold it.
async fn hold(bench: &Bench) -> (Arc<Notify>, tokio::task::JoinHandle<()>) {
    let (held, let_go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (database, notifies) = (bench.database.clone(), (Arc::clone(&held), Arc::clone(&let_go)));
    let holder = tokio::spawn(async move {
        let (held, let_go) = &notifies;
        let locked = database.write(async |transaction| {
            transaction.batch("LOCK TABLE numbers IN EXCLUSIVE MODE").await?;
            held.notify_one();
            let_go.notified().await;
            Ok::<_, Error>(())
        });
        locked.await.unwrap();
    });
    held.notified().await;
    (let_go, holder)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_ledger_refuses_rows_and_loses_none() {
    const REQUESTS: u64 = 64;
    let (bench, ledger, registry) = bench(1 << 20, Config::default()).await;
    let (let_go, holder) = hold(&bench).await;
    let send = |n: u64| {
        let ingest = bench.ingest.clone();
        let rows = ids(n * 1_000..(n + 1) * 1_000);
        async move {
            ingest
                .submit(request("numbers", Some(&format!("r{n}")), &rows))
                .await
        }
    };
    let sent: Vec<_> = (0..REQUESTS).map(|n| tokio::spawn(send(n))).collect();
    until("all wait or were refused", async || {
        let n_refused = sent.iter().filter(|sent| sent.is_finished()).count();
        bench.ingest.stats().backlog_rows + n_refused * 1_000 == REQUESTS as usize * 1_000
    })
    .await;
    let stats = bench.ingest.stats();
    assert_eq!(stats.relief.backlog_bytes, ledger.used_by(Class::Batches));
    assert!(ledger.used() <= ledger.limit());
    let_go.notify_one();
    holder.await.unwrap();
    let (mut n_stored, mut n_refused) = (0, 0);
    for sent in sent {
        match sent.await.unwrap() {
            Ok(outcome) => n_stored += outcome.stored,
            Err(error) => {
                assert!(matches!(error, Error::NoMemory { .. }), "{error}");
                assert_eq!((error.code(), error.is_retryable()), ("overloaded", true));
                n_refused += 1;
            }
        }
    }
    assert!(
        n_refused > 0 && n_stored > 0,
        "{n_refused} refused, {n_stored} stored"
    );
    assert_eq!(n_stored, (REQUESTS - n_refused) * 1_000);
    let refused = registry.counter(Id::StoreIngestRefused, &["no_memory"]);
    assert_eq!(refused.get(), n_refused);
    assert_eq!(bench.ingest.stats().relief.no_memory, n_refused);
    for n in 0..REQUESTS {
        assert_eq!(send(n).await.unwrap().stored, 1_000, "request {n} again");
    }
    let counted = bench
        .ask("SELECT count(*), count(DISTINCT id) FROM numbers")
        .await;
    assert_eq!(counted, format!("{0}|{0}", REQUESTS * 1_000));
    assert_eq!(ledger.used(), 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fewer_rows_are_taken_in_at_high_none_at_critical_and_all_again_at_normal() {
    let config = Config {
        backlog_rows_max: 2_000,
        ..Config::default()
    };
    let (bench, ledger, registry) = bench(64 << 20, config).await;
    let shed = bench.ingest.shed();
    let next = AtomicU64::new(0);
    let send = async |n_rows: u64| {
        let first = next.fetch_add(n_rows, Relaxed);
        bench
            .try_send(request("numbers", None, &ids(first..first + n_rows)))
            .await
    };
    let taken = async |n_rows: u64| assert_eq!(send(n_rows).await.unwrap().stored, n_rows);
    let refused = async |n_rows: u64| {
        let error = send(n_rows).await.unwrap_err();
        assert!(matches!(error, Error::Pressed { .. }), "{error}");
        assert_eq!((error.code(), error.is_retryable()), ("overloaded", true));
        assert_eq!(error.client_message(), "memory is short");
    };
    shed.level(Level::Moderate);
    assert_eq!(shed.shed(&ask(Level::Moderate, 1.0)), 0, "nothing waits");
    taken(2_000).await;
    shed.level(Level::High);
    taken(1_000).await;
    refused(1_001).await;
    shed.shed(&ask(Level::High, 1.0));
    taken(250).await;
    refused(251).await;
    shed.level(Level::Critical);
    refused(1).await;
    let relief = bench.ingest.stats().relief;
    assert_eq!(
        (relief.level, relief.backlog_rows_limit, relief.refused),
        ("critical", 0, 3)
    );
    assert_eq!(registry.counter(Id::StoreIngestRefused, &["pressure"]).get(), 3);
    shed.level(Level::Normal);
    taken(2_000).await;
    let relief = bench.ingest.stats().relief;
    assert_eq!((relief.level, relief.backlog_rows_limit), ("normal", 2_000));
    assert_eq!(bench.ask("SELECT count(*) FROM numbers").await, "5250");
    assert_eq!(ledger.used(), 0);
    bench.finish().await;
    assert_eq!(shed.shed(&ask(Level::Critical, 1.0)), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_promised_and_stored_at_critical() {
    let (bench, ledger, _) = bench(64 << 20, Config::default()).await;
    let shed = bench.ingest.shed();
    let (let_go, holder) = hold(&bench).await;
    let sent = {
        let ingest = bench.ingest.clone();
        tokio::spawn(async move { ingest.submit(request("numbers", None, &ids(0..3_000))).await })
    };
    until("the rows wait", async || {
        bench.ingest.stats().backlog_rows == 3_000
    })
    .await;
    shed.level(Level::Critical);
    assert_eq!(
        shed.shed(&ask(Level::Critical, 0.0)),
        ledger.used_by(Class::Batches)
    );
    let_go.notify_one();
    holder.await.unwrap();
    assert_eq!(sent.await.unwrap().unwrap().stored, 3_000);
    assert_eq!(ledger.used(), 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_nobody_uses_are_closed_and_statements_forgotten() {
    let mut config = tidegate_store::Config::new(support::database());
    config.pool.min = 1;
    let registry = Registry::new();
    let context = Context::new(Clock::real(), registry.clone());
    let database = tidegate_store::Database::open(config, context).await.unwrap();
    let (pool, shed) = (database.postgres().unwrap(), database.shed());
    let mut claims = Vec::new();
    for _ in 0..6 {
        let claim = pool.acquire().await.unwrap();
        claim.prepare("SELECT 1").await.unwrap();
        claims.push(claim);
    }
    let kept = claims.pop().unwrap();
    drop(claims);
    shed.level(Level::Moderate);
    assert_eq!((shed.shed(&ask(Level::Moderate, 1.0)), pool.stats().open), (0, 6));
    shed.level(Level::Critical);
    let closed = registry.counter(Id::StoreRelief, &["connections"]);
    until("five are closed", async || {
        closed.get() == 5 && pool.stats().open == 1
    })
    .await;
    let stats = pool.stats();
    assert_eq!(
        (stats.closed["pressure"], stats.pressure, stats.in_use),
        (5, "critical", 1)
    );
    kept.prepare("SELECT 1").await.unwrap();
    drop(kept);
    shed.level(Level::High);
    assert_eq!(shed.shed(&ask(Level::High, 1.0)), 0, "what is left is the least");
    let forgotten = registry.counter(Id::StoreRelief, &["statements"]);
    until("the keeper saw it", async || {
        shed.level(Level::High);
        tokio::task::yield_now().await;
        shed.level(Level::Critical);
        forgotten.get() >= 1
    })
    .await;
    assert!(pool.stats().statements_forgotten >= 1);
    shed.level(Level::Normal);
    let mut claims = Vec::new();
    for _ in 0..6 {
        let claim = pool.acquire().await.unwrap();
        claim.prepare("SELECT 1").await.unwrap();
        claims.push(claim);
    }
    drop(claims);
    assert_eq!((pool.stats().open, pool.stats().pressure), (6, "normal"));
    database.close().await;
}

fn series() -> Vec<Query> {
    let paged = Query {
        page: by(&["n"]),
        rows_max: 50_000,
        ..Query::new("paged", "SELECT n FROM many")
    };
    let whole = Query {
        rows_max: 50_000,
        ..Query::new("whole", "SELECT n, repeat('x', 100) AS x FROM many")
    };
    vec![paged, whole]
}

const MANY: &str = "CREATE TABLE many (n int8 PRIMARY KEY); INSERT INTO many SELECT generate_series(1, 20000); \
     CREATE TABLE numbers (id int8)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_without_memory_is_refused_and_others_go_on() {
    let ledger = Ledger::new(256 << 10);
    let context = Context::new(Clock::real(), Registry::new()).with_ledger(ledger.clone());
    let config = Config::default();
    let bench = Bench::open_in(context.clone(), support::database(), MANY, numbers(), config).await;
    let queries = Queries::open(bench.database.clone(), series(), SECRET, context)
        .await
        .unwrap();
    let params = Map::new();
    let mut stream = queries.stream("whole", Call::new(&params)).await.unwrap();
    assert!(stream.next_chunk().await.is_some());
    let held = ledger.used_by(Class::Answers);
    assert!(held > 0);
    let refused = queries.page("whole", Call::new(&params)).await.unwrap_err();
    assert!(matches!(refused, Error::NoMemory { .. }), "{refused}");
    assert_eq!((refused.code(), refused.is_retryable()), ("overloaded", true));
    assert_eq!(ledger.used(), held, "what the refused answer held is back");
    let call = Call {
        limit: Some(100),
        ..Call::new(&params)
    };
    assert_eq!(queries.page("paged", call).await.unwrap().n_rows, 100);
    let rest = ledger
        .reserve(Class::Caches, (ledger.limit() - ledger.used()) as usize)
        .unwrap();
    let refused = queries.stream("whole", Call::new(&params)).await.unwrap_err();
    assert!(matches!(refused, Error::NoMemory { .. }), "{refused}");
    let refused = bench
        .try_send(request("numbers", None, &ids(0..1)))
        .await
        .unwrap_err();
    assert!(matches!(refused, Error::NoMemory { .. }), "{refused}");
    let mut last = Json::Null;
    while let Some(chunk) = stream.next_chunk().await {
        let line = chunk
            .trim_ascii_end()
            .rsplit(|byte| *byte == b'\n')
            .next()
            .unwrap();
        last = serde_json::from_slice(line).unwrap();
    }
    assert_eq!(last["rows"], 20_000, "a stream that has begun needs no more");
    drop((stream, rest));
    assert_eq!(ledger.used(), 0);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spooled_rows_come_back_though_memory_is_full() {
    let (cluster, dir) = (Cluster::temporary().unwrap(), Dir::new());
    let url = cluster.create_database("spool").unwrap();
    let ledger = Ledger::new(8 << 20);
    let context = Context::new(Clock::real(), Registry::new()).with_ledger(ledger.clone());
    let bench = Bench::open_in(context, url, TABLE, numbers(), dir.config()).await;
    bench.send("numbers", &ids(0..10)).await;
    cluster.kill().unwrap();
    for n in 1..6 {
        let outcome = bench.send("numbers", &ids(n * 1_000..(n + 1) * 1_000)).await;
        assert_eq!((outcome.state, outcome.stored), (State::Spooled, 1_000));
    }
    assert_eq!(
        ledger.used_by(Class::Batches),
        0,
        "what is on the disk waits there"
    );
    // All that is left goes to others, again and again until they have it all.
    let mut others = Vec::new();
    until("memory is full", async || {
        let rest = (ledger.limit() - ledger.used()) as usize;
        others.extend(ledger.reserve(Class::Caches, rest));
        ledger.used() == ledger.limit()
    })
    .await;
    let refused = bench.try_send(request("numbers", None, &ids(7_000..7_001))).await;
    assert!(matches!(refused, Err(Error::NoMemory { .. })), "{refused:?}");
    cluster.start_again().unwrap();
    drained(&bench).await;
    assert_eq!(
        bench
            .ask("SELECT count(*), count(DISTINCT id) FROM numbers")
            .await,
        "5010|5010"
    );
    drop(others);
    until("all is given back", async || ledger.used() == 0).await;
    bench.finish().await;
}

/// Something that happens to a store.
#[derive(Debug, Clone)]
enum Event {
    Rows { n: u64, is_dropped: bool },
    Broken,
    Again,
    Page,
    Stream { n_chunks: usize },
    DropPage,
    Kill,
    Level(usize),
    Full,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1..3_000_u64, any::<bool>()).prop_map(|(n, is_dropped)| Event::Rows { n, is_dropped }),
        1 => Just(Event::Broken),
        1 => Just(Event::Again),
        1 => Just(Event::Page),
        1 => (0..40_usize).prop_map(|n_chunks| Event::Stream { n_chunks }),
        1 => Just(Event::DropPage),
        1 => Just(Event::Kill),
        1 => (0..4_usize).prop_map(Event::Level),
        1 => Just(Event::Full),
    ]
}

/// What may fail here fails for a reason that passes.
fn fine<T>(answer: Result<T, Error>) {
    if let Err(error) = answer {
        assert!(error.is_retryable(), "{error:?}");
    }
}

/// Drops the work somewhere in its middle.
async fn abandon<T>(work: impl Future<Output = T>) {
    let impatient = async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = work => {}
        () = impatient => {}
    }
}

async fn happen(bench: &Bench, queries: &Queries, ledger: &Ledger, event: &Event) {
    let params = Map::new();
    match event {
        Event::Rows { n, is_dropped } => {
            let submitted = bench.try_send(request("numbers", None, &ids(0..*n)));
            if *is_dropped {
                abandon(submitted).await;
            } else {
                fine(submitted.await);
            }
        }
        Event::Broken => {
            let unread = bench.try_send(request("numbers", None, "[{\"id\":1},")).await;
            assert!(unread.is_err());
            fine(
                bench
                    .try_send(request("numbers", None, r#"[{"id":"x"},{"no":1}]"#))
                    .await,
            );
        }
        Event::Again => {
            for _ in 0..2 {
                fine(
                    bench
                        .try_send(request("numbers", Some("same"), &ids(0..1_500)))
                        .await,
                );
            }
        }
        Event::Page => fine(queries.page("whole", Call::new(&params)).await),
        Event::Stream { n_chunks } => match queries.stream("whole", Call::new(&params)).await {
            Err(error) => fine::<()>(Err(error)),
            Ok(mut stream) => {
                for _ in 0..*n_chunks {
                    stream.next_chunk().await;
                }
            }
        },
        Event::DropPage => {
            let page = queries.page("whole", Call::new(&params));
            abandon(page).await;
        }
        Event::Kill => {
            let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let killed = bench
                .database
                .write(async |transaction| transaction.batch(kill).await);
            fine(killed.await);
        }
        Event::Level(at) => {
            for shed in [bench.ingest.shed(), bench.database.shed()] {
                shed.level(Level::ALL[*at]);
                shed.shed(&ask(Level::ALL[*at], 0.5));
            }
        }
        Event::Full => {
            let rest = ledger.limit().saturating_sub(ledger.used()) as usize;
            let _others = ledger.reserve(Class::Caches, rest);
            let refused = bench.try_send(request("numbers", None, &ids(0..5))).await;
            fine(refused);
        }
    }
}

#[test]
fn whatever_comes_all_memory_is_given_back() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let dir = Dir::new();
    let ledger = Ledger::new(4 << 20);
    let context = Context::new(Clock::real(), Registry::new()).with_ledger(ledger.clone());
    let bench = Bench::open_in(
        context.clone(),
        support::database(),
        MANY,
        numbers(),
        dir.config(),
    );
    let bench = runtime.block_on(bench);
    let queries = Queries::open(bench.database.clone(), series(), SECRET, context);
    let queries = runtime.block_on(queries).unwrap();
    let mut runner = TestRunner::new(Cases {
        cases: 24,
        failure_persistence: None,
        ..Cases::default()
    });
    let ran = runner.run(&prop::collection::vec(event(), 1..12), |events| {
        runtime.block_on(async {
            for event in &events {
                happen(&bench, &queries, &ledger, event).await;
            }
            happen(&bench, &queries, &ledger, &Event::Level(0)).await;
            drained(&bench).await;
            until("all memory is back", async || ledger.used() == 0).await;
        });
        Ok(())
    });
    ran.unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), bench.finish())
            .await
            .unwrap();
    });
    assert_eq!(
        Class::ALL.iter().map(|class| ledger.used_by(*class)).sum::<u64>(),
        0
    );
}
