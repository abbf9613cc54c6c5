//! Where sibling crates meet: one short file per pair.

pub(crate) mod store_advisor;
pub(crate) mod store_gateway;
