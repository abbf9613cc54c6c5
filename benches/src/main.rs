//! The benches of Tidegate: `fanout` for its gateway, `store` for its database layer, `limits` for what holds it inside
//! its limits, each beside its peers in one run; `app` for what an application behind it does.

mod app;
mod budget;
mod dialect;
mod error;
mod floor;
mod frame;
mod histogram;
mod limits;
mod measure;
mod report;
mod row;
mod sections;
mod server;
mod store;
mod swarm;
mod sys;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use error::{Error, Result, Tried, chain};
use measure::{Bench, Plan};
use report::{Machine, Report};
use row::{House, Row};
use server::Launch;

#[derive(Parser)]
#[command(name = "tidegate-benches", about = "Measures Tidegate beside its peers")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Fan-out to the subscribers of one room: CPU per delivery, rates, latencies and memory
    Fanout(Options),
    /// The database layer on a private PostgreSQL server, section by section
    Store(store::Asked),
    /// Cache, limiter, instances, profiling and monitoring, section by section
    Limits(limits::Asked),
    /// The application behind the gateway, section by section
    App(app::Asked),
    /// The bare coalescing writer that `fanout` starts as its floor
    #[command(hide = true)]
    Floor {
        /// Where it listens, as HOST:PORT
        address: String,
    },
    /// The gateway that `limits` measures with and without monitoring
    #[command(hide = true)]
    Gateway {
        /// Where it listens, as HOST:PORT
        address: std::net::SocketAddr,
        /// A file: it is monitored while this is there
        switch: PathBuf,
    },
    /// The server that `app` measures publishers through Redis with
    #[command(hide = true)]
    Tidegate {
        /// Where it listens, as HOST:PORT
        address: std::net::SocketAddr,
        /// Where Redis is
        redis: String,
    },
    /// The server that `app` measures the hook with
    #[command(hide = true)]
    Behind {
        /// Where it listens, as HOST:PORT
        address: std::net::SocketAddr,
        /// The URL of the application
        application: String,
        /// Where disconnects are kept
        spool: PathBuf,
    },
    /// The application behind that server
    #[command(hide = true)]
    Application {
        /// Where it listens, as HOST:PORT
        address: std::net::SocketAddr,
    },
}

#[derive(Args)]
struct Options {
    /// How often every row is measured [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// The rows, by comma; the floor should be among them [default: all]
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Row>,
    /// One small round of floor and Tidegate: no npm, pip or go, below a minute
    #[arg(long)]
    quick: bool,
    /// Subscribers of the room [default: 1000]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=15_000))]
    subscribers: Option<u16>,
    /// Bytes of a delivered frame with its head [default: 105]
    #[arg(long, value_parser = clap::value_parser!(u16).range(60..=60_000))]
    frame_bytes: Option<u16>,
    /// Seconds of each closed loop [default: 1.5]
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds in which memory is measured [default: 2]
    #[arg(long)]
    memory_rounds: Option<usize>,
    /// The core of the servers [default: the first]
    #[arg(long)]
    server_core: Option<usize>,
    /// The core of the generator [default: the second]
    #[arg(long)]
    generator_core: Option<usize>,
    /// Writes every figure of every round
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes the table, between the marks of docs/performance.md if the file has them
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Fanout(options) => fanout(&options),
        Verb::Store(asked) => store::run(&asked),
        Verb::Limits(asked) => limits::run(&asked),
        Verb::App(asked) => app::run(&asked),
        Verb::Floor { address } => floor::serve(&address).map(|()| true),
        Verb::Gateway { address, switch } => limits::gateway(address, switch).map(|()| true),
        Verb::Tidegate { address, redis } => app::serve(address, &redis).map(|()| true),
        Verb::Behind {
            address,
            application,
            spool,
        } => app::serve_behind(address, &application, &spool).map(|()| true),
        Verb::Application { address } => app::serve_application(address).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// Runs all rounds and prints the table; false if a row that ran was not measured whole.
fn fanout(options: &Options) -> Result<bool> {
    let cores = sys::cores();
    let house = House::new();
    let rows = options.rows();
    let mut report = Report {
        machine: Machine::look(&house, &cores),
        plan: options.plan(),
        rows: rows.clone(),
        rounds: Vec::new(),
        skipped: Vec::new(),
        failures: Vec::new(),
    };
    let launches = prepare(&rows, &house, &mut report)?;
    let bench = options.bench(&cores, house.scratch()?)?;
    run_rounds(options, &bench, &launches, &mut report);
    println!("{}", report.text());
    if let Some(path) = &options.json {
        report.write_json(path)?;
    }
    if let Some(path) = &options.markdown {
        report.write_markdown(path)?;
    }
    Ok(report.failures.is_empty())
}

/// Builds and installs while both cores are still free.
fn prepare(rows: &[Row], house: &House, report: &mut Report) -> Result<Vec<(Row, Launch)>> {
    let mut launches = Vec::new();
    for &row in rows {
        eprintln!("preparing {}", row.title());
        match row.prepare(house) {
            Ok(launch) => launches.push((row, launch)),
            Err(Error::Unavailable(reason)) => {
                eprintln!("{} is not measured: {reason}", row.title());
                report.skipped.push(format!("{}: {reason}", row.title()));
            }
            Err(error) => return Err(error),
        }
    }
    if launches.is_empty() {
        return Err(Error::Unavailable("no row can run here".into()));
    }
    Ok(launches)
}

/// Rounds are interleaved: whatever disturbs the machine for a while disturbs every row.
fn run_rounds(options: &Options, bench: &Bench, launches: &[(Row, Launch)], report: &mut Report) {
    let n_rounds = options.n_rounds();
    for number in 1..=n_rounds {
        let mut round = BTreeMap::new();
        for (row, launch) in launches {
            eprintln!("round {number} of {n_rounds}: {}", row.title());
            let with_memory = number <= bench.plan.memory_rounds;
            let (figures, failures) = bench.round(*row, launch, with_memory);
            for failure in failures {
                eprintln!("round {number}: {}: {failure}", row.title());
                report
                    .failures
                    .push(format!("round {number}, {}, {failure}", row.title()));
            }
            round.insert(*row, figures);
        }
        report.add(round);
    }
}

// === impl Options ===

impl Options {
    fn n_rounds(&self) -> usize {
        self.rounds.map_or(if self.quick { 1 } else { 5 }, usize::from)
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = self.rows.clone();
        if rows.is_empty() && self.quick {
            rows = vec![Row::Floor, Row::Tidegate];
        } else if rows.is_empty() {
            rows = Row::value_variants().to_vec();
        }
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    fn plan(&self) -> Plan {
        let mut plan = if self.quick { Plan::quick() } else { Plan::whole() };
        plan.n_subscribers = self.subscribers.map_or(plan.n_subscribers, usize::from);
        plan.frame_bytes = self.frame_bytes.map_or(plan.frame_bytes, usize::from);
        plan.seconds = self.seconds.unwrap_or(plan.seconds);
        plan.memory_rounds = self.memory_rounds.unwrap_or(plan.memory_rounds);
        plan
    }

    /// Pins the generator, raises the file limit and says where servers run.
    fn bench(&self, cores: &[usize], logs: PathBuf) -> Result<Bench> {
        let first = cores.first().copied().unwrap_or(0);
        let server_core = self.server_core.unwrap_or(first);
        let generator_core = self
            .generator_core
            .unwrap_or_else(|| cores.get(1).copied().unwrap_or(first));
        sys::pin(generator_core).tried(format!("pin the generator to core {generator_core}"))?;
        let n_files = sys::raise_open_files().tried("raise the limit of open files")? as usize;
        let plan = self.plan();
        let needed = plan.n_subscribers.max(plan.n_wide) + 200;
        if n_files < needed {
            let text =
                format!("{needed} open files are needed, but the hard limit is {n_files} (ulimit -Hn)");
            return Err(Error::Unavailable(text));
        }
        let spin = server_core != generator_core;
        if !spin {
            eprintln!("one core for server and generator: rates and latencies mean little");
        }
        Ok(Bench {
            plan,
            server_core,
            spin,
            logs,
        })
    }
}
