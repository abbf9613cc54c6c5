//! Joining: order, limit, every outcome.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tidegate_flow::join::{Config, Failed, LIMIT, Latency, RUN, join_bounded};
use tokio::time::sleep;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[tokio::test(start_paused = true)]
async fn outcomes_keep_their_order_and_none_is_lost() {
    let futures = (0..10_u64).map(|n| async move {
        sleep(ms(100 - 10 * n)).await;
        match n {
            3 => Err("three"),
            7 => panic!("seven"),
            n => Ok(n),
        }
    });
    let joined = join_bounded(futures, Config::default()).await;
    for (n, outcome) in joined.outcomes.iter().enumerate() {
        match n {
            3 => assert_eq!(*outcome, Err(Failed::Error("three"))),
            7 => assert_eq!(*outcome, Err(Failed::Panicked("seven".to_owned()))),
            n => assert_eq!(*outcome, Ok(n as u64)),
        }
    }
    assert_eq!((joined.n_succeeded(), joined.in_flight_max), (8, 10));
    assert!((joined.success_rate() - 0.8).abs() < 1e-9);
    let expected = Latency {
        min: ms(10),
        mean: ms(55),
        p50: ms(50),
        p95: ms(100),
        max: ms(100),
    };
    assert_eq!(joined.latency, expected);
    assert_eq!(joined.elapsed, ms(100));
}

/// `n` futures of a second each; the most that were seen running.
async fn check(n: usize, config: Config, expected: (usize, u64)) {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let futures = (0..n).map(|_| {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        async move {
            most.fetch_max(1 + running.fetch_add(1, SeqCst), SeqCst);
            sleep(ms(1000)).await;
            running.fetch_sub(1, SeqCst);
            Ok::<_, ()>(())
        }
    });
    let joined = join_bounded(futures, config).await;
    assert_eq!((joined.in_flight_max, joined.elapsed.as_secs()), expected);
    assert_eq!(most.load(SeqCst), expected.0);
    assert_eq!(joined.outcomes.len(), n);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_the_limit_run_at_a_time() {
    assert_eq!((LIMIT, RUN), (100, 10));
    let limit = |limit| Config {
        limit,
        ..Config::default()
    };
    check(0, limit(3), (0, 0)).await;
    check(3, limit(3), (3, 1)).await;
    check(10, limit(3), (3, 4)).await;
    check(250, Config::default(), (100, 3)).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_join_aborts_what_runs() {
    let done = Arc::new(AtomicUsize::new(0));
    let futures = (0..4).map(|_| {
        let done = Arc::clone(&done);
        async move {
            sleep(ms(100)).await;
            done.fetch_add(1, SeqCst);
            Ok::<_, ()>(())
        }
    });
    let join = join_bounded(futures, Config::default());
    assert!(tokio::time::timeout(ms(50), join).await.is_err());
    sleep(ms(500)).await;
    assert_eq!(done.load(SeqCst), 0);
}
