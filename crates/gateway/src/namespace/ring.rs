//! The last messages of a namespace, byte-capped, found again by receiver.

use std::{collections::VecDeque, sync::Arc};

use crate::message::Message;

/// The messages one target got that the ring still holds, and the newest it no longer holds.
#[derive(Default)]
pub(crate) struct Log {
    messages: VecDeque<Arc<Message>>,
    /// Position of the newest message of this target that left the ring; 0 before the first.
    dropped: u64,
}

impl Log {
    /// Adds the newest message; once, however often its publisher named this target.
    pub(crate) fn push(&mut self, message: &Arc<Message>) {
        if self
            .messages
            .back()
            .is_some_and(|newest| newest.seq == message.seq)
        {
            return;
        }
        self.messages.push_back(message.clone());
    }

    /// Forgets the message at `seq`, which is leaving the ring.
    pub(crate) fn drop_front(&mut self, seq: u64) {
        if self.messages.front().is_some_and(|front| front.seq == seq) {
            self.messages.pop_front();
            self.dropped = seq;
            if self.messages.is_empty() {
                self.messages = VecDeque::new();
            }
        }
    }

    /// Whether everything after `position` is still here.
    pub(crate) fn holds_after(&self, position: u64) -> bool {
        self.dropped <= position
    }

    /// The messages after `position`, oldest first.
    pub(crate) fn after(&self, position: u64) -> impl Iterator<Item = &Arc<Message>> {
        let from = self.messages.partition_point(|message| message.seq <= position);
        self.messages.range(from..)
    }
}

/// All messages that a recovering session may need, oldest first.
pub(crate) struct Ring {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    bytes_max: usize,
    /// What it may hold under memory pressure; never more than `bytes_max`.
    share_bytes: usize,
}

impl Ring {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            bytes_max,
            share_bytes: bytes_max,
        }
    }

    pub(crate) fn push(&mut self, message: Arc<Message>) {
        self.bytes += cost(&message);
        self.messages.push_back(message);
    }

    /// The oldest message, if it must go.
    pub(crate) fn pop_excess(&mut self) -> Option<Arc<Message>> {
        self.pop_above(self.bytes_max)
    }

    /// Lets it hold so many thousandths of its size from now on.
    pub(crate) fn set_share(&mut self, permille: u16) {
        self.share_bytes = (self.bytes_max as u64 * u64::from(permille) / 1_000) as usize;
    }

    /// The oldest message, if memory pressure wants it to go.
    pub(crate) fn pop_over_share(&mut self) -> Option<Arc<Message>> {
        let message = self.pop_above(self.share_bytes);
        if message.is_some() && self.messages.capacity() > 4 * self.messages.len() + 64 {
            self.messages.shrink_to(2 * self.messages.len());
        }
        message
    }

    fn pop_above(&mut self, bytes_max: usize) -> Option<Arc<Message>> {
        if self.bytes <= bytes_max {
            return None;
        }
        let message = self.messages.pop_front()?;
        self.bytes -= cost(&message);
        Some(message)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }
}

pub(super) fn cost(message: &Message) -> usize {
    Message::cost(message.args.len(), &message.attachments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Policy, example};

    fn message(seq: u64) -> Arc<Message> {
        Arc::new(example(seq, 100, Policy::Disconnect))
    }

    fn log(seqs: &[u64]) -> Log {
        let mut log = Log::default();
        seqs.iter().for_each(|&seq| log.push(&message(seq)));
        log
    }

    /// What a log of `seqs` has after `position` once `dropped` have left the ring; none where some are lost.
    #[track_caller]
    fn check(seqs: &[u64], dropped: &[u64], position: u64, expected: Option<&[u64]>) {
        let mut log = log(seqs);
        dropped.iter().for_each(|&seq| log.drop_front(seq));
        let after: Vec<u64> = log.after(position).map(|message| message.seq).collect();
        assert_eq!(log.holds_after(position).then_some(&after[..]), expected);
    }

    #[test]
    fn a_log_knows_whether_it_has_everything_after_a_position() {
        check(&[3, 5, 9], &[], 0, Some(&[3, 5, 9]));
        check(&[3, 5, 9], &[], 4, Some(&[5, 9]));
        check(&[3, 5, 9], &[], 5, Some(&[9]));
        check(&[3, 5, 9], &[], 9, Some(&[]));
        check(&[3, 5, 9], &[3], 2, None);
        check(&[3, 5, 9], &[3], 3, Some(&[5, 9]));
        check(&[3, 5, 9], &[3, 5, 9], 8, None);
        check(&[3, 5, 9], &[3, 5, 9], 9, Some(&[]));
        check(&[], &[], 0, Some(&[]));
    }

    #[test]
    fn what_was_never_in_a_log_does_not_leave_it() {
        check(&[3, 5], &[1, 4], 0, Some(&[3, 5]));
    }

    #[test]
    fn a_ring_gives_up_its_oldest_until_it_fits() {
        let one = cost(&message(0));
        let mut ring = Ring::new(3 * one);
        let mut gone = Vec::new();
        for seq in 0..10 {
            ring.push(message(seq));
            gone.extend(std::iter::from_fn(|| ring.pop_excess()).map(|message| message.seq));
            assert!(ring.bytes() <= 3 * one);
        }
        assert_eq!(gone, [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!((ring.len(), ring.bytes()), (3, 3 * one));
    }

    #[test]
    fn a_ring_gives_up_what_is_over_its_share_and_grows_again_later() {
        let one = cost(&message(0));
        let mut ring = Ring::new(10 * one);
        (0..10).for_each(|seq| ring.push(message(seq)));
        assert!(ring.pop_over_share().is_none(), "a whole ring is no pressure");
        ring.set_share(300);
        let gone: Vec<u64> = std::iter::from_fn(|| ring.pop_over_share())
            .map(|message| message.seq)
            .collect();
        assert_eq!((gone, ring.len()), ((0..7).collect(), 3));
        ring.set_share(1_000);
        (10..17).for_each(|seq| ring.push(message(seq)));
        assert!(ring.pop_over_share().is_none() && ring.pop_excess().is_none());
    }
}
