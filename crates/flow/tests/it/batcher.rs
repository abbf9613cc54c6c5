//! The batcher: idle items wait for nothing, busy ones at most the delay, every full queue does what it was told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_flow::batcher::Stats;
use tidegate_flow::{Batcher, BatcherConfig, WhenFull, Why};
use tokio::time::Instant;

/// A flush takes this long.
const FLUSH: Duration = Duration::from_millis(10);
/// A busy item waits at most this long.
const DELAY: Duration = Duration::from_millis(50);

type Flushed = (u64, &'static str, Vec<u32>);

/// A batcher that writes down when it flushed what, in milliseconds since the start.
struct Bench {
    batcher: Batcher<&'static str, u32>,
    flushed: Arc<Mutex<Vec<Flushed>>>,
    start: Instant,
}

fn config(when_full: WhenFull) -> BatcherConfig {
    BatcherConfig {
        name: "test",
        batch_items_max: 4,
        batch_bytes_max: 1000,
        delay: DELAY,
        queue_items_max: 6,
        queue_bytes_max: 2000,
        flushes_max: 8,
        when_full,
    }
}

impl Bench {
    fn new(config: BatcherConfig) -> Self {
        let flushed = Arc::new(Mutex::new(Vec::new()));
        let start = Instant::now();
        let log = Arc::clone(&flushed);
        // An item weighs its own value.
        let batcher = Batcher::new(
            config,
            |item: &u32| *item as usize,
            move |key, batch: Vec<u32>| {
                log.lock().expect("no test panics inside").push((
                    start.elapsed().as_millis() as u64,
                    key,
                    batch,
                ));
                tokio::time::sleep(FLUSH)
            },
        );
        Self {
            batcher,
            flushed,
            start,
        }
    }

    async fn push(&self, key: &'static str, items: &[u32]) {
        for &item in items {
            self.batcher.push(key, item).await.expect("there is room");
        }
    }

    /// Lets the workers take what they can without moving the clock.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    fn flushed(&self) -> Vec<Flushed> {
        self.flushed.lock().expect("no test panics inside").clone()
    }

    fn elapsed_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn stats(&self) -> Stats {
        self.batcher.stats()
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_item_waits_for_nothing() {
    let bench = Bench::new(config(WhenFull::Reject));
    bench.push("a", &[1]).await;
    bench.settle().await;
    assert_eq!(bench.flushed(), [(0, "a", vec![1])]);
    tokio::time::advance(FLUSH * 2).await;
    bench.settle().await;
    assert_eq!(bench.stats().keys, 0, "an idle key costs nothing");
    bench.push("a", &[2]).await;
    bench.settle().await;
    assert_eq!(bench.flushed()[1], (20, "a", vec![2]));
}

#[tokio::test(start_paused = true)]
async fn a_busy_item_waits_at_most_the_delay() {
    let bench = Bench::new(config(WhenFull::Reject));
    bench.push("a", &[1]).await;
    bench.settle().await;
    tokio::time::advance(Duration::from_millis(5)).await;
    bench.push("a", &[2, 3]).await;
    bench.batcher.finish_later().await;
    assert_eq!(bench.flushed(), [(0, "a", vec![1]), (55, "a", vec![2, 3])]);
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_goes_when_the_flush_before_it_ends() {
    let bench = Bench::new(config(WhenFull::Reject));
    bench.push("a", &[1]).await;
    bench.settle().await;
    bench.push("a", &[2, 3, 4, 5, 6]).await;
    bench.batcher.finish_later().await;
    // The rest waits as long as its batch's oldest item was allowed to.
    assert_eq!(
        bench.flushed(),
        [(0, "a", vec![1]), (10, "a", vec![2, 3, 4, 5]), (50, "a", vec![6])]
    );
}

#[tokio::test(start_paused = true)]
async fn bytes_fill_a_batch_too_and_a_large_item_goes_alone() {
    let bench = Bench::new(config(WhenFull::Reject));
    bench.push("a", &[1]).await;
    bench.settle().await;
    bench.push("a", &[600, 400, 900]).await;
    bench.batcher.finish().await;
    assert_eq!(
        bench.flushed(),
        [(0, "a", vec![1]), (10, "a", vec![600, 400]), (20, "a", vec![900])]
    );

    let bench = Bench::new(config(WhenFull::Reject));
    bench.push("a", &[1500, 5]).await;
    bench.batcher.finish().await;
    assert_eq!(bench.flushed(), [(0, "a", vec![1500]), (10, "a", vec![5])]);
}

#[tokio::test(start_paused = true)]
async fn keys_do_not_wait_for_each_other() {
    let bench = Bench::new(config(WhenFull::Reject));
    bench.push("a", &[1]).await;
    bench.push("b", &[2]).await;
    bench.batcher.finish().await;
    let mut flushed = bench.flushed();
    flushed.sort_unstable();
    assert_eq!(flushed, [(0, "a", vec![1]), (0, "b", vec![2])]);
}

#[tokio::test(start_paused = true)]
async fn flushes_are_bounded_over_all_keys() {
    let bench = Bench::new(BatcherConfig {
        flushes_max: 1,
        ..config(WhenFull::Reject)
    });
    bench.push("a", &[1]).await;
    bench.push("b", &[2]).await;
    bench.push("c", &[3]).await;
    bench.batcher.finish().await;
    let times: Vec<_> = bench.flushed().iter().map(|flushed| flushed.0).collect();
    assert_eq!(times, [0, 10, 20]);
}

#[tokio::test(start_paused = true)]
async fn flush_ends_the_waiting_of_one_key() {
    let bench = Bench::new(config(WhenFull::Reject));
    bench.push("a", &[1]).await;
    bench.push("b", &[1]).await;
    bench.settle().await;
    bench.push("a", &[2]).await;
    bench.push("b", &[2]).await;
    bench.batcher.flush(&"a").await;
    assert_eq!(bench.elapsed_ms(), 20);
    assert_eq!(bench.stats().waiting_items, 1, "b still waits");
    bench.batcher.flush(&"nobody").await;
    assert_eq!(bench.elapsed_ms(), 20);
    bench.batcher.flush_all().await;
    assert_eq!(
        bench.stats(),
        Stats {
            flushed_batches: 4,
            flushed_items: 4,
            ..Stats::default()
        }
    );
    bench.push("a", &[3]).await;
}

#[tokio::test(start_paused = true)]
async fn finish_flushes_all_and_refuses_the_rest() {
    let bench = Bench::new(config(WhenFull::Wait));
    bench.push("a", &[1, 2, 3, 4, 5, 6]).await;
    let late = bench.batcher.clone();
    let waiting = tokio::spawn(async move { late.push("b", 7).await });
    bench.settle().await;
    bench.batcher.finish().await;
    let done = bench.stats();
    assert_eq!((done.waiting_items, done.waiting_bytes, done.keys), (0, 0, 0));
    let accepted = waiting.await.unwrap().is_ok();
    assert_eq!(done.flushed_items, 6 + u64::from(accepted));
    let refused = bench.batcher.push("a", 9).await.unwrap_err();
    assert_eq!((refused.item, refused.why), (9, Why::Finished { name: "test" }));
    assert_eq!(refused.to_string(), "batcher test is finished");
    assert!(!refused.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_rejects() {
    let bench = Bench::new(config(WhenFull::Reject));
    bench.push("a", &[1]).await;
    bench.settle().await;
    bench.push("a", &[1, 2, 3]).await;
    bench.push("b", &[1, 2, 3]).await;
    let refused = bench.batcher.push("b", 9).await.unwrap_err();
    assert_eq!(refused.item, 9);
    assert!(refused.is_retryable());
    assert_eq!(
        refused.to_string(),
        "batcher test full: 6 of 6 items, 12 of 2000 bytes waiting"
    );
    assert_eq!(bench.stats().rejected, 1);
    bench.batcher.finish().await;
    assert_eq!(bench.stats().flushed_items, 7);
}

#[tokio::test(start_paused = true)]
async fn an_item_larger_than_the_queue_is_refused_for_good() {
    let bench = Bench::new(config(WhenFull::Wait));
    let refused = bench.batcher.push("a", 2001).await.unwrap_err();
    assert_eq!(
        refused.why,
        Why::TooLarge {
            name: "test",
            bytes: 2001,
            bytes_max: 2000
        }
    );
    assert!(!refused.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_is_served_in_order() {
    let bench = Bench::new(config(WhenFull::Wait));
    bench.push("a", &[1]).await;
    bench.settle().await;
    bench.push("a", &[2, 3, 4, 5, 6, 7]).await;
    let mut waiting = Vec::new();
    for item in 8..14 {
        let batcher = bench.batcher.clone();
        waiting.push(tokio::spawn(async move { batcher.push("a", item).await }));
        bench.settle().await;
    }
    assert_eq!(bench.stats().waiting_items, 6);
    assert!(bench.batcher.try_push("a", 99).is_err(), "try_push does not wait");
    for task in waiting {
        task.await.unwrap().unwrap();
    }
    bench.batcher.finish().await;
    let order: Vec<_> = bench
        .flushed()
        .into_iter()
        .flat_map(|flushed| flushed.2)
        .collect();
    assert_eq!(order, (1..14).collect::<Vec<_>>());
    assert!(bench.stats().waited > 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_push_queues_nothing_and_frees_its_place_in_line() {
    let bench = Bench::new(config(WhenFull::Wait));
    bench.push("a", &[1]).await;
    bench.settle().await;
    bench.push("a", &[2, 3, 4, 5, 6, 7]).await;
    let given_up = tokio::time::timeout(Duration::from_millis(1), bench.batcher.push("a", 8)).await;
    assert!(given_up.is_err());
    bench.push("a", &[9]).await;
    bench.batcher.finish().await;
    let order: Vec<_> = bench
        .flushed()
        .into_iter()
        .flat_map(|flushed| flushed.2)
        .collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6, 7, 9]);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_of_all_keys_make_room() {
    let bench = Bench::new(config(WhenFull::DropOldest));
    bench.push("a", &[1]).await;
    bench.push("b", &[1]).await;
    bench.settle().await;
    bench.push("a", &[2]).await;
    bench.push("b", &[2, 3]).await;
    bench.push("a", &[3, 4, 5]).await;
    bench.push("b", &[4, 5]).await;
    assert_eq!(bench.stats().dropped, 2);
    bench.batcher.finish().await;
    let of = |key| {
        bench
            .flushed()
            .into_iter()
            .filter(|f| f.1 == key)
            .flat_map(|f| f.2)
            .collect::<Vec<_>>()
    };
    assert_eq!((of("a"), of("b")), (vec![1, 3, 4, 5], vec![1, 3, 4, 5]));
}

#[tokio::test(start_paused = true)]
async fn a_newer_item_replaces_those_of_its_key() {
    let bench = Bench::new(config(WhenFull::Conflate));
    bench.push("a", &[1]).await;
    bench.push("b", &[1]).await;
    bench.settle().await;
    bench.push("a", &[2, 3, 4]).await;
    bench.push("b", &[2, 3, 4]).await;
    bench.push("a", &[5]).await;
    assert_eq!((bench.stats().conflated, bench.stats().waiting_items), (3, 4));
    bench.push("c", &[1, 2]).await;
    bench.settle().await;
    bench.push("b", &[5]).await;
    let refused = bench.batcher.push("d", 1999).await.unwrap_err();
    assert!(
        matches!(refused.why, Why::Full { .. }),
        "nothing of this key could make room"
    );
    bench.batcher.finish().await;
    let of = |key| {
        bench
            .flushed()
            .into_iter()
            .filter(|f| f.1 == key)
            .flat_map(|f| f.2)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        (of("a"), of("b"), of("c")),
        (vec![1, 5], vec![1, 2, 3, 4, 5], vec![1, 2])
    );
}

#[tokio::test(start_paused = true)]
async fn a_panicking_flush_does_not_stop_its_key() {
    let config = config(WhenFull::Reject);
    let batcher = Batcher::new(
        config,
        |_: &u32| 1,
        |_: (), batch: Vec<u32>| async move {
            assert!(!batch.contains(&1), "bad item");
        },
    );
    batcher.push((), 1).await.unwrap();
    batcher.push((), 2).await.unwrap();
    batcher.finish().await;
    let stats = batcher.stats();
    assert_eq!((stats.panicked, stats.waiting_items, stats.keys), (1, 0, 0));
}

#[test]
fn a_runtime_that_shuts_down_leaves_nobody_waiting() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let _inside = runtime.enter();
    let batcher = Batcher::new(
        config(WhenFull::Reject),
        |_: &u32| 1,
        |_: (), _| std::future::pending::<()>(),
    );
    runtime.block_on(async {
        batcher.push((), 1).await.unwrap();
        tokio::task::yield_now().await;
        batcher.push((), 2).await.unwrap();
    });
    drop(_inside);
    drop(runtime);
    let other = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    other.block_on(batcher.finish());
    assert_eq!((batcher.stats().dropped, batcher.stats().waiting_items), (1, 0));
}

#[tokio::test]
#[should_panic(expected = "smaller than a batch")]
async fn a_queue_smaller_than_a_batch_is_a_mistake() {
    let config = BatcherConfig {
        queue_items_max: 1,
        ..config(WhenFull::Reject)
    };
    let _ = Batcher::new(config, |_: &u32| 1, |_: (), _| async {});
}

/// Waits for the queue to empty by itself, asking for nothing.
trait FinishLater {
    async fn finish_later(&self);
}

impl FinishLater for Batcher<&'static str, u32> {
    async fn finish_later(&self) {
        while self.stats().keys > 0 {
            tokio::time::advance(Duration::from_millis(1)).await;
            tokio::task::yield_now().await;
        }
    }
}
