//! A connection's frames not yet written: bounded, coalescing, conflating.

use std::{cell::OnceCell, collections::VecDeque, rc::Rc, sync::Arc};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::{
    config::OutboxConfig,
    message::{Encoder, Form, Message, Policy, polling_bytes, websocket_bytes},
};

/// What one place in an outbox costs, beside the shared bytes it points to.
pub(crate) const PLACE_BYTES: usize = size_of::<Entry>();

/// One indivisible piece of output: a shared message, several joined ones, or bytes of this connection alone.
pub(crate) enum Run {
    /// Published messages with the same receivers; their frames are concatenated once for all of them.
    Shared(Shared),
    /// A packet for one connection, in whatever transport it has when the packet is written.
    Text { text: String, attachments: Vec<Bytes> },
    /// Finished WebSocket frames for one connection.
    Raw(Vec<u8>),
}

pub(crate) struct Shared {
    pub(crate) messages: SmallVec<[Arc<Message>; 1]>,
    joined: [OnceCell<Box<[u8]>>; Form::COUNT],
    singles: OnceCell<Vec<Rc<Run>>>,
    /// Its part of a batch event; none where it cannot be in one.
    piece: OnceCell<Option<String>>,
    bytes: usize,
}

impl Run {
    pub(crate) fn shared(messages: SmallVec<[Arc<Message>; 1]>) -> Rc<Self> {
        let bytes = messages.iter().map(|message| message.bytes()).sum();
        Rc::new(Self::Shared(Shared {
            messages,
            joined: Default::default(),
            singles: OnceCell::new(),
            piece: OnceCell::new(),
            bytes,
        }))
    }

    /// Bytes counted against the outbox.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Shared(shared) => shared.bytes,
            Self::Text { text, attachments } => {
                text.len() + attachments.iter().map(Bytes::len).sum::<usize>() + 16
            }
            Self::Raw(bytes) => bytes.len(),
        }
    }

    /// Shards, rings and histories that hold its messages.
    fn n_holders(&self) -> usize {
        self.messages().first().map_or(1, Arc::strong_count)
    }

    /// Bytes that nobody else pays for.
    pub(crate) fn private_bytes(&self) -> usize {
        match self {
            Self::Shared(_) => 0,
            Self::Text { .. } | Self::Raw(_) => self.bytes(),
        }
    }

    fn messages(&self) -> &[Arc<Message>] {
        match self {
            Self::Shared(shared) => &shared.messages,
            Self::Text { .. } | Self::Raw(_) => &[],
        }
    }

    /// The message of a single run.
    pub(crate) fn message(&self) -> Option<&Arc<Message>> {
        match self.messages() {
            [message] => Some(message),
            _ => None,
        }
    }

    /// Messages in it; a packet for one connection counts as one.
    pub(crate) fn n_messages(&self) -> usize {
        self.messages().len().max(1)
    }

    /// Packets of the polling transport: each attachment is one more.
    fn n_packets(&self) -> usize {
        match self {
            Self::Shared(shared) => shared
                .messages
                .iter()
                .map(|message| 1 + message.attachments.len())
                .sum(),
            Self::Text { attachments, .. } => 1 + attachments.len(),
            Self::Raw(_) => 1,
        }
    }

    pub(crate) fn is_volatile(&self) -> bool {
        self.message().is_some_and(|message| message.volatile)
    }

    /// The part of a batch event that this single message is, made once for all receivers.
    pub(crate) fn piece(&self, make: impl FnOnce() -> Option<String>) -> Option<&str> {
        match self {
            Self::Shared(shared) => shared.piece.get_or_init(make).as_deref(),
            Self::Text { .. } | Self::Raw(_) => None,
        }
    }

    fn policy(&self) -> Policy {
        match self.messages() {
            [message] => message.policy,
            _ => Policy::Disconnect,
        }
    }

    /// The messages of a joined run one by one, shared by all connections that need them so.
    pub(crate) fn singles(self: &Rc<Self>) -> &[Rc<Self>] {
        match &**self {
            Self::Shared(shared) if shared.messages.len() > 1 => shared.singles.get_or_init(|| {
                shared
                    .messages
                    .iter()
                    .map(|message| Self::shared(SmallVec::from_elem(message.clone(), 1)))
                    .collect()
            }),
            _ => std::slice::from_ref(self),
        }
    }
}

impl Shared {
    fn bytes(&self, form: Form, encoder: &mut Encoder) -> &[u8] {
        if let [message] = &self.messages[..] {
            return message.form(form, encoder);
        }
        self.joined[form.index()].get_or_init(|| {
            let mut all = Vec::with_capacity(self.bytes);
            for message in &self.messages {
                if form.polling && !all.is_empty() {
                    all.push(tidegate_wire::engineio::SEPARATOR);
                }
                all.extend_from_slice(message.form(form, encoder));
            }
            all.into_boxed_slice()
        })
    }
}

/// A place in an outbox.
pub(crate) struct Entry {
    run: Rc<Run>,
    /// Whether its session wants recovery offsets.
    offset: bool,
}

/// What came of a push to a connection that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Queued,
    /// An older message of the same key was replaced.
    Conflated,
    /// This many messages were dropped for it, or it was dropped itself.
    Dropped(usize),
    /// Over the hard limit: the connection must be closed.
    TooSlow,
}

/// How a connection wants its frames.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wire {
    /// permessage-deflate as agreed: the server's window bits.
    pub(crate) window_bits: Option<u8>,
}

/// A connection's frames not yet written.
#[derive(Default)]
pub(crate) struct Outbox {
    entries: VecDeque<Entry>,
    bytes: usize,
    private_bytes: usize,
    /// Bytes of the first entry that are written already; such an entry can no longer be dropped.
    head_written: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its part of what waits, where others hold the same messages: all of them together hold no more than the whole.
    pub(crate) fn share_bytes(&self) -> usize {
        let share =
            |entry: &Entry| entry.run.bytes() / (Rc::strong_count(&entry.run) * entry.run.n_holders());
        self.entries.iter().map(share).sum()
    }

    /// What this outbox is charged for: its places and private copies.
    pub(crate) fn charge(&self) -> usize {
        self.entries.len() * PLACE_BYTES + self.private_bytes
    }

    /// Messages waiting.
    pub(crate) fn messages(&self) -> usize {
        self.entries.iter().map(|entry| entry.run.n_messages()).sum()
    }

    /// Queues without asking: for a connection that keeps up, and for what must go out whatever waits.
    pub(crate) fn push(&mut self, run: Rc<Run>, offset: bool) {
        self.bytes += run.bytes();
        self.private_bytes += run.private_bytes();
        self.entries.push_back(Entry { run, offset });
    }

    /// Whether one more entry of `bytes` fits below the soft limit. An empty outbox takes any permitted size.
    pub(crate) fn fits(&self, bytes: usize, limits: &OutboxConfig) -> bool {
        self.entries.is_empty()
            || (self.bytes + bytes <= limits.soft_bytes && self.entries.len() < limits.entries_max)
    }

    /// Queues one message for a connection that is behind, by the message's policy.
    pub(crate) fn push_slow(&mut self, run: Rc<Run>, offset: bool, limits: &OutboxConfig) -> Pushed {
        let policy = run.policy();
        if let Policy::Conflate(key) = policy
            && self.remove_key(key)
        {
            // Small messages that wait must not become a way around the limit for large ones.
            if !self.entries.is_empty() && self.bytes + run.bytes() > limits.hard_bytes {
                return Pushed::TooSlow;
            }
            self.push(run, offset);
            return Pushed::Conflated;
        }
        if self.fits(run.bytes(), limits) {
            self.push(run, offset);
            return Pushed::Queued;
        }
        if policy == Policy::DropOldest {
            return self.push_dropping(run, offset, limits);
        }
        if self.bytes + run.bytes() > limits.hard_bytes || self.entries.len() >= limits.entries_max {
            return Pushed::TooSlow;
        }
        self.push(run, offset);
        Pushed::Queued
    }

    fn push_dropping(&mut self, run: Rc<Run>, offset: bool, limits: &OutboxConfig) -> Pushed {
        let mut dropped = 0;
        let mut index = usize::from(self.head_written > 0);
        while !self.fits(run.bytes(), limits) && index < self.entries.len() {
            if self.entries[index].run.policy() == Policy::DropOldest {
                self.remove(index);
                dropped += 1;
            } else {
                index += 1;
            }
        }
        if self.fits(run.bytes(), limits) {
            self.push(run, offset);
        } else {
            dropped += 1;
        }
        Pushed::Dropped(dropped)
    }

    /// Removes the waiting message of a conflation key, if there is one.
    fn remove_key(&mut self, key: u64) -> bool {
        // Newest first: the key that ticks most often is the likeliest to tick again.
        let first = usize::from(self.head_written > 0);
        let found = (first..self.entries.len())
            .rev()
            .find(|&index| self.entries[index].run.policy() == Policy::Conflate(key));
        if let Some(index) = found {
            self.remove(index);
        }
        found.is_some()
    }

    fn remove(&mut self, index: usize) {
        let entry = self.entries.remove(index).expect("the index was just found");
        self.bytes -= entry.run.bytes();
        self.private_bytes -= entry.run.private_bytes();
    }

    /// The next bytes for a WebSocket, and how many whole entries they are: one as it is, or several copied into `buffer`;
    /// none if `max` bytes are only a part of the first.
    ///
    /// Copying ten small frames beats a `writev` of them; from about 8 KiB the copy costs more than it saves.
    pub(crate) fn gather<'a>(
        &'a self,
        buffer: &'a mut Vec<u8>,
        wire: Wire,
        encoder: &mut Encoder,
        max: usize,
    ) -> (&'a [u8], Option<usize>) {
        const DIRECT: usize = 8 << 10;
        const WRITE: usize = 64 << 10;
        let Some(head) = self.entries.front() else {
            return (&[], Some(0));
        };
        if self.entries.len() == 1 || head.run.bytes() >= DIRECT {
            return match head.websocket(wire, encoder) {
                Encoded::Shared(bytes) => {
                    let rest = &bytes[self.head_written..];
                    (&rest[..rest.len().min(max)], (rest.len() <= max).then_some(1))
                }
                // Made for this write: a part of it would have it made again for each.
                Encoded::Owned(bytes) => {
                    *buffer = bytes;
                    (&buffer[self.head_written..], Some(1))
                }
            };
        }
        buffer.clear();
        let mut n = 0;
        for entry in &self.entries {
            if n > 0 && (buffer.len() + entry.run.bytes() > WRITE || entry.run.bytes() >= DIRECT) {
                break;
            }
            match entry.websocket(wire, encoder) {
                Encoded::Shared(bytes) => buffer.extend_from_slice(bytes),
                Encoded::Owned(bytes) => buffer.extend_from_slice(&bytes),
            }
            n += 1;
        }
        (&buffer[self.head_written..], Some(n))
    }

    /// Notes that `written` of the bytes that `gather` gave are on the wire; returns how many entries ended.
    pub(crate) fn advance(
        &mut self,
        mut written: usize,
        wire: Wire,
        encoder: &mut Encoder,
        mut ended: impl FnMut(&Run),
    ) {
        written += self.head_written;
        self.head_written = 0;
        while written > 0 {
            let entry = self
                .entries
                .front()
                .expect("bytes written were of waiting entries");
            let length = entry.websocket(wire, encoder).len();
            if written < length {
                self.head_written = written;
                return;
            }
            written -= length;
            let entry = self.entries.pop_front().expect("the entry was just seen");
            self.bytes -= entry.run.bytes();
            self.private_bytes -= entry.run.private_bytes();
            ended(&entry.run);
        }
        self.rest();
    }

    /// Takes the first `n` entries, all of which were written whole.
    pub(crate) fn pop(&mut self, n: usize, mut ended: impl FnMut(&Run)) {
        self.head_written = 0;
        if n == self.entries.len() {
            for entry in self.entries.drain(..) {
                ended(&entry.run);
            }
            (self.bytes, self.private_bytes) = (0, 0);
            self.rest();
            return;
        }
        for entry in self.entries.drain(..n) {
            self.bytes -= entry.run.bytes();
            self.private_bytes -= entry.run.private_bytes();
            ended(&entry.run);
        }
    }

    /// Gives back room for entries that are not there; says how many bytes.
    pub(crate) fn shrink(&mut self) -> usize {
        let before = self.entries.capacity();
        if before >= 8 && before > 2 * self.entries.len() {
            self.entries.shrink_to_fit();
        }
        (before - self.entries.capacity()) * PLACE_BYTES
    }

    /// An outbox at rest keeps no room beyond a few entries.
    fn rest(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > 8 {
            self.entries = VecDeque::new();
        }
    }

    /// A polling payload of what waits, at most about `max` bytes and `packets_max` packets.
    pub(crate) fn payload(
        &mut self,
        max: usize,
        packets_max: usize,
        encoder: &mut Encoder,
        mut ended: impl FnMut(&Run),
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let mut packets = 0;
        while let Some(entry) = self.entries.front() {
            let bytes = entry.polling(encoder);
            packets += entry.run.n_packets();
            if !out.is_empty() && (out.len() + bytes.len() > max || packets > packets_max) {
                break;
            }
            if !out.is_empty() && !bytes.is_empty() {
                out.push(tidegate_wire::engineio::SEPARATOR);
            }
            out.extend_from_slice(bytes.as_slice());
            drop(bytes);
            self.pop(1, &mut ended);
        }
        out
    }

    /// The oldest waiting message.
    pub(crate) fn oldest(&self) -> Option<&Message> {
        self.entries
            .front()
            .and_then(|entry| entry.run.messages().first())
            .map(|message| &**message)
    }
}

enum Encoded<'a> {
    Shared(&'a [u8]),
    Owned(Vec<u8>),
}

impl Encoded<'_> {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Shared(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Entry {
    fn websocket(&self, wire: Wire, encoder: &mut Encoder) -> Encoded<'_> {
        match &*self.run {
            // A client with a smaller window cannot read the shared compressed form and gets the plain one.
            Run::Shared(shared) => {
                let deflate = wire.window_bits == Some(15);
                Encoded::Shared(shared.bytes(
                    Form {
                        polling: false,
                        offset: self.offset,
                        deflate,
                    },
                    encoder,
                ))
            }
            // Compression would cost a second pass to learn the length after a partial write.
            Run::Text { text, attachments } => {
                Encoded::Owned(websocket_bytes(text, attachments, None, encoder))
            }
            Run::Raw(bytes) => Encoded::Shared(bytes),
        }
    }

    fn polling(&self, encoder: &mut Encoder) -> Encoded<'_> {
        match &*self.run {
            Run::Shared(shared) => Encoded::Shared(shared.bytes(
                Form {
                    polling: true,
                    offset: self.offset,
                    deflate: false,
                },
                encoder,
            )),
            Run::Text { text, attachments } => Encoded::Owned(polling_bytes(text, attachments)),
            Run::Raw(_) => Encoded::Owned(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::example;

    const KEEP: Policy = Policy::Disconnect;
    const DROP: Policy = Policy::DropOldest;
    const KEY: Policy = Policy::Conflate(7);
    const OTHER: Policy = Policy::Conflate(9);

    fn limits() -> OutboxConfig {
        OutboxConfig {
            soft_bytes: 1_000,
            hard_bytes: 2_000,
            entries_max: 6,
            ..OutboxConfig::default()
        }
    }

    fn run(seq: u64, bytes: usize, policy: Policy) -> Rc<Run> {
        Run::shared(SmallVec::from_elem(Arc::new(example(seq, bytes, policy)), 1))
    }

    fn waiting(outbox: &Outbox) -> Vec<u64> {
        outbox
            .entries
            .iter()
            .flat_map(|entry| entry.run.messages())
            .map(|message| message.seq)
            .collect()
    }

    /// Pushes messages numbered from 0; what became of the last, and what waits then.
    #[track_caller]
    fn check(pushes: &[(Policy, usize)], last: Pushed, left: &[u64]) {
        let mut outbox = Outbox::default();
        let push = |(seq, (policy, bytes)): (usize, &(Policy, usize))| {
            outbox.push_slow(run(seq as u64, *bytes, *policy), true, &limits())
        };
        let pushed = pushes.iter().enumerate().map(push).last();
        assert_eq!(pushed, Some(last));
        assert_eq!(waiting(&outbox), left);
        let bytes: usize = left.iter().map(|&seq| pushes[seq as usize].1).sum();
        assert_eq!(
            (outbox.bytes(), outbox.charge()),
            (bytes, left.len() * PLACE_BYTES)
        );
    }

    #[test]
    fn a_share_is_what_closing_all_holders_would_free() {
        let (common, own) = (run(0, 900, KEEP), run(1, 50, KEEP));
        let mut boxes: [Outbox; 3] = Default::default();
        for outbox in &mut boxes {
            outbox.push(common.clone(), false);
        }
        drop(common);
        boxes[0].push(own, false);
        assert_eq!(boxes.each_ref().map(Outbox::share_bytes), [350, 300, 300]);
        assert_eq!(boxes[0].bytes(), 950);
        // A ring keeps it as well.
        let kept = boxes[1].entries[0].run.message().unwrap().clone();
        assert_eq!(boxes[1].share_bytes(), 150);
        drop(kept);
        boxes[1] = Outbox::default();
        assert_eq!(boxes[2].share_bytes(), 450);
    }

    #[test]
    fn an_empty_outbox_takes_one_message_of_any_size() {
        check(&[(KEEP, 9_000)], Pushed::Queued, &[0]);
        check(&[(DROP, 9_000)], Pushed::Queued, &[0]);
        check(&[(KEY, 9_000), (KEY, 9_000)], Pushed::Conflated, &[1]);
    }

    #[test]
    fn what_must_not_be_lost_waits_up_to_the_hard_limit() {
        check(&[(KEEP, 600), (KEEP, 600)], Pushed::Queued, &[0, 1]);
        check(
            &[(KEEP, 600), (KEEP, 600), (KEEP, 800)],
            Pushed::Queued,
            &[0, 1, 2],
        );
        check(&[(KEEP, 600), (KEEP, 600), (KEEP, 801)], Pushed::TooSlow, &[0, 1]);
        check(&[(KEEP, 100); 7], Pushed::TooSlow, &[0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_oldest_that_may_be_dropped_goes_first() {
        check(
            &[(DROP, 400), (DROP, 400), (DROP, 400)],
            Pushed::Dropped(1),
            &[1, 2],
        );
        check(
            &[(KEEP, 400), (DROP, 400), (KEY, 100), (DROP, 400)],
            Pushed::Dropped(1),
            &[0, 2, 3],
        );
        check(
            &[(DROP, 300), (DROP, 300), (DROP, 300), (DROP, 900)],
            Pushed::Dropped(3),
            &[3],
        );
        check(&[(KEEP, 600), (DROP, 500)], Pushed::Dropped(1), &[0]);
    }

    #[test]
    fn a_newer_message_of_a_key_takes_the_older_ones_place_at_the_end() {
        check(
            &[(KEY, 100), (OTHER, 100), (KEEP, 100), (KEY, 100)],
            Pushed::Conflated,
            &[1, 2, 3],
        );
        check(
            &[(KEEP, 900), (KEY, 900), (KEY, 1_000)],
            Pushed::Conflated,
            &[0, 2],
        );
    }

    #[test]
    fn a_key_that_waits_is_no_way_around_the_hard_limit() {
        check(&[(KEEP, 900), (KEY, 100), (KEY, 1_200)], Pushed::TooSlow, &[0]);
    }

    #[test]
    fn what_is_written_in_part_is_neither_dropped_nor_replaced() {
        for (policy, left) in [(DROP, vec![0, 2]), (KEY, vec![0, 2])] {
            let mut encoder = Encoder::new(1, usize::MAX);
            let mut outbox = Outbox::default();
            outbox.push(run(0, 500, policy), false);
            outbox.push(run(1, 500, policy), false);
            outbox.advance(10, Wire { window_bits: None }, &mut encoder, |_| {});
            outbox.push_slow(run(2, 500, policy), false, &limits());
            assert_eq!(waiting(&outbox), left);
        }
    }

    #[test]
    fn all_bytes_go_out_in_order_whatever_the_socket_takes() {
        let sizes = [60, 9_000, 70, 80, 20_000, 90, 100, 110];
        let wire = Wire { window_bits: None };
        let mut encoder = Encoder::new(1, usize::MAX);
        let mut expected = Vec::new();
        let form = Form {
            polling: false,
            offset: true,
            deflate: false,
        };
        for (seq, &bytes) in sizes.iter().enumerate() {
            expected.extend_from_slice(example(seq as u64, bytes, KEEP).form(form, &mut encoder));
        }
        let shares = [(64, 64), (8_192, 1_000), (8_192, 9_000), (usize::MAX, 10_000)];
        let all = [1, 7, 64, 8_192, usize::MAX].map(|takes| (takes, usize::MAX));
        for (takes, max) in all.into_iter().chain(shares) {
            let mut outbox = Outbox::default();
            sizes
                .iter()
                .enumerate()
                .for_each(|(seq, &bytes)| outbox.push(run(seq as u64, bytes, KEEP), true));
            let (mut written, mut ended, mut buffer) = (Vec::new(), 0, Vec::new());
            while !outbox.is_empty() {
                let (bytes, entries) = outbox.gather(&mut buffer, wire, &mut encoder, max);
                let (asked, n) = (bytes.len(), bytes.len().min(takes));
                written.extend_from_slice(&bytes[..n]);
                match entries.filter(|_| n == asked) {
                    Some(entries) => outbox.pop(entries, |_| ended += 1),
                    None => outbox.advance(n, wire, &mut encoder, |_| ended += 1),
                }
            }
            assert!(written == expected, "taking {takes} of {max} bytes at a time");
            assert_eq!((ended, outbox.bytes(), outbox.charge()), (sizes.len(), 0, 0));
        }
    }
}
