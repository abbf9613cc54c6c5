//! Holds a TOML table against the table of settings: unknown keys, types, ranges, defaults.

use std::{collections::BTreeSet, net::SocketAddr};

use serde::Deserialize;
use toml::{Table, Value};

use super::{
    SettingsError, Size, Time,
    entries::TABLE,
    table::{self, Field, Initial, Kind},
};

/// How large an installation is meant to be; sets the defaults of a few settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Below 100 users.
    Small,
    /// 100 to 1,000 users.
    #[default]
    Medium,
    /// Above 1,000 users.
    Large,
}

impl Preset {
    /// All, in the order of the table's columns.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// As written in the settings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

/// One value with its full key, comparable by its text.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leaf {
    pub(super) key: String,
    pub(super) pattern: String,
    value: String,
}

/// Groups that exist only when somebody writes them.
const OPTIONAL_GROUPS: [&str; 2] = ["tls", "auth.jwt"];

/// Refuses the first key that is unknown or whose value is not allowed.
pub(super) fn check(table: &Table) -> Result<(), SettingsError> {
    check_table(table, "", "")
}

fn check_table(table: &Table, shown: &str, pattern: &str) -> Result<(), SettingsError> {
    for (key, value) in table {
        let shown = join(shown, &quoted(key));
        let exact = join(pattern, &segment(key));
        if let Some(setting) = table::find(&exact) {
            check_value(setting.kind, &shown, value)?;
        } else if table::is_group(&exact) {
            check_group(value, &shown, &exact)?;
        } else if let any = join(pattern, "*")
            && table::is_group(&any)
        {
            check_group(value, &shown, &any)?;
        } else {
            return Err(SettingsError::Unknown {
                nearest: nearest(pattern, key),
                key: shown,
            });
        }
    }
    Ok(())
}

fn check_group(value: &Value, shown: &str, pattern: &str) -> Result<(), SettingsError> {
    let entries = join(pattern, "*");
    match value {
        Value::Table(table) => check_table(table, shown, pattern),
        Value::Array(items) if pattern == "auth.api_keys" => {
            items.iter().enumerate().try_for_each(|(index, item)| {
                let shown = format!("{shown}[{index}]");
                let Value::Table(table) = item else {
                    return Err(SettingsError::value(&shown, item, "a table"));
                };
                check_table(table, &shown, &entries)
            })
        }
        _ => Err(SettingsError::value(shown, value, "a table of settings")),
    }
}

fn check_value(kind: Kind, key: &str, value: &Value) -> Result<(), SettingsError> {
    match (kind, value) {
        (Kind::Either(_, table), Value::Table(_)) => check_value(*table, key, value),
        (Kind::Either(plain, _), _) if is_allowed(*plain, value) => Ok(()),
        (Kind::Fields(fields), Value::Table(table)) => check_fields(fields, key, table),
        (Kind::Map { items_max, of }, Value::Table(table)) if table.len() <= items_max => {
            let mut entries = table.iter();
            entries.try_for_each(|(name, value)| check_value(*of, &join(key, &quoted(name)), value))
        }
        (kind, value) if is_allowed(kind, value) => Ok(()),
        (kind, value) => Err(SettingsError::value(key, value, kind.allowed())),
    }
}

fn check_fields(fields: &[Field], key: &str, table: &Table) -> Result<(), SettingsError> {
    for (name, value) in table {
        let shown = join(key, &quoted(name));
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            let near = fields.iter().find(|field| is_near(field.name, name));
            return Err(SettingsError::Unknown {
                key: shown,
                nearest: near.map(|field| join(key, field.name)),
            });
        };
        check_value(field.kind, &shown, value)?;
    }
    let mut required = fields.iter().filter(|field| field.required);
    match required.find(|field| !table.contains_key(field.name)) {
        None => Ok(()),
        Some(field) => Err(SettingsError::Missing {
            key: join(key, field.name),
            allowed: field.kind.allowed(),
        }),
    }
}

fn is_allowed(kind: Kind, value: &Value) -> bool {
    match (kind, value) {
        (Kind::Flag, Value::Boolean(_)) => true,
        (Kind::Count { min, max } | Kind::Size { min, max }, Value::Integer(n)) => {
            u64::try_from(*n).is_ok_and(|n| (min..=max).contains(&n))
        }
        (Kind::Size { min, max }, Value::String(text)) => text
            .parse::<Size>()
            .is_ok_and(|size| (min..=max).contains(&size.0)),
        (Kind::Time { min_ms, max_ms }, Value::String(text)) => text
            .parse::<Time>()
            .is_ok_and(|time| (Time::from_millis(min_ms)..=Time::from_millis(max_ms)).contains(&time)),
        (Kind::Choice(choices), Value::String(text)) => choices.contains(&text.as_str()),
        (Kind::Address, Value::String(text)) => text.parse::<SocketAddr>().is_ok(),
        (Kind::Text { bytes_max, .. }, Value::String(text)) => text.len() <= bytes_max,
        (Kind::List { items_max, .. }, Value::Array(items)) => {
            items.len() <= items_max
                && items.iter().all(|item| {
                    item.as_str()
                        .is_some_and(|text| text.len() <= table::TEXT_BYTES_MAX)
                })
        }
        (Kind::Scalar, Value::Boolean(_) | Value::Integer(_) | Value::Float(_)) => true,
        (Kind::Scalar, Value::String(text)) => text.len() <= table::TEXT_BYTES_MAX,
        (Kind::Choices(choices), Value::Array(items)) => items
            .iter()
            .all(|item| item.as_str().is_some_and(|text| choices.contains(&text))),
        _ => false,
    }
}

/// Writes `upper` over `lower`, tables key by key, everything else whole.
pub(super) fn overlay(lower: &mut Table, upper: Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => overlay(below, above),
            (_, value) => {
                lower.insert(key, value);
            }
        }
    }
}

/// Adds the default of each absent setting; the preset's where the preset decides.
pub(super) fn fill(settings: &mut Table) {
    let preset = settings
        .get("preset")
        .and_then(Value::as_str)
        .unwrap_or(Preset::default().as_str())
        .to_owned();
    let column = Preset::ALL
        .iter()
        .position(|known| known.as_str() == preset)
        .unwrap_or(1);
    for setting in TABLE {
        if let Some(value) = setting.default_value(column) {
            let path: Vec<&str> = setting.key.split('.').collect();
            fill_one(settings, "", &path, &value);
        }
    }
}

fn fill_one(table: &mut Table, group: &str, path: &[&str], value: &Value) {
    let (first, rest) = (path[0], &path[1..]);
    if rest.is_empty() {
        table.entry(first).or_insert_with(|| value.clone());
        return;
    }
    let group = join(group, first);
    if rest[0] == "*" {
        match table.get_mut(first) {
            Some(Value::Table(entries)) => {
                let tables = entries.iter_mut().filter_map(|(_, entry)| entry.as_table_mut());
                tables.for_each(|entry| fill_one(entry, &group, &rest[1..], value));
            }
            Some(Value::Array(entries)) => {
                let tables = entries.iter_mut().filter_map(Value::as_table_mut);
                tables.for_each(|entry| fill_one(entry, &group, &rest[1..], value));
            }
            _ => {}
        }
        return;
    }
    if OPTIONAL_GROUPS.contains(&group.as_str()) && !table.contains_key(first) {
        return;
    }
    let entry = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = entry {
        fill_one(inner, &group, rest, value);
    }
}

/// Refuses a written group that lacks a setting without which it means nothing.
pub(super) fn required(settings: &Table) -> Result<(), SettingsError> {
    let missing = |key: &str, pattern: &str| SettingsError::Missing {
        key: key.to_owned(),
        allowed: table::find(pattern).map_or_else(String::new, |setting| setting.kind.allowed()),
    };
    if let Some(tls) = settings.get("tls").and_then(Value::as_table) {
        for key in ["cert", "key"] {
            tls.get(key)
                .ok_or_else(|| missing(&join("tls", key), &join("tls", key)))?;
        }
    }
    let auth = settings.get("auth").and_then(Value::as_table);
    let keys = auth
        .and_then(|auth| auth.get("api_keys"))
        .and_then(Value::as_array);
    for (index, entry) in keys.into_iter().flatten().enumerate() {
        for key in ["name", "user"] {
            let shown = format!("auth.api_keys[{index}].{key}");
            entry
                .get(key)
                .ok_or_else(|| missing(&shown, &join("auth.api_keys.*", key)))?;
        }
    }
    let needed = TABLE
        .iter()
        .filter(|setting| matches!(setting.initial, Initial::Required(_)));
    for setting in needed {
        let path: Vec<&str> = setting.key.split('.').collect();
        if let Some(key) = without(settings, "", &path) {
            return Err(missing(&key, setting.key));
        }
    }
    Ok(())
}

/// The full key of the first block on `path` that lacks its last part.
fn without(table: &Table, shown: &str, path: &[&str]) -> Option<String> {
    let (first, rest) = (path[0], &path[1..]);
    if rest.is_empty() {
        return (!table.contains_key(first)).then(|| join(shown, first));
    }
    if first == "*" {
        let mut blocks = table
            .iter()
            .filter_map(|(name, block)| Some((name, block.as_table()?)));
        return blocks.find_map(|(name, block)| without(block, &join(shown, &quoted(name)), rest));
    }
    without(table.get(first)?.as_table()?, &join(shown, first), rest)
}

/// All values below `settings` with their keys.
pub(super) fn leaves(settings: &Table, into: &mut BTreeSet<Leaf>) {
    walk_leaves(settings, "", "", into);
}

fn walk_leaves(table: &Table, shown: &str, pattern: &str, into: &mut BTreeSet<Leaf>) {
    for (key, value) in table {
        let shown = join(shown, &quoted(key));
        let exact = join(pattern, &segment(key));
        let pattern = match table::is_group(&exact) || table::find(&exact).is_some() {
            true => exact,
            false => join(pattern, "*"),
        };
        match value {
            Value::Table(inner) if table::find(&pattern).is_none() => {
                walk_leaves(inner, &shown, &pattern, into);
            }
            value => {
                into.insert(Leaf {
                    key: shown,
                    pattern,
                    value: value.to_string(),
                });
            }
        }
    }
}

/// A key as one segment of a pattern: a dot inside a quoted name must not look like a border.
fn segment(key: &str) -> String {
    key.replace('.', "\u{1}")
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// A key as it must be written in TOML.
fn quoted(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { key.to_owned() } else { format!("{key:?}") }
}

/// The known key that `key` was probably meant to be: a neighbour by spelling, else its namesake elsewhere.
fn nearest(pattern: &str, key: &str) -> Option<String> {
    let near = |candidate: &str| {
        let away = distance(candidate, key);
        (away <= 1 + key.len() / 4).then_some(away)
    };
    let siblings = table::children(pattern).into_iter();
    let sibling = siblings
        .filter_map(|name| near(&name).map(|away| (away, join(pattern, &name))))
        .min();
    let elsewhere = || {
        let names = TABLE.iter().filter_map(|setting| {
            let name = setting.key.rsplit('.').next()?;
            near(name).map(|away| (away, setting.key.to_owned()))
        });
        names.min()
    };
    sibling.or_else(elsewhere).map(|(_, name)| name)
}

fn is_near(candidate: &str, key: &str) -> bool {
    distance(candidate, key) <= 1 + key.len() / 4
}

/// Edits (insert, remove, replace) that turn `a` into `b` (Levenshtein). Both are short.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(64).enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        let check = |a, b, expected| assert_eq!(distance(a, b), expected, "{a} {b}");
        check("", "abc", 3);
        check("window", "windwo", 2);
        check("listen", "listen", 0);
        check("ping_timeout", "ping_time", 3);
    }

    #[test]
    fn overlay_keeps_what_it_does_not_name() {
        let mut lower: Table = "a = 1\n[b]\nc = 1\nd = 2".parse().unwrap();
        overlay(&mut lower, "[b]\nc = 3".parse().unwrap());
        assert_eq!(lower, "a = 1\n[b]\nc = 3\nd = 2".parse::<Table>().unwrap());
    }
}
