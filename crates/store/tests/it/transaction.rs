//! Transactions against a real PostgreSQL: what commits, what rolls back, what is repeated.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_store::{
    Database, Error, Isolation, Select, Value,
    transaction::{Options, Transaction},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::Barrier,
    time::timeout,
};

use crate::{
    postgres::{name_of, one, open, open_with, until},
    support,
};

async fn table(url: &str) -> Database {
    let database = open_with(url, |config| (config.pool.size, config.pool.overflow) = (3, 0)).await;
    let make = "CREATE TABLE t (n int8 PRIMARY KEY, v int8 NOT NULL DEFAULT 0)";
    database.write(async |tx| tx.batch(make).await).await.unwrap();
    database
}

async fn count(database: &Database) -> Value {
    one(database, "SELECT count(*) FROM t").await
}

async fn insert(tx: &Transaction, n: i64) -> Result<u64, Error> {
    tx.execute("INSERT INTO t (n) VALUES ($1)", &[Value::Int(n)])
        .await
}

fn mine(text: &str) -> Error {
    Error::BadRequest(text.to_owned())
}

#[tokio::test]
async fn ok_commits_and_everything_else_rolls_back() {
    let database = table(&support::database()).await;
    database.write(async |tx| insert(tx, 1).await).await.unwrap();
    let error = database
        .write(async |tx| {
            insert(tx, 2).await?;
            Err::<(), _>(mine("no"))
        })
        .await;
    assert_eq!(error.unwrap_err().to_string(), "no");
    let panicking = database.clone();
    let panicked = tokio::spawn(async move {
        let written = panicking.write(async |tx| {
            insert(tx, 3).await?;
            assert!(tx.client().is_none(), "on purpose");
            Ok(())
        });
        written.await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    let dropped = database.write(async |tx| {
        insert(tx, 4).await?;
        std::future::pending::<Result<(), Error>>().await
    });
    assert!(timeout(Duration::from_millis(50), dropped).await.is_err());
    assert_eq!(count(&database).await, Value::Int(1));
    until("all connections given back", async || {
        database.stats().pool.unwrap().in_use == 0
    })
    .await;
    let stats = database.stats().transactions;
    assert_eq!(
        (stats.committed, stats.rolled_back),
        (2, 1),
        "the table, and one row"
    );
}

#[tokio::test]
async fn transactions_run_inside_spawned_tasks() {
    let database = table(&support::database()).await;
    let tasks: Vec<_> = (0..8)
        .map(|n| {
            let database = database.clone();
            let name = format!("row {n}");
            tokio::spawn(async move {
                let done = database.write(async |tx| {
                    insert(tx, n).await?;
                    Ok(name.len())
                });
                let length = done.await?;
                let once = database.write_once(async |tx| insert(tx, n + 100).await);
                once.await?;
                let (_, token) = database.write_token(async |tx| insert(tx, n + 200).await).await?;
                assert!(token.unwrap().lsn > 0);
                let seen = database
                    .read(async |tx| tx.query("SELECT n FROM t", &[]).await)
                    .await?;
                assert!(seen.len() >= 3 && length == 5);
                Ok::<_, Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(count(&database).await, Value::Int(24));
}

#[tokio::test]
async fn a_transaction_inside_a_transaction_is_refused() {
    let (database, other) = (
        table(&support::database()).await,
        open(&support::database()).await,
    );
    let nested = database.write(async |tx| {
        insert(tx, 1).await?;
        database.read(async |tx| insert(tx, 2).await).await
    });
    assert!(matches!(nested.await.unwrap_err(), Error::Nested));
    let selected = database.write(async |_| database.select(Select::new("SELECT 1", &[])).await.map(drop));
    assert!(matches!(selected.await.unwrap_err(), Error::Nested));
    let elsewhere = database.write(async |_| Ok(one(&other, "SELECT 3").await));
    assert_eq!(
        elsewhere.await.unwrap(),
        Value::Int(3),
        "another database is no nesting"
    );
    let back = database.write(async |_| {
        other
            .write(async |_| database.write(async |_| Ok(())).await)
            .await
    });
    assert!(
        matches!(back.await.unwrap_err(), Error::Nested),
        "also through another one"
    );
}

#[tokio::test]
async fn a_passed_over_error_does_not_become_a_quiet_rollback() {
    let database = table(&support::database()).await;
    let quiet = database.write(async |tx| {
        insert(tx, 1).await?;
        let _ = tx.batch("SELECT 1/0").await;
        Ok(())
    });
    let error = quiet.await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("25P02"), "{error}");
    assert_eq!(count(&database).await, Value::Int(0));
    let deferred = "ALTER TABLE t ADD CONSTRAINT late UNIQUE (v) DEFERRABLE INITIALLY DEFERRED";
    database.write(async |tx| tx.batch(deferred).await).await.unwrap();
    let late = database.write(async |tx| {
        insert(tx, 1).await?;
        insert(tx, 2).await
    });
    let error = late.await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("23505"), "found at the commit: {error}");
    assert_eq!(count(&database).await, Value::Int(0));
}

#[tokio::test]
async fn reads_cannot_write() {
    let database = table(&support::database()).await;
    let error = database.read(async |tx| insert(tx, 1).await).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("25006"), "{error}");
    let stats = database.stats();
    assert_eq!(stats.transactions.retried, 0, "no server would take it");
    assert!(
        stats.pool.unwrap().open >= 1,
        "that says nothing about the server"
    );
}

#[tokio::test]
async fn serialization_failures_are_repeated() {
    let database = table(&support::database()).await;
    database.write(async |tx| insert(tx, 1).await).await.unwrap();
    let options = Options {
        isolation: Some(Isolation::Serializable),
        ..Options::default()
    };
    let n_runs = AtomicU32::new(0);
    let both_read = Barrier::new(2);
    let add = async |mine: &AtomicU32| {
        database
            .write_with(options, async |tx| {
                n_runs.fetch_add(1, Relaxed);
                let v = tx.query("SELECT v FROM t WHERE n = 1", &[]).await?[0][0].clone();
                if mine.fetch_add(1, Relaxed) == 0 {
                    both_read.wait().await;
                }
                let Value::Int(v) = v else {
                    return Err(mine_wrong(&v));
                };
                tx.execute("UPDATE t SET v = $1 WHERE n = 1", &[Value::Int(v + 1)])
                    .await
            })
            .await
    };
    let (first, second) = (AtomicU32::new(0), AtomicU32::new(0));
    let (a, b) = tokio::join!(add(&first), add(&second));
    a.and(b).unwrap();
    assert_eq!(
        one(&database, "SELECT v FROM t").await,
        Value::Int(2),
        "no update was lost"
    );
    assert!(n_runs.load(Relaxed) >= 3);
    assert!(database.stats().transactions.retried >= 1);
}

fn mine_wrong(value: &Value) -> Error {
    mine(&format!("{value:?} is no integer"))
}

#[tokio::test]
async fn deadlocks_are_repeated() {
    let database = table(&support::database()).await;
    database
        .write(async |tx| tx.batch("INSERT INTO t VALUES (1), (2)").await)
        .await
        .unwrap();
    let both_hold = Barrier::new(2);
    let add = async |rows: [i64; 2], runs: &AtomicU32| {
        database
            .write(async |tx| {
                let update = "UPDATE t SET v = v + 1 WHERE n = $1";
                tx.execute(update, &[Value::Int(rows[0])]).await?;
                if runs.fetch_add(1, Relaxed) == 0 {
                    both_hold.wait().await;
                }
                tx.execute(update, &[Value::Int(rows[1])]).await
            })
            .await
    };
    let (first, second) = (AtomicU32::new(0), AtomicU32::new(0));
    let (a, b) = tokio::join!(add([1, 2], &first), add([2, 1], &second));
    a.and(b).unwrap();
    assert_eq!(one(&database, "SELECT sum(v)::int8 FROM t").await, Value::Int(4));
    assert_eq!(
        first.load(Relaxed) + second.load(Relaxed),
        3,
        "one of them ran twice"
    );
}

// === A connection that is cut ===

/// Where a [`Proxy`] cuts the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// When the commit arrives: the server never sees it.
    BeforeCommit,
    /// When the server has answered the commit: the client never sees it.
    AfterCommit,
    /// When the first statement of a transaction arrives, once.
    BeforeInsert,
}

/// Stands before a server on a Unix socket of its own, and cuts connections.
struct Proxy {
    folder: PathBuf,
    _listens: tokio::task::JoinSet<()>,
}

impl Proxy {
    fn start(cut: Cut, n_cuts: usize) -> Self {
        static N: AtomicUsize = AtomicUsize::new(0);
        let name = format!("tidegate-cut-{}-{}", std::process::id(), N.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
        let cluster = support::cluster();
        let server = cluster
            .socket_folder()
            .join(format!(".s.PGSQL.{}", cluster.port()));
        let left = Arc::new(AtomicUsize::new(n_cuts));
        let mut listens = tokio::task::JoinSet::new();
        listens.spawn(async move {
            let mut relays = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = UnixStream::connect(&server).await.unwrap();
                relays.spawn(relay(client, server, cut, Arc::clone(&left)));
            }
        });
        Self {
            folder,
            _listens: listens,
        }
    }

    fn url(&self, database: &str) -> String {
        let folder = self.folder.to_str().unwrap().replace('/', "%2F");
        let user = support::database();
        let user = user
            .strip_prefix("postgres://")
            .unwrap()
            .split('@')
            .next()
            .unwrap();
        format!("postgres://{user}@{folder}/{database}")
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn relay(mut client: UnixStream, mut server: UnixStream, cut: Cut, left: Arc<AtomicUsize>) {
    let (mut up, mut down) = ([0; 8_192], [0; 8_192]);
    let mut is_armed = false;
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Some(n) = read.ok().filter(|n| *n > 0) else { return };
                let text = String::from_utf8_lossy(&up[..n]);
                let mark = if cut == Cut::BeforeInsert { "INSERT" } else { "COMMIT" };
                let may = || left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
                if text.contains(mark) && may() {
                    if cut != Cut::AfterCommit {
                        return;
                    }
                    is_armed = true;
                }
                if server.write_all(&up[..n]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Some(n) = read.ok().filter(|n| *n > 0) else { return };
                if is_armed || client.write_all(&down[..n]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn check_cut_at_commit(cut: Cut, expected: i64) {
    let url = support::database();
    let direct = table(&url).await;
    let proxy = Proxy::start(cut, 1);
    let database = open(&proxy.url(name_of(&url))).await;
    let error = database.write(async |tx| insert(tx, 1).await).await.unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    assert!(error.to_string().contains("not known"), "{error}");
    until("the server has ended it", async || {
        let others =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start < now()";
        one(&direct, others).await == Value::Int(0)
    })
    .await;
    assert_eq!(count(&direct).await, Value::Int(expected));
    assert_eq!(database.stats().transactions.unknown, 1);
    // The pool goes on.
    database.write(async |tx| insert(tx, 2).await).await.unwrap();
    assert_eq!(count(&direct).await, Value::Int(expected + 1));
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_of_unknown_outcome() {
    check_cut_at_commit(Cut::BeforeCommit, 0).await;
    check_cut_at_commit(Cut::AfterCommit, 1).await;
}

#[tokio::test]
async fn a_connection_lost_before_the_commit_is_repeated() {
    let url = support::database();
    let direct = table(&url).await;
    let proxy = Proxy::start(Cut::BeforeInsert, 2);
    let database = open(&proxy.url(name_of(&url))).await;
    database.write(async |tx| insert(tx, 1).await).await.unwrap();
    assert_eq!(count(&direct).await, Value::Int(1));
    assert_eq!(database.stats().transactions.retried, 2);
}
