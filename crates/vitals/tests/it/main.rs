//! Tests of vitals through its public interface.

mod allocator;
mod histogram;
mod leak;
mod ledger;
mod pressure;
mod registry;
mod snapshot;
mod timeline;
mod watch;
