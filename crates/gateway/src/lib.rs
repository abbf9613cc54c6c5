//! Sharded Socket.IO server: thousands of unmodified clients a core, with rooms, acks, recovery and limits.
//!
//! ```text
//! listener ──▶ shard: one epoll ──▶ packets ──▶ session ──▶ handler (inline · async · built-in)
//!                                                              │ publish
//!        one write ◀── outbox ◀── inbox of each shard ◀── namespace: order, ring, rooms
//! ```
//!
//! ```no_run
//! use tidegate_gateway::{Error, Gateway, Socket};
//!
//! #[derive(serde::Deserialize)]
//! struct Said {
//!     room: String,
//!     text: String,
//! }
//!
//! # async fn run() -> Result<(), Error> {
//! let gateway = Gateway::builder()
//!     .anonymous()
//!     .on_connect(|socket: Socket| async move { socket.join("lobby") })
//!     .on("say", |socket: Socket, said: Said| async move {
//!         socket.to(&said.room).emit("said", &said.text)?;
//!         Ok("delivered")
//!     })
//!     .listen(([127, 0, 0, 1], 3000).into())
//!     .await?;
//! gateway.to("lobby").emit("said", "hello from the server")?;
//! # Ok(())
//! # }
//! ```
//!
//! What this crate does not know: SQL, configuration files, HTTP routes other than its own endpoints. It takes an
//! [`HttpService`] for those, and gives out a [`Publisher`] and an [`Inspector`].

#![forbid(unsafe_code)]

mod act;
mod admission;
mod admit;
mod broker;
mod builder;
mod close;
mod config;
mod endpoint;
mod error;
mod figures;
mod gateway;
mod handler;
mod id;
mod inspect;
mod listener;
mod live;
mod message;
mod namespace;
mod offset;
mod outbox;
mod publish;
mod relief;
mod room;
mod shard;
mod shared;
mod socket;

pub use act::{Acted, Action};
pub use admit::{Admitted, Entrant};
pub use broker::{Broker, InProcess, Local};
pub use builder::{Builder, echo};
pub use close::{CloseKind, CloseReason};
pub use config::{
    BatchConfig, Builtins, Config, DeflateConfig, DrainConfig, Limits, OutboxConfig, RecoveryConfig,
    SessionConfig,
};
pub use endpoint::RawMessage;
pub use error::{Code, Error};
pub use gateway::{Gateway, Inspector, Publisher};
pub use handler::{ConnectRequest, Event, NamespaceBuilder};
pub use inspect::{
    ConnectionInfo, HistoryItem, Page, Presence, PresenceMember, RoomInfo, SessionInfo, State,
};
pub use listener::{
    HttpBody, HttpService, Peer,
    tls::{TlsConfig, TlsError},
};
pub use publish::{
    ACK_TIMEOUT, ANSWERS_MAX, Answer, Args, Collected, Publication, Published, Target, WhenSlow,
};
pub use room::RoomOptions;
pub use socket::{Emitter, Socket};
