//! Declared queries over an SQLite file: the same pages, cursors and streams.

use std::{collections::BTreeSet, panic::Location};

use serde_json::{Map, Value as Json, json};
use tidegate_store::{
    Error, Type, Value,
    database::{Config, Context, Database},
    query::{Call, Dialects, Order, Param, Queries, Query, Source},
};
use tidegate_vitals::{Clock, Registry};

use crate::sqlite::Folder;

const N_ROWS: i64 = 10_000;

async fn orders(folder: &Folder) -> Queries {
    let context = Context::new(Clock::real(), Registry::new());
    let database = Database::open(Config::new(folder.url()), context.clone())
        .await
        .unwrap();
    database
        .write(async |tx| {
            tx.batch(
                "CREATE TABLE orders (store TEXT NOT NULL, at INTEGER NOT NULL, id INTEGER NOT NULL, amount TEXT, \
                 PRIMARY KEY (store, at, id)) STRICT",
            )
            .await?;
            let insert = "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < $1 - 1) \
                          INSERT INTO orders SELECT CASE i % 2 WHEN 0 THEN 'north' ELSE 'south' END, i / 10, i, i || '.50' \
                          FROM n";
            tx.execute(insert, &[Value::Int(N_ROWS)]).await
        })
        .await
        .unwrap();
    Queries::open(database, vec![query()], [7; 32], context)
        .await
        .unwrap()
}

fn query() -> Query {
    let column = |name: &str, kind: &str| (name.to_owned(), Type::parse(kind).unwrap());
    Query {
        sql: Dialects {
            postgres: None,
            sqlite: Some("SELECT id, at, amount FROM orders WHERE store = :store".to_owned()),
        },
        params: vec![Param {
            name: "store".to_owned(),
            kind: Type::Text,
            source: Source::Caller,
            default: None,
            optional: false,
        }],
        page: ["at", "id"]
            .map(|name| Order {
                column: name.to_owned(),
                descending: true,
            })
            .into(),
        rows_max: 1_000,
        returns: vec![
            column("id", "int8"),
            column("at", "timestamptz"),
            column("amount", "numeric"),
        ],
        ..Query::new("orders", "")
    }
}

async fn page(
    queries: &Queries,
    store: &str,
    after: Option<&str>,
) -> Result<(Vec<Json>, Option<String>), Error> {
    let params = Map::from_iter([("store".to_owned(), json!(store))]);
    let call = Call {
        params: &params,
        claim: &|_| None,
        limit: Some(700),
        after,
        token: None,
        caller: Location::caller(),
    };
    let page = queries.page("orders", call).await?;
    Ok((serde_json::from_slice(&page.rows).unwrap(), page.next))
}

#[tokio::test]
async fn every_row_is_seen_once_by_its_pages() {
    let folder = Folder::new();
    let queries = orders(&folder).await;
    let (mut seen, mut after) = (BTreeSet::new(), None);
    loop {
        let (rows, next) = page(&queries, "south", after.as_deref()).await.unwrap();
        for row in &rows {
            assert!(seen.insert(row["id"].as_i64().unwrap()), "{row} twice");
        }
        let Some(next) = next else { break };
        after = Some(next);
    }
    assert_eq!(seen.len() as i64, N_ROWS / 2);
    let (rows, _) = page(&queries, "north", None).await.unwrap();
    let newest = json!({"id": 9_998, "at": "1970-01-01T00:00:00.000999Z", "amount": "9998.50"});
    assert_eq!(rows[0], newest);
}

#[tokio::test]
async fn a_cursor_belongs_to_its_parameters() {
    let folder = Folder::new();
    let queries = orders(&folder).await;
    let (_, next) = page(&queries, "south", None).await.unwrap();
    let stolen = page(&queries, "north", next.as_deref()).await;
    assert!(matches!(stolen, Err(Error::CursorInvalid(_))), "{stolen:?}");
}
