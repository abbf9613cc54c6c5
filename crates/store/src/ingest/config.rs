//! How rows are batched, how long they wait, and what is bounded.

use std::time::Duration;

use crate::error::{Error, Result};

/// Settings of [`super::Ingest`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Most rows of all feeds that wait to be stored; default 50,000. At four fifths of it a warning is logged.
    pub backlog_rows_max: usize,
    /// Most rows of one commit; default 20,000, from 1,000 to 50,000.
    pub batch_rows_max: usize,
    /// Most bytes of values in one commit; default 64 MiB. A single chunk may be larger.
    pub batch_bytes_max: usize,
    /// How long rows wait for company while others are being stored, until 1,000 are there; default 2 ms.
    pub delay: Duration,
    /// Connections that one feed without key and roll-ups may use at a time; default 2, from 1 to 4. Others use one, so
    /// that their rows keep their order.
    pub writers: usize,
    /// How long a batch is tried while the database is away, before its rows go to the spool or, without one, are
    /// refused; default 2 s.
    pub patience: Duration,
    /// How long a commit may take before its connection is given up; default 60 s.
    pub commit_timeout: Duration,
    /// How long a suspended feed waits before it is tried again; default 5 s.
    pub resume_after: Duration,
    /// How long claims are kept, that is how late a resend may come; default 7 days, at least an hour.
    pub claims_keep: Duration,
    /// Most producers of one feed whose quota is remembered; default 10,000.
    pub producers_max: usize,
    /// Where rows wait while the database is away; without it they are refused.
    #[cfg(feature = "spool")]
    pub spool: Option<crate::spool::Config>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backlog_rows_max: 50_000,
            batch_rows_max: 20_000,
            batch_bytes_max: 64 << 20,
            delay: Duration::from_millis(2),
            writers: 2,
            patience: Duration::from_secs(2),
            commit_timeout: Duration::from_secs(60),
            resume_after: Duration::from_secs(5),
            claims_keep: Duration::from_secs(7 * 86_400),
            producers_max: 10_000,
            #[cfg(feature = "spool")]
            spool: None,
        }
    }
}

impl Config {
    /// Says whether all settings are in range.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting and its range.
    pub fn check(&self) -> Result<()> {
        let range = |name: &str, is_right: bool, range: &str| match is_right {
            true => Ok(()),
            false => Err(Error::Config {
                what: format!("ingest.{name}"),
                problem: range.to_owned(),
            }),
        };
        range(
            "backlog_rows_max",
            (1_000..=10_000_000).contains(&self.backlog_rows_max),
            "1,000 to 10,000,000",
        )?;
        range(
            "batch_rows_max",
            (1_000..=50_000).contains(&self.batch_rows_max),
            "1,000 to 50,000",
        )?;
        range(
            "batch_bytes_max",
            self.batch_bytes_max >= 1 << 20,
            "at least 1 MiB",
        )?;
        range("delay", self.delay <= Duration::from_secs(1), "at most 1 s")?;
        range("writers", (1..=4).contains(&self.writers), "1 to 4")?;
        range(
            "patience",
            self.patience <= Duration::from_secs(300),
            "at most 5 minutes",
        )?;
        range(
            "commit_timeout",
            self.commit_timeout >= Duration::from_secs(1),
            "at least 1 s",
        )?;
        range(
            "claims_keep",
            self.claims_keep >= Duration::from_secs(3_600),
            "at least an hour",
        )?;
        range("producers_max", self.producers_max > 0, "at least 1")
    }
}
