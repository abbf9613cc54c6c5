//! `bench store`: the database layer, one section a file, all into one report.
//!
//! A section is a file with `pub(super) fn run(&Options, &mut Report) -> Result<()>` and a line in [`SECTIONS`]. It
//! measures its rows in interleaved rounds, so that what disturbs the machine disturbs all of them, and puts every
//! sample into [`Report::add`]; medians, ratios and the text are the report's.

mod ingest;
mod monitor;
mod orders;
mod pages;
mod pipeline;
mod pool;
mod report;
mod spool;

use std::path::PathBuf;

use clap::{Args, builder::PossibleValuesParser};
use tidegate_cluster::Cluster;

use crate::error::{Error, Result};
use crate::report::Machine;
use crate::row::House;
use crate::sys;

pub(crate) use report::Report;

/// What `bench store` takes.
#[derive(Args)]
pub(crate) struct Options {
    /// How often everything is measured [default: 5, quick: 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// The sections, by comma [default: all]
    #[arg(long, value_delimiter = ',', value_parser = sections())]
    only: Vec<String>,
    /// One small round: shows that everything still runs, its figures mean little
    #[arg(long)]
    pub(crate) quick: bool,
    /// Writes every sample
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the tables, between the marks of docs/performance.md if the file has them
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// A section: its name on the command line, and what measures it.
type Section = (&'static str, fn(&Options, &mut Report) -> Result<()>);

const SECTIONS: &[Section] = &[
    ("pool", pool::run),
    ("pipeline", pipeline::run),
    ("monitor", monitor::run),
    ("pages", pages::run),
    ("orders", orders::run),
    ("ingest", ingest::run),
    ("spool", spool::run),
];

fn sections() -> PossibleValuesParser {
    PossibleValuesParser::new(SECTIONS.iter().map(|(name, _)| *name))
}

impl Options {
    /// How many rounds every section makes.
    pub(crate) fn n_rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 1 } else { 5 }, usize::from)
    }

    fn takes(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == section)
    }
}

/// Runs the sections and prints the report; false if a section broke.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let mut report = Report::new(Machine::look(&House::new(), &sys::cores()), options.n_rounds());
    let mut is_whole = true;
    for (name, section) in SECTIONS.iter().filter(|(name, _)| options.takes(name)) {
        eprintln!("section {name}");
        report.begin(name);
        if let Err(error) = section(options, &mut report) {
            let text = crate::error::chain(&error);
            eprintln!("section {name}: {text}");
            report.note(format!("Failed: section {name}: {text}."));
            is_whole = false;
        }
    }
    println!("{}", report.text());
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    if let Some(path) = &options.markdown {
        report.write_markdown(path)?;
    }
    Ok(is_whole)
}

/// A private server of its own for a section.
pub(crate) fn cluster() -> Result<Cluster> {
    Cluster::temporary().map_err(from_cluster)
}

/// The cluster's error in the words of this package.
#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
pub(crate) fn from_cluster(error: tidegate_cluster::Error) -> Error {
    Error::Server(format!(
        "private PostgreSQL server: {}",
        crate::error::chain(&error)
    ))
}
