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
}

impl Ring {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            messages: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub(crate) fn push(&mut self, message: Arc<Message>) {
        self.bytes += cost(&message);
        self.messages.push_back(message);
    }

    /// The oldest message, if it must go.
    pub(crate) fn pop_excess(&mut self) -> Option<Arc<Message>> {
        if self.bytes <= self.bytes_max {
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

fn cost(message: &Message) -> usize {
    Message::cost(message.args.len(), &message.attachments)
}
