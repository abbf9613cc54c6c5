//! The remote level: Redis or Valkey, shared by all nodes, whose tags it carries between them.
//!
//! ```text
//! {prefix}v:{key}   a value, with the token of each of its tags as it was before the load began
//! {prefix}t:{tag}   the tag's token, random, replaced by each invalidation;  {prefix}t: (no tag) stands for all
//! ```
//!
//! - A value counts only while the tokens in it are those of its tags: both are read in one `MGET`. So a load that began
//!   before an invalidation on any node never passes for a fresh value, whether or not its tags were pushed.
//! - A token that is not there never matches; whoever misses it makes a new one. So a server that evicts, restarts empty or
//!   is flushed costs loads alone. One that restarts with older data has another run id, which values carry too.
//! - Every node tracks the tags' prefix (`CLIENT TRACKING ON BCAST`): an invalidation elsewhere is pushed and raises the
//!   tag here, which drops values in memory and on disk. When the connection is lost, pushes are: then values with tags
//!   count for [`RemoteConfig::staleness_max`] more, and all of them are dropped when it is back.
//! - An invalidation that Redis did not confirm is kept and sent when it is back; until then this node does not read
//!   values of those tags from it.
//!
//! No request fails because Redis does: a call that takes longer than its deadline is a miss, and after a few in a row the
//! connection is given up and made anew, with a growing pause.

use std::time::Duration;

#[cfg(feature = "remote")]
mod codec;
#[cfg(feature = "remote")]
mod link;
#[cfg(feature = "remote")]
mod pending;

#[cfg(feature = "remote")]
pub(crate) use link::{Fetched, Remote, Ticket};

#[cfg(feature = "remote")]
use crate::error::{Error, Result};

/// Where the remote level is, and how long it may take.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteConfig {
    /// `redis://[user:password@]host:port[/database]` or `redis+unix:///path`.
    pub url: String,
    /// Stands before each key; caches that share values have the same. Default `tg:{name of the cache}:`.
    pub prefix: Option<String>,
    /// A call that takes longer is a miss; default 50 ms.
    pub deadline: Duration,
    /// How long values with tags count while the connection is lost; default 5 s. With the time to notice a silent loss
    /// (`ping` and `deadline`) it bounds how long an invalidation by another node may be missed here.
    pub staleness_max: Duration,
    /// How often an idle connection is tried; default 1 s.
    pub ping: Duration,
    /// Most bytes of a value that is stored or taken; default 1 MiB.
    pub value_bytes_max: usize,
    /// Longest time a value is kept there; default 1 day. Tags are kept twice as long.
    pub ttl_max: Duration,
    /// Calls in a row that may fail before the connection is given up; default 3.
    pub failures_max: u32,
    /// Pause before the second attempt to connect, doubled up to `pause_max`; defaults 100 ms and 5 s.
    pub pause_min: Duration,
    /// See `pause_min`.
    pub pause_max: Duration,
    /// Most unconfirmed tags kept by name; beyond them all tags are invalidated. Default 10,000.
    pub pending_max: usize,
    /// Most values being stored at a time; more are dropped. Default 64.
    pub puts_max: usize,
}

/// What the remote level is and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Whether it can be asked now.
    pub is_connected: bool,
    /// Connections made.
    pub connects: u64,
    /// Values stored.
    pub puts: u64,
    /// Values not stored because too many were being stored, or they were too large.
    pub puts_dropped: u64,
    /// Calls that took too long.
    pub timeouts: u64,
    /// Calls that failed otherwise, connections included.
    pub errors: u64,
    /// Values that were there and damaged, too large, or of another run of the server.
    pub refused: u64,
    /// Tags invalidated by other nodes.
    pub pushed: u64,
    /// Tags whose invalidation is not yet confirmed.
    pub pending: usize,
}

// === impl RemoteConfig ===

impl RemoteConfig {
    /// The usual bounds, at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            prefix: None,
            deadline: Duration::from_millis(50),
            staleness_max: Duration::from_secs(5),
            ping: Duration::from_secs(1),
            value_bytes_max: 1 << 20,
            ttl_max: Duration::from_secs(86_400),
            failures_max: 3,
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(5),
            pending_max: 10_000,
            puts_max: 64,
        }
    }

    #[cfg(feature = "remote")]
    pub(crate) fn check(&self) -> Result<()> {
        let positive = [
            ("remote.deadline", self.deadline),
            ("remote.ping", self.ping),
            ("remote.ttl_max", self.ttl_max),
            ("remote.pause_min", self.pause_min),
        ];
        for (key, value) in positive {
            if value < Duration::from_millis(1) {
                return Err(Error::config(key, &format!("{value:?}"), "at least 1 ms"));
            }
        }
        if self.pause_max < self.pause_min {
            let allowed = format!("at least pause_min, {:?}", self.pause_min);
            return Err(Error::config(
                "remote.pause_max",
                &format!("{:?}", self.pause_max),
                allowed,
            ));
        }
        for (key, value) in [
            ("remote.pending_max", self.pending_max),
            ("remote.puts_max", self.puts_max),
            ("remote.failures_max", self.failures_max as usize),
        ] {
            if value == 0 {
                return Err(Error::config(key, &value, "at least 1"));
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for RemoteConfig {
    /// Without the address, which may contain a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteConfig")
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .field("staleness_max", &self.staleness_max)
            .finish_non_exhaustive()
    }
}
