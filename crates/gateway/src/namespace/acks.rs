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
