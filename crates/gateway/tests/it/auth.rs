//! Credentials over the wire: tokens and their end, API keys, roles.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::crypto::{ring::cipher_suite::TLS13_AES_128_GCM_SHA256, tls13::OkmBlock};
use serde_json::json;
use tidegate_auth::{Algorithm, Config, Jwt, Key, Role, Secret};
use tidegate_gateway::{Builder, Event, Gateway, Socket};
use tidegate_vitals::Id as Metric;

use crate::{
    client::{Client, Opening, Packet, recovery_auth},
    house::{FEED_KEY, House, authenticator, code_of, everything},
};

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";
/// Where the calendar of a manual clock begins, in Unix seconds.
const START_S: u64 = 1_704_067_200;

/// An HS256 token for a user, which ends `ends_s` after the start of the clock.
pub(crate) fn token(user: &str, roles: &str, ends_s: u64) -> String {
    let part = |json: String| URL_SAFE_NO_PAD.encode(json);
    let head = part(r#"{"alg":"HS256","typ":"JWT"}"#.to_owned());
    let claims = part(format!(
        r#"{{"sub":"{user}","roles":"{roles}","exp":{}}}"#,
        START_S + ends_s
    ));
    let signed = format!("{head}.{claims}");
    // The HMAC-SHA-256 of the TLS library at hand.
    let hmac = TLS13_AES_128_GCM_SHA256.tls13().unwrap().hkdf_provider;
    let signature = hmac.hmac_sign(&OkmBlock::new(SECRET), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
}

fn roles() -> Config {
    let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let trader = Role {
        join: list(&["ticks:*", "user:{user}"]),
        publish: list(&["chat"]),
        presence: list(&["ticks:*"]),
        ..Role::default()
    };
    let mut config = everything();
    config.anonymous = false;
    config.roles.insert("trader".to_owned(), trader);
    config.jwt = Some(Jwt::new(Algorithm::Hs256, Key::Secret(Secret::new(SECRET))));
    config
}

fn guarded() -> Builder {
    Gateway::builder()
        .auth(authenticator(roles()))
        .configure(|config| config.shards = 2)
        .on_inline("whoami", |socket: &Socket, event: Event| {
            event.answer(Ok(socket.user().to_owned()));
        })
}

fn auth(token: &str) -> String {
    format!(r#"{{"token":"{token}"}}"#)
}

async fn trader(house: &House, ends_s: u64) -> Client {
    let auth = auth(&token("ada", "trader", ends_s));
    Client::connect_with(house.at, &Opening::default(), &auth).await
}

/// Who these credentials are, or the code of the refusal.
async fn check(house: &House, headers: &str, auth: &str, expected: Result<&str, &str>) {
    let opening = Opening {
        headers: headers.to_owned(),
        ..Opening::default()
    };
    let mut client = Client::try_open(house.at, &opening).await.ok().unwrap();
    match (client.enter(auth).await, expected) {
        (Packet::Connect { .. }, Ok(user)) => assert_eq!(client.ask("whoami", "null").await, user),
        (Packet::Refused { data, .. }, Err(code)) => {
            assert_eq!(
                (&data["message"], code_of(&data["data"])),
                (&json!(code), code),
                "{auth}"
            );
        }
        (got, expected) => panic!("{got:?} instead of {expected:?} for {headers:?} {auth}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_by_auth_object_and_header() {
    let house = House::start_manual(guarded()).await;
    let good = token("ada", "trader", 60);
    let forged = format!("{}x", &good[..good.len() - 1]);
    let old = token("ada", "trader", 0);
    house.pass(Duration::from_secs(10)).await;
    check(&house, "", &auth(&good), Ok("ada")).await;
    check(
        &house,
        &format!("Authorization: Bearer {good}\r\n"),
        "",
        Ok("ada"),
    )
    .await;
    check(&house, &format!("X-API-Key: {FEED_KEY}\r\n"), "", Ok("feed")).await;
    check(&house, "", &format!(r#"{{"apiKey":"{FEED_KEY}"}}"#), Ok("feed")).await;
    check(&house, "", "", Err("unauthenticated")).await;
    check(&house, "", &auth(&forged), Err("unauthenticated")).await;
    check(&house, "", &auth("nonsense"), Err("unauthenticated")).await;
    check(&house, "X-API-Key: not a key\r\n", "", Err("unauthenticated")).await;
    check(&house, "", &auth(&old), Err("token_expired")).await;
    // The address is not a trusted proxy's.
    check(&house, "X-User-Id: ada\r\n", "", Err("unauthenticated")).await;
    house.figure(Metric::GatewayHandshakeErrors, 6).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_for_good_with_its_token() {
    let house = House::start_manual(guarded()).await;
    let mut client = trader(&house, 60).await;
    let again = recovery_auth(client.pid.as_deref().unwrap(), None);
    // Five seconds of leeway for clocks that differ.
    house.pass(Duration::from_secs(64)).await;
    assert_eq!(client.ask("whoami", "null").await, "ada");
    house.pass(Duration::from_secs(2)).await;
    let (before, code, reason) = client.closed().await;
    let goodbye = Packet::Disconnect {
        namespace: "/".to_owned(),
    };
    assert_eq!(
        (before, code, reason.as_str()),
        (vec![goodbye], Some(4001), "token_expired")
    );
    assert_eq!(house.labelled(Metric::GatewayClosed, "token_expired"), 1);
    // Nothing to come back to, with the secret or without.
    check(&house, "", &again, Err("unauthenticated")).await;
    house.figure(Metric::GatewaySessions, 0).await;
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewal_keeps_a_session_alive() {
    let house = House::start_manual(guarded()).await;
    let mut client = trader(&house, 60).await;
    let mine = format!(r#""{}""#, token("ada", "trader", 600));
    let object = format!(r#"{{"token":{mine}}}"#);
    let other = format!(r#""{}""#, token("bob", "trader", 600));
    let old = format!(r#""{}""#, token("ada", "trader", 0));
    assert_eq!(code_of(&client.ask("auth", &other).await), "forbidden");
    assert_eq!(
        code_of(&client.ask("auth", r#""nonsense""#).await),
        "unauthenticated"
    );
    house.pass(Duration::from_secs(30)).await;
    assert_eq!(code_of(&client.ask("auth", &old).await), "token_expired");
    for renewal in [&mine, &object] {
        let answer = client.ask("auth", renewal).await;
        assert_eq!(
            answer,
            json!({"ok": true, "expires_at_ms": (START_S + 605) * 1_000})
        );
    }
    house.pass(Duration::from_secs(500)).await;
    assert_eq!(client.ask("whoami", "null").await, "ada");
    house.pass(Duration::from_secs(76)).await;
    assert_eq!(client.close_code().await, Some(4001));
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_say_which_rooms_a_user_may_use() {
    let house = House::start_manual(guarded()).await;
    let mut client = trader(&house, 60).await;
    let publish = |room: &str| format!(r#"{{"room":"{room}","event":"m","data":1}}"#);
    for (event, argument, code) in [
        ("join", r#""ticks:600519""#.to_owned(), ""),
        ("join", r#""user:ada""#.to_owned(), ""),
        ("join", r#""user:bob""#.to_owned(), "forbidden"),
        ("join", r#"["ticks:1","chat"]"#.to_owned(), "forbidden"),
        ("join", r#""""#.to_owned(), "forbidden"),
        ("join", "7".to_owned(), "bad_request"),
        ("leave", r#""chat""#.to_owned(), ""),
        ("publish", publish("chat"), ""),
        ("publish", publish("ticks:600519"), "forbidden"),
        ("publish", r#"{"event":"m"}"#.to_owned(), "bad_request"),
        ("presence", r#""ticks:600519""#.to_owned(), "not_found"),
        ("presence", r#""chat""#.to_owned(), "forbidden"),
        ("no-such-event", "1".to_owned(), "not_found"),
    ] {
        let answer = client.ask(event, &argument).await;
        assert_eq!(code_of(&answer), code, "{event} {argument}");
    }
    let rooms = house
        .gateway
        .inspector()
        .connection(&client.sid)
        .await
        .unwrap()
        .rooms;
    assert_eq!(rooms, ["ticks:600519", "user:ada"]);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_may_list_the_events_that_reach_the_application() {
    let anything = guarded().root(|namespace| {
        namespace.on_any(|_, event: Event| async move { event.answer(Ok(event.name().to_owned())) })
    });
    let house = House::start_manual(anything).await;
    let mut client = trader(&house, 60).await;
    assert_eq!(client.ask("chat", "1").await, "chat");
    let mut config = roles();
    config.roles.get_mut("trader").unwrap().event = vec!["order.*".to_owned()];
    house.gateway.set_auth(authenticator(config));
    assert_eq!(code_of(&client.ask("chat", "1").await), "forbidden");
    assert_eq!(client.ask("order.new", "1").await, "order.new");
    // What is built in or has a handler of its own is not the application's.
    assert_eq!(code_of(&client.ask("join", "1").await), "bad_request");
    assert_eq!(client.ask("whoami", "1").await, "ada");
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_roles_reach_live_sessions_at_once() {
    let house = House::start_manual(guarded()).await;
    let mut client = trader(&house, 60).await;
    client.join(r#""ticks:1""#).await;
    let mut config = roles();
    config.roles.get_mut("trader").unwrap().join.clear();
    house.gateway.set_auth(authenticator(config));
    assert_eq!(code_of(&client.ask("join", r#""ticks:2""#).await), "forbidden");
    drop(client);
    house.end().await;
}
