//! What keeps a running server inside its limits: memory and its levels, and how many requests run at once.

pub(crate) mod memory;
pub(crate) mod requests;

pub(crate) use memory::Memory;
pub(crate) use requests::{Requests, Turn};
