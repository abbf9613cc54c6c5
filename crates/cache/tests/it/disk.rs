//! The disk level: found again, bounded, never wrong, and dispensable.

use std::{fs, path::Path, process::Command, time::Duration};

use tidegate_cache::{Cache, DiskConfig, Error, Key, Loaded, Policy, Source as From, Stats};
use tidegate_vitals::Clock;

use crate::support::{Dir, Source, key, policy, text};

fn config(dir: &Path) -> DiskConfig {
    DiskConfig {
        bytes_max: 1 << 20,
        segment_bytes: 128 << 10,
        value_bytes_max: 16 << 10,
        ..DiskConfig::new(dir)
    }
}

/// A cache whose memory holds about a hundred values of 500 bytes.
async fn open(disk: DiskConfig) -> Cache {
    let (clock, _) = Clock::manual();
    let builder = Cache::builder("test")
        .memory(80 << 10, 10_000)
        .clock(clock)
        .disk(disk);
    builder.build().await.expect("sound bounds")
}

fn value(i: usize) -> String {
    format!("{i:0500}")
}

/// Values from `from` to `to`, most of which memory evicts.
async fn fill(cache: &Cache, policy: &Policy, from: usize, to: usize) {
    for i in from..to {
        cache.insert(&nth(i), policy, Loaded::of(value(i)));
        if i % 100 == 0 {
            cache.flush().await;
        }
    }
    cache.flush().await;
}

fn nth(i: usize) -> Key {
    key(&i.to_string())
}

/// Asks for values, which must be right, and says how many came from the disk.
async fn ask(cache: &Cache, policy: &Policy, from: usize, to: usize) -> usize {
    let mut n_disk = 0;
    for i in from..to {
        let load = move || async move { Ok::<_, std::convert::Infallible>(Loaded::of(value(i))) };
        let hit = cache.get_or_load(&nth(i), policy, load).await.unwrap();
        assert_eq!(text(&hit), value(i));
        n_disk += usize::from(hit.source() == From::Disk);
    }
    n_disk
}

fn disk(stats: &Stats) -> tidegate_cache::DiskStats {
    stats.disk.expect("there is a disk level")
}

fn bytes_in(dir: &Path) -> u64 {
    let segments = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let segments = segments.filter(|path| path.extension().is_some_and(|extension| extension == "seg"));
    segments.map(|path| fs::metadata(path).unwrap().len()).sum()
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "seg"));
    paths.sort();
    paths
}

#[tokio::test]
async fn what_memory_evicts_is_found_on_disk_and_promoted() {
    let dir = Dir::new();
    let cache = open(config(dir.path())).await;
    fill(&cache, &policy(), 0, 1_000).await;
    assert!(ask(&cache, &policy(), 200, 300).await > 80);
    let stats = cache.stats();
    assert_eq!(
        (stats.hits_disk, stats.promotions),
        (disk(&stats).gets, disk(&stats).gets)
    );
    assert!(disk(&stats).puts > 800, "{stats:?}");
    let again = cache.get(&nth(299)).expect("it was promoted");
    assert_eq!(again.source(), From::Memory);
}

#[tokio::test]
async fn files_never_exceed_their_bound_and_the_oldest_go_first() {
    let dir = Dir::new();
    let cache = open(config(dir.path())).await;
    for round in 0..20 {
        fill(&cache, &policy(), round * 500, (round + 1) * 500).await;
        assert!(bytes_in(dir.path()) <= 1 << 20, "{} bytes", bytes_in(dir.path()));
        assert!(disk(&cache.stats()).bytes <= 1 << 20);
    }
    let dropped = disk(&cache.stats()).dropped_oldest;
    assert!(dropped > 5_000, "{dropped} dropped");
    assert_eq!(ask(&cache, &policy(), 0, 100).await, 0);
    assert!(ask(&cache, &policy(), 9_000, 9_100).await > 80);
}

#[tokio::test]
async fn the_index_is_bounded() {
    let dir = Dir::new();
    let bounded = DiskConfig {
        entries_max: 300,
        ..config(dir.path())
    };
    let cache = open(bounded).await;
    fill(&cache, &policy(), 0, 2_000).await;
    let stats = disk(&cache.stats());
    assert!(stats.entries <= 300 && stats.entries > 0, "{stats:?}");
}

#[tokio::test]
async fn invalidated_removed_and_replaced_values_do_not_come_back() {
    let dir = Dir::new();
    let cache = open(config(dir.path())).await;
    let tagged = policy().tagged(&["ticks"]);
    fill(&cache, &tagged, 0, 300).await;
    fill(&cache, &policy(), 300, 600).await;
    cache.invalidate_tags(&["ticks"], None);
    assert_eq!(ask(&cache, &tagged, 0, 100).await, 0);
    for i in 300..350 {
        cache.remove(&nth(i));
    }
    cache.flush().await;
    assert_eq!(ask(&cache, &policy(), 300, 350).await, 0);
    cache.insert(&nth(360), &policy(), Loaded::of("newer"));
    fill(&cache, &policy(), 600, 900).await;
    let hit = Source::default().ask(&cache, &nth(360), &policy()).await;
    assert_eq!(text(&hit), "newer");
    cache.clear();
    cache.flush().await;
    assert_eq!(ask(&cache, &policy(), 400, 500).await, 0);
}

#[tokio::test]
async fn after_a_restart_values_are_stale_until_they_are_loaded_anew() {
    let dir = Dir::new();
    let cache = open(config(dir.path())).await;
    fill(&cache, &policy(), 0, 1_000).await;
    cache.finish().await;
    drop(cache);

    let cache = open(config(dir.path())).await;
    cache.flush().await;
    assert!(disk(&cache.stats()).recovered > 800);
    assert_eq!(
        ask(&cache, &policy(), 100, 200).await,
        0,
        "nothing stale is allowed"
    );
    let stale = Policy {
        stale: Duration::from_secs(5),
        ..policy()
    };
    let hit = Source::default().ask(&cache, &nth(300), &stale).await;
    assert_eq!(
        (text(&hit), hit.source(), hit.is_stale()),
        (value(300), From::Disk, true)
    );
    cache.invalidate_tags(&["ticks"], None);
    cache.finish().await;
}

#[tokio::test]
async fn a_tag_invalidated_after_a_restart_reaches_what_was_there_before_it() {
    let dir = Dir::new();
    let tagged = Policy {
        stale: Duration::from_secs(5),
        ..policy()
    }
    .tagged(&["ticks"]);
    let cache = open(config(dir.path())).await;
    fill(&cache, &tagged, 0, 500).await;
    cache.finish().await;
    drop(cache);
    let cache = open(config(dir.path())).await;
    cache.flush().await;
    cache.invalidate_tags(&["ticks"], None);
    assert_eq!(ask(&cache, &tagged, 0, 100).await, 0);
}

/// Damages the files of a cache that has ended; whatever is left, nothing wrong is served and the rest works.
async fn damaged(what: &str, damage: impl Fn(&Path)) {
    let dir = Dir::new();
    let cache = open(config(dir.path())).await;
    fill(&cache, &policy(), 0, 1_000).await;
    cache.finish().await;
    drop(cache);
    damage(dir.path());

    let cache = open(config(dir.path())).await;
    cache.flush().await;
    let stats = disk(&cache.stats());
    assert!(stats.dropped_damaged > 0, "{what}: {stats:?}");
    let stale = Policy {
        stale: Duration::from_secs(5),
        ..policy()
    };
    ask(&cache, &stale, 0, 1_000).await;
    fill(&cache, &policy(), 2_000, 2_500).await;
    assert!(
        ask(&cache, &policy(), 2_000, 2_100).await > 50,
        "{what}: it works on"
    );
}

#[tokio::test]
async fn corrupted_files_are_dropped_and_counted() {
    damaged("bytes changed", |dir| {
        for path in segments(dir) {
            let mut bytes = fs::read(&path).unwrap();
            for at in (2_000..bytes.len()).step_by(5_000) {
                bytes[at] ^= 0x55;
            }
            fs::write(path, bytes).unwrap();
        }
    })
    .await;
}

/// Every value that an ended cache has left is damaged, the newest too: each is counted, none is served.
#[tokio::test]
async fn after_a_clean_end_each_damaged_value_is_counted() {
    let dir = Dir::new();
    let cache = open(config(dir.path())).await;
    fill(&cache, &policy(), 0, 300).await;
    cache.finish().await;
    let n_written = disk(&cache.stats()).puts;
    drop(cache);
    for path in segments(dir.path()) {
        let mut bytes = fs::read(&path).unwrap();
        // One byte in the text of each value, which is mostly zeros; frames and keys stay as they are.
        let zeros = [b'0'; 400];
        let mut at = 0;
        while let Some(n) = bytes[at..].windows(400).position(|window| window == zeros) {
            bytes[at + n] = b'1';
            at += n + 500;
        }
        fs::write(path, bytes).unwrap();
    }
    let cache = open(config(dir.path())).await;
    cache.flush().await;
    let stats = disk(&cache.stats());
    assert!(n_written > 100, "{n_written}");
    assert_eq!(
        (stats.dropped_damaged, stats.recovered),
        (n_written, 0),
        "{stats:?}"
    );
}

#[tokio::test]
async fn truncated_files_are_dropped_and_counted() {
    damaged("files cut", |dir| {
        for path in segments(dir) {
            let bytes = fs::read(&path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn alien_files_are_dropped_and_counted() {
    damaged("other bytes under our names", |dir| {
        for path in segments(dir) {
            fs::write(path, vec![7; 50_000]).unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn values_damaged_under_a_running_cache_are_misses() {
    let dir = Dir::new();
    let cache = open(config(dir.path())).await;
    fill(&cache, &policy(), 0, 1_000).await;
    for path in segments(dir.path()) {
        let mut bytes = fs::read(&path).unwrap();
        bytes[1_024..].iter_mut().for_each(|byte| *byte ^= 1);
        use std::os::unix::fs::FileExt;
        let file = fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
    }
    assert_eq!(ask(&cache, &policy(), 100, 300).await, 0);
    assert!(disk(&cache.stats()).dropped_damaged > 100);
}

#[tokio::test]
async fn a_folder_belongs_to_one_cache() {
    let dir = Dir::new();
    let cache = open(config(dir.path())).await;
    let second = Cache::builder("second")
        .disk(config(dir.path()))
        .build()
        .await
        .unwrap_err();
    assert!(matches!(second, Error::Disk { cache: "second", .. }) && second.is_retryable());
    drop(cache);
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    let dir = Dir::new();
    let narrow = DiskConfig {
        queue_bytes_max: 1,
        ..config(dir.path())
    };
    let cache = open(narrow).await;
    fill(&cache, &policy(), 0, 500).await;
    let stats = disk(&cache.stats());
    assert_eq!(stats.puts, 0);
    assert!(stats.dropped_queue_full > 300);
}

#[tokio::test]
async fn a_full_disk_costs_misses_alone() {
    let dir = Dir::new();
    let mount = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command
            .args(args)
            .arg(dir.path())
            .stderr(std::process::Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !mount("mount", &["-t", "tmpfs", "-o", "size=1m", "none"]) {
        println!("disk full: not run, this process may not mount a file system");
        return;
    }
    println!("disk full: run on a tmpfs of 1 MiB");
    let roomy = DiskConfig {
        bytes_max: 64 << 20,
        ..config(&dir.path().join("cache"))
    };
    let cache = open(roomy).await;
    fs::write(dir.path().join("ballast"), vec![1; 512 << 10]).unwrap();
    fill(&cache, &policy(), 0, 3_000).await;
    let stats = disk(&cache.stats());
    assert!(stats.dropped_disk_error > 0 && stats.puts > 100, "{stats:?}");
    ask(&cache, &policy(), 0, 3_000).await;
    assert!(cache.stats().hits_disk > 0, "what is on it is still found");
    cache.finish().await;
    drop(cache);
    assert!(mount("umount", &["-l"]));
}

#[tokio::test]
async fn what_a_large_memory_evicts_late_is_found_on_disk() {
    let dir = Dir::new();
    let disk_config = DiskConfig {
        bytes_max: 16 << 20,
        segment_bytes: 1 << 20,
        queue_entries_max: 10_000,
        ..config(dir.path())
    };
    let (clock, _) = Clock::manual();
    let builder = Cache::builder("test").memory(16 << 20, 20_000).clock(clock);
    let cache = builder.disk(disk_config).build().await.expect("sound bounds");
    // What is there at the start is known: nothing.
    cache.flush().await;
    // More values than the index remembers removals, and none of them leaves memory meanwhile.
    for i in 0..6_000 {
        cache.insert(&nth(i), &policy(), Loaded::of(value(i)));
    }
    assert_eq!(disk(&cache.stats()).puts, 0);
    cache.shrink(u64::MAX);
    cache.restore();
    cache.flush().await;
    let stats = disk(&cache.stats());
    assert_eq!((stats.puts, stats.dropped_queue_full), (6_000, 0));
    assert_eq!(stats.entries, 6_000);
    assert_eq!(ask(&cache, &policy(), 0, 100).await, 100);
    cache.finish().await;
}

#[tokio::test]
async fn what_was_replaced_before_a_restart_does_not_come_back_when_the_newer_value_is_over() {
    let dir = Dir::new();
    let (clock, _) = Clock::manual();
    let open = async |clock: &Clock| {
        let builder = Cache::builder("test")
            .memory(80 << 10, 10_000)
            .clock(clock.clone());
        let cache = builder
            .disk(config(dir.path()))
            .build()
            .await
            .expect("sound bounds");
        cache.flush().await;
        cache
    };
    let cache = open(&clock).await;
    let put = async |text: &str, policy: &Policy| {
        cache.insert(&key("a"), policy, Loaded::of(text.to_owned()));
        cache.shrink(u64::MAX);
        cache.restore();
        cache.flush().await;
    };
    put("old", &policy()).await;
    put("new", &Policy::of_ttl(Duration::from_millis(1_000))).await;
    assert_eq!(disk(&cache.stats()).puts, 2);
    cache.finish().await;
    drop(cache);
    // Later, when the newer one's time is over and the older one's would not be.
    let (clock, later) = Clock::manual();
    later.advance(Duration::from_secs(2));
    let cache = open(&clock).await;
    assert_eq!(disk(&cache.stats()).entries, 0);
    cache.finish().await;
}
