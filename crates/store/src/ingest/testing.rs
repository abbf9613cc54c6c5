//! Feeds and chunks for the tests of this module.

use std::sync::Arc;

use sha2::Digest as _;

use super::backend::{Chunk, Mark};
use crate::feed::{Column, Feed, OnConflict, Operation};
use crate::row::ChunkRows;
use crate::value::Type;

/// A feed from `"id:int8* name:text"`; a star marks the key.
pub(crate) fn feed(columns: &str, on_conflict: OnConflict) -> Feed {
    let parts = || columns.split(' ').map(|part| part.split_once(':').unwrap());
    let column = |(name, kind): (&str, &str)| Column {
        name: name.to_owned(),
        kind: Type::parse(kind.trim_end_matches('*')).unwrap(),
        not_null: false,
    };
    let keys = parts().filter(|(_, kind)| kind.ends_with('*'));
    Feed {
        name: "test".to_owned(),
        table: "test".to_owned(),
        columns: parts().map(column).collect(),
        key: keys.map(|(name, _)| name.to_owned()).collect(),
        on_conflict,
        tags: Vec::new(),
        retain: None,
        manage: false,
        partition: None,
        rollups: Vec::new(),
        row_bytes_max: 1 << 20,
        rows_per_second_max: None,
    }
}

/// A chunk of request `a`.
pub(crate) fn chunk(operation: Operation, rows: ChunkRows) -> Chunk {
    Chunk {
        mark: Mark {
            principal: Arc::from("p"),
            id: Arc::from("a"),
            chunk: rows.index,
        },
        hash: rows.digest.finalize().into(),
        maker: 0,
        operation,
        rows: rows.table,
        numbers: rows.numbers,
        misfits: Vec::new(),
    }
}
