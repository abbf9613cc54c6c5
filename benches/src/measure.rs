//! One round of one row: the sittings in which a server is measured, each with a fresh process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::dialect::Dialect;
use crate::error::{Error, Result, chain};
use crate::histogram::Histogram;
use crate::row::Row;
use crate::server::{Launch, Server};
use crate::swarm::{Swarm, Target};

/// How much is measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Plan {
    /// Subscribers of the room.
    pub(crate) n_subscribers: usize,
    /// Subscribers in the run at half of saturation.
    pub(crate) n_half: usize,
    /// Subscribers that one publish reaches at last.
    pub(crate) n_wide: usize,
    /// Idle connections at which memory is read, ascending.
    pub(crate) n_idle: [usize; 2],
    /// Messages in flight.
    pub(crate) flights: [usize; 3],
    /// Messages in flight with JSON of about 1 KB.
    pub(crate) json_flight: usize,
    /// Bytes of a delivered frame, its head included.
    pub(crate) frame_bytes: usize,
    /// Seconds of each closed loop.
    pub(crate) seconds: f64,
    /// Seconds of each open loop.
    pub(crate) open_seconds: f64,
    /// Deliveries per second of the open loop.
    pub(crate) open_rate: f64,
    /// Lone messages.
    pub(crate) n_lone: usize,
    /// Memory is read in so many rounds; it hardly varies and takes the longest.
    pub(crate) memory_rounds: usize,
}

/// Objects in a message of about 1 KB.
const N_TICKS: usize = 15;
/// No single burst may take longer.
const BURST_WITHIN: Duration = Duration::from_secs(60);

impl Plan {
    /// The run whose table is published.
    pub(crate) fn whole() -> Self {
        Self {
            n_subscribers: 1_000,
            n_half: 100,
            n_wide: 10_000,
            n_idle: [2_000, 8_000],
            flights: [1, 8, 64],
            json_flight: 8,
            frame_bytes: 105,
            seconds: 1.5,
            open_seconds: 4.0,
            open_rate: 50_000.0,
            n_lone: 500,
            memory_rounds: 2,
        }
    }

    /// The run that CI makes, so that none of this rots.
    pub(crate) fn quick() -> Self {
        Self {
            n_subscribers: 100,
            n_half: 20,
            n_wide: 500,
            n_idle: [200, 400],
            seconds: 0.2,
            open_seconds: 0.5,
            open_rate: 5_000.0,
            n_lone: 50,
            ..Self::whole()
        }
    }
}

/// Where the servers and the generator run.
#[derive(Clone, Debug)]
pub(crate) struct Bench {
    /// How much is measured.
    pub(crate) plan: Plan,
    /// The core of the servers.
    pub(crate) server_core: usize,
    /// Whether the generator has a core of its own and may burn it.
    pub(crate) spin: bool,
    /// The folder for the servers' output.
    pub(crate) logs: PathBuf,
}

/// The figures of one row in one round, by the key of their metric: nanoseconds, bytes, and counts per second.
pub(crate) type Figures = BTreeMap<String, f64>;

impl Bench {
    /// Measures one row once; what failed is said in the second part, what was measured before stays.
    pub(crate) fn round(&self, row: Row, launch: &Launch, with_memory: bool) -> (Figures, Vec<String>) {
        let mut figures = Figures::new();
        let mut failures = Vec::new();
        let mut sit = |name: &str, launch: &Launch, sitting: Sitting| {
            let sat = self.sit(row, launch, sitting, &mut figures);
            failures.extend(sat.err().map(|error| format!("{name}: {}", chain(&error))));
        };
        sit("fan-out", launch, Sitting::Fanout);
        if row.has_deflate() {
            sit("deflate", &row.with_deflate(launch), Sitting::Deflate);
        }
        if with_memory {
            sit("memory", launch, Sitting::Memory);
        }
        (figures, failures)
    }

    /// Closed loops on one fresh process, `prepare` called before each: deliveries a second, and the server's CPU time
    /// for one, nanoseconds.
    pub(crate) fn loops(
        &self,
        dialect: Dialect,
        launch: &Launch,
        (flight, n_loops): (usize, usize),
        mut prepare: impl FnMut(usize) -> Result<()>,
    ) -> Result<Vec<(f64, f64)>> {
        let server = Server::start(launch, self.server_core, &self.logs.join("loops.log"))?;
        let target = Target {
            address: server.address(),
            dialect,
            rooms: &["r"],
            deflate: false,
            spin: self.spin,
        };
        let mut seat = Seat {
            plan: &self.plan,
            swarm: Swarm::new(target)?,
            server,
            figures: &mut Figures::new(),
        };
        seat.gather(self.plan.n_subscribers)?;
        let mut one = |number| {
            prepare(number)?;
            seat.swarm.rest(Duration::from_millis(200))?;
            let run = seat.closed_loop(flight)?;
            Ok((run.deliveries_per_second(), run.cpu_per_delivery()))
        };
        (0..n_loops).map(&mut one).collect()
    }

    fn sit(&self, row: Row, launch: &Launch, sitting: Sitting, figures: &mut Figures) -> Result<()> {
        let log = self.logs.join(format!("{}.log", row.title().replace(' ', "-")));
        let server = Server::start(launch, self.server_core, &log)?;
        let target = Target {
            address: server.address(),
            dialect: row.dialect(),
            rooms: if matches!(sitting, Sitting::Memory) {
                &["r", "q"]
            } else {
                &["r"]
            },
            deflate: matches!(sitting, Sitting::Deflate),
            spin: self.spin,
        };
        let mut seat = Seat {
            plan: &self.plan,
            swarm: Swarm::new(target)?,
            server,
            figures,
        };
        let sat = match sitting {
            Sitting::Fanout => seat.fanout(),
            Sitting::Deflate => seat.deflate(),
            Sitting::Memory => seat.memory(),
        };
        sat.map_err(|error| match error {
            Error::Server(text) => Error::Server(format!("{text} [{}]", seat.server.last_words())),
            other => other,
        })
    }
}

#[derive(Clone, Copy)]
enum Sitting {
    Fanout,
    Deflate,
    Memory,
}

struct Seat<'a> {
    plan: &'a Plan,
    swarm: Swarm,
    server: Server,
    figures: &'a mut Figures,
}

/// What a closed loop costs.
struct Loop {
    n_deliveries: u64,
    cpu_ns: u64,
    wall: Duration,
}

impl Loop {
    fn cpu_per_delivery(&self) -> f64 {
        self.cpu_ns as f64 / self.n_deliveries as f64
    }

    fn deliveries_per_second(&self) -> f64 {
        self.n_deliveries as f64 / self.wall.as_secs_f64()
    }
}

impl Seat<'_> {
    fn fanout(&mut self) -> Result<()> {
        self.gather(1)?;
        let lone = self.lone()?;
        self.note_latency("lone", &lone);
        self.gather(self.plan.n_half)?;
        self.half_of_saturation()?;
        self.gather(self.plan.n_subscribers)?;
        for flight in self.plan.flights {
            let run = self.closed_loop(flight)?;
            self.note(format!("cpu_{flight}"), run.cpu_per_delivery());
            self.note(format!("rate_{flight}"), run.deliveries_per_second());
            self.note(
                format!("busy_{flight}"),
                run.cpu_ns as f64 / run.wall.as_nanos() as f64,
            );
        }
        self.full_load()?;
        self.swarm.aim_at_ticks(N_TICKS)?;
        let run = self.closed_loop(self.plan.json_flight)?;
        self.note("cpu_json".into(), run.cpu_per_delivery());
        // Last, for a server that cannot keep this pace is left with a backlog.
        self.swarm.aim_at_frame(self.plan.frame_bytes)?;
        let open = self.open_loop(self.plan.open_rate)?;
        self.note_latency("open", &open);
        Ok(())
    }

    fn deflate(&mut self) -> Result<()> {
        self.swarm.grow_to(self.plan.n_subscribers)?;
        self.swarm.aim_at_ticks(N_TICKS)?;
        let run = self.closed_loop(self.plan.json_flight)?;
        self.note("cpu_deflated".into(), run.cpu_per_delivery());
        Ok(())
    }

    /// Memory beside that of a server that already has some connections, so that what it sets up once is not counted.
    fn memory(&mut self) -> Result<()> {
        let n_first = (self.plan.n_idle[0] / 10).min(64);
        self.gather(n_first)?;
        let first_bytes = self.settled_rss()?;
        for n_idle in self.plan.n_idle {
            self.swarm.grow_to(n_first + n_idle)?;
            let bytes = self.settled_rss()?.saturating_sub(first_bytes);
            self.note(format!("rss_{n_idle}"), bytes as f64 / n_idle as f64);
        }
        self.gather(self.plan.n_wide)?;
        let mut times = Histogram::new();
        for _ in 0..5 {
            self.swarm.reset(false);
            let start = Instant::now();
            self.burst(1, self.swarm.len() as u64)?;
            times.record(start.elapsed().as_nanos() as u64);
            self.swarm.rest(Duration::from_millis(50))?;
        }
        self.note("wide".into(), times.quantile(0.5) as f64);
        Ok(())
    }

    /// Grows to `n` subscribers who all proved that they listen, with frames of the wanted length.
    fn gather(&mut self, n: usize) -> Result<()> {
        self.swarm.grow_to(n)?;
        self.swarm.aim_at_frame(self.plan.frame_bytes)
    }

    /// Sends `flight` messages at once, waits until everybody has them all, and repeats.
    fn closed_loop(&mut self, flight: usize) -> Result<Loop> {
        self.swarm.reset(false);
        self.bursts(flight, self.plan.seconds * 0.3)?;
        self.swarm.reset(false);
        let cpu_before = self.server.cpu_ns()?;
        let start = Instant::now();
        let n_messages = self.bursts(flight, self.plan.seconds)?;
        let wall = start.elapsed();
        let cpu_ns = self.server.cpu_ns()? - cpu_before;
        self.swarm.verify(n_messages)?;
        self.note_order(n_messages);
        Ok(Loop {
            n_deliveries: self.swarm.deliveries(),
            cpu_ns,
            wall,
        })
    }

    fn bursts(&mut self, flight: usize, seconds: f64) -> Result<u64> {
        let start = Instant::now();
        let mut n_messages = 0;
        while n_messages == 0 || start.elapsed().as_secs_f64() < seconds {
            n_messages += flight as u64;
            self.burst(flight, n_messages * self.swarm.len() as u64)?;
        }
        Ok(n_messages)
    }

    fn burst(&mut self, flight: usize, deliveries_then: u64) -> Result<()> {
        self.swarm.publish(flight, self.swarm.now_ns())?;
        self.swarm.wait_for(deliveries_then, BURST_WITHIN)
    }

    /// One subscriber, who hears itself; one message at a time, with uneven pauses that meet no timer's beat.
    fn lone(&mut self) -> Result<Histogram> {
        self.swarm.reset(true);
        for index in 0..self.plan.n_lone as u64 {
            let pause_ns = 1_000_000 + (index * 7_919) % 997 * 2_000;
            self.swarm.wait_until(self.swarm.now_ns() + pause_ns)?;
            self.burst(1, index + 1)?;
        }
        Ok(self.swarm.take_histogram())
    }

    /// Messages on a fixed schedule; each latency counts from the time at which the message was due.
    fn open_loop(&mut self, deliveries_per_second: f64) -> Result<Histogram> {
        let gap_ns = self.swarm.len() as f64 / deliveries_per_second * 1e9;
        let n_messages = (self.plan.open_seconds * 1e9 / gap_ns).ceil().max(2.0) as u64;
        self.swarm.reset(true);
        let start_ns = self.swarm.now_ns();
        for index in 0..n_messages {
            let due_ns = start_ns + (index as f64 * gap_ns) as u64;
            self.swarm.wait_until(due_ns)?;
            self.swarm.publish(1, due_ns)?;
        }
        self.swarm
            .wait_for(n_messages * self.swarm.len() as u64, BURST_WITHIN)?;
        self.swarm.verify(n_messages)?;
        Ok(self.swarm.take_histogram())
    }

    fn half_of_saturation(&mut self) -> Result<()> {
        let saturated = self.closed_loop(1)?.deliveries_per_second();
        let half = self.open_loop(saturated / 2.0)?;
        self.note_latency("half", &half);
        Ok(())
    }

    fn full_load(&mut self) -> Result<()> {
        self.swarm.reset(true);
        self.bursts(self.plan.flights[2], self.plan.seconds / 2.0)?;
        let latencies = self.swarm.take_histogram();
        self.note_latency("full", &latencies);
        Ok(())
    }

    /// Resident memory once it has stopped moving.
    fn settled_rss(&mut self) -> Result<u64> {
        let mut last = self.server.rss_bytes()?;
        for _ in 0..8 {
            self.swarm.rest(Duration::from_millis(500))?;
            let now = self.server.rss_bytes()?;
            if now.abs_diff(last) * 1_000 < last {
                return Ok(now);
            }
            last = now;
        }
        Ok(last)
    }

    fn note(&mut self, key: String, value: f64) {
        self.figures.insert(key, value);
    }

    fn note_latency(&mut self, name: &str, latencies: &Histogram) {
        self.note(format!("{name}_p50"), latencies.quantile(0.5) as f64);
        self.note(format!("{name}_p99"), latencies.quantile(0.99) as f64);
    }

    /// Counts checked messages that came out of order, if there were any.
    fn note_order(&mut self, n_messages: u64) {
        let (n_checked, n_wrong) = (
            n_messages * self.swarm.len().div_ceil(16) as u64,
            self.swarm.reordered(),
        );
        if n_wrong > 0 {
            *self.figures.entry("reordered".into()).or_default() += n_wrong as f64;
            *self.figures.entry("reordered_of".into()).or_default() += n_checked as f64;
        }
    }
}
