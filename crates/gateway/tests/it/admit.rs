//! Admission by the application, and the end of sessions as it hears of it.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tidegate_auth::{Identity, Method};
use tidegate_gateway::{Admitted, Builder, CloseReason, Code, Entrant, Error, Event, Socket};
use tidegate_vitals::{Class, Id as Metric};
use tokio::sync::Semaphore;

use crate::{
    client::{Client, Packet},
    house::{House, open_house},
};

type Ends = Arc<Mutex<Vec<(String, CloseReason)>>>;

/// Lets everybody in as the user of the auth object, with data and a room; `fail` refuses in several ways.
fn house(ends: &Ends, asked: &Arc<Mutex<Vec<String>>>) -> Builder {
    let (ends, asked) = (ends.clone(), asked.clone());
    open_house().root(|root| {
        root.on_admit(move |entrant: Entrant| {
            asked.lock().unwrap().push(entrant.id().to_owned());
            async move { admit(&entrant.request().auth::<Value>()?) }
        })
        .on_event("data", |socket: Socket, event: Event| async move {
            event.answer(Ok(socket.data()));
        })
        .on_end(move |socket, reason| ends.lock().unwrap().push((socket.user().to_owned(), reason)))
    })
}

fn admit(auth: &Value) -> Result<Admitted, Error> {
    match auth["fail"].as_str() {
        Some("refuse") => Err(Error::Refused {
            message: "no".to_owned(),
            data: None,
        }),
        Some("away") => Err(Error::Application {
            code: Code::AppUnavailable,
            message: "away".to_owned(),
        }),
        Some("panic") => panic!("a handler that panics"),
        Some("begin") => Ok(Admitted::new().then(|_| panic!("a beginning that panics"))),
        _ => {
            let user = auth["user"].as_str().unwrap_or("nobody");
            let admitted = Admitted::new().identity(Identity::new(user, Method::Application));
            Ok(admitted.data(r#"{"n":1}"#.to_owned()).then(|socket| {
                socket.join_all(&["given", "more"]).unwrap();
                socket.emit("welcome", &1).unwrap();
            }))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_application_says_who_it_is_and_where_it_begins() {
    let (ends, asked) = (Ends::default(), Arc::default());
    let house = House::start(house(&ends, &asked)).await;
    let mut client = Client::open(house.at).await;
    client.enter(r#"{"user":"ada"}"#).await;
    assert_eq!(asked.lock().unwrap()[..], [client.sid.clone()]);
    assert_eq!(client.data_of("welcome").await, 1);
    assert_eq!(client.ask("data", "1").await, json!("{\"n\":1}"));
    let info = house.gateway.inspector().connection(&client.sid).await.unwrap();
    let mut rooms = info.rooms;
    rooms.sort_unstable();
    assert_eq!(rooms, ["given", "more"]);
    assert!(house.ledger.used_by(Class::Sessions) >= 7);
    assert_eq!(house.gateway.inspector().disconnect_user("ada"), 1);
    house
        .eventually("the end is told", || !ends.lock().unwrap().is_empty())
        .await;
    assert_eq!(
        ends.lock().unwrap()[..],
        [("ada".to_owned(), CloseReason::Kicked)]
    );
    house.end().await;
    assert_eq!(ends.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_an_error_and_absence_a_close() {
    let (ends, asked) = (Ends::default(), Arc::default());
    let house = House::start(house(&ends, &asked)).await;
    let mut client = Client::open(house.at).await;
    let refused = client.enter(r#"{"fail":"refuse"}"#).await;
    assert!(matches!(refused, Packet::Refused { .. }), "{refused:?}");
    for way in ["away", "panic"] {
        let mut client = Client::open(house.at).await;
        client.send(&format!(r#"40{{"fail":"{way}"}}"#)).await;
        assert_eq!(client.close_code().await, Some(4013), "{way}");
    }
    let mut client = Client::open(house.at).await;
    client.enter(r#"{"fail":"begin"}"#).await;
    assert_eq!(client.ask("echo", "1").await, 1);
    house.figure(Metric::GatewayHandlerErrors, 1).await;
    drop(client);
    house.end().await;
    // Only the one that came in has left.
    assert_eq!(ends.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_is_not_asked_about_and_keeps_what_it_was_given() {
    let (ends, asked) = (Ends::default(), Arc::default());
    let house = House::start(house(&ends, &asked)).await;
    let mut client = Client::open(house.at).await;
    client.enter(r#"{"user":"ada"}"#).await;
    assert_eq!(client.data_of("welcome").await, 1);
    let (sid, auth) = (client.sid.clone(), client.recovery_auth());
    drop(client);
    house
        .eventually("the connection is gone", || house.gateway.n_connections() == 0)
        .await;
    let mut client = Client::reconnect(house.at, &auth).await;
    assert_eq!(client.sid, sid);
    assert_eq!(client.ask("data", "1").await, json!("{\"n\":1}"));
    let info = house.gateway.inspector().connection(&sid).await.unwrap();
    assert_eq!((info.user.as_str(), info.rooms.len()), ("ada", 2));
    assert_eq!((asked.lock().unwrap().len(), ends.lock().unwrap().len()), (1, 0));
    client.send("41").await;
    house
        .eventually("the end is told", || !ends.lock().unwrap().is_empty())
        .await;
    assert_eq!(
        ends.lock().unwrap()[..],
        [("ada".to_owned(), CloseReason::ClientLeft)]
    );
    house.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_wait_when_a_session_ends_or_moves_are_handled_in_order() {
    let (story, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
    let (told, ended, held) = (story.clone(), story.clone(), gate.clone());
    let builder = open_house().root(|root| {
        root.on_any(move |_, event: Event| {
            let (told, held) = (told.clone(), held.clone());
            async move {
                held.acquire().await.unwrap().forget();
                told.lock().unwrap().push(event.name().to_owned());
            }
        })
        .on_end(move |_, reason| ended.lock().unwrap().push(reason.to_string()))
    });
    let house = House::start(builder).await;
    let mut client = Client::connect(house.at).await;
    for name in ["a", "b", "c"] {
        client.emit(name, "1").await;
    }
    house.figure(Metric::GatewayEvents, 3).await;
    let auth = client.recovery_auth();
    drop(client);
    house
        .eventually("the connection is gone", || house.gateway.n_connections() == 0)
        .await;
    let mut client = Client::reconnect(house.at, &auth).await;
    client.emit("d", "1").await;
    client.send("41").await;
    house.figure(Metric::GatewaySessions, 0).await;
    assert!(story.lock().unwrap().is_empty());
    gate.add_permits(4);
    house
        .eventually("all is told", || story.lock().unwrap().len() == 5)
        .await;
    assert_eq!(story.lock().unwrap()[..], ["a", "b", "c", "d", "client_left"]);
    house.figure(Metric::GatewayHandlerInFlight, 0).await;
    house.end().await;
}
