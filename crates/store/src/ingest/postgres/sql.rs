//! The statements of one feed, written once for the types of its table.
//!
//! ```text
//! quick    asked ─▶ made (claims) ─▶ s (unnest, only of claims made) ─▶ done ─▶ roll-ups          one statement
//! parts    claims · then per part: s (unnest or staging table) ─▶ done ─▶ roll-ups                one transaction
//! ```
//!
//! Each row statement answers with `lost`: the numbers of rows that were not stored, because their key was there already
//! or, for changes and deletions, was not there.

use std::fmt::Write as _;

use super::encode::Extra;
use crate::feed::{OnConflict, Operation};
use crate::ingest::backend::Plan;
use crate::kind::Kind;
use crate::schema::rollup;
use crate::schema::sql::{quote, quote_all, table};

/// Begins a transaction whose commit is durable, whatever the session's default is.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; \
     SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'";

/// Makes claims; answers with the places of those that were made. `$1` feed, `$2` principals, `$3` ids, `$4` chunks,
/// `$5` hashes, `$6` makers.
pub(super) const CLAIM: &str = concat!(
    "WITH asked AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::text[], $4::int4[], $5::bytea[], $6::int8[]) ",
    "WITH ORDINALITY AS a(principal, id, chunk, hash, maker, place)),\n",
    "made AS (INSERT INTO tidegate.claims (principal, feed, id, chunk, hash, maker) ",
    "SELECT principal, $1::text, id, chunk, hash, maker FROM asked ORDER BY principal, id, chunk ",
    "ON CONFLICT DO NOTHING RETURNING principal, id, chunk)\n",
    "SELECT (place - 1)::int4 FROM asked JOIN made USING (principal, id, chunk)"
);

/// What is kept of claims that were there. Parameters as the first four of [`CLAIM`].
pub(super) const RECORDED: &str = "SELECT (place - 1)::int4, c.hash, c.outcome::text, c.maker \
     FROM unnest($2::text[], $3::text[], $4::int4[]) WITH ORDINALITY AS a(principal, id, chunk, place) \
     JOIN tidegate.claims AS c ON c.principal = a.principal AND c.feed = $1::text AND c.id = a.id AND c.chunk = a.chunk";

/// Keeps outcomes that are not simply "all stored". `$5` outcomes as text.
pub(super) const RECORD: &str = "UPDATE tidegate.claims AS c SET outcome = a.outcome::jsonb \
     FROM unnest($2::text[], $3::text[], $4::int4[], $5::text[]) AS a(principal, id, chunk, outcome) \
     WHERE c.principal = a.principal AND c.feed = $1::text AND c.id = a.id AND c.chunk = a.chunk";

/// `$1` feed, `$2` version, `$3` claims as text, `$4` row numbers, `$5` rows, `$6` SQLSTATEs, `$7` messages.
pub(super) const DEAD_LETTER: &str = "INSERT INTO tidegate.dead_letter \
     (feed, feed_version, claim, row_no, row, sqlstate, message) \
     SELECT $1::text, $2::int8, claim::jsonb, row_no, row, sqlstate, message \
     FROM unnest($3::text[], $4::int8[], $5::bytea[], $6::text[], $7::text[]) \
     AS d(claim, row_no, row, sqlstate, message)";

/// Columns and tables of ours begin with this; a feed's columns may not.
const NUMBER: &str = "tidegate_number";
const PLACE: &str = "tidegate_place";
const GIVEN: &str = "tidegate_given";

/// Where rows come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Arrays, together with the claims: parameters of [`CLAIM`], then `$7` the places of the claims, `$8` the given
    /// bits, `$9…` the columns.
    QuickArrays,
    /// Arrays: `$1` the given bits, `$2…` the columns.
    Arrays,
    /// The staging table.
    Stage,
}

/// Writes statements for one feed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer<'a> {
    pub(super) plan: &'a Plan,
    /// The SQL names of the columns' types, as the table has them.
    pub(super) types: &'a [String],
}

// === impl Writer ===

impl Writer<'_> {
    /// Stores rows, answers with `made` (only for [`Source::QuickArrays`], else empty) and `lost`.
    pub(super) fn store(&self, operation: Operation, source: Source) -> String {
        let mut sql = String::from("WITH ");
        match source {
            Source::QuickArrays => self.quick_source(&mut sql),
            Source::Arrays => {
                let _ = write!(sql, "s AS MATERIALIZED (SELECT * FROM {})", self.arrays(1));
            }
            Source::Stage => {
                // Read from the table each time: a copy of it would be as large and no faster.
                let _ = write!(sql, "s AS NOT MATERIALIZED (SELECT * FROM {})", self.stage());
            }
        }
        let _ = write!(sql, ",\ndone AS ({})", self.done(operation, source));
        if self.adds_up(operation) {
            for (at, rollup) in self.plan.feed.rollups.iter().enumerate() {
                let apply = rollup::apply_sql(Kind::Postgres, &self.plan.feed, rollup, "done");
                let _ = write!(sql, ",\nrollup_{at} AS ({apply})");
            }
        }
        let made = match source {
            Source::QuickArrays => "ARRAY(SELECT place FROM claimed)",
            _ => "'{}'::int4[]",
        };
        let _ = write!(
            sql,
            "\nSELECT {made} AS made, {} AS lost",
            self.lost(operation, source)
        );
        sql
    }

    fn quick_source(&self, sql: &mut String) {
        let (claims, answer) = CLAIM.split_at(CLAIM.rfind("\nSELECT").expect("it ends with its answer"));
        let claims = claims.trim_start_matches("WITH ");
        let _ = write!(
            sql,
            "{claims},\nclaimed(place) AS MATERIALIZED ({answer}),\n\
             s AS MATERIALIZED (SELECT u.* FROM {} WHERE {PLACE} IN (SELECT place FROM claimed))",
            self.arrays(7)
        );
    }

    /// `unnest(…)` with the given bits at `$first` (behind the places of the claims, for [`Source::QuickArrays`]).
    fn arrays(&self, first: usize) -> String {
        let is_quick = first > 1;
        let mut arrays = Vec::new();
        let mut names = Vec::new();
        if is_quick {
            arrays.push(format!("${first}::int4[]"));
            names.push(PLACE.to_owned());
        }
        let given = first + usize::from(is_quick);
        arrays.push(format!("${given}::bytea[]"));
        names.push(GIVEN.to_owned());
        for (at, (column, kind)) in self.plan.feed.columns.iter().zip(self.types).enumerate() {
            arrays.push(format!("${}::{kind}[]", given + 1 + at));
            names.push(quote(&column.name));
        }
        format!(
            "unnest({}) WITH ORDINALITY AS u({}, {NUMBER})",
            arrays.join(", "),
            names.join(", ")
        )
    }

    fn done(&self, operation: Operation, source: Source) -> String {
        let table = table(&self.plan.feed.table);
        let columns = self.columns("");
        match operation {
            Operation::Insert | Operation::Upsert => {
                let on_conflict = self.plan.on_conflict(operation);
                let returning = match on_conflict {
                    _ if self.adds_up(operation) => columns.clone(),
                    OnConflict::Ignore => self.keys(),
                    _ => "1".to_owned(),
                };
                let order = match source {
                    // It is read from its beginning to its end, as it was filled: sorting 10,000 rows once more is a
                    // tenth of the statement.
                    Source::Stage => String::new(),
                    Source::QuickArrays | Source::Arrays => format!(" ORDER BY s.{NUMBER}"),
                };
                format!(
                    "INSERT INTO {table} AS t ({columns}) SELECT {columns} FROM s{order}{} RETURNING {returning}",
                    self.conflict_clause(on_conflict)
                )
            }
            Operation::Update => format!(
                "UPDATE {table} AS t SET {} FROM s WHERE {} RETURNING s.{NUMBER}",
                self.changes(),
                self.same_key("t", "s")
            ),
            Operation::Delete => format!(
                "DELETE FROM {table} AS t USING s WHERE {} RETURNING s.{NUMBER}",
                self.same_key("t", "s")
            ),
        }
    }

    fn conflict_clause(&self, on_conflict: OnConflict) -> String {
        match on_conflict {
            OnConflict::Error => String::new(),
            OnConflict::Ignore => format!(" ON CONFLICT ({}) DO NOTHING", self.keys()),
            OnConflict::Update => {
                let columns = &self.plan.feed.columns;
                let others = (0..columns.len()).filter(|at| !self.plan.key.contains(at));
                let mut set: Vec<_> = others.map(|at| quote(&columns[at].name)).collect();
                if set.is_empty() {
                    // Nothing to replace; but the row shall count as stored.
                    set.push(quote(&columns[self.plan.key[0]].name));
                }
                let set: Vec<_> = set
                    .iter()
                    .map(|name| format!("{name} = excluded.{name}"))
                    .collect();
                format!(" ON CONFLICT ({}) DO UPDATE SET {}", self.keys(), set.join(", "))
            }
        }
    }

    fn changes(&self) -> String {
        let columns = self.plan.feed.columns.iter().enumerate();
        let others = columns.filter(|(at, _)| !self.plan.key.contains(at));
        let change = |(at, column): (usize, &crate::feed::Column)| {
            let name = quote(&column.name);
            format!("{name} = CASE WHEN get_bit(s.{GIVEN}, {at}) = 1 THEN s.{name} ELSE t.{name} END")
        };
        others.map(change).collect::<Vec<_>>().join(", ")
    }

    /// The numbers of rows that `done` does not have, as 0-based `int4[]`. They are looked for only where rows are missing.
    fn lost(&self, operation: Operation, source: Source) -> String {
        let by: Vec<String> = match (operation, self.plan.on_conflict(operation)) {
            (Operation::Update | Operation::Delete, _) => vec![NUMBER.to_owned()],
            (_, OnConflict::Ignore) => self.plan.feed.key.iter().map(|name| quote(name)).collect(),
            _ => return "'{}'::int4[]".to_owned(),
        };
        let prefixed = |prefix: &str| {
            let names: Vec<_> = by.iter().map(|name| format!("{prefix}.{name}")).collect();
            names.join(", ")
        };
        let (ours, done) = (prefixed("s"), prefixed("d"));
        let is_lost = match source {
            // Of arrays the planner believes that they have a few rows, and compares each with each: half a million
            // comparisons for 1,000 rows. A hashed subplan needs no belief; nothing here is ever null.
            Source::QuickArrays | Source::Arrays => format!("({ours}) NOT IN (SELECT {done} FROM done AS d)"),
            // Of a table it knows the size, and a join by hash may be larger than the memory of one.
            Source::Stage => format!("NOT EXISTS (SELECT 1 FROM done AS d WHERE ({done}) = ({ours}))"),
        };
        format!(
            "CASE WHEN (SELECT count(*) FROM done) = (SELECT count(*) FROM s) THEN '{{}}'::int4[] \
             ELSE ARRAY(SELECT (s.{NUMBER} - 1)::int4 FROM s WHERE {is_lost}) END"
        )
    }

    /// Whether the operation only adds rows to roll-ups.
    pub(super) fn adds_up(&self, operation: Operation) -> bool {
        let is_insert =
            matches!(operation, Operation::Insert) && self.plan.on_conflict(operation) != OnConflict::Update;
        is_insert && !self.plan.feed.rollups.is_empty()
    }

    /// Whether the operation makes roll-ups to be computed anew.
    pub(super) fn recomputes(&self, operation: Operation) -> bool {
        !self.plan.feed.rollups.is_empty() && !self.adds_up(operation)
    }

    // === COPY and the staging table ===

    pub(super) fn copy_table(&self) -> String {
        format!(
            "COPY {} ({}) FROM STDIN (FORMAT binary)",
            table(&self.plan.feed.table),
            self.columns("")
        )
    }

    /// The given bits travel only where they are read.
    pub(super) fn copy_stage(&self, operation: Operation) -> (String, Extra) {
        let (given, extra) = match operation {
            Operation::Update => (format!("{GIVEN}, "), Extra::GivenAndNumber),
            _ => (String::new(), Extra::Number),
        };
        let sql = format!(
            "COPY {} ({}, {given}{NUMBER}) FROM STDIN (FORMAT binary)",
            self.stage(),
            self.columns("")
        );
        (sql, extra)
    }

    /// Makes what a transaction needs; kept for the session unless it is shared.
    pub(super) fn create_stage(&self, is_kept: bool, with_touched: bool) -> String {
        let columns: Vec<_> = self
            .plan
            .feed
            .columns
            .iter()
            .zip(self.types)
            .map(|(column, kind)| format!("{} {kind}", quote(&column.name)))
            .collect();
        let columns = columns.join(", ");
        let end = if is_kept { "DELETE ROWS" } else { "DROP" };
        let mut sql = format!(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ({columns}, {GIVEN} bytea, {NUMBER} int4) ON COMMIT {end}",
            self.stage()
        );
        if with_touched {
            let touched = self.touched();
            let _ = write!(
                sql,
                "; CREATE TEMPORARY TABLE IF NOT EXISTS {touched} ({columns}) ON COMMIT {end}"
            );
        }
        sql
    }

    pub(super) fn empty_stage(&self) -> String {
        format!("DELETE FROM {}", self.stage())
    }

    fn stage(&self) -> String {
        format!("pg_temp.tidegate_stage_{:016x}", self.plan.version)
    }

    fn touched(&self) -> String {
        format!("pg_temp.tidegate_touched_{:016x}", self.plan.version)
    }

    /// Notes the staged rows as they stand in the table. The lock keeps them so until they are changed.
    pub(super) fn touch(&self, is_before: bool) -> String {
        format!(
            "INSERT INTO {} ({}) SELECT {} FROM {} AS t JOIN {} AS s ON {}{}",
            self.touched(),
            self.columns(""),
            self.columns("t."),
            table(&self.plan.feed.table),
            self.stage(),
            self.same_key("t", "s"),
            if is_before { " FOR UPDATE OF t" } else { "" }
        )
    }

    /// Computes the touched groups of all roll-ups anew.
    pub(super) fn recompute(&self) -> Vec<String> {
        let touched = self.touched();
        let rollups = self.plan.feed.rollups.iter();
        rollups
            .flat_map(|rollup| rollup::recompute_sql(Kind::Postgres, &self.plan.feed, rollup, &touched))
            .collect()
    }

    // === Names ===

    fn columns(&self, prefix: &str) -> String {
        let names = self.plan.feed.columns.iter();
        let names: Vec<_> = names
            .map(|column| format!("{prefix}{}", quote(&column.name)))
            .collect();
        names.join(", ")
    }

    fn keys(&self) -> String {
        quote_all(self.plan.feed.key.iter().map(String::as_str))
    }

    fn same_key(&self, a: &str, b: &str) -> String {
        let same = |name: &String| format!("{a}.{0} = {b}.{0}", quote(name));
        let all: Vec<_> = self.plan.feed.key.iter().map(same).collect();
        all.join(" AND ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::testing;

    #[test]
    fn lost_rows_of_arrays_are_never_sought_pair_by_pair() {
        let plan = Plan::new(testing::feed("k:int8* d:date* a:int4", OnConflict::Ignore)).unwrap();
        let types = ["int8", "date", "int4"].map(str::to_owned);
        let writer = Writer {
            plan: &plan,
            types: &types,
        };
        let check = |operation, source, expected: &str| {
            let sql = writer.store(operation, source);
            assert!(sql.contains(expected), "{expected} is not in {sql}");
            assert!(sql.contains("CASE WHEN (SELECT count(*) FROM done) = (SELECT count(*) FROM s)"));
        };
        let by_key = r#"(s."k", s."d") NOT IN (SELECT d."k", d."d" FROM done AS d)"#;
        check(Operation::Insert, Source::QuickArrays, by_key);
        check(Operation::Insert, Source::Arrays, by_key);
        let by_number = "(s.tidegate_number) NOT IN (SELECT d.tidegate_number FROM done AS d)";
        check(Operation::Update, Source::QuickArrays, by_number);
        check(Operation::Delete, Source::Arrays, by_number);
        let by_join = r#"NOT EXISTS (SELECT 1 FROM done AS d WHERE (d."k", d."d") = (s."k", s."d"))"#;
        check(Operation::Insert, Source::Stage, by_join);
    }
}
