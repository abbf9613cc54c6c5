//! Rows that wait on disk while the database is away, and come back in order, once.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use tidegate_cluster::Cluster;
use tidegate_store::ingest::{self, State};
use tidegate_store::{Error, Feed, How, OnConflict, Operation, Template, spool};
use tokio::time::Instant;

use crate::ingest::{Bench, feed, ids, request};

/// A folder on the disk of the build, removed with this.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "ingest-spool-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn config(&self) -> ingest::Config {
        ingest::Config {
            patience: Duration::from_millis(100),
            resume_after: Duration::from_millis(100),
            spool: Some(spool::Config::new(&self.0)),
            ..ingest::Config::default()
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn words() -> Feed {
    let mut words = feed("words", "id:int8* a:int4", OnConflict::Update);
    words.tags = vec![Template::parse("words:{id}").unwrap()];
    words
}

const TABLE: &str = "CREATE TABLE words (id int8 PRIMARY KEY, a int4 CHECK (a >= 0))";

/// Waits until nothing is left in the spool and new rows go to the database.
pub(crate) async fn drained(bench: &Bench) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.ingest.stats().feeds.iter().any(|feed| feed.is_spooling) {
        assert!(
            Instant::now() < deadline,
            "not drained: {:?}",
            bench.ingest.stats()
        );
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_wait_on_disk_while_the_server_is_away() {
    let (cluster, dir) = (Cluster::temporary().unwrap(), Dir::new());
    let url = cluster.create_database("spool").unwrap();
    let bench = Bench::open(url, TABLE, vec![words()], dir.config()).await;
    assert_eq!(
        bench
            .send("words", r#"[{"id":1,"a":1},{"id":2,"a":1}]"#)
            .await
            .state,
        State::Committed
    );
    cluster.kill().unwrap();
    for (id, rows) in [
        ("one", r#"[{"id":1,"a":2},{"id":3,"a":-7}]"#),
        ("two", r#"[{"id":1,"a":3},{"id":4,"a":4},{"id":"x"}]"#),
    ] {
        let outcome = bench.try_send(request("words", Some(id), rows)).await.unwrap();
        assert_eq!((outcome.state, outcome.stored), (State::Spooled, 2));
        let again = bench.try_send(request("words", Some(id), rows)).await.unwrap();
        assert_eq!(again, outcome);
        let other = bench.try_send(request("words", Some(id), r#"{"id":9}"#)).await;
        assert!(matches!(other, Err(Error::IdReused { .. })), "{other:?}");
    }
    bench
        .send_as("words", Operation::Update, r#"[{"id":4,"a":5}]"#)
        .await;
    bench.send_as("words", Operation::Delete, r#"[{"id":2}]"#).await;
    let told: Vec<How> = bench
        .told
        .rows
        .lock()
        .unwrap()
        .iter()
        .map(|(.., how)| *how)
        .collect();
    assert_eq!(told.len(), 8, "once each: 2 committed, 6 spooled");
    assert_eq!(told.iter().filter(|how| **how == How::Spooled).count(), 6);
    let tags_before = bench.told.tags.lock().unwrap().len();
    cluster.start_again().unwrap();
    drained(&bench).await;
    assert_eq!(bench.ask("SELECT * FROM words ORDER BY id").await, "1|3\n4|5");
    assert_eq!(
        bench
            .ask("SELECT row_no, sqlstate FROM tidegate.dead_letter")
            .await,
        "1|23514"
    );
    assert_eq!(bench.told.n_rows(), 8, "the replay tells nobody again");
    assert!(
        bench.told.tags.lock().unwrap().len() > tags_before,
        "but the hooks are called"
    );
    let again = bench
        .try_send(request(
            "words",
            Some("one"),
            r#"[{"id":1,"a":2},{"id":3,"a":-7}]"#,
        ))
        .await
        .unwrap();
    assert_eq!(
        (again.state, again.stored, again.dead_lettered.len()),
        (State::Committed, 1, 1)
    );
    assert_eq!(bench.send("words", r#"[{"id":5}]"#).await.state, State::Committed);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spooled_rows_survive_a_restart_of_the_process() {
    let (cluster, dir) = (Cluster::temporary().unwrap(), Dir::new());
    let url = cluster.create_database("spool").unwrap();
    let numbers = || vec![feed("numbers", "id:int8", OnConflict::Error)];
    let bench = Bench::open(
        url.clone(),
        "CREATE TABLE numbers (id int8)",
        numbers(),
        dir.config(),
    )
    .await;
    bench.send("numbers", &ids(0..10)).await;
    cluster.kill().unwrap();
    let outcome = bench
        .try_send(request("numbers", Some("a"), &ids(10..2_510)))
        .await
        .unwrap();
    assert_eq!(outcome.state, State::Spooled);
    bench.finish().await;
    // The database is still away.
    let bench = Bench::open(url, "", numbers(), dir.config()).await;
    let again = bench
        .try_send(request("numbers", Some("a"), &ids(10..2_510)))
        .await
        .unwrap();
    assert_eq!((again.state, again.stored), (State::Spooled, 2_500));
    assert_eq!(bench.told.n_rows(), 0, "it was told before the restart");
    cluster.start_again().unwrap();
    drained(&bench).await;
    assert_eq!(
        bench
            .ask("SELECT count(*), count(DISTINCT id) FROM numbers")
            .await,
        "2510|2510"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_suspended_feed_wait_on_disk() {
    let (cluster, dir) = (Cluster::temporary().unwrap(), Dir::new());
    let url = cluster.create_database("spool").unwrap();
    let bench = Bench::open(url, TABLE, vec![words()], dir.config()).await;
    bench.send("words", r#"{"id":1}"#).await;
    bench.sql("DROP TABLE words").await;
    let outcome = bench.send("words", r#"[{"id":2,"a":2}]"#).await;
    assert_eq!(outcome.state, State::Spooled);
    bench.sql(TABLE).await;
    drained(&bench).await;
    assert_eq!(bench.ask("SELECT * FROM words").await, "2|2");
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_is_said_and_nothing_is_acknowledged() {
    let (cluster, dir) = (Cluster::temporary().unwrap(), Dir::new());
    let url = cluster.create_database("spool").unwrap();
    let config = ingest::Config {
        spool: Some(spool::Config {
            bytes_max: 256 << 10,
            segment_bytes: 64 << 10,
            record_bytes_max: 32 << 10,
            ..spool::Config::new(&dir.0)
        }),
        ..dir.config()
    };
    let numbers = feed("numbers", "id:int8", OnConflict::Error);
    let bench = Bench::open(url, "CREATE TABLE numbers (id int8)", vec![numbers], config).await;
    bench.send("numbers", &ids(0..1)).await;
    cluster.kill().unwrap();
    let mut acked = 1;
    let refused = loop {
        let first = acked + 1_000_000;
        match bench
            .try_send(request("numbers", None, &ids(first..first + 500)))
            .await
        {
            Ok(outcome) => acked += outcome.stored,
            Err(error) => break error,
        }
        assert!(acked < 100_000, "the spool never fills");
    };
    assert!(matches!(refused, Error::SpoolFull { .. }), "{refused:?}");
    cluster.start_again().unwrap();
    drained(&bench).await;
    assert_eq!(bench.ask("SELECT count(*) FROM numbers").await, acked.to_string());
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_spool_nothing_is_acknowledged_while_the_server_is_away() {
    let cluster = Cluster::temporary().unwrap();
    let url = cluster.create_database("spool").unwrap();
    let config = ingest::Config {
        patience: Duration::from_millis(100),
        ..ingest::Config::default()
    };
    let numbers = feed("numbers", "id:int8", OnConflict::Error);
    let bench = Bench::open(url, "CREATE TABLE numbers (id int8)", vec![numbers], config).await;
    bench.send("numbers", &ids(0..1)).await;
    cluster.kill().unwrap();
    let refused = bench
        .try_send(request("numbers", Some("a"), &ids(1..2)))
        .await
        .unwrap_err();
    assert!(refused.is_retryable(), "{refused:?}");
    cluster.start_again().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while let Err(error) = bench.try_send(request("numbers", Some("a"), &ids(1..2))).await {
        assert!(Instant::now() < deadline, "{error}");
    }
    assert_eq!(bench.ask("SELECT count(*) FROM numbers").await, "2");
    bench.finish().await;
}
