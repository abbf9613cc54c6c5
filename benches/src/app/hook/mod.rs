//! The hook: events that an application answers through the gateway, beside servers that have the handler themselves.
//!
//! The server has a core of its own; applications share the other one with the clients. CPU is read for each process, so
//! what the server costs does not depend on who else is busy.

mod application;
mod clients;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate::{Outside, Settings, Tidegate};

use self::clients::Clients;
use super::{Options, Report};
use crate::budget::median;
use crate::error::{Error, Result, Tried, chain};
use crate::row::House;
use crate::server::{Launch, Server};
use crate::sys;

pub(crate) use self::application::serve as serve_application;

const LONE: &str = "50 clients, one event at a time";
const MANY: &str = "50 clients, 64 events in flight";
const CROWD: &str = "1,000 clients that connect at once";
const RATE: &str = "events/s";
const PER_CPU: &str = "events per CPU second";
const CPU: &str = "CPU of the server, µs an event";
const APP_CPU: &str = "of the application, µs";
const P50: &str = "latency P50, µs";
const P99: &str = "latency P99, µs";
const LAST_IN: &str = "last one in, ms";
const FAILED: &str = "failures";
const CROWD_CPU: &str = "CPU of the server, ms";
const CROWD_APP_CPU: &str = "of the application, ms";

const N_CLIENTS: usize = 50;
const FLIGHT: usize = 64;
/// More than a preset allows, so that nobody is refused for it.
const CONNECTIONS_MAX: usize = 10_000;
/// Signs requests between the processes of this bench.
const SECRET: &str = "known to everybody on this machine, for it guards nothing";

/// With the fast application: what the peers are compared with.
const OURS: &str = "Tidegate, application in Rust";
const NODE_ADAPTER: &str = "Tidegate, adapter for socket.io in Node";
const PYTHON_ADAPTER: &str = "Tidegate, adapter for python-socketio";
const NODE: &str = "Node socket.io";
const PYTHON: &str = "python-socketio, uvicorn";

/// What is measured: a server with the handler, or Tidegate and the application that has it.
struct Row {
    name: &'static str,
    server: Launch,
    application: Option<Launch>,
}

/// How much is measured.
struct Plan {
    time: Duration,
    n_crowd: usize,
}

/// Where everything runs.
struct Bench {
    plan: Plan,
    server_core: usize,
    other_core: usize,
    folder: PathBuf,
}

/// The processes of one row.
struct Pair {
    server: Server,
    application: Option<Server>,
}

/// CPU time that both have used, nanoseconds.
#[derive(Clone, Copy)]
struct Used {
    server: u64,
    application: Option<u64>,
}

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let house = House::new();
    let rows = rows(&house, options.quick, report)?;
    let bench = Bench::new(&house, options.quick)?;
    let measured = std::thread::scope(|scope| {
        // This thread and what it starts stays off the server's core; other sections keep both cores.
        let measuring = scope.spawn(|| {
            sys::pin(bench.other_core).tried("pin the clients")?;
            bench.measure_all(&rows, options, report)
        });
        measuring.join().expect("a section answers with an error")
    });
    std::fs::remove_dir_all(&bench.folder).tried("remove the folder of the servers")?;
    measured?;
    compare(report);
    Ok(())
}

fn rows(house: &House, is_quick: bool, report: &mut Report) -> Result<Vec<Row>> {
    let program = std::env::current_exe().tried("find this program")?;
    let own = |arguments: &[&str]| Launch {
        program: program.clone(),
        arguments: arguments.iter().map(|&text| text.to_owned()).collect(),
    };
    let behind = own(&["behind", "{addr}", "{app}", "{spool}"]);
    let mut rows = vec![Row {
        name: OURS,
        server: behind.clone(),
        application: Some(own(&["application", "{addr}"])),
    }];
    if is_quick {
        return Ok(rows);
    }
    // Installed while both cores are still free.
    let (node, python) = (house.node("hook.js"), house.python("hook_app.py"));
    let peers = [
        ("Tidegate, application in Node (http)", &node, "plain", true),
        (NODE_ADAPTER, &node, "adapter", true),
        (PYTHON_ADAPTER, &python, "adapter", true),
        (NODE, &node, "direct", false),
        (PYTHON, &python, "direct", false),
    ];
    for (name, launch, handler, is_behind) in peers {
        let mut launch = match launch {
            Ok(launch) => launch.clone(),
            Err(error) => {
                report.note(format!("Not measured: {name}: {}.", chain(error)));
                continue;
            }
        };
        launch.arguments.extend([handler.to_owned(), SECRET.to_owned()]);
        let (server, application) = if is_behind {
            (behind.clone(), Some(launch))
        } else {
            (launch, None)
        };
        rows.push(Row {
            name,
            server,
            application,
        });
    }
    Ok(rows)
}

/// Says how rows behind Tidegate stand beside those that have the handler themselves; nothing is promised of it.
fn compare(report: &mut Report) {
    for (who, peer) in [
        (OURS, NODE),
        (OURS, PYTHON),
        (NODE_ADAPTER, NODE),
        (PYTHON_ADAPTER, PYTHON),
    ] {
        let per_cpu = [LONE, MANY].map(|table| report.ratio(table, who, peer, PER_CPU));
        let added = [P50, P99].map(|column| added(report, (who, peer), column));
        if let ([Some(lone), Some(many)], [Some(middle), Some(high)]) = (per_cpu, added) {
            report.note(format!(
                "{who}, beside {peer}: {lone:.2}× the events per CPU second of the server one at a time, {many:.2}× \
                 with {FLIGHT} in flight; {middle:+.0} µs at P50, {high:+.0} µs at P99."
            ));
        }
    }
}

/// The median over the rounds of what `who` is slower by than `peer` in the same round.
fn added(report: &Report, (who, peer): (&str, &str), column: &str) -> Option<f64> {
    let (own, other) = (
        report.samples(LONE, who, column),
        report.samples(LONE, peer, column),
    );
    let differences: Vec<f64> = own.iter().zip(other).map(|(own, other)| own - other).collect();
    median(&differences)
}

// === impl Bench ===

impl Bench {
    fn new(house: &House, is_quick: bool) -> Result<Self> {
        let folder = house.scratch()?.join(format!("hook-{}", std::process::id()));
        std::fs::create_dir_all(&folder).tried("make a folder for the servers")?;
        let n_files = sys::raise_open_files().tried("raise the limit of open files")?;
        let (millis, n_crowd) = if is_quick { (100, 100) } else { (3_000, 1_000) };
        if n_files < n_crowd as u64 + 200 {
            let text = format!("{n_crowd} clients need more open files than {n_files} (ulimit -Hn)");
            return Err(Error::Unavailable(text));
        }
        let cores = sys::cores();
        let server_core = cores.first().copied().unwrap_or(0);
        Ok(Self {
            plan: Plan {
                time: Duration::from_millis(millis),
                n_crowd,
            },
            server_core,
            other_core: cores.get(1).copied().unwrap_or(server_core),
            folder,
        })
    }

    fn measure_all(&self, rows: &[Row], options: &Options, report: &mut Report) -> Result<()> {
        for number in options.rounds("hook") {
            // Another order in each round: what drifts with time falls to all alike.
            for at in 0..rows.len() {
                let row = &rows[(at + number - 1) % rows.len()];
                self.measure(row, report)?;
            }
        }
        Ok(())
    }

    fn measure(&self, row: &Row, report: &mut Report) -> Result<()> {
        let pair = self.start(row)?;
        let (mut clients, arrival) = Clients::arrive(pair.server.address(), N_CLIENTS)?;
        if arrival.n_failed > 0 {
            let text = format!(
                "{}: {} of {N_CLIENTS} clients are not in",
                row.name, arrival.n_failed
            );
            return Err(Error::Server(format!("{text} [{}]", pair.server.last_words())));
        }
        let name = |error| Error::Server(format!("{}: {}", row.name, chain(&error)));
        for (table, flight) in [(LONE, 1), (MANY, FLIGHT)] {
            self.events(&pair, &mut clients, (row.name, table, flight), report)
                .map_err(name)?;
        }
        drop(clients);
        self.crowd(&pair, row.name, report).map_err(name)
    }

    fn events(
        &self,
        pair: &Pair,
        clients: &mut Clients,
        (who, table, flight): (&str, &str, usize),
        report: &mut Report,
    ) -> Result<()> {
        clients.ask(flight, self.plan.time / 3)?;
        let before = pair.used()?;
        let asked = clients.ask(flight, self.plan.time)?;
        let used = pair.used()?.since(before);
        let n = asked.n_acked as f64;
        report.add(table, who, RATE, n / asked.took.as_secs_f64());
        report.add(table, who, PER_CPU, n / (used.server as f64 / 1e9));
        report.add(table, who, CPU, used.server as f64 / 1e3 / n);
        if let Some(application) = used.application {
            report.add(table, who, APP_CPU, application as f64 / 1e3 / n);
        }
        if flight == 1 {
            report.add(table, who, P50, asked.latencies.quantile(0.5) as f64 / 1e3);
            report.add(table, who, P99, asked.latencies.quantile(0.99) as f64 / 1e3);
        }
        Ok(())
    }

    fn crowd(&self, pair: &Pair, who: &str, report: &mut Report) -> Result<()> {
        let before = pair.used()?;
        let (_clients, arrival) = Clients::arrive(pair.server.address(), self.plan.n_crowd)?;
        let used = pair.used()?.since(before);
        report.add(CROWD, who, LAST_IN, arrival.took.as_secs_f64() * 1e3);
        report.add(CROWD, who, FAILED, arrival.n_failed as f64);
        report.add(CROWD, who, CROWD_CPU, used.server as f64 / 1e6);
        if let Some(application) = used.application {
            report.add(CROWD, who, CROWD_APP_CPU, application as f64 / 1e6);
        }
        Ok(())
    }

    /// Fresh processes; the application first, for Tidegate is told where it is.
    fn start(&self, row: &Row) -> Result<Pair> {
        let log = |what: &str| self.folder.join(format!("{what}.log"));
        let named = |error| Error::Server(format!("{}: {}", row.name, chain(&error)));
        let application = row.application.as_ref();
        let application = application
            .map(|launch| Server::start(launch, self.other_core, &log("application")))
            .transpose()
            .map_err(named)?;
        let spool = self.folder.join("spool");
        if spool.exists() {
            std::fs::remove_dir_all(&spool).tried("empty the spool")?;
        }
        let mut launch = row.server.clone();
        let url = application
            .as_ref()
            .map(|own| format!("http://{}/socket.io/", own.address()));
        for argument in &mut launch.arguments {
            match argument.as_str() {
                "{app}" => *argument = url.clone().unwrap_or_default(),
                "{spool}" => *argument = spool.display().to_string(),
                _ => {}
            }
        }
        Ok(Pair {
            server: Server::start(&launch, self.server_core, &log("server")).map_err(named)?,
            application,
        })
    }
}

// === impl Pair ===

impl Pair {
    fn used(&self) -> Result<Used> {
        let application = self.application.as_ref().map(Server::cpu_ns);
        Ok(Used {
            server: self.server.cpu_ns()?,
            application: application.transpose()?,
        })
    }
}

// === impl Used ===

impl Used {
    fn since(self, before: Self) -> Self {
        Self {
            server: self.server - before.server,
            application: self
                .application
                .zip(before.application)
                .map(|(now, then)| now - then),
        }
    }
}

// === the server ===

/// Serves with the hook until it is killed.
pub(crate) fn serve(address: SocketAddr, application: &str, spool: &Path) -> Result<()> {
    let text = format!(
        "listen = \"{address}\"\n[auth]\nanonymous = true\n[limits]\nconnections = {CONNECTIONS_MAX}\n\
         [app]\nurl = \"{application}\"\nsecret_env = \"SECRET\"\n[app.spool]\ndir = \"{}\"\n",
        spool.display()
    );
    let refused = |error: tidegate::SettingsError| Error::Server(error.to_string());
    let settings = Settings::parse(&text).map_err(refused)?;
    let outside = Outside {
        env: &|_| Some(SECRET.to_owned()),
        ..Outside::none()
    };
    let app = settings.app(&outside).map_err(refused)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .tried("start a runtime")?;
    runtime.block_on(async {
        let started = Tidegate::builder().settings(settings).app(app).start().await;
        let _server = started.map_err(|error| Error::Server(chain(&error)))?;
        std::future::pending().await
    })
}
