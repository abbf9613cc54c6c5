//! Rows as lines of any number: read as they come, stored piece by piece, answered as they are stored.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tidegate_gateway::Error;
use tidegate_store::{
    self as store,
    ingest::{DeadRow, Outcome, Request, Rows, State},
    row::Rejected,
};
use tidegate_vitals::{Class, Clock, Guard, Instant};

use super::{
    Store,
    lines::{Cutter, Piece},
    rows::About,
};
use crate::api::{BODY_TIMEOUT, Failure};

/// Rows named in each list of the answer; the totals count all.
const LISTED_MAX: usize = 1_000;

/// Between lines of progress at first.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// After so many lines of progress the time between them doubles: a sender that reads only at the end must not be
/// blocked by answers that fill its buffers.
const PROGRESS_LINES: u32 = 64;

/// How long a piece may wait for room in the backlog before the upload is given up. While it waits, the sender does.
const ROOM_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two tries for room, when the store does not say.
const ROOM_EVERY: Duration = Duration::from_millis(50);

/// What an upload is made from.
pub(crate) struct Start {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Clock,
    /// Empty; grows with what is held.
    pub(crate) place: Guard,
    pub(crate) body: Body,
    pub(crate) feed: String,
    pub(crate) principal: String,
    pub(crate) about: About,
}

/// An upload under way.
pub(crate) struct Upload {
    start: Start,
    id: String,
    cutter: Cutter,
    has_ended: bool,
    /// Rows handed to the store so far.
    n_rows: u64,
    totals: Totals,
    told_at: Instant,
    n_told: u32,
    is_done: bool,
}

#[derive(Default)]
struct Totals {
    is_spooled: bool,
    stored: u64,
    duplicates: u64,
    missing: u64,
    rejected: Vec<Rejected>,
    n_rejected: u64,
    dead: Vec<DeadRow>,
    n_dead: u64,
}

// === impl Upload ===

impl Upload {
    /// Stores the first piece, so that what is wrong with the request itself is still an answer with its own status.
    ///
    /// # Errors
    /// As for every other request.
    ///
    /// # Cancel safety
    /// As [`super::rows::submit`].
    pub(crate) async fn begin(start: Start) -> Result<Self, Failure> {
        let declared = start.store.declared();
        let Some(feed) = declared.feeds.get(&start.feed) else {
            return Err(store::Error::UnknownFeed(start.feed).into());
        };
        let mut upload = Self {
            id: start.about.id.clone().unwrap_or_else(random_id),
            cutter: Cutter::new(feed.row_bytes_max),
            has_ended: false,
            n_rows: 0,
            totals: Totals::default(),
            told_at: start.clock.now(),
            n_told: 0,
            is_done: false,
            start,
        };
        if let Some(piece) = upload.next_piece().await? {
            upload.store(piece).await?;
        }
        Ok(upload)
    }

    /// The next line of the answer; `None` after the last.
    ///
    /// # Cancel safety
    /// Dropped, the upload is over; pieces that were stored stay stored, and the same id with the same rows goes on.
    pub(crate) async fn next_line(&mut self) -> Option<Bytes> {
        if self.is_done {
            return None;
        }
        loop {
            let step = match self.next_piece().await {
                Ok(Some(piece)) => self.store(piece).await,
                Ok(None) => return Some(self.end(None)),
                Err(failure) => Err(failure),
            };
            if let Err(failure) = step {
                return Some(self.end(Some(&failure)));
            }
            if self.is_time_to_tell() {
                return Some(self.progress());
            }
        }
    }

    /// Reads until a piece is full or the body ends.
    async fn next_piece(&mut self) -> Result<Option<Piece>, Failure> {
        loop {
            if let Some(piece) = self.cutter.take() {
                return Ok(Some(piece));
            }
            if self.has_ended {
                return Ok(self.cutter.finish());
            }
            match tokio::time::timeout(BODY_TIMEOUT, self.start.body.frame()).await {
                Err(_) => return Err(Error::Timeout(BODY_TIMEOUT).into()),
                Ok(None) => self.has_ended = true,
                Ok(Some(Err(_))) => {
                    return Err(Error::BadRequest("request body broke off".to_owned()).into());
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        self.cutter.push(&data);
                        self.start
                            .place
                            .resize(self.cutter.len())
                            .map_err(Error::Memory)?;
                    }
                }
            }
        }
    }

    /// Stores a piece; where the store has no room, waits for it, and with it whoever sends.
    async fn store(&mut self, piece: Piece) -> Result<(), Failure> {
        let give_up = self.start.clock.now() + ROOM_TIMEOUT;
        loop {
            let request = Request {
                feed: self.start.feed.clone(),
                principal: self.start.principal.clone(),
                id: Some(self.id.clone()),
                operation: self.start.about.operation,
                rows: Rows::Ndjson(piece.lines.clone()),
                first_row: self.n_rows,
            };
            let error = match self.start.store.ingest().submit(request).await {
                Ok(outcome) => {
                    self.n_rows += piece.n_rows;
                    self.totals.add(outcome);
                    return Ok(());
                }
                Err(error) => error,
            };
            let wait = match &error {
                store::Error::BacklogFull { .. }
                | store::Error::Pressed { .. }
                | store::Error::NoMemory { .. } => ROOM_EVERY,
                store::Error::Quota { retry_after, .. } => (*retry_after).max(ROOM_EVERY),
                _ => return Err(error.into()),
            };
            if self.start.clock.now() + wait > give_up {
                return Err(error.into());
            }
            tokio::time::sleep(wait).await;
        }
    }

    fn is_time_to_tell(&mut self) -> bool {
        let every = PROGRESS_EVERY * (1 << (self.n_told / PROGRESS_LINES).min(20));
        let now = self.start.clock.now();
        let is_time = now.since(self.told_at) >= every;
        if is_time {
            self.told_at = now;
        }
        is_time
    }

    fn progress(&mut self) -> Bytes {
        self.n_told += 1;
        let totals = &self.totals;
        line(&json!({"progress": {
            "rows": self.n_rows,
            "stored": totals.stored,
            "duplicates": totals.duplicates,
            "rejected": totals.n_rejected,
            "dead_lettered": totals.n_dead,
        }}))
    }

    /// The last line: the outcome, or the failure and how far it came.
    fn end(&mut self, failure: Option<&Failure>) -> Bytes {
        self.is_done = true;
        let outcome = self.totals.outcome(&self.id, self.n_rows);
        let Some(failure) = failure else {
            return line(&outcome);
        };
        let mut answer = failure.to_json();
        answer["so_far"] = outcome;
        line(&answer)
    }
}

// === impl Totals ===

impl Totals {
    fn add(&mut self, outcome: Outcome) {
        self.is_spooled |= outcome.state == State::Spooled;
        self.stored += outcome.stored;
        self.duplicates += outcome.duplicates;
        self.missing += outcome.missing;
        self.n_rejected += outcome.rejected_total.unwrap_or(outcome.rejected.len() as u64);
        self.n_dead += outcome
            .dead_lettered_total
            .unwrap_or(outcome.dead_lettered.len() as u64);
        let room = LISTED_MAX - self.rejected.len();
        self.rejected.extend(outcome.rejected.into_iter().take(room));
        let room = LISTED_MAX - self.dead.len();
        self.dead.extend(outcome.dead_lettered.into_iter().take(room));
    }

    fn outcome(&self, id: &str, n_rows: u64) -> Value {
        let mut outcome = json!({
            "ok": true,
            "id": id,
            "state": if self.is_spooled { "spooled" } else { "committed" },
            "rows": n_rows,
            "stored": self.stored,
            "duplicates": self.duplicates,
            "missing": self.missing,
            "rejected": self.rejected,
            "dead_lettered": self.dead,
        });
        if self.n_rejected > self.rejected.len() as u64 {
            outcome["rejected_total"] = self.n_rejected.into();
        }
        if self.n_dead > self.dead.len() as u64 {
            outcome["dead_lettered_total"] = self.n_dead.into();
        }
        outcome
    }
}

fn line(value: &Value) -> Bytes {
    let mut text = value.to_string();
    text.push('\n');
    text.into()
}

/// All pieces of an upload belong together, so that a piece that is tried again is stored once.
fn random_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .expect("the system has random numbers, or TLS and sessions would not work either");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An account that grows with an upload.
pub(crate) fn empty_place(ledger: &tidegate_vitals::Ledger) -> Guard {
    ledger.empty(Class::RequestBodies)
}
