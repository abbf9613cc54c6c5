//! Idempotency ids of publications: remembered for a while, bounded in number.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;
use tidegate_vitals::Instant;

use crate::Target;

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
    pub(crate) fn content(&self, args: &str, to: &[Target]) -> u64 {
        self.hasher.hash_one((args, to))
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

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    /// Publishes at a second `(speaker, id, content)` unless it is known; positions count from 0.
    #[track_caller]
    fn check(max: usize, script: &[(u64, &str, &str, &str, Known)]) {
        let mut ids = PublishIds::new(max, TTL);
        for (seq, (at_s, speaker, id, args, expected)) in script.iter().enumerate() {
            let now = Instant::from_millis(at_s * 1_000);
            let speaker = (!speaker.is_empty()).then(|| Arc::from(*speaker));
            let content = ids.content(args, &[]);
            let known = ids.check(&speaker, id, content, now);
            assert_eq!(known, *expected, "step {seq}");
            if known == Known::New {
                ids.remember(speaker, id, content, seq as u64, now);
            }
            assert!(ids.seen.len() <= max && ids.order.len() == ids.seen.len());
        }
    }

    #[test]
    fn a_resend_is_known_by_its_position_and_a_reuse_as_such() {
        use Known::{Duplicate, New, Reused};
        check(
            9,
            &[
                (0, "", "a", "1", New),
                (1, "", "a", "1", Duplicate(0)),
                (2, "", "a", "2", Reused),
            ],
        );
    }

    #[test]
    fn each_speaker_has_ids_of_its_own() {
        use Known::{Duplicate, New};
        check(
            9,
            &[
                (0, "x", "a", "1", New),
                (0, "y", "a", "1", New),
                (0, "y", "a", "1", Duplicate(1)),
            ],
        );
    }

    #[test]
    fn ids_are_forgotten_after_their_time_and_above_their_number() {
        use Known::{Duplicate, New};
        check(
            9,
            &[
                (0, "", "a", "1", New),
                (9, "", "a", "1", Duplicate(0)),
                (10, "", "a", "1", New),
            ],
        );
        check(
            2,
            &[
                (0, "", "a", "1", New),
                (0, "", "b", "1", New),
                (0, "", "c", "1", New),
                (0, "", "b", "1", Duplicate(1)),
                (0, "", "a", "1", New),
            ],
        );
        check(0, &[(0, "", "a", "1", New), (0, "", "a", "1", New)]);
    }
}
