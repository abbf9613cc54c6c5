//! What a feed is: the declared way of rows into one table.

use std::time::Duration;

use crate::{template::Template, value::Type};

/// A declared way of rows into a table. Plain data: [`Feed::check`] says whether it is sound.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// Its name, unique; `[a-z0-9_-]`, 1 to 64 bytes.
    pub name: String,
    /// The table, possibly with its schema: `ticks` or `market.ticks`.
    pub table: String,
    /// Columns that rows may have, in the order in which they are stored.
    pub columns: Vec<Column>,
    /// Columns that name a row; empty: the feed only inserts.
    pub key: Vec<String>,
    /// What happens when the key is there already.
    pub on_conflict: OnConflict,
    /// What a stored row invalidates, for [`crate::CommitHook`].
    pub tags: Vec<Template>,
    /// Rows older than this, by the partition column, are removed.
    pub retain: Option<Duration>,
    /// Whether `migrate` may create the table and add columns.
    pub manage: bool,
    /// Partitioning of a managed table.
    pub partition: Option<Partition>,
    /// Tables of sums kept in the same transaction.
    pub rollups: Vec<Rollup>,
    /// Most bytes of one row as JSON.
    pub row_bytes_max: usize,
    /// Most rows a second of one producer; none is no quota.
    pub rows_per_second_max: Option<u32>,
}

/// A column of a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub kind: Type,
    /// Whether null is refused; key columns always refuse it.
    pub not_null: bool,
}

/// What happens to a row whose key is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnConflict {
    /// The row goes to the dead letter with SQLSTATE 23505.
    #[default]
    Error,
    /// The stored row stays; the new one counts as a duplicate.
    Ignore,
    /// The new row replaces the stored one.
    Update,
}

/// What a request does with its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Stores new rows; the feed's [`OnConflict`] decides about those that are there.
    Insert,
    /// Stores new rows, replaces those that are there.
    Upsert,
    /// Changes the given columns of rows that are there; others are counted as missing.
    Update,
    /// Removes rows; only key columns are given.
    Delete,
}

/// Range partitions of a managed table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// A `timestamptz` or `date` column, part of the key if there is one.
    pub column: String,
    /// Length of a partition; at least an hour.
    pub every: Duration,
    /// Whether to make it a hypertable where TimescaleDB is present.
    pub timescale: bool,
}

/// A table of sums over a feed, kept in the transaction that stores the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollup {
    /// Its name, unique in the feed.
    pub name: String,
    /// Its table.
    pub table: String,
    /// Columns it is grouped by.
    pub group: Vec<String>,
    /// Grouping by time.
    pub bucket: Option<Bucket>,
    /// What is kept for each group.
    pub measures: Vec<Measure>,
}

/// Grouping by time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// A `timestamptz` or `date` column.
    pub column: String,
    /// Its length; whole seconds; for a date, whole days.
    pub every: Duration,
}

/// One kept figure of a roll-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    /// How rows become a figure.
    pub how: Aggregate,
    /// The column it is made of; none for a count.
    pub column: Option<String>,
    /// Its column in the roll-up's table, for example `amount_sum`.
    pub into: String,
}

/// How rows become a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregate {
    /// Number of rows.
    Count,
    /// Sum.
    Sum,
    /// Least.
    Min,
    /// Greatest.
    Max,
    /// The value of the newest row, by the bucket column.
    Last,
}

impl OnConflict {
    /// Its word in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Ignore => "ignore",
            Self::Update => "update",
        }
    }
}

impl Operation {
    /// Its word in requests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Upsert => "upsert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }

    /// The operation of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Insert, Self::Upsert, Self::Update, Self::Delete]
            .into_iter()
            .find(|operation| operation.as_str() == word)
    }
}

impl Feed {
    /// The place of a column, by name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}
