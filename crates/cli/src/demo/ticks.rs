//! Trades on their way into the feed: one request at a time, so that their order holds, and never more than wait.

use bytes::Bytes;
use tidegate::store::ingest::{Ingest, Request, Rows};
use tokio::sync::mpsc;

use super::market::Tick;

/// The feed that takes them.
const FEED: &str = "ticks";

/// Steps of the market that may wait. A database that is slower than the market makes trades fall out: a simulation has
/// nothing to lose, and must not grow.
const WAITING_MAX: usize = 64;

/// The market's end of the way.
pub(crate) struct Ticks {
    lines: Vec<u8>,
    way: mpsc::Sender<Vec<u8>>,
}

/// The feed's end.
pub(crate) struct Writer {
    ingest: Ingest,
    way: mpsc::Receiver<Vec<u8>>,
}

/// Both ends.
pub(crate) fn way(ingest: Ingest) -> (Ticks, Writer) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    let ticks = Ticks {
        lines: Vec::new(),
        way: sender,
    };
    (
        ticks,
        Writer {
            ingest,
            way: receiver,
        },
    )
}

// === impl Ticks ===

impl Ticks {
    /// Adds a trade to this step.
    pub(crate) fn push(&mut self, tick: &Tick<'_>) {
        serde_json::to_writer(&mut self.lines, tick).expect("numbers and texts are always JSON");
        self.lines.push(b'\n');
    }

    /// Hands the step over, unless too many wait.
    pub(crate) fn send(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        if self.way.try_send(std::mem::take(&mut self.lines)).is_err() {
            tracing::debug!("the database is slower than the market, trades fall out");
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Stores what comes, everything that waits in one request, until the market ends.
    ///
    /// # Cancel safety
    /// Dropped, the trades that wait are lost; those under way may be stored.
    pub(crate) async fn run(mut self) {
        while let Some(mut lines) = self.way.recv().await {
            while let Ok(more) = self.way.try_recv() {
                lines.extend_from_slice(&more);
            }
            let request = Request {
                feed: FEED.to_owned(),
                principal: "demo".to_owned(),
                id: None,
                operation: None,
                rows: Rows::Ndjson(Bytes::from(lines)),
                first_row: 0,
            };
            if let Err(error) = self.ingest.submit(request).await {
                tracing::warn!(%error, "trades not stored");
            }
        }
    }
}
