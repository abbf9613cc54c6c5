//! The crate as its users see it: tables, protocol texts, properties, and bytes nobody would send.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod deflate;
mod distance;
mod engineio;
mod fixtures;
mod fuzz;
#[path = "../../fuzz/harness.rs"]
mod harness;
mod properties;
mod socketio;
mod support;
mod websocket;
mod websocket_suite;
