//! The profile in pprof's format: `profile.proto` of google/pprof, written field by field.

use std::collections::HashMap;

use super::report::{CpuProfile, Frame};

/// Wire types of protocol buffers.
const VARINT: u64 = 0;
const BYTES: u64 = 2;

/// A message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

/// `string_table`: each text once; the first is empty by definition.
struct Texts<'a> {
    places: HashMap<&'a str, u64>,
    list: Vec<&'a str>,
}

/// Encodes the whole profile; values are samples and nanoseconds.
pub(super) fn encode(profile: &CpuProfile) -> Vec<u8> {
    let mut texts = Texts::new();
    let mut message = Message::default();
    let period_ns = 1_000_000_000 / u64::from(profile.hertz.max(1));
    message.message(1, &value_type(&mut texts, "samples", "count"));
    message.message(1, &value_type(&mut texts, "cpu", "nanoseconds"));
    let thread_key = texts.place("thread");
    for stack in &profile.stacks {
        let mut sample = Message::default();
        // Innermost first; ids begin at one.
        sample.packed(1, stack.frames.iter().rev().map(|place| *place as u64 + 1));
        sample.packed(2, [stack.count, stack.count * period_ns].into_iter());
        let mut label = Message::default();
        label.number(1, thread_key);
        label.number(2, texts.place(&stack.thread));
        sample.message(3, &label);
        message.message(2, &sample);
    }
    functions(&mut message, &mut texts, &profile.frames);
    let cpu = value_type(&mut texts, "cpu", "nanoseconds");
    texts
        .list
        .iter()
        .for_each(|text| message.bytes(6, text.as_bytes()));
    message.number(9, profile.started_ms.saturating_mul(1_000_000));
    message.number(10, profile.length.as_nanos() as u64);
    message.message(11, &cpu);
    message.number(12, period_ns);
    message.0
}

/// One location and one function for each frame, both under the frame's number.
fn functions<'a>(message: &mut Message, texts: &mut Texts<'a>, frames: &'a [Frame]) {
    for (id, frame) in (1..).zip(frames) {
        let mut line = Message::default();
        line.number(1, id);
        line.number(2, u64::from(frame.line));
        let mut location = Message::default();
        location.number(1, id);
        location.message(4, &line);
        message.message(4, &location);
        let mut function = Message::default();
        let name = texts.place(&frame.function);
        function.number(1, id);
        function.number(2, name);
        function.number(3, name);
        function.number(4, texts.place(&frame.file));
        message.message(5, &function);
    }
}

fn value_type<'a>(texts: &mut Texts<'a>, kind: &'a str, unit: &'a str) -> Message {
    let mut message = Message::default();
    message.number(1, texts.place(kind));
    message.number(2, texts.place(unit));
    message
}

// === impl Texts ===

impl<'a> Texts<'a> {
    fn new() -> Self {
        Self {
            places: HashMap::from([("", 0)]),
            list: vec![""],
        }
    }

    fn place(&mut self, text: &'a str) -> u64 {
        *self.places.entry(text).or_insert_with(|| {
            self.list.push(text);
            self.list.len() as u64 - 1
        })
    }
}

// === impl Message ===

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Zero is what a missing field means, so it is left out.
    fn number(&mut self, field: u64, value: u64) {
        if value != 0 {
            self.varint(field << 3 | VARINT);
            self.varint(value);
        }
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn message(&mut self, field: u64, message: &Self) {
        self.bytes(field, &message.0);
    }

    fn packed(&mut self, field: u64, values: impl Iterator<Item = u64>) {
        let mut list = Self::default();
        values.for_each(|value| list.varint(value));
        self.bytes(field, &list.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_base_128() {
        for (value, expected) in [
            (1, vec![0x08, 1]),
            (300, vec![0x08, 0xAC, 0x02]),
            (u64::MAX, [vec![0x08], vec![0xFF; 9], vec![1]].concat()),
        ] {
            let mut message = Message::default();
            message.number(1, value);
            assert_eq!(message.0, expected);
        }
    }
}
