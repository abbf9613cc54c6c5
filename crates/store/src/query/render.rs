//! Rows into JSON objects, the names written once.

use super::declaration::Query;
use crate::{
    error::Result,
    row::write_value,
    select::ColumnInfo,
    value::{Type, Value},
};

/// Writes the rows of one answer.
#[derive(Debug)]
pub(super) struct Renderer {
    /// `{"a":` and then `,"b":` for each column, and the column's type.
    columns: Vec<(Vec<u8>, Type)>,
}

impl Renderer {
    pub(super) fn new(query: &Query, columns: &[ColumnInfo]) -> Result<Self> {
        let mut heads = Vec::with_capacity(columns.len());
        for (at, column) in columns.iter().enumerate() {
            if columns[..at].iter().any(|other| other.name == column.name) {
                return Err(query.broken(format!("two columns are named {}", column.name)));
            }
            let mut head = vec![if at == 0 { b'{' } else { b',' }];
            serde_json::to_writer(&mut head, &column.name).expect("writing to memory does not fail");
            head.push(b':');
            heads.push((head, column.kind.clone()));
        }
        Ok(Self { columns: heads })
    }

    /// Appends a row as an object.
    pub(super) fn write(&self, row: &[Value], out: &mut Vec<u8>) {
        for ((head, kind), value) in self.columns.iter().zip(row) {
            out.extend_from_slice(head);
            write_value(kind, value, out);
        }
        out.extend_from_slice(if self.columns.is_empty() { b"{}" } else { b"}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, kind: Type) -> ColumnInfo {
        ColumnInfo {
            name: name.to_owned(),
            kind,
        }
    }

    #[test]
    fn rows_are_objects_by_column_name() {
        let query = Query::new("q", "SELECT 1");
        let columns = [
            column("a\"b", Type::Int8),
            column("c", Type::Numeric),
            column("d", Type::Jsonb),
        ];
        let renderer = Renderer::new(&query, &columns).unwrap();
        let mut out = Vec::new();
        renderer.write(
            &[
                Value::Int(5),
                Value::Numeric("1.50".into()),
                Value::Jsonb("{\"x\": 1}".into()),
            ],
            &mut out,
        );
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"a\\\"b\":5,\"c\":\"1.50\",\"d\":{\"x\": 1}}"
        );
        let twice = [column("a", Type::Int8), column("a", Type::Int8)];
        let message = Renderer::new(&query, &twice).unwrap_err().to_string();
        assert_eq!(message, "query q: two columns are named a");
    }
}
