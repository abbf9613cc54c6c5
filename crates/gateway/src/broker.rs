//! Where publications go: to this process, or later to others as well.

use crate::{Error, Publication, Published};

/// Carries publications to every node that has receivers. [`InProcess`] is all that one node needs.
pub trait Broker: Send + Sync + 'static {
    /// Publishes; `local` delivers to the receivers of this node.
    ///
    /// # Errors
    /// When a limit is met; then nobody got it.
    fn publish(&self, publication: Publication, local: &dyn Local) -> Result<Published, Error>;
}

/// The receivers of this node.
pub trait Local {
    /// Gives the publication its place in the node's order and hands it to its receivers here.
    ///
    /// # Errors
    /// When a limit is met; then nobody got it.
    fn deliver(&self, publication: Publication) -> Result<Published, Error>;
}

/// One node: everything is local.
#[derive(Clone, Copy, Debug, Default)]
pub struct InProcess;

impl Broker for InProcess {
    fn publish(&self, publication: Publication, local: &dyn Local) -> Result<Published, Error> {
        local.deliver(publication)
    }
}
