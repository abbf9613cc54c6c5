//! What benches of several sections share: their options, how sections run, and the report.

mod report;

use std::path::PathBuf;

use clap::{Args, builder::PossibleValuesParser};

use crate::error::Result;
use crate::report::Machine;
use crate::row::House;
use crate::sys;

pub(crate) use report::Report;

/// How a bench of sections runs.
#[derive(Args)]
pub(crate) struct Options {
    /// How often everything is measured [default: 5, quick: 1]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
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
pub(crate) type Section = (&'static str, fn(&Options, &mut Report) -> Result<()>);

impl Options {
    /// How many rounds every section makes.
    pub(crate) fn n_rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 1 } else { 5 }, usize::from)
    }

    /// The numbers of the rounds, each told when it begins.
    pub(crate) fn rounds(&self, section: &'static str) -> impl Iterator<Item = usize> + use<> {
        let n_rounds = self.n_rounds();
        (1..=n_rounds).inspect(move |number| eprintln!("{section}: round {number} of {n_rounds}"))
    }
}

/// The names that `--only` takes.
pub(crate) fn names(sections: &[Section]) -> PossibleValuesParser {
    PossibleValuesParser::new(sections.iter().map(|(name, _)| *name))
}

/// Runs the sections in `only`, or all, and prints the report; false if a section broke.
pub(crate) fn run(bench: &str, sections: &[Section], only: &[String], options: &Options) -> Result<bool> {
    let mut report = Report::new(Machine::look(&House::new(), &sys::cores()), options.n_rounds());
    let mut is_whole = true;
    let is_wanted = |name: &str| only.is_empty() || only.iter().any(|own| own == name);
    for (name, section) in sections.iter().filter(|(name, _)| is_wanted(name)) {
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
        report.write_markdown(path, bench)?;
    }
    Ok(is_whole)
}
