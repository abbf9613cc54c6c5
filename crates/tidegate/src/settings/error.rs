//! What can be wrong with the settings, said with key, value and allowed range.

use std::io;

/// A setting that stops the start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The text is not TOML.
    #[error("not valid TOML: {message}")]
    Syntax {
        /// Place and reason.
        message: String,
    },
    /// No setting has this name.
    #[error("unknown setting {key}{}", hint(nearest.as_deref()))]
    Unknown {
        /// The key as it was written.
        key: String,
        /// The setting that was probably meant.
        nearest: Option<String>,
    },
    /// The value has the wrong type or lies outside the range.
    #[error("{key} is {value}, allowed is {allowed}")]
    Value {
        /// The key as it was written.
        key: String,
        /// The value as it was written.
        value: String,
        /// What would be right.
        allowed: String,
    },
    /// A setting that must stand beside others is absent.
    #[error("{key} is missing, allowed is {allowed}")]
    Missing {
        /// The absent key.
        key: String,
        /// What would be right.
        allowed: String,
    },
    /// An environment variable that a setting names is not set.
    #[error("{key} names the environment variable {name}, which is not set")]
    Environment {
        /// The key.
        key: String,
        /// The variable.
        name: String,
    },
    /// A feed or query that cannot work as it is declared.
    #[error("{key}: {problem}")]
    Declaration {
        /// The key of the feed, the query or a part of it.
        key: String,
        /// What is wrong and what is allowed.
        problem: String,
    },
    /// A setting of access that cannot be used.
    #[error(transparent)]
    Auth(#[from] tidegate_auth::ConfigError),
    /// A file that a setting names cannot be read.
    #[error("{key} names the file {path}, which cannot be read")]
    File {
        /// The key.
        key: String,
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl SettingsError {
    /// Never: the same settings fail again.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }

    pub(crate) fn syntax(error: &toml::de::Error) -> Self {
        // The parser's own text shows line, column and the line itself.
        Self::Syntax {
            message: error.to_string().trim_end().to_owned(),
        }
    }

    pub(crate) fn declaration(key: &str, problem: String) -> Self {
        Self::Declaration {
            key: key.to_owned(),
            problem,
        }
    }

    pub(crate) fn value(key: &str, value: impl std::fmt::Display, allowed: impl Into<String>) -> Self {
        Self::Value {
            key: key.to_owned(),
            value: value.to_string(),
            allowed: allowed.into(),
        }
    }
}

fn hint(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(", did you mean {nearest}?"))
}
