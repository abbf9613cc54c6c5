//! What a log costs on this disk: appends with and without shared fsyncs, reading back, opening.
//!
//! `cargo run --release -p tidegate-seglog --example throughput [FOLDER]`; the folder must be on the disk in question.

use std::{path::PathBuf, time::Instant};

use tidegate_seglog::{Config, Log, Result, disk::Disk};

/// A chunk of 1,000 rows of 100 bytes.
static CHUNK: [u8; 100_000] = [b'x'; 100_000];
const ROWS: u64 = 1_000;
const N_CHUNKS: u64 = 2_000;

fn main() -> Result<()> {
    let parent = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = parent.join(format!("seglog-throughput-{}", std::process::id()));
    let disk = Disk::of(&parent).map_or("unknown", Disk::as_str);
    println!(
        "{} ({disk} disk), chunks of 1,000 rows of 100 bytes",
        dir.display()
    );
    for group in [1, 4, 16, 64] {
        append(&dir, group)?;
    }
    read(&dir)?;
    std::fs::remove_dir_all(&dir).expect("the folder is ours");
    Ok(())
}

/// Fills a fresh log, with one fsync for `group` chunks.
fn append(dir: &PathBuf, group: u64) -> Result<()> {
    let _ = std::fs::remove_dir_all(dir);
    let mut log = Log::open(dir, Config::default())?;
    let started = Instant::now();
    for i in 1..=N_CHUNKS {
        log.append(&CHUNK)?;
        if i % group == 0 {
            log.sync()?;
        }
    }
    log.sync()?;
    let elapsed = started.elapsed();
    let rows_per_second = (N_CHUNKS * ROWS) as f64 / elapsed.as_secs_f64();
    println!(
        "append, {group:2} chunks an fsync: {rows_per_second:>12.0} rows/s, {:>6.1} us a chunk",
        elapsed.as_secs_f64() * 1e6 / N_CHUNKS as f64
    );
    Ok(())
}

/// Opens what [`append`] left and reads it, releasing each chunk.
fn read(dir: &PathBuf) -> Result<()> {
    let started = Instant::now();
    let mut log = Log::open(dir, Config::default())?;
    let opened = started.elapsed();
    let bytes = log.bytes();
    let started = Instant::now();
    let mut reader = log.reader(log.head());
    let mut n_chunks = 0;
    while let Some(record) = reader.read()? {
        n_chunks += 1;
        log.release(record.next)?;
    }
    let elapsed = started.elapsed();
    println!("open, {bytes} bytes: {:.1} ms", opened.as_secs_f64() * 1e3);
    println!(
        "read and release: {:>12.0} rows/s, {:>6.1} us a chunk",
        (n_chunks * ROWS) as f64 / elapsed.as_secs_f64(),
        elapsed.as_secs_f64() * 1e6 / n_chunks as f64
    );
    Ok(())
}
