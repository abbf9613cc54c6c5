//! Single flights: one call for all, whatever becomes of it.

use std::future::{pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tidegate_flow::once::{Config, Failed, Once, Stats};
use tidegate_vitals::{Id, Registry};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

type Loads = Once<u32, u64, String>;

const CONFIG: Config = Config {
    flights_max: 4,
    wait_max: Duration::from_secs(5),
    run_max: Duration::from_secs(20),
};

fn loads() -> Loads {
    Once::new("load", CONFIG)
}

/// `n` callers of one key at the same time, each with `work`; how often it was called, and what they were told.
async fn flood<F, Fut>(once: &Loads, n: usize, work: F) -> (usize, Vec<Result<u64, Failed<String>>>)
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<u64, String>> + Send + 'static,
{
    let calls = Arc::new(AtomicUsize::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..n {
        let (once, work, calls) = (once.clone(), work.clone(), Arc::clone(&calls));
        callers.spawn(async move {
            let counted = || {
                calls.fetch_add(1, SeqCst);
                work()
            };
            once.run(&1, counted).await
        });
    }
    let outcomes = callers.join_all().await;
    (calls.load(SeqCst), outcomes)
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_make_one_call() {
    let once = loads();
    let (calls, outcomes) = flood(&once, 100, || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(7)
    })
    .await;
    assert_eq!(calls, 1);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(7))));
    let expected = Stats {
        runs: 1,
        joined: 99,
        ..Stats::default()
    };
    assert_eq!(once.stats(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_make_one_call_that_fails() {
    let once = loads();
    let (calls, outcomes) = flood(&once, 100, || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Err("no row".to_owned())
    })
    .await;
    assert_eq!(calls, 1);
    let is_it = |outcome: &Result<u64, Failed<String>>| matches!(outcome, Err(Failed::Work(error)) if **error == "no row");
    assert!(outcomes.iter().all(is_it));
    assert_eq!((once.stats().failed, once.stats().in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_make_one_call_that_panics() {
    let once = loads();
    let (calls, outcomes) = flood(&once, 100, || async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        panic!("no luck");
    })
    .await;
    assert_eq!(calls, 1);
    let is_it = |outcome: &Result<u64, Failed<String>>| matches!(outcome, Err(Failed::Panicked(message)) if message == "no luck");
    assert!(outcomes.iter().all(is_it));
    assert_eq!((once.stats().panicked, once.stats().in_flight), (1, 0));
}

#[tokio::test]
async fn a_panic_before_the_first_await_is_an_outcome_too() {
    let once = loads();
    let outcome = once
        .run(&1, || -> std::future::Ready<_> { panic!("at once") })
        .await;
    assert!(matches!(outcome, Err(Failed::Panicked(message)) if message == "at once"));
    assert_eq!(
        once.run(&1, || ready(Ok(2))).await.unwrap(),
        2,
        "the key is free again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hung_flight_ends_at_its_limit_and_its_callers_at_theirs() {
    let once = Once::<u32, u64, String>::new("hung", CONFIG);
    let started = Instant::now();
    let (calls, outcomes) = flood(&once, 100, pending).await;
    assert_eq!(calls, 1);
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, Err(Failed::TimedOut(after)) if *after == CONFIG.wait_max))
    );
    assert_eq!(started.elapsed().as_secs(), 5);
    assert!(once.is_in_flight(&1), "it still runs, so nobody calls it twice");

    tokio::time::advance(Duration::from_secs(12)).await;
    let late = once.run(&1, || ready(Ok(1))).await;
    assert!(
        matches!(late, Err(Failed::TimedOut(after)) if after == CONFIG.run_max),
        "{late:?}"
    );
    let stats = once.stats();
    assert_eq!((stats.gave_up, stats.timed_out, stats.in_flight), (100, 1, 0));
    assert_eq!(once.run(&1, || ready(Ok(1))).await.unwrap(), 1);
}

#[tokio::test]
async fn dropped_callers_do_not_end_the_flight() {
    let once = loads();
    let (go, going) = oneshot::channel::<()>();
    let done = Arc::new(Notify::new());
    let told = Arc::clone(&done);
    let mut first = Box::pin(once.run(&1, || async move {
        going.await.unwrap();
        told.notify_one();
        Ok(3)
    }));
    assert!(futures_poll(&mut first).is_none());
    drop(first);
    assert!(once.is_in_flight(&1));
    let mut second = Box::pin(once.run(&1, || async { unreachable!("it joins") }));
    assert!(futures_poll(&mut second).is_none());
    go.send(()).unwrap();
    assert_eq!(second.await.unwrap(), 3);
    done.notified().await;
}

/// Polls once.
fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::Pin::new(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test(start_paused = true)]
async fn flights_are_bounded_and_joining_is_not_refused() {
    let once = loads();
    let mut callers = JoinSet::new();
    for key in 0..4 {
        let once = once.clone();
        callers.spawn(async move {
            once.run(&key, || async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                Ok(u64::from(key))
            })
            .await
        });
    }
    tokio::task::yield_now().await;
    let refused = once.run(&9, || ready(Ok(9))).await.unwrap_err();
    assert!(matches!(refused, Failed::Busy { flights: 4 }), "{refused:?}");
    assert!(refused.is_retryable());
    assert_eq!(once.run(&0, || ready(Ok(9))).await.unwrap(), 0, "joined");
    callers.join_all().await;
    assert_eq!((once.stats().refused, once.stats().in_flight), (1, 0));

    let registry = Registry::new();
    once.record(&registry);
    once.record(&registry);
    assert_eq!(registry.counter(Id::OnceCalls, &["load", "started"]).get(), 4);
    assert_eq!(registry.counter(Id::OnceCalls, &["load", "refused"]).get(), 1);
    assert_eq!(registry.gauge(Id::OnceFlights, &["load"]).get(), 0);
}

#[test]
fn a_runtime_that_goes_down_answers_the_waiting() {
    let build = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    };
    let (dying, living) = (build(), build());
    let once = loads();
    let (started, starting) = oneshot::channel();
    let flight = once.clone();
    dying.spawn(async move {
        flight
            .run(&1, || async {
                let _ = started.send(());
                pending().await
            })
            .await
    });
    dying.block_on(starting).unwrap();
    let mut waiting = Box::pin(once.run(&1, || ready(Ok(1))));
    let outcome = living.block_on(async {
        assert!(futures_poll(&mut waiting).is_none());
        dying.shutdown_background();
        waiting.await
    });
    assert!(matches!(outcome, Err(Failed::Aborted)), "{outcome:?}");
}

/// Work of one key never overlaps, and nobody who has seen an outcome is given it again.
#[test]
fn under_many_threads_flights_neither_overlap_nor_go_stale() {
    const KEYS: u32 = 3;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_time()
        .build()
        .unwrap();
    let once = loads();
    let running: Arc<[AtomicUsize; KEYS as usize]> = Arc::default();
    let (sequence, seen): (Arc<AtomicU64>, Arc<[AtomicU64; KEYS as usize]>) = Default::default();
    runtime.block_on(async {
        let mut callers = JoinSet::new();
        for caller in 0..16_u32 {
            let (once, running, sequence, seen) = (
                once.clone(),
                Arc::clone(&running),
                Arc::clone(&sequence),
                Arc::clone(&seen),
            );
            callers.spawn(async move {
                for turn in 0..500 {
                    let key = (caller + turn) % KEYS;
                    let (running, sequence) = (Arc::clone(&running), Arc::clone(&sequence));
                    let before = seen[key as usize].load(SeqCst);
                    let value = once.run(&key, || async move {
                        assert_eq!(running[key as usize].fetch_add(1, SeqCst), 0, "two at a time");
                        tokio::task::yield_now().await;
                        running[key as usize].fetch_sub(1, SeqCst);
                        Ok(1 + sequence.fetch_add(1, SeqCst))
                    });
                    let value = value.await.unwrap();
                    assert!(value > before, "{value} was seen before the call");
                    seen[key as usize].fetch_max(value, SeqCst);
                }
            });
        }
        callers.join_all().await;
    });
    let stats = once.stats();
    assert_eq!(stats.runs + stats.joined, 16 * 500);
    assert_eq!(stats.runs, sequence.load(SeqCst));
    assert_eq!((stats.panicked, stats.in_flight), (0, 0));
}

#[test]
fn errors_say_what_happened() {
    fn check(failed: &Failed<std::io::Error>, text: &str, is_retryable: bool) {
        assert_eq!(failed.to_string(), text);
        assert_eq!(failed.is_retryable(), is_retryable);
        assert_eq!(
            std::error::Error::source(failed).is_some(),
            matches!(failed, Failed::Work(_))
        );
    }
    check(
        &Failed::Work(Arc::new(std::io::Error::other("gone"))),
        "the shared work failed",
        false,
    );
    check(
        &Failed::Panicked("oh".to_owned()),
        "the shared work panicked: oh",
        false,
    );
    check(
        &Failed::TimedOut(Duration::from_millis(1500)),
        "the shared work gave no answer within 1500 ms",
        true,
    );
    check(
        &Failed::Busy { flights: 4 },
        "too much shared work: 4 flights running",
        true,
    );
    check(&Failed::Aborted, "the shared work was aborted", true);
}
