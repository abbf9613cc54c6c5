//! Sessions, values, errors and faults against a real PostgreSQL.

use std::{os::unix::fs::MetadataExt, path::PathBuf, process::Command, sync::Arc, time::Duration};

use proptest::{prelude::*, test_runner::TestRunner};
use tidegate_cluster::{Cluster, Config as ClusterConfig, PgBouncer};
use tidegate_store::{
    Config, Context, Database, Error, Select, Type, Value,
    backend::postgres::{Connection, Dsn, Postgres, Session},
};
use tidegate_vitals::{Clock, Registry};
use tokio::time::{Instant, timeout};

use crate::support;

pub(crate) fn context() -> Context {
    Context::new(Clock::real(), Registry::new())
}

pub(crate) async fn open(url: &str) -> Database {
    open_with(url, |_| {}).await
}

pub(crate) async fn open_with(url: &str, change: impl FnOnce(&mut Config)) -> Database {
    let mut config = Config::new(url);
    config.pool.min = 0;
    change(&mut config);
    Database::open(config, context()).await.unwrap()
}

/// Looks again and again until `is_so`, for at most ten seconds.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let mut again = tokio::time::interval(Duration::from_millis(10));
    let looked = timeout(Duration::from_secs(10), async {
        while !is_so().await {
            again.tick().await;
        }
    });
    assert!(looked.await.is_ok(), "not within ten seconds: {what}");
}

/// Runs SQL beside the async tests.
pub(crate) async fn psql(cluster: &'static Cluster, database: &str, sql: &str) -> String {
    let (database, sql) = (database.to_owned(), sql.to_owned());
    let ran = tokio::task::spawn_blocking(move || cluster.psql(&database, &sql).unwrap());
    ran.await.unwrap()
}

/// The name of the database at the end of a URL.
pub(crate) fn name_of(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

pub(crate) async fn one(database: &Database, sql: &str) -> Value {
    let rows = database
        .select(Select::new(sql, &[]))
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    rows[0][0].clone()
}

async fn connect(url: &str) -> Result<Connection, Error> {
    Postgres::new(Dsn::parse(url)?, Session::default())?.open().await
}

async fn check_refused(url: &str, sqlstate: Option<&str>, expected: &str) {
    let error = connect(url).await.unwrap_err();
    let message = error.to_string();
    assert!(message.contains(expected), "{message}");
    assert!(!message.contains("hidden"), "{message}");
    assert_eq!(error.sqlstate(), sqlstate, "{message}");
}

#[tokio::test]
async fn a_server_that_refuses_is_quoted() {
    let cluster = Cluster::start(ClusterConfig {
        tcp: true,
        ..ClusterConfig::default()
    })
    .unwrap();
    let right = cluster.tcp_url("postgres").unwrap();
    connect(&right).await.unwrap();
    let port = cluster.port();
    let user = right.split(['/', ':']).nth(3).unwrap();
    check_refused(
        &format!("postgres://{user}:hidden@127.0.0.1:{port}/postgres"),
        Some("28P01"),
        "password authentication failed",
    )
    .await;
    check_refused(
        &cluster.tcp_url("absent").unwrap(),
        Some("3D000"),
        "database \"absent\" does not exist",
    )
    .await;
    check_refused(&format!("{right}?sslmode=require"), None, "does not support TLS").await;
    cluster.stop().unwrap();
    check_refused(&right, None, "refused").await;
    check_refused(&cluster.url("postgres"), None, ".s.PGSQL").await;
}

#[tokio::test]
async fn a_wrong_url_stops_the_start_and_an_absent_server_does_not() {
    for url in ["postgres://h:0/d", "mysql://h/d", "postgres://h/d?sslmode=on"] {
        let error = Database::open(Config::new(url), context()).await.unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
    }
    let database = open_with("postgres://a:hidden@%2Fnowhere/d", |config| {
        config.pool.acquire_timeout = Duration::from_millis(300);
    })
    .await;
    let message = database.ping().await.unwrap_err().to_string();
    assert!(
        message.contains("/nowhere/.s.PGSQL.5432/d") && !message.contains("hidden"),
        "{message}"
    );
}

#[tokio::test]
async fn the_server_says_who_it_is() {
    let database = open(&support::database()).await;
    let info = database.ping().await.unwrap();
    assert!(
        info.version_number >= 150_000 && info.version.starts_with("1"),
        "{info:?}"
    );
    assert!(
        !info.is_replica && !info.through_pooler && info.system_id != 0 && info.timeline == 1,
        "{info:?}"
    );
}

#[tokio::test]
async fn a_role_without_privileges_is_enough() {
    let url = support::database();
    psql(
        support::cluster(),
        "postgres",
        "DO $$ BEGIN CREATE ROLE plain LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
    )
    .await;
    let user = url
        .strip_prefix("postgres://")
        .unwrap()
        .split('@')
        .next()
        .unwrap();
    let database = open(&url.replacen(user, "plain", 1)).await;
    let info = database.ping().await.unwrap();
    assert!(info.system_id != 0 && info.timeline == 1, "{info:?}");
    assert!(database.read_token().await.unwrap().lsn > 0);
    let look = "SELECT timeline_id FROM pg_control_checkpoint()";
    assert_eq!(one(&database, look).await, Value::Int(1));
}

#[tokio::test]
async fn settings_and_options_reach_the_session() {
    let url = support::database();
    let database = open_with(
        &format!("{url}?application_name=desk&options=-c%20work_mem%3D9MB"),
        |config| {
            config.statement_timeout = Some(Duration::from_millis(1_234));
        },
    )
    .await;
    let row = database
        .read(async |tx| {
            tx.query(
                "SELECT current_setting('application_name'), current_setting('work_mem'), \
                 current_setting('statement_timeout')",
                &[],
            )
            .await
        })
        .await
        .unwrap();
    let texts = ["desk", "9MB", "1234ms"].map(|text| Value::Text(text.into()));
    assert_eq!(row[0].values(), texts);
}

// === Values ===

fn values(kind: &Type) -> BoxedStrategy<Value> {
    match kind {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::Int2 => any::<i16>().prop_map(|value| Value::Int(value.into())).boxed(),
        Type::Int4 => any::<i32>().prop_map(|value| Value::Int(value.into())).boxed(),
        Type::Int8 => any::<i64>().prop_map(Value::Int).boxed(),
        Type::Float4 => (-1e30_f32..1e30)
            .prop_map(|value| Value::Float(value.into()))
            .boxed(),
        Type::Float8 => (-1e300..1e300).prop_map(Value::Float).boxed(),
        Type::Numeric => "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?"
            .prop_filter("zero has no sign", |text| {
                !text.starts_with('-') || text.contains(|c| ('1'..='9').contains(&c))
            })
            .prop_map(|text| Value::Numeric(text.into()))
            .boxed(),
        Type::Text => "[^\0]{0,30}".prop_map(|text| Value::Text(text.into())).boxed(),
        Type::Uuid => any::<[u8; 16]>().prop_map(Value::Uuid).boxed(),
        Type::Date => (-2_440_588..=2_145_042_905_i32).prop_map(Value::Date).boxed(),
        Type::Timestamptz => (-210_866_803_200_000_000..9_223_372_036_854_775_807_i64)
            .prop_map(Value::Timestamptz)
            .boxed(),
        Type::Jsonb => "[a-z\"\\\\\u{4e00}-\u{4e20}]{0,20}"
            .prop_map(|text| Value::Jsonb(serde_json::to_string(&text).unwrap().into()))
            .boxed(),
        Type::Enum(_) => prop_oneof![Just("buy"), Just("sell it")]
            .prop_map(|label| Value::Text(label.into()))
            .boxed(),
        Type::Array(element) => {
            let element = prop_oneof![1 => Just(Value::Null), 4 => values(element)];
            proptest::collection::vec(element, 0..5)
                .prop_map(|all| Value::Array(all.into()))
                .boxed()
        }
    }
}

const KINDS: [&str; 13] = [
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "text",
    "uuid",
    "date",
    "timestamptz",
    "jsonb",
    "enum(buy,sell it)",
];

/// A row with a column for each type, and one for each array of it, stored and read back through `database`; the server
/// also compares what it stored with the same value read from its text form.
async fn check_values_survive(database: &Database) {
    database
        .write(async |tx| tx.batch("CREATE TYPE side AS ENUM ('buy', 'sell it')").await)
        .await
        .unwrap();
    let mut runner = TestRunner::deterministic();
    for name in KINDS {
        for name in [name.to_owned(), format!("{name}[]")] {
            let kind = Type::parse(&name).unwrap();
            let sql_name = name.replace("enum(buy,sell it)", "side");
            let some = values(&kind);
            let batch: Vec<Value> = (0..24)
                .map(|_| some.new_tree(&mut runner).unwrap().current())
                .chain([Value::Null])
                .collect();
            check_batch(database, &sql_name, &batch).await;
        }
    }
}

async fn check_batch(database: &Database, sql_name: &str, batch: &[Value]) {
    let compare = if sql_name == "jsonb[]" {
        ""
    } else {
        ", a IS NOT DISTINCT FROM a::text::"
    };
    let cast = if compare.is_empty() {
        String::new()
    } else {
        format!("{compare}{sql_name}")
    };
    let sql = format!("WITH given AS (SELECT $1::{sql_name} AS a) SELECT a{cast} FROM given");
    for value in batch {
        let params = std::slice::from_ref(value);
        let rows = database.select(Select::new(&sql, params)).await;
        let rows = rows
            .unwrap()
            .collect()
            .await
            .unwrap_or_else(|error| panic!("{sql_name} {value:?}: {error}"));
        assert_eq!(&rows[0][0], value, "{sql_name}");
        assert!(
            cast.is_empty() || rows[0][1] == Value::Bool(true),
            "{sql_name} {value:?}"
        );
        let inside = database
            .read(async |tx| tx.query(&sql, params).await)
            .await
            .unwrap();
        assert_eq!(&inside[0][0], value, "{sql_name}");
    }
}

#[tokio::test]
async fn values_of_every_type_survive_the_server() {
    check_values_survive(&open(&support::database()).await).await;
}

#[tokio::test]
async fn numerics_read_as_the_server_writes_them() {
    let database = open(&support::database()).await;
    for text in [
        "0",
        "-0.5",
        "1.10",
        "10000",
        "0.0001",
        "123456789012345678901234567890.000000000001",
    ] {
        let params = [Value::Numeric(text.into())];
        let sql = "SELECT $1::numeric, ($1::numeric)::text";
        let rows = database
            .select(Select::new(sql, &params))
            .await
            .unwrap()
            .collect()
            .await
            .unwrap();
        assert_eq!(rows[0], [Value::Numeric(text.into()), Value::Text(text.into())]);
    }
    let wide = "SELECT 1e131071::numeric, 1e-16383::numeric, -1::numeric(1000,900)";
    let rows = database
        .select(Select::new(wide, &[]))
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    let length = |value: &Value| match value {
        Value::Numeric(text) => text.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        rows[0].iter().map(length).collect::<Vec<_>>(),
        [131_072, 16_385, 903]
    );
}

async fn check_wrong(database: &Database, sql: &str, params: &[Value], expected: &str) {
    let error = async { database.select(Select::new(sql, params)).await?.collect().await }
        .await
        .unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    // The session goes on.
    assert_eq!(one(database, "SELECT 1").await, Value::Int(1));
}

#[tokio::test]
async fn wrong_values_have_one_clear_error() {
    let database = open_with(&support::database(), |config| {
        (config.pool.size, config.pool.overflow) = (1, 0);
    })
    .await;
    let text = |text: &str| vec![Value::Text(text.into())];
    let wrong = [
        ("SELECT 1", vec![Value::Int(1); 70_000], "70000, at most 65535"),
        ("SELECT $1::text", text("a\0"), "$1: text contains NUL at byte 1"),
        (
            "SELECT $1::int2",
            vec![Value::Int(70_000)],
            "$1: 70000 is out of range for int2",
        ),
        (
            "SELECT $1::int4",
            text("x"),
            "$1: the statement wants int4, not text",
        ),
        (
            "SELECT $1::float8",
            vec![Value::Float(f64::INFINITY)],
            "NaN and infinity",
        ),
        (
            "SELECT $1::jsonb",
            vec![Value::Jsonb(r#""\u0000""#.into())],
            "22P05",
        ),
        ("SELECT 1", vec![Value::Int(1)], "expected 0 parameters but got 1"),
    ];
    for (sql, params, expected) in wrong {
        check_wrong(&database, sql, &params, expected).await;
    }
    let refused = [
        ("SELECT 'NaN'::float8 AS price", "column price: NaN has no place"),
        ("SELECT 'infinity'::date AS day", "column day: infinity"),
        (
            "SELECT now()::timestamp AS at",
            "column at: type timestamp is not supported: cast",
        ),
        (
            "SELECT '{{1},{2}}'::int[] AS grid",
            "column grid: an array of 2 dimensions",
        ),
        ("SELECT 1/0", "division by zero (SQLSTATE 22012)"),
        ("SELECT absent FROM pg_class", "42703"),
        ("INSERT INTO a VALUES (1)", "42P01"),
        ("CREATE TABLE a ()", "read-only"),
    ];
    for (sql, expected) in refused {
        check_wrong(&database, sql, &[], expected).await;
    }
    assert_eq!(database.stats().pool.unwrap().connects, 1);
}

#[tokio::test]
async fn a_refusal_names_what_it_is_about() {
    let database = open(&support::database()).await;
    let make = "CREATE TABLE t (id int8 CONSTRAINT positive CHECK (id > 0), name text NOT NULL UNIQUE)";
    database.write(async |tx| tx.batch(make).await).await.unwrap();
    for (sql, expected) in [
        ("INSERT INTO t VALUES (-1, 'a')", "public.t.positive"),
        ("INSERT INTO t VALUES (1, NULL)", "public.t.name"),
        ("INSERT INTO t VALUES (1, 'a'), (2, 'a')", "public.t.t_name_key"),
    ] {
        let error = database
            .write(async |tx| tx.execute(sql, &[]).await)
            .await
            .unwrap_err();
        let Error::Database { object, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(object.as_deref(), Some(expected), "{sql}");
    }
}

// === Streams, cancelling ===

#[tokio::test]
async fn a_long_answer_comes_in_bounded_memory() {
    let database = open(&support::database()).await;
    let sql = "SELECT n, repeat('x', 1000) FROM generate_series(1, 200000) AS n";
    let mut rows = database.select(Select::new(sql, &[])).await.unwrap();
    assert_eq!(rows.columns()[1].name, "repeat");
    let none = database
        .select(Select::new("SELECT 1 AS a WHERE false", &[]))
        .await
        .unwrap();
    assert_eq!(none.columns()[0].name, "a");
    assert!(none.collect().await.unwrap().is_empty());
    let before = resident_kib();
    let mut n_rows = 0;
    while rows.next().await.unwrap().is_some() {
        n_rows += 1;
    }
    assert_eq!(n_rows, 200_000);
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for 200 MB");
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_dropped_statement_leaves_a_clean_session_within_100_ms() {
    let url = support::database();
    let database = open_with(&url, |config| {
        (config.pool.size, config.pool.overflow) = (1, 0);
    })
    .await;
    let neighbour = open(&url).await;
    let long = tokio::spawn(async move { one(&neighbour, "SELECT 7 FROM pg_sleep(1)").await });
    for run in 0..5 {
        let sleeps = Select::new("SELECT 1 FROM pg_sleep(20)", &[]);
        assert!(
            timeout(Duration::from_millis(60), database.select(sleeps))
                .await
                .is_err()
        );
        let given_up = Instant::now();
        assert_eq!(one(&database, "SELECT 2").await, Value::Int(2));
        let took = given_up.elapsed();
        assert!(took < Duration::from_millis(400), "run {run}: {took:?}");
    }
    let stats = database.stats().pool.unwrap();
    assert_eq!(stats.connects, 1, "the same session serves: {stats:?}");
    assert_eq!(long.await.unwrap(), Value::Int(7), "no other session was hurt");
}

#[tokio::test]
async fn a_dropped_stream_leaves_a_clean_session() {
    let database = open_with(&support::database(), |config| {
        (config.pool.size, config.pool.overflow) = (1, 0);
    })
    .await;
    for _ in 0..5 {
        let endless = "SELECT generate_series(1, 100000000), repeat('x', 1000)";
        let mut rows = database.select(Select::new(endless, &[])).await.unwrap();
        assert!(rows.next().await.unwrap().is_some());
        drop(rows);
        assert_eq!(one(&database, "SELECT 2").await, Value::Int(2));
    }
    assert_eq!(database.stats().pool.unwrap().connects, 1);
}

#[tokio::test]
async fn a_statement_over_its_time_is_ended() {
    let database = open(&support::database()).await;
    let mut select = Select::new("SELECT 1 FROM pg_sleep(20)", &[]);
    select.timeout = Duration::from_millis(50);
    let error = async { database.select(select).await?.collect().await }
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Timeout { .. }), "{error}");
    assert_eq!(one(&database, "SELECT 2").await, Value::Int(2));
}

#[tokio::test]
async fn a_changed_table_is_prepared_anew() {
    let database = open_with(&support::database(), |config| config.pool.size = 1).await;
    database
        .write(async |tx| tx.batch("CREATE TABLE t AS SELECT 1 AS a").await)
        .await
        .unwrap();
    let read = async || one(&database, "SELECT * FROM t").await;
    assert_eq!(read().await, Value::Int(1));
    let change = "ALTER TABLE t ALTER a TYPE text USING 'one'";
    database.write(async |tx| tx.batch(change).await).await.unwrap();
    assert_eq!(read().await, Value::Text("one".into()));
    let change = "ALTER TABLE t ALTER a TYPE int8 USING 2";
    let inside = async || {
        database
            .read(async |tx| tx.query("SELECT a FROM t", &[]).await)
            .await
            .unwrap()
    };
    assert_eq!(inside().await[0][0], Value::Text("one".into()));
    database.write(async |tx| tx.batch(change).await).await.unwrap();
    assert_eq!(inside().await[0][0], Value::Int(2));
}

// === Faults ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_backend_costs_its_statement_and_nothing_else() {
    let url = support::database();
    let database = open(&url).await;
    let other = open(&url).await;
    let killed = database.write_once(async |tx| {
        let pid = tx.query("SELECT pg_backend_pid()", &[]).await?[0][0].clone();
        let kill = "SELECT pg_terminate_backend($1)";
        other
            .read(async |tx| tx.query(kill, std::slice::from_ref(&pid)).await)
            .await?;
        tx.execute("SELECT 1 FROM pg_sleep(5)", &[]).await
    });
    let error = killed.await.unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("terminating connection"),
        "{error}"
    );
    assert_eq!(one(&database, "SELECT 2").await, Value::Int(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_server_comes_back_without_a_failed_write() {
    let cluster: &'static Cluster = Box::leak(Box::new(Cluster::temporary().unwrap()));
    let database = open(&cluster.create_database("crash").unwrap()).await;
    database
        .write(async |tx| tx.batch("CREATE TABLE t (n int8 PRIMARY KEY)").await)
        .await
        .unwrap();
    let database = Arc::new(database);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let database = Arc::clone(&database);
            tokio::spawn(async move {
                let mut n_unknown = 0;
                for n in 0..100_i64 {
                    let params = [Value::Int(writer * 1_000 + n)];
                    let insert = "INSERT INTO t VALUES ($1) ON CONFLICT DO NOTHING";
                    while let Err(error) = database.write(async |tx| tx.execute(insert, &params).await).await
                    {
                        // Only the answer to a commit may be lost; everything else is repeated inside.
                        assert!(matches!(error, Error::Lost(_)), "{error}");
                        n_unknown += 1;
                    }
                }
                n_unknown
            })
        })
        .collect();
    until("some rows", async || {
        one(&database, "SELECT count(*) > 20 FROM t").await == Value::Bool(true)
    })
    .await;
    tokio::task::spawn_blocking(|| {
        cluster.kill().unwrap();
        cluster.start_again().unwrap();
    })
    .await
    .unwrap();
    let mut n_unknown = 0;
    for writer in writers {
        n_unknown += writer.await.unwrap();
    }
    assert!(n_unknown <= 4, "{n_unknown}: one for each writer at most");
    assert_eq!(one(&database, "SELECT count(*) FROM t").await, Value::Int(400));
    cluster.stop().unwrap();
}

// === TLS ===

/// A server that speaks TLS, with a certificate for `localhost` signed by the authority in `ca.pem`.
fn tls_cluster() -> (Cluster, PathBuf) {
    let config = ClusterConfig {
        tcp: true,
        ..ClusterConfig::default()
    };
    let cluster = Cluster::start(config).unwrap();
    let folder = cluster.folder().join("tls");
    std::fs::create_dir(&folder).unwrap();
    let script = "set -e; cd \"$0\"; \
        openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2; \
        openssl req -newkey rsa:2048 -nodes -keyout key.pem -out csr.pem -subj /CN=localhost; \
        echo subjectAltName=DNS:localhost > san; \
        openssl x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -set_serial 1 -days 2 -extfile san -out cert.pem; \
        chmod 600 key.pem";
    let made = Command::new("sh")
        .args(["-c", script])
        .arg(&folder)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let owner = std::fs::metadata(cluster.socket_folder()).unwrap();
    for name in ["", "key.pem", "cert.pem"] {
        std::os::unix::fs::chown(folder.join(name), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    for sql in [
        format!("ALTER SYSTEM SET ssl_cert_file = '{cert}'"),
        format!("ALTER SYSTEM SET ssl_key_file = '{key}'"),
        "ALTER SYSTEM SET ssl = on".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        cluster.psql("postgres", &sql).unwrap();
    }
    (cluster, folder.join("ca.pem"))
}

#[tokio::test]
async fn tls_is_used_and_verified_as_the_url_says() {
    let (cluster, ca) = tls_cluster();
    let ca = ca.display().to_string().replace('/', "%2F");
    let url = cluster.tcp_url("postgres").unwrap();
    let is_tls = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    until("the certificate is loaded", async || {
        connect(&format!("{url}?sslmode=require")).await.is_ok()
    })
    .await;
    for (query, expected) in [
        ("sslmode=disable", false),
        ("sslmode=prefer", true),
        ("sslmode=require", true),
        (&format!("sslmode=verify-ca&sslrootcert={ca}"), true),
        (
            &format!("sslmode=verify-full&host=localhost&sslrootcert={ca}"),
            true,
        ),
    ] {
        let port = format!("port={}", cluster.port());
        let database = open(&format!("{url}?{query}&{port}")).await;
        assert_eq!(one(&database, is_tls).await, Value::Bool(expected), "{query}");
        let sleeps = Select::new("SELECT 1 FROM pg_sleep(20)", &[]);
        assert!(
            timeout(Duration::from_millis(60), database.select(sleeps))
                .await
                .is_err(),
            "{query}"
        );
        assert_eq!(
            one(&database, "SELECT 2").await,
            Value::Int(2),
            "cancelled by {query}"
        );
    }
    let full = format!("{url}?sslmode=verify-full&sslrootcert={ca}");
    check_refused(&full, None, "certificate").await;
    let other = "%2Fetc%2Fssl%2Fcerts%2Fca-certificates.crt";
    let full = format!("{url}?sslmode=verify-ca&sslrootcert={other}");
    if std::path::Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        check_refused(&full, None, "UnknownIssuer").await;
    }
    let absent = connect(&format!("{url}?sslmode=verify-ca&sslrootcert=%2Fabsent"))
        .await
        .unwrap_err();
    assert!(absent.to_string().contains("sslrootcert: /absent"), "{absent}");
}

// === Poolers ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_works_through_a_pooler() {
    let url = support::database();
    let pooler = PgBouncer::start(support::cluster()).unwrap();
    psql(
        support::cluster(),
        name_of(&url),
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
    )
    .await;
    let database = open_with(&pooler.url(name_of(&url)), |config| {
        config.statement_timeout = Some(Duration::from_secs(7));
    })
    .await;
    let info = database.ping().await.unwrap();
    assert!(info.through_pooler, "{info:?}");
    // More clients than sessions of the server, so that transactions move between them.
    let tasks: Vec<_> = (0..16_i64)
        .map(|task| {
            let database = database.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    let params = [Value::Int(task), Value::Text("sad".into()), Value::Int(n)];
                    let sql = "SELECT $1::int8 + $3::int4, $2::mood, current_setting('statement_timeout')";
                    let rows = database
                        .read(async |tx| tx.query(sql, &params).await)
                        .await
                        .unwrap();
                    let expected = [Value::Int(task + n), params[1].clone(), Value::Text("7s".into())];
                    assert_eq!(rows[0].values(), expected);
                    let mut select = Select::new("SELECT $1::int8 * 2, $2::mood", &params[..2]);
                    select.pipeline = true;
                    let rows = database.select(select).await.unwrap().collect().await.unwrap();
                    assert_eq!(rows[0][0], Value::Int(task * 2));
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(
        database.stats().pipeline.unwrap().answered,
        0,
        "the pipeline is off"
    );
    let none = database
        .select(Select::new("SELECT 1 WHERE false", &[]))
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    assert!(none.is_empty());
    let sleeps = Select::new("SELECT 1 FROM pg_sleep(20)", &[]);
    assert!(
        timeout(Duration::from_millis(60), database.select(sleeps))
            .await
            .is_err()
    );
    assert_eq!(one(&database, "SELECT 2").await, Value::Int(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_every_type_survive_a_pooler() {
    let url = support::database();
    let pooler = PgBouncer::start(support::cluster()).unwrap();
    check_values_survive(&open(&pooler.url(name_of(&url))).await).await;
}
