//! Peer row: socketioxide on axum; `join` puts the sender into a room, `pub` goes to room `r`.

use serde_json::Value;
use socketioxide::SocketIo;
use socketioxide::extract::{Data, SocketRef};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args()
        .nth(1)
        .expect("usage: socketioxide-peer HOST:PORT");
    // The default of 128 packets drops messages when 64 are in flight and the socket is still being written.
    let (layer, io) = SocketIo::builder().max_buffer_size(4096).build_layer();
    io.ns("/", async |socket: SocketRef| {
        socket.on("join", async |socket: SocketRef, Data(room): Data<String>| {
            socket.join(room);
        });
        socket.on("pub", async |io: SocketIo, Data(message): Data<Value>| {
            // A receiver that left meanwhile is no fault of the broadcast.
            let _ = io.to("r").emit("m", &message).await;
        });
    });
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, axum::Router::new().layer(layer)).await
}
