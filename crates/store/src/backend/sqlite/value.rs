//! Values of the house as SQLite keeps them, and back.

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat};
use rusqlite::types::{Value as Kept, ValueRef};

use crate::{
    error::{Error, Result},
    value::{Type, Value},
};

/// Days from 0001-01-01 to 1970-01-01 in the proleptic Gregorian calendar.
const UNIX_EPOCH_DAYS: i32 = 719_163;

/// A value as SQLite keeps it.
#[must_use]
pub fn to_sqlite(value: &Value) -> Kept {
    match value {
        Value::Null => Kept::Null,
        Value::Bool(b) => Kept::Integer(i64::from(*b)),
        Value::Int(i) | Value::Timestamptz(i) => Kept::Integer(*i),
        Value::Date(days) => Kept::Integer(i64::from(*days)),
        Value::Float(x) => Kept::Real(*x),
        Value::Numeric(text) | Value::Text(text) | Value::Jsonb(text) => Kept::Text(text.to_string()),
        Value::Uuid(bytes) => Kept::Text(uuid_text(bytes)),
        Value::Array(_) => {
            let mut json = String::new();
            write_json(value, &mut json);
            Kept::Text(json)
        }
        Value::Bytes(bytes) => Kept::Blob(bytes.to_vec()),
    }
}

/// A kept value as one of `kind`; without a kind, as the nearest to what SQLite holds.
///
/// # Errors
/// [`Error::Database`] with SQLSTATE 22000 when the kept value is none of `kind`.
pub fn from_sqlite(kept: ValueRef<'_>, kind: Option<&Type>) -> Result<Value> {
    let Some(kind) = kind else {
        return untyped(kept);
    };
    let value = match (kind, kept) {
        (_, ValueRef::Null) => Some(Value::Null),
        (Type::Bool, ValueRef::Integer(i @ (0 | 1))) => Some(Value::Bool(i == 1)),
        (Type::Int2 | Type::Int4 | Type::Int8, ValueRef::Integer(i)) => Some(Value::Int(i)),
        (Type::Timestamptz, ValueRef::Integer(us)) => Some(Value::Timestamptz(us)),
        (Type::Date, ValueRef::Integer(days)) => i32::try_from(days).ok().map(Value::Date),
        (Type::Float4 | Type::Float8, ValueRef::Real(x)) => Some(Value::Float(x)),
        (Type::Float4 | Type::Float8, ValueRef::Integer(i)) => Some(Value::Float(i as f64)),
        (Type::Numeric, ValueRef::Integer(i)) => Some(Value::Numeric(i.to_string().into())),
        // A sum over numerics is REAL in SQLite.
        (Type::Numeric, ValueRef::Real(x)) => Some(Value::Numeric(x.to_string().into())),
        (_, ValueRef::Text(text)) => std::str::from_utf8(text)
            .ok()
            .and_then(|text| from_text(text, kind)),
        _ => None,
    };
    value.ok_or_else(|| mismatch(kept, kind))
}

fn untyped(kept: ValueRef<'_>) -> Result<Value> {
    Ok(match kept {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(i) => Value::Int(i),
        ValueRef::Real(x) => Value::Float(x),
        ValueRef::Text(text) => {
            let text = std::str::from_utf8(text).map_err(|_| mismatch(kept, &Type::Text))?;
            Value::Text(text.into())
        }
        ValueRef::Blob(bytes) => Value::Bytes(bytes.into()),
    })
}

/// Reads the text form of a value; none if it is no value of `kind`.
fn from_text(text: &str, kind: &Type) -> Option<Value> {
    Some(match kind {
        Type::Text => Value::Text(text.into()),
        Type::Enum(labels) => labels
            .iter()
            .any(|label| **label == *text)
            .then(|| Value::Text(text.into()))?,
        Type::Numeric => Value::Numeric(text.into()),
        Type::Jsonb => Value::Jsonb(text.into()),
        Type::Uuid => Value::Uuid(parse_uuid(text)?),
        Type::Date => {
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            Value::Date(date.num_days_from_ce() - UNIX_EPOCH_DAYS)
        }
        Type::Timestamptz => Value::Timestamptz(DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros()),
        Type::Array(element) => {
            let items: Vec<serde_json::Value> = serde_json::from_str(text).ok()?;
            let items: Option<Vec<Value>> = items.iter().map(|item| from_json(item, element)).collect();
            Value::Array(items?.into())
        }
        _ => return None,
    })
}

fn from_json(item: &serde_json::Value, kind: &Type) -> Option<Value> {
    use serde_json::Value as Json;
    Some(match (item, kind) {
        (Json::Null, _) => Value::Null,
        (Json::Bool(b), Type::Bool) => Value::Bool(*b),
        (Json::Number(n), Type::Int2 | Type::Int4 | Type::Int8) => Value::Int(n.as_i64()?),
        (Json::Number(n), Type::Float4 | Type::Float8) => Value::Float(n.as_f64()?),
        (_, Type::Jsonb) => Value::Jsonb(item.to_string().into()),
        (Json::String(text), _) => from_text(text, kind)?,
        _ => return None,
    })
}

fn write_json(value: &Value, json: &mut String) {
    use std::fmt::Write;
    match value {
        Value::Null => json.push_str("null"),
        Value::Bool(b) => json.push_str(if *b { "true" } else { "false" }),
        Value::Int(i) => _ = write!(json, "{i}"),
        Value::Float(x) => _ = write!(json, "{x:?}"),
        Value::Jsonb(text) => json.push_str(text),
        Value::Array(items) => {
            json.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    json.push(',');
                }
                write_json(item, json);
            }
            json.push(']');
        }
        other => json.push_str(&serde_json::Value::from(text_of(other)).to_string()),
    }
}

/// The text form of values that are kept as text.
fn text_of(value: &Value) -> String {
    match value {
        Value::Numeric(text) | Value::Text(text) | Value::Jsonb(text) => text.to_string(),
        Value::Uuid(bytes) => uuid_text(bytes),
        Value::Date(days) => NaiveDate::from_num_days_from_ce_opt(days.saturating_add(UNIX_EPOCH_DAYS))
            .map_or_else(|| days.to_string(), |date| date.format("%Y-%m-%d").to_string()),
        Value::Timestamptz(us) => DateTime::from_timestamp_micros(*us).map_or_else(
            || us.to_string(),
            |time| time.to_rfc3339_opts(SecondsFormat::Micros, true),
        ),
        _ => String::new(),
    }
}

fn uuid_text(bytes: &[u8; 16]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(36);
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        _ = write!(text, "{byte:02x}");
    }
    text
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text
        .bytes()
        .filter(|b| *b != b'-')
        .map(|b| (b as char).to_digit(16));
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        *byte = (digits.next()?? * 16 + digits.next()??) as u8;
    }
    digits.next().is_none().then_some(bytes)
}

fn mismatch(kept: ValueRef<'_>, kind: &Type) -> Error {
    Error::Database {
        sqlstate: "22000".to_owned(),
        message: format!("a kept {} is no {kind}", kept.data_type()),
        object: None,
        source: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, value: &Value) {
        let kind = Type::parse(kind).unwrap();
        let kept = to_sqlite(value);
        let back = from_sqlite(ValueRef::from(&kept), Some(&kind));
        assert_eq!(
            back.as_ref().ok(),
            Some(value),
            "{kind} kept as {kept:?}: {back:?}"
        );
    }

    #[test]
    fn every_type_comes_back_as_it_was() {
        check("bool", &Value::Bool(true));
        check("int8", &Value::Int(i64::MIN));
        check("float8", &Value::Float(-0.1));
        check("float4", &Value::Float(3.0));
        check("numeric", &Value::Numeric("-12345678901234567890.5000".into()));
        check("text", &Value::Text("波动 '\"".into()));
        check("enum(buy,sell)", &Value::Text("sell".into()));
        check("uuid", &Value::Uuid([7; 16]));
        check("date", &Value::Date(-719_162));
        check("date", &Value::Date(20_000));
        check("timestamptz", &Value::Timestamptz(1_700_000_000_123_456));
        check("jsonb", &Value::Jsonb("{\"a\":[1,null]}".into()));
        check(
            "text[]",
            &Value::Array([Value::Text("a\"b".into()), Value::Null].into()),
        );
        check("int8[]", &Value::Array([Value::Int(1), Value::Int(-2)].into()));
        check("uuid[]", &Value::Array([Value::Uuid([1; 16])].into()));
        check(
            "timestamptz[]",
            &Value::Array([Value::Timestamptz(1_000_001)].into()),
        );
        check("float8[]", &Value::Array([Value::Float(1.0)].into()));
        check("int4", &Value::Null);
    }

    #[test]
    fn what_is_kept_otherwise_is_refused() {
        for (kind, kept) in [
            ("bool", Kept::Integer(2)),
            ("int8", Kept::Text("1".into())),
            ("date", Kept::Text("yesterday".into())),
            ("enum(a)", Kept::Text("b".into())),
            ("uuid", Kept::Text("00".into())),
            ("text", Kept::Blob(vec![0xff])),
        ] {
            let kind = Type::parse(kind).unwrap();
            assert!(
                from_sqlite(ValueRef::from(&kept), Some(&kind)).is_err(),
                "{kind} {kept:?}"
            );
        }
    }
}
