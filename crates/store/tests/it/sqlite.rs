//! The façade over an SQLite file.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use tidegate_store::{
    Error, Kind, Type, Value,
    database::{Config, Context, Database},
    select::Select,
};
use tidegate_vitals::{Clock, Registry};

/// A folder of its own, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "tidegate-store-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        Self(std::env::temp_dir().join(name))
    }

    /// URL of a file in it.
    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}/data/t.db", self.0.display())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(folder: &Folder) -> Database {
    let context = Context::new(Clock::real(), Registry::new());
    Database::open(Config::new(folder.url()), context).await.unwrap()
}

async fn count(database: &Database) -> i64 {
    let rows = database
        .select(Select::new("SELECT count(*) FROM t", &[]))
        .await
        .unwrap();
    match rows.collect().await.unwrap()[0][0] {
        Value::Int(n) => n,
        ref other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_transaction_commits_on_ok_and_rolls_back_on_err_and_drop() {
    let folder = Folder::new();
    let database = open(&folder).await;
    assert_eq!(database.kind(), Kind::Sqlite);
    database
        .write(async |tx| {
            tx.batch("CREATE TABLE t (a INTEGER PRIMARY KEY, n TEXT) STRICT")
                .await
        })
        .await
        .unwrap();
    let stored = database
        .write(async |tx| {
            tx.execute(
                "INSERT INTO t VALUES ($2, $1)",
                &[Value::Text("x".into()), Value::Int(1)],
            )
            .await
        })
        .await;
    assert_eq!(stored.unwrap(), 1);
    let failed: Result<(), Error> = database
        .write(async |tx| {
            tx.execute("INSERT INTO t VALUES (2, 'y')", &[]).await?;
            Err(Error::BadRequest("no".to_owned()))
        })
        .await;
    assert_eq!(failed.unwrap_err().to_string(), "no");
    let work = database.write(async |tx| {
        tx.execute("INSERT INTO t VALUES (3, 'z')", &[]).await?;
        std::future::pending::<()>().await;
        Ok(())
    });
    let long = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(long, work).await.is_err());
    assert_eq!(count(&database).await, 1);
    // The writer is free again, and works.
    database
        .write(async |tx| tx.execute("INSERT INTO t VALUES (4, 'w')", &[]).await)
        .await
        .unwrap();
    assert_eq!(count(&database).await, 2);
    let stats = database.stats().transactions;
    assert_eq!(stats.committed, 3);
    database.close().await;
}

#[tokio::test]
async fn reads_run_beside_a_writer_and_cannot_write() {
    let folder = Folder::new();
    let database = open(&folder).await;
    database
        .write(async |tx| tx.batch("CREATE TABLE t (a INTEGER) STRICT").await)
        .await
        .unwrap();
    database
        .write(async |tx| {
            tx.execute("INSERT INTO t VALUES (1)", &[]).await?;
            // Another connection sees the state before.
            let other = database.clone();
            let seen = tokio::spawn(async move { count(&other).await }).await.unwrap();
            assert_eq!(seen, 0);
            Ok(())
        })
        .await
        .unwrap();
    let refused = database
        .read(async |tx| tx.execute("DELETE FROM t", &[]).await)
        .await
        .unwrap_err();
    assert_eq!(refused.sqlstate(), Some("25006"));
    let refused = database
        .select(Select::new("DELETE FROM t RETURNING a", &[]))
        .await;
    let refused = match refused {
        Ok(rows) => rows.collect().await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refused.sqlstate(), Some("25006"));
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn rows_come_as_they_are_read_with_the_types_asked_for() {
    let folder = Folder::new();
    let database = open(&folder).await;
    let sql = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) \
               SELECT i, i * 1000000 AS at FROM n";
    let returns = [("at".to_owned(), Type::Timestamptz)];
    let select = Select {
        returns: &returns,
        ..Select::new(sql, &[Value::Int(1_000_000_000)])
    };
    let mut rows = database.select(select).await.unwrap();
    assert_eq!(rows.columns()[1].kind, Type::Timestamptz);
    for i in 1..=1_000 {
        let row = rows.next().await.unwrap().unwrap();
        assert_eq!(row, [Value::Int(i), Value::Timestamptz(i * 1_000_000)]);
    }
    drop(rows);
    let slow = Select {
        timeout: std::time::Duration::from_millis(50),
        ..Select::new(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
            &[],
        )
    };
    let error = match database.select(slow).await {
        Ok(rows) => rows.collect().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn a_wrong_place_is_said_at_once() {
    let context = || Context::new(Clock::real(), Registry::new());
    for (url, named) in [
        ("sqlite:/proc/nowhere/t.db", "/proc/nowhere"),
        ("sqlite::memory:", "in-memory"),
    ] {
        let error = Database::open(Config::new(url), context()).await.unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}

#[tokio::test]
async fn a_nested_transaction_is_refused() {
    let folder = Folder::new();
    let database = open(&folder).await;
    let nested = database
        .write(async |_| database.write(async |tx| tx.batch("SELECT 1").await).await)
        .await;
    assert!(matches!(nested, Err(Error::Nested)), "{nested:?}");
}
