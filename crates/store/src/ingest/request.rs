//! A request with rows: checked, read, taken apart into chunks, and answered when all of them ended.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_vitals::Id;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::backend::{Chunk, Mark, Plan, new_maker};
use super::backlog::Room;
use super::flight::{Answer, Entered};
use super::lane::Lane;
use super::outcome::Outcome;
use super::queue::Job;
use super::{Ingest, Shared};
use crate::error::{Error, Result};
use crate::feed::Operation;
use crate::row::{CHUNK_ROWS, ChunkRows, Format, Parsed, Reader};
use crate::value::{Type, Value};

/// Rows for a feed.
#[derive(Debug, Clone)]
pub struct Request {
    /// The feed.
    pub feed: String,
    /// Who sends them; ids and quotas are its own. At most [`PRINCIPAL_BYTES_MAX`] bytes.
    pub principal: String,
    /// What makes them stored once, however often they are sent: 1 to [`ID_BYTES_MAX`] bytes, unique for principal and
    /// feed. Without one, what is sent twice is stored twice.
    pub id: Option<String>,
    /// What to do with them; by default they are inserted.
    pub operation: Option<Operation>,
    /// The rows.
    pub rows: Rows,
    /// The number of the first one: a multiple of 1,000, for streams that are sent piece by piece under one id.
    pub first_row: u64,
}

/// Rows as they came.
#[derive(Debug, Clone)]
pub enum Rows {
    /// One object, or an array of objects.
    Json(Bytes),
    /// One object a line.
    Ndjson(Bytes),
}

/// Longest id of a request.
pub const ID_BYTES_MAX: usize = 64;
/// Longest name of a principal: it is part of an index.
pub const PRINCIPAL_BYTES_MAX: usize = 1_024;
/// Larger bodies are read on a thread of their own, so that they do not hold up others.
const INLINE_BYTES_MAX: usize = 256 << 10;

impl Ingest {
    /// Takes rows in, and answers when each of them is stored, spooled, refused or known to be a duplicate.
    ///
    /// # Errors
    /// [`Error::UnknownFeed`]; [`Error::BadRequest`] for a body that cannot be taken apart, or an id, principal or
    /// operation that is not right; [`Error::IdReused`]; [`Error::Quota`]; [`Error::BacklogFull`];
    /// [`Error::Pressed`] and [`Error::NoMemory`] where memory is short; [`Error::TooLarge`]; [`Error::Suspended`];
    /// [`Error::SpoolFull`]; or why the database could not be reached.
    /// Then some chunks may be stored and others not: with an id, the same request may be sent again.
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing back: rows that were taken in are stored.
    pub async fn submit(&self, request: Request) -> Result<Outcome> {
        let shared = &self.0;
        let since = shared.context.clock.now();
        let answered = shared.submit(request).await;
        match &answered {
            Ok(_) => {
                let took = shared.context.clock.now() - since;
                shared.ack.record(took.as_nanos() as u64);
            }
            Err(error) => {
                let registry = &shared.context.registry;
                registry.counter(Id::StoreIngestRefused, &[reason(error)]).inc();
            }
        }
        answered
    }
}

/// A word for each reason of a refusal.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::UnknownFeed(_) => "unknown_feed",
        Error::BadRequest(_) => "bad_request",
        Error::IdReused { .. } => "id_reused",
        Error::Quota { .. } => "quota",
        Error::BacklogFull { .. } => "backlog_full",
        Error::Pressed { .. } => "pressure",
        Error::NoMemory { .. } => "no_memory",
        Error::SpoolFull { .. } => "spool_full",
        Error::TooLarge { .. } => "too_large",
        Error::Suspended { .. } => "suspended",
        _ => "unavailable",
    }
}

/// A request that passed all checks, on its way.
struct Sent {
    outcome: Outcome,
    answers: Vec<(u32, oneshot::Receiver<Answer>)>,
}

impl Shared {
    async fn submit(&self, request: Request) -> Result<Outcome> {
        let lane = self
            .lane(&request.feed)
            .ok_or_else(|| Error::UnknownFeed(request.feed.clone()))?;
        let plan = lane.plan();
        request.check()?;
        let operation = request.operation.unwrap_or(Operation::Insert);
        plan.check_operation(operation)?;
        self.check_open(&lane)?;
        self.backlog.check_open()?;
        // Before anything is read, for the most that can come of it; what is not needed goes back with the chunks known.
        let most = most_bytes(&plan, &request.rows, self.backlog.rows_max());
        let memory = self.account.reserve(most)?;
        let reader = Reader::new(&plan.feed, operation);
        let parsed = read(reader, request.rows.clone(), request.first_row).await?;
        let n_good: usize = parsed.chunks.iter().map(|chunk| chunk.table.len()).sum();
        let room = self.backlog.reserve(n_good, memory)?;
        let principal: Arc<str> = request.principal.as_str().into();
        if let Some(per_second) = plan.feed.rows_per_second_max {
            let now = self.context.clock.now();
            let taken = lane
                .quota
                .take(&principal, parsed.n_rows as usize, per_second, now);
            taken.map_err(|retry_after| Error::Quota {
                feed: lane.name.clone(),
                rows_per_second: per_second,
                retry_after,
            })?;
        }
        lane.figures.rejected.add(parsed.n_rejected);
        let id = request.id.unwrap_or_else(new_id);
        self.send(&lane, &plan, (principal, &id, operation), parsed, room)?
            .answer(&id)
            .await
    }

    fn check_open(&self, lane: &Lane) -> Result<()> {
        if self.is_stopping() {
            return Err(closing(lane));
        }
        #[cfg(feature = "spool")]
        if self.spool.is_some() {
            return Ok(());
        }
        match lane.suspension() {
            Some(suspension) if suspension.until > Instant::now() => Err(Error::Suspended {
                feed: lane.name.clone(),
                reason: suspension.reason,
            }),
            _ => Ok(()),
        }
    }

    /// Puts the chunks into the queue, all or none.
    fn send(
        &self,
        lane: &Lane,
        plan: &Arc<Plan>,
        (principal, id, operation): (Arc<str>, &str, Operation),
        parsed: Parsed,
        mut room: Room,
    ) -> Result<Sent> {
        let outcome = Outcome::new(id, parsed.rejected, parsed.n_rejected);
        let id: Arc<str> = id.into();
        let mut answers = Vec::new();
        let mut jobs = Vec::new();
        for rows in parsed.chunks.into_iter().filter(|rows| !rows.table.is_empty()) {
            let mark = Mark {
                principal: Arc::clone(&principal),
                id: Arc::clone(&id),
                chunk: rows.index,
            };
            let n_rows = rows.table.len();
            let chunk = chunk(mark, operation, rows);
            let answer = match lane.flights.enter(&chunk.mark, chunk.hash) {
                Entered::Joined(answer) => answer,
                Entered::First(answer) => {
                    answers.push((chunk.mark.chunk, answer));
                    let n_bytes = chunk.rows.n_bytes();
                    jobs.push(Job {
                        n_bytes,
                        chunk,
                        plan: Arc::clone(plan),
                        number: 0,
                        room: room.split(n_rows, held_bytes(n_bytes, n_rows)),
                        since: Instant::now(),
                    });
                    continue;
                }
            };
            answers.push((chunk.mark.chunk, answer));
        }
        let marks: Vec<Mark> = jobs.iter().map(|job| job.chunk.mark.clone()).collect();
        if !marks.is_empty() && !lane.queue.push(jobs) {
            // Others may have joined in the meantime: they hear it as well.
            for mark in &marks {
                lane.flights.leave(mark, &Err(closing(lane)));
            }
            return Err(closing(lane));
        }
        Ok(Sent { outcome, answers })
    }
}

fn chunk(mark: Mark, operation: Operation, rows: ChunkRows) -> Chunk {
    use sha2::Digest as _;
    let mut digest = rows.digest;
    // The same rows for another operation are another request.
    digest.update(operation.as_str());
    Chunk {
        mark,
        hash: digest.finalize().into(),
        maker: new_maker(),
        operation,
        rows: rows.table,
        numbers: rows.numbers,
        misfits: Vec::new(),
    }
}

/// What a chunk holds in the ledger: its values and one written form of them, which is never larger. Whatever was taken
/// in can then be sent or spooled without asking for memory that those behind it hold.
pub(super) fn held_bytes(n_bytes: usize, n_rows: usize) -> usize {
    2 * (n_bytes + n_rows * size_of::<u64>() + size_of::<Job>())
}

/// The most that the chunks of a body can hold, by a look at its bytes.
fn most_bytes(plan: &Plan, rows: &Rows, rows_max: usize) -> usize {
    let (body, mark) = match rows {
        Rows::Json(body) => (body, b'{'),
        Rows::Ndjson(body) => (body, b'\n'),
    };
    // More rows than may wait are refused as too large.
    let n_rows = (memchr::memchr_iter(mark, body).count() + 1).min(rows_max);
    let width = plan.feed.columns.len();
    let has_arrays = plan
        .feed
        .columns
        .iter()
        .any(|column| matches!(column.kind, Type::Array(_)));
    // Texts are not longer than they were; an element of an array may have been two bytes.
    let spread = if has_arrays { 1 + size_of::<Value>() / 2 } else { 1 };
    let values = n_rows * (width * size_of::<Value>() + width.div_ceil(8)) + spread * body.len();
    let n_chunks = n_rows / CHUNK_ROWS as usize + 2;
    held_bytes(values, n_rows) + n_chunks * held_bytes(0, 0)
}

async fn read(reader: Reader, rows: Rows, first_row: u64) -> Result<Parsed> {
    let (format, body) = match rows {
        Rows::Json(body) => (Format::Json, body),
        Rows::Ndjson(body) => (Format::Ndjson, body),
    };
    if body.len() <= INLINE_BYTES_MAX {
        return reader.read(format, &body, first_row);
    }
    let read = tokio::task::spawn_blocking(move || reader.read(format, &body, first_row));
    match read.await {
        Ok(parsed) => parsed,
        Err(_) => Err(Error::BadRequest("the process is ending".to_owned())),
    }
}

fn closing(lane: &Lane) -> Error {
    Error::Suspended {
        feed: lane.name.clone(),
        reason: "it takes no more rows on this node".to_owned(),
    }
}

/// An id that nobody else has.
fn new_id() -> String {
    let mut random = [0; 16];
    getrandom::fill(&mut random).expect("the system gives random bytes");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Request ===

impl Request {
    fn check(&self) -> Result<()> {
        let problem = match &self.id {
            Some(id) if !(1..=ID_BYTES_MAX).contains(&id.len()) => {
                format!("id of {} bytes: 1 to {ID_BYTES_MAX}", id.len())
            }
            Some(id) if id.contains('\0') => "id contains NUL".to_owned(),
            None if self.first_row > 0 => "a stream in pieces needs an id".to_owned(),
            _ if !self.first_row.is_multiple_of(CHUNK_ROWS) => {
                format!("first_row = {}: a multiple of {CHUNK_ROWS}", self.first_row)
            }
            _ if self.first_row / CHUNK_ROWS > i32::MAX as u64 / 2 => {
                format!("first_row = {}: too large", self.first_row)
            }
            _ if self.principal.len() > PRINCIPAL_BYTES_MAX || self.principal.contains('\0') => {
                format!("principal: at most {PRINCIPAL_BYTES_MAX} bytes, no NUL")
            }
            _ => return Ok(()),
        };
        Err(Error::BadRequest(problem))
    }
}

// === impl Sent ===

impl Sent {
    /// Waits for all chunks. Those that were stored stay stored, whatever became of the others.
    async fn answer(mut self, id: &str) -> Result<Outcome> {
        let mut failed = None;
        for (chunk, answer) in self.answers {
            match answer.await {
                Ok(Ok(Some(outcome))) => self.outcome.add(outcome),
                Ok(Ok(None)) => {
                    let id = id.to_owned();
                    failed.get_or_insert(Error::IdReused { id, chunk });
                }
                Ok(Err(error)) => {
                    failed.get_or_insert(error);
                }
                Err(_) => {
                    let message = "the store ended before the rows were stored".to_owned();
                    failed.get_or_insert(Error::Lost(message));
                }
            }
        }
        match failed {
            None => Ok(self.outcome),
            Some(error) => Err(error),
        }
    }
}
