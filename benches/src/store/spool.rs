//! The spool: rows made durable on this node, and read back in order.

use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use tidegate_store::Operation;
use tidegate_store::database::Context;
use tidegate_store::spool::{Claim, Config, Record, Spool};
use tidegate_vitals::{Clock, Registry};
use tokio::runtime::Builder;
use tokio::task::JoinSet;

use super::monitor::from_store;
use super::{Options, Report};
use crate::error::{Error, Result, Tried};

const TABLE: &str = "spool, chunks of 1,000 rows of 100 bytes, thousand rows/s";
const APPEND: &str = "append, fsynced";
const REPLAY: &str = "replay, each chunk released";

/// Producers that append at a time: their chunks share an fsync.
const PRODUCERS: [u32; 3] = [1, 4, 16];
const CHUNK_ROWS: u32 = 1_000;

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .tried("start a runtime")?;
    let n_chunks = if options.quick { 64 } else { 1_024 };
    for number in 1..=options.n_rounds() {
        eprintln!("spool: round {number} of {}", options.n_rounds());
        for producers in PRODUCERS {
            let folder = Folder::new(number, producers);
            let (append, replay) = runtime.block_on(round(&folder, producers, n_chunks))?;
            let who = format!("{producers} at a time");
            report.add(TABLE, &who, APPEND, append);
            report.add(TABLE, &who, REPLAY, replay);
        }
    }
    Ok(())
}

async fn round(folder: &Folder, producers: u32, n_chunks: u32) -> Result<(f64, f64)> {
    let mut config = Config::new(&folder.0);
    // Where the temporary folder lies in memory the figures say less, but the section still runs.
    config.allow_tmpfs = true;
    let spool = Spool::open(config, &Context::new(Clock::real(), Registry::new())).map_err(from_store)?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for producer in 0..producers {
        let spool = spool.clone();
        tasks.spawn(async move {
            for chunk in 0..n_chunks / producers {
                spool.append("ticks", record(producer, chunk)).await?;
            }
            Ok::<_, tidegate_store::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| Error::Server(format!("producer: {error}")))?
            .map_err(from_store)?;
    }
    let append = start.elapsed();
    let start = Instant::now();
    while let Some((position, _)) = spool.next("ticks").await.map_err(from_store)? {
        spool.done("ticks", position).await.map_err(from_store)?;
    }
    let n_rows = f64::from(n_chunks * CHUNK_ROWS) / 1e3;
    Ok((
        n_rows / append.as_secs_f64(),
        n_rows / start.elapsed().as_secs_f64(),
    ))
}

fn record(producer: u32, chunk: u32) -> Record {
    Record {
        feed_version: 1,
        claim: Claim {
            principal: "bench".to_owned(),
            id: format!("{producer}"),
            chunk,
            hash: [7; 32],
        },
        operation: Operation::Insert,
        n_rows: CHUNK_ROWS,
        rows: Bytes::from(vec![b'x'; CHUNK_ROWS as usize * 100]),
    }
}

/// A folder of its own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(round: usize, producers: u32) -> Self {
        let name = format!("tidegate-bench-spool-{}-{round}-{producers}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}
