//! Rows of one batch that have the same key: one statement may touch a row only once, so they become one.

use std::borrow::Cow;
use std::hash::{Hash, Hasher};

use rustc_hash::FxHashMap;

use super::backend::{Chunk, Plan};
use crate::feed::{OnConflict, Operation};
use crate::row::Table;
use crate::value::Value;

/// A row of a batch: which chunk, which row of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) chunk: u32,
    pub(super) row: u32,
}

/// What one statement stores: each key once.
#[derive(Debug)]
pub(super) struct Folded<'a> {
    /// The rows, in the order in which they came.
    pub(super) rows: Vec<FoldedRow<'a>>,
    /// Rows that another one of the batch stands for.
    pub(super) duplicates: Vec<Place>,
}

/// A row of a statement.
#[derive(Debug, Clone)]
pub(super) struct FoldedRow<'a> {
    pub(super) place: Place,
    pub(super) values: Cow<'a, [Value]>,
    /// For updates: one bit per column that is changed.
    pub(super) given: Cow<'a, [u8]>,
}

/// Takes the rows at `places`, which come in order, and folds those with the same key: the first wins where the feed
/// ignores what is there already, otherwise the last; changes add up.
pub(super) fn fold<'a>(
    plan: &Plan,
    operation: Operation,
    chunks: &[&'a Chunk],
    places: impl IntoIterator<Item = Place>,
) -> Folded<'a> {
    let row = |place: Place| {
        let table: &'a Table = &chunks[place.chunk as usize].rows;
        FoldedRow {
            place,
            values: Cow::Borrowed(table.row(place.row as usize)),
            given: Cow::Borrowed(table.given(place.row as usize)),
        }
    };
    // Counted first, so that nothing has to grow row by row.
    let places: Vec<Place> = places.into_iter().collect();
    let rows = places.into_iter().map(row);
    match (operation, plan.on_conflict(operation)) {
        // The database refuses the second one: that is what `error` asks for.
        (Operation::Insert, OnConflict::Error) => Folded {
            rows: rows.collect(),
            duplicates: Vec::new(),
        },
        (Operation::Insert, OnConflict::Ignore) => by_key(plan, rows, |_, _| Wins::First),
        (Operation::Update, _) => by_key(plan, rows, |first, next| {
            add_changes(first, next);
            Wins::Next
        }),
        _ => by_key(plan, rows, |_, _| Wins::Next),
    }
}

enum Wins {
    First,
    Next,
}

/// `meet` is told of the row that stands and the next one of its key, and may change the next one.
fn by_key<'a>(
    plan: &Plan,
    rows: impl ExactSizeIterator<Item = FoldedRow<'a>>,
    meet: impl Fn(&FoldedRow<'a>, &mut FoldedRow<'a>) -> Wins,
) -> Folded<'a> {
    let mut kept: Vec<Option<FoldedRow<'a>>> = Vec::with_capacity(rows.len());
    let mut by_key: FxHashMap<Key<'a>, usize> =
        FxHashMap::with_capacity_and_hasher(rows.len(), Default::default());
    let mut duplicates = Vec::new();
    for mut row in rows {
        let key = Key(plan.key.iter().map(|at| key_value(&row.values, *at)).collect());
        let Some(at) = by_key.get(&key).copied() else {
            by_key.insert(key, kept.len());
            kept.push(Some(row));
            continue;
        };
        let standing = kept[at].take().expect("the map points at the row that stands");
        match meet(&standing, &mut row) {
            Wins::First => {
                duplicates.push(row.place);
                kept[at] = Some(standing);
            }
            Wins::Next => {
                duplicates.push(standing.place);
                by_key.insert(key, kept.len());
                kept.push(Some(row));
            }
        }
    }
    Folded {
        rows: kept.into_iter().flatten().collect(),
        duplicates,
    }
}

/// A later change keeps what only the earlier one changed.
fn add_changes<'a>(earlier: &FoldedRow<'a>, later: &mut FoldedRow<'a>) {
    for at in 0..later.values.len() {
        let (byte, bit) = (at / 8, 1_u8 << (at % 8));
        let only_earlier = earlier.given[byte] & bit != 0 && later.given[byte] & bit == 0;
        if only_earlier {
            later.values.to_mut()[at] = earlier.values[at].clone();
            later.given.to_mut()[byte] |= bit;
        }
    }
}

/// The values of a key, compared as the database compares them.
struct Key<'a>(smallvec::SmallVec<[Cow<'a, Value>; 4]>);

/// Borrowed where the row is, so that folding a batch copies nothing.
fn key_value<'a>(values: &Cow<'a, [Value]>, at: usize) -> Cow<'a, Value> {
    match values {
        Cow::Borrowed(values) => Cow::Borrowed(&values[at]),
        Cow::Owned(values) => Cow::Owned(values[at].clone()),
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        let mut pairs = self.0.iter().zip(&other.0);
        pairs.all(|(a, b)| match (&**a, &**b) {
            (Value::Numeric(a), Value::Numeric(b)) => plain(a) == plain(b),
            (a, b) => a == b,
        })
    }
}

impl Eq for Key<'_> {}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in &self.0 {
            match &**value {
                Value::Null | Value::Array(_) => {}
                Value::Bool(value) => value.hash(state),
                Value::Int(value) | Value::Timestamptz(value) => value.hash(state),
                // Both zeros are equal.
                Value::Float(value) => (value + 0.0).to_bits().hash(state),
                Value::Numeric(digits) => plain(digits).hash(state),
                Value::Text(text) | Value::Jsonb(text) => text.hash(state),
                Value::Uuid(bytes) => bytes.hash(state),
                Value::Date(days) => days.hash(state),
                Value::Bytes(bytes) => bytes.hash(state),
            }
        }
    }
}

/// `1.50` and `1.5` are one number.
fn plain(digits: &str) -> &str {
    match digits.contains('.') {
        true => digits.trim_end_matches('0').trim_end_matches('.'),
        false => digits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::testing;
    use crate::row::{Format, Reader};

    /// Kept rows as text with their place, and the duplicates.
    fn check(operation: Operation, on_conflict: OnConflict, rows: &str, kept: &[(u32, &str)], lost: &[u32]) {
        let plan = Plan::new(testing::feed("k:numeric* a:int4 b:text", on_conflict)).unwrap();
        let parsed = Reader::new(&plan.feed, operation)
            .read(Format::Json, rows.as_bytes(), 0)
            .unwrap();
        assert_eq!(parsed.rejected, []);
        let chunk = testing::chunk(operation, parsed.chunks.into_iter().next().unwrap());
        let places = (0..chunk.rows.len() as u32).map(|row| Place { chunk: 0, row });
        let folded = fold(&plan, operation, &[&chunk], places);
        let text = |row: &FoldedRow<'_>| {
            let mut text = Vec::new();
            let has = |at: usize| row.given.is_empty() || row.given[at / 8] >> (at % 8) & 1 == 1;
            crate::row::write_row(&plan.feed.columns, &row.values, has, &mut text);
            (row.place.row, String::from_utf8(text).unwrap())
        };
        let found: Vec<_> = folded.rows.iter().map(text).collect();
        let expected: Vec<_> = kept.iter().map(|(at, text)| (*at, (*text).to_owned())).collect();
        assert_eq!(found, expected);
        let found: Vec<u32> = folded.duplicates.iter().map(|place| place.row).collect();
        assert_eq!(found, lost);
    }

    const ROWS: &str = r#"[{"k":1,"a":1},{"k":2,"a":2},{"k":"1.0","a":3},{"k":3},{"k":"1.00","a":4}]"#;

    #[test]
    fn the_first_wins_where_conflicts_are_ignored() {
        let kept = [
            (0, r#"{"k":"1","a":1,"b":null}"#),
            (1, r#"{"k":"2","a":2,"b":null}"#),
            (3, r#"{"k":"3","a":null,"b":null}"#),
        ];
        check(Operation::Insert, OnConflict::Ignore, ROWS, &kept, &[2, 4]);
    }

    #[test]
    fn the_last_wins_where_rows_are_replaced() {
        let kept = [
            (1, r#"{"k":"2","a":2,"b":null}"#),
            (3, r#"{"k":"3","a":null,"b":null}"#),
            (4, r#"{"k":"1.00","a":4,"b":null}"#),
        ];
        check(Operation::Insert, OnConflict::Update, ROWS, &kept, &[0, 2]);
        check(Operation::Upsert, OnConflict::Ignore, ROWS, &kept, &[0, 2]);
    }

    #[test]
    fn nothing_is_folded_where_the_database_shall_refuse() {
        let rows = r#"[{"k":1},{"k":1}]"#;
        let row = r#"{"k":"1","a":null,"b":null}"#;
        check(
            Operation::Insert,
            OnConflict::Error,
            rows,
            &[(0, row), (1, row)],
            &[],
        );
    }

    #[test]
    fn changes_of_one_row_add_up() {
        let rows = r#"[{"k":1,"a":1,"b":"x"},{"k":1,"a":null},{"k":2,"b":"y"}]"#;
        let kept = [(1, r#"{"k":"1","a":null,"b":"x"}"#), (2, r#"{"k":"2","b":"y"}"#)];
        check(Operation::Update, OnConflict::Error, rows, &kept, &[0]);
    }

    #[test]
    fn a_row_is_removed_once() {
        check(
            Operation::Delete,
            OnConflict::Error,
            r#"[{"k":1},{"k":1}]"#,
            &[(1, r#"{"k":"1","a":null,"b":null}"#)],
            &[0],
        );
    }
}
