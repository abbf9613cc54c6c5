//! Types of columns and parameters, and their values.

use std::{fmt, sync::Arc};

use crate::error::{Error, Result};

/// The type of a column or parameter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Type {
    /// `bool`
    Bool,
    /// `int2`
    Int2,
    /// `int4`
    Int4,
    /// `int8`
    Int8,
    /// `float4`
    Float4,
    /// `float8`
    Float8,
    /// `numeric`, exact.
    Numeric,
    /// `text`
    Text,
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `timestamptz`, kept in UTC to the microsecond.
    Timestamptz,
    /// `jsonb`
    Jsonb,
    /// `enum(a,b,…)`: one of these words.
    Enum(Arc<[Box<str>]>),
    /// `T[]`: one dimension of any of the above.
    Array(Box<Self>),
}

/// A value of a [`Type`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// `bool`
    Bool(bool),
    /// `int2`, `int4` and `int8`
    Int(i64),
    /// `float4` and `float8`; never NaN or infinite.
    Float(f64),
    /// `numeric`, as decimal digits such as `-12.50`.
    Numeric(Box<str>),
    /// `text` and `enum`; contains no NUL.
    Text(Box<str>),
    /// `uuid`
    Uuid([u8; 16]),
    /// `date`, days since 1970-01-01.
    Date(i32),
    /// `timestamptz`, microseconds since 1970-01-01T00:00:00Z.
    Timestamptz(i64),
    /// `jsonb`, as its text; contains no `\u0000`.
    Jsonb(Box<str>),
    /// `T[]`
    Array(Box<[Self]>),
    /// `bytea`; only in our own tables.
    Bytes(Box<[u8]>),
}

// === impl Type ===

impl Type {
    /// Whether equal values are always written in the same way: 1.5 and 1.50 are not.
    #[must_use]
    pub const fn has_one_text(&self) -> bool {
        !matches!(
            self,
            Self::Float4 | Self::Float8 | Self::Numeric | Self::Jsonb | Self::Array(_)
        )
    }

    /// Whether PostgreSQL writes its values into JSON as we write them into tags: times it writes in another way.
    #[must_use]
    pub const fn is_written_alike(&self) -> bool {
        self.has_one_text() && !matches!(self, Self::Timestamptz)
    }

    /// Reads `int8`, `text[]` or `enum(buy,sell)`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the text and the known types.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        if let Some(element) = text.strip_suffix("[]") {
            return match Self::parse(element)? {
                Self::Array(_) => Err(unknown(text)),
                element => Ok(Self::Array(Box::new(element))),
            };
        }
        if let Some(labels) = text.strip_prefix("enum(").and_then(|rest| rest.strip_suffix(')')) {
            let labels: Arc<[Box<str>]> = labels.split(',').map(|label| label.trim().into()).collect();
            let distinct = labels
                .iter()
                .enumerate()
                .all(|(i, label)| !labels[..i].contains(label));
            return match distinct && labels.iter().all(|label| !label.is_empty()) {
                true => Ok(Self::Enum(labels)),
                false => Err(unknown(text)),
            };
        }
        Ok(match text {
            "bool" | "boolean" => Self::Bool,
            "int2" | "smallint" => Self::Int2,
            "int4" | "int" | "integer" => Self::Int4,
            "int8" | "bigint" => Self::Int8,
            "float4" | "real" => Self::Float4,
            "float8" | "double precision" => Self::Float8,
            "numeric" | "decimal" => Self::Numeric,
            "text" | "varchar" => Self::Text,
            "uuid" => Self::Uuid,
            "date" => Self::Date,
            "timestamptz" => Self::Timestamptz,
            "jsonb" => Self::Jsonb,
            _ => return Err(unknown(text)),
        })
    }
}

fn unknown(text: &str) -> Error {
    Error::Config {
        what: format!("type {text:?}"),
        problem: "known are bool, int2, int4, int8, float4, float8, numeric, text, uuid, date, timestamptz, jsonb, \
                  enum(a,b,…), and T[] of these"
            .to_owned(),
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Int2 => "int2",
            Self::Int4 => "int4",
            Self::Int8 => "int8",
            Self::Float4 => "float4",
            Self::Float8 => "float8",
            Self::Numeric => "numeric",
            Self::Text => "text",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::Timestamptz => "timestamptz",
            Self::Jsonb => "jsonb",
            Self::Enum(labels) => return write!(f, "enum({})", labels.join(",")),
            Self::Array(element) => return write!(f, "{element}[]"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<&str>) {
        let parsed = Type::parse(text).ok().map(|kind| kind.to_string());
        assert_eq!(parsed.as_deref(), expected, "{text}");
    }

    #[test]
    fn types_are_read_by_their_sql_names() {
        check("int8", Some("int8"));
        check(" bigint ", Some("int8"));
        check("text[]", Some("text[]"));
        check("enum(buy, sell)", Some("enum(buy,sell)"));
        check("enum(a)[]", Some("enum(a)[]"));
        check("text[][]", None);
        check("enum()", None);
        check("enum(a,a)", None);
        check("money", None);
    }
}
