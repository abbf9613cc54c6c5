//! Values to and from PostgreSQL's binary form.

use std::error::Error as StdError;

use bytes::{BufMut, BytesMut};
use tokio_postgres::{
    Row,
    types::{Format, FromSql, IsNull, Kind, ToSql, Type as PgType, to_sql_checked},
};

use super::{numeric, text};
use crate::{
    error::{Error, Result},
    value::{Type, Value},
};

type Boxed = Box<dyn StdError + Sync + Send>;

/// Days from 1970-01-01 to 2000-01-01, where the server's dates begin.
const EPOCH_DAYS: i64 = 10_957;
/// The same in microseconds.
const EPOCH_US: i64 = EPOCH_DAYS * 86_400_000_000;
/// First and last day the server takes (4714-11-24 BC, 5874897-12-31), from 2000-01-01.
const DAYS: std::ops::RangeInclusive<i64> = -2_451_545..=2_145_031_948;
/// First and last microsecond the server takes, from 2000-01-01.
const MICROS: std::ops::RangeInclusive<i64> = -211_813_488_000_000_000..=9_223_371_331_199_999_999;

/// Reads column `at` of `row`.
///
/// # Errors
/// [`Error::BadRequest`] naming the column: a type that is not ours, NaN or infinity, or a value out of range.
///
/// # Panics
/// If the row has no such column.
pub fn value_from(row: &Row, at: usize) -> Result<Value> {
    row.try_get::<_, Decoded>(at)
        .map(|decoded| decoded.0)
        .map_err(|error| {
            let column = &row.columns()[at];
            let problem = match Type::from_postgres(column.type_()) {
                None => unknown_type(column.type_()),
                Some(_) => StdError::source(&error).map_or_else(|| error.to_string(), ToString::to_string),
            };
            Error::BadRequest(format!("column {}: {problem}", column.name()))
        })
}

/// Why a column of this type cannot be read, and what to do.
pub(super) fn unknown_type(kind: &PgType) -> String {
    let cast = match *kind {
        PgType::TIMESTAMP => "timestamptz",
        _ => "text",
    };
    format!("type {} is not supported: cast it to {cast}", kind.name())
}

impl Type {
    /// Our type for one of the server's; `None` when there is no such type.
    #[must_use]
    pub fn from_postgres(kind: &PgType) -> Option<Self> {
        Some(match *kind {
            PgType::BOOL => Self::Bool,
            PgType::INT2 => Self::Int2,
            PgType::INT4 => Self::Int4,
            PgType::INT8 | PgType::OID => Self::Int8,
            PgType::FLOAT4 => Self::Float4,
            PgType::FLOAT8 => Self::Float8,
            PgType::NUMERIC => Self::Numeric,
            PgType::TEXT | PgType::VARCHAR | PgType::BPCHAR | PgType::NAME => Self::Text,
            PgType::UUID => Self::Uuid,
            PgType::DATE => Self::Date,
            PgType::TIMESTAMPTZ => Self::Timestamptz,
            PgType::JSONB | PgType::JSON => Self::Jsonb,
            _ => match kind.kind() {
                Kind::Enum(labels) => Self::Enum(labels.iter().map(|label| label.as_str().into()).collect()),
                Kind::Domain(inner) => return Self::from_postgres(inner),
                Kind::Array(element) => match Self::from_postgres(element)? {
                    Self::Array(_) => return None,
                    element => Self::Array(Box::new(element)),
                },
                _ => return None,
            },
        })
    }
}

/// The type below any domains.
fn base(kind: &PgType) -> &PgType {
    match kind.kind() {
        Kind::Domain(inner) => base(inner),
        _ => kind,
    }
}

/// Whether values of this type are sent in their binary form; all others go as text, which the server reads itself.
fn is_binary(kind: &PgType) -> bool {
    let kind = base(kind);
    match *kind {
        PgType::BOOL | PgType::INT2 | PgType::INT4 | PgType::INT8 | PgType::OID => true,
        PgType::FLOAT4 | PgType::FLOAT8 | PgType::NUMERIC | PgType::UUID | PgType::BYTEA => true,
        PgType::TEXT | PgType::VARCHAR | PgType::BPCHAR | PgType::NAME => true,
        PgType::DATE | PgType::TIMESTAMPTZ | PgType::JSONB | PgType::JSON => true,
        _ => match kind.kind() {
            Kind::Enum(_) => true,
            Kind::Array(element) => is_binary(element),
            _ => false,
        },
    }
}

// === To the server ===

impl ToSql for Value {
    fn to_sql(&self, kind: &PgType, out: &mut BytesMut) -> std::result::Result<IsNull, Boxed> {
        if matches!(self, Self::Null) {
            return Ok(IsNull::Yes);
        }
        check_text(self)?;
        if is_binary(kind) {
            encode(self, base(kind), out)?;
        } else {
            let mut written = String::new();
            text::write(self, &mut written);
            out.put_slice(written.as_bytes());
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &PgType) -> bool {
        // Whether value and type agree is said by `to_sql`, which knows both.
        true
    }

    fn encode_format(&self, kind: &PgType) -> Format {
        if is_binary(kind) {
            Format::Binary
        } else {
            Format::Text
        }
    }

    to_sql_checked!();
}

/// The server keeps no NUL in texts; found here, the error names the place instead of an encoding.
fn check_text(value: &Value) -> std::result::Result<(), Boxed> {
    match value {
        Value::Text(text) | Value::Jsonb(text) => match memchr::memchr(0, text.as_bytes()) {
            Some(at) => Err(format!("text contains NUL at byte {at}").into()),
            None => Ok(()),
        },
        Value::Array(elements) => elements.iter().try_for_each(check_text),
        Value::Float(value) if !value.is_finite() => Err("NaN and infinity are refused".into()),
        _ => Ok(()),
    }
}

fn encode(value: &Value, kind: &PgType, out: &mut BytesMut) -> std::result::Result<(), Boxed> {
    match (value, kind.clone()) {
        (Value::Bool(value), PgType::BOOL) => out.put_u8(u8::from(*value)),
        (Value::Int(value), PgType::INT2) => out.put_i16(narrow(*value, kind)?),
        (Value::Int(value), PgType::INT4) => out.put_i32(narrow(*value, kind)?),
        (Value::Int(value), PgType::OID) => out.put_u32(narrow(*value, kind)?),
        (Value::Int(value), PgType::INT8) => out.put_i64(*value),
        (Value::Int(value), PgType::FLOAT8) => out.put_f64(*value as f64),
        (Value::Int(value), PgType::FLOAT4) => out.put_f32(*value as f32),
        (Value::Int(value), PgType::NUMERIC) => numeric::encode(&value.to_string(), out)?,
        (Value::Float(value), PgType::FLOAT8) => out.put_f64(*value),
        (Value::Float(value), PgType::FLOAT4) => out.put_f32(to_float4(*value)?),
        (Value::Float(value), PgType::NUMERIC) => numeric::encode(&value.to_string(), out)?,
        (Value::Numeric(digits), PgType::NUMERIC) => numeric::encode(digits, out)?,
        (Value::Numeric(digits), PgType::FLOAT8) => out.put_f64(digits.parse()?),
        (Value::Uuid(bytes), PgType::UUID) => out.put_slice(bytes),
        (Value::Bytes(bytes), PgType::BYTEA) => out.put_slice(bytes),
        (Value::Date(days), PgType::DATE) => out.put_i32(to_date(*days)?),
        (Value::Timestamptz(us), PgType::TIMESTAMPTZ) => out.put_i64(to_timestamptz(*us)?),
        (Value::Jsonb(text), PgType::JSONB) => {
            out.put_u8(1); // the version of the binary form
            out.put_slice(text.as_bytes());
        }
        (Value::Jsonb(text), PgType::JSON) => out.put_slice(text.as_bytes()),
        (Value::Text(text), ref kind) if is_text(kind) => out.put_slice(text.as_bytes()),
        (Value::Array(elements), ref kind) => match kind.kind() {
            Kind::Array(element) => encode_array(elements, element, out)?,
            _ => return Err(mismatch(value, kind)),
        },
        (_, ref kind) => return Err(mismatch(value, kind)),
    }
    Ok(())
}

fn is_text(kind: &PgType) -> bool {
    matches!(
        *kind,
        PgType::TEXT | PgType::VARCHAR | PgType::BPCHAR | PgType::NAME
    ) || matches!(kind.kind(), Kind::Enum(_))
}

fn narrow<T: TryFrom<i64>>(value: i64, kind: &PgType) -> std::result::Result<T, Boxed> {
    T::try_from(value).map_err(|_| format!("{value} is out of range for {}", kind.name()).into())
}

fn to_float4(value: f64) -> std::result::Result<f32, Boxed> {
    let narrowed = value as f32;
    match narrowed.is_finite() {
        true => Ok(narrowed),
        false => Err(format!("{value:e} is out of range for float4").into()),
    }
}

fn to_date(days: i32) -> std::result::Result<i32, Boxed> {
    let days = i64::from(days) - EPOCH_DAYS;
    match DAYS.contains(&days) {
        true => Ok(days as i32),
        false => Err("date out of range: 4714-11-24 BC to 5874897-12-31".into()),
    }
}

fn to_timestamptz(us: i64) -> std::result::Result<i64, Boxed> {
    let us = us.checked_sub(EPOCH_US).filter(|us| MICROS.contains(us));
    us.ok_or_else(|| "timestamptz out of range: 4714-11-24 BC to the year 294276".into())
}

fn mismatch(value: &Value, kind: &PgType) -> Boxed {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Int(_) => "integer",
        Value::Float(_) => "float",
        Value::Numeric(_) => "numeric",
        Value::Text(_) => "text",
        Value::Uuid(_) => "uuid",
        Value::Date(_) => "date",
        Value::Timestamptz(_) => "timestamptz",
        Value::Jsonb(_) => "jsonb",
        Value::Array(_) => "array",
        Value::Bytes(_) => "bytea",
    };
    format!("the statement wants {}, not {found}", kind.name()).into()
}

fn encode_array(elements: &[Value], kind: &PgType, out: &mut BytesMut) -> std::result::Result<(), Boxed> {
    let has_null = elements.iter().any(|element| matches!(element, Value::Null));
    out.put_i32(i32::from(!elements.is_empty())); // dimensions
    out.put_i32(i32::from(has_null));
    out.put_u32(kind.oid());
    if elements.is_empty() {
        return Ok(());
    }
    out.put_i32(i32::try_from(elements.len())?);
    out.put_i32(1); // index of the first element
    for element in elements {
        if matches!(element, Value::Null) {
            out.put_i32(-1);
            continue;
        }
        let at = out.len();
        out.put_i32(0);
        encode(element, base(kind), out)?;
        let size = i32::try_from(out.len() - at - 4)?;
        out[at..at + 4].copy_from_slice(&size.to_be_bytes());
    }
    Ok(())
}

// === From the server ===

/// A value as the server sent it; a type of its own, so that reading by mistake as a plain `Value` does not compile.
struct Decoded(Value);

impl<'a> FromSql<'a> for Decoded {
    fn from_sql(kind: &PgType, raw: &'a [u8]) -> std::result::Result<Self, Boxed> {
        decode(base(kind), raw).map(Self)
    }

    fn from_sql_null(_: &PgType) -> std::result::Result<Self, Boxed> {
        Ok(Self(Value::Null))
    }

    fn accepts(kind: &PgType) -> bool {
        is_binary(kind)
    }
}

fn decode(kind: &PgType, raw: &[u8]) -> std::result::Result<Value, Boxed> {
    Ok(match *kind {
        PgType::BOOL => Value::Bool(raw == [1]),
        PgType::INT2 => Value::Int(i64::from(i16::from_be_bytes(raw.try_into()?))),
        PgType::INT4 => Value::Int(i64::from(i32::from_be_bytes(raw.try_into()?))),
        PgType::OID => Value::Int(i64::from(u32::from_be_bytes(raw.try_into()?))),
        PgType::INT8 => Value::Int(i64::from_be_bytes(raw.try_into()?)),
        PgType::FLOAT4 => from_float(f64::from(f32::from_be_bytes(raw.try_into()?)))?,
        PgType::FLOAT8 => from_float(f64::from_be_bytes(raw.try_into()?))?,
        PgType::NUMERIC => Value::Numeric(numeric::decode(raw)?),
        PgType::UUID => Value::Uuid(raw.try_into()?),
        PgType::BYTEA => Value::Bytes(raw.into()),
        PgType::DATE => from_date(i32::from_be_bytes(raw.try_into()?))?,
        PgType::TIMESTAMPTZ => from_timestamptz(i64::from_be_bytes(raw.try_into()?))?,
        PgType::JSON => Value::Jsonb(utf8(raw)?),
        PgType::JSONB => match raw.split_first() {
            Some((1, text)) => Value::Jsonb(utf8(text)?),
            _ => return Err("a jsonb of an unknown version".into()),
        },
        ref kind if is_text(kind) => Value::Text(utf8(raw)?),
        ref kind => match kind.kind() {
            Kind::Array(element) => decode_array(base(element), raw)?,
            _ => return Err(unknown_type(kind).into()),
        },
    })
}

fn utf8(raw: &[u8]) -> std::result::Result<Box<str>, Boxed> {
    Ok(simdutf8::compat::from_utf8(raw)?.into())
}

fn from_float(value: f64) -> std::result::Result<Value, Boxed> {
    match value.is_finite() {
        true => Ok(Value::Float(value)),
        false => Err(format!("{value} has no place in an answer: turn it into null in the statement").into()),
    }
}

fn from_date(days: i32) -> std::result::Result<Value, Boxed> {
    if days == i32::MAX || days == i32::MIN {
        return Err("infinity has no place in a date".into());
    }
    Ok(Value::Date(i32::try_from(i64::from(days) + EPOCH_DAYS)?))
}

fn from_timestamptz(us: i64) -> std::result::Result<Value, Boxed> {
    if us == i64::MAX || us == i64::MIN {
        return Err("infinity has no place in a timestamptz".into());
    }
    let us = us
        .checked_add(EPOCH_US)
        .ok_or("timestamptz after the year 294246")?;
    Ok(Value::Timestamptz(us))
}

fn decode_array(kind: &PgType, raw: &[u8]) -> std::result::Result<Value, Boxed> {
    const BROKEN: &str = "an array of the wrong length";
    let mut rest = raw;
    let word = |rest: &mut &[u8]| -> std::result::Result<i32, Boxed> {
        let (head, tail) = rest.split_at_checked(4).ok_or(BROKEN)?;
        *rest = tail;
        Ok(i32::from_be_bytes(head.try_into()?))
    };
    let (n_dimensions, _has_null, _oid) = (word(&mut rest)?, word(&mut rest)?, word(&mut rest)?);
    match n_dimensions {
        0 => return Ok(Value::Array(Box::new([]))),
        1 => {}
        more => return Err(format!("an array of {more} dimensions; one is supported").into()),
    }
    let (n_elements, _first) = (word(&mut rest)?, word(&mut rest)?);
    let mut elements = Vec::with_capacity(usize::try_from(n_elements)?.min(rest.len() / 4));
    for _ in 0..n_elements {
        let size = word(&mut rest)?;
        let Ok(size) = usize::try_from(size) else {
            elements.push(Value::Null);
            continue;
        };
        let (element, tail) = rest.split_at_checked(size).ok_or(BROKEN)?;
        rest = tail;
        elements.push(decode(kind, element)?);
    }
    Ok(Value::Array(elements.into_boxed_slice()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(value: &Value, kind: &PgType) -> std::result::Result<Value, String> {
        let mut raw = BytesMut::new();
        value.to_sql(kind, &mut raw).map_err(|error| error.to_string())?;
        decode(kind, &raw).map_err(|error| error.to_string())
    }

    fn check(value: Value, kind: &PgType) {
        assert_eq!(round_trip(&value, kind), Ok(value), "{kind}");
    }

    fn check_refused(value: impl Into<Value>, kind: &PgType, expected: &str) {
        let message = round_trip(&value.into(), kind).unwrap_err();
        assert!(message.contains(expected), "{message:?}");
    }

    #[test]
    fn values_survive_their_binary_form() {
        check(Value::Bool(true), &PgType::BOOL);
        check(Value::Int(-32_768), &PgType::INT2);
        check(Value::Int(i64::MIN), &PgType::INT8);
        check(Value::Float(-0.1), &PgType::FLOAT8);
        check(Value::Numeric("-12.50".into()), &PgType::NUMERIC);
        check(Value::Text("日本".into()), &PgType::TEXT);
        check(Value::Date(-2_440_588), &PgType::DATE);
        check(Value::Timestamptz(-1), &PgType::TIMESTAMPTZ);
        check(Value::Jsonb(r#"{"a":1}"#.into()), &PgType::JSONB);
        check(Value::Bytes(Box::new([0, 1])), &PgType::BYTEA);
        let elements = [Value::Int(1), Value::Null, Value::Int(3)];
        check(Value::Array(Box::new(elements)), &PgType::INT4_ARRAY);
        check(Value::Array(Box::new([])), &PgType::TEXT_ARRAY);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        check_refused(
            Value::Int(40_000),
            &PgType::INT2,
            "40000 is out of range for int2",
        );
        check_refused(Value::Float(1e300), &PgType::FLOAT4, "out of range for float4");
        check_refused(Value::Float(f64::NAN), &PgType::FLOAT8, "NaN");
        check_refused(Value::Text("a\0b".into()), &PgType::TEXT, "NUL at byte 1");
        check_refused(Value::Text("5".into()), &PgType::INT4, "wants int4, not text");
        check_refused(Value::Date(i32::MAX), &PgType::DATE, "date out of range");
        check_refused(
            Value::Timestamptz(i64::MIN),
            &PgType::TIMESTAMPTZ,
            "timestamptz out of range",
        );
    }

    #[test]
    fn types_have_their_counterparts() {
        let check = |kind: &PgType, expected: Option<&str>| {
            let ours = Type::from_postgres(kind).map(|kind| kind.to_string());
            assert_eq!(ours.as_deref(), expected, "{kind}");
        };
        check(&PgType::VARCHAR, Some("text"));
        check(&PgType::INT8_ARRAY, Some("int8[]"));
        check(&PgType::JSON, Some("jsonb"));
        check(&PgType::TIMESTAMP, None);
        check(&PgType::MONEY, None);
        let mood = PgType::new(
            "mood".into(),
            90_000,
            Kind::Enum(vec!["a".into(), "b".into()]),
            "public".into(),
        );
        check(&mood, Some("enum(a,b)"));
    }
}
