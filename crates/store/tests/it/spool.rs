//! The spool on a real disk: shared fsyncs, order, restarts, kills, damage, full disks.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::future::join_all;
use tidegate_store::{
    Error, Operation,
    spool::{self, Claim, Config, Record, Spool},
};
use tidegate_vitals::{Clock, Id, Registry};

/// A folder that is removed with this, on the disk of the build, which is none in memory.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("spool-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn config(&self) -> Config {
        Config {
            segment_bytes: 256 << 10,
            bytes_max: 4 << 20,
            record_bytes_max: 200_000,
            ..Config::new(&self.0)
        }
    }

    /// The last segment of a feed.
    fn segment(&self, feed: &str) -> PathBuf {
        let names = fs::read_dir(self.0.join(feed)).unwrap();
        let paths = names.map(|entry| entry.unwrap().path());
        let segments = paths.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
        segments.max().unwrap()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Opens as soon as the threads of an earlier owner in this process have ended.
fn open(config: &Config, registry: &Registry) -> Spool {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match Spool::open(config.clone(), Clock::real(), registry) {
            Ok(spool) => return spool,
            Err(error) => assert!(
                error.to_string().contains("in use") && Instant::now() < deadline,
                "{error}"
            ),
        }
        std::thread::yield_now();
    }
}

fn record(i: u32, rows: impl Into<Bytes>) -> Record {
    Record {
        feed_version: 1,
        claim: Claim {
            principal: "alice".to_owned(),
            id: format!("id-{i}"),
            chunk: i,
            hash: [i as u8; 32],
        },
        operation: Operation::Insert,
        n_rows: 10,
        rows: rows.into(),
    }
}

/// Replays everything of a feed; which chunks came.
async fn drain(spool: &Spool, feed: &str) -> Vec<u32> {
    let mut chunks = Vec::new();
    while let Some((position, record)) = spool.next(feed).await.unwrap() {
        chunks.push(record.claim.chunk);
        spool.done(feed, position).await.unwrap();
    }
    chunks
}

async fn append_all(spool: &Spool, feed: &str, chunks: std::ops::Range<u32>, len: usize) {
    for i in chunks {
        spool.append(feed, record(i, vec![b'x'; len])).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_back_in_order_once_and_are_counted() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let spool = open(&dir.config(), &registry);
    assert!(spool.is_empty("ticks"));
    assert_eq!(spool.next("ticks").await.unwrap(), None);
    append_all(&spool, "ticks", 0..30, 5_000).await;
    append_all(&spool, "orders", 0..2, 10).await;
    assert!(!spool.is_empty("ticks"));
    let stats = spool.stats();
    assert_eq!((stats.rows, stats.records, stats.feeds.len()), (320, 32, 2));
    assert_eq!(registry.gauge(Id::StoreSpoolRows, &[]).get(), 320);
    assert_eq!(registry.gauge(Id::StoreSpoolBytes, &[]).get(), stats.bytes as i64);

    let (first, record) = spool.next("ticks").await.unwrap().unwrap();
    assert_eq!((record.claim.chunk, record.rows.len()), (0, 5_000));
    assert_eq!(
        spool.next("ticks").await.unwrap().unwrap().0,
        first,
        "the same until it is done"
    );
    let (second, record) = spool.next_after("ticks", first).await.unwrap().unwrap();
    assert_eq!(record.claim.chunk, 1);
    spool.done("ticks", second).await.unwrap();
    assert_eq!(registry.counter(Id::StoreSpoolReplayed, &[]).get(), 20);
    drop(spool);

    let registry = Registry::new();
    let spool = open(&dir.config(), &registry);
    assert_eq!(spool.stats().rows, 300);
    assert_eq!(drain(&spool, "ticks").await, (2..30).collect::<Vec<_>>());
    assert!(spool.is_empty("ticks"));
    assert_eq!(spool.feeds(), ["orders"], "kept, whoever declares it");
    append_all(&spool, "ticks", 30..31, 10).await;
    assert_eq!(drain(&spool, "ticks").await, [30]);
    assert_eq!(drain(&spool, "orders").await, [0, 1]);
    let stats = spool.stats();
    assert_eq!((stats.rows, stats.records, stats.bytes), (0, 0, 0));
    assert_eq!((stats.oldest_age_ms, stats.feeds.len()), (None, 0));
    assert_eq!(registry.gauge(Id::StoreSpoolRows, &[]).get(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn age_is_that_of_the_oldest_record() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let (clock, hand) = Clock::manual();
    let spool = Spool::open(dir.config(), clock, &registry).unwrap();
    append_all(&spool, "ticks", 0..1, 10).await;
    hand.advance(Duration::from_secs(60));
    append_all(&spool, "ticks", 1..2, 10).await;
    hand.advance(Duration::from_secs(5));
    spool.record();
    assert_eq!(spool.stats().oldest_age_ms, Some(65_000));
    assert_eq!(registry.gauge(Id::StoreSpoolAge, &[]).get(), 65_000_000);
    let (position, _) = spool.next("ticks").await.unwrap().unwrap();
    spool.done("ticks", position).await.unwrap();
    assert_eq!(spool.stats().oldest_age_ms, Some(5_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_appends_share_fsyncs_and_all_are_there() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let config = Config {
        bytes_max: 64 << 20,
        segment_bytes: 8 << 20,
        ..dir.config()
    };
    let spool = open(&config, &registry);
    let started = Instant::now();
    // 256 chunks of 1,000 rows of 100 bytes.
    join_all((0..256).map(|i| spool.append("ticks", record(i, vec![b'x'; 100_000]))))
        .await
        .into_iter()
        .for_each(|result| result.unwrap());
    let appended = started.elapsed();
    let n_syncs = registry.histogram(Id::StoreSpoolSync, &[]).snapshot().count();
    let started = Instant::now();
    let chunks: BTreeSet<u32> = drain(&spool, "ticks").await.into_iter().collect();
    println!(
        "256 chunks of 100 kB: appended in {appended:?} with {n_syncs} fsyncs, replayed in {:?}",
        started.elapsed()
    );
    assert_eq!(chunks.len(), 256);
    assert!(n_syncs < 128, "{n_syncs} fsyncs");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bound_holds_over_all_feeds_and_done_gives_room() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let config = Config {
        bytes_max: 1 << 20,
        ..dir.config()
    };
    let spool = open(&config, &registry);
    let mut n_records = 0;
    let full = 'full: loop {
        for feed in ["a", "b", "c"] {
            match spool.append(feed, record(n_records, vec![1; 20_000])).await {
                Ok(()) => n_records += 1,
                Err(error) => break 'full error,
            }
            assert!(spool.stats().bytes <= 1 << 20);
        }
    };
    assert!(
        matches!(full, Error::SpoolFull { limit: 1_048_576, .. }),
        "{full}"
    );
    assert!(full.is_retryable());
    assert!(n_records >= 36, "{n_records} records of 20 kB in 1 MiB");
    assert!(!drain(&spool, "a").await.is_empty());
    append_all(&spool, "b", 0..1, 20_000).await;
    let too_large = spool.append("a", record(0, vec![0; 200_001])).await.unwrap_err();
    assert_eq!(
        too_large.to_string(),
        "rows of a spooled chunk too large: 200001, at most 200000"
    );
    let unknown = spool.append("../etc", record(0, "")).await.unwrap_err();
    assert_eq!(unknown.to_string(), "unknown feed \"../etc\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_verbs_read_beside_the_owner() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let spool = open(&dir.config(), &registry);
    let rows = "[{\"price\":1.10,\n\"big\":123456789012345678901234567890}]";
    spool.append("ticks", record(7, rows)).await.unwrap();
    spool
        .append("ticks", record(8, &b"\x00\xffbinary"[..]))
        .await
        .unwrap();
    let ingested = "{\"numbers\":[4,6]}\n{\"id\":1,\"price\":1.10}\n{\"id\":2,\"price\":null}";
    spool.append("ticks", record(9, ingested)).await.unwrap();
    spool.append("orders", record(1, "{}")).await.unwrap();
    let listed = spool::list(&dir.0).unwrap();
    let seen: Vec<(&str, u64)> = listed
        .iter()
        .map(|feed| (feed.feed.as_str(), feed.rows))
        .collect();
    assert_eq!(seen, [("orders", 10), ("ticks", 30)]);

    let mut out = Vec::new();
    assert_eq!(spool::export(&dir.0, Some("ticks"), &mut out).unwrap(), 3);
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[0].contains("\"rows\":[{\"price\":1.10, \"big\":123456789012345678901234567890}]"),
        "{}",
        lines[0]
    );
    assert!(lines[0].contains(
        "\"principal\":\"alice\",\"id\":\"id-7\",\"chunk\":7,\"operation\":\"insert\",\"n_rows\":10"
    ));
    assert!(
        lines[1].contains("\"rows_base64\":\"AP9iaW5hcnk=\""),
        "{}",
        lines[1]
    );
    // What ingest wrote is read row by row, as it came.
    assert!(
        lines[2].ends_with(
            "\"row_numbers\":[4,6],\"rows\":[{\"id\":1,\"price\":1.10},{\"id\":2,\"price\":null}]}"
        ),
        "{}",
        lines[2]
    );
    assert!(matches!(
        spool::export(&dir.0, Some("none"), &mut Vec::new()),
        Err(Error::UnknownFeed(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_counted_and_never_stop_the_feed() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let spool = open(&dir.config(), &registry);
    append_all(&spool, "ticks", 0..5, 1_000).await;
    drop(spool);
    // In the payload of the third record: frames have 20 bytes, heads of records some 70.
    let path = dir.segment("ticks");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1_024 + 2 * 1_100 + 600] ^= 1;
    fs::write(&path, bytes).unwrap();
    let registry = Registry::new();
    let spool = open(&dir.config(), &registry);
    let stats = spool.stats();
    assert_eq!((stats.records, stats.rows, stats.damaged_records), (4, 40, 1));
    assert_eq!(drain(&spool, "ticks").await, [0, 1, 3, 4]);
    let stats = spool.stats();
    assert_eq!((stats.records, stats.rows, stats.damaged_records), (0, 0, 1));
    assert!(spool.is_empty("ticks"));
}

/// Damage that happens while the spool is open, also to the last record, which nothing follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_last_record_does_not_keep_the_feed_spooling() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let spool = open(&dir.config(), &registry);
    append_all(&spool, "ticks", 0..2, 1_000).await;
    let path = dir.segment("ticks");
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 8], 1_024 + 1_100 + 600).unwrap();
    assert_eq!(drain(&spool, "ticks").await, [0]);
    assert!(spool.is_empty("ticks"));
    let stats = spool.stats();
    assert_eq!((stats.rows, stats.damaged_records), (0, 1));
    append_all(&spool, "ticks", 2..3, 10).await;
    assert_eq!(drain(&spool, "ticks").await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_another_version_is_kept_and_said() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let mut log =
        tidegate_seglog::Log::open(dir.0.join("ticks"), tidegate_seglog::Config::default()).unwrap();
    log.append(b"\x09from the future").unwrap();
    log.sync().unwrap();
    drop(log);
    let spool = open(&dir.config(), &registry);
    append_all(&spool, "ticks", 0..1, 10).await;
    for _ in 0..2 {
        let refused = spool.next("ticks").await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "spool of feed ticks: record 0: unknown version"
        );
    }
    assert_eq!(spool.stats().records, 2);
    let mut out = Vec::new();
    assert_eq!(spool::export(&dir.0, None, &mut out).unwrap(), 2);
    assert!(
        String::from_utf8(out)
            .unwrap()
            .contains("\"record_base64\":\"CWZyb20gdGhlIGZ1dHVyZQ==\"")
    );
}

#[tokio::test]
async fn bad_folders_are_refused_at_the_start() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let check = |config: Config, expected: &str| {
        let refused = Spool::open(config, Clock::real(), &registry).err().unwrap();
        assert!(refused.to_string().contains(expected), "{refused}");
    };
    let spool = open(&dir.config(), &registry);
    check(
        dir.config(),
        &format!("is in use by process {}", std::process::id()),
    );
    drop(spool);
    check(
        Config {
            record_bytes_max: 300 << 10,
            ..dir.config()
        },
        "record_bytes_max = 311",
    );
    check(
        Config {
            feeds_max: 0,
            ..dir.config()
        },
        "spool feeds_max = 0: at least 1",
    );
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        let inside = memory.join(format!("spool-{}", std::process::id()));
        let config = Config {
            dir: inside.clone(),
            ..dir.config()
        };
        check(config.clone(), "lies in memory (tmpfs)");
        let spool = open(
            &Config {
                allow_tmpfs: true,
                ..config
            },
            &registry,
        );
        assert_eq!(spool.stats().disk, "memory");
        drop(spool);
        fs::remove_dir_all(inside).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_waiting_rows_are_refused() {
    let (dir, registry) = (Dir::new(), Registry::new());
    let config = Config {
        waiting_max: 20,
        ..dir.config()
    };
    let spool = open(&config, &registry);
    let results = join_all((0..200).map(|i| spool.append("ticks", record(i, vec![1; 1_000])))).await;
    let n_stored = results.iter().filter(|result| result.is_ok()).count();
    assert!(n_stored < 200, "some came while 20 rows waited");
    let refused = results.into_iter().filter_map(Result::err);
    assert!(
        refused
            .into_iter()
            .all(|error| matches!(error, Error::BacklogFull { limit: 20, .. }))
    );
    assert_eq!(drain(&spool, "ticks").await.len(), n_stored);
}

/// A file system of one MiB, where this process may mount one.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_loses_nothing() {
    let dir = Dir::new();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(&dir.0)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("spool on a full disk: not run, this process may not mount a file system");
        return;
    }
    println!("spool on a full disk: run on a tmpfs of 1 MiB");
    let registry = Registry::new();
    let config = Config {
        allow_tmpfs: true,
        ..dir.config()
    };
    let spool = open(&config, &registry);
    let mut n_stored = 0;
    let full = loop {
        match spool.append("ticks", record(n_stored, vec![1; 20_000])).await {
            Ok(()) => n_stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Io { .. }) && full.is_retryable(), "{full}");
    assert!(full.to_string().contains("No space left on device"), "{full}");
    assert!(n_stored > 40, "{n_stored} of 20 kB in 1 MiB");
    let (first, _) = spool.next("ticks").await.unwrap().unwrap();
    spool.done("ticks", first).await.unwrap();
    for _ in 1..20 {
        let (position, _) = spool.next("ticks").await.unwrap().unwrap();
        spool.done("ticks", position).await.unwrap();
    }
    append_all(&spool, "ticks", n_stored..n_stored + 5, 20_000).await;
    let expected: Vec<u32> = (20..n_stored + 5).collect();
    assert_eq!(drain(&spool, "ticks").await, expected);
    drop(spool);
    let _ = Command::new("umount").arg("-l").arg(&dir.0).status();
}

/// The other process is this test binary, which spools until it is killed and says what was confirmed.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_survives_kill_9() {
    const DIR: &str = "SPOOL_TEST_DIR";
    const SEEN: u32 = 40;
    if let Some(dir) = std::env::var_os(DIR) {
        let spool = open(&Config::new(PathBuf::from(dir)), &Registry::new());
        for i in 0.. {
            spool.append("ticks", record(i, vec![1; 3_000])).await.unwrap();
            println!("confirmed {i}");
        }
    }
    let dir = Dir::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "spool::what_was_confirmed_survives_kill_9",
            "--nocapture",
        ])
        .env(DIR, &dir.0)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut last = None;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.by_ref() {
        let line = line.unwrap();
        let number = line
            .split("confirmed ")
            .nth(1)
            .and_then(|number| number.parse().ok());
        last = number.or(last);
        if last == Some(SEEN) {
            child.kill().unwrap();
            break;
        }
    }
    // What it confirmed between the last line and its end.
    let rest = lines.map_while(Result::ok);
    let last = rest
        .filter_map(|line| line.split("confirmed ").nth(1)?.parse().ok())
        .last()
        .or(last)
        .unwrap();
    child.wait().unwrap();
    let spool = open(&Config::new(&dir.0), &Registry::new());
    let chunks = drain(&spool, "ticks").await;
    assert!(
        chunks.len() as u32 > last,
        "{} records, {last} confirmed",
        chunks.len()
    );
    assert_eq!(chunks, (0..chunks.len() as u32).collect::<Vec<_>>());
}
