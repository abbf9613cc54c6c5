//! What became of rows: the answer to a request, and what is kept with each claim.

use serde::{Deserialize, Serialize};

use crate::row::Rejected;

/// Most rows that each list of an answer names; the totals count all.
pub const LIST_MAX: usize = 1_000;
/// Most bytes of the database's message about one row.
pub(crate) const MESSAGE_BYTES_MAX: usize = 1_000;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Always `true`: whatever is not well is listed below.
    pub ok: bool,
    /// The request's id, ours if it came without one.
    pub id: String,
    /// How durable its rows are.
    pub state: State,
    /// Rows stored or changed. For spooled chunks: rows that wait to be.
    pub stored: u64,
    /// Rows whose key was there already, or came again in the same batch: the feed's `on_conflict` decided.
    pub duplicates: u64,
    /// Rows to change or remove that were not there.
    pub missing: u64,
    /// Rows that do not fit the feed. They are stored nowhere and not acknowledged.
    pub rejected: Vec<Rejected>,
    /// Rows that the database refused. They are in the dead-letter table and acknowledged.
    pub dead_lettered: Vec<DeadRow>,
    /// Number of rejected rows, when the list is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected_total: Option<u64>,
    /// Number of dead-lettered rows, when the list is cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_lettered_total: Option<u64>,
}

/// How durable rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// All of them on the primary.
    Committed,
    /// Some of them in this node's spool: they will be committed once, or dead-lettered.
    Spooled,
}

/// A row that the database refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadRow {
    /// Its number in the whole request.
    pub row: u64,
    /// Why, in five characters.
    pub sqlstate: String,
    /// Why, in the database's words.
    pub message: String,
}

/// What became of one chunk; kept with its claim when it is not simply "all stored".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChunkOutcome {
    pub(crate) stored: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) duplicates: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) missing: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) dead: Vec<DeadRow>,
    /// Only on this node: the chunk waits in the spool.
    #[serde(skip)]
    pub(crate) is_spooled: bool,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

// === impl Outcome ===

impl Outcome {
    pub(crate) fn new(id: &str, rejected: Vec<Rejected>, n_rejected: u64) -> Self {
        let is_cut = n_rejected > rejected.len() as u64;
        Self {
            ok: true,
            id: id.to_owned(),
            state: State::Committed,
            stored: 0,
            duplicates: 0,
            missing: 0,
            rejected,
            dead_lettered: Vec::new(),
            rejected_total: is_cut.then_some(n_rejected),
            dead_lettered_total: None,
        }
    }

    pub(crate) fn add(&mut self, chunk: ChunkOutcome) {
        if chunk.is_spooled {
            self.state = State::Spooled;
        }
        self.stored += chunk.stored;
        self.duplicates += chunk.duplicates;
        self.missing += chunk.missing;
        let listed = self.dead_lettered.len();
        let total = self.dead_lettered_total.unwrap_or(listed as u64) + chunk.dead.len() as u64;
        self.dead_lettered
            .extend(chunk.dead.into_iter().take(LIST_MAX - listed));
        self.dead_lettered_total = (total > self.dead_lettered.len() as u64).then_some(total);
    }
}

// === impl ChunkOutcome ===

impl ChunkOutcome {
    /// All rows stored.
    pub(crate) fn all(n_rows: usize) -> Self {
        Self {
            stored: n_rows as u64,
            ..Self::default()
        }
    }

    /// Whether the claim alone says it: nothing else needs to be kept.
    pub(crate) fn is_all(&self, n_rows: usize) -> bool {
        *self == Self::all(n_rows)
    }
}

// === impl DeadRow ===

impl DeadRow {
    pub(crate) fn new(row: u64, sqlstate: &str, message: &str) -> Self {
        Self {
            row,
            sqlstate: sqlstate.to_owned(),
            message: message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)].to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_cut_and_counted() {
        let dead = |n: u64| ChunkOutcome {
            dead: (0..n).map(|row| DeadRow::new(row, "23505", "twice")).collect(),
            ..ChunkOutcome::default()
        };
        let mut outcome = Outcome::new("a", Vec::new(), 0);
        outcome.add(dead(600));
        assert_eq!(
            (outcome.dead_lettered.len(), outcome.dead_lettered_total),
            (600, None)
        );
        outcome.add(dead(600));
        assert_eq!(
            (outcome.dead_lettered.len(), outcome.dead_lettered_total),
            (1_000, Some(1_200))
        );
        outcome.add(dead(5));
        assert_eq!(
            (outcome.dead_lettered.len(), outcome.dead_lettered_total),
            (1_000, Some(1_205))
        );
    }

    #[test]
    fn answers_have_the_shape_of_the_contract() {
        let mut outcome = Outcome::new("a", Vec::new(), 3);
        outcome.add(ChunkOutcome::all(2));
        let text = serde_json::to_string(&outcome).unwrap();
        let expected = r#"{"ok":true,"id":"a","state":"committed","stored":2,"duplicates":0,"missing":0,"rejected":[],"dead_lettered":[],"rejected_total":3}"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn kept_outcomes_are_small_and_read_again() {
        let outcome = ChunkOutcome {
            stored: 1,
            dead: vec![DeadRow::new(7, "22003", &"é".repeat(1_000))],
            ..ChunkOutcome::default()
        };
        let text = serde_json::to_string(&outcome).unwrap();
        assert_eq!(serde_json::from_str::<ChunkOutcome>(&text).unwrap(), outcome);
        assert_eq!(
            serde_json::to_string(&ChunkOutcome::all(3)).unwrap(),
            r#"{"stored":3}"#
        );
    }
}
