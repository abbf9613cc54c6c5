//! Publications by SQL reach real clients, and answers are fresh for whoever asks after them.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::Tidegate;

use crate::{
    client::{Client, get},
    support::{DECLARED, Folder, Place, layered},
};

/// Over [`DECLARED`]: answers are kept, and the outbox is read.
const RELAYED: &str = r#"
[store.relay]
enabled = true
[queries.latest]
cache = { ttl = "1h", tags = ["ticks:{symbol}"] }
[queries.all]
cache = { ttl = "1h", tags = ["ticks:{symbol}"] }
params = { symbol = { type = "text", optional = true } }
sql = "SELECT id, symbol, price FROM ticks WHERE symbol = coalesce(:symbol, symbol)"
"#;

async fn start(place: &Place) -> Tidegate {
    place.start(&layered(&[DECLARED, RELAYED])).await
}

/// The rows of an answer, and whether the cache gave it.
async fn ask(server: &Tidegate, path: &str) -> (usize, bool) {
    let answer = get(server.local_addr(), path).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let is_hit = answer.header("cache-status").unwrap().contains("hit");
    (answer.json()["rows"].as_array().unwrap().len(), is_hit)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_committed_by_sql_reaches_its_room_and_leaves_no_stale_answer() {
    let place = Place::new();
    let server = start(&place).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""ticks:A""#).await;
    for n in 0..20 {
        for path in ["/api/query/latest?symbol=A", "/api/query/all"] {
            ask(&server, path).await;
            assert_eq!(ask(&server, path).await, (n, true), "{path}");
        }
        place.psql(&format!(
            "BEGIN; INSERT INTO ticks (id, symbol, price) VALUES ({n}, 'A', 1.5);
             SELECT tidegate.publish('ticks:A', 'price', '{{\"id\": {n}}}', ARRAY['ticks:A']); COMMIT"
        ));
        let told = client.read().await;
        assert!(
            told.starts_with(&format!(r#"42["price",{{"id": {n}}}"#)),
            "{told}"
        );
        for path in ["/api/query/latest?symbol=A", "/api/query/all"] {
            assert_eq!(ask(&server, path).await, (n + 1, false), "{path}");
        }
    }
    // What is rolled back changes nothing for anybody.
    place.psql("BEGIN; SELECT tidegate.publish('ticks:A', 'price', '1', ARRAY['ticks:A']); ROLLBACK");
    place.psql("SELECT tidegate.publish('ticks:A', 'end')");
    assert!(client.read().await.starts_with(r#"42["end""#));
    assert!(ask(&server, "/api/query/latest?symbol=A").await.1);
    server.shutdown().await;
    assert_eq!(place.psql("SELECT count(*) FROM tidegate.outbox"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_table_tells_its_rooms() {
    let place = Place::new();
    let server = start(&place).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""ticks:B""#).await;
    place.psql("SELECT tidegate.watch('ticks', 'ticks:{symbol}', 'tick', ARRAY['ticks:{symbol}'], ARRAY['id', 'price'])");
    ask(&server, "/api/query/latest?symbol=B").await;
    place.psql("INSERT INTO ticks (id, symbol, price) VALUES (1, 'B', 2.50), (2, 'C', 1)");
    assert!(
        client
            .read()
            .await
            .starts_with(r#"42["tick",{"id": 1, "price": 2.50}"#)
    );
    assert_eq!(ask(&server, "/api/query/latest?symbol=B").await, (1, false));
    place.psql("UPDATE ticks SET symbol = 'C' WHERE id = 1");
    let moved = client.read().await;
    assert!(moved.contains(r#""_op": "update""#), "{moved}");
    assert_eq!(ask(&server, "/api/query/latest?symbol=B").await, (0, false));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_by_time_is_void_though_the_trigger_writes_it_in_another_way() {
    let by_time = r#"
[store.relay]
enabled = true
[queries.all]
sql = "SELECT id, symbol, price FROM ticks WHERE ts = :ts"
params = { ts = "timestamptz" }
cache = { ttl = "1h", tags = ["at:{ts}"] }
"#;
    let place = Place::new();
    let server = place.start(&layered(&[DECLARED, by_time])).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""chat""#).await;
    place.psql("SELECT tidegate.watch('ticks', 'chat', 'tick', ARRAY['at:{ts}'], ARRAY['id'])");
    let path = "/api/query/all?ts=2026-01-05T01:30:00Z";
    for n in 0..3 {
        ask(&server, path).await;
        assert_eq!(ask(&server, path).await, (n, true));
        place.psql(&format!(
            "INSERT INTO ticks (id, symbol, price, ts) VALUES ({n}, 'A', 1, '2026-01-05 01:30:00Z')"
        ));
        assert!(client.read().await.starts_with(r#"42["tick""#));
        assert_eq!(ask(&server, path).await, (n + 1, false));
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_dropped_reads_no_more() {
    let place = Place::new();
    let server = start(&place).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""chat""#).await;
    place.psql("SELECT tidegate.publish('chat', 'a')");
    assert!(client.read().await.starts_with(r#"42["a""#));
    drop(server);
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidegate relay' \
             AND datname = current_database()";
        while place.psql(sessions) != "0" {
            ticks.tick().await;
        }
    });
    ended.await.expect("it listens no more");
}

#[test]
fn more_than_memory_holds_is_refused_by_its_key() {
    let place = Place::sqlite();
    let check = |text: &str, expected: Option<&str>| {
        let settings = place.settings(&layered(&[DECLARED, text]));
        let refused = tidegate::check_memory(&settings)
            .err()
            .map(|error| error.to_string());
        assert_eq!(
            refused
                .as_ref()
                .map(|text| expected.is_some_and(|key| text.contains(key))),
            expected.map(|_| true),
            "{refused:?}"
        );
    };
    let memory = "[memory]\nbudget = \"100MiB\"\n[store.relay]\nenabled = true\n";
    check(memory, None);
    check(
        &format!("{memory}batch_bytes_max = \"64MiB\""),
        Some("store.relay.batch_bytes_max"),
    );
    check(
        &format!("{memory}row_bytes_max = \"64MiB\""),
        Some("store.relay.row_bytes_max"),
    );
    check(
        "[memory]\nbudget = \"100MiB\"\n[store.relay]\nrow_bytes_max = \"64MiB\"",
        None,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_client_can_get_is_put_aside_and_shown() {
    let place = Place::new();
    let server = start(&place).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""chat""#).await;
    place.psql(
        "SELECT tidegate.publish('chat', 'connect'); SELECT tidegate.publish('chat', 'a', namespace => '/none');
         SELECT tidegate.publish('chat', ''); SELECT tidegate.publish_to('b', rooms => ARRAY['chat'], users => ARRAY['x'])",
    );
    assert!(client.read().await.starts_with(r#"42["b""#));
    let stats = get(server.local_addr(), "/api/performance/database/stats")
        .await
        .json();
    let relay = &stats["relay"];
    assert_eq!(
        (&relay["published"], &relay["refused"], &relay["state"]),
        (&json!(1), &json!(3), &json!("reading")),
        "{relay}"
    );
    server.shutdown().await;
    let reasons = place.psql(
        "SELECT string_agg(split_part(reason, ':', 1), ' ' ORDER BY xid, id) FROM tidegate.outbox_dead",
    );
    assert_eq!(reasons, "bad_request not_found bad_request");
    let found = findings(&place, RELAYED).await;
    let dead = found
        .iter()
        .find(|(code, _)| *code == "relay_dead")
        .expect("a finding");
    assert!(dead.1.contains("3"), "{found:?}");
}

/// What `tidegate check` finds of the outbox: code and values.
async fn findings(place: &Place, over: &str) -> Vec<(&'static str, String)> {
    let settings = place.settings(&layered(&[DECLARED, over]));
    let config = settings.store(&tidegate::Outside::none()).unwrap().unwrap();
    let found = tidegate::look_at_store(&settings, &config).await;
    let of_relay = found
        .into_iter()
        .filter(|found| found.subject == "relay" || found.code == "needs_postgres");
    of_relay
        .map(|found| (found.code, format!("{:?}", found.values)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_says_who_reads_and_what_waits() {
    let place = Place::new();
    assert_eq!(findings(&place, RELAYED).await, [], "there is no outbox yet");
    let server = start(&place).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""chat""#).await;
    place.psql("SELECT tidegate.publish('chat', 'a')");
    assert!(client.read().await.starts_with(r#"42["a""#));
    server.shutdown().await;
    let codes = |found: Vec<(&'static str, String)>| found.iter().map(|(code, _)| *code).collect::<Vec<_>>();
    assert_eq!(codes(findings(&place, RELAYED).await), ["relay_good"]);
    place.psql("SELECT tidegate.publish('a', 'b'); UPDATE tidegate.outbox SET at = at - interval '1 hour'");
    assert_eq!(codes(findings(&place, RELAYED).await), ["relay_waiting"]);
    assert_eq!(codes(findings(&place, "").await), ["relay_off"]);
    place.psql("UPDATE tidegate.outbox_reader SET seen_at = seen_at - interval '1 hour'");
    assert_eq!(
        codes(findings(&place, RELAYED).await),
        ["relay_waiting", "relay_node_away"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_says_that_a_role_may_not_read() {
    let place = Place::new();
    start(&place).await.shutdown().await;
    let role = format!("looks_{}", place.database());
    place.psql(&format!(
        "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA tidegate TO {role};
         GRANT SELECT ON ALL TABLES IN SCHEMA tidegate TO {role}; GRANT SELECT ON ALL SEQUENCES IN SCHEMA tidegate TO {role}"
    ));
    let other = Place {
        url: place.url.replacen("tidegate@", &format!("{role}@"), 1),
        folder: Folder::new(),
    };
    let codes = async || -> Vec<&str> {
        let found = findings(&other, RELAYED).await;
        found.into_iter().map(|(code, _)| code).collect()
    };
    assert_eq!(codes().await, ["relay_bad", "relay_good"]);
    place.psql(&format!(
        "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tidegate TO {role}"
    ));
    assert_eq!(codes().await, ["relay_good"]);
    place.psql(&format!("REVOKE SELECT ON tidegate.outbox FROM {role}"));
    assert_eq!(codes().await, ["relay_bad"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_says_that_it_cannot() {
    let place = Place::sqlite();
    let found = findings(&place, "[store.relay]\nenabled = true").await;
    assert!(found[0].1.contains("store.relay"), "{found:?}");
    let refused = Tidegate::builder()
        .settings(place.settings(&layered(&[DECLARED, "[store.relay]\nenabled = true"])))
        .start()
        .await;
    let error = refused.err().expect("SQLite has no outbox");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "store.relay needs PostgreSQL");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_feeds_opens_the_store_for_the_outbox_alone() {
    let place = Place::new();
    let declared = r#"
listen = "127.0.0.1:0"
[auth]
anonymous = true
anonymous_roles = ["visitor"]
[roles.visitor]
join = ["chat"]
[roles.operator]
admin = true
[store.relay]
enabled = true
node = "lone"
"#;
    let server = place.start(declared).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("join", r#""chat""#).await;
    place.psql("SELECT tidegate.publish('chat', 'hello', '[1, {\"a\": null}]')");
    let told = client.read().await;
    assert!(told.starts_with(r#"42["hello",[1, {"a": null}]"#), "{told}");
    let stats: Value = serde_json::to_value(server.store().unwrap().relay()).unwrap();
    assert_eq!(stats["node"], "lone");
    server.shutdown().await;
}
