//! The table behind a feed as it really is: whether the feed fits it, and how its values travel.

use tokio_postgres::types::{Kind, Type as PgType};

use super::encode::Wire;
use crate::backend::postgres::Connection;
use crate::error::{Error, Result};
use crate::feed::{Feed, OnConflict};
use crate::ingest::backend::Plan;
use crate::schema::sql::{quote, quote_all, table};
use crate::value::Type;

/// A feed's table, found to fit the feed.
#[derive(Debug)]
pub(super) struct Live {
    /// How each column of the feed travels.
    pub(super) wires: Vec<Wire>,
    /// The SQL name of each column's type.
    pub(super) types: Vec<String>,
    /// Whether all columns can travel as one array each.
    pub(super) has_arrays: bool,
}

const TABLE: &str = "SELECT c.oid, c.relkind::text, has_any_column_privilege(c.oid, 'INSERT'), \
     has_any_column_privilege(c.oid, 'UPDATE'), has_any_column_privilege(c.oid, 'SELECT'), \
     has_table_privilege(c.oid, 'DELETE'), has_database_privilege(current_database(), 'TEMPORARY') \
     FROM pg_class AS c WHERE c.oid = to_regclass($1)";

const COLUMNS: &str = "SELECT attname::text, format_type(atttypid, -1), attnotnull, \
     atthasdef OR attidentity <> '', attgenerated <> '' OR attidentity = 'a' \
     FROM pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped";

/// The column sets by which rows are unique, as `ON CONFLICT` can use them.
const UNIQUE: &str = "SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k(n, at) \
     JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.n WHERE k.at <= i.indnkeyatts) \
     FROM pg_index AS i WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate \
     AND i.indpred IS NULL AND i.indexprs IS NULL";

struct LiveColumn {
    name: String,
    kind: String,
    not_null: bool,
    has_default: bool,
    is_generated: bool,
}

impl Live {
    /// Looks at the table of `plan`. Call it inside a transaction, so that it works through a pooler.
    pub(super) async fn load(connection: &Connection, plan: &Plan) -> Result<Self> {
        let feed = &plan.feed;
        let refuse = |problems: Vec<String>| Error::Config {
            what: format!("feed {}", feed.name),
            problem: format!("table {}: {}", feed.table, problems.join("; ")),
        };
        let client = connection.client();
        let failed = |error| connection.error(error);
        let name = table(&feed.table);
        let found = client
            .query_typed(TABLE, &[(&name, PgType::TEXT)])
            .await
            .map_err(failed)?;
        let Some(found) = found.first() else {
            return Err(refuse(vec!["does not exist".to_owned()]));
        };
        let oid: u32 = found.get(0);
        let mut problems = check_table(feed, found);
        let columns = client
            .query_typed(COLUMNS, &[(&oid, PgType::OID)])
            .await
            .map_err(failed)?;
        let columns: Vec<LiveColumn> = columns
            .iter()
            .map(|row| LiveColumn {
                name: row.get(0),
                kind: row.get(1),
                not_null: row.get(2),
                has_default: row.get(3),
                is_generated: row.get(4),
            })
            .collect();
        problems.extend(check_columns(feed, &columns));
        if !feed.key.is_empty() {
            let unique = client
                .query_typed(UNIQUE, &[(&oid, PgType::OID)])
                .await
                .map_err(failed)?;
            problems.extend(check_key(feed, unique.iter().map(|row| row.get(0))));
        }
        if !problems.is_empty() {
            return Err(refuse(problems));
        }
        let names = quote_all(feed.columns.iter().map(|column| column.name.as_str()));
        let probe = format!("SELECT {names} FROM {name} WHERE false");
        let statement = client.prepare(&probe).await.map_err(failed)?;
        let kinds: Vec<&PgType> = statement
            .columns()
            .iter()
            .map(tokio_postgres::Column::type_)
            .collect();
        let mismatched = check_types(feed, &kinds);
        if !mismatched.is_empty() {
            return Err(refuse(mismatched));
        }
        let type_of = |name: &String| {
            let column = columns.iter().find(|column| column.name == *name);
            column.map(|column| column.kind.clone()).unwrap_or_default()
        };
        Ok(Self {
            wires: kinds.iter().map(|kind| Wire::of(kind)).collect(),
            types: feed.columns.iter().map(|column| type_of(&column.name)).collect(),
            has_arrays: feed
                .columns
                .iter()
                .any(|column| matches!(column.kind, Type::Array(_))),
        })
    }
}

fn check_table(feed: &Feed, found: &tokio_postgres::Row) -> Vec<String> {
    let kind: &str = found.get(1);
    if !matches!(kind, "r" | "p") {
        return vec!["is not a table".to_owned()];
    }
    let reads = !feed.key.is_empty() || !feed.rollups.is_empty();
    let needs = [
        (2, "INSERT", true),
        (3, "UPDATE", feed.on_conflict == OnConflict::Update),
        (4, "SELECT", reads),
        (6, "TEMPORARY on the database", reads),
    ];
    let lacks = needs
        .iter()
        .filter(|(at, _, is_needed)| *is_needed && !found.get::<_, bool>(*at));
    let lacks: Vec<&str> = lacks.map(|(_, privilege, _)| *privilege).collect();
    match lacks.is_empty() {
        true => Vec::new(),
        false => vec![format!("the role lacks the privilege {}", lacks.join(", "))],
    }
}

fn check_columns(feed: &Feed, columns: &[LiveColumn]) -> Vec<String> {
    let mut problems = Vec::new();
    for declared in &feed.columns {
        let Some(column) = columns.iter().find(|column| column.name == declared.name) else {
            problems.push(format!("column {} does not exist", quote(&declared.name)));
            continue;
        };
        let name = quote(&column.name);
        if column.is_generated {
            problems.push(format!("column {name} is generated and takes no values"));
        }
        let takes_null = !declared.not_null && !feed.key.contains(&declared.name);
        if column.not_null && takes_null {
            problems.push(format!("column {name} is NOT NULL: declare it so in the feed"));
        }
    }
    let others = columns
        .iter()
        .filter(|column| feed.column(&column.name).is_none());
    for column in others.filter(|column| column.not_null && !column.has_default && !column.is_generated) {
        let name = quote(&column.name);
        problems.push(format!(
            "column {name} is NOT NULL without a default and not in the feed"
        ));
    }
    problems
}

fn check_key(feed: &Feed, unique: impl IntoIterator<Item = Vec<String>>) -> Option<String> {
    let mut key: Vec<&str> = feed.key.iter().map(String::as_str).collect();
    key.sort_unstable();
    let is_key = |columns: Vec<String>| {
        let mut columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        columns.sort_unstable();
        columns == key
    };
    match unique.into_iter().any(is_key) {
        true => None,
        false => Some(format!(
            "no unique index on exactly the key ({})",
            feed.key.join(", ")
        )),
    }
}

fn check_types(feed: &Feed, kinds: &[&PgType]) -> Vec<String> {
    let pairs = feed.columns.iter().zip(kinds);
    let wrong = pairs.filter(|(column, kind)| !fits(&column.kind, kind));
    wrong
        .map(|(column, kind)| {
            let name = quote(&column.name);
            format!("column {name} is {}, the feed says {}", kind.name(), column.kind)
        })
        .collect()
}

/// Whether every value of `declared` can be put into a column of `kind`.
fn fits(declared: &Type, kind: &PgType) -> bool {
    match kind.kind() {
        Kind::Domain(inner) => return fits(declared, inner),
        Kind::Enum(labels) => {
            return match declared {
                Type::Enum(words) => words
                    .iter()
                    .all(|word| labels.iter().any(|label| **label == **word)),
                _ => false,
            };
        }
        Kind::Array(element) => {
            return matches!(declared, Type::Array(declared) if fits(declared, element));
        }
        _ => {}
    }
    let is_text = matches!(*kind, PgType::TEXT | PgType::VARCHAR | PgType::BPCHAR);
    match declared {
        Type::Bool => *kind == PgType::BOOL,
        Type::Int2 => matches!(
            *kind,
            PgType::INT2 | PgType::INT4 | PgType::INT8 | PgType::NUMERIC
        ),
        Type::Int4 => matches!(*kind, PgType::INT4 | PgType::INT8 | PgType::NUMERIC),
        Type::Int8 => matches!(*kind, PgType::INT8 | PgType::NUMERIC),
        Type::Float4 => matches!(*kind, PgType::FLOAT4 | PgType::FLOAT8),
        Type::Float8 => *kind == PgType::FLOAT8,
        Type::Numeric => *kind == PgType::NUMERIC,
        Type::Text | Type::Enum(_) => is_text,
        Type::Uuid => *kind == PgType::UUID,
        Type::Date => *kind == PgType::DATE,
        Type::Timestamptz => *kind == PgType::TIMESTAMPTZ,
        Type::Jsonb => matches!(*kind, PgType::JSONB | PgType::JSON),
        Type::Array(_) => false,
    }
}
