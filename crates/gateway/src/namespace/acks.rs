//! Acknowledgements that clients owe the server, one collector per event that asked for them.

use std::collections::HashSet;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use crate::{Collected, Error, id::Id, publish::Answer};

/// All collectors of a namespace. The ids count up for the namespace, so that a broadcast has one.
pub(crate) struct Acks {
    pending: FxHashMap<u64, Collector>,
    next: u64,
    max: usize,
}

struct Collector {
    /// Shards that have not said yet to whom they delivered; a shard may say so before it is known how many there
    /// are, so it counts below zero then.
    shards_missing: i64,
    sent: bool,
    waiting: HashSet<Id>,
    collected: Collected,
    done: oneshot::Sender<Collected>,
}

impl Acks {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            pending: FxHashMap::default(),
            next: 0,
            max,
        }
    }

    pub(crate) fn open(&mut self) -> Result<(u64, oneshot::Receiver<Collected>), Error> {
        if self.pending.len() >= self.max {
            return Err(Error::TooMany {
                what: "acknowledgements in flight",
                max: self.max,
            });
        }
        let id = self.next;
        self.next += 1;
        let (done, receiver) = oneshot::channel();
        let collector = Collector {
            shards_missing: 0,
            sent: false,
            waiting: HashSet::new(),
            collected: Collected::default(),
            done,
        };
        self.pending.insert(id, collector);
        Ok((id, receiver))
    }

    /// The event went to this many shards; none means nobody will answer.
    pub(crate) fn sent(&mut self, id: u64, shards: u32) {
        if let Some(collector) = self.pending.get_mut(&id) {
            collector.shards_missing += i64::from(shards);
            collector.sent = true;
        }
        self.finish_if_complete(id);
    }

    /// A shard delivered the event to these sessions.
    pub(crate) fn delivered(&mut self, id: u64, sessions: Vec<Id>) {
        if let Some(collector) = self.pending.get_mut(&id) {
            collector.shards_missing -= 1;
            collector.collected.expected += sessions.len();
            collector.waiting.extend(sessions);
        }
        self.finish_if_complete(id);
    }

    /// A session answered. False if nobody waits for it.
    pub(crate) fn answer(&mut self, id: u64, session: Id, args: &str, attachments: Vec<Bytes>) -> bool {
        let Some(collector) = self.pending.get_mut(&id) else {
            return false;
        };
        if !collector.waiting.remove(&session) {
            return false;
        }
        let Ok(args) = serde_json::value::RawValue::from_string(args.to_owned()) else {
            return false;
        };
        collector.collected.answers.push(Answer {
            session: session.as_str().to_owned(),
            args,
            attachments,
        });
        self.finish_if_complete(id);
        true
    }

    /// The time is over: what has come so far.
    pub(crate) fn time_out(&mut self, id: u64) -> Option<Collected> {
        let mut collected = self.pending.remove(&id)?.collected;
        collected.timed_out = true;
        Some(collected)
    }

    fn finish_if_complete(&mut self, id: u64) {
        let complete = |collector: &Collector| {
            collector.sent && collector.shards_missing == 0 && collector.waiting.is_empty()
        };
        if self.pending.get(&id).is_some_and(complete)
            && let Some(collector) = self.pending.remove(&id)
        {
            // Whoever asked may have given up; then nobody needs the answers.
            let _unwanted = collector.done.send(collector.collected);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Random;

    #[derive(Clone, Copy)]
    enum Do {
        Sent(u32),
        /// A shard delivered to the sessions from one number up to another.
        Delivered(usize, usize),
        /// A session answers; whether it was asked.
        Answer(usize, bool),
    }
    use Do::{Answer, Delivered, Sent};

    /// Plays a script on one collector: how many were expected and answered, if it is complete at the end and
    /// was not before.
    #[track_caller]
    fn check(script: &[Do], expected: Option<(usize, usize)>) {
        let mut random = Random::Seeded(5);
        let sessions: Vec<Id> = (0..8).map(|_| Id::random(&mut random)).collect();
        let mut acks = Acks::new(1);
        let (id, mut receiver) = acks.open().unwrap();
        assert!(acks.open().is_err(), "one at a time is the limit here");
        for step in script {
            assert!(receiver.try_recv().is_err(), "complete too early");
            match *step {
                Sent(shards) => acks.sent(id, shards),
                Delivered(from, to) => acks.delivered(id, sessions[from..to].to_vec()),
                Answer(session, asked) => {
                    assert_eq!(acks.answer(id, sessions[session], "[1]", Vec::new()), asked);
                }
            }
        }
        let collected = receiver.try_recv().ok();
        let counts = collected.map(|collected| (collected.expected, collected.answers.len()));
        assert_eq!(counts, expected);
        assert_eq!(acks.pending.is_empty(), expected.is_some());
    }

    #[test]
    fn all_answers_of_all_shards_complete_a_collection() {
        check(&[Sent(0)], Some((0, 0)));
        check(&[Sent(1), Delivered(0, 0)], Some((0, 0)));
        check(
            &[
                Sent(2),
                Delivered(0, 2),
                Answer(1, true),
                Delivered(2, 2),
                Answer(0, true),
            ],
            Some((2, 2)),
        );
        check(&[Sent(2), Delivered(0, 1), Answer(0, true)], None);
    }

    #[test]
    fn a_shard_may_be_faster_than_the_publisher() {
        check(&[Delivered(0, 1), Sent(1), Answer(0, true)], Some((1, 1)));
        check(&[Delivered(0, 1), Answer(0, true), Sent(1)], Some((1, 1)));
        check(
            &[Delivered(0, 0), Sent(2), Delivered(0, 1), Answer(0, true)],
            Some((1, 1)),
        );
    }

    #[test]
    fn only_who_was_asked_answers_and_only_once() {
        check(
            &[
                Sent(1),
                Delivered(0, 2),
                Answer(5, false),
                Answer(0, true),
                Answer(0, false),
            ],
            None,
        );
    }

    #[test]
    fn a_collection_that_is_over_takes_no_answers() {
        let mut acks = Acks::new(1);
        let (id, _receiver) = acks.open().unwrap();
        assert!(acks.time_out(id).is_some_and(|collected| collected.timed_out));
        assert!(acks.time_out(id).is_none());
        assert!(!acks.answer(id, Id::random(&mut Random::Seeded(5)), "[]", Vec::new()));
        assert!(acks.open().is_ok(), "its place is free again");
    }
}
