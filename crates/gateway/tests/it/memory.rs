//! Memory pressure: what is given up at each level, what comes back at normal, and that nobody else pays for it.

use std::time::{Duration, Instant};

use serde_json::json;
use tidegate_gateway::{Code, Error, RoomOptions};
use tidegate_vitals::{
    Class, Id as Metric,
    pressure::{Ask, Level},
    process::rss_bytes,
};

use crate::{
    client::{Client, Opening, Packet, Stream, get},
    house::{House, open_house},
};

const ALL: u64 = 1 << 40;
const MIB: u64 = 1 << 20;

/// Asks the gateway at the lower edge of a level; the bytes it promises.
fn press(house: &House, level: Level, bytes_wanted: u64) -> u64 {
    let ask = Ask {
        level,
        within: 0.0,
        bytes_wanted,
    };
    house.gateway.shed().shed(&ask)
}

fn relieved(house: &House, reaction: &str) -> u64 {
    house.labelled(Metric::GatewayRelief, reaction)
}

/// Publishes `n` messages of a kilobyte to a room.
fn fill(house: &House, room: &str, n: usize) {
    let pad = "x".repeat(1_000);
    for _ in 0..n {
        house.gateway.to(room).emit("m", &pad).unwrap();
    }
}

#[tokio::test]
async fn at_high_nobody_new_is_let_in_until_it_is_over() {
    let house = House::start_manual(open_house()).await;
    let mut inside = Client::connect(house.at).await;
    press(&house, Level::Moderate, ALL);
    drop(Client::connect(house.at).await);
    press(&house, Level::High, 0);
    let websocket = Client::try_open(house.at, &Opening::default())
        .await
        .err()
        .expect("refused");
    let polling = get(house.at, "/socket.io/?EIO=4&transport=polling", "").await;
    for answer in [websocket, polling] {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
        assert_eq!(answer.json()["error"]["code"], "overloaded");
    }
    assert_eq!(house.labelled(Metric::GatewayRefused, "memory"), 2);
    assert_eq!(inside.ask("echo", "1").await, 1);
    house.gateway.shed().level(Level::Normal);
    drop(Client::connect(house.at).await);
    drop(inside);
    house.end().await;
}

#[tokio::test]
async fn rings_shrink_to_their_share_and_the_newest_is_still_recovered() {
    let house = House::start_manual(open_house().configure(|c| c.recovery.ring_bytes_max = 1 << 20)).await;
    let mut old = Client::connect(house.at).await;
    let mut new = Client::connect(house.at).await;
    for client in [&mut old, &mut new] {
        client.join(r#""r""#).await;
    }
    house.say("r", 1);
    assert_eq!(old.data_of("m").await, 1);
    fill(&house, "r", 400);
    let before = house.ledger.used_by(Class::Rings);
    assert!(before > MIB / 2, "{before} bytes in the ring");
    for _ in 0..401 {
        new.event().await;
    }
    let (old_auth, new_auth) = (old.recovery_auth(), new.recovery_auth());
    let (old_sid, new_sid) = (old.sid.clone(), new.sid.clone());
    drop((old, new));
    house
        .eventually("both are lost", || house.gateway.n_connections() == 0)
        .await;
    let promised = press(&house, Level::Moderate, ALL);
    assert!(promised > 0);
    let used = || house.ledger.used_by(Class::Rings);
    house
        .eventually("the ring is cut", || {
            used() <= MIB * 3 / 4 && relieved(&house, "rings") > 0
        })
        .await;
    assert!(used() > MIB / 2, "no more than that is cut");
    house.gateway.shed().level(Level::Normal);
    let new = Client::reconnect(house.at, &new_auth).await;
    assert_eq!(new.sid, new_sid, "what it has seen is all there was");
    let fresh = Client::reconnect(house.at, &old_auth).await;
    assert_ne!(fresh.sid, old_sid, "what it has missed is gone");
    assert_eq!(house.labelled(Metric::GatewayRecoverMissed, "ring_passed"), 1);
    drop((new, fresh));
    house.end().await;
}

#[tokio::test]
async fn histories_are_cut_and_last_values_stay() {
    let keeps = RoomOptions {
        last: 1,
        history_messages: 100,
        ..RoomOptions::default()
    };
    let house =
        House::start_manual(open_house().configure(|c| c.rooms = vec![("h".to_owned(), keeps)])).await;
    let n_history = || house.gateway.inspector().rooms("/", None, 1).items[0].history;
    fill(&house, "h", 120);
    assert_eq!(n_history(), 100);
    press(&house, Level::High, ALL);
    house.eventually("history is cut", || n_history() == 50).await;
    assert_eq!(relieved(&house, "history"), 50);
    assert_eq!(house.gateway.inspector().rooms("/", None, 1).items[0].retained, 1);
    house.gateway.shed().level(Level::Normal);
    house.nudge().await;
    fill(&house, "h", 60);
    assert_eq!(n_history(), 100);
    house.end().await;
}

#[tokio::test]
async fn silent_clients_go_first_and_may_come_back() {
    let house = House::start_manual(open_house()).await;
    let mut silent = Client::connect(house.at).await;
    let mut busy = Client::connect(house.at).await;
    house.pass(Duration::from_secs(61)).await;
    assert_eq!(busy.ask("echo", "1").await, 1);
    // Time passes by a second, in which states are counted.
    house.figure(Metric::GatewaySessions, 2).await;
    assert_eq!(house.labelled(Metric::GatewayConnections, "idle"), 1);
    press(&house, Level::High, ALL);
    let (_, code, reason) = silent.closed().await;
    assert_eq!((code, reason.as_str()), (Some(4012), "memory_pressure"));
    assert_eq!((relieved(&house, "idle"), relieved(&house, "stale")), (1, 0));
    assert_eq!(house.labelled(Metric::GatewayClosed, "memory_pressure"), 1);
    house.gateway.shed().level(Level::Normal);
    let back = Client::reconnect(house.at, &silent.recovery_auth()).await;
    assert_eq!(back.sid, silent.sid);
    assert_eq!(busy.ask("echo", "2").await, 2);
    drop((back, silent, busy));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outboxes_are_bounded_sooner_and_the_slowest_is_closed() {
    let house = House::start(open_house().configure(|c| c.shards = 1)).await;
    let opening = Opening {
        small: true,
        ..Opening::default()
    };
    let mut slow = Client::connect_with(house.at, &opening, "").await;
    let mut healthy = Client::connect(house.at).await;
    slow.join(r#""r""#).await;
    healthy.join(r#""r""#).await;
    press(&house, Level::High, 0);
    let pad = "x".repeat(32 << 10);
    for _ in 0..400 {
        house.gateway.to("r").drop_oldest().emit("m", &pad).unwrap();
        healthy.event().await;
    }
    let info = house.gateway.inspector().connection(&slow.sid).await.unwrap();
    let bounds = 32 << 10..=128 << 10;
    assert!(
        bounds.contains(&info.queued_bytes),
        "half of the soft limit: {info:?}"
    );
    assert_eq!(relieved(&house, "outboxes"), 1);
    house
        .eventually("what waits is counted", || {
            house.count(Metric::GatewayOutboxBytes) > 0
        })
        .await;
    press(&house, Level::Critical, ALL);
    house
        .eventually("the slow one is closed", || house.gateway.n_connections() == 1)
        .await;
    assert_eq!(
        (relieved(&house, "slow"), house.count(Metric::GatewaySlowClosed)),
        (1, 1)
    );
    assert_eq!(healthy.ask("echo", "1").await, 1);
    drop((slow, healthy));
    house.end().await;
}

#[tokio::test]
async fn what_cannot_be_paid_for_is_refused_alone() {
    let house = House::start_manual(open_house()).await;
    let mut client = Client::connect(house.at).await;
    let mut other = Client::open(house.at).await;
    let open = house.ledger.limit();
    house.ledger.set_limit(house.ledger.used());
    let refused = house.gateway.to("r").emit("m", &1).unwrap_err();
    assert!(matches!(refused, Error::Memory(_)) && refused.code() == Code::Overloaded);
    let answer = client.ask("echo", "1").await;
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["retryable"]),
        (&json!("overloaded"), &json!(true))
    );
    // Sessions and rooms are paid for ahead, by the chunk: with so many names the chunk is soon used up.
    let name = "n".repeat(250);
    let mut joined = 0;
    let code = loop {
        let answer = client.ask("join", &format!(r#""{name}{joined}""#)).await;
        if answer["ok"] != true {
            break answer["error"]["code"].clone();
        }
        joined += 1;
        assert!(joined < 1_000, "rooms are not paid for");
    };
    assert_eq!(code, "overloaded");
    assert_eq!(
        get(house.at, "/socket.io/?EIO=4&transport=polling", "")
            .await
            .status,
        503
    );
    let no_memory = |what| house.labelled(Metric::GatewayNoMemory, what);
    assert_eq!(["publication", "event", "join"].map(no_memory), [1, 1, 1]);
    house.ledger.set_limit(open);
    assert_eq!(client.ask("echo", "2").await, 2);
    assert!(matches!(other.enter("").await, Packet::Connect { .. }));
    drop((client, other));
    house.end().await;
}

#[tokio::test]
async fn events_and_parts_of_events_are_paid_for_and_given_back() {
    let house = House::start_manual(open_house()).await;
    let mut client = Client::connect(house.at).await;
    let part = "x".repeat(200_000);
    client
        .send(&format!(
            r#"452-["echo",{{"_placeholder":true,"num":0}},"{part}"]"#
        ))
        .await;
    let reads = || house.ledger.used_by(Class::ReadBuffers);
    house
        .eventually("the header waits for its attachments", || reads() >= 200_000)
        .await;
    drop(client);
    house.eventually("it is given back", || reads() < 200_000).await;
    house
        .eventually("events are given back", || {
            house.ledger.used_by(Class::Handlers) == 0
        })
        .await;
    house.end().await;
}

// === Memory given back ===

/// Bytes that all clients together have on the way, so that a run of any size can fail.
const ON_THE_WAY: usize = 192 << 20;

/// How many come, as in `load.rs`.
fn n_connections() -> usize {
    let full = std::env::var("TIDEGATE_LOAD").is_ok_and(|load| load == "full");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = limit.map_or(usize::MAX, |limit| limit as usize);
    let wanted = if full { 10_000 } else { 1_000 };
    wanted.min(files.saturating_sub(1_000) / 2) / 100 * 100
}

/// Clients in the middle of a message, of which the server keeps what has come.
async fn busy_clients(house: &House, n: usize) -> Vec<Box<dyn Stream>> {
    let part = vec![0; ON_THE_WAY / n];
    let mut all = Vec::with_capacity(n);
    for _ in 0..n {
        let mut client = Client::connect(house.at).await;
        // A masked text frame of 900,000 bytes that never ends.
        let mut head = vec![0x81, 0x80 | 127];
        head.extend_from_slice(&900_000_u64.to_be_bytes());
        head.extend_from_slice(&[1, 2, 3, 4]);
        client.send_raw(&head).await;
        client.send_raw(&part).await;
        all.push(client.into_stream());
    }
    all
}

/// Runs in a process of its own: resident memory is no test's alone.
#[test]
fn memory_is_given_back_when_nine_of_ten_clients_leave() {
    const ALONE: &str = "TIDEGATE_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "memory::memory_is_given_back_when_nine_of_ten_clients_leave",
            ])
            .env(ALONE, "1")
            // The system's allocator, told to give back at once what is freed: this test asks what the gateway holds.
            .env("MALLOC_ARENA_MAX", "1")
            .env("MALLOC_MMAP_THRESHOLD_", "16384")
            .env("MALLOC_TRIM_THRESHOLD_", "65536")
            .status();
        assert!(status.unwrap().success(), "see above");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(leave());
}

async fn leave() {
    let far = Duration::from_secs(3_600);
    let house = House::start(open_house().configure(|c| {
        c.ping_interval = far;
        c.recovery.window = Duration::from_secs(1);
    }))
    .await;
    let rss = || rss_bytes().expect("the system says it");
    drop(busy_clients(&house, 10).await);
    house
        .eventually("the first are gone", || house.gateway.n_connections() == 0)
        .await;
    let base = rss();
    let n = n_connections();
    let mut clients = busy_clients(&house, n).await;
    let reads = || house.ledger.used_by(Class::ReadBuffers);
    house
        .eventually("all has come", || reads() >= (ON_THE_WAY - ON_THE_WAY / 8) as u64)
        .await;
    let full = rss();
    clients.truncate(n / 10);
    house
        .eventually("nine of ten are gone", || house.gateway.n_connections() == n / 10)
        .await;
    house.figure(Metric::GatewaySessions, n as u64 / 10).await;
    let live = base + (full - base) / 10;
    let allowed = live * 8 / 5 + 64 * MIB;
    assert!(
        full > allowed,
        "{full} bytes with all of them are too few to show anything"
    );
    press(&house, Level::Moderate, ALL);
    house
        .eventually("memory is given back", || rss() <= allowed)
        .await;
    println!(
        "{n} clients: {} MiB before, {} with all, {} MiB with one of ten, {} allowed",
        base / MIB,
        full / MIB,
        rss() / MIB,
        allowed / MIB
    );
    assert!(reads() < ON_THE_WAY as u64 / 5, "{} bytes of reads", reads());
    drop(clients);
    house.end().await;
}

// === A flood ===

const HEALTHY: usize = 20;
const SLOW: usize = 60;
const ROUNDS: u64 = 150;
/// Large messages to slow ones in each round.
const AT_ONCE: usize = 12;
/// Less than the slow ones alone would hold.
const LIMIT: u64 = 48 * MIB;

/// The level that this much used memory stands for; in the binary `vitals` says so.
fn level_of(house: &House) -> Level {
    match house.ledger.used() * 100 / LIMIT {
        0..60 => Level::Normal,
        60..72 => Level::Moderate,
        72..80 => Level::High,
        _ => Level::Critical,
    }
}

/// Publishes to the healthy and waits until all of them have it; a refusal for want of memory is tried again once the
/// gateway has given some back.
async fn say(house: &House, healthy: &mut [Client], n: u64) -> Duration {
    let began = Instant::now();
    while let Err(error) = house.gateway.to("healthy").emit("m", &n) {
        assert!(matches!(error, Error::Memory(_)), "{error}");
        press(house, Level::Critical, LIMIT / 2);
        house.nudge().await;
    }
    for client in healthy {
        assert_eq!(client.data_of("m").await, n);
    }
    began.elapsed()
}

/// Median and P99.
fn quantiles(mut times: Vec<Duration>) -> [Duration; 2] {
    times.sort_unstable();
    [50, 99].map(|percent| times[times.len() * percent / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_slow_consumers_costs_the_healthy_nothing() {
    let house = House::start(open_house()).await;
    house.ledger.set_limit(LIMIT);
    let opening = Opening {
        small: true,
        ..Opening::default()
    };
    let (mut healthy, mut slow) = (Vec::new(), Vec::new());
    for _ in 0..HEALTHY {
        let mut client = Client::connect(house.at).await;
        client.join(r#""healthy""#).await;
        healthy.push(client);
    }
    for _ in 0..SLOW {
        slow.push(Client::connect_with(house.at, &opening, "").await);
    }
    let mut calm = Vec::new();
    for n in 0..ROUNDS {
        calm.push(say(&house, &mut healthy, n).await);
    }
    let pad = "x".repeat(200_000);
    let (mut flooded, mut refused, mut worst) = (Vec::new(), 0, Level::Normal);
    for n in 0..ROUNDS {
        for client in slow
            .iter()
            .cycle()
            .skip(n as usize * AT_ONCE % SLOW)
            .take(AT_ONCE)
        {
            match house.gateway.to(&client.sid).emit("big", &pad) {
                Ok(_) => {}
                Err(Error::Memory(_)) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let level = level_of(&house);
        worst = worst.max(level);
        if level > Level::Normal {
            press(&house, level, house.ledger.used() - LIMIT / 2);
        }
        // What is measured is the company of slow consumers, not the line behind their messages.
        house.nudge().await;
        flooded.push(say(&house, &mut healthy, ROUNDS + n).await);
        assert!(house.ledger.used() <= LIMIT);
    }
    let (calm, flooded) = (quantiles(calm), quantiles(flooded));
    let ratios = [0, 1].map(|i| flooded[i].as_secs_f64() / calm[i].as_secs_f64());
    println!(
        "median and P99 {calm:?} before, {flooded:?} in the flood, {ratios:.1?} times; {refused} refused, at worst {worst:?}"
    );
    assert!(worst >= Level::High, "a flood is more than that: {worst:?}");
    assert!(
        house.count(Metric::GatewaySlowClosed) + house.labelled(Metric::GatewayClosed, "out_of_memory") > 0
    );
    house
        .eventually("memory is enough again", || {
            let level = level_of(&house);
            if level > Level::Normal {
                press(&house, level, LIMIT / 2);
            }
            level == Level::Normal
        })
        .await;
    house.gateway.shed().level(Level::Normal);
    let mut back = Client::connect(house.at).await;
    assert_eq!(back.ask("echo", "1").await, 1);
    drop((back, healthy, slow));
    house.end().await;
}
