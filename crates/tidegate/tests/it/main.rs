//! What an operator and a library user see of the whole server.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod api;
mod application;
mod bridge;
mod bridge_formats;
mod bridge_fuzz;
mod cache;
mod client;
mod collect;
mod docs;
#[path = "../../fuzz/harness.rs"]
mod harness;
mod hook;
mod hook_answers;
mod hook_faults;
mod hook_stop;
mod limits;
mod plans;
mod profile;
mod relay;
mod rows;
mod schema;
mod sessions;
mod settings;
mod support;
