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
    /// The plan with the roll-ups that ingest fills, where TimescaleDB keeps others as continuous aggregates: adding to
    /// those would count rows twice.
    pub(super) plan: Option<Plan>,
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

/// What the tables of the roll-ups in `$1` are, in order; null for one that is not there.
const SHAPES: &str = "SELECT (SELECT c.relkind::text FROM pg_class AS c WHERE c.oid = to_regclass(n.name)) \
     FROM unnest($1::text[]) WITH ORDINALITY AS n(name, at) ORDER BY n.at";

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
        let columns = read_columns(connection, oid).await?;
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
        let shapes = read_shapes(connection, feed).await?;
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
            plan: plan_of_ours(plan, &shapes),
        })
    }
}

async fn read_columns(connection: &Connection, oid: u32) -> Result<Vec<LiveColumn>> {
    let rows = connection
        .client()
        .query_typed(COLUMNS, &[(&oid, PgType::OID)])
        .await;
    let rows = rows.map_err(|error| connection.error(error))?;
    let column = |row: &tokio_postgres::Row| LiveColumn {
        name: row.get(0),
        kind: row.get(1),
        not_null: row.get(2),
        has_default: row.get(3),
        is_generated: row.get(4),
    };
    Ok(rows.iter().map(column).collect())
}

async fn read_shapes(connection: &Connection, feed: &Feed) -> Result<Vec<Option<String>>> {
    if feed.rollups.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = feed.rollups.iter().map(|rollup| table(&rollup.table)).collect();
    let rows = connection
        .client()
        .query_typed(SHAPES, &[(&names, PgType::TEXT_ARRAY)])
        .await;
    let rows = rows.map_err(|error| connection.error(error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The plan without the roll-ups whose tables are views, as continuous aggregates are; none if all are ours. One whose
/// table is missing is ours: its rows must not be lost silently.
fn plan_of_ours(plan: &Plan, shapes: &[Option<String>]) -> Option<Plan> {
    let is_ours = |shape: &Option<String>| !matches!(shape.as_deref(), Some("v" | "m"));
    if shapes.iter().all(is_ours) {
        return None;
    }
    let pairs = plan.feed.rollups.iter().zip(shapes);
    let ours = pairs.filter(|(_, shape)| is_ours(shape));
    let feed = Feed {
        rollups: ours.map(|(rollup, _)| rollup.clone()).collect(),
        ..plan.feed.clone()
    };
    Some(Plan {
        feed,
        version: plan.version,
        key: plan.key.clone(),
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{Aggregate, Measure, Operation, Rollup};
    use crate::ingest::postgres::sql::{Source, Writer};
    use crate::schema::timescale::Timescale;

    fn plan() -> Plan {
        let rollup = |name: &str| Rollup {
            name: name.to_owned(),
            table: format!("ticks_{name}"),
            group: vec!["symbol".to_owned()],
            bucket: None,
            measures: vec![Measure {
                how: Aggregate::Count,
                column: None,
                into: "n".to_owned(),
            }],
        };
        let mut feed = crate::ingest::testing::feed("symbol:text price:float8", OnConflict::Error);
        feed.rollups = vec![rollup("minute"), rollup("day")];
        Plan::new(feed).unwrap()
    }

    #[test]
    fn a_continuous_aggregate_is_not_added_to() {
        // What TimescaleDB makes of a roll-up is a view over its own tables; `Timescale::keeps` decides where it does.
        assert!(!Timescale::Absent.keeps(&plan().feed, &plan().feed.rollups[0]));
        let check = |shapes: [Option<&str>; 2], added: [bool; 2]| {
            let whole = plan();
            let shapes = shapes.map(|shape| shape.map(str::to_owned));
            let ours = plan_of_ours(&whole, &shapes);
            let types = ["text".to_owned(), "float8".to_owned()];
            let writer = Writer {
                plan: ours.as_ref().unwrap_or(&whole),
                types: &types,
            };
            let sql = writer.store(Operation::Insert, Source::QuickArrays);
            for (table, is_added) in ["ticks_minute", "ticks_day"].iter().zip(added) {
                assert_eq!(sql.contains(table), is_added, "{table} in {sql}");
            }
            assert_eq!(
                writer.plan.version, whole.version,
                "claims and staging tables stay the same"
            );
        };
        check([Some("r"), Some("p")], [true, true]);
        check([Some("v"), Some("r")], [false, true]);
        check([Some("v"), Some("v")], [false, false]);
        check([None, Some("m")], [true, false]);
    }
}
