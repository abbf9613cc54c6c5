//! `bench limits`: what keeps Tidegate inside its limits, one section a file, all into one report.
//!
//! Sections have the shape of those of `bench store`.

mod cache;
mod caches;
mod disk;
mod hit_ratio;
mod instances;
mod leaks;
mod limiter;
mod monitoring;
mod profiled;
mod reuse;
mod threads;

use clap::{Args, builder::PossibleValuesParser};
use tokio::runtime::{Builder, Runtime};

use crate::error::{Error, Result, Tried};
use crate::sections::{self, Section};

pub(crate) use crate::sections::{Options, Report};
pub(crate) use monitoring::gateway;

/// What `bench limits` takes.
#[derive(Args)]
pub(crate) struct Asked {
    /// The sections, by comma [default: all]
    #[arg(long, value_delimiter = ',', value_parser = names())]
    only: Vec<String>,
    #[command(flatten)]
    options: Options,
}

const SECTIONS: &[Section] = &[
    ("cache", cache::run),
    ("hit_ratio", hit_ratio::run),
    ("disk", disk::run),
    ("instances", instances::run),
    ("profiled", profiled::run),
    ("reuse", reuse::run),
    ("limiter", limiter::run),
    ("leaks", leaks::run),
    ("monitoring", monitoring::run),
];

fn names() -> PossibleValuesParser {
    sections::names(SECTIONS)
}

/// Runs the sections and prints the report; false if a section broke.
pub(crate) fn run(asked: &Asked) -> Result<bool> {
    sections::run("limits", SECTIONS, &asked.only, &asked.options)
}

/// The runtime that a cache is made on.
fn runtime() -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")
}

/// The cache's error in the words of this package.
#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn from_cache(error: tidegate_cache::Error) -> Error {
    Error::Server(format!("cache: {}", crate::error::chain(&error)))
}
