//! Carries a plan out: says what is there, creates what is not, drops what is named.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

use crate::{
    catalog::{Existing, Table, indexes, normal_filter},
    error::{Error, Result},
    name::{joined, qualified, quoted},
    plan::{How, Index, Plan},
};

/// How often a running build is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// How long a statement that blocks writers may wait for its lock before it is given up; they would queue behind it.
const BRIEF: &str = "SET lock_timeout = '5s'";
const PATIENT: &str = "SET lock_timeout = 0";
/// The advisory lock of index plans: the bytes of `tide-idx`.
const LOCK: i64 = 0x7469_6465_2d69_6478;

/// What is there of one index of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It is there as planned.
    Exists,
    /// An index of another name is what is planned.
    ExistsAs {
        /// The other name.
        name: String,
    },
    /// It is not there.
    Missing,
    /// A build was broken off and left it behind unusable; on a partitioned table, some partitions lack it.
    Invalid,
    /// Another session builds it now.
    Building,
    /// Its name belongs to something else.
    Differs {
        /// What it is instead.
        found: String,
    },
    /// It cannot be created.
    Impossible {
        /// Why not, as in `table orders does not exist`.
        reason: String,
    },
}

impl State {
    /// Whether nothing has to be done.
    pub const fn is_good(&self) -> bool {
        matches!(self, Self::Exists | Self::ExistsAs { .. })
    }
}

/// One index of a plan and what is there of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Name of the index.
    pub name: String,
    /// Its table as the plan has it.
    pub table: String,
    /// What is there.
    #[serde(flatten)]
    pub state: State,
    /// The statement that creates it; on a partitioned table it stands for several.
    pub sql: String,
}

/// What became of one index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Outcome {
    /// It was built.
    Created,
    /// It was there already.
    Existing,
    /// It is not there.
    Failed {
        /// Why not.
        reason: String,
    },
}

/// What a plan's execution came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Indexes that were built.
    pub created: usize,
    /// Indexes that were there already.
    pub existing: usize,
    /// Indexes that are not there.
    pub failed: usize,
    /// Each index in the plan's order.
    pub indexes: Vec<Done>,
}

/// One index and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Its name.
    pub name: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// How far a plan's execution is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Progress {
    /// An index is begun.
    Started {
        /// Its name.
        name: String,
        /// Its place in the plan, from one.
        number: usize,
        /// Indexes in the plan.
        of: usize,
    },
    /// A build goes on.
    Building {
        /// Name of the index.
        name: String,
        /// What the server does, in its own words.
        phase: String,
        /// Share done of the phase, 0 to 1, where the server knows.
        share: Option<f64>,
    },
    /// An index is done.
    Finished {
        /// Its name.
        name: String,
        /// What became of it.
        outcome: Outcome,
    },
}

/// Looks at the database: what is there of each index of `plan`.
///
/// # Errors
/// The database cannot be asked. What is wrong with one index is its [`State`].
///
/// # Cancel safety
/// A dropped call may leave a transaction open on `client`; roll it back before the next use.
pub async fn look(client: &Client, plan: &Plan) -> Result<Vec<Step>> {
    let mut steps = Vec::with_capacity(plan.indexes.len());
    for index in &plan.indexes {
        let (_, state) = examine(client, index).await?;
        steps.push(Step {
            name: index.name.clone(),
            table: index.table.clone(),
            state,
            sql: index.sql(),
        });
    }
    Ok(steps)
}

/// Creates what is missing of `plan`, one index after the other, while tables stay in use; rebuilds what an earlier
/// run left unusable, and analyzes the tables it touched. Running it again changes nothing.
///
/// `client` must be a session of its own, outside a transaction and not behind a transaction pooler. With a second
/// connection as `watcher`, `progress` also hears how far each build is.
///
/// # Errors
/// Another session applies a plan, or the connection is lost. What fails for one index is in the [`Report`].
///
/// # Cancel safety
/// A dropped call leaves the running build to the server; it may leave an unusable index behind, which the next
/// call rebuilds. `client` should be closed.
pub async fn apply(
    client: &Client,
    plan: &Plan,
    watcher: Option<&Client>,
    progress: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Report> {
    let taken = client
        .query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await;
    let taken: bool = taken
        .map_err(Error::database("taking the lock of index plans"))?
        .get(0);
    if !taken {
        return Err(Error::Busy);
    }
    let result = apply_locked(client, plan, watcher, progress).await;
    let end = format!("RESET statement_timeout; RESET lock_timeout; SELECT pg_advisory_unlock({LOCK})");
    let ended = client
        .batch_execute(&end)
        .await
        .map_err(Error::database("giving the lock back"));
    let report = result?;
    ended.map(|()| report)
}

async fn apply_locked(
    client: &Client,
    plan: &Plan,
    watcher: Option<&Client>,
    progress: &mut (dyn FnMut(&Progress) + Send),
) -> Result<Report> {
    // A build takes as long as it takes.
    let pid = client
        .query_one(
            "SELECT pg_backend_pid(), set_config('statement_timeout', '0', false)",
            &[],
        )
        .await;
    let pid: i32 = pid.map_err(Error::database("preparing the session"))?.get(0);
    let mut builder = Builder {
        client,
        watcher,
        pid,
        progress,
    };
    let mut report = Report::default();
    let mut touched: Vec<String> = Vec::new();
    let of = plan.indexes.len();
    for (n, index) in plan.indexes.iter().enumerate() {
        let name = index.name.clone();
        (builder.progress)(&Progress::Started {
            name: name.clone(),
            number: n + 1,
            of,
        });
        let outcome = builder.index(index, &mut touched).await?;
        match outcome {
            Outcome::Created => report.created += 1,
            Outcome::Existing => report.existing += 1,
            Outcome::Failed { .. } => report.failed += 1,
        }
        report.indexes.push(Done {
            name: name.clone(),
            outcome: outcome.clone(),
        });
        (builder.progress)(&Progress::Finished { name, outcome });
    }
    for table in touched {
        // Without fresh statistics the planner may not see what the new index is good for.
        let analyzed = client.batch_execute(&format!("ANALYZE {table}")).await;
        analyzed.map_err(Error::database("analyzing a table"))?;
    }
    Ok(report)
}

/// Drops an index by its name, found by the search path unless it has a schema, while its table stays in use.
///
/// # Errors
/// There is no such index, a constraint stands on it, or it is a part of a partitioned index.
///
/// # Cancel safety
/// A dropped call leaves the running drop to the server; it may leave the index unusable, which the next call drops.
pub async fn drop_index(client: &Client, name: &str) -> Result<()> {
    let sql = "SELECT c.relkind::text, n.nspname, c.relname, t.relname AS on_table,
                      (SELECT min(conname) FROM pg_constraint WHERE conindid = c.oid)::text AS constraint_name,
                      (SELECT inhparent::regclass::text FROM pg_inherits WHERE inhrelid = c.oid) AS parent
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               LEFT JOIN pg_index i ON i.indexrelid = c.oid LEFT JOIN pg_class t ON t.oid = i.indrelid
               WHERE c.oid = to_regclass($1)";
    let row = client
        .query_opt(sql, &[&name])
        .await
        .map_err(Error::database("looking an index up"))?;
    let row = row.ok_or_else(|| Error::NoIndex(name.to_owned()))?;
    let refused = |reason: String| {
        Err(Error::Refused {
            index: name.to_owned(),
            reason,
        })
    };
    let kind: String = row.get("relkind");
    if kind != "i" && kind != "I" {
        return refused("it is no index".to_owned());
    }
    if let Some(constraint) = row.get::<_, Option<String>>("constraint_name") {
        let table: Option<String> = row.get("on_table");
        let table = table.unwrap_or_default();
        return refused(format!("constraint {constraint} on {table} stands on it"));
    }
    if let Some(parent) = row.get::<_, Option<String>>("parent") {
        return refused(format!("it is a part of {parent}; drop that one"));
    }
    let full = qualified(row.get("nspname"), row.get("relname"));
    if kind == "i" {
        return run(
            client,
            &format!("DROP INDEX CONCURRENTLY {full}"),
            "dropping an index",
        )
        .await;
    }
    // PostgreSQL drops a partitioned index only under a lock that stops all; it gets little time to come by it.
    run(client, BRIEF, "preparing the session").await?;
    let dropped = run(client, &format!("DROP INDEX {full}"), "dropping an index").await;
    run(client, "RESET lock_timeout", "preparing the session").await?;
    dropped
}

// === Looking ===

async fn examine(client: &Client, index: &Index) -> Result<(Option<Table>, State)> {
    let impossible = |reason: String| State::Impossible { reason };
    let table = match Table::find(client, &index.table).await {
        Ok(table) => table,
        // A name that SQL cannot read is as good as no table; a lost connection is not.
        Err(error) if error.sqlstate().is_some() => return Ok((None, impossible(error.to_string()))),
        Err(error) => return Err(error),
    };
    let Some(table) = table else {
        return Ok((None, impossible(format!("table {} does not exist", index.table))));
    };
    if let Some(column) = table.missing(index) {
        let reason = format!("table {} has no column {column}", index.table);
        return Ok((None, impossible(reason)));
    }
    let filter = match normal_filter(client, &table, index).await {
        Ok(filter) => filter,
        Err(Error::Index { problem, .. }) => return Ok((None, impossible(problem))),
        Err(error) => return Err(error),
    };
    let state = compare(client, index, &table, filter.as_deref()).await?;
    Ok((Some(table), state))
}

async fn compare(client: &Client, index: &Index, table: &Table, filter: Option<&str>) -> Result<State> {
    if let Some(existing) = table.indexes.iter().find(|existing| existing.name == index.name) {
        return Ok(if !existing.is(index, filter) {
            let found = existing.describe();
            State::Differs { found }
        } else if existing.is_valid {
            State::Exists
        } else if is_building(client, existing.oid).await? {
            State::Building
        } else {
            State::Invalid
        });
    }
    let same = table
        .indexes
        .iter()
        .find(|existing| existing.is_valid && existing.is(index, filter));
    if let Some(existing) = same {
        let name = existing.name.clone();
        return Ok(State::ExistsAs { name });
    }
    let sql = "SELECT c.relkind::text, t.relname FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
               LEFT JOIN pg_class t ON t.oid = i.indrelid WHERE c.oid = to_regclass($1)";
    let name = qualified(&table.schema, &index.name);
    let other = client
        .query_opt(sql, &[&name])
        .await
        .map_err(Error::database("looking a name up"))?;
    Ok(match other {
        None => State::Missing,
        Some(row) => {
            let table: Option<String> = row.get(1);
            let found = table.map_or_else(|| "no index".to_owned(), |table| format!("an index of {table}"));
            State::Differs { found }
        }
    })
}

async fn is_building(client: &Client, index: u32) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_stat_progress_create_index WHERE index_relid = $1)";
    let row = client.query_one(sql, &[&index]).await;
    Ok(row.map_err(Error::database("looking at builds"))?.get(0))
}

// === Building ===

struct Builder<'a> {
    client: &'a Client,
    watcher: Option<&'a Client>,
    /// Of `client`'s session on the server.
    pid: i32,
    progress: &'a mut (dyn FnMut(&Progress) + Send),
}

/// A table of a partition tree.
struct Part {
    oid: u32,
    parent: Option<u32>,
    schema: String,
    name: String,
    is_leaf: bool,
}

impl Builder<'_> {
    /// Fails as a whole only when the connection is lost.
    async fn index(&mut self, index: &Index, touched: &mut Vec<String>) -> Result<Outcome> {
        let (table, state) = examine(self.client, index).await?;
        let failed = |reason: String| Ok(Outcome::Failed { reason });
        let (Some(table), true) = (table, matches!(state, State::Missing | State::Invalid)) else {
            return match state {
                State::Exists | State::ExistsAs { .. } => Ok(Outcome::Existing),
                State::Impossible { reason } => failed(reason),
                State::Building => failed("another session builds it now".to_owned()),
                State::Differs { found } => failed(format!("the name belongs to {found}")),
                State::Missing | State::Invalid => failed("its table is gone".to_owned()),
            };
        };
        let built = if table.is_partitioned {
            self.partitioned(index, &table).await
        } else {
            self.plain(index, &table, state == State::Invalid).await
        };
        match built {
            Ok(()) => {
                let table = table.sql();
                if !touched.contains(&table) {
                    touched.push(table);
                }
                Ok(Outcome::Created)
            }
            Err(error) if error.sqlstate().is_some() || matches!(error, Error::Index { .. }) => {
                failed(error.to_string())
            }
            Err(error) => Err(error),
        }
    }

    async fn plain(&mut self, index: &Index, table: &Table, is_left_over: bool) -> Result<()> {
        if is_left_over {
            let name = qualified(&table.schema, &index.name);
            self.run(PATIENT).await?;
            self.run(&format!("DROP INDEX CONCURRENTLY {name}")).await?;
        }
        self.concurrently(index, &index.name, &table.sql()).await
    }

    /// The parent's index without its partitions, theirs one by one while they are in use, then the tree is joined.
    async fn partitioned(&mut self, index: &Index, table: &Table) -> Result<()> {
        let parts = parts(self.client, table.oid).await?;
        let filter = normal_filter(self.client, table, index).await?;
        let mut made: Vec<(u32, String)> = Vec::with_capacity(parts.len());
        for part in &parts {
            // Attached below its parent's index, or free to be.
            let above = part
                .parent
                .and_then(|parent| made.iter().find(|(oid, _)| *oid == parent));
            let above = above.map(|(_, name)| name.clone());
            let name = self
                .part(
                    index,
                    part,
                    filter.as_deref(),
                    part.oid == table.oid,
                    above.as_deref(),
                )
                .await?;
            made.push((part.oid, name));
        }
        for part in parts.iter().rev() {
            let find = |oid: u32| {
                made.iter()
                    .find(|(part, _)| *part == oid)
                    .map(|(_, name)| name.clone())
            };
            let (Some(parent), Some(child)) = (part.parent.and_then(find), find(part.oid)) else {
                continue;
            };
            self.run(BRIEF).await?;
            // Attaching what is attached already is nothing.
            self.run(&format!("ALTER INDEX {parent} ATTACH PARTITION {child}"))
                .await?;
        }
        self.run(PATIENT).await?;
        let whole = indexes(self.client, table.oid).await?;
        if whole
            .iter()
            .any(|existing| existing.name == index.name && existing.is_valid)
        {
            return Ok(());
        }
        Err(index.wrong("some partition cannot have it, so it stays unusable on the whole table"))
    }

    /// Makes or finds the index of one table of the tree and gives its name as it stands in SQL.
    async fn part(
        &mut self,
        index: &Index,
        part: &Part,
        filter: Option<&str>,
        is_root: bool,
        above: Option<&str>,
    ) -> Result<String> {
        let existing = indexes(self.client, part.oid).await?;
        let above_oid = match above {
            Some(name) => Some(self.oid_of(name).await?),
            None => None,
        };
        let fits = |found: &&Existing| {
            let is_free = found.parent.is_none() || found.parent == above_oid;
            let is_usable = found.is_valid || !part.is_leaf;
            let is_named = !is_root || found.name == index.name;
            is_free && is_usable && is_named && found.is(index, filter)
        };
        if let Some(found) = existing.iter().find(fits) {
            return Ok(qualified(&part.schema, &found.name));
        }
        let name = if is_root {
            index.name.clone()
        } else {
            joined(&[&index.name, &part.name])
        };
        let relation = qualified(&part.schema, &part.name);
        if part.is_leaf {
            if existing.iter().any(|found| found.name == name && !found.is_valid) {
                self.run(PATIENT).await?;
                let full = qualified(&part.schema, &name);
                self.run(&format!("DROP INDEX CONCURRENTLY {full}")).await?;
            }
            self.concurrently(index, &name, &relation).await?;
        } else {
            self.run(BRIEF).await?;
            self.run(&index.create(&quoted(&name), &relation, How::Only))
                .await?;
        }
        Ok(qualified(&part.schema, &name))
    }

    async fn oid_of(&self, index: &str) -> Result<u32> {
        let row = self
            .client
            .query_one("SELECT to_regclass($1)::oid", &[&index])
            .await;
        let oid: Option<u32> = row.map_err(Error::database("looking an index up"))?.get(0);
        oid.ok_or_else(|| Error::NoIndex(index.to_owned()))
    }

    async fn concurrently(&mut self, index: &Index, name: &str, relation: &str) -> Result<()> {
        self.run(PATIENT).await?;
        let sql = index.create(&quoted(name), relation, How::Concurrently);
        let build = self.client.batch_execute(&sql);
        let mut build = std::pin::pin!(build);
        let mut ticks = tokio::time::interval(WATCH_EVERY);
        loop {
            tokio::select! {
                built = &mut build => return built.map_err(Error::database("creating an index")),
                _ = ticks.tick() => {
                    if let Some(seen) = look_at_build(self.watcher, self.pid, name).await {
                        (self.progress)(&seen);
                    }
                }
            }
        }
    }

    async fn run(&self, sql: &str) -> Result<()> {
        run(self.client, sql, "creating an index").await
    }
}

async fn run(client: &Client, sql: &str, doing: &'static str) -> Result<()> {
    client.batch_execute(sql).await.map_err(Error::database(doing))
}

/// A watcher that fails only costs the progress.
async fn look_at_build(watcher: Option<&Client>, pid: i32, name: &str) -> Option<Progress> {
    let sql =
        "SELECT phase, blocks_done::float8, blocks_total::float8, tuples_done::float8, tuples_total::float8
               FROM pg_stat_progress_create_index WHERE pid = $1";
    let row = watcher?.query_opt(sql, &[&pid]).await.ok()??;
    let share = |done: usize, total: usize| {
        let (done, total): (f64, f64) = (row.get(done), row.get(total));
        (total > 0.0).then(|| (done / total).clamp(0.0, 1.0))
    };
    Some(Progress::Building {
        name: name.to_owned(),
        phase: row.get(0),
        share: share(1, 2).or_else(|| share(3, 4)),
    })
}

/// The tree of a partitioned table, parents before their partitions.
async fn parts(client: &Client, table: u32) -> Result<Vec<Part>> {
    let sql = "SELECT t.relid::oid, t.parentrelid::oid, n.nspname, c.relname, t.isleaf
               FROM pg_partition_tree($1::oid::regclass) t
               JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p') ORDER BY t.level, c.relname";
    let rows = client
        .query(sql, &[&table])
        .await
        .map_err(Error::database("reading partitions"))?;
    let part = |row: &tokio_postgres::Row| Part {
        oid: row.get(0),
        parent: row.get(1),
        schema: row.get(2),
        name: row.get(3),
        is_leaf: row.get(4),
    };
    Ok(rows.iter().map(part).collect())
}
