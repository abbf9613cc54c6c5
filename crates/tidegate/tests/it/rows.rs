//! Rows in over HTTP and Socket.IO, stored once, pushed to rooms, and read back in pages and streams.

use serde_json::{Value, json};
use tidegate::Tidegate;

use crate::{
    client::{Answer, Client, get, request},
    support::{DECLARED, Place},
};

async fn post(server: &Tidegate, path: &str, headers: &[&str], body: &str) -> Answer {
    request(server.local_addr(), "POST", path, headers, Some(body)).await
}

fn ticks(from: u64, n: u64) -> String {
    let lines = (from..from + n).map(|id| format!("{{\"id\":{id},\"symbol\":\"A\",\"price\":\"1.5\"}}\n"));
    lines.collect()
}

/// The lines of a streamed answer.
fn lines(answer: &Answer) -> Vec<Value> {
    assert_eq!(
        answer.header("content-type"),
        Some("application/x-ndjson"),
        "{}",
        answer.body
    );
    answer
        .body
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_row_is_pushed_and_read_back() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""ticks:600519""#).await;
    let rows = r#"[{"id":1,"symbol":"600519","price":1685.10,"ts":"2024-01-02T03:04:05.678901Z"}]"#;
    let answer = post(&server, "/api/ingest/ticks", &[], rows).await.json();
    assert_eq!(
        (&answer["stored"], &answer["state"]),
        (&json!(1), &json!("committed"))
    );
    let pushed = client.read().await;
    let row = r#"{"id":1,"symbol":"600519","price":"1685.10","ts":"2024-01-02T03:04:05.678901Z"}"#;
    assert!(
        pushed.starts_with(&format!(r#"42["price_update",{row}"#)),
        "{pushed}"
    );
    let page = get(server.local_addr(), "/api/query/latest?symbol=600519").await;
    assert_eq!(page.body, format!(r#"{{"ok":true,"rows":[{row}],"next":null}}"#));
    let sums = place.psql("SELECT symbol, n_rows, price_sum FROM ticks_by_symbol");
    assert_eq!(sums, "600519|1|1685.10");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_stores_rows_once_however_they_come() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let path = "/api/ingest/notes";
    let envelope = r#"{"id":"n-1","rows":[{"tenant":"a","body":"x"},{"tenant":"b","body":"y"}]}"#;
    let rows = r#"[{"tenant":"a","body":"x"},{"tenant":"b","body":"y"}]"#;
    let mut client = Client::connect(server.local_addr(), "").await;
    let first = post(&server, path, &[], envelope).await.json();
    let again = post(&server, path, &["Idempotency-Key: n-1"], rows).await.json();
    let event = format!(r#"{{"feed":"notes","id":"n-1","rows":{rows}}}"#);
    let emitted = client.call("ingest", &event).await;
    assert_eq!(
        (&first["stored"], &first["id"]),
        (&json!(2), &json!("n-1")),
        "{first}"
    );
    assert_eq!((&again, &emitted[0]), (&first, &first));
    assert_eq!(place.psql("SELECT count(*) FROM notes"), "2");
    let other = post(&server, path, &["Idempotency-Key: n-1"], r#"[{"tenant":"c"}]"#).await;
    assert_eq!((other.status, other.code().as_str()), (409, "id_reused"));
    assert_eq!(other.json()["error"]["chunk"], 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_rows_are_named_and_the_others_stored() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let body = r#"{"rows":[{"id":1,"symbol":"A","price":1},{"id":2,"symbol":"A","price":NaN},{"id":3,"symbol":"A"}]}"#;
    let answer = post(&server, "/api/ingest/ticks", &[], body).await;
    let json = answer.json();
    assert_eq!((answer.status, &json["stored"]), (200, &json!(1)), "{json}");
    let named: Vec<(&Value, &Value)> = json["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (&row["row"], &row["column"]))
        .collect();
    assert_eq!(
        named,
        [(&json!(1), &json!("price")), (&json!(2), &json!("price"))]
    );

    let none = post(&server, "/api/ingest/ticks", &[], r#"[{"id":"x","price":1}]"#).await;
    assert_eq!((none.status, none.code().as_str()), (422, "invalid_row"));
    let error = &none.json()["error"];
    assert_eq!(error["rejected"][0]["column"], "id", "{error}");
    assert!(
        error["message"].as_str().unwrap().contains("row 0, column id"),
        "{error}"
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_changed_and_removed_by_key() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let path = "/api/ingest/ticks";
    post(
        &server,
        path,
        &[],
        r#"[{"id":1,"symbol":"A","price":1},{"id":2,"symbol":"A","price":2}]"#,
    )
    .await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""ticks:A""#).await;
    let _snapshot = client.read().await;
    let check = async |query: &str, body: &str, counted: &str| {
        let answer = post(&server, &format!("{path}{query}"), &[], body).await.json();
        assert_eq!(answer[counted], 1, "{query}: {answer}");
    };
    check("?op=upsert", r#"{"id":1,"symbol":"A","price":"1.5"}"#, "stored").await;
    assert!(client.read().await.contains(r#""price":"1.5""#));
    check("?op=update", r#"{"id":2,"symbol":"A","price":9}"#, "stored").await;
    let pushed = client.read().await;
    assert!(
        pushed.contains(r#""_op":"update""#) && !pushed.contains("ts"),
        "{pushed}"
    );
    check("?op=update", r#"{"id":7,"price":9}"#, "missing").await;
    check("?op=delete", r#"{"id":2}"#, "stored").await;
    assert_eq!(place.psql("SELECT id, price FROM ticks"), "1|1.5");
    assert_eq!(
        place.psql("SELECT n_rows, price_sum FROM ticks_by_symbol"),
        "1|1.5"
    );
    let wrong = post(&server, &format!("{path}?op=drop"), &[], "[]").await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "bad_request"));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_any_number_are_stored_as_they_come() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let mut body = ticks(1, 25_000);
    body += "{\"id\":\"x\"}\n\n";
    body += &format!(
        "{{\"id\":0,\"symbol\":\"{}\",\"price\":1}}\n",
        "long".repeat(1_000)
    );
    body += &ticks(25_001, 5);
    let headers = ["Content-Type: application/x-ndjson", "Idempotency-Key: all"];
    let first = lines(&post(&server, "/api/ingest/ticks", &headers, &body).await);
    let last = first.last().unwrap();
    assert_eq!(
        (&last["ok"], &last["rows"]),
        (&json!(true), &json!(25_007)),
        "{last}"
    );
    assert_eq!((&last["stored"], &last["id"]), (&json!(25_005), &json!("all")));
    let rejected: Vec<&Value> = last["rejected"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["row"])
        .collect();
    assert_eq!(rejected, [&json!(25_000), &json!(25_001)]);
    let again = lines(&post(&server, "/api/ingest/ticks", &headers, &body).await);
    assert_eq!(again.last(), Some(last));
    assert_eq!(
        place.psql("SELECT count(*), sum(id) FROM ticks"),
        "25005|312637515"
    );

    let unknown = post(&server, "/api/ingest/tocks", &headers, &body).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (403, "forbidden"));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_continue_and_a_stream_has_them_all() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let address = server.local_addr();
    let headers = ["Content-Type: application/x-ndjson"];
    post(&server, "/api/ingest/ticks", &headers, &ticks(1, 2_500)).await;
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = get(address, &format!("/api/query/all?limit=1000{after}"))
            .await
            .json();
        let ids = page["rows"].as_array().unwrap().iter();
        seen.extend(ids.map(|row| row["id"].as_u64().unwrap()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, (1..=2_500).collect::<Vec<_>>());
    let accept = ["Accept: application/x-ndjson"];
    let streamed = request(address, "GET", "/api/query/all", &accept, None).await;
    let streamed = lines(&streamed);
    assert_eq!(streamed.len(), 2_501);
    assert_eq!(
        (&streamed[2_499]["id"], &streamed[2_500]["ok"]),
        (&json!(2_500), &json!(true))
    );
    assert_eq!(streamed[2_500]["rows"], 2_500);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_questions_are_refused() {
    let place = Place::new();
    let declared = DECLARED.replace("ingest = [\"ticks\", \"notes\"]", "ingest = [\"*\"]");
    let server = place
        .start(&declared.replace("\"sums\"]", "\"sums\", \"gone\"]"))
        .await;
    let address = server.local_addr();
    post(
        &server,
        "/api/ingest/ticks",
        &[],
        r#"[{"id":1,"symbol":"A","price":1},{"id":2,"symbol":"A","price":1}]"#,
    )
    .await;
    let next = get(address, "/api/query/all?limit=1").await.json()["next"].clone();
    let cursor = next.as_str().unwrap().to_owned();
    let check = async |method: &str, path: &str, body: Option<&str>, status: u16, code: &str| {
        let answer = request(address, method, path, &[], body).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{path}: {}",
            answer.body
        );
    };
    check("GET", "/api/query/gone", None, 404, "not_found").await;
    check("GET", "/api/query/secret", None, 403, "forbidden").await;
    check("GET", "/api/query/latest", None, 400, "bad_request").await;
    check(
        "GET",
        "/api/query/latest?symbol=A&price=1",
        None,
        400,
        "bad_request",
    )
    .await;
    check(
        "GET",
        "/api/query/latest?symbol=A&limit=none",
        None,
        400,
        "bad_request",
    )
    .await;
    check("GET", "/api/query/mine?tenant=acme", None, 400, "bad_request").await;
    check("GET", "/api/query/mine", None, 403, "forbidden").await;
    check("GET", "/api/query/all?after=AAAA", None, 400, "cursor_invalid").await;
    let other = format!("/api/query/latest?symbol=A&after={cursor}");
    check("GET", &other, None, 400, "cursor_invalid").await;
    check("POST", "/api/ingest/nowhere", Some("[]"), 404, "unknown_feed").await;
    check("POST", "/api/ingest/ticks", Some("{"), 422, "invalid_row").await;
    check("POST", "/api/ingest/ticks", Some("[{}"), 400, "bad_request").await;
    check("POST", "/api/ingest/ticks?op=eat", Some("[]"), 400, "bad_request").await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_answer_as_http_does() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let address = server.local_addr();
    let mut client = Client::connect(address, "").await;
    let stored = client
        .call(
            "ingest",
            r#"{"feed":"ticks","rows":[{"id":1,"symbol":"A","price":1}]}"#,
        )
        .await;
    assert_eq!(stored[0]["stored"], 1, "{stored}");
    let asked = client
        .call("query", r#"{"name":"latest","params":{"symbol":"A"},"limit":5}"#)
        .await;
    let page = get(address, "/api/query/latest?symbol=A&limit=5").await.json();
    assert_eq!(asked[0], page);
    let mut check = async |event: &str, data: &str, code: &str| {
        let answer = client.call(event, data).await;
        assert_eq!(answer[0]["error"]["code"], code, "{event} {data}: {answer}");
    };
    check("ingest", r#"{"feed":"secret","rows":[]}"#, "forbidden").await;
    check("ingest", r#"{"feed":"ticks"}"#, "bad_request").await;
    check("ingest", r#"{"feed":"ticks","rows":[],"more":1}"#, "bad_request").await;
    check("ingest", r#""ticks""#, "bad_request").await;
    check("ingest", r#"{"feed":"ticks","rows":[{"id":"x"}]}"#, "invalid_row").await;
    check("query", r#"{"name":"secret"}"#, "forbidden").await;
    check("query", r#"{"name":"latest"}"#, "bad_request").await;
    check(
        "query",
        r#"{"name":"latest","params":{"symbol":"A"},"after":"x"}"#,
        "cursor_invalid",
    )
    .await;
    check("query", r#"{"nam":"latest"}"#, "bad_request").await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_fills_what_the_caller_may_not() {
    let place = Place::new();
    let settings = place.settings(DECLARED);
    let mut auth = settings.auth(&tidegate::Outside::none()).unwrap();
    for tenant in ["acme", "other"] {
        let key = format!("backend-key-of-{tenant}-with-twenty-bytes");
        auth.api_keys.push(tidegate::auth::ApiKey {
            name: tenant.to_owned(),
            key: tidegate::auth::ApiKeyValue::Plain(tidegate::auth::Secret::new(key.as_str())),
            user: Some(format!("service:{tenant}")),
            tenant: Some(tenant.to_owned()),
            roles: vec!["visitor".to_owned()],
            claims: serde_json::Map::new(),
        });
    }
    let server = Tidegate::builder()
        .settings(settings)
        .auth(auth)
        .start()
        .await
        .unwrap();
    let rows = r#"[{"tenant":"acme","body":"ours"},{"tenant":"other","body":"theirs"}]"#;
    post(&server, "/api/ingest/notes", &[], rows).await;
    let check = async |tenant: &str, expected: Value| {
        let key = format!("X-API-Key: backend-key-of-{tenant}-with-twenty-bytes");
        let answer = request(server.local_addr(), "GET", "/api/query/mine", &[&key], None).await;
        assert_eq!(answer.json()["rows"], expected, "{tenant}");
    };
    check("acme", json!([{"body": "ours"}])).await;
    check("other", json!([{"body": "theirs"}])).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn feeds_and_queries_are_reloaded() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let address = server.local_addr();
    let more = format!(
        "{DECLARED}\n[queries.count]\nsql = \"SELECT count(*) AS n FROM notes\"\n[feeds.more]\ntable = \"more\"\nmanage = true\ncolumns = {{ a = \"int8\" }}\n"
    )
    .replace("query = [", "query = [\"count\", ")
    .replace("ingest = [", "ingest = [\"more\", ");
    let settings = place.settings(&more);
    let auth = settings.auth(&tidegate::Outside::none()).unwrap();
    let reloaded = server.reload(&settings, auth.clone()).await.unwrap();
    assert!(reloaded.needs_restart.is_empty(), "{reloaded:?}");
    let answer = post(&server, "/api/ingest/more", &[], r#"{"a":1}"#).await.json();
    assert_eq!(answer["stored"], 1, "{answer}");
    assert_eq!(get(address, "/api/query/count").await.json()["rows"][0]["n"], 0);

    let broken = place.settings(&more.replace("FROM notes\"\n[feeds.more]", "FROM nowhere\"\n[feeds.more]"));
    assert!(server.reload(&broken, auth).await.is_err());
    assert_eq!(get(address, "/api/query/count").await.json()["rows"][0]["n"], 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_database_is_said_at_the_start() {
    let place = Place::new();
    let check = async |url: &str, declared: &str, expected: &str| {
        let settings = place.settings(declared);
        let store = settings.store(&tidegate::Outside::none()).unwrap().unwrap();
        let mut store = tidegate::settings::StoreConfig {
            url: url.to_owned(),
            ..store
        };
        store.pool.acquire_timeout = std::time::Duration::from_millis(500);
        let starting = Tidegate::builder().settings(settings).store(Some(store)).start();
        let Err(error) = starting.await else {
            panic!("{url} started")
        };
        let text = format!(
            "{error}: {}",
            std::error::Error::source(&error).map_or_else(String::new, ToString::to_string)
        );
        assert!(text.contains(expected), "{url} said {text}, expected {expected}");
    };
    check("mysql://a/b", DECLARED, "postgres://").await;
    check("postgres://me@127.0.0.1:1/shop", DECLARED, "127.0.0.1:1").await;
    let gone = place.url.replace(place.database(), "no_such_database");
    check(&gone, DECLARED, "no_such_database").await;
    let guarded = tidegate_cluster::Cluster::start(tidegate_cluster::Config {
        tcp: true,
        ..tidegate_cluster::Config::default()
    })
    .unwrap();
    let url = guarded.tcp_url("postgres").unwrap();
    let (user, rest) = url.split_once('@').unwrap();
    let (user, _password) = user.rsplit_once(':').unwrap();
    check(
        &format!("{user}:wrong@{rest}"),
        DECLARED,
        "password authentication failed",
    )
    .await;

    let unmanaged = DECLARED.replace("manage = true", "manage = false");
    check(&place.url, &unmanaged, "table notes: does not exist").await;
    place.psql("CREATE TABLE ticks (id int8 PRIMARY KEY, symbol text, price numeric NOT NULL)");
    place.psql("CREATE TABLE notes (tenant text NOT NULL, body text)");
    check(&place.url, &unmanaged, "column \"ts\" does not exist").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_declarations_opens_no_database() {
    let settings = tidegate::Settings::parse("listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true").unwrap();
    let server = Tidegate::builder().settings(settings).start().await.unwrap();
    assert!(server.store().is_none());
    let address = server.local_addr();
    let ready = get(address, "/readyz").await.json();
    assert_eq!(ready, json!({"ok": true, "database": null, "redis": null}));
    let answer = get(address, "/api/performance/database/stats").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    server.shutdown().await;
}

/// What holds on every database, seen from outside alone.
async fn rows_go_in_and_out(place: Place) {
    let server = place.start(DECLARED).await;
    let address = server.local_addr();
    let mut client = Client::connect(address, "").await;
    client.call("join", r#""ticks:A""#).await;
    let row = r#"{"id":1,"symbol":"A","price":"0.10","ts":"2024-01-02T03:04:05.678901Z"}"#;
    let first = post(&server, "/api/ingest/ticks", &["Idempotency-Key: one"], row)
        .await
        .json();
    let again = post(&server, "/api/ingest/ticks", &["Idempotency-Key: one"], row)
        .await
        .json();
    assert_eq!((&first["stored"], &again), (&json!(1), &first));
    assert!(
        client
            .read()
            .await
            .starts_with(&format!(r#"42["price_update",{row}"#))
    );
    let headers = ["Content-Type: application/x-ndjson"];
    let uploaded = lines(&post(&server, "/api/ingest/ticks", &headers, &ticks(2, 3_000)).await);
    assert_eq!(uploaded.last().unwrap()["stored"], 3_000, "{uploaded:?}");
    let change = r#"{"op":"update","rows":[{"id":2,"price":"7.25"},{"id":9999,"price":1}]}"#;
    let changed = post(&server, "/api/ingest/ticks", &[], change).await.json();
    assert_eq!((&changed["stored"], &changed["missing"]), (&json!(1), &json!(1)));
    post(&server, "/api/ingest/ticks?op=delete", &[], r#"{"id":3}"#).await;

    let page = get(address, "/api/query/latest?symbol=A&limit=2").await.json();
    let next = page["next"].as_str().unwrap();
    let more = get(
        address,
        &format!("/api/query/latest?symbol=A&limit=2&after={next}"),
    )
    .await
    .json();
    let ids: Vec<&Value> = [&page, &more]
        .iter()
        .flat_map(|page| page["rows"].as_array().unwrap())
        .map(|row| &row["id"])
        .collect();
    assert_eq!(ids, [&json!(3_001), &json!(3_000), &json!(2_999), &json!(2_998)]);
    let streamed = request(
        address,
        "GET",
        "/api/query/all",
        &["Accept: application/x-ndjson"],
        None,
    )
    .await;
    let streamed = lines(&streamed);
    assert_eq!(streamed.len(), 3_001);
    assert_eq!(streamed[1], json!({"id": 2, "symbol": "A", "price": "7.25"}));
    let sums = get(address, "/api/query/sums").await.json();
    assert_eq!(
        sums["rows"],
        json!([{"symbol": "A", "n_rows": 3_000, "price_sum": "4504.35"}])
    );
    let statements = get(address, "/api/performance/database/statements").await.json();
    assert!(!statements["items"].as_array().unwrap().is_empty());
    server.shutdown().await;

    // What was stored is there for the next process.
    let server = place.start(DECLARED).await;
    let kept = post(&server, "/api/ingest/ticks", &["Idempotency-Key: one"], row)
        .await
        .json();
    assert_eq!(kept, first);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_in_and_out_of_postgres() {
    rows_go_in_and_out(Place::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_go_in_and_out_of_sqlite() {
    rows_go_in_and_out(Place::sqlite()).await;
}
