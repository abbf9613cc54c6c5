//! The server of the fan-out benchmark: `join` enters a room, `pub` is broadcast to room `r` as event `m`.
//!
//! `cargo run --release -p tidegate-gateway --example fanout -- 127.0.0.1:3001`

use std::net::SocketAddr;

use tidegate_gateway::{Event, Gateway, Socket};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address: SocketAddr = std::env::args()
        .nth(1)
        .as_deref()
        .unwrap_or("127.0.0.1:3001")
        .parse()?;
    let gateway = Gateway::builder()
        .anonymous()
        .on_inline("join", |socket: &Socket, event: Event| {
            let joined = event.payload::<String>().and_then(|room| socket.join(&room));
            event.answer(joined);
        })
        .on_inline("pub", |socket: &Socket, event: Event| {
            let sent = socket.io().to("r").emit_args("m", event.args());
            event.answer(sent);
        })
        .listen(address)
        .await?;
    println!("listening on {}", gateway.local_addr());
    tokio::signal::ctrl_c().await?;
    gateway.shutdown().await;
    Ok(())
}
