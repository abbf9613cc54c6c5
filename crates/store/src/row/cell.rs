//! One JSON value into one column, without a tree between.

use std::cell::RefCell;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Fault, code, scalar};
use crate::value::{Type, Value};

/// Reads a value of a type. What is wrong goes to `fault`; the error of serde then only ends the row.
#[derive(Clone, Copy)]
pub(super) struct Cell<'a> {
    pub(super) kind: &'a Type,
    pub(super) fault: &'a RefCell<Option<Fault>>,
}

/// Doubles below this are exact as integers; beyond it `1e19` is a large integer rather than a broken one.
const INTEGER_LIMIT: f64 = 9_007_199_254_740_992.0;

impl<'de> DeserializeSeed<'de> for Cell<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self.kind {
            // The text itself: a double would have lost digits.
            Type::Numeric => self.take(numeric(<&RawValue>::deserialize(deserializer)?.get())),
            Type::Jsonb => self.take(jsonb(<&RawValue>::deserialize(deserializer)?.get())),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Cell<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        match self.kind {
            Type::Bool => Ok(Value::Bool(value)),
            _ => self.mismatch("a bool"),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        match self.kind {
            Type::Int2 | Type::Int4 | Type::Int8 => self.take(integer(self.kind, value)),
            Type::Float4 | Type::Float8 => self.take(float(self.kind, value as f64)),
            Type::Timestamptz => self.take(scalar::milliseconds(value)),
            _ => self.mismatch("a number"),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        match self.kind {
            Type::Float4 | Type::Float8 => self.take(float(self.kind, value)),
            Type::Int2 | Type::Int4 | Type::Int8 | Type::Timestamptz if value.abs() >= INTEGER_LIMIT => self
                .fail(Fault::new(
                    code::OUT_OF_RANGE,
                    format!("outside of {}", self.kind),
                )),
            _ => self.mismatch("a number with a fraction"),
        }
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.take(match self.kind {
            Type::Text => text(value),
            Type::Enum(labels) => label(labels, value),
            Type::Uuid => scalar::uuid(value),
            Type::Date => scalar::date(value),
            Type::Timestamptz => scalar::timestamptz(value),
            Type::Int2 | Type::Int4 | Type::Int8 => {
                scalar::integer(value).and_then(|value| integer(self.kind, value))
            }
            Type::Float4 | Type::Float8 if scalar::is_not_finite(value) => Err(scalar::not_finite(value)),
            _ => return self.mismatch("a string"),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let Type::Array(kind) = self.kind else {
            return self.mismatch("an array");
        };
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(Cell { kind, ..self })? {
            values.push(value);
        }
        Ok(Value::Array(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        // Read to its end, so that broken JSON is reported as such.
        while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        self.mismatch("an object")
    }
}

impl Cell<'_> {
    fn take<E: serde::de::Error>(self, read: Result<Value, Fault>) -> Result<Value, E> {
        read.or_else(|fault| self.fail(fault))
    }

    fn mismatch<E: serde::de::Error>(self, found: &str) -> Result<Value, E> {
        let message = format!("{found} where {} is expected", self.kind);
        self.fail(Fault::new(code::TYPE_MISMATCH, message))
    }

    fn fail<E: serde::de::Error>(self, fault: Fault) -> Result<Value, E> {
        self.fault.borrow_mut().get_or_insert(fault);
        Err(E::custom("refused"))
    }
}

fn integer(kind: &Type, value: i64) -> Result<Value, Fault> {
    let fits = match kind {
        Type::Int2 => i16::try_from(value).is_ok(),
        Type::Int4 => i32::try_from(value).is_ok(),
        _ => true,
    };
    match fits {
        true => Ok(Value::Int(value)),
        false => Err(Fault::new(
            code::OUT_OF_RANGE,
            format!("{value} is outside of {kind}"),
        )),
    }
}

fn float(kind: &Type, value: f64) -> Result<Value, Fault> {
    // As it will be stored, so that what is fanned out equals what is read back.
    let stored = match kind {
        Type::Float4 => f64::from(value as f32),
        _ => value,
    };
    match stored.is_finite() {
        true => Ok(Value::Float(stored)),
        false => Err(Fault::new(
            code::OUT_OF_RANGE,
            format!("{value} is outside of {kind}"),
        )),
    }
}

fn text(value: &str) -> Result<Value, Fault> {
    match memchr::memchr(0, value.as_bytes()) {
        None => Ok(Value::Text(value.into())),
        Some(_) => Err(Fault::new(code::NUL_CHARACTER, "text contains NUL")),
    }
}

fn label(labels: &[Box<str>], value: &str) -> Result<Value, Fault> {
    match labels.iter().any(|label| **label == *value) {
        true => Ok(Value::Text(value.into())),
        false => {
            let message = format!("not one of {}", labels.join(", "));
            Err(Fault::new(code::UNKNOWN_LABEL, message))
        }
    }
}

fn numeric(raw: &str) -> Result<Value, Fault> {
    match raw.as_bytes().first() {
        Some(b'n') => Ok(Value::Null),
        Some(b'"') => scalar::numeric(raw.trim_matches('"')),
        Some(b'-' | b'0'..=b'9') => scalar::numeric(raw),
        _ => Err(Fault::new(code::TYPE_MISMATCH, "not a number")),
    }
}

/// JSON as it stands, if PostgreSQL can keep its escapes.
pub(super) fn jsonb(raw: &str) -> Result<Value, Fault> {
    if raw == "null" {
        return Ok(Value::Null);
    }
    let mut surrogate_is_open = false;
    let mut rest = raw.as_bytes();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        let unit = match rest[at..] {
            [_, b'u', a, b, c, d, ..] => hex_unit([a, b, c, d]),
            _ => None,
        };
        // A low surrogate must follow its high one at once.
        let is_low = unit.is_some_and(|unit| (0xdc00..0xe000).contains(&unit));
        if surrogate_is_open != is_low || surrogate_is_open && at != 0 {
            return Err(Fault::new(code::INVALID_JSON, "half of a surrogate pair"));
        }
        if unit == Some(0) {
            return Err(Fault::new(code::NUL_CHARACTER, "JSON contains \\u0000"));
        }
        surrogate_is_open = unit.is_some_and(|unit| (0xd800..0xdc00).contains(&unit));
        rest = &rest[at + if unit.is_some() { 6 } else { 2 }..];
    }
    match surrogate_is_open {
        true => Err(Fault::new(code::INVALID_JSON, "half of a surrogate pair")),
        false => Ok(Value::Jsonb(raw.into())),
    }
}

fn hex_unit(digits: [u8; 4]) -> Option<u32> {
    digits.iter().try_fold(0, |unit, digit| {
        char::from(*digit).to_digit(16).map(|digit| unit << 4 | digit)
    })
}
