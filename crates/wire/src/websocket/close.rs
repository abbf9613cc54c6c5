//! The payload of close frames: which codes may travel, how a reason is cut to fit.

use std::borrow::Cow;

use crate::websocket::frame::{OpCode, put_header};
use crate::websocket::{WsError, WsEvent};

/// A control frame carries 125 bytes (RFC 6455, 5.5), two of which are the code.
const REASON_BYTES_MAX: usize = 123;

/// Appends a server's close frame with `code` and `reason`, the latter cut at 123 bytes, never inside
/// a character.
pub fn put_close(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    put_header(out, OpCode::Close, true, false, 2 + reason.len());
    out.extend_from_slice(&code.to_be_bytes());
    out.extend_from_slice(reason.as_bytes());
}

/// Reads the payload of a close frame: nothing, or a code that may travel and a UTF-8 reason.
pub(super) fn parse_close(payload: Cow<'_, [u8]>) -> Result<WsEvent<'_>, WsError> {
    let code = match *payload {
        [] => {
            return Ok(WsEvent::Close {
                code: None,
                reason: Cow::Borrowed(""),
            });
        }
        [_] => return Err(WsError::ShortClose),
        [high, low, ..] => u16::from_be_bytes([high, low]),
    };
    if !may_travel(code) {
        return Err(WsError::CloseCode { code });
    }
    let reason = match payload {
        Cow::Borrowed(bytes) => utf8(&bytes[2..]).map(Cow::Borrowed),
        Cow::Owned(bytes) => utf8(&bytes[2..]).map(|reason| Cow::Owned(reason.to_owned())),
    }?;
    Ok(WsEvent::Close {
        code: Some(code),
        reason,
    })
}

/// RFC 6455, 7.4: below 1000 unused; 1004, 1005, 1006 and 1015 never on the wire; 1012 to 1014 were
/// registered later; to 2999 reserved; 3000 to 4999 for libraries and applications.
const fn may_travel(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

fn utf8(bytes: &[u8]) -> Result<&str, WsError> {
    std::str::from_utf8(bytes).map_err(|_| WsError::InvalidUtf8 { op: OpCode::Close })
}
