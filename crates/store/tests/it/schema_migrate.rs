//! Migrations, partitions and filled roll-ups on real databases.

use std::time::Duration;

use tidegate_cluster::PgBouncer;
use tidegate_store::backend::sqlite::{Access, Sqlite};
use tidegate_store::feed::{Aggregate, Bucket, Column, Measure, Partition, Rollup};
use tidegate_store::pool::Connector;
use tidegate_store::schema::plan::{Allowed, Outcome};
use tidegate_store::schema::session::Session;
use tidegate_store::schema::{backfill, catalog::Live, migrate, partition, plan, rollup};
use tidegate_store::{Feed, Kind, OnConflict, Type};
use tokio_postgres::{Client, NoTls};

use crate::support;

/// 2025-01-15T13:30:00Z.
const NOW: i64 = 1_736_947_800_000_000;
const DAY: Duration = Duration::from_secs(86_400);

fn column(name: &str, kind: &str, not_null: bool) -> Column {
    Column {
        name: name.to_owned(),
        kind: Type::parse(kind).unwrap(),
        not_null,
    }
}

fn orders() -> Feed {
    Feed {
        name: "orders".to_owned(),
        table: "orders".to_owned(),
        columns: vec![
            column("id", "int8", true),
            column("day", "date", true),
            column("store", "text", true),
            column("status", "enum(new,paid)", false),
            column("tags", "text[]", false),
            column("detail", "jsonb", false),
            column("amount", "numeric", false),
        ],
        key: vec!["id".to_owned()],
        on_conflict: OnConflict::Update,
        tags: vec![],
        retain: None,
        manage: true,
        partition: None,
        rollups: vec![Rollup {
            name: "daily".to_owned(),
            table: "orders_daily".to_owned(),
            group: vec!["store".to_owned()],
            bucket: Some(Bucket {
                column: "day".to_owned(),
                every: DAY,
            }),
            measures: vec![Measure {
                how: Aggregate::Sum,
                column: Some("amount".to_owned()),
                into: "amount_sum".to_owned(),
            }],
        }],
        row_bytes_max: 1 << 20,
        rows_per_second_max: None,
    }
}

fn ticks() -> Feed {
    Feed {
        name: "ticks".to_owned(),
        table: "market.ticks".to_owned(),
        columns: vec![
            column("symbol", "text", true),
            column("ts", "timestamptz", true),
            column("price", "float8", false),
        ],
        key: vec!["symbol".to_owned(), "ts".to_owned()],
        on_conflict: OnConflict::Ignore,
        retain: Some(10 * DAY),
        partition: Some(Partition {
            column: "ts".to_owned(),
            every: DAY,
            timescale: true,
        }),
        rollups: vec![],
        ..orders()
    }
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    drop(tokio::spawn(connection));
    client
}

async fn run(client: &Client, feeds: &[Feed]) -> migrate::Report {
    migrate::migrate(
        Session::Postgres(client),
        feeds,
        &migrate::Options::default(),
        NOW,
    )
    .await
    .unwrap()
}

async fn value(client: &Client, sql: &str) -> String {
    let rows = client.query(sql, &[]).await.unwrap();
    rows[0]
        .get::<_, Option<String>>(0)
        .unwrap_or_else(|| "null".to_owned())
}

#[tokio::test]
async fn a_second_migration_does_nothing() {
    let client = connect(&support::database()).await;
    let feeds = [orders(), ticks()];
    let report = run(&client, &feeds).await;
    assert_eq!(report.problems, []);
    // Our own tables, two tables, one roll-up, four partitions.
    assert_eq!(report.count(Outcome::Created), 8, "{report:#?}");
    let again = run(&client, &feeds).await;
    assert_eq!(again.count(Outcome::Existing), again.steps.len(), "{again:#?}");
    assert!(again.steps.iter().all(|step| step.sql.is_empty()));
    let live = Live::read(Session::Postgres(&client), &feeds).await.unwrap();
    println!("TimescaleDB path: {:?}", live.timescale);
    assert_eq!(live.partitions["market.ticks"].len(), 1 + partition::AHEAD);
    assert!(live.rollups["orders_daily"].is_complete);
    let row = "INSERT INTO tidegate.dead_letter (feed, feed_version, claim, row_no, row, sqlstate, message) \
               VALUES ('f', 1, '{}', 7, '\\x00', '23502', 'm')";
    client.batch_execute(row).await.unwrap();
    let claim = "INSERT INTO tidegate.claims (principal, feed, id, chunk, hash) VALUES ('p', 'f', 'i', 0, '\\x01') \
                 ON CONFLICT DO NOTHING";
    assert_eq!(client.execute(claim, &[]).await.unwrap(), 1);
    assert_eq!(client.execute(claim, &[]).await.unwrap(), 0);
}

/// The server's default search path begins with a schema of the role's own name.
#[tokio::test]
async fn a_role_called_tidegate_keeps_its_tables_apart_from_ours() {
    let client = connect(&support::database()).await;
    client
        .batch_execute("SET search_path = tidegate, public")
        .await
        .unwrap();
    run(&client, &[orders(), ticks()]).await;
    let schemas = "SELECT string_agg(DISTINCT schemaname, ',') FROM pg_tables WHERE tablename LIKE 'orders%'";
    assert_eq!(value(&client, schemas).await, "public");
    assert_eq!(
        run(&client, &[orders(), ticks()]).await.count(Outcome::Created),
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_migrate_at_once() {
    let url = support::database();
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let url = url.clone();
        tasks.push(tokio::spawn(async move {
            run(&connect(&url).await, &[orders(), ticks()]).await
        }));
    }
    let mut created = Vec::new();
    for task in tasks {
        created.push(task.await.unwrap().count(Outcome::Created));
    }
    created.sort_unstable();
    assert_eq!(created, [0, 0, 0, 0, 0, 8]);
}

#[tokio::test]
async fn a_migration_that_waits_too_long_changes_nothing() {
    let url = support::database();
    let (holder, client) = (connect(&url).await, connect(&url).await);
    holder.batch_execute("BEGIN").await.unwrap();
    let lock = format!("SELECT pg_advisory_xact_lock({}, 1)", 0x7469_6465);
    holder.batch_execute(&lock).await.unwrap();
    let options = migrate::Options {
        wait: Duration::from_millis(120),
        ..migrate::Options::default()
    };
    let session = Session::Postgres(&client);
    let error = migrate::migrate(session, &[orders()], &options, NOW)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("waiting for another migration"),
        "{error}"
    );
    assert_eq!(value(&client, "SELECT to_regclass('orders')::text").await, "null");
}

#[tokio::test]
async fn migrations_pass_through_a_pooler() {
    let url = support::database();
    let database = url::database_of(&url);
    let pooler = PgBouncer::start(support::cluster()).unwrap();
    let client = connect(&pooler.url(&database)).await;
    assert_eq!(
        run(&client, &[orders(), ticks()]).await.count(Outcome::Created),
        8
    );
    assert_eq!(
        run(&client, &[orders(), ticks()]).await.count(Outcome::Created),
        0
    );
}

/// Reading a database's name out of a URL.
mod url {
    pub(super) fn database_of(url: &str) -> String {
        let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
        path.split('?').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn columns_are_added_and_nothing_else_is_touched() {
    let client = connect(&support::database()).await;
    run(&client, &[orders()]).await;
    client
        .batch_execute("INSERT INTO orders (id, day, store) VALUES (1, '2025-01-01', 'a')")
        .await
        .unwrap();
    let mut wider = orders();
    wider.columns.push(column("note \"x\"", "text", true));
    wider.rollups[0].measures.push(Measure {
        how: Aggregate::Count,
        column: None,
        into: "n".to_owned(),
    });
    let report = run(&client, &[wider.clone()]).await;
    assert_eq!(report.count(Outcome::Altered), 2, "{report:#?}");
    assert_eq!(report.problems, []);
    let live = Live::read(Session::Postgres(&client), &[wider.clone()])
        .await
        .unwrap();
    assert!(!live.rollups["orders_daily"].is_complete);
    // Narrower again: the column stays.
    assert_eq!(run(&client, &[orders()]).await.problems, []);
    assert_eq!(
        value(&client, "SELECT \"note \"\"x\"\"\" FROM orders").await,
        "null"
    );
}

#[tokio::test]
async fn an_existing_table_is_checked_and_never_changed() {
    let client = connect(&support::database()).await;
    client
        .batch_execute(
            "CREATE TYPE status AS ENUM ('paid', 'new');
             CREATE TABLE orders (id int4 PRIMARY KEY, day date, store text NOT NULL, status status, tags text[],
                                  detail jsonb, region text NOT NULL);",
        )
        .await
        .unwrap();
    let feed = Feed {
        manage: false,
        rollups: vec![],
        key: vec!["id".to_owned(), "day".to_owned()],
        ..orders()
    };
    let report = run(&client, &[feed]).await;
    let problems: Vec<&str> = report
        .problems
        .iter()
        .map(|(_, problem)| problem.as_str())
        .collect();
    assert_eq!(
        problems,
        [
            "column id is integer, the feed says int8",
            "column amount is missing",
            "column region needs a value and is not in the feed",
            "no unique index over the key (id, day)",
        ]
    );
    let missing = Feed {
        table: "nowhere".to_owned(),
        manage: false,
        ..orders()
    };
    let report = run(&client, &[missing]).await;
    assert_eq!(report.problems[0].1, "table nowhere is missing");
    assert_eq!(
        value(&client, "SELECT to_regclass('nowhere')::text").await,
        "null"
    );
}

#[tokio::test]
async fn a_rollup_with_other_groups_is_replaced_only_when_that_is_allowed() {
    let client = connect(&support::database()).await;
    run(&client, &[orders()]).await;
    let mut other = orders();
    other.rollups[0].group = vec!["status".to_owned()];
    let session = Session::Postgres(&client);
    let mut options = migrate::Options::default();
    let error = migrate::migrate(session, &[other.clone()], &options, NOW)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("other groups"), "{error}");
    options.allowed = Allowed {
        replace_rollups: true,
    };
    let report = migrate::migrate(session, &[other], &options, NOW).await.unwrap();
    assert_eq!(report.count(Outcome::Replaced), 1);
}

#[tokio::test]
async fn partitions_take_rows_late_ones_too_and_are_dropped_whole() {
    let client = connect(&support::database()).await;
    let feed = ticks();
    run(&client, std::slice::from_ref(&feed)).await;
    let insert = "INSERT INTO market.ticks SELECT 'A', timestamptz '2025-01-15 00:00+00' + n * interval '1 hour', n \
                  FROM generate_series(0, 95) AS n";
    assert_eq!(client.execute(insert, &[]).await.unwrap(), 96);
    let late = "INSERT INTO market.ticks VALUES ('A', '2025-01-08 12:00+00', 1)";
    let error = client.execute(late, &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "23514");
    let session = Session::Postgres(&client);
    let existing = Live::read(session, std::slice::from_ref(&feed))
        .await
        .unwrap()
        .partitions["market.ticks"]
        .clone();
    let week_ago = NOW - 7 * 86_400_000_000;
    let wanted = partition::covering(&feed, [week_ago, NOW], NOW).unwrap();
    let missing = partition::missing(&feed, &wanted, &existing);
    assert_eq!(missing.len(), 1);
    for sql in partition::create_sql(&feed, &missing[0]) {
        client.batch_execute(&sql).await.unwrap();
    }
    client.execute(late, &[]).await.unwrap();
    let existing = Live::read(session, std::slice::from_ref(&feed))
        .await
        .unwrap()
        .partitions["market.ticks"]
        .clone();
    assert_eq!(existing.len(), 5);
    let later = NOW + 5 * 86_400_000_000;
    let expired = partition::expired(&feed, &existing, later);
    assert_eq!(expired.len(), 1);
    client
        .batch_execute(&partition::drop_sql(expired[0]))
        .await
        .unwrap();
    assert_eq!(
        value(&client, "SELECT count(*)::text FROM market.ticks").await,
        "96"
    );
    let indexes =
        "SELECT count(*)::text FROM pg_indexes WHERE schemaname = 'market' AND indexdef LIKE '%brin%'";
    assert_eq!(value(&client, indexes).await, "5");
}

/// Writers add rows and apply them while the roll-up is filled; at the end nothing is missing and nothing counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollup_over_rows_is_filled_beside_writers() {
    let url = support::database();
    let client = connect(&url).await;
    let bare = Feed {
        rollups: vec![],
        ..orders()
    };
    run(&client, &[bare]).await;
    let rows = |from: i64, until: i64| {
        format!(
            "INSERT INTO orders (id, day, store, amount) SELECT n, date '2025-01-01' + (n * 7 % 60)::int, 's' || n % 4, n \
             FROM generate_series({from}::int8, {until}) AS n"
        )
    };
    client.batch_execute(&rows(1, 250_000)).await.unwrap();
    client.batch_execute("ANALYZE orders").await.unwrap();
    let feed = std::sync::Arc::new(orders());
    let report = run(&client, std::slice::from_ref(&feed)).await;
    assert_eq!(report.count(Outcome::Created), 1);
    let writer = {
        let (feed, url) = (feed.clone(), url.clone());
        tokio::spawn(async move {
            let client = connect(&url).await;
            for batch in 0..40_i64 {
                let from = 300_000 + batch * 100;
                let insert = rows(from, from + 99);
                let apply = rollup::apply_sql(Kind::Postgres, &feed, &feed.rollups[0], "stored");
                let sql = format!(
                    "BEGIN; CREATE TEMP TABLE stored (LIKE orders) ON COMMIT DROP; \
                     WITH i AS ({insert} RETURNING *) INSERT INTO stored SELECT * FROM i; {apply}; COMMIT"
                );
                client.batch_execute(&sql).await.unwrap();
            }
        })
    };
    let mut steps = 0;
    loop {
        client.batch_execute("BEGIN").await.unwrap();
        let progress = backfill::step(Session::Postgres(&client), &feed, &feed.rollups[0])
            .await
            .unwrap();
        client.batch_execute("COMMIT").await.unwrap();
        steps += 1;
        if progress == backfill::Progress::Finished {
            break;
        }
    }
    assert!(steps > 1, "{steps}");
    writer.await.unwrap();
    let different = "SELECT count(*)::text FROM ((SELECT store, day, sum(amount) FROM orders GROUP BY 1, 2) EXCEPT \
                     SELECT store, day, amount_sum FROM orders_daily) AS d";
    assert_eq!(value(&client, different).await, "0");
    let groups = "SELECT count(*)::text FROM orders_daily";
    assert_eq!(
        value(&client, groups).await,
        value(&client, "SELECT count(DISTINCT (store, day))::text FROM orders").await
    );
    let live = Live::read(Session::Postgres(&client), &[(*feed).clone()])
        .await
        .unwrap();
    assert!(live.rollups["orders_daily"].is_complete);
    assert_eq!(plan::kept_by_us(&live, &feed), [true]);
}

#[tokio::test]
async fn sqlite_migrates_and_fills_rollups_too() {
    let folder = tempdir();
    let path = folder.join("data.db");
    let connector = Sqlite::new(&path, Access::Write);
    let connection = connector.connect().await.unwrap();
    let session = Session::Sqlite(&connection);
    let options = migrate::Options::default();
    let bare = Feed {
        rollups: vec![],
        ..orders()
    };
    let report = migrate::migrate(session, &[bare], &options, NOW).await.unwrap();
    assert_eq!(report.count(Outcome::Created), 2);
    assert_eq!(report.problems, []);
    for n in 0..50 {
        let sql = format!(
            "INSERT INTO orders (id, day, store, amount) VALUES ({n}, {}, 's{}', '{n}.50')",
            20_000 + n % 9,
            n % 2
        );
        connection.execute(&sql, &[]).await.unwrap();
    }
    let feed = orders();
    let feeds = std::slice::from_ref(&feed);
    assert_eq!(
        migrate::migrate(session, feeds, &options, NOW)
            .await
            .unwrap()
            .count(Outcome::Created),
        1
    );
    connection
        .call(|connection| tidegate_store::schema::functions::register(connection))
        .await
        .unwrap();
    while backfill::step(session, &feed, &feed.rollups[0]).await.unwrap() == backfill::Progress::More {}
    let again = migrate::migrate(session, feeds, &options, NOW).await.unwrap();
    assert_eq!(again.count(Outcome::Existing), again.steps.len(), "{again:#?}");
    let sum = connection
        .call(|connection| {
            connection.query_row("SELECT tidegate_sum(amount_sum) FROM orders_daily", [], |row| {
                row.get::<_, String>(0)
            })
        })
        .await
        .unwrap();
    assert_eq!(sum, "1250.00");
    drop(connection);
    std::fs::remove_dir_all(folder).unwrap();
}

fn tempdir() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("tidegate-schema-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
