//! Declared queries on a real server: pages, limits, claims, cursors, and what stops the start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value as Json, json};
use tidegate_cluster::Cluster;
use tidegate_store::query::{Call, Dialects, Order, Page, Param, Queries, Query};
use tidegate_store::{Config, Context, Database, Error, Type};
use tidegate_vitals::{Clock, Registry};

use crate::support;

pub(crate) const SECRET: [u8; 32] = [7; 32];

pub(crate) fn context() -> Context {
    Context::new(Clock::real(), Registry::new())
}

/// A fresh database with this in it.
pub(crate) async fn database(sql: &str) -> Database {
    let database = Database::open(Config::new(support::database()), context())
        .await
        .unwrap();
    database.write(async |tx| tx.batch(sql).await).await.unwrap();
    database
}

pub(crate) async fn open(database: &Database, queries: Vec<Query>) -> Result<Queries, Error> {
    Queries::open(database.clone(), queries, SECRET, context()).await
}

pub(crate) fn by(columns: &[&str]) -> Vec<Order> {
    columns.iter().map(|text| Order::parse(text).unwrap()).collect()
}

pub(crate) fn object(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn rows(page: &Page) -> Vec<Map<String, Json>> {
    let rows: Vec<Map<String, Json>> = serde_json::from_slice(&page.rows).unwrap();
    assert_eq!(rows.len(), page.n_rows);
    rows
}

/// All rows of a query, in pages whose sizes `size` says.
async fn walk(
    queries: &Queries,
    name: &str,
    params: Json,
    mut size: impl FnMut() -> usize,
) -> Vec<Map<String, Json>> {
    let params = object(params);
    let mut all = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let call = Call {
            limit: Some(size()),
            after: after.as_deref(),
            ..Call::new(&params)
        };
        let page = queries.page(name, call).await.unwrap();
        all.extend(rows(&page));
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

/// The same sizes in every run.
fn sizes(mut seed: u64, max: usize) -> impl FnMut() -> usize {
    move || {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % max + 1
    }
}

/// Rows that are there throughout have even numbers; odd ones come, go and change while somebody pages.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_come_and_go_move_no_page() {
    let database = database(
        "CREATE TABLE t (grp int4 NOT NULL, id int8 NOT NULL, note text, PRIMARY KEY (grp, id)); \
         INSERT INTO t SELECT n % 7, n * 2, 'x' FROM generate_series(1, 10000) n",
    )
    .await;
    let query = |direction: &str| Query {
        page: by(&[&format!("grp {direction}"), &format!("id {direction}")]),
        ..Query::new(direction, "SELECT * FROM t")
    };
    let queries = open(&database, vec![query("asc"), query("desc")]).await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn({
        let database = database.clone();
        async move {
            let mut next = sizes(1, 20_000);
            let mut n_writes = 0_u64;
            while !*stopped.borrow() {
                let odd = next() * 2 + 1;
                let sql = format!(
                    "INSERT INTO t VALUES ({}, {odd}, 'y') ON CONFLICT (grp, id) DO UPDATE SET note = 'z'; \
                     DELETE FROM t WHERE grp = {} AND id = {}",
                    odd % 7,
                    next() % 7,
                    next() * 2 + 1,
                );
                database.write(async |tx| tx.batch(&sql).await).await.unwrap();
                n_writes += 1;
            }
            n_writes
        }
    });
    for (name, seed) in [("asc", 2), ("desc", 3), ("asc", 4)] {
        let seen = walk(&queries, name, json!({}), sizes(seed, 300)).await;
        let keys: Vec<(i64, i64)> = seen
            .iter()
            .map(|row| (row["grp"].as_i64().unwrap(), row["id"].as_i64().unwrap()))
            .collect();
        let distinct: BTreeSet<_> = keys.iter().copied().collect();
        assert_eq!(distinct.len(), keys.len(), "{name}: a row was seen twice");
        let stayed = distinct.iter().filter(|(_, id)| id % 2 == 0).count();
        assert_eq!(
            stayed, 10_000,
            "{name}: a row that was there throughout was missed"
        );
        let mut sorted = keys.clone();
        sorted.sort_unstable();
        if name == "desc" {
            sorted.reverse();
        }
        assert_eq!(keys, sorted, "{name}: out of order");
    }
    stop.send(true).unwrap();
    assert!(writer.await.unwrap() > 0, "somebody wrote meanwhile");
}

/// For each type: 40 values of it, as SQL of `n`.
const KEYS: [(&str, &str); 15] = [
    ("bool", "n % 2 = 0"),
    ("int2", "(n * 37 - 700)::int2"),
    ("int4", "n * 37000 - 700000"),
    ("int8", "(n - 20)::int8 * 123456789012"),
    ("float4", "(n * 0.1)::float4"),
    ("float8", "n / 3.0::float8 - 5"),
    ("numeric", "(n - 20) * 123456789012345678901234567890.1234567890"),
    ("text", "chr(19968 + n) || n || '''\"\\'"),
    ("varchar(40)", "'v' || n"),
    ("uuid", "md5(n::text)::uuid"),
    ("date", "date '1969-12-20' + n"),
    (
        "timestamptz",
        "timestamptz '1969-12-31 23:59:59.999990Z' + n * interval '1 microsecond'",
    ),
    ("jsonb", "jsonb_build_object('a', n % 5, 'b', n::numeric / 7)"),
    ("text[]", "array['a,' || n % 3, NULL, '\"' || n]"),
    ("side", "(array['buy', 'sell', 'hold'])[n % 3 + 1]::side"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_type_can_be_a_key() {
    let database = database("CREATE TYPE side AS ENUM ('sell', 'buy', 'hold')").await;
    for (at, (kind, value)) in KEYS.iter().enumerate() {
        let sql = format!(
            "CREATE TABLE t{at} (k {kind} NOT NULL, id int4 NOT NULL, UNIQUE (k, id)); \
             INSERT INTO t{at} SELECT {value}, n FROM generate_series(1, 40) n"
        );
        database.write(async |tx| tx.batch(&sql).await).await.unwrap();
        for direction in ["asc", "desc"] {
            let query = Query {
                page: by(&[&format!("k {direction}"), &format!("id {direction}")]),
                ..Query::new("paged", format!("SELECT k, id FROM t{at}"))
            };
            let whole = Query::new(
                "whole",
                format!("SELECT k, id FROM t{at} ORDER BY k {direction}, id {direction}"),
            );
            let queries = open(&database, vec![query, whole]).await.unwrap();
            let paged = walk(&queries, "paged", json!({}), sizes(at as u64, 9)).await;
            let whole = queries.page("whole", Call::new(&Map::new())).await.unwrap();
            assert_eq!(paged.len(), 40, "{kind}");
            assert_eq!(paged, rows(&whole), "{kind} {direction}");
        }
    }
}

const TENANTS: &str = "CREATE TABLE notes (tenant text NOT NULL, id int8 NOT NULL, body text NOT NULL, PRIMARY KEY (tenant, id)); \
     INSERT INTO notes SELECT t, n, t || n FROM unnest(array['a', 'b']) t, generate_series(1, 50) n";

fn notes() -> Query {
    Query {
        params: vec![
            Param::claim("tenant", Type::Text, "org"),
            Param {
                default: Some(json!(0)),
                ..Param::new("least", Type::Int8)
            },
        ],
        page: by(&["id"]),
        ..Query::new(
            "notes",
            "SELECT id, body FROM notes WHERE tenant = :tenant AND id >= :least",
        )
    }
}

async fn as_tenant(queries: &Queries, org: &str, params: Json, after: Option<&str>) -> Result<Page, Error> {
    let claims: BTreeMap<&str, String> = [("org", org.to_owned())].into_iter().collect();
    let params = object(params);
    let call = Call {
        claim: &|name| claims.get(name).filter(|org| !org.is_empty()).cloned(),
        limit: Some(20),
        after,
        ..Call::new(&params)
    };
    queries.page("notes", call).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_sees_its_own_rows_and_its_cursors_open_nothing_else() {
    let database = database(TENANTS).await;
    let other = Query {
        name: "others".to_owned(),
        ..notes()
    };
    let queries = open(&database, vec![notes(), other]).await.unwrap();
    let first = as_tenant(&queries, "a", json!({}), None).await.unwrap();
    assert!(
        rows(&first)
            .iter()
            .all(|row| row["body"].as_str().unwrap().starts_with('a'))
    );
    let next = first.next.unwrap();
    let second = as_tenant(&queries, "a", json!({}), Some(&next)).await.unwrap();
    assert_eq!(rows(&second)[0]["id"], 21);

    let refused = |result: Result<Page, Error>| match result {
        Err(Error::CursorInvalid(_)) => {}
        other => panic!("{other:?}"),
    };
    refused(as_tenant(&queries, "b", json!({}), Some(&next)).await);
    refused(as_tenant(&queries, "a", json!({"least": 5}), Some(&next)).await);
    let claims = |name: &str| (name == "org").then(|| "a".to_owned());
    let params = Map::new();
    let call = Call {
        claim: &claims,
        after: Some(&next),
        ..Call::new(&params)
    };
    refused(queries.page("others", call).await);
    for at in 0..next.len() {
        let mut tampered = next.clone().into_bytes();
        tampered[at] = if tampered[at] == b'A' { b'B' } else { b'A' };
        refused(
            as_tenant(
                &queries,
                "a",
                json!({}),
                Some(&String::from_utf8(tampered).unwrap()),
            )
            .await,
        );
    }

    let changed = Query {
        sql: Dialects::same("SELECT id, body FROM notes WHERE tenant = :tenant AND id > :least"),
        ..notes()
    };
    queries.set(vec![changed]).await.unwrap();
    refused(as_tenant(&queries, "a", json!({}), Some(&next)).await);
    let key = |org: &'static str| {
        let claim = move |_: &str| Some(org.to_owned());
        queries
            .question(
                "notes",
                &Call {
                    claim: &claim,
                    ..Call::new(&Map::new())
                },
            )
            .unwrap()
            .key()
    };
    assert_ne!(key("a"), key("b"), "a cached answer belongs to its tenant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_comes_from_the_token_alone() {
    let database = database(TENANTS).await;
    let queries = open(&database, vec![notes()]).await.unwrap();
    let error = as_tenant(&queries, "", json!({}), None).await.unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        ("forbidden", "query notes needs the claim \"org\"")
    );
    let error = as_tenant(&queries, "a", json!({"tenant": "b"}), None)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, Error::Parameter { name, .. } if name == "tenant"),
        "{error}"
    );
}

/// 300 rows of growing width: in pages of 4 KiB, up to 100 of them whole, and the widest alone.
async fn widths() -> Queries {
    let database = database(
        "CREATE TABLE t (id int4 PRIMARY KEY, body text NOT NULL); \
         INSERT INTO t SELECT n, repeat('x', n * 10) FROM generate_series(1, 300) n",
    )
    .await;
    let paged = Query {
        page: by(&["id"]),
        bytes_max: 4_096,
        ..Query::new("paged", "SELECT * FROM t")
    };
    let whole = Query {
        rows_max: 100,
        params: vec![Param::new("most", Type::Int4)],
        ..Query::new("whole", "SELECT id FROM t WHERE id <= :most")
    };
    let wide = Query {
        bytes_max: 2_048,
        ..Query::new("wide", "SELECT * FROM t ORDER BY id DESC LIMIT 1")
    };
    open(&database, vec![paged, whole, wide]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_end_at_their_bytes_and_answers_without_pages_are_refused() {
    let queries = widths().await;
    let params = Map::new();
    let (mut after, mut seen) = (None, 0);
    loop {
        let call = Call {
            after: after.as_deref(),
            ..Call::new(&params)
        };
        let page = queries.page("paged", call).await.unwrap();
        assert!(page.rows.len() <= 4_096, "{} bytes", page.rows.len());
        seen += page.n_rows;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, 300);
    let ask = async |most: i32| {
        let params = object(json!({ "most": most }));
        queries.page("whole", Call::new(&params)).await
    };
    assert_eq!(ask(100).await.unwrap().n_rows, 100);
    let message = ask(101).await.unwrap_err().to_string();
    assert_eq!(message, "answer of query whole too large: 101, at most 100");
    let error = queries.page("wide", Call::new(&params)).await.unwrap_err();
    assert!(
        matches!(&error, Error::TooLarge { what, limit: 2_048, .. } if what == "row of query wide"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_and_cursors_that_do_not_fit_are_named_and_counted() {
    let queries = widths().await;
    let cases = [
        ("paged", Some(0), None, "parameter limit: 0 is not 1 to 1000"),
        (
            "paged",
            Some(1_001),
            None,
            "parameter limit: 1001 is not 1 to 1000",
        ),
        (
            "whole",
            Some(5),
            None,
            "parameter limit: query whole has no pages",
        ),
        (
            "whole",
            None,
            Some("x"),
            "parameter after: query whole has no pages",
        ),
        (
            "paged",
            None,
            Some("x"),
            "cursor invalid: not made by this server",
        ),
        ("nobody", None, None, "unknown query \"nobody\""),
    ];
    let params = Map::new();
    for (name, limit, after, expected) in cases {
        let call = Call {
            limit,
            after,
            ..Call::new(&params)
        };
        let message = queries.page(name, call).await.unwrap_err().to_string();
        assert_eq!(message, expected);
    }
    let stats = queries.stats();
    let names: Vec<_> = stats.iter().map(|stats| stats.query.as_str()).collect();
    assert_eq!(names, ["paged", "whole", "wide"]);
    let outcomes = &stats[0].outcomes;
    assert_eq!(
        (
            outcomes["bad_request"],
            outcomes["cursor_invalid"],
            stats[0].errors
        ),
        (2, 1, 3)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_takes_too_long_or_writes_ends_alone() {
    let database = database(
        "CREATE TABLE t (id int4 PRIMARY KEY); \
         CREATE FUNCTION write_it() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO t VALUES (1) RETURNING id'",
    )
    .await;
    let slow = |pipeline: bool| Query {
        pipeline,
        timeout: Duration::from_millis(200),
        ..Query::new(
            if pipeline { "shared" } else { "alone" },
            "SELECT 1 AS one FROM pg_sleep(20)",
        )
    };
    let writes = Query::new("writes", "SELECT write_it() AS id");
    let quick = Query::new("quick", "SELECT count(*) AS n FROM t");
    let queries = open(&database, vec![slow(true), slow(false), writes, quick])
        .await
        .unwrap();
    let params = Map::new();
    for name in ["shared", "alone"] {
        let error = queries.page(name, Call::new(&params)).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{name}: {error}");
        assert_eq!(error.code(), "timeout");
    }
    let error = queries.page("writes", Call::new(&params)).await.unwrap_err();
    assert_eq!(error.sqlstate(), Some("25006"), "{error}");
    let page = queries.page("quick", Call::new(&params)).await.unwrap();
    assert_eq!(&page.rows[..], b"[{\"n\":0}]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_refuses_stops_the_start() {
    let database = database(
        "CREATE TABLE t (id int4 PRIMARY KEY, grp text NOT NULL, at timestamptz, part int4 NOT NULL); \
         CREATE UNIQUE INDEX partly ON t (grp) WHERE part = 1; \
         CREATE UNIQUE INDEX lowered ON t (lower(grp)); \
         CREATE UNIQUE INDEX wide ON t (part) INCLUDE (grp); \
         CREATE VIEW v AS SELECT * FROM t",
    )
    .await;
    let check = async |query: Query, expected: &str| {
        let said = open(&database, vec![query])
            .await
            .map_or_else(|error| error.to_string(), |_| "sound".to_owned());
        assert!(said.contains(expected), "{said:?} does not contain {expected:?}");
    };
    let paged = |sql: &str, page: &[&str]| Query {
        page: by(page),
        ..Query::new("q", sql)
    };
    check(paged("SELECT * FROM t", &["id"]), "sound").await;
    check(paged("SELECT * FROM t", &["part"]), "sound").await;
    check(paged("SELECT * FROM t", &["grp"]), "query q: page (grp)").await;
    check(paged("SELECT * FROM t", &["grp"]), "its unique keys are (").await;
    check(
        paged("SELECT * FROM t", &["at", "id"]),
        "page column at may be null",
    )
    .await;
    check(paged("SELECT * FROM v", &["id"]), "page column id may be null").await;
    check(
        paged("SELECT * FROM nowhere", &["id"]),
        "query q: table nowhere does not exist",
    )
    .await;
    check(
        Query::new("q", "SELECT nothing FROM t"),
        "query q: column \"nothing\" does not exist (SQLSTATE 42703)",
    )
    .await;
    check(
        Query::new("q", "SELECT id, id FROM t"),
        "query q: two columns are named id",
    )
    .await;
    check(
        Query::new("q", "SELECT '1 day'::interval AS d"),
        "column d has the type interval",
    )
    .await;
    let param = |kind: Type| Query {
        params: vec![Param::new("id", kind)],
        ..Query::new("q", "SELECT * FROM t WHERE id = :id")
    };
    check(param(Type::Int8), "sound").await;
    check(
        param(Type::Text),
        "query q: parameter id is declared text, but the text uses it as int4",
    )
    .await;
    let twice = vec![Query::new("q", "SELECT 1 AS a"), Query::new("q", "SELECT 2 AS a")];
    assert!(
        open(&database, twice)
            .await
            .unwrap_err()
            .to_string()
            .contains("declared twice")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_fails_keeps_the_old_queries() {
    let database = database("CREATE TABLE t (id int4 PRIMARY KEY)").await;
    let queries = open(&database, vec![Query::new("one", "SELECT 1 AS n")])
        .await
        .unwrap();
    let params = Map::new();
    queries.page("one", Call::new(&params)).await.unwrap();
    queries
        .set(vec![Query::new("one", "SELECT broken")])
        .await
        .unwrap_err();
    assert_eq!(
        &queries.page("one", Call::new(&params)).await.unwrap().rows[..],
        b"[{\"n\":1}]"
    );
    let both = vec![
        Query::new("one", "SELECT 11 AS n"),
        Query::new("two", "SELECT 2 AS n"),
    ];
    queries.set(both).await.unwrap();
    assert_eq!(
        &queries.page("one", Call::new(&params)).await.unwrap().rows[..],
        b"[{\"n\":11}]"
    );
    assert_eq!(queries.queries().len(), 2);
    assert_eq!(queries.stats()[0].calls, 3, "figures outlive a reload");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_at_the_start_is_checked_when_it_is_back() {
    let cluster = Cluster::temporary().unwrap();
    let url = cluster.create_database("away").unwrap();
    let database = Database::open(Config::new(url), context()).await.unwrap();
    database
        .write(async |tx| {
            tx.batch("CREATE TABLE t (id int4 PRIMARY KEY, n int4 NOT NULL)")
                .await
        })
        .await
        .unwrap();
    cluster.stop().unwrap();
    let good = Query {
        page: by(&["id"]),
        ..Query::new("good", "SELECT * FROM t")
    };
    let bad = Query {
        page: by(&["n"]),
        ..Query::new("bad", "SELECT * FROM t")
    };
    let queries = open(&database, vec![good, bad]).await.unwrap();
    cluster.start_again().unwrap();
    let params = Map::new();
    assert_eq!(queries.page("good", Call::new(&params)).await.unwrap().n_rows, 0);
    let error = queries.page("bad", Call::new(&params)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Config { what, .. } if what == "query bad"),
        "{error}"
    );
}
