//! Publications: who gets them, once, and what comes back.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tidegate_gateway::{Args, Code, Collected, Error, Event, Publication, Socket, Target};
use tidegate_vitals::Id as Metric;

use crate::{
    client::{Client, Opening, PATIENCE, Packet, connect_polling, get},
    house::{House, args, code_of, named_house, open_house},
};

fn room(name: &str) -> Target {
    Target::Room(name.to_owned())
}

fn user(name: &str) -> Target {
    Target::User(name.to_owned())
}

/// Four sessions: `a` (ann, room r), `b` (ann), `c` (cid, rooms r and x), `d` (dan).
async fn four(house: &House) -> Vec<Client> {
    let mut clients = Vec::new();
    for (name, rooms) in [
        ("ann", "[\"r\"]"),
        ("ann", "[]"),
        ("cid", "[\"r\",\"x\"]"),
        ("dan", "[]"),
    ] {
        let auth = format!(r#"{{"user":"{name}"}}"#);
        let mut client = Client::connect_with(house.at, &Opening::default(), &auth).await;
        client.join(rooms).await;
        clients.push(client);
    }
    clients
}

/// Publishes and returns the letters of those who got it, each as often as it came.
async fn receivers(house: &House, clients: &mut [Client], to: &[Target], except: &[Target]) -> String {
    let publisher = house.gateway.publisher();
    let publication = Publication {
        to: to.to_vec(),
        except: except.to_vec(),
        ..Publication::new("m", Args::new())
    };
    publisher.publish(publication).unwrap();
    publisher.publish(Publication::new("end", Args::new())).unwrap();
    let mut got = String::new();
    for (client, letter) in clients.iter_mut().zip(["a", "b", "c", "d"]) {
        while client.event().await.0 != "end" {
            got.push_str(letter);
        }
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_are_a_union_and_everybody_is_served_once() {
    let house = House::start(named_house()).await;
    let mut clients = four(&house).await;
    let d = Target::Session(clients[3].sid.clone());
    let own_room_of_d = room(&clients[3].sid);
    let gone = Target::Session("AAAAAAAAAAAAAAAAAAAA".to_owned());
    let cases: &[(&[Target], &[Target], &str)] = &[
        (&[], &[], "abcd"),
        (&[room("r")], &[], "ac"),
        (&[user("ann")], &[], "ab"),
        (std::slice::from_ref(&d), &[], "d"),
        (&[own_room_of_d], &[], "d"),
        (
            &[room("r"), room("x"), user("ann"), d.clone(), room("r")],
            &[],
            "abcd",
        ),
        (&[room("nowhere"), user("nobody"), gone], &[], ""),
        (&[], &[room("x")], "abd"),
        (&[], &[user("ann"), d.clone()], "c"),
        (&[room("r")], &[user("ann")], "c"),
        (&[room("r"), user("ann")], &[room("r")], "b"),
    ];
    for (to, except, expected) in cases {
        assert_eq!(
            receivers(&house, &mut clients, to, except).await,
            *expected,
            "to {to:?} except {except:?}"
        );
    }
    drop(clients);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_speaks_to_others_but_not_to_itself() {
    let builder = open_house().on("say", |socket: Socket, n: u64| async move {
        socket.to("r").emit("room", &n)?;
        socket.broadcast().emit("all", &n)?;
        socket.io().to("r").emit("end", &n)?;
        Ok(n)
    });
    let house = House::start(builder).await;
    let (mut one, mut two) = (Client::connect(house.at).await, Client::connect(house.at).await);
    one.join(r#""r""#).await;
    two.join(r#""r""#).await;
    assert_eq!(one.ask("say", "7").await, 7);
    assert_eq!(one.data_of("end").await, 7);
    for event in ["room", "all", "end"] {
        assert_eq!(two.data_of(event).await, 7);
    }
    drop((one, two));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volatile_event_is_dropped_for_who_cannot_take_it_at_once() {
    let house = House::start_manual(open_house()).await;
    let path = connect_polling(house.at).await;
    house.gateway.io().volatile().emit("m", &1).unwrap();
    house.gateway.io().emit("m", &2).unwrap();
    house.nudge().await;
    let answer = get(house.at, &path, "").await;
    assert!(
        answer.body.starts_with(r#"42["m",2,"#) && !answer.body.contains('\u{1e}'),
        "{}",
        answer.body
    );
    house.figure(Metric::GatewayDropped, 1).await;
    let mut client = Client::connect(house.at).await;
    house.gateway.io().volatile().emit("m", &3).unwrap();
    assert_eq!(client.data_of("m").await, 3);
    assert_eq!(crate::client::post(house.at, &path, "1").await.body, "ok");
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotency_id_speaks_once() {
    let house = House::start_manual(open_house()).await;
    let mut client = Client::connect(house.at).await;
    client.join(r#""r""#).await;
    let publication = |n: u64| {
        let id = Some("one".to_owned());
        Publication {
            id,
            ..Publication::to_room("r", "m", Args::one(&n).unwrap())
        }
    };
    let publisher = house.gateway.publisher();
    let first = publisher.publish(publication(1)).unwrap();
    let again = publisher.publish(publication(1)).unwrap();
    assert_eq!(
        (first.duplicate, again.duplicate, again.seq),
        (false, true, first.seq)
    );
    assert!(matches!(publisher.publish(publication(2)), Err(Error::IdReused(id)) if id == "one"));
    // A client's ids are its own.
    let request = |n: u64| format!(r#"{{"room":"r","event":"m","data":{n},"id":"one"}}"#);
    let first = client.ask("publish", &request(3)).await;
    let again = client.ask("publish", &request(3)).await;
    assert_eq!(
        (&first["duplicate"], &again["duplicate"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(first["offset"], again["offset"]);
    assert_eq!(code_of(&client.ask("publish", &request(4)).await), "id_reused");
    house.pass(Duration::from_secs(120)).await;
    assert!(!publisher.publish(publication(2)).unwrap().duplicate);
    for expected in [1, 3, 2] {
        assert_eq!(client.data_of("m").await, expected);
    }
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_over_a_limit_are_refused_whole() {
    let house = House::start(open_house()).await;
    let publisher = house.gateway.publisher();
    let code = |publication: Publication| publisher.publish(publication).unwrap_err().code();
    let new = |event: &str| Publication::new(event, Args::new());
    assert_eq!(code(new("disconnect")), Code::BadRequest);
    assert_eq!(code(new("")), Code::BadRequest);
    assert_eq!(code(new(&"e".repeat(1_025))), Code::TooLarge);
    assert_eq!(
        code(Publication {
            namespace: "/none".to_owned(),
            ..new("m")
        }),
        Code::NotFound
    );
    assert_eq!(
        code(Publication {
            to: vec![room("r"); 10_001],
            ..new("m")
        }),
        Code::RateLimited
    );
    house.ledger.set_limit(house.ledger.used());
    assert_eq!(code(new("m")), Code::Overloaded);
    house.end().await;
}

// === acknowledgements ===

async fn ask_all(house: &House, timeout: Duration) -> tokio::task::JoinHandle<Collected> {
    let publisher = house.gateway.publisher();
    tokio::spawn(async move {
        publisher
            .publish_collect(Publication::new("q", args("[1]")), timeout)
            .await
            .unwrap()
    })
}

/// Reads a question and answers it with `answer`.
async fn answer(client: &mut Client, answer: &str) {
    let Packet::Event {
        id: Some(id), args, ..
    } = client.next().await
    else {
        panic!("a question")
    };
    // Where a handler expects its callback no offset may stand.
    assert_eq!(args, [json!(1)]);
    client.answer(id, answer).await;
}

fn answers(collected: &Collected) -> BTreeSet<&str> {
    collected.answers.iter().map(|answer| answer.args.get()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broadcast_collects_every_acknowledgement() {
    let house = House::start(open_house()).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Client::connect(house.at).await);
    }
    for round in 0..50 {
        let asked = ask_all(&house, PATIENCE).await;
        for client in &mut clients {
            let own = format!(r#""{}",{round}"#, client.sid);
            answer(client, &own).await;
        }
        let collected = asked.await.unwrap();
        let expected: Vec<String> = clients
            .iter()
            .map(|client| format!(r#"["{}",{round}]"#, client.sid))
            .collect();
        assert_eq!((collected.expected, collected.timed_out), (3, false));
        assert_eq!(answers(&collected), expected.iter().map(String::as_str).collect());
    }
    house
        .eventually("acks are counted", || house.count(Metric::GatewayAcks) == 150)
        .await;
    drop(clients);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_receiver_ends_the_wait_by_timeout() {
    let house = House::start(open_house()).await;
    let (mut one, mut two) = (Client::connect(house.at).await, Client::connect(house.at).await);
    let asked = ask_all(&house, Duration::from_millis(300)).await;
    answer(&mut one, "1").await;
    let collected = asked.await.unwrap();
    assert_eq!(
        (collected.expected, collected.answers.len(), collected.timed_out),
        (2, 1, true)
    );
    assert_eq!(collected.answers[0].session, one.sid);
    // Too late is no harm.
    answer(&mut two, "2").await;
    assert_eq!(two.ask("echo", "1").await, 1);
    assert_eq!(house.count(Metric::GatewayAckTimeouts), 1);
    drop((one, two));
    house.end().await;
}

type Sockets = Arc<Mutex<Vec<Socket>>>;

/// A builder that keeps the handle of every session.
fn keeping(sockets: &Sockets) -> tidegate_gateway::Builder {
    let sockets = sockets.clone();
    open_house().on_connect(move |socket: Socket| {
        sockets.lock().unwrap().push(socket);
        std::future::ready(Ok(()))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_is_asked_and_answers_with_binary() {
    let sockets = Sockets::default();
    let house = House::start(keeping(&sockets)).await;
    let mut client = Client::connect(house.at).await;
    house
        .eventually("the handler ran", || !sockets.lock().unwrap().is_empty())
        .await;
    let socket = sockets.lock().unwrap().pop().unwrap();
    let asked = tokio::spawn({
        let socket = socket.clone();
        async move { socket.emit_with_ack("q", args("[1]"), PATIENCE).await }
    });
    let Packet::Event { id: Some(id), .. } = client.next().await else {
        panic!("a question")
    };
    client
        .send(&format!(r#"461-{id}[{{"_placeholder":true,"num":0}}]"#))
        .await;
    client
        .send_frame(tidegate_wire::websocket::OpCode::Binary, b"\x00\xff")
        .await;
    let answer = asked.await.unwrap().unwrap();
    assert_eq!(
        (answer.session.as_str(), &answer.attachments[..]),
        (socket.id(), &[Bytes::from_static(b"\x00\xff")][..])
    );

    let silent = socket
        .emit_with_ack("q", args("[2]"), Duration::from_millis(50))
        .await;
    assert!(matches!(silent, Err(Error::Timeout(_))), "{silent:?}");
    client.send("41").await;
    house.figure(Metric::GatewaySessions, 0).await;
    let gone = socket.emit_with_ack("q", args("[3]"), PATIENCE).await;
    assert!(matches!(gone, Err(Error::Gone)), "{gone:?}");
    assert!(matches!(socket.join("r"), Err(Error::Gone)));
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_arguments_go_both_ways() {
    let house = House::start(open_house()).await;
    for deflate in [false, true] {
        let mut client = Client::connect_with(
            house.at,
            &Opening {
                deflate,
                ..Opening::default()
            },
            "",
        )
        .await;
        let long = vec![7; 70_000];
        client
            .send(r#"452-["echo",{"a":{"_placeholder":true,"num":1}},{"_placeholder":true,"num":0}]"#)
            .await;
        client
            .send_frame(tidegate_wire::websocket::OpCode::Binary, b"zero")
            .await;
        client
            .send_frame(tidegate_wire::websocket::OpCode::Binary, &long)
            .await;
        let Packet::Event {
            name, args, binary, ..
        } = client.next().await
        else {
            panic!("an event")
        };
        assert_eq!(
            (name.as_str(), &binary[..]),
            ("echo", &[Bytes::from_static(b"zero"), long.into()][..])
        );
        assert_eq!(args[0]["a"]["num"], 1);
        let args = Args::one("x").unwrap().and_binary(&b"\x01"[..]);
        house.gateway.io().emit_args("bin", args).unwrap();
        let Packet::Event { args, binary, .. } = client.next().await else {
            panic!("an event")
        };
        assert_eq!((&args[0], &binary[0][..]), (&json!("x"), &b"\x01"[..]));
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_comes_in_one_order_to_everybody() {
    let relay = |socket: Socket, event: Event| async move {
        socket.io().to("r").emit_args("m", event.args()).unwrap();
    };
    let house = House::start(open_house().on_event("relay", relay)).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = Client::connect(house.at).await;
        client.join(r#""r""#).await;
        clients.push(client);
    }
    for n in 0..100 {
        for (who, client) in clients.iter_mut().enumerate() {
            client.emit("relay", &format!("[{who},{n}]")).await;
        }
    }
    let mut seen: Vec<Vec<Value>> = Vec::new();
    for client in &mut clients {
        let mut messages = Vec::new();
        while messages.len() < 400 {
            messages.push(client.data_of("m").await);
        }
        seen.push(messages);
    }
    assert!(seen.iter().all(|messages| *messages == seen[0]));
    for who in 0..4 {
        let own: Vec<_> = seen[0]
            .iter()
            .filter(|m| m[0] == who)
            .map(|m| m[1].as_u64().unwrap())
            .collect();
        assert_eq!(own, (0..100).collect::<Vec<_>>());
    }
    drop(clients);
    house.end().await;
}
