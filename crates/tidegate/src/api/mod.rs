//! The HTTP API: one table of routes, from which the router, the OpenAPI document and its page are made.

mod access;
mod admin;
mod application;
mod cache;
mod connections;
mod database;
mod failure;
mod figures;
mod history;
mod ingest;
mod memory;
mod openapi;
mod operate;
mod page;
mod profile;
mod publish;
mod query;
mod rooms;
mod route;
mod routes;
mod schema;
mod service;
mod sessions;

use std::sync::{Arc, RwLock};

use tidegate_auth::Authenticator;
use tidegate_gateway::{Code, Error, Inspector, Publisher};
use tidegate_vitals::{Clock, Instant, Ledger, Registry, Timeline};

pub(crate) use admin::AdminListener;
pub(crate) use failure::Failure;
pub(crate) use memory::snapshot as shown_snapshot;
pub(crate) use route::Place;
pub(crate) use service::{Asset, BODY_TIMEOUT, Service};

use crate::{
    data::Store,
    hook::Hook,
    limits::{Memory, Requests},
    profiling::Profiler,
};

/// What the routes stand on. The gateway comes later than its HTTP service, hence the slot.
pub(crate) struct Api {
    pub(crate) clock: Clock,
    pub(crate) started: Instant,
    pub(crate) registry: Registry,
    pub(crate) ledger: Ledger,
    pub(crate) timeline: Timeline,
    pub(crate) budget_bytes: u64,
    pub(crate) body_bytes_max: usize,
    pub(crate) memory: Arc<Memory>,
    pub(crate) requests: Requests,
    pub(crate) profiler: Profiler,
    authenticator: RwLock<Arc<Authenticator>>,
    connections_max: RwLock<Option<usize>>,
    parts: RwLock<Option<Arc<Parts>>>,
    store: Option<Arc<Store>>,
    /// The way to the application, if there is one.
    pub(crate) hook: Option<Arc<Hook>>,
}

/// The handles of a running gateway.
pub(crate) struct Parts {
    pub(crate) publisher: Publisher,
    pub(crate) inspector: Inspector,
    pub(crate) is_draining: Box<dyn Fn() -> bool + Send + Sync>,
}

/// What an [`Api`] is made from.
pub(crate) struct ApiConfig {
    pub(crate) clock: Clock,
    pub(crate) registry: Registry,
    pub(crate) ledger: Ledger,
    pub(crate) timeline: Timeline,
    pub(crate) budget_bytes: u64,
    pub(crate) body_bytes_max: usize,
    pub(crate) memory: Arc<Memory>,
    pub(crate) requests: Requests,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) connections_max: Option<usize>,
    pub(crate) store: Option<Arc<Store>>,
    pub(crate) hook: Option<Arc<Hook>>,
}

impl Api {
    pub(crate) fn new(config: ApiConfig) -> Self {
        Self {
            started: config.clock.now(),
            profiler: Profiler::new(&config.registry),
            clock: config.clock,
            registry: config.registry,
            ledger: config.ledger,
            timeline: config.timeline,
            budget_bytes: config.budget_bytes,
            body_bytes_max: config.body_bytes_max,
            memory: config.memory,
            requests: config.requests,
            authenticator: RwLock::new(config.authenticator),
            connections_max: RwLock::new(config.connections_max),
            parts: RwLock::default(),
            store: config.store,
            hook: config.hook,
        }
    }

    /// The database, if there is one.
    pub(crate) fn has_store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// The database.
    ///
    /// # Errors
    /// `not_found` where no feed and no query is declared.
    pub(crate) fn store(&self) -> Result<Arc<Store>, Failure> {
        let none = || {
            Failure::of(
                Code::NotFound,
                "no feed and no query is declared, so there is no database",
            )
        };
        self.store.clone().ok_or_else(none)
    }

    pub(crate) const fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn authenticator(&self) -> Arc<Authenticator> {
        Arc::clone(
            &self
                .authenticator
                .read()
                .expect("nothing panics while it holds this lock"),
        )
    }

    pub(crate) fn set_authenticator(&self, authenticator: Arc<Authenticator>) {
        *self
            .authenticator
            .write()
            .expect("nothing panics while it holds this lock") = authenticator;
    }

    pub(crate) fn connections_max(&self) -> Option<usize> {
        *self
            .connections_max
            .read()
            .expect("nothing panics while it holds this lock")
    }

    pub(crate) fn set_connections_max(&self, max: Option<usize>) {
        *self
            .connections_max
            .write()
            .expect("nothing panics while it holds this lock") = max;
    }

    /// Lends the running gateway to the routes; `None` takes it back, which also ends the circle of references.
    pub(crate) fn set_parts(&self, parts: Option<Parts>) {
        *self
            .parts
            .write()
            .expect("nothing panics while it holds this lock") = parts.map(Arc::new);
    }

    pub(crate) fn parts(&self) -> Result<Arc<Parts>, Error> {
        let parts = self
            .parts
            .read()
            .expect("nothing panics while it holds this lock");
        parts.clone().ok_or(Error::Draining)
    }
}
