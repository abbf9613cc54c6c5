//! Pages and their plans on the orders set: a page far down costs what the first one costs, and `check` says when not.

use std::time::Instant;

use serde_json::{Map, Value as Json};
use tidegate_store::query::{Call, Param, Queries, Query};
use tidegate_store::statement::Order as By;
use tidegate_store::{Database, Type, Value};

use crate::query::{by, database, object, open};

/// The size of the demo's orders table: 93,728 rows of 4 stores.
const ORDERS: &str = "CREATE TABLE orders (id int8 PRIMARY KEY, store int4 NOT NULL, day date NOT NULL, amount numeric NOT NULL); \
     INSERT INTO orders SELECT n, n % 4 + 1, date '2024-01-01' + (n / 257)::int4, n % 1000 / 7.0 FROM generate_series(1, 93728) n";

fn orders() -> Query {
    Query {
        params: vec![Param::new("store", Type::Int4)],
        page: by(&["day desc", "id desc"]),
        ..Query::new(
            "orders",
            "SELECT id, day, amount FROM orders WHERE store = :store",
        )
    }
}

fn all_orders() -> Query {
    Query {
        params: Vec::new(),
        ..Query {
            name: "all".to_owned(),
            ..Query {
                sql: Query::new("all", "SELECT id, day, amount FROM orders").sql,
                ..orders()
            }
        }
    }
}

async fn indexed() -> Database {
    let database = database(ORDERS).await;
    let sql = "CREATE INDEX by_store ON orders (store, day DESC, id DESC)";
    database.write(async |tx| tx.batch(sql).await).await.unwrap();
    database
        .write(async |tx| tx.batch("ANALYZE orders").await)
        .await
        .unwrap();
    database
}

/// Pages until `n_rows` rows were seen; the cursor behind them.
async fn skip(queries: &Queries, name: &str, params: &Map<String, Json>, n_rows: usize) -> String {
    let mut after: Option<String> = None;
    let mut seen = 0;
    loop {
        let call = Call {
            limit: Some(1_000),
            after: after.as_deref(),
            ..Call::new(params)
        };
        let page = queries.page(name, call).await.unwrap();
        seen += page.n_rows;
        after = page.next;
        if seen >= n_rows {
            return after.unwrap();
        }
    }
}

/// The plan of the text that the server was last given for a page behind a cursor.
async fn plan_of_page(database: &Database, values: &str) -> String {
    let statements = database.monitor().top(By::Calls, 100);
    let page = statements
        .iter()
        .find(|stats| stats.text.contains(") < (") && stats.text.contains("limit"))
        .unwrap();
    let sql = page.sample.as_deref().unwrap();
    let text = format!("PREPARE page AS {sql};SET LOCAL plan_cache_mode = force_generic_plan");
    let explain = format!("EXPLAIN (ANALYZE, TIMING OFF) EXECUTE page({values})");
    let rows = database
        .read(async |tx| {
            tx.batch(&text).await?;
            let rows = tx.query(&explain, &[]).await;
            tx.batch("DEALLOCATE page").await?;
            rows
        })
        .await
        .unwrap();
    let line = |row: tidegate_store::Row| match row.into_values().remove(0) {
        Value::Text(line) => format!("{line}\n"),
        other => panic!("{other:?}"),
    };
    rows.into_iter().map(line).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_behind_row_90_000_reads_only_its_own_rows() {
    let database = indexed().await;
    let queries = open(&database, vec![orders(), all_orders()]).await.unwrap();
    let params = object(serde_json::json!({"store": 2}));
    let after = skip(&queries, "orders", &params, 20_000).await;
    let call = Call {
        limit: Some(20),
        after: Some(&after),
        ..Call::new(&params)
    };
    assert_eq!(queries.page("orders", call).await.unwrap().n_rows, 20);
    let plan = plan_of_page(&database, "2, '2024-03-01', 15000").await;
    assert!(
        plan.contains("Index Scan using by_store") || plan.contains("Index Only Scan using by_store"),
        "{plan}"
    );
    assert!(
        plan.contains("Index Cond: ((store = $1) AND (ROW(day, id) < ROW($2, $3)))"),
        "{plan}"
    );
    assert!(!plan.contains("Sort"), "{plan}");

    let by_day = "CREATE INDEX by_day ON orders (day, id)";
    database.write(async |tx| tx.batch(by_day).await).await.unwrap();
    let none = Map::new();
    let deep = skip(&queries, "all", &none, 90_000).await;
    let best = async |after: Option<&str>| {
        let mut best = f64::INFINITY;
        for _ in 0..40 {
            let start = Instant::now();
            let call = Call {
                limit: Some(20),
                after,
                ..Call::new(&none)
            };
            assert_eq!(queries.page("all", call).await.unwrap().n_rows, 20);
            best = best.min(start.elapsed().as_secs_f64());
        }
        best
    };
    let (first, deep) = (best(None).await, best(Some(&deep)).await);
    println!(
        "first page {:.0} us, page at row 90,000 {:.0} us",
        first * 1e6,
        deep * 1e6
    );
    assert!(
        deep < first * 5.0 + 0.001,
        "first page {first} s, deep page {deep} s"
    );
    assert!(queries.check().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_finds_pages_that_sort_and_names_the_index() {
    let database = database(ORDERS).await;
    database
        .write(async |tx| tx.batch("ANALYZE orders").await)
        .await
        .unwrap();
    let late = Query {
        page: Vec::new(),
        params: vec![Param::new("least", Type::Numeric)],
        ..Query::new("late", "SELECT count(*) AS n FROM orders WHERE amount > :least")
    };
    let fine = Query {
        params: vec![Param::new("id", Type::Int8)],
        ..Query::new("fine", "SELECT * FROM orders WHERE id = :id")
    };
    let queries = open(&database, vec![orders(), late, fine]).await.unwrap();
    let findings = queries.check().await.unwrap();
    let found: Vec<_> = findings
        .iter()
        .map(|finding| (finding.query.as_str(), finding.code))
        .collect();
    assert_eq!(
        found,
        [
            ("late", "sequential_scan"),
            ("orders", "sequential_scan"),
            ("orders", "sort")
        ]
    );
    let scan = &findings[1];
    assert_eq!(scan.table.as_deref(), Some("orders"));
    assert_eq!(
        scan.message,
        "reads table orders from end to end (93728 rows): an index on orders (store, day, id) would serve its pages"
    );
    database
        .write(async |tx| tx.batch("DROP TABLE orders").await)
        .await
        .unwrap();
    let findings = queries.check().await.unwrap();
    assert!(
        findings.iter().all(|finding| finding.code == "broken") && findings.len() == 3,
        "{findings:?}"
    );
}
