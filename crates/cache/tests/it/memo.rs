//! Results of functions by their arguments.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tidegate_cache::{Memo, MemoConfig, memo};
use tidegate_vitals::Clock;

use crate::support::Away;

const CONFIG: MemoConfig = MemoConfig {
    capacity: 100,
    ttl: Some(Duration::from_secs(10)),
};

#[test]
fn a_result_counts_for_its_time() {
    let (clock, hand) = Clock::manual();
    let memo = Memo::with_clock("time", CONFIG, clock);
    let calls = AtomicU64::new(0);
    let ask = || memo.get_or_insert_with(&1, || calls.fetch_add(1, Relaxed));
    assert_eq!((ask(), ask()), (0, 0));
    hand.advance(Duration::from_secs(10));
    assert_eq!((ask(), ask()), (1, 1));
    let stats = memo.stats();
    assert_eq!(
        (stats.hits, stats.misses, stats.expirations, stats.entries),
        (2, 2, 1, 1)
    );
    assert!(memo.remove(&1) && memo.get(&1).is_none());
}

#[test]
fn it_never_holds_more_than_its_capacity() {
    let memo = Memo::new("capacity", CONFIG);
    for key in 0..10_000_u64 {
        memo.get_or_insert_with(&key, || key);
    }
    assert!(memo.stats().entries <= 100);
}

#[test]
fn threads_that_want_the_same_wait_for_one_call() {
    let memo = Memo::new("threads", CONFIG);
    let (calls, together) = (Arc::new(AtomicU64::new(0)), Arc::new(Barrier::new(8)));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (memo, calls, together) = (memo.clone(), Arc::clone(&calls), Arc::clone(&together));
            std::thread::spawn(move || {
                together.wait();
                memo.get_or_insert_with(&"key", || calls.fetch_add(1, Relaxed))
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 0));
    assert_eq!(calls.load(Relaxed), 1);
}

#[tokio::test]
async fn tasks_that_want_the_same_wait_for_one_call_even_if_its_caller_goes() {
    let memo: Memo<u64, &str> = Memo::new("tasks", CONFIG);
    let hanging = memo.clone();
    let first = tokio::spawn(async move { hanging.get_or_insert_async(&1, std::future::pending()).await });
    tokio::task::yield_now().await;
    let waiting = memo.clone();
    let second = tokio::spawn(async move { waiting.get_or_insert_async(&1, async { "second" }).await });
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    first.abort();
    assert_eq!(second.await.unwrap(), "second");
}

#[tokio::test]
async fn errors_are_not_kept() {
    let memo: Memo<u64, u64> = Memo::new("errors", CONFIG);
    assert!(memo.try_get_or_insert_with(&1, || Err(Away)).is_err());
    assert!(
        memo.try_get_or_insert_async(&1, async { Err(Away) })
            .await
            .is_err()
    );
    assert_eq!(memo.try_get_or_insert_with::<Away>(&1, || Ok(7)).unwrap(), 7);
    assert_eq!(memo.stats().misses, 3);
}

#[test]
fn all_memos_are_listed_while_they_live_and_cleared_by_name() {
    let memo = Memo::new("listed", CONFIG);
    memo.get_or_insert_with(&1, || 1);
    let listed = |name: &str| memo::list().into_iter().find(|stats| stats.name == name);
    assert_eq!(listed("listed"), Some(memo.stats()));
    assert_eq!(memo::clear("listed"), 1);
    assert_eq!(memo.stats().entries, 0);
    drop(memo);
    assert_eq!(listed("listed"), None);
}
