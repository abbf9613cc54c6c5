//! Recovery: the same session on another connection, everything it missed exactly once, or a fresh start.

use std::time::Duration;

use tidegate_auth::Role;
use tidegate_gateway::{Builder, RoomOptions};
use tidegate_vitals::Id as Metric;

use crate::{
    client::{Client, Opening, Packet, recovery_auth},
    house::{House, authenticator, everything, named_house, open_house},
};

/// A session in room `r` that has seen `n` messages, and then lost its connection.
async fn lost(house: &House, n: u64) -> (String, String) {
    let mut client = Client::connect(house.at).await;
    client.join(r#""r""#).await;
    for i in 0..n {
        house.say("r", i);
        assert_eq!(client.data_of("m").await, i);
    }
    lose(house, client).await
}

/// Drops the connection; returns the session's id and what gets it back.
async fn lose(house: &House, client: Client) -> (String, String) {
    let (sid, auth) = (client.sid.clone(), client.recovery_auth());
    let before = house.gateway.n_connections();
    drop(client);
    house
        .eventually("the connection is gone", || {
            house.gateway.n_connections() < before
        })
        .await;
    (sid, auth)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_comes_back_with_everything_it_missed() {
    let house = House::start(open_house()).await;
    let (sid, auth) = lost(&house, 3).await;
    (3..7).for_each(|n| house.say("r", n));
    house.gateway.io().volatile().emit("lost", &1).unwrap();
    house.gateway.io().to_session(&sid).emit("own", &7).unwrap();
    house.gateway.io().emit("all", &8).unwrap();
    let mut client = Client::reconnect(house.at, &auth).await;
    assert_eq!(client.sid, sid);
    house.say("r", 9);
    for n in 3..7 {
        assert_eq!(client.data_of("m").await, n);
    }
    assert_eq!(client.data_of("own").await, 7);
    assert_eq!(client.data_of("all").await, 8);
    assert_eq!(client.data_of("m").await, 9);
    assert_eq!(client.ask("echo", "1").await, 1);
    assert_eq!(client.next_within(Duration::ZERO).await, None);
    let info = house.gateway.inspector().connection(&sid).await.unwrap();
    assert_eq!(
        (info.recovered, info.rooms.as_slice()),
        (1, &["r".to_owned()][..])
    );
    for figure in [Metric::GatewayRecoverEligible, Metric::GatewayRecovered] {
        house.figure(figure, 1).await;
    }
    house.figure(Metric::GatewaySessions, 1).await;
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_without_an_event_comes_back_too() {
    let house = House::start(open_house()).await;
    let mut client = Client::connect(house.at).await;
    client.join(r#""r""#).await;
    assert_eq!(client.offset, None);
    let (sid, auth) = lose(&house, client).await;
    house.say("r", 1);
    let mut client = Client::reconnect(house.at, &auth).await;
    assert_eq!(client.sid, sid);
    assert_eq!(client.data_of("m").await, 1);
    // Lost again before anything else came: still the same session, with nothing twice.
    let (_, auth) = lose(&house, client).await;
    let mut client = Client::reconnect(house.at, &auth).await;
    assert_eq!(
        (client.ask("echo", "1").await, client.sid.as_str()),
        (1.into(), sid.as_str())
    );
    assert_eq!(client.next_within(Duration::ZERO).await, None);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answered_ping_vouches_for_what_came_before_it() {
    let house =
        House::start_manual(open_house().configure(|c| c.ping_interval = Duration::from_secs(10))).await;
    let mut client = Client::connect(house.at).await;
    client.join(r#""r""#).await;
    house.say("r", 1);
    assert_eq!(client.data_of("m").await, 1);
    house.pass(Duration::from_secs(10)).await;
    assert_eq!(client.ask("echo", "1").await, 1);
    // As a client whose last event ended with a string of its own.
    client.offset = Some("no offset of yours".to_owned());
    let (sid, auth) = lose(&house, client).await;
    house.say("r", 2);
    let mut client = Client::reconnect(house.at, &auth).await;
    assert_eq!(client.sid, sid);
    assert_eq!(client.data_of("m").await, 2);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_while_a_publisher_goes_on() {
    const N: u64 = 4_000;
    let house = House::start(open_house()).await;
    let mut client = Client::connect(house.at).await;
    client.join(r#""r""#).await;
    let sid = client.sid.clone();
    let gateway = house.gateway.clone();
    let publish = tokio::task::spawn_blocking(move || {
        for n in 0..N {
            gateway.to("r").emit("m", &n).unwrap();
            std::thread::yield_now();
        }
    });
    let mut next = 0;
    while next < N {
        for _ in 0..200.min(N - next) {
            assert_eq!(client.data_of("m").await, next);
            next += 1;
        }
        // Not waiting for the server to notice: often the old connection is still open there.
        let auth = client.recovery_auth();
        drop(client);
        client = Client::reconnect(house.at, &auth).await;
        assert_eq!(client.sid, sid);
    }
    publish.await.unwrap();
    house.figure(Metric::GatewayRecovered, N / 200).await;
    drop(client);
    house.end().await;
}

/// A reconnect that must become a fresh session, for this reason.
async fn check_fresh(
    builder: Builder,
    users: [&str; 2],
    change: impl FnOnce(String) -> String,
    missed: u64,
    wait: Duration,
    reason: &str,
) {
    let house = House::start_manual(builder).await;
    let [before, after] = users.map(|user| format!(r#"{{"user":"{user}"}}"#));
    let mut client = Client::connect_with(house.at, &Opening::default(), &before).await;
    client.join(r#""r""#).await;
    house.say("r", 0);
    assert_eq!(client.data_of("m").await, 0);
    let (sid, auth) = lose(&house, client).await;
    let pad = "x".repeat(4_000);
    for _ in 0..missed {
        house.gateway.to("r").emit("m", &pad).unwrap();
        house.nudge().await;
    }
    house.pass(wait).await;
    let auth = change(auth).replacen('{', &format!("{},", &after[..after.len() - 1]), 1);
    let mut client = Client::reconnect(house.at, &auth).await;
    assert_ne!(client.sid, sid, "{reason}");
    assert_eq!(
        house.labelled(Metric::GatewayRecoverMissed, reason),
        1,
        "{reason}"
    );
    assert_eq!(house.count(Metric::GatewayRecovered), 0);
    house.say("r", 1);
    assert_eq!(client.ask("echo", "1").await, 1);
    assert_eq!(
        client.next_within(Duration::ZERO).await,
        None,
        "a fresh session is in no room"
    );
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_recovered_starts_afresh() {
    let same = ["ann", "ann"];
    let zero = Duration::ZERO;
    let tiny_ring = || named_house().configure(|c| c.recovery.ring_bytes_max = 64 << 10);
    let small_replay = || named_house().configure(|c| c.outbox.soft_bytes = 8 << 10);
    let late = Duration::from_secs(121);
    let keep = |auth| auth;
    let wrong = |_| recovery_auth("AAAAAAAAAAAAAAAAAAAA", None);
    check_fresh(named_house(), same, wrong, 0, zero, "unknown").await;
    check_fresh(named_house(), ["ann", "bob"], keep, 0, zero, "other_user").await;
    check_fresh(tiny_ring(), same, keep, 40, zero, "ring_passed").await;
    check_fresh(small_replay(), same, keep, 10, zero, "replay_too_large").await;
    check_fresh(named_house(), same, keep, 0, late, "unknown").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_user_does_not_end_the_session_it_asked_for() {
    let house = House::start(named_house()).await;
    let mut ann = Client::connect_with(house.at, &Opening::default(), r#"{"user":"ann"}"#).await;
    let stolen = format!(r#"{{"user":"bob","pid":"{}"}}"#, ann.pid.as_ref().unwrap());
    let bob = Client::connect_with(house.at, &Opening::default(), &stolen).await;
    assert_ne!(bob.sid, ann.sid);
    assert_eq!(ann.ask("echo", "1").await, 1);
    drop((ann, bob));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_is_taken_over() {
    let house = House::start(open_house()).await;
    let mut old = Client::connect(house.at).await;
    old.join(r#""r""#).await;
    house.say("r", 1);
    assert_eq!(old.data_of("m").await, 1);
    let mut new = Client::reconnect(house.at, &old.recovery_auth()).await;
    assert_eq!(new.sid, old.sid);
    house.say("r", 2);
    assert_eq!(new.data_of("m").await, 2);
    let (before, code, reason) = old.closed().await;
    let goodbye = Packet::Disconnect {
        namespace: "/".to_owned(),
    };
    assert_eq!(
        (before, code, reason.as_str()),
        (vec![goodbye], Some(4002), "replaced")
    );
    house.figure(Metric::GatewayTakenOver, 1).await;
    house.figure(Metric::GatewaySessions, 1).await;
    drop((old, new));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_know_recovery_get_no_offset() {
    let house = House::start(open_house()).await;
    let python = "User-Agent: Python/3.13 aiohttp/3.12\r\n";
    let cases = [
        (python, "", "", false),
        (python, "&recovery=1", "", true),
        ("", "&recovery=0", "", false),
        ("", "", r#"{"recovery":false}"#, false),
        ("", "", "", true),
    ];
    for (headers, query, auth, offset) in cases {
        let opening = Opening {
            headers: headers.to_owned(),
            query,
            ..Opening::default()
        };
        let mut client = Client::connect_with(house.at, &opening, auth).await;
        assert_eq!(client.pid.is_some(), offset, "{headers}{query}{auth}");
        house.gateway.io().to_session(&client.sid).emit("m", &1).unwrap();
        // The client takes the offset off where there is a secret; what is left is the argument alone.
        assert_eq!(client.event().await, ("m".to_owned(), vec![1.into()]));
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rooms_that_are_forbidden_meanwhile_are_left() {
    let options = RoomOptions {
        presence: true,
        ..RoomOptions::default()
    };
    let rooms = vec![("*".to_owned(), options)];
    let house = House::start(open_house().configure(|c| c.rooms = rooms)).await;
    let mut client = Client::connect(house.at).await;
    client.join(r#"["kept","taken"]"#).await;
    let (sid, auth) = lose(&house, client).await;
    let mut config = everything();
    let role = Role {
        join: vec!["kept".to_owned()],
        ..Role::default()
    };
    config.roles.insert("all".to_owned(), role);
    house.gateway.set_auth(authenticator(config));
    house.say("taken", 1);
    house.say("kept", 2);
    let mut client = Client::reconnect(house.at, &auth).await;
    assert_eq!(client.sid, sid);
    assert_eq!(client.data_of("m").await, 2);
    house.say("taken", 3);
    house.say("kept", 4);
    assert_eq!(client.data_of("m").await, 4);
    let inspector = house.gateway.inspector();
    assert_eq!(inspector.presence("/", "kept", 1).unwrap().count, 1);
    assert!(inspector.presence("/", "taken", 1).is_none());
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_not_fetched_is_forgotten() {
    let house = House::start_manual(open_house()).await;
    let (_, _) = lost(&house, 1).await;
    house.figure(Metric::GatewaySessions, 1).await;
    assert_eq!(house.labelled(Metric::GatewayConnections, "broken"), 1);
    house.pass(Duration::from_secs(120)).await;
    house.figure(Metric::GatewaySessions, 0).await;
    assert_eq!(house.labelled(Metric::GatewayConnections, "broken"), 0);
    assert!(house.gateway.inspector().rooms("/", None, 10).items.is_empty());
    house.end().await;
}
