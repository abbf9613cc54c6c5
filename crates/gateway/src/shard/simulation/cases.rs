//! Single stories: each was once a way to lose, repeat or keep what should not have been.

use super::*;

/// Clients `u0`, `u1`, … that are connected and know recovery where the plan has it.
fn world(plan: Plan, n: usize) -> World {
    let mut world = World::new(1, plan, false);
    for name in 0..n {
        let user = Some(format!("u{name}"));
        let traits = Traits {
            user,
            batch: false,
            recovers: plan.recovery,
            window_bits: None,
        };
        world.clients.push(Client::new(name, traits));
        world.dial(name);
    }
    world.rest();
    assert!(world.clients.iter().all(Client::is_in));
    world
}

impl World {
    fn tell(&mut self, to: &[Aim], except: &[Aim]) {
        let n = self.sent.len();
        let args = Args {
            json: format!(r#"{{"n":{n}}}"#),
            attachments: Vec::new(),
        };
        let publication = Publication {
            to: to.iter().map(target).collect(),
            except: except.iter().map(target).collect(),
            ..Publication::new("m", args)
        };
        let (to, except) = (to.to_vec(), except.to_vec());
        self.send(
            publication,
            Sent {
                n,
                seq: 0,
                to,
                except,
                key: None,
                droppable: false,
            },
        );
    }

    fn ask(&mut self, client: usize, room: usize, join: bool) {
        let asked_at = self.sent.len();
        self.clients[client].wish(vec![room], join, asked_at);
        self.shards.iter_mut().for_each(|shard| shard.turn(false));
        self.shards.iter_mut().for_each(|shard| shard.turn(false));
    }

    /// What arrives from now on is lost with the connection.
    fn deafen(&mut self, client: usize) {
        self.clients[client].deaf_until_ms = u64::MAX;
    }

    fn cut_and_return(&mut self, client: usize) {
        self.cut(client);
        self.rest();
        self.clients[client].deaf_until_ms = 0;
        self.dial(client);
        self.rest();
    }

    /// The shard where a client's session lives.
    fn home(&self, client: usize) -> usize {
        let sid = self.clients[client].sid().unwrap();
        usize::from(self.space().session(sid).unwrap().shard)
    }
}

const EVERYBODY: &[Aim] = &[];

#[test]
fn what_left_a_member_out_is_not_replayed_after_it_has_left() {
    let mut world = world(Plan::ALL[0], 2);
    world.ask(0, 1, true);
    world.rest();
    world.deafen(0);
    world.tell(EVERYBODY, &[Aim::Room(1)]);
    world.ask(0, 1, false);
    world.tell(EVERYBODY, EVERYBODY);
    world.cut_and_return(0);
    assert_eq!(
        (world.clients[0].recovered, world.clients[0].oracle.received),
        (1, 1)
    );
    world.check_nothing_is_missing();
}

#[test]
fn what_came_before_a_join_is_replayed_though_it_left_the_room_out() {
    let mut world = world(Plan::ALL[0], 2);
    world.deafen(0);
    world.tell(EVERYBODY, &[Aim::Room(1)]);
    world.ask(0, 1, true);
    world.cut_and_return(0);
    assert_eq!(
        (world.clients[0].recovered, world.clients[0].oracle.received),
        (1, 1)
    );
    world.check_nothing_is_missing();
}

#[test]
fn a_room_that_announces_presence_goes_with_its_last_member() {
    let mut world = world(Plan::ALL[3], 1);
    world.ask(0, ROOMS - 1, true);
    world.rest();
    assert_eq!(world.space().sizes()[0], 1);
    world.hand.advance(Duration::from_secs(2));
    world.rest();
    world.ask(0, ROOMS - 1, false);
    for _ in 0..8 {
        world.hand.advance(Duration::from_millis(500));
        world.rest();
    }
    assert_eq!(world.space().sizes()[0], 0);
}

#[test]
fn a_pong_does_not_vouch_for_what_is_still_to_be_replayed() {
    let mut world = world(Plan::ALL[0], 2);
    world.cut(0);
    world.rest();
    world.tell(EVERYBODY, EVERYBODY);
    world.rest();
    let home = world.home(0);
    enter_at(&mut world, 0, home);
    // The connection, the session handed over, the session taken up: but not yet the mark in the order.
    for _ in 0..2 {
        world.shards[home].turn(false);
    }
    world.shards[home].handle_few(2);
    world.hand.advance(Duration::from_secs(5));
    world.shards[home].handle_few(0);
    world.pump(0);
    world.rest();
    world.deafen(0);
    world.cut_and_return(0);
    world.rest();
    world.check_nothing_is_missing();
}

/// The client connects to a chosen shard.
fn enter_at(world: &mut World, client: usize, shard: usize) {
    let (near, far) = sockets();
    let mut line = Line::new(far, world.sent.len(), true);
    line.send(&world.clients[client].connect_packet());
    world.clients[client].line = Some(line);
    let user = world.clients[client].traits.user.clone();
    enter(&world.shared, shard, near, Bytes::new(), None, user.as_deref());
}

#[test]
fn a_session_waits_as_long_as_its_window() {
    for (waits_ms, recovered) in [(9_000, 1), (10_500, 0)] {
        let mut world = world(Plan::ALL[0], 1);
        world.cut(0);
        world.rest();
        world.hand.advance(Duration::from_millis(waits_ms));
        world.rest();
        world.tell(EVERYBODY, EVERYBODY);
        world.dial(0);
        world.rest();
        let client = &world.clients[0];
        assert_eq!(
            (client.recovered, client.fresh),
            (recovered, 2 - recovered),
            "after {waits_ms} ms"
        );
    }
}

#[test]
fn a_kick_follows_a_session_that_is_being_taken_over() {
    let mut world = world(Plan::ALL[0], 1);
    let home = world.home(0);
    let line = world.clients[0].line.take().unwrap();
    world.half_open.push(line.stream);
    enter_at(&mut world, 0, (home + 1) % 3);
    // The new connection asks for the session; the kick is decided while it is on its way.
    world.shards[(home + 1) % 3].turn(false);
    world.shards[(home + 1) % 3].turn(false);
    world.shards[home].turn(false);
    world.kick(0);
    world.rest();
    assert!(
        world.clients[0].session.is_none(),
        "the client heard that it is disconnected"
    );
    assert_eq!(world.space().n_sessions(), 0);
}

#[test]
fn a_connection_that_was_given_up_does_not_take_a_session_from_a_newer_one() {
    let mut world = world(Plan::ALL[0], 1);
    let home = world.home(0);
    let (slow, fast) = ((home + 1) % 3, (home + 2) % 3);
    for shard in [slow, fast] {
        let given_up = world.clients[0].line.take().unwrap();
        world.half_open.push(given_up.stream);
        enter_at(&mut world, 0, shard);
    }
    // The older connection's shard sleeps until the newer one has the session.
    for _ in 0..6 {
        world.shards[fast].turn(false);
        world.shards[home].turn(false);
    }
    world.rest();
    assert!(world.clients[0].is_in() && world.clients[0].recovered == 1);
    assert_eq!(world.home(0), fast);
}

#[test]
fn a_join_by_the_server_follows_a_session_that_is_being_taken_over() {
    for join_first in [true, false] {
        let mut world = world(Plan::ALL[0], 1);
        let home = world.home(0);
        let other = (home + 1) % 3;
        let id = Id::parse(world.clients[0].sid().unwrap()).unwrap();
        let line = world.clients[0].line.take().unwrap();
        world.half_open.push(line.stream);
        enter_at(&mut world, 0, other);
        world.shards[other].turn(false);
        world.shards[other].turn(false);
        if join_first {
            // It stands behind the question for the session in the inbox.
            world.space().join(id, &["r0", "r1"], By::Server).unwrap();
            world.shards[home].turn(false);
        } else {
            world.shards[home].turn(false);
            world.space().join(id, &["r0", "r1"], By::Server).unwrap();
        }
        world.rest();
        (0..2).for_each(|room| world.clients[0].oracle.on_joined(room, 0));
        world.tell(&[Aim::Room(1)], EVERYBODY);
        world.rest();
        assert_eq!(world.clients[0].oracle.received, 1);
        world.space().leave(id, &["r0"], None).unwrap();
        world.rest();
        assert_eq!(world.space().sizes()[0], 1, "one room is left");
        world.end();
        world.check_accounts();
    }
}

/// An action while a session is on its way to another shard, which has not heard of it (`early`: its old shard has not even
/// been asked for it). What becomes of the session: recovered, fresh after its first, or gone.
#[track_caller]
fn check_act_on_the_way(early: bool, to: &[Aim], action: Action, expected: (usize, usize, bool)) {
    let mut world = world(Plan::ALL[0], 2);
    world.ask(0, 1, true);
    world.rest();
    let home = world.home(0);
    let other = (home + 1) % 3;
    let line = world.clients[0].line.take().unwrap();
    world.half_open.push(line.stream);
    enter_at(&mut world, 0, other);
    world.clients[0].line.as_mut().unwrap().owed = false;
    if !early {
        world.shards[other].turn(false);
        world.shards[other].turn(false);
        // The question for the session lies in the inbox of its shard, in front of the action.
    }
    let to: Vec<Target> = to.iter().map(target).collect();
    if !early && matches!(action, Action::Disconnect { .. }) {
        world.clients[0].doomed = true;
        world.clients[0].oracle.on_end();
    }
    world.space().act(&to, &[], action, None).unwrap();
    world.rest();
    let client = &world.clients[0];
    let got = (client.recovered, client.fresh - 1, client.session.is_none());
    assert_eq!(got, expected, "early {early}, to {to:?}");
    world.end();
    world.check_accounts();
}

#[test]
fn a_session_on_its_way_never_goes_on_as_if_nothing_had_been_done_to_it() {
    let join = || Action::Join(vec![room_name(2)]);
    let leave = || Action::Leave(vec![room_name(1)]);
    let (in_room, elsewhere, user) = (Aim::Room(1), Aim::Room(5), Aim::User("u0".to_owned()));
    let other = Aim::User("u1".to_owned());
    for early in [true, false] {
        let late = usize::from(!early);
        check_act_on_the_way(
            early,
            std::slice::from_ref(&in_room),
            join(),
            (1 - late, late, false),
        );
        check_act_on_the_way(
            early,
            std::slice::from_ref(&user),
            leave(),
            (1 - late, late, false),
        );
        check_act_on_the_way(early, EVERYBODY, join(), (1 - late, late, false));
        check_act_on_the_way(early, &[elsewhere.clone(), other.clone()], join(), (1, 0, false));
        let end = Action::Disconnect { close: false };
        check_act_on_the_way(
            early,
            std::slice::from_ref(&user),
            end.clone(),
            (0, 1 - late, !early),
        );
        check_act_on_the_way(early, std::slice::from_ref(&in_room), end, (0, 1 - late, !early));
    }
}

#[test]
fn an_action_that_one_shard_has_no_place_for_is_done_by_none() {
    let mut world = world(Plan::ALL[0], 6);
    let full = world.shared.inboxes[world.home(0)].clone();
    let n = std::iter::from_fn(|| full.reserve().ok()).count();
    let join = || Action::Join(vec![room_name(2)]);
    let refused = world.space().act(&[], &[], join(), None);
    assert!(
        matches!(refused, Err(crate::Error::Overloaded { .. })),
        "{refused:?}"
    );
    (0..n).for_each(|_| full.release());
    assert_eq!(world.space().sizes()[0], 0, "no room was made");
    assert_eq!(world.space().act(&[], &[], join(), None).unwrap(), 6);
    world.rest();
    world.end();
    world.check_accounts();
}

/// Every publication goes to a room that keeps the newest of three keys; clients join at any time. What comes with
/// the join is exactly the board as it was, and what follows is exactly what is new.
#[test]
fn a_board_is_whole_at_the_join_and_nothing_after_it_is_missing() {
    for seed in 1..40 {
        let _named = Named(seed);
        let mut world = world(Plan::ALL[seed as usize % 4], 12);
        world.rng = Rng::new(seed);
        let mut keys = Vec::new();
        for client in &mut world.clients {
            client.diary = Some(Vec::new());
        }
        for client in 0..world.clients.len() {
            for _ in 0..world.rng.below(12) {
                let key = world.rng.below(3);
                let args = Args {
                    json: format!(r#"{{"n":{}}}"#, keys.len()),
                    attachments: Vec::new(),
                };
                let when_slow = WhenSlow::Conflate(key.to_string());
                let publication = Publication {
                    when_slow,
                    ..Publication::to_room("board", "m", args)
                };
                world.space().publish(publication).unwrap();
                keys.push(key);
                world.turn();
                (0..world.clients.len()).for_each(|client| world.pump(client));
            }
            world.clients[client]
                .line
                .as_mut()
                .unwrap()
                .send(r#"429["join","board"]"#);
        }
        world.rest();
        world.clients.iter().for_each(|client| check_board(client, &keys));
    }
}

fn check_board(client: &Client, keys: &[u64]) {
    let diary = client.diary.as_ref().unwrap();
    let joined = diary
        .iter()
        .position(|text| text.starts_with("39"))
        .expect("the join is answered");
    let n_of = |text: &String| -> usize {
        let digits = text.split(r#""n":"#).nth(1).unwrap();
        digits[..digits.find('}').unwrap()].parse().unwrap()
    };
    let board: Vec<usize> = diary[..joined].iter().map(n_of).collect();
    let news: Vec<usize> = diary[joined + 1..].iter().map(n_of).collect();
    let seen = keys.len() - news.len();
    assert_eq!(
        news,
        (seen..keys.len()).collect::<Vec<_>>(),
        "client {}",
        client.name
    );
    let newest = |key: u64| keys[..seen].iter().rposition(|other| *other == key);
    let mut expected: Vec<usize> = (0..3).filter_map(newest).collect();
    expected.sort_unstable();
    assert_eq!(board, expected, "client {}", client.name);
}
