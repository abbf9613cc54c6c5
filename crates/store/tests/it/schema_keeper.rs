//! What is done every minute, checks and table statistics, on a real server through the façade.

use std::time::Duration;

use tidegate_store::feed::{Aggregate, Bucket, Column, Measure, Partition, Rollup};
use tidegate_store::schema::{self, Keeper, keeper, migrate};
use tidegate_store::{Config, Context, Database, Feed, OnConflict, Type};
use tidegate_vitals::{Clock, Registry};

use crate::support;

const DAY: Duration = Duration::from_secs(86_400);

pub(crate) fn feed(table: &str) -> Feed {
    let column = |name: &str, kind: &str| Column {
        name: name.to_owned(),
        kind: Type::parse(kind).unwrap(),
        not_null: true,
    };
    Feed {
        name: table.to_owned(),
        table: table.to_owned(),
        columns: vec![
            column("symbol", "text"),
            column("ts", "timestamptz"),
            column("price", "float8"),
        ],
        key: vec!["symbol".to_owned(), "ts".to_owned()],
        on_conflict: OnConflict::Ignore,
        tags: vec![],
        retain: Some(3 * DAY),
        manage: true,
        partition: None,
        rollups: vec![Rollup {
            name: "hourly".to_owned(),
            table: format!("{table}_hourly"),
            group: vec!["symbol".to_owned()],
            bucket: Some(Bucket {
                column: "ts".to_owned(),
                every: Duration::from_secs(3600),
            }),
            measures: vec![Measure {
                how: Aggregate::Count,
                column: None,
                into: "n".to_owned(),
            }],
        }],
        row_bytes_max: 1 << 20,
        rows_per_second_max: None,
    }
}

pub(crate) async fn open(url: &str) -> Database {
    let context = Context::new(Clock::real(), Registry::new());
    Database::open(Config::new(url), context).await.unwrap()
}

async fn run(database: &Database, sql: &'static str) {
    database
        .write(async |transaction| transaction.batch(sql).await)
        .await
        .unwrap();
}

async fn count(database: &Database, table: &str) -> i64 {
    let sql = format!("SELECT count(*) AS n FROM {table}");
    let rows = database
        .read(async |transaction| transaction.query(&sql, &[]).await)
        .await
        .unwrap();
    match rows[0].get("n").unwrap() {
        tidegate_store::Value::Int(n) => *n,
        other => panic!("{other:?}"),
    }
}

/// Old rows, old claims, a roll-up to fill, a partition to drop, and one that is missing.
const OVERDUE: &str = "INSERT INTO plain SELECT 'A', now() - n * interval '1 minute', n FROM generate_series(1, 12000) AS n;
         INSERT INTO tidegate.claims (principal, feed, id, chunk, hash, at)
             SELECT 'p', 'plain', n, 0, '\\x00', now() - interval '8 days' FROM generate_series(1, 6000) AS n;
         INSERT INTO tidegate.claims (principal, feed, id, chunk, hash) VALUES ('p', 'plain', 'new', 0, '\\x00');
         UPDATE tidegate.rollup SET finished_at = NULL WHERE name = 'plain_hourly';
         CREATE TABLE parted_old (LIKE parted INCLUDING ALL);
         ALTER TABLE parted ATTACH PARTITION parted_old FOR VALUES FROM ('2020-01-01') TO ('2020-01-02');
         INSERT INTO parted VALUES ('A', '2020-01-01 12:00+00', 1);
         DO $$ DECLARE name text; BEGIN
             SELECT max(inhrelid::regclass::text) INTO name FROM pg_inherits WHERE inhparent = 'parted'::regclass
                 AND inhrelid::regclass::text LIKE 'parted_p%';
             EXECUTE 'DROP TABLE ' || name;
         END $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keeper_keeps_tables_as_their_feeds_say() {
    let url = support::database();
    let database = open(&url).await;
    let plain = feed("plain");
    let parted = Feed {
        partition: Some(Partition {
            column: "ts".to_owned(),
            every: DAY,
            timescale: false,
        }),
        ..feed("parted")
    };
    let feeds = vec![plain, parted];
    let report = migrate(&database, &feeds, migrate::Options::default())
        .await
        .unwrap();
    assert_eq!(report.problems, []);
    run(&database, OVERDUE).await;
    let config = keeper::Config {
        keep_claims: Some(7 * DAY),
        ..keeper::Config::default()
    };
    let keepers: Vec<Keeper> = (0..2)
        .map(|_| Keeper::start(database.clone(), feeds.clone(), config.clone()).unwrap())
        .collect();
    // Each leaves to the others what they are at, their tasks' own first passes too; what is done is done once.
    let total =
        |figure: fn(&keeper::Stats) -> u64| keepers.iter().map(|keeper| figure(&keeper.stats())).sum::<u64>();
    let settled = async {
        while count(&database, "parted").await > 0
            || count(&database, "tidegate.claims").await > 1
            || count(&database, "pg_inherits WHERE inhparent = 'parted'::regclass").await != 4
            || count(&database, "plain").await > 4320
            || count(&database, "tidegate.rollup WHERE finished_at IS NULL").await > 0
            // Counted after they are committed.
            || total(|stats| stats.partitions_dropped) < 1
            || total(|stats| stats.partitions_created) < 1
            || total(|stats| stats.claims_expired) < 6000
        {
            for keeper in &keepers {
                keeper.pass().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settled)
        .await
        .unwrap();
    assert_eq!(total(|stats| stats.failures), 0);
    assert_eq!(total(|stats| stats.partitions_dropped), 1);
    assert_eq!(total(|stats| stats.partitions_created), 1);
    assert_eq!(total(|stats| stats.claims_expired), 6000);
    let left = count(&database, "plain").await;
    assert!((4310..=4320).contains(&left), "{left}");
    assert_eq!(count(&database, "plain_hourly WHERE n > 60").await, 0);
    assert!(count(&database, "plain_hourly").await > 70);
    for keeper in keepers {
        keeper.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_without_a_partition_get_one() {
    let database = open(&support::database()).await;
    let feed = Feed {
        partition: Some(Partition {
            column: "ts".to_owned(),
            every: DAY,
            timescale: false,
        }),
        ..feed("late")
    };
    let feeds = std::slice::from_ref(&feed);
    migrate(&database, feeds, migrate::Options::default())
        .await
        .unwrap();
    let now = i64::try_from(Clock::real().wall_ms()).unwrap() * 1000;
    let times = [now - 2 * 86_400_000_000, now];
    let made = tokio::spawn({
        let (database, feed) = (database.clone(), feed.clone());
        async move {
            schema::make_partitions_for(&database, &feed, times)
                .await
                .unwrap()
        }
    });
    assert_eq!(made.await.unwrap(), 1);
    assert_eq!(
        schema::make_partitions_for(&database, &feed, times)
            .await
            .unwrap(),
        0
    );
    run(
        &database,
        "INSERT INTO late VALUES ('A', now() - interval '2 days', 1)",
    )
    .await;
}

#[tokio::test]
async fn tables_are_described() {
    let database = open(&support::database()).await;
    let feeds = [feed("plain")];
    migrate(&database, &feeds, migrate::Options::default())
        .await
        .unwrap();
    run(
        &database,
        "INSERT INTO plain SELECT 'A', now() + n * interval '1 second', n FROM generate_series(1, 5000) AS n; ANALYZE plain",
    )
    .await;
    let tables = schema::tables(&database).await.unwrap();
    let plain = tables.iter().find(|table| table.name == "plain").unwrap();
    assert_eq!(plain.rows, 5000);
    assert!(
        plain.table_bytes > Some(100_000) && plain.index_bytes > Some(100_000),
        "{plain:?}"
    );
    assert!(
        tables
            .iter()
            .any(|table| table.schema == "tidegate" && table.name == "claims")
    );
}
