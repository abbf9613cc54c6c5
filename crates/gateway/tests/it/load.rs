//! Many connections in one process: joins, a broadcast to all, half of them cut, and every account true again.

use std::time::{Duration, Instant};

use tidegate_vitals::{Class, Id as Metric};

use crate::{
    client::{Client, Opening},
    house::{House, open_house},
};

/// Both ends of a connection are files of this process, whose limit is often 20,000.
const FULL: usize = 9_000;
const USUAL: usize = 2_000;
/// Connections opened at a time.
const AT_ONCE: usize = 100;
/// How far an account of a shard may run ahead of what it has charged.
const SLACK: u64 = 2 * (128 << 10);

/// As many as asked for, or as the open-file limit allows.
fn n_connections() -> usize {
    let wanted = if std::env::var("TIDEGATE_LOAD").is_ok_and(|load| load == "full") {
        FULL
    } else {
        USUAL
    };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let files = limit.map_or(usize::MAX, |limit| limit as usize);
    wanted.min(files.saturating_sub(1_000) / 2).max(AT_ONCE) / (2 * AT_ONCE) * (2 * AT_ONCE)
}

async fn connect_all(house: &House, n: usize) -> Vec<Client> {
    let mut all = Vec::with_capacity(n);
    for chunk in 0..n / AT_ONCE {
        let at = house.at;
        let opening = Opening {
            resets: chunk % 2 == 0,
            ..Opening::default()
        };
        let mut opened = tokio::task::JoinSet::new();
        for i in 0..AT_ONCE {
            let opening = opening.clone();
            opened.spawn(async move {
                let mut client = Client::connect_with(at, &opening, "").await;
                client.join(&format!(r#"["all","part:{}"]"#, i % 10)).await;
                client
            });
        }
        all.extend(opened.join_all().await);
    }
    all
}

/// What the memory account holds beside the recovery ring.
fn held(house: &House) -> u64 {
    house.ledger.used_by(Class::Outboxes) + house.ledger.used_by(Class::ReadBuffers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_connections_come_and_half_are_cut() {
    let n = n_connections();
    let began = Instant::now();
    let house = House::start(open_house().configure(|c| c.recovery.window = Duration::from_secs(1))).await;
    let mut clients = connect_all(&house, n).await;
    println!("{n} sessions in {:?}", began.elapsed());
    assert_eq!(house.gateway.n_connections(), n);
    house.figure(Metric::GatewaySessions, n as u64).await;
    let rooms = house.gateway.inspector().rooms("/", None, 100).items;
    let members: Vec<usize> = rooms.iter().map(|room| room.members).collect();
    assert_eq!(members, [vec![n], vec![n / 10; 10]].concat());

    house.say("all", 42);
    for client in &mut clients {
        assert_eq!(client.data_of("m").await, 42);
    }

    // A reset is how a crash looks, an end of stream without a close frame how a broken proxy does.
    let rest = clients.split_off(n / 2);
    drop(clients);
    house
        .eventually("half of them are gone", || house.gateway.n_connections() == n / 2)
        .await;
    house.figure(Metric::GatewaySessions, n as u64 / 2).await;
    let states =
        || ["active", "idle", "stale", "broken"].map(|s| house.labelled(Metric::GatewayConnections, s));
    house
        .eventually("states are true", || states() == [n as u64 / 2, 0, 0, 0])
        .await;
    house
        .eventually("rooms are true", || {
            house.gateway.inspector().rooms("/", None, 1).items[0].members == n / 2
        })
        .await;

    drop(rest);
    house.figure(Metric::GatewaySessions, 0).await;
    house
        .eventually("nothing is left", || {
            house.gateway.inspector().rooms("/", None, 1).items.is_empty()
        })
        .await;
    for figure in [
        Metric::GatewayConnections,
        Metric::GatewayOutboxBytes,
        Metric::GatewayOutboxFrames,
        Metric::GatewayRooms,
    ] {
        house.figure(figure, 0).await;
    }
    assert_eq!(house.gateway.n_connections(), 0);
    assert!(held(&house) <= 2 * SLACK, "{} bytes", held(&house));
    house.end().await;
}
