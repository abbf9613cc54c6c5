//! Which database the demo stands on: yours, a private PostgreSQL, or a SQLite file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use tidegate_cluster::{Cluster, Config};

use crate::{
    exit::Failure,
    words::{Lang, Say, say},
};

/// The variable that names a database of one's own.
const VARIABLE: &str = "DATABASE_URL";

/// In somebody's own database the demo keeps to itself.
const SCHEMA: &str = "tidegate_demo.";

/// The folder for data, which goes away with the demo unless it was named.
pub(crate) struct Folder {
    path: PathBuf,
    is_temporary: bool,
}

/// The database and why it was chosen.
pub(crate) struct Chosen {
    /// Its address.
    url: String,
    /// What stands before the names of tables.
    schema: &'static str,
    reason: Reason,
    /// Ends with the demo.
    cluster: Option<Cluster>,
}

/// Why it was chosen.
enum Reason {
    /// The variable names it.
    Named,
    /// There is PostgreSQL on this machine, in this folder now.
    Private(PathBuf),
    /// There is not, for this reason.
    File(PathBuf, String),
}

// === impl Folder ===

impl Folder {
    /// `named`, or a fresh one.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn open(named: Option<&Path>) -> Result<Self, Failure> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => fresh(),
        };
        fs::create_dir_all(&path).map_err(|source| Failure::System("making the data folder", source))?;
        Ok(Self {
            path,
            is_temporary: named.is_none(),
        })
    }

    pub(crate) const fn is_temporary(&self) -> bool {
        self.is_temporary
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_temporary {
            // What is left behind is in the system's temporary folder and small.
            let _left = fs::remove_dir_all(&self.path);
        }
    }
}

/// A name that no other demo has, of this process or another.
fn fresh() -> PathBuf {
    static N: AtomicU32 = AtomicU32::new(0);
    let (pid, n) = (std::process::id(), N.fetch_add(1, Relaxed));
    std::env::temp_dir().join(format!("tidegate-demo-{pid}-{n}"))
}

// === impl Chosen ===

impl Chosen {
    /// `DATABASE_URL`, else a private PostgreSQL, else SQLite. Blocks while a server starts.
    pub(crate) fn choose(folder: &Folder) -> Self {
        if let Some(url) = std::env::var(VARIABLE).ok().filter(|url| !url.is_empty()) {
            return Self {
                schema: if url.starts_with("sqlite:") { "" } else { SCHEMA },
                url,
                reason: Reason::Named,
                cluster: None,
            };
        }
        let config = Config {
            folder: (!folder.is_temporary).then(|| folder.path.join("postgres")),
            ..Config::default()
        };
        match Cluster::start(config) {
            Ok(cluster) => Self {
                url: cluster.url("postgres"),
                schema: "",
                reason: Reason::Private(cluster.folder().to_owned()),
                cluster: Some(cluster),
            },
            Err(error) => {
                let file = folder.path.join("tidegate.db");
                Self {
                    url: format!("sqlite:{}", file.display()),
                    schema: "",
                    reason: Reason::File(file, error.to_string()),
                    cluster: None,
                }
            }
        }
    }

    /// The settings of the demo on this database.
    pub(crate) fn settings(&self, text: &str, folder: &Folder) -> String {
        let text = text.replace('@', self.schema);
        let text = if self.is_sqlite() {
            text
        } else {
            text.replace("#pg ", "")
        };
        let data = toml_text(&folder.path.display().to_string());
        // A temporary folder may lie in memory, where no spool may be, and goes away with the demo in any case.
        let spool = !folder.is_temporary();
        format!(
            "{text}\n[store]\nurl = {}\ndata_dir = {data}\n[store.spool]\nenabled = {spool}\n",
            toml_text(&self.url)
        )
    }

    fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite:")
    }

    /// What it is, for programs.
    pub(crate) fn word(&self) -> &'static str {
        match self.reason {
            Reason::Named => "named",
            Reason::Private(_) => "private",
            Reason::File(..) => "sqlite",
        }
    }

    /// What it is and why, for people; `target` is the address without the password.
    pub(crate) fn why(&self, lang: Lang, target: &str) -> String {
        match &self.reason {
            Reason::Named if self.schema.is_empty() => {
                say(lang, Say::DemoDatabaseNamedFile, &[("target", &target)])
            }
            Reason::Named => say(lang, Say::DemoDatabaseNamed, &[("target", &target)]),
            Reason::Private(folder) => {
                let folder = folder.display();
                say(lang, Say::DemoDatabasePrivate, &[("folder", &folder)])
            }
            Reason::File(file, cause) => {
                let file = file.display();
                say(lang, Say::DemoDatabaseFile, &[("file", &file), ("cause", cause)])
            }
        }
    }

    /// Ends what was started for the demo. Blocks until it has ended.
    pub(crate) fn end(self) {
        drop(self.cluster);
    }
}

/// A text as TOML.
fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: &str, schema: &'static str) -> Chosen {
        Chosen {
            url: url.to_owned(),
            schema,
            reason: Reason::Named,
            cluster: None,
        }
    }

    #[test]
    fn the_settings_are_valid_on_every_database() {
        let folder = Folder::open(None).unwrap();
        for (url, schema) in [
            ("postgres://app@db/shop", SCHEMA),
            ("postgres://app@%2Frun/postgres", ""),
            ("sqlite:a.db", ""),
        ] {
            let text = chosen(url, schema).settings(include_str!("../../assets/demo.toml"), &folder);
            let settings = tidegate::Settings::parse(&text).unwrap();
            assert!(settings.listen().ip().is_loopback() && settings.is_anonymous());
            let table = &settings.feeds()[0].feed;
            assert_eq!(table.table, format!("{schema}orders"));
            let auth = settings.auth(&tidegate::Outside::none()).unwrap();
            assert!(tidegate::auth::Authenticator::new(auth).is_ok());
        }
    }

    #[test]
    fn a_temporary_folder_goes_away() {
        let folder = Folder::open(None).unwrap();
        let path = folder.path.clone();
        assert!(path.is_dir());
        drop(folder);
        assert!(!path.exists());
    }
}
