//! The orders set before and after the plan of eleven indexes, with the advised one, and from a roll-up.

use std::time::Duration;

use tidegate_advisor::{Plan, apply};
use tidegate_store::feed::{Aggregate, Bucket, Column, Feed, Measure, OnConflict, Rollup};
use tidegate_store::schema::rollup;
use tidegate_store::{Config, Context, Database, Kind, Select, Type};
use tidegate_vitals::{Clock, Registry};
use tokio::runtime::Builder;

use super::monitor::from_store;
use super::pages::best;
use super::{Options, Report, cluster};
use crate::error::{Error, Result, Tried};

const TABLE: &str = "93,728 orders of 4 stores, one statement at a time, with its rows, ms";
const PLAIN: &str = "no index but the key";
const PLANNED: &str = "plan of eleven";
const ADVISED: &str = "plan and the advised index";
const ROLLUP: &str = "from the roll-up";
const COUNT: &str = "COUNT";
const STORE: &str = "one store";
const WEEK: &str = "store + 7 days";

const MAKE: &str = "CREATE TABLE orders (id int8 PRIMARY KEY, store text NOT NULL, date date NOT NULL, channel text NOT NULL, \
    product text NOT NULL, category_l1 text NOT NULL, scene text NOT NULL, time_period text NOT NULL, \
    quantity int4 NOT NULL, amount numeric(12, 2) NOT NULL); \
    INSERT INTO orders SELECT n, 'store-' || n * 7 % 4, date '2024-01-01' + (hashint4(n) & 511) % 365, 'channel-' || n % 5, \
    'product-' || hashint4(n + 1) % 200, 'category-' || n % 12, 'scene-' || n % 6, 'period-' || n % 4, n % 9 + 1, \
    (n % 1000) / 7.0 FROM generate_series(1, 93728) n";

/// What `tidegate index advise` finds for the week below: equality, range, and the summed column at hand.
const ADVICE: &str = "CREATE INDEX orders_advised ON orders (store, date) INCLUDE (amount)";

const FROM_ROWS: [(&str, &str); 3] = [
    (COUNT, "SELECT count(*) FROM orders"),
    (
        STORE,
        "SELECT count(*), sum(amount) FROM orders WHERE store = 'store-1'",
    ),
    (
        WEEK,
        "SELECT date, sum(amount) FROM orders WHERE store = 'store-1' AND date >= '2024-06-01' AND date < '2024-06-08' \
         GROUP BY date ORDER BY date",
    ),
];

const FROM_ROLLUP: [(&str, &str); 3] = [
    (COUNT, "SELECT sum(n) FROM orders_daily"),
    (
        STORE,
        "SELECT sum(n), sum(amount_sum) FROM orders_daily WHERE store = 'store-1'",
    ),
    (
        WEEK,
        "SELECT date, amount_sum FROM orders_daily WHERE store = 'store-1' AND date >= '2024-06-01' AND date < '2024-06-08' \
         ORDER BY date",
    ),
];

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let cluster = cluster()?;
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")?;
    let n = if options.quick { 5 } else { 100 };
    for number in 1..=options.n_rounds() {
        eprintln!("orders: round {number} of {}", options.n_rounds());
        let url = cluster.create_database("orders").map_err(super::from_cluster)?;
        runtime.block_on(round(&url, n, report))?;
    }
    let at_most = |who: &str, column: &str| report.median(TABLE, who, column);
    let (week, slowest) = (
        at_most(ADVISED, WEEK),
        [COUNT, STORE, WEEK]
            .iter()
            .filter_map(|column| at_most(PLANNED, column))
            .reduce(f64::max),
    );
    report.budget(
        "orders: store + 7 days with the advised index, ms",
        "≤0.3",
        week,
        |ms| ms <= 0.3,
    );
    report.budget(
        "orders: the slowest of the three with the plan, ms",
        "<10",
        slowest,
        |ms| ms < 10.0,
    );
    Ok(())
}

async fn round(url: &str, n: usize, report: &mut Report) -> Result<()> {
    let database = open(url).await.map_err(from_store)?;
    measure(&database, (PLAIN, &FROM_ROWS), n, report).await?;
    plan(&database).await?;
    measure(&database, (PLANNED, &FROM_ROWS), n, report).await?;
    change(&database, ADVICE).await.map_err(from_store)?;
    vacuum(&database).await?;
    measure(&database, (ADVISED, &FROM_ROWS), n, report).await?;
    roll_up(&database).await.map_err(from_store)?;
    measure(&database, (ROLLUP, &FROM_ROLLUP), n, report).await?;
    database.close().await;
    Ok(())
}

async fn measure(
    database: &Database,
    (who, statements): (&str, &[(&str, &str)]),
    n: usize,
    report: &mut Report,
) -> Result<()> {
    for (column, sql) in statements {
        let ms = best(n, async || {
            let select = Select {
                pipeline: true,
                ..Select::new(sql, &[])
            };
            database.select(select).await?.collect().await.map(|_| None)
        })
        .await?;
        report.add(TABLE, who, column, ms);
    }
    Ok(())
}

async fn open(url: &str) -> tidegate_store::error::Result<Database> {
    let context = Context::new(Clock::real(), Registry::new());
    let database = Database::open(Config::new(url), context).await?;
    change(&database, MAKE).await?;
    change(&database, "ANALYZE orders").await?;
    Ok(database)
}

async fn change(database: &Database, sql: &str) -> tidegate_store::error::Result<()> {
    database.write(async |tx| tx.batch(sql).await).await
}

async fn plan(database: &Database) -> Result<()> {
    let pool = database.postgres().expect("the section runs on PostgreSQL");
    let claim = pool.acquire().await.map_err(from_store)?;
    let done = apply(claim.client(), &Plan::orders(), None, &mut |_| {}).await;
    done.map(drop)
        .map_err(|error| Error::Server(format!("index plan: {error}")))
}

/// An index alone answers only for pages whose rows are known to be visible to all.
async fn vacuum(database: &Database) -> Result<()> {
    let pool = database.postgres().expect("the section runs on PostgreSQL");
    let claim = pool.acquire().await.map_err(from_store)?;
    let done = claim.client().batch_execute("VACUUM (ANALYZE) orders").await;
    done.map_err(|error| Error::Server(format!("vacuum: {error}")))
}

async fn roll_up(database: &Database) -> tidegate_store::error::Result<()> {
    let feed = feed()?;
    let daily = &feed.rollups[0];
    for sql in rollup::create_sql(Kind::Postgres, &feed, daily) {
        change(database, &sql).await?;
    }
    change(
        database,
        &rollup::apply_sql(Kind::Postgres, &feed, daily, "orders"),
    )
    .await?;
    change(database, "ANALYZE orders_daily").await
}

fn feed() -> tidegate_store::error::Result<Feed> {
    let column = |(name, kind): (&str, &str)| -> tidegate_store::error::Result<Column> {
        Ok(Column {
            name: name.to_owned(),
            kind: Type::parse(kind)?,
            not_null: true,
        })
    };
    let columns = [
        ("id", "int8"),
        ("store", "text"),
        ("date", "date"),
        ("amount", "numeric"),
    ];
    let measure = |how, column: Option<&str>, into: &str| Measure {
        how,
        column: column.map(ToOwned::to_owned),
        into: into.to_owned(),
    };
    Ok(Feed {
        name: "orders".to_owned(),
        table: "orders".to_owned(),
        columns: columns
            .into_iter()
            .map(column)
            .collect::<tidegate_store::error::Result<_>>()?,
        key: vec!["id".to_owned()],
        on_conflict: OnConflict::Error,
        tags: Vec::new(),
        retain: None,
        manage: false,
        partition: None,
        rollups: vec![Rollup {
            name: "daily".to_owned(),
            table: "orders_daily".to_owned(),
            group: vec!["store".to_owned()],
            bucket: Some(Bucket {
                column: "date".to_owned(),
                every: Duration::from_secs(86_400),
            }),
            measures: vec![
                measure(Aggregate::Count, None, "n"),
                measure(Aggregate::Sum, Some("amount"), "amount_sum"),
            ],
        }],
        row_bytes_max: 1 << 20,
        rows_per_second_max: None,
    })
}
