//! A chat: rooms, users, what was said before, who is here.
//!
//! `cargo run --release -p tidegate-gateway --example chat -- 127.0.0.1:3000`, then with any Socket.IO client:
//! `io("http://127.0.0.1:3000", { auth: { name: "li" } })`, `emit("enter", "tea")`, `emit("say", { room: "tea",
//! text: "hello" })`.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_auth::{Identity, Method};
use tidegate_gateway::{ConnectRequest, Error, Gateway, RoomOptions, Socket};

#[derive(Deserialize)]
struct Login {
    name: String,
}

#[derive(Deserialize)]
struct Say {
    room: String,
    text: String,
}

#[derive(Serialize)]
struct Said<'a> {
    room: &'a str,
    user: &'a str,
    text: &'a str,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .as_deref()
        .unwrap_or("127.0.0.1:3000")
        .parse()?;
    let rooms = RoomOptions {
        // The last twenty messages come with the join.
        last: 20,
        presence: true,
        join_leave_events: true,
        history_messages: 1_000,
        history_age: Duration::from_secs(24 * 3_600),
        ..RoomOptions::default()
    };
    let gateway = Gateway::builder()
        .anonymous()
        .configure(|config| {
            config.origins = vec!["*".to_owned()];
            config.rooms = vec![("room:*".to_owned(), rooms)];
        })
        .middleware(|request: ConnectRequest| async move { login(&request) })
        .on("enter", |socket: Socket, room: String| async move {
            socket.join(&format!("room:{room}"))?;
            Ok(format!("welcome to {room}, {}", socket.user()))
        })
        .on("exit", |socket: Socket, room: String| async move {
            socket.leave(&format!("room:{room}"))
        })
        .on("say", |socket: Socket, say: Say| async move {
            let said = Said {
                room: &say.room,
                user: socket.user(),
                text: &say.text,
            };
            socket.io().to(format!("room:{}", say.room)).emit("said", &said)
        })
        .listen(address)
        .await?;
    println!("listening on {}", gateway.local_addr());
    tokio::signal::ctrl_c().await?;
    gateway.shutdown().await;
    Ok(())
}

/// Everybody may choose a name; a real chat would check a token here.
fn login(request: &ConnectRequest) -> Result<Identity, Error> {
    let login: Login = request.auth()?;
    if login.name.is_empty() || login.name.len() > 40 {
        return Err(Error::BadRequest("a name has 1 to 40 bytes".to_owned()));
    }
    Ok(Identity::new(&login.name, Method::Application))
}
