//! `bench app`: the application behind the gateway, one section a file, all into one report.

mod hook;
mod outbox;
mod redis;

use clap::{Args, builder::PossibleValuesParser};

use crate::error::Result;
use crate::sections::{self, Section};

pub(crate) use self::hook::{serve as serve_behind, serve_application};
pub(crate) use self::redis::serve;
pub(crate) use crate::sections::{Options, Report};

/// What `bench app` takes.
#[derive(Args)]
pub(crate) struct Asked {
    /// The sections, by comma [default: all]
    #[arg(long, value_delimiter = ',', value_parser = names())]
    only: Vec<String>,
    #[command(flatten)]
    options: Options,
}

const SECTIONS: &[Section] = &[
    ("hook", hook::run),
    ("outbox", outbox::run),
    ("redis", redis::run),
];

fn names() -> PossibleValuesParser {
    sections::names(SECTIONS)
}

/// Runs the sections and prints the report; false if a section broke.
pub(crate) fn run(asked: &Asked) -> Result<bool> {
    sections::run("app", SECTIONS, &asked.only, &asked.options)
}
