//! One attempt to store a batch in one transaction, nothing of it refused.

use std::panic::Location;
use std::pin::pin;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::encode::{ColumnArray, CopyWriter, Extra, GivenArray};
use super::live::Live;
use super::sql::{self, Source};
use crate::backend::postgres::Connection;
use crate::error::{Error, Result};
use crate::feed::{OnConflict, Operation};
use crate::ingest::backend::{Chunk, Method, Plan, Settled, Stored};
use crate::ingest::fold::{Folded, FoldedRow, Place, fold};
use crate::ingest::outcome::{ChunkOutcome, DeadRow};
use crate::statement::Monitor;

/// Batches up to this many rows go as arrays in one statement; larger ones by COPY.
pub(super) const UNNEST_ROWS_MAX: usize = 1_000;
/// Bytes of one message of COPY: large enough to keep the server busy, small enough to start it early.
const COPY_BYTES: usize = 128 << 10;

/// A batch on its way into one connection.
pub(super) struct Transaction<'a> {
    pub(super) connection: &'a Connection,
    pub(super) plan: &'a Plan,
    pub(super) live: &'a Live,
    pub(super) chunks: &'a [&'a Chunk],
    pub(super) operation: Operation,
    pub(super) sql: sql::Writer<'a>,
    monitor: (&'a Monitor, &'static Location<'static>),
}

/// The claims of a batch as parameters.
pub(super) struct Marks<'a> {
    principals: Vec<&'a str>,
    ids: Vec<&'a str>,
    chunks: Vec<i32>,
    hashes: Vec<&'a [u8]>,
    makers: Vec<i64>,
}

/// What became of the rows of a batch, before it is told chunk by chunk.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// For each chunk: its outcome so far, and the places of rows not stored.
    pub(super) chunks: Vec<(ChunkOutcome, Vec<u32>)>,
}

type Parameters<'p> = Vec<&'p (dyn ToSql + Sync)>;

// === impl Transaction ===

impl<'a> Transaction<'a> {
    pub(super) fn new(
        connection: &'a Connection,
        plan: &'a Plan,
        live: &'a Live,
        chunks: &'a [&'a Chunk],
        monitor: (&'a Monitor, &'static Location<'static>),
    ) -> Self {
        Self {
            connection,
            plan,
            live,
            chunks,
            operation: chunks.first().map_or(Operation::Insert, |chunk| chunk.operation),
            sql: sql::Writer {
                plan,
                types: &live.types,
            },
            monitor,
        }
    }

    /// The same for some of the chunks.
    pub(super) fn part<'b>(&'b self, chunks: &'b [&'b Chunk]) -> Transaction<'b> {
        Transaction::new(self.connection, self.plan, self.live, chunks, self.monitor)
    }

    /// Stores the batch.
    pub(super) async fn run(&self) -> Result<(Vec<Settled>, Method)> {
        if let Some(folded) = self.folded_quick() {
            return Ok((self.quick(&folded).await?, Method::Unnest));
        }
        self.guarded(self.stepwise()).await
    }

    /// The batch for one statement, if it can be one.
    fn folded_quick(&self) -> Option<Folded<'a>> {
        let n_rows = self.chunks.iter().map(|chunk| chunk.rows.len()).sum();
        let has_misfits = self.chunks.iter().any(|chunk| !chunk.misfits.is_empty());
        if has_misfits || !self.takes_arrays(n_rows) {
            return None;
        }
        let rows = self
            .chunks
            .iter()
            .enumerate()
            .flat_map(|(at, chunk)| places(at, chunk));
        let folded = fold(self.plan, self.operation, self.chunks, rows);
        // Folding over chunks supposes that all of them are new, which only the claims can tell.
        let is_simple = self.chunks.len() == 1 || folded.duplicates.is_empty();
        is_simple.then_some(folded)
    }

    /// Whether this many rows go as arrays.
    pub(super) fn takes_arrays(&self, n_rows: usize) -> bool {
        n_rows <= UNNEST_ROWS_MAX && !self.live.has_arrays && !self.sql.recomputes(self.operation)
    }

    /// Whether rows go into the table as they are, and nothing depends on which were stored.
    pub(super) fn is_plain(&self) -> bool {
        let on_conflict = self.plan.on_conflict(self.operation);
        self.operation == Operation::Insert
            && on_conflict == OnConflict::Error
            && self.plan.feed.rollups.is_empty()
    }

    /// Makes the prepared statements be made anew.
    pub(super) fn forget_statements(&self) {
        for source in [Source::QuickArrays, Source::Arrays, Source::Stage] {
            self.connection.forget(&self.sql.store(self.operation, source));
        }
        self.connection.forget(&self.sql.copy_table());
        self.connection.forget(&self.sql.copy_stage(self.operation).0);
    }

    // === Everything in one statement ===

    async fn quick(&self, folded: &Folded<'_>) -> Result<Vec<Settled>> {
        let text = self.sql.store(self.operation, Source::QuickArrays);
        let mut timing = self.monitor.0.begin(&text, self.monitor.1);
        timing.acquired();
        let answer = self.quick_steps(&text, folded).await;
        let sqlstate = answer
            .as_ref()
            .err()
            .map(|error| error.sqlstate().unwrap_or("08000").to_owned());
        timing.finish(folded.rows.len() as u64, sqlstate.as_deref().map_or(Ok(()), Err));
        answer
    }

    async fn quick_steps(&self, text: &str, folded: &Folded<'_>) -> Result<Vec<Settled>> {
        let is_pooled = self.connection.info().through_pooler;
        let marks = Marks::of(self.chunks);
        let claim_places: Vec<i32> = folded.rows.iter().map(|row| row.place.chunk as i32).collect();
        let given = GivenArray(&folded.rows);
        let columns = self.arrays(&folded.rows);
        let mut parameters: Parameters<'_> = marks.parameters(&self.plan.feed.name);
        parameters.push(&claim_places);
        parameters.push(&given);
        parameters.extend(columns.iter().map(|column| column as &(dyn ToSql + Sync)));
        if is_pooled {
            // The statement must be made inside the transaction.
            return self
                .guarded(async {
                    self.execute(sql::BEGIN).await?;
                    let row = self.query_one(text, &parameters).await?;
                    self.finish_quick(&marks, folded, &row).await
                })
                .await;
        }
        let statement = self.connection.prepare(text).await?;
        // Nothing can be left out, so nothing more will have to be kept with the claims: the commit need not wait.
        if self.loses_nothing() && folded.duplicates.is_empty() {
            return self.pipelined(&statement, &parameters, &marks, folded).await;
        }
        self.guarded(async {
            let client = self.connection.client();
            let begin = client.batch_execute(sql::BEGIN);
            let query = client.query_one(&statement, &parameters);
            let (begun, row) = tokio::join!(begin, query);
            begun.map_err(|error| self.connection.error(error))?;
            let row = row.map_err(|error| self.connection.error(error))?;
            self.finish_quick(&marks, folded, &row).await
        })
        .await
    }

    /// BEGIN, statement and COMMIT without waiting in between. If the statement fails, COMMIT rolls back.
    async fn pipelined(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
        marks: &Marks<'_>,
        folded: &Folded<'_>,
    ) -> Result<Vec<Settled>> {
        let client = self.connection.client();
        self.connection.set_in_transaction(true);
        let (begun, row, committed) = tokio::join!(
            client.batch_execute(sql::BEGIN),
            client.query_one(statement, parameters),
            client.batch_execute("COMMIT"),
        );
        if let Err(error) = begun {
            // Then the statement ran by itself, and was durable by the session's own default; claims and rows went
            // together all the same.
            self.rollback().await;
            return Err(self.connection.error(error));
        }
        // Refused or not, the server answered: the transaction is over.
        if committed
            .as_ref()
            .err()
            .is_none_or(|error| error.as_db_error().is_some())
        {
            self.connection.set_in_transaction(false);
        }
        // Without an answer to the statement the commit behind it may have happened.
        let row = row.map_err(|error| self.connection.error(error))?;
        committed.map_err(|error| self.connection.error(error))?;
        let mut tally = Tally::new(self.chunks.len());
        let made = made_of(&row, self.chunks.len());
        tally.count(self.operation, folded, &[], &made);
        let recorded = self.recorded(marks, &made).await?;
        Ok(tally.settle(self.chunks, &made, recorded))
    }

    async fn finish_quick(&self, marks: &Marks<'_>, folded: &Folded<'_>, row: &Row) -> Result<Vec<Settled>> {
        let mut tally = Tally::new(self.chunks.len());
        let made = made_of(row, self.chunks.len());
        let lost: Vec<i32> = row.get("lost");
        tally.count(self.operation, folded, &lost, &made);
        let recorded = self.recorded(marks, &made).await?;
        self.commit(&tally, &made).await?;
        Ok(tally.settle(self.chunks, &made, recorded))
    }

    // === Step by step ===

    async fn stepwise(&self) -> Result<(Vec<Settled>, Method)> {
        self.begin().await?;
        let (made, recorded) = self.claim().await?;
        let mut tally = Tally::new(self.chunks.len());
        let new = self.chunks.iter().enumerate().filter(|(at, _)| made[*at]);
        let rows = new.flat_map(|(at, chunk)| places(at, chunk));
        let folded = fold(self.plan, self.operation, self.chunks, rows);
        let mut method = Method::Unnest;
        if !folded.rows.is_empty() {
            let lost;
            (lost, method) = self.store(&folded.rows).await?;
            tally.count(self.operation, &folded, &lost, &made);
        }
        self.bury_misfits(&mut tally, &made).await?;
        self.recompute().await?;
        self.commit(&tally, &made).await?;
        Ok((tally.settle(self.chunks, &made, recorded), method))
    }

    /// Begins, and makes the staging table where one may be needed.
    pub(super) async fn begin(&self) -> Result<()> {
        if self.is_plain() {
            return self.execute(sql::BEGIN).await;
        }
        let is_kept = !self.connection.info().through_pooler;
        let stage = self
            .sql
            .create_stage(is_kept, self.sql.recomputes(self.operation));
        self.execute(&format!("{}; {stage}", sql::BEGIN)).await
    }

    /// Makes the claims; says which were made, and what is kept of the others.
    pub(super) async fn claim(&self) -> Result<(Vec<bool>, Vec<Recorded>)> {
        let marks = Marks::of(self.chunks);
        let rows = self
            .query(sql::CLAIM, &marks.parameters(&self.plan.feed.name))
            .await?;
        let mut made = vec![false; self.chunks.len()];
        for row in &rows {
            made[row.get::<_, i32>(0) as usize] = true;
        }
        let recorded = self.recorded(&marks, &made).await?;
        Ok((made, recorded))
    }

    /// Stores rows inside the open transaction; says which were not stored.
    pub(super) async fn store(&self, rows: &[FoldedRow<'_>]) -> Result<(Vec<i32>, Method)> {
        if self.is_plain() && (self.live.has_arrays || rows.len() > UNNEST_ROWS_MAX) {
            self.copy_table(rows).await?;
            return Ok((Vec::new(), Method::Copy));
        }
        if self.takes_arrays(rows.len()) {
            let given = GivenArray(rows);
            let columns = self.arrays(rows);
            let mut parameters: Parameters<'_> = vec![&given];
            parameters.extend(columns.iter().map(|column| column as &(dyn ToSql + Sync)));
            let text = self.sql.store(self.operation, Source::Arrays);
            let row = self.query_one(&text, &parameters).await?;
            return Ok((row.get("lost"), Method::Unnest));
        }
        let (copy_stage, extra) = self.sql.copy_stage(self.operation);
        self.copy(&copy_stage, rows, extra).await?;
        let recomputes = self.sql.recomputes(self.operation);
        if recomputes {
            self.execute(&self.sql.touch(true)).await?;
        }
        let row = self
            .query_one(&self.sql.store(self.operation, Source::Stage), &[])
            .await?;
        if recomputes {
            self.execute(&self.sql.touch(false)).await?;
        }
        Ok((row.get("lost"), Method::CopyStage))
    }

    /// Computes the touched groups of roll-ups anew.
    pub(super) async fn recompute(&self) -> Result<()> {
        if self.sql.recomputes(self.operation) {
            for statement in self.sql.recompute() {
                self.execute(&statement).await?;
            }
        }
        Ok(())
    }

    /// Copies rows into the table itself.
    pub(super) async fn copy_table(&self, rows: &[FoldedRow<'_>]) -> Result<()> {
        self.copy(&self.sql.copy_table(), rows, Extra::Nothing).await
    }

    async fn copy(&self, text: &str, rows: &[FoldedRow<'_>], extra: Extra) -> Result<()> {
        let mut timing = self.monitor.0.begin(text, self.monitor.1);
        timing.acquired();
        let copied = self.copy_rows(text, rows, extra).await;
        let sqlstate = copied
            .as_ref()
            .err()
            .map(|error| error.sqlstate().unwrap_or("08000"));
        timing.finish(rows.len() as u64, sqlstate.map_or(Ok(()), Err));
        copied
    }

    async fn copy_rows(&self, text: &str, rows: &[FoldedRow<'_>], extra: Extra) -> Result<()> {
        let statement = self.connection.prepare(text).await?;
        let failed = |error| self.connection.error(error);
        let sink = self.connection.client().copy_in::<_, Bytes>(&statement).await;
        let mut sink = pin!(sink.map_err(failed)?);
        let mut writer = CopyWriter::new(&self.live.wires, extra);
        let mut rest = rows;
        while !rest.is_empty() {
            let mut piece = BytesMut::with_capacity(COPY_BYTES + COPY_BYTES / 8);
            let n_taken = writer
                .write(rest, COPY_BYTES, &mut piece)
                .map_err(|error| Error::BadRequest(format!("row cannot be written: {error}")))?;
            rest = &rest[n_taken..];
            if rest.is_empty() {
                writer.finish(&mut piece);
            }
            sink.feed(piece.freeze()).await.map_err(failed)?;
        }
        sink.finish().await.map(drop).map_err(failed)
    }

    fn arrays<'r>(&'r self, rows: &'r [FoldedRow<'r>]) -> Vec<ColumnArray<'r>> {
        let column = |(at, wire)| ColumnArray { rows, at, wire };
        self.live.wires.iter().enumerate().map(column).collect()
    }

    // === Claims, outcomes, dead letters ===

    /// What is kept of claims that were there already.
    async fn recorded(&self, marks: &Marks<'_>, made: &[bool]) -> Result<Vec<Recorded>> {
        if made.iter().all(|made| *made) {
            return Ok(Vec::new());
        }
        let parameters = marks.parameters(&self.plan.feed.name);
        let rows = self.query(sql::RECORDED, &parameters[..4]).await?;
        rows.iter()
            .filter(|row| !made[row.get::<_, i32>(0) as usize])
            .map(Recorded::read)
            .collect()
    }

    /// Keeps what is not simply "all stored", and commits.
    pub(super) async fn commit(&self, tally: &Tally, made: &[bool]) -> Result<()> {
        let special = |at: &usize| made[*at] && !tally.chunks[*at].0.is_all(self.chunks[*at].rows.len());
        let special: Vec<usize> = (0..self.chunks.len()).filter(special).collect();
        if !special.is_empty() {
            let chunks: Vec<&Chunk> = special.iter().map(|at| self.chunks[*at]).collect();
            let marks = Marks::of(&chunks);
            let outcomes: Vec<String> = special
                .iter()
                .map(|at| serde_json::to_string(&tally.chunks[*at].0).expect("an outcome is plain data"))
                .collect();
            let mut parameters = marks.parameters(&self.plan.feed.name);
            parameters[4] = &outcomes;
            self.query(sql::RECORD, &parameters[..5]).await?;
        }
        let committed = self.connection.client().batch_execute("COMMIT").await;
        committed.map_err(|error| self.connection.error(error))
    }

    /// Rows that no longer fit the feed go to the dead letter with their claim.
    pub(super) async fn bury_misfits(&self, tally: &mut Tally, made: &[bool]) -> Result<()> {
        let mut dead = Vec::new();
        for (at, chunk) in self.chunks.iter().enumerate().filter(|(at, _)| made[*at]) {
            for misfit in &chunk.misfits {
                let why = DeadRow::new(misfit.number, "22000", &misfit.message);
                tally.chunks[at].0.dead.push(why.clone());
                dead.push((at, misfit.row.clone(), why));
            }
        }
        self.bury(&dead).await
    }

    /// Writes refused rows to the dead letter: chunk, row as JSON, why.
    pub(super) async fn bury(&self, dead: &[(usize, Vec<u8>, DeadRow)]) -> Result<()> {
        if dead.is_empty() {
            return Ok(());
        }
        let claims: Vec<String> = dead
            .iter()
            .map(|(at, ..)| self.chunks[*at].mark.to_json(self.operation))
            .collect();
        let numbers: Vec<i64> = dead.iter().map(|(.., why)| why.row as i64).collect();
        let rows: Vec<&[u8]> = dead.iter().map(|(_, row, _)| row.as_slice()).collect();
        let sqlstates: Vec<&str> = dead.iter().map(|(.., why)| why.sqlstate.as_str()).collect();
        let messages: Vec<&str> = dead.iter().map(|(.., why)| why.message.as_str()).collect();
        let version = self.plan.version as i64;
        let parameters: [&(dyn ToSql + Sync); 7] = [
            &self.plan.feed.name,
            &version,
            &claims,
            &numbers,
            &rows,
            &sqlstates,
            &messages,
        ];
        self.query(sql::DEAD_LETTER, &parameters).await.map(drop)
    }

    // === The connection ===

    /// Runs a transaction to its end; on an error, or if it is dropped, nothing of it stays open.
    pub(super) async fn guarded<T>(&self, steps: impl Future<Output = Result<T>>) -> Result<T> {
        self.connection.set_in_transaction(true);
        let done = steps.await;
        match &done {
            Ok(_) => self.connection.set_in_transaction(false),
            Err(_) => self.rollback().await,
        }
        done
    }

    async fn rollback(&self) {
        match self.connection.client().batch_execute("ROLLBACK").await {
            Ok(()) => self.connection.set_in_transaction(false),
            Err(_) => self.connection.set_broken(),
        }
    }

    pub(super) async fn execute(&self, text: &str) -> Result<()> {
        let done = self.connection.client().batch_execute(text).await;
        done.map_err(|error| self.connection.error(error))
    }

    async fn query(&self, text: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        let statement = self.connection.prepare(text).await?;
        let rows = self.connection.client().query(&statement, parameters).await;
        rows.map_err(|error| self.connection.error(error))
    }

    async fn query_one(&self, text: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row> {
        let mut timing = self.monitor.0.begin(text, self.monitor.1);
        timing.acquired();
        let statement = self.connection.prepare(text).await?;
        let row = self.connection.client().query_one(&statement, parameters).await;
        let row = row.map_err(|error| self.connection.error(error));
        let sqlstate = row
            .as_ref()
            .err()
            .map(|error| error.sqlstate().unwrap_or("08000"));
        timing.finish(1, sqlstate.map_or(Ok(()), Err));
        row
    }

    /// Whether every row of the operation is stored or refused.
    fn loses_nothing(&self) -> bool {
        let on_conflict = self.plan.on_conflict(self.operation);
        matches!(self.operation, Operation::Insert | Operation::Upsert) && on_conflict != OnConflict::Ignore
    }
}

/// The rows of a chunk.
pub(super) fn places(at: usize, chunk: &Chunk) -> impl Iterator<Item = Place> + use<> {
    let chunk_place = at as u32;
    (0..chunk.rows.len() as u32).map(move |row| Place {
        chunk: chunk_place,
        row,
    })
}

fn made_of(row: &Row, n_chunks: usize) -> Vec<bool> {
    let mut made = vec![false; n_chunks];
    for at in row.get::<_, Vec<i32>>("made") {
        made[at as usize] = true;
    }
    made
}

// === Claims as parameters ===

impl<'a> Marks<'a> {
    pub(super) fn of(chunks: &[&'a Chunk]) -> Self {
        Self {
            principals: chunks.iter().map(|chunk| &*chunk.mark.principal).collect(),
            ids: chunks.iter().map(|chunk| &*chunk.mark.id).collect(),
            chunks: chunks.iter().map(|chunk| chunk.mark.chunk as i32).collect(),
            hashes: chunks.iter().map(|chunk| chunk.hash.as_slice()).collect(),
            makers: chunks.iter().map(|chunk| chunk.maker).collect(),
        }
    }

    fn parameters<'p>(&'p self, feed: &'p String) -> Parameters<'p> {
        vec![
            feed,
            &self.principals,
            &self.ids,
            &self.chunks,
            &self.hashes,
            &self.makers,
        ]
    }
}

/// What is kept of a claim that was there.
#[derive(Debug)]
pub(super) struct Recorded {
    at: usize,
    hash: Vec<u8>,
    outcome: Option<ChunkOutcome>,
    maker: i64,
}

impl Recorded {
    fn read(row: &Row) -> Result<Self> {
        let outcome: Option<String> = row.get(2);
        let outcome = outcome.map(|text| serde_json::from_str(&text)).transpose();
        Ok(Self {
            at: row.get::<_, i32>(0) as usize,
            hash: row.get(1),
            maker: row.get(3),
            outcome: outcome
                .map_err(|error| Error::BadRequest(format!("kept outcome of a claim: {error}")))?,
        })
    }
}

// === impl Tally ===

impl Tally {
    pub(super) fn new(n_chunks: usize) -> Self {
        Self {
            chunks: (0..n_chunks).map(|_| Default::default()).collect(),
        }
    }

    /// Counts what a statement did with folded rows, of which `lost` were not stored.
    pub(super) fn count(&mut self, operation: Operation, folded: &Folded<'_>, lost: &[i32], made: &[bool]) {
        let mut is_lost = vec![false; folded.rows.len()];
        for at in lost {
            is_lost[*at as usize] = true;
        }
        for (row, is_lost) in folded.rows.iter().zip(is_lost) {
            if !made[row.place.chunk as usize] {
                continue;
            }
            let (outcome, left_out) = &mut self.chunks[row.place.chunk as usize];
            match (is_lost, operation) {
                (false, _) => outcome.stored += 1,
                (true, Operation::Update | Operation::Delete) => outcome.missing += 1,
                (true, _) => outcome.duplicates += 1,
            }
            if is_lost {
                left_out.push(row.place.row);
            }
        }
        for place in folded
            .duplicates
            .iter()
            .filter(|place| made[place.chunk as usize])
        {
            let (outcome, left_out) = &mut self.chunks[place.chunk as usize];
            outcome.duplicates += 1;
            left_out.push(place.row);
        }
    }

    pub(super) fn settle(self, chunks: &[&Chunk], made: &[bool], recorded: Vec<Recorded>) -> Vec<Settled> {
        let mut known: Vec<Option<Settled>> = (0..chunks.len()).map(|_| None).collect();
        for recorded in recorded {
            let chunk = chunks[recorded.at];
            known[recorded.at] = Some(match recorded.hash == chunk.hash {
                true => Settled::Known {
                    outcome: recorded
                        .outcome
                        .unwrap_or_else(|| ChunkOutcome::all(chunk.rows.len())),
                    is_ours: recorded.maker == chunk.maker,
                },
                false => Settled::Reused,
            });
        }
        let pairs = self.chunks.into_iter().zip(known).enumerate();
        pairs
            .map(|(at, ((outcome, left_out), known))| match known {
                _ if made[at] => {
                    let stored = stored_of(chunks[at].rows.len(), left_out);
                    Settled::New { outcome, stored }
                }
                Some(known) => known,
                // Expired between the claim and the look: seven days have passed since it was stored.
                None => Settled::Known {
                    outcome: ChunkOutcome::all(chunks[at].rows.len()),
                    is_ours: false,
                },
            })
            .collect()
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
