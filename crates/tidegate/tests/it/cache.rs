//! Answers that are kept: served again, dropped with the commit that changes them, never across tenants.

use serde_json::{Value, json};
use tidegate::Tidegate;

use crate::{
    client::{Answer, Client, get, request},
    support::{DECLARED, Place, layered},
};

/// Tags of the feed, and rules of its queries, over [`DECLARED`].
const CACHED: &str = r#"
[feeds.ticks]
tags = ["ticks:{symbol}"]
[queries.latest]
cache = { ttl = "1h", tags = ["ticks:{symbol}"] }
[queries.all]
cache = { ttl = "1h", tags = ["ticks:{symbol}"] }
params = { symbol = { type = "text", optional = true } }
sql = "SELECT id, symbol, price FROM ticks WHERE symbol = coalesce(:symbol, symbol)"
"#;

async fn start(place: &Place) -> Tidegate {
    place.start(&layered(&[DECLARED, CACHED])).await
}

async fn ingest(server: &Tidegate, query: &str, rows: &Value) {
    let path = format!("/api/ingest/ticks{query}");
    let answer = request(server.local_addr(), "POST", &path, &[], Some(&rows.to_string())).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

/// Asks and says whether the cache answered.
async fn ask(server: &Tidegate, path: &str) -> (Answer, bool) {
    let answer = get(server.local_addr(), path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let status = answer
        .header("cache-status")
        .expect("the query has a cache")
        .to_owned();
    assert!(status.starts_with("tidegate; "), "{status}");
    (answer, status.contains("hit"))
}

async fn kept_until_a_commit(place: &Place) {
    let server = start(place).await;
    ingest(
        &server,
        "",
        &json!([{"id": 1, "symbol": "A", "price": 1}, {"id": 2, "symbol": "B", "price": 2}]),
    )
    .await;
    let check = async |symbol: &str, is_hit: bool, ids: &[i64]| {
        let (answer, hit) = ask(&server, &format!("/api/query/latest?symbol={symbol}")).await;
        let found: Vec<i64> = answer.json()["rows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].as_i64().unwrap())
            .collect();
        assert_eq!((hit, &found[..]), (is_hit, ids), "{symbol}");
    };
    check("A", false, &[1]).await;
    check("A", true, &[1]).await;
    check("B", false, &[2]).await;
    // A new row: only answers about its symbol are void, and they are when the row is acknowledged.
    ingest(
        &server,
        "?op=insert",
        &json!([{"id": 3, "symbol": "A", "price": 3}]),
    )
    .await;
    check("A", false, &[3, 1]).await;
    // The feed may change rows, whose symbol before is not known, so the other answer is void as well.
    check("B", false, &[2]).await;
    check("B", true, &[2]).await;
    // A row that moves from B to A changes both.
    ingest(
        &server,
        "?op=upsert",
        &json!([{"id": 2, "symbol": "A", "price": 2}]),
    )
    .await;
    check("B", false, &[]).await;
    check("A", false, &[3, 2, 1]).await;
    // A removal names the key alone.
    ingest(&server, "?op=delete", &json!([{"id": 3}])).await;
    check("A", false, &[2, 1]).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_until_a_commit_changes_them_on_postgres() {
    kept_until_a_commit(&Place::new()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_kept_until_a_commit_changes_them_on_sqlite() {
    kept_until_a_commit(&Place::sqlite()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_about_everything_is_void_after_any_row() {
    let place = Place::new();
    let server = start(&place).await;
    ingest(&server, "", &json!([{"id": 1, "symbol": "A", "price": 1}])).await;
    assert!(!ask(&server, "/api/query/all").await.1);
    assert!(ask(&server, "/api/query/all").await.1);
    ingest(&server, "", &json!([{"id": 2, "symbol": "Z", "price": 1}])).await;
    let (answer, hit) = ask(&server, "/api/query/all").await;
    assert!(!hit);
    assert_eq!(answer.json()["rows"].as_array().unwrap().len(), 2);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_requests_share_answers_and_operators_drop_them() {
    let place = Place::new();
    let server = start(&place).await;
    ingest(&server, "", &json!([{"id": 1, "symbol": "A", "price": 1}])).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    let emitted = client
        .call("query", r#"{"name":"latest","params":{"symbol":"A"}}"#)
        .await;
    let (answer, hit) = ask(&server, "/api/query/latest?symbol=A").await;
    assert!(hit, "the client's question filled it");
    assert_eq!(emitted[0], answer.json());

    let drop = async |body: &str| {
        let path = "/api/cache/invalidate";
        request(server.local_addr(), "POST", path, &[], Some(body)).await
    };
    let check = async |body: &str, is_hit: bool| {
        assert_eq!(drop(body).await.status, 200);
        assert_eq!(
            ask(&server, "/api/query/latest?symbol=A").await.1,
            is_hit,
            "{body}"
        );
    };
    check(r#"{"tags":["ticks:B"]}"#, true).await;
    check(r#"{"tags":["ticks:A"]}"#, false).await;
    check(r#"{"prefixes":["other:"]}"#, true).await;
    check(r#"{"prefixes":["ticks:"]}"#, false).await;
    check(r#"{"all":true}"#, false).await;
    for body in ["{}", r#"{"tags":"ticks:A"}"#, r#"{"tag":["ticks:A"]}"#] {
        let refused = drop(body).await;
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (400, "bad_request"),
            "{body}"
        );
    }

    let stats = get(server.local_addr(), "/api/performance/cache/stats")
        .await
        .json();
    let cache = &stats["cache"];
    assert_eq!(stats["queries"], json!(["all", "latest"]));
    assert_eq!(cache["hits"]["memory"], json!(3), "{cache}");
    assert_eq!(cache["loads"]["ok"], json!(4), "{cache}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_kept_answers_says_so() {
    let place = Place::new();
    let server = place.start(DECLARED).await;
    let answer = get(server.local_addr(), "/api/performance/cache/stats").await;
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    let page = get(server.local_addr(), "/api/query/latest?symbol=A").await;
    assert_eq!(page.header("cache-status"), None);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_never_cross_tenants() {
    let place = Place::new();
    let cached = "[queries.mine]\ncache = { ttl = \"1h\" }\n";
    let settings = place.settings(&layered(&[DECLARED, cached]));
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
    let rows = json!([{"tenant": "acme", "body": "ours"}, {"tenant": "other", "body": "theirs"}]).to_string();
    let stored = request(server.local_addr(), "POST", "/api/ingest/notes", &[], Some(&rows)).await;
    assert_eq!(stored.status, 200, "{}", stored.body);
    let check = async |tenant: &str, is_hit: bool, expected: Value| {
        let key = format!("X-API-Key: backend-key-of-{tenant}-with-twenty-bytes");
        let answer = request(server.local_addr(), "GET", "/api/query/mine", &[&key], None).await;
        let status = answer.header("cache-status").expect("the query has a cache");
        assert_eq!(status.contains("hit"), is_hit, "{tenant}: {status}");
        assert_eq!(answer.json()["rows"], expected, "{tenant}");
    };
    check("acme", false, json!([{"body": "ours"}])).await;
    check("other", false, json!([{"body": "theirs"}])).await;
    check("acme", true, json!([{"body": "ours"}])).await;
    check("other", true, json!([{"body": "theirs"}])).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_that_asks_for_the_first_kept_answers_says_that_it_needs_a_restart() {
    let place = Place::new();
    let check = async |first: &[&str], later: &[&str], expected: &[&str]| {
        let server = place.start(&layered(first)).await;
        let settings = place.settings(&layered(later));
        let auth = settings.auth(&tidegate::Outside::none()).unwrap();
        let reloaded = server.reload(&settings, auth).await.unwrap();
        assert_eq!(reloaded.needs_restart, expected, "{later:?}");
        server.shutdown().await;
    };
    let fewer = "[queries.latest]\ncache = { ttl = \"1h\" }\n";
    check(&[DECLARED], &[DECLARED, CACHED], &["cache"]).await;
    check(&[DECLARED, fewer], &[DECLARED, CACHED], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_written_in_another_way_is_void_with_its_rows() {
    let place = Place::new();
    let by_price = r#"
[roles.visitor]
query = ["at"]
[feeds.ticks]
tags = ["price:{price}"]
[queries.at]
sql = "SELECT id FROM ticks WHERE price = :price ORDER BY id"
params = { price = "numeric" }
cache = { ttl = "1h", tags = ["price:{price}"] }
"#;
    let server = place.start(&layered(&[DECLARED, by_price])).await;
    ingest(&server, "?op=insert", &json!([{"id": 1, "price": "1.50"}])).await;
    let check = async |ids: Value| {
        let (answer, hit) = ask(&server, "/api/query/at?price=1.5").await;
        assert_eq!((hit, &answer.json()["rows"]), (false, &ids));
    };
    check(json!([{"id": 1}])).await;
    ingest(&server, "?op=insert", &json!([{"id": 2, "price": "1.50"}])).await;
    check(json!([{"id": 1}, {"id": 2}])).await;
    server.shutdown().await;
}
