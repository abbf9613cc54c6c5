//! What answers of the application, and its publications over HTTP, say in more than one way: whom, rooms, bytes.

use serde_json::{Value, json};
use tidegate::vitals::Id;

use crate::{
    application::{App, Reply, figure, in_front_of},
    client::{Answer, Client, get, request},
    schema::mismatch,
    support::Folder,
};

/// Does what a client asks for: the answer of an event is its argument.
async fn obedient() -> App {
    App::start(|asked| async move {
        Reply::Json(match asked["event"].as_str() {
            Some("answer") => asked["args"][0].clone(),
            Some("echo") => json!({"ack": asked["args"]}),
            _ => json!({"user": 12}),
        })
    })
    .await
}

async fn post(at: std::net::SocketAddr, path: &str, body: Value) -> Answer {
    request(at, "POST", path, &[], Some(&body.to_string())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_targets_without_a_name_reach_nobody() {
    let app = obedient().await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let at = server.local_addr();
    let mut clients = [Client::connect(at, "").await, Client::connect(at, "").await];
    let described = get(at, "/api/openapi.json").await.json();
    let schema = json!({"$ref": "#/components/schemas/PublishAnswer"});
    let nobody = [
        json!({"rooms": []}),
        json!({"users": [], "sessions": []}),
        json!({"rooms": null}),
    ];
    for to in nobody {
        let answer = json!({"emit": [{"event": "to nobody", "to": to}], "ack": ["done"]});
        let ack = clients[0].call("answer", &answer.to_string()).await;
        assert_eq!(ack, json!(["done"]), "the first to be heard after {to}");
        let publication = json!({"event": "to nobody", "to": to});
        let published = post(at, "/api/publish", publication.clone()).await.json();
        assert_eq!(
            published,
            json!({"ok": true, "seq": null, "offset": null, "duplicate": false})
        );
        assert_eq!(mismatch(&described, &schema, &published, "published"), None);
        let mut collecting = publication;
        collecting["ack"] = json!({"timeout": "1m"});
        let collected = post(at, "/api/publish", collecting).await.json();
        assert_eq!(
            (&collected["expected"], &collected["timed_out"]),
            (&json!(0), &json!(false))
        );
        assert_eq!(mismatch(&described, &schema, &collected, "collected"), None);
    }
    assert_eq!(figure(&server, Id::AppAnswerErrors, &[]), 0);
    let everybody = json!({"emit": [{"event": "to all", "to": {}}], "ack": []});
    clients[1].send(&format!(r#"429["answer",{everybody}]"#)).await;
    for client in &mut clients {
        assert!(client.read().await.starts_with(r#"42["to all""#));
    }
    assert_eq!(clients[1].read().await, "439[]");
    for to in [json!({"to": {}}), json!({})] {
        let mut publication = json!({"event": "to all by HTTP"});
        publication
            .as_object_mut()
            .unwrap()
            .extend(to.as_object().unwrap().clone());
        let published = post(at, "/api/publish", publication).await.json();
        assert!(published["seq"].is_u64(), "{published}");
        for client in &mut clients {
            assert!(client.read().await.starts_with(r#"42["to all by HTTP""#));
        }
    }
    drop(clients);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_names_of_rooms() {
    let app = obedient().await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let at = server.local_addr();
    let mut client = Client::connect(at, "").await;
    let answer = json!({"join": [5, "a", 7], "leave": 7, "ack": [],
        "emit": [{"event": "five", "to": {"rooms": [5]}}, {"event": "twelve", "to": {"users": [12]}, "except": {"rooms": [7]}}]});
    client.send(&format!(r#"428["answer",{answer}]"#)).await;
    assert!(client.read().await.starts_with(r#"42["five""#));
    assert!(client.read().await.starts_with(r#"42["twelve""#));
    assert_eq!(client.read().await, "438[]");
    for whom in [
        json!({"room": 5}),
        json!({"to": {"rooms": [5]}}),
        json!({"to": {"users": 12}}),
    ] {
        let mut publication = json!({"event": "by HTTP", "except": {"rooms": [7]}});
        publication
            .as_object_mut()
            .unwrap()
            .extend(whom.as_object().unwrap().clone());
        assert_eq!(post(at, "/api/publish", publication).await.status, 200, "{whom}");
        assert!(client.read().await.starts_with(r#"42["by HTTP""#), "{whom}");
    }
    let moved = post(
        at,
        "/api/rooms/5/join",
        json!({"rooms": [8, "b"], "except": [7, 9]}),
    )
    .await;
    assert_eq!(moved.json(), json!({"ok": true, "sessions": 1, "refused": 0}));
    let left = post(
        at,
        "/api/users/12/leave",
        json!({"rooms": 5, "except": {"rooms": [7]}}),
    )
    .await;
    assert_eq!(left.json()["sessions"], 1);
    let info = server.gateway().inspector().connection(&client.id).await.unwrap();
    let mut rooms = info.rooms;
    rooms.sort_unstable();
    assert_eq!(rooms, ["8", "a", "b"]);
    drop(client);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_looks_like_bytes_in_a_clients_json_comes_back_as_it_was() {
    let app = obedient().await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut client = Client::connect(server.local_addr(), "").await;
    let seen = [
        (json!({"$binary": 5}), json!({"$$binary": 5})),
        (json!({"$binary": "YQ=="}), json!({"$$binary": "YQ=="})),
        (
            json!([{"$$binary": {"$binary": 1}}]),
            json!([{"$$$binary": {"$$binary": 1}}]),
        ),
        (
            json!({"_placeholder": true, "num": 0}),
            json!({"_placeholder": true, "num": 0}),
        ),
        (
            json!({"_placeholder": true, "num": -1}),
            json!({"_placeholder": true, "num": -1}),
        ),
    ];
    for (n, (sent, seen)) in (1..).zip(seen) {
        assert_eq!(client.call("echo", &sent.to_string()).await, json!([sent]));
        assert_eq!(app.nth("event", n).await["args"], json!([seen]));
        let message = json!({"event": "news", "data": seen});
        assert_eq!(
            post(server.local_addr(), "/api/publish", message).await.status,
            200
        );
        let news = client.read().await;
        assert!(news.starts_with(&format!(r#"42["news",{sent}"#)), "{news}");
    }
    assert_eq!(figure(&server, Id::AppAnswerErrors, &[]), 0);
    drop(client);
    server.shutdown().await;
}
