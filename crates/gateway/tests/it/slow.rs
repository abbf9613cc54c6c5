//! Slow consumers: bounded, by the policy of each publication, and never at the cost of the others.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};
use tidegate_gateway::{Builder, Emitter};
use tidegate_vitals::Id as Metric;

use crate::{
    client::{Client, Opening},
    house::{House, open_house},
};

/// Enough to fill what the kernel holds for a socket and the outbox behind it.
const N: u64 = 400;
const PAD_BYTES: usize = 32 << 10;
/// Ring, outbox and messages on their way, each message counted with its encoded copies.
const USED_MAX: u64 = 24 << 20;

fn one_shard() -> Builder {
    open_house().configure(|config| {
        config.shards = 1;
        config.recovery.ring_bytes_max = 1 << 20;
    })
}

/// A client that does not read, and one that does, in one room.
async fn pair(house: &House) -> (Client, Client) {
    let opening = Opening {
        small: true,
        ..Opening::default()
    };
    let mut slow = Client::connect_with(house.at, &opening, "").await;
    let mut healthy = Client::connect(house.at).await;
    slow.join(r#""r""#).await;
    healthy.join(r#""r""#).await;
    (slow, healthy)
}

/// Publishes `N` padded numbers; the healthy client gets all of them in order while memory stays bounded.
async fn feed(house: &House, healthy: &mut Client, policy: impl Fn(Emitter, u64) -> Emitter) {
    let pad = "x".repeat(PAD_BYTES);
    for chunk in 0..N / 8 {
        for n in chunk * 8..chunk * 8 + 8 {
            let message = json!({"n": n, "pad": pad});
            policy(house.gateway.to("r"), n).emit("m", &message).unwrap();
        }
        for n in chunk * 8..chunk * 8 + 8 {
            assert_eq!(healthy.data_of("m").await["n"], n);
        }
        assert!(
            house.ledger.used() < USED_MAX,
            "{} bytes used",
            house.ledger.used()
        );
    }
}

fn number(message: &Value) -> u64 {
    message["n"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_closed_and_the_others_notice_nothing() {
    let house = House::start(one_shard()).await;
    let (slow, mut healthy) = pair(&house).await;
    feed(&house, &mut healthy, |emitter, _| emitter).await;
    house.figure(Metric::GatewaySlowClosed, 1).await;
    assert_eq!(house.labelled(Metric::GatewayClosed, "slow_consumer"), 1);
    assert_eq!(house.gateway.n_connections(), 1);
    drop((slow, healthy));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drop_oldest_keeps_the_connection_and_the_newest() {
    let house = House::start(one_shard()).await;
    let (mut slow, mut healthy) = pair(&house).await;
    feed(&house, &mut healthy, |emitter, _| emitter.drop_oldest()).await;
    let info = house.gateway.inspector().connection(&slow.sid).await.unwrap();
    assert!(
        info.queued_bytes <= 256 << 10 && info.queued_messages > 0,
        "{info:?}"
    );
    let mut got = vec![number(&slow.data_of("m").await)];
    while got.last() != Some(&(N - 1)) {
        got.push(number(&slow.data_of("m").await));
    }
    assert!(got.is_sorted_by(|a, b| a < b), "{got:?}");
    house.figure(Metric::GatewayDropped, N - got.len() as u64).await;
    assert_eq!(house.count(Metric::GatewaySlowClosed), 0);
    house.figure(Metric::GatewayOutboxBytes, 0).await;
    drop((slow, healthy));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflation_leaves_the_newest_of_each_key() {
    const KEYS: u64 = 5;
    let house = House::start(one_shard()).await;
    let (mut slow, mut healthy) = pair(&house).await;
    feed(&house, &mut healthy, |emitter, n| {
        emitter.conflate((n % KEYS).to_string())
    })
    .await;
    let mut newest = HashMap::new();
    let mut n_got = 0;
    while newest.len() < KEYS as usize || !newest.values().all(|n| *n >= N - KEYS) {
        let n = number(&slow.data_of("m").await);
        let before = newest.insert(n % KEYS, n);
        assert!(before.is_none_or(|before| before < n), "{before:?} then {n}");
        n_got += 1;
    }
    assert!(n_got < N, "nothing was conflated");
    house.figure(Metric::GatewayConflated, N - n_got).await;
    assert_eq!(house.count(Metric::GatewaySlowClosed), 0);
    drop((slow, healthy));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_takes_nothing_is_closed_in_time() {
    let house =
        House::start(one_shard().configure(|c| c.outbox.stall_timeout = Duration::from_millis(100))).await;
    let (slow, mut healthy) = pair(&house).await;
    feed(&house, &mut healthy, |emitter, _| emitter.drop_oldest()).await;
    house.figure(Metric::GatewaySlowClosed, 1).await;
    house
        .eventually("its place is free", || house.gateway.n_connections() == 1)
        .await;
    assert_eq!(healthy.ask("echo", "1").await, 1);
    drop((slow, healthy));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_a_client_that_never_reads_are_bounded_too() {
    let house = House::start(one_shard()).await;
    let (mut flood, mut healthy) = pair(&house).await;
    let line = format!(r#""{}""#, "x".repeat(PAD_BYTES));
    for n in 0..N {
        flood.emit("echo", &line).await;
        if n % 50 == 0 {
            assert_eq!(healthy.ask("echo", "1").await, 1);
        }
    }
    house.figure(Metric::GatewaySlowClosed, 1).await;
    assert!(
        house.ledger.used() < USED_MAX,
        "{} bytes used",
        house.ledger.used()
    );
    drop((flood, healthy));
    house.end().await;
}
