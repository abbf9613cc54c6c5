//! Memory of a running server: its level, what gives some back, snapshots, leaks. One thread watches, so that a busy
//! runtime delays nothing.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tidegate_store::database::Context;
use tidegate_vitals::{
    Clock, Id, Instant, Ledger, Registry,
    allocator::{self, Purger},
    leak::{self, Alarm, AllocatorSampler, Detector, Sample},
    memory::snapshot::Snapshots,
    objects::{Count, Objects},
    pressure::{Config, Level, Pressure, Reader, Shed},
    process,
};

use crate::{Error, Settings};

/// Memory of a running server.
pub(crate) struct Memory {
    pub(crate) pressure: Pressure,
    pub(crate) snapshots: Snapshots,
    pub(crate) purger: Arc<Purger>,
    pub(crate) objects: Objects,
    /// What the search for leaks has said; the detector itself may be writing a heap profile for a while.
    leaks: Mutex<Option<Leaks>>,
    /// Until the watch takes it.
    detector: Mutex<Option<Detector>>,
    ledger: Ledger,
    registry: Registry,
    clock: Clock,
}

/// What the search for leaks has done, and the last leak.
type Leaks = (leak::Stats, Option<Alarm>);

/// The thread that watches; it ends when this is dropped.
pub(crate) struct Watching {
    words: mpsc::Sender<Word>,
    thread: Option<JoinHandle<()>>,
}

/// What the watching thread is told. One `Look` at most is on its way: a tick sets the alarm that sends the next.
enum Word {
    /// The accounts have come to where the next level begins.
    Look,
    Stop,
}

/// What has to be done once a second, and less often.
struct Chores {
    counts: [(Count, Id); 6],
    next: Instant,
    next_snapshot: Instant,
    level: Level,
}

/// Time between two snapshots that nobody asked for.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(300);
const SECOND: Duration = Duration::from_secs(1);
/// Time between two looks at least, however fast the accounts fill: parts need as long to give anything back.
const LOOK_GAP: Duration = Duration::from_millis(10);

/// The levels that the settings name, held against the machine.
///
/// # Errors
/// A budget above what the machine has, or levels too close to each other.
pub(crate) fn config(settings: &Settings) -> Result<Config, Error> {
    let host = crate::server::host_memory();
    settings.check_relay(settings.ledger_limit_bytes(host))?;
    let config = settings.pressure(host);
    config.check(&Reader::system().machine())?;
    Ok(config)
}

/// Whether a server with these settings could start on this machine, as far as memory goes.
///
/// # Errors
/// [`Error::Memory`]: a budget above what the machine has, or levels too close to each other.
pub fn check(settings: &Settings) -> Result<(), Error> {
    config(settings).map(drop)
}

// === impl Memory ===

impl Memory {
    /// Nothing is watched yet.
    pub(crate) fn new(config: Config, settings: &Settings, context: &Context) -> Self {
        let Context {
            clock,
            registry,
            ledger,
        } = context;
        let pressure = Pressure::new(config, Reader::system(), registry, clock.clone());
        pressure.watch_ledger(ledger.clone());
        let purger = Arc::new(Purger::new(registry, clock.clone()));
        pressure.register(Arc::clone(&purger) as Arc<dyn Shed>);
        let objects = Objects::new(registry);
        let detector = settings.finds_leaks().then(|| {
            Detector::new(leak::Config::production(), Arc::new(AllocatorSampler), registry)
                .with_objects(objects.clone())
        });
        Self {
            pressure,
            snapshots: Snapshots::new(ledger.clone(), clock.clone()),
            purger,
            objects,
            leaks: Mutex::new(detector.as_ref().map(said)),
            detector: Mutex::new(detector),
            ledger: ledger.clone(),
            registry: registry.clone(),
            clock: clock.clone(),
        }
    }

    /// What the search for leaks has done, and the last leak; none where it is turned off.
    pub(crate) fn leaks(&self) -> Option<Leaks> {
        lock(&self.leaks).clone()
    }

    /// Begins to watch, on a thread of its own.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn watch(self: &Arc<Self>) -> std::io::Result<Watching> {
        let (words, told) = mpsc::channel();
        let bell = words.clone();
        self.ledger.on_alarm(move || {
            // Nobody listens while the server ends.
            let _unheard = bell.send(Word::Look);
        });
        let this = Arc::clone(self);
        let thread = std::thread::Builder::new()
            .name("memory".to_owned())
            .spawn(move || this.run(&told))?;
        Ok(Watching {
            words,
            thread: Some(thread),
        })
    }

    fn run(&self, told: &mpsc::Receiver<Word>) {
        let mut chores = Chores::new(&self.objects, self.clock.now());
        let mut detector = lock(&self.detector).take();
        self.snapshots.take("start", Level::Normal);
        loop {
            let wait = self.pressure.tick();
            let ticked = self.clock.now();
            self.do_chores(&mut chores, detector.as_mut());
            let mut word = told.recv_timeout(wait);
            // A word that comes too soon waits; whatever else comes meanwhile is answered by the same tick.
            while let Ok(Word::Look) = word {
                let rest = LOOK_GAP.saturating_sub(self.clock.now() - ticked);
                if rest.is_zero() {
                    break;
                }
                word = told.recv_timeout(rest);
            }
            if let Ok(Word::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) = word {
                return;
            }
        }
    }

    fn do_chores(&self, chores: &mut Chores, detector: Option<&mut Detector>) {
        let (now, level) = (self.clock.now(), self.pressure.level());
        if level != chores.level {
            tracing::warn!(from = chores.level.as_str(), to = level.as_str(), "memory level");
            chores.level = level;
            self.snapshots.take(&format!("level {}", level.as_str()), level);
        }
        if now < chores.next {
            return;
        }
        chores.next = now + SECOND;
        self.purger.tick();
        let load = chores.count(&self.registry);
        self.objects.tick();
        if let Some(detector) = detector {
            self.look_for_leaks(detector, now, load);
        }
        if now >= chores.next_snapshot {
            chores.next_snapshot = now + SNAPSHOT_EVERY;
            self.snapshots.take("regular", level);
        }
    }

    fn look_for_leaks(&self, detector: &mut Detector, now: Instant, load: f64) {
        let in_use = allocator::stats().map(|stats| stats.allocated);
        let Some(live_bytes) = in_use.or_else(process::rss_bytes) else {
            return;
        };
        let sample = Sample {
            at: now,
            live_bytes,
            accounted_bytes: self.ledger.used(),
            load,
        };
        let alarm = detector.sample(&sample);
        *lock(&self.leaks) = Some(said(detector));
        if let Some(alarm) = alarm {
            tracing::error!(
                subject = ?alarm.subject,
                per_hour = alarm.per_hour,
                place = alarm.top_functions().join(" < "),
                "memory grows without load"
            );
        }
    }
}

fn said(detector: &Detector) -> Leaks {
    (detector.stats(), detector.last_alarm().cloned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Chores ===

impl Chores {
    fn new(objects: &Objects, now: Instant) -> Self {
        let counts = [
            ("connections", Id::GatewayConnections),
            ("sessions", Id::GatewaySessions),
            ("rooms", Id::GatewayRooms),
            ("handlers", Id::GatewayHandlerInFlight),
            ("tasks", Id::TasksRunning),
            ("statements", Id::StorePipelineInFlight),
        ];
        Self {
            counts: counts.map(|(name, id)| (objects.kind(name), id)),
            next: now,
            next_snapshot: now + SNAPSHOT_EVERY,
            level: Level::Normal,
        }
    }

    /// Takes over what the figures say is alive; the connections, which memory may fairly follow.
    fn count(&self, registry: &Registry) -> f64 {
        let now = registry.snapshot();
        let mut load = 0.0;
        for (count, id) in &self.counts {
            let live = u64::try_from(now.gauge(*id)).unwrap_or(0);
            count.set(live);
            if *id == Id::GatewayConnections {
                load = live as f64;
            }
        }
        load
    }
}

// === impl Watching ===

impl Drop for Watching {
    fn drop(&mut self) {
        // A thread that has ended hears nothing.
        let _unheard = self.words.send(Word::Stop);
        // A thread that panicked has said so itself.
        let _ended = self.thread.take().map(JoinHandle::join);
    }
}
