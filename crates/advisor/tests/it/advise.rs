//! Advice on the orders table: found from the dashboard's statements, proved, applied, and true.

use std::time::Duration;

use tidegate_advisor::{Advice, Limits, Mode, Proof, Statement, advise, apply, explain, from_database};
use tidegate_cluster::{Cluster, Config};
use tokio_postgres::Client;

use crate::support::{ORDERS, ask, cluster, connect, database, run};

const LATEST: &str = "SELECT * FROM orders WHERE store = $1 ORDER BY date DESC, id DESC LIMIT 50";
const SALES: &str = "SELECT date, sum(amount), sum(quantity) FROM orders WHERE store = $1 AND date >= $2 AND date < $3 \
                     GROUP BY date";
const COUNT: &str = "SELECT count(*) FROM orders WHERE store = $1 AND date = $2";

fn seen(sql: &str, calls: u64, mean_ms: f64) -> Statement {
    Statement {
        sql: sql.to_owned(),
        calls,
        mean_ms,
        ..Statement::default()
    }
}

/// What a dashboard does to the table, with times as a machine without indexes has them.
fn dashboard() -> Vec<Statement> {
    vec![
        seen(SALES, 5_000, 14.0),
        seen(COUNT, 3_000, 11.0),
        seen(LATEST, 500, 13.0),
        seen("SELECT id FROM orders WHERE id = $1", 100_000, 0.02),
    ]
}

async fn advice(client: &Client, statements: &[Statement]) -> Advice {
    advise(client, statements, Limits::default()).await.unwrap()
}

/// The fastest of several runs, milliseconds.
async fn fastest(client: &Client, sql: &str, params: &[Option<String>]) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..9 {
        let mode = Mode::Analyze(Duration::from_secs(30));
        best = best.min(explain(client, sql, params, mode).await.unwrap().ms.unwrap());
    }
    best
}

#[tokio::test]
async fn a_covering_index_is_found_proved_and_true() {
    let (client, _) = database().await;
    run(&client, ORDERS).await;
    let statements = dashboard();
    let advice = advice(&client, &statements).await;
    assert_eq!(advice.proof, Proof::Hypopg);
    let best = &advice.findings[0];
    assert_eq!(best.index.columns[0].column, "store", "{best:#?}");
    assert_eq!(best.index.columns[1].column, "date", "{best:#?}");
    assert!(best.index.include.contains(&"amount".to_owned()), "{best:#?}");
    assert!(
        best.saved_share > 0.5 && best.evidence[0].scan_after == "Index Only Scan",
        "{best:#?}"
    );
    assert_eq!(best.write_cost.indexes_before, 1);
    // Nothing of the proof is left behind.
    assert_eq!(
        ask(
            &client,
            "SELECT count(*) FROM pg_extension WHERE extname = 'hypopg'"
        )
        .await,
        "0"
    );

    let week =
        [Some("store-1"), Some("2025-02-01"), Some("2025-02-08")].map(|value| value.map(str::to_owned));
    let before = fastest(&client, SALES, &week).await;
    let mut plan = advice.plan();
    plan.indexes.truncate(1);
    let report = apply(&client, &plan, None, &mut |_| {}).await.unwrap();
    assert_eq!(report.created, 1, "{report:?}");
    let real = explain(&client, SALES, &week, Mode::Plan).await.unwrap();
    assert_eq!(real.indexes(), [best.index.name.as_str()], "{real:?}");
    assert!(
        real.nodes.iter().any(|node| node.kind == "Index Only Scan"),
        "{real:?}"
    );
    let after = fastest(&client, SALES, &week).await;
    println!(
        "store + 7 days: {before:.3} ms before, {after:.3} ms after, expected size {}",
        best.bytes
    );
    assert!(after * 3.0 < before, "{before} ms before, {after} ms after");
    let size = ask(
        &client,
        &format!("SELECT pg_relation_size('{}')", best.index.name),
    )
    .await;
    let size: f64 = size.parse().unwrap();
    assert!(
        (0.5..2.0).contains(&(best.bytes as f64 / size)),
        "{} expected, {size} real",
        best.bytes
    );

    let again = self::advice(&client, &statements).await;
    let known: Vec<_> = again
        .findings
        .iter()
        .map(|finding| &finding.index.columns)
        .collect();
    assert!(
        !known.contains(&&best.index.columns),
        "what is there is not proposed: {again:#?}"
    );
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_counted() {
    let (client, _) = database().await;
    run(&client, "CREATE TABLE t (a int, b json);\nINSERT INTO t SELECT n, '{}' FROM generate_series(1, 20000) n;\nANALYZE t").await;
    let statements = [
        seen("SELEC a FROM t", 1, 1.0),
        seen("SELECT a FROM nowhere WHERE a = $1", 2, 1.0),
        seen("SELECT nope FROM t WHERE a = $1", 2, 1.0),
        seen("SELECT 1; DROP TABLE t", 1, 1.0),
        seen("VACUUM t", 1, 1.0),
        seen("SELECT now()", 1, 1.0),
        seen("SELECT a FROM t WHERE a = $1", 1_000, 2.0),
        seen("DELETE FROM t WHERE a < $1", 10, 2.0),
    ];
    let advice = advice(&client, &statements).await;
    assert_eq!(advice.findings.len(), 1, "{advice:#?}");
    assert_eq!(
        advice.findings[0].sql,
        "CREATE INDEX CONCURRENTLY idx_t_a ON public.t (a)"
    );
    let check = |part: &str| {
        let found = advice
            .skipped
            .iter()
            .any(|skipped| skipped.reason.contains(part) && skipped.n == 1);
        assert!(found, "{part}: {:#?}", advice.skipped);
    };
    check("it cannot be read: statement cannot be read: sql parser error");
    check("relation \"nowhere\" does not exist");
    check("column \"nope\" does not exist");
    check("more than one statement");
    check("neither selects");
    check("it uses no table");
    assert_eq!(ask(&client, "SELECT count(*) FROM t").await, "20000");
}

#[tokio::test]
async fn without_hypopg_statistics_answer() {
    let (client, url) = database().await;
    run(&client, ORDERS).await;
    // Whoever may not create the extension has none.
    let user = "CREATE ROLE reader LOGIN;\nGRANT SELECT ON ALL TABLES IN SCHEMA public TO reader";
    run(&client, user).await;
    let reader = connect(&url.replace("tidegate@", "reader@")).await;
    let advice = advice(&reader, &dashboard()).await;
    assert_eq!(advice.proof, Proof::Statistics);
    let best = &advice.findings[0];
    assert_eq!(best.index.columns[0].column, "store", "{best:#?}");
    assert!(
        best.evidence
            .iter()
            .all(|evidence| evidence.scan_after.is_empty()),
        "{best:#?}"
    );
    assert!(best.bytes > 1 << 20, "{best:#?}");
    drop(reader);
    run(&client, "DROP OWNED BY reader;\nDROP ROLE reader").await;
    assert!(cluster().pid().is_some());
}

#[tokio::test]
async fn statements_come_from_the_database_itself() {
    let config = Config::default().with("shared_preload_libraries", "pg_stat_statements");
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(config).unwrap())
        .await
        .unwrap();
    let client = connect(&cluster.url("postgres")).await;
    let missing = from_database(&client, 10).await.unwrap_err().to_string();
    assert!(
        missing.contains("pg_stat_statements is not installed"),
        "{missing}"
    );
    run(&client, "CREATE EXTENSION pg_stat_statements").await;
    run(&client, ORDERS).await;
    for n in 0..20 {
        let sql =
            format!("SELECT sum(amount) FROM orders WHERE product = 'product-{n}' AND date > '2025-03-01'");
        client.query(&sql, &[]).await.unwrap();
    }
    let statements = from_database(&client, 50).await.unwrap();
    let known = statements
        .iter()
        .find(|statement| statement.sql.contains("product = $1"))
        .unwrap();
    assert_eq!(known.calls, 20);
    let advice = advice(&client, &statements).await;
    assert_eq!(
        advice.findings[0].index.columns[0].column, "product",
        "{advice:#?}"
    );
}

#[tokio::test]
async fn limits_have_ranges() {
    let (client, _) = database().await;
    let check = async |limits: Limits, expected: &str| {
        let error = advise(&client, &[], limits).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let usual = Limits::default();
    check(
        Limits {
            findings_max: 0,
            ..usual
        },
        "findings_max is 0, allowed 1 to 20",
    )
    .await;
    check(
        Limits {
            share_min: f64::NAN,
            ..usual
        },
        "share_min is NaN",
    )
    .await;
    check(
        Limits {
            statements_max: 1_000,
            ..usual
        },
        "allowed 1 to 500",
    )
    .await;
    assert!(advise(&client, &[], usual).await.unwrap().findings.is_empty());
}
