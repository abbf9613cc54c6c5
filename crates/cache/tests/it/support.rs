//! What the tests share: caches on a clock moved by hand, loads that count, folders that vanish.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_cache::{Cache, Hit, Key, Loaded, Policy};
use tidegate_vitals::{Clock, ManualClock};

/// A load that failed on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the database is away")]
pub(crate) struct Away;

/// Counts loads and gives each a value of its own.
#[derive(Clone, Default)]
pub(crate) struct Source(Arc<AtomicU64>);

impl Source {
    /// How often it was asked.
    pub(crate) fn loads(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Asks `cache`; a load gives the number of loads so far as its text.
    pub(crate) async fn ask(&self, cache: &Cache, key: &Key, policy: &Policy) -> Hit {
        let counter = Arc::clone(&self.0);
        let load = move || async move {
            let number = counter.fetch_add(1, Relaxed) + 1;
            Ok::<_, Infallible>(Loaded::of(number.to_string()))
        };
        cache
            .get_or_load(key, policy, load)
            .await
            .expect("it never fails")
    }

    /// As [`Source::ask`], giving just the text.
    pub(crate) async fn text(&self, cache: &Cache, key: &Key, policy: &Policy) -> String {
        text(&self.ask(cache, key, policy).await)
    }
}

/// A hit's value as text.
pub(crate) fn text(hit: &Hit) -> String {
    String::from_utf8(hit.value().to_vec()).expect("the tests store text")
}

/// A small cache on a clock moved by hand.
pub(crate) async fn cache() -> (Cache, ManualClock) {
    let (clock, hand) = Clock::manual();
    let builder = Cache::builder("test").memory(1 << 20, 1_000).clock(clock);
    (builder.build().await.expect("sound bounds"), hand)
}

pub(crate) fn key(name: &str) -> Key {
    Key::new("test", name.as_bytes())
}

/// Ten seconds, without jitter.
pub(crate) fn policy() -> Policy {
    Policy {
        jitter: 0.0,
        ..Policy::of_ttl(Duration::from_secs(10))
    }
}

/// A new folder that is removed at the end.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        Self::below(&std::env::temp_dir())
    }

    /// In memory where the system has such a place, for properties that open hundreds of caches.
    pub(crate) fn quick() -> Self {
        let memory = Path::new("/dev/shm");
        match memory.is_dir() {
            true => Self::below(memory),
            false => Self::new(),
        }
    }

    fn below(parent: &Path) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "tidegate-cache-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let path = parent.join(name);
        std::fs::create_dir_all(&path).expect("the folder for temporary files is writable");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
