//! The gateway over real sockets: each capability, each limit, and what hostile clients come to.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod act;
mod admission;
mod admit;
mod auth;
mod bad_input;
mod batch;
mod client;
mod close;
mod handlers;
mod house;
mod load;
mod memory;
mod polling;
mod publish;
mod recovery;
mod rooms;
mod slow;
mod tls;
