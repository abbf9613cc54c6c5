//! Commits chunks to SQLite: row by row in one transaction of the one connection that writes. A refused row undoes only
//! its own statement, so the others need no savepoints.

use std::panic::Location;
use std::time::Duration;

use rusqlite::types::Value as Kept;
use tokio::time::timeout;

use super::backend::{Blame, Chunk, Failure, Method, Plan, Settled, Stored, blame};
use super::fold::{Folded, Place, fold};
use super::outcome::{ChunkOutcome, DeadRow};
use crate::backend::sqlite::{Connection, Sqlite, value::to_sqlite};
use crate::error::{Error, Result};
use crate::feed::{OnConflict, Operation};
use crate::kind::Kind;
use crate::pool::Pool;
use crate::row::write_row;
use crate::schema::migrate;
use crate::schema::rollup;
use crate::schema::session::Session;
use crate::schema::sql::{quote, table};
use crate::statement::Monitor;

const CLAIM: &str = "INSERT INTO tidegate_claims (principal, feed, id, chunk, hash, maker) VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
     ON CONFLICT DO NOTHING";
const RECORDED: &str = "SELECT hash, outcome, maker FROM tidegate_claims \
     WHERE principal = ?1 AND feed = ?2 AND id = ?3 AND chunk = ?4";
const RECORD: &str = "UPDATE tidegate_claims SET outcome = ?5 \
     WHERE principal = ?1 AND feed = ?2 AND id = ?3 AND chunk = ?4";
const DEAD_LETTER: &str = "INSERT INTO tidegate_dead_letter \
     (feed, feed_version, claim, row_no, row, sqlstate, message) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";

/// The rows of this transaction that roll-ups are made of.
const BATCH: &str = "temp.tidegate_batch";

/// Commits chunks of all feeds to one SQLite file.
pub(crate) struct Writer {
    pool: Pool<Sqlite>,
    monitor: Monitor,
    /// Our own tables are known to be there.
    is_ready: tokio::sync::OnceCell<()>,
}

/// A batch on its way into the connection.
struct Transaction<'a> {
    connection: &'a Connection,
    plan: &'a Plan,
    chunks: &'a [&'a Chunk],
    operation: Operation,
}

/// How a claim was found.
#[derive(Clone)]
enum Claimed {
    Made,
    Known {
        hash: Vec<u8>,
        outcome: Option<String>,
        maker: i64,
    },
}

/// How a row ended.
enum Done {
    Stored,
    /// Its key was there already, or was not there to change.
    Nothing,
    Refused(Error),
}

/// A statement for rows of one shape, and the values of each.
struct Work {
    sql: String,
    /// Notes the row with this key as it stands; run before and after.
    touch: Option<String>,
    rows: Vec<(Vec<Kept>, Vec<Kept>)>,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn new(pool: Pool<Sqlite>, monitor: Monitor) -> Self {
        Self {
            pool,
            monitor,
            is_ready: tokio::sync::OnceCell::new(),
        }
    }

    /// Commits `chunks`; see the seam in `ingest::backend` for what holds.
    pub(crate) async fn commit(
        &self,
        plan: &Plan,
        chunks: &[&Chunk],
        patience: Duration,
    ) -> std::result::Result<(Vec<Settled>, Method), Failure> {
        let connection = match timeout(patience, self.pool.acquire()).await {
            Ok(connection) => connection.map_err(Failure::of)?,
            Err(_) => {
                return Err(Failure::of(Error::Timeout {
                    what: "waiting for the connection that writes".to_owned(),
                    after: patience,
                }));
            }
        };
        self.prepare(&connection).await.map_err(Failure::of)?;
        let transaction = Transaction {
            connection: &connection,
            plan,
            chunks,
            operation: chunks.first().map_or(Operation::Insert, |chunk| chunk.operation),
        };
        let mut timing = self.monitor.begin(&transaction.row_sql(&[]), Location::caller());
        timing.acquired();
        let done = transaction.run().await;
        let n_rows = chunks.iter().map(|chunk| chunk.rows.len() as u64).sum();
        let sqlstate = done
            .as_ref()
            .err()
            .map(|error| error.sqlstate().unwrap_or("08000").to_owned());
        timing.finish(n_rows, sqlstate.as_deref().map_or(Ok(()), Err));
        match done {
            Ok(settled) => Ok((settled, Method::Rows)),
            Err(error) => {
                // Where this fails, the pool drains the connection or drops it.
                let _ = connection.call(|c| c.execute_batch("ROLLBACK")).await;
                // Rows were judged one by one; what is refused only now is a deferred constraint of the whole.
                Err(match blame(&error) {
                    Blame::Row => Failure::Suspend(error),
                    _ => Failure::of(error),
                })
            }
        }
    }

    /// Makes our own tables, once.
    async fn prepare(&self, connection: &Connection) -> Result<()> {
        let make = || async {
            let session = Session::Sqlite(connection);
            migrate::migrate(session, &[], &migrate::Options::default(), 0)
                .await
                .map(drop)
        };
        self.is_ready.get_or_try_init(make).await.map(drop)
    }

    /// Compares the feed with its table.
    pub(crate) async fn validate(&self, plan: &Plan) -> Result<()> {
        let connection = self.pool.acquire().await?;
        let feed = &plan.feed;
        let names: Vec<_> = feed.columns.iter().map(|column| quote(&column.name)).collect();
        let probe = format!("SELECT {} FROM {} LIMIT 0", names.join(", "), table(&feed.table));
        let found = Session::Sqlite(&connection).rows(&probe).await;
        found.map(drop).map_err(|error| Error::Config {
            what: format!("feed {}", feed.name),
            problem: format!("table {}: {error}", feed.table),
        })
    }
}

// === impl Transaction ===

impl Transaction<'_> {
    async fn run(&self) -> Result<Vec<Settled>> {
        let claimed = self.claim().await?;
        let is_made = |chunk: u32| matches!(claimed[chunk as usize], Claimed::Made);
        let places = self.chunks.iter().enumerate().flat_map(|(at, chunk)| {
            (0..chunk.rows.len() as u32).map(move |row| Place {
                chunk: at as u32,
                row,
            })
        });
        let folded = fold(
            self.plan,
            self.operation,
            self.chunks,
            places.filter(|place| is_made(place.chunk)),
        );
        let done = self.store(&folded).await?;
        let mut outcomes = vec![(ChunkOutcome::default(), Vec::new()); self.chunks.len()];
        let mut dead = Vec::new();
        self.count(&folded, done, &mut outcomes, &mut dead)?;
        self.misfits(is_made, &mut outcomes, &mut dead);
        self.finish(&claimed, &outcomes, dead).await?;
        Ok(self.settle(claimed, outcomes))
    }

    /// Begins, and makes the claims.
    async fn claim(&self) -> Result<Vec<Claimed>> {
        let feed = self.plan.feed.name.clone();
        let marks: Vec<_> = self
            .chunks
            .iter()
            .map(|chunk| (chunk.mark.clone(), chunk.hash.to_vec(), chunk.maker))
            .collect();
        self.connection
            .call(move |c| {
                c.execute_batch("BEGIN IMMEDIATE")?;
                let mut claimed = Vec::with_capacity(marks.len());
                for (mark, hash, maker) in marks {
                    let mut claim = c.prepare_cached(CLAIM)?;
                    let made =
                        claim.execute((&*mark.principal, &feed, &*mark.id, mark.chunk, &hash, maker))?;
                    claimed.push(match made {
                        0 => c.prepare_cached(RECORDED)?.query_row(
                            (&*mark.principal, &feed, &*mark.id, mark.chunk),
                            |row| {
                                Ok(Claimed::Known {
                                    hash: row.get(0)?,
                                    outcome: row.get(1)?,
                                    maker: row.get(2)?,
                                })
                            },
                        )?,
                        _ => Claimed::Made,
                    });
                }
                Ok(claimed)
            })
            .await
    }

    /// Stores the rows one by one, then the roll-ups; says how each row ended.
    async fn store(&self, folded: &Folded<'_>) -> Result<Vec<Done>> {
        let works = self.works(folded);
        let (before, after) = self.rollup_sql();
        self.connection
            .run(move |c| {
                let failed = crate::backend::sqlite::error;
                c.execute_batch(&before).map_err(failed)?;
                let mut done = Vec::new();
                for work in &works {
                    let mut statement = c.prepare_cached(&work.sql).map_err(failed)?;
                    let mut touch = match &work.touch {
                        Some(sql) => Some(c.prepare_cached(sql).map_err(failed)?),
                        None => None,
                    };
                    for (values, key) in &work.rows {
                        let mut note = || match &mut touch {
                            Some(touch) => touch.execute(rusqlite::params_from_iter(key)).map(drop),
                            None => Ok(()),
                        };
                        note().map_err(failed)?;
                        done.push(match statement.execute(rusqlite::params_from_iter(values)) {
                            Ok(0) => Done::Nothing,
                            Ok(_) => Done::Stored,
                            Err(error) => Done::refused(failed(error))?,
                        });
                        note().map_err(failed)?;
                    }
                }
                c.execute_batch(&after).map_err(failed)?;
                Ok(done)
            })
            .await
    }

    /// Rows of the same statement that follow each other share it.
    fn works(&self, folded: &Folded<'_>) -> Vec<Work> {
        let mut works: Vec<Work> = Vec::new();
        let key = |values: &[_]| {
            self.plan
                .key
                .iter()
                .map(|at| to_sqlite(&values[*at]))
                .collect::<Vec<_>>()
        };
        for row in &folded.rows {
            let sql = self.row_sql(&row.given);
            let values = match self.operation {
                Operation::Delete => key(&row.values),
                Operation::Update => {
                    let changed = self.changed(&row.given).map(|at| to_sqlite(&row.values[at]));
                    changed.chain(key(&row.values)).collect()
                }
                _ => row.values.iter().map(to_sqlite).collect(),
            };
            let row = (values, key(&row.values));
            match works.last_mut() {
                Some(work) if work.sql == sql => work.rows.push(row),
                _ => works.push(Work {
                    sql,
                    touch: self.touch_sql(),
                    rows: vec![row],
                }),
            }
        }
        works
    }

    fn count(
        &self,
        folded: &Folded<'_>,
        done: Vec<Done>,
        outcomes: &mut [(ChunkOutcome, Vec<u32>)],
        dead: &mut Vec<(usize, Vec<u8>, DeadRow)>,
    ) -> Result<()> {
        let n_stored = done.iter().filter(|done| matches!(done, Done::Stored)).count();
        for (row, done) in folded.rows.iter().zip(done) {
            let (at, place) = (row.place.chunk as usize, row.place.row);
            let (outcome, left_out) = &mut outcomes[at];
            match (done, self.operation) {
                (Done::Stored, _) => {
                    outcome.stored += 1;
                    continue;
                }
                (Done::Nothing, Operation::Update | Operation::Delete) => outcome.missing += 1,
                (Done::Nothing, _) => outcome.duplicates += 1,
                // Not one row got through: it is the feed's fault, not theirs.
                (Done::Refused(error), _) if n_stored == 0 && blame(&error) != Blame::Row => {
                    return Err(error);
                }
                (Done::Refused(error), _) => {
                    let why = self.why(row.place, &error);
                    outcome.dead.push(why.clone());
                    dead.push((at, self.json(row.place), why));
                }
            }
            left_out.push(place);
        }
        for place in &folded.duplicates {
            let (outcome, left_out) = &mut outcomes[place.chunk as usize];
            outcome.duplicates += 1;
            left_out.push(place.row);
        }
        Ok(())
    }

    /// Rows that no longer fit the feed go to the dead letter with their claim.
    fn misfits(
        &self,
        is_made: impl Fn(u32) -> bool,
        outcomes: &mut [(ChunkOutcome, Vec<u32>)],
        dead: &mut Vec<(usize, Vec<u8>, DeadRow)>,
    ) {
        let chunks = self.chunks.iter().enumerate();
        for (at, chunk) in chunks.filter(|(at, _)| is_made(*at as u32)) {
            for misfit in &chunk.misfits {
                let why = DeadRow::new(misfit.number, "22000", &misfit.message);
                outcomes[at].0.dead.push(why.clone());
                dead.push((at, misfit.row.clone(), why));
            }
        }
    }

    fn why(&self, place: Place, error: &Error) -> DeadRow {
        let number = self.chunks[place.chunk as usize].numbers[place.row as usize];
        let message = match error {
            Error::Database { message, .. } => message.clone(),
            other => other.to_string(),
        };
        DeadRow::new(number, error.sqlstate().unwrap_or("22000"), &message)
    }

    fn json(&self, place: Place) -> Vec<u8> {
        let rows = &self.chunks[place.chunk as usize].rows;
        let at = place.row as usize;
        let mut text = Vec::new();
        write_row(
            &self.plan.feed.columns,
            rows.row(at),
            |column| rows.gave(at, column),
            &mut text,
        );
        text
    }

    /// Keeps what is not simply "all stored", writes the dead letters, and commits.
    async fn finish(
        &self,
        claimed: &[Claimed],
        outcomes: &[(ChunkOutcome, Vec<u32>)],
        dead: Vec<(usize, Vec<u8>, DeadRow)>,
    ) -> Result<()> {
        let feed = self.plan.feed.name.clone();
        let version = self.plan.version as i64;
        let special: Vec<_> = self
            .chunks
            .iter()
            .zip(claimed)
            .zip(outcomes)
            .filter(|((chunk, claimed), (outcome, _))| {
                matches!(claimed, Claimed::Made) && !outcome.is_all(chunk.rows.len())
            })
            .map(|((chunk, _), (outcome, _))| {
                let text = serde_json::to_string(outcome).expect("an outcome is plain data");
                (chunk.mark.clone(), text)
            })
            .collect();
        let dead: Vec<_> = dead
            .into_iter()
            .map(|(at, row, why)| (self.chunks[at].mark.to_json(self.operation), row, why))
            .collect();
        self.connection
            .call(move |c| {
                for (mark, outcome) in special {
                    let params = (&*mark.principal, &feed, &*mark.id, mark.chunk, outcome);
                    c.prepare_cached(RECORD)?.execute(params)?;
                }
                for (claim, row, why) in dead {
                    let params = (
                        &feed,
                        version,
                        claim,
                        why.row as i64,
                        row,
                        why.sqlstate,
                        why.message,
                    );
                    c.prepare_cached(DEAD_LETTER)?.execute(params)?;
                }
                c.execute_batch("COMMIT")
            })
            .await
    }

    fn settle(&self, claimed: Vec<Claimed>, outcomes: Vec<(ChunkOutcome, Vec<u32>)>) -> Vec<Settled> {
        let chunks = self.chunks.iter().zip(claimed).zip(outcomes);
        chunks
            .map(|((chunk, claimed), (outcome, left_out))| match claimed {
                Claimed::Made => Settled::New {
                    outcome,
                    stored: stored_of(chunk.rows.len(), left_out),
                },
                Claimed::Known { hash, .. } if hash != chunk.hash => Settled::Reused,
                Claimed::Known { outcome, maker, .. } => {
                    let kept = outcome.and_then(|text| serde_json::from_str(&text).ok());
                    Settled::Known {
                        outcome: kept.unwrap_or_else(|| ChunkOutcome::all(chunk.rows.len())),
                        is_ours: maker == chunk.maker,
                    }
                }
            })
            .collect()
    }

    // === Statements ===

    /// The statement for one row; for updates, of those that gave the columns of `given`.
    fn row_sql(&self, given: &[u8]) -> String {
        let feed = &self.plan.feed;
        let table = table(&feed.table);
        let name = |at: usize| quote(&feed.columns[at].name);
        let others = (0..feed.columns.len()).filter(|at| !self.plan.key.contains(at));
        match self.operation {
            Operation::Insert | Operation::Upsert => {
                let names: Vec<_> = (0..feed.columns.len()).map(name).collect();
                let values: Vec<_> = (1..=feed.columns.len()).map(|at| format!("?{at}")).collect();
                let keys: Vec<_> = self.plan.key.iter().map(|at| name(*at)).collect();
                let clause = match self.plan.on_conflict(self.operation) {
                    OnConflict::Error => String::new(),
                    OnConflict::Ignore => format!(" ON CONFLICT ({}) DO NOTHING", keys.join(", ")),
                    OnConflict::Update => {
                        let set: Vec<_> = others.map(name).collect();
                        // Nothing to replace; but the row shall count as stored.
                        let set = if set.is_empty() { &keys[..1] } else { &set[..] };
                        let set: Vec<_> = set
                            .iter()
                            .map(|name| format!("{name} = excluded.{name}"))
                            .collect();
                        format!(
                            " ON CONFLICT ({}) DO UPDATE SET {}",
                            keys.join(", "),
                            set.join(", ")
                        )
                    }
                };
                format!(
                    "INSERT INTO {table} ({}) VALUES ({}){clause}",
                    names.join(", "),
                    values.join(", ")
                )
            }
            Operation::Update => {
                let set: Vec<_> = self.changed(given).collect();
                let n_set = set.len();
                let set = set
                    .iter()
                    .enumerate()
                    .map(|(i, at)| format!("{} = ?{}", name(*at), i + 1));
                let set: Vec<_> = set.collect();
                let same = self.plan.key.iter().enumerate();
                let same = same.map(|(i, at)| format!("{} = ?{}", name(*at), n_set + i + 1));
                let same: Vec<_> = same.collect();
                format!(
                    "UPDATE {table} SET {} WHERE {}",
                    set.join(", "),
                    same.join(" AND ")
                )
            }
            Operation::Delete => format!("DELETE FROM {table} WHERE {}", self.same_key()),
        }
    }

    /// Columns that an update changes.
    fn changed<'a>(&'a self, given: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        let gave = |at: &usize| given.is_empty() || given[at / 8] >> (at % 8) & 1 == 1;
        let others = (0..self.plan.feed.columns.len()).filter(|at| !self.plan.key.contains(at));
        others.filter(gave)
    }

    fn same_key(&self) -> String {
        let same = self.plan.feed.key.iter().enumerate();
        let same: Vec<_> = same
            .map(|(at, name)| format!("{} = ?{}", quote(name), at + 1))
            .collect();
        same.join(" AND ")
    }

    /// Whether the operation only adds rows to roll-ups.
    fn adds_up(&self) -> bool {
        self.operation == Operation::Insert && self.plan.on_conflict(self.operation) != OnConflict::Update
    }

    /// Notes a row for the roll-ups, by its key: before and after where groups are computed anew.
    fn touch_sql(&self) -> Option<String> {
        let feed = &self.plan.feed;
        (!feed.rollups.is_empty() && !self.adds_up()).then(|| {
            let columns = self.columns();
            let (table, same) = (table(&feed.table), self.same_key());
            format!("INSERT INTO {BATCH} SELECT {columns} FROM {table} WHERE {same}")
        })
    }

    /// What runs before the rows and after them.
    fn rollup_sql(&self) -> (String, String) {
        let feed = &self.plan.feed;
        if feed.rollups.is_empty() {
            return (String::new(), String::new());
        }
        let (columns, table) = (self.columns(), table(&feed.table));
        let empty = format!(
            "DROP TRIGGER IF EXISTS temp.tidegate_note; DROP TABLE IF EXISTS {BATCH}; \
             CREATE TABLE {BATCH} AS SELECT {columns} FROM {table} WHERE 0; "
        );
        if !self.adds_up() {
            let recompute = feed.rollups.iter();
            let recompute =
                recompute.flat_map(|rollup| rollup::recompute_sql(Kind::Sqlite, feed, rollup, BATCH));
            return (empty, recompute.collect::<Vec<_>>().join("; "));
        }
        let new: Vec<_> = feed
            .columns
            .iter()
            .map(|column| format!("new.{}", quote(&column.name)))
            .collect();
        // A trigger sees exactly the rows that were inserted, whatever became of the others.
        let note = format!(
            "CREATE TRIGGER temp.tidegate_note AFTER INSERT ON main.{table} \
             BEGIN INSERT INTO tidegate_batch VALUES ({}); END",
            new.join(", ")
        );
        let apply = feed
            .rollups
            .iter()
            .map(|rollup| rollup::apply_sql(Kind::Sqlite, feed, rollup, BATCH));
        let mut after = vec!["DROP TRIGGER temp.tidegate_note".to_owned()];
        after.extend(apply);
        (format!("{empty}{note}"), after.join("; "))
    }

    fn columns(&self) -> String {
        let names = self.plan.feed.columns.iter().map(|column| quote(&column.name));
        names.collect::<Vec<_>>().join(", ")
    }
}

fn stored_of(n_rows: usize, mut left_out: Vec<u32>) -> Stored {
    if left_out.is_empty() {
        return Stored::All;
    }
    left_out.sort_unstable();
    let is_stored = |row: &u32| left_out.binary_search(row).is_err();
    Stored::Rows((0..n_rows as u32).filter(is_stored).collect())
}

// === impl Done ===

impl Done {
    /// # Errors
    /// What is nobody's fault, or ended the whole transaction.
    fn refused(error: Error) -> Result<Self> {
        match blame(&error) {
            Blame::Row | Blame::FeedOrRow => Ok(Self::Refused(error)),
            Blame::Nobody | Blame::Feed => Err(error),
        }
    }
}
