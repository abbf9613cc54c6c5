//! Shared connections for short statements, against a real PostgreSQL.

use std::time::Duration;

use tidegate_store::{Database, Error, Select, Value};
use tokio::time::timeout;

use crate::{
    postgres::{one, open_with, until},
    support,
};

/// A database whose pipeline is open.
async fn open(change: impl FnOnce(&mut tidegate_store::Config)) -> Database {
    let database = open_with(&support::database(), change).await;
    until("the pipeline is open", async || {
        ask(&database, "SELECT 1", &[]).await.unwrap();
        database.stats().pipeline.unwrap().connections > 0
    })
    .await;
    database
}

async fn ask(database: &Database, sql: &str, params: &[Value]) -> Result<Vec<Vec<Value>>, Error> {
    let mut select = Select::new(sql, params);
    select.pipeline = true;
    database.select(select).await?.collect().await
}

fn answered(database: &Database) -> u64 {
    database.stats().pipeline.unwrap().answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_statements_share_few_connections() {
    let database = open(|_| {}).await;
    let before = answered(&database);
    let tasks: Vec<_> = (0..64_i64)
        .map(|task| {
            let database = database.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    let params = [Value::Int(task), Value::Int(n)];
                    let rows = ask(&database, "SELECT $1::int8 * 1000 + $2::int8", &params)
                        .await
                        .unwrap();
                    assert_eq!(rows, [[Value::Int(task * 1_000 + n)]]);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats = database.stats();
    assert_eq!(answered(&database) - before, 3_200);
    assert!(stats.pipeline.unwrap().connections <= 4);
    assert_eq!(stats.pipeline.unwrap().in_flight, 0);
}

#[tokio::test]
async fn a_refused_statement_hurts_no_neighbour() {
    let database = open(|config| config.pipeline.connections = 1).await;
    let (good, bad) = tokio::join!(
        ask(&database, "SELECT 1 FROM pg_sleep(0.01)", &[]),
        ask(&database, "SELECT 1/$1::int4", &[Value::Int(0)])
    );
    assert_eq!(good.unwrap().len(), 1);
    assert_eq!(bad.unwrap_err().sqlstate(), Some("22012"));
    let wrong = ask(&database, "SELECT $1::int2", &[Value::Int(70_000)])
        .await
        .unwrap_err();
    assert!(matches!(wrong, Error::Parameter { .. }), "{wrong}");
    assert_eq!(database.stats().pipeline.unwrap().connections, 1);
}

#[tokio::test]
async fn a_slow_statement_moves_to_a_connection_of_its_own() {
    let database = open(|config| config.pipeline.statement_timeout = Duration::from_millis(50)).await;
    let slow = "SELECT 5 FROM pg_sleep(0.2)";
    assert_eq!(
        ask(&database, slow, &[]).await.unwrap(),
        [[Value::Int(5)]],
        "ended here, answered elsewhere"
    );
    let stats = database.stats().pipeline.unwrap();
    assert_eq!(stats.moved, 1);
    ask(&database, slow, &[]).await.unwrap();
    let after = database.stats().pipeline.unwrap();
    assert_eq!(
        (after.elsewhere - stats.elsewhere, after.answered),
        (1, stats.answered)
    );
}

#[tokio::test]
async fn a_large_answer_moves_to_a_connection_of_its_own() {
    let database = open(|config| config.pipeline.rows_max = 10).await;
    let large = "SELECT n FROM generate_series(1, 1000) AS n";
    assert_eq!(ask(&database, large, &[]).await.unwrap().len(), 1_000);
    assert_eq!(database.stats().pipeline.unwrap().moved, 1);
}

#[tokio::test]
async fn a_dropped_statement_cancels_nothing() {
    let database = open(|config| config.pipeline.connections = 1).await;
    let sleeps = "SELECT 1 FROM pg_sleep(0.3)";
    let given_up = timeout(Duration::from_millis(50), ask(&database, sleeps, &[]));
    let (given_up, neighbour) = tokio::join!(given_up, ask(&database, "SELECT 2", &[]));
    assert!(given_up.is_err());
    assert_eq!(
        neighbour.unwrap(),
        [[Value::Int(2)]],
        "the neighbour behind it is answered"
    );
}

#[tokio::test]
async fn the_deadline_includes_the_queue() {
    let database = open(|config| {
        (config.pipeline.connections, config.pipeline.in_flight_max) = (1, 1);
    })
    .await;
    let mut first = Select::new("SELECT 1 FROM pg_sleep(0.5)", &[]);
    first.pipeline = true;
    let mut second = Select::new("SELECT 2", &[]);
    (second.pipeline, second.timeout) = (true, Duration::from_millis(50));
    let (first, second) = tokio::join!(database.select(first), database.select(second));
    assert!(matches!(second.unwrap_err(), Error::Timeout { .. }));
    first.unwrap();
}

#[tokio::test]
async fn nothing_is_written_and_nothing_stays_in_the_session() {
    let database = open(|_| {}).await;
    let error = ask(&database, "WITH a AS (SELECT 1) SELECT nextval('s')", &[])
        .await
        .unwrap_err();
    assert_eq!(error.sqlstate(), Some("42P01"), "{error}");
    database
        .write(async |tx| tx.batch("CREATE SEQUENCE s").await)
        .await
        .unwrap();
    let error = ask(&database, "SELECT nextval('s')", &[]).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("25006"), "{error}");
    let before = answered(&database);
    ask(
        &database,
        "SELECT set_config('search_path', 'nowhere', false)",
        &[],
    )
    .await
    .unwrap();
    assert_eq!(answered(&database), before, "not on a shared session");
    let connections = database.stats().pipeline.unwrap().connections;
    assert!(connections >= 1, "a refused write does not cost the connection");
}

#[tokio::test]
async fn a_changed_table_is_prepared_anew() {
    let database = open(|_| {}).await;
    database
        .write(async |tx| tx.batch("CREATE TABLE t AS SELECT 1 AS a").await)
        .await
        .unwrap();
    let sql = "SELECT * FROM t";
    assert_eq!(ask(&database, sql, &[]).await.unwrap(), [[Value::Int(1)]]);
    let change = "ALTER TABLE t ALTER a TYPE text USING 'one'";
    database.write(async |tx| tx.batch(change).await).await.unwrap();
    for _ in 0..6 {
        assert_eq!(
            ask(&database, sql, &[]).await.unwrap(),
            [[Value::Text("one".into())]]
        );
    }
}

#[tokio::test]
async fn a_killed_connection_costs_nothing_and_comes_back() {
    let database = open(|_| {}).await;
    until("all of them are open", async || {
        ask(&database, "SELECT 1", &[]).await.unwrap();
        database.stats().pipeline.unwrap().connections == 4
    })
    .await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    assert_ne!(one(&database, kill).await, Value::Int(0));
    for n in 0..20 {
        let rows = ask(&database, "SELECT $1::int8", &[Value::Int(n)]).await.unwrap();
        assert_eq!(rows, [[Value::Int(n)]]);
    }
    let before = answered(&database);
    until("it is back", async || {
        ask(&database, "SELECT 1", &[]).await.unwrap();
        answered(&database) > before + 3
    })
    .await;
}
