//! How long values count: time, stale values, failures, and "there is nothing".

use std::{convert::Infallible, sync::Arc, time::Duration};

use tidegate_cache::{Hit, LoadError, Loaded, Policy, Source as From};
use tokio::sync::Notify;

use crate::support::{Away, Source, cache, key, policy, text};

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn a_value_counts_for_its_time_and_no_longer() {
    let (cache, hand) = cache().await;
    let (source, key) = (Source::default(), key("a"));
    let check = async |advance: Duration, expected: &str, from: From| {
        hand.advance(advance);
        let hit = source.ask(&cache, &key, &policy()).await;
        assert_eq!(
            (text(&hit).as_str(), hit.source(), hit.is_stale()),
            (expected, from, false)
        );
    };
    check(secs(0), "1", From::Load).await;
    check(Duration::from_millis(9_999), "1", From::Memory).await;
    check(Duration::from_millis(1), "2", From::Load).await;
    check(secs(9), "2", From::Memory).await;
    let stats = cache.stats();
    assert_eq!(
        (stats.hits_memory, stats.misses, stats.loads_ok, stats.expirations),
        (2, 2, 2, 1)
    );
    assert!((stats.hit_rate() - 0.5).abs() < 1e-9);
}

#[tokio::test(start_paused = true)]
async fn without_time_loads_are_shared_and_nothing_is_kept() {
    let (cache, _hand) = cache().await;
    let source = Source::default();
    let none = Policy::of_ttl(Duration::ZERO);
    assert_eq!(source.text(&cache, &key("a"), &none).await, "1");
    assert_eq!(source.text(&cache, &key("a"), &none).await, "2");
    assert_eq!(cache.stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn a_stale_value_is_served_while_one_refresh_runs() {
    let (cache, hand) = cache().await;
    let (source, key) = (Source::default(), key("a"));
    let stale = Policy {
        stale: secs(5),
        ..policy()
    };
    source.ask(&cache, &key, &stale).await;
    hand.advance(secs(12));
    for _ in 0..3 {
        let hit = source.ask(&cache, &key, &stale).await;
        assert_eq!((text(&hit).as_str(), hit.is_stale()), ("1", true));
    }
    // The refresh is a task of its own; it gets its turn here.
    while source.loads() < 2 || cache.stats().loads_in_flight > 0 {
        tokio::task::yield_now().await;
    }
    let hit = source.ask(&cache, &key, &stale).await;
    assert_eq!((text(&hit).as_str(), hit.is_stale()), ("2", false));
    assert_eq!((source.loads(), cache.stats().stale_hits), (2, 3));
    hand.advance(secs(15));
    assert_eq!(
        source.text(&cache, &key, &stale).await,
        "3",
        "beyond the window it waits for the load"
    );
}

async fn fail(cache: &tidegate_cache::Cache, policy: &Policy) -> Result<Hit, LoadError<Away>> {
    cache.get_or_load(&key("a"), policy, || async { Err(Away) }).await
}

#[tokio::test(start_paused = true)]
async fn a_failed_load_is_covered_by_a_stale_value_within_its_window() {
    let (cache, hand) = cache().await;
    let cover = Policy {
        stale_on_error: secs(20),
        ..policy()
    };
    assert!(
        matches!(fail(&cache, &cover).await, Err(LoadError::Failed(_))),
        "nothing to cover it"
    );
    Source::default().ask(&cache, &key("a"), &cover).await;
    hand.advance(secs(29));
    let hit = fail(&cache, &cover).await.unwrap();
    assert_eq!((text(&hit).as_str(), hit.is_stale()), ("1", true));
    hand.advance(secs(1));
    let error = fail(&cache, &cover).await.unwrap_err();
    assert_eq!(error.to_string(), "load failed");
    assert!(!error.is_retryable());
    assert_eq!((cache.stats().loads_failed, cache.stats().stale_hits), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn an_invalidated_value_covers_nothing() {
    let (cache, hand) = cache().await;
    let cover = Policy {
        stale: secs(60),
        stale_on_error: secs(60),
        ..policy()
    }
    .tagged(&["t"]);
    Source::default().ask(&cache, &key("a"), &cover).await;
    hand.advance(secs(12));
    cache.invalidate_tags(&["t"], None);
    assert!(fail(&cache, &cover).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn refreshes_that_fail_are_not_tried_with_every_hit() {
    let (cache, hand) = cache().await;
    let stale = Policy {
        stale: secs(60),
        ..policy()
    };
    Source::default().ask(&cache, &key("a"), &stale).await;
    hand.advance(secs(12));
    for _ in 0..10 {
        assert!(fail(&cache, &stale).await.unwrap().is_stale());
        while cache.stats().loads_in_flight > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(cache.stats().loads_failed, 1);
    hand.advance(secs(1));
    fail(&cache, &stale).await.unwrap();
    while cache.stats().loads_failed < 2 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_remembered_for_its_own_time() {
    let (cache, hand) = cache().await;
    let check = async |negative_ttl: u64, expected_loads: u64| {
        let policy = Policy {
            negative_ttl: secs(negative_ttl),
            ..policy()
        };
        let key = key(&negative_ttl.to_string());
        let before = cache.stats().loads_ok;
        for _ in 0..3 {
            let load = || async { Ok::<_, Infallible>(Loaded::nothing()) };
            let hit = cache.get_or_load(&key, &policy, load).await.unwrap();
            assert!(hit.is_negative() && hit.value().is_empty());
            hand.advance(secs(1));
        }
        assert_eq!(
            cache.stats().loads_ok - before,
            expected_loads,
            "negative_ttl {negative_ttl}"
        );
    };
    check(0, 3).await;
    check(2, 2).await;
    check(60, 1).await;
    assert_eq!(cache.stats().negative_hits, 3);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_caller_does_not_end_the_load() {
    let (cache, _hand) = cache().await;
    let gate = Arc::new(Notify::new());
    let waits = Arc::clone(&gate);
    let load = move || async move {
        waits.notified().await;
        Ok::<_, Infallible>(Loaded::of("loaded"))
    };
    let (key, policy) = (key("a"), policy());
    let caller = cache.get_or_load(&key, &policy, load);
    assert!(
        tokio::time::timeout(Duration::from_millis(1), caller)
            .await
            .is_err()
    );
    gate.notify_one();
    while cache.stats().loads_ok == 0 || cache.stats().loads_in_flight > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(text(&cache.get(&key).unwrap()), "loaded");
}
