//! One binary for all tests of this crate against its public face.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod cached;
mod disk;
mod examples;
mod hit_rate;
mod load;
mod memo;
mod memory;
mod model;
mod policy;
#[cfg(feature = "remote")]
mod remote;
mod support;
mod tags;
