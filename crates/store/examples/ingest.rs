//! Rows into a table, exactly once: a feed, a batch with bad rows, a resend, an upsert.
//!
//! ```text
//! cargo run -p tidegate-store --example ingest        # on a PostgreSQL of its own, or without one on SQLite
//! DATABASE_URL=postgres://… cargo run -p tidegate-store --example ingest
//! ```

use std::sync::Arc;
use std::time::Duration;

use tidegate_cluster::Cluster;
use tidegate_store::database::{self, Context, Database};
use tidegate_store::feed::{Column, Feed};
use tidegate_store::ingest::{self, Hooks, Ingest, Outcome, Request, Rows};
use tidegate_store::{Commit, CommitHook, Error, Kind, OnConflict, Operation, Template, Type};
use tidegate_vitals::{Clock, Registry};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A server of our own ends with this value.
    let (url, _server) = find_database()?;
    let context = Context::new(Clock::real(), Registry::new());
    let database = Database::open(database::Config::new(url), context.clone()).await?;
    println!("on {}", database.kind());
    let table = match database.kind() {
        Kind::Postgres => {
            "CREATE TABLE IF NOT EXISTS example_ticks \
             (trade_id int8 PRIMARY KEY, symbol text NOT NULL, price numeric(12, 2) CHECK (price > 0))"
        }
        Kind::Sqlite => {
            "CREATE TABLE IF NOT EXISTS example_ticks \
             (trade_id INTEGER PRIMARY KEY NOT NULL, symbol TEXT NOT NULL, price TEXT CHECK (price NOT LIKE '-%')) STRICT"
        }
    };
    database
        .write(async |transaction| transaction.batch(table).await)
        .await?;

    let hooks = Hooks {
        commit: vec![Arc::new(Print)],
        fanout: None,
    };
    let config = ingest::Config::default();
    let ingest = Ingest::start(database.clone(), vec![feed()?], config, hooks, context).await?;
    // Compares the feed with its table: names, types, nulls, key, privileges.
    ingest.validate("ticks").await?;
    send_rows(&ingest).await?;
    ingest.finish(Duration::from_secs(10)).await?;
    database.close().await;
    Ok(())
}

async fn send_rows(ingest: &Ingest) -> Result<(), Box<dyn std::error::Error>> {
    let rows = r#"[
        {"trade_id": 1, "symbol": "600519", "price": "1685.00"},
        {"trade_id": 2, "symbol": "600519", "price": -1},
        {"trade_id": "three", "symbol": "000001", "price": 10.5},
        {"trade_id": 4, "symbol": "000001", "price": 10.5}
    ]"#;
    // Two rows are stored, one does not fit the feed, one is refused by the table and kept in the dead letter.
    let first = ingest.submit(request("order-17", None, rows)).await?;
    show("first", &first)?;
    // The answer got lost on the way, so it is sent again: the recorded outcome comes back, nothing is stored twice.
    let again = ingest.submit(request("order-17", None, rows)).await?;
    println!("sent again: the same answer is {}", again == first);
    // Other rows under the same id are no resend.
    let other = r#"{"trade_id": 9, "symbol": "x"}"#;
    match ingest.submit(request("order-17", None, other)).await {
        Err(error @ Error::IdReused { .. }) => println!("refused: {error}"),
        other => println!("unexpected: {other:?}"),
    }
    let newer = r#"{"trade_id": 1, "symbol": "600519", "price": "1690.00"}"#;
    let upsert = ingest
        .submit(request("order-18", Some(Operation::Upsert), newer))
        .await?;
    show("upsert", &upsert)?;
    Ok(())
}

/// `DATABASE_URL`, else a private PostgreSQL, else a SQLite file.
fn find_database() -> Result<(String, Option<Cluster>), Box<dyn std::error::Error>> {
    if let Ok(url) = std::env::var("DATABASE_URL") {
        return Ok((url, None));
    }
    match Cluster::temporary() {
        Ok(cluster) => Ok((cluster.create_database("example")?, Some(cluster))),
        Err(error) => {
            println!("no PostgreSQL of our own: {error}");
            let file = std::env::temp_dir().join(format!("tidegate-example-{}.db", std::process::id()));
            Ok((format!("sqlite:{}", file.display()), None))
        }
    }
}

fn feed() -> Result<Feed, Error> {
    let column = |name: &str, kind, not_null| Column {
        name: name.to_owned(),
        kind,
        not_null,
    };
    Ok(Feed {
        name: "ticks".to_owned(),
        table: "example_ticks".to_owned(),
        columns: vec![
            column("trade_id", Type::Int8, true),
            column("symbol", Type::Text, true),
            column("price", Type::Numeric, false),
        ],
        key: vec!["trade_id".to_owned()],
        on_conflict: OnConflict::Ignore,
        tags: vec![Template::parse("ticks:{symbol}")?],
        retain: None,
        manage: false,
        partition: None,
        rollups: Vec::new(),
        row_bytes_max: 64 << 10,
        rows_per_second_max: None,
    })
}

fn request(id: &str, operation: Option<Operation>, rows: &str) -> Request {
    Request {
        feed: "ticks".to_owned(),
        principal: "example".to_owned(),
        id: Some(id.to_owned()),
        operation,
        rows: Rows::Json(rows.to_owned().into()),
        first_row: 0,
    }
}

fn show(what: &str, outcome: &Outcome) -> Result<(), serde_json::Error> {
    println!("{what}: {}", serde_json::to_string_pretty(outcome)?);
    Ok(())
}

/// What a cache would do: drop what the stored rows made stale.
struct Print;

impl CommitHook for Print {
    fn committed(&self, commit: &Commit<'_>) {
        println!(
            "committed {} rows, stale: {}",
            commit.n_rows,
            commit.tags.join(", ")
        );
    }
}
