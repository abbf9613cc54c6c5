//! permessage-deflate (RFC 7692) without context takeover: negotiation, inflation, deflation.

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What the server agreed to, and the header value that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The value of the response's `Sec-WebSocket-Extensions`.
    pub response: String,
    /// Base-2 logarithm of the largest window the server may compress with, 8 to 15.
    pub server_window_bits: u8,
}

/// Why a message could not be inflated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InflateError {
    /// More came out than is allowed; inflation stopped there.
    #[error("inflated message exceeds {max} bytes")]
    TooBig {
        /// The caller's limit.
        max: usize,
    },
    /// Not a deflate stream that ends where the message ends.
    #[error("corrupt deflate stream")]
    Corrupt,
}

/// Inflates messages; one serves all connections of a thread, since no message needs an earlier one.
pub struct Inflater {
    stream: Decompress,
}

/// Deflates messages; one serves all connections of a thread. About 256 KiB for each window size used.
pub struct Deflater {
    level: Compression,
    /// By window bits, 9 to 15.
    streams: [Option<Compress>; 7],
}

/// What every sender removes from the end of a message (RFC 7692, 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// An empty final block: a stream that is whole up to here ends with it, any other does not.
const END: [u8; 2] = [0x03, 0x00];
/// A message may contain final blocks (RFC 7692, 7.2.3.4), but each costs a reset of some 100 ns and
/// two bytes on the wire, so their number is bounded. Real senders use one.
const FINAL_BLOCKS_MAX: usize = 64;
/// The first guess of an inflated message's size.
const INFLATED_BYTES_MIN: usize = 512;

// === negotiation ===

/// Accepts the first acceptable offer in a client's `Sec-WebSocket-Extensions` (RFC 7692, 5 and 7.1).
///
/// The answer always rules out context takeover in both directions. A `server_max_window_bits` of 8 to
/// 15 is honoured; zlib has no raw 8-bit window, so with 8 the server sends uncompressed messages. An
/// offer with a malformed, unknown or repeated parameter is declined and the next one considered.
/// Several header lines are joined with commas by the caller.
///
/// ```
/// let agreed = tidegate_wire::deflate::negotiate("permessage-deflate; server_max_window_bits=10").unwrap();
/// assert_eq!(agreed.server_window_bits, 10);
/// ```
#[must_use]
pub fn negotiate(extensions_header: &str) -> Option<Negotiated> {
    split_unquoted(extensions_header, b',').find_map(accept)
}

/// The answer to one offer, if it is acceptable.
fn accept(offer: &str) -> Option<Negotiated> {
    let mut parts = split_unquoted(offer, b';').map(trim);
    if parts.next() != Some("permessage-deflate") {
        return None;
    }
    let mut seen = [false; 4];
    let mut server_bits = None;
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (trim(name), Some(unquote(trim(value))?)),
            None => (part, None),
        };
        let index = match (name, value) {
            ("server_no_context_takeover", None) => 0,
            ("client_no_context_takeover", None) => 1,
            ("server_max_window_bits", Some(bits)) => {
                server_bits = Some(window_bits(bits)?);
                2
            }
            // A hint about the client's own messages; any window of theirs inflates here.
            ("client_max_window_bits", None) => 3,
            ("client_max_window_bits", Some(bits)) => window_bits(bits).map(|_| 3)?,
            _ => return None,
        };
        if std::mem::replace(&mut seen[index], true) {
            return None;
        }
    }
    Some(answer(server_bits))
}

fn answer(server_bits: Option<u8>) -> Negotiated {
    let mut response =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
    if let Some(bits) = server_bits {
        response.push_str("; server_max_window_bits=");
        response.push_str(&bits.to_string());
    }
    Negotiated {
        response,
        server_window_bits: server_bits.unwrap_or(15),
    }
}

/// 8 to 15 without leading zeros (RFC 7692, 7.1.2.1).
fn window_bits(value: &str) -> Option<u8> {
    match value.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// A token as it is, a quoted string without its quotes; `None` if a quote stands elsewhere.
fn unquote(value: &str) -> Option<&str> {
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    (!inner.contains(['"', '\\'])).then_some(inner)
}

/// Optional white space of HTTP: spaces and tabs.
fn trim(part: &str) -> &str {
    part.trim_matches([' ', '\t'])
}

/// Splits at `separator` where it does not stand within a quoted string.
fn split_unquoted(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let current = rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = current.bytes().position(|byte| {
            let split = !quoted && byte == separator;
            quoted ^= byte == b'"' && !escaped;
            escaped = quoted && byte == b'\\' && !escaped;
            split
        });
        rest = end.map(|end| &current[end + 1..]);
        Some(&current[..end.unwrap_or(current.len())])
    })
}

// === impl Inflater ===

impl Inflater {
    /// An inflater for windows of every size; about 40 KiB.
    #[must_use]
    pub fn new() -> Self {
        Self {
            stream: Decompress::new(false),
        }
    }

    /// Inflates one message, as it came off the wire without its `00 00 ff ff` tail.
    ///
    /// At most `max` bytes and a rounding are ever held. Final blocks inside or at the end of the
    /// message are accepted (RFC 7692, 7.2.3.4 and 7.2.3.5), up to 64 of them. An empty payload is an
    /// empty message.
    ///
    /// # Errors
    /// [`InflateError::TooBig`] as soon as more than `max` bytes came out; [`InflateError::Corrupt`] for
    /// anything that is not a whole number of deflate blocks.
    pub fn inflate(&mut self, data: &[u8], max: usize) -> Result<Vec<u8>, InflateError> {
        let mut out = Vec::new();
        if data.is_empty() {
            return Ok(out);
        }
        let guess = data.len().saturating_mul(4).clamp(INFLATED_BYTES_MIN, 64 * 1024);
        out.reserve_exact(guess.min(max.saturating_add(1)));
        let mut rest = data;
        for _ in 0..FINAL_BLOCKS_MAX {
            self.stream.reset(false);
            let ended = self.feed(&mut rest, &mut out, max)?;
            match (ended, rest.is_empty()) {
                // What follows a final block is a stream of its own.
                (true, false) => {}
                (true, true) => return Ok(out),
                (false, _) => return self.finish(out, max),
            }
        }
        Err(InflateError::Corrupt)
    }

    /// Restores the tail the sender removed and checks that the stream is whole with it.
    fn finish(&mut self, mut out: Vec<u8>, max: usize) -> Result<Vec<u8>, InflateError> {
        for mut part in [&TAIL[..], &END[..]] {
            let ended = self.feed(&mut part, &mut out, max)?;
            if ended && part.is_empty() {
                return Ok(out);
            }
            if ended {
                break;
            }
        }
        Err(InflateError::Corrupt)
    }

    /// Inflates `input` until it is used up (false) or a final block ended (true).
    fn feed(&mut self, input: &mut &[u8], out: &mut Vec<u8>, max: usize) -> Result<bool, InflateError> {
        loop {
            if out.len() == out.capacity() {
                let wanted = (out.capacity() * 2).clamp(INFLATED_BYTES_MIN, max.saturating_add(1).max(512));
                out.reserve_exact(wanted - out.len());
            }
            let before = self.stream.total_in();
            let status = self.stream.decompress_vec(input, out, FlushDecompress::None);
            let status = status.map_err(|_| InflateError::Corrupt)?;
            let used = (self.stream.total_in() - before) as usize;
            *input = &input[used..];
            if out.len() > max {
                return Err(InflateError::TooBig { max });
            }
            let has_room = out.len() < out.capacity();
            match status {
                Status::StreamEnd => return Ok(true),
                _ if input.is_empty() && has_room => return Ok(false),
                Status::BufError if used == 0 && has_room => return Err(InflateError::Corrupt),
                _ => {}
            }
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflater").finish_non_exhaustive()
    }
}

impl InflateError {
    /// Never: the same bytes are wrong again.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        false
    }
}

// === impl Deflater ===

impl Deflater {
    /// A deflater of `level` 0 (store) to 9 (smallest). Memory is taken when a window size is first used.
    ///
    /// # Panics
    /// If `level` is above 9.
    #[must_use]
    pub fn new(level: u32) -> Self {
        assert!(level <= 9, "deflate level {level}, allowed are 0 to 9");
        Self {
            level: Compression::new(level),
            streams: Default::default(),
        }
    }

    /// Deflates one message into blocks that refer to nothing before it, without the `00 00 ff ff` tail
    /// (RFC 7692, 7.2.1). The result can be larger than `data`; the caller compares.
    ///
    /// `None` if `window_bits` is not 9 to 15: with a window of 8 the message goes uncompressed.
    #[must_use]
    pub fn deflate(&mut self, data: &[u8], window_bits: u8) -> Option<Vec<u8>> {
        let index = usize::from(window_bits.checked_sub(9)?);
        let level = self.level;
        let stream = self
            .streams
            .get_mut(index)?
            .get_or_insert_with(|| Compress::new_with_window_bits(level, false, window_bits));
        stream.reset();
        let mut out = Vec::with_capacity(data.len() / 2 + 64);
        let mut rest = data;
        loop {
            let before = stream.total_in();
            stream
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .expect("a freshly reset deflate stream accepts any bytes");
            rest = &rest[(stream.total_in() - before) as usize..];
            // Room left over says that everything pending was written (zlib's manual, `deflate`).
            if rest.is_empty() && out.len() < out.capacity() {
                break;
            }
            out.reserve(out.capacity());
        }
        debug_assert!(out.ends_with(&TAIL), "a sync flush ends with its marker");
        out.truncate(out.len() - TAIL.len());
        Some(out)
    }
}

impl fmt::Debug for Deflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deflater")
            .field("level", &self.level.level())
            .finish_non_exhaustive()
    }
}
