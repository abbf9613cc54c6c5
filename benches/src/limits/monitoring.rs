//! Monitoring: the throughput of one gateway with everything that watches it, and without.

use std::net::SocketAddr;
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

const TABLE: &str = "fan-out to 1,000 subscribers, 8 messages in flight";
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
    // Servers live for one pair of loops: how the memory of a process happens to lie is worth a few percent.
    let pairs = if options.quick { 1 } else { 5 };
    for number in options.rounds("monitoring") {
        for pair in 0..pairs {
            let both = if (number + pair) % 2 == 0 {
                [ON, OFF]
            } else {
                [OFF, ON]
            };
            for who in both {
                let (rate, cpu_ns) = bench.one_loop(Dialect::SocketIo, &launch(who == ON)?, FLIGHT)?;
                report.add(TABLE, who, RATE, rate / 1e3);
                report.add(TABLE, who, CPU, cpu_ns);
            }
        }
    }
    Ok(())
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

fn launch(is_monitored: bool) -> Result<Launch> {
    let mut arguments = vec!["gateway".into(), "{addr}".into()];
    if is_monitored {
        arguments.push("--monitored".into());
    }
    Ok(Launch {
        program: std::env::current_exe().tried("find this program")?,
        arguments,
    })
}

/// The server: `join` enters a room, `pub` is broadcast to room `r` as event `m`.
pub(crate) fn gateway(address: SocketAddr, is_monitored: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .tried("start a runtime")?;
    let (registry, ledger) = (Registry::new(), Ledger::new(1 << 30));
    if is_monitored {
        let (registry, ledger) = (registry.clone(), ledger.clone());
        let thread = std::thread::Builder::new().name("watch".into());
        thread
            .spawn(move || watch(&registry, &ledger))
            .tried("start a thread")?;
        span::set_enabled(true);
    }
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
fn watch(registry: &Registry, ledger: &Ledger) {
    let clock = Clock::real();
    let timeline = Timeline::new(registry.clone(), clock.clone());
    let config = pressure::Config::new(8 << 30);
    let pressure = Pressure::new(config, Reader::system(), registry, clock.clone());
    pressure.watch_ledger(ledger.clone());
    let mut process = Watch::new(registry, ledger.clone());
    let mut leaks = Detector::new(
        leak::Config::production(),
        std::sync::Arc::new(AllocatorSampler),
        registry,
    );
    let mut next = Instant::now();
    loop {
        let wait = pressure.tick();
        if Instant::now() >= next {
            next += Duration::from_secs(1);
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
        std::thread::sleep(wait);
    }
}
