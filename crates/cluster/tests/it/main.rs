//! Private clusters as their users meet them: real servers, real crashes.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod cluster;
mod death;
mod redis;
