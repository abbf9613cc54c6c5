//! Turns the settings of the application behind the server into what the hook needs, its secret read from outside.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use axum::http::Uri;
use tidegate_auth::{Pattern, SECRET_BYTES_MIN};

use super::{Outside, Settings, SettingsError, Size, model, store::variable};
use crate::hook::segment_bytes;

/// Where the application is and how it is asked: [`Settings::app`].
#[derive(Clone)]
pub struct AppConfig {
    /// Where requests are posted.
    pub url: Uri,
    /// What signs them.
    pub secret: Vec<u8>,
    /// Certificates (PEM) that it is checked against; none: those of this machine.
    pub roots: Option<String>,
    /// Namespaces whose clients it answers.
    pub namespaces: Vec<String>,
    /// Events that go to it.
    pub events: Vec<Pattern>,
    /// Longest time from an event to its answer.
    pub timeout: Duration,
    /// Requests without an answer.
    pub in_flight: usize,
    /// Requests that wait to be among those.
    pub waiting_max: usize,
    /// Largest answer.
    pub answer_bytes_max: usize,
    /// Most bytes it keeps with a session.
    pub data_bytes_max: usize,
    /// How long an unused connection is kept.
    pub keep_alive: Duration,
    /// Failures in a row after which it is left alone.
    pub breaker_failures: u32,
    /// And for how long.
    pub breaker_pause: Duration,
    /// Disconnects on disk; none: in memory.
    pub spool: Option<AppSpool>,
}

/// Disconnects that wait on disk.
#[derive(Clone, Debug)]
pub struct AppSpool {
    /// Its folder.
    pub dir: PathBuf,
    /// Most bytes of its files.
    pub bytes_max: u64,
}

impl std::fmt::Debug for AppConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The secret stays out.
        f.debug_struct("AppConfig")
            .field("url", &self.url)
            .field("timeout", &self.timeout)
            .field("spool", &self.spool)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Built-in events that are answered here, and what stands before their names.
    pub(super) fn builtins(&self) -> (&[String], &str) {
        let (builtins, app) = (&self.values.builtins, &self.values.app);
        if app.url.is_none() {
            return (&builtins.events, &builtins.prefix);
        }
        (
            &app.builtin,
            app.builtin_prefix.as_ref().unwrap_or(&builtins.prefix),
        )
    }

    /// The application behind the server; none if there is none.
    ///
    /// # Errors
    /// A variable that is not set, a secret that is too short, a file of certificates that cannot be read.
    pub fn app(&self, outside: &Outside<'_>) -> Result<Option<AppConfig>, SettingsError> {
        let app = &self.values.app;
        let Some(url) = &app.url else { return Ok(None) };
        let name = app.secret_env.as_deref().unwrap_or_default();
        let secret = secret(variable("app.secret_env", name, outside)?)?;
        let roots = app
            .ca_file
            .as_deref()
            .map(|path| read("app.ca_file", path, outside));
        Ok(Some(AppConfig {
            url: address(url)?,
            secret,
            roots: roots.transpose()?,
            namespaces: app.namespaces.clone(),
            events: app
                .events
                .iter()
                .map(|event| pattern(event))
                .collect::<Result<_, _>>()?,
            timeout: app.timeout.0,
            in_flight: app.in_flight,
            waiting_max: app.waiting_max,
            answer_bytes_max: app.answer_bytes_max.0 as usize,
            data_bytes_max: app.data_bytes_max.0 as usize,
            keep_alive: app.keep_alive.0,
            breaker_failures: app.breaker_failures,
            breaker_pause: app.breaker_pause.0,
            spool: app.spool.enabled.then(|| self.app_spool()),
        }))
    }

    fn app_spool(&self) -> AppSpool {
        let values = &self.values;
        let dir = match &values.app.spool.dir {
            Some(dir) => self.folder.join(dir),
            None => self.folder.join(&values.store.data_dir).join("app"),
        };
        AppSpool {
            dir,
            bytes_max: values.app.spool.bytes_max.0,
        }
    }
}

/// Refuses what cannot work together.
pub(super) fn check(values: &model::Values) -> Result<(), SettingsError> {
    let app = &values.app;
    let Some(url) = &app.url else { return Ok(()) };
    address(url)?;
    if app.secret_env.is_none() {
        return Err(SettingsError::Missing {
            key: "app.secret_env".to_owned(),
            allowed: "the name of an environment variable beside app.url: requests are signed".to_owned(),
        });
    }
    if app.namespaces.is_empty() {
        return Err(SettingsError::value("app.namespaces", "[]", "at least one name"));
    }
    for (at, name) in app.namespaces.iter().enumerate() {
        let valid =
            name.starts_with('/') && !name.contains([',', '?']) && !app.namespaces[..at].contains(name);
        if !valid {
            let allowed = "a name that begins with /, without comma and question mark, once";
            return Err(SettingsError::value(
                "app.namespaces",
                format!("{name:?}"),
                allowed,
            ));
        }
    }
    check_spool(app)?;
    app.events.iter().try_for_each(|event| pattern(event).map(drop))
}

fn check_spool(app: &model::App) -> Result<(), SettingsError> {
    let least = segment_bytes(app.data_bytes_max.0 as usize);
    if !app.spool.enabled || app.spool.bytes_max.0 >= least {
        return Ok(());
    }
    let value = format!("\"{}\"", app.spool.bytes_max);
    let allowed = format!(
        "at least \"{}\" beside app.data_bytes_max = \"{}\"",
        Size(least),
        app.data_bytes_max
    );
    Err(SettingsError::value("app.spool.bytes_max", value, allowed))
}

fn address(url: &str) -> Result<Uri, SettingsError> {
    let parsed = url.parse::<Uri>().ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    parsed.ok_or_else(|| {
        let allowed = "\"http://host:port/path\" or \"https://host:port/path\"";
        SettingsError::value("app.url", format!("{url:?}"), allowed)
    })
}

fn pattern(event: &str) -> Result<Pattern, SettingsError> {
    let refused = |problem: String| SettingsError::value("app.events", format!("{event:?}"), problem);
    let parsed = Pattern::parse(event).map_err(|error| refused(error.to_string()))?;
    if parsed.has_placeholders() {
        return Err(refused("a pattern without {…}".to_owned()));
    }
    Ok(parsed)
}

fn secret(text: String) -> Result<Vec<u8>, SettingsError> {
    if text.len() >= SECRET_BYTES_MIN {
        return Ok(text.into_bytes());
    }
    let value = format!("a secret of {} bytes", text.len());
    let allowed = format!("at least {SECRET_BYTES_MIN} bytes");
    Err(SettingsError::value("app.secret_env", value, allowed))
}

fn read(key: &str, path: &Path, outside: &Outside<'_>) -> Result<String, SettingsError> {
    (outside.read)(path).map_err(|source| SettingsError::File {
        key: key.to_owned(),
        path: path.display().to_string(),
        source,
    })
}
