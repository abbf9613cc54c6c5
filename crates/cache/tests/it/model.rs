//! Whatever happens in whatever order: nothing older than its tags' last invalidation, and never more than the bounds.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use proptest::prelude::*;
use tidegate_cache::{Cache, DiskConfig, Hit, Key, Loaded, Policy};
use tidegate_vitals::{Class, Clock, Ledger};
use tokio::{sync::Notify, task::JoinHandle};

use crate::support::Dir;

const KEYS: u8 = 60;
const TAGS: u8 = 4;
const BYTES_MAX: u64 = 64 << 10;
const ENTRIES_MAX: usize = 40;

#[derive(Debug, Clone)]
enum Step {
    Ask(u8),
    /// A load that reads now and ends later.
    AskSlowly(u8),
    EndSlow,
    Commit(u8),
    Advance(u16),
    Remove(u8),
    Clear,
    Flush,
    Shrink(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..KEYS).prop_map(Step::Ask),
        3 => (0..KEYS).prop_map(Step::AskSlowly),
        3 => Just(Step::EndSlow),
        4 => (0..TAGS).prop_map(Step::Commit),
        2 => (0..4_000_u16).prop_map(Step::Advance),
        1 => (0..KEYS).prop_map(Step::Remove),
        1 => Just(Step::Clear),
        2 => Just(Step::Flush),
        1 => (0..60_000_u16).prop_map(Step::Shrink),
    ]
}

/// What the database holds: the number of its last commit. A read gives it, followed by ballast.
#[derive(Clone, Default)]
struct Database(Arc<AtomicU64>);

impl Database {
    fn read(&self, key: u8) -> Loaded {
        let mut bytes = self.0.load(Relaxed).to_le_bytes().to_vec();
        bytes.resize(8 + usize::from(key) * 20, 0);
        Loaded::of(bytes)
    }
}

fn tags(key: u8) -> Vec<String> {
    let first = format!("tag:{}", key % TAGS);
    match key % 3 {
        0 => vec![first],
        _ => vec![first, format!("tag:{}", (key / 3) % TAGS)],
    }
}

fn policy(key: u8) -> Policy {
    Policy {
        stale: Duration::from_millis(u64::from(key % 3) * 1_000),
        ..Policy::of_ttl(Duration::from_secs(2))
    }
    .tagged(&tags(key))
}

struct Run {
    cache: Cache,
    database: Database,
    /// The commit after which each tag was last invalidated.
    invalidated: HashMap<String, u64>,
    slow: Vec<(Arc<Notify>, JoinHandle<()>)>,
    ledger: Ledger,
}

impl Run {
    fn oldest_allowed(&self, key: u8) -> u64 {
        tags(key)
            .iter()
            .filter_map(|tag| self.invalidated.get(tag))
            .copied()
            .max()
            .unwrap_or(0)
    }

    async fn ask(&self, key: u8) {
        let allowed = self.oldest_allowed(key);
        let database = self.database.clone();
        let load = move || async move { Ok::<_, Infallible>(database.read(key)) };
        // A caller who joins a slow load may have to wait for it; then the slow one is let go on.
        let (name, policy) = (Key::new("model", &[key]), policy(key));
        let ask = self.cache.get_or_load(&name, &policy, load);
        let mut ask = std::pin::pin!(ask);
        let hit = loop {
            match tokio::time::timeout(Duration::from_millis(1), &mut ask).await {
                Ok(hit) => break hit.expect("loads never fail"),
                Err(_) => self.slow.iter().for_each(|(gate, _)| gate.notify_one()),
            }
        };
        check(&hit, key, allowed);
    }

    async fn ask_slowly(&mut self, key: u8) {
        let (has_read, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (tell, wait) = (Arc::clone(&has_read), Arc::clone(&gate));
        let (cache, database) = (self.cache.clone(), self.database.clone());
        let allowed = self.oldest_allowed(key);
        let caller = tokio::spawn(async move {
            let told = Arc::clone(&tell);
            let load = move || async move {
                let loaded = database.read(key);
                told.notify_one();
                wait.notified().await;
                Ok::<_, Infallible>(loaded)
            };
            let hit = cache
                .get_or_load(&Key::new("model", &[key]), &policy(key), load)
                .await;
            check(&hit.expect("loads never fail"), key, allowed);
            // Without a load of its own nothing has told yet.
            tell.notify_one();
        });
        // A load that joins another slow one tells nothing before that one ends.
        let _ = tokio::time::timeout(Duration::from_millis(1), has_read.notified()).await;
        self.slow.push((gate, caller));
    }

    async fn end_slow(&mut self) {
        for (gate, _) in &self.slow {
            gate.notify_one();
        }
        for (gate, caller) in self.slow.drain(..) {
            gate.notify_one();
            caller.await.expect("it found what it may find");
        }
    }

    fn commit(&mut self, tag: u8) {
        let commit = self.database.0.fetch_add(1, Relaxed) + 1;
        let tag = format!("tag:{tag}");
        self.cache.invalidate_tags(&[&tag], None);
        self.invalidated.insert(tag, commit);
    }

    fn check_bounds(&self) {
        let stats = self.cache.stats();
        assert!(
            stats.bytes <= BYTES_MAX && stats.entries <= ENTRIES_MAX,
            "{stats:?}"
        );
        assert!(stats.disk.is_some_and(|disk| disk.bytes <= 64 << 10), "{stats:?}");
        assert!(self.ledger.used_by(Class::Caches) <= 4 << 20);
    }
}

fn check(hit: &Hit, key: u8, allowed: u64) {
    let commit = u64::from_le_bytes(
        hit.value()[..8]
            .try_into()
            .expect("every value begins with a number"),
    );
    assert!(
        commit >= allowed,
        "key {key}: read at commit {commit}, invalidated at {allowed}, {hit:?}"
    );
    assert_eq!(
        hit.value().len(),
        8 + usize::from(key) * 20,
        "another key's value"
    );
}

async fn run(steps: Vec<Step>) {
    let dir = Dir::quick();
    let (clock, hand) = Clock::manual();
    let ledger = Ledger::new(1 << 30);
    let disk = DiskConfig {
        bytes_max: 64 << 10,
        segment_bytes: 16 << 10,
        value_bytes_max: 8 << 10,
        ..DiskConfig::new(dir.path())
    };
    let builder = Cache::builder("model")
        .memory(BYTES_MAX, ENTRIES_MAX)
        .clock(clock);
    let cache = builder
        .disk(disk)
        .ledger(ledger.clone())
        .build()
        .await
        .expect("sound bounds");
    let mut run = Run {
        cache,
        database: Database::default(),
        invalidated: HashMap::new(),
        slow: Vec::new(),
        ledger,
    };
    for step in steps {
        match step {
            Step::Ask(key) => run.ask(key).await,
            Step::AskSlowly(key) => run.ask_slowly(key).await,
            Step::EndSlow => run.end_slow().await,
            Step::Commit(tag) => run.commit(tag),
            Step::Advance(ms) => hand.advance(Duration::from_millis(ms.into())),
            Step::Remove(key) => drop(run.cache.remove(&Key::new("model", &[key]))),
            Step::Clear => run.cache.clear(),
            Step::Flush => run.cache.flush().await,
            Step::Shrink(bytes) => {
                run.cache.shrink(bytes.into());
                run.cache.restore();
            }
        }
        run.check_bounds();
    }
    run.end_slow().await;
    run.cache.finish().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_ever_too_old_or_too_much(steps in proptest::collection::vec(step(), 1..250)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(run(steps));
    }
}
