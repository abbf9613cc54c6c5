//! Our own tables: schema `tidegate` on PostgreSQL, names that begin with `tidegate_` on SQLite.
//!
//! | table | what is in it |
//! |---|---|
//! | `claims` | one row for each chunk of rows that was stored, with its outcome; removed after a week or more |
//! | `dead_letter` | rows that the database refused, with the reason |
//! | `rollup` | roll-ups: how far those that began over a table with rows have come |
//! | `version` | which version of these tables is there |
//!
//! On PostgreSQL there is also the outbox: [`super::outbox`].

use crate::{kind::Kind, schema::outbox};

/// The version of our own tables that this build makes and needs.
pub const VERSION: i32 = 2;

/// The name of one of our tables (`claims`, `dead_letter`, `rollup`, `version`), ready to stand in a statement.
#[must_use]
pub fn name(database: Kind, table: &str) -> String {
    match database {
        Kind::Postgres => format!("tidegate.{table}"),
        Kind::Sqlite => format!("tidegate_{table}"),
    }
}

/// The statements that bring our own tables from `version` (0: nothing is there) to [`VERSION`]. Each may be run again.
#[must_use]
pub fn create_sql(database: Kind, version: i32) -> Vec<String> {
    let steps: [&[&str]; VERSION as usize] = match database {
        Kind::Postgres => [POSTGRES_1, outbox::POSTGRES],
        // The outbox needs functions and triggers that run in the server.
        Kind::Sqlite => [SQLITE_1, &[]],
    };
    let done = usize::try_from(version).unwrap_or(0).min(steps.len());
    steps[done..]
        .iter()
        .flat_map(|step| step.iter().map(|sql| (*sql).to_owned()))
        .collect()
}

/// Writes down that our own tables are at [`VERSION`].
#[must_use]
pub fn record_version_sql(database: Kind) -> String {
    format!(
        "INSERT INTO {} (part, version) VALUES ('own', {VERSION}) \
         ON CONFLICT (part) DO UPDATE SET version = excluded.version",
        name(database, "version")
    )
}

/// Reads the version of our own tables; the table itself must be there.
#[must_use]
pub fn read_version_sql(database: Kind) -> String {
    format!(
        "SELECT version FROM {} WHERE part = 'own'",
        name(database, "version")
    )
}

/// Whether the table of versions is there: one row with one boolean, or on SQLite 0 or 1.
#[must_use]
pub const fn is_there_sql(database: Kind) -> &'static str {
    match database {
        Kind::Postgres => "SELECT to_regclass('tidegate.version') IS NOT NULL",
        Kind::Sqlite => {
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'tidegate_version'"
        }
    }
}

/// Takes our own schema out of the search path until the transaction ends. A role called `tidegate` has it there by the
/// server's default (`"$user"`), and tables without a schema would be made among ours.
pub(crate) const LEAVE_SQL: &str = "SELECT set_config('search_path', (SELECT coalesce(string_agg(quote_ident(name), ', ' \
     ORDER BY place), 'public') FROM unnest(current_schemas(false)) WITH ORDINALITY AS path (name, place) \
     WHERE name <> 'tidegate'), true)";

/// Removes at most 5,000 claims older than `keep_seconds`.
#[must_use]
pub fn expire_claims_sql(database: Kind, keep_seconds: u64) -> String {
    match database {
        // Another node that expires at the same time takes other rows.
        Kind::Postgres => format!(
            "DELETE FROM tidegate.claims WHERE ctid = ANY (ARRAY(SELECT ctid FROM tidegate.claims \
             WHERE at < now() - interval '{keep_seconds} seconds' LIMIT 5000 FOR UPDATE SKIP LOCKED))"
        ),
        Kind::Sqlite => format!(
            "DELETE FROM tidegate_claims WHERE rowid IN (SELECT rowid FROM tidegate_claims \
             WHERE at < (unixepoch() - {keep_seconds}) * 1000000 LIMIT 5000)"
        ),
    }
}

const POSTGRES_1: &[&str] = &[
    "CREATE SCHEMA IF NOT EXISTS tidegate",
    "CREATE TABLE IF NOT EXISTS tidegate.version (
  part text PRIMARY KEY,
  version int4 NOT NULL,
  at timestamptz NOT NULL DEFAULT now()
)",
    // The outcome is written at the end of the transaction that makes the claim: room for it beside the first version.
    "CREATE TABLE IF NOT EXISTS tidegate.claims (
  principal text NOT NULL,
  feed text NOT NULL,
  id text NOT NULL,
  chunk int4 NOT NULL,
  hash bytea NOT NULL,
  maker int8 NOT NULL DEFAULT 0,
  outcome jsonb,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (principal, feed, id, chunk)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)",
    "CREATE INDEX IF NOT EXISTS claims_at ON tidegate.claims (at)",
    "CREATE TABLE IF NOT EXISTS tidegate.dead_letter (
  id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  feed text NOT NULL,
  feed_version int8 NOT NULL,
  claim jsonb NOT NULL,
  row_no int8 NOT NULL,
  row bytea NOT NULL,
  sqlstate text NOT NULL,
  message text NOT NULL
)",
    "CREATE INDEX IF NOT EXISTS dead_letter_feed ON tidegate.dead_letter (feed, id)",
    "CREATE TABLE IF NOT EXISTS tidegate.rollup (
  name text PRIMARY KEY,
  feed text NOT NULL,
  definition text NOT NULL,
  next int8,
  step int8,
  until int8,
  begun_at timestamptz NOT NULL DEFAULT now(),
  finished_at timestamptz
)",
];

const SQLITE_1: &[&str] = &[
    "CREATE TABLE IF NOT EXISTS tidegate_version (
  part TEXT PRIMARY KEY NOT NULL,
  version INTEGER NOT NULL,
  at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER))
) STRICT",
    "CREATE TABLE IF NOT EXISTS tidegate_claims (
  principal TEXT NOT NULL,
  feed TEXT NOT NULL,
  id TEXT NOT NULL,
  chunk INTEGER NOT NULL,
  hash BLOB NOT NULL,
  maker INTEGER NOT NULL DEFAULT 0,
  outcome TEXT,
  at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
  PRIMARY KEY (principal, feed, id, chunk)
) STRICT",
    "CREATE INDEX IF NOT EXISTS tidegate_claims_at ON tidegate_claims (at)",
    "CREATE TABLE IF NOT EXISTS tidegate_dead_letter (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
  feed TEXT NOT NULL,
  feed_version INTEGER NOT NULL,
  claim TEXT NOT NULL CHECK (json_valid(claim)),
  row_no INTEGER NOT NULL,
  row BLOB NOT NULL,
  sqlstate TEXT NOT NULL,
  message TEXT NOT NULL
) STRICT",
    "CREATE INDEX IF NOT EXISTS tidegate_dead_letter_feed ON tidegate_dead_letter (feed, id)",
    "CREATE TABLE IF NOT EXISTS tidegate_rollup (
  name TEXT PRIMARY KEY NOT NULL,
  feed TEXT NOT NULL,
  definition TEXT NOT NULL,
  next INTEGER,
  step INTEGER,
  until INTEGER,
  begun_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
  finished_at INTEGER
) STRICT",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_twice() {
        for database in [Kind::Postgres, Kind::Sqlite] {
            assert!(create_sql(database, 0).len() > 5);
            assert!(create_sql(database, VERSION).is_empty());
            assert!(create_sql(database, 1).len() < create_sql(database, 0).len());
            // A newer build's tables are left alone.
            assert!(create_sql(database, VERSION + 1).is_empty());
        }
    }
}
