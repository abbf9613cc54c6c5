//! The application behind the server when it is slow, away, wrong or restarted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use serde_json::{Value, json};
use tidegate::{Tidegate, vitals::Id};
use tokio::sync::Semaphore;

use crate::{
    application::{App, Reply, eventually, figure, in_front_of},
    client::{Client, get},
    support::Folder,
};

const EVERYTHING_FINE: fn(Value) -> std::future::Ready<Reply> =
    |_| std::future::ready(Reply::Json(json!({"ack": [{"ok": true}]})));

fn code(ack: &Value) -> &str {
    assert_eq!(ack[0]["ok"], false, "{ack}");
    ack[0]["error"]["code"].as_str().unwrap()
}

/// What the operator sees of the breaker.
async fn breaker(server: &Tidegate) -> Value {
    let stats = get(server.local_addr(), "/api/performance/application/stats").await;
    stats.json()["breaker"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_cannot_be_used_is_named_and_the_client_hears_of_no_detail() {
    let app = App::start(|asked| async move {
        match asked["event"].as_str() {
            Some("html") => Reply::Text("<html>".to_owned()),
            Some("joins") => Reply::Json(json!({"joins": []})),
            Some("join") => Reply::Json(json!({"join": {"room": 1}, "ack": [1]})),
            Some("ack") => Reply::Json(json!({"ack": "done"})),
            Some("emit") => Reply::Json(json!({"emit": [{"name": "x"}]})),
            Some("user") => Reply::Json(json!({"user": ["ada"]})),
            Some("data") => Reply::Json(json!({"data": "x".repeat(2_000)})),
            Some("long") => Reply::Text("x".repeat(9_000)),
            Some("status") => Reply::Status(500),
            Some("gone") => Reply::Status(404),
            _ => Reply::Json(json!({"ack": ["fine"]})),
        }
    })
    .await;
    let folder = Folder::new();
    let more = "answer_bytes_max = \"8KiB\"\ndata_bytes_max = \"1KiB\"";
    let server = in_front_of(app.at, &folder, more).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    let wrong = [
        "html", "joins", "join", "ack", "emit", "user", "data", "long", "status", "gone",
    ];
    for event in wrong {
        let ack = client.call(event, "1").await;
        assert_eq!(code(&ack), "app_unavailable", "{event}");
        assert_eq!(ack[0]["error"]["message"], "the application does not answer");
    }
    assert_eq!(client.call("fine", "1").await, json!(["fine"]));
    for field in ["body", "unknown", "join", "ack", "emit", "user", "data"] {
        assert_eq!(figure(&server, Id::AppAnswerErrors, &[field]), 1, "{field}");
    }
    assert_eq!(figure(&server, Id::AppRequests, &["event", "invalid"]), 8);
    assert_eq!(figure(&server, Id::AppRequests, &["event", "status"]), 2);
    // It answers, whatever it says: nobody leaves it alone for that.
    assert_eq!(breaker(&server).await["opened"], 0);
    let info = server.gateway().inspector().connection(&client.id).await.unwrap();
    assert!(info.rooms.is_empty(), "nothing of a wrong answer is done");
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_application_costs_its_time_out_and_no_second_question() {
    let app = App::start(|asked| async move {
        match asked["event"].as_str() {
            Some("slow") => Reply::Never,
            _ => Reply::Json(json!({"ack": [1]})),
        }
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "timeout = \"300ms\"").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    assert_eq!(code(&client.call("slow", "1").await), "app_unavailable");
    assert_eq!(client.call("quick", "1").await, json!([1]));
    assert_eq!(app.story(), ["connect", "slow", "quick"]);
    assert_eq!(figure(&server, Id::AppRequests, &["event", "timeout"]), 1);
    eventually("its place is free again", || {
        figure(&server, Id::AppInFlight, &[]) == 0
    })
    .await;
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_may_wait_are_overloaded() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let app = App::start(move |asked| {
        let gate = Arc::clone(&held);
        async move {
            if asked["event"] == "hold" {
                gate.acquire().await.unwrap().forget();
            }
            Reply::Json(json!({"ack": [1]}))
        }
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "in_flight = 1\nwaiting_max = 1").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(server.local_addr(), "").await);
    }
    clients[0].send(r#"421["hold"]"#).await;
    app.nth("event", 1).await;
    clients[1].send(r#"421["hold"]"#).await;
    eventually("one waits", || figure(&server, Id::AppWaiting, &[]) == 1).await;
    assert_eq!(code(&clients[2].call("hold", "1").await), "overloaded");
    gate.add_permits(2);
    for client in &mut clients[..2] {
        assert_eq!(client.read().await, "431[1]");
    }
    assert_eq!(figure(&server, Id::AppRequests, &["event", "overloaded"]), 1);
    drop(clients);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_is_down_is_left_alone_and_found_again() {
    // An address that no client of another test comes from, so that its port stays free.
    let app = App::start_at("127.0.0.3:0".parse().unwrap(), EVERYTHING_FINE).await;
    let at = app.at;
    let folder = Folder::new();
    let more = "breaker_failures = 3\nbreaker_pause = \"10ms\"\ntimeout = \"2s\"";
    let server = in_front_of(at, &folder, more).await;
    let mut client = Client::connect(server.local_addr(), "").await;
    app.end().await;
    for _ in 0..3 {
        assert_eq!(code(&client.call("x", "1").await), "app_unavailable");
    }
    assert_eq!(breaker(&server).await["opened"], 1);
    // Standard clients stay away after a refusal, so the connection is closed instead and they come back.
    let mut late = Client::open(server.local_addr(), "").await;
    late.send("40").await;
    assert_eq!(late.close_code().await, 4013);
    let app = App::start_at(at, EVERYTHING_FINE).await;
    let mut answered = Value::Null;
    while answered[0]["ok"] != true {
        answered = client.call("x", "1").await;
    }
    assert_eq!(breaker(&server).await["state"], "closed");
    assert_eq!(Client::connect(server.local_addr(), "").await.id.len(), 20);
    assert!(!app.seen("event").is_empty());
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnects_wait_on_disk_for_an_application_that_is_away() {
    let is_up = Arc::new(AtomicBool::new(true));
    let up = Arc::clone(&is_up);
    let app = App::start(move |_| {
        let reply = if up.load(Relaxed) {
            Reply::Json(json!({}))
        } else {
            Reply::Status(503)
        };
        std::future::ready(reply)
    })
    .await;
    let folder = Folder::new();
    let more = "breaker_pause = \"10ms\"\n";
    let server = in_front_of(app.at, &folder, more).await;
    let mut left = Vec::new();
    for _ in 0..50 {
        left.push(Client::connect(server.local_addr(), "").await);
    }
    is_up.store(false, Relaxed);
    let mut ids: Vec<String> = left.iter().map(|client| client.id.clone()).collect();
    for client in &mut left {
        client.send("41").await;
    }
    let first = app.nth("disconnect", 1).await;
    eventually("all are on disk", || {
        figure(&server, Id::AppSpoolRecords, &[]) == 50
    })
    .await;
    drop(left);
    server.shutdown().await;

    is_up.store(true, Relaxed);
    let before = app.seen("disconnect").len();
    let server = in_front_of(app.at, &folder, more).await;
    eventually("all are told", || figure(&server, Id::AppSpoolRecords, &[]) == 0).await;
    let told = app.seen("disconnect").split_off(before);
    assert!(
        told.iter().any(|asked| asked["id"] == first["id"]),
        "told under the same id"
    );
    let mut sessions: Vec<String> = told
        .iter()
        .map(|asked| asked["session"].as_str().unwrap().to_owned())
        .collect();
    sessions.sort_unstable();
    sessions.dedup();
    ids.sort_unstable();
    assert_eq!(sessions, ids);
    assert_eq!(figure(&server, Id::AppDisconnectsLost, &[]), 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_that_the_application_refuses_stops_no_other() {
    let app = App::start(|asked| async move {
        match (asked["kind"].as_str(), asked["user"].as_str()) {
            (Some("connect"), _) => Reply::Json(json!({"user": asked["auth"]["name"]})),
            (_, Some("poison")) => Reply::Status(404),
            _ => Reply::Json(json!({})),
        }
    })
    .await;
    for spool in ["", "spool = { enabled = false }"] {
        let folder = Folder::new();
        let server = in_front_of(app.at, &folder, spool).await;
        for name in ["poison", "ada"] {
            let mut client = Client::connect(server.local_addr(), &format!(r#"{{"name":"{name}"}}"#)).await;
            client.send("41").await;
        }
        let told = || figure(&server, Id::AppRequests, &["disconnect", "ok"]);
        eventually("the other is told", || told() == 1).await;
        eventually("it is given up", || {
            figure(&server, Id::AppDisconnectsLost, &["refused"]) == 1
        })
        .await;
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_that_is_never_answered_stops_no_other_and_is_given_up() {
    let app = App::start(|asked| async move {
        match (asked["kind"].as_str(), asked["user"].as_str()) {
            (Some("connect"), _) => Reply::Json(json!({"user": asked["auth"]["name"]})),
            (Some("disconnect"), Some("poison")) => Reply::Never,
            _ => Reply::Json(json!({"ack": [1]})),
        }
    })
    .await;
    for spool in ["", "spool = { enabled = false }"] {
        let folder = Folder::new();
        let more = format!("timeout = \"100ms\"\n{spool}");
        let server = in_front_of(app.at, &folder, &more).await;
        let at = server.local_addr();
        let mut poison = Client::connect(at, r#"{"name":"poison"}"#).await;
        poison.send("41").await;
        // More than are told at the same time.
        for _ in 0..40 {
            let mut client = Client::connect(at, r#"{"name":"ada"}"#).await;
            client.send("41").await;
        }
        let told = || figure(&server, Id::AppRequests, &["disconnect", "ok"]);
        eventually("the others are told", || told() == 40).await;
        // Only while others are answered is it the fault of this one.
        let mut client = Client::connect(at, r#"{"name":"bob"}"#).await;
        while figure(&server, Id::AppDisconnectsLost, &["unanswered"]) == 0 {
            client.call("x", "1").await;
        }
        client.send("41").await;
        eventually("nothing waits", || figure(&server, Id::AppSpoolRecords, &[]) == 0).await;
        assert_eq!(figure(&server, Id::AppDisconnectsLost, &[]), 1, "{spool}");
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_ends_in_the_middle_of_an_event_is_asked_once() {
    // An address that no client of another test comes from, so that its port stays free.
    let app = App::start_at("127.0.0.4:0".parse().unwrap(), |asked| async move {
        match asked["event"].as_str() {
            Some("x") => Reply::Never,
            _ => Reply::Json(json!({})),
        }
    })
    .await;
    let at = app.at;
    let folder = Folder::new();
    let server = in_front_of(at, &folder, "").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    client.send(r#"427["x"]"#).await;
    app.nth("event", 1).await;
    app.end().await;
    let app = App::start_at(at, EVERYTHING_FINE).await;
    let answer = client.read().await;
    assert!(
        answer.starts_with("437") && answer.contains("app_unavailable"),
        "{answer}"
    );
    assert_eq!(client.call("y", "1").await, json!([{"ok": true}]));
    let events = app.seen("event");
    assert_eq!(events.len(), 1, "the first is not asked again");
    assert_eq!(events[0]["event"], "y");
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnects_beyond_the_spool_are_counted_exactly() {
    const N: u64 = 12;
    let is_up = Arc::new(AtomicBool::new(true));
    let up = Arc::clone(&is_up);
    let app = App::start(move |asked| {
        let reply = match asked["kind"].as_str() {
            Some("connect") => Reply::Json(json!({"data": "x".repeat(150_000)})),
            _ if up.load(Relaxed) => Reply::Json(json!({})),
            _ => Reply::Status(503),
        };
        std::future::ready(reply)
    })
    .await;
    let folder = Folder::new();
    let more = "breaker_pause = \"10ms\"\ndata_bytes_max = \"200KiB\"\nspool = { bytes_max = \"1MiB\" }";
    let server = in_front_of(app.at, &folder, more).await;
    let mut clients = Vec::new();
    for _ in 0..N {
        clients.push(Client::connect(server.local_addr(), "").await);
    }
    is_up.store(false, Relaxed);
    for client in &mut clients {
        client.send("41").await;
    }
    let lost = || figure(&server, Id::AppDisconnectsLost, &["disk"]);
    let kept = || figure(&server, Id::AppSpoolRecords, &[]);
    eventually("each is kept or lost", || lost() > 0 && lost() + kept() == N).await;
    assert!(kept() > 0 && figure(&server, Id::AppSpoolBytes, &[]) <= 1 << 20);
    let n_kept = kept();
    is_up.store(true, Relaxed);
    eventually("those that were kept are told", || kept() == 0).await;
    assert_eq!(figure(&server, Id::AppRequests, &["disconnect", "ok"]), n_kept);
    assert_eq!(lost(), N - n_kept);
    drop(clients);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_let_in_too_late_has_left() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let app = App::start(move |asked| {
        let gate = Arc::clone(&held);
        async move {
            if asked["kind"] == "connect" {
                gate.acquire().await.unwrap().forget();
            }
            Reply::Json(json!({"user": "ada", "data": {"seat": 7}}))
        }
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut client = Client::open(server.local_addr(), "").await;
    client.send("40").await;
    let connect = app.nth("connect", 1).await;
    drop(client);
    eventually("the connection is gone", || server.gateway().n_connections() == 0).await;
    gate.add_permits(1);
    let end = app.nth("disconnect", 1).await;
    assert_eq!(
        (&end["session"], &end["user"], &end["data"]),
        (&connect["session"], &json!("ada"), &json!({"seat": 7}))
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_was_asked_about_and_is_not_let_in_has_left() {
    let app = App::start(|asked| async move {
        if asked["kind"] == "disconnect" {
            return Reply::Json(json!({}));
        }
        match asked["auth"]["answer"].as_str().unwrap() {
            "late" => Reply::Never,
            "cut" => Reply::Cut,
            "html" => Reply::Text("<html>".to_owned()),
            "long" => Reply::Text("x".repeat(9_000)),
            "unknown" => Reply::Json(json!({"user": "ada", "joins": []})),
            status => Reply::Status(status.parse().unwrap()),
        }
    })
    .await;
    let folder = Folder::new();
    let more = "timeout = \"300ms\"\nanswer_bytes_max = \"8KiB\"\nbreaker_failures = 100";
    let server = in_front_of(app.at, &folder, more).await;
    let answers = ["late", "cut", "html", "long", "unknown", "500", "502", "404"];
    for (n, answer) in (1..).zip(answers) {
        let mut client = Client::open(server.local_addr(), "").await;
        client.send(&format!(r#"40{{"answer":"{answer}"}}"#)).await;
        assert_eq!(client.close_code().await, 4013, "{answer}");
        let (connect, end) = (app.nth("connect", n).await, app.nth("disconnect", n).await);
        assert_eq!(
            (&end["session"], &end["reason"], &end["user"]),
            (&connect["session"], &json!("transport_closed"), &Value::Null),
            "{answer}"
        );
        assert_ne!(end["id"], connect["id"]);
    }
    server.shutdown().await;
    assert_eq!(app.seen("disconnect").len(), answers.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_that_was_never_sent_has_no_end() {
    // Nobody listens there: the first is refused by the system, the second is not sent at all.
    let nobody = App::start_at("127.0.0.4:0".parse().unwrap(), EVERYTHING_FINE).await;
    let at = nobody.at;
    nobody.end().await;
    let folder = Folder::new();
    let more = "breaker_failures = 1\nbreaker_pause = \"10m\"";
    let server = in_front_of(at, &folder, more).await;
    for outcome in ["unreachable", "down"] {
        let mut client = Client::open(server.local_addr(), "").await;
        client.send("40").await;
        assert_eq!(client.close_code().await, 4013);
        assert_eq!(figure(&server, Id::AppRequests, &["connect", outcome]), 1);
    }
    assert_eq!(figure(&server, Id::AppRequests, &["disconnect"]), 0);
    assert_eq!(figure(&server, Id::AppSpoolRecords, &[]), 0);
    server.shutdown().await;

    let app = App::start(|asked| async move {
        match asked["kind"].as_str() {
            Some("event") => Reply::Never,
            _ => Reply::Json(json!({})),
        }
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "in_flight = 1\nwaiting_max = 0").await;
    let mut inside = Client::connect(server.local_addr(), "").await;
    inside.send(r#"42["hold"]"#).await;
    app.nth("event", 1).await;
    let mut client = Client::open(server.local_addr(), "").await;
    client.send("40").await;
    assert_eq!(client.close_code().await, 4013);
    assert_eq!(figure(&server, Id::AppRequests, &["connect", "overloaded"]), 1);
    assert_eq!(figure(&server, Id::AppSpoolRecords, &[]), 0);
    drop((inside, client));
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_connects_at_once_are_all_answered() {
    let app = App::start(EVERYTHING_FINE).await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "in_flight = 32").await;
    let at = server.local_addr();
    let clients = (0..1_000).map(|_| tokio::spawn(async move { Client::connect(at, "").await }));
    let clients: Vec<_> = clients.collect();
    for client in clients {
        tokio::time::timeout(Duration::from_secs(30), client)
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(figure(&server, Id::AppRequests, &["connect", "ok"]), 1_000);
    assert!(app.n_connections() <= 200, "{} connections", app.n_connections());
    server.shutdown().await;
}
