//! Values into JSON text.

use std::io::Write as _;

use chrono::{DateTime, NaiveDate, Timelike as _, Utc};

use crate::feed::Column;
use crate::value::{Type, Value};

/// Days from 0001-01-01 to 1970-01-01, as chrono counts.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;

/// Appends a row as a JSON object. Columns for which `has` says no are left out.
///
/// ```
/// use tidegate_store::feed::Column;
/// use tidegate_store::{Type, Value, row};
///
/// let columns = [Column { name: "price".to_owned(), kind: Type::Numeric, not_null: true }];
/// let mut text = Vec::new();
/// row::write_row(&columns, &[Value::Numeric("12.50".into())], |_| true, &mut text);
/// assert_eq!(text, br#"{"price":"12.50"}"#);
/// ```
pub fn write_row(columns: &[Column], values: &[Value], has: impl Fn(usize) -> bool, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut is_first = true;
    for (at, (column, value)) in columns.iter().zip(values).enumerate() {
        if !has(at) {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            out.push(b',');
        }
        write_text(&column.name, out);
        out.push(b':');
        write_value(&column.kind, value, out);
    }
    out.push(b'}');
}

/// Appends a value as JSON: integers as numbers, numerics as strings of digits, times as RFC 3339 in UTC with
/// microseconds, `jsonb` as it is. Reading it again by its type gives the same value.
pub fn write_value(kind: &Type, value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(value) => write!(out, "{value}").expect(MEMORY),
        Value::Float(value) => write_float(kind, *value, out),
        Value::Numeric(digits) => write!(out, "\"{digits}\"").expect(MEMORY),
        Value::Text(text) => write_text(text, out),
        Value::Uuid(bytes) => write_uuid(bytes, out),
        Value::Date(days) => {
            match NaiveDate::from_num_days_from_ce_opt(days.saturating_add(EPOCH_DAYS_FROM_CE)) {
                Some(date) => write!(out, "\"{date}\"").expect(MEMORY),
                None => out.extend_from_slice(b"null"),
            }
        }
        Value::Timestamptz(us) => write_time(*us, out),
        Value::Jsonb(json) => out.extend_from_slice(json.as_bytes()),
        Value::Array(elements) => {
            let element = match kind {
                Type::Array(element) => element,
                other => other,
            };
            out.push(b'[');
            for (at, value) in elements.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_value(element, value, out);
            }
            out.push(b']');
        }
        Value::Bytes(bytes) => {
            out.extend_from_slice(b"\"\\\\x");
            write_hex(bytes, out);
            out.push(b'"');
        }
    }
}

const MEMORY: &str = "writing to memory does not fail";

fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect(MEMORY);
}

fn write_float(kind: &Type, value: f64, out: &mut Vec<u8>) {
    // The shortest digits that give the same number; a float4 needs fewer of them. What is not finite becomes null,
    // which only a foreign writer's row can hold.
    match kind {
        Type::Float4 => serde_json::to_writer(out, &(value as f32)),
        _ => serde_json::to_writer(out, &value),
    }
    .expect(MEMORY);
}

fn write_uuid(bytes: &[u8; 16], out: &mut Vec<u8>) {
    out.push(b'"');
    for (at, range) in [0..4, 4..6, 6..8, 8..10, 10..16].into_iter().enumerate() {
        if at > 0 {
            out.push(b'-');
        }
        write_hex(&bytes[range], out);
    }
    out.push(b'"');
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn write_time(us: i64, out: &mut Vec<u8>) {
    let Some(time) = DateTime::<Utc>::from_timestamp_micros(us) else {
        out.extend_from_slice(b"null");
        return;
    };
    let (date, us) = (time.date_naive(), time.nanosecond() / 1_000);
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    write!(out, "\"{date}T{hour:02}:{minute:02}:{second:02}.{us:06}Z\"").expect(MEMORY);
}
