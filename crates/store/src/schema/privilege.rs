//! What the role must be allowed for each feed, and what of it it is not.

use std::collections::BTreeMap;

use crate::{
    error::Result,
    feed::{Feed, OnConflict},
    kind::Kind,
    schema::{
        catalog::{Live, Shape},
        session::{Session, is_true},
        sql::{literal, table},
    },
};

/// Privileges that are missing on one table for one purpose.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Missing {
    /// The feed that needs them.
    pub feed: String,
    /// The table, as the feed or we call it.
    pub table: String,
    /// Such as `INSERT`.
    pub privileges: Vec<&'static str>,
    /// Whether rows cannot be stored without. If not, only operations that a request may name (`update`, `upsert`,
    /// `delete`) are refused.
    pub is_needed: bool,
}

/// Table, privilege, whether it is needed for rows to be stored.
type Need<'a> = (&'a str, &'static str, bool);

const CLAIMS: &str = "tidegate.claims";
const DEAD_LETTER: &str = "tidegate.dead_letter";

// === impl Missing ===

impl Missing {
    /// The statement that gives them; the role stands as three dots.
    #[must_use]
    pub fn grant(&self) -> String {
        format!(
            "GRANT {} ON {} TO …",
            self.privileges.join(", "),
            table(&self.table)
        )
    }
}

/// What the role of `session` lacks for these feeds, on tables that are there.
pub(crate) async fn read(session: Session<'_>, feeds: &[Feed], live: &Live) -> Result<Vec<Missing>> {
    let mut all = Vec::new();
    if session.kind() != Kind::Postgres {
        return Ok(all);
    }
    for feed in feeds {
        let needs = needs(feed, live);
        if needs.is_empty() {
            continue;
        }
        let asked: Vec<String> = needs.iter().map(has_sql).collect();
        let rows = session.rows(&format!("SELECT {}", asked.join(", "))).await?;
        let has = |at: usize| rows.first().is_some_and(|row| is_true(row[at].as_deref()));
        let missing = needs.iter().enumerate().filter(|(at, _)| !has(*at));
        all.extend(grouped(feed, missing.map(|(_, need)| *need)));
    }
    Ok(all)
}

/// A privilege on single columns is enough where one on the table is not asked for: the columns that a feed does not name
/// are not touched.
fn has_sql((name, privilege, _): &Need<'_>) -> String {
    let function = match *privilege {
        "DELETE" => "has_table_privilege",
        _ => "has_any_column_privilege",
    };
    format!("{function}({}, '{privilege}')", literal(&table(name)))
}

fn needs<'a>(feed: &'a Feed, live: &Live) -> Vec<Need<'a>> {
    let mut needs: Vec<Need<'a>> = Vec::new();
    let (is_keyed, is_replaced) = (!feed.key.is_empty(), feed.on_conflict == OnConflict::Update);
    let mut add = |table: &'a str, privileges: &[(&'static str, bool)]| {
        needs.extend(
            privileges
                .iter()
                .map(|(privilege, is_needed)| (table, *privilege, *is_needed)),
        );
    };
    if live.tables.contains_key(&feed.table) {
        add(&feed.table, &[("INSERT", true)]);
        if is_keyed || !feed.rollups.is_empty() {
            add(&feed.table, &[("SELECT", true)]);
        }
        let is_emptied = feed.retain.is_some() && feed.partition.is_none();
        if is_keyed {
            add(&feed.table, &[("UPDATE", is_replaced), ("DELETE", is_emptied)]);
        } else if is_emptied {
            add(&feed.table, &[("DELETE", true)]);
        }
    }
    for rollup in &feed.rollups {
        let shape = live.tables.get(&rollup.table).map(|there| there.shape);
        // A continuous aggregate is not ours to write.
        if matches!(shape, Some(Shape::Table | Shape::Partitioned)) {
            add(
                &rollup.table,
                &[("SELECT", true), ("INSERT", true), ("UPDATE", true)],
            );
            if is_keyed {
                add(&rollup.table, &[("DELETE", is_replaced)]);
            }
        }
    }
    if live.own > 0 {
        let all = ["SELECT", "INSERT", "UPDATE", "DELETE"].map(|privilege| (privilege, true));
        add(CLAIMS, &all);
        add(DEAD_LETTER, &[("SELECT", true), ("INSERT", true)]);
    }
    needs
}

fn grouped<'a>(feed: &Feed, missing: impl Iterator<Item = Need<'a>>) -> Vec<Missing> {
    let mut groups: BTreeMap<(bool, &str), Vec<&'static str>> = BTreeMap::new();
    for (table, privilege, is_needed) in missing {
        groups.entry((!is_needed, table)).or_default().push(privilege);
    }
    let of_group = |((is_optional, table), privileges): ((bool, &str), Vec<&'static str>)| Missing {
        feed: feed.name.clone(),
        table: table.to_owned(),
        privileges,
        is_needed: !is_optional,
    };
    groups.into_iter().map(of_group).collect()
}
