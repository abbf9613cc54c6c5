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
mod spool;

use clap::{Args, builder::PossibleValuesParser};
use tidegate_cluster::Cluster;

use crate::error::{Error, Result};
use crate::sections::{self, Section};

pub(crate) use crate::sections::{Options, Report};

/// What `bench store` takes.
#[derive(Args)]
pub(crate) struct Asked {
    /// The sections, by comma [default: all]
    #[arg(long, value_delimiter = ',', value_parser = names())]
    only: Vec<String>,
    #[command(flatten)]
    options: Options,
}

const SECTIONS: &[Section] = &[
    ("pool", pool::run),
    ("pipeline", pipeline::run),
    ("monitor", monitor::run),
    ("pages", pages::run),
    ("orders", orders::run),
    ("ingest", ingest::run),
    ("spool", spool::run),
];

fn names() -> PossibleValuesParser {
    sections::names(SECTIONS)
}

/// Runs the sections and prints the report; false if a section broke.
pub(crate) fn run(asked: &Asked) -> Result<bool> {
    sections::run("store", SECTIONS, &asked.only, &asked.options)
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
