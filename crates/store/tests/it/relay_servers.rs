//! The outbox on servers of its own: they restart, crash, are promoted, and prepare transactions.

use std::time::Duration;

use tidegate_cluster::Cluster;
use tidegate_store::relay;
use tokio::time::timeout;

use crate::relay::{Call, PATIENCE, World, numbers, publish, run, session, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_loses_nothing() {
    let cluster = Cluster::temporary().unwrap();
    let url = cluster.create_database("relay").unwrap();
    let world = World::on(url.clone()).await;
    let (relay, heard) = world.relay("one");
    for round in 0..3 {
        let from = round * 20;
        let writer = session(&url).await;
        for n in from..from + 20 {
            run(&writer, &publish(n..n + 1)).await;
        }
        drop(writer);
        cluster.restart().unwrap();
    }
    heard.wait(60).await;
    assert_eq!(heard.data(), numbers(0..60));
    relay.finish(PATIENCE).await;
    assert_eq!(
        cluster
            .psql(world.name(), "SELECT count(*) FROM tidegate.outbox")
            .unwrap(),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_that_takes_transactions_with_it_hides_none_of_the_later_ones() {
    let cluster = Cluster::temporary().unwrap();
    let url = cluster.create_database("relay").unwrap();
    let world = World::on(url.clone()).await;
    let psql = |sql: &str| cluster.psql(world.name(), sql).unwrap();
    for setting in [
        "synchronous_commit = off",
        "wal_writer_delay = '10s'",
        "wal_writer_flush_after = '1GB'",
    ] {
        psql(&format!("ALTER SYSTEM SET {setting}"));
    }
    psql("SELECT pg_reload_conf()");
    let (relay, heard) = world.relay("one");
    until(&relay, |stats| stats.nodes == 1).await;
    psql("CHECKPOINT");
    let writer = session(&url).await;
    for n in 0..200 {
        run(&writer, &publish(n..n + 1)).await;
    }
    heard.wait(200).await;
    let read = relay.stats().position;
    drop(writer);
    cluster.kill().unwrap();
    cluster.start_again().unwrap();
    let next = psql("SELECT pg_snapshot_xmax(pg_current_snapshot())");
    assert!(
        next.parse::<u64>().unwrap() < read.xid,
        "no number was given back: {next}, read up to {read}"
    );
    let n_before = heard.entries().len();
    psql(&publish(1_000..1_010));
    heard
        .wait_for("later rows", || heard.data().ends_with(&numbers(1_000..1_010)))
        .await;
    assert!(
        heard.calls().contains(&Call::Everything),
        "tags were lost with the transactions"
    );
    let entries = heard.entries();
    let history = |at: usize| &entries[at].history;
    assert_ne!(history(n_before - 1), history(entries.len() - 1));
    relay.finish(PATIENCE).await;
    assert_eq!(psql("SELECT count(*) FROM tidegate.outbox"), "0");
}

/// The host of a server in a URL of several.
fn host(cluster: &Cluster) -> String {
    let folder = cluster.socket_folder().to_str().unwrap().replace('/', "%2F");
    format!("{folder}:{}", cluster.port())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_server_that_lost_transactions_is_read_all_the_same() {
    let primary = Cluster::temporary().unwrap();
    let url = primary.create_database("relay").unwrap();
    let replica = primary.replica().unwrap();
    let (user, name) = (
        url.split(['/', '@']).nth(2).unwrap(),
        url.rsplit('/').next().unwrap(),
    );
    let world = World::on(format!(
        "postgres://{user}@{},{}/{name}",
        host(&primary),
        host(&replica)
    ))
    .await;
    let (relay, heard) = world.relay("one");
    until(&relay, |stats| stats.nodes == 1).await;
    let place = "SELECT count(*) FROM tidegate.outbox_reader WHERE node = 'one'";
    let both = timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !replica.psql(name, place).is_ok_and(|n| n == "1") {
            ticks.tick().await;
        }
    });
    both.await.unwrap();
    // The replica hears no more, and what follows is lost with the primary, the numbers of its transactions too.
    replica
        .psql(
            name,
            "ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()",
        )
        .unwrap();
    let cut = timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while replica
            .psql(name, "SELECT count(*) FROM pg_stat_wal_receiver")
            .unwrap()
            != "0"
        {
            ticks.tick().await;
        }
    });
    cut.await.unwrap();
    primary.psql(name, &publish(0..100)).unwrap();
    heard.wait(100).await;
    primary.kill().unwrap();
    replica.promote().unwrap();
    replica.psql(name, &publish(100..110)).unwrap();
    heard.wait(110).await;
    assert!(heard.data().ends_with(&numbers(100..110)), "{:?}", heard.data());
    assert!(
        heard.calls().contains(&Call::Everything),
        "tags were lost with the transactions"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_notifies_nobody_can_be_prepared() {
    let cluster = Cluster::temporary().unwrap();
    let url = cluster.create_database("relay").unwrap();
    cluster
        .psql("postgres", "ALTER SYSTEM SET max_prepared_transactions = 2")
        .unwrap();
    cluster.restart().unwrap();
    let world = World::on(url).await;
    let (_relay, heard) = world.relay("one");
    let session = world.session().await;
    let prepare = |before: &str| format!("BEGIN; {before} {} PREPARE TRANSACTION 'two'", publish(0..1));
    let refused = session.client().batch_execute(&prepare("")).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "0A000");
    run(&session, "ROLLBACK").await;
    run(&session, &prepare("SET LOCAL tidegate.notify = 'off';")).await;
    // A moment of the reader's own may be older.
    let named = timeout(PATIENCE, async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let oldest = async || {
            let look = relay::look(&world.database).await.unwrap().unwrap();
            look.oldest_transaction.unwrap_or_default()
        };
        while !oldest().await.starts_with("prepared transaction 'two' of ") {
            ticks.tick().await;
        }
    });
    named.await.expect("the oldest is named");
    run(&session, "COMMIT PREPARED 'two'").await;
    assert_eq!(heard.wait(1).await[0].data.as_deref(), Some("0"));
}
