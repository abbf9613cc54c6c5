//! A hundred callers and one load: each is answered, and told the same.

use std::{
    convert::Infallible,
    future,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tidegate_cache::{Cache, Hit, LoadError, Loaded};
use tidegate_flow::once;

use crate::support::{Away, key, policy};

type Answer = Result<Hit, LoadError<Away>>;

#[derive(Clone, Copy)]
enum Load {
    Works,
    Fails,
    Hangs,
    Panics,
}

async fn load(kind: Load) -> Result<Loaded, Away> {
    tokio::task::yield_now().await;
    match kind {
        Load::Works => Ok(Loaded::of("value")),
        Load::Fails => Err(Away),
        Load::Hangs => future::pending().await,
        Load::Panics => panic!("the load broke"),
    }
}

/// Lets a hundred callers wait for one load, and gives their answers and the number of loads.
async fn hundred(cache: &Cache, kind: Load) -> (Vec<Answer>, u64) {
    let started = Arc::new(AtomicU64::new(0));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let (cache, started) = (cache.clone(), Arc::clone(&started));
            tokio::spawn(async move {
                let work = move || {
                    started.fetch_add(1, Relaxed);
                    load(kind)
                };
                cache.get_or_load(&key("a"), &policy(), work).await
            })
        })
        .collect();
    let mut answers = Vec::new();
    for caller in callers {
        answers.push(caller.await.expect("a caller never panics"));
    }
    (answers, started.load(Relaxed))
}

async fn check(kind: Load, is_expected: impl Fn(&Answer) -> bool) {
    let limits = once::Config {
        flights_max: 10,
        wait_max: Duration::from_secs(2),
        run_max: Duration::from_secs(3),
    };
    let cache = Cache::builder("test").flights(limits).build().await.unwrap();
    let start = tokio::time::Instant::now();
    let (answers, loads) = hundred(&cache, kind).await;
    assert_eq!((answers.len(), loads), (100, 1));
    assert!(answers.iter().all(is_expected), "{:?}", answers[0]);
    // Time is paused: it moves only while everybody waits.
    assert!(start.elapsed() <= Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn a_load_that_works_answers_all() {
    check(Load::Works, |answer| answer.is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_fails_is_one_call() {
    check(Load::Fails, |answer| matches!(answer, Err(LoadError::Failed(_)))).await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_hangs_keeps_nobody() {
    check(Load::Hangs, |answer| {
        matches!(answer, Err(LoadError::TimedOut(_)))
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_load_that_panics_is_one_call() {
    let is_expected =
        |answer: &Answer| matches!(answer, Err(LoadError::Panicked(text)) if text.contains("broke"));
    check(Load::Panics, is_expected).await;
}

#[tokio::test(start_paused = true)]
async fn outcomes_are_counted_and_the_key_is_free_again() {
    let limits = once::Config {
        run_max: Duration::from_secs(1),
        ..once::Config::default()
    };
    let cache = Cache::builder("test").flights(limits).build().await.unwrap();
    for kind in [Load::Fails, Load::Hangs, Load::Panics, Load::Works] {
        hundred(&cache, kind).await;
    }
    let stats = cache.stats();
    assert_eq!(
        (
            stats.loads_failed,
            stats.loads_aborted,
            stats.loads_panicked,
            stats.loads_ok
        ),
        (1, 1, 1, 1)
    );
    assert_eq!((stats.loads_in_flight, stats.misses), (0, 400));
    assert!(cache.get(&key("a")).is_some());
}

#[tokio::test(start_paused = true)]
async fn too_many_loads_are_refused_and_counted() {
    let limits = once::Config {
        flights_max: 1,
        ..once::Config::default()
    };
    let cache = Cache::builder("test").flights(limits).build().await.unwrap();
    let other = cache.clone();
    let hanging = tokio::spawn(async move {
        other
            .get_or_load(&key("a"), &policy(), || load(Load::Hangs))
            .await
    });
    while cache.stats().loads_in_flight == 0 {
        tokio::task::yield_now().await;
    }
    let refused = cache
        .get_or_load(&key("b"), &policy(), || load(Load::Works))
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "cache busy: 1 loads under way");
    assert!(refused.is_retryable());
    assert_eq!(cache.stats().loads_refused, 1);
    hanging.abort();
}

#[tokio::test(start_paused = true)]
async fn callers_with_other_errors_are_told_the_text() {
    let cache = Cache::builder("test").build().await.unwrap();
    let other = cache.clone();
    let first = tokio::spawn(async move {
        other
            .get_or_load(&key("a"), &policy(), || load(Load::Fails))
            .await
    });
    while cache.stats().loads_in_flight == 0 {
        tokio::task::yield_now().await;
    }
    let (key, policy) = (key("a"), policy());
    let joined = cache.get_or_load(&key, &policy, || async { Ok::<_, Infallible>(Loaded::of("")) });
    assert_eq!(
        joined.await.unwrap_err().to_string(),
        "load failed: the database is away"
    );
    assert!(first.await.unwrap().is_err());
}
