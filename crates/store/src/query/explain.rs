//! What the database would do for each query, and what of that will hurt as the tables grow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;
use serde_json::Value as Json;

use super::{
    declaration::Sound,
    page::{self, Part},
};
use crate::{
    database::Database,
    error::{Error, Result},
    kind::Kind,
    select::Select,
    transaction::Row,
    value::{Type, Value},
};

/// Something about a query that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The query.
    pub query: String,
    /// `broken`, `sequential_scan` or `sort`; stable.
    pub code: &'static str,
    /// The table, where one is at fault.
    pub table: Option<String>,
    /// What is wrong and what to do, for people.
    pub message: String,
}

/// Smaller tables are read as a whole faster than by an index.
const BIG_TABLE_ROWS: f64 = 10_000.0;
/// Sorting fewer rows than this for a page is no matter.
const BIG_SORT_ROWS: f64 = 1_000.0;

impl Finding {
    pub(super) fn broken(query: &str, error: &Error) -> Self {
        Self {
            query: query.to_owned(),
            code: "broken",
            table: None,
            message: error.to_string(),
        }
    }
}

/// Looks at the plan of a query's next page, or of its whole answer.
pub(super) async fn check(database: &Database, sound: &Sound) -> Result<Vec<Finding>> {
    let sql = page::text(sound, Part::Next, sound.query.rows_max.min(100));
    let n_params = sound.text.params.len() + sound.query.page.len();
    match database.kind() {
        Kind::Postgres => postgres(database, sound, &sql, n_params).await,
        Kind::Sqlite => sqlite(database, sound, &sql, n_params).await,
    }
}

async fn postgres(database: &Database, sound: &Sound, sql: &str, n_params: usize) -> Result<Vec<Finding>> {
    let plan = match generic_plan(database, sql, n_params).await {
        Ok(plan) => plan,
        Err(error) if error.is_retryable() => return Err(error),
        Err(error) => return Ok(vec![Finding::broken(&sound.query.name, &error)]),
    };
    let mut scans = Vec::new();
    collect(&plan, "Seq Scan", &mut |node| scans.push(relation(node)));
    let mut findings = Vec::new();
    for (schema, table) in scans {
        let rows = table_rows(database, &schema, &table).await?;
        if rows >= BIG_TABLE_ROWS {
            findings.push(scan(sound, &table, &format!("{rows:.0} rows")));
        }
    }
    let mut sorted = 0.0_f64;
    collect(&plan, "Sort", &mut |node| {
        sorted = sorted.max(node["Plans"][0]["Plan Rows"].as_f64().unwrap_or(0.0));
    });
    if !sound.query.page.is_empty() && sorted >= BIG_SORT_ROWS {
        findings.push(sort(sound, &format!("about {sorted:.0} rows")));
    }
    Ok(findings)
}

/// The plan for unknown values, which is what a declared query gets in the long run; on every version by a prepared
/// statement, since `GENERIC_PLAN` is there from 16 on.
async fn generic_plan(database: &Database, sql: &str, n_params: usize) -> Result<Json> {
    // A prepared statement outlives its transaction: should one ever be left behind, its name is in nobody's way.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = format!("tidegate_check_{}", NEXT.fetch_add(1, Relaxed));
    let values = match n_params {
        0 => String::new(),
        _ => format!("({})", vec!["NULL"; n_params].join(", ")),
    };
    let prepare =
        format!("SET LOCAL plan_cache_mode = force_generic_plan;PREPARE {name} AS {sql};SAVEPOINT explained");
    let execute = format!("EXPLAIN (FORMAT JSON, VERBOSE) EXECUTE {name}{values}");
    let forget = format!("ROLLBACK TO explained;DEALLOCATE {name}");
    let rows = database
        .read(async |tx| {
            tx.batch(&prepare).await?;
            let rows = tx.query(&execute, &[]).await;
            tx.batch(&forget).await?;
            rows
        })
        .await?;
    match rows.into_iter().flat_map(Row::into_values).next() {
        Some(Value::Jsonb(text)) => Ok(serde_json::from_str(&text).unwrap_or_default()),
        _ => Ok(Json::Null),
    }
}

async fn table_rows(database: &Database, schema: &str, table: &str) -> Result<f64> {
    let sql = "SELECT c.reltuples::float8 FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1::text AND c.relname = $2::text";
    let params = [Value::Text(schema.into()), Value::Text(table.into())];
    let rows = database
        .select(Select::new(sql, &params))
        .await?
        .collect()
        .await?;
    match rows.into_iter().flatten().next() {
        Some(Value::Float(rows)) => Ok(rows),
        _ => Ok(0.0),
    }
}

async fn sqlite(database: &Database, sound: &Sound, sql: &str, n_params: usize) -> Result<Vec<Finding>> {
    let returns = [
        ("id", Type::Int8),
        ("parent", Type::Int8),
        ("notused", Type::Int8),
        ("detail", Type::Text),
    ];
    let returns = returns.map(|(name, kind)| (name.to_owned(), kind));
    let explain = format!("EXPLAIN QUERY PLAN {sql}");
    let params = vec![Value::Null; n_params];
    let select = Select {
        returns: &returns,
        ..Select::new(&explain, &params)
    };
    let mut findings = Vec::new();
    for row in database.select(select).await?.collect().await? {
        let Some(Value::Text(detail)) = row.last() else {
            continue;
        };
        if let Some(table) = detail
            .strip_prefix("SCAN ")
            .filter(|rest| !rest.contains(" USING "))
        {
            findings.push(scan(sound, table.split(' ').next().unwrap_or(table), "all rows"));
        } else if detail.contains("TEMP B-TREE FOR ORDER BY") && !sound.query.page.is_empty() {
            findings.push(sort(sound, "all its rows"));
        }
    }
    Ok(findings)
}

fn scan(sound: &Sound, table: &str, rows: &str) -> Finding {
    Finding {
        query: sound.query.name.clone(),
        code: "sequential_scan",
        table: Some(table.to_owned()),
        message: format!(
            "reads table {table} from end to end ({rows}){}",
            advice(sound, table)
        ),
    }
}

fn sort(sound: &Sound, rows: &str) -> Finding {
    let table = sound.outline.as_ref().and_then(|outline| outline.tables.first());
    let table = table.and_then(|table| table.path.last()).cloned();
    Finding {
        message: format!(
            "sorts {rows} for each page{}",
            table
                .as_deref()
                .map(|table| advice(sound, table))
                .unwrap_or_default()
        ),
        query: sound.query.name.clone(),
        code: "sort",
        table,
    }
}

/// The index that would serve the pages, for queries over one table.
fn advice(sound: &Sound, table: &str) -> String {
    match sound
        .outline
        .as_ref()
        .and_then(|outline| outline.index(&sound.query.page))
    {
        Some(columns) => format!(
            ": an index on {table} ({}) would serve its pages",
            columns.join(", ")
        ),
        None => String::new(),
    }
}

/// Calls `found` for each node of this type.
fn collect(plan: &Json, kind: &str, found: &mut impl FnMut(&Json)) {
    match plan {
        Json::Array(parts) => parts.iter().for_each(|part| collect(part, kind, found)),
        Json::Object(node) => {
            if node.get("Node Type").and_then(Json::as_str) == Some(kind) {
                found(plan);
            }
            ["Plan", "Plans"]
                .iter()
                .filter_map(|part| node.get(*part))
                .for_each(|part| collect(part, kind, found));
        }
        _ => {}
    }
}

fn relation(node: &Json) -> (String, String) {
    let text = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
    (text("Schema"), text("Relation Name"))
}
