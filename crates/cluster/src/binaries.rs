//! Finds the programs of a PostgreSQL installation.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use crate::error::{Error, Result};

/// Where Debian puts each major version.
const DEBIAN: &str = "/usr/lib/postgresql";

/// The folder of `postgres`, `initdb` and the others.
#[derive(Clone, Debug)]
pub(crate) struct Binaries(PathBuf);

impl Binaries {
    /// The folder asked for, the one of `major` if data of that version exists already, the newest, the one in `PATH`.
    pub(crate) fn find(asked: Option<&Path>, major: Option<&str>) -> Result<Self> {
        let debian = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
        let mut versions: Vec<(u32, PathBuf)> = debian
            .filter_map(|entry| {
                let version: u32 = entry.file_name().to_str()?.parse().ok()?;
                Some((version, entry.path().join("bin")))
            })
            .filter(|(version, _)| major.is_none_or(|major| major == version.to_string()))
            .collect();
        versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
        let path = env::var_os("PATH").unwrap_or_default();
        let candidates: Vec<PathBuf> = match asked {
            Some(folder) => vec![folder.to_owned()],
            None => versions
                .into_iter()
                .map(|(_, folder)| folder)
                .chain(env::split_paths(&path))
                .collect(),
        };
        let whole = |folder: &&PathBuf| {
            ["postgres", "initdb", "psql"]
                .iter()
                .all(|name| folder.join(name).exists())
        };
        let found = candidates.iter().find(whole).cloned().map(Self);
        found.ok_or_else(|| Error::Missing {
            program: "postgres",
            looked_in: asked.map_or_else(
                || format!("{DEBIAN}/*/bin, PATH"),
                |folder| folder.display().to_string(),
            ),
            package: "postgresql",
        })
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// A program in `PATH` or where system programs lie, which a plain user's `PATH` may leave out.
pub(crate) fn in_path(program: &'static str, package: &'static str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    let found = env::split_paths(&path)
        .chain(system)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file());
    found.ok_or_else(|| Error::Missing {
        program,
        looked_in: "PATH".to_owned(),
        package,
    })
}
