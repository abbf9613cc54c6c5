//! Rows on their way into a real PostgreSQL: what is stored, refused, counted and told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tidegate_store::database::{self, Context, Database};
use tidegate_store::feed::{Aggregate, Bucket, Column, Feed, Measure, Rollup};
use tidegate_store::ingest::{self, Hooks, Ingest, Outcome, Request, Rows, State};
use tidegate_store::{Commit, CommitHook, Error, Fanout, How, OnConflict, Operation, Template, Type, Value};
use tidegate_vitals::{Clock, Registry};

use crate::support;

/// A feed called as its table, from `"id:int8* name:text!"`: a star marks the key, a bang refuses null.
pub(crate) fn feed(table: &str, columns: &str, on_conflict: OnConflict) -> Feed {
    let parts = || columns.split(' ').map(|part| part.split_once(':').unwrap());
    let column = |(name, kind): (&str, &str)| Column {
        name: name.to_owned(),
        kind: Type::parse(kind.trim_end_matches(['*', '!'])).unwrap(),
        not_null: kind.ends_with('!'),
    };
    let keys = parts().filter(|(_, kind)| kind.ends_with('*'));
    Feed {
        name: table.to_owned(),
        table: table.to_owned(),
        columns: parts().map(column).collect(),
        key: keys.map(|(name, _)| name.to_owned()).collect(),
        on_conflict,
        tags: Vec::new(),
        retain: None,
        manage: false,
        partition: None,
        rollups: Vec::new(),
        row_bytes_max: 1 << 20,
        rows_per_second_max: None,
    }
}

pub(crate) fn context() -> Context {
    Context::new(Clock::real(), Registry::new())
}

/// A database with tables, and the way into it.
pub(crate) struct Bench {
    pub(crate) url: String,
    pub(crate) database: Database,
    pub(crate) ingest: Ingest,
    pub(crate) told: Arc<Told>,
}

/// What hooks and fan-out were told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) tags: Mutex<Vec<String>>,
    pub(crate) rows: Mutex<Vec<(Operation, Vec<Value>, How)>>,
}

impl CommitHook for Told {
    fn committed(&self, commit: &Commit<'_>) {
        self.tags.lock().unwrap().extend_from_slice(commit.tags);
    }
}

impl Fanout for Told {
    fn stored(&self, _: &Feed, operation: Operation, rows: &[&[Value]], how: How) {
        let rows = rows.iter().map(|row| (operation, row.to_vec(), how));
        self.rows.lock().unwrap().extend(rows);
    }
}

impl Told {
    pub(crate) fn n_rows(&self) -> usize {
        self.rows.lock().unwrap().len()
    }

    /// The first value of each row, as it came.
    pub(crate) fn firsts(&self) -> Vec<i64> {
        let rows = self.rows.lock().unwrap();
        rows.iter()
            .map(|(_, row, _)| match row[0] {
                Value::Int(first) => first,
                _ => -1,
            })
            .collect()
    }
}

impl Bench {
    pub(crate) async fn new(sql: &str, feeds: Vec<Feed>) -> Self {
        Self::open(support::database(), sql, feeds, ingest::Config::default()).await
    }

    pub(crate) async fn open(url: String, sql: &str, feeds: Vec<Feed>, config: ingest::Config) -> Self {
        Self::open_in(context(), url, sql, feeds, config).await
    }

    pub(crate) async fn open_in(
        context: Context,
        url: String,
        sql: &str,
        feeds: Vec<Feed>,
        config: ingest::Config,
    ) -> Self {
        let database = Database::open(database::Config::new(url.clone()), context.clone())
            .await
            .unwrap();
        if !sql.is_empty() {
            let made = database.write(async |transaction| transaction.batch(sql).await);
            made.await.unwrap();
        }
        let told = Arc::new(Told::default());
        let hooks = Hooks {
            commit: vec![Arc::clone(&told) as Arc<dyn CommitHook>],
            fanout: Some(Arc::clone(&told) as Arc<dyn Fanout>),
        };
        let ingest = Ingest::start(database.clone(), feeds, config, hooks, context)
            .await
            .unwrap();
        Self {
            url,
            database,
            ingest,
            told,
        }
    }

    pub(crate) async fn send(&self, feed: &str, rows: &str) -> Outcome {
        self.try_send(request(feed, None, rows)).await.unwrap()
    }

    pub(crate) async fn send_as(&self, feed: &str, operation: Operation, rows: &str) -> Outcome {
        let request = Request {
            operation: Some(operation),
            ..request(feed, None, rows)
        };
        self.try_send(request).await.unwrap()
    }

    pub(crate) async fn try_send(&self, request: Request) -> Result<Outcome, Error> {
        self.ingest.submit(request).await
    }

    pub(crate) async fn sql(&self, sql: &str) {
        let done = self
            .database
            .write(async |transaction| transaction.batch(sql).await);
        done.await.unwrap();
    }

    /// The answer as text, one line a row.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        let rows = self
            .database
            .write(async |transaction| transaction.query(sql, &[]).await);
        let text = |value: &Value| match value {
            Value::Text(text) | Value::Jsonb(text) | Value::Numeric(text) => text.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Null => "null".to_owned(),
            other => format!("{other:?}"),
        };
        let rows = rows.await.unwrap();
        let lines = rows
            .iter()
            .map(|row| row.values().iter().map(text).collect::<Vec<_>>().join("|"));
        lines.collect::<Vec<_>>().join("\n")
    }

    pub(crate) async fn finish(self) {
        self.ingest.finish(Duration::from_secs(10)).await.unwrap();
        self.database.close().await;
    }
}

pub(crate) fn request(feed: &str, id: Option<&str>, rows: &str) -> Request {
    Request {
        feed: feed.to_owned(),
        principal: "tester".to_owned(),
        id: id.map(ToOwned::to_owned),
        operation: None,
        rows: Rows::Json(Bytes::copy_from_slice(rows.as_bytes())),
        first_row: 0,
    }
}

pub(crate) fn ids(range: std::ops::Range<u64>) -> String {
    let rows: Vec<String> = range.map(|id| format!("{{\"id\":{id}}}")).collect();
    format!("[{}]", rows.join(","))
}

fn codes(outcome: &Outcome) -> Vec<(u64, &str, &str)> {
    let rejected = outcome.rejected.iter();
    rejected
        .map(|row| (row.row, row.column.as_deref().unwrap_or(""), row.code))
        .collect()
}

fn dead(outcome: &Outcome) -> Vec<(u64, &str)> {
    outcome
        .dead_lettered
        .iter()
        .map(|row| (row.row, row.sqlstate.as_str()))
        .collect()
}

const ALL_TABLE: &str = "CREATE TYPE side AS ENUM ('buy', 'sell'); CREATE DOMAIN positive AS int4 CHECK (value > 0); \
     CREATE TABLE every (id int8 PRIMARY KEY, b bool, i2 int2, i4 positive, f4 float4, f8 float8, n numeric(20, 4), \
     t varchar(5), u uuid, d date, at timestamptz, j jsonb, e side, ia int8[], ta text[], big numeric)";
const ALL_COLUMNS: &str = "id:int8* b:bool i2:int2 i4:int4 f4:float4 f8:float8 n:numeric t:text u:uuid d:date \
     at:timestamptz j:jsonb e:enum(buy,sell) big:int8";
const ALL_ROW: &str = r#"{"id":1,"b":true,"i2":-2,"i4":4,"f4":0.1,"f8":-1e-300,"n":"12345.6789","t":"é","u":"0f6b1c2e-0001-0203-0405-060708090aff",
     "d":"1969-12-31","at":"2024-02-29T12:00:00.123456+08:00","j":{"a":[1,2.50]},"e":"sell","big":9007199254740993}"#;
const ALL_TEXT: &str =
    "SELECT concat_ws('|', id, b, i2, i4, f4, f8, n, t, u, d, at AT TIME ZONE 'UTC', j, e, big) FROM every";
const ALL_EXPECTED: &str = "1|t|-2|4|0.1|-1e-300|12345.6789|é|0f6b1c2e-0001-0203-0405-060708090aff|1969-12-31|\
     2024-02-29 04:00:00.123456|{\"a\": [1, 2.50]}|sell|9007199254740993";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_arrives_by_arrays_and_by_copy() {
    let bench = Bench::new(ALL_TABLE, vec![feed("every", ALL_COLUMNS, OnConflict::Error)]).await;
    let outcome = bench.send("every", ALL_ROW).await;
    assert_eq!(
        (outcome.stored, outcome.state),
        (1, State::Committed),
        "{outcome:?}"
    );
    assert_eq!(bench.ask(ALL_TEXT).await, ALL_EXPECTED);
    bench.sql("DELETE FROM every WHERE true").await;
    // More than fit one statement with arrays: COPY.
    let many: Vec<String> = (1..=1_500)
        .map(|id| ALL_ROW.replacen("\"id\":1", &format!("\"id\":{id}"), 1))
        .collect();
    let outcome = bench.send("every", &format!("[{}]", many.join(","))).await;
    assert_eq!(outcome.stored, 1_500, "{outcome:?}");
    assert_eq!(bench.ask(&format!("{ALL_TEXT} WHERE id = 1")).await, ALL_EXPECTED);
    assert_eq!(
        bench.ask("SELECT count(*), count(DISTINCT id) FROM every").await,
        "1500|1500"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrays_of_values_go_by_copy() {
    let columns = "id:int8* ia:int8[] ta:text[]";
    for on_conflict in [OnConflict::Error, OnConflict::Ignore, OnConflict::Update] {
        let bench = Bench::new(ALL_TABLE, vec![feed("every", columns, on_conflict)]).await;
        let rows = r#"[{"id":1,"ia":[1,null,3],"ta":["a,\"b",""]},{"id":2,"ia":[],"ta":null}]"#;
        assert_eq!(bench.send("every", rows).await.stored, 2);
        let expected = "1|{1,NULL,3}|{\"a,\\\"b\",\"\"}\n2|{}|null";
        assert_eq!(
            bench
                .ask("SELECT id, ia::text, ta::text FROM every ORDER BY id")
                .await,
            expected
        );
        bench.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_rows_are_refused_alone_and_the_rest_is_stored() {
    let bench = Bench::new(ALL_TABLE, vec![feed("every", ALL_COLUMNS, OnConflict::Error)]).await;
    let rows = [
        r#"{"id":1}"#,
        r#"{"id":2,"i2":"x"}"#,
        r#"{"id":3,"f8":NaN}"#,
        r#"{"id":null}"#,
        r#"{"i2":1}"#,
        r#"{"id":5,"j":"\u0000"}"#,
        r#"{"id":6,"t":"\u0000"}"#,
        r#"{"id":7,"x":1}"#,
        r#"{"id":8"#,
        r#"{"id":9,"f4":1e300}"#,
        // These only the database can tell.
        r#"{"id":10,"t":"longer than five"}"#,
        r#"{"id":11,"i4":-1}"#,
        r#"{"id":12,"n":"12345678901234567890"}"#,
        r#"{"id":13}"#,
        r#"{"id":1}"#,
    ];
    let body = rows.join("\n");
    let request = Request {
        rows: Rows::Ndjson(Bytes::from(
            [body.as_bytes(), b"\n{\"id\":14,\"t\":\"\xff\"}"].concat(),
        )),
        ..request("every", None, "")
    };
    let outcome = bench.try_send(request).await.unwrap();
    let expected = [
        (1, "i2", "type_mismatch"),
        (2, "f8", "nan"),
        (3, "id", "null"),
        (4, "id", "missing_key"),
        (5, "j", "nul_character"),
        (6, "t", "nul_character"),
        (7, "x", "unknown_column"),
        (8, "", "invalid_json"),
        (9, "f4", "out_of_range"),
        (15, "t", "invalid_utf8"),
    ];
    assert_eq!(codes(&outcome), expected);
    assert_eq!(
        dead(&outcome),
        [(10, "22001"), (11, "23514"), (12, "22003"), (14, "23505")]
    );
    assert_eq!(outcome.stored, 2);
    assert_eq!(bench.ask("SELECT id FROM every ORDER BY id").await, "1\n13");
    let letters = "SELECT row_no, sqlstate, convert_from(row, 'UTF8')::jsonb ->> 'id', feed, claim ->> 'principal' \
         FROM tidegate.dead_letter ORDER BY row_no";
    let expected = "10|22001|10|every|tester\n11|23514|11|every|tester\n12|22003|12|every|tester\n14|23505|1|every|tester";
    assert_eq!(bench.ask(letters).await, expected);
    assert_eq!(bench.told.firsts(), [1, 13]);
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seventy_thousand_rows_need_no_seventy_thousand_parameters() {
    let config = ingest::Config {
        backlog_rows_max: 100_000,
        ..ingest::Config::default()
    };
    let table = "CREATE TABLE numbers (id int8)";
    let bench = Bench::open(
        support::database(),
        table,
        vec![feed("numbers", "id:int8", OnConflict::Error)],
        config,
    )
    .await;
    let outcome = bench.send("numbers", &ids(0..70_000)).await;
    assert_eq!(outcome.stored, 70_000);
    assert_eq!(
        bench.ask("SELECT count(*), sum(id) FROM numbers").await,
        "70000|2449965000"
    );
    let told: Vec<i64> = bench.told.firsts();
    assert_eq!(
        told,
        (0..70_000).collect::<Vec<_>>(),
        "the fan-out has the order of the feed"
    );
    bench.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_are_there_are_counted_by_the_rule_of_the_feed() {
    let table = "CREATE TABLE words (id int8 PRIMARY KEY, a int4, b text)";
    let columns = "id:int8* a:int4 b:text";
    let check = async |on_conflict, n: u64, expected: (u64, u64, usize), table_text: &str| {
        let bench = Bench::new(table, vec![feed("words", columns, on_conflict)]).await;
        bench.send("words", r#"[{"id":0,"a":1},{"id":1,"a":1}]"#).await;
        let rows: Vec<String> = (1..n).map(|id| format!(r#"{{"id":{id},"a":2}}"#)).collect();
        let rows = format!(r#"[{},{{"id":2,"a":3}}]"#, rows.join(","));
        let outcome = bench.send("words", &rows).await;
        assert_eq!(
            (outcome.stored, outcome.duplicates, outcome.dead_lettered.len()),
            expected,
            "{n} {on_conflict:?}"
        );
        assert_eq!(
            bench
                .ask("SELECT id, a FROM words WHERE id < 3 ORDER BY id")
                .await,
            table_text
        );
        assert_eq!(bench.told.n_rows() as u64, 2 + expected.0);
        bench.finish().await;
    };
    for n in [10, 2_000] {
        check(OnConflict::Ignore, n, (n - 2, 2, 0), "0|1\n1|1\n2|2").await;
        check(OnConflict::Update, n, (n - 1, 1, 0), "0|1\n1|2\n2|3").await;
        check(OnConflict::Error, n, (n - 2, 0, 2), "0|1\n1|1\n2|2").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_changed_and_removed_by_their_key() {
    let table = "CREATE TABLE words (id int8 PRIMARY KEY, a int4, b text)";
    let bench = Bench::new(
        table,
        vec![feed("words", "id:int8* a:int4 b:text", OnConflict::Error)],
    )
    .await;
    for n in [3_u64, 1_500] {
        let rows: Vec<String> = (0..n)
            .map(|id| format!(r#"{{"id":{id},"a":{id},"b":"x"}}"#))
            .collect();
        bench.send("words", &format!("[{}]", rows.join(","))).await;
        let rows: Vec<String> = (0..n)
            .map(|id| format!(r#"{{"id":{},"b":"y"}}"#, id * 2))
            .collect();
        let rows = format!(r#"[{},{{"id":0,"a":null}}]"#, rows.join(","));
        let outcome = bench.send_as("words", Operation::Update, &rows).await;
        let changed = n.div_ceil(2);
        assert_eq!(
            (outcome.stored, outcome.missing, outcome.duplicates),
            (changed, n - changed, 1),
            "{n}"
        );
        assert_eq!(
            bench.ask("SELECT * FROM words WHERE id < 3 ORDER BY id").await,
            "0|null|y\n1|1|x\n2|2|y"
        );
        let outcome = bench
            .send_as("words", Operation::Upsert, r#"[{"id":1,"b":"z"}]"#)
            .await;
        assert_eq!((outcome.stored, outcome.duplicates), (1, 0));
        assert_eq!(bench.ask("SELECT * FROM words WHERE id = 1").await, "1|null|z");
        let outcome = bench.send_as("words", Operation::Delete, &ids(0..n + 5)).await;
        assert_eq!((outcome.stored, outcome.missing), (n, 5));
    }
    assert_eq!(bench.ask("SELECT count(*) FROM words").await, "0");
    bench.finish().await;
}

fn daily(name: &str) -> Rollup {
    let measure = |how, column: Option<&str>, into: &str| Measure {
        how,
        column: column.map(ToOwned::to_owned),
        into: into.to_owned(),
    };
    Rollup {
        name: name.to_owned(),
        table: format!("ticks_{name}"),
        group: vec!["symbol".to_owned()],
        bucket: Some(Bucket {
            column: "at".to_owned(),
            every: Duration::from_secs(3_600),
        }),
        measures: vec![
            measure(Aggregate::Count, None, "n"),
            measure(Aggregate::Sum, Some("price"), "total"),
            measure(Aggregate::Last, Some("price"), "close"),
        ],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roll_ups_count_only_what_was_really_stored() {
    for on_conflict in [OnConflict::Ignore, OnConflict::Update, OnConflict::Error] {
        let mut ticks = feed(
            "ticks",
            "id:int8* symbol:text! at:timestamptz! price:numeric",
            on_conflict,
        );
        ticks.rollups = vec![daily("hourly"), daily("again")];
        ticks.tags = vec![Template::parse("ticks:{symbol}").unwrap()];
        let table = "CREATE TABLE ticks (id int8 PRIMARY KEY, symbol text NOT NULL, at timestamptz NOT NULL, \
             price numeric CHECK (price > 0))";
        let kind = tidegate_store::Kind::Postgres;
        let rollups = ticks.rollups.iter();
        let sql: Vec<String> = rollups
            .flat_map(|rollup| tidegate_store::schema::rollup::create_sql(kind, &ticks, rollup))
            .collect();
        let bench = Bench::new(&format!("{table};{}", sql.join(";")), vec![ticks]).await;
        let tick = |id: u64, price: i64| {
            let symbol = ["a", "b"][id as usize % 2];
            let hour = id % 3;
            format!(
                r#"{{"id":{id},"symbol":"{symbol}","at":"2024-01-01T0{hour}:00:0{}Z","price":{price}}}"#,
                id % 10
            )
        };
        let rows = |range: std::ops::Range<u64>, price| {
            let rows: Vec<String> = range.map(|id| tick(id, price)).collect();
            format!("[{}]", rows.join(","))
        };
        bench.send("ticks", &rows(0..10, 1)).await;
        bench.send("ticks", &rows(5..15, 2)).await;
        bench.send("ticks", &rows(10..3_000, 3)).await;
        // Some of these are refused by the table.
        let outcome = bench
            .send(
                "ticks",
                &format!("[{},{},{}]", tick(5_000, 1), tick(5_001, -1), tick(5_002, 1)),
            )
            .await;
        assert_eq!(dead(&outcome), [(1, "23514")]);
        if on_conflict == OnConflict::Update {
            bench
                .send_as("ticks", Operation::Update, r#"[{"id":3,"price":7,"symbol":"c"}]"#)
                .await;
            bench
                .send_as("ticks", Operation::Delete, r#"[{"id":4},{"id":4000}]"#)
                .await;
        }
        for table in ["ticks_hourly", "ticks_again"] {
            let wrong = format!(
                "WITH w AS (SELECT symbol, date_bin('1 hour', at, '2000-01-03') AS at, count(*) AS n, sum(price) AS total, \
                 (array_agg(price ORDER BY at DESC, price DESC))[1] AS close FROM ticks GROUP BY 1, 2) \
                 SELECT count(*) FROM w FULL JOIN {table} AS r ON r.symbol = w.symbol AND r.at = w.at \
                 WHERE (r.n, r.total, r.close) IS DISTINCT FROM (w.n, w.total, w.close)"
            );
            // A value that was replaced may stand as the last one only where rows are not counted anew.
            assert_eq!(bench.ask(&wrong).await, "0", "{table} {on_conflict:?}");
        }
        let mut tags = bench.told.tags.lock().unwrap().clone();
        tags.sort();
        tags.dedup();
        let expected: &[&str] = match on_conflict {
            OnConflict::Update => &["ticks:a", "ticks:b", "ticks:c", "ticks:null"],
            _ => &["ticks:a", "ticks:b"],
        };
        assert_eq!(tags, expected);
        bench.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_is_compared_with_its_table() {
    let table = "CREATE TABLE t (id int8 PRIMARY KEY, a int4 NOT NULL, b text, c timestamp, d int4 NOT NULL); \
         CREATE TABLE free (id int8)";
    let check = async |columns: &str, table_name: &str, expected: &[&str]| {
        let mut declared = feed("t", columns, OnConflict::Error);
        declared.table = table_name.to_owned();
        let bench = Bench::new(table, vec![declared]).await;
        let said = bench.ingest.validate("t").await.unwrap_err().to_string();
        for part in expected {
            assert!(said.contains(part), "{said:?} says nothing of {part:?}");
        }
        // Without a spool nothing is taken, and the reason is given.
        let integers = columns.split(' ').filter(|column| column.contains(":int"));
        let fields: Vec<String> = integers
            .map(|column| format!("\"{}\":1", column.split_once(':').unwrap().0))
            .collect();
        let row = format!("{{{}}}", fields.join(","));
        let refused = bench.try_send(request("t", None, &row)).await.unwrap_err();
        let named = matches!(&refused, Error::Suspended { feed, reason } if feed == "t" && reason.contains(expected[0]));
        assert!(named, "{refused:?}");
        bench.finish().await;
    };
    check(
        "id:int8* a:int4! d:int4!",
        "lost",
        &["feed t: table lost: does not exist"],
    )
    .await;
    check(
        "id:int8* a:int4! d:int4! x:int4",
        "t",
        &["column \"x\" does not exist"],
    )
    .await;
    check(
        "id:int8* a:int8! d:int4!",
        "t",
        &["column \"a\" is int4, the feed says int8"],
    )
    .await;
    check(
        "id:int8* a:int4! d:int4! c:timestamptz",
        "t",
        &["column \"c\" is timestamp, the feed says timestamptz"],
    )
    .await;
    check(
        "id:int8* a:int4 d:int4!",
        "t",
        &["column \"a\" is NOT NULL: declare it so in the feed"],
    )
    .await;
    check(
        "id:int8* a:int4!",
        "t",
        &["column \"d\" is NOT NULL without a default and not in the feed"],
    )
    .await;
    check(
        "id:int8 a:int4* d:int4!",
        "t",
        &["no unique index on exactly the key (a)"],
    )
    .await;
    check("id:int8 a:int4", "free", &["column \"a\" does not exist"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_privileges_is_told_which() {
    let table = "CREATE TABLE t (id int8 PRIMARY KEY, a int4); \
         DO $$ BEGIN CREATE ROLE reader LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
         GRANT SELECT ON t TO reader";
    let declared = feed("t", "id:int8* a:int4", OnConflict::Update);
    let owner = Bench::new(table, vec![declared.clone()]).await;
    owner.send("t", r#"{"id":0}"#).await;
    owner
        .sql("GRANT USAGE ON SCHEMA tidegate TO reader; GRANT ALL ON ALL TABLES IN SCHEMA tidegate TO reader")
        .await;
    let url = as_reader(&owner.url);
    let bench = Bench::open(url, "", vec![declared], ingest::Config::default()).await;
    let said = bench.ingest.validate("t").await.unwrap_err().to_string();
    assert!(
        said.contains("the role lacks the privilege INSERT, UPDATE"),
        "{said}"
    );
    owner.sql("GRANT INSERT, UPDATE ON t TO reader").await;
    bench.ingest.validate("t").await.unwrap();
    assert_eq!(bench.send("t", r#"{"id":1,"a":1}"#).await.stored, 1);
    bench.finish().await;
    owner.finish().await;
}

/// The URL for another role: the tests' servers trust whoever comes through their socket.
fn as_reader(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, host) = rest.split_once('@').unwrap();
    format!("{scheme}://reader@{host}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_not_right_are_refused_whole() {
    let table = "CREATE TABLE numbers (id int8)";
    let mut declared = feed("numbers", "id:int8", OnConflict::Error);
    declared.rows_per_second_max = Some(10);
    let bench = Bench::new(table, vec![declared]).await;
    let check = async |request: Request, expected: &str| {
        let said = bench.try_send(request).await.unwrap_err().to_string();
        assert!(said.contains(expected), "{said:?} says nothing of {expected:?}");
    };
    check(request("lost", None, "[]"), "unknown feed \"lost\"").await;
    check(request("numbers", Some(""), "[]"), "id of 0 bytes").await;
    check(request("numbers", Some(&"x".repeat(65)), "[]"), "id of 65 bytes").await;
    check(request("numbers", None, "[{}"), "not closed after row 0").await;
    check(request("numbers", None, "7"), "neither an object nor an array").await;
    let late = |first_row, id| Request {
        first_row,
        ..request("numbers", id, "[]")
    };
    check(late(1_000, None), "needs an id").await;
    check(late(1_001, Some("a")), "a multiple of 1000").await;
    let update = Request {
        operation: Some(Operation::Update),
        ..request("numbers", None, "[]")
    };
    check(update, "update needs a feed with a key").await;
    assert_eq!(bench.send("numbers", "[]").await.stored, 0);
    assert_eq!(bench.send("numbers", &ids(0..10)).await.stored, 10);
    check(
        request("numbers", None, &ids(0..10)),
        "quota of feed numbers: 10 rows/s used up",
    )
    .await;
    let all = ids(0..50_001);
    check(
        request("numbers", None, &all),
        "rows of one request too large: 50001, at most 50000",
    )
    .await;
    bench.finish().await;
}
