//! Idempotency ids of publications: remembered for a while, bounded in number.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tidegate_vitals::Instant;

type Key = (Option<Arc<str>>, Arc<str>);

/// Ids of one namespace, each with the position and content it was published with.
pub(crate) struct PublishIds {
    seen: FxHashMap<Key, Seen>,
    order: VecDeque<(Key, Instant)>,
    max: usize,
    ttl: Duration,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Seen {
    seq: u64,
    content: u64,
}

/// What an id says of a publication.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Never seen, or forgotten.
    New,
    /// Published before at this position.
    Duplicate(u64),
    /// Used before for something else.
    Reused,
}

impl PublishIds {
    pub(crate) fn new(max: usize, ttl: Duration) -> Self {
        Self {
            seen: FxHashMap::default(),
            order: VecDeque::new(),
            max,
            ttl,
            hasher: RandomState::new(),
        }
    }

    /// A hash of what is published, to tell a resend from a reuse.
    pub(crate) fn content(&self, args: &str) -> u64 {
        self.hasher.hash_one(args)
    }

    pub(crate) fn check(
        &mut self,
        speaker: &Option<Arc<str>>,
        id: &str,
        content: u64,
        now: Instant,
    ) -> Known {
        self.expire(now);
        match self.seen.get(&(speaker.clone(), Arc::from(id))) {
            None => Known::New,
            Some(seen) if seen.content == content => Known::Duplicate(seen.seq),
            Some(_) => Known::Reused,
        }
    }

    pub(crate) fn remember(
        &mut self,
        speaker: Option<Arc<str>>,
        id: &str,
        content: u64,
        seq: u64,
        now: Instant,
    ) {
        if self.max == 0 {
            return;
        }
        if self.order.len() >= self.max {
            self.forget_oldest();
        }
        let key = (speaker, Arc::from(id));
        self.seen.insert(key.clone(), Seen { seq, content });
        self.order.push_back((key, now));
    }

    fn expire(&mut self, now: Instant) {
        while self
            .order
            .front()
            .is_some_and(|(_, at)| now.since(*at) >= self.ttl)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((key, _)) = self.order.pop_front() {
            self.seen.remove(&key);
        }
    }
}
