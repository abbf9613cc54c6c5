//! HTTP long-polling, and the change from it to a WebSocket.

use std::{sync::Arc, time::Duration};

use tidegate_gateway::{Event, Socket};
use tidegate_vitals::Id as Metric;
use tidegate_wire::websocket::OpCode;
use tokio::{net::TcpStream, sync::Semaphore};

use crate::{
    client::{Client, Frame, Opening, connect_polling, get, open_polling, post},
    house::{House, open_house},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_and_binary_travel_in_one_body() {
    let house = House::start(open_house().configure(|c| c.recovery.enabled = false)).await;
    let path = connect_polling(house.at).await;
    let body = "42[\"echo\",1]\u{1e}451-[\"echo\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAAH/\u{1e}420[\"echo\",2]";
    assert_eq!(post(house.at, &path, body).await.body, "ok");
    let mut got = String::new();
    while got.matches('\u{1e}').count() < 3 {
        let answer = get(house.at, &path, "").await;
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"));
        got = if got.is_empty() {
            answer.body
        } else {
            format!("{got}\u{1e}{}", answer.body)
        };
    }
    let expected =
        "42[\"echo\",1]\u{1e}451-[\"echo\",{\"_placeholder\":true,\"num\":0}]\u{1e}bAAH/\u{1e}430[2]";
    assert_eq!(got, expected);
    assert_eq!(
        house.gateway.inspector().connections(None, 1).await.items[0].transport,
        "polling"
    );
    assert_eq!(post(house.at, &path, "1").await.status, 200);
    // A request that the client's own close overtook ends without an error, once.
    assert_eq!(get(house.at, &path, "").await.body, "6");
    assert_eq!(get(house.at, &path, "").await.status, 400);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_moves_to_a_websocket_without_losing_an_event() {
    let house = House::start(open_house().configure(|c| c.recovery.enabled = false)).await;
    let path = connect_polling(house.at).await;
    assert_eq!(post(house.at, &path, r#"420["join","r"]"#).await.body, "ok");
    assert_eq!(get(house.at, &path, "").await.body, r#"430[{"ok":true}]"#);
    let stream = Box::new(TcpStream::connect(house.at).await.unwrap());
    let upgrade = path.replace("polling", "websocket");
    let mut client = Client::upgrade(stream, &upgrade, &Opening::default())
        .await
        .ok()
        .unwrap();
    client.send("2probe").await;
    let Frame::Text(pong) = client.read_frame().await else {
        panic!("the probe's answer")
    };
    assert_eq!(pong, "3probe");
    assert_eq!(get(house.at, &path, "").await.body, "6");
    house.say("r", 1);
    client.send("5").await;
    house.say("r", 2);
    for n in [1, 2] {
        assert_eq!(client.data_of("m").await, n);
    }
    assert_eq!(client.ask("echo", "3").await, 3);
    assert_eq!(
        get(house.at, &path, "").await.status,
        400,
        "the sid is for the WebSocket now"
    );
    assert_eq!(house.gateway.n_connections(), 1);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_that_fails_leaves_polling_alone() {
    let house = House::start(open_house().configure(|c| c.recovery.enabled = false)).await;
    let path = connect_polling(house.at).await;
    let upgrade = path.replace("polling", "websocket");
    for word in ["5", "42[\"echo\",1]", "2wrong"] {
        let stream = Box::new(TcpStream::connect(house.at).await.unwrap());
        let mut client = Client::upgrade(stream, &upgrade, &Opening::default())
            .await
            .ok()
            .unwrap();
        client.send_frame(OpCode::Text, word.as_bytes()).await;
        assert!(matches!(client.read_frame().await, Frame::Closed(..)), "{word}");
    }
    let unknown = "/socket.io/?EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA";
    let stream = Box::new(TcpStream::connect(house.at).await.unwrap());
    let mut client = Client::upgrade(stream, unknown, &Opening::default())
        .await
        .ok()
        .unwrap();
    assert!(matches!(client.read_frame().await, Frame::Closed(Some(1_002), _)));
    assert_eq!(post(house.at, &path, r#"420["echo",1]"#).await.body, "ok");
    assert_eq!(get(house.at, &path, "").await.body, "430[1]");
    assert_eq!(post(house.at, &path, "1").await.status, 200);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disconnected_hears_the_last_messages_with_the_next_request_and_in_one_that_waits() {
    let builder = open_house().configure(|c| c.recovery.enabled = false).on_event(
        "leave-me",
        |socket: Socket, _event: Event| async move {
            socket.emit("bye", "now").unwrap();
            socket.disconnect();
        },
    );
    let house = House::start(builder).await;
    let heard = "42[\"bye\",\"now\"]\u{1e}41";
    let (at, late) = (house.at, connect_polling(house.at).await);
    assert_eq!(post(at, &late, r#"42["leave-me"]"#).await.body, "ok");
    house
        .eventually("closed", || house.gateway.n_connections() == 0)
        .await;
    assert_eq!(get(at, &late, "").await.body, heard);
    assert_eq!(get(at, &late, "").await.status, 400);
    let waiting = connect_polling(at).await;
    let poll = tokio::spawn({
        let path = waiting.clone();
        async move {
            let mut heard = get(at, &path, "").await.body;
            if !heard.ends_with("41") {
                heard = format!("{heard}\u{1e}{}", get(at, &path, "").await.body);
            }
            heard
        }
    });
    // Whether the GET waits already or comes behind the POST, and whether one answer holds all: the same is heard.
    assert_eq!(post(at, &waiting, r#"42["leave-me"]"#).await.body, "ok");
    assert_eq!(poll.await.unwrap(), heard);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_requests_of_one_kind_end_the_session() {
    let house = House::start(open_house()).await;
    let path = connect_polling(house.at).await;
    let at = house.at;
    let first = tokio::spawn({
        let path = path.clone();
        async move { get(at, &path, "").await }
    });
    // Whichever comes second is refused; the one that waited is told the end.
    let second = get(house.at, &path, "").await;
    let mut bodies = [(second.status, second.body), {
        let first = first.await.unwrap();
        (first.status, first.body)
    }];
    bodies.sort();
    assert_eq!((bodies[0].clone(), bodies[1].0), ((200, "1".to_owned()), 400));
    assert_eq!(house.labelled(Metric::GatewayClosed, "overlapping_requests"), 1);
    assert_eq!(get(house.at, &path, "").await.status, 400);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_have_their_engine_io_error() {
    let house = House::start(open_house().configure(|c| c.payload_bytes_max = 2_000)).await;
    let polling = "/socket.io/?EIO=4&transport=polling";
    let unknown = format!("{polling}&sid=AAAAAAAAAAAAAAAAAAAA");
    for (path, status, code) in [
        ("/socket.io/?transport=polling", 400, 5),
        ("/socket.io/?EIO=3&transport=polling", 400, 5),
        ("/socket.io/?EIO=4", 400, 0),
        ("/socket.io/?EIO=4&transport=carrier-pigeon", 400, 0),
        ("/socket.io/?EIO=4&transport=websocket", 400, 3),
        (&*unknown, 400, 1),
        ("/socket.io/?EIO=4&transport=polling&sid=short", 400, 1),
    ] {
        let answer = get(house.at, path, "").await;
        assert_eq!(
            (answer.status, &answer.json()["code"]),
            (status, &code.into()),
            "{path}"
        );
    }
    assert_eq!(post(house.at, polling, "").await.json()["code"], 2);
    assert_eq!(get(house.at, "/elsewhere", "").await.status, 404);

    let path = open_polling(house.at).await;
    assert_eq!(post(house.at, &path, &"x".repeat(2_001)).await.status, 413);
    assert_eq!(
        post(house.at, &path, "40").await.body,
        "ok",
        "refused unread, it changed nothing"
    );
    assert_eq!(post(house.at, &path, "nonsense").await.status, 400);
    assert_eq!(
        post(house.at, &path, "40").await.status,
        400,
        "the session has ended"
    );
    assert_eq!(house.labelled(Metric::GatewayClosed, "parse_error"), 1);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_wait_while_handlers_are_behind() {
    let gate = Arc::new(Semaphore::new(0));
    let wait = gate.clone();
    let builder = open_house()
        .configure(|c| c.limits.handlers_in_flight = 4)
        .on_event("work", move |socket: Socket, event: Event| {
            let wait = wait.clone();
            async move {
                let _permit = wait.acquire().await.unwrap();
                socket.emit_args("done", event.args()).unwrap();
            }
        });
    let house = House::start(builder).await;
    let path = connect_polling(house.at).await;
    let work = [r#"42["work",1]"#; 10].join("\u{1e}");
    assert_eq!(post(house.at, &path, &work).await.body, "ok");
    assert_eq!(house.count(Metric::GatewayReadingPaused), 1);
    let at = house.at;
    let mut second = tokio::spawn({
        let (path, work) = (path.clone(), work.clone());
        async move { post(at, &path, &work).await }
    });
    house.nudge().await;
    assert!(
        tokio::time::timeout(Duration::from_millis(20), &mut second)
            .await
            .is_err(),
        "not taken yet"
    );
    gate.add_permits(1);
    assert_eq!(second.await.unwrap().body, "ok");
    let mut done = 0;
    while done < 20 {
        done += get(house.at, &path, "").await.body.matches("done").count();
    }
    assert_eq!(house.count(Metric::GatewayReadingPaused), 0);
    assert_eq!(post(house.at, &path, "1").await.status, 200);
    house.end().await;
}

/// A session whose client has probed the WebSocket of `path`, and so asks for nothing more by polling.
async fn probed(house: &House, path: &str) -> Client {
    let stream = Box::new(TcpStream::connect(house.at).await.unwrap());
    let upgrade = path.replace("polling", "websocket");
    let mut client = Client::upgrade(stream, &upgrade, &Opening::default())
        .await
        .ok()
        .unwrap();
    client.send("2probe").await;
    assert!(matches!(client.read_frame().await, Frame::Text(pong) if pong == "3probe"));
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_disconnected_while_it_changes_to_a_websocket_hears_it_there_or_where_it_stays() {
    let builder = open_house().configure(|c| c.recovery.enabled = false).on_event(
        "leave-me",
        |socket: Socket, _event: Event| async move {
            socket.emit("bye", "now").unwrap();
            socket.disconnect();
        },
    );
    let house = House::start(builder).await;
    let at = house.at;
    for is_switching in [true, false] {
        let path = connect_polling(at).await;
        let mut client = probed(&house, &path).await;
        assert_eq!(post(at, &path, r#"42["leave-me"]"#).await.body, "ok");
        house.figure(Metric::GatewaySessions, 0).await;
        // What was on its way is no error, or the client would take the whole connection for broken.
        assert_eq!(post(at, &path, "3").await.body, "ok");
        assert_eq!(get(at, &path, "").await.body, "6");
        if is_switching {
            client.send("5").await;
            assert_eq!(client.event().await.0, "bye");
            let (packets, ..) = client.closed().await;
            assert_eq!(packets.len(), 1, "{packets:?}");
            drop(client);
        } else {
            drop(client);
            let mut heard = "6".to_owned();
            while heard == "6" {
                heard = get(at, &path, "").await.body;
            }
            assert_eq!(heard, "42[\"bye\",\"now\"]\u{1e}41");
        }
        house
            .eventually("closed", || house.gateway.n_connections() == 0)
            .await;
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_reaches_who_changes_to_a_websocket() {
    let house = House::start(open_house().configure(|c| c.recovery.enabled = false)).await;
    let path = connect_polling(house.at).await;
    let mut client = probed(&house, &path).await;
    let gateway = house.gateway.clone();
    let draining = tokio::spawn(async move { gateway.drain().await });
    house.figure(Metric::GatewaySessions, 0).await;
    client.send("5").await;
    assert_eq!(client.close_code().await, Some(1_012));
    draining.await.unwrap();
    house.end().await;
}
