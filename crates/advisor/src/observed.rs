//! Statements that were seen at work, and where they come from.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::Client;

use crate::error::{Error, Result};

/// A statement that was seen at work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statement {
    /// Its text, with `$1`, `$2`, … for parameters.
    pub sql: String,
    /// How often it ran.
    pub calls: u64,
    /// Mean time of a call, milliseconds.
    pub mean_ms: f64,
    /// Rows of all calls.
    #[serde(default)]
    pub rows: u64,
    /// Example values of its parameters, as text; empty when none are known.
    #[serde(default)]
    pub params: Vec<Option<String>>,
}

impl Statement {
    /// Time of all calls, milliseconds.
    pub fn total_ms(&self) -> f64 {
        self.calls as f64 * self.mean_ms
    }
}

/// Reads what a running server answers under `/api/performance/database/statements`: an array, or an object with the
/// array in `items`; each with `text` (or `sql`), `calls`, `rows` and the mean in `mean_ms` or `total.mean_ms`.
///
/// # Errors
/// The text is not JSON of that form.
pub fn from_server(text: &str) -> Result<Vec<Statement>> {
    let wrong = |problem: &str| Error::Observed(problem.to_owned());
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
    let array = value.as_array().or_else(|| value.get("items")?.as_array());
    let array = array.ok_or_else(|| wrong("there is no array, and none in `items`"))?;
    array
        .iter()
        .map(|entry| statement(entry).ok_or_else(|| wrong("an entry lacks its text, calls or mean_ms")))
        .collect()
}

fn statement(entry: &Value) -> Option<Statement> {
    let sql = entry.get("sql").or_else(|| entry.get("text"))?.as_str()?;
    let mean = entry
        .get("mean_ms")
        .or_else(|| entry.get("total")?.get("mean_ms"))?;
    let params = entry
        .get("params")
        .and_then(|params| serde_json::from_value(params.clone()).ok());
    Some(Statement {
        sql: sql.to_owned(),
        calls: entry.get("calls")?.as_u64()?,
        mean_ms: mean.as_f64()?,
        rows: entry.get("rows").and_then(Value::as_u64).unwrap_or_default(),
        params: params.unwrap_or_default(),
    })
}

/// Reads the `limit` statements of this database with the most time from `pg_stat_statements`.
///
/// # Errors
/// The extension is not installed in this database or not loaded by the server, or may not be read.
///
/// # Cancel safety
/// Safe: it only reads.
pub async fn from_database(client: &Client, limit: i64) -> Result<Vec<Statement>> {
    let sql =
        "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
               WHERE e.extname = 'pg_stat_statements'";
    let schema = client
        .query_opt(sql, &[])
        .await
        .map_err(Error::database("looking for pg_stat_statements"))?;
    let schema = schema.ok_or_else(|| {
        Error::Observed("the extension pg_stat_statements is not installed in this database".to_owned())
    })?;
    let schema: String = schema.get(0);
    let sql = format!(
        "SELECT query, sum(calls)::int8, (sum(total_exec_time) / greatest(sum(calls), 1))::float8, sum(rows)::int8
         FROM {schema}.pg_stat_statements
         WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query ~* '^\\s*(select|with|update|delete)'
         GROUP BY query ORDER BY sum(total_exec_time) DESC LIMIT $1"
    );
    let rows = client.query(&sql, &[&limit]).await;
    let rows = rows.map_err(Error::database("reading pg_stat_statements"))?;
    let statement = |row: &tokio_postgres::Row| Statement {
        sql: row.get(0),
        calls: u64::try_from(row.get::<_, i64>(1)).unwrap_or_default(),
        mean_ms: row.get(2),
        rows: u64::try_from(row.get::<_, i64>(3)).unwrap_or_default(),
        params: Vec::new(),
    };
    Ok(rows.iter().map(statement).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_answers_is_read() {
        let text = r#"{"ok": true, "items": [
            {"text": "select 1", "calls": 3, "rows": 3, "total": {"mean_ms": 1.5, "max_ms": 2}},
            {"sql": "select $1", "calls": 1, "mean_ms": 2, "params": ["x", null]}]}"#;
        let statements = from_server(text).unwrap();
        assert_eq!(statements[0].total_ms(), 4.5);
        assert_eq!(statements[1].params, [Some("x".to_owned()), None]);
    }

    #[test]
    fn another_answer_is_refused() {
        let check = |text, expected: &str| {
            let error = from_server(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("<html>", "expected value");
        check("{}", "no array");
        check("[{\"calls\": 1}]", "lacks its text");
    }
}
