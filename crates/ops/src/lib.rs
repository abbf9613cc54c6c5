//! The operator's side: what the process knows of itself, in the formats that watching systems read.
//!
//! ```text
//! vitals::Registry ─▶ Snapshot ─▶ prometheus::render ─▶ /metrics
//! ```
//!
//! ```
//! use tidegate_vitals::{Id, Registry};
//!
//! let registry = Registry::new();
//! registry.counter(Id::GatewayRefused, &["server_full"]).inc();
//! let text = tidegate_ops::prometheus::render(&registry.snapshot());
//! assert!(text.contains("tidegate_gateway_refused_total{reason=\"server_full\"} 1"));
//! ```
//!
//! This crate serves nothing and measures nothing: figures come as a snapshot, and its caller owns the HTTP route.

pub mod prometheus;
