//! Tests of flow through its public interface, on paused time.

mod batcher;
mod breaker;
mod examples;
mod instances;
mod join;
mod limiter;
mod model;
mod once;
mod retry;
mod task;
