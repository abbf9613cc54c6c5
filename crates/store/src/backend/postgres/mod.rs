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
mod socket;
mod text;
mod tls;
pub mod value;

pub use connection::{Connection, Running, ServerInfo};
pub use connector::{Postgres, Session};
pub use dsn::{Dsn, Host, Place, Pooler, TlsMode};
pub(crate) use error::check_parameters;
pub use error::{PARAMETERS_MAX, error};
