//! Memory accounts: a ledger with one limit, guards that give back by themselves.

mod class;
mod guard;
mod ledger;
mod local;
pub mod snapshot;

pub use class::Class;
pub use guard::Guard;
pub use ledger::{Full, Ledger};
pub use local::Local;
