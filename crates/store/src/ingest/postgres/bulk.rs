//! Rows straight into a table by binary COPY, for loads that need no claims: one transaction, all or nothing.

use std::panic::Location;

use super::live::Live;
use super::transaction::Transaction as Batch;
use crate::error::{Error, Result};
use crate::feed::Feed;
use crate::ingest::backend::Plan;
use crate::ingest::fold::{FoldedRow, Place};
use crate::row::Table;
use crate::transaction::Transaction;

/// Copies `rows` into the table of `feed` inside an open transaction; says how many. There are no claims, no dead letter
/// and no roll-ups: a row that the database refuses ends the transaction, and a load that is made twice is stored twice.
/// For filling an empty table; what comes from producers goes through [`crate::ingest::Ingest`].
///
/// # Errors
/// [`Error::Config`] when the feed does not fit its table, [`Error::Unsupported`] on another database, or the
/// database's refusal.
///
/// # Cancel safety
/// Dropped, the transaction must be given up.
pub async fn copy(transaction: &Transaction, feed: &Feed, rows: &Table) -> Result<u64> {
    let connection = transaction.connection().ok_or_else(|| Error::Unsupported {
        what: "COPY".to_owned(),
        needs: "PostgreSQL",
    })?;
    let plan = Plan::new(feed.clone())?;
    let live = Live::load(connection, &plan).await?;
    let rows: Vec<FoldedRow<'_>> = rows
        .rows()
        .enumerate()
        .map(|(at, values)| FoldedRow {
            place: Place {
                chunk: 0,
                row: at as u32,
            },
            values: values.into(),
            given: (&[][..]).into(),
        })
        .collect();
    let monitor = (transaction.monitor(), Location::caller());
    let batch = Batch::new(connection, &plan, &live, &[], monitor);
    batch.copy_table(&rows).await?;
    Ok(rows.len() as u64)
}
