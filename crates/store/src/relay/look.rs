//! A look at the outbox from outside: what waits, who reads, what was put aside, what holds it up.

use std::time::Duration;

use crate::{
    database::Database,
    error::Result,
    transaction::{Options, Row},
    value::Value,
};

/// What a look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Rows in the outbox; counting ends at [`ROWS_MAX`].
    pub rows: u64,
    /// Age of the oldest.
    pub oldest: Duration,
    /// Bytes of its files.
    pub bytes: u64,
    /// Nodes that read, by name, and how long ago each was seen.
    pub nodes: Vec<(String, Duration)>,
    /// Publications that were put aside.
    pub dead: u64,
    /// Why the newest of them was.
    pub newest_reason: Option<String>,
    /// Whether this role may do all that a reader does.
    pub may_read: bool,
    /// The oldest open or prepared transaction that writes, in words of the server; it holds back all that were committed
    /// after it. Sessions of other roles are shown to members of `pg_monitor` alone.
    pub oldest_transaction: Option<String>,
}

/// Rows that a look counts.
pub const ROWS_MAX: u64 = 1_000_000;

const IS_THERE: &str = "SELECT to_regclass('tidegate.outbox') IS NOT NULL";

const LOOK: &str = "SELECT (SELECT count(*) FROM (SELECT FROM tidegate.outbox LIMIT $1::int8) AS every), \
     coalesce((SELECT extract(epoch FROM clock_timestamp() - at)::int8 FROM tidegate.outbox ORDER BY xid, id LIMIT 1), 0), \
     pg_table_size('tidegate.outbox'::regclass), (SELECT count(*) FROM tidegate.outbox_dead), \
     (SELECT reason FROM tidegate.outbox_dead ORDER BY xid DESC, id DESC LIMIT 1), \
     (SELECT format('%s of %s in %s, %s s old', what, owner, name, extract(epoch FROM clock_timestamp() - since)::int8) FROM \
     (SELECT 'process ' || pid, usename, datname, xact_start FROM pg_stat_activity WHERE backend_xid IS NOT NULL UNION ALL \
     SELECT 'prepared transaction ' || quote_literal(gid), owner, database, prepared FROM pg_prepared_xacts) \
     AS open (what, owner, name, since) ORDER BY since LIMIT 1), (SELECT bool_and(has_table_privilege(name, privilege)) FROM (VALUES \
     ('tidegate.outbox', 'DELETE'), ('tidegate.outbox_reader', 'INSERT'), ('tidegate.outbox_reader', 'UPDATE'), \
     ('tidegate.outbox_reader', 'DELETE'), ('tidegate.outbox_limits', 'INSERT'), ('tidegate.outbox_limits', 'UPDATE'), \
     ('tidegate.outbox_life', 'INSERT'), ('tidegate.outbox_dead', 'INSERT'), ('tidegate.outbox_dead', 'DELETE')) AS needed (name, privilege)) \
     AND has_sequence_privilege('tidegate.outbox_dropped', 'SELECT')";

const NODES: &str = "SELECT node, greatest(extract(epoch FROM clock_timestamp() - seen_at), 0)::int8 \
     FROM tidegate.outbox_reader ORDER BY node LIMIT 1000";

/// Looks at the outbox of a database; none where it was not made yet.
///
/// # Errors
/// What the database says, such as that this role may not look.
///
/// # Cancel safety
/// It only reads.
pub async fn look(database: &Database) -> Result<Option<Look>> {
    let options = Options {
        is_on_primary: true,
        ..Options::default()
    };
    let count = [Value::Int(ROWS_MAX as i64)];
    database
        .read_with(options, async |transaction| {
            let there = transaction.query(IS_THERE, &[]).await?;
            if there.first().and_then(|row| row.values().first()) != Some(&Value::Bool(true)) {
                return Ok(None);
            }
            let seen = transaction.query(LOOK, &count).await?;
            let nodes = transaction.query(NODES, &[]).await?;
            Ok(seen.first().map(|row| look_of(row, &nodes)))
        })
        .await
}

fn look_of(row: &Row, nodes: &[Row]) -> Look {
    let number = |row: &Row, at: usize| match row.values().get(at) {
        Some(Value::Int(value)) => u64::try_from(*value).unwrap_or(0),
        _ => 0,
    };
    let words = |row: &Row, at: usize| match row.values().get(at) {
        Some(Value::Text(text)) => Some(text.to_string()),
        _ => None,
    };
    let node = |row| {
        (
            words(row, 0).unwrap_or_default(),
            Duration::from_secs(number(row, 1)),
        )
    };
    Look {
        rows: number(row, 0),
        oldest: Duration::from_secs(number(row, 1)),
        bytes: number(row, 2),
        nodes: nodes.iter().map(node).collect(),
        dead: number(row, 3),
        newest_reason: words(row, 4),
        oldest_transaction: words(row, 5),
        may_read: row.values().get(6) == Some(&Value::Bool(true)),
    }
}
