//! Rows into PostgreSQL's binary COPY and into arrays for `unnest`, straight from the values.

use std::error::Error as StdError;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, Kind, ToSql, Type as PgType, to_sql_checked};

use crate::ingest::fold::FoldedRow;
use crate::value::Value;

type Boxed = Box<dyn StdError + Sync + Send>;

/// How a column travels. The common types are written here in a few instructions each; all others as the client's own
/// encoding has them.
#[derive(Debug, Clone)]
pub(super) enum Wire {
    Bool,
    Int2,
    Int4,
    Int8,
    Float8,
    Text,
    Uuid,
    Date,
    Timestamptz,
    Jsonb,
    Bytes,
    Other(PgType),
}

/// Days from 1970-01-01 to 2000-01-01, where the server's dates begin.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_US: i64 = EPOCH_DAYS as i64 * 86_400_000_000;

/// Signature, no flags, no extension.
const COPY_HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// What stands behind a row's own columns: so many fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    Nothing = 0,
    /// The row's number: for the staging table.
    Number = 1,
    /// The bits of the given columns before it: for changes.
    GivenAndNumber = 2,
}

// === impl Wire ===

impl Wire {
    /// How values travel to a column of this type.
    pub(super) fn of(kind: &PgType) -> Self {
        match *kind {
            PgType::BOOL => Self::Bool,
            PgType::INT2 => Self::Int2,
            PgType::INT4 => Self::Int4,
            PgType::INT8 => Self::Int8,
            PgType::FLOAT8 => Self::Float8,
            PgType::TEXT | PgType::VARCHAR | PgType::BPCHAR => Self::Text,
            PgType::UUID => Self::Uuid,
            PgType::DATE => Self::Date,
            PgType::TIMESTAMPTZ => Self::Timestamptz,
            PgType::JSONB => Self::Jsonb,
            PgType::BYTEA => Self::Bytes,
            _ => match kind.kind() {
                Kind::Enum(_) => Self::Text,
                Kind::Domain(inner) => Self::of(inner),
                _ => Self::Other(kind.clone()),
            },
        }
    }

    /// Writes length and value.
    fn write(&self, value: &Value, out: &mut BytesMut) -> Result<(), Boxed> {
        match (self, value) {
            (_, Value::Null) => out.put_i32(-1),
            (Self::Int8, Value::Int(value)) => fixed(out, value.to_be_bytes()),
            (Self::Int4, Value::Int(value)) => fixed(out, i32::try_from(*value)?.to_be_bytes()),
            (Self::Int2, Value::Int(value)) => fixed(out, i16::try_from(*value)?.to_be_bytes()),
            (Self::Float8, Value::Float(value)) => fixed(out, value.to_be_bytes()),
            (Self::Bool, Value::Bool(value)) => fixed(out, [u8::from(*value)]),
            (Self::Text, Value::Text(text)) => {
                out.put_i32(text.len() as i32);
                out.put_slice(text.as_bytes());
            }
            (Self::Timestamptz, Value::Timestamptz(us)) => fixed(out, (us - EPOCH_US).to_be_bytes()),
            (Self::Date, Value::Date(days)) => fixed(out, (days - EPOCH_DAYS).to_be_bytes()),
            (Self::Uuid, Value::Uuid(bytes)) => fixed(out, *bytes),
            (Self::Jsonb, Value::Jsonb(json)) => {
                out.put_i32(json.len() as i32 + 1);
                out.put_u8(1); // the version of the binary form
                out.put_slice(json.as_bytes());
            }
            (Self::Bytes, Value::Bytes(bytes)) => {
                out.put_i32(bytes.len() as i32);
                out.put_slice(bytes);
            }
            (Self::Other(kind), value) => return other(value, kind, out),
            (wire, _) => return Err(format!("a value that is no {wire:?}").into()),
        }
        Ok(())
    }
}

fn fixed<const N: usize>(out: &mut BytesMut, bytes: [u8; N]) {
    out.put_i32(N as i32);
    out.put_slice(&bytes);
}

/// By the client's own encoding, with the length put in afterwards.
fn other(value: &Value, kind: &PgType, out: &mut BytesMut) -> Result<(), Boxed> {
    let at = out.len();
    out.put_i32(-1);
    if let IsNull::No = value.to_sql(kind, out)? {
        let size = (out.len() - at - 4) as i32;
        out[at..at + 4].copy_from_slice(&size.to_be_bytes());
    }
    Ok(())
}

// === COPY ===

/// Writes a stream of binary COPY piece by piece.
#[derive(Debug)]
pub(super) struct CopyWriter<'a> {
    wires: &'a [Wire],
    extra: Extra,
    n_written: usize,
}

impl<'a> CopyWriter<'a> {
    pub(super) fn new(wires: &'a [Wire], extra: Extra) -> Self {
        Self {
            wires,
            extra,
            n_written: 0,
        }
    }

    /// Appends rows until `out` holds `bytes_max` or none is left; says how many it took.
    pub(super) fn write(
        &mut self,
        rows: &[FoldedRow<'_>],
        bytes_max: usize,
        out: &mut BytesMut,
    ) -> Result<usize, Boxed> {
        if self.n_written == 0 {
            out.put_slice(COPY_HEAD);
        }
        let start = self.n_written;
        let n_fields = self.wires.len() + self.extra as usize;
        for row in rows {
            if out.len() >= bytes_max {
                break;
            }
            out.put_i16(n_fields as i16);
            for (wire, value) in self.wires.iter().zip(row.values.iter()) {
                wire.write(value, out)?;
            }
            self.n_written += 1;
            if self.extra == Extra::GivenAndNumber {
                out.put_i32(row.given.len() as i32);
                out.put_slice(&row.given);
            }
            if self.extra != Extra::Nothing {
                // From 1, as `WITH ORDINALITY` counts.
                fixed(out, (self.n_written as i32).to_be_bytes());
            }
        }
        Ok(self.n_written - start)
    }

    /// Ends the stream.
    pub(super) fn finish(&self, out: &mut BytesMut) {
        if self.n_written == 0 {
            out.put_slice(COPY_HEAD);
        }
        out.put_i16(-1);
    }
}

// === Arrays ===

/// One column of many rows as an array parameter.
#[derive(Debug)]
pub(super) struct ColumnArray<'a> {
    pub(super) rows: &'a [FoldedRow<'a>],
    pub(super) at: usize,
    pub(super) wire: &'a Wire,
}

/// The bits of the given columns of many rows.
#[derive(Debug)]
pub(super) struct GivenArray<'a>(pub(super) &'a [FoldedRow<'a>]);

impl ToSql for ColumnArray<'_> {
    fn to_sql(&self, kind: &PgType, out: &mut BytesMut) -> Result<IsNull, Boxed> {
        let has_null = self.rows.iter().any(|row| row.values[self.at] == Value::Null);
        write_array(kind, self.rows.len(), has_null, out)?;
        for row in self.rows {
            self.wire.write(&row.values[self.at], out)?;
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &PgType) -> bool {
        // The statement was written for the table's own types.
        true
    }

    to_sql_checked!();
}

impl ToSql for GivenArray<'_> {
    fn to_sql(&self, kind: &PgType, out: &mut BytesMut) -> Result<IsNull, Boxed> {
        write_array(kind, self.0.len(), false, out)?;
        for row in self.0 {
            out.put_i32(row.given.len() as i32);
            out.put_slice(&row.given);
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &PgType) -> bool {
        true
    }

    to_sql_checked!();
}

/// The head of an array of one dimension.
fn write_array(kind: &PgType, n_elements: usize, has_null: bool, out: &mut BytesMut) -> Result<(), Boxed> {
    let Kind::Array(element) = kind.kind() else {
        return Err(format!("the statement wants {kind}, not an array").into());
    };
    out.put_i32(i32::from(n_elements > 0)); // dimensions
    out.put_i32(i32::from(has_null));
    out.put_u32(element.oid());
    if n_elements > 0 {
        out.put_i32(i32::try_from(n_elements)?);
        out.put_i32(1); // index of the first element
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::ingest::fold::Place;

    fn row(values: Vec<Value>) -> FoldedRow<'static> {
        FoldedRow {
            place: Place { chunk: 0, row: 0 },
            values: Cow::Owned(values),
            given: Cow::Borrowed(&[]),
        }
    }

    #[test]
    fn copy_streams_follow_the_manual() {
        let wires = [Wire::Int4, Wire::Text];
        let rows = [
            row(vec![Value::Int(7), Value::Text("é".into())]),
            row(vec![Value::Null, Value::Text("".into())]),
        ];
        let mut out = BytesMut::new();
        let mut copy = CopyWriter::new(&wires, Extra::Nothing);
        assert_eq!(copy.write(&rows, usize::MAX, &mut out).unwrap(), 2);
        copy.finish(&mut out);
        let mut expected = COPY_HEAD.to_vec();
        expected.extend(b"\0\x02\0\0\0\x04\0\0\0\x07\0\0\0\x02\xc3\xa9");
        expected.extend(b"\0\x02\xff\xff\xff\xff\0\0\0\0\xff\xff");
        assert_eq!(out, expected);
    }

    #[test]
    fn pieces_stay_near_their_size() {
        let wires = [Wire::Int8];
        let rows: Vec<_> = (0..100).map(|n| row(vec![Value::Int(n)])).collect();
        let mut copy = CopyWriter::new(&wires, Extra::GivenAndNumber);
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let mut out = BytesMut::new();
            let n = copy.write(rest, 64, &mut out).unwrap();
            assert!(n > 0 && out.len() <= 64 + 26, "{n} rows in {} bytes", out.len());
            rest = &rest[n..];
        }
    }

    #[test]
    fn values_of_another_type_are_refused() {
        let rows = [row(vec![Value::Bool(true)])];
        let mut copy = CopyWriter::new(&[Wire::Int8], Extra::Nothing);
        assert!(copy.write(&rows, usize::MAX, &mut BytesMut::new()).is_err());
    }
}
