//! Batch events: opt-in, bounded by number, bytes and age, in order.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_gateway::{Args, BatchConfig, Config};

use crate::{
    client::{Client, Opening, Packet},
    house::{House, open_house},
};

const DELAY: Duration = Duration::from_millis(50);

fn batches(messages_max: usize, bytes_max: usize) -> impl FnOnce(&mut Config) {
    move |config| {
        config.batch = BatchConfig {
            messages_max,
            bytes_max,
            delay: DELAY,
        }
    }
}

async fn batching(house: &House) -> Client {
    let mut client = Client::connect_with(house.at, &Opening::default(), r#"{"batch":true}"#).await;
    client.join(r#""r""#).await;
    client
}

/// The numbers in the next event, which must be a batch of well-formed messages.
async fn next_batch(client: &mut Client) -> Vec<u64> {
    let batch = client.data_of("batch").await;
    let messages = batch["messages"].as_array().unwrap();
    assert_eq!(
        (&batch["type"], &batch["batch_size"]),
        (&json!("batch"), &json!(messages.len()))
    );
    assert!(messages.iter().all(|message| message["event"] == "m"));
    messages
        .iter()
        .map(|message| message["data"].as_u64().unwrap())
        .collect()
}

/// Nothing is on its way to the client.
async fn assert_silent(client: &mut Client) {
    assert_eq!(client.ask("echo", "0").await, 0);
    assert_eq!(client.next_within(Duration::ZERO).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ways_to_ask_for_batches_give_them_by_number_and_age() {
    let house = House::start_manual(open_house().configure(batches(5, 64 << 10))).await;
    for (query, auth) in [
        ("&batch=1", ""),
        ("", r#"{"batch":true}"#),
        ("&batch=0", r#"{"batch":1}"#),
    ] {
        let mut client = Client::connect_with(
            house.at,
            &Opening {
                query,
                ..Opening::default()
            },
            auth,
        )
        .await;
        client.join(r#""r""#).await;
        (0..12).for_each(|n| house.say("r", n));
        house.nudge().await;
        assert_eq!(next_batch(&mut client).await, [0, 1, 2, 3, 4]);
        assert_eq!(next_batch(&mut client).await, [5, 6, 7, 8, 9]);
        house.pass(DELAY - Duration::from_millis(1)).await;
        assert_silent(&mut client).await;
        house.pass(Duration::from_millis(1)).await;
        assert_eq!(next_batch(&mut client).await, [10, 11]);
    }
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_bounded_by_bytes() {
    let house = House::start_manual(open_house().configure(batches(100, 64))).await;
    let mut client = batching(&house).await;
    // 24 bytes each with its comma.
    (10..16).for_each(|n| house.say("r", n));
    assert_eq!(next_batch(&mut client).await, [10, 11, 12]);
    assert_eq!(next_batch(&mut client).await, [13, 14, 15]);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_and_urgent_messages_go_by_themselves_and_in_order() {
    let house = House::start_manual(open_house().configure(batches(100, 64 << 10))).await;
    let mut client = batching(&house).await;
    house.say("r", 1);
    house.say("r", 2);
    house
        .gateway
        .to("r")
        .emit_args("m", Args::new().and_binary(&b"3"[..]))
        .unwrap();
    house.say("r", 4);
    house.gateway.to("r").urgent().emit("m", &5).unwrap();
    house.say("r", 6);
    assert_eq!(next_batch(&mut client).await, [1, 2]);
    let Packet::Event { name, binary, .. } = client.next().await else {
        panic!("an event")
    };
    assert_eq!((name.as_str(), &binary[0][..]), ("m", &b"3"[..]));
    assert_eq!(next_batch(&mut client).await, [4]);
    assert_eq!(client.data_of("m").await, 5);
    house.nudge().await;
    house.pass(DELAY).await;
    assert_eq!(next_batch(&mut client).await, [6]);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_arguments_are_an_array_and_none_is_null() {
    let house = House::start_manual(open_house().configure(batches(3, 64 << 10))).await;
    let mut client = batching(&house).await;
    for array in ["[]", "[1]", r#"[1,"two"]"#] {
        house
            .gateway
            .to("r")
            .emit_args("m", crate::house::args(array))
            .unwrap();
    }
    let batch = client.data_of("batch").await;
    let data: Vec<&Value> = batch["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["data"])
        .collect();
    assert_eq!(data, [&json!(null), &json!(1), &json!([1, "two"])]);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flush_all_and_recovery_lose_nothing_of_a_batch() {
    let house = House::start_manual(open_house().configure(batches(100, 64 << 10))).await;
    let mut client = batching(&house).await;
    house.say("r", 1);
    house.gateway.publisher().flush_all();
    assert_eq!(next_batch(&mut client).await, [1]);
    house.say("r", 2);
    house.nudge().await;
    // What waited in the batch of the lost connection comes again by itself.
    let mut auth = client.recovery_auth();
    auth.insert_str(1, r#""batch":true,"#);
    drop(client);
    house
        .eventually("the connection is gone", || house.gateway.n_connections() == 0)
        .await;
    let mut client = Client::reconnect(house.at, &auth).await;
    assert_eq!(client.data_of("m").await, 2);
    house.say("r", 3);
    house.nudge().await;
    house.pass(DELAY).await;
    assert_eq!(next_batch(&mut client).await, [3]);
    drop(client);
    house.end().await;
}
