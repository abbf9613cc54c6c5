//! Tests of vitals through its public interface.

mod histogram;
mod ledger;
mod registry;
mod timeline;
mod watch;
