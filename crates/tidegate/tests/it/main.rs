//! What an operator and a library user see of the whole server.

mod api;
mod client;
mod docs;
mod schema;
mod settings;
