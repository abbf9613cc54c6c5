//! One published message and its wire forms, each encoded once and shared by every receiver.

use std::{borrow::Cow, sync::Arc, sync::OnceLock};

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_vitals::{Guard, Instant};
use tidegate_wire::{deflate::Deflater, engineio, socketio, websocket};

use crate::{
    id::Id,
    offset::{self, Epoch},
};

/// Where a session lives: shard, slot, and which tenant of the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionRef {
    pub(crate) shard: u16,
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SessionRef {
    /// No session of any shard; what is sent there is looked up by id.
    pub(crate) const NOWHERE: Self = Self {
        shard: 0,
        index: u32::MAX,
        generation: 0,
    };
}

/// An interned room of one namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RoomId(pub(crate) u32);

/// A resolved target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dest {
    Room(RoomId),
    /// A user, with the sessions it had when the message took its number.
    User(Arc<str>, SmallVec<[SessionRef; 1]>),
    Session(Id, SessionRef),
}

/// What happens to a message whose receiver is slow; see [`crate::WhenSlow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Disconnect,
    DropOldest,
    /// Hash of the conflation key, seeded per process.
    Conflate(u64),
}

pub(crate) type Dests = SmallVec<[Dest; 1]>;

/// How a receiver wants its bytes; the value is the index of the form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) polling: bool,
    pub(crate) offset: bool,
    pub(crate) deflate: bool,
}

impl Form {
    pub(crate) const COUNT: usize = 6;

    pub(crate) const fn index(self) -> usize {
        let base = if self.polling {
            4
        } else if self.deflate {
            2
        } else {
            0
        };
        base + self.offset as usize
    }
}

/// Compresses what is worth it; one a shard.
pub(crate) struct Encoder {
    deflater: Deflater,
    threshold: usize,
    pub(crate) saved_bytes: u64,
}

impl Encoder {
    pub(crate) fn new(level: u32, threshold: usize) -> Self {
        Self {
            deflater: Deflater::new(level),
            threshold,
            saved_bytes: 0,
        }
    }

    /// Appends a WebSocket text frame, deflated with `window_bits` where that makes it smaller.
    pub(crate) fn put_text(&mut self, out: &mut Vec<u8>, text: &[u8], window_bits: Option<u8>) {
        self.put_data(out, websocket::OpCode::Text, text, window_bits);
    }

    pub(crate) fn put_data(
        &mut self,
        out: &mut Vec<u8>,
        op: websocket::OpCode,
        data: &[u8],
        window_bits: Option<u8>,
    ) {
        if let Some(bits) = window_bits.filter(|_| data.len() >= self.threshold)
            && let Some(packed) = self.deflater.deflate(data, bits)
            && packed.len() < data.len()
        {
            self.saved_bytes += (data.len() - packed.len()) as u64;
            websocket::put_frame(out, op, true, &packed);
            return;
        }
        websocket::put_frame(out, op, false, data);
    }
}

/// One published message. Its bytes are charged to the memory account once, whoever receives it: under `Rings` if a ring
/// or a history takes it, for as long as anybody holds it, else under `Frames`.
pub(crate) struct Message {
    pub(crate) seq: u64,
    pub(crate) at: Instant,
    pub(crate) ts_ms: u64,
    pub(crate) namespace: Arc<str>,
    pub(crate) namespace_index: u16,
    pub(crate) epoch: Epoch,
    pub(crate) to: Dests,
    pub(crate) except: Dests,
    /// JSON array with the event's name in front.
    pub(crate) args: Box<str>,
    pub(crate) attachments: Vec<Bytes>,
    pub(crate) ack: Option<u64>,
    pub(crate) policy: Policy,
    pub(crate) volatile: bool,
    pub(crate) urgent: bool,
    pub(crate) forms: [OnceLock<Box<[u8]>>; Form::COUNT],
    pub(crate) guard: Guard,
}

impl Message {
    /// The same for those who join at `seq`: it comes with the join, whatever its publisher said of slow receivers.
    pub(crate) fn at_join(&self, seq: u64, at: Instant, guard: Guard) -> Self {
        Self {
            seq,
            at,
            ts_ms: self.ts_ms,
            namespace: self.namespace.clone(),
            namespace_index: self.namespace_index,
            epoch: self.epoch,
            to: self.to.clone(),
            except: Dests::new(),
            args: self.args.clone(),
            attachments: self.attachments.clone(),
            ack: None,
            policy: Policy::Disconnect,
            volatile: false,
            urgent: false,
            forms: Default::default(),
            guard,
        }
    }

    /// Bytes of a receiver's plain frame, near enough for limits.
    pub(crate) fn bytes(&self) -> usize {
        const HEAD: usize = 16;
        HEAD + offset::LEN
            + self.namespace.len()
            + self.args.len()
            + self
                .attachments
                .iter()
                .map(|data| data.len() + HEAD)
                .sum::<usize>()
    }

    /// What a message is charged for beside its own text: the encoded copies most receivers share.
    pub(crate) fn cost(args_len: usize, attachments: &[Bytes]) -> usize {
        const OVERHEAD: usize = size_of::<Message>() + 64;
        OVERHEAD + 3 * args_len + 3 * attachments.iter().map(Bytes::len).sum::<usize>()
    }

    /// The Engine.IO text of the packet, with the recovery offset as last argument where it belongs.
    pub(crate) fn text(&self, with_offset: bool) -> String {
        // An event that asks for an ack carries none: it would stand where handlers expect the callback.
        let with_offset = with_offset && self.ack.is_none();
        let tail = with_offset.then(|| self.epoch.offset(self.seq));
        let tail = tail
            .as_ref()
            .map(|text| std::str::from_utf8(text).expect("digits are ASCII"));
        let mut out = String::with_capacity(self.args.len() + self.namespace.len() + offset::LEN + 24);
        socketio::put_event(
            &mut out,
            &self.namespace,
            self.ack,
            self.attachments.len(),
            &self.args,
            tail,
        );
        out
    }

    /// The bytes of one form, encoded by the first who needs them.
    pub(crate) fn form(&self, form: Form, encoder: &mut Encoder) -> &[u8] {
        self.forms[form.index()].get_or_init(|| {
            let text = self.text(form.offset);
            if form.polling {
                polling_bytes(&text, &self.attachments).into_boxed_slice()
            } else {
                websocket_bytes(&text, &self.attachments, form.deflate.then_some(15), encoder)
                    .into_boxed_slice()
            }
        })
    }

    /// Whether messages `self` and `next` have the same receivers, so that their frames can be joined.
    pub(crate) fn joins(&self, next: &Self) -> bool {
        self.ack.is_none()
            && next.ack.is_none()
            && self.except.is_empty()
            && next.except.is_empty()
            && !next.volatile
            && !self.volatile
            && self.urgent == next.urgent
            && matches!((&self.to[..], &next.to[..]), ([Dest::Room(a)], [Dest::Room(b)]) if a == b)
    }
}

/// A packet and its attachments as WebSocket frames.
pub(crate) fn websocket_bytes(
    text: &str,
    attachments: &[Bytes],
    window_bits: Option<u8>,
    encoder: &mut Encoder,
) -> Vec<u8> {
    let binary: usize = attachments.iter().map(|data| data.len() + 10).sum();
    let mut out = Vec::with_capacity(text.len() + 4 + binary);
    encoder.put_text(&mut out, text.as_bytes(), window_bits);
    for data in attachments {
        websocket::put_frame(&mut out, websocket::OpCode::Binary, false, data);
    }
    out
}

/// A packet and its attachments as a piece of a polling payload.
pub(crate) fn polling_bytes(text: &str, attachments: &[Bytes]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 8);
    engineio::put_payload_text(&mut out, text);
    for data in attachments {
        engineio::put_payload_binary(&mut out, data);
    }
    out
}

/// `["event",args…]`.
pub(crate) fn event_json(event: &str, args: &str) -> String {
    let mut out = String::with_capacity(event.len() + args.len() + 8);
    out.push('[');
    socketio::put_event_name_json(&mut out, event);
    if !args.is_empty() {
        out.push(',');
        out.push_str(args);
    }
    out.push(']');
    out
}

/// The text of a batch event: its JSON array, ready for [`socketio::put_event`].
pub(crate) fn batch_json(pieces: &str, n: usize) -> String {
    format!(r#"["batch",{{"type":"batch","batch_size":{n},"messages":[{pieces}]}}]"#)
}

/// `{"event":…,"data":…}`: several arguments become an array, none becomes null.
pub(crate) fn batch_piece(args: &str) -> Option<String> {
    let view = socketio::event(args).ok()?;
    let data: Cow<'_, str> = match &view.args[..] {
        [] => "null".into(),
        [one] => one.get().into(),
        many => format!(
            "[{}]",
            many.iter().map(|arg| arg.get()).collect::<Vec<_>>().join(",")
        )
        .into(),
    };
    let mut out = String::from(r#"{"event":"#);
    socketio::put_event_name_json(&mut out, &view.name);
    out.push_str(r#","data":"#);
    out.push_str(&data);
    out.push('}');
    Some(out)
}

/// A message of `bytes` to room 0, for tests of what keeps and queues messages.
#[cfg(test)]
pub(crate) fn example(seq: u64, bytes: usize, policy: Policy) -> Message {
    const AROUND: usize = 16 + offset::LEN + 1;
    let pad = "x".repeat(
        bytes
            .checked_sub(AROUND + r#"["m",""]"#.len())
            .expect("room for the event's name"),
    );
    let guard = tidegate_vitals::Ledger::new(1 << 30).reserve(tidegate_vitals::Class::Frames, 0);
    Message {
        seq,
        at: Instant::ZERO,
        ts_ms: seq,
        namespace: "/".into(),
        namespace_index: 0,
        epoch: Epoch::new(0),
        to: SmallVec::from_elem(Dest::Room(RoomId(0)), 1),
        except: Dests::new(),
        args: format!(r#"["m","{pad}"]"#).into_boxed_str(),
        attachments: Vec::new(),
        ack: None,
        policy,
        volatile: false,
        urgent: false,
        forms: Default::default(),
        guard: guard.expect("nothing is reserved"),
    }
}
