//! Bounds, the ledger, live resizing, pressure.

use std::time::Duration;

use tidegate_cache::{Cache, Loaded};
use tidegate_vitals::{
    Class, Ledger,
    pressure::{Ask, Level, Shed},
};

use crate::support::{key, policy};

fn fill(cache: &Cache, n: usize, bytes: usize) {
    for i in 0..n {
        cache.insert(&key(&i.to_string()), &policy(), Loaded::of(vec![0; bytes]));
    }
}

#[tokio::test]
async fn neither_bytes_nor_entries_exceed_their_bounds() {
    let check = async |bytes_max: u64, entries_max: usize, n: usize, bytes: usize| {
        let cache = Cache::builder("test")
            .memory(bytes_max, entries_max)
            .build()
            .await
            .unwrap();
        for round in 0..4 {
            fill(&cache, n / 4 * round, bytes);
            let stats = cache.stats();
            assert!(stats.bytes <= bytes_max, "{} of {bytes_max} bytes", stats.bytes);
            assert!(
                stats.entries <= entries_max,
                "{} of {entries_max} entries",
                stats.entries
            );
        }
        let stats = cache.stats();
        assert!(stats.evictions > 0 && stats.entries > 0);
    };
    check(1 << 20, 100_000, 20_000, 100).await;
    check(16 << 20, 500, 20_000, 10).await;
    check(64 << 10, 1, 100, 10).await;
}

#[tokio::test]
async fn what_is_kept_is_paid_for_and_given_back() {
    let ledger = Ledger::new(1 << 30);
    let cache = Cache::builder("test")
        .memory(1 << 20, 10_000)
        .ledger(ledger.clone())
        .build()
        .await
        .unwrap();
    fill(&cache, 100, 1_000);
    let used = ledger.used_by(Class::Caches);
    assert!((100_000..150_000).contains(&used), "{used} bytes");
    fill(&cache, 5_000, 1_000);
    assert!(ledger.used_by(Class::Caches) <= 1 << 20);
    let held = cache.get(&key("4999")).expect("the newest is there");
    cache.clear();
    let used = ledger.used_by(Class::Caches);
    assert!(
        (1_000..2_000).contains(&used),
        "{used}: what somebody holds is still paid for"
    );
    drop(held);
    assert_eq!(ledger.used_by(Class::Caches), 0);
}

#[tokio::test]
async fn a_full_ledger_stores_nothing_and_fails_nobody() {
    let cache = Cache::builder("test")
        .ledger(Ledger::new(10))
        .build()
        .await
        .unwrap();
    fill(&cache, 3, 100);
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.not_stored_memory_full), (0, 3));
}

#[tokio::test]
async fn a_value_larger_than_a_shard_is_answered_and_not_stored() {
    let cache = Cache::builder("test")
        .memory(64 << 10, 1_000)
        .build()
        .await
        .unwrap();
    fill(&cache, 1, 64 << 10);
    assert_eq!(
        (cache.stats().not_stored_too_large, cache.stats().entries),
        (1, 0)
    );
}

#[tokio::test]
async fn it_is_resized_while_it_works() {
    let cache = Cache::builder("test")
        .memory(4 << 20, 100_000)
        .build()
        .await
        .unwrap();
    fill(&cache, 8_000, 1_000);
    let full = cache.stats().bytes;
    assert!(full > 3 << 20);
    let freed = cache.shrink(1 << 20);
    assert!(freed >= 1 << 20, "{freed} bytes freed");
    assert!(cache.stats().bytes <= full - (1 << 20));
    cache.restore();
    fill(&cache, 8_000, 1_000);
    assert!(cache.stats().bytes > 3 << 20);
    cache.resize(1 << 20);
    assert!(cache.stats().bytes <= 1 << 20);
}

#[tokio::test]
async fn pressure_shrinks_it_in_proportion_and_normal_brings_it_back() {
    let cache = Cache::builder("test")
        .memory(4 << 20, 100_000)
        .build()
        .await
        .unwrap();
    fill(&cache, 8_000, 1_000);
    let shed = cache.shed(3);
    assert_eq!((shed.name(), shed.order()), ("test", 3));
    let full = cache.stats().bytes;
    let reaches = async |bytes: u64| {
        // The evicting runs on another thread; the test waits for what it does, not for time.
        while cache.stats().capacity_bytes > bytes {
            tokio::task::yield_now().await;
        }
        assert!(cache.stats().bytes <= bytes);
    };
    let ask = |level, within, bytes_wanted| {
        shed.shed(&Ask {
            level,
            within,
            bytes_wanted,
        })
    };
    assert_eq!(
        ask(Level::High, 1.0, 100_000),
        100_000,
        "no more than is asked for"
    );
    reaches(full - 100_000).await;
    let promised = ask(Level::High, 1.0, u64::MAX);
    reaches(2 << 20).await;
    assert!(
        promised.abs_diff(full - 100_000 - (2 << 20)) < 10_000,
        "{promised} promised"
    );
    assert_eq!(
        ask(Level::Moderate, 0.5, u64::MAX),
        0,
        "a level that falls gives nothing back yet"
    );
    ask(Level::Critical, 1.0, u64::MAX);
    reaches(4 << 17).await;
    shed.level(Level::Moderate);
    assert!(cache.stats().capacity_bytes <= 4 << 17);
    shed.level(Level::Normal);
    while cache.stats().capacity_bytes < 4 << 20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn bounds_that_make_no_sense_stop_the_start() {
    let refused = async |builder: tidegate_cache::Builder| builder.build().await.unwrap_err().to_string();
    let check = async |builder, expected: &str| assert_eq!(refused(builder).await, expected);
    let builder = || Cache::builder("test");
    check(
        builder().memory(1, 1),
        "memory.bytes_max = 1: allowed is at least 65536",
    )
    .await;
    check(
        builder().memory(1 << 20, 0),
        "memory.entries_max = 0: allowed is at least 1",
    )
    .await;
    check(
        builder().tag_slots(3),
        "tag_slots = 3: allowed is a power of two up to 16777216",
    )
    .await;
    check(
        builder().sample_rate(0.0),
        "sample_rate = 0: allowed is above 0, at most 1",
    )
    .await;
}

#[tokio::test]
async fn loads_and_hits_are_timed() {
    let (cache, hand) = crate::support::cache().await;
    let key = key("a");
    let moved = hand.clone();
    let load = move || async move {
        moved.advance(Duration::from_millis(30));
        Ok::<_, std::convert::Infallible>(Loaded::of("value"))
    };
    cache.get_or_load(&key, &policy(), load).await.unwrap();
    assert_eq!(cache.stats().load.max, Duration::from_millis(30));
    for _ in 0..1_024 {
        cache.get(&key).unwrap();
    }
    assert_eq!(cache.stats().hit.count, 4, "one in 256");
}
