//! Whether the declaration of a feed is sound in itself, before any database is asked.

use std::collections::HashSet;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::feed::{Column, Feed, OnConflict, Partition};
use crate::schema::rollup;
use crate::value::Type;

/// Most columns of a feed: below PostgreSQL's own limit for any mix of types.
const COLUMNS_MAX: usize = 250;
/// Most bytes of an identifier; PostgreSQL would cut longer ones silently.
const IDENTIFIER_BYTES_MAX: usize = 63;
/// Most bytes of a row that a feed may allow.
const ROW_BYTES_LIMIT: usize = 16 << 20;
const HOUR: Duration = Duration::from_secs(3_600);

type Check = std::result::Result<(), String>;

impl Feed {
    /// Says whether the declaration is sound in itself: names, key, conflicts, tags, partition and roll-ups.
    ///
    /// # Errors
    /// [`Error::Config`] naming the feed and what is wrong.
    pub fn check(&self) -> Result<()> {
        let checks = [
            Self::check_name,
            Self::check_table,
            Self::check_columns,
            Self::check_key,
            Self::check_tags,
            Self::check_partition,
            Self::check_limits,
            Self::check_rollups,
        ];
        checks
            .iter()
            .try_for_each(|check| check(self))
            .map_err(|problem| Error::Config {
                what: format!("feed {}", self.name),
                problem,
            })?;
        self.rollups
            .iter()
            .try_for_each(|rollup| rollup::check(self, rollup))
    }

    /// A number that changes when the shape of its rows or their way into the table does: table, columns, key and what
    /// happens on conflict. The same over restarts and machines.
    #[must_use]
    pub fn version(&self) -> u64 {
        let mut digest = Sha256::new();
        add(&mut digest, self.table.as_bytes());
        add(&mut digest, self.on_conflict.as_str().as_bytes());
        for column in &self.columns {
            add(&mut digest, column.name.as_bytes());
            add(&mut digest, column.kind.to_string().as_bytes());
            add(&mut digest, &[u8::from(column.not_null)]);
        }
        for name in &self.key {
            add(&mut digest, name.as_bytes());
        }
        let hash: [u8; 32] = digest.finalize().into();
        let (first, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
        u64::from_le_bytes(*first)
    }

    fn check_name(&self) -> Check {
        let is_word = self
            .name
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'));
        ensure(is_word && (1..=64).contains(&self.name.len()), || {
            "name: 1 to 64 of a-z, 0-9, _ and -".to_owned()
        })
    }

    fn check_table(&self) -> Check {
        table_name(&self.table)
    }

    fn check_columns(&self) -> Check {
        ensure((1..=COLUMNS_MAX).contains(&self.columns.len()), || {
            format!("{} columns, 1 to {COLUMNS_MAX} allowed", self.columns.len())
        })?;
        for column in &self.columns {
            ensure(!column.name.starts_with("tidegate_"), || {
                format!(
                    "column {:?}: names that begin with tidegate_ are ours",
                    column.name
                )
            })?;
            identifier(&column.name).map_err(|problem| format!("column {:?}: {problem}", column.name))?;
        }
        match repeated(self.columns.iter().map(|column| column.name.as_str())) {
            Some(name) => Err(format!("column {name:?} is declared twice")),
            None => Ok(()),
        }
    }

    fn check_key(&self) -> Check {
        for name in &self.key {
            let column = self.known(name).map_err(|problem| format!("key: {problem}"))?;
            ensure(!matches!(column.kind, Type::Jsonb | Type::Array(_)), || {
                format!("key column {name:?}: {} cannot name a row", column.kind)
            })?;
        }
        if let Some(name) = repeated(self.key.iter().map(String::as_str)) {
            return Err(format!("key column {name:?} is named twice"));
        }
        ensure(
            !self.key.is_empty() || self.on_conflict == OnConflict::Error,
            || format!("on_conflict = {:?} needs a key", self.on_conflict.as_str()),
        )
    }

    fn check_tags(&self) -> Check {
        for tag in &self.tags {
            for name in tag.names() {
                self.known(name)
                    .map_err(|problem| format!("tag {:?}: {problem}", tag.source()))?;
            }
        }
        Ok(())
    }

    fn check_partition(&self) -> Check {
        let Some(Partition { column, every, .. }) = &self.partition else {
            return ensure(self.retain.is_none(), || {
                "retain needs a partition column".to_owned()
            });
        };
        let declared = self
            .known(column)
            .map_err(|problem| format!("partition: {problem}"))?;
        ensure(is_time(&declared.kind), || {
            format!(
                "partition column {column:?} is {}, not timestamptz or date",
                declared.kind
            )
        })?;
        ensure(self.key.is_empty() || self.key.contains(column), || {
            format!("the key must contain the partition column {column:?}")
        })?;
        ensure(*every >= HOUR && every.subsec_nanos() == 0, || {
            format!("partition.every = {every:?}: whole seconds, at least an hour")
        })?;
        ensure(self.manage, || "partition needs manage = true".to_owned())
    }

    fn check_limits(&self) -> Check {
        ensure((2..=ROW_BYTES_LIMIT).contains(&self.row_bytes_max), || {
            format!("row_bytes_max = {}: 2 to {ROW_BYTES_LIMIT}", self.row_bytes_max)
        })?;
        ensure(self.rows_per_second_max != Some(0), || {
            "rows_per_second_max = 0: at least 1, or none".to_owned()
        })?;
        ensure(self.retain.is_none_or(|retain| retain >= HOUR), || {
            "retain: at least an hour".to_owned()
        })
    }

    fn check_rollups(&self) -> Check {
        if let Some(name) = repeated(self.rollups.iter().map(|rollup| rollup.name.as_str())) {
            return Err(format!("roll-up {name:?} is declared twice"));
        }
        if let Some(table) = repeated(self.rollups.iter().map(|rollup| rollup.table.as_str())) {
            return Err(format!("two roll-ups use table {table:?}"));
        }
        Ok(())
    }

    fn known(&self, name: &str) -> std::result::Result<&Column, String> {
        self.column(name)
            .map(|at| &self.columns[at])
            .ok_or_else(|| format!("column {name:?} is not declared"))
    }
}

/// The length first, so that the borders of parts count.
fn add(digest: &mut Sha256, part: &[u8]) {
    digest.update((part.len() as u64).to_le_bytes());
    digest.update(part);
}

fn ensure(is_right: bool, problem: impl FnOnce() -> String) -> Check {
    if is_right { Ok(()) } else { Err(problem()) }
}

fn is_time(kind: &Type) -> bool {
    matches!(kind, Type::Timestamptz | Type::Date)
}

/// `ticks` or `market.ticks`, outside of our own schema.
fn table_name(name: &str) -> Check {
    let (schema, table) = match name.split_once('.') {
        Some((schema, table)) => (Some(schema), table),
        None => (None, name),
    };
    let is_ours = schema == Some("tidegate") || table.starts_with("tidegate_");
    ensure(!is_ours, || {
        format!("table {name:?}: names of tidegate's own objects")
    })?;
    let parts = schema.into_iter().chain([table]);
    let mut checked = parts.map(|part| {
        identifier(part)?;
        ensure(!part.contains('.'), || "at most one dot".to_owned())
    });
    checked
        .try_for_each(|part| part)
        .map_err(|problem| format!("table {name:?}: {problem}"))
}

fn identifier(name: &str) -> Check {
    let is_right = (1..=IDENTIFIER_BYTES_MAX).contains(&name.len())
        && !name
            .chars()
            .any(|c| c.is_control() || matches!(c, '"' | '{' | '}'));
    ensure(is_right, || {
        format!("1 to {IDENTIFIER_BYTES_MAX} bytes without quotes, braces and control characters")
    })
}

fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::{Aggregate, Bucket, Measure, Rollup};
    use crate::template::Template;

    fn feed() -> Feed {
        let column = |(name, kind): (&str, &str)| Column {
            name: name.to_owned(),
            kind: Type::parse(kind).unwrap(),
            not_null: false,
        };
        let columns = [
            ("id", "int8"),
            ("at", "timestamptz"),
            ("day", "date"),
            ("word", "text"),
            ("doc", "jsonb"),
        ];
        Feed {
            name: "ticks".to_owned(),
            table: "market.ticks".to_owned(),
            columns: columns.map(column).to_vec(),
            key: vec!["id".to_owned(), "at".to_owned()],
            on_conflict: OnConflict::Ignore,
            tags: vec![Template::parse("ticks:{word}").unwrap()],
            retain: Some(24 * HOUR),
            manage: true,
            partition: Some(Partition {
                column: "at".to_owned(),
                every: 24 * HOUR,
                timescale: false,
            }),
            rollups: vec![Rollup {
                name: "daily".to_owned(),
                table: "ticks_daily".to_owned(),
                group: vec!["word".to_owned()],
                bucket: Some(Bucket {
                    column: "day".to_owned(),
                    every: 24 * HOUR,
                }),
                measures: vec![
                    measure(Aggregate::Count, None, "n"),
                    measure(Aggregate::Sum, Some("id"), "ids"),
                ],
            }],
            row_bytes_max: 1_000,
            rows_per_second_max: Some(10),
        }
    }

    fn measure(how: Aggregate, column: Option<&str>, into: &str) -> Measure {
        Measure {
            how,
            column: column.map(ToOwned::to_owned),
            into: into.to_owned(),
        }
    }

    /// What is said of a sound feed after a change; empty: it is still sound.
    fn check(change: impl FnOnce(&mut Feed), expected: &str) {
        let mut feed = feed();
        change(&mut feed);
        let said = feed
            .check()
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        assert_eq!(said.is_empty(), expected.is_empty(), "{said}");
        assert!(said.contains(expected), "{said:?} says nothing of {expected:?}");
    }

    #[test]
    fn names_are_checked() {
        check(|_| {}, "");
        check(|feed| feed.name = "Ticks".to_owned(), "feed Ticks: name");
        check(|feed| feed.table = "a.b.c".to_owned(), "at most one dot");
        check(|feed| feed.table = "tidegate.claims".to_owned(), "own objects");
        check(
            |feed| feed.table = "x\"; DROP TABLE y".to_owned(),
            "without quotes",
        );
        check(|feed| feed.columns[0].name = "x".repeat(64), "1 to 63 bytes");
        check(|feed| feed.columns[0].name = "at".to_owned(), "declared twice");
        check(|feed| feed.columns.clear(), "0 columns");
    }

    #[test]
    fn keys_name_columns_that_can_name_rows() {
        check(
            |feed| feed.key.push("lost".to_owned()),
            "key: column \"lost\" is not declared",
        );
        check(|feed| feed.key.push("id".to_owned()), "named twice");
        check(|feed| feed.key.push("doc".to_owned()), "cannot name a row");
        let no_key = |feed: &mut Feed| feed.key.clear();
        check(no_key, "on_conflict = \"ignore\" needs a key");
        check(
            |feed| feed.key = vec!["id".to_owned()],
            "must contain the partition column",
        );
    }

    #[test]
    fn partitions_and_retention_fit() {
        check(
            |feed| feed.partition.as_mut().unwrap().column = "word".to_owned(),
            "is text",
        );
        check(
            |feed| feed.partition.as_mut().unwrap().every = HOUR / 2,
            "at least an hour",
        );
        check(|feed| feed.partition = None, "retain needs");
        check(|feed| feed.manage = false, "needs manage");
        check(|feed| feed.row_bytes_max = 0, "row_bytes_max = 0");
        check(
            |feed| feed.rows_per_second_max = Some(0),
            "rows_per_second_max = 0",
        );
        check(
            |feed| feed.tags = vec![Template::parse("{no}").unwrap()],
            "tag \"{no}\": column \"no\"",
        );
    }

    #[test]
    fn rollups_fit_their_columns() {
        let rollup = |change: fn(&mut Rollup), expected| check(|feed| change(&mut feed.rollups[0]), expected);
        rollup(|it| it.table = "market.ticks".to_owned(), "the feed's own");
        rollup(|it| it.group.push("lost".to_owned()), "\"lost\" is not a column");
        rollup(|it| it.bucket.as_mut().unwrap().every = HOUR, "whole days");
        rollup(|it| it.measures.clear(), "at least one measure");
        rollup(
            |it| it.measures[1].column = Some("word".to_owned()),
            "no Sum of text",
        );
        rollup(|it| it.measures[1].column = None, "needs a column");
        rollup(
            |it| it.measures[1].into = "word".to_owned(),
            "are called \"word\"",
        );
        rollup(
            |it| (it.measures[1].how, it.bucket) = (Aggregate::Last, None),
            "needs a bucket",
        );
        check(
            |feed| feed.rollups.push(feed.rollups[0].clone()),
            "declared twice",
        );
    }

    #[test]
    fn the_version_follows_the_shape_of_rows() {
        let version = feed().version();
        assert_eq!(feed().version(), version);
        let changes: [fn(&mut Feed); 4] = [
            |feed| feed.table.push('x'),
            |feed| feed.columns[3].kind = Type::Jsonb,
            |feed| feed.key.truncate(1),
            |feed| feed.on_conflict = OnConflict::Update,
        ];
        for change in changes {
            let mut changed = feed();
            change(&mut changed);
            assert_ne!(changed.version(), version);
        }
        let mut same = feed();
        same.rollups.clear();
        assert_eq!(same.version(), version);
    }
}
