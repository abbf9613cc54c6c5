//! Every route of a real server, as its own description says it is.

use std::net::SocketAddr;

use serde_json::Value;
use tidegate::{Outside, Settings, Tidegate};

use crate::{
    application::{self, App, Reply},
    client::{Answer, Client, get, request},
    schema::mismatch,
    support::{DECLARED, PROFILING, Place, layered},
};

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";
pub(crate) const KEY: &str = "X-API-Key: backend-key-of-twenty-bytes-or-more";

pub(crate) const OPEN: &str = r#"
listen = "127.0.0.1:0"
[auth]
anonymous = true
anonymous_roles = ["visitor"]
[roles.visitor]
join = ["ticks:*", "chat"]
publish = ["ticks:*", "chat"]
presence = ["chat"]
[roles.service]
publish = ["*"]
[roles.operator]
admin = true
[rooms."ticks:*"]
last = 1
[rooms.chat]
presence = true
history_messages = 10
"#;

pub(crate) async fn start(text: &str) -> Tidegate {
    let settings = Settings::parse(text).unwrap();
    let mut auth = settings.auth(&Outside::none()).unwrap();
    let value =
        tidegate::auth::ApiKeyValue::Plain(tidegate::auth::Secret::new(KEY.split_once(": ").unwrap().1));
    auth.api_keys.push(tidegate::auth::ApiKey {
        name: "backend".to_owned(),
        key: value,
        user: Some("service:backend".to_owned()),
        tenant: None,
        roles: vec!["service".to_owned()],
        claims: serde_json::Map::new(),
    });
    let key = tidegate::auth::Key::Secret(tidegate::auth::Secret::new(SECRET));
    auth.jwt = Some(tidegate::auth::Jwt::new(tidegate::auth::Algorithm::Hs256, key));
    Tidegate::builder()
        .settings(settings)
        .auth(auth)
        .gateway(|gateway| gateway.namespace("/other", |space| space))
        .start()
        .await
        .unwrap()
}

/// A server with one client in rooms `chat` and `ticks:600519`.
async fn with_client() -> (Tidegate, Client) {
    let server = start(OPEN).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    let joined = client.call("join", r#"["chat","ticks:600519"]"#).await;
    assert_eq!(joined[0]["ok"], true, "{joined}");
    (server, client)
}

async fn publish(server: SocketAddr, body: &str) -> Answer {
    request(server, "POST", "/api/publish", &[], Some(body)).await
}

/// A concrete request for each described operation; `{id}` becomes the client's.
const CALLS: [(&str, &str, &str, Option<&str>); 50] = [
    (
        "post",
        "/api/publish",
        "",
        Some(r#"{"room":"chat","event":"said","data":{"text":"hello"}}"#),
    ),
    (
        "post",
        "/api/sessions/{id}/join",
        "",
        Some(r#"{"rooms":["a","b"],"except":["quiet"]}"#),
    ),
    (
        "post",
        "/api/sessions/{id}/leave",
        "",
        Some(r#"{"rooms":["chat"],"namespace":"/"}"#),
    ),
    (
        "post",
        "/api/sessions/{id}/disconnect",
        "",
        Some(r#"{"close":true}"#),
    ),
    (
        "post",
        "/api/users/{user}/join",
        "",
        Some(r#"{"rooms":["a","b"],"except":["quiet"]}"#),
    ),
    (
        "post",
        "/api/users/{user}/leave",
        "",
        Some(r#"{"rooms":["chat"],"namespace":"/"}"#),
    ),
    (
        "post",
        "/api/users/{user}/disconnect",
        "",
        Some(r#"{"close":true}"#),
    ),
    (
        "post",
        "/api/rooms/{room}/join",
        "",
        Some(r#"{"rooms":["a","b"],"except":["quiet"]}"#),
    ),
    (
        "post",
        "/api/rooms/{room}/leave",
        "",
        Some(r#"{"rooms":["chat"],"namespace":"/"}"#),
    ),
    (
        "post",
        "/api/rooms/{room}/disconnect",
        "",
        Some(r#"{"close":true}"#),
    ),
    ("get", "/api/sessions/{id}", "", None),
    ("get", "/api/users/{user}/sessions", "?limit=5", None),
    ("get", "/api/rooms/{room}/sessions", "?namespace=/&limit=5", None),
    (
        "post",
        "/api/ingest/{feed}",
        "?op=upsert",
        Some(r#"{"rows":[{"id":1,"symbol":"600519","price":"1.50","ts":0},{"id":"x"}],"id":"once"}"#),
    ),
    ("get", "/api/query/{name}", "?symbol=600519&limit=5", None),
    ("get", "/api/performance/database/stats", "", None),
    ("get", "/api/performance/database/summary", "", None),
    ("get", "/api/performance/database/metrics", "?seconds=5", None),
    (
        "get",
        "/api/performance/database/statements",
        "?order=calls&limit=5",
        None,
    ),
    ("get", "/api/performance/database/slow", "", None),
    ("get", "/api/performance/database/tables", "", None),
    ("get", "/api/performance/websocket/stats", "", None),
    ("get", "/api/performance/websocket/summary", "", None),
    ("get", "/api/performance/websocket/metrics", "?seconds=5", None),
    ("get", "/api/performance/cache/stats", "", None),
    ("get", "/api/performance/cache/summary", "", None),
    ("get", "/api/performance/cache/metrics", "?seconds=5", None),
    (
        "post",
        "/api/cache/invalidate",
        "",
        Some(r#"{"tags":["ticks:600519"],"prefixes":["ticks:"]}"#),
    ),
    ("post", "/api/performance/profile", "?seconds=1", None),
    ("get", "/api/performance/profile", "?seconds=1&heap=false", None),
    ("get", "/api/performance/memory/stats", "", None),
    ("get", "/api/performance/memory/summary", "", None),
    ("get", "/api/performance/memory/metrics", "?seconds=5", None),
    (
        "post",
        "/api/performance/memory/snapshots",
        "",
        Some(r#"{"label":"by hand"}"#),
    ),
    ("get", "/api/performance/memory/snapshots", "", None),
    ("get", "/api/performance/application/stats", "", None),
    ("get", "/api/connections", "?limit=10", None),
    ("get", "/api/connections/{id}", "", None),
    ("get", "/api/users", "", None),
    ("get", "/api/rooms", "?namespace=/&limit=1", None),
    ("get", "/api/rooms/{room}/presence", "", None),
    ("get", "/api/rooms/{room}/history", "?limit=5", None),
    ("get", "/metrics", "", None),
    ("get", "/healthz", "", None),
    ("get", "/readyz", "", None),
    ("get", "/api/openapi.json", "", None),
    ("get", "/api/docs", "", None),
    ("delete", "/api/users/{user}/connections", "", None),
    ("delete", "/api/rooms/{room}/connections", "?namespace=/", None),
    ("delete", "/api/connections/{id}", "", None),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_described_route_answers_as_described() {
    let _alone = PROFILING.lock().await;
    let place = Place::new();
    let kept = "[queries.latest]\ncache = { ttl = \"1m\", tags = [\"ticks:{symbol}\"] }\n";
    let app = App::start(|_| async { Reply::Json(serde_json::json!({})) }).await;
    let text = format!(
        "[app]\nurl = \"http://{}/\"\nsecret_env = \"S\"\nbuiltin = [\"join\"]\n",
        app.at
    );
    let key = "[[auth.api_keys]]\nname = \"backend\"\nkey_env = \"K\"\nuser = \"backend\"\nroles = [\"visitor\"]\n\
               [roles.visitor]\nact = [\"*\"]\n";
    let settings = place.settings(&layered(&[DECLARED, kept, &text, key]));
    let outside = Outside {
        env: &|_| Some(application::SECRET.to_owned()),
        ..Outside::none()
    };
    let (asked, auth) = (settings.app(&outside).unwrap(), settings.auth(&outside).unwrap());
    let key = format!("X-API-Key: {}", application::SECRET);
    let server = Tidegate::builder()
        .settings(settings)
        .auth(auth)
        .app(asked)
        .start()
        .await
        .unwrap();
    let address = server.local_addr();
    let document = get(address, "/api/openapi.json").await.json();
    let mut described = 0;
    for operations in document["paths"].as_object().unwrap().values() {
        described += operations.as_object().unwrap().len();
    }
    assert_eq!(
        described,
        CALLS.len(),
        "a route is described but not called here, or the other way round"
    );
    for (method, path, query, body) in CALLS {
        // Some calls end the client, so each has its own.
        let mut client = Client::connect(address, "").await;
        client.call("join", r#"["chat"]"#).await;
        let operation = &document["paths"][path][method];
        assert!(operation.is_object(), "{method} {path} is not described");
        let concrete = path
            .replace("{id}", &client.id)
            .replace("{feed}", "ticks")
            .replace("{name}", "latest")
            .replace("{room}", "chat")
            .replace("{user}", "ada");
        let answer = request(
            address,
            &method.to_ascii_uppercase(),
            &(concrete + query),
            &[&key],
            body,
        )
        .await;
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.body);
        check_content(&document, &operation["responses"]["200"], &answer, path);
    }
    server.shutdown().await;
}

fn check_content(document: &Value, response: &Value, answer: &Answer, path: &str) {
    let media = answer.header("content-type").unwrap().split(';').next().unwrap();
    let content = &response["content"][media];
    assert!(
        content.is_object(),
        "{path} answers {media}, described is {}",
        response["content"]
    );
    if media == "application/json" {
        let wrong = mismatch(document, &content["schema"], &answer.json(), path);
        assert_eq!(wrong, None, "{}", answer.body);
    }
}

/// Asks and holds the failure against its status, its code and the described shape.
async fn check_failure(address: SocketAddr, call: (&str, &str, Option<&str>), status: u16, code: &str) {
    let (method, path, body) = call;
    let answer = request(address, method, path, &[], body).await;
    let got = (answer.status, answer.code());
    assert_eq!(
        got,
        (status, code.to_owned()),
        "{method} {path} {body:?}: {}",
        answer.body
    );
    let document = get(address, "/api/openapi.json").await.json();
    let failure = &document["components"]["schemas"]["Failure"];
    assert_eq!(mismatch(&document, failure, &answer.json(), path), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_and_parameters_are_refused() {
    let (server, _client) = with_client().await;
    let check = async |method: &str, path: &str, status: u16, code: &str| {
        check_failure(server.local_addr(), (method, path, None), status, code).await;
    };
    check("GET", "/api/connections/nobody", 404, "not_found").await;
    check("DELETE", "/api/connections/nobody", 404, "not_found").await;
    check("GET", "/api/rooms/nowhere/presence", 404, "not_found").await;
    check("GET", "/api/nothing", 404, "not_found").await;
    check("PUT", "/api/connections", 405, "bad_request").await;
    check("GET", "/api/performance/application/stats", 404, "not_found").await;
    check("GET", "/api/connections?limit=0", 400, "bad_request").await;
    check("GET", "/api/connections?limit=1001", 400, "bad_request").await;
    check("GET", "/api/connections?limit=1&limit=2", 400, "bad_request").await;
    check("GET", "/api/connections?page=2", 400, "bad_request").await;
    check("GET", "/api/users?after=%zz", 400, "bad_request").await;
    check(
        "GET",
        "/api/performance/websocket/metrics?names=nothing",
        400,
        "bad_request",
    )
    .await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_messages_are_refused() {
    let (server, _client) = with_client().await;
    let check = async |body: &str, status: u16, code: &str| {
        check_failure(
            server.local_addr(),
            ("POST", "/api/publish", Some(body)),
            status,
            code,
        )
        .await;
    };
    check("{", 400, "bad_request").await;
    check(r#"{"event":"a","rom":"chat"}"#, 400, "bad_request").await;
    check(
        r#"{"event":"a","room":"chat","data":1,"args":[]}"#,
        400,
        "bad_request",
    )
    .await;
    check(
        r#"{"event":"a","room":"chat","ack_timeout_ms":0}"#,
        400,
        "bad_request",
    )
    .await;
    check(
        r#"{"event":"a","room":"chat","namespace":"/none"}"#,
        404,
        "not_found",
    )
    .await;
    check(r#"{"event":"a","room":"secret"}"#, 403, "forbidden").await;
    check(r#"{"event":"a"}"#, 403, "forbidden").await;
    check(r#"{"event":"a","to":{"users":["bob"]}}"#, 403, "forbidden").await;
    let large = format!(
        r#"{{"event":"a","room":"chat","data":"{}"}}"#,
        "x".repeat(1 << 20)
    );
    check(&large, 413, "too_large").await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_say_that_it_is_json() {
    let server = start(OPEN).await;
    let body = Some(r#"{"event":"a","room":"chat"}"#);
    let form = ["Content-Type: text/plain"];
    let answer = request(server.local_addr(), "POST", "/api/publish", &form, body).await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_request"));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_reaches_the_room() {
    let (server, mut client) = with_client().await;
    let address = server.local_addr();
    let answer = publish(
        address,
        r#"{"room":"ticks:600519","event":"price_update","data":{"price":1}}"#,
    )
    .await;
    assert_eq!(answer.json()["duplicate"], false, "{}", answer.body);
    let message = client.read().await;
    assert!(
        message.starts_with(r#"42["price_update",{"price":1}"#),
        "{message}"
    );
    let list = r#"{"messages":[{"room":"chat","event":"a","args":[1,"b"]},{"room":"secret","event":"a"},{"event":3}]}"#;
    let results = publish(address, list).await.json()["results"].clone();
    let codes: Vec<&Value> = results
        .as_array()
        .unwrap()
        .iter()
        .map(|result| &result["error"]["code"])
        .collect();
    assert_eq!(codes, [&Value::Null, &"forbidden".into(), &"bad_request".into()]);
    assert!(client.read().await.starts_with(r#"42["a",1,"b""#));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_an_id_is_published_once() {
    let (server, _client) = with_client().await;
    let body = r#"{"room":"chat","event":"said","data":1,"id":"order-1"}"#;
    let first = publish(server.local_addr(), body).await.json();
    let again = publish(server.local_addr(), body).await.json();
    assert_eq!(
        (&first["duplicate"], &again["duplicate"]),
        (&false.into(), &true.into())
    );
    assert_eq!(first["seq"], again["seq"]);
    let other = publish(server.local_addr(), &body.replace("\"data\":1", "\"data\":2")).await;
    assert_eq!((other.status, other.code().as_str()), (409, "id_reused"));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_are_collected() {
    let (server, mut client) = with_client().await;
    let address = server.local_addr();
    let body = r#"{"room":"chat","event":"question","data":7,"ack_timeout_ms":5000}"#;
    let asking = tokio::spawn(async move { publish(address, body).await.json() });
    let question = client.read().await;
    let id: String = question[2..].chars().take_while(char::is_ascii_digit).collect();
    client.send(&format!("43{id}[\"yes\"]")).await;
    let answer = asking.await.unwrap();
    assert_eq!(
        (&answer["expected"], &answer["timed_out"]),
        (&1.into(), &false.into()),
        "{answer}"
    );
    assert_eq!(answer["answers"][0]["args"], serde_json::json!(["yes"]));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_cannot_publish_to_the_room_of_a_session() {
    let server = start(&OPEN.replace("publish = [\"ticks:*\", \"chat\"]", "publish = [\"*\"]")).await;
    let client = Client::connect(server.local_addr(), "").await;
    let body = format!(r#"{{"room":"{}","event":"a"}}"#, client.id);
    assert_eq!(publish(server.local_addr(), &body).await.code(), "forbidden");
    let keyed = request(server.local_addr(), "POST", "/api/publish", &[KEY], Some(&body)).await;
    assert_eq!(keyed.status, 200, "{}", keyed.body);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_needs_credentials_where_nobody_is_anonymous() {
    let server = start(&OPEN.replace("anonymous = true", "anonymous = false")).await;
    let body = r#"{"room":"chat","event":"a"}"#;
    let check = async |header: &str, status: u16| {
        let answer = request(server.local_addr(), "POST", "/api/publish", &[header], Some(body)).await;
        assert_eq!(answer.status, status, "{header}: {}", answer.body);
        answer
    };
    let refused = check("Accept: */*", 401).await;
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    check("X-API-Key: not-the-key-of-any-backend", 401).await;
    check("Authorization: Bearer rubbish", 401).await;
    check(KEY, 200).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn administration_is_for_this_machine_or_for_administrators() {
    let server = start(&OPEN.replace("anonymous = true", "anonymous = false")).await;
    let address = server.local_addr();
    let check = async |headers: &[&str], status: u16| {
        let answer = request(address, "GET", "/api/connections", headers, None).await;
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.body);
    };
    check(&[], 200).await;
    check(&["Host: evil.example"], 401).await;
    check(&["X-Forwarded-For: 203.0.113.9"], 401).await;
    check(&["Sec-Fetch-Site: cross-site"], 401).await;
    check(&["Host: public.example", KEY], 403).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administration_listener_takes_the_operators_routes_along() {
    let server = start(&format!("{OPEN}\n[admin]\nlisten = \"127.0.0.1:0\"")).await;
    let (main, admin) = (server.local_addr(), server.admin_addr().unwrap());
    let check = async |address, path, status: u16| {
        assert_eq!(get(address, path).await.status, status, "{address} {path}");
    };
    check(main, "/api/performance/websocket/stats", 404).await;
    check(main, "/metrics", 404).await;
    check(main, "/healthz", 200).await;
    check(admin, "/api/performance/websocket/stats", 200).await;
    check(admin, "/metrics", 200).await;
    check(admin, "/readyz", 200).await;
    check(admin, "/api/docs", 200).await;
    assert_eq!(
        request(admin, "POST", "/api/publish", &[], Some("{}"))
            .await
            .status,
        404
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_pages_that_continue() {
    let server = start(OPEN).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::connect(server.local_addr(), "").await);
    }
    let mut seen = Vec::new();
    let mut path = "/api/connections?limit=2".to_owned();
    loop {
        let page = get(server.local_addr(), &path).await.json();
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 2);
        seen.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/connections?limit=2&after={next}");
    }
    let mut expected: Vec<String> = clients.iter().map(|client| client.id.clone()).collect();
    expected.sort();
    assert_eq!(seen, expected);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnected_session_is_told_so_for_good() {
    let (server, mut client) = with_client().await;
    let answer = request(
        server.local_addr(),
        "DELETE",
        &format!("/api/connections/{}", client.id),
        &[],
        None,
    )
    .await;
    assert_eq!(answer.json()["disconnected"], 1);
    assert!(
        client.read().await.starts_with("41"),
        "terminal reasons send DISCONNECT"
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn presence_and_history_show_the_room() {
    let (server, client) = with_client().await;
    let address = server.local_addr();
    publish(address, r#"{"room":"chat","event":"said","data":"one"}"#).await;
    publish(address, r#"{"room":"chat","event":"said","data":"two"}"#).await;
    let history = get(address, "/api/rooms/chat/history").await.json();
    let texts: Vec<&Value> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["args"][0])
        .collect();
    assert_eq!(texts, [&Value::from("one"), &Value::from("two")]);
    let presence = get(address, "/api/rooms/chat/presence").await.json();
    assert_eq!(
        (&presence["count"], &presence["members"][0]["user"]),
        (&1.into(), &client.id.as_str().into())
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_roles_and_rooms_and_says_what_waits() {
    let (server, mut client) = with_client().await;
    assert_eq!(client.call("join", r#"["news"]"#).await[0]["ok"], false);
    let text = OPEN
        .replace("\"chat\"]", "\"chat\", \"news\"]")
        .replace("127.0.0.1:0", "127.0.0.1:1");
    let settings = Settings::parse(&text).unwrap();
    let auth = settings.auth(&Outside::none()).unwrap();
    let reloaded = server.reload(&settings, auth).await.unwrap();
    assert_eq!(reloaded.needs_restart, ["listen"]);
    assert_eq!(client.call("join", r#"["news"]"#).await[0]["ok"], true);
    let bad = tidegate::auth::Config {
        anonymous_roles: vec!["ghost".to_owned()],
        ..Default::default()
    };
    assert!(server.reload(&settings, bad).await.is_err());
    assert_eq!(
        client.call("join", r#"["news"]"#).await[0]["ok"],
        true,
        "a bad reload changes nothing"
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_named() {
    let server = start(OPEN).await;
    let address = server.local_addr();
    let settings = Settings::parse(&format!("listen = \"{address}\"")).unwrap();
    let error = Tidegate::builder()
        .settings(settings)
        .start()
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    server.shutdown().await;
}

/// Asks until the shards have written their figures, which they do about once a second.
async fn stats_until(address: SocketAddr, wanted: impl Fn(&Value) -> bool) -> Value {
    let asking = async {
        loop {
            let stats = get(address, "/api/performance/websocket/stats").await.json();
            if wanted(&stats) {
                return stats;
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), asking)
        .await
        .expect("the figures come in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_carry_what_operators_look_for() {
    let (server, _client) = with_client().await;
    let address = server.local_addr();
    let stats = stats_until(address, |stats| stats["connections"]["open"] == 1).await;
    for path in [
        "/connections/by_state/active",
        "/connections/by_transport/websocket",
        "/users/connections_per_user",
        "/admission/accepted",
        "/admission/refused/by_reason",
        "/admission/time_ms/p99",
        "/recovery/reuse_rate",
        "/traffic/bytes_out",
        "/batches/messages/mean",
        "/coalescing/messages_per_write",
        "/outbox/bytes",
        "/slow_consumers/dropped",
        "/slow_consumers/conflated",
        "/slow_consumers/slow_closed",
        "/delivery_latency_ms/p99",
        "/memory/bytes_per_connection",
        "/shards/0/utilisation",
    ] {
        assert!(stats.pointer(path).is_some(), "{path} is missing in {stats}");
    }
    let text = get(address, "/metrics").await.body;
    assert!(text.contains("tidegate_gateway_accepted_total 1"), "{text}");
    server.shutdown().await;
}
