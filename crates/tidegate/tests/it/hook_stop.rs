//! The application behind a server that ends: it is told of every end, and the API answers it meanwhile.

use std::sync::{Arc, Mutex};

use serde_json::json;
use tidegate::vitals::Id;
use tokio::sync::Semaphore;

use crate::{
    application::{App, Reply, eventually, figure, in_front_of},
    client::{Client, get, request},
    support::Folder,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_of_disconnects_reach_the_api_until_the_last_is_told() {
    let at = Arc::new(Mutex::new(None));
    let heard = Arc::new(Mutex::new(Vec::new()));
    let (api, noted) = (Arc::clone(&at), Arc::clone(&heard));
    let app = App::start(move |asked| {
        let (api, noted) = (Arc::clone(&api), Arc::clone(&noted));
        async move {
            if asked["kind"] == "disconnect" {
                let at = api.lock().unwrap().unwrap();
                let post = async |path, body| request(at, "POST", path, &[], Some(body)).await.status;
                let statuses = [
                    post("/api/publish", r#"{"room":"lobby","event":"left"}"#).await,
                    post("/api/rooms/lobby/join", r#"{"rooms":["empty"]}"#).await,
                    get(at, "/api/rooms/lobby/sessions").await.status,
                    get(at, "/readyz").await.status,
                    get(at, "/socket.io/?EIO=4&transport=polling").await.status,
                ];
                noted.lock().unwrap().push((asked["reason"].clone(), statuses));
            }
            Reply::Json(json!({"join": "lobby"}))
        }
    })
    .await;
    for spool in ["", "spool = { enabled = false }"] {
        let folder = Folder::new();
        let server = in_front_of(app.at, &folder, spool).await;
        *at.lock().unwrap() = Some(server.local_addr());
        heard.lock().unwrap().clear();
        assert_eq!(get(server.local_addr(), "/readyz").await.status, 200);
        let clients = [
            Client::connect(server.local_addr(), "").await,
            Client::connect(server.local_addr(), "").await,
        ];
        // It may come back until the server ends.
        let lost = Client::connect(server.local_addr(), "").await;
        drop(lost);
        eventually("it is lost", || server.gateway().n_connections() == 2).await;
        server.shutdown().await;
        let mut heard = std::mem::take(&mut *heard.lock().unwrap());
        heard.sort_by_key(|(reason, _)| reason.to_string());
        let fine = [200, 200, 200, 503, 503];
        assert_eq!(
            heard,
            [
                (json!("draining"), fine),
                (json!("draining"), fine),
                (json!("transport_closed"), fine)
            ],
            "{spool:?}"
        );
        drop(clients);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_under_way_when_the_server_ends_has_its_end_told() {
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let app = App::start(move |asked| {
        let gate = Arc::clone(&held);
        async move {
            if asked["kind"] == "connect" {
                gate.acquire().await.unwrap().forget();
            }
            Reply::Json(json!({"user": "ada"}))
        }
    })
    .await;
    let folder = Folder::new();
    let server = in_front_of(app.at, &folder, "").await;
    let mut client = Client::open(server.local_addr(), "").await;
    client.send("40").await;
    let connect = app.nth("connect", 1).await;
    let ending = tokio::spawn(server.shutdown());
    // Draining, retryably.
    assert_eq!(client.close_code().await, 1_012);
    drop(client);
    gate.add_permits(1);
    let end = app.nth("disconnect", 1).await;
    assert_eq!(
        (&end["session"], &end["user"]),
        (&connect["session"], &json!("ada"))
    );
    ending.await.unwrap();
}

/// A record holds the body of a request and nothing else, so any version tells what another kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_version_kept_is_told_as_it_is() {
    let kept = json!({"id": "1", "kind": "disconnect", "session": "s", "reason": "gone", "of_later": [1]});
    let app = App::start(|_| std::future::ready(Reply::Json(json!({})))).await;
    let folder = Folder::new();
    let config = tidegate_seglog::Config {
        segment_bytes: 1 << 20,
        bytes_max: 64 << 20,
        record_bytes_max: 100_000,
        preallocate: true,
    };
    let mut log = tidegate_seglog::Log::open(folder.0.join("app"), config).unwrap();
    log.append(kept.to_string().as_bytes()).unwrap();
    log.sync().unwrap();
    drop(log);
    let server = in_front_of(app.at, &folder, "").await;
    assert_eq!(app.nth("disconnect", 1).await, kept);
    eventually("it is released", || {
        figure(&server, Id::AppSpoolRecords, &[]) == 0
    })
    .await;
    server.shutdown().await;
}
