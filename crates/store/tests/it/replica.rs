//! Replicas and promotion, on real clusters that follow each other.

use std::time::Duration;

use tidegate_cluster::Cluster;
use tidegate_store::{Config, Database, Error, ReadToken, Select, Value, transaction::Options};

use crate::postgres::{name_of, one, open_with, psql, until};

/// A primary with one replica, and a database with a table that both have.
struct Pair {
    primary: &'static Cluster,
    replica: &'static Cluster,
    url: String,
}

impl Pair {
    async fn start() -> Self {
        let started = tokio::task::spawn_blocking(|| {
            let primary: &'static Cluster = Box::leak(Box::new(Cluster::temporary().unwrap()));
            let url = primary.create_database("pair").unwrap();
            primary.psql(name_of(&url), "CREATE TABLE t (n int8)").unwrap();
            let replica: &'static Cluster = Box::leak(Box::new(primary.replica().unwrap()));
            Self {
                primary,
                replica,
                url,
            }
        });
        started.await.unwrap()
    }

    fn name(&self) -> &str {
        name_of(&self.url)
    }

    /// The database with its replica, looked at often.
    async fn open(&self, change: impl FnOnce(&mut Config)) -> Database {
        let replica = self.replica.url(self.name());
        let database = open_with(&self.url, |config| {
            config.replicas.urls = vec![replica];
            config.replicas.every = Duration::from_millis(100);
            config.replicas.pool.min = 0;
            change(config);
        })
        .await;
        until("the replica is asked", async || {
            database.stats().replicas[0].healthy
        })
        .await;
        database
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Leaked for the tasks that use them; their servers end here.
        let _ = (self.replica.stop(), self.primary.stop());
    }
}

/// Reads where the answer comes from: `true` for the replica.
async fn from_replica(database: &Database, token: Option<&ReadToken>) -> bool {
    let mut select = Select::new("SELECT pg_is_in_recovery()", &[]);
    (select.replica, select.token) = (true, token);
    let rows = database.select(select).await.unwrap().collect().await.unwrap();
    rows[0][0] == Value::Bool(true)
}

async fn insert(database: &Database, n: i64) -> ReadToken {
    try_insert(database, n).await.unwrap()
}

async fn try_insert(database: &Database, n: i64) -> Result<ReadToken, Error> {
    let params = [Value::Int(n)];
    let written = database.write_token(async |tx| tx.execute("INSERT INTO t VALUES ($1)", &params).await);
    Ok(written.await?.1.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_to_a_replica_that_is_near_and_has_what_was_written() {
    let pair = Pair::start().await;
    let database = pair
        .open(|config| config.replicas.lag_max = Duration::from_millis(500))
        .await;
    assert!(from_replica(&database, None).await);
    let in_transaction = async |options| {
        let read = database.read_with(options, async |tx| {
            tx.query("SELECT pg_is_in_recovery()", &[]).await
        });
        read.await.unwrap()[0][0].clone()
    };
    assert_eq!(in_transaction(Options::default()).await, Value::Bool(true));
    let on_primary = Options {
        is_on_primary: true,
        ..Options::default()
    };
    assert_eq!(in_transaction(on_primary).await, Value::Bool(false));

    psql(pair.replica, pair.name(), "SELECT pg_wal_replay_pause()").await;
    let token = insert(&database, 1).await;
    assert!(
        !from_replica(&database, Some(&token)).await,
        "it has not got so far"
    );
    let with_token = Options {
        token: Some(&token),
        ..Options::default()
    };
    assert_eq!(in_transaction(with_token).await, Value::Bool(false));
    let other = ReadToken {
        timeline: token.timeline + 1,
        lsn: 0,
        ..token
    };
    assert!(!from_replica(&database, Some(&other)).await, "another history");
    until("the replica is too far behind", async || {
        !from_replica(&database, None).await
    })
    .await;
    let stats = database.stats().replicas[0].clone();
    assert!(
        stats.reason.unwrap().contains("behind") && stats.lag_ms > 500,
        "{}",
        stats.lag_ms
    );

    psql(pair.replica, pair.name(), "SELECT pg_wal_replay_resume()").await;
    until("it has caught up", async || {
        from_replica(&database, Some(&token)).await
    })
    .await;
    assert_eq!(database.read_token().await.unwrap().timeline, token.timeline);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_fails_no_read() {
    let pair = Pair::start().await;
    let database = pair.open(|_| {}).await;
    assert!(from_replica(&database, None).await);
    let replica = pair.replica;
    let killed = tokio::task::spawn_blocking(|| replica.kill().unwrap());
    for _ in 0..50 {
        from_replica(&database, None).await;
    }
    killed.await.unwrap();
    assert!(!from_replica(&database, None).await);
    tokio::task::spawn_blocking(|| replica.start_again().unwrap())
        .await
        .unwrap();
    until("it is asked again", async || from_replica(&database, None).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_to_the_promoted_server() {
    let pair = Pair::start().await;
    let hosts = |cluster: &Cluster| {
        let url = cluster.url(pair.name());
        url.strip_prefix("postgres://")
            .unwrap()
            .split(['@', '/'])
            .nth(1)
            .unwrap()
            .to_owned()
    };
    let user = pair
        .url
        .strip_prefix("postgres://")
        .unwrap()
        .split('@')
        .next()
        .unwrap();
    let url = format!(
        "postgres://{user}@{},{}/{}",
        hosts(pair.primary),
        hosts(pair.replica),
        pair.name()
    );
    let database = open_with(&url, |config| config.replicas.every = Duration::from_millis(100)).await;
    let before = insert(&database, 1).await;
    let (primary, replica) = (pair.primary, pair.replica);
    psql(pair.replica, "postgres", "SELECT 1").await;
    let moved = tokio::task::spawn_blocking(|| {
        primary.kill().unwrap();
        replica.promote().unwrap();
    });
    // Begun while there is no primary, and answered by the next one.
    let mut after = loop {
        match try_insert(&database, 2).await {
            Ok(token) => break token,
            // The old one was killed between the commit and its answer.
            Err(Error::Lost(_)) => {}
            Err(error) => panic!("{error}"),
        }
    };
    moved.await.unwrap();
    while after.timeline == before.timeline {
        // Written before the old one was killed.
        after = insert(&database, 3).await;
    }
    assert_eq!(after.system_id, before.system_id);
    assert!(after.timeline > before.timeline, "{after:?}");
    let info = database.ping().await.unwrap();
    assert!(!info.is_replica && info.timeline == after.timeline, "{info:?}");
    // The old one comes back and believes that it still is the primary.
    tokio::task::spawn_blocking(|| primary.start_again().unwrap())
        .await
        .unwrap();
    database.postgres().unwrap().report_broken();
    for n in 10..30 {
        assert_eq!(insert(&database, n).await.timeline, after.timeline);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_does_not_know_it_was_replaced_is_left() {
    let pair = Pair::start().await;
    let host = |cluster: &Cluster| cluster.socket_folder().to_str().unwrap().replace('/', "%2F");
    let user = pair
        .url
        .strip_prefix("postgres://")
        .unwrap()
        .split('@')
        .next()
        .unwrap();
    let (primary, replica) = (pair.primary, pair.replica);
    let url = format!(
        "postgres://{user}@{}:{},{}:{}/{}",
        host(primary),
        primary.port(),
        host(replica),
        replica.port(),
        pair.name()
    );
    let database = open_with(&url, |config| config.replicas.every = Duration::from_millis(100)).await;
    let before = insert(&database, 1).await;
    tokio::task::spawn_blocking(|| replica.promote().unwrap())
        .await
        .unwrap();
    until("writes go to the new one", async || {
        insert(&database, 2).await.timeline > before.timeline
    })
    .await;
    assert_eq!(
        one(&database, "SELECT pg_is_in_recovery()").await,
        Value::Bool(false)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_server_that_only_follows_refuses_writes() {
    let pair = Pair::start().await;
    let database = open_with(&pair.replica.url(pair.name()), |config| {
        config.pool.acquire_timeout = Duration::from_millis(400);
    })
    .await;
    assert!(database.ping().await.unwrap().is_replica);
    assert_eq!(one(&database, "SELECT count(*) FROM t").await, Value::Int(0));
    let error = database
        .write(async |tx| tx.execute("INSERT INTO t VALUES (1)", &[]).await)
        .await;
    let error = error.unwrap_err();
    assert!(
        matches!(&error, Error::Database { sqlstate, .. } if sqlstate == "25006"),
        "{error}"
    );
}
