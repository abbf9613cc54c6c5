//! What a limiter knows under its lock: who is in flight, who waits, and who comes next.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tidegate_vitals::Instant;
use tokio::sync::oneshot;

use super::config::{Config, Limit, Share};
use super::vegas::{Mark, Sample, Vegas};
use super::{How, PartitionStats, Permit, Refusals, Refused, Stats, Why};

pub(super) struct State {
    rule: Rule,
    in_flight: usize,
    partitions: Vec<Part>,
    /// By rising id; at most `waiting_max`. A waiter leaves when it is let in, or by [`State::leave`].
    queue: VecDeque<Waiter>,
    next_id: u64,
}

enum Rule {
    Fixed(usize),
    Adaptive(Box<Vegas>),
}

struct Part {
    share: Share,
    in_flight: usize,
    waiting: usize,
    admitted: u64,
    refused: Refusals,
}

struct Waiter {
    id: u64,
    partition: usize,
    tell: oneshot::Sender<Permit>,
}

/// A place given to a call: what its permit must bring back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) partition: usize,
    pub(super) since: Instant,
    pub(super) mark: Mark,
}

/// A waiter that got its place, and the way to tell it.
pub(super) type Let = (oneshot::Sender<Permit>, Place);

/// When nothing is known of latency, a caller is asked to come back after this time.
const RETRY_AFTER: Duration = Duration::from_secs(1);
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

// === impl State ===

impl State {
    pub(super) fn new(config: &Config, now: Instant) -> Self {
        let other = Share::new("other", 0);
        let shares = std::iter::once(&other).chain(&config.shares);
        Self {
            rule: match config.limit {
                Limit::Fixed(limit) => Rule::Fixed(limit),
                Limit::Adaptive(adaptive) => Rule::Adaptive(Box::new(Vegas::new(adaptive, now))),
            },
            in_flight: 0,
            partitions: shares.cloned().map(Part::new).collect(),
            queue: VecDeque::new(),
            next_id: 0,
        }
    }

    pub(super) fn partition(&self, name: &str) -> usize {
        let is_it = |part: &Part| &*part.share.name == name;
        self.partitions.iter().position(is_it).unwrap_or(0)
    }

    /// Takes a place, or says what is in the way.
    ///
    /// A guarantee is kept by letting its owner in above the limit; those who borrowed cannot come back meanwhile. So no
    /// more than the limit and all guarantees together are ever in flight, and above the limit only for as long as the
    /// borrowers' calls take.
    pub(super) fn enter(&mut self, partition: usize, now: Instant) -> Result<Place, Why> {
        let limit = self.limit();
        let part = &mut self.partitions[partition];
        if part.in_flight >= part.most(limit) {
            return Err(Why::Partition);
        }
        if self.in_flight >= limit && part.in_flight >= part.guaranteed(limit) {
            return Err(Why::Server);
        }
        part.in_flight += 1;
        part.admitted += 1;
        self.in_flight += 1;
        let mark = match &mut self.rule {
            Rule::Fixed(_) => 0,
            Rule::Adaptive(vegas) => vegas.started(now, self.in_flight),
        };
        Ok(Place {
            partition,
            since: now,
            mark,
        })
    }

    /// Gives a place back, and lets in who can enter now.
    pub(super) fn exit(&mut self, place: Place, now: Instant, sample: Sample) -> Vec<Let> {
        self.in_flight -= 1;
        self.partitions[place.partition].in_flight -= 1;
        if let Rule::Adaptive(vegas) = &mut self.rule {
            vegas.ended(now, self.in_flight, place.mark, sample);
        }
        self.let_in(now)
    }

    /// First come, first served, among those whose partition may have more.
    fn let_in(&mut self, now: Instant) -> Vec<Let> {
        let mut entered = Vec::new();
        let mut at = 0;
        while at < self.queue.len() {
            let waiter = &self.queue[at];
            let partition = waiter.partition;
            // One that is closed has left and is about to say so.
            let place = (!waiter.tell.is_closed()).then(|| self.enter(partition, now));
            match place {
                Some(Err(_)) => at += 1,
                None => self.remove(at),
                Some(Ok(place)) => {
                    let waiter = self.queue.remove(at).expect("the loop stays inside");
                    self.partitions[partition].waiting -= 1;
                    entered.push((waiter.tell, place));
                }
            }
        }
        entered
    }

    fn remove(&mut self, at: usize) {
        if let Some(waiter) = self.queue.remove(at) {
            self.partitions[waiter.partition].waiting -= 1;
        }
    }

    /// Takes a place in the queue, if there is one.
    pub(super) fn queue(
        &mut self,
        partition: usize,
        waiting_max: usize,
    ) -> Option<(u64, oneshot::Receiver<Permit>)> {
        if self.queue.len() >= waiting_max {
            return None;
        }
        let (tell, told) = oneshot::channel();
        let id = self.next_id;
        self.next_id += 1;
        self.partitions[partition].waiting += 1;
        self.queue.push_back(Waiter { id, partition, tell });
        Some((id, told))
    }

    /// Forgets a waiter, if it still waits.
    pub(super) fn leave(&mut self, id: u64) {
        if let Ok(at) = self.queue.binary_search_by_key(&id, |waiter| waiter.id) {
            self.remove(at);
        }
    }

    /// Counts a refusal and describes it.
    pub(super) fn refuse(&mut self, name: &'static str, partition: usize, why: Why, how: How) -> Refused {
        let limit = self.limit();
        let retry_after = self.retry_after(limit);
        let part = &mut self.partitions[partition];
        part.refused.count(why, how);
        let (limit, in_flight, waiting) = match why {
            Why::Partition => (part.most(limit), part.in_flight, part.waiting),
            Why::Server => (limit, self.in_flight, self.queue.len()),
        };
        Refused {
            name,
            limit,
            in_flight,
            waiting,
            retry_after,
            partition: Arc::clone(&part.share.name),
            why,
            how,
        }
    }

    /// When those who wait now will have been served, by Little's law.
    fn retry_after(&self, limit: usize) -> Duration {
        let Rule::Adaptive(vegas) = &self.rule else {
            return RETRY_AFTER;
        };
        vegas.latency().map_or(RETRY_AFTER, |latency| {
            let rounds = 1.0 + self.queue.len() as f64 / limit as f64;
            latency.mul_f64(rounds).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
        })
    }

    fn limit(&self) -> usize {
        match &self.rule {
            Rule::Fixed(limit) => *limit,
            Rule::Adaptive(vegas) => vegas.limit(),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let vegas = match &self.rule {
            Rule::Fixed(_) => None,
            Rule::Adaptive(vegas) => Some(vegas),
        };
        let limit = vegas.map_or_else(|| self.limit(), |vegas| vegas.settled());
        let partitions: Vec<_> = self.partitions.iter().map(|part| part.stats(limit)).collect();
        let mut refused = Refusals::default();
        for partition in &partitions {
            refused.add(&partition.refused);
        }
        Stats {
            limit,
            in_flight: self.in_flight,
            waiting: self.queue.len(),
            admitted: partitions.iter().map(|partition| partition.admitted).sum(),
            refused,
            baseline: vegas.and_then(|vegas| vegas.baseline()),
            latency: vegas.and_then(|vegas| vegas.latency()),
            probes: vegas.map_or(0, |vegas| vegas.n_probes()),
            partitions,
        }
    }
}

// === impl Part ===

impl Part {
    fn new(share: Share) -> Self {
        Self {
            share,
            in_flight: 0,
            waiting: 0,
            admitted: 0,
            refused: Refusals::default(),
        }
    }

    /// A guarantee is at least one place, however small the limit.
    fn guaranteed(&self, limit: usize) -> usize {
        match self.share.guaranteed_per_mille {
            0 => 0,
            per_mille => part_of(limit, per_mille),
        }
    }

    fn most(&self, limit: usize) -> usize {
        match self.share.most_per_mille {
            // All of it, and what a guarantee may add on top.
            1000 => usize::MAX,
            per_mille => part_of(limit, per_mille),
        }
    }

    fn stats(&self, limit: usize) -> PartitionStats {
        PartitionStats {
            name: Arc::clone(&self.share.name),
            guaranteed: self.guaranteed(limit),
            in_flight: self.in_flight,
            waiting: self.waiting,
            admitted: self.admitted,
            refused: self.refused,
        }
    }
}

fn part_of(limit: usize, per_mille: u16) -> usize {
    (limit.saturating_mul(usize::from(per_mille)) / 1000).max(1)
}
