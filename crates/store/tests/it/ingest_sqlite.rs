//! Rows on their way into an SQLite file: the same promises as on PostgreSQL.

use tidegate_store::feed::{Aggregate, Bucket, Feed, Measure, Rollup};
use tidegate_store::ingest::{self, Request, State, dead_letter};
use tidegate_store::schema::rollup;
use tidegate_store::{Error, Kind, OnConflict, Operation, Template};

use crate::ingest::{Bench, feed, request};
use crate::sqlite::Folder;

const TABLE: &str =
    "CREATE TABLE t (id INTEGER PRIMARY KEY NOT NULL, name TEXT, n INTEGER CHECK (n < 100)) STRICT";
const COLUMNS: &str = "id:int8* name:text n:int4";
const ALL: &str = "SELECT id, name, n FROM t ORDER BY id";

async fn open(folder: &Folder, on_conflict: OnConflict) -> Bench {
    let feeds = vec![feed("t", COLUMNS, on_conflict)];
    Bench::open(folder.url(), TABLE, feeds, ingest::Config::default()).await
}

#[tokio::test]
async fn each_operation_does_what_it_says_and_counts_what_it_met() {
    let folder = Folder::new();
    let bench = open(&folder, OnConflict::Ignore).await;
    let check = async |operation, rows: &str, (stored, duplicates, missing), expected: &str| {
        let outcome = bench.send_as("t", operation, rows).await;
        let counts = (outcome.stored, outcome.duplicates, outcome.missing);
        assert_eq!(
            counts,
            (stored, duplicates, missing),
            "{operation:?} {rows}: {outcome:?}"
        );
        assert_eq!(outcome.state, State::Committed);
        assert_eq!(bench.ask(ALL).await, expected, "{operation:?} {rows}");
    };
    let three = r#"[{"id":1,"name":"a"},{"id":2,"name":"b","n":2},{"id":1,"name":"c"}]"#;
    check(Operation::Insert, three, (2, 1, 0), "1|a|null\n2|b|2").await;
    check(Operation::Insert, three, (0, 3, 0), "1|a|null\n2|b|2").await;
    let changed = r#"[{"id":1,"n":7},{"id":9,"n":1},{"id":2,"name":null}]"#;
    check(Operation::Update, changed, (2, 0, 1), "1|a|7\n2|null|2").await;
    let replaced = r#"[{"id":2,"name":"x"},{"id":3,"name":"y"}]"#;
    check(
        Operation::Upsert,
        replaced,
        (2, 0, 0),
        "1|a|7\n2|x|null\n3|y|null",
    )
    .await;
    check(
        Operation::Delete,
        r#"[{"id":1},{"id":8}]"#,
        (1, 0, 1),
        "2|x|null\n3|y|null",
    )
    .await;
    let told = bench.told.firsts();
    assert_eq!(told, [1, 2, 1, 2, 2, 3, 1]);
    bench.finish().await;
}

#[tokio::test]
async fn refused_rows_go_to_the_dead_letter_and_come_back_when_it_is_mended() {
    let folder = Folder::new();
    let bench = open(&folder, OnConflict::Error).await;
    let rows = r#"[{"id":1},{"id":1},{"id":2,"n":100},{"id":3,"n":"x"},{"id":4}]"#;
    let outcome = bench.send("t", rows).await;
    let dead: Vec<_> = outcome
        .dead_lettered
        .iter()
        .map(|dead| (dead.row, &*dead.sqlstate))
        .collect();
    assert_eq!(dead, [(1, "23505"), (2, "23514")], "{outcome:?}");
    assert_eq!(outcome.rejected.len(), 1);
    assert_eq!(bench.ask(ALL).await, "1|null|null\n4|null|null");
    let letters = dead_letter::list(&bench.database, Some("t"), 0, 10)
        .await
        .unwrap();
    assert_eq!(letters.len(), 2);
    assert_eq!((letters[1].sqlstate.as_str(), letters[1].row_no), ("23514", 2));
    assert_eq!(letters[1].row, r#"{"id":2,"name":null,"n":100}"#);
    assert!(letters[1].at.ends_with('Z'), "{}", letters[1].at);
    bench.sql("DELETE FROM t WHERE id = 1").await;
    let retried = dead_letter::retry(&bench.ingest, "t", 10).await.unwrap();
    assert_eq!((retried.stored, retried.refused, retried.kept), (1, 1, 0));
    assert_eq!(bench.ask("SELECT count(*) FROM tidegate_dead_letter").await, "1");
    bench.finish().await;
}

#[tokio::test]
async fn a_resend_stores_nothing_twice_even_after_a_restart() {
    let folder = Folder::new();
    let bench = open(&folder, OnConflict::Error).await;
    let rows = r#"[{"id":1},{"id":1},{"id":2}]"#;
    let first = bench.try_send(request("t", Some("a"), rows)).await.unwrap();
    let again = bench.try_send(request("t", Some("a"), rows)).await.unwrap();
    assert_eq!(again, first);
    let other = bench.try_send(request("t", Some("a"), r#"{"id":7}"#)).await;
    assert!(
        matches!(other, Err(Error::IdReused { chunk: 0, .. })),
        "{other:?}"
    );
    let foreign = Request {
        principal: "other".to_owned(),
        ..request("t", Some("a"), r#"{"id":7}"#)
    };
    assert_eq!(bench.try_send(foreign).await.unwrap().stored, 1);
    bench.finish().await;
    let feeds = vec![feed("t", COLUMNS, OnConflict::Error)];
    let bench = Bench::open(folder.url(), "", feeds, ingest::Config::default()).await;
    let again = bench.try_send(request("t", Some("a"), rows)).await.unwrap();
    assert_eq!(again, first);
    assert_eq!(bench.told.n_rows(), 0);
    assert_eq!(bench.ask(ALL).await, "1|null|null\n2|null|null\n7|null|null");
    bench.finish().await;
}

#[tokio::test]
async fn twenty_thousand_rows_are_stored_in_order() {
    let folder = Folder::new();
    let bench = open(&folder, OnConflict::Ignore).await;
    let outcome = bench.send("t", &crate::ingest::ids(0..20_000)).await;
    assert_eq!(outcome.stored, 20_000);
    assert_eq!(
        bench.ask("SELECT count(*), sum(id) FROM t").await,
        "20000|199990000"
    );
    assert!(bench.told.firsts().is_sorted());
    bench.finish().await;
}

#[tokio::test]
async fn a_missing_table_suspends_the_feed_and_says_so() {
    let folder = Folder::new();
    let bench = open(&folder, OnConflict::Ignore).await;
    bench.sql("ALTER TABLE t RENAME TO elsewhere").await;
    let refused = bench
        .try_send(request("t", None, r#"{"id":1}"#))
        .await
        .unwrap_err();
    assert!(
        matches!(&refused, Error::Suspended { reason, .. } if reason.contains("no such table")),
        "{refused}"
    );
    bench.sql("ALTER TABLE elsewhere RENAME TO t").await;
    bench
        .ingest
        .set_feeds(vec![feed("t", COLUMNS, OnConflict::Ignore)])
        .await
        .unwrap();
    assert_eq!(bench.send("t", r#"{"id":1}"#).await.stored, 1);
    bench.finish().await;
}

fn with_rollup(on_conflict: OnConflict) -> Feed {
    let measure = |how, column: Option<&str>, into: &str| Measure {
        how,
        column: column.map(ToOwned::to_owned),
        into: into.to_owned(),
    };
    Feed {
        tags: vec![Template::parse("orders:{store}").unwrap()],
        rollups: vec![Rollup {
            name: "daily".to_owned(),
            table: "daily".to_owned(),
            group: vec!["store".to_owned()],
            bucket: Some(Bucket {
                column: "at".to_owned(),
                every: std::time::Duration::from_secs(86_400),
            }),
            measures: vec![
                measure(Aggregate::Count, None, "n"),
                measure(Aggregate::Sum, Some("amount"), "amount_sum"),
                measure(Aggregate::Last, Some("amount"), "amount_last"),
            ],
        }],
        ..feed(
            "orders",
            "id:int8* store:text! at:timestamptz! amount:numeric",
            on_conflict,
        )
    }
}

const SUMS: &str = "SELECT store, at / 86400000000, n, amount_sum, amount_last FROM daily ORDER BY 1, 2";

#[tokio::test]
async fn totals_follow_their_rows() {
    for on_conflict in [OnConflict::Ignore, OnConflict::Update] {
        let folder = Folder::new();
        let feed = with_rollup(on_conflict);
        let mut sql = "CREATE TABLE orders (id INTEGER PRIMARY KEY NOT NULL, store TEXT NOT NULL, at INTEGER NOT NULL, \
                       amount TEXT) STRICT;"
            .to_owned();
        for statement in rollup::create_sql(Kind::Sqlite, &feed, &feed.rollups[0]) {
            sql.push_str(&statement);
            sql.push(';');
        }
        let bench = Bench::open(folder.url(), &sql, vec![feed], ingest::Config::default()).await;
        let rows = r#"[{"id":1,"store":"n","at":"1970-01-02T01:00:00Z","amount":"0.1"},
                       {"id":2,"store":"n","at":"1970-01-02T02:00:00Z","amount":"0.2"},
                       {"id":3,"store":"s","at":"1970-01-03T00:00:00Z","amount":"5"},
                       {"id":1,"store":"n","at":"1970-01-02T01:00:00Z","amount":"0.1"}]"#;
        bench.send("orders", rows).await;
        bench.send("orders", rows).await;
        assert_eq!(
            bench.ask(SUMS).await,
            "n|1|2|0.3|0.2\ns|2|1|5|5",
            "{on_conflict:?}"
        );
        let tags = bench.told.tags.lock().unwrap().clone();
        assert_eq!(tags[..2], ["orders:n", "orders:s"]);
        bench
            .send_as("orders", Operation::Delete, r#"[{"id":2},{"id":3}]"#)
            .await;
        let left = bench
            .ask("SELECT store, n, amount_sum FROM daily WHERE n > 0")
            .await;
        assert_eq!(left, "n|1|0.1", "{on_conflict:?}");
        bench
            .send_as(
                "orders",
                Operation::Update,
                r#"[{"id":1,"store":"w","amount":"7.5"}]"#,
            )
            .await;
        let moved = bench
            .ask("SELECT store, n, amount_sum FROM daily WHERE n > 0")
            .await;
        assert_eq!(moved, "w|1|7.5", "{on_conflict:?}");
        bench.finish().await;
    }
}
