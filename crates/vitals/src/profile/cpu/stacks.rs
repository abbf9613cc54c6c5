//! Samples counted by thread and stack, bounded in number.

use std::collections::HashMap;

use super::super::threads;

/// Stacks seen so far. Only the first [`STACKS_MAX`] distinct ones are kept.
#[derive(Debug, Default)]
pub(crate) struct Stacks {
    /// By thread and addresses, innermost first.
    counts: HashMap<Key, u64>,
    names: HashMap<u32, String>,
    pub(crate) samples: u64,
    /// Samples that no place was left for, here or in the sampler's buffers.
    pub(crate) lost: u64,
    /// Threads that could not be sampled.
    pub(crate) threads_refused: u64,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    tid: u32,
    frames: Box<[u64]>,
}

/// A minute of two hundred threads that never repeat a stack would need more; 20 MiB at the most.
const STACKS_MAX: usize = 20_000;

impl Stacks {
    /// Counts one sample; `frames` are innermost first.
    pub(super) fn add(&mut self, tid: u32, frames: &[u64]) {
        self.samples += 1;
        if frames.is_empty() {
            self.lost += 1;
            return;
        }
        self.learn_name(tid);
        let key = Key {
            tid,
            frames: frames.into(),
        };
        if let Some(count) = self.counts.get_mut(&key) {
            *count += 1;
        } else if self.counts.len() < STACKS_MAX {
            self.counts.insert(key, 1);
        } else {
            self.lost += 1;
        }
    }

    /// Names are asked while the thread lives; afterwards only its number is known.
    fn learn_name(&mut self, tid: u32) {
        if self.names.len() < threads::THREADS_MAX && !self.names.contains_key(&tid) {
            let name = threads::name(tid).unwrap_or_else(|| format!("thread {tid}"));
            self.names.insert(tid, name);
        }
    }

    /// Thread, addresses innermost first, and count.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &[u64], u64)> {
        self.counts.iter().map(|(key, count)| {
            let name = self.names.get(&key.tid).map_or("other threads", String::as_str);
            (name, &*key.frames, *count)
        })
    }

    /// Threads that were seen running.
    pub(crate) fn n_threads(&self) -> usize {
        self.names.len()
    }
}
