//! Python's usual ways of storing rows, each in a process of its own that measures itself.

use std::path::PathBuf;
use std::process::Command;

use super::super::Report;
use super::failed;
use crate::error::{Result, Tried};
use crate::row::House;

/// The most usual one.
pub(super) const SQLALCHEMY: &str = "SQLAlchemy Core insert";
/// What is measured; each is a word of the script and a row of the table.
pub(super) const WAYS: [&str; 3] = [SQLALCHEMY, "psycopg executemany", "psycopg copy"];

/// An interpreter with the packages, and the script.
pub(super) struct Python {
    program: PathBuf,
    script: PathBuf,
}

/// Installs the packages of the peers, if need be.
pub(super) fn find(house: &House, report: &mut Report) -> Option<Python> {
    match house.python_program() {
        Ok(program) => Some(Python {
            program,
            script: house.peers("python").join("ingest_rows.py"),
        }),
        Err(error) => {
            report.note(format!(
                "Python was not measured: {}.",
                crate::error::chain(&error)
            ));
            None
        }
    }
}

impl Python {
    /// The seconds that the script measured.
    pub(super) fn run(&self, way: &str, url: &str, n_rows: u64, commit: u64) -> Result<f64> {
        let output = Command::new(&self.program)
            .arg(&self.script)
            .args([way, url])
            .args([n_rows.to_string(), commit.to_string()])
            .output()
            .tried("start Python")?;
        let text = String::from_utf8_lossy(&output.stdout);
        text.trim()
            .parse()
            .map_err(|_| failed(way, String::from_utf8_lossy(&output.stderr)))
    }
}
