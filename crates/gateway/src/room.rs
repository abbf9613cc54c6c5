//! What a room may keep for those who join it, chosen by the pattern its name matches.

use std::time::Duration;

/// Options of the rooms that match one pattern. All are off by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomOptions {
    /// The newest n messages of each conflation key come with the join; messages without a key share one.
    pub last: usize,
    /// Conflation keys kept for that; the oldest goes first. Default 10,000.
    pub keys_max: usize,
    /// Keep who is in.
    pub presence: bool,
    /// How long a lost session still counts as present. Default 10 s.
    pub presence_grace: Duration,
    /// Publish event `presence` to the room when users come and go, at most once a second. Default off.
    pub join_leave_events: bool,
    /// Messages of history. Default 0.
    pub history_messages: usize,
    /// Their greatest age. Default 1 h.
    pub history_age: Duration,
}

impl Default for RoomOptions {
    fn default() -> Self {
        Self {
            last: 0,
            keys_max: 10_000,
            presence: false,
            presence_grace: Duration::from_secs(10),
            join_leave_events: false,
            history_messages: 0,
            history_age: Duration::from_secs(3_600),
        }
    }
}

impl RoomOptions {
    /// Whether a room of this kind is worth keeping while nobody is in it.
    pub(crate) const fn keeps_messages(&self) -> bool {
        self.last > 0 || self.history_messages > 0
    }
}
