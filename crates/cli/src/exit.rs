//! How the process ends, and what it says when that is not well.

use std::{error::Error as _, fmt::Write as _, process::ExitCode};

use crate::{
    args::Args,
    out,
    words::{Lang, Say, say},
};

/// A finding or a failure.
pub(crate) const FAILURE: u8 = 1;
/// The command line is wrong (sysexits EX_USAGE).
pub(crate) const USAGE: u8 = 64;
/// The configuration is wrong (sysexits EX_CONFIG).
pub(crate) const CONFIG: u8 = 78;

/// Why a verb could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// A setting is wrong.
    #[error("{file}: {source}")]
    Settings {
        /// The file, or what stands for it.
        file: String,
        #[source]
        source: tidegate::SettingsError,
    },
    /// The configuration file cannot be read.
    #[error("cannot read {file}")]
    Unreadable {
        file: String,
        #[source]
        source: std::io::Error,
    },
    /// The server did not start.
    #[error("tidegate did not start")]
    Start(#[from] tidegate::Error),
    /// The demo was told to listen where everybody can reach it.
    #[error("demo lets anybody in, so {0} is refused without --anyone")]
    NotLoopback(std::net::SocketAddr),
    /// The database, or a row of it.
    #[error("database")]
    Store(#[from] tidegate::store::Error),
    /// The process lacks something of the system.
    #[error("{0} failed")]
    System(&'static str, #[source] std::io::Error),
    /// A verb of `index` could not do its work.
    #[error(transparent)]
    Index(crate::index::Error),
    /// `profile` could not do its work.
    #[error(transparent)]
    Profile(#[from] crate::profile::Error),
}

impl Failure {
    /// Never by itself: each needs a change outside the process first.
    #[cfg(test)]
    pub(crate) const fn is_retryable(&self) -> bool {
        false
    }

    fn code(&self) -> u8 {
        match self {
            Self::Settings { .. } | Self::Unreadable { .. } => CONFIG,
            Self::Start(tidegate::Error::Settings(_) | tidegate::Error::Memory(_)) => CONFIG,
            Self::NotLoopback(_) => USAGE,
            Self::Index(error) => error.code(),
            Self::Profile(error) => error.code(),
            Self::Start(_) | Self::Store(_) | Self::System(..) => FAILURE,
        }
    }

    /// Prints what is wrong and what to do, and gives the exit code.
    pub(crate) fn report(&self, args: &Args) -> ExitCode {
        if args.json {
            let line = serde_json::json!({"ok": false, "exit": self.code(), "error": self.text(Lang::En)});
            out::line(&line.to_string());
        } else {
            out::error(&self.text(args.lang));
        }
        ExitCode::from(self.code())
    }

    /// The message in one language, with its causes.
    pub(crate) fn text(&self, lang: Lang) -> String {
        match self {
            Self::Settings { file, source } => with_causes(
                &format!("{file}: {}", settings_text(lang, source)),
                source.source(),
            ),
            Self::Unreadable { file, source } => {
                say(lang, Say::CannotRead, &[("file", file), ("cause", &source)])
            }
            Self::Start(tidegate::Error::Settings(source)) => {
                with_causes(&settings_text(lang, source), source.source())
            }
            Self::Start(tidegate::Error::Listen { address, source }) => say(
                lang,
                Say::CannotListen,
                &[("address", address), ("cause", source)],
            ),
            Self::Start(tidegate::Error::Store(
                source @ tidegate::store::Error::Connect { sqlstate: None, .. },
            )) => {
                let cause = with_causes(&source.to_string(), source.source());
                say(lang, Say::StoreAway, &[("cause", &cause)])
            }
            Self::Start(tidegate::Error::Store(source)) | Self::Store(source) => {
                let cause = with_causes(&source.to_string(), source.source());
                say(lang, Say::StoreFailed, &[("cause", &cause)])
            }
            Self::Start(tidegate::Error::Memory(error)) => memory_text(lang, error),
            Self::Start(tidegate::Error::Cache(error)) => {
                let cause = with_causes(&error.to_string(), error.source());
                say(lang, Say::CacheBad, &[("cause", &cause)])
            }
            Self::Start(error) => with_causes(&error.to_string(), error.source()),
            Self::NotLoopback(address) => say(lang, Say::DemoNotLoopback, &[("address", address)]),
            Self::Index(error) => error.to_string(),
            Self::Profile(error) => error.text(lang),
            Self::System(_, source) => with_causes(&self.to_string(), Some(source)),
        }
    }
}

/// A settings error in one language; values and ranges are the same in both.
pub(crate) fn settings_text(lang: Lang, error: &tidegate::SettingsError) -> String {
    use tidegate::SettingsError as E;
    if lang == Lang::En {
        return error.to_string();
    }
    match error {
        E::Syntax { message } => say(lang, Say::NotToml, &[("message", message)]),
        E::Unknown { key, nearest: None } => say(lang, Say::UnknownKey, &[("key", key)]),
        E::Unknown {
            key,
            nearest: Some(nearest),
        } => say(lang, Say::UnknownKeyNear, &[("key", key), ("nearest", nearest)]),
        E::Value { key, value, allowed } => say(
            lang,
            Say::BadValue,
            &[("key", key), ("value", value), ("allowed", allowed)],
        ),
        E::Missing { key, allowed } => say(lang, Say::MissingKey, &[("key", key), ("allowed", allowed)]),
        E::Environment { key, name } => say(lang, Say::NoVariable, &[("key", key), ("name", name)]),
        E::File { key, path, .. } => say(lang, Say::NoFile, &[("key", key), ("path", path)]),
        other => other.to_string(),
    }
}

fn memory_text(lang: Lang, error: &tidegate::vitals::Error) -> String {
    match error {
        tidegate::vitals::Error::BudgetAboveMachine {
            budget_bytes,
            machine_bytes,
            limited_by,
        } => say(
            lang,
            Say::MemoryBad,
            &[
                ("budget", budget_bytes),
                ("machine", machine_bytes),
                ("limited", limited_by),
            ],
        ),
        other => say(lang, Say::MemoryLevels, &[("cause", other)]),
    }
}

fn with_causes(text: &str, mut cause: Option<&(dyn std::error::Error + 'static)>) -> String {
    let mut text = text.to_owned();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("writing to a string cannot fail");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_is_away_is_said_with_what_to_do() {
        let away = || tidegate::store::Error::Connect {
            target: "db:5432/shop".to_owned(),
            message: "connection refused".to_owned(),
            sqlstate: None,
        };
        let failure = Failure::Start(tidegate::Error::Store(away()));
        let text = failure.text(Lang::En);
        assert!(
            text.contains("cannot connect to db:5432/shop: connection refused"),
            "{text}"
        );
        assert!(
            text.contains("store.url") && text.contains("supervisor"),
            "{text}"
        );
        assert!(failure.text(Lang::Zh).contains("store.url"));
        assert_eq!(failure.code(), FAILURE);
    }

    #[test]
    fn wrong_settings_are_said_in_both_languages() {
        let source = tidegate::Settings::parse("shards = 999").unwrap_err();
        let failure = Failure::Settings {
            file: "a.toml".to_owned(),
            source,
        };
        assert_eq!(
            failure.text(Lang::En),
            "a.toml: shards is 999, allowed is 0 to 64"
        );
        assert_eq!(failure.text(Lang::Zh), "a.toml: shards 的值为 999，允许：0 to 64");
        assert!(!failure.is_retryable());
        assert_eq!(failure.code(), CONFIG);
    }
}
