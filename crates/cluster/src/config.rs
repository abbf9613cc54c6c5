//! What a server is started with.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::error::{Error, Result};

/// What a server is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder that keeps the data; it is made when it is missing and never removed. Without it the server is
    /// temporary, below the system's temporary folder.
    pub folder: Option<PathBuf>,
    /// Also listen on a free port of 127.0.0.1, with a password of its own ([`crate::Cluster::tcp_url`]).
    pub tcp: bool,
    /// Settings of postgresql.conf, over the defaults of [`Config::default`].
    pub settings: BTreeMap<String, String>,
    /// Folder of `postgres` and `initdb`; otherwise the newest of Debian's, then the one in `PATH`.
    pub binaries: Option<PathBuf>,
    /// How long a start may take, crash recovery included. Default 60 s.
    pub start_timeout: Duration,
    /// How long a fast shutdown may take before the server is killed. Default 30 s.
    pub stop_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let settings = DEFAULTS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            folder: None,
            tcp: false,
            settings: settings.collect(),
            binaries: None,
            start_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_secs(30),
        }
    }
}

/// Durable, and moderate with memory: several servers share a machine in tests.
const DEFAULTS: [(&str, &str); 9] = [
    ("fsync", "on"),
    ("shared_buffers", "64MB"),
    ("max_connections", "200"),
    ("wal_level", "replica"),
    ("hot_standby", "on"),
    // A standby that was away for a while finds its log without a replication slot.
    ("wal_keep_size", "512MB"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] %q%a "),
];

/// What this crate relies on to reach the server and to see when it is ready.
const OURS: [&str; 10] = [
    "port",
    "listen_addresses",
    "unix_socket_directories",
    "unix_socket_permissions",
    "logging_collector",
    "log_destination",
    "lc_messages",
    "data_directory",
    "config_file",
    "hba_file",
];

impl Config {
    /// Sets one setting of postgresql.conf.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |name: &str, problem| {
            let name = name.to_owned();
            Err(Error::Setting { name, problem })
        };
        for (name, value) in &self.settings {
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            if name.is_empty() || !name.chars().all(is_name) {
                return wrong(name, "a name is letters, digits, `_` and `.`");
            }
            if OURS.contains(&name.to_ascii_lowercase().as_str()) {
                return wrong(name, "the cluster sets this itself");
            }
            if value.contains(['\n', '\0']) {
                return wrong(name, "a value is one line");
            }
        }
        Ok(())
    }

    /// The text of postgresql.conf.
    pub(crate) fn text(&self, socket_folder: &str, port: u16) -> String {
        let listen = if self.tcp { "127.0.0.1" } else { "" };
        let port = port.to_string();
        let ours = [
            ("unix_socket_directories", socket_folder),
            ("listen_addresses", listen),
            ("port", &port),
            ("logging_collector", "off"),
            ("log_destination", "stderr"),
            // The log is read for one English sentence.
            ("lc_messages", "C"),
        ];
        let theirs = self
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let line = |(name, value): (&str, &str)| format!("{name} = '{}'\n", quoted(value));
        theirs.chain(ours).map(line).collect()
    }
}

fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "''")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked() {
        let check = |name, value, good| {
            let config = Config::default().with(name, value);
            assert_eq!(config.check().is_ok(), good, "{name} = {value}");
        };
        check("work_mem", "8MB", true);
        check("pg_stat_statements.track", "all", true);
        check("port", "1", false);
        check("Port", "1", false);
        check("", "1", false);
        check("work_mem = 1\nport", "1", false);
        check("work_mem", "1\nport = 2", false);
    }

    #[test]
    fn values_are_quoted() {
        let text = Config::default().with("a.b", r"it's \ here").text("/s", 5432);
        assert!(text.contains("a.b = 'it''s \\\\ here'\n"), "{text}");
        assert!(text.contains("port = '5432'\n"), "{text}");
    }
}
