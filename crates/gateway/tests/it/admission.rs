//! Who is let in: limits, deadlines of a connection's first seconds, proxies, origins.

use std::time::Duration;

use tidegate_gateway::{Config, Gateway};
use tidegate_vitals::Id as Metric;

use crate::{
    client::{Client, Opening, Packet, get, http, open_polling, raw_http},
    house::{FEED_KEY, House, open_house},
};

/// Lets in `n` clients under a limit; one more is refused over both transports with status, code and reason.
async fn check(limit: impl FnOnce(&mut Config), n: usize, status: u16, code: &str, reason: &str) {
    let house = House::start_manual(open_house().configure(limit)).await;
    let mut inside = Vec::new();
    for _ in 0..n {
        inside.push(Client::connect(house.at).await);
    }
    let websocket = Client::try_open(house.at, &Opening::default())
        .await
        .err()
        .expect("one too many");
    let polling = get(house.at, "/socket.io/?EIO=4&transport=polling", "").await;
    for answer in [websocket, polling] {
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (status, Some("1")),
            "{reason}"
        );
        assert_eq!(answer.json()["error"]["code"], code);
        assert_eq!(answer.json()["error"]["retryable"], true);
    }
    assert_eq!(house.labelled(Metric::GatewayRefused, reason), 2);
    drop(inside);
    house
        .eventually("all places given back", || house.gateway.n_connections() == 0)
        .await;
    house.pass(Duration::from_secs(1)).await;
    drop(Client::connect(house.at).await);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_limit_refuses_both_transports_and_gives_its_places_back() {
    check(
        |config| config.limits.connections = Some(2),
        2,
        503,
        "overloaded",
        "connections",
    )
    .await;
    check(
        |config| config.limits.connections_per_address = Some(2),
        2,
        429,
        "rate_limited",
        "address",
    )
    .await;
    check(
        |config| config.limits.accepts_per_second = Some(3),
        3,
        429,
        "rate_limited",
        "accept_rate",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn polling_and_websocket_share_one_limit() {
    let house = House::start_manual(open_house().configure(|c| c.limits.connections = Some(2))).await;
    let path = open_polling(house.at).await;
    let _websocket = Client::connect(house.at).await;
    assert_eq!(
        get(house.at, "/socket.io/?EIO=4&transport=polling", "")
            .await
            .status,
        503
    );
    // The session that is inside goes on.
    assert_eq!(crate::client::post(house.at, &path, "40").await.body, "ok");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_over_its_sessions_is_refused_by_the_namespace() {
    let house = House::start(open_house().configure(|c| c.limits.sessions_per_user = Some(1))).await;
    let auth = format!(r#"{{"apiKey":"{FEED_KEY}"}}"#);
    let mut first = Client::connect_with(house.at, &Opening::default(), &auth).await;
    let mut second = Client::open(house.at).await;
    let Packet::Refused { data, .. } = second.enter(&auth).await else {
        panic!("one session too many")
    };
    assert_eq!(data["message"], "rate_limited");
    assert_eq!(data["data"]["error"]["code"], "rate_limited");
    assert_eq!(house.labelled(Metric::GatewayRefused, "user"), 1);
    // Gone for good, so that it does not wait for recovery, it makes room.
    first.send("41").await;
    house.figure(Metric::GatewaySessions, 0).await;
    assert!(matches!(second.enter(&auth).await, Packet::Connect { .. }));
    drop((first, second));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_request_head_is_cut() {
    let house =
        House::start(open_house().configure(|c| c.request_head_timeout = Duration::from_millis(50))).await;
    for start in [
        "",
        "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: loc",
    ] {
        let answer = raw_http(house.at, start.as_bytes()).await;
        let head = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_namespace_is_closed_in_time() {
    let house = House::start_manual(open_house()).await;
    let mut silent = Client::open(house.at).await;
    let mut connected = Client::connect(house.at).await;
    house.pass(Duration::from_millis(44_999)).await;
    assert_eq!(house.gateway.n_connections(), 2);
    house.pass(Duration::from_millis(1)).await;
    let (before, code, reason) = silent.closed().await;
    assert_eq!(
        (before, code, reason.as_str()),
        (vec![], Some(4003), "connect_timeout")
    );
    assert_eq!(connected.ask("echo", "1").await, 1);
    drop((silent, connected));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_answers_no_ping_is_closed_on_time() {
    let seconds = Duration::from_secs;
    let house = House::start_manual(open_house().configure(|c| c.ping_interval = seconds(30))).await;
    let mut dead = Client::connect(house.at).await;
    dead.pongs = false;
    let mut alive = Client::connect(house.at).await;
    house.pass(seconds(30)).await;
    assert_eq!(dead.next().await, Packet::Ping);
    // The pong is sent before the question, so it has been seen once that is answered.
    assert_eq!(alive.ask("echo", "1").await, 1);
    house.pass(Duration::from_millis(19_999)).await;
    assert_eq!(house.gateway.n_connections(), 2);
    house.pass(Duration::from_millis(1)).await;
    let (before, code, reason) = dead.closed().await;
    assert_eq!(
        (before, code, reason.as_str()),
        (vec![], Some(4004), "ping_timeout")
    );
    assert_eq!(alive.ask("echo", "2").await, 2);
    drop((dead, alive));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forwarded_addresses_count_from_trusted_proxies_only() {
    for (trusted, expected) in [
        (vec!["127.0.0.0/8".to_owned()], "203.0.113.9"),
        (vec![], "127.0.0.1"),
    ] {
        let house = House::start(open_house().configure(|c| c.trusted_proxies = trusted)).await;
        let headers = "X-Forwarded-For: 203.0.113.9\r\n".to_owned();
        let client = Client::connect_with(
            house.at,
            &Opening {
                headers,
                ..Opening::default()
            },
            "",
        )
        .await;
        let info = house.gateway.inspector().connection(&client.sid).await.unwrap();
        assert_eq!(info.address.unwrap().to_string(), expected);
        drop(client);
        house.end().await;
    }
}

/// What a page of `origin` meets on a server that serves `origins`: status of polling, of the upgrade (0 when it
/// came about), and the allowed origin.
async fn check_origin(origins: &[&str], origin: &str, expected: (u16, u16, Option<&str>)) {
    let origins = origins.iter().map(|&text| text.to_owned()).collect();
    let house = House::start(open_house().configure(|c| c.origins = origins)).await;
    let headers = format!("Origin: {origin}\r\n");
    let polling = get(house.at, "/socket.io/?EIO=4&transport=polling", &headers).await;
    let websocket = Client::try_open(
        house.at,
        &Opening {
            headers,
            ..Opening::default()
        },
    )
    .await;
    let upgraded = websocket.err().map_or(0, |answer| answer.status);
    let allowed = polling.header("access-control-allow-origin");
    assert_eq!((polling.status, upgraded, allowed), expected, "{origin}");
    let refused = if polling.status == 403 { 2 } else { 0 };
    assert_eq!(house.labelled(Metric::GatewayRefused, "origin"), refused);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_pages_are_refused_unless_named() {
    check_origin(&["same-origin"], "http://evil.example", (403, 403, None)).await;
    check_origin(
        &["same-origin"],
        "http://localhost",
        (200, 0, Some("http://localhost")),
    )
    .await;
    check_origin(
        &["https://*.example"],
        "https://app.example",
        (200, 0, Some("https://app.example")),
    )
    .await;
    check_origin(&["*"], "http://anywhere.test", (200, 0, Some("*"))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preflight_is_answered_for_allowed_pages() {
    let house =
        House::start(open_house().configure(|c| c.origins = vec!["https://a.example".to_owned()])).await;
    for (origin, allowed) in [("https://a.example", true), ("https://b.example", false)] {
        let request = format!(
            "OPTIONS /socket.io/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: x-mine\r\n\r\n"
        );
        let answer = http(house.at, &request).await;
        assert_eq!(answer.status, 204);
        assert_eq!(
            answer.header("access-control-allow-origin"),
            allowed.then_some(origin)
        );
        assert_eq!(
            answer.header("access-control-allow-headers"),
            allowed.then_some("x-mine")
        );
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anonymous_access_nobody_enters() {
    let house = House::start(Gateway::builder()).await;
    let mut client = Client::open(house.at).await;
    let Packet::Refused { namespace, data } = client.enter("").await else {
        panic!("nobody may enter")
    };
    assert_eq!(
        (namespace.as_str(), &data["message"]),
        ("/", &"unauthenticated".into())
    );
    assert_eq!(data["data"]["error"]["code"], "unauthenticated");
    assert_eq!(data["data"]["error"]["retryable"], false);
    drop(client);
    house.end().await;
}
