//! Pages by key beside OFFSET, on the orders set.

use std::time::Instant;

use serde_json::Map;
use tidegate_store::query::{Call, Order, Queries, Query};
use tidegate_store::{Config, Context, Database, Select};
use tidegate_vitals::{Clock, Registry};
use tokio::runtime::Builder;

use super::monitor::from_store;
use super::{Options, Report, cluster};
use crate::error::{Error, Result, Tried};

const TABLE: &str = "20 of 93,728 orders by day, one connection, with the index of that order";
const KEYS: &str = "Tidegate, page by key, as JSON";
const OFFSET: &str = "OFFSET, the same statement, rows only";
const FIRST: &str = "first page, ms";
const DEEP: &str = "page at row 90,000, ms";

const ORDERS: &str = "CREATE TABLE orders (id int8 PRIMARY KEY, store int4 NOT NULL, day date NOT NULL, amount numeric NOT NULL); \
    INSERT INTO orders SELECT n, n % 4 + 1, date '2024-01-01' + (n / 257)::int4, n % 1000 / 7.0 FROM generate_series(1, 93728) n; \
    CREATE INDEX by_day ON orders (day, id)";

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cluster = cluster()?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")?;
    runtime.block_on(async {
        let (database, queries) = open(&cluster.url("postgres")).await.map_err(from_store)?;
        let after = deep_cursor(&queries).await.map_err(from_store)?;
        let n = if options.quick { 5 } else { 100 };
        for number in 1..=options.n_rounds() {
            eprintln!("pages: round {number} of {}", options.n_rounds());
            for (column, after, offset) in [(FIRST, None, 0), (DEEP, Some(after.as_str()), 90_000)] {
                let by_key = best(n, async || page(&queries, after).await).await?;
                let by_offset = best(n, async || skip(&database, offset).await).await?;
                report.add(TABLE, KEYS, column, by_key);
                report.add(TABLE, OFFSET, column, by_offset);
            }
        }
        Ok::<_, Error>(())
    })?;
    report.budget(
        "pages: by key over OFFSET at row 90,000",
        "≥100×",
        report.ratio(TABLE, OFFSET, KEYS, DEEP),
        |times| times >= 100.0,
    );
    Ok(())
}

async fn open(url: &str) -> tidegate_store::error::Result<(Database, Queries)> {
    let context = Context {
        clock: Clock::real(),
        registry: Registry::new(),
    };
    let database = Database::open(Config::new(url), context.clone()).await?;
    database.write(async |tx| tx.batch(ORDERS).await).await?;
    database
        .write(async |tx| tx.batch("ANALYZE orders").await)
        .await?;
    let orders = Query {
        page: vec![Order::parse("day desc")?, Order::parse("id desc")?],
        ..Query::new("orders", "SELECT id, day, amount FROM orders")
    };
    let queries = Queries::open(database.clone(), vec![orders], [1; 32], context).await?;
    Ok((database, queries))
}

async fn page(queries: &Queries, after: Option<&str>) -> tidegate_store::error::Result<Option<String>> {
    let params = Map::new();
    let call = Call {
        limit: Some(20),
        after,
        ..Call::new(&params)
    };
    Ok(queries.page("orders", call).await?.next)
}

async fn deep_cursor(queries: &Queries) -> tidegate_store::error::Result<String> {
    let params = Map::new();
    let mut after: Option<String> = None;
    for _ in 0..90 {
        let call = Call {
            limit: Some(1_000),
            after: after.as_deref(),
            ..Call::new(&params)
        };
        after = queries.page("orders", call).await?.next;
    }
    Ok(after.unwrap_or_default())
}

async fn skip(database: &Database, offset: usize) -> tidegate_store::error::Result<Option<String>> {
    let sql =
        format!("SELECT id, day, amount FROM orders ORDER BY day DESC, id DESC LIMIT 20 OFFSET {offset}");
    let select = Select {
        pipeline: true,
        ..Select::new(&sql, &[])
    };
    database.select(select).await?.collect().await?;
    Ok(None)
}

/// The best of many, in milliseconds: other work on the machine only ever adds.
pub(super) async fn best(
    n: usize,
    mut call: impl AsyncFnMut() -> tidegate_store::error::Result<Option<String>>,
) -> Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..n {
        let start = Instant::now();
        call().await.map_err(from_store)?;
        best = best.min(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(best)
}
