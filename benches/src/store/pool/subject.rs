//! What the measurements ask of a pool.

/// A pool that is measured.
pub(super) trait Subject: Clone + Send + Sync + 'static {
    /// A claimed connection; dropping it gives it back.
    type Held: Send;

    /// Claims a connection; `None`: the pool said that it could not.
    fn get(&self) -> impl Future<Output = Option<Self::Held>> + Send;

    /// Claims and gives back, by the cheapest way that the pool offers.
    fn once(&self) -> impl Future<Output = bool> + Send;

    /// Runs a statement; `false`: it failed. Connections that do nothing give way once.
    fn run(held: &mut Self::Held, sql: &str) -> impl Future<Output = bool> + Send;

    /// How many connections were attempted so far, where that can be counted.
    fn dials(&self) -> Option<u64>;
}
