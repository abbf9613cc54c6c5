//! Telling others of rows: tags after each commit, rows once when they are durable.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::backend::{Chunk, Stored};
use super::lane::Ended;
use crate::feed::{Feed, OnConflict, Operation};
use crate::hook::{Commit, CommitHook, Fanout};
use crate::row::write_value;
use crate::value::{Type, Value};

/// What is attached to rows that become durable.
#[derive(Clone, Default)]
pub struct Hooks {
    /// Called after every commit, in this order.
    pub commit: Vec<Arc<dyn CommitHook>>,
    /// Gets each row once.
    pub fanout: Option<Arc<dyn Fanout>>,
}

impl Hooks {
    /// Tells the commit hooks of what one commit stored.
    pub(super) fn committed<'a>(
        &self,
        feed: &Feed,
        stored: impl Iterator<Item = (&'a Chunk, &'a Stored)>,
        is_replay: bool,
    ) {
        if self.commit.is_empty() {
            return;
        }
        let mut tags = FxHashSet::default();
        let (mut n_rows, mut is_change) = (0, false);
        for (chunk, stored) in stored {
            let rows = stored.rows(&chunk.rows);
            n_rows += rows.len();
            is_change |= !rows.is_empty() && may_change(feed, chunk.operation);
            for row in rows {
                tags.extend(
                    feed.tags
                        .iter()
                        .map(|tag| tag.render(|name, text| write_column(feed, row, name, text))),
                );
            }
        }
        if n_rows == 0 {
            return;
        }
        let tags: Vec<String> = tags.into_iter().collect();
        let commit = Commit {
            feed,
            tags: &tags,
            n_rows,
            is_change,
            is_replay,
        };
        for hook in &self.commit {
            unharmed(feed, || hook.committed(&commit));
        }
    }

    pub(super) fn fan_out(&self, ended: &Ended) {
        let (Some(fanout), Some((stored, how))) = (&self.fanout, &ended.durable) else {
            return;
        };
        let rows = stored.rows(&ended.chunk.rows);
        if !rows.is_empty() {
            let feed = &ended.plan.feed;
            unharmed(feed, || fanout.stored(feed, ended.chunk.operation, &rows, *how));
        }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks")
            .field("n_commit", &self.commit.len())
            .field("has_fanout", &self.fanout.is_some())
            .finish()
    }
}

/// Runs foreign code: its panic must not stop the rows of its feed.
fn unharmed(feed: &Feed, call: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(call)).is_err() {
        tracing::error!(feed = %feed.name, "a hook of the feed panicked");
    }
}

/// Whether an operation can meet a row that was there before.
fn may_change(feed: &Feed, operation: Operation) -> bool {
    match operation {
        Operation::Insert => feed.on_conflict == OnConflict::Update,
        Operation::Upsert | Operation::Update | Operation::Delete => true,
    }
}

fn write_column(feed: &Feed, row: &[Value], name: &str, text: &mut String) {
    if let Some(at) = feed.column(name) {
        write_tag(&feed.columns[at].kind, &row[at], text);
    }
}

/// A value as text in a tag: texts as they are, all others as JSON without quotes.
pub(crate) fn write_tag(kind: &Type, value: &Value, text: &mut String) {
    if let Value::Text(value) = value {
        text.push_str(value);
        return;
    }
    let mut json = Vec::new();
    write_value(kind, value, &mut json);
    text.push_str(String::from_utf8_lossy(&json).trim_matches('"'));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::testing;
    use crate::row::Table;
    use crate::template::Template;

    #[test]
    fn tags_show_values_as_people_write_them() {
        let mut feed = testing::feed("a:int4 b:text c:numeric d:date", OnConflict::Error);
        feed.tags = vec![Template::parse("x:{a}:{b}:{c}:{d}").unwrap()];
        let mut table = Table::new(4);
        table.push([
            Value::Int(7),
            Value::Text("é\"".into()),
            Value::Numeric("1.50".into()),
            Value::Date(0),
        ]);
        table.push([Value::Null, Value::Null, Value::Null, Value::Null]);
        let render = |row: &[Value]| feed.tags[0].render(|name, text| write_column(&feed, row, name, text));
        let texts: Vec<String> = table.rows().map(render).collect();
        assert_eq!(texts, ["x:7:é\":1.50:1970-01-01", "x:null:null:null:null"]);
    }
}
