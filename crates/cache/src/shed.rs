//! What the memory level gives back under pressure.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use tidegate_vitals::pressure::{Ask, Level, Shed};
use tokio::runtime::Handle;

use crate::cache::{Cache, Inner};

/// Lowers the capacity of a cache's memory with the level: to three quarters at the upper edge of moderate, half at that
/// of high, an eighth at that of critical, but not by more than is asked for. Normal brings all of it back at once; the
/// values come back as they are asked for.
///
/// The ticking thread only sets a mark; the evicting is done by a blocking thread of the runtime, a part at a time, so
/// that hits wait for no more than a part.
pub struct Shrinker {
    name: &'static str,
    order: u8,
    state: Arc<State>,
    runtime: Handle,
}

struct State {
    cache: Arc<Inner>,
    /// Bytes that the memory level may have; [`FREE`]: all it was made for.
    target: AtomicU64,
    is_running: AtomicBool,
}

const FREE: u64 = u64::MAX;
/// What one part evicts, as a share of the capacity.
const PARTS: u64 = 32;

impl Cache {
    /// What to register with [`tidegate_vitals::pressure::Pressure`]; `order` says when its turn comes, lower first.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn shed(&self, order: u8) -> Arc<Shrinker> {
        Arc::new(Shrinker {
            name: self.0.name,
            order,
            state: Arc::new(State {
                cache: Arc::clone(&self.0),
                target: AtomicU64::new(FREE),
                is_running: AtomicBool::new(false),
            }),
            runtime: Handle::current(),
        })
    }
}

/// Share of the capacity that is left, a thousandth each, by how far into which level the signal is.
fn share(level: Level, within: f32) -> u64 {
    let (at_edge, at_next) = match level {
        Level::Normal => return 1_000,
        Level::Moderate => (1_000.0, 750.0),
        Level::High => (750.0, 500.0),
        Level::Critical => (500.0, 125.0),
    };
    (at_edge + (at_next - at_edge) * within.clamp(0.0, 1.0)) as u64
}

// === impl Shrinker ===

impl Shrinker {
    fn aim(&self, target: u64) {
        self.state.target.store(target, SeqCst);
        if !self.state.is_running.swap(true, SeqCst) {
            let state = Arc::clone(&self.state);
            drop(self.runtime.spawn_blocking(move || state.run()));
        }
    }
}

impl Shed for Shrinker {
    fn name(&self) -> &'static str {
        self.name
    }

    fn order(&self) -> u8 {
        self.order
    }

    fn shed(&self, ask: &Ask) -> u64 {
        let memory = &self.state.cache.memory;
        let bytes = memory.bytes();
        let by_level = memory.bytes_max() / 1_000 * share(ask.level, ask.within);
        let target = by_level.max(bytes.saturating_sub(ask.bytes_wanted));
        // A level that falls gives nothing back before normal: the signal would only rise again.
        if target >= self.state.target.load(SeqCst).min(memory.capacity()) {
            return 0;
        }
        self.aim(target);
        bytes.saturating_sub(target)
    }

    fn level(&self, level: Level) {
        if level == Level::Normal && self.state.target.load(SeqCst) != FREE {
            self.aim(FREE);
        }
    }
}

// === impl State ===

impl State {
    /// Brings the capacity to the target, which may move meanwhile.
    fn run(&self) {
        loop {
            while self.step() {}
            self.is_running.store(false, SeqCst);
            // One who aimed just before found it running: either sees the mark, or this sees the target.
            if self.is_there() || self.is_running.swap(true, SeqCst) {
                return;
            }
        }
    }

    fn wanted(&self) -> u64 {
        self.target.load(SeqCst).min(self.cache.memory.bytes_max())
    }

    /// Capacities are rounded down to equal shards.
    fn is_there(&self) -> bool {
        self.cache.memory.rounded(self.wanted()) == self.cache.memory.capacity()
    }

    /// One part of the way; `false` at its end.
    fn step(&self) -> bool {
        let memory = &self.cache.memory;
        let (wanted, now) = (memory.rounded(self.wanted()), memory.capacity());
        if wanted == now {
            return false;
        }
        // Room that nothing uses goes at once.
        let least = now.min(memory.bytes()).saturating_sub(memory.bytes_max() / PARTS);
        memory.set_capacity(wanted.max(least));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_falls_with_the_level_and_within_it() {
        let check =
            |level, within, expected| assert_eq!(share(level, within), expected, "{level:?} {within}");
        check(Level::Normal, 1.0, 1_000);
        check(Level::Moderate, 0.0, 1_000);
        check(Level::Moderate, 1.0, 750);
        check(Level::High, 0.5, 625);
        check(Level::Critical, 0.0, 500);
        check(Level::Critical, 1.0, 125);
        check(Level::Critical, 7.0, 125);
    }
}
