//! Handlers: their order, their limits, and what their failures cost.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tidegate_gateway::{Builder, Code, Error, Event, Socket};
use tidegate_vitals::Id as Metric;
use tokio::sync::Semaphore;

use crate::{
    client::{Client, Opening, Packet},
    house::{House, code_of, open_house},
};

type Seen = Arc<Mutex<Vec<u64>>>;

/// Event `work` notes its number once the gate lets it through.
fn gated(seen: &Seen, gate: &Arc<Semaphore>) -> Builder {
    let (seen, gate) = (seen.clone(), gate.clone());
    open_house()
        .on("work", move |_: Socket, n: u64| {
            let (seen, gate) = (seen.clone(), gate.clone());
            async move {
                gate.acquire().await.unwrap().forget();
                seen.lock().unwrap().push(n);
                Ok(n)
            }
        })
        .configure(|config| {
            config.limits.handlers_in_flight = 4;
            config.ping_interval = Duration::from_secs(10);
            config.ping_timeout = Duration::from_secs(5);
        })
}

fn numbers(n: u64) -> Vec<u64> {
    (0..n).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_session_are_handled_one_at_a_time_in_order() {
    let seen = Seen::default();
    let noted = seen.clone();
    let builder = open_house().on_event("work", move |_: Socket, event: Event| {
        let noted = noted.clone();
        async move {
            let n = event.payload::<u64>().unwrap();
            // The earlier ones take longer.
            for _ in 0..(20 - n % 20) {
                tokio::task::yield_now().await;
            }
            noted.lock().unwrap().push(n);
            event.answer(Ok(n));
        }
    });
    let house = House::start(builder).await;
    let mut client = Client::connect(house.at).await;
    for n in 0..200 {
        client.emit_asking("work", &n.to_string()).await;
    }
    for n in 0..200 {
        let Packet::Ack { id, args, .. } = client.next().await else {
            panic!("an ack")
        };
        assert_eq!((id, args), (n, json!([n])));
    }
    assert_eq!(*seen.lock().unwrap(), numbers(200));
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_stops_above_the_limit_and_the_pong_deadline_with_it() {
    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let house = House::start_manual(gated(&seen, &gate)).await;
    let mut client = Client::connect(house.at).await;
    let mut other = Client::connect(house.at).await;
    for n in 0..100 {
        client.emit("work", &n.to_string()).await;
    }
    house.figure(Metric::GatewayReadingPaused, 1).await;
    // The one that is not read is left alone, whatever its pong would say; the other lives by its own.
    for _ in 0..12 {
        house.pass(Duration::from_secs(5)).await;
        assert_eq!(other.ask("echo", "1").await, 1);
    }
    assert_eq!(house.gateway.n_connections(), 2);
    assert!(seen.lock().unwrap().is_empty());
    gate.add_permits(100);
    house
        .eventually("all are handled", || seen.lock().unwrap().len() == 100)
        .await;
    assert_eq!(*seen.lock().unwrap(), numbers(100));
    house.figure(Metric::GatewayReadingPaused, 0).await;
    assert_eq!(client.ask("echo", "1").await, 1);
    // Read again, it is held to its pongs again.
    client.pongs = false;
    for _ in 0..4 {
        house.pass(Duration::from_secs(5)).await;
        assert_eq!(other.ask("echo", "1").await, 1);
    }
    assert_eq!(client.close_code().await, Some(4004));
    drop((client, other));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_dies_while_it_is_not_read_is_noticed() {
    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let house = House::start(gated(&seen, &gate)).await;
    let opening = Opening {
        resets: true,
        ..Opening::default()
    };
    let mut client = Client::connect_with(house.at, &opening, "").await;
    for n in 0..50 {
        client.emit("work", &n.to_string()).await;
    }
    house.figure(Metric::GatewayReadingPaused, 1).await;
    drop(client);
    house
        .eventually("the connection is gone", || house.gateway.n_connections() == 0)
        .await;
    house.figure(Metric::GatewayReadingPaused, 0).await;
    gate.add_permits(50);
    house.figure(Metric::GatewayHandlerInFlight, 0).await;
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_ends_does_not_leave_its_connection_unread() {
    let gate = Arc::new(Semaphore::new(0));
    let wait = gate.clone();
    let builder = open_house()
        .configure(|c| c.limits.handlers_in_flight = 4)
        .namespace("/busy", move |space| {
            space.on("work", move |_: Socket, _: u64| {
                let wait = wait.clone();
                async move {
                    let _permit = wait.acquire().await.unwrap();
                    Ok(())
                }
            })
        });
    let house = House::start(builder).await;
    let mut client = Client::connect(house.at).await;
    client.send("40/busy,").await;
    let Packet::Connect { data, .. } = client.next().await else {
        panic!("connected")
    };
    for n in 0..20 {
        client.send(&format!(r#"42/busy,["work",{n}]"#)).await;
    }
    house.figure(Metric::GatewayReadingPaused, 1).await;
    assert!(
        house
            .gateway
            .inspector()
            .disconnect_session(data["sid"].as_str().unwrap())
    );
    assert_eq!(
        client.next().await,
        Packet::Disconnect {
            namespace: "/busy".to_owned()
        }
    );
    house.figure(Metric::GatewayReadingPaused, 0).await;
    gate.add_permits(20);
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_handler_costs_that_event_only() {
    let builder = open_house()
        .on_inline("inline", |_: &Socket, _: Event| {
            panic!("inline handler, on purpose")
        })
        .on_event("async", |_: Socket, _: Event| async {
            panic!("async handler, on purpose")
        })
        .websocket_endpoint("/raw", 1_000, |_| panic!("raw handler, on purpose"));
    let house = House::start(builder).await;
    let mut client = Client::connect(house.at).await;
    for event in ["inline", "async", "inline", "async"] {
        client.emit(event, "1").await;
    }
    assert_eq!(client.ask("echo", "7").await, 7);
    house.figure(Metric::GatewayHandlerErrors, 4).await;
    let stream = Box::new(tokio::net::TcpStream::connect(house.at).await.unwrap());
    let mut raw = Client::upgrade(stream, "/raw", &Opening::default())
        .await
        .ok()
        .unwrap();
    raw.send("boom").await;
    house.figure(Metric::GatewayHandlerErrors, 5).await;
    assert_eq!(
        house
            .gateway
            .inspector()
            .connection(&client.sid)
            .await
            .unwrap()
            .errors,
        4
    );
    assert_eq!(client.ask("echo", "8").await, 8);
    drop((client, raw));
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_handlers_have_one_shape() {
    let builder = open_house()
        .on("double", |_: Socket, n: u64| async move { Ok(2 * n) })
        .on("both", |_: Socket, (a, b): (u64, String)| async move {
            Ok(format!("{b}{a}"))
        })
        .on("none", |_: Socket, (): ()| async move { Ok(()) })
        .on("refuse", |_: Socket, _: Value| async move {
            Err::<(), _>(Error::Application {
                code: Code::Forbidden,
                message: "not today".to_owned(),
            })
        });
    let house = House::start(builder).await;
    let mut client = Client::connect(house.at).await;
    assert_eq!(client.ask("double", "21").await, 42);
    assert_eq!(client.ask("both", r#"1,"n""#).await, "n1");
    assert_eq!(client.ask("none", "null").await, Value::Null);
    let refused = client.ask("refuse", "1").await;
    assert_eq!(
        (code_of(&refused), &refused["error"]["message"]),
        ("forbidden", &json!("not today"))
    );
    assert_eq!(code_of(&client.ask("double", r#""text""#).await), "bad_request");
    assert_eq!(code_of(&client.ask("unheard-of", "1").await), "not_found");
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_over_its_event_rate_is_told_so() {
    let house = House::start_manual(open_house().configure(|c| c.limits.events_per_second = Some(2))).await;
    let mut client = Client::connect(house.at).await;
    for _ in 0..4 {
        assert_eq!(client.ask("echo", "1").await, 1);
    }
    assert_eq!(code_of(&client.ask("echo", "1").await), "rate_limited");
    client.emit("echo", "2").await;
    house
        .eventually("both are refused", || {
            house.count(Metric::GatewayRateLimited) == 2
        })
        .await;
    house.pass(Duration::from_millis(500)).await;
    assert_eq!(client.ask("echo", "1").await, 1);
    assert_eq!(code_of(&client.ask("echo", "1").await), "rate_limited");
    house.figure(Metric::GatewayRateLimited, 3).await;
    assert_eq!(
        house
            .gateway
            .inspector()
            .connection(&client.sid)
            .await
            .unwrap()
            .errors,
        3
    );
    drop(client);
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wait_for_the_connect_handler_whose_error_disconnects() {
    let gate = Arc::new(Semaphore::new(0));
    let wait = gate.clone();
    let builder = open_house().on_connect(move |socket: Socket| {
        let wait = wait.clone();
        async move {
            wait.acquire().await.unwrap().forget();
            socket.emit("ready", &1)?;
            match socket.join("welcome") {
                Ok(()) if socket.user().is_empty() => Ok(()),
                _ => Err(Error::Draining),
            }
        }
    });
    let house = House::start(builder).await;
    let mut client = Client::connect(house.at).await;
    client.emit("echo", "1").await;
    house.nudge().await;
    assert_eq!(client.next_within(Duration::ZERO).await, None);
    gate.add_permits(1);
    assert_eq!(client.data_of("ready").await, 1);
    assert_eq!(client.data_of("echo").await, 1);
    gate.add_permits(1);
    let auth = format!(r#"{{"apiKey":"{}"}}"#, crate::house::FEED_KEY);
    let mut refused = Client::connect_with(house.at, &Opening::default(), &auth).await;
    assert_eq!(refused.data_of("ready").await, 1);
    assert_eq!(refused.close_code().await, Some(4000));
    drop((client, refused));
    house.end().await;
}
