//! Invalidations that Redis has not confirmed yet.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bounded by name; beyond the bound everything counts as invalidated.
pub(super) struct Pending {
    tags_max: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Each tag with the number of its last invalidation: a confirmation of an earlier one does not settle it.
    tags: HashMap<Box<str>, u64>,
    next: u64,
    /// Set when there were too many to name; the number of the last one.
    all: Option<u64>,
}

/// What is to be sent, and what to settle when it was confirmed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) tags: Vec<(Box<str>, u64)>,
    pub(super) all: Option<u64>,
}

/// Tags sent in one go.
const BATCH_MAX: usize = 512;

// === impl Pending ===

impl Pending {
    pub(super) fn new(tags_max: usize) -> Self {
        Self {
            tags_max,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add<'a>(&self, tags: impl Iterator<Item = &'a str>) {
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        for tag in tags {
            if state.all.is_some() || state.tags.len() >= self.tags_max && !state.tags.contains_key(tag) {
                state.all = Some(number);
                state.tags.clear();
                return;
            }
            state.tags.insert(tag.into(), number);
        }
    }

    pub(super) fn add_all(&self) {
        let mut state = self.state();
        state.next += 1;
        state.all = Some(state.next);
        state.tags.clear();
    }

    /// Whether any of `tags` waits.
    pub(super) fn has_any<'a>(&self, mut tags: impl Iterator<Item = &'a str>) -> bool {
        let state = self.state();
        state.all.is_some() || !state.tags.is_empty() && tags.any(|tag| state.tags.contains_key(tag))
    }

    pub(super) fn len(&self) -> usize {
        let state = self.state();
        state.tags.len() + usize::from(state.all.is_some())
    }

    /// Some of what waits; it stays until it is settled.
    pub(super) fn batch(&self) -> Batch {
        let state = self.state();
        Batch {
            tags: state
                .tags
                .iter()
                .take(BATCH_MAX)
                .map(|(tag, number)| (tag.clone(), *number))
                .collect(),
            all: state.all,
        }
    }

    /// `batch` is confirmed.
    pub(super) fn settle(&self, batch: &Batch) {
        let mut state = self.state();
        for (tag, number) in &batch.tags {
            if state.tags.get(tag) == Some(number) {
                state.tags.remove(tag);
            }
        }
        if batch.all.is_some() && state.all == batch.all {
            state.all = None;
        }
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.tags.is_empty() && self.all.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_confirmation_does_not_settle_a_later_invalidation() {
        let pending = Pending::new(10);
        pending.add(["a", "b"].into_iter());
        let batch = pending.batch();
        pending.add(["a"].into_iter());
        pending.settle(&batch);
        assert!(pending.has_any(["a"].into_iter()) && !pending.has_any(["b"].into_iter()));
        pending.settle(&pending.batch());
        assert!(pending.batch().is_empty());
    }

    #[test]
    fn too_many_tags_become_all() {
        let pending = Pending::new(2);
        pending.add(["a", "b"].into_iter());
        pending.add(["b"].into_iter());
        assert!(!pending.has_any(["c"].into_iter()));
        pending.add(["c"].into_iter());
        assert!(pending.has_any(["z"].into_iter()));
        assert_eq!(pending.len(), 1);
        let batch = pending.batch();
        pending.add_all();
        pending.settle(&batch);
        assert!(pending.has_any(["z"].into_iter()), "one more came meanwhile");
        pending.settle(&pending.batch());
        assert_eq!(pending.len(), 0);
    }
}
