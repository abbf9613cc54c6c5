//! What a statement would cost with an index that is not there: planned by hypopg, or estimated from statistics.

use serde::Serialize;
use tokio_postgres::Client;

use crate::{
    candidate::distinct,
    catalog::Table,
    error::{Error, Result},
    explain::{Summary, explain_inside},
    observed::Statement,
    plan::{How, Index},
    statement::{Comparison, TableUse},
};

/// How the gain of a proposal is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// The planner itself chose the index, made hypothetical by the extension hypopg.
    Hypopg,
    /// Estimated from the table's statistics, because hypopg cannot be had.
    Statistics,
}

/// Makes hypothetical indexes inside the transaction of one piece of advice.
pub(crate) enum Prover {
    /// Its functions, qualified with the schema of the extension.
    Hypopg(String),
    Statistics,
}

/// Bytes of a page.
const PAGE: f64 = 8_192.0;
/// Rows in one list of equal keys: a third of a page.
const ROWS_OF_A_LIST: f64 = 400.0;
/// What a descent from the root and the planner's own work cost.
const DESCENT: f64 = 4.0;
/// The planner's default share of rows behind a range whose ends it does not know.
const RANGE_SHARE: f64 = 1.0 / 3.0;
/// Share of rows of a column without statistics.
const UNKNOWN_SHARE: f64 = 0.1;

impl Prover {
    /// Looks for hypopg; where it is installed on the server but not in this database, it is made for the length of
    /// the open transaction.
    pub(crate) async fn find(client: &Client) -> Result<Self> {
        let schema =
            "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                      WHERE e.extname = 'hypopg'";
        let look = || async {
            let row = client.query_opt(schema, &[]).await;
            row.map_err(Error::database("looking for hypopg"))
        };
        if let Some(row) = look().await? {
            return Ok(Self::Hypopg(row.get(0)));
        }
        let make = "SAVEPOINT tidegate_hypopg; CREATE EXTENSION hypopg; RELEASE tidegate_hypopg";
        if client.batch_execute(make).await.is_err() {
            // Not installed, or we may not.
            let back = client
                .batch_execute("ROLLBACK TO tidegate_hypopg; RELEASE tidegate_hypopg")
                .await;
            back.map_err(Error::database("going back"))?;
            return Ok(Self::Statistics);
        }
        let row = look().await?;
        Ok(row.map_or(Self::Statistics, |row| Self::Hypopg(row.get(0))))
    }

    pub(crate) const fn proof(&self) -> Proof {
        match self {
            Self::Hypopg(_) => Proof::Hypopg,
            Self::Statistics => Proof::Statistics,
        }
    }

    /// Puts a hypothetical index in place and gives its id; none where there is nothing to put, or where the
    /// database would refuse such an index.
    pub(crate) async fn put(&self, client: &Client, index: &Index) -> Result<Option<u32>> {
        let Self::Hypopg(schema) = self else {
            return Ok(None);
        };
        let sql = format!("SELECT indexrelid FROM {schema}.hypopg_create_index($1)");
        // hypopg knows no name of ours; it makes one up.
        let create = index.create("", &index.table, How::Plain);
        save(client).await?;
        match client.query_opt(&sql, &[&create]).await {
            Ok(row) => release(client).await.map(|()| row.and_then(|row| row.get(0))),
            Err(error) if error.code().is_some() => back(client).await.map(|()| None),
            Err(error) => Err(Error::database("making a hypothetical index")(error)),
        }
    }

    /// Takes a hypothetical index away.
    pub(crate) async fn take(&self, client: &Client, id: u32) -> Result<()> {
        let Self::Hypopg(schema) = self else { return Ok(()) };
        let sql = format!("SELECT {schema}.hypopg_drop_index($1)");
        let taken = client.query_one(&sql, &[&id]).await;
        taken
            .map(drop)
            .map_err(Error::database("dropping a hypothetical index"))
    }

    /// Takes all away; they would otherwise stay with the session.
    pub(crate) async fn clear(&self, client: &Client) -> Result<()> {
        let Self::Hypopg(schema) = self else { return Ok(()) };
        let cleared = client
            .execute(&format!("SELECT {schema}.hypopg_reset()"), &[])
            .await;
        cleared
            .map(drop)
            .map_err(Error::database("dropping hypothetical indexes"))
    }
}

/// Plans a statement in the open transaction; an error leaves the transaction usable.
pub(crate) async fn plan(client: &Client, statement: &Statement) -> Result<Summary> {
    save(client).await?;
    let planned = explain_inside(client, &statement.sql, &statement.params, false).await;
    match &planned {
        Ok(_) => release(client).await?,
        Err(error) if error.sqlstate().is_some() => back(client).await?,
        Err(_) => {}
    }
    planned
}

async fn save(client: &Client) -> Result<()> {
    let sql = "SAVEPOINT tidegate_statement";
    client.batch_execute(sql).await.map_err(Error::database("saving"))
}

async fn release(client: &Client) -> Result<()> {
    let sql = "RELEASE tidegate_statement";
    client.batch_execute(sql).await.map_err(Error::database("saving"))
}

async fn back(client: &Client) -> Result<()> {
    let sql = "ROLLBACK TO tidegate_statement; RELEASE tidegate_statement";
    client
        .batch_execute(sql)
        .await
        .map_err(Error::database("going back"))
}

// === Statistics ===

/// Bytes of an index: its rows with their headers, in pages filled to nine tenths. (hypopg's own figure is twice the
/// real one where columns are carried along.)
pub(crate) fn size(table: &Table, index: &Index) -> f64 {
    let columns = index.all_columns();
    let width: f64 = columns
        .iter()
        .filter_map(|name| table.column(name))
        .map(|column| column.width)
        .sum();
    // 8 bytes of tuple header, 4 of line pointer; values are aligned to 8.
    let row = ((width + 8.0) / 8.0).ceil() * 8.0 + 4.0;
    let row = match rows_of_a_key(table, index) {
        // Equal keys are stored once for a list of rows, 6 bytes each, of up to a third of a page.
        n if n >= 2.0 => row / n.min(ROWS_OF_A_LIST) + 6.0,
        _ => row,
    };
    (table.n_rows * row / 0.9).max(2.0 * PAGE)
}

/// Rows that share a key, if the index stores such a key once: one that carries columns along never does.
fn rows_of_a_key(table: &Table, index: &Index) -> f64 {
    if !index.include.is_empty() {
        return 1.0;
    }
    let n_keys: f64 = index
        .columns
        .iter()
        .map(|key| distinct(table, &key.column).max(1.0))
        .product();
    table.n_rows / n_keys.min(table.n_rows.max(1.0))
}

/// What a use of `table` that costs `before` would cost with `index`; never more.
pub(crate) fn estimate(table: &Table, used: &TableUse, index: &Index, before: f64) -> f64 {
    let mut share = 1.0;
    let mut is_narrowed = false;
    for key in &index.columns {
        let condition = used
            .conditions
            .iter()
            .find(|condition| condition.column == key.column);
        let Some(condition) = condition else { break };
        is_narrowed = true;
        if condition.kind == Comparison::Range {
            share *= RANGE_SHARE;
            break;
        }
        let n = distinct(table, &key.column);
        share *= if n >= 1.0 { 1.0 / n } else { UNKNOWN_SHARE };
    }
    let columns = index.all_columns();
    let is_covering = !used.all_columns
        && used
            .columns
            .iter()
            .all(|column| columns.contains(&column.as_str()));
    let is_sorted = !used.group.is_empty()
        && index
            .columns
            .first()
            .is_some_and(|key| used.group.contains(&key.column));
    let is_read_in_order = is_covering && is_sorted;
    if !is_narrowed && !is_read_in_order {
        return before;
    }
    let rows = table.n_rows * share;
    let pages = (size(table, index) / PAGE * share).ceil();
    let heap = rows.min(table.pages)
        * if is_covering {
            1.0 - table.visible.clamp(0.0, 1.0)
        } else {
            1.0
        };
    // The planner's defaults: 0.005 an index row, 0.01 a row, 4 a random page; pages near each other cost less.
    let after = pages.mul_add(1.0, DESCENT) + rows * 0.015 + heap * 2.0;
    after.min(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{catalog::Column, plan::Key, statement::Condition};

    fn table() -> Table {
        let column = |name: &str, n_distinct| Column {
            name: name.to_owned(),
            width: 8.0,
            n_distinct,
            is_ordered: true,
        };
        Table {
            oid: 1,
            schema: "public".to_owned(),
            name: "orders".to_owned(),
            is_partitioned: false,
            n_rows: 100_000.0,
            pages: 2_000.0,
            visible: 1.0,
            columns: vec![
                column("store", 4.0),
                column("date", 100.0),
                column("amount", -0.5),
            ],
            indexes: Vec::new(),
        }
    }

    fn index(columns: &[&str], include: &[&str]) -> Index {
        Index {
            name: "i".to_owned(),
            table: "orders".to_owned(),
            columns: columns.iter().map(|column| Key::ascending(column)).collect(),
            include: include.iter().map(|column| (*column).to_owned()).collect(),
            filter: None,
            unique: false,
        }
    }

    fn used() -> TableUse {
        let equal = |column: &str| Condition {
            column: column.to_owned(),
            kind: Comparison::Equal,
        };
        TableUse {
            table: "orders".to_owned(),
            conditions: vec![equal("store"), equal("date")],
            columns: ["store", "date", "amount"].map(str::to_owned).into(),
            ..TableUse::default()
        }
    }

    #[test]
    fn a_narrower_index_costs_less_and_a_covering_one_the_least() {
        let cost = |index: &Index| estimate(&table(), &used(), index, 3_000.0);
        let (store, both) = (
            cost(&index(&["store"], &[])),
            cost(&index(&["store", "date"], &[])),
        );
        let covering = cost(&index(&["store", "date"], &["amount"]));
        assert!(covering < both && both < store, "{covering} {both} {store}");
        assert_eq!(cost(&index(&["amount"], &[])), 3_000.0);
    }

    #[test]
    fn a_size_is_that_of_rows_and_pages() {
        let check = |index: &Index, expected: std::ops::Range<f64>| {
            let bytes = size(&table(), index);
            assert!(expected.contains(&bytes), "{bytes}");
        };
        // 100,000 rows of 24 + 8 + 4 bytes in pages filled to nine tenths.
        check(&index(&["store", "date"], &["amount"]), 3.9e6..4.1e6);
        // 250 rows share each of 400 keys.
        check(&index(&["store", "date"], &[]), 6.0e5..7.0e5);
    }
}
