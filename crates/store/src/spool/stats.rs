//! What waits in the spool, for statistics, `check` and the verbs.

/// What waits in the spool.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Rows that wait.
    pub rows: u64,
    /// Records that wait.
    pub records: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// Most bytes of the files.
    pub bytes_max: u64,
    /// Age of the oldest record that waits, in milliseconds.
    pub oldest_age_ms: Option<u64>,
    /// Records that the disk damaged since the spool was opened, and those found damaged then. They are lost.
    pub damaged_records: u64,
    /// What the folder lies on: `ordinary`, `memory`, `overlay` (it ends with the container) or `network`.
    pub disk: &'static str,
    /// Feeds of which something waits, by name.
    pub feeds: Vec<FeedStats>,
}

/// What waits of one feed.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct FeedStats {
    /// Its name, even when no such feed is declared any more.
    pub feed: String,
    /// Rows that wait.
    pub rows: u64,
    /// Records that wait.
    pub records: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// When the oldest record was spooled, in unix milliseconds.
    pub oldest_at_ms: Option<u64>,
    /// Records that the disk damaged.
    pub damaged_records: u64,
}
