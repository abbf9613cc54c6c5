//! Pages by key beside OFFSET, on the orders set.

use std::time::Instant;

use serde_json::Map;
use tidegate_store::query::{Call, Order, Queries, Query};
use tidegate_store::{Config, Context, Database, Select, Value};
use tidegate_vitals::{Clock, Registry};
use tokio::runtime::Builder;

use super::monitor::from_store;
use super::{Options, Report, cluster};
use crate::error::{Result, Tried};

const TABLE: &str = "20 of 93,728 orders by day, one thread, with the index of that order";
const FIRST: &str = "first page, ms";
const DEEP: &str = "page at row 90,000, ms";

const ORDERS: &str = "CREATE TABLE orders (id int8 PRIMARY KEY, store int4 NOT NULL, day date NOT NULL, amount numeric NOT NULL); \
    INSERT INTO orders SELECT n, n % 4 + 1, date '2024-01-01' + (n / 257)::int4, n % 1000 / 7.0 FROM generate_series(1, 93728) n; \
    CREATE INDEX by_day ON orders (day, id)";
const DEEP_ROW: usize = 90_000;

/// Who gets the page. By key and by OFFSET the same is done with the rows: nothing, or the whole way of a declared query
/// to a JSON answer, statistics included.
#[derive(Clone, Copy)]
enum Way {
    KeyRows,
    OffsetRows,
    KeyJson,
    OffsetJson,
}

/// What is asked, and where.
struct Subject {
    database: Database,
    queries: Queries,
    /// Where row 90,000 begins: for a declared query, and as the keys of the row before it.
    after: String,
    keys: Vec<Value>,
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cluster = cluster()?;
    // One thread for all tasks: with more, whether two of them share one is worth half of a round trip.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .tried("start a runtime")?;
    let subject = runtime.block_on(Subject::open(&cluster.url("postgres")));
    let subject = subject.map_err(from_store)?;
    let n = if options.quick { 5 } else { 100 };
    for number in 1..=options.n_rounds() {
        eprintln!("pages: round {number} of {}", options.n_rounds());
        for (column, is_deep) in [(FIRST, false), (DEEP, true)] {
            let best = runtime.block_on(subject.best(n, is_deep)).map_err(from_store)?;
            for (way, ms) in Way::ALL.into_iter().zip(best) {
                report.add(TABLE, way.title(), column, ms);
            }
        }
    }
    for (what, key, offset) in [
        ("rows alone", Way::KeyRows, Way::OffsetRows),
        ("both as JSON", Way::KeyJson, Way::OffsetJson),
    ] {
        report.budget(
            format!("pages: by key over OFFSET at row 90,000, {what}"),
            "≥100×",
            report.ratio(TABLE, offset.title(), key.title(), DEEP),
            |times| times >= 100.0,
        );
    }
    Ok(())
}

// === impl Way ===

impl Way {
    const ALL: [Self; 4] = [Self::KeyRows, Self::OffsetRows, Self::KeyJson, Self::OffsetJson];

    const fn title(self) -> &'static str {
        match self {
            Self::KeyRows => "statement by key, rows alone",
            Self::OffsetRows => "statement with OFFSET, rows alone",
            Self::KeyJson => "declared query by key, as JSON with its cursor",
            Self::OffsetJson => "declared query with OFFSET, as JSON",
        }
    }
}

// === impl Subject ===

impl Subject {
    async fn open(url: &str) -> tidegate_store::error::Result<Self> {
        let context = Context::new(Clock::real(), Registry::new());
        let database = Database::open(Config::new(url), context.clone()).await?;
        database.write(async |tx| tx.batch(ORDERS).await).await?;
        database
            .write(async |tx| tx.batch("ANALYZE orders").await)
            .await?;
        let by_key = Query {
            page: vec![Order::parse("day desc")?, Order::parse("id desc")?],
            ..Query::new("key", "SELECT id, day, amount FROM orders")
        };
        let declared = vec![
            by_key,
            Query::new("first", offset_sql(0)),
            Query::new("deep", offset_sql(DEEP_ROW)),
        ];
        let queries = Queries::open(database.clone(), declared, [1; 32], context).await?;
        let sql = format!(
            "SELECT day, id FROM orders ORDER BY day DESC, id DESC LIMIT 1 OFFSET {}",
            DEEP_ROW - 1
        );
        let rows = database.select(Select::new(&sql, &[])).await?.collect().await?;
        let subject = Self {
            after: deep_cursor(&queries).await?,
            keys: rows.into_iter().next().unwrap_or_default(),
            database,
            queries,
        };
        let by_key = subject.rows(KEY_SQL, &subject.keys).await?;
        assert_eq!(
            by_key,
            subject.rows(&offset_sql(DEEP_ROW), &[]).await?,
            "one page"
        );
        Ok(subject)
    }

    /// The best of many for each way, in milliseconds. The ways take turns: on which core the server happens to sit is
    /// worth half of a round trip, and shall not fall to one of them.
    async fn best(&self, n: usize, is_deep: bool) -> tidegate_store::error::Result<[f64; 4]> {
        let mut best = [f64::INFINITY; 4];
        for _ in 0..n {
            for (way, best) in Way::ALL.into_iter().zip(&mut best) {
                let start = Instant::now();
                let n_rows = self.ask(way, is_deep).await?;
                *best = best.min(start.elapsed().as_secs_f64() * 1e3);
                assert_eq!(n_rows, 20, "every page is full");
            }
        }
        Ok(best)
    }

    async fn ask(&self, way: Way, is_deep: bool) -> tidegate_store::error::Result<usize> {
        match (way, is_deep) {
            (Way::KeyRows, true) => Ok(self.rows(KEY_SQL, &self.keys).await?.len()),
            (Way::KeyRows | Way::OffsetRows, _) => {
                let offset = if is_deep { DEEP_ROW } else { 0 };
                Ok(self.rows(&offset_sql(offset), &[]).await?.len())
            }
            (Way::KeyJson, _) => page(&self.queries, is_deep.then_some(self.after.as_str())).await,
            (Way::OffsetJson, _) => {
                let (name, params) = (if is_deep { "deep" } else { "first" }, Map::new());
                Ok(self.queries.page(name, Call::new(&params)).await?.n_rows)
            }
        }
    }

    async fn rows(&self, sql: &str, params: &[Value]) -> tidegate_store::error::Result<Vec<Vec<Value>>> {
        let select = Select {
            pipeline: true,
            ..Select::new(sql, params)
        };
        self.database.select(select).await?.collect().await
    }
}

const KEY_SQL: &str = "SELECT id, day, amount FROM orders WHERE (day, id) < ($1, $2) \
    ORDER BY day DESC, id DESC LIMIT 20";

fn offset_sql(offset: usize) -> String {
    format!("SELECT id, day, amount FROM orders ORDER BY day DESC, id DESC LIMIT 20 OFFSET {offset}")
}

async fn page(queries: &Queries, after: Option<&str>) -> tidegate_store::error::Result<usize> {
    let params = Map::new();
    let call = Call {
        limit: Some(20),
        after,
        ..Call::new(&params)
    };
    Ok(queries.page("key", call).await?.n_rows)
}

async fn deep_cursor(queries: &Queries) -> tidegate_store::error::Result<String> {
    let params = Map::new();
    let mut after: Option<String> = None;
    for _ in 0..DEEP_ROW / 1_000 {
        let call = Call {
            limit: Some(1_000),
            after: after.as_deref(),
            ..Call::new(&params)
        };
        after = queries.page("key", call).await?.next;
    }
    Ok(after.unwrap_or_default())
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
