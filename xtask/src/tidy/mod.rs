//! Rules of this repository that a compiler does not check.

mod documents;
mod imports;
mod lexer;
mod source;

use std::{fmt, fs, path::Path};

use crate::error::{Error, Result};

/// One broken rule and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Path from the root of the repository.
    pub(crate) path: String,
    /// Counted from one; 0 speaks of the whole file.
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Finding {
    pub(crate) fn file(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line: 0,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// A file of the repository: its path from the root, with `/`, and its text.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn run(root: &Path) -> Result<()> {
    let files = read_tree(root)?;
    let mut findings = check(&files);
    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {} files, nothing to say", files.len());
            Ok(())
        }
        n => Err(Error::Found {
            what: "tidy",
            n_problems: n,
        }),
    }
}

fn check(files: &[File]) -> Vec<Finding> {
    let mut findings = imports::check(files);
    findings.extend(
        files
            .iter()
            .filter(|file| file.path.ends_with(".rs"))
            .flat_map(source::check),
    );
    findings.extend(documents::check(files));
    findings
}

/// Folders that hold nothing of ours.
const FOREIGN: [&str; 5] = ["target", "node_modules", "artifacts", "corpus", "__pycache__"];

/// Every Rust source, manifest and document below `root`, in order of path.
fn read_tree(root: &Path) -> Result<Vec<File>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        let failed = |source| Error::File {
            path: folder.display().to_string(),
            source,
        };
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !name.starts_with('.') && !FOREIGN.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if [".rs", ".md", ".toml"].iter().any(|end| name.ends_with(end)) {
                files.push(read(root, &path)?);
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn read(root: &Path, path: &Path) -> Result<File> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|source| Error::File {
        path: path.display().to_string(),
        source,
    })?;
    let path = path.strip_prefix(root).expect("the walk stays below the root");
    Ok(File {
        path: path.to_string_lossy().replace('\\', "/"),
        text,
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of every check share.

    use super::{File, Finding};

    pub(crate) fn file(path: &str, text: &str) -> File {
        File {
            path: path.to_owned(),
            text: text.to_owned(),
        }
    }

    /// Compares findings as they are printed.
    pub(crate) fn compare(findings: &[Finding], expected: &[&str]) {
        let mut printed: Vec<String> = findings.iter().map(ToString::to_string).collect();
        printed.sort();
        assert_eq!(printed, expected);
    }
}
