//! Everything that can go wrong between a caller, a cache and its loads.

use std::{any::Any, error, sync::Arc, time::Duration};

use tidegate_flow::once::Failed;

/// Why a cache could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of its range.
    #[error("{key} = {value}: allowed is {allowed}")]
    Config {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        allowed: String,
    },
    /// The folder of the disk level cannot be taken.
    #[error("disk level of cache {cache} cannot be opened")]
    Disk {
        /// The cache.
        cache: &'static str,
        /// What the log said.
        #[source]
        source: tidegate_seglog::Error,
    },
    /// The server of the remote level does not answer.
    #[error("redis is away: {0}")]
    Away(String),
}

/// `Result` with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a value could not be given. All callers who waited for one load get the same outcome.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError<E: error::Error + 'static> {
    /// The load failed.
    #[error("load failed")]
    Failed(#[source] Arc<E>),
    /// The load that was joined failed with an error of another type; this is its text.
    #[error("load failed: {0}")]
    FailedElsewhere(Arc<str>),
    /// The load panicked.
    #[error("load panicked: {0}")]
    Panicked(String),
    /// The load did not end in time.
    #[error("load did not end within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Too many loads of this cache are under way.
    #[error("cache busy: {flights} loads under way")]
    Busy {
        /// Loads under way.
        flights: usize,
    },
    /// The runtime went down under the load.
    #[error("load aborted")]
    Aborted,
}

/// An error of whatever type a load has, so that all loads of a cache share their flights.
#[derive(Debug)]
pub(crate) struct Erased {
    error: Arc<dyn Any + Send + Sync>,
    text: Arc<str>,
}

// === impl Error ===

impl Error {
    /// Whether the same call may succeed later without anybody changing a setting.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Config { .. } => false,
            Self::Disk { source, .. } => source.is_retryable(),
            Self::Away(_) => true,
        }
    }

    pub(crate) fn config(
        key: &'static str,
        value: &dyn std::fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Config {
            key,
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }
}

// === impl LoadError ===

impl<E: error::Error + 'static> LoadError<E> {
    /// Whether the same call may succeed later. A load's own error knows that better: see [`LoadError::Failed`].
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Busy { .. } | Self::Aborted)
    }
}

impl<E: error::Error + Send + Sync + 'static> LoadError<E> {
    pub(crate) fn of(failed: Failed<Erased>) -> Self {
        match failed {
            Failed::Work(erased) => match Arc::clone(&erased.error).downcast() {
                Ok(error) => Self::Failed(error),
                Err(_) => Self::FailedElsewhere(Arc::clone(&erased.text)),
            },
            Failed::Panicked(message) => Self::Panicked(message),
            Failed::TimedOut(after) => Self::TimedOut(after),
            Failed::Busy { flights } => Self::Busy { flights },
            Failed::Aborted => Self::Aborted,
        }
    }
}

// === impl Erased ===

impl Erased {
    pub(crate) fn new<E: error::Error + Send + Sync + 'static>(error: E) -> Self {
        let text = error.to_string().into();
        Self {
            error: Arc::new(error),
            text,
        }
    }
}
