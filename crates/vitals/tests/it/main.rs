//! Tests of vitals through its public interface.

mod histogram;
mod ledger;
mod pressure;
mod registry;
mod timeline;
mod watch;
