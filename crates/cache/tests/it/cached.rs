//! `#[cached]` on the real memo: kept, bounded, counted, cleared by name.

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use tidegate_cache::{cached, memo};

static CALLS: AtomicU32 = AtomicU32::new(0);

#[cached(name = "it::doubled", ttl = "1h", capacity = 4)]
fn doubled(n: u32) -> u32 {
    CALLS.fetch_add(1, Relaxed);
    n * 2
}

#[cached(name = "it::halves")]
async fn half(n: u32) -> Result<u32, String> {
    tokio::task::yield_now().await;
    match n % 2 {
        0 => Ok(n / 2),
        _ => Err(format!("{n} is odd")),
    }
}

#[test]
fn a_result_is_made_once_and_the_memo_stays_within_its_capacity() {
    assert_eq!((doubled(1), doubled(1)), (2, 2));
    assert_eq!(CALLS.load(Relaxed), 1);
    (0..100).for_each(|n| assert_eq!(doubled(n), n * 2));
    let stats = doubled_cache().stats();
    assert!(stats.entries <= 4, "{stats:?}");
    assert_eq!((stats.name, stats.capacity), ("it::doubled", 4));
    assert!(memo::list().iter().any(|listed| listed.name == "it::doubled"));
    assert_eq!(memo::clear("it::doubled"), 1);
    assert_eq!(doubled_cache().stats().entries, 0);
}

#[tokio::test(start_paused = true)]
async fn errors_are_not_kept_and_results_are() {
    assert_eq!(half(4).await, Ok(2));
    assert_eq!(half(4).await, Ok(2));
    assert!(half(3).await.is_err());
    assert!(half(3).await.is_err());
    tokio::time::advance(Duration::from_secs(1)).await;
    let stats = half_cache().stats();
    assert_eq!((stats.hits, stats.misses, stats.entries), (1, 3, 1), "{stats:?}");
}
