//! The server that the tests with real clients speak to: every capability behind an event of its own.
//!
//! `cargo run --release -p tidegate-gateway --example realclients -- 127.0.0.1:0`

use std::{net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tidegate_auth::{Authenticator, Config, Identity, Method, Role};
use tidegate_gateway::{Args, Code, ConnectRequest, Error, Event, Gateway, RoomOptions, Socket};

/// How long a client may take to answer a question.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Tick {
    room: String,
    n: u32,
}

#[derive(Serialize)]
struct Numbered {
    i: u32,
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .as_deref()
        .unwrap_or("127.0.0.1:3002")
        .parse()?;
    let gateway = Gateway::builder()
        .auth(Arc::new(Authenticator::new(everything_allowed())?))
        .configure(|config| {
            config.origins = vec!["*".to_owned()];
            config.ping_interval = Duration::from_secs(1);
            config.ping_timeout = Duration::from_secs(2);
            let last = RoomOptions {
                last: 1,
                presence: true,
                ..RoomOptions::default()
            };
            config.rooms = vec![("last:*".to_owned(), last)];
        })
        .on_event("echo", |socket: Socket, event: Event| async move {
            report(socket.emit_args("echo-back", event.args()));
            event.ack(&event.args());
        })
        .on("tick", |socket: Socket, tick: Tick| async move {
            for i in 0..tick.n {
                socket.io().to(&tick.room).emit("m", &Numbered { i })?;
            }
            Ok(tick.n)
        })
        .on_event("ask-me", |socket: Socket, _: Event| async move {
            // Not awaited here: the next event of this session would wait for the answer.
            tokio::spawn(ask(socket));
        })
        .on_event("binary-me", |socket: Socket, _: Event| async move {
            let args = Args::new()
                .and_binary(&[1_u8, 2, 3][..])
                .and_binary(&b"\0\xff"[..]);
            report(socket.emit_args("bin", args));
        })
        .on_event("string-tail", |socket: Socket, _: Event| async move {
            report(
                Args::one("a")
                    .and_then(|args| args.and("b"))
                    .and_then(|args| socket.emit_args("s", args)),
            );
        })
        .on_inline("boom-disconnect", |socket: &Socket, _: Event| socket.disconnect())
        .on_inline("cut-me", |socket: &Socket, _: Event| socket.cut())
        .namespace("/auth", |namespace| {
            namespace
                .middleware(|request: ConnectRequest| async move { check_token(&request) })
                .on_event("whoami", |socket: Socket, event: Event| async move {
                    event.answer(Ok(socket.user().to_owned()));
                })
        })
        .listen(address)
        .await?;
    println!("listening on {}", gateway.local_addr());
    tokio::signal::ctrl_c().await?;
    gateway.shutdown().await;
    Ok(())
}

/// Anonymous clients may use every built-in event on every room.
fn everything_allowed() -> Config {
    let any = || vec!["*".to_owned()];
    let role = Role {
        join: any(),
        publish: any(),
        presence: any(),
        ..Role::default()
    };
    Config {
        anonymous: true,
        anonymous_roles: vec!["guest".to_owned()],
        roles: [("guest".to_owned(), role)].into(),
        ..Config::default()
    }
}

fn check_token(request: &ConnectRequest) -> Result<Identity, Error> {
    match request.auth::<Token>() {
        Ok(auth) if auth.token == "let-me-in" => Ok(Identity::new("friend", Method::Application)),
        _ => Err(Error::Application {
            code: Code::Unauthenticated,
            message: "unauthenticated".to_owned(),
        }),
    }
}

async fn ask(socket: Socket) {
    let asked = Args::one("what is six times seven?");
    let Ok(asked) = asked else { return };
    match socket.emit_with_ack("question", asked, PATIENCE).await {
        Ok(answer) => report(
            Args::from_json_array(answer.args.get(), Vec::new())
                .and_then(|args| socket.emit_args("answered", args)),
        ),
        Err(error) => eprintln!("no answer: {error}"),
    }
}

fn report<T>(result: Result<T, Error>) {
    if let Err(error) = result {
        eprintln!("not sent: {error}");
    }
}
