//! WebSocket bytes as this bench needs them: upgrade requests, masked frames out, frame heads in (RFC 6455).

use base64::Engine;
use sha1::{Digest, Sha1};

/// First byte of a whole text frame.
pub(crate) const TEXT: u8 = 0x81;
/// First byte of a whole text frame that is deflated (RSV1, RFC 7692).
pub(crate) const TEXT_DEFLATED: u8 = 0xC1;
/// First byte of a close frame.
pub(crate) const CLOSE: u8 = 0x88;
/// First byte of a ping frame.
pub(crate) const PING: u8 = 0x89;
/// First byte of a pong frame.
pub(crate) const PONG: u8 = 0x8A;

const MASK: [u8; 4] = [0x5A, 0xC3, 0x17, 0x9E];
const KEY: &str = "dGlkZWdhdGUtYmVuY2gtMQ==";

/// The head of a frame that has arrived far enough to know its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// FIN, reserved bits and opcode.
    pub(crate) first: u8,
    /// Bytes before the payload, the mask included.
    pub(crate) head_bytes: usize,
    /// Bytes of the payload.
    pub(crate) payload_bytes: usize,
    /// The mask of a client's frame.
    pub(crate) mask: Option<[u8; 4]>,
}

impl Head {
    /// Reads the head at the start of `bytes`; `None` while it is incomplete.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (payload_bytes, mut head_bytes) = match second & 0x7F {
            126 => (
                usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
                4,
            ),
            127 => (
                u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?) as usize,
                10,
            ),
            short => (usize::from(short), 2),
        };
        let mut mask = None;
        if second & 0x80 != 0 {
            mask = Some(bytes.get(head_bytes..head_bytes + 4)?.try_into().ok()?);
            head_bytes += 4;
        }
        Some(Self {
            first,
            head_bytes,
            payload_bytes,
            mask,
        })
    }

    /// Bytes of the whole frame.
    pub(crate) fn frame_bytes(&self) -> usize {
        self.head_bytes.saturating_add(self.payload_bytes)
    }
}

/// Bytes that a server's frame has before a payload of this length.
pub(crate) fn server_head_bytes(payload_bytes: usize) -> usize {
    match payload_bytes {
        0..=125 => 2,
        126..=0xFFFF => 4,
        _ => 10,
    }
}

/// Appends a client's frame.
pub(crate) fn push_masked(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    push_head(out, first, 0x80, payload.len());
    out.extend_from_slice(&MASK);
    out.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
}

/// Appends a server's frame.
pub(crate) fn push_plain(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    push_head(out, first, 0, payload.len());
    out.extend_from_slice(payload);
}

fn push_head(out: &mut Vec<u8>, first: u8, mask_bit: u8, payload_bytes: usize) {
    out.push(first);
    match payload_bytes {
        0..=125 => out.push(mask_bit | payload_bytes as u8),
        126..=0xFFFF => {
            out.push(mask_bit | 126);
            out.extend_from_slice(&(payload_bytes as u16).to_be_bytes());
        }
        _ => {
            out.push(mask_bit | 127);
            out.extend_from_slice(&(payload_bytes as u64).to_be_bytes());
        }
    }
}

/// A client's upgrade request; `deflate` offers permessage-deflate with the parameters that browsers send.
pub(crate) fn upgrade_request(host: &str, path: &str, deflate: bool) -> Vec<u8> {
    let offer = if deflate {
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    } else {
        ""
    };
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{offer}\r\n"
    )
    .into_bytes()
}

/// The `Sec-WebSocket-Accept` for a client's key (RFC 6455, 4.2.2).
pub(crate) fn accept_for(key: &str) -> String {
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    base64::engine::general_purpose::STANDARD.encode(digest)
}

/// The value of a header in a request or response head, its name in any case.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(payload_bytes: usize, head_bytes: usize) {
        let payload = vec![b'x'; payload_bytes];
        let mut plain = Vec::new();
        push_plain(&mut plain, TEXT, &payload);
        let expected = Head {
            first: TEXT,
            head_bytes,
            payload_bytes,
            mask: None,
        };
        assert_eq!(Head::read(&plain), Some(expected));
        assert_eq!(server_head_bytes(payload_bytes), head_bytes);
        for end in 0..head_bytes {
            assert_eq!(Head::read(&plain[..end]), None, "complete after {end} bytes");
        }
        let mut masked = Vec::new();
        push_masked(&mut masked, TEXT, &payload);
        let head = Head::read(&masked).unwrap();
        assert_eq!(
            (head.head_bytes, head.payload_bytes),
            (head_bytes + 4, payload_bytes)
        );
        let mask = head.mask.unwrap();
        assert!(
            masked[head.head_bytes..]
                .iter()
                .enumerate()
                .all(|(at, byte)| byte ^ mask[at % 4] == b'x')
        );
    }

    #[test]
    fn heads_of_every_length_form_are_read_back() {
        check(0, 2);
        check(125, 2);
        check(126, 4);
        check(65_535, 4);
        check(65_536, 10);
    }

    #[test]
    fn the_accept_key_is_that_of_the_protocol_text() {
        assert_eq!(
            accept_for("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[test]
    fn headers_are_found_in_any_case() {
        let head = "HTTP/1.1 101 OK\r\nsec-websocket-EXTENSIONS:  permessage-deflate \r\n\r\n";
        assert_eq!(
            header(head, "Sec-WebSocket-Extensions"),
            Some("permessage-deflate")
        );
        assert_eq!(header(head, "Upgrade"), None);
    }
}
