//! The crate as its users see it: tokens of the RFCs, hostile tokens, keys, cookies, and tenants that stay apart.

#![expect(clippy::unwrap_used, reason = "a panic in a test is the report")]

mod api_key;
mod authenticate;
mod config;
mod crossing;
mod rfc;
mod support;
mod token;
