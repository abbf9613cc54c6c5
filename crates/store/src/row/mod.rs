//! Rows as JSON: bytes into values by the columns of a feed, and values back into text.
//!
//! Every row is judged alone: one that does not fit is refused with its number, column and a code, and the others go on.
//! What a column takes:
//!
//! | type | JSON |
//! |---|---|
//! | `bool` | `true`, `false` |
//! | `int2`, `int4`, `int8` | an integer, or one written as a string (for producers whose numbers are doubles) |
//! | `float4`, `float8` | a finite number |
//! | `numeric` | a number or a string of digits; taken exactly, digit by digit |
//! | `text`, `enum` | a string without NUL |
//! | `uuid` | a string of 32 hexadecimal digits, with or without hyphens |
//! | `date` | `"2024-02-29"` |
//! | `timestamptz` | `"2024-02-29T12:00:00.123456+08:00"` (RFC 3339; digits after the sixth are cut), or an integer: milliseconds since 1970 |
//! | `jsonb` | anything without `\u0000` |
//! | `T[]` | an array of the above; null elements are kept |

mod cell;
mod read;
mod scalar;
mod split;
mod write;

use std::cell::RefCell;

use serde::{Serialize, de::DeserializeSeed as _};

pub use read::{CHUNK_ROWS, ChunkRows, Format, Parsed, REJECTED_MAX, Reader};
pub use write::{write_row, write_value};

use crate::value::{Type, Value};

/// Rows of one chunk or one batch, side by side without an allocation per row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    width: usize,
    values: Vec<Value>,
    /// For updates: which columns each row gave, one bit per column, `width.div_ceil(8)` bytes per row.
    given: Vec<u8>,
}

/// A row that was refused before it came near the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// Its number in the whole request, from 0.
    pub row: u64,
    /// The column, where one is at fault.
    pub column: Option<String>,
    /// What kind of fault it is; stable.
    pub code: &'static str,
    /// What is wrong, for people.
    pub message: String,
}

/// What is wrong with one row or one value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) column: Option<String>,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

/// Codes of [`Rejected`]; producers may rely on them.
pub mod code {
    /// The row has a column that the feed does not.
    pub const UNKNOWN_COLUMN: &str = "unknown_column";
    /// The row names a column twice.
    pub const DUPLICATE_COLUMN: &str = "duplicate_column";
    /// A key column is not there.
    pub const MISSING_KEY: &str = "missing_key";
    /// A column that refuses null is null or not there.
    pub const NULL: &str = "null";
    /// The value is of another type.
    pub const TYPE_MISMATCH: &str = "type_mismatch";
    /// The value is of the type, but too large or too small for it.
    pub const OUT_OF_RANGE: &str = "out_of_range";
    /// NaN or infinity.
    pub const NAN: &str = "nan";
    /// The word is not one of the enum.
    pub const UNKNOWN_LABEL: &str = "unknown_label";
    /// The bytes are not UTF-8.
    pub const INVALID_UTF8: &str = "invalid_utf8";
    /// The text contains NUL, which PostgreSQL cannot keep.
    pub const NUL_CHARACTER: &str = "nul_character";
    /// The row is longer than the feed allows.
    pub const TOO_LONG: &str = "too_long";
    /// The row is not JSON.
    pub const INVALID_JSON: &str = "invalid_json";
    /// The row gives columns that the operation has no use for, or none that it could change.
    pub const NOT_ALLOWED: &str = "not_allowed";
}

/// Reads one JSON text by its type, as a row's column is read.
pub(crate) fn read_value(kind: &Type, json: &str) -> Result<Value, Fault> {
    let fault = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_str(json);
    let seed = cell::Cell { kind, fault: &fault };
    match seed.deserialize(&mut reader) {
        Ok(value) => Ok(value),
        Err(error) => Err(fault
            .take()
            .unwrap_or_else(|| Fault::new(code::INVALID_JSON, error.to_string()))),
    }
}

// === impl Table ===

impl Table {
    /// An empty table of `width` columns.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self {
            width,
            values: Vec::new(),
            given: Vec::new(),
        }
    }

    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Columns.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// A row, by its place.
    ///
    /// # Panics
    /// If there is no such row.
    #[must_use]
    pub fn row(&self, at: usize) -> &[Value] {
        &self.values[at * self.width..(at + 1) * self.width]
    }

    /// All rows in order.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[Value]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// Whether a row gave this column; always, except for updates.
    #[must_use]
    pub fn gave(&self, row: usize, column: usize) -> bool {
        self.given
            .get(row * self.width.div_ceil(8) + column / 8)
            .is_none_or(|bits| bits >> (column % 8) & 1 == 1)
    }

    /// The bits of [`Table::gave`] for a row; empty except for updates. Bit 0 is the lowest of the first byte, as in
    /// PostgreSQL's `get_bit`.
    #[must_use]
    pub fn given(&self, row: usize) -> &[u8] {
        let n_bytes = self.width.div_ceil(8);
        self.given
            .get(row * n_bytes..(row + 1) * n_bytes)
            .unwrap_or_default()
    }

    /// Adds a row.
    ///
    /// # Panics
    /// If it has another width.
    pub fn push(&mut self, row: impl IntoIterator<Item = Value>) {
        self.values.extend(row);
        assert!(
            self.values.len().is_multiple_of(self.width),
            "a row has {} values",
            self.width
        );
    }

    /// Heap and inline bytes of the values, roughly: what a batch weighs.
    #[must_use]
    pub fn n_bytes(&self) -> usize {
        self.values.iter().map(weight).sum::<usize>() + self.given.len()
    }

    pub(crate) fn push_given(&mut self, given: &[bool]) {
        for bits in given.chunks(8) {
            let byte = bits
                .iter()
                .enumerate()
                .fold(0, |byte, (at, given)| byte | u8::from(*given) << at);
            self.given.push(byte);
        }
    }
}

fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Numeric(text) | Value::Text(text) | Value::Jsonb(text) => text.len(),
            Value::Bytes(bytes) => bytes.len(),
            Value::Array(elements) => elements.iter().map(weight).sum(),
            _ => 0,
        }
}

// === impl Fault ===

impl Fault {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            column: None,
            code,
            message: message.into(),
        }
    }

    pub(crate) fn at(mut self, column: impl Into<String>) -> Self {
        self.column.get_or_insert_with(|| column.into());
        self
    }

    pub(crate) fn reject(self, row: u64) -> Rejected {
        Rejected {
            row,
            column: self.column,
            code: self.code,
            message: self.message,
        }
    }
}

#[cfg(test)]
mod tests;
