//! Acknowledgements that clients owe the server, one collector per event that asked for them.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tidegate_vitals::Guard;
use tokio::sync::oneshot;

use crate::{Collected, Error, id::Id, publish::Answer};

/// Bytes of answers that one collection keeps.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Sessions that did not answer and are named.
const MISSING_MAX: usize = 10_000;
/// What it costs to wait for one session: its id in a table of hashes.
const WAITING_BYTES: usize = 2 * size_of::<Id>();

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
    /// Complete with so many answers.
    answers_max: usize,
    answer_bytes: usize,
    /// Pays for the answers and for those that are waited for.
    guard: Guard,
    done: oneshot::Sender<Collected>,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answered {
    /// It is in the collection.
    Kept,
    /// It counts, but there was no room for what it says.
    Dropped,
    /// Nobody waits for it.
    Unasked,
}

impl Acks {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            pending: FxHashMap::default(),
            next: 0,
            max,
        }
    }

    /// Begins a collection that is complete with so many answers, paid for by an empty guard.
    pub(crate) fn open(
        &mut self,
        answers_max: usize,
        guard: Guard,
    ) -> Result<(u64, oneshot::Receiver<Collected>), Error> {
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
            answers_max,
            answer_bytes: 0,
            guard,
            done,
        };
        self.pending.insert(id, collector);
        Ok((id, receiver))
    }

    /// The event went to this many shards; none means nobody will answer.
    pub(crate) fn sent(&mut self, id: u64, shards: u32, duplicate: bool) {
        if let Some(collector) = self.pending.get_mut(&id) {
            collector.shards_missing += i64::from(shards);
            collector.sent = true;
            collector.collected.duplicate = duplicate;
        }
        self.finish_if_complete(id);
    }

    /// A shard delivered the event to these sessions. False if there was no memory to wait for them.
    pub(crate) fn delivered(&mut self, id: u64, sessions: Vec<Id>) -> bool {
        let mut paid = true;
        if let Some(collector) = self.pending.get_mut(&id) {
            collector.shards_missing -= 1;
            collector.collected.expected += sessions.len();
            paid = collector.guard.grow(WAITING_BYTES * sessions.len()).is_ok();
            if paid {
                collector.waiting.extend(sessions);
            } else {
                collector.collected.dropped += sessions.len();
            }
        }
        self.finish_if_complete(id);
        paid
    }

    /// A session answered.
    pub(crate) fn answer(&mut self, id: u64, session: Id, args: &str, attachments: Vec<Bytes>) -> Answered {
        let Some(collector) = self.pending.get_mut(&id) else {
            return Answered::Unasked;
        };
        if !collector.waiting.remove(&session) {
            return Answered::Unasked;
        }
        let answered = collector.take(session, args, attachments);
        self.finish_if_complete(id);
        answered
    }

    /// The time is over: what has come so far.
    pub(crate) fn time_out(&mut self, id: u64) -> Option<Collected> {
        let (mut collected, _) = self.pending.remove(&id)?.finish();
        collected.timed_out = true;
        Some(collected)
    }

    fn finish_if_complete(&mut self, id: u64) {
        let complete = |collector: &Collector| {
            let all = collector.sent && collector.shards_missing == 0 && collector.waiting.is_empty();
            all || collector.collected.answers.len() >= collector.answers_max
        };
        if self.pending.get(&id).is_some_and(complete)
            && let Some(collector) = self.pending.remove(&id)
        {
            let (collected, done) = collector.finish();
            // Whoever asked may have given up; then nobody needs the answers.
            let _unwanted = done.send(collected);
        }
    }
}

impl Collector {
    fn take(&mut self, session: Id, args: &str, attachments: Vec<Bytes>) -> Answered {
        let bytes = args.len() + attachments.iter().map(Bytes::len).sum::<usize>();
        let fits = self.answer_bytes + bytes <= ANSWER_BYTES_MAX
            && self.guard.grow(bytes + size_of::<Answer>()).is_ok();
        // A client may send anything that is a packet, also what is no JSON.
        let args = serde_json::value::RawValue::from_string(args.to_owned());
        match args {
            Ok(args) if fits => {
                self.answer_bytes += bytes;
                self.collected.answers.push(Answer {
                    session: session.as_str().to_owned(),
                    args,
                    attachments,
                });
                Answered::Kept
            }
            _ => {
                self.collected.dropped += 1;
                Answered::Dropped
            }
        }
    }

    fn finish(self) -> (Collected, oneshot::Sender<Collected>) {
        let mut collected = self.collected;
        let mut missing: Vec<Id> = self.waiting.into_iter().collect();
        missing.sort_unstable();
        missing.truncate(MISSING_MAX);
        collected.missing = missing.iter().map(|id| id.as_str().to_owned()).collect();
        collected.memory = Some(Arc::new(self.guard));
        (collected, self.done)
    }
}

#[cfg(test)]
mod tests {
    use tidegate_vitals::{Class, Ledger};

    use super::*;
    use crate::id::Random;

    fn empty(limit: u64) -> Guard {
        Ledger::new(limit).empty(Class::Handlers)
    }

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
        let (id, mut receiver) = acks.open(4, empty(1 << 20)).unwrap();
        let second = acks.open(4, empty(1));
        assert!(second.is_err(), "one at a time is the limit here");
        for step in script {
            assert!(receiver.try_recv().is_err(), "complete too early");
            match *step {
                Sent(shards) => acks.sent(id, shards, false),
                Delivered(from, to) => {
                    assert!(acks.delivered(id, sessions[from..to].to_vec()));
                }
                Answer(session, asked) => {
                    let answered = acks.answer(id, sessions[session], "[1]", Vec::new());
                    assert_eq!(answered == Answered::Kept, asked);
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
        let (id, _receiver) = acks.open(4, empty(1 << 20)).unwrap();
        assert!(acks.time_out(id).is_some_and(|collected| collected.timed_out));
        assert!(acks.time_out(id).is_none());
        let late = acks.answer(id, Id::random(&mut Random::Seeded(5)), "[]", Vec::new());
        assert_eq!(late, Answered::Unasked);
        assert!(acks.open(4, empty(1 << 20)).is_ok(), "its place is free again");
    }

    #[test]
    fn as_many_answers_as_were_wanted_complete_a_collection() {
        let four = [
            Sent(1),
            Delivered(0, 6),
            Answer(0, true),
            Answer(1, true),
            Answer(2, true),
        ];
        check(&four, None);
        check(&[&four[..], &[Answer(5, true)]].concat(), Some((6, 4)));
    }

    /// Six sessions are asked and three answer with so many bytes: how many answers are kept, how many dropped, how many
    /// sessions are named as missing.
    #[track_caller]
    fn check_room(limit: u64, bytes: usize, expected: (usize, usize, usize)) {
        let mut random = Random::Seeded(5);
        let sessions: Vec<Id> = (0..6).map(|_| Id::random(&mut random)).collect();
        let ledger = Ledger::new(limit);
        let mut acks = Acks::new(1);
        let (id, _receiver) = acks.open(9, ledger.empty(Class::Handlers)).unwrap();
        acks.sent(id, 1, false);
        acks.delivered(id, sessions.clone());
        let text = format!("[\"{}\"]", "x".repeat(bytes));
        for session in &sessions[..3] {
            acks.answer(id, *session, &text, Vec::new());
        }
        let collected = acks.time_out(id);
        let counts = collected
            .as_ref()
            .map(|all| (all.answers.len(), all.dropped, all.missing.len()));
        // What nobody was waited for has its place among those that are over.
        let counts = counts.unwrap_or_default();
        assert_eq!(counts, expected, "{bytes} bytes, {limit} allowed");
        drop(collected);
        assert_eq!(ledger.used(), 0);
    }

    #[test]
    fn answers_without_room_are_counted_and_not_kept() {
        check_room(1 << 30, 10, (3, 0, 3));
        check_room(1 << 30, 7 << 20, (2, 1, 3));
        check_room(3_000, 1_000, (2, 1, 3));
        check_room(100, 10, (0, 0, 0));
    }

    #[test]
    fn an_answer_that_is_no_json_is_dropped() {
        let id = Id::random(&mut Random::Seeded(5));
        let mut acks = Acks::new(1);
        let (ack, mut receiver) = acks.open(9, empty(1 << 20)).unwrap();
        acks.sent(ack, 1, false);
        acks.delivered(ack, vec![id]);
        assert_eq!(acks.answer(ack, id, "[", Vec::new()), Answered::Dropped);
        assert_eq!(receiver.try_recv().unwrap().dropped, 1);
    }
}
