//! Rows that come before or after all partitions of their table: stored in one made for them, or refused with a reason.

use std::time::Duration;

use tidegate_store::feed::{Feed, Partition};
use tidegate_store::ingest::{self, Outcome};
use tidegate_store::schema::{Keeper, keeper, migrate};
use tidegate_store::{Database, OnConflict};
use tidegate_vitals::Clock;

use crate::ingest::{Bench, request};
use crate::support;

const DAY: Duration = Duration::from_secs(86_400);

fn feed(columns: &str, on_conflict: OnConflict) -> Feed {
    Feed {
        manage: true,
        retain: Some(30 * DAY),
        partition: Some(Partition {
            column: "ts".to_owned(),
            every: DAY,
            timescale: false,
        }),
        ..crate::ingest::feed("ticks", columns, on_conflict)
    }
}

async fn bench(feed: &Feed) -> Bench {
    let bench = Bench::open(support::database(), "", vec![feed.clone()], patient()).await;
    make(&bench.database, feed).await;
    bench
}

fn patient() -> ingest::Config {
    ingest::Config {
        patience: Duration::from_secs(120),
        ..ingest::Config::default()
    }
}

async fn make(database: &Database, feed: &Feed) {
    let report = migrate(database, std::slice::from_ref(feed), migrate::Options::default()).await;
    assert_eq!(report.unwrap().problems, []);
}

/// A row of so many days from now.
fn row(id: usize, days: i64) -> String {
    let now = i64::try_from(Clock::real().wall_ms()).unwrap();
    let time = chrono::DateTime::from_timestamp_millis(now + days * 86_400_000).unwrap();
    let ts = time.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    format!("{{\"id\":{id},\"ts\":\"{ts}\"}}")
}

/// So many rows, spread over `days`.
fn rows(n: usize, days: &[i64]) -> String {
    let rows: Vec<String> = (0..n).map(|id| row(id, days[id % days.len()])).collect();
    format!("[{}]", rows.join(","))
}

fn dead(outcome: &Outcome) -> Vec<(u64, &str, &str)> {
    let rows = outcome.dead_lettered.iter();
    rows.map(|dead| (dead.row, dead.sqlstate.as_str(), dead.message.as_str()))
        .collect()
}

const PARTITIONS: &str = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'ticks'::regclass";
const DEAD: &str = "SELECT count(*) FROM tidegate.dead_letter";

#[tokio::test(flavor = "multi_thread")]
async fn a_row_without_a_partition_gets_one_and_is_stored_once() {
    /// Today and the three days ahead are there.
    const MADE: usize = 4;
    let check = async |feed: Feed, n: usize| {
        let bench = bench(&feed).await;
        assert_eq!(bench.ask(PARTITIONS).await, MADE.to_string());
        let body = rows(n, &[0, -5, 10, -20]);
        let request = || request("ticks", Some("late-1"), &body);
        let first = bench.try_send(request()).await.unwrap();
        let again = bench.try_send(request()).await.unwrap();
        assert_eq!((first.stored, dead(&first)), (n as u64, vec![]), "{n} rows");
        assert_eq!(first, again);
        assert_eq!(bench.ask("SELECT count(*) FROM ticks").await, n.to_string());
        assert_eq!(bench.ask(PARTITIONS).await, (MADE + 3).to_string());
        assert_eq!(bench.ask(DEAD).await, "0");
        assert_eq!(bench.told.n_rows(), n, "told once");
        bench.finish().await;
    };
    // As arrays, by COPY into the table, by COPY beside it; with and without a key.
    check(feed("id:int8 ts:timestamptz!", OnConflict::Error), 4).await;
    check(feed("id:int8 ts:timestamptz!", OnConflict::Error), 4_000).await;
    check(feed("id:int8* ts:timestamptz*", OnConflict::Ignore), 4).await;
    check(feed("id:int8* ts:timestamptz*", OnConflict::Update), 4_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_late_or_too_early_is_refused_with_its_reason() {
    let feed = feed("id:int8 ts:timestamptz!", OnConflict::Error);
    let bench = bench(&feed).await;
    bench
        .sql("ALTER TABLE ticks ADD CONSTRAINT few CHECK (id < 100)")
        .await;
    // The first that the database refuses breaks a check; the late row behind it is stored all the same.
    let body = format!(
        "[{},{},{},{},{}]",
        row(100, 0),
        row(1, -5),
        row(2, -40),
        row(3, 400),
        row(4, 0)
    );
    let outcome = bench.send("ticks", &body).await;
    assert_eq!(outcome.stored, 2);
    let dead = dead(&outcome);
    let codes: Vec<(u64, &str)> = dead.iter().map(|(row, code, _)| (*row, *code)).collect();
    assert_eq!(codes, [(0, "23514"), (2, "TG001"), (3, "TG002")]);
    assert!(
        dead[1]
            .2
            .starts_with("ts is older than the feed's retain of 2592000 s"),
        "{dead:?}"
    );
    assert!(dead[2].2.starts_with("ts is too far ahead"), "{dead:?}");
    let stored = bench.ask("SELECT id FROM ticks ORDER BY id").await;
    assert_eq!(stored, "1\n4");
    assert_eq!(bench.ask(PARTITIONS).await, "5");
    let kept = bench
        .ask("SELECT row_no, sqlstate FROM tidegate.dead_letter ORDER BY row_no")
        .await;
    assert_eq!(kept, "0|23514\n2|TG001\n3|TG002");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_not_ours_is_left_as_it_is() {
    let check = async |manage: bool, sql: &str| {
        let ours = feed("id:int8 ts:timestamptz!", OnConflict::Error);
        let feed = Feed {
            manage,
            // Partitions are declared for managed tables alone.
            partition: ours.partition.clone().filter(|_| manage),
            retain: ours.retain.filter(|_| manage),
            ..ours
        };
        let bench = Bench::new(sql, vec![feed]).await;
        let outcome = bench.send("ticks", &rows(2, &[0, -5])).await;
        let codes: Vec<&str> = dead(&outcome).iter().map(|(_, code, _)| *code).collect();
        assert_eq!((outcome.stored, codes), (1, vec!["23514"]), "{sql}");
        assert_eq!(bench.ask(PARTITIONS).await, "1", "{sql}");
        bench.finish().await;
    };
    check(
        false,
        "CREATE TABLE ticks (id int8, ts timestamptz NOT NULL) PARTITION BY RANGE (ts);
         DO $$ BEGIN EXECUTE format('CREATE TABLE now PARTITION OF ticks FOR VALUES FROM (%L) TO (%L)',
             now() - interval '1 hour', now() + interval '1 hour'); END $$",
    )
    .await;
    // Managed, and yet divided by another column: nothing of ours fits in.
    check(
        true,
        "CREATE TABLE ticks (id int8, ts timestamptz NOT NULL) PARTITION BY RANGE (id);
         CREATE TABLE few PARTITION OF ticks FOR VALUES FROM (0) TO (1)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_and_keepers_make_each_partition_once() {
    const N: usize = 20;
    let feed = feed("id:int8* ts:timestamptz*", OnConflict::Ignore);
    let one = bench(&feed).await;
    let other = Bench::open(one.url.clone(), "", vec![feed.clone()], patient()).await;
    let keeper = Keeper::start(one.database.clone(), vec![feed], keeper::Config::default()).unwrap();
    let days: Vec<i64> = (-(N as i64)..0).collect();
    let (odd, even) = (rows(2 * N, &days), rows(2 * N, &days));
    let (from_one, from_other, ()) =
        tokio::join!(one.send("ticks", &odd), other.send("ticks", &even), keeper.pass());
    for outcome in [&from_one, &from_other] {
        assert_eq!(outcome.stored + outcome.duplicates, 2 * N as u64, "{outcome:?}");
    }
    assert_eq!(one.ask(DEAD).await, "0");
    assert_eq!(one.ask(PARTITIONS).await, (4 + N).to_string());
    assert_eq!(keeper.stats().failures, 0, "{:?}", keeper.stats());
    keeper.finish().await;
    other.finish().await;
    one.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_needs_many_partitions_gets_them_in_pieces() {
    let feed = Feed {
        retain: None,
        ..feed("id:int8 ts:timestamptz!", OnConflict::Error)
    };
    let bench = bench(&feed).await;
    let days: Vec<i64> = (-150..0).collect();
    let outcome = bench.send("ticks", &rows(150, &days)).await;
    assert_eq!((outcome.stored, dead(&outcome)), (150, vec![]));
    assert_eq!(bench.ask(PARTITIONS).await, "154");
    bench.finish().await;
}
