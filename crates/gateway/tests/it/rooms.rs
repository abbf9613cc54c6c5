//! Rooms: joining, what comes with it, leaving, presence, history.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_gateway::RoomOptions;
use tidegate_vitals::Id as Metric;

use crate::{
    client::{Client, Opening, Packet},
    house::{House, named_house, open_house},
};

fn with_options(pattern: &str, options: RoomOptions) -> impl FnOnce(&mut tidegate_gateway::Config) {
    let rooms = vec![(pattern.to_owned(), options)];
    move |config| config.rooms = rooms
}

async fn named(house: &House, user: &str) -> Client {
    let auth = format!(r#"{{"user":"{user}"}}"#);
    Client::connect_with(house.at, &Opening::default(), &auth).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_joins_one_room_or_a_list() {
    let house = House::start(open_house()).await;
    let mut client = Client::connect(house.at).await;
    client.join(r#""a""#).await;
    client.join(r#"["b","c","a","c"]"#).await;
    for (n, room) in ["a", "b", "c", "d"].iter().enumerate() {
        house.say(room, n as u64);
    }
    for expected in 0..3 {
        assert_eq!(client.data_of("m").await, expected);
    }
    let rooms = house.gateway.inspector().rooms("/", None, 10).items;
    assert!(rooms.iter().all(|room| room.members == 1), "{rooms:?}");
    assert_eq!(
        client.ask("leave", r#"["a","b","nowhere"]"#).await,
        json!({"ok": true})
    );
    house.say("a", 7);
    house.say("c", 8);
    assert_eq!(client.data_of("m").await, 8);
    assert_eq!(house.gateway.inspector().rooms("/", None, 10).items.len(), 1);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_room_comes_after_the_ack_of_leaving() {
    let house = House::start(open_house()).await;
    let mut client = Client::connect(house.at).await;
    for round in 0..50 {
        client.join(r#""busy""#).await;
        let publish = tokio::task::spawn_blocking({
            let gateway = house.gateway.clone();
            move || (0..100).for_each(|n| drop(gateway.to("busy").emit("m", &n).unwrap()))
        });
        client.ask("leave", r#""busy""#).await;
        publish.await.unwrap();
        // After the ack, behind which all numbers have been published, only the echo may come.
        client.forget_kept();
        client.emit("echo", &round.to_string()).await;
        assert_eq!(client.data_of("echo").await, round);
    }
    drop(client);
    house.end().await;
}

/// Reads a join of a room whose numbers count up: what came before the ack and after, until `last`, which a join behind
/// it finds in its snapshot.
async fn read_join(client: &mut Client, ack: u64, last: u64) -> (Vec<u64>, Vec<u64>) {
    let (mut snapshot, mut live) = (Vec::new(), Vec::new());
    let mut acked = false;
    while !acked || live.last().or(snapshot.last()) != Some(&last) {
        match client.next().await {
            Packet::Ack { id, .. } if id == ack => acked = true,
            Packet::Event { args, .. } => {
                let n = args[0].as_u64().unwrap();
                if acked { live.push(n) } else { snapshot.push(n) }
            }
            other => panic!("{other:?}"),
        }
    }
    (snapshot, live)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_brings_snapshot_then_ack_then_live_without_gap_or_duplicate() {
    const N: u64 = 3_000;
    let options = RoomOptions {
        last: 5,
        ..RoomOptions::default()
    };
    let house = House::start(open_house().configure(with_options("last:*", options))).await;
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(Client::connect(house.at).await);
    }
    (0..10).for_each(|n| house.say("last:x", n));
    let gateway = house.gateway.clone();
    let publish = tokio::task::spawn_blocking(move || {
        (10..N).for_each(|n| drop(gateway.to("last:x").emit("m", &n).unwrap()));
    });
    let mut joins = Vec::new();
    for client in &mut clients {
        joins.push(client.emit_asking("join", r#""last:x""#).await);
        let before = house.count(Metric::GatewayPublishes);
        let moved = || house.count(Metric::GatewayPublishes) >= (before + 300).min(N);
        house.eventually("the publisher goes on", moved).await;
    }
    publish.await.unwrap();
    // One more for those who joined behind everything.
    house.say("last:x", N);
    for (client, ack) in clients.iter_mut().zip(joins) {
        let (snapshot, live) = read_join(client, ack, N).await;
        assert_eq!(snapshot.len(), 5, "{snapshot:?}");
        let all: Vec<u64> = snapshot.into_iter().chain(live).collect();
        let expected: Vec<u64> = (all[0]..=N).collect();
        assert_eq!(all, expected);
    }
    drop(clients);
    house.end().await;
}

/// What a client gets on joining `r` after these publications of (key, value).
async fn check_last(options: RoomOptions, published: &[(&str, u64)], expected: &[u64]) {
    let house = House::start(open_house().configure(with_options("r", options))).await;
    for (key, n) in published {
        let emitter = house.gateway.to("r");
        let emitter = if key.is_empty() {
            emitter
        } else {
            emitter.conflate(*key)
        };
        emitter.emit("m", n).unwrap();
    }
    let mut client = Client::connect(house.at).await;
    client.join(r#""r""#).await;
    house.gateway.to("r").emit("end", &()).unwrap();
    let mut got = Vec::new();
    loop {
        match client.event().await {
            (name, _) if name == "end" => break,
            (_, args) => got.push(args[0].as_u64().unwrap()),
        }
    }
    assert_eq!(got, expected);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_keeps_the_newest_of_each_key() {
    let last = |last, keys_max| RoomOptions {
        last,
        keys_max,
        ..RoomOptions::default()
    };
    let published = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("b", 5)];
    check_last(last(0, 10), &published, &[]).await;
    check_last(last(1, 10), &published, &[3, 4, 5]).await;
    check_last(last(2, 10), &published, &[1, 2, 3, 4, 5]).await;
    check_last(last(1, 2), &published, &[4, 5]).await;
    check_last(last(3, 10), &[("", 1), ("", 2), ("", 3), ("", 4)], &[2, 3, 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_bounded_by_number_and_age() {
    let options = RoomOptions {
        history_messages: 3,
        history_age: Duration::from_secs(60),
        ..RoomOptions::default()
    };
    let house = House::start_manual(open_house().configure(with_options("h", options))).await;
    let history = |limit| -> Vec<Value> {
        let items = house.gateway.inspector().history("/", "h", limit).unwrap();
        items
            .iter()
            .map(|item| serde_json::from_str(item.args.get()).unwrap())
            .collect()
    };
    (1..=5).for_each(|n| house.say("h", n));
    assert_eq!(history(10), [json!([3]), json!([4]), json!([5])]);
    assert_eq!(history(2), [json!([4]), json!([5])]);
    // The same room named twice is one room.
    house.gateway.to("h").to("h").emit("m", &6).unwrap();
    assert_eq!(history(10), [json!([4]), json!([5]), json!([6])]);
    house.pass(Duration::from_secs(59)).await;
    house.say("h", 7);
    house.pass(Duration::from_secs(2)).await;
    assert_eq!(history(10), [json!([7])]);
    house.end().await;
}

fn present(house: &House, room: &str) -> Vec<(String, usize)> {
    let presence = house.gateway.inspector().presence("/", room, 10).unwrap();
    presence
        .members
        .into_iter()
        .map(|member| (member.user, member.sessions))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_counts_users_and_waits_for_lost_ones() {
    let options = RoomOptions {
        presence: true,
        ..RoomOptions::default()
    };
    let house = House::start_manual(named_house().configure(with_options("r", options))).await;
    let mut ann = named(&house, "ann").await;
    let mut again = named(&house, "ann").await;
    let mut bob = named(&house, "bob").await;
    for client in [&mut ann, &mut again, &mut bob] {
        client.join(r#""r""#).await;
    }
    assert_eq!(
        present(&house, "r"),
        [("ann".to_owned(), 2), ("bob".to_owned(), 1)]
    );
    let listed = ann.ask("presence", r#""r""#).await;
    assert_eq!(
        (&listed["count"], &listed["members"][1]["user"]),
        (&json!(2), &json!("bob"))
    );
    bob.ask("leave", r#""r""#).await;
    assert_eq!(present(&house, "r"), [("ann".to_owned(), 2)]);
    drop(again);
    house
        .eventually("one connection is lost", || house.gateway.n_connections() == 2)
        .await;
    house.pass(Duration::from_millis(9_900)).await;
    assert_eq!(present(&house, "r"), [("ann".to_owned(), 2)]);
    house.pass(Duration::from_millis(200)).await;
    assert_eq!(present(&house, "r"), [("ann".to_owned(), 1)]);
    drop((ann, bob));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_presence_are_told_at_most_once_a_second() {
    let options = RoomOptions {
        presence: true,
        join_leave_events: true,
        ..RoomOptions::default()
    };
    let house = House::start_manual(named_house().configure(with_options("r", options))).await;
    let mut ann = named(&house, "ann").await;
    let mut bob = named(&house, "bob").await;
    ann.join(r#""r""#).await;
    house.pass(Duration::from_millis(250)).await;
    let change = ann.data_of("presence").await;
    assert_eq!(
        change,
        json!({"room": "r", "joined": ["ann"], "left": [], "count": 1})
    );
    bob.join(r#""r""#).await;
    house.pass(Duration::from_millis(250)).await;
    bob.ask("leave", r#""r""#).await;
    bob.join(r#""r""#).await;
    house.pass(Duration::from_millis(500)).await;
    assert_eq!(ann.ask("echo", "1").await, 1);
    assert_eq!(ann.next_within(Duration::ZERO).await, None);
    house.pass(Duration::from_millis(250)).await;
    let change = ann.data_of("presence").await;
    assert_eq!(
        change,
        json!({"room": "r", "joined": ["bob"], "left": [], "count": 2})
    );
    drop((ann, bob));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_follows_a_session_that_gets_another_user() {
    use tidegate_auth::{Identity, Method};
    use tidegate_gateway::{Event, Socket};
    let options = RoomOptions {
        presence: true,
        ..RoomOptions::default()
    };
    let builder = open_house().configure(with_options("r", options)).on_inline(
        "i-am",
        |socket: &Socket, event: Event| {
            socket.identify(Identity::new(
                &event.payload::<String>().unwrap(),
                Method::Application,
            ));
            event.answer(Ok(true));
        },
    );
    let house = House::start(builder).await;
    let mut client = Client::connect(house.at).await;
    client.join(r#""r""#).await;
    assert_eq!(present(&house, "r"), [(client.sid.clone(), 1)]);
    client.ask("i-am", r#""ann""#).await;
    assert_eq!(present(&house, "r"), [("ann".to_owned(), 1)]);
    client.send("41").await;
    house
        .eventually("the room is gone", || {
            house.gateway.inspector().presence("/", "r", 1).is_none()
        })
        .await;
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_into_another_sessions_own_room() {
    let house = House::start(open_house()).await;
    let mut one = Client::connect(house.at).await;
    let two = Client::connect(house.at).await;
    let room = format!(r#""{}""#, two.sid);
    let publish = format!(r#"{{"room":{room},"event":"m","data":1}}"#);
    for (event, argument) in [("join", &room), ("publish", &publish), ("presence", &room)] {
        let answer = one.ask(event, argument).await;
        assert_eq!(crate::house::code_of(&answer), "forbidden", "{event}");
    }
    let list = format!(r#"["ordinary",{room}]"#);
    assert_eq!(crate::house::code_of(&one.ask("join", &list).await), "forbidden");
    assert!(house.gateway.inspector().rooms("/", None, 10).items.is_empty());
    drop((one, two));
    house.end().await;
}
