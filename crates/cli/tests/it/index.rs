//! `tidegate index` as it is run, on a real server.

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    process::Output,
    sync::LazyLock,
};

use serde_json::Value;
use tidegate_cluster::{Cluster, PgBouncer};

use crate::{Settings, tidegate};

static CLUSTER: LazyLock<Cluster> = LazyLock::new(|| Cluster::temporary().unwrap());

/// The demo's columns, fewer rows.
pub(crate) const ORDERS: &str = "
    CREATE TABLE orders (id bigint PRIMARY KEY, store text, date date, time_period text, channel text, product text,
                         category_l1 text, scene text, amount numeric(10, 2), note text);
    INSERT INTO orders SELECT n, 'store-' || n % 4, date '2025-01-01' + n % 90, 'p' || n % 5, 'channel-' || n % 6,
        'product-' || n % 220, 'c' || n % 9, 's' || n % 3, n % 90, repeat('x', 60) FROM generate_series(1, 30000) n;
    VACUUM ANALYZE orders;";

/// A fresh database with orders.
fn orders() -> (String, String) {
    let url = CLUSTER.create_database("orders").unwrap();
    let name = url.rsplit('/').next().unwrap().to_owned();
    CLUSTER.psql(&name, ORDERS).unwrap();
    (url, name)
}

fn index(url: &str, args: &[&str]) -> Output {
    let all = [&["index"], args, &["--url", url]].concat();
    tidegate(&all).env_remove("DATABASE_URL").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn check(url: &str, args: &[&str], code: i32, expected: &str) -> String {
    let output = index(url, args);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?} said {text}");
    assert!(
        text.contains(expected),
        "{args:?} said {text}, expected {expected}"
    );
    text
}

fn check_json(url: &str, args: &[&str], code: i32) -> Value {
    let text = check(url, &[args, &["--json"]].concat(), code, "{");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_plan_is_compared_applied_and_dropped() {
    let (url, _) = orders();
    let text = check(&url, &["plan", "--plan", "orders"], 1, "0 there, 11 to do");
    assert!(
        text.contains("CREATE INDEX CONCURRENTLY idx_orders_store_date ON orders (store, date);"),
        "{text}"
    );
    check(
        &url,
        &["apply", "--plan", "orders"],
        0,
        "11 created, 0 there already, 0 failed",
    );
    let again = check_json(&url, &["apply", "--plan", "orders"], 0);
    assert_eq!(
        (&again["ok"], &again["existing"]),
        (&Value::Bool(true), &11.into())
    );
    check(&url, &["plan", "--plan", "orders"], 0, "11 there, 0 to do");
    check(
        &url,
        &["drop", "idx_orders_scene", "nope"],
        1,
        "nope: index nope does not exist",
    );
    let steps = check_json(&url, &["plan", "--plan", "orders"], 1);
    let missing: Vec<&Value> = steps["steps"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|step| step["state"] == "missing")
        .collect();
    assert_eq!(missing.len(), 1);
    assert_eq!(missing[0]["name"], "idx_orders_scene");
    check(
        &url,
        &["drop", "orders_pkey"],
        1,
        "constraint orders_pkey on orders stands on it",
    );
    check(
        &url,
        &["--lang", "zh", "apply", "--plan", "orders"],
        0,
        "新建 1 个，已有 10 个，失败 0 个",
    );
}

#[test]
fn superfluous_indexes_are_named() {
    let (url, name) = orders();
    check(&url, &["duplicate"], 0, "0 found");
    CLUSTER
        .psql(
            &name,
            "CREATE INDEX one ON orders (store); CREATE INDEX two ON orders (store, date)",
        )
        .unwrap();
    let text = check(&url, &["duplicate"], 1, "DROP INDEX CONCURRENTLY public.one;");
    assert!(
        text.contains("public.two btree (store, date) does the same"),
        "{text}"
    );
    check(&url, &["unused"], 0, "no answer yet");
    let found = check_json(&url, &["unused", "--window", "0s"], 1);
    assert_eq!(found["indexes"].as_array().unwrap().len(), 2);
}

/// Answers one request as a running server does.
fn server(answer: &'static str) -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let request = BufReader::new(stream.try_clone().unwrap()).lines();
        let head: Vec<String> = request
            .map_while(Result::ok)
            .take_while(|line| !line.is_empty())
            .collect();
        stream.write_all(answer.as_bytes()).unwrap();
        head.join("\n")
    });
    (url, served)
}

const SEEN: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"ok\":true,\"items\":[\
    {\"fingerprint\":\"1\",\"text\":\"select date, sum(amount) from orders where store = $1 and date >= $2 group by date\",\
     \"calls\":900,\"rows\":9000,\"total\":{\"total_ms\":9000.0,\"mean_ms\":10.0}},\
    {\"fingerprint\":\"2\",\"text\":\"select nonsense from\",\"calls\":1,\"rows\":0,\"total\":{\"mean_ms\":1.0}}]}";

#[test]
fn advice_comes_from_a_running_server_and_can_be_applied() {
    let (url, _) = orders();
    let file = Settings::new("advice", "");
    let (server, served) = server(SEEN);
    let mut command = tidegate(&[
        "index",
        "advise",
        "--server",
        &server,
        "-o",
        file.path(),
        "--url",
        &url,
    ]);
    let output = command.env("TIDEGATE_TOKEN", "secret").output().unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let request = served.join().unwrap();
    assert!(
        request.starts_with("GET /api/performance/database/statements?limit=50 "),
        "{request}"
    );
    assert!(request.contains("Authorization: Bearer secret"), "{request}");
    for expected in [
        "ON public.orders (store, date) INCLUDE (amount);",
        "Seq Scan -> Index Only Scan",
        "proved by the planner",
        "skipped 1: it cannot be read",
        "1 found",
    ] {
        assert!(text.contains(expected), "{text}, expected {expected}");
    }
    check(&url, &["apply", "--plan", file.path()], 0, "1 created");
    check(&url, &["plan", "--plan", file.path()], 0, "1 there, 0 to do");
}

#[test]
fn what_is_wrong_is_said_once_and_clearly() {
    let (url, name) = orders();
    let plan = Settings::new(
        "plan",
        "[[index]]\nname = 'x'\ntable = 'nowhere'\ncolumns = ['a']\n",
    );
    check(
        &url,
        &["apply", "--plan", plan.path()],
        1,
        "x  failed: table nowhere does not exist",
    );
    let wrong = Settings::new("wrong-plan", "[[index]]\nname = 'x'\n");
    check(
        &url,
        &["plan", "--plan", wrong.path()],
        78,
        "index x: it has no table",
    );
    check(
        &url,
        &["plan", "--plan", "/nowhere.toml"],
        1,
        "cannot read /nowhere.toml",
    );
    check(&url, &["plan"], 64, "--plan <FILE>");
    check(&url, &["unused", "--window", "soon"], 64, "as in 12h or 7d");
    check(&url, &["advise"], 1, "pg_stat_statements is not installed");
    check(
        &url,
        &["advise", "--server", "https://x"],
        1,
        "only http:// is spoken",
    );
    let (refusing, served) =
        server("HTTP/1.1 403 F\r\n\r\n{\"error\":{\"message\":\"role admin is needed\"}}");
    check(
        &url,
        &["advise", "--server", &refusing],
        1,
        "it answered 403 role admin is needed",
    );
    served.join().unwrap();
    check("sqlite:data/x.db", &["duplicate"], 64, "need PostgreSQL");
    check("mysql://x", &["duplicate"], 1, "is not one of postgres://");
    let gone = url.replace(&name, "nowhere");
    check(&gone, &["duplicate"], 1, "database \"nowhere\" does not exist");
    let pooler = PgBouncer::start(&CLUSTER).unwrap();
    check(
        &pooler.url(&name),
        &["apply", "--plan", "orders"],
        1,
        "behind a transaction pooler",
    );
}

#[test]
fn the_database_comes_from_flag_file_or_environment() {
    let (url, _) = orders();
    let run = |args: &[&str], variable: Option<(&str, &str)>| {
        let mut command = tidegate(args);
        command.env_remove("DATABASE_URL").envs(variable);
        let output = command.output().unwrap();
        (output.status.code(), said(&output))
    };
    let (code, text) = run(&["index", "duplicate"], None);
    assert!(
        code == Some(64) && text.contains("no database: give --url"),
        "{text}"
    );
    assert_eq!(
        run(&["index", "duplicate"], Some(("DATABASE_URL", &url))).0,
        Some(0)
    );
    let file = Settings::new("store", &format!("[store]\nurl = \"{url}\"\n"));
    assert_eq!(run(&["index", "duplicate", "-c", file.path()], None).0, Some(0));
    let file = Settings::new("store-env", "[store]\nurl_env = \"TIDEGATE_TEST_URL\"\n");
    let args = ["index", "duplicate", "-c", file.path()];
    assert_eq!(run(&args, Some(("TIDEGATE_TEST_URL", &url))).0, Some(0));
    let (code, text) = run(&args, None);
    assert!(
        code == Some(78) && text.contains("TIDEGATE_TEST_URL, which is not set"),
        "{text}"
    );
}
