//! Databases behind the one façade.

#[cfg(feature = "sqlite")]
pub mod sqlite;
