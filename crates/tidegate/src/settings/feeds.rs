//! Turns declared feeds into what the store and the gateway need of them.

use std::time::Duration;

use tidegate_store::{
    self as store, Feed, OnConflict, Template, Type,
    feed::{Aggregate, Bucket, Column, Measure, Partition, Rollup},
};

use super::{SettingsError, model};

/// Most feeds, and most queries, of one server: each has figures and a writer or a statement of its own.
const DECLARED_MAX: usize = 256;

/// A feed, and whom its rows are told to.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// How rows are stored.
    pub feed: Feed,
    /// How stored rows are pushed; none: they are not.
    pub live: Option<Live>,
}

/// How stored rows are pushed to clients.
#[derive(Clone, Debug)]
pub struct Live {
    /// The room, from columns of the row.
    pub room: Template,
    /// The event.
    pub event: String,
    /// While a row waits for a slow reader, a newer one of the same key takes its place.
    pub conflate: Option<Template>,
    /// Do not wait for the flush window.
    pub urgent: bool,
    /// Drop for readers whose socket is busy.
    pub volatile: bool,
}

/// All declared feeds.
///
/// # Errors
/// The first that cannot work, with its key.
pub(super) fn compose(values: &model::Values) -> Result<Vec<FeedSettings>, SettingsError> {
    check_number("feeds", values.feeds.len())?;
    let declared = values.feeds.iter().map(|(name, block)| one(name, block));
    declared.collect()
}

/// Refuses more declarations than there is room for.
pub(super) fn check_number(key: &str, n: usize) -> Result<(), SettingsError> {
    if n <= DECLARED_MAX {
        return Ok(());
    }
    let allowed = format!("at most {DECLARED_MAX} blocks");
    Err(SettingsError::value(key, format!("{n} blocks"), allowed))
}

fn one(name: &str, block: &model::Feed) -> Result<FeedSettings, SettingsError> {
    let key = format!("feeds.{name}");
    check_name(&key, name)?;
    let columns = block.columns.0.iter().map(|(column, text)| {
        let (kind, not_null) = match text.trim().strip_suffix("not null") {
            Some(kind) => (kind, true),
            None => (text.as_str(), false),
        };
        let kind = parsed(&format!("{key}.columns.{column}"), Type::parse(kind))?;
        Ok(Column {
            name: column.clone(),
            kind,
            not_null,
        })
    });
    let rollups = block
        .rollups
        .iter()
        .map(|(name, rollup)| sums(name, rollup))
        .collect();
    let tags = block.tags.iter().map(|tag| template(&key, "tags", tag));
    let feed = Feed {
        name: name.to_owned(),
        table: block.table.clone(),
        columns: columns.collect::<Result<_, SettingsError>>()?,
        key: block.key.clone(),
        on_conflict: match block.on_conflict {
            model::OnConflict::Error => OnConflict::Error,
            model::OnConflict::Ignore => OnConflict::Ignore,
            model::OnConflict::Update => OnConflict::Update,
        },
        tags: tags.collect::<Result<_, _>>()?,
        retain: block.retain.map(|time| time.0),
        manage: block.manage,
        partition: block.partition.as_ref().map(|partition| Partition {
            column: partition.column.clone(),
            every: partition.every.0,
            timescale: partition.timescale.unwrap_or(true),
        }),
        rollups,
        row_bytes_max: block.row_bytes_max.0 as usize,
        rows_per_second_max: (block.rows_per_second_max > 0).then_some(block.rows_per_second_max),
    };
    parsed(&key, feed.check())?;
    let live = live(&key, block, &feed)?;
    Ok(FeedSettings { feed, live })
}

fn live(key: &str, block: &model::Feed, feed: &Feed) -> Result<Option<Live>, SettingsError> {
    let Some(room) = &block.room else {
        return Ok(None);
    };
    let live = Live {
        room: template(key, "room", room)?,
        event: block.event.clone().unwrap_or_else(|| feed.name.clone()),
        conflate: block
            .conflate
            .as_ref()
            .map(|text| template(key, "conflate", text))
            .transpose()?,
        urgent: block.urgent,
        volatile: block.volatile,
    };
    known_columns(&format!("{key}.room"), &live.room, feed)?;
    if let Some(conflate) = &live.conflate {
        known_columns(&format!("{key}.conflate"), conflate, feed)?;
    }
    Ok(Some(live))
}

fn known_columns(key: &str, template: &Template, feed: &Feed) -> Result<(), SettingsError> {
    match template.names().find(|name| feed.column(name).is_none()) {
        None => Ok(()),
        Some(name) => Err(SettingsError::declaration(
            key,
            format!("{name:?} is no column of the feed"),
        )),
    }
}

fn sums(name: &str, block: &model::Rollup) -> Rollup {
    let of = |columns: &[String], how: Aggregate, ending: &str| -> Vec<Measure> {
        let measures = columns.iter().map(|column| Measure {
            how,
            column: Some(column.clone()),
            into: format!("{column}_{ending}"),
        });
        measures.collect()
    };
    let count = block.count.then(|| Measure {
        how: Aggregate::Count,
        column: None,
        into: "n_rows".to_owned(),
    });
    let mut measures: Vec<Measure> = count.into_iter().collect();
    measures.extend(of(&block.sum, Aggregate::Sum, "sum"));
    measures.extend(of(&block.min, Aggregate::Min, "min"));
    measures.extend(of(&block.max, Aggregate::Max, "max"));
    measures.extend(of(&block.last, Aggregate::Last, "last"));
    Rollup {
        name: name.to_owned(),
        table: block.table.clone(),
        group: block.group.clone(),
        bucket: block.bucket.as_ref().map(|bucket| Bucket {
            column: bucket.column.clone(),
            every: whole(bucket.every.0),
        }),
        measures,
    }
}

/// The store counts in whole seconds; the table of settings allows nothing shorter.
const fn whole(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs())
}

/// Names stand in paths, figures and patterns.
pub(super) fn check_name(key: &str, name: &str) -> Result<(), SettingsError> {
    let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if (1..=64).contains(&name.len()) && name.bytes().all(fits) {
        return Ok(());
    }
    let problem = "a name is 1 to 64 of a to z, 0 to 9, _ and -";
    Err(SettingsError::declaration(key, problem.to_owned()))
}

fn template(key: &str, name: &str, text: &str) -> Result<Template, SettingsError> {
    parsed(&format!("{key}.{name}"), Template::parse(text))
}

/// Puts the key before what the store says about a value.
pub(super) fn parsed<T>(key: &str, result: Result<T, store::Error>) -> Result<T, SettingsError> {
    result.map_err(|error| SettingsError::declaration(key, error.to_string()))
}
