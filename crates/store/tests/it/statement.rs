//! The statement monitor on a real server.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidegate_store::statement::{self, Level, Order, Verb};
use tidegate_store::{Config, Database, Select, Value};

use crate::query::context;
use crate::support;

async fn database(slow: Duration) -> Database {
    let mut config = Config::new(support::database());
    config.monitor = statement::Config {
        slow,
        critical: slow * 4,
        ..statement::Config::default()
    };
    let database = Database::open(config, context()).await.unwrap();
    database
        .write(async |tx| {
            tx.batch("CREATE TABLE ticks (id int8 PRIMARY KEY, price float8 NOT NULL)")
                .await
        })
        .await
        .unwrap();
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_are_grouped_by_shape_and_table() {
    let database = database(Duration::from_secs(1)).await;
    for id in 0..20 {
        let sql = format!("INSERT INTO ticks (id, price) VALUES ({id}, 1.5) -- {id}");
        database
            .write(async |tx| tx.execute(&sql, &[]).await)
            .await
            .unwrap();
    }
    let rows = database
        .select(Select::new("SELECT id FROM ticks", &[]))
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    assert_eq!(rows.len(), 20);
    let top = database.monitor().top(Order::Calls, 10);
    let insert = top.iter().find(|stats| stats.verb == Verb::Insert).unwrap();
    assert_eq!(
        (insert.text.as_str(), insert.totals.calls),
        ("insert into ticks(id, price) values ($1, $2)", 20)
    );
    assert_eq!(insert.tables, ["ticks"]);
    let select = top
        .iter()
        .find(|stats| stats.text == "select id from ticks")
        .unwrap();
    assert_eq!((select.totals.calls, select.totals.rows), (1, 20));
    let tables = database.monitor().tables(10);
    let ticks = tables.iter().find(|table| table.table == "ticks").unwrap();
    assert!(ticks.totals.calls >= 21, "{ticks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_statement_is_told_within_100_ms_of_its_end_with_its_caller() {
    let database = database(Duration::from_millis(60)).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&told);
    database.monitor().on_slow(Arc::new(move |slow| {
        hears.lock().unwrap().push((Instant::now(), slow.clone()));
    }));
    let params = [Value::Float(0.1)];
    let sql = "SELECT pg_sleep($1)::text, 'secret' AS s";
    let (line, select) = (line!(), Select::new(sql, &params));
    let rows = database.select(select).await.unwrap();
    rows.collect().await.unwrap();
    let ended = Instant::now();
    let told = told.lock().unwrap();
    let (at, slow) = told.first().unwrap();
    assert!(ended.saturating_duration_since(*at) < Duration::from_millis(100));
    assert_eq!(slow.level, Level::Warning);
    assert_eq!(slow.text, "select pg_sleep($1)::text, $2 as s");
    assert!(
        slow.caller.ends_with(&format!("statement.rs:{line}")),
        "{} at line {line}",
        slow.caller
    );
    assert!(
        slow.execute >= Duration::from_millis(100) && slow.wait < slow.execute,
        "{slow:?}"
    );
    assert!(!serde_json::to_string(slow).unwrap().contains("secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_and_dropped_statements_are_counted_apart() {
    let database = database(Duration::from_secs(1)).await;
    let refused = database.select(Select::new("SELECT 1 / 0 AS x", &[])).await;
    assert!(refused.is_err());
    let sleep = Select::new("SELECT pg_sleep(30)::text AS s", &[]);
    let late = tokio::time::timeout(Duration::from_millis(100), database.select(sleep)).await;
    assert!(late.is_err(), "the caller gave up");
    let summary = database.monitor().summary();
    assert_eq!(summary.by_sqlstate.get("22012"), Some(&1), "{summary:?}");
    assert_eq!(summary.cancelled, 1, "{summary:?}");
    assert_eq!(summary.slow, 0, "{summary:?}");
}
