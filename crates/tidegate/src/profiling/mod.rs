//! Profiles of the running server: what vitals collects, and what flow, store and cache saw in the same seconds.

mod show;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use tidegate_flow::{instances, limiter};
use tidegate_store::statement::{Order, SlowStatement, StatementStats};
use tidegate_vitals::{
    Id, Registry, Snapshot,
    allocator::{self, HeapProfile},
    memory::snapshot::Snapshot as MemorySnapshot,
    profile::{self, Collector, Report, findings},
};

use crate::{api::Api, limits::Memory};

/// Statements that are compared between beginning and end, those with most time first.
const STATEMENTS_READ: usize = 1_000;
/// Statements of a profile, and slow ones.
const STATEMENTS_MAX: usize = 50;

/// Makes one profile at a time.
pub(crate) struct Profiler {
    busy: Arc<AtomicBool>,
    registry: Registry,
}

/// The right to profile; dropped, another may.
pub(crate) struct Turn {
    busy: Arc<AtomicBool>,
    registry: Registry,
    result: &'static str,
}

/// Held by whoever waits for a profile. Dropped, the profile ends.
pub(crate) struct Wanted(#[expect(dead_code, reason = "its end is what the other side sees")] SyncSender<()>);

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) length: Duration,
    /// Whether the heap is sampled too.
    pub(crate) heap: bool,
}

/// A profile.
pub(crate) struct Taken {
    report: Report,
    before: Seen,
    after: Seen,
    statements: Vec<Statement>,
    slow: Vec<SlowStatement>,
    heap: Option<Result<Heap, String>>,
}

/// What the parts of the server had counted at one moment.
struct Seen {
    figures: Snapshot,
    memory: MemorySnapshot,
    allocator: Option<allocator::Stats>,
    instances: Vec<instances::Listed>,
    limiter: limiter::Stats,
    statements: Vec<StatementStats>,
    cache: Option<tidegate_cache::Stats>,
}

/// A statement in the time of the profile.
struct Statement {
    text: String,
    calls: u64,
    busy_ms: f64,
    rows: u64,
    /// The distribution is kept since the start of the process only.
    p99_since_start_ms: f64,
}

/// The heap at the end.
struct Heap {
    alive: HeapProfile,
    /// What was sampled in the time of the profile and is still alive.
    grown: HeapProfile,
}

/// Samples the heap while it lives.
struct Sampling {
    before: HeapProfile,
    is_ours: bool,
    memory: Arc<Memory>,
}

// === impl Profiler ===

impl Profiler {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            busy: Arc::default(),
            registry: registry.clone(),
        }
    }

    /// The right to make one; none while another is made.
    pub(crate) fn turn(&self) -> Option<Turn> {
        if self.busy.swap(true, Ordering::AcqRel) {
            self.registry.counter(Id::ProfileRuns, &["refused"]).inc();
            return None;
        }
        Some(Turn {
            busy: Arc::clone(&self.busy),
            registry: self.registry.clone(),
            result: "abandoned",
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.registry.counter(Id::ProfileRuns, &[self.result]).inc();
        self.busy.store(false, Ordering::Release);
    }
}

/// Both ends of the wish for a profile: one to hold, one for [`take`].
pub(crate) fn wanted() -> (Wanted, Receiver<()>) {
    let (hold, watch) = sync_channel(0);
    (Wanted(hold), watch)
}

/// Makes a profile; blocks for its length and the time that names take. None if nobody wants it any more.
///
/// # Errors
/// A length that is out of range.
pub(crate) fn take(
    api: &Api,
    asked: Asked,
    mut turn: Turn,
    wanted: &Receiver<()>,
) -> profile::Result<Option<Taken>> {
    let config = profile::Config {
        length: asked.length,
        ..profile::Config::default()
    };
    let collector = Collector::new(config, api.clock.clone())?;
    let sampling = asked.heap.then(|| Sampling::start(&api.memory));
    let before = Seen::read(api, "profile begins");
    let (mut is_wanted, mut ended) = (true, None);
    let wait = |length| {
        is_wanted = wanted.recv_timeout(length) == Err(RecvTimeoutError::Timeout);
        is_wanted
    };
    let report = collector.run_while(wait, || {
        let heap = sampling.map(|sampling| sampling.and_then(Sampling::end));
        ended = Some((Seen::read(api, "profile ends"), heap));
    });
    let (true, Some((after, heap))) = (is_wanted, ended) else {
        return Ok(None);
    };
    turn.result = "made";
    Ok(Some(Taken {
        statements: between(&before.statements, &after.statements),
        slow: slow(api, report.started_ms),
        report,
        before,
        after,
        heap,
    }))
}

// === impl Seen ===

impl Seen {
    fn read(api: &Api, label: &str) -> Self {
        let store = api.has_store();
        let monitor = store.map(|store| store.database().monitor());
        Self {
            memory: api.memory.snapshots.take(label, api.memory.pressure.level()),
            allocator: allocator::stats(),
            instances: instances::list(),
            limiter: api.requests.stats(),
            statements: monitor.map_or_else(Vec::new, |monitor| monitor.top(Order::Total, STATEMENTS_READ)),
            cache: store
                .and_then(|store| store.answers())
                .map(|answers| answers.cache().stats()),
            figures: api.registry.snapshot(),
        }
    }
}

/// Statements that ran in between, those with most time first. One that lost its place in the list of the store in
/// between counts from its return.
fn between(before: &[StatementStats], after: &[StatementStats]) -> Vec<Statement> {
    let earlier: HashMap<&str, &StatementStats> = before
        .iter()
        .map(|stats| (stats.fingerprint.as_str(), stats))
        .collect();
    let since = |now: &StatementStats| {
        let then = earlier
            .get(now.fingerprint.as_str())
            .map(|then| &then.totals)
            .filter(|then| then.calls <= now.totals.calls);
        Statement {
            text: now.text.clone(),
            calls: now.totals.calls - then.map_or(0, |then| then.calls),
            busy_ms: now.totals.busy_ms() - then.map_or(0.0, |then| then.busy_ms()),
            rows: now.totals.rows.saturating_sub(then.map_or(0, |then| then.rows)),
            p99_since_start_ms: now.totals.execute.p99_ms,
        }
    };
    let mut statements: Vec<Statement> = after.iter().map(since).filter(|s| s.calls > 0).collect();
    statements.sort_by(|a, b| b.busy_ms.total_cmp(&a.busy_ms).then_with(|| a.text.cmp(&b.text)));
    statements.truncate(STATEMENTS_MAX);
    statements
}

fn slow(api: &Api, started_ms: u64) -> Vec<SlowStatement> {
    let Some(store) = api.has_store() else {
        return Vec::new();
    };
    let mut slow = store.database().monitor().slow(STATEMENTS_MAX);
    slow.retain(|statement| statement.at_ms >= started_ms);
    slow
}

// === impl Taken ===

impl Taken {
    /// Bottlenecks by weight.
    fn findings(&self) -> Vec<findings::Finding> {
        let statement = |s: &Statement| findings::Statement {
            text: s.text.clone(),
            calls: s.calls,
            total_ns: (s.busy_ms * 1e6) as u64,
            p99_ns: (s.p99_since_start_ms * 1e6) as u64,
            rows: s.rows,
        };
        let inputs = findings::Inputs {
            instances: self.instances(),
            statements: self.statements.iter().map(statement).collect(),
        };
        findings::rank(&self.report, &inputs)
    }

    /// Registries of instances in the time of the profile.
    fn instances(&self) -> Vec<findings::Instances> {
        let since = |now: &instances::Listed| {
            let then = self.before.instances.iter().find(|then| then.name == now.name);
            let then = then.map(|then| then.stats).unwrap_or_default();
            findings::Instances {
                name: now.name.to_owned(),
                created: now.stats.created.saturating_sub(then.created),
                hits: now.stats.hits.saturating_sub(then.hits),
                creation_ns: now.stats.creation.saturating_sub(then.creation).as_nanos() as u64,
                contended: now.stats.waited.saturating_sub(then.waited),
            }
        };
        self.after.instances.iter().map(since).collect()
    }
}

// === impl Sampling ===

impl Sampling {
    fn start(memory: &Arc<Memory>) -> Result<Self, String> {
        let text = |error: tidegate_vitals::Error| error.to_string();
        let is_ours = allocator::heap_profile_active() == Some(false);
        allocator::set_heap_profile(true).map_err(text)?;
        let mut this = Self {
            before: HeapProfile::default(),
            is_ours,
            memory: Arc::clone(memory),
        };
        this.before = allocator::heap_profile_dump().map_err(text)?;
        Ok(this)
    }

    fn end(self) -> Result<Heap, String> {
        let alive = allocator::heap_profile_dump().map_err(|error| error.to_string())?;
        Ok(Heap {
            grown: alive.since(&self.before),
            alive,
        })
    }
}

impl Drop for Sampling {
    /// Ends the sampling that this profile began, unless the search for leaks has come to need it.
    fn drop(&mut self) {
        let for_leaks = self.memory.leaks().is_some_and(|(stats, _)| stats.sampling);
        if self.is_ours && !for_leaks {
            // What could be turned on can be turned off.
            let _off = allocator::set_heap_profile(false);
        }
    }
}
