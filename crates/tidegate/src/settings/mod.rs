//! The settings of a whole server: read, checked by one table, and composed for each crate.
//!
//! ```text
//! text ─▶ TOML ─▶ table (unknown key? wrong type? outside the range?) ─▶ defaults of the preset ─▶ Settings
//! Settings ─▶ gateway::Config · auth::Config · addresses · memory limit
//! ```
//!
//! [`TABLE`] declares each setting once; the check, the defaults, `tidegate.toml` and the tables of
//! `docs/operations.md` are made from it.

mod app;
mod bridge;
mod check;
mod compose;
mod entries;
mod error;
mod feeds;
mod limits;
mod model;
mod queries;
mod reference;
mod store;
mod table;
mod together;
mod value;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

pub use app::{AppConfig, AppSpool};
pub use bridge::BridgeConfig;
pub use check::Preset;
pub use entries::{GROUPS, TABLE};
pub use error::SettingsError;
pub use feeds::{FeedSettings, Live};
pub use limits::{CacheRule, CacheSettings, ConcurrencySettings, Levels, RoleShare};
pub use reference::{markdown, sample};
pub use store::{IngestSettings, SpoolSettings, StoreConfig};
pub use table::{Field, Group, Initial, Kind, Setting, Words};
pub use value::{NotAValue, Size, Time};

/// How the settings reach what lies outside their text; the library itself reads neither files nor environment.
pub struct Outside<'a> {
    /// The value of an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The text of a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<String>,
}

impl Outside<'_> {
    /// No environment and no files: settings that name either are refused.
    #[must_use]
    pub fn none() -> Outside<'static> {
        Outside {
            env: &|_| None,
            read: &|_| {
                Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "no files can be read here",
                ))
            },
        }
    }
}

/// All settings of one server, every one in its range.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(crate) values: model::Values,
    resolved: toml::Table,
    /// Where relative paths are meant from.
    folder: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self::parse("").expect("the defaults of the table are valid, a test holds them to it")
    }
}

impl Settings {
    /// Reads `text`, the content of a `tidegate.toml`.
    ///
    /// # Errors
    /// The first thing that is wrong, with key, value and allowed range.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        Self::parse_layers(&[text])
    }

    /// Reads several texts, a later one over an earlier one: a file under what the command line says.
    ///
    /// # Errors
    /// As [`Settings::parse`].
    pub fn parse_layers(texts: &[&str]) -> Result<Self, SettingsError> {
        let mut merged = toml::Table::new();
        for text in texts {
            let table = text
                .parse::<toml::Table>()
                .map_err(|error| SettingsError::syntax(&error))?;
            check::check(&table)?;
            check::overlay(&mut merged, table);
        }
        check::fill(&mut merged);
        check::required(&merged)?;
        let values: model::Values =
            merged
                .clone()
                .try_into()
                .map_err(|error: toml::de::Error| SettingsError::Syntax {
                    message: error.message().to_owned(),
                })?;
        together::check(&values)?;
        Ok(Self {
            values,
            resolved: merged,
            folder: PathBuf::new(),
        })
    }

    /// Keys that differ from `newer` and take effect only in a new process, sorted.
    #[must_use]
    pub fn needs_restart(&self, newer: &Self) -> Vec<String> {
        let (mut old, mut new) = (BTreeSet::new(), BTreeSet::new());
        check::leaves(&self.resolved, &mut old);
        check::leaves(&newer.resolved, &mut new);
        let fixed = |pattern: &str| table::find(pattern).is_some_and(|setting| !setting.reload);
        let changed = old.symmetric_difference(&new).filter(|leaf| fixed(&leaf.pattern));
        let keys: BTreeSet<String> = changed.map(|leaf| leaf.key.clone()).collect();
        keys.into_iter().collect()
    }
}
