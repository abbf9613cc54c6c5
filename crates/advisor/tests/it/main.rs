//! The advisor against real servers.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod advise;
mod apply;
mod explain;
mod support;
mod usage;
