//! Roll-ups that TimescaleDB keeps as continuous aggregates: ingest adds nothing to them.
//!
//! Where the server has TimescaleDB its own aggregates are used. Otherwise a view of the same name stands for one: to
//! ingest they look alike, and writing to either fails.

use std::time::Duration;

use tidegate_store::feed::{Aggregate, Bucket, Feed, Measure, Partition, Rollup};
use tidegate_store::schema::{migrate, rollup, timescale};
use tidegate_store::{Kind, OnConflict, Operation};

use crate::ingest::{Bench, feed};

const HOUR: Duration = Duration::from_secs(3_600);

fn hourly(name: &str) -> Rollup {
    let measure = |how, column: Option<&str>, into: &str| Measure {
        how,
        column: column.map(str::to_owned),
        into: into.to_owned(),
    };
    Rollup {
        name: name.to_owned(),
        table: format!("ticks_{name}"),
        group: vec!["symbol".to_owned()],
        bucket: Some(Bucket {
            column: "at".to_owned(),
            every: HOUR,
        }),
        measures: vec![
            measure(Aggregate::Count, None, "n"),
            measure(Aggregate::Sum, Some("price"), "total"),
        ],
    }
}

fn ticks(on_conflict: OnConflict) -> Feed {
    Feed {
        manage: true,
        partition: Some(Partition {
            column: "at".to_owned(),
            every: 24 * HOUR,
            timescale: true,
        }),
        rollups: vec![hourly("theirs"), hourly("ours")],
        ..feed(
            "ticks",
            "id:int8* symbol:text! at:timestamptz* price:int8!",
            on_conflict,
        )
    }
}

/// The table, one roll-up that is ours, and a view in place of the other.
fn tables(feed: &Feed) -> String {
    let view = "SELECT symbol, date_trunc('hour', at) AS at, count(*) AS n, sum(price) AS total FROM ticks GROUP BY 1, 2";
    format!(
        "CREATE TABLE ticks (id int8, symbol text NOT NULL, at timestamptz, price int8 NOT NULL, PRIMARY KEY (id, at)); \
         {}; CREATE VIEW ticks_theirs AS {view}",
        rollup::create_sql(Kind::Postgres, feed, &feed.rollups[1]).join(";")
    )
}

/// Opens what there is, and says which path it is.
async fn open(feed: &Feed) -> Bench {
    let bench = Bench::new("", vec![feed.clone()]).await;
    let has_it = bench
        .ask("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'")
        .await;
    if has_it == "1" {
        println!("TimescaleDB path: its own continuous aggregate");
        bench.sql("CREATE EXTENSION timescaledb").await;
        migrate(
            &bench.database,
            std::slice::from_ref(feed),
            migrate::Options::default(),
        )
        .await
        .unwrap();
    } else {
        println!("TimescaleDB path: absent, a view stands for the continuous aggregate");
        bench.sql(&tables(feed)).await;
    }
    bench
}

fn rows(ids: std::ops::Range<u64>, price: i64) -> String {
    let rows: Vec<String> = ids
        .map(|id| {
            let (symbol, hour) = (["a", "b"][id as usize % 2], id % 3);
            format!(r#"{{"id":{id},"symbol":"{symbol}","at":"2024-01-01T0{hour}:00:00Z","price":{price}}}"#)
        })
        .collect();
    format!("[{}]", rows.join(","))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_up_that_timescaledb_keeps_is_left_to_it() {
    for on_conflict in [OnConflict::Ignore, OnConflict::Update] {
        let feed = ticks(on_conflict);
        let bench = open(&feed).await;
        // As arrays, by COPY, and again with rows that are there; then a change and a removal.
        bench.send("ticks", &rows(0..10, 1)).await;
        bench.send("ticks", &rows(5..3_000, 2)).await;
        bench.send_as("ticks", Operation::Update, &rows(0..2, 7)).await;
        bench
            .send_as(
                "ticks",
                Operation::Delete,
                r#"[{"id":4,"at":"2024-01-01T01:00:00Z"}]"#,
            )
            .await;
        let counted = |table: &str| format!("SELECT sum(n)::int8, sum(total)::int8 FROM {table}");
        let truth = bench.ask("SELECT count(*), sum(price)::int8 FROM ticks").await;
        assert!(truth.starts_with("2999|"), "{truth}");
        for table in ["ticks_theirs", "ticks_ours"] {
            assert_eq!(bench.ask(&counted(table)).await, truth, "{table} {on_conflict:?}");
        }
        assert_eq!(bench.ask("SELECT count(*) FROM tidegate.dead_letter").await, "0");
        bench.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_up_that_becomes_an_aggregate_meanwhile_is_left_to_it_from_then_on() {
    let feed = Feed {
        partition: None,
        ..ticks(OnConflict::Ignore)
    };
    let both: Vec<String> = feed
        .rollups
        .iter()
        .flat_map(|it| rollup::create_sql(Kind::Postgres, &feed, it))
        .collect();
    let whole = tables(&feed);
    let (table, _) = whole.split_once(';').unwrap();
    let (_, view) = whole.rsplit_once(';').unwrap();
    let bench = Bench::new(&format!("{table};{}", both.join(";")), vec![feed.clone()]).await;
    bench.send("ticks", &rows(0..4, 1)).await;
    bench.sql(&format!("DROP TABLE ticks_theirs;{view}")).await;
    let outcome = bench.send("ticks", &rows(4..8, 1)).await;
    assert_eq!(outcome.stored, 4);
    for table in ["ticks_theirs", "ticks_ours"] {
        let sum = bench.ask(&format!("SELECT sum(n)::int8 FROM {table}")).await;
        assert_eq!(sum, "8", "{table}");
    }
    bench.finish().await;
}

#[test]
fn what_becomes_an_aggregate_is_decided_by_extension_licence_and_bucket() {
    use timescale::Timescale;
    let feed = ticks(OnConflict::Ignore);
    let other_bucket = Rollup {
        bucket: None,
        ..hourly("other")
    };
    let plain = Feed {
        partition: None,
        ..feed.clone()
    };
    let check = |found: Timescale, feed: &Feed, rollup: &Rollup, expected: bool| {
        assert_eq!(found.keeps(feed, rollup), expected, "{found:?} {}", rollup.name);
    };
    check(Timescale::Full, &feed, &feed.rollups[0], true);
    check(Timescale::Apache, &feed, &feed.rollups[0], false);
    check(Timescale::Absent, &feed, &feed.rollups[0], false);
    check(Timescale::Full, &feed, &other_bucket, false);
    check(Timescale::Full, &plain, &feed.rollups[0], false);
}
