//! A stream of rows as NDJSON: any number of them in the memory of one chunk.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_vitals::Guard;
use tokio::time::timeout;

use super::{Plan, figures::Running, render::Renderer};
use crate::{
    error::{Error, Result},
    relief::Account,
    select::Rows,
};

/// Rows as lines of JSON. The last line is `{"ok":true,"rows":N,"bytes":M}`, or `{"ok":false,"error":{…}}`: a reader who
/// has not seen it has not seen everything. Dropping the stream ends the statement.
#[derive(Debug)]
pub struct Stream {
    plan: Arc<Plan>,
    /// None when the last chunk has been given out.
    rows: Option<Rows>,
    renderer: Option<Renderer>,
    out: Vec<u8>,
    memory: Memory,
    n_rows: u64,
    n_bytes: u64,
    running: Option<Running>,
}

/// What the chunk that is being written holds in the ledger.
#[derive(Debug)]
pub(super) struct Memory {
    guard: Guard,
    account: Account,
}

/// Chunks are given out from here on; one row may make them larger.
const CHUNK_BYTES: usize = 16 << 10;
/// Room for a chunk and most last rows.
const BUFFER_BYTES: usize = CHUNK_BYTES + CHUNK_BYTES / 4;
/// The statement as a whole may take this long; standing still is bounded by the query's own limit.
pub(super) const LONGEST: Duration = Duration::from_secs(24 * 3_600);

// === impl Memory ===

impl Memory {
    /// Pays for one chunk.
    pub(super) fn new(account: &Account) -> Result<Self> {
        Ok(Self {
            guard: account.reserve(BUFFER_BYTES)?,
            account: account.clone(),
        })
    }

    /// A row that is longer than most makes the chunk larger.
    fn cover(&mut self, bytes: usize) -> Result<()> {
        match bytes > self.guard.bytes() {
            true => self.account.resize(&mut self.guard, bytes),
            false => Ok(()),
        }
    }
}

// === impl Stream ===

impl Stream {
    pub(super) fn new(plan: Arc<Plan>, rows: Rows, running: Running, memory: Memory) -> Self {
        Self {
            plan,
            rows: Some(rows),
            renderer: None,
            out: Vec::with_capacity(BUFFER_BYTES),
            memory,
            n_rows: 0,
            n_bytes: 0,
            running: Some(running),
        }
    }

    /// The next lines, about 16 KiB of them; `None` after the last. What goes wrong on the way is said in the last line,
    /// because by then the answer has begun. The server waits while nobody asks.
    ///
    /// # Cancel safety
    /// Safe: no line is lost.
    pub async fn next_chunk(&mut self) -> Option<Bytes> {
        while self.out.len() < CHUNK_BYTES {
            let Some(rows) = &mut self.rows else { break };
            let limit = self.plan.sound.query.timeout;
            let next = match timeout(limit, rows.next()).await {
                Ok(Ok(Some(row))) => {
                    self.n_rows += 1;
                    self.write(&row).map(|()| true)
                }
                Ok(Ok(None)) => Ok(false),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(Error::Timeout {
                    what: format!("next row of query {}", self.plan.sound.query.name),
                    after: limit,
                }),
            };
            match next {
                Ok(true) => {}
                Ok(false) => self.end(None),
                Err(error) => self.end(Some(&error)),
            }
        }
        match self.out.is_empty() {
            true => None,
            false => Some(self.out.split_off(0).into()),
        }
    }

    /// Rows given out so far.
    #[must_use]
    pub fn n_rows(&self) -> u64 {
        self.n_rows
    }

    fn write(&mut self, row: &[crate::Value]) -> Result<()> {
        let renderer = match (&mut self.renderer, &self.rows) {
            (Some(renderer), _) => renderer,
            (none, rows) => {
                let columns = rows.as_ref().map(Rows::columns).unwrap_or_default();
                none.insert(Renderer::new(&self.plan.sound.query, columns)?)
            }
        };
        let before = self.out.len();
        renderer.write(row, &mut self.out);
        self.out.push(b'\n');
        self.n_bytes += (self.out.len() - before) as u64;
        self.memory.cover(self.out.capacity())
    }

    /// Writes the last line and lets the rows go.
    fn end(&mut self, error: Option<&Error>) {
        self.rows = None;
        let line = match error {
            None => serde_json::json!({"ok": true, "rows": self.n_rows, "bytes": self.n_bytes}),
            Some(error) => {
                tracing::warn!(query = self.plan.sound.query.name, rows = self.n_rows, %error, "stream broke off");
                serde_json::json!({"ok": false, "error": {
                    "code": error.code(),
                    "message": error.client_message(),
                    "retryable": error.is_retryable(),
                }})
            }
        };
        self.out.extend_from_slice(line.to_string().as_bytes());
        self.out.push(b'\n');
        if let Some(running) = self.running.take() {
            running.end(self.n_rows, error);
        }
    }
}
