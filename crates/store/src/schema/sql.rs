//! Names, literals and types as the two databases write them.

use std::fmt::Write as _;

use crate::{
    error::{Error, Result},
    kind::Kind,
    value::Type,
};

/// PostgreSQL cuts longer names silently, and two cut names may be one.
pub const NAME_BYTES_MAX: usize = 63;

/// Monday, 3 January 2000, 00:00 UTC: buckets and partitions are counted from here, so that weeks begin on Mondays.
pub(crate) const ORIGIN_MICROS: i64 = 946_857_600_000_000;
/// The same in days since 1970-01-01.
pub(crate) const ORIGIN_DAYS: i64 = 10_959;

/// A table's name, possibly with its schema.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Relation {
    /// Its schema, if one was written.
    pub schema: Option<String>,
    /// Its name.
    pub name: String,
}

/// `name` in double quotes: every name means exactly what was written, whatever it contains.
#[must_use]
pub fn quote(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    for c in name.chars() {
        if c == '"' {
            quoted.push('"');
        }
        quoted.push(c);
    }
    quoted.push('"');
    quoted
}

/// Names in double quotes, with commas between them.
#[must_use]
pub fn quote_all<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(quote).collect::<Vec<_>>().join(", ")
}

/// `text` as a string literal.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The quoted name of a table such as `ticks` or `market.ticks`.
#[must_use]
pub fn table(name: &str) -> String {
    match name.split_once('.') {
        Some((schema, name)) => format!("{}.{}", quote(schema), quote(name)),
        None => quote(name),
    }
}

/// Refuses an empty name, one that is too long, and one with a NUL.
///
/// # Errors
/// [`Error::Config`] naming `what` and the limit.
pub fn check_name(what: &str, name: &str) -> Result<()> {
    let problem = match name {
        "" => "a name is missing".to_owned(),
        name if name.len() > NAME_BYTES_MAX => {
            format!(
                "the name {name:?} has {} bytes, at most {NAME_BYTES_MAX}",
                name.len()
            )
        }
        name if name.contains('\0') => format!("the name {name:?} contains NUL"),
        _ => return Ok(()),
    };
    Err(Error::Config {
        what: what.to_owned(),
        problem,
    })
}

/// The type of a column on PostgreSQL.
#[must_use]
pub fn postgres_type(kind: &Type) -> String {
    match kind {
        Type::Enum(_) => "text".to_owned(),
        Type::Array(element) => format!("{}[]", postgres_type(element)),
        kind => kind.to_string(),
    }
}

/// The type of a column on SQLite: timestamps are microseconds and dates days since 1970-01-01 (UTC), booleans 0 and 1;
/// numeric (its digits), uuid (lower case), jsonb and arrays (JSON) are text.
#[must_use]
pub const fn sqlite_type(kind: &Type) -> &'static str {
    match kind {
        Type::Bool | Type::Int2 | Type::Int4 | Type::Int8 | Type::Date | Type::Timestamptz => "INTEGER",
        Type::Float4 | Type::Float8 => "REAL",
        Type::Numeric | Type::Text | Type::Uuid | Type::Jsonb | Type::Enum(_) | Type::Array(_) => "TEXT",
    }
}

/// The type of a column on a database of this kind.
#[must_use]
pub fn column_type(database: Kind, kind: &Type) -> String {
    match database {
        Kind::Postgres => postgres_type(kind),
        Kind::Sqlite => sqlite_type(kind).to_owned(),
    }
}

/// What the database itself shall check of a managed column, beyond its type.
#[must_use]
pub fn column_check(database: Kind, name: &str, kind: &Type) -> Option<String> {
    let column = quote(name);
    match (database, kind) {
        (_, Type::Enum(labels)) => Some(format!("{column} IN ({})", labels_list(labels))),
        (Kind::Postgres, Type::Array(element)) => match &**element {
            Type::Enum(labels) => Some(format!("{column} <@ ARRAY[{}]::text[]", labels_list(labels))),
            _ => None,
        },
        (Kind::Sqlite, Type::Bool) => Some(format!("{column} IN (0, 1)")),
        (Kind::Sqlite, Type::Int2) => Some(format!("{column} BETWEEN -32768 AND 32767")),
        (Kind::Sqlite, Type::Int4) => Some(format!("{column} BETWEEN -2147483648 AND 2147483647")),
        (Kind::Sqlite, Type::Jsonb | Type::Array(_)) => Some(format!("json_valid({column})")),
        _ => None,
    }
}

fn labels_list(labels: &[Box<str>]) -> String {
    labels
        .iter()
        .map(|label| literal(label))
        .collect::<Vec<_>>()
        .join(", ")
}

/// One column of a `CREATE TABLE`.
pub(crate) fn column_definition(database: Kind, name: &str, kind: &Type, not_null: bool) -> String {
    let mut text = format!("{} {}", quote(name), column_type(database, kind));
    if not_null {
        text.push_str(" NOT NULL");
    }
    if let Some(check) = column_check(database, name, kind) {
        let _ = write!(text, " CHECK ({check})");
    }
    text
}

/// `stem` and `end` as one name: a stem that is too long is cut and told apart by a checksum of the whole.
pub(crate) fn derived_name(stem: &str, end: &str) -> String {
    if stem.len() + end.len() <= NAME_BYTES_MAX {
        return format!("{stem}{end}");
    }
    let mark = format!("_{:08x}", fnv(stem.as_bytes()));
    let mut room = NAME_BYTES_MAX - end.len() - mark.len();
    while !stem.is_char_boundary(room) {
        room -= 1;
    }
    format!("{}{mark}{end}", &stem[..room])
}

/// FNV-1a: stable between builds and machines, as names in a database must be.
pub(crate) fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

// === impl Relation ===

impl Relation {
    /// Reads `ticks` or `market.ticks`.
    ///
    /// # Errors
    /// [`Error::Config`] for an empty or too long part and for more than two parts.
    pub fn parse(text: &str) -> Result<Self> {
        let what = format!("table {text:?}");
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        if name.contains('.') {
            return Err(Error::Config {
                what,
                problem: "write table or schema.table".to_owned(),
            });
        }
        check_name(&what, name)?;
        if let Some(schema) = schema {
            check_name(&what, schema)?;
        }
        Ok(Self {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    /// A table of the same schema.
    #[must_use]
    pub fn sibling(&self, name: String) -> Self {
        Self {
            schema: self.schema.clone(),
            name,
        }
    }

    /// Its quoted name.
    #[must_use]
    pub fn quoted(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quote(schema), quote(&self.name)),
            None => quote(&self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_was_written() {
        fn check(name: &str, expected: &str) {
            assert_eq!(table(name), expected, "{name}");
        }
        check("ticks", r#""ticks""#);
        check("market.ticks", r#""market"."ticks""#);
        check("Order", r#""Order""#);
        check(r#"a"; DROP TABLE b"#, r#""a""; DROP TABLE b""#);
    }

    #[test]
    fn relations_are_read_or_refused() {
        fn check(text: &str, expected: Option<&str>) {
            let quoted = Relation::parse(text).ok().map(|relation| relation.quoted());
            assert_eq!(quoted.as_deref(), expected, "{text}");
        }
        check("ticks", Some(r#""ticks""#));
        check("market.ticks", Some(r#""market"."ticks""#));
        check("", None);
        check("a.", None);
        check(".b", None);
        check("a.b.c", None);
        check(&"x".repeat(64), None);
    }

    #[test]
    fn derived_names_fit_and_differ() {
        let (a, b) = (format!("{}a", "订".repeat(20)), format!("{}b", "订".repeat(20)));
        let (first, second) = (derived_name(&a, "_p20250101"), derived_name(&b, "_p20250101"));
        assert!(first.len() <= NAME_BYTES_MAX && second.len() <= NAME_BYTES_MAX);
        assert_ne!(first, second);
        assert_eq!(derived_name("ticks", "_p20250101"), "ticks_p20250101");
    }

    #[test]
    fn literals_cannot_be_left() {
        assert_eq!(literal("a'b"), "'a''b'");
    }
}
