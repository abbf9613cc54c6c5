//! One server through its life: databases, crashes, restarts, standbys, the pooler.

use tidegate_cluster::{Cluster, Config, Error, PgBouncer};

/// Asks a server until it says what is expected; each question is a round trip, so this does not spin.
fn becomes(cluster: &Cluster, sql: &str, expected: &str) {
    let mut last = String::new();
    for _ in 0..500 {
        last = cluster.psql("postgres", sql).unwrap();
        if last == expected {
            return;
        }
    }
    panic!("{sql} stays {last}, expected {expected}");
}

#[test]
fn a_crash_loses_nothing_committed() {
    let cluster = Cluster::temporary().unwrap();
    let pid = cluster.pid().unwrap();
    cluster
        .psql(
            "postgres",
            "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2)",
        )
        .unwrap();
    cluster.kill().unwrap();
    assert_eq!(cluster.pid(), None);
    assert!(matches!(cluster.kill(), Err(Error::NotRunning(_))));
    assert!(matches!(
        cluster.psql("postgres", "SELECT 1"),
        Err(Error::Failed { .. })
    ));
    cluster.start_again().unwrap();
    assert_ne!(cluster.pid(), Some(pid));
    assert_eq!(
        cluster
            .psql("postgres", "SELECT sum(n), count(*) FROM t")
            .unwrap(),
        "3|2"
    );
    assert!(
        cluster.log().contains("was not properly shut down"),
        "{}",
        cluster.log()
    );
    assert!(matches!(cluster.start_again(), Err(Error::Running(_))));
    cluster.restart().unwrap();
    assert_eq!(cluster.psql("postgres", "SHOW fsync").unwrap(), "on");
}

#[test]
fn databases_get_names_of_their_own() {
    let cluster = Cluster::temporary().unwrap();
    let one = cluster.create_database("orders").unwrap();
    let other = cluster.create_database("orders").unwrap();
    assert_ne!(one, other);
    let names = "SELECT count(*) FROM pg_database WHERE datname LIKE 'orders%'";
    assert_eq!(cluster.psql("postgres", names).unwrap(), "2");
    let folder = cluster.folder().to_owned();
    drop(cluster);
    assert!(!folder.exists(), "a temporary folder goes with its cluster");
}

#[test]
fn a_lasting_folder_keeps_its_data_and_its_one_owner() {
    let parent = std::env::temp_dir().join(format!("tidegate-lasting-{}", std::process::id()));
    // Longer than a socket's path may be.
    let folder = parent.join("a-folder-with-quite-a-long-name".repeat(4));
    let config = || Config {
        folder: Some(folder.clone()),
        ..Config::default()
    };
    let cluster = Cluster::start(config()).unwrap();
    cluster.psql("postgres", "CREATE TABLE t (n int)").unwrap();
    assert!(matches!(Cluster::start(config()), Err(Error::InUse(_))));
    drop(cluster);
    let cluster = Cluster::start(config()).unwrap();
    assert_eq!(cluster.psql("postgres", "SELECT count(*) FROM t").unwrap(), "0");
    drop(cluster);
    std::fs::remove_dir_all(&parent).unwrap();
}

#[tokio::test]
async fn tcp_asks_for_the_password() {
    let config = Config {
        tcp: true,
        ..Config::default().with("max_connections", "17")
    };
    let cluster = Cluster::start(config).unwrap();
    assert_eq!(cluster.psql("postgres", "SHOW max_connections").unwrap(), "17");
    let url = cluster.tcp_url("postgres").unwrap();
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    assert_eq!(
        client.query_one("SELECT 5", &[]).await.unwrap().get::<_, i32>(0),
        5
    );
    let start = url.find("tidegate:").unwrap() + "tidegate:".len();
    let wrong = format!("{}wrong{}", &url[..start], &url[url.find('@').unwrap()..]);
    let error = tokio_postgres::connect(&wrong, tokio_postgres::NoTls)
        .await
        .err()
        .unwrap();
    assert_eq!(error.code().unwrap().code(), "28P01");
    let socket = tokio_postgres::connect(&cluster.url("postgres"), tokio_postgres::NoTls).await;
    assert!(socket.is_ok(), "the socket asks for none");
}

#[test]
fn a_standby_follows_and_is_promoted() {
    let primary = Cluster::temporary().unwrap();
    primary
        .psql("postgres", "CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
        .unwrap();
    let standby = primary.replica().unwrap();
    assert_eq!(
        standby.psql("postgres", "SELECT pg_is_in_recovery()").unwrap(),
        "t"
    );
    primary.psql("postgres", "INSERT INTO t VALUES (2)").unwrap();
    becomes(&standby, "SELECT count(*) FROM t", "2");
    let names = "SELECT application_name FROM pg_stat_replication";
    assert_eq!(primary.psql("postgres", names).unwrap(), standby.standby_name());
    primary.kill().unwrap();
    standby.promote().unwrap();
    standby.psql("postgres", "INSERT INTO t VALUES (3)").unwrap();
    assert_eq!(standby.psql("postgres", "SELECT count(*) FROM t").unwrap(), "3");
}

#[tokio::test]
async fn the_pooler_shares_server_connections() {
    let cluster = Cluster::temporary().unwrap();
    cluster.create_database("pooled").unwrap();
    let pooler = PgBouncer::start(&cluster).unwrap();
    let url = pooler.url("pooled_0");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let name = client.simple_query("SELECT current_database()").await.unwrap();
    assert!(format!("{name:?}").contains("pooled_0"), "{name:?}");
    drop(client);
    drop(pooler);
}

#[test]
fn a_server_that_refuses_its_settings_says_why() {
    let check = |name, value, expected: &str| {
        let error = Cluster::start(Config::default().with(name, value))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(
        "shared_buffers",
        "much",
        "invalid value for parameter \"shared_buffers\"",
    );
    check("no_such_setting", "1", "unrecognized configuration parameter");
    check("port", "1", "setting port: the cluster sets this itself");
}
