//! The pool: every rule on paused time against a scripted server, a seeded model, real threads, the real server.

mod model;
mod rules;
mod threads;
mod world;
