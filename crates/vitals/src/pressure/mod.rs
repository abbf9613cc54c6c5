//! Memory pressure: one signal, four levels, and the parts that give memory back.
//!
//! ```text
//! cgroups · RSS / budget · host ─▶ largest ─▶ Ladder ─▶ level ─▶ Shed (in order: each is asked for what is still missing)
//!                     stalls (PSI) ──── raise by one ──┘                └─ the next tick measures what came back
//! ```
//!
//! The ladder is the second line of defence. A tick every 100 ms is slower than a fast network (10 Gbit/s fills what is
//! between 72 % and 100 % of a gibibyte in 230 ms), so the guarantee is the [`Ledger`], which
//! refuses before bytes are there, and whose alarm calls for a tick where the next level begins; the ladder makes room
//! early enough that it seldom has to refuse.
//!
//! ```
//! use tidegate_vitals::pressure::{Config, Level, Pressure, Reader};
//! use tidegate_vitals::{Clock, Registry};
//!
//! let (reader, memory) = Reader::manual();
//! let pressure = Pressure::new(Config::new(1_000_000), reader, &Registry::new(), Clock::real());
//! memory.set_rss(850_000);
//! pressure.tick();
//! assert_eq!(pressure.level(), Level::Critical);
//! ```

mod level;
mod reader;
mod shed;
mod stats;

pub use level::{Level, Thresholds};
pub use reader::{Machine, ManualReader, Part, Reader, Reading};
pub use shed::{Ask, Shed};
pub use stats::{Cause, ShedStats, Stats, Transition};

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Instant};
use crate::error::Error;
use crate::memory::Ledger;
use crate::metric::Registry;
use level::{Ladder, Rules, Signal};
use shed::Sheds;
use stats::{Figures, History};

/// Watches memory and asks the registered parts to give some back. Clones are the same watch.
///
/// It starts no task: its owner calls [`Pressure::tick`] and waits as long as that says.
#[derive(Clone)]
pub struct Pressure(Arc<Inner>);

/// What the levels go by. [`Config::check`] says whether the numbers make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How much memory the process may use, bytes; resident memory is measured against it.
    pub budget_bytes: u64,
    /// Where the levels begin.
    pub thresholds: Thresholds,
    /// How far below its edge a level is left, per mille.
    pub hysteresis: u16,
    /// The least time at a level before it goes down.
    pub dwell: Duration,
    /// Whether stalls raise the level by one, where the system tells of them.
    pub use_psi: bool,
    /// From which share of the last ten seconds spent waiting for memory on stalls count, per mille.
    pub psi_per_mille: u16,
    /// Time between two ticks at [`Level::Normal`].
    pub tick_normal: Duration,
    /// Time between two ticks from [`Level::Moderate`] up.
    pub tick_pressed: Duration,
}

struct Inner {
    level: AtomicU8,
    clock: Clock,
    sheds: Mutex<Sheds>,
    /// Held for a whole tick, so that two owners cannot tick at once.
    ticker: Mutex<Ticker>,
    state: Mutex<State>,
}

/// What only a tick needs.
struct Ticker {
    reader: Reader,
    ladder: Ladder,
    figures: Figures,
    /// What was in use at the last tick.
    last: Option<InUse>,
    trust: Trust,
}

/// What others read and set; held for moments.
struct State {
    config: Config,
    ledger: Option<Ledger>,
    stats: Stats,
    history: History,
}

#[derive(Debug, Clone, Copy)]
struct InUse {
    rss_bytes: u64,
    accounted_bytes: u64,
}

/// Promises that have not shown in the figures yet, so that nobody is asked twice for the same bytes.
#[derive(Debug, Default)]
struct Trust {
    pending_bytes: u64,
    until: Instant,
}

/// The sources of the signal, each as a part of its whole.
#[derive(Debug, Clone, Copy)]
struct Parts {
    cgroup: Option<Part>,
    rss: Option<Part>,
    accounts: Option<Part>,
    host: Option<Part>,
}

/// Accounts that are full refuse whoever asks, mostly with a little left that is too little. So that the level is then
/// critical and not just below it, they count against the budget less one part of so many.
const ACCOUNTS_SPARE: u64 = 32;

/// How long a promise is believed before the same bytes are asked for again.
const TRUST_TIME: Duration = Duration::from_secs(1);

// === impl Config ===

impl Config {
    /// The usual levels for a budget.
    pub const fn new(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            thresholds: Thresholds::DEFAULT,
            hysteresis: 30,
            dwell: Duration::from_secs(2),
            use_psi: true,
            psi_per_mille: 100,
            tick_normal: Duration::from_secs(1),
            tick_pressed: Duration::from_millis(100),
        }
    }

    /// Whether the numbers make sense, and fit the machine: settings that do not are refused.
    ///
    /// # Errors
    /// [`Error::Levels`], [`Error::BudgetZero`] or [`Error::BudgetAboveMachine`].
    pub fn check(&self, machine: &Machine) -> Result<(), Error> {
        self.thresholds.check(self.hysteresis)?;
        machine.check_budget(self.budget_bytes)
    }

    /// The same with a budget that the machine has, and what was wrong with the other, for the log.
    #[must_use]
    pub fn clamped(self, machine: &Machine) -> (Self, Option<Error>) {
        match machine.check_budget(self.budget_bytes) {
            Err(finding @ Error::BudgetAboveMachine { machine_bytes, .. }) => {
                let budget_bytes = machine_bytes;
                (Self { budget_bytes, ..self }, Some(finding))
            }
            other => (self, other.err()),
        }
    }

    /// The largest share at which every level is left: whoever is asked for less may stay just above it for ever.
    fn rest_per_mille(&self) -> u16 {
        self.thresholds.moderate.saturating_sub(self.hysteresis + 1)
    }

    /// What the accounts count against.
    fn accountable_bytes(&self) -> u64 {
        self.budget_bytes - self.budget_bytes / ACCOUNTS_SPARE
    }

    /// From how many bytes in the accounts on the next tick must not wait: where the next level begins.
    fn alarm_bytes(&self, level: Level) -> u64 {
        match level {
            Level::Critical => self.accountable_bytes(),
            below => {
                let edge = u128::from(self.thresholds.edge(below.raised()));
                (u128::from(self.accountable_bytes()) * edge).div_ceil(1_000) as u64
            }
        }
    }

    fn rules(&self) -> Rules {
        Rules {
            thresholds: self.thresholds,
            hysteresis: self.hysteresis,
            dwell: self.dwell,
            stall_per_mille: self.use_psi.then_some(self.psi_per_mille),
        }
    }
}

// === impl Machine ===

impl Machine {
    /// This machine.
    pub fn read() -> Self {
        Reader::system().machine()
    }

    /// Whether a budget fits.
    ///
    /// # Errors
    /// [`Error::BudgetZero`] or [`Error::BudgetAboveMachine`]. A machine that tells nothing allows any.
    pub fn check_budget(&self, budget_bytes: u64) -> Result<(), Error> {
        if budget_bytes == 0 {
            return Err(Error::BudgetZero);
        }
        let limits = [(self.cgroup_bytes, "the cgroup"), (self.host_bytes, "the host")];
        let known = limits
            .iter()
            .filter_map(|(bytes, name)| bytes.map(|bytes| (bytes, *name)));
        match known.min_by_key(|(bytes, _)| *bytes) {
            Some((machine_bytes, limited_by)) if budget_bytes > machine_bytes => {
                Err(Error::BudgetAboveMachine {
                    budget_bytes,
                    machine_bytes,
                    limited_by,
                })
            }
            _ => Ok(()),
        }
    }
}

// === impl Pressure ===

impl Pressure {
    /// A watch at [`Level::Normal`] that has read nothing yet.
    pub fn new(config: Config, reader: Reader, registry: &Registry, clock: Clock) -> Self {
        let now = clock.now();
        Self(Arc::new(Inner {
            level: AtomicU8::new(Level::Normal as u8),
            sheds: Mutex::new(Sheds::new(registry)),
            ticker: Mutex::new(Ticker {
                reader,
                ladder: Ladder::new(now),
                figures: Figures::new(registry),
                last: None,
                trust: Trust::default(),
            }),
            state: Mutex::new(State {
                config,
                ledger: None,
                stats: Stats::new(clock.wall_ms()),
                history: History::default(),
            }),
            clock,
        }))
    }

    /// Takes the accounts of `ledger` as one more source of the signal, and as a second witness of what came back. Memory
    /// that was promised may never be touched, but once the accounts are full everybody is refused, so somebody must give.
    ///
    /// Each tick sets the ledger's alarm to where the next level begins; an owner that ticks when it goes off
    /// ([`Ledger::on_alarm`]) answers a flood at once, and not at the next second.
    pub fn watch_ledger(&self, ledger: Ledger) {
        self.state().ledger = Some(ledger);
    }

    /// Adds a part that gives memory back; it hears at once of a level above normal.
    ///
    /// # Panics
    /// With more than 32 parts: they are written in code, one per component.
    pub fn register(&self, shed: Arc<dyn Shed>) {
        let level = self.level();
        if level > Level::Normal {
            shed.level(level);
        }
        lock(&self.0.sheds).add(shed);
    }

    /// Lets go of every part. Parts often lead back to whoever holds the watch; this ends the circle.
    pub fn unregister_all(&self) {
        lock(&self.0.sheds).clear();
    }

    /// The level now: one atomic load, for hot paths.
    #[inline]
    pub fn level(&self) -> Level {
        Level::from_u8(self.0.level.load(Relaxed))
    }

    /// New settings; they count from the next tick on.
    pub fn set_config(&self, config: Config) {
        self.state().config = config;
    }

    /// The settings in force.
    pub fn config(&self) -> Config {
        self.state().config
    }

    /// Reads memory, moves the level, asks for bytes back; says when to call again.
    ///
    /// It waits for nothing: what is promised now is measured by a later tick.
    pub fn tick(&self) -> Duration {
        let mut ticker = lock(&self.0.ticker);
        let ticker = &mut *ticker;
        let now = self.0.clock.now();
        let (config, accounted) = {
            let state = self.state();
            (state.config, state.ledger.as_ref().map(Ledger::used))
        };
        let reading = ticker.reader.read();
        let parts = Parts::new(&reading, accounted, &config);
        let freed = ticker.measure(&reading, accounted.unwrap_or(0));
        let mut sheds = lock(&self.0.sheds).clone();
        sheds.measured(freed);
        let signal = Signal {
            per_mille: parts.largest().0,
            stall_per_mille: reading.stall_per_mille,
        };
        let moved = ticker.ladder.step(now, signal, &config.rules());
        let level = ticker.ladder.level();
        self.0.level.store(level as u8, Relaxed);
        if let Some(from) = moved {
            let cause = parts.cause(&ticker.ladder, from < level);
            self.record(from, level, signal.per_mille, cause);
            ticker.figures.moved(level);
            sheds.tell(level);
        }
        let missing = match level {
            Level::Normal => 0,
            _ => parts.bytes_above(config.rest_per_mille()),
        };
        let wanted = ticker.trust.wanted(now, level, missing, freed);
        if level > Level::Normal {
            let within = config.thresholds.within(level, signal.per_mille);
            let promised = sheds.ask(level, within, wanted);
            ticker.trust.add(now, promised);
        }
        ticker.figures.write(level, &parts, reading.stall_per_mille);
        self.note(&reading, &parts, wanted);
        if let Some(ledger) = &self.state().ledger {
            // What the ledger refuses calls too, wherever its own limit is.
            ledger.set_alarm(config.alarm_bytes(level).min(ledger.limit()));
        }
        match level {
            Level::Normal => config.tick_normal,
            _ => config.tick_pressed,
        }
    }

    /// What was read, asked, promised and measured so far.
    pub fn stats(&self) -> Stats {
        let sheds = lock(&self.0.sheds).stats();
        let state = self.state();
        Stats {
            sheds,
            transitions: state.history.list(),
            level: self.level(),
            ..state.stats.clone()
        }
    }

    fn record(&self, from: Level, to: Level, per_mille: u32, cause: Cause) {
        let transition = Transition {
            unix_ms: self.0.clock.wall_ms(),
            from,
            to,
            per_mille,
            cause,
        };
        let mut state = self.state();
        state.stats.moved(&transition);
        state.history.push(transition);
    }

    fn note(&self, reading: &Reading, parts: &Parts, wanted: u64) {
        let mut state = self.state();
        let stats = &mut state.stats;
        stats.ticks += 1;
        stats.bytes_wanted = wanted;
        (stats.per_mille, stats.source) = parts.largest();
        stats.cgroup = parts.cgroup;
        stats.rss = parts.rss;
        stats.accounts = parts.accounts;
        stats.host = parts.host;
        stats.stall_per_mille = reading.stall_per_mille;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

impl fmt::Debug for Pressure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pressure({})", self.level())
    }
}

// === impl Ticker ===

impl Ticker {
    /// What came back since the last tick: the larger drop of the two witnesses, since the same bytes show in both.
    fn measure(&mut self, reading: &Reading, accounted_bytes: u64) -> u64 {
        let before = self.last;
        let rss_bytes = reading
            .rss_bytes
            .or(before.map(|last| last.rss_bytes))
            .unwrap_or(0);
        let now = InUse {
            rss_bytes,
            accounted_bytes,
        };
        self.last = Some(now);
        before.map_or(0, |before| {
            let rss = before.rss_bytes.saturating_sub(now.rss_bytes);
            rss.max(before.accounted_bytes.saturating_sub(now.accounted_bytes))
        })
    }
}

// === impl Trust ===

impl Trust {
    /// What is still to be asked for. At critical nothing is taken on trust.
    fn wanted(&mut self, now: Instant, level: Level, missing: u64, freed: u64) -> u64 {
        self.pending_bytes = self.pending_bytes.saturating_sub(freed);
        if now >= self.until || level == Level::Critical {
            self.pending_bytes = 0;
        }
        missing.saturating_sub(self.pending_bytes)
    }

    fn add(&mut self, now: Instant, promised: u64) {
        if self.pending_bytes == 0 {
            self.until = now + TRUST_TIME;
        }
        self.pending_bytes = self.pending_bytes.saturating_add(promised);
    }
}

// === impl Parts ===

impl Parts {
    fn new(reading: &Reading, accounted: Option<u64>, config: &Config) -> Self {
        Self {
            cgroup: reading.cgroup,
            rss: reading
                .rss_bytes
                .and_then(|rss| Part::new(rss, config.budget_bytes)),
            accounts: accounted.and_then(|bytes| Part::new(bytes, config.accountable_bytes())),
            host: reading.host,
        }
    }

    fn named(&self) -> [(Cause, Option<Part>); 4] {
        [
            (Cause::Cgroup, self.cgroup),
            (Cause::Rss, self.rss),
            (Cause::Accounts, self.accounts),
            (Cause::Host, self.host),
        ]
    }

    /// The largest share and whose it is; zero where nothing is known.
    fn largest(&self) -> (u32, Option<Cause>) {
        let shares = self
            .named()
            .into_iter()
            .filter_map(|(cause, part)| Some((part?.per_mille(), cause)));
        // `max_by_key` takes the last of equals; the order above is by how close the limit is to the process.
        match shares.rev().max_by_key(|(per_mille, _)| *per_mille) {
            Some((per_mille, cause)) => (per_mille, Some(cause)),
            None => (0, None),
        }
    }

    /// What must go until every source is below `per_mille`.
    fn bytes_above(&self, per_mille: u16) -> u64 {
        let parts = self.named().into_iter().filter_map(|(_, part)| part);
        parts.map(|part| part.bytes_above(per_mille)).max().unwrap_or(0)
    }

    fn cause(&self, ladder: &Ladder, went_up: bool) -> Cause {
        match (went_up, ladder.stalled(), self.largest().1) {
            (false, _, _) => Cause::Eased,
            (true, true, _) | (true, false, None) => Cause::Stalls,
            (true, false, Some(source)) => source,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
