//! Roll-ups equal a GROUP BY over their table after any changes, on PostgreSQL and on SQLite.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use tidegate_store::feed::{Aggregate, Bucket, Column, Measure, Rollup};
use tidegate_store::schema::{functions, rollup, table, timescale::Timescale};
use tidegate_store::{Feed, Kind, OnConflict, Type};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::support;

const DAY_MICROS: i64 = 86_400_000_000;
/// A Monday, as the buckets are counted.
const MONDAY_DAYS: i64 = 10_959;

// === The feed ===

fn column(name: &str, kind: &str, not_null: bool) -> Column {
    Column {
        name: name.to_owned(),
        kind: Type::parse(kind).unwrap(),
        not_null,
    }
}

fn measure(how: Aggregate, column: Option<&str>, into: &str) -> Measure {
    Measure {
        how,
        column: column.map(str::to_owned),
        into: into.to_owned(),
    }
}

fn bucket(column: &str, days: u64) -> Option<Bucket> {
    Some(Bucket {
        column: column.to_owned(),
        every: Duration::from_secs(days * 86_400),
    })
}

fn rollup_of(name: &str, group: &[&str], bucket: Option<Bucket>, measures: Vec<Measure>) -> Rollup {
    Rollup {
        name: name.to_owned(),
        table: format!("sales {name}"),
        group: group.iter().map(|name| (*name).to_owned()).collect(),
        bucket,
        measures,
    }
}

fn feed() -> Feed {
    use Aggregate::{Count, Last, Max, Min, Sum};
    let by_day = vec![
        measure(Count, None, "n"),
        measure(Count, Some("price"), "n_price"),
        measure(Sum, Some("qty"), "qty_sum"),
        measure(Sum, Some("price"), "price_sum"),
        measure(Min, Some("price"), "price_min"),
        measure(Max, Some("price"), "price_max"),
        measure(Last, Some("price"), "price_last"),
    ];
    let by_week = vec![
        measure(Sum, Some("big"), "big_sum"),
        measure(Max, Some("ts"), "newest"),
        measure(Last, Some("side"), "side_last"),
    ];
    Feed {
        name: "sales".to_owned(),
        table: "sales".to_owned(),
        columns: vec![
            column("id", "int8", true),
            column("store", "text", false),
            column("side", "enum(buy,sell)", true),
            column("ts", "timestamptz", true),
            column("day", "date", false),
            column("qty", "int4", false),
            column("big", "int8", true),
            column("price", "numeric", false),
        ],
        key: vec!["id".to_owned()],
        on_conflict: OnConflict::Ignore,
        tags: vec![],
        retain: None,
        manage: true,
        partition: None,
        rollups: vec![
            rollup_of("by \"day\"", &["store", "side"], bucket("ts", 1), by_day),
            rollup_of("by week", &[], bucket("day", 7), by_week),
            rollup_of(
                "all",
                &["store"],
                None,
                vec![measure(Sum, Some("qty"), "qty_sum")],
            ),
        ],
        row_bytes_max: 1 << 20,
        rows_per_second_max: None,
    }
}

#[derive(Debug, Clone)]
struct Row {
    id: i64,
    store: Option<u8>,
    side: bool,
    hours: i64,
    day: Option<i64>,
    qty: Option<i32>,
    big: i64,
    cents: Option<i64>,
}

#[derive(Debug, Clone)]
enum Change {
    Insert(Vec<Row>),
    Upsert(Vec<Row>),
    Delete(Vec<i64>),
}

impl Row {
    fn micros(&self) -> i64 {
        MONDAY_DAYS * DAY_MICROS + self.hours * DAY_MICROS / 24
    }

    fn side(&self) -> &'static str {
        if self.side { "sell" } else { "buy" }
    }

    fn literal(&self, database: Kind) -> String {
        let (ts, day) = match database {
            Kind::Postgres => (
                format!("to_timestamp({})", self.micros() / 1_000_000),
                self.day
                    .map(|day| format!("date '1970-01-01' + {}", MONDAY_DAYS + day)),
            ),
            Kind::Sqlite => (
                self.micros().to_string(),
                self.day.map(|day| (MONDAY_DAYS + day).to_string()),
            ),
        };
        let or_null = |text: Option<String>| text.unwrap_or_else(|| "NULL".to_owned());
        format!(
            "({}, {}, '{}', {ts}, {}, {}, {}, {})",
            self.id,
            or_null(self.store.map(|store| format!("'s{store}'"))),
            self.side(),
            or_null(day),
            or_null(self.qty.map(|qty| qty.to_string())),
            self.big,
            or_null(self.cents.map(|cents| match database {
                Kind::Postgres => format!("{}::numeric(20,2)", money(cents)),
                Kind::Sqlite => format!("'{}'", money(cents)),
            }))
        )
    }
}

fn money(cents: i64) -> String {
    let sign = if cents < 0 { "-" } else { "" };
    format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100)
}

// === What must come out ===

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "∅".to_owned(), |value| value.to_string())
}

/// The groups of rows under a key, written as lines of text.
fn groups<'a>(
    rows: &'a BTreeMap<i64, Row>,
    key: impl Fn(&Row) -> String,
    figures: impl Fn(&[&'a Row]) -> String,
) -> BTreeSet<String> {
    let mut groups: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows.values() {
        groups.entry(key(row)).or_default().push(row);
    }
    groups
        .iter()
        .map(|(key, rows)| format!("{key}|{}", figures(rows)))
        .collect()
}

fn expected(rows: &BTreeMap<i64, Row>) -> [BTreeSet<String>; 3] {
    let by_day = groups(
        rows,
        |row| {
            let day = row.micros().div_euclid(DAY_MICROS) * DAY_MICROS;
            format!(
                "{}|{}|{day}",
                text(row.store.map(|store| format!("s{store}"))),
                row.side()
            )
        },
        |rows| {
            let prices: Vec<i64> = rows.iter().filter_map(|row| row.cents).collect();
            let quantities: Vec<i64> = rows.iter().filter_map(|row| row.qty.map(i64::from)).collect();
            let last = rows
                .iter()
                .filter_map(|row| row.cents.map(|cents| (row.micros(), cents)))
                .max();
            format!(
                "{}|{}|{}|{}|{}|{}|{}|{}",
                rows.len(),
                prices.len(),
                text((!quantities.is_empty()).then(|| quantities.iter().sum::<i64>())),
                text((!prices.is_empty()).then(|| money(prices.iter().sum()))),
                text(prices.iter().min().map(|cents| money(*cents))),
                text(prices.iter().max().map(|cents| money(*cents))),
                text(last.map(|(_, cents)| money(cents))),
                text(last.map(|(at, _)| at)),
            )
        },
    );
    let by_week = groups(
        rows,
        |row| text(row.day.map(|day| MONDAY_DAYS + day.div_euclid(7) * 7)),
        |rows| {
            let sum: i128 = rows.iter().map(|row| i128::from(row.big)).sum();
            let last = rows
                .iter()
                .filter_map(|row| row.day.map(|day| (day, row.side())))
                .max();
            format!(
                "{sum}|{}|{}|{}",
                text(rows.iter().map(|row| row.micros()).max()),
                text(last.map(|(_, side)| side)),
                text(last.map(|(day, _)| MONDAY_DAYS + day)),
            )
        },
    );
    let all = groups(
        rows,
        |row| text(row.store.map(|store| format!("s{store}"))),
        |rows| {
            let quantities: Vec<i64> = rows.iter().filter_map(|row| row.qty.map(i64::from)).collect();
            text((!quantities.is_empty()).then(|| quantities.iter().sum::<i64>()))
        },
    );
    [by_day, by_week, all]
}

/// Reads the three roll-ups with every value as text.
fn read_sql(database: Kind) -> [String; 3] {
    let ts = |name: &str| match database {
        Kind::Postgres => format!("(extract(epoch FROM {name}) * 1000000)::int8"),
        Kind::Sqlite => name.to_owned(),
    };
    let day = |name: &str| match database {
        Kind::Postgres => format!("{name} - date '1970-01-01'"),
        Kind::Sqlite => name.to_owned(),
    };
    [
        format!(
            "SELECT store, side, {}, n, n_price, qty_sum, price_sum, price_min, price_max, price_last, {} \
             FROM \"sales by \"\"day\"\"\"",
            ts("ts"),
            ts("price_last_at")
        ),
        format!(
            "SELECT {}, big_sum, {}, side_last, {} FROM \"sales by week\"",
            day("day"),
            ts("newest"),
            day("side_last_at")
        ),
        "SELECT store, qty_sum FROM \"sales all\"".to_owned(),
    ]
}

/// The statements of one transaction that makes `change`, without its begin and end.
fn statements(database: Kind, feed: &Feed, change: &Change) -> Vec<String> {
    let temporary = |name: &str, what: &str| match database {
        Kind::Postgres => format!("CREATE TEMP TABLE {name} ON COMMIT DROP AS {what}"),
        Kind::Sqlite => format!("CREATE TEMP TABLE {name} AS {what}"),
    };
    let load = |rows: &[Row]| {
        let rows: Vec<String> = rows.iter().map(|row| row.literal(database)).collect();
        [
            temporary("batch", "SELECT * FROM sales WHERE false"),
            format!("INSERT INTO batch VALUES {}", rows.join(", ")),
        ]
    };
    let recompute = |statements: &mut Vec<String>| {
        for rollup in &feed.rollups {
            statements.extend(rollup::recompute_sql(database, feed, rollup, "touched"));
        }
    };
    let mut statements = Vec::new();
    let mut temporaries = vec!["touched"];
    match change {
        Change::Insert(rows) => {
            statements.extend(load(rows));
            let new = "SELECT * FROM batch WHERE id NOT IN (SELECT id FROM sales)";
            statements.push(temporary("touched", new));
            statements.push("INSERT INTO sales SELECT * FROM touched".to_owned());
            for rollup in &feed.rollups {
                statements.push(rollup::apply_sql(database, feed, rollup, "touched"));
            }
            temporaries.push("batch");
        }
        Change::Upsert(rows) => {
            statements.extend(load(rows));
            statements.push(temporary(
                "touched",
                "SELECT * FROM sales WHERE id IN (SELECT id FROM batch) UNION ALL SELECT * FROM batch",
            ));
            let set: Vec<String> = feed
                .columns
                .iter()
                .map(|column| format!("{0} = excluded.{0}", column.name))
                .collect();
            statements.push(format!(
                "INSERT INTO sales SELECT * FROM batch WHERE true ORDER BY id ON CONFLICT (id) DO UPDATE SET {}",
                set.join(", ")
            ));
            recompute(&mut statements);
            temporaries.push("batch");
        }
        Change::Delete(ids) => {
            let ids: Vec<String> = ids.iter().map(i64::to_string).collect();
            let these = format!("sales WHERE id IN ({})", ids.join(", "));
            statements.push(temporary("touched", &format!("SELECT * FROM {these}")));
            statements.push(format!("DELETE FROM {these}"));
            recompute(&mut statements);
        }
    }
    if database == Kind::Sqlite {
        statements.extend(temporaries.iter().map(|name| format!("DROP TABLE {name}")));
    }
    statements
}

fn change_model(rows: &mut BTreeMap<i64, Row>, change: &Change) {
    match change {
        Change::Insert(new) => {
            for row in new {
                rows.entry(row.id).or_insert_with(|| row.clone());
            }
        }
        Change::Upsert(new) => rows.extend(new.iter().map(|row| (row.id, row.clone()))),
        Change::Delete(ids) => rows.retain(|id, _| !ids.contains(id)),
    }
}

fn create(database: Kind, feed: &Feed) -> Vec<String> {
    let rollups = feed
        .rollups
        .iter()
        .flat_map(|rollup| rollup::create_sql(database, feed, rollup));
    table::create_sql(database, Timescale::Absent, feed)
        .into_iter()
        .chain(rollups)
        .collect()
}

// === What changes ===

prop_compose! {
    fn any_row(ids: i64)(
        id in 0..ids,
        store in proptest::option::of(0_u8..3),
        side in any::<bool>(),
        hours in -30_i64..30,
        day in proptest::option::of(-10_i64..10),
        qty in proptest::option::of(-5_i32..100),
        big in prop_oneof![-9_i64..9, Just(i64::MAX), Just(i64::MIN)],
        cents in proptest::option::of(-10_000_i64..1_000_000),
    ) -> Row {
        Row { id, store, side, hours, day, qty, big, cents }
    }
}

fn any_rows(ids: i64) -> impl Strategy<Value = Vec<Row>> {
    proptest::collection::vec(any_row(ids), 1..20).prop_map(|rows| {
        let by_id: BTreeMap<i64, Row> = rows.into_iter().map(|row| (row.id, row)).collect();
        by_id.into_values().collect()
    })
}

fn any_changes(ids: i64) -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        3 => any_rows(ids).prop_map(Change::Insert),
        2 => any_rows(ids).prop_map(Change::Upsert),
        1 => proptest::collection::vec(0..ids, 1..15).prop_map(Change::Delete),
    ];
    proptest::collection::vec(change, 1..12)
}

fn cases(n: u32) -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(n)
    }
}

// === PostgreSQL ===

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    drop(tokio::spawn(connection));
    client
}

async fn lines(client: &Client, sql: &str) -> BTreeSet<String> {
    let messages = client.simple_query(sql).await.unwrap();
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| {
        (0..row.len())
            .map(|at| text(row.get(at)))
            .collect::<Vec<_>>()
            .join("|")
    })
    .collect()
}

async fn change_postgres(client: &Client, feed: &Feed, change: &Change) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("BEGIN").await?;
    for sql in statements(Kind::Postgres, feed, change) {
        // One by one: a recompute needs a snapshot of its own for each statement.
        client.batch_execute(&sql).await?;
    }
    client.batch_execute("COMMIT").await
}

async fn check_postgres(client: &Client, model: &BTreeMap<i64, Row>) {
    for (sql, expected) in read_sql(Kind::Postgres).iter().zip(expected(model)) {
        assert_eq!(lines(client, sql).await, expected, "{sql}");
    }
}

#[test]
fn rollups_equal_a_group_by_on_postgres() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let feed = feed();
    let client = runtime.block_on(connect(&support::database()));
    for sql in create(Kind::Postgres, &feed) {
        runtime.block_on(client.batch_execute(&sql)).unwrap();
    }
    let mut runner = proptest::test_runner::TestRunner::new(cases(32));
    let outcome = runner.run(&any_changes(40), |changes| {
        runtime.block_on(async {
            let clear = "TRUNCATE sales, \"sales by \"\"day\"\"\", \"sales by week\", \"sales all\"";
            client.batch_execute(clear).await.unwrap();
            let mut model = BTreeMap::new();
            for change in &changes {
                change_postgres(&client, &feed, change).await.unwrap();
                change_model(&mut model, change);
                check_postgres(&client, &model).await;
            }
        });
        Ok(())
    });
    outcome.unwrap();
}

/// Writers share groups, not rows; whatever order they commit in, no row's figure is lost or counted twice, and none waits
/// for another in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_nothing() {
    let feed = std::sync::Arc::new(feed());
    let url = support::database();
    let client = connect(&url).await;
    for sql in create(Kind::Postgres, &feed) {
        client.batch_execute(&sql).await.unwrap();
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut writers = Vec::new();
    let n_ids = 40;
    for writer in 0..6_i64 {
        let changes: Vec<Change> = (0..6)
            .flat_map(|_| any_changes(n_ids).new_tree(&mut runner).unwrap().current())
            .map(|change| moved(change, writer * n_ids))
            .collect();
        let (feed, url) = (feed.clone(), url.clone());
        writers.push(tokio::spawn(async move {
            let client = connect(&url).await;
            let mut model = BTreeMap::new();
            for change in &changes {
                change_postgres(&client, &feed, change).await.unwrap();
                change_model(&mut model, change);
            }
            model
        }));
    }
    let mut model = BTreeMap::new();
    for writer in writers {
        model.extend(writer.await.unwrap());
    }
    check_postgres(&client, &model).await;
}

fn moved(change: Change, by: i64) -> Change {
    let rows = |rows: Vec<Row>| {
        rows.into_iter()
            .map(|row| Row {
                id: row.id + by,
                ..row
            })
            .collect()
    };
    match change {
        Change::Insert(of) => Change::Insert(rows(of)),
        Change::Upsert(of) => Change::Upsert(rows(of)),
        Change::Delete(ids) => Change::Delete(ids.into_iter().map(|id| id + by).collect()),
    }
}

// === SQLite ===

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn rollups_equal_a_group_by_on_sqlite(changes in any_changes(40)) {
        let feed = feed();
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        functions::register(&connection).unwrap();
        for sql in create(Kind::Sqlite, &feed) {
            connection.execute_batch(&sql).unwrap();
        }
        let mut model = BTreeMap::new();
        for change in &changes {
            for sql in statements(Kind::Sqlite, &feed, change) {
                connection.execute_batch(&sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
            }
            change_model(&mut model, change);
            for (sql, expected) in read_sql(Kind::Sqlite).iter().zip(expected(&model)) {
                let mut statement = connection.prepare(sql).unwrap();
                let n = statement.column_count();
                let found: BTreeSet<String> = statement
                    .query_map([], |row| {
                        let values: Result<Vec<String>, _> = (0..n).map(|at| row.get_ref(at).map(sqlite_text)).collect();
                        values.map(|values| values.join("|"))
                    })
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
                prop_assert_eq!(&found, &expected, "{}", sql);
            }
        }
    }
}

fn sqlite_text(value: rusqlite::types::ValueRef<'_>) -> String {
    use rusqlite::types::ValueRef;
    match value {
        ValueRef::Null => "∅".to_owned(),
        ValueRef::Integer(value) => value.to_string(),
        ValueRef::Real(value) => value.to_string(),
        ValueRef::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        ValueRef::Blob(_) => unreachable!("no column holds blobs"),
    }
}

#[test]
fn what_cannot_be_kept_is_refused() {
    fn check(change: impl Fn(&mut Rollup), expected: &str) {
        let mut feed = feed();
        change(&mut feed.rollups[0]);
        let error = rollup::check(&feed, &feed.rollups[0]).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(
        feed()
            .rollups
            .iter()
            .all(|rollup| rollup::check(&feed(), rollup).is_ok())
    );
    check(|rollup| rollup.group = vec!["shop".to_owned()], "\"shop\"");
    check(|rollup| rollup.measures.clear(), "at least one measure");
    check(|rollup| rollup.table = "sales".to_owned(), "the feed's own");
    check(
        |rollup| rollup.measures[0].into = "ts".to_owned(),
        "called \"ts\"",
    );
    check(
        |rollup| rollup.measures[0].into = "price_last_at".to_owned(),
        "called",
    );
    check(
        |rollup| rollup.measures[2].column = Some("side".to_owned()),
        "no Sum of enum",
    );
    check(|rollup| rollup.bucket = None, "last needs a bucket");
    check(|rollup| rollup.bucket = bucket("store", 1), "timestamptz or date");
    check(|rollup| rollup.bucket = bucket("ts", 0), "at least one");
}
