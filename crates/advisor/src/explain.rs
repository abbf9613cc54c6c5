//! The plan of a statement, in short: how its tables are read, what it costs, and where the planner was wrong.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::{
    error::{Error, Result},
    name::literal,
};

/// Name of the prepared statement while it is explained.
const NAME: &str = "tidegate_advisor";
/// Planning alone takes milliseconds; more than this is a server in trouble.
const PLAN_TIMEOUT_MS: u128 = 5_000;
/// Deeper plans are cut; no statement of people has them.
const DEPTH_MAX: usize = 64;
/// A factor between rows expected and rows found from which the planner is said to be wrong.
const WRONG_FACTOR: f64 = 10.0;

/// Whether the statement runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is only planned.
    Plan,
    /// It runs, in a transaction that can only read, for at most this long; rows found are counted then.
    Analyze(Duration),
}

/// The plan of a statement, in short.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Cost until the last row, in the planner's units.
    pub cost: f64,
    /// Rows expected.
    pub rows: f64,
    /// Whether it was planned without knowing the parameters.
    pub is_generic: bool,
    /// Every node, the outermost first.
    pub nodes: Vec<Node>,
    /// Time it took, milliseconds, when it ran.
    pub ms: Option<f64>,
}

/// One step of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Node {
    /// As PostgreSQL calls it, such as `Index Only Scan`.
    pub kind: String,
    /// How many nodes stand above it.
    pub depth: usize,
    /// The table it reads.
    pub table: Option<String>,
    /// The index it reads.
    pub index: Option<String>,
    /// Condition by which rows are thrown away after they were read.
    pub filter: Option<String>,
    /// Cost until its last row.
    pub cost: f64,
    /// Rows expected of one run of it.
    pub rows: f64,
    /// Rows found in one run of it, when the statement ran.
    pub rows_found: Option<f64>,
}

impl Summary {
    /// The nodes that read a whole table.
    pub fn seq_scans(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.kind.ends_with("Seq Scan"))
    }

    /// Names of the indexes it reads.
    pub fn indexes(&self) -> Vec<&str> {
        self.nodes
            .iter()
            .filter_map(|node| node.index.as_deref())
            .collect()
    }

    /// The nodes where rows found and rows expected differ by a factor of ten or more; only of a statement that ran.
    pub fn misestimates(&self) -> impl Iterator<Item = &Node> {
        self.nodes
            .iter()
            .filter(|node| node.rows_found.is_some_and(|found| is_wrong(node.rows, found)))
    }

    /// Whether `rows_found`, counted elsewhere, is ten times more or fewer than expected.
    pub fn is_wrong_about(&self, rows_found: f64) -> bool {
        is_wrong(self.rows, rows_found)
    }
}

fn is_wrong(expected: f64, found: f64) -> bool {
    let (expected, found) = (expected.max(1.0), found.max(1.0));
    expected / found >= WRONG_FACTOR || found / expected >= WRONG_FACTOR
}

/// Explains a statement. `params` are its parameters as text; with none given for a statement that has some, the plan
/// is the generic one, which is right for every value and best for none.
///
/// # Errors
/// The statement is not one statement, names what is not there, cannot be explained, or takes too long.
///
/// # Cancel safety
/// A dropped call may leave a transaction open on `client`; roll it back before the next use.
pub async fn explain(client: &Client, sql: &str, params: &[Option<String>], mode: Mode) -> Result<Summary> {
    let ms = match mode {
        Mode::Plan => PLAN_TIMEOUT_MS,
        Mode::Analyze(timeout) => timeout.as_millis().max(1),
    };
    let begin = format!("BEGIN READ ONLY; SET LOCAL statement_timeout = {ms}");
    client
        .batch_execute(&begin)
        .await
        .map_err(Error::database("beginning a transaction"))?;
    let explained = explain_inside(client, sql, params, matches!(mode, Mode::Analyze(_))).await;
    client
        .batch_execute("ROLLBACK")
        .await
        .map_err(Error::database("ending a transaction"))?;
    if explained.is_err() {
        forget(client).await?;
    }
    explained
}

/// Explains inside an open transaction; an error leaves the transaction failed.
pub(crate) async fn explain_inside(
    client: &Client,
    sql: &str,
    params: &[Option<String>],
    analyze: bool,
) -> Result<Summary> {
    let failed = || Error::database("explaining a statement");
    // The server's own parser sees to it that this is one statement, before its text becomes a part of another.
    let prepared = client.prepare(sql).await.map_err(failed())?;
    let n_params = prepared.params().len();
    let options = if analyze {
        "ANALYZE, FORMAT JSON"
    } else {
        "FORMAT JSON"
    };
    let is_generic = n_params > 0 && params.len() != n_params;
    // A line end closes a comment at the end of the text.
    let text = if n_params == 0 {
        format!("EXPLAIN ({options}) {sql}\n")
    } else {
        let values: Vec<String> = (0..n_params)
            .map(|n| match params.get(n).filter(|_| !is_generic) {
                Some(Some(value)) => literal(value),
                _ => "NULL".to_owned(),
            })
            .collect();
        let mode = if is_generic {
            "force_generic_plan"
        } else {
            "force_custom_plan"
        };
        let values = values.join(", ");
        format!(
            "SET LOCAL plan_cache_mode = {mode}; PREPARE {NAME} AS {}\n; \
             EXPLAIN ({options}) EXECUTE {NAME}({values}); DEALLOCATE {NAME}",
            sql.trim_end().trim_end_matches(';')
        )
    };
    let messages = client.simple_query(&text).await.map_err(failed())?;
    let mut summary = read(&messages).ok_or_else(|| Error::Statement("its plan is not JSON".to_owned()))?;
    summary.is_generic = is_generic;
    Ok(summary)
}

/// Removes the prepared statement that a failed EXPLAIN left behind.
pub(crate) async fn forget(client: &Client) -> Result<()> {
    let sql = "SELECT count(*) FROM pg_prepared_statements WHERE name = $1";
    let row = client
        .query_one(sql, &[&NAME])
        .await
        .map_err(Error::database("tidying up"))?;
    if row.get::<_, i64>(0) == 0 {
        return Ok(());
    }
    let sql = format!("DEALLOCATE {NAME}");
    client
        .batch_execute(&sql)
        .await
        .map_err(Error::database("tidying up"))
}

fn read(messages: &[SimpleQueryMessage]) -> Option<Summary> {
    let text = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    })?;
    summary(&serde_json::from_str(text).ok()?)
}

fn summary(plans: &Value) -> Option<Summary> {
    let whole = plans.get(0)?;
    let top = whole.get("Plan")?;
    let mut nodes = Vec::new();
    collect(top, 0, &mut nodes);
    Some(Summary {
        cost: number(top, "Total Cost"),
        rows: number(top, "Plan Rows"),
        is_generic: false,
        nodes,
        ms: whole.get("Execution Time").and_then(Value::as_f64),
    })
}

fn collect(node: &Value, depth: usize, nodes: &mut Vec<Node>) {
    let text = |key: &str| node.get(key).and_then(Value::as_str).map(str::to_owned);
    nodes.push(Node {
        kind: text("Node Type").unwrap_or_default(),
        depth,
        table: text("Relation Name"),
        index: text("Index Name"),
        filter: text("Filter"),
        cost: number(node, "Total Cost"),
        rows: number(node, "Plan Rows"),
        rows_found: node.get("Actual Rows").and_then(Value::as_f64),
    });
    let below = node.get("Plans").and_then(Value::as_array);
    for child in below.into_iter().flatten().filter(|_| depth < DEPTH_MAX) {
        collect(child, depth + 1, nodes);
    }
}

fn number(node: &Value, key: &str) -> f64 {
    node.get(key).and_then(Value::as_f64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_read() {
        let plan = serde_json::json!([{"Plan": {"Node Type": "Aggregate", "Total Cost": 9.5, "Plan Rows": 1, "Plans": [
            {"Node Type": "Seq Scan", "Relation Name": "orders", "Filter": "(store = $1)", "Total Cost": 9.0,
             "Plan Rows": 5, "Actual Rows": 5_000}]}, "Execution Time": 3.5}]);
        let summary = summary(&plan).unwrap();
        assert_eq!((summary.cost, summary.ms), (9.5, Some(3.5)));
        assert_eq!(summary.seq_scans().count(), 1);
        assert_eq!(
            summary.misestimates().next().unwrap().table.as_deref(),
            Some("orders")
        );
        assert!(summary.is_wrong_about(10.0) && !summary.is_wrong_about(9.0));
    }
}
