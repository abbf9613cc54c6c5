//! Indexes that cost more than they give: never used, or covered by another.

use std::{collections::HashMap, time::Duration};

use serde::Serialize;
use tokio_postgres::Client;

use crate::{
    catalog::{Existing, indexes},
    error::{Error, Result},
    name::qualified,
};

/// What was found about use.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Unused {
    /// The shortest time over which every server has counted, seconds.
    pub counted_s: f64,
    /// The time asked for, seconds.
    pub window_s: f64,
    /// Whether the counts are old enough to say anything; otherwise `indexes` is empty.
    pub is_conclusive: bool,
    /// Indexes without a single scan on any server, largest first.
    pub indexes: Vec<UnusedIndex>,
}

/// An index that nobody reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnusedIndex {
    /// With schema, as in SQL.
    pub name: String,
    /// Its table, with schema.
    pub table: String,
    /// Size, bytes; on a partitioned table of all parts.
    pub bytes: i64,
    /// Rows written to the table since its counts began; each of them paid for the index.
    pub rows_written: i64,
    /// What was seen, in words.
    pub evidence: String,
    /// The statement that drops it.
    pub sql: String,
}

/// An index that another one makes superfluous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Duplicate {
    /// With schema, as in SQL.
    pub name: String,
    /// Its table, with schema.
    pub table: String,
    /// What it is.
    pub definition: String,
    /// The index that can do all it does.
    pub covered_by: String,
    /// What that one is.
    pub covering_definition: String,
    /// Whether both are the same; otherwise its columns are the first ones of the other.
    pub is_equal: bool,
    /// Size, bytes.
    pub bytes: i64,
    /// Scans counted so far on this server.
    pub scans: i64,
    /// The statement that drops it.
    pub sql: String,
}

/// Parts of a partitioned index count for the whole; what enforces something is never unused; and an index whose
/// creation is known to be younger than the window is left alone.
const UNUSED: &str = "
    WITH RECURSIVE tree AS (
        SELECT i.indexrelid AS root, i.indexrelid AS part FROM pg_index i
        WHERE NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
        UNION ALL SELECT t.root, h.inhrelid FROM tree t JOIN pg_inherits h ON h.inhparent = t.part)
    SELECT r.oid, n.nspname, r.relname, b.relname AS on_table, sum(pg_relation_size(t.part))::int8 AS bytes,
           coalesce(sum(s.idx_scan), 0)::int8 AS scans,
           coalesce(sum(u.n_tup_ins + u.n_tup_upd + u.n_tup_del), 0)::int8 AS written,
           bool_or(i.indexprs IS NOT NULL) AS has_expression,
           array_agg(t.part) AS parts
    FROM tree t JOIN pg_class r ON r.oid = t.root JOIN pg_namespace n ON n.oid = r.relnamespace
    JOIN pg_index i ON i.indexrelid = t.part JOIN pg_class b ON b.oid = (SELECT indrelid FROM pg_index WHERE indexrelid = t.root)
    LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = t.part LEFT JOIN pg_stat_all_tables u ON u.relid = i.indrelid
    WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')
    GROUP BY r.oid, n.nspname, r.relname, b.relname
    HAVING bool_and(i.indisvalid) AND NOT bool_or(i.indisunique OR i.indisreplident OR i.indisclustered)
       AND NOT bool_or(EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = t.part))
    ORDER BY 5 DESC, 3";

/// How long scans have been counted: since the last reset, or since a crash threw the counts away.
const COUNTED: &str = "
    SELECT extract(epoch FROM now() - greatest(d.stats_reset, b.stats_reset))::float8
    FROM pg_stat_database d, pg_stat_bgwriter b WHERE d.datname = current_database()";

/// Finds indexes that no server has read within `window`. `replicas` are connections to the same database on its
/// standbys: reads there count as well.
///
/// # Errors
/// A server cannot be asked.
///
/// # Cancel safety
/// Safe: it only reads.
pub async fn unused(client: &Client, replicas: &[&Client], window: Duration) -> Result<Unused> {
    let mut counted_s = counted(client).await?;
    let mut elsewhere: HashMap<u32, i64> = HashMap::new();
    for replica in replicas {
        counted_s = counted_s.min(counted(replica).await?);
        let sql = "SELECT indexrelid, coalesce(idx_scan, 0)::int8 FROM pg_stat_all_indexes";
        let rows = replica
            .query(sql, &[])
            .await
            .map_err(Error::database("reading scans of a replica"))?;
        for row in rows {
            // A standby is a copy, so its indexes have the same object ids.
            *elsewhere.entry(row.get(0)).or_default() += row.get::<_, i64>(1);
        }
    }
    let window_s = window.as_secs_f64();
    let mut found = Unused {
        counted_s,
        window_s,
        is_conclusive: counted_s >= window_s,
        indexes: Vec::new(),
    };
    if !found.is_conclusive {
        return Ok(found);
    }
    let young = young(client, window_s).await?;
    let rows = client
        .query(UNUSED, &[])
        .await
        .map_err(Error::database("reading scans"))?;
    for row in rows {
        let parts: Vec<u32> = row.get("parts");
        let scans =
            row.get::<_, i64>("scans") + parts.iter().filter_map(|part| elsewhere.get(part)).sum::<i64>();
        if scans == 0 && !parts.iter().any(|part| young.contains(part)) {
            found.indexes.push(unused_index(&row, counted_s, replicas.len()));
        }
    }
    Ok(found)
}

fn unused_index(row: &tokio_postgres::Row, counted_s: f64, n_replicas: usize) -> UnusedIndex {
    let (schema, name): (String, String) = (row.get("nspname"), row.get("relname"));
    let full = qualified(&schema, &name);
    let days = counted_s / 86_400.0;
    let mut evidence = format!("no scan in {days:.1} days on the primary and {n_replicas} replicas");
    if row.get("has_expression") {
        evidence += "; the planner may still use the statistics of its expression";
    }
    UnusedIndex {
        table: qualified(&schema, row.get("on_table")),
        bytes: row.get("bytes"),
        rows_written: row.get("written"),
        evidence,
        sql: format!("DROP INDEX CONCURRENTLY {full}"),
        name: full,
    }
}

async fn counted(client: &Client) -> Result<f64> {
    let row = client.query_one(COUNTED, &[]).await;
    Ok(row
        .map_err(Error::database("reading the age of statistics"))?
        .get(0))
}

/// Indexes created within the window, where the server remembers commit times.
async fn young(client: &Client, window_s: f64) -> Result<Vec<u32>> {
    let setting = client
        .query_one("SELECT current_setting('track_commit_timestamp')::bool", &[])
        .await;
    if !setting
        .map_err(Error::database("reading a setting"))?
        .get::<_, bool>(0)
    {
        return Ok(Vec::new());
    }
    let sql = "SELECT oid FROM pg_class WHERE relkind IN ('i', 'I')
               AND pg_xact_commit_timestamp(xmin) > now() - make_interval(secs => $1)";
    let rows = client
        .query(sql, &[&window_s])
        .await
        .map_err(Error::database("reading commit times"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Finds indexes whose work another index of the same table does as well: the same columns, operator classes,
/// collations and rows, or the first ones of a longer B-tree. What enforces uniqueness or a constraint is never
/// reported, unless an equal one enforces the same.
///
/// # Errors
/// The database cannot be asked.
///
/// # Cancel safety
/// Safe: it only reads.
pub async fn duplicate(client: &Client) -> Result<Vec<Duplicate>> {
    let sql = "SELECT DISTINCT c.oid, n.nspname, c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
               JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema') AND c.relkind IN ('r', 'p', 'm')
               AND NOT c.relispartition ORDER BY 2, 3";
    let tables = client
        .query(sql, &[])
        .await
        .map_err(Error::database("reading tables"))?;
    let mut found = Vec::new();
    for row in tables {
        let (schema, table): (String, String) = (row.get(1), row.get(2));
        let all = indexes(client, row.get(0)).await?;
        for (index, other) in superfluous(&all) {
            let scans =
                "SELECT coalesce(sum(idx_scan), 0)::int8 FROM pg_stat_all_indexes WHERE indexrelid = $1";
            let scans = client.query_one(scans, &[&index.oid]).await;
            let name = qualified(&schema, &index.name);
            found.push(Duplicate {
                table: qualified(&schema, &table),
                definition: index.describe(),
                covered_by: qualified(&schema, &other.name),
                covering_definition: other.describe(),
                is_equal: index.keys.len() == other.keys.len() && index.include.len() == other.include.len(),
                bytes: index.bytes,
                scans: scans.map_err(Error::database("reading scans"))?.get(0),
                sql: format!("DROP INDEX CONCURRENTLY {name}"),
                name,
            });
        }
    }
    Ok(found)
}

/// Each superfluous index with the one to keep.
fn superfluous(all: &[Existing]) -> Vec<(&Existing, &Existing)> {
    let mut dropped: Vec<u32> = Vec::new();
    let mut found = Vec::new();
    for index in all {
        let keeper = all.iter().find(|other| {
            let is_other = other.oid != index.oid && !dropped.contains(&other.oid);
            is_other && covers(other, index) && !(covers(index, other) && is_preferred(index, other))
        });
        if let Some(keeper) = keeper {
            dropped.push(index.oid);
            found.push((index, keeper));
        }
    }
    found
}

/// Of two equal ones the one that enforces more stays, then the first by name.
fn is_preferred(index: &Existing, other: &Existing) -> bool {
    let rank = |index: &Existing| {
        (
            index.constraint.is_some(),
            index.is_replica_identity,
            index.is_unique,
        )
    };
    (rank(index), &other.name) > (rank(other), &index.name)
}

/// Whether `other` can do everything that `index` does.
fn covers(other: &Existing, index: &Existing) -> bool {
    let n = index.keys.len();
    let is_begin = other.keys.len() >= n
        && other.keys[..n] == index.keys[..]
        && other.options[..n] == index.options[..]
        && other.classes[..n] == index.classes[..]
        && other.collations[..n] == index.collations[..];
    let is_whole = other.keys.len() == n;
    let carries = |column: &String| other.keys.contains(column) || other.include.contains(column);
    let enforces = index.is_unique || index.constraint.is_some() || index.is_replica_identity;
    other.method == index.method
        && other.is_valid
        && other.filter == index.filter
        && is_begin
        // Only a B-tree answers for the first columns alone as well as for all.
        && (is_whole || index.method == "btree")
        && index.include.iter().all(carries)
        && index.constraint.is_none()
        && !index.is_replica_identity
        && (!enforces || (is_whole && other.is_unique))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(name: &str, keys: &[&str]) -> Existing {
        Existing {
            oid: name.bytes().map(u32::from).sum(),
            name: name.to_owned(),
            method: "btree".to_owned(),
            is_unique: false,
            is_valid: true,
            constraint: None,
            is_replica_identity: false,
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            options: vec![0; keys.len()],
            classes: vec![1; keys.len()],
            collations: vec![0; keys.len()],
            include: Vec::new(),
            filter: None,
            is_plain: true,
            has_expression: false,
            parent: None,
            bytes: 8_192,
        }
    }

    fn check(all: &[Existing], expected: &[(&str, &str)]) {
        let found = superfluous(all);
        let names: Vec<(&str, &str)> = found
            .iter()
            .map(|(a, b)| (a.name.as_str(), b.name.as_str()))
            .collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn a_prefix_is_superfluous_and_another_order_is_not() {
        check(&[index("a", &["x"]), index("b", &["x", "y"])], &[("a", "b")]);
        check(&[index("a", &["y"]), index("b", &["x", "y"])], &[]);
        let mut descending = index("a", &["x"]);
        descending.options = vec![3];
        check(&[descending, index("b", &["x", "y"])], &[]);
        let mut class = index("a", &["x"]);
        class.classes = vec![7];
        check(&[class, index("b", &["x", "y"])], &[]);
    }

    #[test]
    fn of_two_equal_ones_one_stays() {
        check(&[index("a", &["x"]), index("b", &["x"])], &[("b", "a")]);
        check(
            &[index("a", &["x"]), index("b", &["x"]), index("c", &["x"])],
            &[("b", "a"), ("c", "a")],
        );
    }

    #[test]
    fn what_enforces_something_stays() {
        let mut unique = index("a", &["x"]);
        unique.is_unique = true;
        check(&[unique.clone(), index("b", &["x", "y"])], &[]);
        check(&[unique.clone(), index("b", &["x"])], &[("b", "a")]);
        let mut primary = index("z", &["x"]);
        primary.is_unique = true;
        primary.constraint = Some("t_pkey".to_owned());
        check(&[unique, primary], &[("a", "z")]);
    }

    #[test]
    fn rows_and_carried_columns_must_be_there() {
        let mut part = index("a", &["x"]);
        part.filter = Some("(y > 0)".to_owned());
        check(&[part.clone(), index("b", &["x", "y"])], &[]);
        check(&[index("a", &["x"]), part], &[]);
        let mut covering = index("a", &["x"]);
        covering.include = vec!["z".to_owned()];
        check(&[covering.clone(), index("b", &["x", "y"])], &[]);
        check(&[covering, index("b", &["x", "z"])], &[("a", "b")]);
    }

    #[test]
    fn a_hash_index_covers_only_itself() {
        let mut hash = index("a", &["x"]);
        hash.method = "hash".to_owned();
        check(&[hash, index("b", &["x"])], &[]);
    }
}
