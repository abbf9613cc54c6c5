//! Which indexes might help the statements that were seen: equality first, then one range or the order, at most three
//! key columns, and what else is read carried along.

use std::collections::BTreeSet;

use crate::{
    catalog::Table,
    name::joined,
    plan::{Index, Key},
    statement::{Comparison, TableUse},
};

/// More key columns make an index for one statement.
const KEYS_MAX: usize = 3;
/// Columns carried along; more make a second table.
const INCLUDE_MAX: usize = 6;
/// Bytes a row of them may have on average.
const INCLUDE_WIDTH_MAX: f64 = 160.0;
/// Proposals for one table that are tried.
const CANDIDATES_MAX: usize = 48;

/// Everything worth a try on `table` for its uses.
pub(crate) fn candidates(table: &Table, uses: &[&TableUse]) -> Vec<Index> {
    let mut found: Vec<Index> = Vec::new();
    for used in uses {
        for keys in keys(table, used) {
            add(&mut found, table, keys.clone(), BTreeSet::new());
            if !used.all_columns {
                let include = used
                    .columns
                    .iter()
                    .filter(|column| !has(&keys, column))
                    .cloned()
                    .collect();
                add(&mut found, table, keys, include);
            }
        }
    }
    merge(&mut found, table);
    found.retain(|index| !exists(table, index));
    found.truncate(CANDIDATES_MAX);
    found
}

fn has(keys: &[Key], column: &str) -> bool {
    keys.iter().any(|key| key.column == column)
}

/// Key columns for one use, in the ways worth a try.
fn keys(table: &Table, used: &TableUse) -> Vec<Vec<Key>> {
    let of = |kind: Comparison| {
        let conditions = used
            .conditions
            .iter()
            .filter(move |condition| condition.kind == kind);
        let ordered =
            conditions.filter(|condition| table.column(&condition.column).is_some_and(|c| c.is_ordered));
        let mut columns: Vec<&str> = ordered.map(|condition| condition.column.as_str()).collect();
        // The most selective first: where not all fit, the best stay.
        columns.sort_by(|a, b| distinct(table, b).total_cmp(&distinct(table, a)));
        columns
    };
    let mut first: Vec<Key> = of(Comparison::Equal).into_iter().map(Key::ascending).collect();
    first.extend(of(Comparison::In).into_iter().map(Key::ascending));
    first.truncate(KEYS_MAX);
    let ranges = of(Comparison::Range);
    let mut ways: Vec<Vec<Key>> = Vec::new();
    for range in ranges.iter().take(2) {
        ways.push(extended(&first, [Key::ascending(range)]));
    }
    if !used.order.is_empty() {
        ways.push(extended(&first, one_way(&used.order)));
    }
    if !used.group.is_empty() {
        let group = used.group.iter().map(|column| Key::ascending(column));
        ways.push(extended(&first, group.clone()));
        if let Some(range) = ranges.first() {
            ways.push(extended(&first, group.chain([Key::ascending(range)])));
        }
    }
    ways.push(first);
    let is_ordered = |key: &Key| table.column(&key.column).is_some_and(|column| column.is_ordered);
    ways.retain(|keys| !keys.is_empty() && keys.iter().all(is_ordered));
    ways
}

/// An order that is descending throughout is read backwards from an ascending index.
fn one_way(order: &[Key]) -> Vec<Key> {
    let all_down = order.iter().all(|key| key.descending);
    let turned = order.iter().map(|key| Key {
        column: key.column.clone(),
        descending: key.descending && !all_down,
    });
    turned.collect()
}

fn extended(first: &[Key], more: impl IntoIterator<Item = Key>) -> Vec<Key> {
    let mut keys = first.to_vec();
    for key in more {
        if keys.len() < KEYS_MAX && !has(&keys, &key.column) {
            keys.push(key);
        }
    }
    keys
}

/// Distinct values of a column, as far as known.
pub(crate) fn distinct(table: &Table, column: &str) -> f64 {
    let n = table.column(column).map_or(0.0, |column| column.n_distinct);
    if n < 0.0 { -n * table.n_rows } else { n }
}

fn add(found: &mut Vec<Index>, table: &Table, columns: Vec<Key>, include: BTreeSet<String>) {
    let width: f64 = include
        .iter()
        .filter_map(|name| table.column(name))
        .map(|column| column.width)
        .sum();
    if include.len() > INCLUDE_MAX || width > INCLUDE_WIDTH_MAX {
        return;
    }
    let index = Index {
        name: String::new(),
        table: table.sql(),
        columns,
        include: include.into_iter().collect(),
        filter: None,
        unique: false,
    };
    if !found.contains(&index) {
        found.push(index);
    }
}

/// One index that carries what two of the same key carry serves the statements of both.
fn merge(found: &mut Vec<Index>, table: &Table) {
    let mut together: Vec<(Vec<Key>, BTreeSet<String>)> = Vec::new();
    for index in found.iter().filter(|index| !index.include.is_empty()) {
        let include = index.include.iter().cloned();
        match together.iter_mut().find(|(keys, _)| *keys == index.columns) {
            Some((_, all)) => all.extend(include),
            None => together.push((index.columns.clone(), include.collect())),
        }
    }
    for (keys, include) in together {
        add(found, table, keys, include);
    }
}

/// Whether an index that is there does the same already.
fn exists(table: &Table, index: &Index) -> bool {
    table.indexes.iter().any(|existing| {
        let carries = |column: &String| existing.keys.contains(column) || existing.include.contains(column);
        existing.is_valid
            && existing.filter.is_none()
            && existing.begins_with_keys_of(index)
            && index.include.iter().all(carries)
    })
}

/// A name for a proposal that nothing on its table has yet.
pub(crate) fn name(table: &Table, index: &Index, taken: &[String]) -> String {
    let columns = index.columns.iter().map(|key| key.column.as_str());
    let mut parts: Vec<&str> = ["idx", table.name.as_str()].into_iter().chain(columns).collect();
    if !index.include.is_empty() {
        parts.push("covering");
    }
    let base = joined(&parts);
    let is_taken =
        |name: &String| table.indexes.iter().any(|existing| existing.name == *name) || taken.contains(name);
    let mut name = base.clone();
    let mut n = 2;
    while is_taken(&name) {
        name = joined(&[&base, &n.to_string()]);
        n += 1;
    }
    name
}

/// An existing index that the proposal makes superfluous.
pub(crate) fn replaced<'a>(table: &'a Table, index: &Index) -> Option<&'a str> {
    let is_replaced = table.indexes.iter().find(|existing| {
        let n = existing.keys.len();
        let begin = Index {
            columns: index.columns.iter().take(n).cloned().collect(),
            ..index.clone()
        };
        let all = index.all_columns();
        n <= index.columns.len()
            && existing.has_keys_of(&begin)
            && !existing.is_unique
            && existing.constraint.is_none()
            && !existing.is_replica_identity
            && existing.filter.is_none()
            && existing
                .include
                .iter()
                .all(|column| all.contains(&column.as_str()))
    });
    is_replaced.map(|existing| existing.name.as_str())
}
