//! What the pool needs from a backend: open, judge, check and clean a connection.

use std::future::Future;

use crate::error::Result;

/// Opens and judges the connections of one backend. The pool bounds every call in time.
pub trait Connector: Send + Sync + 'static {
    /// An open connection. Dropping it closes it.
    type Connection: Send + 'static;

    /// Opens a connection that is ready for a statement.
    ///
    /// # Errors
    /// [`Error::Connect`](crate::Error::Connect), with the server's code if it answered.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection>> + Send;

    /// Whether the connection looks alive: cheap, without a round trip, for example that the socket is not closed. Asked
    /// at every acquire and every release.
    fn is_usable(&self, connection: &Self::Connection) -> bool;

    /// Proves the connection by a round trip.
    ///
    /// # Errors
    /// Any: the connection is dropped.
    fn check(&self, connection: &mut Self::Connection) -> impl Future<Output = Result<()>> + Send;

    /// Whether its user left a statement or a transaction behind. Asked at every release.
    fn needs_drain(&self, connection: &Self::Connection) -> bool;

    /// Cancels what was left behind, reads what is still to come and rolls back.
    ///
    /// # Errors
    /// Any: the connection is dropped.
    fn drain(&self, connection: &mut Self::Connection) -> impl Future<Output = Result<()>> + Send;

    /// Forgets prepared statements, because memory is short; says how many.
    fn forget_statements(&self, _connection: &mut Self::Connection) -> usize {
        0
    }

    /// Where it connects to, for errors and logs, without the password.
    fn target(&self) -> &str;
}
