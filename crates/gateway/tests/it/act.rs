//! Joins, leaves and disconnections of many sessions at once: whom targets choose, in which order, and what is refused.

use std::time::Duration;

use tidegate_gateway::{Acted, Action, Code, Error, RoomOptions, Target};
use tidegate_vitals::Id as Metric;

use crate::{
    client::{Client, Opening, Packet},
    house::{House, named_house, open_house},
};

fn room(name: &str) -> Target {
    Target::Room(name.to_owned())
}

fn user(name: &str) -> Target {
    Target::User(name.to_owned())
}

fn join(rooms: &[&str]) -> Action {
    Action::Join(rooms.iter().map(|room| (*room).to_owned()).collect())
}

fn leave(rooms: &[&str]) -> Action {
    Action::Leave(rooms.iter().map(|room| (*room).to_owned()).collect())
}

/// One whose room `last` keeps two messages.
async fn keeping_house() -> House {
    let options = RoomOptions {
        last: 2,
        ..RoomOptions::default()
    };
    House::start(named_house().configure(|config| config.rooms = vec![("last".to_owned(), options)])).await
}

/// Five sessions over two shards: two of ann, then bob, cat and dan; the first, third and fifth are in `r`, the last two in `s`.
async fn crowd(house: &House) -> Vec<Client> {
    let mut clients = Vec::new();
    for (name, rooms) in [
        ("ann", r#"["r"]"#),
        ("ann", "[]"),
        ("bob", r#"["r"]"#),
        ("cat", r#"["s"]"#),
        ("dan", r#"["r","s"]"#),
    ] {
        let auth = format!(r#"{{"user":"{name}"}}"#);
        let mut client = Client::connect_with(house.at, &Opening::default(), &auth).await;
        client.join(rooms).await;
        clients.push(client);
    }
    clients
}

/// Which of the clients a message to a room reaches.
async fn reached(house: &House, clients: &mut [Client], room: &str) -> Vec<usize> {
    house.gateway.to(room).emit("probe", &1).unwrap();
    house.gateway.io().emit("end", &()).unwrap();
    let mut reached = Vec::new();
    for (n, client) in clients.iter_mut().enumerate() {
        loop {
            match client.event().await.0.as_str() {
                "probe" => reached.push(n),
                "end" => break,
                _ => {}
            }
        }
    }
    reached
}

/// Joins everybody chosen to a room: who is in it after that, and how many were asked at most.
async fn check_chosen(to: &[Target], except: &[Target], expected: &[usize], asked: usize) {
    let house = House::start(named_house()).await;
    let mut clients = crowd(&house).await;
    let publisher = house.gateway.publisher();
    let got = publisher.act("/", to, except, join(&["new"])).unwrap();
    assert_eq!(
        reached(&house, &mut clients, "new").await,
        expected,
        "{to:?} but {except:?}"
    );
    assert!((expected.len()..=asked).contains(&got), "asked {got} of {to:?}");
    let again = publisher
        .act_reported("/", to, except, join(&["new"]))
        .await
        .unwrap();
    let sessions = expected.len();
    assert_eq!(again, Acted { sessions, refused: 0 }, "{to:?} but {except:?}");
    let members = |house: &House| {
        let rooms = house.gateway.inspector().rooms("/", None, 10).items;
        rooms
            .iter()
            .find(|room| room.name == "new")
            .map(|room| room.members)
    };
    assert_eq!(
        members(&house),
        (sessions > 0).then_some(sessions),
        "what was counted ahead"
    );
    let left = publisher
        .act_reported("/", &[room("new")], &[], leave(&["new", "nowhere"]))
        .await
        .unwrap();
    assert_eq!((left.sessions, members(&house)), (sessions, None));
    assert_eq!(reached(&house, &mut clients, "new").await, [0_usize; 0]);
    drop(clients);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_choose_whom_a_join_is_for() {
    check_chosen(&[], &[], &[0, 1, 2, 3, 4], 5).await;
    check_chosen(&[room("r")], &[], &[0, 2, 4], 3).await;
    check_chosen(&[room("r"), room("s")], &[], &[0, 2, 3, 4], 5).await;
    check_chosen(&[user("ann")], &[], &[0, 1], 2).await;
    check_chosen(&[user("ann"), room("r")], &[room("s")], &[0, 1, 2], 5).await;
    check_chosen(&[], &[user("ann"), room("s")], &[2], 5).await;
    check_chosen(&[room("nowhere")], &[], &[], 0).await;
    check_chosen(&[user("nobody"), room("s")], &[], &[3, 4], 2).await;
    check_chosen(&[Target::Session("no-such-session".to_owned())], &[], &[], 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_takes_effect_before_a_publish_after_it_and_a_leave_too() {
    let house = House::start(named_house()).await;
    let mut clients = crowd(&house).await;
    for round in 0..200_u64 {
        house.gateway.to("r").join(&["x", "y"]).unwrap();
        house.say("x", 3 * round);
        house.gateway.to("x").leave(&["x"]).unwrap();
        house.say("x", 3 * round + 1);
        house.gateway.io().close_room("y").unwrap();
        house.say("y", 3 * round + 2);
    }
    house.gateway.io().emit("end", &()).unwrap();
    for (n, client) in clients.iter_mut().enumerate() {
        let mut got = Vec::new();
        loop {
            match client.event().await {
                (name, _) if name == "end" => break,
                (_, args) => got.push(args[0].as_u64().unwrap()),
            }
        }
        let expected: Vec<u64> = (0..200).map(|round| 3 * round).filter(|_| n % 2 == 0).collect();
        assert_eq!(got, expected, "client {n}");
    }
    drop(clients);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_room_may_be_among_those_that_its_members_join() {
    let house = House::start(named_house()).await;
    let mut clients = crowd(&house).await;
    let publisher = house.gateway.publisher();
    let to = [room("r"), room("s")];
    let acted = publisher
        .act_reported("/", &to, &[], join(&["r", "s", "t"]))
        .await
        .unwrap();
    assert_eq!(acted.sessions, 4);
    let rooms = house.gateway.inspector().rooms("/", None, 10).items;
    let members: Vec<usize> = rooms.iter().map(|room| room.members).collect();
    assert_eq!(members, [4, 4, 4], "r, s and t");
    assert_eq!(reached(&house, &mut clients, "s").await, [0, 2, 3, 4]);
    drop(clients);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_join_brings_what_the_room_keeps() {
    let house = keeping_house().await;
    (0..5).for_each(|n| house.say("last", n));
    let mut clients = crowd(&house).await;
    house.gateway.to("r").join(&["last"]).unwrap();
    house.say("last", 5);
    for (n, client) in clients.iter_mut().enumerate().filter(|(n, _)| n % 2 == 0) {
        for expected in 3..=5 {
            assert_eq!(client.data_of("m").await, expected, "client {n}");
        }
    }
    drop(clients);
    house.end().await;
}

/// Disconnects ann, whose one connection has a session in `/other` too: whether that one goes on.
async fn check_disconnect(close: bool, goes_on: bool) {
    let house = House::start(named_house().namespace("/other", |space| space)).await;
    let mut client = Client::connect_with(house.at, &Opening::default(), r#"{"user":"ann"}"#).await;
    client.send("40/other,").await;
    assert!(matches!(client.next().await, Packet::Connect { namespace, .. } if namespace == "/other"));
    let mut other = Client::connect_with(house.at, &Opening::default(), r#"{"user":"bob"}"#).await;
    assert_eq!(house.gateway.io().to_user("ann").disconnect(close).unwrap(), 1);
    assert_eq!(
        client.next().await,
        Packet::Disconnect {
            namespace: "/".to_owned()
        }
    );
    if goes_on {
        house.gateway.of("/other").unwrap().emit("still", &1).unwrap();
        assert_eq!(client.data_of("still").await, 1);
    } else {
        let (before, code, reason) = client.closed().await;
        let expected = Packet::Disconnect {
            namespace: "/other".to_owned(),
        };
        assert_eq!((before, reason.as_str()), (vec![expected], "kicked"), "{code:?}");
    }
    assert_eq!(other.ask("echo", "1").await, 1, "nobody else is touched");
    house.figure(Metric::GatewayActions, 1).await;
    house.figure(Metric::GatewayActionSessions, 1).await;
    drop((client, other));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnection_ends_the_session_or_the_whole_connection() {
    check_disconnect(false, true).await;
    check_disconnect(true, false).await;
}

/// An action that is refused as a whole: with which code, and that nobody was touched.
async fn check_refused(house: &House, to: &[Target], action: Action, code: Code, says: &str) {
    let publisher = house.gateway.publisher();
    let error = publisher.act("/", to, &[], action).unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    assert!(error.to_string().contains(says), "{error}");
    assert!(
        house.gateway.inspector().rooms("/", None, 10).items.is_empty(),
        "after {error}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_an_action_is_said_and_nobody_is_touched() {
    let house = House::start(open_house().configure(|config| config.limits.rooms = 3)).await;
    let client = Client::connect(house.at).await;
    let many = |n: usize| Action::Join((0..n).map(|n| n.to_string()).collect());
    let targets: Vec<Target> = (0..10_001).map(|n| room(&n.to_string())).collect();
    check_refused(&house, &[], join(&[]), Code::BadRequest, "no room is named").await;
    check_refused(&house, &[], leave(&["a", ""]), Code::BadRequest, "empty").await;
    check_refused(&house, &[], many(1_001), Code::BadRequest, "1001 rooms").await;
    check_refused(&house, &targets, join(&["a"]), Code::BadRequest, "10001 targets").await;
    check_refused(
        &house,
        &[],
        join(&["a", &"x".repeat(257)]),
        Code::TooLarge,
        "257 bytes",
    )
    .await;
    check_refused(&house, &[], join(&["a", &client.sid]), Code::Forbidden, "join").await;
    check_refused(&house, &[], many(4), Code::RateLimited, "rooms limit of 3").await;
    let error = house.gateway.publisher().act("/nowhere", &[], &[], join(&["a"]));
    assert!(
        matches!(
            error,
            Err(Error::NotFound {
                kind: "namespace",
                ..
            })
        ),
        "{error:?}"
    );
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_account_refuses_a_join_of_everybody_whole() {
    let house = House::start(open_house()).await;
    let mut client = Client::connect(house.at).await;
    let taken = house.ledger.limit() - house.ledger.used() - 2_000;
    let guard = house
        .ledger
        .reserve(tidegate_vitals::Class::Frames, taken as usize)
        .unwrap();
    let long = "x".repeat(200);
    let rooms: Vec<String> = (0..600).map(|n| format!("{long}{n}")).collect();
    let refused = house.gateway.publisher().act("/", &[], &[], Action::Join(rooms));
    assert_eq!(refused.unwrap_err().code(), Code::Overloaded);
    assert!(house.gateway.inspector().rooms("/", None, 10).items.is_empty());
    drop(guard);
    assert_eq!(house.gateway.io().join(&["a"]).unwrap(), 1);
    house.say("a", 7);
    assert_eq!(client.data_of("m").await, 7);
    drop(client);
    house.end().await;
}

/// What a room keeps is there once for all who join it, and without memory for that nobody joins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_room_keeps_is_paid_for_before_anybody_joins() {
    let house = keeping_house().await;
    let long = "x".repeat(100_000);
    (0..2).for_each(|_| drop(house.gateway.to("last").emit("long", &long).unwrap()));
    let mut clients = crowd(&house).await;
    let fill = |left: u64| {
        let taken = house.ledger.limit() - house.ledger.used() - left;
        let guard = house
            .ledger
            .reserve(tidegate_vitals::Class::Frames, taken as usize);
        guard.unwrap()
    };
    let publisher = house.gateway.publisher();
    let join_last = async || {
        publisher
            .act_reported("/", &[], &[], join(&["last"]))
            .await
            .unwrap()
    };
    let guard = fill(64 << 10);
    let all = Acted {
        sessions: 5,
        refused: 5,
    };
    assert_eq!(join_last().await, all);
    drop(guard);
    house.figure(Metric::GatewayActionRefused, 5).await;
    let rooms = house.gateway.inspector().rooms("/", None, 10).items;
    let last = rooms.iter().find(|room| room.name == "last").unwrap();
    assert_eq!(last.members, 0);
    // Enough for both messages on each of two shards, and not for five clients.
    let guard = fill(1_600_000);
    let none = Acted {
        sessions: 5,
        refused: 0,
    };
    assert_eq!(join_last().await, none);
    drop(guard);
    for client in &mut clients {
        for _ in 0..2 {
            assert_eq!(client.data_of("long").await, long.as_str());
        }
    }
    drop(clients);
    house.end().await;
}

/// Nobody is in more rooms than a session may be in, so no more of them are made and counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_more_rooms_than_a_session_may_be_in_the_first_are_joined() {
    let house = House::start(named_house().configure(|config| {
        config.limits.rooms_per_session = 3;
        config.limits.rooms = 5;
    }))
    .await;
    let clients = crowd(&house).await;
    let names: Vec<String> = (0..900).map(|n| format!("new{n}")).collect();
    let publisher = house.gateway.publisher();
    let acted = publisher
        .act_reported("/", &[user("ann")], &[], Action::Join(names))
        .await
        .unwrap();
    let expected = Acted {
        sessions: 2,
        refused: 2,
    };
    assert_eq!(acted, expected);
    let rooms = house.gateway.inspector().rooms("/", None, 10).items;
    let members = |name: &str| {
        let found = rooms.iter().find(|room| room.name == name);
        found.map(|room| room.members)
    };
    // One of ann's sessions was in a room already.
    let new: Vec<_> = ["new0", "new1", "new2", "new3"].map(members).into();
    assert_eq!(new, [Some(2), Some(2), Some(1), None]);
    drop(clients);
    house.end().await;
}

/// An action is remembered with the sessions of its users, and pays for them once, however often they are named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_an_action_are_paid_for_with_their_sessions() {
    let house = House::start(named_house()).await;
    let clients = crowd(&house).await;
    let publisher = house.gateway.publisher();
    let before = house.ledger.used_by(tidegate_vitals::Class::Rooms);
    let cost = |to: &[Target], except: &[Target]| {
        let used = house.ledger.used_by(tidegate_vitals::Class::Rooms);
        publisher.act("/", to, except, leave(&["nowhere"])).unwrap();
        house.ledger.used_by(tidegate_vitals::Class::Rooms) - used
    };
    let (ann, bob) = (user("ann"), user("bob"));
    let one = cost(std::slice::from_ref(&bob), &[]);
    // The second session of ann.
    let two = cost(std::slice::from_ref(&ann), &[]);
    assert!(two > one, "{two} after {one}");
    assert_eq!(cost(&[ann.clone(), ann.clone(), ann.clone()], &[]), two);
    let except = cost(std::slice::from_ref(&bob), &[ann, bob.clone()]);
    assert!(except > one, "{except} after {one}");
    assert!(house.ledger.used_by(tidegate_vitals::Class::Rooms) > before);
    drop(clients);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_too_many_rooms_is_told_of_and_the_others_join() {
    let house = House::start(named_house().configure(|config| config.limits.rooms_per_session = 2)).await;
    let mut clients = crowd(&house).await;
    let publisher = house.gateway.publisher();
    let acted = publisher
        .act_reported("/", &[], &[], join(&["new"]))
        .await
        .unwrap();
    assert_eq!(
        acted,
        Acted {
            sessions: 5,
            refused: 1
        }
    );
    assert_eq!(reached(&house, &mut clients, "new").await, [0, 1, 2, 3]);
    house.figure(Metric::GatewayActionRefused, 1).await;
    drop(clients);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_away_joins_and_leaves_as_its_rooms_say() {
    let house = House::start(named_house()).await;
    let mut clients = crowd(&house).await;
    let away = clients.remove(4);
    let (sid, auth) = (away.sid.clone(), away.recovery_auth());
    drop(away);
    house
        .eventually("one is away", || house.gateway.n_connections() == 4)
        .await;
    house.say("r", 1);
    assert_eq!(house.gateway.to("r").join(&["new"]).unwrap(), 3);
    house.gateway.to("new").leave(&["s"]).unwrap();
    house.say("new", 2);
    house.say("s", 3);
    let auth = format!(r#"{{"user":"dan",{}"#, &auth[1..]);
    let mut back = Client::reconnect(house.at, &auth).await;
    assert_eq!(back.sid, sid);
    house.say("new", 4);
    for expected in [1, 2, 4] {
        assert_eq!(back.data_of("m").await, expected);
    }
    assert_eq!(back.next_within(Duration::ZERO).await, None);
    // One that is disconnected while it is away does not come back as the same.
    let auth = format!(r#"{{"user":"dan",{}"#, &back.recovery_auth()[1..]);
    drop(back);
    house
        .eventually("one is away again", || house.gateway.n_connections() == 4)
        .await;
    assert_eq!(house.gateway.io().to_user("dan").disconnect(true).unwrap(), 1);
    let fresh = Client::reconnect(house.at, &auth).await;
    assert_ne!(fresh.sid, sid);
    drop((clients, fresh));
    house.end().await;
}
