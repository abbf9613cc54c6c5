//! MessagePack as JSON text, with its binary values beside it.
//!
//! The encoders of the publishers (notepack.io, @msgpack/msgpack) write what JavaScript has: null, booleans, numbers,
//! strings, lists, maps with names as keys, binary, and dates as the timestamp extension. Read like that, a message has one
//! form whatever it came in; clients get what `JSON.stringify` would have made of it.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat};
use rmp::{Marker, decode::RmpRead};

use super::{Json, Reason, Refused};

/// As deep as the JSON parser goes, less what stands around the arguments.
const DEPTH_MAX: usize = 100;
/// Most binary values of one message.
const ATTACHMENTS_MAX: usize = 1_024;
/// The extension type of timestamps (MessagePack specification).
const TIMESTAMP: i8 = -1;

/// The one value that `bytes` hold.
///
/// # Errors
/// [`Reason::Malformed`] for anything else, [`Reason::TooDeep`].
pub(super) fn to_json(bytes: &[u8]) -> Result<Json, Refused> {
    let mut reader = Reader {
        rest: bytes,
        // At least; a list may claim more than it holds, so nothing is taken on its word.
        json: Json {
            text: String::with_capacity(bytes.len()),
            attachments: Vec::new(),
        },
    };
    reader.value(DEPTH_MAX)?;
    if reader.rest.is_empty() {
        Ok(reader.json)
    } else {
        let about = format!("{} bytes after the end of the message", reader.rest.len());
        Err(Refused::malformed(about))
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    json: Json,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<(), Refused> {
        let deeper = depth
            .checked_sub(1)
            .ok_or_else(|| Refused::new(Reason::TooDeep, format!("nested deeper than {DEPTH_MAX}")));
        let marker = Marker::from_u8(self.rest.read_u8().map_err(|_| ended())?);
        match marker {
            Marker::Null => self.put("null"),
            Marker::True => self.put("true"),
            Marker::False => self.put("false"),
            Marker::FixStr(len) => self.string(len.into())?,
            Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let len = self.len(marker)?;
                self.string(len)?;
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => {
                let len = self.len(marker)?;
                self.binary(len)?;
            }
            Marker::FixArray(len) => self.list(len.into(), deeper?)?,
            Marker::Array16 | Marker::Array32 => {
                let len = self.len(marker)?;
                self.list(len, deeper?)?;
            }
            Marker::FixMap(len) => self.map(len.into(), deeper?)?,
            Marker::Map16 | Marker::Map32 => {
                let len = self.len(marker)?;
                self.map(len, deeper?)?;
            }
            Marker::FixExt1
            | Marker::FixExt2
            | Marker::FixExt4
            | Marker::FixExt8
            | Marker::FixExt16
            | Marker::Ext8
            | Marker::Ext16
            | Marker::Ext32 => {
                let len = self.len(marker)?;
                self.extension(len)?;
            }
            number => {
                let text = self.number(number)?;
                self.put(&text);
            }
        }
        Ok(())
    }

    fn put(&mut self, json: &str) {
        self.json.text.push_str(json);
    }

    fn len(&mut self, marker: Marker) -> Result<usize, Refused> {
        let rest = &mut self.rest;
        let len = match marker {
            Marker::FixExt1 => Ok(1),
            Marker::FixExt2 => Ok(2),
            Marker::FixExt4 => Ok(4),
            Marker::FixExt8 => Ok(8),
            Marker::FixExt16 => Ok(16),
            Marker::Str8 | Marker::Bin8 | Marker::Ext8 => rest.read_data_u8().map(u32::from),
            Marker::Str16 | Marker::Bin16 | Marker::Ext16 | Marker::Array16 | Marker::Map16 => {
                rest.read_data_u16().map(u32::from)
            }
            _ => rest.read_data_u32(),
        };
        len.map(|len| len as usize).map_err(|_| ended())
    }

    fn number(&mut self, marker: Marker) -> Result<String, Refused> {
        let rest = &mut self.rest;
        let whole = match marker {
            Marker::FixPos(number) => Ok(i128::from(number)),
            Marker::FixNeg(number) => Ok(i128::from(number)),
            Marker::U8 => rest.read_data_u8().map(i128::from),
            Marker::U16 => rest.read_data_u16().map(i128::from),
            Marker::U32 => rest.read_data_u32().map(i128::from),
            Marker::U64 => rest.read_data_u64().map(i128::from),
            Marker::I8 => rest.read_data_i8().map(i128::from),
            Marker::I16 => rest.read_data_i16().map(i128::from),
            Marker::I32 => rest.read_data_i32().map(i128::from),
            Marker::I64 => rest.read_data_i64().map(i128::from),
            Marker::F32 => {
                return rest
                    .read_data_f32()
                    .map_or_else(|_| Err(ended()), |n| Ok(real(n.into())));
            }
            Marker::F64 => {
                return rest
                    .read_data_f64()
                    .map_or_else(|_| Err(ended()), |n| Ok(real(n)));
            }
            other => {
                return Err(Refused::malformed(format!(
                    "no MessagePack begins with {other:?}"
                )));
            }
        };
        whole.map(|number| number.to_string()).map_err(|_| ended())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Refused> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(ended)?;
        self.rest = rest;
        Ok(taken)
    }

    fn string(&mut self, len: usize) -> Result<(), Refused> {
        let text = super::utf8(self.take(len)?)?;
        self.quoted(text);
        Ok(())
    }

    fn quoted(&mut self, text: &str) {
        let quoted = serde_json::to_string(text).expect("a string is always JSON");
        self.put(&quoted);
    }

    fn binary(&mut self, len: usize) -> Result<(), Refused> {
        let data = Bytes::copy_from_slice(self.take(len)?);
        let at = self.json.attachments.len();
        if at == ATTACHMENTS_MAX {
            let about = format!("more than {ATTACHMENTS_MAX} binary values");
            return Err(Refused::new(Reason::TooLarge, about));
        }
        self.json.attachments.push(data);
        self.put(&format!(r#"{{"_placeholder":true,"num":{at}}}"#));
        Ok(())
    }

    fn list(&mut self, len: usize, depth: usize) -> Result<(), Refused> {
        self.put("[");
        for at in 0..len {
            if at > 0 {
                self.put(",");
            }
            self.value(depth)?;
        }
        self.put("]");
        Ok(())
    }

    fn map(&mut self, len: usize, depth: usize) -> Result<(), Refused> {
        self.put("{");
        for at in 0..len {
            if at > 0 {
                self.put(",");
            }
            self.key()?;
            self.put(":");
            self.value(depth)?;
        }
        self.put("}");
        Ok(())
    }

    /// Names are strings in JSON; a number becomes one, as it does in JavaScript.
    fn key(&mut self) -> Result<(), Refused> {
        let marker = Marker::from_u8(self.rest.read_u8().map_err(|_| ended())?);
        let len = match marker {
            Marker::FixStr(len) => len.into(),
            Marker::Str8 | Marker::Str16 | Marker::Str32 => self.len(marker)?,
            other => {
                let number = self.number(other)?;
                self.quoted(&number);
                return Ok(());
            }
        };
        self.string(len)
    }

    fn extension(&mut self, len: usize) -> Result<(), Refused> {
        let kind = self.rest.read_data_i8().map_err(|_| ended())?;
        let data = self.take(len)?;
        if kind != TIMESTAMP {
            return Err(Refused::malformed(format!("extension of type {kind} is unknown")));
        }
        let (seconds, nanoseconds) = timestamp(data)
            .ok_or_else(|| Refused::malformed(format!("timestamp of {} bytes", data.len())))?;
        // What JavaScript makes of a date in JSON, and of one that is none.
        match DateTime::from_timestamp(seconds, nanoseconds) {
            Some(date) => self.quoted(&date.to_rfc3339_opts(SecondsFormat::Millis, true)),
            None => self.put("null"),
        }
        Ok(())
    }
}

fn ended() -> Refused {
    Refused::malformed("the message ends too early")
}

/// JSON has no infinity.
fn real(number: f64) -> String {
    serde_json::Number::from_f64(number).map_or_else(|| "null".to_owned(), |number| number.to_string())
}

/// Seconds and nanoseconds, by the three widths of the specification.
fn timestamp(data: &[u8]) -> Option<(i64, u32)> {
    match data.len() {
        4 => Some((u32::from_be_bytes(data.try_into().ok()?).into(), 0)),
        8 => {
            let both = u64::from_be_bytes(data.try_into().ok()?);
            Some(((both & ((1 << 34) - 1)) as i64, (both >> 34) as u32))
        }
        12 => {
            let (nanoseconds, seconds) = data.split_first_chunk::<4>()?;
            let seconds = i64::from_be_bytes(seconds.try_into().ok()?);
            Some((seconds, u32::from_be_bytes(*nanoseconds)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<(&str, usize), Reason>) {
        let read = to_json(bytes);
        let read = read.as_ref().map(|json| (&*json.text, json.attachments.len()));
        assert_eq!(read.map_err(|refused| refused.reason), expected, "{bytes:02x?}");
    }

    #[test]
    fn every_kind_of_value_has_its_json() {
        check(&[0xc0], Ok(("null", 0)));
        check(&[0x93, 0xc2, 0xc3, 0x05], Ok(("[false,true,5]", 0)));
        check(&[0x92, 0xe0, 0xd1, 0xff, 0x00], Ok(("[-32,-256]", 0)));
        check(
            &[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            Ok(("18446744073709551615", 0)),
        );
        check(&[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0], Ok(("1.5", 0)));
        check(&[0xcb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0], Ok(("null", 0)));
        check(&[0xa3, b'a', b'"', b'\n'], Ok((r#""a\"\n""#, 0)));
        check(
            &[0x82, 0xa1, b'a', 0x01, 0x02, 0x80],
            Ok((r#"{"a":1,"2":{}}"#, 0)),
        );
        check(&[0xc4, 2, 1, 2], Ok((r#"{"_placeholder":true,"num":0}"#, 1)));
    }

    #[test]
    fn dates_are_what_javascript_writes() {
        check(
            &[0xd6, 0xff, 0x67, 0x74, 0x85, 0x80],
            Ok((r#""2025-01-01T00:00:00.000Z""#, 0)),
        );
        let half = (500_000_000_u64 << 34) | 0x6774_8580;
        let mut bytes = vec![0xd7, 0xff];
        bytes.extend(half.to_be_bytes());
        check(&bytes, Ok((r#""2025-01-01T00:00:00.500Z""#, 0)));
        let mut bytes = vec![0xc7, 12, 0xff, 0, 0, 0, 0];
        bytes.extend((-1_i64).to_be_bytes());
        check(&bytes, Ok((r#""1969-12-31T23:59:59.000Z""#, 0)));
        bytes.splice(7.., i64::MAX.to_be_bytes());
        check(&bytes, Ok(("null", 0)));
    }

    #[test]
    fn what_is_none_is_refused() {
        check(&[], Err(Reason::Malformed));
        check(&[0xc1], Err(Reason::Malformed));
        check(&[0xc0, 0xc0], Err(Reason::Malformed));
        // Lengths that are not there: nothing is allocated for them.
        check(&[0xdd, 0xff, 0xff, 0xff, 0xff], Err(Reason::Malformed));
        check(&[0xc6, 0xff, 0xff, 0xff, 0xff, 1], Err(Reason::Malformed));
        check(&[0xdb, 0xff, 0xff, 0xff, 0xff], Err(Reason::Malformed));
        check(&[0xa1, 0xff], Err(Reason::Malformed));
        check(&[0x81, 0xc0, 0xc0], Err(Reason::Malformed));
        check(&[0xd4, 0x05, 0x00], Err(Reason::Malformed));
        check(&[0x91; DEPTH_MAX + 1], Err(Reason::TooDeep));
        let many = [&[0xdc, 0x10, 0x00][..], &[0xc4, 0].repeat(4_096)].concat();
        check(&many, Err(Reason::TooLarge));
    }
}
