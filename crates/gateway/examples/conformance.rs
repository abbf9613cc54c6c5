//! A server for protocol test suites: Socket.IO at `/socket.io/`, Engine.IO echo at `/engine.io/`, WebSocket echo at
//! `/echo`.
//!
//! `cargo run --release -p tidegate-gateway --example conformance -- 127.0.0.1:3000`

use std::{net::SocketAddr, time::Duration};

use serde_json::value::RawValue;
use tidegate_gateway::{Args, ConnectRequest, Error, Event, Gateway, NamespaceBuilder, Socket, echo};

/// Largest message of the WebSocket echo.
const ECHO_BYTES_MAX: usize = 64 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .as_deref()
        .unwrap_or("127.0.0.1:3000")
        .parse()?;
    let gateway = Gateway::builder()
        .anonymous()
        .configure(|config| {
            config.origins = vec!["*".to_owned()];
            config.ping_interval = Duration::from_millis(300);
            config.ping_timeout = Duration::from_millis(200);
            config.connect_timeout = Duration::from_millis(1_000);
            config.payload_bytes_max = 1_000_000;
            config.recovery.enabled = false;
        })
        .engine_endpoint("/engine.io/", echo)
        .websocket_endpoint("/echo", ECHO_BYTES_MAX, echo)
        .root(handlers)
        .namespace("/custom", handlers)
        .listen(address)
        .await?;
    println!("listening on {}", gateway.local_addr());
    tokio::signal::ctrl_c().await?;
    gateway.shutdown().await;
    Ok(())
}

/// What both namespaces do.
fn handlers(namespace: NamespaceBuilder) -> NamespaceBuilder {
    namespace
        .on_connect_with(|socket: Socket, request: ConnectRequest| async move {
            let auth: Box<RawValue> = request.auth()?;
            socket.emit("auth", &auth)?;
            Ok(())
        })
        .on_inline("message", |socket: &Socket, event: Event| {
            send(socket, "message-back", event.args());
        })
        .on_inline("message-with-ack", |_: &Socket, event: Event| {
            event.ack(&event.args());
        })
}

fn send(socket: &Socket, event: &str, args: Args) {
    if let Err(error) = socket.emit_args(event, args) {
        report(&error);
    }
}

fn report(error: &Error) {
    eprintln!("not sent: {error}");
}
