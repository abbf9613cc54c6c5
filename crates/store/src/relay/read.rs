//! The outbox as the reader sees it: rows out, position in.

use std::{sync::Arc, time::Duration};

use super::{Config, Entry, Options, Position, sql};
use crate::{
    database::Database,
    error::{Error, Result},
    select::Select,
    transaction::Row,
    value::Value,
};

/// How long one statement may take, the wait for a connection included.
const PATIENCE: Duration = Duration::from_secs(20);

/// The outbox of a database, for one node.
pub(super) struct Outbox {
    database: Database,
    pub(super) config: Config,
    /// Which process of the node this is.
    owner: String,
}

/// The node's place in the table of readers.
pub(super) struct Place {
    pub(super) position: Position,
    /// Rows that it will never see, not accounted for yet.
    pub(super) lost: i64,
    /// Publications dropped for want of room that are accounted for.
    pub(super) dropped: i64,
    /// In which history of the cluster the position counts.
    pub(super) history: Arc<str>,
}

/// What is written down after rows were published.
#[derive(Clone, Copy)]
pub(super) struct Progress<'a> {
    pub(super) position: Position,
    /// Lost rows that are accounted for since the last time.
    pub(super) lost: i64,
    pub(super) dropped: i64,
    /// Nothing is left below.
    pub(super) floor: Position,
    /// What is put aside.
    pub(super) dead: &'a [(Position, String)],
    pub(super) history: &'a str,
}

pub(super) enum Saved {
    Done {
        /// Rows that this node will never see.
        lost: i64,
        floor: Position,
    },
    /// The place is another process's, or nobody's, or this is another history.
    Superseded,
}

/// What is there.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) rows: i64,
    pub(super) waiting: i64,
    pub(super) oldest: Duration,
    pub(super) dropped: i64,
    pub(super) bytes: i64,
    pub(super) nodes: i64,
    pub(super) dead: i64,
}

// === impl Outbox ===

impl Outbox {
    pub(super) fn new(database: &Database, config: Config) -> Self {
        let mut id = [0; 8];
        // A name that two processes share costs a warning that does not come.
        let _ = getrandom::fill(&mut id);
        Self {
            database: database.clone(),
            config,
            owner: format!("{}-{:016x}", std::process::id(), u64::from_le_bytes(id)),
        }
    }

    /// Takes the node's place; `from` is where a node begins that has none, if this is still that history.
    pub(super) async fn claim(&self, from: Position, history: &str) -> Result<Place> {
        let params = [
            text(&self.config.node),
            text(&self.owner),
            text(&from.xid.to_string()),
            Value::Int(from.id),
            text(history),
        ];
        let (claimed, history) = self
            .database
            .write(async |transaction| {
                transaction.execute(sql::LIVE, &[]).await?;
                let claimed = transaction.query(sql::CLAIM, &params).await?;
                Ok((claimed, transaction.query(sql::HISTORY, &[]).await?))
            })
            .await?;
        let row = one(&claimed)?;
        Ok(Place {
            position: position(row, 0)?,
            lost: int(row, 2)?,
            dropped: int(row, 3)?,
            history: string(one(&history)?, 0)?.into(),
        })
    }

    /// Whether the place may be taken from who has it: it is nobody's, or ours, or he was not seen for `silent`.
    pub(super) async fn is_free(&self, silent: Duration) -> Result<bool> {
        let params = [text(&self.config.node), millis(silent)];
        let rows = self.select(sql::HOLDER, &params).await?;
        let Some(row) = rows.first() else {
            return Ok(true);
        };
        Ok(string(row, 0)? == self.owner || row.get(1) == Some(&Value::Bool(true)))
    }

    /// The next rows behind a position that may be read, in order.
    pub(super) async fn read(&self, after: Position, history: &Arc<str>) -> Result<Vec<Entry>> {
        let [xid, id, n_rows, n_bytes] = self.batch(after);
        let rows = self
            .select(sql::READ, &[xid, id, n_rows, n_bytes, text(history)])
            .await?;
        let entries = rows.iter().map(|row| entry(row, history));
        let entries: Vec<Entry> = entries.collect::<Result<_>>()?;
        let positions = || std::iter::once(after).chain(entries.iter().map(|entry| entry.position));
        debug_assert!(positions().is_sorted(), "rows out of order behind {after}");
        Ok(entries)
    }

    /// Tags of rows behind a position, also of those that may not be read yet, as far as one read goes.
    pub(super) async fn tags(&self, after: Position) -> Result<Vec<String>> {
        let rows = self.select(sql::TAGS, &self.batch(after)).await?;
        let tags = rows.iter().map(|row| list(row, 0)).collect::<Result<Vec<_>>>()?;
        Ok(tags.into_iter().flatten().collect())
    }

    /// What bounds one read: position, rows, bytes.
    fn batch(&self, after: Position) -> [Value; 4] {
        [
            text(&after.xid.to_string()),
            Value::Int(after.id),
            Value::Int(i64::try_from(self.config.batch_rows_max).unwrap_or(i64::MAX)),
            Value::Int(i64::try_from(self.config.batch_bytes_max).unwrap_or(i64::MAX)),
        ]
    }

    /// Whether rows are there behind a position; none in another history.
    pub(super) async fn has_more(&self, after: Position, history: &str) -> Result<Option<bool>> {
        let params = [text(&after.xid.to_string()), Value::Int(after.id), text(history)];
        let rows = self.select(sql::HELD, &params).await?;
        match rows.first().map(Vec::as_slice) {
            Some([Value::Bool(has_more), Value::Bool(true)]) => Ok(Some(*has_more)),
            _ => Ok(None),
        }
    }

    /// Writes the position down, puts rows aside, and deletes what every node has read.
    pub(super) async fn save(&self, progress: Progress<'_>) -> Result<Saved> {
        let Progress {
            position: at, floor, ..
        } = progress;
        let bury = self.bury(&progress);
        let params = [
            text(&self.config.node),
            text(&self.owner),
            text(&at.xid.to_string()),
            Value::Int(at.id),
            Value::Int(progress.lost),
            Value::Int(progress.dropped),
            text(&floor.xid.to_string()),
            Value::Int(floor.id),
            Value::Int(sql::DELETED_AT_ONCE),
            text(progress.history),
        ];
        let rows = self
            .database
            .write(async |transaction| {
                if let Some(bury) = &bury {
                    transaction.execute(sql::BURY, bury).await?;
                }
                transaction.query(sql::SAVE, &params).await
            })
            .await?;
        let Some(row) = rows.first().map(Row::values) else {
            return Ok(Saved::Superseded);
        };
        let is_clean = int(row, 1)? < sql::DELETED_AT_ONCE;
        Ok(Saved::Done {
            lost: int(row, 0)?,
            floor: if is_clean { position(row, 2)? } else { floor },
        })
    }

    fn bury(&self, progress: &Progress<'_>) -> Option<[Value; 5]> {
        let dead = progress.dead;
        let list = |of: &dyn Fn(&(Position, String)) -> Value| Value::Array(dead.iter().map(of).collect());
        (!dead.is_empty()).then(|| {
            [
                list(&|(position, _)| text(&position.xid.to_string())),
                list(&|(position, _)| Value::Int(position.id)),
                list(&|(_, reason)| text(reason)),
                text(&self.config.node),
                text(progress.history),
            ]
        })
    }

    /// Counts what is there, forgets nodes that are gone if it may, gives up rows beyond the bounds, and tells `publish` its limits.
    /// Gives the names of the nodes that were forgotten and the number of rows that were given up.
    pub(super) async fn keep(&self, at: Position, may_forget: bool) -> Result<(Seen, Vec<String>, i64)> {
        let config = &self.config;
        let rows_max = i64::try_from(config.rows_max).unwrap_or(i64::MAX - sql::EXPIRED_AT_ONCE);
        let look = [
            Value::Int(rows_max.saturating_add(sql::EXPIRED_AT_ONCE)),
            text(&at.xid.to_string()),
            Value::Int(at.id),
        ];
        let forget = [text(&config.node), millis(config.node_gone_after)];
        self.database
            .write(async |transaction| {
                let rows = transaction.query(sql::LOOK, &look).await?;
                let seen = Seen::of(one(&rows)?)?;
                let gone = match may_forget {
                    true => transaction.query(sql::FORGET, &forget).await?,
                    false => Vec::new(),
                };
                let excess = (seen.rows - rows_max).max(0);
                let expire = [
                    millis(config.retain),
                    Value::Int(excess),
                    Value::Int(sql::EXPIRED_AT_ONCE),
                ];
                let expired = match seen.rows {
                    0 => 0,
                    _ => int(one(&transaction.query(sql::EXPIRE, &expire).await?)?, 0)?,
                };
                if seen.dead > sql::DEAD_MAX {
                    transaction
                        .execute(sql::TRIM, &[Value::Int(sql::DEAD_MAX)])
                        .await?;
                }
                transaction.execute(sql::LIMITS, &self.limits(&seen)).await?;
                let names = gone.iter().map(|row| string(row.values(), 0).map(str::to_owned));
                Ok((seen, names.collect::<Result<_>>()?, expired))
            })
            .await
    }

    /// Large files with few rows in them are on their way to be cleaned up; twice the bound is too large all the same.
    fn limits(&self, seen: &Seen) -> [Value; 4] {
        let Config {
            bytes_max, rows_max, ..
        } = self.config;
        let bytes = u64::try_from(seen.bytes).unwrap_or(0);
        let has_room = u64::try_from(seen.rows).unwrap_or(0) < rows_max / 2 && bytes / 2 < bytes_max;
        let int = |value: u64| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
        [
            int(bytes_max),
            int(self.config.row_bytes_max),
            Value::Bool(self.config.is_strict),
            Value::Bool(has_room),
        ]
    }

    async fn select(&self, sql: &str, params: &[Value]) -> Result<Vec<Vec<Value>>> {
        let select = Select {
            timeout: PATIENCE,
            ..Select::new(sql, params)
        };
        self.database.select(select).await?.collect().await
    }
}

// === impl Seen ===

impl Seen {
    fn of(row: &[Value]) -> Result<Self> {
        let oldest = match row.get(2) {
            Some(Value::Null) => 0,
            _ => int(row, 2)?,
        };
        Ok(Self {
            rows: int(row, 0)?,
            waiting: int(row, 1)?,
            oldest: Duration::from_micros(u64::try_from(oldest).unwrap_or(0)),
            dropped: int(row, 3)?,
            bytes: int(row, 4)?,
            nodes: int(row, 5)?,
            dead: int(row, 6)?,
        })
    }
}

// === values ===

fn entry(row: &[Value], history: &Arc<str>) -> Result<Entry> {
    let maybe = |at: usize| match row.get(at) {
        Some(Value::Null) => Ok(None),
        _ => string(row, at).map(|text| Some(text.to_owned())),
    };
    let mut problem = maybe(8)?;
    let options = match maybe(7)? {
        None => Options::default(),
        Some(text) => serde_json::from_str(&text).unwrap_or_else(|error| {
            problem.get_or_insert_with(|| format!("bad_options: {error}"));
            Options::default()
        }),
    };
    Ok(Entry {
        position: position(row, 0)?,
        history: Arc::clone(history),
        namespace: string(row, 2)?.to_owned(),
        rooms: list(row, 3)?,
        event: maybe(4)?,
        data: maybe(5)?,
        tags: list(row, 6)?,
        options,
        problem,
        n_bytes: u64::try_from(int(row, 9)?).unwrap_or(0),
        age: Duration::from_micros(u64::try_from(int(row, 10)?).unwrap_or(0)),
    })
}

fn list(row: &[Value], at: usize) -> Result<Vec<String>> {
    serde_json::from_str(string(row, at)?).map_err(|_| odd(at))
}

fn one(rows: &[Row]) -> Result<&[Value]> {
    rows.first().map(Row::values).ok_or_else(|| odd(0))
}

fn text(of: &str) -> Value {
    Value::Text(of.into())
}

fn millis(of: Duration) -> Value {
    Value::Int(i64::try_from(of.as_millis()).unwrap_or(i64::MAX))
}

fn int(row: &[Value], at: usize) -> Result<i64> {
    match row.get(at) {
        Some(Value::Int(value)) => Ok(*value),
        _ => Err(odd(at)),
    }
}

fn string(row: &[Value], at: usize) -> Result<&str> {
    match row.get(at) {
        Some(Value::Text(text)) => Ok(text),
        _ => Err(odd(at)),
    }
}

fn position(row: &[Value], at: usize) -> Result<Position> {
    Ok(Position {
        xid: string(row, at)?.parse().map_err(|_| odd(at))?,
        id: int(row, at + 1)?,
    })
}

/// Somebody changed our tables.
fn odd(column: usize) -> Error {
    Error::Config {
        what: "tables of the outbox".to_owned(),
        problem: format!("column {column} of an answer is not what it should be"),
    }
}
