//! What others may attach to rows that became durable.

use crate::{feed::Feed, value::Value};

/// Rows of one commit.
#[derive(Debug)]
pub struct Commit<'a> {
    /// The feed.
    pub feed: &'a Feed,
    /// What the stored rows invalidate: the feed's tags filled from them, without repetition.
    pub tags: &'a [String],
    /// Rows stored or changed; of rows that were stored before, all that were sent again; of rows of which it is not
    /// known, all.
    pub n_rows: usize,
    /// Whether rows may have been changed or removed: what they held before is not known, so tags of columns outside the
    /// key do not name all that is void.
    pub is_change: bool,
    /// Whether they came from the spool.
    pub is_replay: bool,
}

/// Called after every commit, replay included, before the rows are acknowledged; for rows sent again too, because whoever
/// stored them may have ended before telling anybody, and for rows that were given up or sent to the spool after a commit
/// whose answer was lost, because they may be stored all the same. Must not block.
pub trait CommitHook: Send + Sync {
    /// Rows were committed.
    fn committed(&self, commit: &Commit<'_>);
}

/// How rows became durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// On the primary.
    Committed,
    /// In this node's spool, fsynced.
    Spooled,
}

/// Gets each stored row once, when it is durable, in the order of its feed; never on replay, never a duplicate.
/// Must not block.
pub trait Fanout: Send + Sync {
    /// `rows` are as stored: one value per column of the feed. For updates and deletions, `operation` says so and columns
    /// that were not given are null.
    fn stored(&self, feed: &Feed, operation: crate::Operation, rows: &[&[Value]], how: How);
}
