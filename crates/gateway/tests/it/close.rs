//! The end of sessions: by an operator, by a reason of the table, by shutdown.

use std::time::Duration;

use serde_json::json;
use tidegate_gateway::{CloseReason, Socket};
use tidegate_vitals::Id as Metric;
use tokio::net::TcpStream;

use crate::{
    client::{Client, Opening, Packet, get, http, open_polling},
    house::{House, named_house, open_house},
};

async fn named(house: &House, user: &str, room: &str) -> Client {
    let auth = format!(r#"{{"user":"{user}"}}"#);
    let mut client = Client::connect_with(house.at, &Opening::default(), &auth).await;
    client.join(&format!(r#""{room}""#)).await;
    client
}

/// A terminal end: the client hears DISCONNECT, then the code.
async fn assert_terminal(client: &mut Client, reason: CloseReason) {
    let goodbye = Packet::Disconnect {
        namespace: "/".to_owned(),
    };
    assert_eq!(
        client.closed().await,
        (vec![goodbye], Some(reason.code()), reason.as_str().to_owned())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_disconnect_sessions_users_and_rooms_for_good() {
    let house = House::start(named_house()).await;
    let inspector = house.gateway.inspector();
    let mut one = named(&house, "ann", "a").await;
    let mut two = named(&house, "ann", "b").await;
    let mut three = named(&house, "bob", "b").await;
    let mut four = named(&house, "bob", "c").await;
    assert_eq!(
        inspector.users(None, 10).items,
        [("ann".to_owned(), 2), ("bob".to_owned(), 2)]
    );

    assert!(inspector.disconnect_session(&one.sid));
    assert_terminal(&mut one, CloseReason::Kicked).await;
    assert!(!inspector.disconnect_session(&one.sid));
    assert_eq!(inspector.disconnect_user("ann"), 1);
    assert_terminal(&mut two, CloseReason::Kicked).await;
    assert_eq!(inspector.disconnect_room("/", "b"), 1);
    assert_terminal(&mut three, CloseReason::Kicked).await;
    assert_eq!(
        (
            inspector.disconnect_user("nobody"),
            inspector.disconnect_room("/", "nowhere")
        ),
        (0, 0)
    );

    assert_eq!(four.ask("echo", "1").await, 1);
    let page = inspector.connections(None, 10).await;
    assert_eq!(
        (page.items.len(), page.items[0].id.as_str(), page.next),
        (1, four.sid.as_str(), None)
    );
    assert_eq!(house.labelled(Metric::GatewayClosed, "kicked"), 3);
    drop((one, two, three, four));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_words_are_written_before_the_end() {
    let builder = open_house().on("bye", |socket: Socket, n: u64| async move {
        for i in 0..n {
            socket.emit("word", &i)?;
        }
        socket.disconnect();
        Ok(())
    });
    let house = House::start(builder).await;
    let mut client = Client::connect(house.at).await;
    client.emit("bye", "500").await;
    for i in 0..500 {
        assert_eq!(client.data_of("word").await, i);
    }
    assert_terminal(&mut client, CloseReason::Kicked).await;
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_its_only_namespace_may_come_back_on_a_new_connection() {
    let house = House::start(open_house()).await;
    let mut client = Client::connect(house.at).await;
    client.send("41").await;
    client.send("40").await;
    let (before, code, reason) = client.closed().await;
    assert_eq!(
        (before, code, reason.as_str()),
        (vec![], Some(1_000), "client_left")
    );
    house.figure(Metric::GatewaySessions, 0).await;
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_namespaces_ends_alone() {
    let house = House::start(open_house().namespace("/other", |space| space)).await;
    let mut client = Client::connect(house.at).await;
    client.send("40/other,").await;
    let Packet::Connect { namespace, data } = client.next().await else {
        panic!("connected")
    };
    assert_eq!(namespace, "/other");
    assert!(
        house
            .gateway
            .inspector()
            .disconnect_session(data["sid"].as_str().unwrap())
    );
    assert_eq!(
        client.next().await,
        Packet::Disconnect {
            namespace: "/other".to_owned()
        }
    );
    assert_eq!(client.ask("echo", "1").await, 1);
    client.send("40/other,").await;
    assert!(matches!(client.next().await, Packet::Connect { .. }));
    client.send("41").await;
    house.figure(Metric::GatewaySessions, 1).await;
    client.send("40/nowhere,").await;
    let refused = Packet::Refused {
        namespace: "/nowhere".to_owned(),
        data: json!({"message": "Invalid namespace"}),
    };
    assert_eq!(client.next().await, refused);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_closes_everything_retryably_at_its_pace() {
    let paced = |config: &mut tidegate_gateway::Config| {
        config.shards = 1;
        config.drain.closes_per_second = 8;
    };
    let house = House::start_manual(open_house().configure(paced)).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::connect(house.at).await);
    }
    let gateway = house.gateway.clone();
    let drain = tokio::spawn(async move { gateway.drain().await });
    // Two at once, then two a tick.
    for left in [4, 2, 0] {
        house
            .eventually("two more have been told", || {
                house.labelled(Metric::GatewayClosed, "draining") == 6 - left
            })
            .await;
        house.nudge().await;
        assert_eq!(house.labelled(Metric::GatewayClosed, "draining"), 6 - left);
        house.pass(Duration::from_millis(250)).await;
    }
    for client in &mut clients {
        assert_eq!(
            client.closed().await,
            (vec![], Some(1_012), "draining".to_owned())
        );
    }
    assert!(house.gateway.is_draining());
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (transport, headers) in [("polling", ""), ("websocket", upgrade)] {
        let path = format!("/socket.io/?EIO=4&transport={transport}");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        // It asks for no end of the connection, and is read to that end.
        let refused = http(house.at, &request).await;
        assert_eq!(
            (refused.status, refused.header("connection")),
            (503, Some("close"))
        );
        let error = r#"{"ok":false,"error":{"code":"unavailable","message":"connection refused: draining","retryable":true}}"#;
        assert_eq!(refused.body, error);
    }
    drop(clients);
    drain.await.unwrap();
    assert_eq!(house.gateway.n_connections(), 0);
    let at = house.at;
    house.end().await;
    assert!(TcpStream::connect(at).await.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_ends_polling_clients_and_stubborn_ones() {
    let builder = open_house().configure(|c| c.drain.timeout = Duration::from_secs(10));
    let house = House::start(builder).await;
    let path = open_polling(house.at).await;
    let at = house.at;
    let poll = tokio::spawn(async move { get(at, &path, "").await });
    let mut stubborn = Client::connect(house.at).await;
    assert_eq!(stubborn.ask("echo", "1").await, 1);
    house.nudge().await;
    house.gateway.shutdown().await;
    let answer = poll.await.unwrap();
    assert!(
        matches!(
            (answer.status, answer.body.as_str()),
            (200, "1") | (400, _) | (0, _)
        ),
        "{answer:?}"
    );
    assert_eq!(stubborn.close_code().await, Some(1_012));
    house.end().await;
}
