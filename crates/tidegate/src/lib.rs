//! The whole server as a library: settings, gateway, HTTP API and figures tied together.
//!
//! ```text
//!              ┌───────────────── Tidegate ─────────────────┐
//! settings ──▶ │ gateway (Socket.IO) ◀── api (HTTP routes)  │ ──▶ clients, operators, Prometheus
//!              │    │ └─ hook: connects, events, ends ──────┼ ──▶ the application behind it
//!              │    ▲ stored rows            │ rows, queries │
//!              │    └────────── store ◀──────┘              │ ──▶ PostgreSQL or SQLite
//!              │ vitals: registry, ledger, timeline, ticker │
//!              └────────────────────────────────────────────┘
//! ```
//!
//! ```
//! use tidegate::{Settings, Tidegate, gateway::{Args, Publication}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::parse("listen = \"127.0.0.1:0\"\n[auth]\nanonymous = true")?;
//! let server = Tidegate::builder().settings(settings).start().await?;
//! println!("listening on http://{}", server.local_addr());
//! let tick = Args::one(&serde_json::json!({"symbol": "600519", "price": 1685.0}))?;
//! server.gateway().publisher().publish(Publication::to_room("ticks:600519", "price_update", tick))?;
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! The crates below are re-exported, so that one dependency is enough. This crate reads no arguments, no environment
//! and no files: whoever starts it hands over the text of the settings and a way to what lies outside them.

mod api;
pub mod bridge;
mod data;
mod error;
mod glue;
mod hook;
mod limits;
mod names;
mod profiling;
mod server;
pub mod settings;

pub use data::{
    Store,
    look::{Level, StoreFinding, look as look_at_store, look_at_bridge, look_at_cache, open_for_verb},
};
pub use error::Error;
pub use limits::memory::check as check_memory;
pub use server::{Builder, Reloaded, Tidegate};
pub use settings::{Outside, Settings, SettingsError};
/// Who may do what.
pub use tidegate_auth as auth;
/// The Socket.IO server.
pub use tidegate_gateway as gateway;
/// The database layer.
pub use tidegate_store as store;
/// What the process knows of itself.
pub use tidegate_vitals as vitals;
