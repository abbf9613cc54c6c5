//! What an application decides on a session before it begins, and what it keeps with it.

use std::sync::Arc;

use tidegate_auth::Identity;
use tidegate_vitals::{Class, Guard, Ledger};

use crate::{Error, handler::ConnectRequest, id::Id, socket::Socket};

/// Runs on the shard's thread at the beginning of a session and must not block.
pub(crate) type Then = Box<dyn FnOnce(&Socket) + Send>;

/// A fresh session that asks to begin; see [`crate::NamespaceBuilder::on_admit`].
pub struct Entrant {
    pub(crate) id: Id,
    pub(crate) request: ConnectRequest,
}

/// What a session that is let in begins with.
#[derive(Default)]
pub struct Admitted {
    pub(crate) identity: Option<Identity>,
    pub(crate) data: Option<String>,
    pub(crate) then: Option<Then>,
}

/// Text that the application keeps with a session, paid for from the memory account.
#[derive(Clone)]
pub(crate) struct SessionData(Arc<(Box<str>, Guard)>);

/// What a session has from the application, and outlives its connections.
pub(crate) struct Given {
    /// Whom the credentials prove, while the application says that it is somebody else: what a client that comes back
    /// is held against.
    pub(crate) proved: Option<Arc<Identity>>,
    pub(crate) data: Option<SessionData>,
}

// === impl Entrant ===

impl Entrant {
    /// The Socket.IO id that the session will have.
    #[must_use]
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// What the client sent to enter.
    #[must_use]
    pub const fn request(&self) -> &ConnectRequest {
        &self.request
    }
}

// === impl Admitted ===

impl Admitted {
    /// Lets the session in as whom its credentials prove.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets it in as somebody else, for example the user whom a cookie proves.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Keeps a text with the session; see [`Socket::data`].
    #[must_use]
    pub fn data(mut self, data: String) -> Self {
        self.data = Some(data);
        self
    }

    /// Called once when the session begins, before any of its events: rooms joined here are joined first. It runs on
    /// the shard's thread and must not block.
    #[must_use]
    pub fn then(mut self, then: impl FnOnce(&Socket) + Send + 'static) -> Self {
        self.then = Some(Box::new(then));
        self
    }
}

// === impl SessionData ===

impl SessionData {
    pub(crate) fn new(text: String, ledger: &Ledger) -> Result<Self, Error> {
        let memory = ledger.reserve(Class::Sessions, text.len())?;
        Ok(Self::paid(text, memory))
    }

    pub(crate) fn paid(text: String, memory: Guard) -> Self {
        Self(Arc::new((text.into(), memory)))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0.0
    }
}
