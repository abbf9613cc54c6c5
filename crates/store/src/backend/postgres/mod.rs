//! PostgreSQL: sessions, values and errors.
//!
//! ```text
//! URL ─▶ Dsn ─▶ Postgres (opens sessions) ─▶ Connection ─▶ client library
//!                 └─ TLS · roles · poolers      └─ prepared statements · cancel · drain
//! ```

mod connection;
mod connector;
mod dsn;
mod error;
mod numeric;
mod place;
mod server;
mod socket;
mod stream;
mod text;
mod tls;
mod transaction;
pub mod value;

pub use connection::{Connection, Running};
pub use connector::{Postgres, Session};
pub use dsn::{Dsn, Host, Place, Pooler, TlsMode};
pub(crate) use error::check_parameters;
pub use error::{PARAMETERS_MAX, error};
pub(crate) use server::Server;
pub(crate) use stream::{Collected, Stream, columns_of, is_stale};
pub(crate) use transaction::{Transaction, lsn_of};
