//! Plans of statements on a real server.

use std::time::Duration;

use tidegate_advisor::{Mode, explain};

use crate::support::{ask, database, run};

const TABLE: &str = "
    CREATE TABLE t (a int PRIMARY KEY, b text);
    INSERT INTO t SELECT n, 'x' FROM generate_series(1, 20000) n;
    ANALYZE t;
    UPDATE t SET b = CASE WHEN a > 100 THEN 'y' ELSE 'x' END";

#[tokio::test]
async fn a_plan_is_summed_up() {
    let (client, _) = database().await;
    run(&client, TABLE).await;
    let generic = explain(&client, "SELECT * FROM t WHERE a = $1", &[], Mode::Plan)
        .await
        .unwrap();
    assert!(
        generic.is_generic && generic.seq_scans().count() == 0,
        "{generic:?}"
    );
    assert_eq!(generic.indexes(), ["t_pkey"]);
    let whole = explain(&client, "SELECT a FROM t WHERE b = 'x' -- all;", &[], Mode::Plan)
        .await
        .unwrap();
    assert_eq!(whole.seq_scans().next().unwrap().table.as_deref(), Some("t"));
    let params = [Some("5".to_owned())];
    let known = explain(&client, "SELECT * FROM t WHERE a = $1;", &params, Mode::Plan)
        .await
        .unwrap();
    assert!(!known.is_generic, "{known:?}");
}

#[tokio::test]
async fn a_wrong_estimate_is_seen_when_it_runs() {
    let (client, _) = database().await;
    run(&client, TABLE).await;
    let params = [Some("x".to_owned())];
    let mode = Mode::Analyze(Duration::from_secs(10));
    // The statistics are from before the update.
    let found = explain(&client, "SELECT a FROM t WHERE b = $1", &params, mode)
        .await
        .unwrap();
    assert!(
        found.ms.is_some() && found.misestimates().count() == 1,
        "{found:?}"
    );
}

#[tokio::test]
async fn nothing_runs_that_must_not_and_nothing_is_left() {
    let (client, _) = database().await;
    run(&client, TABLE).await;
    let check = async |sql: &str, params: &[Option<String>], mode, expected: &str| {
        let error = explain(&client, sql, params, mode).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{sql}: {error}");
    };
    check("SELECT 1; DROP TABLE t", &[], Mode::Plan, "multiple commands").await;
    check(
        "SELECT $1::int; DROP TABLE t",
        &[],
        Mode::Plan,
        "multiple commands",
    )
    .await;
    check(
        "SELECT * FROM nowhere",
        &[],
        Mode::Plan,
        "relation \"nowhere\" does not exist",
    )
    .await;
    check(
        "SELECT nope FROM t",
        &[],
        Mode::Plan,
        "column \"nope\" does not exist",
    )
    .await;
    let analyze = Mode::Analyze(Duration::from_millis(50));
    check("DELETE FROM t WHERE a > 0", &[], analyze, "read-only transaction").await;
    check("SELECT pg_sleep(60)", &[], analyze, "statement timeout").await;
    let params = [Some("not a number".to_owned())];
    check(
        "SELECT * FROM t WHERE a = $1",
        &params,
        Mode::Plan,
        "invalid input syntax",
    )
    .await;
    let params = [Some("1) ; DROP TABLE t; --'\\".to_owned())];
    check(
        "SELECT * FROM t WHERE a = $1",
        &params,
        Mode::Plan,
        "invalid input syntax",
    )
    .await;
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "20000");
    assert_eq!(
        ask(
            &client,
            "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'tide%'"
        )
        .await,
        "0"
    );
    assert_eq!(
        ask(&client, "SELECT current_setting('transaction_read_only')").await,
        "off"
    );
}
