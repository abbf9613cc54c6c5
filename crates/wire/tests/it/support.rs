//! Reading a byte stream to its end, cut as a test wishes.

use tidegate_wire::deflate::Inflater;
use tidegate_wire::websocket::{OpCode, Reader, ReaderConfig, Role, WsError, WsEvent, put_masked_frame};

use crate::harness::own;

pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
pub(crate) const SERVER: ReaderConfig = ReaderConfig {
    message_bytes_max: 1 << 24,
    deflate: false,
    role: Role::Server,
};
pub(crate) const DEFLATE: ReaderConfig = ReaderConfig {
    deflate: true,
    ..SERVER
};

pub(crate) type Events = Vec<WsEvent<'static>>;

/// A client's frame.
pub(crate) fn frame(op: OpCode, fin: bool, rsv1: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_masked_frame(&mut out, op, fin, rsv1, MASK, payload);
    out
}

/// Reads all of `chunks`; on an error, the events before it and the error.
pub(crate) fn read<'a>(
    chunks: impl IntoIterator<Item = &'a [u8]>,
    config: &ReaderConfig,
) -> Result<Events, (Events, WsError)> {
    let (mut reader, mut inflater, mut events) = (Reader::new(), Inflater::new(), Vec::new());
    for chunk in chunks {
        let mut buf = chunk.to_vec();
        let mut at = 0;
        while at < buf.len() {
            let step = match reader.step(&mut buf[at..], config, &mut inflater) {
                Ok(step) => step,
                Err(error) => return Err((events, error)),
            };
            at += step.consumed;
            let Some(event) = step.event else { break };
            events.push(own(&event));
        }
        assert_eq!(at, buf.len(), "a step without an event consumes everything");
    }
    Ok(events)
}

/// Reads `bytes` whole, in two parts cut everywhere, and byte by byte; all must agree.
pub(crate) fn read_every_way(bytes: &[u8], config: &ReaderConfig) -> Result<Events, (Events, WsError)> {
    let whole = read([bytes], config);
    assert_eq!(read(bytes.chunks(1), config), whole, "byte by byte");
    for at in 0..bytes.len().min(64) {
        let (left, right) = bytes.split_at(at);
        assert_eq!(read([left, right], config), whole, "cut at {at}");
    }
    whole
}

/// Bytes without repetitions worth a deflater's while.
pub(crate) fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}
