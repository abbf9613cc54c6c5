//! An orders table: rows in, exactly once; totals from a roll-up; a transaction; pages by key.
//!
//! `cargo run -p tidegate-store --example orders` starts a private PostgreSQL; with `DATABASE_URL` set it uses that one,
//! where it makes the tables `example_orders` and `example_orders_daily` (and drops them at the end).

use std::{error::Error, fmt::Write as _, time::Duration};

use serde_json::json;
use tidegate_store::{
    Config, Context, Database, Feed, OnConflict, Type, Value,
    feed::{Aggregate, Bucket, Column, Measure, Rollup},
    ingest::{self, Ingest, Request, Rows},
    query::{Call, Order, Param, Queries, Query},
    schema,
};
use tidegate_vitals::{Clock, Registry};

const ORDERS: usize = 20_000;
const STORES: [&str; 4] = ["north", "south", "east", "west"];

/// What the example found, for whoever runs it as a test.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Summary {
    /// Rows stored by the first request.
    pub(crate) stored: u64,
    /// Rows stored by the same request sent again.
    pub(crate) stored_again: u64,
    /// Rows read page by page.
    pub(crate) paged: usize,
    /// Pages they took.
    pub(crate) n_pages: usize,
    /// Groups in the roll-up that differ from a GROUP BY over the table.
    pub(crate) n_different: i64,
    /// The status of the order whose transaction failed.
    pub(crate) status_after_failure: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let private = match std::env::var("DATABASE_URL") {
        Ok(_) => None,
        Err(_) => Some(tidegate_cluster::Cluster::temporary()?),
    };
    let url = match &private {
        Some(cluster) => cluster.create_database("orders")?,
        None => std::env::var("DATABASE_URL")?,
    };
    let summary = run(&url).await?;
    println!("{summary:#?}");
    Ok(())
}

/// The whole example, on the database at `url`.
pub(crate) async fn run(url: &str) -> Result<Summary, Box<dyn Error>> {
    let context = Context::new(Clock::real(), Registry::new());
    let database = Database::open(Config::new(url), context.clone()).await?;
    let report = schema::migrate(&database, &[orders()], schema::migrate::Options::default()).await?;
    for step in &report.steps {
        println!("{:?} {}", step.outcome, step.object);
    }
    let mut summary = Summary::default();
    store_rows(&database, &context, &mut summary).await?;
    change_one(&database, &mut summary).await?;
    read_pages(&database, &context, &mut summary).await?;
    compare_totals(&database, &mut summary).await?;
    for finding in schema::check(&database, &[orders()], &schema::check::Config::default()).await {
        println!("{:?} {}: {}", finding.severity, finding.subject, finding.what.en);
    }
    drop_tables(&database).await?;
    database.close().await;
    Ok(summary)
}

/// The declared way of orders into their table, with daily totals kept in the same transaction.
fn orders() -> Feed {
    let column = |name: &str, kind: Type| Column {
        name: name.to_owned(),
        kind,
        not_null: true,
    };
    let measure = |how, column: Option<&str>, into: &str| Measure {
        how,
        column: column.map(str::to_owned),
        into: into.to_owned(),
    };
    Feed {
        name: "orders".to_owned(),
        table: "example_orders".to_owned(),
        columns: vec![
            column("id", Type::Int8),
            column("store", Type::Text),
            column("day", Type::Date),
            column("amount", Type::Numeric),
            column("status", Type::Text),
        ],
        key: vec!["id".to_owned()],
        on_conflict: OnConflict::Ignore,
        tags: vec![],
        retain: None,
        manage: true,
        partition: None,
        rollups: vec![Rollup {
            name: "daily".to_owned(),
            table: "example_orders_daily".to_owned(),
            group: vec!["store".to_owned()],
            bucket: Some(Bucket {
                column: "day".to_owned(),
                every: Duration::from_secs(86_400),
            }),
            measures: vec![
                measure(Aggregate::Count, None, "n"),
                measure(Aggregate::Sum, Some("amount"), "amount_sum"),
                measure(Aggregate::Max, Some("amount"), "amount_max"),
            ],
        }],
        row_bytes_max: 4096,
        rows_per_second_max: None,
    }
}

/// Sends all orders under one id, twice: the second time they are known.
async fn store_rows(
    database: &Database,
    context: &Context,
    summary: &mut Summary,
) -> Result<(), Box<dyn Error>> {
    let ingest = Ingest::start(
        database.clone(),
        vec![orders()],
        ingest::Config::default(),
        ingest::Hooks::default(),
        context.clone(),
    )
    .await?;
    let mut lines = String::new();
    for id in 0..ORDERS {
        let (store, day) = (STORES[id % 4], id * 7 % 28 + 1);
        let amount = format!("{}.{:02}", id * 31 % 500 + 1, id % 100);
        let row = json!({"id": id, "store": store, "day": format!("2025-01-{day:02}"), "amount": amount, "status": "new"});
        writeln!(lines, "{row}")?;
    }
    let request = Request {
        feed: "orders".to_owned(),
        principal: "example".to_owned(),
        // Another id each time the example runs: under the same one, the answer of the first run would come back.
        id: Some(format!("load {}", context.clock.wall_ms())),
        operation: None,
        rows: Rows::Ndjson(lines.into()),
        first_row: 0,
    };
    summary.stored = ingest.submit(request.clone()).await?.stored;
    let rows_before = count(database, "SELECT count(*) AS n FROM example_orders").await?;
    ingest.submit(request).await?;
    let rows_after = count(database, "SELECT count(*) AS n FROM example_orders").await?;
    summary.stored_again = rows_after.abs_diff(rows_before);
    ingest.finish(Duration::from_secs(10)).await?;
    Ok(())
}

/// One transaction that commits, and one that does not.
async fn change_one(database: &Database, summary: &mut Summary) -> Result<(), Box<dyn Error>> {
    database
        .write(async |tx| {
            let order = [Value::Int(7)];
            tx.query(
                "SELECT status FROM example_orders WHERE id = $1 FOR UPDATE",
                &order,
            )
            .await?;
            tx.execute("UPDATE example_orders SET status = 'paid' WHERE id = $1", &order)
                .await
        })
        .await?;
    let failed = database
        .write(async |tx| {
            tx.execute("UPDATE example_orders SET status = 'lost' WHERE id = 7", &[])
                .await?;
            // A key that is there already: everything before it is taken back.
            tx.execute(
                "INSERT INTO example_orders VALUES (7, 'north', '2025-01-01', 1, 'new')",
                &[],
            )
            .await
        })
        .await;
    if let Err(error) = failed {
        println!("taken back: {error}");
    }
    let rows = database
        .read(async |tx| {
            tx.query("SELECT status FROM example_orders WHERE id = 7", &[])
                .await
        })
        .await?;
    if let Some(Value::Text(status)) = rows[0].get("status") {
        summary.status_after_failure = status.to_string();
    }
    Ok(())
}

/// All orders of one store, newest first, 500 at a time: each page begins where the one before ended, however many there are.
async fn read_pages(
    database: &Database,
    context: &Context,
    summary: &mut Summary,
) -> Result<(), Box<dyn Error>> {
    let query = Query {
        params: vec![Param::new("store", Type::Text)],
        page: vec![Order::parse("day desc")?, Order::parse("id desc")?],
        ..Query::new(
            "by_store",
            "SELECT id, day, amount, status FROM example_orders WHERE store = :store",
        )
    };
    // Nodes that share the secret take each other's cursors.
    let queries = Queries::open(database.clone(), vec![query], [7; 32], context.clone()).await?;
    let params = json!({"store": "north"});
    let params = params.as_object().expect("it was written as an object");
    let mut after = None;
    loop {
        let call = Call {
            limit: Some(500),
            after: after.as_deref(),
            ..Call::new(params)
        };
        let page = queries.page("by_store", call).await?;
        summary.paged += page.n_rows;
        summary.n_pages += 1;
        after = page.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// The roll-up against the same totals computed from all rows.
async fn compare_totals(database: &Database, summary: &mut Summary) -> Result<(), Box<dyn Error>> {
    summary.n_different = count(
        database,
        "SELECT count(*) AS n FROM ((SELECT store, day, count(*), sum(amount), max(amount) FROM example_orders \
         GROUP BY store, day) EXCEPT (SELECT store, day, n, amount_sum, amount_max FROM example_orders_daily)) AS d",
    )
    .await?;
    Ok(())
}

async fn count(database: &Database, sql: &str) -> Result<i64, Box<dyn Error>> {
    let rows = database.read(async |tx| tx.query(sql, &[]).await).await?;
    match rows.first().and_then(|row| row.get("n")) {
        Some(Value::Int(n)) => Ok(*n),
        other => Err(format!("a count gave {other:?}").into()),
    }
}

async fn drop_tables(database: &Database) -> Result<(), tidegate_store::Error> {
    database
        .write(async |tx| tx.batch("DROP TABLE example_orders, example_orders_daily").await)
        .await
}
