//! The seam between what all databases share (validation, backlog, chunks, ids, outcomes) and how one of them commits.
//!
//! A backend is one function, `commit(plan, chunks) -> settled`, for which this must hold:
//!
//! 1. All chunks have the plan's feed, one operation, different claims, and at least one row each. They come in the order
//!    in which they were taken in.
//! 2. One transaction makes the claims first (`INSERT … ON CONFLICT DO NOTHING RETURNING`), then stores the rows of those
//!    chunks whose claims it made, then the roll-ups, and only of rows that were really stored. A chunk is stored whole
//!    or not at all, and only with its claim; a batch may be spread over several such transactions, whole chunks each.
//! 3. A chunk whose claim was there already is not stored. It settles as [`Settled::Known`] with the recorded outcome
//!    if the hash is the same, otherwise as [`Settled::Reused`]. While another transaction holds the claim open, wait for it.
//! 4. Rows that the database refuses by their own fault are written to the dead letter in the transaction of their
//!    claim, are counted in the chunk's outcome, and take no other row with them.
//! 5. Rows with the same key are applied as if they had come one by one, in order.
//! 6. `Ok` only after a durable commit. On [`Failure::Again`] the same call is made again until it settles; the claims
//!    make that harmless. On [`Failure::Suspend`] nothing was stored that is not settled by
//!    asking again.
//! 7. Dropping the future leaves no transaction open for the next user of its connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use super::outcome::ChunkOutcome;
use crate::error::{Error, Result, is_transient};
use crate::feed::{Feed, OnConflict, Operation};
use crate::row::{Table, write_row};
use crate::value::Value;

/// A feed with what is worked out of it once.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) feed: Feed,
    pub(crate) version: u64,
    /// Places of the key columns.
    pub(crate) key: Vec<usize>,
}

/// The mark that makes a chunk stored once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Mark {
    pub(crate) principal: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) chunk: u32,
}

/// Rows that are claimed and stored together.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) mark: Mark,
    /// SHA-256 of its content.
    pub(crate) hash: [u8; 32],
    /// Stands in the claim and tells it from one that somebody else made; see [`new_maker`].
    pub(crate) maker: i64,
    pub(crate) operation: Operation,
    pub(crate) rows: Table,
    /// The number of each row in the whole request.
    pub(crate) numbers: Vec<u64>,
    /// Rows that were put into the spool and do not fit the feed as it is declared now: they go straight to the dead
    /// letter.
    pub(crate) misfits: Vec<Misfit>,
}

/// A row that no longer fits its feed.
#[derive(Debug, Clone)]
pub(crate) struct Misfit {
    pub(crate) number: u64,
    pub(crate) row: Vec<u8>,
    pub(crate) message: String,
}

/// How a chunk ended.
#[derive(Debug)]
pub(crate) enum Settled {
    /// This call stored it.
    New {
        outcome: ChunkOutcome,
        /// Rows that were stored or changed.
        stored: Stored,
    },
    /// It was stored before, with the same content. `is_ours`: by an earlier try of this very chunk, whose answer was
    /// lost; nobody was told of it.
    Known { outcome: ChunkOutcome, is_ours: bool },
    /// Its claim belongs to other content.
    Reused,
}

/// Which rows of a chunk were stored or changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stored {
    All,
    /// By their place in the chunk, rising.
    Rows(Vec<u32>),
}

/// Why a commit did not settle.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It passes by itself; whether anything was stored is not known.
    Again(Error),
    /// Somebody must mend the database or the declaration.
    Suspend(Error),
}

/// How rows travelled, for the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// One statement with arrays.
    Unnest,
    /// COPY into the table.
    Copy,
    /// COPY into a temporary table, then one statement.
    CopyStage,
    /// Row by row where need be: some were refused.
    Careful,
    /// One statement a row, as on SQLite.
    Rows,
}

/// What an error of the database means for the rows that met it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// A lost connection, a lack of resources, a conflict: the same again later.
    Nobody,
    /// A missing table, a missing privilege: no row would do better.
    Feed,
    /// Only other rows can tell: 42501 comes from privileges, and from row security about one row.
    FeedOrRow,
    /// This row, or one of these.
    Row,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn new(feed: Feed) -> Result<Self> {
        feed.check()?;
        let key = feed.key.iter().filter_map(|name| feed.column(name)).collect();
        Ok(Self {
            version: feed.version(),
            key,
            feed,
        })
    }

    /// What the operation does to rows whose key is there.
    pub(crate) fn on_conflict(&self, operation: Operation) -> OnConflict {
        match operation {
            Operation::Upsert => OnConflict::Update,
            _ => self.feed.on_conflict,
        }
    }

    /// Whether rows only ever come to exist and their order does not matter.
    pub(crate) fn is_unordered(&self) -> bool {
        self.key.is_empty() && self.feed.rollups.is_empty()
    }

    /// Whether the operation makes sense for this feed.
    pub(crate) fn check_operation(&self, operation: Operation) -> Result<()> {
        let problem = match operation {
            Operation::Insert => return Ok(()),
            _ if self.key.is_empty() => "needs a feed with a key",
            Operation::Update if self.key.len() == self.feed.columns.len() => {
                "needs a feed with columns beside the key"
            }
            _ => return Ok(()),
        };
        let (operation, name) = (operation.as_str(), &self.feed.name);
        Err(Error::BadRequest(format!("feed {name}: {operation} {problem}")))
    }
}

/// A number that no other chunk of this or another process has, as far as chance goes.
pub(crate) fn new_maker() -> i64 {
    static FIRST: LazyLock<u64> = LazyLock::new(|| {
        let mut random = [0; 8];
        getrandom::fill(&mut random).expect("the system gives random bytes");
        u64::from_le_bytes(random)
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    FIRST.wrapping_add(NEXT.fetch_add(1, Relaxed)).cast_signed()
}

// === impl Chunk ===

impl Chunk {
    /// Appends a row as JSON, as it was given: a change with the columns it changes, a deletion with its key.
    pub(crate) fn write_row(&self, plan: &Plan, row: usize, out: &mut Vec<u8>) {
        let has = |column: usize| match self.operation {
            Operation::Delete => plan.key.contains(&column),
            _ => self.rows.gave(row, column),
        };
        write_row(&plan.feed.columns, self.rows.row(row), has, out);
    }
}

// === impl Mark ===

impl Mark {
    /// As it stands in the dead letter.
    pub(crate) fn to_json(&self, operation: Operation) -> String {
        let claim = serde_json::json!({
            "principal": &*self.principal,
            "id": &*self.id,
            "chunk": self.chunk,
            "operation": operation.as_str(),
        });
        claim.to_string()
    }
}

// === impl Method ===

impl Method {
    pub(crate) const ALL: [Self; 5] = [
        Self::Unnest,
        Self::Copy,
        Self::CopyStage,
        Self::Careful,
        Self::Rows,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unnest => "unnest",
            Self::Copy => "copy",
            Self::CopyStage => "copy_stage",
            Self::Careful => "careful",
            Self::Rows => "rows",
        }
    }
}

// === impl Stored ===

impl Stored {
    /// The stored rows of `table`, in order.
    pub(crate) fn rows<'a>(&'a self, table: &'a Table) -> Vec<&'a [Value]> {
        match self {
            Self::All => table.rows().collect(),
            Self::Rows(places) => places.iter().map(|at| table.row(*at as usize)).collect(),
        }
    }
}

// === impl Failure ===

impl Failure {
    /// What an error means that no row is to blame for.
    pub(crate) fn of(error: Error) -> Self {
        match blame(&error) {
            Blame::Feed | Blame::FeedOrRow => Self::Suspend(error),
            Blame::Nobody | Blame::Row => Self::Again(error),
        }
    }
}

/// Who is to blame for an error, by its SQLSTATE.
pub(crate) fn blame(error: &Error) -> Blame {
    let sqlstate = match error {
        Error::Database { sqlstate, .. } => sqlstate.as_str(),
        // Refused at the door: a wrong password or a missing database is nobody's fault but the settings'; a server that
        // starts up is none at all. Either way the rows wait.
        Error::Unsupported { .. } | Error::Config { .. } => return Blame::Feed,
        Error::Connect {
            sqlstate: Some(sqlstate),
            ..
        } if !is_transient(sqlstate) => return Blame::Feed,
        // A value that could not be put on the wire.
        Error::Parameter { .. } | Error::TooLarge { .. } | Error::BadRequest(_) => return Blame::Row,
        _ => return Blame::Nobody,
    };
    match sqlstate.get(..2).unwrap_or_default() {
        _ if is_transient(sqlstate) => Blame::Nobody,
        _ if sqlstate == "42501" => Blame::FeedOrRow,
        "28" | "3D" | "3F" | "42" => Blame::Feed,
        _ => Blame::Row,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sqlstate: &str, expected: Blame) {
        let error = Error::Database {
            sqlstate: sqlstate.to_owned(),
            message: String::new(),
            object: None,
            source: None,
        };
        assert_eq!(blame(&error), expected, "{sqlstate}");
    }

    #[test]
    fn every_class_has_somebody_to_blame() {
        for sqlstate in [
            "08006", "25006", "40001", "40P01", "53100", "53300", "55P03", "57P01", "57014", "58030",
        ] {
            check(sqlstate, Blame::Nobody);
        }
        for sqlstate in ["28P01", "3D000", "3F000", "42P01", "42703", "42804"] {
            check(sqlstate, Blame::Feed);
        }
        check("42501", Blame::FeedOrRow);
        for sqlstate in [
            "22003", "22P02", "23502", "23505", "23514", "P0001", "54001", "XX000", "21000",
        ] {
            check(sqlstate, Blame::Row);
        }
        assert_eq!(blame(&Error::Lost(String::new())), Blame::Nobody);
        assert_eq!(blame(&Error::PoolClosed), Blame::Nobody);
    }
}
