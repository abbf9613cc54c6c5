//! From what is declared and what is there to the statements that are missing.

use crate::{
    error::{Error, Result},
    feed::{Feed, Rollup},
    kind::Kind,
    schema::{
        catalog::{Live, Shape},
        own, partition,
        rollup::{self, figure_definition, figures},
        sql::{self, literal},
        table,
        timescale::{self, Timescale},
    },
};

/// What a migration does, or did, to one object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// The table or partition.
    pub object: String,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The statements, in order; none for what is there already.
    pub sql: Vec<String>,
}

/// What becomes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was there and got columns, or is filled anew.
    Altered,
    /// It was there and is as it must be.
    Existing,
    /// It was there with other groups and was made anew, which had been asked for.
    Replaced,
}

/// What a plan may do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Drop roll-ups whose groups were changed, and fill them anew. Nothing else is ever dropped.
    pub replace_rollups: bool,
}

/// The steps from what is there to what the feeds declare. Runs of the same plan do nothing more.
///
/// # Errors
/// [`Error::Config`] for a declaration that is not sound, and for a roll-up whose groups were changed.
pub fn plan(live: &Live, feeds: &[Feed], allowed: Allowed, now_micros: i64) -> Result<Vec<Step>> {
    let mut steps = vec![own_step(live)];
    for feed in feeds {
        table::check(feed)?;
        for rollup in &feed.rollups {
            rollup::check(feed, rollup)?;
        }
        steps.extend(feed_step(live, feed));
        steps.extend(partition_steps(live, feed, now_micros));
        for rollup in &feed.rollups {
            steps.extend(rollup_step(live, feed, rollup, allowed)?);
        }
    }
    Ok(steps)
}

fn step(object: &str, outcome: Outcome, sql: Vec<String>) -> Step {
    Step {
        object: object.to_owned(),
        outcome,
        sql,
    }
}

fn own_step(live: &Live) -> Step {
    let mut statements = own::create_sql(live.kind, live.own);
    let outcome = match (statements.is_empty(), live.own) {
        (true, _) => Outcome::Existing,
        (false, 0) => Outcome::Created,
        (false, _) => Outcome::Altered,
    };
    if outcome != Outcome::Existing {
        statements.push(own::record_version_sql(live.kind));
    }
    step("tidegate", outcome, statements)
}

/// The feed's table; none where it is missing and not ours to make.
fn feed_step(live: &Live, feed: &Feed) -> Option<Step> {
    let Some(there) = live.tables.get(&feed.table) else {
        let mut statements = table::create_sql(live.kind, live.timescale, feed);
        statements.extend(timescale::create_sql(live.timescale, feed));
        return feed
            .manage
            .then(|| step(&feed.table, Outcome::Created, statements));
    };
    let new = feed
        .columns
        .iter()
        .filter(|column| feed.manage && there.column(&column.name).is_none());
    let statements: Vec<String> = new
        .map(|column| table::add_column_sql(live.kind, feed, column))
        .collect();
    let outcome = match statements.is_empty() {
        true => Outcome::Existing,
        false => Outcome::Altered,
    };
    Some(step(&feed.table, outcome, statements))
}

/// Partitions of a table that we made, or are about to make.
fn partition_steps(live: &Live, feed: &Feed, now_micros: i64) -> Vec<Step> {
    let is_partitioned = match live.tables.get(&feed.table) {
        Some(there) => there.shape == Shape::Partitioned,
        None => !live.timescale.takes(feed),
    };
    if live.kind != Kind::Postgres || !feed.manage || !is_partitioned {
        return vec![];
    }
    let existing = live.partitions.get(&feed.table).map_or(&[][..], Vec::as_slice);
    let missing = partition::missing(feed, &partition::ahead(feed, now_micros), existing);
    missing
        .iter()
        .map(|range| {
            step(
                &range.relation.quoted(),
                Outcome::Created,
                partition::create_sql(feed, range),
            )
        })
        .collect()
}

fn rollup_step(live: &Live, feed: &Feed, rollup: &Rollup, allowed: Allowed) -> Result<Option<Step>> {
    if !live.tables.contains_key(&feed.table) && !feed.manage {
        // Without its feed's table there is nothing to sum.
        return Ok(None);
    }
    let Some(there) = live.tables.get(&rollup.table) else {
        return Ok(Some(step(
            &rollup.table,
            Outcome::Created,
            create_rollup(live, feed, rollup),
        )));
    };
    if there.shape == Shape::View {
        return Ok(Some(step(&rollup.table, Outcome::Existing, vec![])));
    }
    let groups_changed = match live.rollups.get(&rollup.table) {
        Some(made) => groups_of(&made.definition) != groups_of(&definition(feed, rollup)),
        None => rollup::keys(feed, rollup)
            .iter()
            .any(|key| there.column(key.name).is_none()),
    };
    if groups_changed {
        return replace_rollup(live, feed, rollup, allowed).map(Some);
    }
    let missing = figures(live.kind, feed, rollup)
        .into_iter()
        .filter(|figure| there.column(&figure.name).is_none());
    let mut statements: Vec<String> = missing
        .map(|figure| {
            format!(
                "ALTER TABLE {} ADD COLUMN {}",
                sql::table(&rollup.table),
                figure_definition(live.kind, &figure)
            )
        })
        .collect();
    let is_new = live
        .rollups
        .get(&rollup.table)
        .is_none_or(|made| made.definition != definition(feed, rollup));
    if is_new {
        statements.push(register_sql(live, feed, rollup));
    }
    let outcome = match statements.is_empty() {
        true => Outcome::Existing,
        false => Outcome::Altered,
    };
    Ok(Some(step(&rollup.table, outcome, statements)))
}

fn create_rollup(live: &Live, feed: &Feed, rollup: &Rollup) -> Vec<String> {
    if live.timescale.keeps(feed, rollup) {
        return timescale::aggregate_sql(feed, rollup);
    }
    let mut statements = rollup::create_sql(live.kind, feed, rollup);
    statements.push(register_sql(live, feed, rollup));
    statements
}

fn replace_rollup(live: &Live, feed: &Feed, rollup: &Rollup, allowed: Allowed) -> Result<Step> {
    if !allowed.replace_rollups {
        return Err(Error::Config {
            what: format!("feed {} roll-up {}", feed.name, rollup.name),
            problem: format!(
                "table {} has other groups; name another table, or allow roll-ups to be replaced",
                rollup.table
            ),
        });
    }
    let mut statements = vec![format!("DROP TABLE {}", sql::table(&rollup.table))];
    statements.extend(create_rollup(live, feed, rollup));
    Ok(step(&rollup.table, Outcome::Replaced, statements))
}

/// Writes down of what the roll-up is made. Over a table that is made in the same plan it is complete from the start;
/// otherwise the rows that are there are still to be added.
fn register_sql(live: &Live, feed: &Feed, rollup: &Rollup) -> String {
    let own = own::name(live.kind, "rollup");
    let finished = match (live.tables.contains_key(&feed.table), live.kind) {
        (true, _) => "NULL",
        (false, Kind::Postgres) => "now()",
        (false, Kind::Sqlite) => "unixepoch() * 1000000",
    };
    format!(
        "INSERT INTO {own} (name, feed, definition, finished_at) VALUES ({}, {}, {}, {finished}) \
         ON CONFLICT (name) DO UPDATE SET feed = excluded.feed, definition = excluded.definition, next = NULL, \
         step = NULL, until = NULL, finished_at = excluded.finished_at",
        literal(&rollup.table),
        literal(&feed.name),
        literal(&definition(feed, rollup))
    )
}

/// What a roll-up is made of, as text: its table and groups before the bar, its figures after it.
pub(crate) fn definition(feed: &Feed, rollup: &Rollup) -> String {
    let bucket = rollup
        .bucket
        .iter()
        .map(|bucket| format!("{}/{}s", bucket.column, bucket.every.as_secs()));
    let groups: Vec<String> = rollup.group.iter().cloned().chain(bucket).collect();
    let measures: Vec<String> = rollup
        .measures
        .iter()
        .map(|measure| {
            let of = measure.column.as_deref().unwrap_or("*");
            format!("{} = {:?}({of})", measure.into, measure.how)
        })
        .collect();
    format!(
        "{} by {} | {}",
        feed.table,
        groups.join(", "),
        measures.join(", ")
    )
}

fn groups_of(definition: &str) -> &str {
    definition
        .split_once(" | ")
        .map_or(definition, |(groups, _)| groups)
}

/// Whether the roll-ups of the feed are ours to add to, in the feed's order: a continuous aggregate is not.
#[must_use]
pub fn kept_by_us(live: &Live, feed: &Feed) -> Vec<bool> {
    let is_view = |rollup: &Rollup| {
        let there = live.tables.get(&rollup.table);
        there.is_some_and(|there| there.shape == Shape::View)
    };
    feed.rollups.iter().map(|rollup| !is_view(rollup)).collect()
}

/// What of TimescaleDB a plan uses for these feeds.
#[must_use]
pub fn uses_timescale(timescale: Timescale, feeds: &[Feed]) -> bool {
    feeds.iter().any(|feed| timescale.takes(feed))
}
