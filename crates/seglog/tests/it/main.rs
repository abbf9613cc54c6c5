//! The log against real files: a model, damage, full disks, two owners.
#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod damage;
mod disk_full;
mod fetch;
mod model;
mod owners;
mod support;
