//! The disk level: what writing behind and reading back cost, what is written in all, and whether the bound holds.

use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tidegate_cache::{Cache, DiskConfig, Loaded, Policy, Source};
use tokio::runtime::Runtime;

use super::caches::{TIDEGATE, key};
use super::{Options, Report, from_cache, runtime};
use crate::error::{Error, Result, Tried};
use crate::sys;

const TABLE: &str = "disk level, values of 1,000 bytes, files bounded to a quarter of what is put";
const PUT: &str = "put, CPU µs";
const GET: &str = "get, CPU µs";
const WRITTEN: &str = "bytes written for one put";
const MOST: &str = "most bytes of the files, % of the bound";
const MEMORY_ALONE: &str = "the same without a disk";

const VALUE_BYTES: usize = 1_000;
/// Puts between two looks at the files; fewer than the queue takes, so that none is dropped.
const CHUNK: usize = 500;

/// Measures everything; see the parent for the shape of a section.
pub(super) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let runtime = runtime()?;
    let n = if options.quick { 10_000 } else { 400_000 };
    for number in options.rounds("disk") {
        let folder = Folder::new(number);
        let bound = n as u64 * VALUE_BYTES as u64 / 4;
        let disk = DiskConfig {
            bytes_max: bound,
            segment_bytes: bound / 16,
            value_bytes_max: 64 << 10,
            ..DiskConfig::new(&folder.0)
        };
        let cache = open(&runtime, Some(disk))?;
        put(
            &cache,
            &runtime,
            (n, Some((&folder.0, bound))),
            (TIDEGATE, report),
        )?;
        get(&cache, &runtime, n, report)?;
        runtime.block_on(cache.finish());
        put(
            &open(&runtime, None)?,
            &runtime,
            (n, None),
            (MEMORY_ALONE, report),
        )?;
    }
    let both = report
        .median(TABLE, TIDEGATE, PUT)
        .zip(report.median(TABLE, MEMORY_ALONE, PUT));
    let added = both.map(|(with, without)| with - without);
    report.budget("disk: CPU that it adds to a put", "≤3 µs", added, |us| {
        us <= 3.0
    });
    let written = report.median(TABLE, TIDEGATE, WRITTEN);
    report.budget("disk: write amplification", "≤1.2×", written, |times| {
        times <= 1.2
    });
    let most = report
        .samples(TABLE, TIDEGATE, MOST)
        .iter()
        .copied()
        .reduce(f64::max);
    report.budget(
        "disk: most bytes of the files under churn",
        "≤100 %",
        most,
        |share| share <= 100.0,
    );
    Ok(())
}

/// A cache whose memory holds hardly more than a hundred values.
fn open(runtime: &Runtime, disk: Option<DiskConfig>) -> Result<Cache> {
    let mut builder = Cache::builder("bench").memory(256 << 10, 10_000);
    if let Some(disk) = disk {
        builder = builder.disk(disk);
    }
    runtime.block_on(builder.build()).map_err(from_cache)
}

/// Values that memory soon evicts; with a disk they are written behind, and its files are watched.
fn put(
    cache: &Cache,
    runtime: &Runtime,
    (n, disk): (usize, Option<(&Path, u64)>),
    (who, report): (&str, &mut Report),
) -> Result<()> {
    let (policy, value) = (Policy::default(), Bytes::from(vec![7; VALUE_BYTES]));
    let (mut cpu_ns, mut written, mut most) = (0, 0, 0);
    for from in (0..n).step_by(CHUNK) {
        let before = (cpu()?, written_bytes()?);
        for at in from..from + CHUNK {
            cache.insert(&key(at as u64), &policy, Loaded::of(value.clone()));
        }
        runtime.block_on(cache.flush());
        cpu_ns += cpu()? - before.0;
        written += written_bytes()? - before.1;
        if let Some((folder, _)) = disk {
            most = most.max(bytes_of(folder)?);
        }
    }
    report.add(TABLE, who, PUT, cpu_ns as f64 / n as f64 / 1e3);
    let (Some((_, bound)), Some(stats)) = (disk, cache.stats().disk) else {
        return Ok(());
    };
    let dropped = stats.dropped_queue_full + stats.dropped_disk_error;
    if dropped > 0 {
        return Err(Error::Server(format!(
            "{dropped} values were not written: {stats:?}"
        )));
    }
    report.add(TABLE, who, WRITTEN, written as f64 / stats.put_bytes as f64);
    report.add(TABLE, who, MOST, 100.0 * most as f64 / bound as f64);
    Ok(())
}

/// Values that are on disk and not in memory, one after another.
fn get(cache: &Cache, runtime: &Runtime, n: usize, report: &mut Report) -> Result<()> {
    let policy = Policy::default();
    // The files hold a little less than the last quarter; of these the oldest, which memory no longer holds.
    let wanted = (n / 5).min(20_000);
    let start = n - n / 5;
    let before = (cpu()?, cache.stats().disk.unwrap_or_default().gets);
    let from_disk = runtime.block_on(async {
        let mut n_disk = 0_u64;
        for at in start..start + wanted {
            let load = || async { Ok::<_, Infallible>(Loaded::of("")) };
            let hit = cache.get_or_load(&key(at as u64), &policy, load).await;
            n_disk += u64::from(hit.is_ok_and(|hit| hit.source() == Source::Disk));
        }
        n_disk
    });
    let cpu_ns = cpu()? - before.0;
    if from_disk < wanted as u64 / 2 {
        return Err(Error::Server(format!(
            "{from_disk} of {wanted} values were found on disk"
        )));
    }
    report.add(TABLE, TIDEGATE, GET, cpu_ns as f64 / from_disk as f64 / 1e3);
    Ok(())
}

fn cpu() -> Result<u64> {
    sys::cpu_ns(std::process::id()).tried("read the CPU clock")
}

/// Bytes that this process gave to write calls.
fn written_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/io").tried("read /proc/self/io")?;
    let bytes = text
        .lines()
        .find_map(|line| line.strip_prefix("wchar: ")?.parse().ok());
    bytes.ok_or_else(|| Error::Unavailable("/proc/self/io has no wchar".into()))
}

fn bytes_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    let what = || format!("look into {}", folder.display());
    for entry in fs::read_dir(folder).tried(what())? {
        // A segment may be dropped between the two looks.
        bytes += entry
            .tried(what())?
            .metadata()
            .map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}

/// A folder of its own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(round: usize) -> Self {
        let name = format!("tidegate-bench-cache-{}-{round}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}
