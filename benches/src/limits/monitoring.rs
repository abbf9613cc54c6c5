//! Monitoring: the throughput of one gateway with everything that watches it, and without.

use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_gateway::{Event, Gateway, Socket};
use tidegate_vitals::leak::{self, AllocatorSampler, Detector};
use tidegate_vitals::pressure::{self, Pressure, Reader};
use tidegate_vitals::{Clock, Ledger, Registry, Timeline, Watch, process, profiled, span};

use super::{Options, Report};
use crate::dialect::Dialect;
use crate::error::{Error, Result, Tried};
use crate::measure::{Bench, Plan};
use crate::row::House;
use crate::server::Launch;
use crate::sys;

const TABLE: &str = "fan-out, 8 messages in flight";
const RATE: &str = "thousand deliveries/s";
const CPU: &str = "CPU per delivery, ns";
const ON: &str = "monitored";
const OFF: &str = "not monitored";
const FLIGHT: usize = 8;

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    // On a thread of its own, because the generator is pinned to a core and other sections need all.
    let measured = std::thread::scope(|scope| {
        let thread = scope.spawn(|| rounds(options, report));
        thread.join().expect("a section answers with an error")
    });
    measured?;
    for (what, column) in [("deliveries/s", RATE), ("deliveries in the same CPU time", CPU)] {
        let ratio = if column == RATE {
            report.ratio(TABLE, ON, OFF, column)
        } else {
            report.ratio(TABLE, OFF, ON, column)
        };
        report.budget(
            format!("monitoring: {what}, on against off"),
            "≥98 %",
            ratio.map(|ratio| 100.0 * ratio),
            |percent| percent >= 98.0,
        );
    }
    Ok(())
}

fn rounds(options: &Options, report: &mut Report) -> Result<()> {
    let bench = bench(options)?;
    let switch = Switch(bench.logs.join(format!("monitored-{}", std::process::id())));
    let launch = Launch {
        program: std::env::current_exe().tried("find this program")?,
        arguments: vec!["gateway".into(), "{addr}".into(), switch.0.display().to_string()],
    };
    let n_loops = if options.quick { 2 } else { 12 };
    for number in options.rounds("monitoring") {
        // On, off, off, on: what drifts with time falls to both alike.
        let is_on = |at: usize| matches!((at + 2 * number) % 4, 0 | 3);
        let plan = (FLIGHT, n_loops);
        let loops = bench.loops(Dialect::SocketIo, &launch, plan, |at| switch.set(is_on(at)))?;
        for (at, (rate, cpu_ns)) in loops.into_iter().enumerate() {
            let who = if is_on(at) { ON } else { OFF };
            report.add(TABLE, who, RATE, rate / 1e3);
            report.add(TABLE, who, CPU, cpu_ns);
        }
    }
    Ok(())
}

/// A file: while it is there, the server is monitored. One process with and without it, because how the memory of a
/// process happens to lie is worth more than what is measured here.
struct Switch(PathBuf);

impl Switch {
    fn set(&self, is_on: bool) -> Result<()> {
        let set = if is_on {
            fs::write(&self.0, "")
        } else {
            fs::remove_file(&self.0)
        };
        match set {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            set => set.tried(format!("switch by {}", self.0.display())),
        }
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0);
    }
}

/// One core for the server and one for the generator, as `bench fanout` has them.
fn bench(options: &Options) -> Result<Bench> {
    let cores = sys::cores();
    let server_core = cores.first().copied().unwrap_or(0);
    let generator_core = cores.get(1).copied().unwrap_or(server_core);
    sys::pin(generator_core).tried(format!("pin the generator to core {generator_core}"))?;
    sys::raise_open_files().tried("raise the limit of open files")?;
    Ok(Bench {
        plan: if options.quick {
            Plan::quick()
        } else {
            Plan::whole()
        },
        server_core,
        spin: server_core != generator_core,
        logs: House::new().scratch()?,
    })
}

/// The server: `join` enters a room, `pub` is broadcast to room `r` as event `m`.
/// It is monitored while the file `switch` is there.
pub(crate) fn gateway(address: SocketAddr, switch: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .tried("start a runtime")?;
    let (registry, ledger) = (Registry::new(), Ledger::new(1 << 30));
    let watcher = {
        let (registry, ledger) = (registry.clone(), ledger.clone());
        move || watch(&switch, &registry, &ledger)
    };
    let thread = std::thread::Builder::new().name("watch".into()).spawn(watcher);
    thread.tried("start a thread")?;
    runtime.block_on(async {
        let listening = Gateway::builder()
            .anonymous()
            .metrics(registry)
            .ledger(ledger)
            .on_inline("join", |socket: &Socket, event: Event| {
                let joined = event.payload::<String>().and_then(|room| socket.join(&room));
                event.answer(joined);
            })
            .on_inline("pub", publish)
            .listen(address);
        let _gateway = listening
            .await
            .map_err(|error| Error::Server(crate::error::chain(&error)))?;
        // Until it is killed.
        std::future::pending().await
    })
}

#[profiled]
fn publish(socket: &Socket, event: Event) {
    let sent = socket.io().to("r").emit_args("m", event.args());
    event.answer(sent);
}

/// What a server in operation does beside its work, at its usual pace.
fn watch(switch: &Path, registry: &Registry, ledger: &Ledger) {
    let clock = Clock::real();
    let timeline = Timeline::new(registry.clone(), clock.clone());
    let pressure = Pressure::new(
        pressure::Config::new(8 << 30),
        Reader::system(),
        registry,
        clock.clone(),
    );
    pressure.watch_ledger(ledger.clone());
    let mut process = Watch::new(registry, ledger.clone());
    let mut leaks = Detector::new(leak::Config::production(), Arc::new(AllocatorSampler), registry);
    let mut next = Instant::now();
    loop {
        let is_on = switch.exists();
        span::set_enabled(is_on);
        if is_on {
            // Ten times as often as at the normal level: as often as under pressure.
            pressure.tick();
        }
        if is_on && Instant::now() >= next {
            next = Instant::now() + Duration::from_secs(1);
            process.tick();
            timeline.tick(clock.now());
            leaks.sample(&leak::Sample {
                at: clock.now(),
                live_bytes: process::rss_bytes().unwrap_or(0),
                accounted_bytes: ledger.used(),
                load: 1.0,
            });
            std::hint::black_box(span::figures());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
