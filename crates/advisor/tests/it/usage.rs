//! Unused and superfluous indexes on real servers, a standby included.

use std::time::Duration;

use tidegate_advisor::{duplicate, unused};
use tidegate_cluster::Cluster;

use crate::support::{ask, connect, database, run};

const TABLE: &str = "
    CREATE TABLE t (a int PRIMARY KEY, b int, c int, d int);
    CREATE INDEX t_b ON t (b);
    CREATE INDEX t_c ON t (c);
    CREATE UNIQUE INDEX t_d ON t (d);
    INSERT INTO t SELECT n, n, n, n FROM generate_series(1, 10000) n;
    ANALYZE t";

#[tokio::test]
async fn an_index_without_scans_is_unused() {
    let (client, _) = database().await;
    run(&client, TABLE).await;
    run(
        &client,
        "SET enable_seqscan = off;\nSELECT * FROM t WHERE b = 5;\nSELECT pg_stat_force_next_flush()",
    )
    .await;
    let found = unused(&client, &[], Duration::ZERO).await.unwrap();
    let names: Vec<&str> = found.indexes.iter().map(|index| index.name.as_str()).collect();
    assert_eq!(names, ["public.t_c"], "{found:?}");
    assert_eq!(found.indexes[0].sql, "DROP INDEX CONCURRENTLY public.t_c");
    assert!(
        found.indexes[0].bytes > 0 && found.indexes[0].rows_written >= 10_000,
        "{found:?}"
    );
    let found = unused(&client, &[], Duration::from_secs(86_400 * 365))
        .await
        .unwrap();
    assert!(!found.is_conclusive && found.indexes.is_empty(), "{found:?}");
}

#[tokio::test]
async fn reads_of_a_standby_count() {
    let (primary, standby) = tokio::task::spawn_blocking(|| {
        let primary = Cluster::temporary().unwrap();
        primary.psql("postgres", TABLE).unwrap();
        let standby = primary.replica().unwrap();
        (primary, standby)
    })
    .await
    .unwrap();
    let client = connect(&primary.url("postgres")).await;
    let replica = connect(&standby.url("postgres")).await;
    run(
        &replica,
        "SET enable_seqscan = off;\nSELECT * FROM t WHERE c = 5;\nSELECT pg_stat_force_next_flush()",
    )
    .await;
    let names = async |replicas: &[&tokio_postgres::Client]| {
        let found = unused(&client, replicas, Duration::ZERO).await.unwrap();
        found
            .indexes
            .into_iter()
            .map(|index| index.name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&[]).await, ["public.t_b", "public.t_c"]);
    assert_eq!(names(&[&replica]).await, ["public.t_b"]);
}

#[tokio::test]
async fn a_partitioned_index_is_used_where_one_part_is() {
    let (client, _) = database().await;
    run(
        &client,
        "CREATE TABLE t (a int, b int) PARTITION BY RANGE (a);
         CREATE TABLE t_one PARTITION OF t FOR VALUES FROM (0) TO (10);
         CREATE TABLE t_two PARTITION OF t FOR VALUES FROM (10) TO (20);
         CREATE INDEX used ON t (b);
         CREATE INDEX idle ON t (b, a);
         INSERT INTO t SELECT n % 20, n FROM generate_series(1, 10000) n;
         ANALYZE t;
         SET enable_seqscan = off;
         DROP INDEX idle;
         SELECT * FROM t WHERE b = 5 AND a = 5;
         CREATE INDEX idle ON t (b, a);
         SELECT pg_stat_force_next_flush()",
    )
    .await;
    let found = unused(&client, &[], Duration::ZERO).await.unwrap();
    let names: Vec<&str> = found.indexes.iter().map(|index| index.name.as_str()).collect();
    assert_eq!(names, ["public.idle"]);
    let found = duplicate(&client).await.unwrap();
    assert_eq!(
        (found.len(), found[0].covered_by.as_str()),
        (1, "public.idle"),
        "{found:?}"
    );
}

#[tokio::test]
async fn superfluous_indexes_are_found_and_safe_to_drop() {
    let (client, _) = database().await;
    run(
        &client,
        "CREATE TABLE t (a int PRIMARY KEY, b text, c int);
         CREATE INDEX t_a_again ON t (a);
         CREATE INDEX t_b ON t (b);
         CREATE INDEX t_b_c ON t (b, c);
         CREATE INDEX t_b_pattern ON t (b text_pattern_ops);
         CREATE INDEX t_b_some ON t (b) WHERE c > 0;
         CREATE UNIQUE INDEX t_c ON t (c);
         CREATE INDEX t_c_b ON t (c, b)",
    )
    .await;
    let found = duplicate(&client).await.unwrap();
    let pairs: Vec<(&str, &str, bool)> = found
        .iter()
        .map(|one| (one.name.as_str(), one.covered_by.as_str(), one.is_equal))
        .collect();
    assert_eq!(
        pairs,
        [
            ("public.t_a_again", "public.t_pkey", true),
            ("public.t_b", "public.t_b_c", false)
        ]
    );
    for one in &found {
        client.batch_execute(&one.sql).await.unwrap();
    }
    assert!(duplicate(&client).await.unwrap().is_empty());
    assert_eq!(
        ask(&client, "SELECT count(*) FROM pg_indexes WHERE tablename = 't'").await,
        "6"
    );
}
