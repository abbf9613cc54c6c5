//! What is there: tables, columns, keys and partitions as the database's catalog tells them.

use std::collections::BTreeMap;

use crate::{
    error::Result,
    feed::Feed,
    kind::Kind,
    schema::{
        own,
        partition::{self, Range},
        session::{Session, is_true, number},
        sql::{Relation, literal},
        table,
        timescale::{DETECT_SQL, Timescale},
    },
    value::Type,
};

/// What the database says of the feeds' tables.
#[derive(Debug, Clone)]
pub struct Live {
    /// Which database it is.
    pub kind: Kind,
    /// The version of our own tables; 0: none.
    pub own: i32,
    /// What of TimescaleDB there is.
    pub timescale: Timescale,
    /// Tables of feeds and roll-ups that are there, by the name the feed gives them.
    pub tables: BTreeMap<String, Table>,
    /// Partitions by the feed's table.
    pub partitions: BTreeMap<String, Vec<Range>>,
    /// Roll-ups that were made, by table.
    pub rollups: BTreeMap<String, Made>,
}

/// A roll-up that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// What it was made of.
    pub definition: String,
    /// Whether it holds the rows that were there before it.
    pub is_complete: bool,
}

/// A table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// What it is.
    pub shape: Shape,
    /// Its columns, in order.
    pub columns: Vec<LiveColumn>,
    /// The columns of each unique, valid, total index; the primary key first.
    pub unique: Vec<Vec<String>>,
}

/// What a relation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A plain table.
    Table,
    /// A partitioned table.
    Partitioned,
    /// A view of any kind, which continuous aggregates are too.
    View,
    /// Something else, such as a foreign table.
    Other,
}

/// A column that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveColumn {
    /// Its name.
    pub name: String,
    /// Its type as the database writes it.
    pub type_name: String,
    /// Labels, if it is of an enum type (or an array of one) of the database.
    pub labels: Option<Vec<String>>,
    /// Whether it refuses null.
    pub not_null: bool,
    /// Whether a row may leave it out although it refuses null.
    pub has_default: bool,
}

/// Between names in one text: no name of ours contains it.
const SEPARATOR: char = '\u{1f}';

// === impl Live ===

impl Live {
    /// Reads what is there.
    ///
    /// # Errors
    /// What the database says.
    ///
    /// # Cancel safety
    /// It only reads.
    pub async fn read(session: Session<'_>, feeds: &[Feed]) -> Result<Self> {
        let kind = session.kind();
        let own = read_own(session).await?;
        let mut live = Self {
            kind,
            own,
            timescale: read_timescale(session).await?,
            tables: BTreeMap::new(),
            partitions: BTreeMap::new(),
            rollups: read_rollups(session, own).await?,
        };
        for feed in feeds {
            let rollups = feed.rollups.iter().map(|rollup| rollup.table.as_str());
            for name in std::iter::once(feed.table.as_str()).chain(rollups) {
                if let Some(table) = read_table(session, name).await? {
                    live.tables.insert(name.to_owned(), table);
                }
            }
            let shape = live.tables.get(&feed.table).map(|table| table.shape);
            if kind == Kind::Postgres && shape == Some(Shape::Partitioned) && feed.partition.is_some() {
                let ranges = read_partitions(session, feed).await?;
                live.partitions.insert(feed.table.clone(), ranges);
            }
        }
        Ok(live)
    }
}

async fn read_own(session: Session<'_>) -> Result<i32> {
    let kind = session.kind();
    if !session.is(own::is_there_sql(kind)).await? {
        return Ok(0);
    }
    let version = session.value(&own::read_version_sql(kind)).await?;
    Ok(version.and_then(|version| version.parse().ok()).unwrap_or(0))
}

async fn read_timescale(session: Session<'_>) -> Result<Timescale> {
    if session.kind() == Kind::Sqlite {
        return Ok(Timescale::Absent);
    }
    let rows = session.rows(DETECT_SQL).await?;
    Ok(rows.first().map_or(Timescale::Absent, |row| {
        Timescale::detected(is_true(row[0].as_deref()), row[2].as_deref())
    }))
}

async fn read_rollups(session: Session<'_>, own: i32) -> Result<BTreeMap<String, Made>> {
    if own == 0 {
        return Ok(BTreeMap::new());
    }
    let sql = format!(
        "SELECT name, definition, finished_at IS NOT NULL FROM {}",
        own::name(session.kind(), "rollup")
    );
    let rows = session.rows(&sql).await?;
    Ok(rows
        .into_iter()
        .filter_map(|mut row| {
            let is_complete = is_true(row[2].as_deref());
            let definition = row[1].take()?;
            Some((
                row[0].take()?,
                Made {
                    definition,
                    is_complete,
                },
            ))
        })
        .collect())
}

/// The partitions of a feed's table that have both bounds.
pub(crate) async fn read_partitions(session: Session<'_>, feed: &Feed) -> Result<Vec<Range>> {
    let rows = session.rows(&partition::existing_sql(feed)).await?;
    let range = |row: Vec<Option<String>>| {
        Some(Range {
            relation: Relation {
                schema: row[0].clone(),
                name: row[1].clone()?,
            },
            from: number(row[2].as_ref()).unwrap_or(i64::MIN),
            until: number(row[3].as_ref()).unwrap_or(i64::MAX),
        })
    };
    Ok(rows.into_iter().filter_map(range).collect())
}

async fn read_table(session: Session<'_>, name: &str) -> Result<Option<Table>> {
    match session.kind() {
        Kind::Postgres => read_postgres(session, name).await,
        Kind::Sqlite => read_sqlite(session, name).await,
    }
}

async fn read_postgres(session: Session<'_>, name: &str) -> Result<Option<Table>> {
    let oid = format!("to_regclass({})", literal(&crate::schema::sql::table(name)));
    let Some(relkind) = session
        .value(&format!("SELECT relkind FROM pg_class WHERE oid = {oid}"))
        .await?
    else {
        return Ok(None);
    };
    let columns = format!(
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), (SELECT string_agg(e.enumlabel, '{SEPARATOR}' \
         ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid IN (t.oid, t.typelem)), a.attnotnull, \
         a.atthasdef OR a.attidentity <> '' FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
         WHERE a.attrelid = {oid} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"
    );
    let unique = format!(
        "SELECT (SELECT string_agg(a.attname, '{SEPARATOR}' ORDER BY k.place) FROM unnest(i.indkey) WITH ORDINALITY AS \
         k (attnum, place) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
         WHERE k.place <= i.indnkeyatts) FROM pg_index i WHERE i.indrelid = {oid} AND i.indisunique AND i.indisvalid \
         AND i.indpred IS NULL AND i.indexprs IS NULL ORDER BY i.indisprimary DESC, i.indexrelid"
    );
    Ok(Some(Table {
        shape: match relkind.as_str() {
            "r" => Shape::Table,
            "p" => Shape::Partitioned,
            "v" | "m" => Shape::View,
            _ => Shape::Other,
        },
        columns: columns_of(session.rows(&columns).await?),
        unique: names_of(&session.rows(&unique).await?),
    }))
}

fn columns_of(rows: Vec<Vec<Option<String>>>) -> Vec<LiveColumn> {
    let column = |row: Vec<Option<String>>| LiveColumn {
        name: row[0].clone().unwrap_or_default(),
        type_name: row[1].clone().unwrap_or_default(),
        labels: row[2]
            .as_ref()
            .map(|labels| labels.split(SEPARATOR).map(str::to_owned).collect()),
        not_null: is_true(row[3].as_deref()),
        has_default: is_true(row[4].as_deref()),
    };
    rows.into_iter().map(column).collect()
}

fn names_of(rows: &[Vec<Option<String>>]) -> Vec<Vec<String>> {
    let names = |row: &Vec<Option<String>>| {
        row[0]
            .as_ref()
            .map(|names| names.split(SEPARATOR).map(str::to_owned).collect())
    };
    rows.iter().filter_map(names).collect()
}

async fn read_sqlite(session: Session<'_>, name: &str) -> Result<Option<Table>> {
    let name = literal(name.split_once('.').map_or(name, |(_, name)| name));
    let Some(kind) = session
        .value(&format!(
            "SELECT type FROM sqlite_schema WHERE name = {name} AND type IN ('table', 'view')"
        ))
        .await?
    else {
        return Ok(None);
    };
    let columns = format!(
        "SELECT name, type, NULL, \"notnull\" OR pk > 0, dflt_value IS NOT NULL FROM pragma_table_info({name})"
    );
    let unique = format!(
        "SELECT group_concat(i.name, char(31) ORDER BY i.seqno) FROM pragma_index_list({name}) AS l \
         JOIN pragma_index_info(l.name) AS i WHERE l.\"unique\" AND NOT l.partial GROUP BY l.name ORDER BY l.origin = 'pk' DESC"
    );
    let rowid = format!("SELECT name FROM pragma_table_info({name}) WHERE pk > 0 ORDER BY pk");
    let mut unique = names_of(&session.rows(&unique).await?);
    let primary: Vec<String> = names_of(&session.rows(&rowid).await?)
        .into_iter()
        .flatten()
        .collect();
    if !primary.is_empty() && !unique.contains(&primary) {
        // `INTEGER PRIMARY KEY` has no index of its own.
        unique.insert(0, primary);
    }
    Ok(Some(Table {
        shape: if kind == "table" {
            Shape::Table
        } else {
            Shape::View
        },
        columns: columns_of(session.rows(&columns).await?),
        unique,
    }))
}

// === impl Table ===

impl Table {
    /// The column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&LiveColumn> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether these columns, in any order, are unique.
    #[must_use]
    pub fn is_unique(&self, names: &[String]) -> bool {
        let same = |unique: &Vec<String>| {
            unique.len() == names.len() && unique.iter().all(|name| names.contains(name))
        };
        self.unique.iter().any(same)
    }
}

// === impl LiveColumn ===

impl LiveColumn {
    /// Whether values of `kind` can be stored in it as they are.
    #[must_use]
    pub fn fits(&self, database: Kind, kind: &Type) -> bool {
        match database {
            Kind::Sqlite => {
                let found = self.type_name.to_ascii_uppercase();
                let wanted = crate::schema::sql::sqlite_type(kind);
                found == wanted || (wanted == "INTEGER" && found == "INT") || found == "ANY"
            }
            Kind::Postgres => self.fits_postgres(kind),
        }
    }

    fn fits_postgres(&self, kind: &Type) -> bool {
        if let Type::Array(element) = kind {
            let Some(found) = self.type_name.strip_suffix("[]") else {
                return false;
            };
            let element_of = Self {
                type_name: found.to_owned(),
                ..self.clone()
            };
            return element_of.fits_postgres(element);
        }
        if let (Type::Enum(wanted), Some(found)) = (kind, &self.labels) {
            return wanted.len() == found.len()
                && wanted
                    .iter()
                    .all(|label| found.iter().any(|one| **label == **one));
        }
        // `numeric(12,2)` and `timestamp(3) with time zone` are what they are without their numbers.
        let found = match self.type_name.split_once('(') {
            Some((before, after)) => {
                format!("{before}{}", after.split_once(')').map_or("", |(_, rest)| rest))
            }
            None => self.type_name.clone(),
        };
        match kind {
            Type::Bool => found == "boolean",
            Type::Int2 => found == "smallint",
            Type::Int4 => found == "integer",
            Type::Int8 => found == "bigint",
            Type::Float4 => found == "real",
            Type::Float8 => found == "double precision",
            Type::Numeric => found == "numeric",
            Type::Text | Type::Enum(_) => found == "text" || found == "character varying",
            Type::Timestamptz => found == "timestamp with time zone",
            Type::Uuid | Type::Date | Type::Jsonb => found == kind.to_string(),
            Type::Array(_) => false,
        }
    }
}

/// What is wrong with a table that is there, for a feed: missing columns, other types, a key that is not unique, columns
/// that want a value and get none. Each text names the column.
#[must_use]
pub fn problems(database: Kind, feed: &Feed, found: &Table) -> Vec<Problem> {
    let mut problems = Vec::new();
    for column in &feed.columns {
        match found.column(&column.name) {
            None => problems.push(Problem::Missing(column.name.clone())),
            Some(there) if !there.fits(database, &column.kind) => problems.push(Problem::Type {
                column: column.name.clone(),
                declared: column.kind.to_string(),
                found: match &there.labels {
                    Some(labels) => format!("{} ({})", there.type_name, labels.join(", ")),
                    None => there.type_name.clone(),
                },
            }),
            Some(there) if there.not_null && table::is_nullable(feed, column) => {
                problems.push(Problem::RefusesNull(column.name.clone()));
            }
            Some(_) => {}
        }
    }
    let unfilled = found
        .columns
        .iter()
        .filter(|there| there.not_null && !there.has_default && feed.column(&there.name).is_none());
    problems.extend(unfilled.map(|there| Problem::Unfilled(there.name.clone())));
    if !feed.key.is_empty() && !found.is_unique(&feed.key) {
        problems.push(Problem::KeyNotUnique(feed.key.clone()));
    }
    problems
}

/// What is wrong with a table that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The feed has a column that the table has not.
    Missing(String),
    /// A column is of another type.
    Type {
        /// Its name.
        column: String,
        /// As the feed says.
        declared: String,
        /// As it is.
        found: String,
    },
    /// The column refuses null, the feed does not: such rows go to the dead letter.
    RefusesNull(String),
    /// A column outside the feed refuses null and has no default: every row would be refused.
    Unfilled(String),
    /// No unique index over the key.
    KeyNotUnique(Vec<String>),
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Missing(column) => write!(f, "column {column} is missing"),
            Self::Type {
                column,
                declared,
                found,
            } => write!(f, "column {column} is {found}, the feed says {declared}"),
            Self::RefusesNull(column) => write!(f, "column {column} refuses null, the feed allows it"),
            Self::Unfilled(column) => write!(f, "column {column} needs a value and is not in the feed"),
            Self::KeyNotUnique(key) => write!(f, "no unique index over the key ({})", key.join(", ")),
        }
    }
}

impl Problem {
    /// Whether rows cannot be stored because of it.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        !matches!(self, Self::RefusesNull(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_column_fits_its_declaration() {
        fn check(type_name: &str, labels: Option<&str>, kind: &str, expected: bool) {
            let column = LiveColumn {
                name: "c".to_owned(),
                type_name: type_name.to_owned(),
                labels: labels.map(|labels| labels.split(',').map(str::to_owned).collect()),
                not_null: false,
                has_default: false,
            };
            let kind = Type::parse(kind).unwrap();
            assert_eq!(
                column.fits(Kind::Postgres, &kind),
                expected,
                "{type_name} for {kind}"
            );
        }
        check("bigint", None, "int8", true);
        check("integer", None, "int8", false);
        check("numeric(12,2)", None, "numeric", true);
        check("timestamp(3) with time zone", None, "timestamptz", true);
        check("timestamp without time zone", None, "timestamptz", false);
        check("character varying(20)", None, "text", true);
        check("text", None, "enum(a,b)", true);
        check("side", Some("a,b"), "enum(b,a)", true);
        check("side", Some("a,b,c"), "enum(a,b)", false);
        check("text[]", None, "text[]", true);
        check("text", None, "text[]", false);
        check("side[]", Some("a,b"), "enum(a,b)[]", true);
    }
}
