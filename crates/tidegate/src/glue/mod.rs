//! Where sibling crates meet: one short file per pair.

pub(crate) mod store_advisor;
pub(crate) mod store_cache;
pub(crate) mod store_gateway;
pub(crate) mod store_relay;
