//! Rows in, rows out: every code, round trips, and bytes without sense.

use proptest::prelude::*;
use sha2::Digest as _;

use super::*;
use crate::feed::{Column, Feed, OnConflict, Operation};
use crate::value::Type;

const COLUMNS: [(&str, &str, bool); 14] = [
    ("id", "int8", true),
    ("b", "bool", false),
    ("i2", "int2", false),
    ("i4", "int4", false),
    ("f4", "float4", false),
    ("f8", "float8", false),
    ("n", "numeric", false),
    ("t", "text", true),
    ("u", "uuid", false),
    ("d", "date", false),
    ("at", "timestamptz", false),
    ("j", "jsonb", false),
    ("e", "enum(buy,sell)", false),
    ("a", "numeric[]", false),
];

fn feed() -> Feed {
    let column = |&(name, kind, not_null): &(&str, &str, bool)| Column {
        name: name.to_owned(),
        kind: Type::parse(kind).unwrap(),
        not_null,
    };
    Feed {
        name: "all".to_owned(),
        table: "all".to_owned(),
        columns: COLUMNS.iter().map(column).collect(),
        key: vec!["id".to_owned()],
        on_conflict: OnConflict::Error,
        tags: Vec::new(),
        retain: None,
        manage: false,
        partition: None,
        rollups: Vec::new(),
        row_bytes_max: 1_000,
        rows_per_second_max: None,
    }
}

fn read(operation: Operation, body: &[u8]) -> Parsed {
    Reader::new(&feed(), operation)
        .read(Format::Json, body, 0)
        .unwrap()
}

/// One row among two good ones; `expected` is column and code, or nothing if it is good too.
fn check_as(operation: Operation, row: &[u8], expected: Option<(&str, &str)>) {
    let good: &[u8] = match operation {
        Operation::Delete => br#"{"id":1}"#,
        _ => br#"{"id":1,"t":""}"#,
    };
    let body = [b"[", good, b",", row, b",", good, b"]"].concat();
    let parsed = read(operation, &body);
    let rejected: Vec<(u64, &str, &str)> = parsed
        .rejected
        .iter()
        .map(|rejected| {
            (
                rejected.row,
                rejected.column.as_deref().unwrap_or(""),
                rejected.code,
            )
        })
        .collect();
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(column, code)| (1, column, code))
        .collect();
    assert_eq!(rejected, expected, "{}", String::from_utf8_lossy(row));
    assert_eq!(parsed.n_rows, 3);
    let numbers: &[u64] = if expected.is_empty() { &[0, 1, 2] } else { &[0, 2] };
    assert_eq!(parsed.chunks[0].numbers, numbers);
    assert_eq!(parsed.chunks[0].table.len(), numbers.len());
}

fn check(fields: &str, expected: Option<(&str, &str)>) {
    let row = format!(
        r#"{{"id":7,"t":"x"{}{fields}}}"#,
        if fields.is_empty() { "" } else { "," }
    );
    check_as(Operation::Insert, row.as_bytes(), expected);
}

#[test]
fn a_bad_row_is_refused_alone_with_column_and_code() {
    check("", None);
    check(r#""x":1"#, Some(("x", code::UNKNOWN_COLUMN)));
    check(r#""t":"y""#, Some(("t", code::DUPLICATE_COLUMN)));
    check(r#""b":1"#, Some(("b", code::TYPE_MISMATCH)));
    check(r#""i2":32768"#, Some(("i2", code::OUT_OF_RANGE)));
    check(r#""i2":"-32768""#, None);
    check(r#""i4":2147483648"#, Some(("i4", code::OUT_OF_RANGE)));
    check(r#""i4":1.5"#, Some(("i4", code::TYPE_MISMATCH)));
    check(r#""i4":18446744073709551616"#, Some(("i4", code::OUT_OF_RANGE)));
    check(r#""i4":18446744073709551615"#, Some(("i4", code::OUT_OF_RANGE)));
    check(r#""i4":[]"#, Some(("i4", code::TYPE_MISMATCH)));
    check(r#""i4":{"a":[1]}"#, Some(("i4", code::TYPE_MISMATCH)));
    check(r#""f4":1e39"#, Some(("f4", code::OUT_OF_RANGE)));
    check(r#""f8":1e999"#, Some(("f8", code::OUT_OF_RANGE)));
    check(r#""f8":NaN"#, Some(("f8", code::NAN)));
    check(r#""f8":-Infinity"#, Some(("f8", code::NAN)));
    check(r#""f8":"Infinity""#, Some(("f8", code::NAN)));
    check(r#""f8":"1""#, Some(("f8", code::TYPE_MISMATCH)));
    check(r#""n":"NaN""#, Some(("n", code::NAN)));
    check(r#""n":"12.30""#, None);
    check(r#""n":true"#, Some(("n", code::TYPE_MISMATCH)));
    check(r#""u":"no""#, Some(("u", code::TYPE_MISMATCH)));
    check(r#""d":"2023-02-29""#, Some(("d", code::OUT_OF_RANGE)));
    check(r#""at":"2024-01-01T00:00:00""#, Some(("at", code::TYPE_MISMATCH)));
    check(r#""at":1700000000000"#, None);
    check(r#""at":99999999999999999"#, Some(("at", code::OUT_OF_RANGE)));
    check(r#""j":{"a":"\u0000"}"#, Some(("j", code::NUL_CHARACTER)));
    check(r#""j":{"a":"\\u0000"}"#, None);
    check(r#""j":"\ud83d\ude00""#, None);
    check(r#""j":"\ud83d""#, Some(("j", code::INVALID_JSON)));
    check(r#""j":"\ud83dx\ude00""#, Some(("j", code::INVALID_JSON)));
    check(r#""j":"\ude00""#, Some(("j", code::INVALID_JSON)));
    check(r#""e":"hold""#, Some(("e", code::UNKNOWN_LABEL)));
    check(r#""a":[1,"2.5",null]"#, None);
    check(r#""a":[1,"x"]"#, Some(("a", code::TYPE_MISMATCH)));
    check(r#""a":1"#, Some(("a", code::TYPE_MISMATCH)));
    check(r#""b":tru"#, Some(("b", code::INVALID_JSON)));
}

#[test]
fn whole_rows_are_judged_too() {
    let insert = |row: &[u8], expected| check_as(Operation::Insert, row, expected);
    insert(br#"{"t":"x"}"#, Some(("id", code::MISSING_KEY)));
    insert(br#"{"id":null,"t":"x"}"#, Some(("id", code::NULL)));
    insert(br#"{"id":1}"#, Some(("t", code::NULL)));
    insert(br#"{"id":1,"t":"a\u0000b"}"#, Some(("t", code::NUL_CHARACTER)));
    insert(b"{\"id\":1,\"t\":\"\xff\"}", Some(("t", code::INVALID_UTF8)));
    insert(
        format!(r#"{{"id":1,"t":"{}"}}"#, "x".repeat(1_000)).as_bytes(),
        Some(("", code::TOO_LONG)),
    );
    insert(b"7", Some(("", code::TYPE_MISMATCH)));
    insert(b"[{}]", Some(("", code::TYPE_MISMATCH)));
    insert(b"", Some(("", code::INVALID_JSON)));
    insert(br#"{"id":1,"t":"x"} 1"#, Some(("", code::INVALID_JSON)));
    insert(br#"{"id":1,"t":"x"}}"#, Some(("", code::INVALID_JSON)));
    let update = |row: &[u8], expected| check_as(Operation::Update, row, expected);
    update(br#"{"id":1,"b":null}"#, None);
    update(br#"{"id":1}"#, Some(("", code::NOT_ALLOWED)));
    update(br#"{"id":1,"t":null}"#, Some(("t", code::NULL)));
    update(br#"{"t":"x"}"#, Some(("id", code::MISSING_KEY)));
    let delete = |row: &[u8], expected| check_as(Operation::Delete, row, expected);
    delete(br#"{"id":2}"#, None);
    delete(br#"{"id":2,"t":"x"}"#, Some(("t", code::NOT_ALLOWED)));
    delete(b"{}", Some(("id", code::MISSING_KEY)));
}

#[test]
fn updates_remember_what_was_given() {
    let parsed = read(
        Operation::Update,
        br#"[{"id":1,"b":null},{"id":2,"a":[],"t":"x"}]"#,
    );
    let table = &parsed.chunks[0].table;
    let given = |row| {
        (0..14)
            .filter(|column| table.gave(row, *column))
            .collect::<Vec<_>>()
    };
    assert_eq!(given(0), [0, 1]);
    assert_eq!(given(1), [0, 7, 13]);
    assert_eq!(table.given(1), [0b1000_0001, 0b10_0000]);
}

#[test]
fn bodies_are_taken_apart_into_chunks() {
    let reader = Reader::new(&feed(), Operation::Insert);
    let lines = "{\"id\":1,\"t\":\"\"}\n\n".repeat(2_500);
    let parsed = reader.read(Format::Ndjson, lines.as_bytes(), 5_000).unwrap();
    let chunks: Vec<_> = parsed
        .chunks
        .iter()
        .map(|chunk| (chunk.index, chunk.table.len()))
        .collect();
    assert_eq!(chunks, [(5, 1_000), (6, 1_000), (7, 500)]);
    assert_eq!(parsed.chunks[2].numbers[499], 7_499);
    let hash = |at: usize| parsed.chunks[at].digest.clone().finalize();
    assert_eq!(hash(0), hash(1));
    assert_ne!(hash(1), hash(2));
    assert_eq!(reader.read(Format::Json, b" [] ", 0).unwrap().n_rows, 0);
    for body in ["", "7", "[", "[{}", "[{}] 1", "\"x\""] {
        assert!(reader.read(Format::Json, body.as_bytes(), 0).is_err(), "{body}");
    }
}

#[test]
fn many_bad_rows_are_counted_and_the_first_listed() {
    let body = format!("[{}]", vec!["1"; 1_500].join(","));
    let parsed = read(Operation::Insert, body.as_bytes());
    assert_eq!((parsed.rejected.len(), parsed.n_rejected), (REJECTED_MAX, 1_500));
}

fn value(kind: &Type) -> BoxedStrategy<Value> {
    let text = || "[^\0]{0,12}".prop_map(|text| text.into());
    match kind {
        Type::Bool => any::<bool>().prop_map(Value::Bool).boxed(),
        Type::Int2 => any::<i16>().prop_map(|value| Value::Int(value.into())).boxed(),
        Type::Int4 => any::<i32>().prop_map(|value| Value::Int(value.into())).boxed(),
        Type::Int8 => any::<i64>().prop_map(Value::Int).boxed(),
        Type::Float4 => proptest::num::f32::NORMAL
            .prop_map(|value| Value::Float(value.into()))
            .boxed(),
        Type::Float8 => proptest::num::f64::NORMAL.prop_map(Value::Float).boxed(),
        Type::Numeric => "-?[1-9][0-9]{0,30}(\\.[0-9]{1,30})?"
            .prop_map(|digits| Value::Numeric(digits.into()))
            .boxed(),
        Type::Text => text().prop_map(Value::Text).boxed(),
        Type::Uuid => any::<[u8; 16]>().prop_map(Value::Uuid).boxed(),
        Type::Date => (-719_162..2_932_896).prop_map(Value::Date).boxed(),
        Type::Timestamptz => (-62_135_596_800_000_000..253_402_300_800_000_000_i64)
            .prop_map(Value::Timestamptz)
            .boxed(),
        Type::Jsonb => prop_oneof![Just("{\"a\": [1, 2.50]}"), Just("[]"), Just("\"\\u00e9\"")]
            .prop_map(|json| Value::Jsonb(json.into()))
            .boxed(),
        Type::Enum(labels) => proptest::sample::select(labels.to_vec())
            .prop_map(Value::Text)
            .boxed(),
        Type::Array(kind) => {
            let element = prop_oneof![9 => value(kind), 1 => Just(Value::Null)];
            proptest::collection::vec(element, 0..4)
                .prop_map(|values| Value::Array(values.into()))
                .boxed()
        }
    }
}

fn row() -> impl Strategy<Value = Vec<Value>> {
    let cell = |(_, kind, not_null): &(&str, &str, bool)| {
        let value = value(&Type::parse(kind).unwrap());
        match not_null {
            true => value,
            false => prop_oneof![9 => value, 1 => Just(Value::Null)].boxed(),
        }
    };
    COLUMNS.iter().map(cell).collect::<Vec<_>>()
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(rows in proptest::collection::vec(row(), 1..4)) {
        let feed = Feed { row_bytes_max: 1 << 20, ..feed() };
        let mut body = Vec::new();
        for values in &rows {
            write_row(&feed.columns, values, |_| true, &mut body);
            body.push(b'\n');
        }
        let parsed = Reader::new(&feed, Operation::Insert).read(Format::Ndjson, &body, 0).unwrap();
        prop_assert_eq!(&parsed.rejected, &[]);
        let read: Vec<_> = parsed.chunks[0].table.rows().map(<[Value]>::to_vec).collect();
        prop_assert_eq!(read, rows);
    }

    #[test]
    fn random_bytes_never_panic(body in any::<Vec<u8>>()) {
        for format in [Format::Json, Format::Ndjson] {
            let _ = Reader::new(&feed(), Operation::Update).read(format, &body, 0);
        }
    }

    #[test]
    fn broken_rows_never_panic(
        row in row(), cuts in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let feed = feed();
        let mut body = b"[".to_vec();
        write_row(&feed.columns, &row, |_| true, &mut body);
        body.push(b']');
        for (at, byte) in cuts {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Ok(parsed) = Reader::new(&feed, Operation::Insert).read(Format::Json, &body, 0) {
            let n_good: usize = parsed.chunks.iter().map(|chunk| chunk.numbers.len()).sum();
            prop_assert_eq!(n_good as u64 + parsed.n_rejected, parsed.n_rows);
        }
    }
}
