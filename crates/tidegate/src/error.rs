//! Why a server could not start or reload.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::SettingsError;

/// Why a server could not start or reload.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A listener could not be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The database refused, or is not as declared.
    #[error("store could not be opened")]
    Store(#[from] tidegate_store::Error),
    /// The folder for what this node keeps cannot be used.
    #[error("cannot use the data folder {}", folder.display())]
    Data {
        /// The folder.
        folder: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The cache cannot be used as it is set.
    #[error("cache could not be opened")]
    Cache(#[from] tidegate_cache::Error),
    /// The memory that the settings name is not there.
    #[error("memory settings cannot be used")]
    Memory(#[from] tidegate_vitals::Error),
    /// The system gives no thread.
    #[error("thread {name} could not be started")]
    Thread {
        /// Its name.
        name: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The way to the application behind the server cannot be opened.
    #[error("cannot open the way to the application")]
    App(#[source] io::Error),
    /// The gateway refused.
    #[error("gateway could not be set up")]
    Gateway(#[from] tidegate_gateway::Error),
}

impl Error {
    /// Whether the same call may succeed later: a busy address may become free, a wrong setting stays wrong.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Settings(error) => error.is_retryable(),
            Self::Listen { .. } => true,
            Self::Store(error) => error.is_retryable(),
            Self::Data { .. } | Self::Memory(_) | Self::App(_) => false,
            Self::Thread { .. } => true,
            Self::Cache(error) => error.is_retryable(),
            Self::Gateway(error) => error.is_retryable(),
        }
    }
}

impl From<tidegate_auth::ConfigError> for Error {
    fn from(error: tidegate_auth::ConfigError) -> Self {
        Self::Settings(error.into())
    }
}
