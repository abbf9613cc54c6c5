//! The pool: every rule on paused time against a scripted server, a seeded model, real threads, the real server.

mod model;
mod rules;
#[cfg(feature = "postgres")]
mod server;
mod threads;
mod world;
