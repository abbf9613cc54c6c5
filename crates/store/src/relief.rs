//! What the store gives up under memory pressure, as counted, and the accounts it pays from.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use tidegate_vitals::{Class, Counter, Guard, Id, Ledger, Level, Registry};

use crate::database::Context;
use crate::error::{Error, Result};

/// An account of one kind of memory, which counts what it could not give.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    ledger: Ledger,
    class: Class,
    what: &'static str,
    refused: Counter,
}

/// The ways of giving memory back, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Batches that did not wait for company.
    Flush,
    /// Requests with rows that were refused.
    Refuse,
    /// Room for entries that nothing needs at the moment.
    Spare,
    /// Idle connections closed.
    Connections,
    /// Prepared statements forgotten.
    Statements,
}

/// How often something was given up, and the bytes that came of it.
#[derive(Debug, Clone)]
pub(crate) struct Relieved {
    n: Counter,
    bytes: Counter,
}

/// The level of pressure in force.
#[derive(Debug, Default)]
pub(crate) struct Force(AtomicU8);

// === impl Account ===

impl Account {
    /// For rows that wait to be stored.
    pub(crate) fn rows(context: &Context) -> Self {
        Self::new(context, Class::Batches, "rows")
    }

    /// For what is on its way to the spool or back.
    #[cfg(feature = "spool")]
    pub(crate) fn spool(context: &Context) -> Self {
        Self::new(context, Class::Spool, "the spool")
    }

    /// For answers of queries that are being built.
    pub(crate) fn answers(context: &Context) -> Self {
        Self::new(context, Class::Answers, "the answer")
    }

    fn new(context: &Context, class: Class, what: &'static str) -> Self {
        Self {
            ledger: context.ledger.clone(),
            class,
            what,
            refused: context.registry.counter(Id::StoreNoMemory, &[class.name()]),
        }
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// [`Error::NoMemory`], counted.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<Guard> {
        let reserved = self.ledger.reserve(self.class, bytes);
        reserved.map_err(|full| self.refuse(full))
    }

    /// A guard that holds nothing yet.
    #[cfg(feature = "spool")]
    pub(crate) fn empty(&self) -> Guard {
        self.ledger.empty(self.class)
    }

    /// Makes `guard` hold exactly `bytes`.
    ///
    /// # Errors
    /// [`Error::NoMemory`], counted; what it held it holds.
    pub(crate) fn resize(&self, guard: &mut Guard, bytes: usize) -> Result<()> {
        guard.resize(bytes).map_err(|full| self.refuse(full))
    }

    /// How often it had nothing to give, over all parts of the process that use the same figures.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.get()
    }

    fn refuse(&self, full: tidegate_vitals::Full) -> Error {
        self.refused.inc();
        Error::NoMemory {
            what: self.what,
            full,
        }
    }
}

// === impl Reaction ===

impl Reaction {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Refuse => "refuse",
            Self::Spare => "spare",
            Self::Connections => "connections",
            Self::Statements => "statements",
        }
    }
}

// === impl Relieved ===

impl Relieved {
    pub(crate) fn new(registry: &Registry, reaction: Reaction) -> Self {
        let labels = [reaction.as_str()];
        Self {
            n: registry.counter(Id::StoreRelief, &labels),
            bytes: registry.counter(Id::StoreReliefBytes, &labels),
        }
    }

    pub(crate) fn count(&self, n: u64, bytes: u64) {
        self.n.add(n);
        self.bytes.add(bytes);
    }

    pub(crate) fn n(&self) -> u64 {
        self.n.get()
    }
}

// === impl Force ===

impl Force {
    pub(crate) fn set(&self, level: Level) {
        self.0.store(level as u8, Relaxed);
    }

    pub(crate) fn level(&self) -> Level {
        let level = usize::from(self.0.load(Relaxed));
        Level::ALL.get(level).copied().unwrap_or(Level::Critical)
    }
}
