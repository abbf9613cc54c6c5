//! The application behind the server: what it is asked, and what its answers do.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Value, json};
use tidegate::vitals::Id;
use tokio::sync::Semaphore;

use crate::{
    application::{App, Reply, eventually, figure, in_front_of, in_front_of_url},
    client::{Client, Frame, get},
    schema::mismatch,
    support::Folder,
};

/// Answers connects with `{}` and events by name.
fn by_event(
    answers: &[(&str, Value)],
) -> impl Fn(Value) -> std::future::Ready<Reply> + Send + Sync + 'static {
    let answers: HashMap<String, Value> = answers
        .iter()
        .map(|(name, answer)| ((*name).to_owned(), answer.clone()))
        .collect();
    move |asked| {
        let name = asked["event"].as_str().or(asked["kind"].as_str()).unwrap();
        std::future::ready(Reply::Json(
            answers.get(name).cloned().unwrap_or_else(|| json!({})),
        ))
    }
}

/// Lets `ada` in and takes her order.
async fn shop() -> App {
    App::start(by_event(&[
        (
            "connect",
            json!({"user": {"id": "ada", "roles": ["trader"]}, "data": {"basket": 1}, "join": "lobby",
                   "emit": [{"event": "welcome", "data": "ada"}]}),
        ),
        (
            "buy",
            json!({"data": {"basket": 2}, "join": ["orders", "orders:ada"], "leave": "lobby", "ack": ["bought", 7],
                   "emit": [{"event": "placed", "args": [1, 2]}, {"event": "all", "data": 3, "to": {"rooms": ["orders"]}}]}),
        ),
    ]))
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_told_of_from_its_connect_to_its_end() {
    let app = shop().await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let cookies = "Cookie: session=abc\r\nCookie: theme=dark\r\n";
    let mut client = Client::connect_with(server.local_addr(), cookies, r#"{"ticket":"t1"}"#).await;
    let connect = app.nth("connect", 1).await;
    assert_eq!(connect["session"], client.id);
    assert_eq!(
        (&connect["namespace"], &connect["user"]),
        (&json!("/"), &Value::Null)
    );
    assert_eq!(connect["headers"]["cookie"], "session=abc; theme=dark");
    assert_eq!(
        (&connect["auth"], &connect["address"]),
        (&json!({"ticket": "t1"}), &json!("127.0.0.1"))
    );
    assert!(connect["query"].as_str().unwrap().contains("EIO=4"));
    client.send(r#"42["look",{"symbol":"600519"},[1]]"#).await;
    let event = app.nth("event", 1).await;
    assert_eq!(
        (&event["event"], &event["args"]),
        (&json!("look"), &json!([{"symbol": "600519"}, [1]]))
    );
    assert_eq!(
        (&event["user"], &event["data"]),
        (&json!("ada"), &json!({"basket": 1}))
    );
    assert_eq!(
        (&event["session"], &event["wants_ack"]),
        (&json!(client.id), &json!(false))
    );
    client.send("41").await;
    let end = app.nth("disconnect", 1).await;
    assert_eq!(
        (&end["session"], &end["user"]),
        (&json!(client.id), &json!("ada"))
    );
    assert_eq!(
        (&end["reason"], &end["data"]),
        (&json!("client_left"), &json!({"basket": 1}))
    );
    assert!(connect["id"] != event["id"] && event["id"] != end["id"]);
    assert_eq!((&connect["boot"], &event["boot"]), (&end["boot"], &end["boot"]));
    assert!(
        app.n_connections() <= 2,
        "connections are kept: {}",
        app.n_connections()
    );
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_done_before_the_acknowledgement() {
    let app = shop().await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    assert!(client.read().await.starts_with(r#"42["welcome","ada","#));
    client.send(r#"427["buy"]"#).await;
    assert!(client.read().await.starts_with(r#"42["placed",1,2,"#));
    // It was in the room before the message to the room, and before the acknowledgement.
    assert!(client.read().await.starts_with(r#"42["all",3,"#));
    assert_eq!(client.read().await, r#"437["bought",7]"#);
    let info = server.gateway().inspector().connection(&client.id).await.unwrap();
    let mut rooms = info.rooms;
    rooms.sort_unstable();
    assert_eq!(rooms, ["orders", "orders:ada"]);
    assert_eq!(
        server.gateway().inspector().users(None, 9).items,
        [("ada".to_owned(), 1)]
    );
    client.send(r#"42["look"]"#).await;
    let event = app.nth("event", 2).await;
    assert_eq!(event["data"], json!({"basket": 2}));
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connect_is_the_clients_error_word_for_word() {
    let app = App::start(|asked| async move {
        Reply::Json(match asked["auth"]["as"].as_str() {
            Some("bad") => json!({"disconnect": {"message": "no seat", "data": {"wait": 5}}}),
            Some("worse") => json!({"disconnect": {"message": "no"}}),
            _ => json!({"disconnect": true}),
        })
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut client = Client::open(server.local_addr(), "").await;
    for (auth, error) in [
        (r#"{"as":"bad"}"#, r#"44{"message":"no seat","data":{"wait": 5}}"#),
        (r#"{"as":"worse"}"#, r#"44{"message":"no"}"#),
        ("", r#"44{"message":"refused"}"#),
    ] {
        assert_eq!(client.enter(auth).await.replace("\":5", "\": 5"), error);
    }
    assert_eq!(figure(&server, Id::AppRequests, &["connect", "refused"]), 3);
    assert!(
        app.seen("disconnect").is_empty(),
        "who never came in does not leave"
    );
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_session_are_asked_in_order_and_a_slow_one_delays_only_itself() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let app = App::start(move |asked| {
        let gate = Arc::clone(&held);
        async move {
            if asked["event"] == "slow" {
                gate.acquire().await.unwrap().forget();
            }
            Reply::Json(json!({"ack": asked["args"]}))
        }
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut slow = Client::connect(server.local_addr(), "").await;
    let mut other = Client::connect(server.local_addr(), "").await;
    slow.send(r#"420["slow",0]"#).await;
    for n in 1..100 {
        slow.send(&format!(r#"42{n}["quick",{n}]"#)).await;
    }
    for n in 0..20 {
        assert_eq!(other.call("quick", &n.to_string()).await, json!([n]));
    }
    assert!(
        app.seen("event")
            .iter()
            .all(|asked| asked["session"] != slow.id || asked["event"] == "slow")
    );
    gate.add_permits(1);
    for n in 0..100 {
        assert_eq!(slow.read().await, format!("43{n}[{n}]"));
    }
    let of_slow = app
        .seen("event")
        .into_iter()
        .filter(|asked| asked["session"] == slow.id);
    let order: Vec<u64> = of_slow.map(|asked| asked["args"][0].as_u64().unwrap()).collect();
    assert_eq!(order, (0..100).collect::<Vec<_>>());
    drop((slow, other));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_before_leaving_is_asked_before_the_end_is_told() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let app = App::start(move |asked| {
        let gate = Arc::clone(&held);
        async move {
            if asked["event"] == "a" {
                gate.acquire().await.unwrap().forget();
            }
            Reply::Json(json!({}))
        }
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    for packet in [r#"42["a"]"#, r#"42["b"]"#, r#"42["c"]"#, "41"] {
        client.send(packet).await;
    }
    app.nth("event", 1).await;
    eventually("it has left", || {
        figure(&server, Id::GatewayClosed, &["client_left"]) == 1
    })
    .await;
    assert_eq!(app.story(), ["connect", "a"]);
    gate.add_permits(1);
    app.nth("disconnect", 1).await;
    assert_eq!(app.story(), ["connect", "a", "b", "c", "disconnect"]);
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_arguments_go_both_ways() {
    let app = App::start(by_event(&[(
        "upload",
        json!({"ack": [{"$binary": "AQI="}], "emit": [{"event": "copy", "args": ["x", {"file": {"$binary": "/w=="}}]}]}),
    )]))
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client
        .send(r#"451-3["upload",{"_placeholder":true,"num":0},"name"]"#)
        .await;
    client.send_binary(b"\x00\xfe").await;
    let Frame::Text(copy) = client.frame().await else {
        panic!("the message comes first")
    };
    assert!(
        copy.starts_with(r#"451-["copy","x",{"file":{"_placeholder":true,"num":0}}"#),
        "{copy}"
    );
    assert_eq!(client.frame().await, Frame::Binary(b"\xff".to_vec()));
    assert_eq!(client.read().await, r#"461-3[{"_placeholder":true,"num":0}]"#);
    assert_eq!(client.frame().await, Frame::Binary(b"\x01\x02".to_vec()));
    let event = app.nth("event", 1).await;
    assert_eq!(event["args"], json!([{"$binary": "AP4="}, "name"]));
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn built_in_events_are_the_applications_unless_they_are_listed() {
    let app = App::start(by_event(&[("join", json!({"ack": ["from the application"]}))])).await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "events = [\"*n\", \"chat:*\"]").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    assert_eq!(
        client.call("join", "\"r\"").await,
        json!(["from the application"])
    );
    // Neither listed here nor wanted by the application.
    assert_eq!(
        client.call("presence", "\"r\"").await[0]["error"]["code"],
        "not_found"
    );
    server.shutdown().await;

    let folder = Folder::new();
    let listed = "builtin = [\"join\"]\nbuiltin_prefix = \"tg:\"";
    let server = in_front_of(app.at, &folder, listed).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    assert_eq!(client.call("tg:join", "\"r\"").await, json!([{"ok": true}]));
    assert_eq!(
        client.call("join", "\"r\"").await,
        json!(["from the application"])
    );
    assert_eq!(app.seen("event").len(), 2);
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_session_keeps_what_it_was_given_and_nobody_is_asked_again() {
    let given = json!({"user": "ada", "data": [1], "join": "lobby"});
    let app = App::start(by_event(&[("connect", given), ("who", json!({"ack": [1]}))])).await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let client = Client::connect(server.local_addr(), "").await;
    let (id, pid) = (client.id.clone(), client.pid.clone());
    drop(client);
    eventually("the connection is gone", || server.gateway().n_connections() == 0).await;
    server.gateway().to("lobby").emit("missed", &1).unwrap();
    let auth = format!(r#"{{"pid":"{pid}","offset":""}}"#);
    let mut client = Client::connect(server.local_addr(), &auth).await;
    assert_eq!(client.id, id);
    assert!(client.read().await.starts_with(r#"42["missed",1"#));
    assert_eq!(client.call("who", "1").await, json!([1]));
    let event = app.nth("event", 1).await;
    assert_eq!((&event["user"], &event["data"]), (&json!("ada"), &json!([1])));
    assert_eq!(app.story(), ["connect", "who"]);
    // Lost again, it has not ended while it may come back; the end of the server is its end.
    drop(client);
    eventually("the connection is gone", || server.gateway().n_connections() == 0).await;
    assert!(app.seen("disconnect").is_empty());
    server.shutdown().await;
    assert_eq!(app.nth("disconnect", 1).await["session"], id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_renews_and_ends_whom_it_named() {
    let far = 4_000_000_000_000_u64;
    let app = App::start(by_event(&[
        (
            "connect",
            json!({"user": {"id": "ada", "roles": ["visitor"], "expires_at_ms": far}}),
        ),
        (
            "auth",
            json!({"user": {"id": "ada", "expires_at_ms": far + 1}, "ack": [{"ok": true}]}),
        ),
        ("logout", json!({"user": null, "ack": []})),
        ("expire", json!({"user": {"id": "ada", "expires_at_ms": 1}})),
        ("leave", json!({"disconnect": true, "ack": ["bye"]})),
    ]))
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    assert_eq!(client.call("auth", "\"token\"").await, json!([{"ok": true}]));
    assert_eq!(client.call("logout", "1").await, json!([]));
    client.send(r#"42["look"]"#).await;
    app.nth("event", 3).await;
    let users: Vec<Value> = app
        .seen("event")
        .iter()
        .map(|asked| asked["user"].clone())
        .collect();
    assert_eq!(users, [json!("ada"), json!("ada"), Value::Null]);
    assert_eq!(client.call("leave", "1").await, json!(["bye"]));
    assert_eq!(client.close_code().await, 4000);
    assert_eq!(app.nth("disconnect", 1).await["reason"], "kicked");

    let mut client = Client::connect(server.local_addr(), "").await;
    client.send(r#"42["expire"]"#).await;
    assert_eq!(client.close_code().await, 4001);
    assert_eq!(app.nth("disconnect", 2).await["reason"], "token_expired");

    let mut client = Client::connect(server.local_addr(), "").await;
    assert_eq!(server.gateway().inspector().disconnect_user("ada"), 1);
    assert_eq!(client.close_code().await, 4000);
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_declared_namespace_has_the_application() {
    let app = App::start(by_event(&[(
        "where",
        json!({"ack": [1], "emit": [{"event": "here", "data": 1}]}),
    )]))
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "namespaces = [\"/\", \"/admin\"]").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.send("40/admin,").await;
    assert!(client.read().await.starts_with("40/admin,"));
    client.send(r#"42/admin,5["where"]"#).await;
    assert!(client.read().await.starts_with(r#"42/admin,["here",1"#));
    assert_eq!(client.read().await, "43/admin,5[1]");
    assert_eq!(app.nth("event", 1).await["namespace"], "/admin");
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_of_the_application_are_as_described() {
    let app = App::start(by_event(&[("echo", json!({"ack": []}))])).await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "in_flight = 9").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.call("echo", "1").await;
    let described = get(server.local_addr(), "/api/openapi.json").await.json();
    let stats = get(server.local_addr(), "/api/performance/application/stats")
        .await
        .json();
    let schema = json!({"$ref": "#/components/schemas/ApplicationStats"});
    assert_eq!(mismatch(&described, &schema, &stats, "stats"), None);
    assert_eq!(
        stats["requests"],
        json!({"connect": {"ok": 1}, "event": {"ok": 1}})
    );
    assert_eq!(
        (&stats["in_flight"]["max"], &stats["breaker"]["state"]),
        (&json!(9), &json!("closed"))
    );
    assert_eq!(stats["time_ms"]["event"]["count"], 1);
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_by_tls_must_be_the_one_that_is_trusted() {
    let app = App::start_tls(by_event(&[("echo", json!({"ack": [1]}))])).await;
    let url = format!("https://localhost:{}/", app.at.port());
    let folder = Folder::new();
    let server = in_front_of_url(&url, &folder, "ca_file = \"app.pem\"").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    assert_eq!(client.call("echo", "1").await, json!([1]));
    drop(client);
    server.shutdown().await;
    let asked = app.story().len();
    // The certificate is not of this name.
    let folder = Folder::new();
    let url = format!("https://{}/", app.at);
    let server = in_front_of_url(&url, &folder, "ca_file = \"app.pem\"").await;
    let mut client = Client::open(server.local_addr(), "").await;
    client.send("40").await;
    assert_eq!(client.close_code().await, 4013);
    assert_eq!(figure(&server, Id::AppRequests, &["connect", "unreachable"]), 1);
    assert_eq!(app.story().len(), asked);
    drop(client);
    server.shutdown().await;
}
