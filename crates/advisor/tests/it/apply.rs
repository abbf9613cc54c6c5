//! Plans on real tables: created, found, refused, rebuilt, dropped.

use tidegate_advisor::{Error, Outcome, Plan, Progress, Report, State, apply, drop_index, look};
use tokio_postgres::Client;

use crate::support::{ORDERS, ask, connect, database, run};

async fn apply_plan(client: &Client, plan: &Plan) -> Report {
    apply(client, plan, None, &mut |_| {}).await.unwrap()
}

fn one(name: &str, columns: &str, more: &str) -> Plan {
    Plan::parse(&format!(
        "[[index]]\nname = '{name}'\ntable = 't'\ncolumns = [{columns}]\n{more}"
    ))
    .unwrap()
}

#[tokio::test]
async fn the_orders_plan_is_created_once() {
    let (client, url) = database().await;
    run(&client, ORDERS).await;
    let plan = Plan::orders();
    let before = look(&client, &plan).await.unwrap();
    assert!(
        before.iter().all(|step| step.state == State::Missing),
        "{before:?}"
    );
    let watcher = connect(&url).await;
    let mut seen = Vec::new();
    let report = apply(&client, &plan, Some(&watcher), &mut |progress| {
        seen.push(progress.clone());
    })
    .await
    .unwrap();
    assert_eq!((report.created, report.existing, report.failed), (11, 0, 0));
    let started = seen
        .iter()
        .filter(|progress| matches!(progress, Progress::Started { of: 11, .. }))
        .count();
    assert_eq!(started, 11);
    let report = apply_plan(&client, &plan).await;
    assert_eq!((report.created, report.existing, report.failed), (0, 11, 0));
    assert!(
        look(&client, &plan)
            .await
            .unwrap()
            .iter()
            .all(|step| step.state == State::Exists)
    );
    let descending = ask(
        &client,
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'idx_orders_date_desc'",
    )
    .await;
    assert!(descending.ends_with("(date DESC)"), "{descending}");
    let analyzed = "SELECT last_analyze IS NOT NULL FROM pg_stat_user_tables WHERE relname = 'orders'";
    assert_eq!(ask(&client, analyzed).await, "true");
    drop_index(&client, "idx_orders_store").await.unwrap();
    let report = apply_plan(&client, &plan).await;
    assert_eq!((report.created, report.existing), (1, 10));
}

#[tokio::test]
async fn what_is_different_is_said() {
    let (client, _) = database().await;
    run(&client, "CREATE TABLE t (a int PRIMARY KEY, b text, \"C d\" int);\nCREATE INDEX other ON t (b) WHERE a > 5 AND b <> 'x'").await;
    run(
        &client,
        "CREATE TABLE taken (x int);\nCREATE INDEX elsewhere ON taken (x)",
    )
    .await;
    let check = async |plan: Plan, expected: &str| {
        let steps = look(&client, &plan).await.unwrap();
        let shown = format!("{:?}", steps[0].state);
        assert!(shown.contains(expected), "{shown}");
        let report = apply_plan(&client, &plan).await;
        assert_eq!(
            report.failed == 0,
            steps[0].state.is_good() || steps[0].state == State::Missing,
            "{report:?}"
        );
    };
    check(
        one("other", "'a'", ""),
        "Differs { found: \"btree (b) WHERE ((a > 5) AND (b <> 'x'::text))\"",
    )
    .await;
    check(
        one("mine", "'b'", "where = \"a>5 and b != 'x'\""),
        "ExistsAs { name: \"other\" }",
    )
    .await;
    check(one("other", "'b'", "where = \"a > 5 AND b <> 'x'\""), "Exists").await;
    check(one("taken", "'a'", ""), "Differs { found: \"no index\" }").await;
    check(one("elsewhere", "'b'", ""), "an index of taken").await;
    check(one("x", "'nope'", ""), "table t has no column nope").await;
    check(
        one("x", "'a'", "where = 'nope = 1'"),
        "column \\\"nope\\\" does not exist",
    )
    .await;
    check(one("x", "'a'", "where = 'a >'"), "its where is refused").await;
    check(
        one("u", "'C d desc'", "include = ['b']\nunique = true"),
        "Missing",
    )
    .await;
    let gone = Plan::parse("[[index]]\nname = 'x'\ntable = 'nowhere'\ncolumns = ['a']").unwrap();
    check(gone, "table nowhere does not exist").await;
    let unique = "SELECT indexdef FROM pg_indexes WHERE indexname = 'u'";
    let expected = "CREATE UNIQUE INDEX u ON public.t USING btree (\"C d\" DESC) INCLUDE (b)";
    assert_eq!(ask(&client, unique).await, expected);
}

#[tokio::test]
async fn an_unusable_left_over_is_rebuilt() {
    let (client, _) = database().await;
    run(&client, "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1), (1)").await;
    let plan = one("t_a", "'a'", "unique = true");
    let report = apply_plan(&client, &plan).await;
    let Outcome::Failed { reason } = &report.indexes[0].outcome else {
        panic!("{report:?}");
    };
    assert!(reason.contains("could not create unique index"), "{reason}");
    assert_eq!(look(&client, &plan).await.unwrap()[0].state, State::Invalid);
    run(&client, "DELETE FROM t WHERE ctid = '(0,1)'").await;
    assert_eq!(apply_plan(&client, &plan).await.created, 1);
    assert_eq!(look(&client, &plan).await.unwrap()[0].state, State::Exists);
}

#[tokio::test]
async fn partitions_get_theirs_one_by_one() {
    let (client, _) = database().await;
    run(
        &client,
        "CREATE TABLE t (a int, b int) PARTITION BY RANGE (a);
         CREATE TABLE t_one PARTITION OF t FOR VALUES FROM (0) TO (10);
         CREATE TABLE t_two PARTITION OF t FOR VALUES FROM (10) TO (20) PARTITION BY LIST (b);
         CREATE TABLE t_two_x PARTITION OF t_two FOR VALUES IN (1);
         CREATE TABLE t_two_y PARTITION OF t_two DEFAULT;
         CREATE INDEX had_it ON t_one (b, a);
         INSERT INTO t SELECT n % 20, n % 3 FROM generate_series(1, 1000) n",
    )
    .await;
    let plan = one("t_b_a", "'b', 'a'", "");
    // As a run that was broken off leaves it.
    run(&client, "CREATE INDEX t_b_a ON ONLY t (b, a)").await;
    assert_eq!(look(&client, &plan).await.unwrap()[0].state, State::Invalid);
    let report = apply_plan(&client, &plan).await;
    assert_eq!(report.created, 1, "{report:?}");
    let tree = "SELECT string_agg(c.relname, ' ' ORDER BY t.level, c.relname)
                FROM pg_partition_tree('t_b_a') t JOIN pg_class c ON c.oid = t.relid";
    assert_eq!(
        ask(&client, tree).await,
        "t_b_a had_it t_b_a_t_two t_b_a_t_two_x t_b_a_t_two_y"
    );
    assert_eq!(apply_plan(&client, &plan).await.existing, 1);
    // A partition made later has it by itself; one that is attached may not.
    run(
        &client,
        "CREATE TABLE t_three PARTITION OF t FOR VALUES FROM (20) TO (30);
         INSERT INTO t VALUES (25, 1)",
    )
    .await;
    assert_eq!(apply_plan(&client, &plan).await.existing, 1);
    let refused = drop_index(&client, "had_it").await.unwrap_err().to_string();
    assert!(refused.contains("it is a part of t_b_a"), "{refused}");
    drop_index(&client, "t_b_a").await.unwrap();
    assert_eq!(
        ask(
            &client,
            "SELECT count(*) FROM pg_indexes WHERE tablename LIKE 't%'"
        )
        .await,
        "0"
    );
}

#[tokio::test]
async fn what_a_constraint_needs_is_not_dropped() {
    let (client, _) = database().await;
    run(
        &client,
        "CREATE TABLE t (a int PRIMARY KEY);\nCREATE INDEX \"T a\" ON t (a)",
    )
    .await;
    let check = async |name: &str, expected: &str| {
        let error = drop_index(&client, name).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("t_pkey", "constraint t_pkey on t stands on it").await;
    check("nope", "index nope does not exist").await;
    check("t", "it is no index").await;
    drop_index(&client, "\"T a\"").await.unwrap();
}

#[tokio::test]
async fn one_session_applies_at_a_time() {
    let (client, url) = database().await;
    run(&client, "CREATE TABLE t (a int)").await;
    let other = connect(&url).await;
    // A writer holds the build up, so that it is under way for as long as we want.
    run(&client, "BEGIN;\nINSERT INTO t VALUES (1)").await;
    let plan = one("t_a", "'a'", "");
    let mut apply_there = Box::pin(async move { apply_plan(&other, &plan).await });
    let watch = connect(&url).await;
    // Other tests build on the same server; before it waits, the index is not in the catalog yet.
    let building = "SELECT count(*) FROM pg_stat_progress_create_index
                    WHERE datname = current_database() AND phase LIKE 'waiting for writers%'";
    loop {
        tokio::select! {
            report = &mut apply_there => panic!("the build did not wait: {report:?}"),
            count = ask(&watch, building) => if count == "1" { break },
        }
    }
    let plan = one("t_a", "'a'", "");
    assert_eq!(look(&watch, &plan).await.unwrap()[0].state, State::Building);
    let error = apply(&watch, &plan, None, &mut |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Busy) && error.is_retryable());
    run(&client, "COMMIT").await;
    assert_eq!(apply_there.await.created, 1);
}
